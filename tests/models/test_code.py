"""An architecture of the user's own, from a file: trained, bundled, loaded elsewhere, trained on."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import CONFIG_MAPPING

from hfstrat import execute
from hfstrat.errors import UsageError
from hfstrat.inference import Predictor
from hfstrat.models import artifact
from hfstrat.models.code import load_code
from hfstrat.runs.directory import Run
from hfstrat.runs.events import Observer
from tests import elsewhere, tiny
from tests.command import hfstrat
from tests.training import helpers

ROWS = tiny.reviews(40)
GOOD = [{**row, "label": {"negative": "bad", "positive": "good"}[row["label"]]} for row in ROWS]

BAG = '''
"""Blocks over embeddings, whose mean is classified."""

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput


class BagConfig(PretrainedConfig):
    model_type = "TYPE"

    def __init__(self, vocab_size=300, hidden_size=32, num_hidden_layers=2, initializer_range=0.2, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.initializer_range = initializer_range
        super().__init__(**kwargs)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.up = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.down = nn.Linear(2 * config.hidden_size, config.hidden_size)

    def forward(self, hidden):
        return hidden + FACTOR * self.down(nn.functional.gelu(self.up(self.norm(hidden))))


class BagPreTrainedModel(PreTrainedModel):
    config_class = BagConfig
    base_model_prefix = "bag"
    _no_split_modules = ["Block"]


class BagModel(BagPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings

    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, **kwargs):
        hidden = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        for block in self.blocks:
            hidden = block(hidden)
        return BaseModelOutput(last_hidden_state=self.norm(hidden))


class BagForSequenceClassification(BagPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.bag = BagModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
        hidden = self.bag(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        if attention_mask is None:
            attention_mask = torch.ones(hidden.shape[:2], device=hidden.device)
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return SequenceClassifierOutput(logits=self.classifier((hidden * weight).sum(1) / weight.sum(1)))
'''
POOLED = {"kind": "text_classification", "pooling": "mean"}
SCRATCH = {"kind": "scratch", "tokenizer": {"kind": "bpe", "vocab_size": 300}}


class Heard(Observer):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def write(file: Path, model_type: str, factor: float = 1.0) -> Path:
    """The architecture under a name of its own; what is registered stays so for the whole process."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(BAG.replace("TYPE", model_type).replace("FACTOR", str(factor)), "utf-8")
    return file


def recipe(name: str, strategy: dict[str, Any], **model: Any) -> dict[str, Any]:
    return {
        "name": name,
        "model": {"dropout": 0.0, **model},
        "task": {"kind": "text_classification"},
        "data": {"source": "memory", "validation": 0.25, "test": 0.25},
        "strategy": strategy,
        "train": {"epochs": 2, "batch_size": 8, "lr": 1e-2, "precision": "fp32", "threads": 1},
        "evaluate": {"metrics": ["accuracy"]},
    }


def train(given: dict[str, Any], runs: Path, rows: Any = ROWS, observer: Observer | None = None) -> Run:
    return execute.train(given, data=helpers.memory(rows), runs=runs, observer=observer)


def logits_of(run: Run) -> np.ndarray:
    return np.array(run.predictions()["logits"].tolist(), dtype=np.float32)


# --- one file, and what is made of it -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("code-")


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def runs(home, heard) -> dict[str, Run]:
    """A run from nothing, and what started from it; the file that was first is gone by then."""
    file = write(home / "my_bag.py", "bag-of-tokens")
    own = {"code": str(file)}
    config = {"model_type": "bag-of-tokens", "num_hidden_layers": 3}
    found = {"scratch": train(recipe("scratch", SCRATCH, config=config, **own), home / "runs", observer=heard)}
    base = {"base": str(home / "runs" / "scratch"), **own}
    found["full"] = train(recipe("full", {"kind": "full"}, **base), home / "runs", GOOD)
    found["kept"] = train(recipe("kept", {"kind": "full"}, **base), home / "runs")
    found["lora"] = train(recipe("lora", {"kind": "lora", "r": 4}, **base), home / "runs", GOOD)
    again = {"base": str(home / "runs" / "lora"), **own}
    found["lora again"] = train(recipe("again", {"kind": "lora", "r": 4}, **again), home / "runs", GOOD)
    found["lora merged"] = train(recipe("merged", {"kind": "full"}, **again), home / "runs", GOOD)
    student = {"kind": "distill", "teacher": str(home / "runs" / "kept")}
    found["student"] = train(recipe("student", student, **base), home / "runs")
    file.unlink()
    return found


