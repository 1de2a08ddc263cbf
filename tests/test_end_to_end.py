"""The whole way, as a user goes it: from a file to a model that predicts, on the command line and in Python."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from pyarrow import parquet
from rich.console import Console

import hfstrat as hf
from hfstrat.recipe.loading import load
from hfstrat.runs.directory import Run
from hfstrat.study.compare import load as load_comparison
from tests import tiny
from tests.command import hfstrat

ROOT = Path(__file__).parent.parent
QUICK = {"max_steps": 3, "batch_size": 8, "precision": "fp32", "threads": 1}


@pytest.fixture(scope="module")
def base(tiny_base: Callable[..., Path]) -> Path:
    return tiny_base("bert", sentence_transformers="mean")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of reviews."""
    monkeypatch.chdir(tmp_path)
    tiny.write_csv(tmp_path / "my.csv", tiny.reviews(60))
    return tmp_path


def recipe(base: Path, **fields: Any) -> dict[str, Any]:
    return {
        "name": "mine",
        "model": {"base": str(base), "published_as": "someone/tiny"},
        "task": {"kind": "text_classification"},
        "data": {"source": "my.csv"},
        "strategy": {"kind": "head"},
        "train": QUICK,
        "evaluate": {"metrics": ["accuracy"]},
        **fields,
    }


def write_recipe(folder: Path, given: dict[str, Any]) -> Path:
    file = folder / "my.yaml"
    file.write_text(yaml.safe_dump(given))
    return file


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file()
    }


