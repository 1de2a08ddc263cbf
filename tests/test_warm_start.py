"""Runs that start from other runs: whole ones, adapters, and teachers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from huggingface_hub.constants import HF_HUB_CACHE
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from hfstrat import execute, fitting
from hfstrat.data.batching import collate
from hfstrat.errors import UsageError
from hfstrat.inference import Predictor
from hfstrat.models import artifact
from hfstrat.models.anatomy import named_parameters
from hfstrat.prepare import Prepared
from hfstrat.runs.directory import Run
from hfstrat.runs.events import Observer
from hfstrat.runs.records import Ledger
from hfstrat.scheduling import schedule
from hfstrat.tasks.base import Encoded
from hfstrat.training import scoring
from tests import elsewhere, tiny
from tests.command import hfstrat
from tests.training.helpers import (
    LIVELY,
    Trained,
    built,
    fit_of,
    fitted,
    largest_difference,
    memory,
    prepared_for,
    recipe,
    train,
    weights,
)

Rows = list[dict[str, Any]]
Given = dict[str, Any]

ROWS = tiny.reviews(40)
THREE = tiny.reviews(45, classes=3)
SHORT = {"max_steps": 3, "lr": 1e-2}
LORA: Given = {"kind": "lora", "r": 4}
FULL: Given = {"kind": "full"}
QLORA: Given = {"kind": "qlora", "r": 4}
REVERSED = {"labels": ["positive", "negative"]}
SHAPE = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    **LIVELY,
}


def renamed(**names: str) -> Rows:
    return [{**row, "label": names[row["label"]]} for row in ROWS]


GOOD = renamed(negative="bad", positive="good")


def logits_of(run: Run) -> np.ndarray:
    return np.array(run.predictions()["logits"].tolist(), dtype=np.float32)


def at_start(prepared: Prepared, split: str = "test") -> np.ndarray:
    """Logits before anything is trained."""
    return scoring.logits(built(prepared), prepared.encoded[split], 64)


def stages_of(run: Run) -> list[str]:
    return [stage["name"] for stage in (run.read("plan.json") or {})["stages"]]


def problem_of(error: pytest.ExceptionInfo[UsageError]) -> tuple[str | None, str, str]:
    (problem,) = error.value.problems
    return problem.path, problem.message, problem.hint or ""


# --- whole runs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> dict[str, Trained]:
    """From nothing, then on three classes, then adapters on two others."""
    folder = tmp_path_factory.mktemp("chain-")
    scratch = {"kind": "scratch", "tokenizer": {"kind": "bpe", "vocab_size": 300}}
    found = {"scratch": train(recipe(Path(), scratch, "scratch", model={"base": None, "config": SHAPE}), ROWS, folder)}
    found["full"] = train(recipe(folder / "scratch", "full-probe", "full"), THREE, folder)
    found["lora"] = train(recipe(folder / "full", "lora", "lora"), GOOD, folder)
    found["pooled"] = train(recipe(folder / "scratch", "full-probe", "pooled", task={"pooling": "mean"}), THREE, folder)
    found["pooled lora"] = train(recipe(folder / "pooled", "lora", "pooled-lora"), GOOD, folder)
    found["lora, pooled"] = train(
        recipe(folder / "full", "lora", "lora-pooled", task={"pooling": "mean"}), GOOD, folder
    )
    return found


def test_each_starts_from_the_one_before(chain):
    scratch, full, lora = chain["scratch"], chain["full"], chain["lora"]
    assert len(scratch.prepared.base.tokenizer) == 300
    for one, other in ((full, scratch), (lora, full), (chain["pooled lora"], chain["pooled"])):
        there = dict(named_parameters(artifact.load(other.run.artifact)))
        backbone = f"{one.prepared.anatomy.backbone}."
        same = [name for name in one.before if name in there and name.startswith(backbone)]
        assert len(same) == len([name for name in there if name.startswith(backbone)])
        assert all(torch.equal(one.before[name], there[name]) for name in same)
        assert one.prepared.base.tokenizer.get_vocab() == scratch.prepared.base.tokenizer.get_vocab()
        assert one.prepared.base.max_length == 64
        assert stages_of(one.run) == ["probe", "fit"], "its labels are others"
    assert full.before["classifier.weight"].shape == (3, 32)


@pytest.mark.parametrize("name", ["lora", "pooled lora", "lora, pooled"])
def test_an_adapter_finds_the_run_below_it(chain, name, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "a great film"}\n', "utf-8")
    done = hfstrat("predict", chain[name].run.path, tmp_path / "texts.jsonl")
    assert done.code == 0, done.err
    assert json.loads(done.out)["prediction"] in ("bad", "good")


@pytest.mark.parametrize(("name", "task"), [("lora", {}), ("pooled lora", {}), ("lora, pooled", {"pooling": "mean"})])
@pytest.mark.parametrize("strategy", [LORA, FULL], ids=["goes on", "is merged"])
def test_an_adapter_over_a_run_is_where_the_next_one_starts(chain, name, task, strategy):
    before = chain[name]
    prepared = prepared_for(recipe(before.run.path, strategy, task=task), GOOD)
    assert [stage.kind for stage in prepared.plan.stages] == ["fit"]
    assert at_start(prepared) == pytest.approx(logits_of(before.run), abs=1e-5)
    assert prepared.base.location == before.prepared.base.location


def test_a_pooled_head_is_kept_without_naming_its_pooling(chain):
    before = chain["pooled"]
    prepared = prepared_for(recipe(before.run.path, FULL), THREE)
    assert [stage.kind for stage in prepared.plan.stages] == ["fit"]
    assert np.array_equal(at_start(prepared), logits_of(before.run))
    cls = prepared_for(recipe(before.run.path, FULL, task={"pooling": "cls"}), THREE)
    assert cls.anatomy.head_is_fresh, "its head was for another vector"


def test_a_head_for_the_same_labels_is_kept(chain, tmp_path):
    before = chain["scratch"]
    found = train(recipe(before.run.path, FULL), ROWS, tmp_path)
    assert stages_of(found.run) == ["fit"]
    assert found.prepared.recipe.strategy.head_init == "keep"
    there = weights(artifact.load(before.run.artifact))
    assert largest_difference(found.before, there) == 0.0
    assert np.array_equal(at_start(found.prepared), logits_of(before.run))


@pytest.mark.parametrize(
    ("rows", "task"), [(GOOD, {}), (ROWS, REVERSED), (ROWS, {"pooling": "mean"})], ids=["names", "order", "pooling"]
)
@pytest.mark.parametrize("strategy", [FULL, LORA, QLORA], ids=["full", "lora", "qlora"])
def test_a_head_for_other_labels_is_not_kept(chain, rows, task, strategy):
    before = chain["scratch"]
    prepared = prepared_for(recipe(before.run.path, strategy, task=task), rows)
    assert prepared.anatomy.head_is_fresh
    assert [stage.kind for stage in prepared.plan.stages] == ["solve", "fit"]
    there = dict(named_parameters(artifact.load(before.run.artifact)))
    assert not torch.equal(weights(built(prepared))["classifier.weight"], there["classifier.weight"])
    with pytest.raises(UsageError) as error:
        prepared_for(recipe(before.run.path, {**strategy, "head_init": "keep"}, task=task), rows)
    path, message, hint = problem_of(error)
    assert (path, message) == ("strategy.head_init", "the base brings no head for these labels")
    assert "the same, in the same order" in hint


@pytest.mark.parametrize("strategy", [LORA, QLORA, {"kind": "partial"}], ids=["lora", "qlora", "partial"])
def test_every_strategy_keeps_a_head_unless_a_new_one_is_asked_for(chain, strategy):
    there = weights(artifact.load(chain["scratch"].run.artifact))
    for fields, same in (({}, True), ({"head_init": "random"}, False)):
        prepared = prepared_for(recipe(chain["scratch"].run.path, {**strategy, **fields}), ROWS)
        assert [stage.kind for stage in prepared.plan.stages] == ["fit"]
        assert torch.equal(weights(built(prepared))["classifier.weight"], there["classifier.weight"]) == same


@pytest.mark.parametrize("family", ["roberta", "distilbert", "gpt2", "bart"])
def test_a_head_of_several_layers_is_new_as_a_whole(tiny_base, family, tmp_path):
    """The base's has the right width by chance."""
    base = tiny_base(family)
    labels = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    model = AutoModelForSequenceClassification.from_pretrained(base, **labels)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    prepared = prepared_for(recipe(tmp_path, FULL), ROWS)
    assert prepared.anatomy.head_is_fresh
    there, here = weights(model), weights(built(prepared))
    backbone = f"{prepared.anatomy.backbone}."
    same = {name for name, value in there.items() if torch.equal(here[name], value)}
    matrices = {name for name, value in there.items() if value.ndim == 2 and not name.startswith(backbone)}
    assert matrices
    assert not same & matrices
    assert {name for name in there if name.startswith(backbone)} <= same