NAMES = ["scratch", "full", "kept", "lora", "lora again", "lora merged", "student"]


def test_it_is_called_code(runs, home, heard):
    assert f"the model is code: {home / 'my_bag.py'} is run, and goes with the artefact" in heard.notes
    env = runs["scratch"].read("env.json")
    assert env["model"]["code"] == "my_bag.py"
    card = (runs["scratch"].artifact / "README.md").read_text("utf-8")
    assert "the folder brings `my_bag.py`, a file of Python that the lines below run" in card
    assert "the shape of a `bag-of-tokens` configuration" in card


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_of_the_file_goes_with_the_artefact(runs, home, name):
    artefact = runs[name].artifact
    assert [file.name for file in artefact.glob("*.py")] == ["my_bag.py"]
    expected = BAG.replace("TYPE", "bag-of-tokens").replace("FACTOR", "1.0")
    assert (artefact / "my_bag.py").read_text("utf-8") == expected
    assert str(home) not in (artefact / "config.json").read_text("utf-8").replace(str(home / "runs"), "")


def test_its_blocks_are_found(runs):
    plan = runs["scratch"].read("plan.json")
    assert plan["anatomy"]["backbone"] == "bag"
    assert plan["anatomy"]["blocks"] == [f"bag.blocks.{place}" for place in range(3)]
    assert plan["anatomy"]["above"] == ["bag.norm"]
    assert plan["anatomy"]["head"] == ["classifier"]
    assert runs["student"].read("plan.json")["anatomy"]["blocks"] == ["bag.blocks.0", "bag.blocks.1"]


def test_a_head_is_kept_for_the_same_labels_only(runs):
    stages = {name: [stage["name"] for stage in run.read("plan.json")["stages"]] for name, run in runs.items()}
    assert stages == {
        "scratch": ["fit"],
        "full": ["probe", "fit"],
        "kept": ["fit"],
        "lora": ["probe", "fit"],
        "lora again": ["fit"],
        "lora merged": ["fit"],
        "student": ["fit"],
    }


