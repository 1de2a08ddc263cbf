"""The report of a comparison says what the run directories say, whatever stands in them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfstrat.errors import UsageError
from hfstrat.report import palette
from hfstrat.report.comparison import Compared
from hfstrat.report.curves import moments
from hfstrat.report.disagreement import disagreement
from hfstrat.report.page import REPORT, magnitude, write_report
from hfstrat.report.summary import summary
from hfstrat.report.tables import count, duration, size
from hfstrat.runs.directory import Run, write_json
from hfstrat.study.compare import load
from tests.command import hfstrat
from tests.report import comparisons, fake
from tests.report.html_tree import Node, read

LONG = "a long text " * 200


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison; do not write to it."""
    return comparisons.usual(tmp_path_factory.mktemp("usual") / "cards")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison full of markup; do not write to it."""
    return comparisons.hostile(tmp_path_factory.mktemp("hostile") / "cards")


def tree(folder: Path) -> Node:
    return read((folder / REPORT).read_text("utf-8"))


def rows_of(table: Node) -> dict[str, dict[str, Node]]:
    """Cells by the text of the row's heading, and of the column's."""
    head = [cell.text for cell in table.one("thead").one("tr").children if isinstance(cell, Node)]
    lines = [[cell for cell in row.children if isinstance(cell, Node)] for row in table.one("tbody").all("tr")]
    return {cells[0].text: dict(zip(head, cells, strict=True)) for cells in lines}


def numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"-?\d+\.?\d*", text.replace(",", ""))]


def test_numbers_of_the_table_are_those_of_the_run_directories(usual: Path) -> None:
    rows = rows_of(tree(usual).one("table", id="arms-table"))
    by_arm = {line.arm: line for line in Compared.read(usual).lines}
    assert list(rows) == list(by_arm)
    seen = 0
    for arm, line in by_arm.items():
        runs, cells = [Run(usual / name) for name in line.runs], rows[arm]
        if line.state != "done":
            assert cells["accuracy"].text == line.state
            assert all(
                cells[name].text == ""
                for name in cells
                if name
                not in ("arm", "kind", "state", "accuracy", "seeds", "train rows", "trained params", "stored params")
            )
            continue
        for metric in ("accuracy", "log_loss ↓"):
            entries = [run.metrics["metrics"][metric.split()[0]] for run in runs]
            said = numbers(cells[metric].text.replace("–", " "))
            means = [sum(entry[end] for entry in entries) / len(entries) for end in ("value", "low", "high")]
            assert said == pytest.approx(means[: len(said)], abs=5.1e-4)
            seen += len(said)
        seconds = sum(run.ledger["seconds"] for run in runs) / len(runs)
        assert float(cells["time"].attributes["data-sort"]) == pytest.approx(seconds, rel=0.01)
        for title, name in (("peak live memory", "peak_live_bytes"), ("artefact", "artifact_bytes")):
            known = [run.ledger[name] for run in runs if run.ledger[name] is not None]
            text = cells[title].attributes.get("data-sort")
            assert (None if text is None else pytest.approx(float(text), rel=0.01)) == max(known, default=None)
        parameters = (runs[0].read("plan.json") or {})["parameters"] or {}
        shown = cells["trained params"].attributes.get("data-sort")
        assert (None if shown is None else pytest.approx(float(shown), rel=0.01)) == parameters.get("trainable")
    assert seen > 20


def test_spread_over_seeds_and_intervals_of_every_metric_are_given(usual: Path) -> None:
    page = tree(usual)
    table = next(one for one in page.all("table") if "Each metric" in one.one("caption").text)
    cells = rows_of(table)["lora"]
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}–0\.\d{3}\] ±0\.\d{3}", cells["accuracy"].text)
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}–0\.\d{3}\] ±0\.\d{3}", cells["log_loss"].text)


def test_every_pair_has_its_difference_interval_and_p(usual: Path) -> None:
    pairs = json.loads((usual / "verdicts.json").read_text())["pairs"]
    rows = rows_of(tree(usual).one("table", class_="matrix"))
    signs = {"first": ("▲", "▼"), "second": ("▼", "▲"), "tie": ("=", "=")}
    assert len(pairs) == 15
    for pair in pairs:
        for first, second, sign, mark in (
            (pair["first"], pair["second"], 1, 0),
            (pair["second"], pair["first"], -1, 1),
        ):
            cell = rows[first][second]
            shown, about = (span.text for span in cell.all("span"))
            assert shown == f"{signs[pair['better']][mark]} {sign * pair['difference']:+.3f}"
            ends = sorted(sign * pair[end] for end in ("low", "high"))
            assert numbers(about.split(": ")[1])[1:3] == pytest.approx(ends, abs=5.1e-4)
            assert f"p = {pair['p']:.2g}" in about
    assert all(rows[arm][arm].text == "" for arm in rows)


def test_the_answer_is_that_of_the_verdicts(usual: Path) -> None:
    compared = Compared.read(usual)
    said = tree(usual).one("section", aria_labelledby="answer").text
    best, *ties = json.loads((usual / "verdicts.json").read_text())["best"]
    assert compared.best is not None
    assert compared.best.arm == best == "head-all"
    assert [line.arm for line in compared.ties] == ties
    assert "head-all has the highest accuracy" in said
    assert "full (oom), partial (diverged)" in said
    found = compared.detectable()
    assert found is not None
    alone, together = found
    assert f"about {alone:.3f} for one pair alone, and about {together:.3f} when all 15 pairs" in said
    # Half an interval is 1.96 standard errors: a pair that differs by less is no tie only by chance.
    assert 0.01 < alone < together < 0.1


def test_failed_runs_are_listed_with_their_reasons(usual: Path) -> None:
    rows = rows_of(tree(usual).one("section", aria_labelledby="failures").one("table"))
    assert {name: (cells["state"].text, cells["reason"].text) for name, cells in rows.items()} == {
        "full-seed0": ("oom", "killed by signal 9"),
        "partial-seed0": ("diverged", "the loss is not finite\nat update 7"),
    }


def test_factors_are_those_of_the_table(usual: Path) -> None:
    factors = Compared.read(usual).factors
    assert factors is not None
    assert factors.markdown() in (usual / "table.md").read_text("utf-8")
    section = read((usual / "report.html").read_text("utf-8")).one("section", aria_labelledby="factors")
    cells = [node.text for node in section.all("td")]
    assert [cell for cell in cells if cell] == [cell for row in factors.rows for cell in row.cells if cell]


def test_amounts_of_data_are_families_of_tests_of_their_own(tmp_path: Path) -> None:
    runs = [
        comparisons.arm(tmp_path, f"{name}-{rows}-seed0", name, value, seconds=9, rows=rows)
        for rows, values in ((100, (0.5, 0.6, 0.55)), (900, (0.8, 0.95, 0.9)))
        for name, value in zip(("head", "lora", "full"), values, strict=True)
    ]
    curves = {name: {str(rows): f"{name}-{rows}" for rows in (100, 900)} for name in ("head", "lora", "full")}
    comparisons.conclude(tmp_path, runs, curves=curves)
    compared = Compared.read(tmp_path)
    assert len(compared.pairs) == 6
    assert len(compared.together) == 3
    assert "for all 3 pairs" in summary(compared)[1]
    best = {"head-100": "lora-100", "full-100": "lora-100", "head-900": "lora-900", "full-900": "lora-900"}
    assert {arm: pair.second for arm, pair in compared.differences.items()} == best
    assert (tmp_path / "table.md").read_text("utf-8").split("\n\n")[1].strip() in (tmp_path / "README.md").read_text(
        "utf-8"
    )


def test_curves_tell_of_crossings_only_where_tests_do(usual: Path) -> None:
    compared = Compared.read(usual)
    assert compared.curves == {kind: {"1000": kind, "9000": f"{kind}-all"} for kind in ("head", "lora")}
    said = [
        "1,000 rows: lora is ahead",
        "9,000 rows: head is ahead",
        "lora is better than head up to 1000, head from 9000 on",
    ]
    assert [*compared.shape.sentences()] == said
    tied = replace(compared, pairs=tuple(replace(pair, better="tie") for pair in compared.pairs))
    assert tied.shape.crossings == ()
    assert next(tied.shape.sentences()) == "1,000 rows: lora is ahead; head, majority, tfidf cannot be told from it"


def test_curves_are_the_same_wherever_they_are_shown(usual: Path) -> None:
    found, compared = load(usual), Compared.read(usual)
    assert found.curves == compared.curves
    assert found.shape == compared.shape
    written = json.loads((usual / "verdicts.json").read_text("utf-8"))
    assert {name: written[name] for name in ("winners", "crossings")} == json.loads(json.dumps(found.shape.to_json()))
    curve = found.curve()
    assert list(curve["train_rows"]) == [1000, 1000, 9000, 9000]
    assert list(curve["arm"][curve["best"]]) == ["lora", "head"]
    items = [item.text for item in tree(usual).one("section", aria_labelledby="curves").all("li")]
    sentences = [*found.shape.sentences()]
    assert len(sentences) == 3
    assert [item for item in items if item in sentences] == sentences
    for name in ("table.md", "README.md"):
        assert "".join(f"- {sentence}\n" for sentence in sentences) in (usual / name).read_text("utf-8"), name


def test_moments_count_updates_over_stages_and_have_times_only_where_they_were_measured(tmp_path: Path) -> None:
    run = fake.run(tmp_path, "gradual", "partial")
    log = [
        {"kind": "score", "stage": "probe", "update": 0, "metrics": {"accuracy": 0.5}, "loss": 2.0},
        {"kind": "update", "stage": "top-1", "update": 4},
        {"kind": "score", "stage": "top-1", "update": 5, "metrics": {"accuracy": 0.6}, "loss": 1.0},
        {"kind": "score", "stage": "top-2", "update": 5, "metrics": {"accuracy": None}, "loss": None},
    ]
    (run.path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    assert [(one.update, one.seconds, one.score) for one in moments(run, "accuracy")] == [
        (0, None, 0.5),
        (5, None, 0.6),
        (10, None, None),
    ]
    write_json(run.path / "ledger.json", {**run.ledger, "seconds_at_scores": [1.0, 2.0, 3.0]})
    assert [one.seconds for one in moments(run, "accuracy")] == [1.0, 2.0, 3.0]


def test_disputed_items_are_right_by_some_and_wrong_by_others(usual: Path) -> None:
    compared = Compared.read(usual)
    found = disagreement(compared, most=7)
    assert found is not None
    assert [line.arm for line in found.arms] == ["head", "lora", "head-all", "lora-all"], "floors are left out"
    frames = {line.arm: compared.run_of(line).predictions().set_index("id") for line in found.arms}
    right = {arm: frame["prediction"] == frame["reference"] for arm, frame in frames.items()}
    counts = sum(column.astype(int) for column in right.values())
    assert (found.total, found.all_right, found.all_wrong) == (400, (counts == 4).sum(), (counts == 0).sum())
    assert len(found.items) == 7 < found.disputed
    for item in found.items:
        assert {arm for arm in right if right[arm][item.name]} == set(item.right)
        assert item.said == {arm: frame["prediction"][item.name] for arm, frame in frames.items()}
        assert counts[item.name] == 2, "the most disputed first"


def test_ids_are_unique_and_references_lead_somewhere(usual: Path) -> None:
    page = tree(usual)
    ids = [node.attributes["id"] for node in page if "id" in node.attributes]
    assert len(ids) == len(set(ids)) > 20
    for name in ("aria-labelledby", "data-for"):
        used = [word for node in page for word in node.attributes.get(name, "").split()]
        assert used
        assert set(used) <= set(ids)
    inner = [node.attributes["href"] for node in page.all("a") if node.attributes["href"].startswith("#")]
    assert {f"#{one}" for one in ids} >= set(inner)


def test_links_lead_to_files_of_runs(usual: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "other place" / "page.html"
    elsewhere.parent.mkdir()
    write_report(usual, elsewhere)
    for file in (usual / REPORT, elsewhere):
        targets = {node.attributes["href"] for node in read(file.read_text("utf-8")).all("a")}
        files = {one for one in targets if one.startswith("./")}
        assert len(files) > 30
        assert all((file.parent / one).exists() for one in files), "no link is dead"
        assert {one for one in targets if not one.startswith(("./", "#"))} == set()


def test_every_figure_says_which_runs_it_is_from(usual: Path) -> None:
    figures = tree(usual).all("figure")
    assert len(figures) >= 10
    assert all(figure.one("details", class_="source").all("a") for figure in figures)


def test_pictures_say_what_they_show(usual: Path) -> None:
    pictures = [node for node in tree(usual).all("svg") if node.attributes.get("role") == "img"]
    assert len(pictures) == 9, "four costs, one curve over rows, four over training"
    for picture in pictures:
        title, about = picture.children[:2]
        assert isinstance(title, Node)
        assert isinstance(about, Node)
        assert (title.name, about.name) == ("title", "desc")
        assert "head" in about.text
        assert picture.attributes["aria-labelledby"] == f"{title.attributes['id']} {about.attributes['id']}"
    time = next(one for one in pictures if one.one("title", id="front-seconds-title"))
    accuracy = Run(usual / "lora-all-seed0").metrics["metrics"]["accuracy"]
    shown = f"lora-all: {accuracy['value']:.3f} [{accuracy['low']:.3f}–{accuracy['high']:.3f}] for 2,000 s"
    assert shown in time.one("desc").text
    assert len(time.all("path", class_="floor")) == 2


def test_a_strategy_has_one_colour_in_all_pictures(usual: Path) -> None:
    looks: dict[str, set[str]] = {}
    pictures: dict[str, int] = {}
    for picture in tree(usual).all("svg", role="img"):
        for group in picture.all("g"):
            titles = group.all("title")
            if titles and "class" in group.attributes:
                strategy = re.split(r"-all|-seed|:", titles[0].text)[0]
                looks.setdefault(strategy, set()).add(group.attributes["class"])
                pictures[strategy] = pictures.get(strategy, 0) + 1
    floor, head, lora = ({f"kind-{kind}"} for kind in ("floor", "head", "lora"))
    assert looks == {"majority": floor, "tfidf": floor, "head": head, "lora": lora}
    assert min(pictures["head"], pictures["lora"]) >= 9, "in each of them, for some amount of data"


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(usual: Path) -> None:
    page = tree(usual)
    policy = page.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for name in ("style", "script"):
        text = page.one(name).text
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules.pop(f"{name}-src") == f"'sha256-{digest}'"
    assert rules == {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
    assert [node.name for node in page if "style" in node.attributes] == []
    assert [name for node in page for name in node.attributes if name.startswith("on")] == []


@pytest.mark.parametrize("which", ["usual", "hostile"])
def test_nothing_is_loaded_from_anywhere(which: str, request: pytest.FixtureRequest) -> None:
    page = tree(request.getfixturevalue(which))
    sources = [
        node.attributes[name]
        for node in page
        for name in ("src", "srcset", "data", "poster")
        if name in node.attributes
    ]
    assert all(one.startswith("data:image/") for one in sources)
    assert [node.name for node in page if node.name in ("link", "iframe", "object", "embed", "base", "use")] == []
    assert not re.search(r"url\(|@import", page.one("style").text)
    assert not re.search(r"fetch|XMLHttp|import\(|WebSocket|innerHTML", page.one("script").text)


def test_what_stands_in_runs_is_text(hostile: Path) -> None:
    page = tree(hostile)  # strict: markup that leaks would close what it did not open
    assert len(page.all("script")) == 1
    assert page.one("script").text == tree(hostile).one("script").text
    assert comparisons.HOSTILE not in (hostile / REPORT).read_text("utf-8")
    assert [node for node in page.all("img") if not node.attributes["src"].startswith("data:")] == []
    reasons = [cell.text for cell in page.all("td", class_="reason")]
    assert reasons == [comparisons.HOSTILE], "and it is all there"
    assert any(comparisons.HOSTILE in node.text for node in page.all("td", class_="text"))
    assert any(comparisons.HOSTILE in node.text for node in page.all("code"))
    said = (hostile / "README.md").read_text("utf-8")
    assert "<script>" not in said.replace("\\<script\\>", "").split("\n|")[0]


def test_unprintable_characters_are_shown_as_such(tmp_path: Path) -> None:
    run = fake.run(tmp_path, "full-seed0", "full", state="failed", reason="a\x00b\x1b[31mc\u202ed")
    comparisons.conclude(tmp_path, [run])
    text = (tmp_path / REPORT).read_text("utf-8")
    assert not set("\x00\x1b\u202e") & set(text)
    assert tree(tmp_path).one("td", class_="reason").text == "a\ufffdb\ufffd[31mc\ufffdd"


def test_one_arm(tmp_path: Path) -> None:
    comparisons.conclude(tmp_path, [comparisons.arm(tmp_path, "head-seed0", "head", 0.8)])
    page = tree(tmp_path)
    assert "there is no other arm that it could be tested against" in page.one("section", aria_labelledby="answer").text
    assert {node.attributes["id"] for node in page.all("h2")} == {
        "answer",
        "arms",
        "fronts",
        "curves",
        "layers",
        "reproduce",
    }


def test_floors_only(tmp_path: Path) -> None:
    runs = [comparisons.arm(tmp_path, "majority", "majority", 0.3), comparisons.arm(tmp_path, "tfidf", "tfidf", 0.7)]
    comparisons.conclude(tmp_path, runs)
    page = tree(tmp_path)
    assert "2 floors" in page.one("section", aria_labelledby="answer").text
    assert {node.attributes["id"] for node in page.all("h2")} == {
        "answer",
        "arms",
        "fronts",
        "pairs",
        "items",
        "reproduce",
    }


def test_nothing_but_failures(tmp_path: Path) -> None:
    states = ("failed", "oom", "interrupted", "running")
    comparisons.conclude(tmp_path, [fake.run(tmp_path, f"{one}-seed0", "full", state=one) for one in states])
    page = tree(tmp_path)
    assert "No arm has a score" in page.one("section", aria_labelledby="answer").text
    assert page.all("svg") == []
    assert len(rows_of(page.one("section", aria_labelledby="failures").one("table"))) == 4


def test_directories_that_hold_no_run_yet(tmp_path: Path) -> None:
    (tmp_path / "head-seed0").mkdir()
    comparisons.conclude(tmp_path, [Run(tmp_path / "head-seed0")])
    assert "head (not run)" in tree(tmp_path).one("section", aria_labelledby="answer").text


def test_what_was_not_measured_is_empty(tmp_path: Path) -> None:
    run = comparisons.arm(tmp_path, "head-seed0", "head", 0.8)
    ledger = run.ledger | {"seconds": None, "peak_live_bytes": None, "artifact_bytes": None}
    write_json(run.path / "ledger.json", ledger)
    other = comparisons.arm(tmp_path, "lora-seed0", "lora", 0.8)
    comparisons.conclude(tmp_path, [run, other])
    rows = rows_of(tree(tmp_path).one("table", id="arms-table"))
    assert [rows["head"][name].text for name in ("time", "peak live memory", "artefact")] == ["", "", ""]
    assert all(rows["lora"][name].text for name in ("time", "peak live memory", "artefact"))
    desc = {one.attributes["id"]: one.text for one in tree(tmp_path).all("desc")}
    assert "head" not in desc["front-seconds-desc"].replace("head-seed0", "")


def test_a_regression_has_no_items_to_dispute(tmp_path: Path) -> None:
    runs = [comparisons.arm(tmp_path, f"{kind}-seed0", kind, 0.8) for kind in ("head", "lora")]
    for place, run in enumerate(runs):
        frame = run.predictions()
        frame["reference"], frame["prediction"] = 1.0, 1.0 + 0.1 * place
        frame.to_parquet(run.path / "predictions.parquet")
        env = run.read("env.json") or {}
        write_json(run.path / "env.json", {**env, "labels": {"problem": "regression", "names": ["stars"]}})
    comparisons.conclude(tmp_path, runs)
    assert tree(tmp_path).all("table", id="items-table") == []


def test_words_and_answers_are_disputed_as_wholes(tmp_path: Path) -> None:
    runs = [comparisons.arm(tmp_path, f"{kind}-seed0", kind, 0.8) for kind in ("head", "lora")]
    for run, said in zip(runs, (["B-PER", "O"], ["O", "O"]), strict=True):
        frame = run.predictions()[["id"]].head(2)
        frame["reference"], frame["prediction"] = [["B-PER", "O"]] * 2, [said, ["B-PER", "O"]]
        frame["words"] = [["Ada", "<wrote>"]] * 2
        frame.to_parquet(run.path / "predictions.parquet")
        write_json(run.path / "metrics.json", {"n": 2, "metrics": {"entity_f1": fake.entry(0.8)}})
        labels = {"problem": "entities", "names": ["O", "B-PER"]}
        write_json(run.path / "env.json", {**(run.read("env.json") or {}), "labels": labels})
    comparisons.conclude(tmp_path, runs)
    found = disagreement(Compared.read(tmp_path))
    assert found is not None
    (item,) = found.items
    assert (item.given, item.true, item.right) == ({"words": "Ada <wrote>"}, "Ada (PER)", ("head",))
    assert item.said == {"head": "Ada (PER)", "lora": "no entity"}


def test_a_copied_directory_gives_the_same_page_without_torch(usual: Path, tmp_path: Path) -> None:
    there = comparisons.copied(usual, tmp_path / "cards")
    before = {name: (there / name).read_bytes() for name in (REPORT, "README.md")}
    for name in before:
        (there / name).unlink()
    code = (
        "import sys\nfrom hfstrat.cli import app\nsys.argv = ['hfstrat', 'report', sys.argv[1]]\n"
        "try:\n    app()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(there)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert {name: (there / name).read_bytes() for name in before} == before


def test_the_verb(usual: Path, tmp_path: Path) -> None:
    there = comparisons.copied(usual, tmp_path / "cards")
    done = hfstrat("report", there, "--json")
    assert json.loads(done.out) == {"report": str(there / REPORT), "readme": str(there / "README.md")}
    done = hfstrat("report", there, "-o", tmp_path / "page.html")
    assert done.code == 0
    assert str(tmp_path / "page.html") in done.out
    assert read((tmp_path / "page.html").read_text("utf-8")).one("h1").text == "Comparison cards"

    assert hfstrat("report", tmp_path).errors == [
        f"{tmp_path} holds no comparison. `hfstrat compare RECIPE` makes one, and writes its files again"
    ]
    assert hfstrat("report", there, "-o", tmp_path / "no" / "page.html").errors == [
        f"there is no folder {tmp_path / 'no'}. Name another file with --output"
    ]
    (there / "verdicts.json").write_text('{"pairs": [{}]}')
    assert hfstrat("report", there).code == 2
    (there / "verdicts.json").write_text("{")
    with pytest.raises(UsageError, match=r"verdicts\.json is missing or damaged"):
        write_report(there)


def test_thirty_runs_are_less_than_two_megabytes(tmp_path: Path) -> None:
    kinds = ("head", "lora", "full", "partial", "scratch")
    runs = [
        comparisons.arm(tmp_path, f"arm-{place}-seed{seed}", kinds[place % 5], 0.6 + 0.03 * place, seed=seed, text=LONG)
        for place in range(10)
        for seed in (0, 1, 2)
    ]
    comparisons.conclude(tmp_path, runs)
    assert (tmp_path / REPORT).stat().st_size < 2_000_000


def test_the_readme_says_the_same_in_short(usual: Path) -> None:
    said = (usual / "README.md").read_text("utf-8")
    assert said.startswith("# cards\n")
    assert "head-all has the highest accuracy" in said
    assert (usual / "table.md").read_text("utf-8").strip() in said
    for name in re.findall(r"\]\(([^)]+)\)", said):
        assert (usual / name).is_file()


@given(st.integers(0, 2**45), st.floats(0.01, 1e6), st.integers(0, 10**12))
def test_cells_are_sorted_by_what_they_say(n_bytes: int, seconds: float, parameters: int) -> None:
    for value, write, exact in ((n_bytes, size, 0.051 * 2**20), (seconds, duration, 0.005), (parameters, count, 0.5)):
        found = magnitude(write(value))
        assert found is not None
        assert float(found) == pytest.approx(value, rel=0.03, abs=exact)


def test_cells_without_a_number_have_nothing_to_be_sorted_by() -> None:
    assert [magnitude(text) for text in ("", "best", "oom", "undefined")] == [None] * 4
    assert magnitude("-0.005 [-0.011, +0.001]") == "-0.005"
    assert magnitude("2,357") == "2357"


@pytest.mark.parametrize("ground", [palette.LIGHT, palette.DARK])
def test_colours_stand_out_from_the_ground(ground: str) -> None:
    for colour in palette.KINDS.values():
        assert palette.contrast(palette.adapted(colour, ground), ground) >= 3
    assert palette.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert palette.adapted("#0072B2", palette.LIGHT) == "#0072b2", "one that does is left as it is"
