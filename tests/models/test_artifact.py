"""What is saved is what was trained, and anybody can load it without hfstrat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hfstrat import execute
from hfstrat.errors import RunError
from hfstrat.models import artifact
from hfstrat.models.anatomy import named_parameters
from hfstrat.outputs import apart
from hfstrat.runs.directory import Run
from hfstrat.training import scoring
from tests import elsewhere, tiny
from tests.training.helpers import FAMILIES, LIVELY, Trained, memory, recipe, train

ROWS = tiny.reviews(40)
SCORED = [{"text": row["text"], "label": float(len(row["text"])) / 50} for row in ROWS]
PAIRS = [
    {**row, "text_pair": ROWS[place - 1]["text"], "label": [["a"], ["a", "b"], ["b"], []][place % 4]}
    for place, row in enumerate(ROWS)
]
AUTO = {"metrics": "auto"}
NATIVE = [(family, strategy, {}) for family in FAMILIES for strategy in ("head", "full-probe", "lora")]
POOLED: list[tuple[str, str, dict[str, Any]]] = [
    (family, strategy, {"pooling": pooling})
    for family, pooling in (("bert", "mean"), ("llama", "mean"))
    for strategy in ("head", "full-probe", "lora")
]
CASES = NATIVE + POOLED

# Whatever else the card's lines depend on, each with the strategy that makes it hardest.
SPECIAL: dict[str, tuple[str, str, dict[str, Any], list[dict[str, Any]], dict[str, Any]]] = {
    "windows": ("bert", "lora", {"long_texts": "windows", "max_length": 12, "stride": 4}, ROWS, {}),
    "pairs and several labels": ("roberta", "lora", {}, PAIRS, {"columns": {"text_pair": "text_pair"}}),
    "numbers": ("gpt2", "full-probe", {"pooling": "last"}, SCORED, {}),
    "first token, length one": ("modernbert", "lora", {"pooling": "cls", "normalize": True}, ROWS, {}),
}


@pytest.fixture(scope="module")
def runs(trained, tiny_base, tmp_path_factory) -> dict[str, Trained]:
    """A run of every kind of artefact, by name."""
    found = {" ".join(map(str, case)): trained(case[0], case[1], **case[2]) for case in CASES}
    for name, (family, strategy, task, rows, data) in SPECIAL.items():
        given = recipe(tiny_base(family, **LIVELY), strategy, task=task, data=data, evaluate=AUTO)
        found[name] = train(given, rows, tmp_path_factory.mktemp("special-"))
    no_pooler = recipe(tiny_base("bert", pooler=False, **LIVELY), "lora")
    found["no pooler"] = train(no_pooler, ROWS, tmp_path_factory.mktemp("special-"))
    wider = recipe(with_classifier(tmp_path_factory.mktemp("wider-")), "lora")
    found["another head"] = train(wider, ROWS, tmp_path_factory.mktemp("special-"))
    return found


def with_classifier(folder: Path) -> Path:
    """A base that is a classifier of five classes already."""
    from transformers import AutoModelForSequenceClassification

    tiny.base("distilbert", folder, **LIVELY)
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=5).save_pretrained(folder)
    return folder


NAMES = [*(" ".join(map(str, case)) for case in CASES), *SPECIAL, "no pooler", "another head"]


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_again_it_says_the_same(runs, name):
    found = runs[name]
    loaded = artifact.load(found.run.artifact, found.prepared.base.location)
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    assert not any(module.training for module in loaded.modules())
    stored = dict(named_parameters(loaded))
    for parameter, value in named_parameters(found.model):
        assert torch.equal(stored[parameter], value), parameter
    data = found.prepared.encoded["test"]
    here, there = (scoring.logits(model, data, 64) for model in (found.model, loaded))
    assert here == pytest.approx(there, abs=1e-6)
    assert here.std(axis=0).min() > 2e-3, "logits that are all alike would show nothing"
    sealed = np.array(found.run.predictions()["logits"].tolist())
    assert sealed == pytest.approx(there, abs=1e-6)


@pytest.fixture(scope="module")
def told(runs, user) -> dict[str, dict[str, Any]]:
    """Logits and labels of the test rows, from the cards' lines in a process without hfstrat."""
    return {name: user.run(program(found)) for name, found in runs.items()}