def test_a_pooled_run_has_no_head_of_its_own(chain):
    for name in ("pooled", "pooled lora", "lora, pooled"):
        with pytest.raises(UsageError) as error:
            prepared_for(recipe(chain[name].run.path, FULL, task={"pooling": "native"}), THREE)
        path, message, hint = problem_of(error)
        assert (path, hint) == ("task.pooling", "Leave task.pooling out")
        assert "pools its tokens" in message


# --- adapters that go on ------------------------------------------------------------------------------------------

CONTINUED: dict[str, tuple[str, dict[str, Any], Given, dict[str, Any]]] = {
    "lora": ("bert", {}, LORA, {}),
    "pooled": ("llama", {}, LORA, {"pooling": "mean", "normalize": True}),
    "base without a pooler": ("bert", {"pooler": False}, LORA, {}),
    "more modules than PEFT lists": ("bert", {"num_hidden_layers": 4}, LORA, {}),
    "dora of two targets": ("gpt2", {}, {"kind": "lora", "r": 4, "variant": "dora", "targets": ["c_attn", "c_fc"]}, {}),
    "qlora": ("bert", {}, QLORA, {}),
    "qlora of 8 bits": ("gpt2", {}, {**QLORA, "bits": 8}, {}),
    "IA3": ("distilbert", {}, {"kind": "peft", "method": "IA3"}, {}),
    "VERA": ("bert", {}, {"kind": "peft", "method": "VERA", "options": {"r": 8}}, {}),
    "ADALORA": ("bert", {}, {"kind": "peft", "method": "ADALORA"}, {}),
    "LN_TUNING": ("roberta", {}, {"kind": "peft", "method": "LN_TUNING"}, {}),
}