def rendered(thing: Any) -> str:
    console = Console(width=160, file=io.StringIO())
    with console.capture() as captured:
        console.print(thing)
    return captured.get()


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with my.csv, my.yaml and a finished run of it. Do not write to the run."""
    folder = tmp_path_factory.mktemp("finished")
    tiny.write_csv(folder / "my.csv", tiny.reviews(60))
    given = recipe(base, data={"source": str(folder / "my.csv")})
    hf.train(given, runs=folder / "runs", quiet=True)
    write_recipe(folder, given)
    return folder


class TestCommandLine:
    @pytest.mark.parametrize("kind", ["head", "full", "lora"])
    def test_from_a_file_to_a_model(self, kind: str, base: Path, here: Path) -> None:
        done = hfstrat("init", "my.csv", "-o", "my.yaml")
        assert done.code == 0
        assert "'label' is the label" in done.out
        words = [f"model={{base: {base}}}", f"strategy={{kind: {kind}}}", "train.max_steps=3", "train.threads=1"]
        words += ["train.batch_size=8", "evaluate.metrics=[accuracy]"]

        done = hfstrat("validate", "my.yaml", *words, "--json")
        assert done.code == 0, done.err
        found = json.loads(done.out)
        assert found["rows"] == {"train": 43, "validation": 5, "test": 12}
        assert {"train.lr", "train.precision", "data.train"} <= {decision["path"] for decision in found["auto"]}
        assert not (here / "runs").exists()

        done = hfstrat("train", "my.yaml", *words, "--json")
        assert done.code == 0, done.err
        found = json.loads(done.out)
        assert (found["split"], found["n"]) == ("test", 12)
        assert set(found["metrics"]) == {"accuracy"}
        run = here / "runs" / "my"
        assert json.loads((run / "status.json").read_text())["state"] == "done"
        assert (run / "artifact" / "README.md").is_file()

        before = files(run)
        done = hfstrat("train", "my.yaml", *words, "--quiet")
        assert done.code == 0
        assert "accuracy" in done.out
        done = hfstrat("train", "my.yaml", *words)
        assert "is done already with this recipe; nothing to do" in done.err
        assert files(run) == before

        done = hfstrat("show", "runs/my")
        assert done.code == 0
        assert "accuracy" in done.out
        assert "artifact: the model and its card" in done.out

        done = hfstrat("train", "my.yaml", *words, "train.lr=0.5")
        assert done.code == 2
        assert "--overwrite" in done.err
        assert "name=…" in done.err
        assert files(run) == before

    def test_the_resolved_recipe_is_the_same_run_again(self, finished: Path) -> None:
        run = finished / "runs" / "mine"
        resolved, _ = load(run / "recipe.yaml")
        assert resolved.train.max_steps == 3
        done = hfstrat("train", run / "recipe.yaml", "--runs", finished / "runs")
        assert done.code == 0
        assert "nothing to do" in done.err

    def test_a_recipe_elsewhere_finds_the_data_beside_it(self, base: Path, here: Path) -> None:
        (here / "sub").mkdir()
        (here / "my.csv").rename(here / "sub" / "reviews.csv")
        file = write_recipe(here / "sub", recipe(base, data={"source": "reviews.csv"}))
        assert hfstrat("train", file.relative_to(here), "--quiet").code == 0
        done = hfstrat("evaluate", "runs/mine", "validation", "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["n"] == 5

    def test_overwrite_replaces_a_run_and_nothing_else(self, base: Path, here: Path) -> None:
        write_recipe(here, recipe(base))
        assert hfstrat("train", "my.yaml", "--quiet").code == 0
        first = (here / "runs" / "mine" / "env.json").stat().st_mtime_ns
        assert hfstrat("train", "my.yaml", "train.lr=0.1", "--overwrite", "--quiet").code == 0
        assert (here / "runs" / "mine" / "env.json").stat().st_mtime_ns > first
        assert load(here / "runs" / "mine" / "recipe.yaml")[0].train.lr == 0.1
        (here / "runs" / "notes").mkdir()
        (here / "runs" / "notes" / "todo.txt").write_text("buy milk")
        done = hfstrat("train", "my.yaml", "name=notes", "--overwrite")
        assert done.code == 2
        assert "holds no run" in done.err
        assert (here / "runs" / "notes" / "todo.txt").read_text() == "buy milk"

    @pytest.mark.parametrize("data", ["validation", "test", "train", None])
    def test_evaluate_on_a_split(self, data: str | None, finished: Path) -> None:
        run = finished / "runs" / "mine"
        name = f"on-{data}"
        done = hfstrat("evaluate", run, *([data] if data else []), "--name", name, "--json")
        assert done.code == 0, done.err
        found = json.loads(done.out)
        assert found["split"] == (data or "test")
        assert json.loads((run / "evaluations" / name / "metrics.json").read_text()) == found
        assert (run / "evaluations" / name / "predictions.parquet").is_file()
        if data in (None, "test"):
            assert found["metrics"] == json.loads((run / "metrics.json").read_text())["metrics"]

    @pytest.mark.parametrize(("rows", "code"), [(1, 0), (20, 0)])
    def test_evaluate_on_a_file_however_small(self, rows: int, code: int, finished: Path, tmp_path: Path) -> None:
        one_class = [row for row in tiny.reviews(100, seed=1) if row["label"] == "positive"][:rows]
        file = tiny.write_csv(tmp_path / f"new{rows}.csv", one_class)
        done = hfstrat("evaluate", finished / "runs" / "mine", file)
        assert done.code == code, done.err
        assert "accuracy" in done.out
        assert (finished / "runs" / "mine" / "evaluations" / f"new{rows}" / "metrics.json").is_file()

    def test_evaluate_tells_what_is_wrong(self, finished: Path, tmp_path: Path) -> None:
        run = finished / "runs" / "mine"
        unknown = tiny.write_csv(
            tmp_path / "a.csv", [{"text": "x", "label": "postive"}, {"text": "y", "label": "positive"}]
        )
        cases = {
            (unknown,): "Did you mean 'positive'?",
            (tiny.write_csv(tmp_path / "b.csv", [{"txt": "x", "label": "positive"}]),): "Did you mean 'txt'?",
            (tiny.write_csv(tmp_path / "c.csv", [{"text": "", "label": "positive"}]),): "Fill in the text",
            (tmp_path / "none.csv",): "there is no file",
            ("validation", "--name", "../../away"): "'../../away' is not a name",
        }
        for words, said in cases.items():
            done = hfstrat("evaluate", run, *words)
            assert done.code == 2
            assert said in done.err
        assert hfstrat("evaluate", tmp_path).errors == [f"{tmp_path} holds no run. `hfstrat train RECIPE` makes one"]

    def test_predict_gives_a_line_for_each_text(self, finished: Path, tmp_path: Path) -> None:
        run, rows = finished / "runs" / "mine", tiny.reviews(7, seed=3)
        file = tiny.write_csv(tmp_path / "in.csv", [{"text": row["text"]} for row in rows])
        done = hfstrat("predict", run, file)
        assert done.code == 0, done.err
        records = [json.loads(line) for line in done.out.splitlines()]
        assert [record["id"] for record in records] == [str(place) for place in range(7)]
        assert all(sum(record["scores"].values()) == pytest.approx(1) for record in records)
        assert all(max(record["scores"], key=record["scores"].get) == record["prediction"] for record in records)

        assert hfstrat("predict", run, file, "-o", tmp_path / "out.jsonl").code == 0
        written = (tmp_path / "out.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in written] == records

        assert hfstrat("predict", run, file, "-o", tmp_path / "out.csv").code == 0
        with (tmp_path / "out.csv").open(newline="") as stream:
            table = list(csv.DictReader(stream))
        assert [row["prediction"] for row in table] == [record["prediction"] for record in records]
        assert list(table[0]) == ["id", "prediction", "negative", "positive"]

        assert hfstrat("predict", run, file, "-o", tmp_path / "out.parquet").code == 0
        assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == records

        done = hfstrat("predict", run, stdin="".join(f"{row['text']}\n" for row in rows))
        assert [json.loads(line)["prediction"] for line in done.out.splitlines()] == [
            record["prediction"] for record in records
        ]
        done = hfstrat("predict", run, file, "-o", tmp_path / "out.xlsx")
        assert (done.code, done.errors) == (2, ["cannot write .xlsx. Name a .jsonl, .csv or .parquet file"])

    def test_recipes_copy_and_validate(self, here: Path, base: Path) -> None:
        assert hfstrat("recipes", "copy", "csv", "mine.yaml").code == 0
        done = hfstrat("validate", "mine.yaml", "data.source=my.csv", f"model={{base: {base}}}", "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["rows"]["train"] == 43

    def test_every_json_is_json(self, finished: Path) -> None:
        for words in (("show", finished / "runs" / "mine"), ("recipes", "list"), ("validate", finished / "my.yaml")):
            done = hfstrat(*words, "--json")
            assert done.code == 0
            assert json.loads(done.out)


class TestEndings:
    def test_a_run_that_diverges(self, base: Path, here: Path) -> None:
        write_recipe(here, recipe(base, strategy={"kind": "full", "head_init": "random"}))
        done = hfstrat("train", "my.yaml", "train.lr=1e30", "--quiet")
        assert done.code == 3
        assert "not finite at update" in done.err
        status = json.loads((here / "runs" / "mine" / "status.json").read_text())
        assert status["state"] == "diverged"
        assert "update 2" in status["reason"] or "update 3" in status["reason"]
        assert "train.lr" in status["reason"]
        done = hfstrat("train", "my.yaml", "train.lr=1e30")
        assert (done.code, "which is diverged" in done.err) == (2, True)

    def test_a_place_that_cannot_be_written(self, base: Path, here: Path) -> None:
        write_recipe(here, recipe(base))
        (here / "runs").write_text("a file")
        done = hfstrat("train", "my.yaml")
        assert done.code == 2
        assert "runs/mine cannot be written: runs is a file. Name another folder with --runs" in done.err
        assert (here / "runs").read_text() == "a file"

    def test_sigterm_ends_a_run_with_its_status(self, base: Path, here: Path) -> None:
        write_recipe(here, recipe(base, strategy={"kind": "full", "head_init": "random"}))
        words = ["train", "my.yaml", "train.max_steps=100000", "evaluate.every=100000"]
        command = [sys.executable, "-m", "hfstrat", *words]
        with subprocess.Popen(
            command, cwd=here, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stderr is not None
            told = []
            for line in process.stderr:  # the line that says that updates begin
                told.append(line)
                if line.startswith("fit: "):
                    break
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
            assert process.wait(30) == 128 + signal.SIGTERM, told
        assert "error: interrupted by SIGTERM" in rest
        assert "Traceback" not in rest
        assert json.loads((here / "runs" / "mine" / "status.json").read_text())["state"] == "interrupted"


class TestPython:
    def test_twice_in_one_process(self, base: Path, tmp_path: Path) -> None:
        rows = Dataset.from_list(tiny.reviews(60))
        given = recipe(base, data={"source": "memory"})
        runs = [
            hf.train(given, {"train.lr": lr, "name": name}, data=rows, runs=tmp_path, quiet=True)
            for name, lr in (("a", 1e-3), ("b", 1e-3))
        ]
        assert [run.status for run in runs] == ["done", "done"]
        assert runs[0].metrics == runs[1].metrics
        weights = [(run.artifact / "model.safetensors").read_bytes() for run in runs]
        assert weights[0] == weights[1]
        assert given == recipe(base, data={"source": "memory"})

    def test_a_run_shows_itself(self, finished: Path) -> None:
        run = hf.open_run(finished / "runs" / "mine")
        assert run.status == "done"
        assert "accuracy" in rendered(run)
        assert "<table" in run._repr_html_() or "<pre" in run._repr_html_()
        assert "mine" in repr(run)

    def test_predict_and_load(self, finished: Path) -> None:
        run = hf.open_run(finished / "runs" / "mine")
        texts = [row["text"] for row in tiny.reviews(5, seed=9)]
        found = hf.predict(run, texts)
        assert found == hf.load(finished / "runs" / "mine").predict(texts)
        assert [set(one) for one in found] == [{"prediction", "scores"}] * 5
        assert hf.predict(run, []) == []
        with pytest.raises(hf.UsageError, match="5 first texts and 1 second"):
            hf.predict(run, texts, ["x"])

    def test_evaluate(self, finished: Path) -> None:
        found = hf.evaluate(finished / "runs" / "mine", "test", name="again")
        metrics = hf.open_run(finished / "runs" / "mine").metrics
        assert found == {name: value for name, value in metrics.items() if name != "reproduced"}

    def test_what_is_wrong_is_raised(self, base: Path, tmp_path: Path) -> None:
        with pytest.raises(hf.DataError, match="needs data from Python"):
            hf.train(recipe(base, data={"source": "memory"}), runs=tmp_path, quiet=True)
        with pytest.raises(hf.RecipeError, match="Did you mean 'lr'"):
            hf.train(recipe(base), {"train.lrr": 1}, runs=tmp_path, quiet=True)
        with pytest.raises(hf.RecipeError, match="data was handed over"):
            hf.train(recipe(base), data=Dataset.from_list(tiny.reviews(9)), runs=tmp_path, quiet=True)
        with pytest.raises(hf.UsageError, match="holds no run"):
            hf.open_run(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_whole_model_outlives_its_base(self, base: Path, tmp_path: Path) -> None:
        shutil.copytree(base, tmp_path / "base")
        run = hf.train(
            recipe(tmp_path / "base", data={"source": "memory"}),
            data=Dataset.from_list(tiny.reviews(40)),
            runs=tmp_path,
            quiet=True,
        )
        shutil.rmtree(tmp_path / "base")
        assert hf.predict(run, ["a great film"])[0]["prediction"] in ("negative", "positive")


class TestCompare:
    def test_a_program_that_compares_runs_once(self, base: Path, here: Path) -> None:
        """Arms are processes of their own, and people write no `if __name__ == "__main__"`."""
        given = recipe(base, compare={"arms": ["majority", "head"], "seeds": [0]})
        lines = [
            "import hfstrat",
            "print('begun')",
            f"found = hfstrat.compare({given!r}, quiet=True)",
            "print(*(row.state for row in found.rows))",
        ]
        (here / "program.py").write_text("\n".join(lines))
        ended = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, check=False, timeout=300)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.splitlines() == ["begun", "done done"]

    def test_runs_every_arm_once_and_keeps_those_that_fail(self, base: Path, here: Path) -> None:
        diverging = {"name": "wild", "strategy": {"kind": "full", "head_init": "random"}}
        given = recipe(
            base,
            train={**QUICK, "lr": 1e30},
            compare={"arms": ["majority", "tfidf", "head", diverging], "seeds": [0, 1]},
        )
        hf.train(recipe(base, name="before"), quiet=True)  # a process that has trained may compare
        found = hf.compare(given, quiet=True)
        states = {row.name: row.state for row in found.rows}
        assert states == {
            "majority": "done",
            "tfidf": "done",
            "head-seed0": "done",
            "head-seed1": "done",
            "wild-seed0": "diverged",
            "wild-seed1": "diverged",
        }
        table = found.table()
        assert list(table["arm"]) == ["majority", "tfidf", "head", "wild"]
        assert "wild" in rendered(found)
        assert "wild" in found._repr_html_()
        assert (found.path / "table.md").is_file()

        written = json.loads((found.path / "verdicts.json").read_text())
        assert {(one["first"], one["second"]) for one in written["pairs"]} == {
            ("majority", "tfidf"),
            ("majority", "head"),
            ("tfidf", "head"),
        }
        assert written["best"] == found.best
        verdict = found.verdict("head", "majority")
        assert verdict is not None
        assert verdict.difference.value == -next(
            one["difference"] for one in written["pairs"] if (one["first"], one["second"]) == ("majority", "head")
        )
        assert found.verdict("wild", "head") is None, "it has no scores"
        assert found.factors.strategies == ("head", "wild")
        assert "quality: accuracy" in rendered(found)
        assert (found.path / "table.md").read_text().startswith("|  | head | wild |")
        with pytest.raises(hf.UsageError, match="there is no arm 'heads'"):
            found.verdict("heads", "majority")

        sealed = {row.name: files(found.path / row.name) for row in found.rows if row.state == "done"}
        again = hf.compare(given, arms=["majority", "tfidf", "head"], quiet=True)
        assert {row.name for row in again.rows} == set(sealed)
        assert {name: files(found.path / name) for name in sealed} == sealed

        done = hfstrat("show", found.path, "--json")
        assert done.code == 0
        assert set(json.loads(done.out)["runs"]) == set(sealed)

    def test_amounts_of_data_are_compared_apart(self, base: Path, here: Path) -> None:
        write_recipe(here, recipe(base, compare={"arms": ["majority", "tfidf", "head"], "price": 3.6}))
        done = hfstrat("compare", "my.yaml", "--sizes", "3/class,20,all")
        assert done.code == 0, done.err
        assert "head-3-per-class" in done.out
        found = hf.compare("my.yaml", sizes=[{"per_class": 3}, 20, "all"], quiet=True)
        curve = found.curve()
        assert list(curve["size"].unique()) == ["3-per-class", "20", "all"]
        assert list(curve["train_rows"].unique()) == [6, 20, 43]
        assert list(curve["arm"].unique()) == ["majority", "tfidf", "head"]
        assert [winner.size for winner in found.shape.winners] == ["3-per-class", "20", "all"]
        for size, rows in curve.groupby("size"):
            assert rows.sort_values("value")["best"].iloc[-1], size
        pairs = json.loads((found.path / "verdicts.json").read_text())["pairs"]
        assert len(pairs) == 3 * 3
        assert all(one["first"].partition("-")[2] == one["second"].partition("-")[2] for one in pairs)
        assert set(found.differences) <= {line.arm for line in found.lines}
        assert (found.path / "quality-against-rows.png").is_file()
        text = (found.path / "table.md").read_text()
        assert "- 3-per-class (6 rows): " in text
        assert text.startswith("| arm |"), "between one strategy and floors there is nothing to choose"
        needed = next(row for row in found.factors.rows if row.name.startswith("data"))
        assert needed.cells[0] in ("never", "3-per-class (6 rows)", "20 (20 rows)", "all (43 rows)")
        line = found.lines[-1]
        assert line.cost == pytest.approx(line.seconds / 1000)
        assert line.flops is not None
        assert load_comparison(found.path).curves == found.curves
        done = hfstrat("compare", "my.yaml", "--sizes", "3/klass")
        assert (done.code, done.errors) == (
            2,
            ["'3/klass' is no amount of data. Write --sizes 4/class,8/class,1000,all"],
        )

    @pytest.mark.slow
    def test_learning_rates_are_chosen_on_validation_and_charged(self, base: Path, here: Path) -> None:
        rates = [1e30, 1e-3]  # the first one diverges
        full = {"strategy": {"kind": "full", "head_init": "random"}, "name": "full"}
        given = recipe(base, compare={"arms": ["tfidf", "head", full], "lr": rates, "seeds": [0, 1]})
        given["data"] |= {"validation": 0.2}
        found = hf.compare(given, quiet=True)
        lines = {line.arm: line for line in found.lines}
        assert list(lines) == ["tfidf", "head", "full"]
        assert [line.tuned and line.tuned.lr for line in lines.values()] == [None, None, 1e-3]
        tried = {name: Run(found.path / f"full-lr{name}-seed0") for name in ("1e30", "0.001")}
        assert [run.status for run in tried.values()] == ["diverged", "done"]
        own = [Run(found.path / name) for name in ("full-seed0", "full-seed1")]
        assert own[0].metrics == tried["0.001"].metrics
        assert own[0].path.resolve() == tried["0.001"].path.resolve()
        assert all(load(run.path / "recipe.yaml")[0].train.lr == 1e-3 for run in own)
        assert lines["full"].runs == ("full-seed0", "full-seed1")
        assert not (found.path / "head-lr0.001-seed0").exists(), "nothing there depends on a learning rate"

        both = hf.compare(given, {"compare.lr": [3e-3, 1e-3]}, arms=["full"], quiet=True)
        (line,) = both.lines
        assert line.tuned is not None
        other = {3e-3: 1e-3, 1e-3: 3e-3}[line.tuned.lr]
        ledgers = [Run(both.path / name).ledger for name in (f"full-lr{other:g}-seed0", *line.runs)]
        assert line.tuned.seconds == ledgers[0]["seconds"]
        mean = sum(ledger["seconds"] for ledger in ledgers[1:]) / 2
        assert line.seconds == pytest.approx(mean + ledgers[0]["seconds"])
        assert f"{line.tuned.lr:g} (in " in (both.path / "table.md").read_text()
        assert load_comparison(both.path).lines == both.lines

    def test_without_validation_no_learning_rate_is_chosen(self, base: Path, here: Path) -> None:
        for name in ("train", "test"):
            (here / f"{name}.txt").write_text("\n\n".join(row["text"] for row in tiny.reviews(20)))
        given = recipe(
            base,
            task={"kind": "masked_lm", "max_length": 16, "joined": True},
            data={"source": "train.txt", "test": "test.txt", "streaming": True},
            evaluate={"metrics": ["perplexity"]},
            compare={"arms": ["full"], "lr": [1e-3, 1e-4]},
        )
        with pytest.raises(hf.UsageError, match="learning rates are chosen on validation, and there is none"):
            hf.compare(given, quiet=True)

    @pytest.mark.slow
    def test_within_a_budget_the_better_go_on(self, base: Path, here: Path) -> None:
        tiny.write_csv(here / "my.csv", tiny.reviews(200))
        full = {"strategy": {"kind": "full", "head_init": "random"}, "name": "full"}
        given = recipe(base, compare={"arms": ["tfidf", "head", full], "seeds": [0, 1]})
        write_recipe(here, given)
        done = hfstrat("compare", "my.yaml", "--budget", "0.1s")
        assert done.code == 0, done.err
        assert "the budget is 0 s: all are begun, and one is always finished" in done.err
        found = load_comparison(here / "runs" / "mine")
        first, second = found.rungs
        assert (first.part, first.size, second.part, second.size) == ("n/16", "9", "n/4", "36")
        assert set(first.losses) == {"head", "full"}
        (best,) = first.kept
        assert second.kept == (best,)
        assert best == min(first.losses, key=lambda name: first.losses[name])
        assert str(first) in done.out
        other = ({"head", "full"} - {best}).pop()
        runs = [row.name for row in found.rows]
        assert runs == [*runs[:2], f"{best}-36-seed0", "tfidf-all", f"{best}-all-seed0", f"{best}-all-seed1"]
        assert set(runs[:2]) == {"head-9-seed0", "full-9-seed0"}
        assert {line.arm: line.reached for line in found.lines if line.reached} == {f"{other}-9": "n/16"}
        text = (found.path / "table.md").read_text()
        assert f"- {first}" in text

        # Killed at the last rung it goes on with what it had decided.
        sealed = files(found.path / f"{best}-36-seed0")
        shutil.rmtree(found.path / f"{best}-all-seed1")
        again = hf.compare(given, budget="0.1s", quiet=True)
        assert (again.rungs, [row.name for row in again.rows]) == (found.rungs, runs)
        assert files(found.path / f"{best}-36-seed0") == sealed

        roomy = hf.compare(given, budget="9h", quiet=True)
        assert [set(rung.kept) for rung in roomy.rungs] == [{"head", "full"}] * 2
        assert len(roomy.rows) == 4 + 1 + 4

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"budget": "soon"}, "'soon' is no budget. Write 30m, 90s or 2h"),
            ({"budget": "0m"}, "'0m' is no budget"),
            ({"price": -1.0}, "-1.0 is no price of an hour. Give a number from 0"),
            ({"price": float("nan")}, "nan is no price of an hour"),
            ({"budget": "1m", "sizes": [10]}, "a budget chooses the amounts of data itself"),
            ({"budget": "1m", "overrides": {"compare.lr": [1e-3]}}, "learning rates are not chosen within a budget"),
        ],
    )
    def test_arguments_that_are_none(self, options: dict[str, Any], said: str, base: Path, here: Path) -> None:
        overrides = options.pop("overrides", {})
        with pytest.raises(hf.UsageError) as caught:
            hf.compare(recipe(base), overrides, quiet=True, **options)
        assert said in str(caught.value)

    def test_leaves_a_page_and_a_recipe_that_makes_it_again(self, base: Path, here: Path) -> None:
        given = recipe(base, compare={"arms": ["majority", "head", {"strategy": {"kind": "full"}}]})
        write_recipe(here, given)
        done = hfstrat("compare", "my.yaml", "--arms", "tfidf,head", "--seeds", "3", "--quiet")
        assert "runs/mine/report.html has all on one page." in done.out
        folder = here / "runs" / "mine"
        page = (folder / "report.html").read_text("utf-8")
        assert (folder / "README.md").is_file()
        texts = hf.open_run(folder / "head-seed3").predictions()["text"]
        assert set(texts) <= {row["text"] for row in tiny.reviews(60)}

        done = hfstrat("compare", folder / "recipe.yaml", "--runs", "again", "--quiet", "--json")
        assert done.code == 0
        again = here / "again" / "mine"
        assert json.loads((again / "comparison.json").read_text())["runs"] == ["tfidf", "head-seed3"]
        scores = [json.loads((one / "head-seed3" / "metrics.json").read_text()) for one in (folder, again)]
        assert scores[0] == scores[1]

        (folder / "report.html").unlink()
        assert hfstrat("report", folder).code == 0
        assert (folder / "report.html").read_text("utf-8") == page

    def test_is_refused_under_a_launcher(self, base: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_recipe(here, recipe(base))
        monkeypatch.setenv("WORLD_SIZE", "2")
        done = hfstrat("compare", "my.yaml")
        assert (done.code, done.errors) == (
            2,
            ["compare starts processes itself. Run `hfstrat compare` without a launcher"],
        )
        assert not (here / "runs").exists()


@pytest.mark.slow
def test_a_launcher_changes_no_bit(base: Path, here: Path) -> None:
    write_recipe(here, recipe(base, strategy={"kind": "lora", "r": 2}))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1", "--cpu"]
    for name, start in (("alone", [sys.executable]), ("launched", launch)):
        command = [*start, "-m", "hfstrat", "train", "my.yaml", f"name={name}", "--quiet"]
        subprocess.run(command, cwd=here, check=True, capture_output=True, text=True)
    alone, launched = (here / "runs" / name for name in ("alone", "launched"))
    for file in ("artifact/adapter_model.safetensors", "metrics.json", "predictions.parquet", "log.jsonl"):
        assert (alone / file).read_bytes() == (launched / file).read_bytes(), file