def program(found: Trained) -> str:
    """The lines of a card, on the run's own texts."""
    examples = found.prepared.material.examples["test"]
    return elsewhere.program(found.run, found.prepared.base.location, examples.texts, examples.pairs or ())


@pytest.mark.parametrize("name", NAMES)
def test_the_lines_of_its_card_say_the_same_without_hfstrat(runs, told, name):
    predictions = runs[name].run.predictions()
    assert told[name]["logits"] == pytest.approx(np.array(predictions["logits"].tolist()), abs=1e-4)
    labels = told[name]["labels"]
    if name == "numbers":
        assert [number for row in labels for number in row.values()] == pytest.approx(
            list(predictions["prediction"]), abs=1e-4
        )
    else:
        assert labels == [
            list(prediction) if isinstance(prediction, np.ndarray) else prediction
            for prediction in predictions["prediction"]
        ]


def test_there_are_all_four_kinds(runs):
    kinds = {artifact.case_of(found.run.artifact) for found in runs.values()}
    assert kinds == {"native", "native-adapter", "pooled", "pooled-adapter"}


def test_an_adapter_stores_what_trained_and_no_more(runs):
    for name, found in runs.items():
        stored, _ = artifact.weights_of(found.run.artifact)
        plan = found.run.read("plan.json")["parameters"]
        assert stored == plan["stored"]
        adapter = found.prepared.plan.adapter is not None
        assert stored == plan["trainable" if adapter else "total"], name


def test_a_fresh_pooler_trains_and_goes_with_the_adapter(runs):
    """PEFT by itself would leave it random, frozen and unsaved."""
    found = runs["no pooler"]
    assert found.prepared.anatomy.head == ("bert.pooler.dense", "classifier")
    assert not torch.equal(found.after["bert.pooler.dense.weight"], found.before["bert.pooler.dense.weight"])


def test_a_head_of_another_width_is_replaced(runs):
    found = runs["another head"]
    assert found.before["classifier.weight"].shape == (2, 32)
    assert {"pre_classifier", "classifier"} == set(found.prepared.anatomy.head)


def test_a_run_says_how_near_what_it_saved_is_to_what_it_trained(runs):
    for name, found in runs.items():
        reproduced = found.run.metrics["reproduced"]
        assert reproduced["examples"] == min(32, found.run.metrics["n"]), name
        assert reproduced["difference"] <= 1e-6, name
        assert "at most" in (found.run.artifact / "README.md").read_text("utf-8")


def test_what_does_not_say_what_was_trained_is_no_finished_run(tiny_base, tmp_path, monkeypatch):
    save = artifact.save

    def worse(model, *words):
        save(model, *words)
        file = words[1] / "model.safetensors"
        tensors = load_file(file)
        tensors["classifier.weight"] += 0.1 * torch.randn(tensors["classifier.weight"].shape)
        save_file(tensors, file, {"format": "pt"})

    monkeypatch.setattr(artifact, "save", worse)
    given = recipe(tiny_base("bert", **LIVELY), "full-random", train={"checkpoint_every": 3})
    with pytest.raises(RunError, match="does not say what was trained"):
        execute.train(given, data=memory(ROWS), runs=tmp_path)
    run = Run(tmp_path / "run")
    assert run.status == "failed"
    assert not (run.path / "metrics.json").exists()
    monkeypatch.undo()
    again = execute.train(given, data=memory(ROWS), runs=tmp_path, resume=True)
    assert again.metrics["reproduced"]["difference"] <= 1e-6


def test_the_largest_difference_is_by_the_largest_output():
    before = torch.tensor([1.0, -4.0, float("nan")])
    assert apart(before, before) == 0.0
    assert apart(before, torch.tensor([2.0, -4.0, 7.0])) == 0.25
    assert apart(before, torch.tensor([float("nan"), -4.0, 0.0])) == float("inf")


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_that_computes_in_bfloat16_is_no_failure(bits, tiny_base, tmp_path):
    given = recipe(tiny_base("bert", **LIVELY), {"kind": "qlora", "r": 4, "bits": bits}, train={"precision": "bf16"})
    run = execute.train(given, data=memory(ROWS), runs=tmp_path)
    assert run.metrics["reproduced"]["difference"] <= 5e-2