@pytest.fixture(scope="module")
def adapted(tiny_base, tmp_path_factory) -> Callable[[str], Trained]:
    """Runs of `CONTINUED`, trained once."""
    made: dict[str, Trained] = {}

    def make(name: str) -> Trained:
        if name not in made:
            family, options, strategy, task = CONTINUED[name]
            # A head solved first might be the best state, and the adapter nothing.
            strategy = {**strategy, "head_init": "random"}
            given = recipe(tiny_base(family, **LIVELY, **options), strategy, task=task, train=SHORT)
            made[name] = train(given, ROWS, tmp_path_factory.mktemp("adapted-"))
        return made[name]

    return make


def again(before: Trained, strategy: Given, rows: Rows = ROWS, **sections: Any) -> Prepared:
    return prepared_for(recipe(before.run.path, strategy, **sections), rows)


@pytest.mark.parametrize("name", CONTINUED)
def test_an_adapter_goes_on_where_it_was(adapted, name):
    before, (_, _, strategy, _) = adapted(name), CONTINUED[name]
    prepared = again(before, strategy)
    assert [stage.kind for stage in prepared.plan.stages] == ["fit"], "its head is kept"
    there, here = weights(artifact.load(before.run.artifact)), weights(built(prepared))
    assert largest_difference(here, there) == 0.0
    assert at_start(prepared) == pytest.approx(logits_of(before.run), abs=1e-6)
    assert prepared.added == before.prepared.added
    assert prepared.base.location == before.prepared.base.location


@pytest.mark.parametrize("name", ["lora", "pooled", "base without a pooler", "qlora"])
def test_an_adapter_goes_on_with_a_new_head(adapted, name):
    before, (_, _, strategy, _) = adapted(name), CONTINUED[name]
    prepared = again(before, strategy, GOOD)
    assert [stage.kind for stage in prepared.plan.stages] == ["solve", "fit"]
    there, here = weights(artifact.load(before.run.artifact)), weights(built(prepared))
    other = {parameter for parameter, value in here.items() if not torch.equal(value, there[parameter])}
    assert other == {parameter for parameter in here if parameter.startswith(f"{prepared.anatomy.output}.")}


@pytest.fixture(scope="module")
def later(adapted, tmp_path_factory) -> dict[str, Trained]:
    """What went on from adapters, as such and merged."""
    folder = tmp_path_factory.mktemp("later-")
    found = {
        f"{name} again": train(recipe(adapted(name).run.path, CONTINUED[name][2], f"{name}-again"), GOOD, folder)
        for name in ("lora", "pooled", "qlora")
    }
    found["lora a third time"] = train(recipe(folder / "lora-again", LORA, "third"), ROWS, folder)
    for name in ("lora", "qlora"):
        found[f"{name} merged"] = train(recipe(adapted(name).run.path, FULL, f"{name}-merged"), ROWS, folder)
    return found


@pytest.mark.parametrize("name", ["lora again", "pooled again", "qlora again", "lora a third time"])
def test_what_an_adapter_became_stands_on_the_first_base(later, adapted, name, tmp_path):
    run, base = later[name].run, adapted(name.split()[0]).prepared.base.location
    assert later[name].prepared.base.location == base
    assert run.read("artifact/adapter_config.json")["base_model_name_or_path"] == base
    (tmp_path / "texts.jsonl").write_text('{"text": "a great film"}\n', "utf-8")
    done = hfstrat("predict", run.path, tmp_path / "texts.jsonl")
    assert json.loads(done.out)["prediction"] in run.read("env.json")["labels"]["names"], done.err


def test_a_base_that_was_named_from_where_its_run_began_is_found_from_elsewhere(chain, tmp_path, monkeypatch):
    shutil.copytree(chain["full"].run.path, tmp_path / "here" / "runs" / "full")
    monkeypatch.chdir(tmp_path / "here")
    found = train(recipe(Path("runs/full"), LORA, "adapter", train={"max_steps": 1}), GOOD, Path("runs"))
    path = found.run.path.resolve()
    monkeypatch.chdir(tmp_path)
    decoded = Predictor.of(path).decide(found.prepared.material.examples["test"])[0]
    assert decoded.logits == pytest.approx(logits_of(Run(path)), abs=1e-6)