@pytest.fixture(scope="module")
def told(runs, user) -> dict[str, dict[str, Any]]:
    scratch = runs["scratch"].artifact
    texts = [row["text"] for row in ROWS[:5]]
    return {name: user.run(elsewhere.program(run, scratch, texts)) for name, run in runs.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_lines_of_its_card_work_without_hfstrat(runs, told, name, tmp_path):
    """They run the bundled copy; here the same texts go through `hfstrat predict`, which runs it as well."""
    tiny.write_csv(tmp_path / "texts.csv", [{"text": row["text"]} for row in ROWS[:5]])
    done = hfstrat("predict", runs[name].path, tmp_path / "texts.csv")
    assert done.code == 0, done.err
    records = [json.loads(line) for line in done.out.splitlines()]
    assert told[name]["labels"] == [record["prediction"] for record in records]
    logits = torch.tensor(told[name]["logits"]).softmax(-1).numpy()
    assert logits == pytest.approx(np.array([list(record["scores"].values()) for record in records]), abs=1e-5)
    assert "trust_remote_code=True" in (runs[name].artifact / "README.md").read_text("utf-8")


@pytest.fixture
def unknown(monkeypatch) -> None:
    """As in a new process, nobody has heard of the architecture."""
    monkeypatch.delitem(CONFIG_MAPPING._extra_content, "bag-of-tokens")
    for name in [name for name in sys.modules if name.startswith("hfstrat_code_")]:
        monkeypatch.delitem(sys.modules, name)


def test_a_moved_run_is_scored_by_its_copy(runs, unknown, tmp_path):
    run = Run(shutil.copytree(runs["kept"].path, tmp_path / "moved"))
    tiny.write_csv(tmp_path / "all.csv", ROWS)
    done = hfstrat("evaluate", run.path, tmp_path / "all.csv")
    assert done.code == 0, done.err
    predictor = Predictor.of(run.path)
    assert sys.modules[type(predictor.model).__module__].__file__ == str(run.artifact / "my_bag.py")
    found = run.read("evaluations/all/metrics.json")
    assert found["n"] == len(ROWS)


@pytest.mark.parametrize("strategy", [{"kind": "full"}, {"kind": "lora", "r": 4}], ids=str)
def test_a_base_that_brings_its_code_is_trained_when_it_is_trusted(runs, unknown, strategy, tmp_path):
    """As published by somebody else: nobody names a file, and the copy goes on to the next artefact."""
    base = shutil.copytree(runs["scratch"].artifact, tmp_path / "published")
    run = train(recipe("x", strategy, base=str(base), trust_remote_code=True), tmp_path)
    assert [file.name for file in run.artifact.glob("*.py")] == ["my_bag.py"]
    assert "trust_remote_code=True" in (run.artifact / "README.md").read_text("utf-8")
    found = Predictor.of(run.path).predict([row["text"] for row in ROWS])
    assert {record["prediction"] for record in found} <= {"negative", "positive"}
    with pytest.raises(UsageError) as error:
        train({**recipe("y", strategy, base=str(base), trust_remote_code=True), "task": POOLED}, tmp_path)
    assert [problem.path for problem in error.value.problems] == ["task.pooling"]


# --- one file twice, two files of one name ------------------------------------------------------------------------


def test_a_file_may_be_loaded_twice(tmp_path):
    file = write(tmp_path / "twice.py", "twice")
    assert load_code(file) == load_code(file)
    assert load_code(file).model_types == ("twice",)


def test_two_files_may_have_one_name(tmp_path):
    models = []
    for factor in (1.0, 3.0):
        file = write(tmp_path / str(factor) / "same.py", f"same-{int(factor)}", factor)
        config = {"model_type": f"same-{int(factor)}"}
        run = train(recipe(f"run-{int(factor)}", SCRATCH, config=config, code=str(file)), tmp_path / "runs")
        assert (run.artifact / "same.py").read_text("utf-8") == file.read_text("utf-8")
        models.append(artifact.load(run.artifact))
    assert type(models[0]) is not type(models[1])


def test_a_file_may_change(tmp_path):
    """The same name and the same model_type, but other code: each run goes on with its own copy."""
    made = []
    for factor in (1.0, 3.0):
        file = write(tmp_path / "changes.py", "changes", factor)
        given = recipe(f"run-{int(factor)}", SCRATCH, config={"model_type": "changes"}, code=str(file))
        given["train"]["lr"] = 1e-9
        made.append(helpers.train(given, ROWS, tmp_path / "runs"))
    one, other = (logits_of(found.run) for found in made)
    assert np.abs(one - other).max() > 1e-2
    for found in made:
        decoded = Predictor.of(found.run.path).decide(found.prepared.material.examples["test"])[0]
        assert decoded.logits == pytest.approx(logits_of(found.run), abs=1e-6)


# --- what is wrong ------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path, monkeypatch) -> Callable[..., list[str]]:
    """The errors of `hfstrat train` with a file of code, nothing being written."""
    tiny.write_csv(tmp_path / "a.csv", ROWS)
    monkeypatch.chdir(tmp_path)

    def ask(
        code: str | None,
        model_type: str = "wrong",
        task: dict[str, Any] | None = None,
        base: str | None = None,
        strategy: dict[str, Any] = SCRATCH,
    ) -> list[str]:
        given = {
            "model": {"base": base} if base else {"code": code, "config": {"model_type": model_type}},
            "name": "x",
            "task": {"kind": "text_classification", **(task or {})},
            "data": {"source": "a.csv"},
            "strategy": strategy,
            "train": {"max_steps": 2},
        }
        Path("mine.yaml").write_text(yaml.safe_dump(given, sort_keys=False), "utf-8")
        before = sorted(tmp_path.rglob("*"))
        done = hfstrat("train", "mine.yaml")
        assert done.code == 2
        assert done.out == ""
        assert "Traceback" not in done.err
        assert sorted(tmp_path.rglob("*")) == before
        return done.errors

    return ask


def test_a_file_that_is_not_there(asked):
    (told,) = asked("gone.py")
    assert told == "mine.yaml:2: model.code: no such file: gone.py. Name a local file that ends in .py"


def test_a_file_that_is_not_python(asked):
    Path("model.txt").write_text(BAG, "utf-8")
    (told,) = asked("model.txt")
    assert told.startswith("mine.yaml:2: model.code: model.txt is no file of Python")


@pytest.mark.parametrize(
    ("code", "place", "message"),
    [
        ("x = 1\ny = (2\nz = 3\n", "wrong.py:2: ", "the code fails: SyntaxError: '(' was never closed"),
        ("x = 1\n\ny = x / 0\n", "wrong.py:3: ", "the code fails: ZeroDivisionError: division by zero"),
        ("def f():\n    raise KeyError('k')\n\n\nf()\n", "wrong.py:2: ", "the code fails: KeyError: 'k'"),
        ("import no_such_module\n", "wrong.py:1: ", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import sys\nsys.exit(3)\n", "wrong.py:2: ", "the code fails: SystemExit: 3"),
        ("x = 1\n" + "\x00", "wrong.py:", "the code fails: "),
    ],
)
def test_code_that_fails_is_told_with_its_line(asked, code, place, message):
    Path("wrong.py").write_text(code, "utf-8")
    (told,) = asked("wrong.py")
    assert told.startswith(place)
    assert "model.code" in told
    assert message in told


def test_code_without_an_architecture(asked):
    start, end = BAG.index("class BagConfig"), BAG.index("class Block")
    Path("models.py").write_text(BAG[:start] + "BagConfig = PretrainedConfig\n\n\n" + BAG[end:], "utf-8")
    (told,) = asked("models.py")
    assert told.startswith("mine.yaml:2: model.code: models.py defines no PretrainedConfig with a model_type")
    Path("config.py").write_text(BAG[:end].replace("TYPE", "no-model"), "utf-8")
    (told,) = asked("config.py")
    assert told.startswith("mine.yaml:2: model.code: config.py defines no PreTrainedModel with its config_class")


def test_code_without_a_classifier(asked):
    end = BAG.index("class BagForSequenceClassification")
    Path("body.py").write_text(BAG[:end].replace("TYPE", "body-alone").replace("FACTOR", "1.0"), "utf-8")
    (told,) = asked("body.py", "body-alone")
    assert told.startswith("mine.yaml:2: model.code: body.py has no class …ForSequenceClassification")


def test_an_architecture_that_transformers_has(asked):
    write(Path("mine.py"), "bert")
    (told,) = asked("mine.py", "bert")
    assert told.startswith("mine.yaml:2: model.code: mine.py calls its architecture 'bert', which transformers has")
    assert told.endswith("Give it a model_type of its own")


def test_another_architecture_than_the_one_in_the_file(asked):
    write(Path("mine.py"), "mine-alone")
    (told,) = asked("mine.py", "mine-alne")
    assert told.startswith("mine.yaml:4: model.config.model_type: 'mine-alne' is no architecture")
    assert "Did you mean 'mine-alone'?" in told


def test_pooling_is_up_to_the_architecture(asked):
    write(Path("mine.py"), "pools-itself")
    (told,) = asked("mine.py", "pools-itself", {"pooling": "mean"})
    assert told.startswith("mine.yaml:8: task.pooling: an architecture that is code brings its own head")
    assert told.endswith("Set task.pooling: native, and write the pooling into the architecture")


def test_a_run_whose_code_is_not_named_again(asked, runs, unknown):
    (told,) = asked(None, base=str(runs["scratch"].path), strategy={"kind": "full"})
    assert told.startswith(f"mine.yaml:2: model.base: {runs['scratch'].path} brings Python code of its own")
    assert "name its file as model.code" in told