def test_the_run_that_an_adapter_went_on_from_may_go(adapted, tmp_path):
    shutil.copytree(adapted("lora").run.path, tmp_path / "first")
    found = train(recipe(tmp_path / "first", LORA, "second", train={"max_steps": 1}), ROWS, tmp_path)
    shutil.rmtree(tmp_path / "first")
    decoded = Predictor.of(found.run.path).decide(found.prepared.material.examples["test"])[0]
    assert decoded.logits == pytest.approx(logits_of(found.run), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "strategy", "path", "message"),
    [
        ("lora", {**LORA, "r": 8, "alpha": 8}, "strategy.r", "the adapter that is continued has r 4, not 8"),
        ("lora", {**LORA, "alpha": 4}, "strategy.alpha", "has lora_alpha 8.0, not 4.0"),
        ("lora", {**LORA, "targets": ["query"]}, "strategy.targets", "sits on other modules"),
        ("more modules than PEFT lists", {**LORA, "targets": ["query"]}, "strategy.targets", "sits on other modules"),
        ("lora", {"kind": "peft", "method": "IA3"}, "strategy", "is one of LORA, not of IA3"),
        ("lora", QLORA, "strategy", "was trained on weights as they are, not in nf4 with double_quant"),
        ("qlora", LORA, "strategy", "was trained on weights in nf4 with double_quant, not as they are"),
        ("qlora", {**QLORA, "quant_type": "fp4"}, "strategy", "not in fp4 with double_quant"),
        ("qlora", {**QLORA, "bits": 8}, "strategy", "not in 8 bits"),
        ("VERA", {"kind": "peft", "method": "VERA"}, "strategy.r", "has r 8, not 256"),
    ],
    ids=str,
)
def test_an_adapter_of_another_kind_is_refused(adapted, name, strategy, path, message):
    with pytest.raises(UsageError) as error:
        again(adapted(name), strategy)
    assert path in [problem.path for problem in error.value.problems]
    (told,) = [problem for problem in error.value.problems if problem.path == path]
    assert message in told.message
    assert "train on from the merged weights with kind: full, partial or head" in str(told.hint)


# --- adapters that are merged -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "strategy"),
    [(name, "full") for name in CONTINUED]
    + [(name, strategy) for name in ("lora", "pooled", "qlora") for strategy in ("partial", "head")],
)
def test_an_adapter_is_merged_below_what_trains_weights(adapted, name, strategy):
    before = adapted(name)
    prepared = again(before, {"kind": strategy})
    model = built(prepared)
    assert not [parameter for parameter, _ in named_parameters(model) if "lora" in parameter or "ia3" in parameter]
    expected, found = logits_of(before.run), scoring.logits(model, prepared.encoded["test"], 64)
    # Weights in 8 bits stand for the same numbers, but their layers round what goes into them too.
    bound = 5e-2 if "8 bits" in name else 1e-5
    assert np.abs(found - expected).max() < bound * np.abs(expected).max()
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    if strategy != "head":
        assert "solve" not in [stage.kind for stage in prepared.plan.stages], "its head is kept"


@pytest.mark.parametrize("name", ["lora", "qlora"])
def test_a_merged_adapter_trains_and_stands_alone(later, name):
    run = later[f"{name} merged"].run
    assert artifact.case_of(run.artifact) == "native"
    assert "quantization" not in (run.artifact / "config.json").read_text("utf-8")


def test_a_native_adapter_is_merged_below_another_pooling(adapted):
    before = adapted("lora")
    prepared = again(before, FULL, task={"pooling": "mean"})
    assert prepared.anatomy.head_is_fresh
    there: Any = artifact.load(before.run.artifact)
    there, here = weights(there.merge_and_unload()), weights(built(prepared))
    body = {name: value for name, value in here.items() if name.startswith("backbone.")}
    assert len(body) == len(here) - 2
    assert all(torch.equal(value, there[name.replace("backbone.", "bert.", 1)]) for name, value in body.items())


# --- what is no base ----------------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path, monkeypatch) -> Callable[..., list[str]]:
    """The errors of `hfstrat train` with a base, nothing being written."""
    tiny.write_csv(tmp_path / "a.csv", ROWS)
    monkeypatch.chdir(tmp_path)

    def ask(base: str, strategy: Given = FULL) -> list[str]:
        given = {
            "model": {"base": base},
            "name": "x",
            "task": {"kind": "text_classification"},
            "data": {"source": "a.csv"},
            "strategy": strategy,
            "train": {"max_steps": 2},
        }
        Path("mine.yaml").write_text(yaml.safe_dump(given, sort_keys=False), "utf-8")
        done = hfstrat("train", "mine.yaml")
        assert done.code == 2
        assert done.out == ""
        assert not Path("runs", "x").exists()
        return done.errors

    return ask


@pytest.mark.parametrize("state", ["running", "failed", "interrupted"])
def test_a_run_that_is_not_done_is_no_base(asked, state):
    Path("runs/y/artifact").mkdir(parents=True)
    Path("runs/y/status.json").write_text(json.dumps({"state": state, "reason": None}), "utf-8")
    assert asked("runs/y") == [f"mine.yaml:2: model.base: the run runs/y is {state}, not done"]


def test_a_floor_is_no_base(asked):
    Path("runs/y").mkdir(parents=True)
    Path("runs/y/status.json").write_text(json.dumps({"state": "done", "reason": None}), "utf-8")
    (told,) = asked("runs/y")
    assert told.startswith("mine.yaml:2: model.base: runs/y left no model: it is a floor of a comparison")


def test_a_folder_without_a_configuration_is_no_base(asked, adapted):
    Path("folder").mkdir()
    (told,) = asked("./folder")
    assert told.startswith("mine.yaml:2: model.base: the folder ./folder has no config.json")
    shutil.copytree(adapted("lora").run.artifact, "adapter")
    Path("adapter/config.json").unlink()
    (told,) = asked("./adapter", LORA)
    assert told.startswith("mine.yaml:2: model.base: the adapter adapter has no config.json that names its labels")


def test_an_adapter_whose_base_is_gone_is_no_base(asked, adapted):
    shutil.copytree(adapted("lora").run.artifact, "adapter")
    config = json.loads(Path("adapter/adapter_config.json").read_text("utf-8"))
    Path("adapter/adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/gone"}), "utf-8")
    (told,) = asked("./adapter", LORA)
    assert told.startswith("mine.yaml:2: model.base: no such folder: /gone")


def test_an_adapter_that_does_not_fit_is_told_with_its_line(asked, adapted):
    (told,) = asked(str(adapted("lora").run.path), {**LORA, "r": 8, "alpha": 8})
    assert told.startswith("mine.yaml:10: strategy.r: the adapter that is continued has r 4, not 8")


def test_an_adapter_without_its_run_stands_on_what_its_configuration_names(adapted, tmp_path):
    before = adapted("lora")
    shutil.copytree(before.run.artifact, tmp_path / "adapter")
    prepared = prepared_for(recipe(tmp_path / "adapter", LORA), ROWS)
    assert at_start(prepared) == pytest.approx(logits_of(before.run), abs=1e-6)


# --- a base of the Hub --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cached(tiny_base) -> Iterator[str]:
    """A base with two revisions in the cache of the Hub."""
    home = Path(HF_HUB_CACHE) / "models--me--tiny"
    for name, seed in (("main", 1), ("v1", 2)):
        commit = str(seed) * 40
        (home / "refs").mkdir(parents=True, exist_ok=True)
        (home / "refs" / name).write_text(commit, "utf-8")
        shutil.copytree(tiny_base("bert", seed=seed, **LIVELY), home / "snapshots" / commit)
    yield "me/tiny"
    shutil.rmtree(home)


def test_an_adapter_goes_on_over_the_same_revision(cached, tmp_path):
    before = train(recipe(cached, {**LORA, "head_init": "random"}, "one", model={"revision": "v1"}), ROWS, tmp_path)
    assert before.prepared.base.fingerprint == "2" * 40
    found = train(recipe(tmp_path / "one", LORA, "two"), ROWS, tmp_path)
    merged = prepared_for(recipe(tmp_path / "two", FULL), ROWS)
    for prepared, run in ((found.prepared, before.run), (merged, found.run)):
        assert prepared.base.hub["revision"] == "v1"
        assert at_start(prepared) == pytest.approx(logits_of(run), abs=1e-5)
    for run in (before.run, found.run):
        card = (run.artifact / "README.md").read_text("utf-8")
        assert "base_model: me/tiny\n" in card
        assert '"me/tiny", config=config, ignore_mismatched_sizes=True, dtype=torch.float32, revision="v1"' in card
        assert Predictor.of(run.path).decide(found.prepared.material.examples["test"])[0].logits == pytest.approx(
            logits_of(run), abs=1e-6
        )
    assert before.prepared.base.fingerprint != found.prepared.base.fingerprint


# --- students -----------------------------------------------------------------------------------------------------


class Heard(Observer):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.phases: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def phase(self, name: str, total: int | None, unit: str, done: int = 0) -> None:
        self.phases.append(name)


def distilled(teacher: Run | Path, **fields: Any) -> Given:
    path = teacher.path if isinstance(teacher, Run) else teacher
    return {"kind": "distill", "teacher": str(path), **fields}


@pytest.fixture(scope="module")
def teachers(tiny_base, tmp_path_factory) -> dict[str, Trained]:
    """Finished runs of four blocks, of every kind of artefact."""
    base = tiny_base("bert", num_hidden_layers=4, **LIVELY)
    kinds = {
        "full": (FULL, {}),
        "lora": (LORA, {}),
        "qlora": (QLORA, {}),
        "pooled": (FULL, {"pooling": "mean"}),
        "pooled lora": (LORA, {"pooling": "mean"}),
    }
    return {
        name: train(
            recipe(base, {**strategy, "head_init": "random"}, task=task, train=SHORT),
            ROWS,
            tmp_path_factory.mktemp("teacher-"),
        )
        for name, (strategy, task) in kinds.items()
    }


def training(prepared: Prepared, folder: Path, observer: Observer | None = None) -> Encoded:
    """What a student trains on."""
    accelerator = Accelerator(cpu=True)
    return execute._training(prepared, accelerator, Run(folder), Ledger(), observer or Observer())


@pytest.fixture(scope="module")
def students(teachers, tmp_path_factory) -> dict[str, Trained]:
    """A student of each teacher, with half of its blocks."""
    return {
        f"student of {name}": train(
            recipe(teacher.prepared.base.location, distilled(teacher.run)), ROWS, tmp_path_factory.mktemp("student-")
        )
        for name, teacher in teachers.items()
        if name in ("full", "lora", "pooled lora")
    }


@pytest.mark.parametrize("name", ["full", "lora", "pooled lora"])
def test_a_student_is_every_second_block_of_its_teacher(teachers, students, name):
    teacher, found = teachers[name], students[f"student of {name}"]
    whole: Any = artifact.load(teacher.run.artifact)
    there = weights(whole.merge_and_unload() if "lora" in name else whole)
    backbone = found.prepared.anatomy.backbone
    assert len(found.prepared.anatomy.blocks) == 2
    for parameter, value in found.before.items():
        source = parameter.replace(f"{backbone}.encoder.layer.1.", f"{backbone}.encoder.layer.3.")
        assert torch.allclose(value, there[source], atol=1e-7), parameter
    assert stages_of(found.run) == ["fit"], "its head is the teacher's"
    assert found.run.read("env.json")["model"]["teacher"]["name"] == str(teacher.run.path)
    assert [line for line in found.run.log() if line["kind"] == "update"]


def test_a_student_of_the_base_has_a_new_head(teachers, tmp_path):
    teacher = teachers["full"]
    base = teacher.prepared.base.location
    found = train(recipe(base, distilled(teacher.run, student={"weights": "base"})), ROWS, tmp_path)
    assert stages_of(found.run) == ["probe", "fit"]
    assert len(found.prepared.anatomy.blocks) == 2
    there = AutoModel.from_pretrained(base).state_dict()
    assert torch.equal(
        found.before["bert.encoder.layer.1.output.dense.weight"], there["encoder.layer.3.output.dense.weight"]
    )


def test_a_student_of_random_weights_has_the_shape_that_is_given(teachers, tmp_path):
    teacher = teachers["full"]
    given = recipe(
        teacher.prepared.base.location,
        distilled(teacher.run, student={"weights": "random", "every": 1}),
        model={"config": {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}},
    )
    found = train(given, ROWS, tmp_path)
    assert stages_of(found.run) == ["fit"]
    assert len(found.prepared.anatomy.blocks) == 1
    assert found.before["classifier.weight"].shape == (2, 16)
    assert {len(line) for line in found.run.predictions()["logits"]} == {2}


@pytest.mark.parametrize("name", ["full", "lora", "qlora", "pooled", "pooled lora"])
@pytest.mark.parametrize("task", [{}, REVERSED], ids=["same order", "another order"])
def test_a_teacher_speaks_in_the_order_of_the_tasks_labels(teachers, name, task, tmp_path):
    teacher = teachers[name]
    given = recipe(teacher.prepared.base.location, distilled(teacher.run, student={"weights": "base"}), task=task)
    prepared = prepared_for(given, ROWS)
    said = training(prepared, tmp_path).teacher
    model = artifact.load(teacher.run.artifact)
    columns = ["negative", "positive"]
    expected = scoring.logits(model, teacher.prepared.encoded["train"], 64)
    order = [columns.index(label) for label in prepared.material.labels.names]
    assert order == ([1, 0] if task else [0, 1])
    assert prepared.material.examples["train"].texts == teacher.prepared.material.examples["train"].texts
    assert said == pytest.approx(expected[:, order], abs=1e-6)


def test_a_head_of_a_teacher_with_labels_in_another_order_is_new(teachers):
    prepared = prepared_for(
        recipe(teachers["full"].prepared.base.location, distilled(teachers["full"].run), task=REVERSED), ROWS
    )
    assert prepared.anatomy.head_is_fresh
    assert [stage.kind for stage in prepared.plan.stages] == ["solve", "fit"]


def test_outputs_are_computed_once(teachers, tmp_path):
    teacher = teachers["lora"]
    outputs = teacher.run.path / "outputs"
    shutil.rmtree(outputs, ignore_errors=True)
    base = teacher.prepared.base.location
    heard = []
    for name, temperature in (("first", 2.0), ("second", 4.0)):
        heard.append(Heard())
        given = recipe(base, distilled(teacher.run, temperature=temperature), name)
        execute.train(given, data=memory(ROWS), runs=tmp_path, observer=heard[-1])
    assert "teacher" in heard[0].phases
    assert not [note for note in heard[0].notes if "outputs are read" in note]
    (file,) = outputs.iterdir()
    assert "teacher" not in heard[1].phases
    assert f"the teacher's outputs are read from {file}" in heard[1].notes


@pytest.mark.parametrize(
    ("path", "value"), [("task.long_texts", "windows"), ("train.precision", "bf16"), ("evaluate.batch_size", 3)]
)
def test_outputs_that_were_computed_otherwise_are_not_taken(teachers, tmp_path, path, value):
    teacher = teachers["full"]
    outputs = teacher.run.path / "outputs"
    shutil.rmtree(outputs, ignore_errors=True)
    given = recipe(teacher.prepared.base.location, distilled(teacher.run))
    execute.train(given, {"name": "first"}, data=memory(ROWS), runs=tmp_path)
    execute.train(given, {"name": "second", path: value}, data=memory(ROWS), runs=tmp_path)
    assert len(list(outputs.iterdir())) == 2


def test_outputs_of_another_teacher_are_not_taken(teachers, tmp_path):
    """Two adapters over one base have their own outputs, and so have other texts."""
    said = []
    for name in ("lora", "qlora"):
        given = recipe(
            teachers[name].prepared.base.location, distilled(teachers[name].run, student={"weights": "base"})
        )
        prepared = prepared_for(given, ROWS)
        said.append(training(prepared, tmp_path).teacher)
        assert prepared.teacher is not None
    assert not np.allclose(said[0], said[1])


def test_a_teacher_from_elsewhere_leaves_its_outputs_in_the_run(teachers, tmp_path):
    shutil.copytree(teachers["full"].run.artifact, tmp_path / "somewhere")
    given = recipe(
        teachers["full"].prepared.base.location, distilled(tmp_path / "somewhere", student={"weights": "base"})
    )
    training(prepared_for(given, ROWS), tmp_path / "run")
    (file,) = (tmp_path / "run").iterdir()
    assert file.suffix == ".safetensors"
    assert {entry.name for entry in tmp_path.iterdir()} == {"somewhere", "run"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (GOOD, "does not know 'bad'"),
        (THREE, "does not know 'neutral'"),
    ],
)
def test_a_teacher_of_other_labels_is_refused(teachers, rows, message):
    teacher = teachers["full"]
    with pytest.raises(UsageError) as error:
        prepared_for(recipe(teacher.prepared.base.location, distilled(teacher.run, student={"weights": "base"})), rows)
    path, told, _ = problem_of(error)
    assert path == "strategy.teacher"
    assert message in told


def test_a_teacher_of_more_labels_is_refused(chain):
    teacher = chain["full"]
    with pytest.raises(UsageError) as error:
        prepared_for(recipe(chain["scratch"].run.path, distilled(teacher.run, student={"weights": "base"})), ROWS)
    path, told, hint = problem_of(error)
    assert path == "strategy.teacher"
    assert "has 3 labels, the data 2" in told
    assert hint == "Teacher and student need the same labels"


def test_what_is_no_teacher(asked, teachers, tiny_base):
    base = str(tiny_base("bert", **LIVELY))
    own = {"student": {"weights": "base"}}
    Path("runs/y").mkdir(parents=True)
    Path("runs/y/status.json").write_text(json.dumps({"state": "failed", "reason": None}), "utf-8")
    for teacher, message in {
        "arm:full": "'arm:full' names an arm, and arms are of comparisons. Name a run",
        "runs/y": "the run runs/y is failed, not done",
        "./gone": "no such folder: ./gone",
        base: f"{base} does not say what its outputs are. Name a model for the same task",
    }.items():
        (told,) = asked(base, {"kind": "distill", "teacher": teacher, **own})
        assert told.startswith(f"mine.yaml:10: strategy.teacher: {message}")


@pytest.mark.parametrize("teacher", ["./gone", "runs/y", "arm:full"])
def test_what_is_no_teacher_is_no_base_of_its_student_either(asked, teacher, tiny_base):
    Path("runs/y").mkdir(parents=True)
    Path("runs/y/status.json").write_text(json.dumps({"state": "failed", "reason": None}), "utf-8")
    (told,) = asked(str(tiny_base("bert", **LIVELY)), {"kind": "distill", "teacher": teacher})
    assert told.startswith("mine.yaml:10: strategy.teacher: ")


# --- texts without labels -----------------------------------------------------------------------------------------


@pytest.fixture
def unlabelled(tmp_path) -> Path:
    return tiny.write_csv(tmp_path / "more.csv", [{"text": row["text"]} for row in tiny.reviews(24, seed=7)])


def student_of(teacher: Trained, unlabelled: Path, **fields: Any) -> Prepared:
    strategy = distilled(
        teacher.run, student={"weights": "base"}, head_init="random", unlabelled=str(unlabelled), **fields
    )
    given = recipe(teacher.prepared.base.location, strategy, train={"epochs": 1, "batch_size": 8})
    return prepared_for(given, ROWS)


def test_the_loss_of_a_mixed_batch_is_what_is_written_down(teachers, unlabelled, tmp_path):
    """T²·alpha·KL + (1 - alpha)·cross-entropy where there is a label, T²·KL where there is none."""
    prepared = student_of(teachers["full"], unlabelled, temperature=3.0, alpha=0.7)
    data = training(prepared, tmp_path)
    assert prepared.teacher is not None
    count = len(prepared.encoded["train"])
    assert (len(data), data.labelled.sum()) == (count + 24, count)
    assert data.teacher.shape == (count + 24, 2)
    rows = np.array([0, 1, 2, count, count + 5])
    batch = collate(data, rows)
    logits = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = float(fitting.sum_loss(prepared, torch.device("cpu"))(logits, batch))
    expected, targets = 0.0, prepared.encoded["train"].targets
    for place, row in enumerate(rows):
        soft = np.exp(data.teacher[row].astype(np.float64) / 3.0)
        soft /= soft.sum()
        said = logits[place].numpy()
        log = said / 3.0 - np.log(np.exp(said / 3.0).sum())
        divergence = 9.0 * float((soft * (np.log(soft) - log)).sum())
        if row < count:
            entropy = -(said - np.log(np.exp(said).sum()))[targets[row]]
            expected += 0.7 * divergence + 0.3 * float(entropy)
        else:
            expected += divergence
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_loss_of_an_update_is_a_mean_over_all_its_texts(teachers, unlabelled, tmp_path):
    prepared = student_of(teachers["full"], unlabelled)
    data = training(prepared, tmp_path)
    taught = with_training(prepared, data)
    _, (first, *_) = fitted(taught, micro=8)
    rows = schedule(taught.recipe, taught.plan, data, fit_of(taught))[0].rows
    assert 0 < data.labelled[rows].sum() < len(rows), "a mixed batch"
    batch = collate(data, rows)
    model = built(taught, torch.float64).train()
    loss = fitting.sum_loss(taught, torch.device("cpu"))(model(**batch.inputs).logits, batch)
    assert first == pytest.approx(float(loss.detach()) / len(rows), rel=1e-9)


def with_training(prepared: Prepared, data: Encoded) -> Prepared:
    return replace(prepared, encoded={**prepared.encoded, "train": data})


@pytest.mark.parametrize("alpha", [0.7, 1.0])
def test_micro_batches_do_not_matter(teachers, unlabelled, tmp_path, alpha):
    prepared = student_of(teachers["full"], unlabelled, alpha=alpha)
    taught = with_training(prepared, training(prepared, tmp_path))
    whole, _ = fitted(taught, micro=8)
    parts, _ = fitted(taught, micro=3)
    assert largest_difference(whole, parts) < 1e-10


def test_a_student_trains_on_texts_without_labels(teachers, unlabelled, tmp_path):
    teacher = teachers["full"]
    strategy = distilled(teacher.run, unlabelled=str(unlabelled))
    found = train(recipe(teacher.prepared.base.location, strategy), ROWS, tmp_path)
    updates = [line for line in found.run.log() if line["kind"] == "update"]
    assert updates[-1]["update"] == 2 * -(-(found.prepared.material.rows["train"] + 24) // 8)


def test_texts_that_cannot_be_read(asked, teachers):
    teacher = teachers["full"]
    base = teacher.prepared.base.location
    tiny.write_csv("other.csv", [{"body": "x"}])
    for file, message in {
        "gone.csv": "there is no file or folder gone.csv",
        "other.csv": "no column 'text' for the role text",
    }.items():
        (told,) = asked(base, {"kind": "distill", "teacher": str(teacher.run.path), "unlabelled": file})
        assert told.startswith(f"mine.yaml:11: strategy.unlabelled: {message}")


# --- elsewhere ----------------------------------------------------------------------------------------------------

CARDS = [
    *("scratch", "full", "lora", "pooled", "pooled lora", "lora, pooled"),
    *("lora again", "pooled again", "qlora again", "lora a third time", "lora merged", "qlora merged"),
    *("student of full", "student of lora", "student of pooled lora"),
]


@pytest.fixture(scope="module")
def ends(chain, later, students) -> dict[str, Trained]:
    return {**chain, **later, **students}


@pytest.fixture(scope="module")
def told(ends, user) -> dict[str, dict[str, Any]]:
    return {
        name: user.run(elsewhere.program(found.run, found.prepared.base.location, texts_of(found)))
        for name, found in ends.items()
    }


def texts_of(found: Trained) -> list[str]:
    return list(found.prepared.material.examples["test"].texts)


@pytest.mark.parametrize("name", CARDS)
def test_the_lines_of_its_card_work_without_hfstrat(ends, told, name):
    assert ends.keys() == set(CARDS)
    assert told[name]["logits"] == pytest.approx(logits_of(ends[name].run), abs=1e-5)
    assert told[name]["labels"] == list(ends[name].run.predictions()["prediction"])


def test_there_are_all_four_kinds(ends):
    kinds = {artifact.case_of(found.run.artifact) for found in ends.values()}
    assert kinds == {"native", "native-adapter", "pooled", "pooled-adapter"}
