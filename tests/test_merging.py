"""Merging: a whole model that says what its adapter said, or the weighted sum of several."""

from __future__ import annotations

import json
import typing

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import hfstrat as hf
from hfstrat import cli, execute, merging
from hfstrat.errors import ModelError, RunError, UsageError
from hfstrat.models import artifact
from tests import elsewhere, tiny
from tests.training.helpers import LIVELY, memory, recipe

ROWS = tiny.reviews(60)
LORA = {"kind": "lora", "r": 4, "head_init": "random"}


def trained(base, runs, strategy=LORA, name="adapter", rows=ROWS, **settings):
    given = recipe(base, strategy, name, **settings)
    given["train"] = {**given["train"], "epochs": 3, "lr": 5e-3}
    return execute.train(given, data=memory(rows), runs=runs)


def merged(runs, output=None, **settings):
    return hf.merge(runs, output, memory=memory(ROWS), quiet=True, **settings)


@pytest.mark.parametrize(
    ("strategy", "task"),
    [
        (LORA, {}),
        ({**LORA, "variant": "dora"}, {}),
        (LORA, {"pooling": "mean"}),
        ({"kind": "peft", "method": "IA3"}, {}),
        ({"kind": "qlora", "r": 4}, {}),
    ],
    ids=str,
)
def test_a_merged_model_says_what_the_adapter_said(strategy, task, tiny_base, tmp_path, user):
    base = tiny_base("bert", **LIVELY)
    run = trained(base, tmp_path, strategy, task=task)
    found = merged(run)
    assert found.run.path == tmp_path / "adapter-merged"
    assert found.difference <= found.tolerance
    assert artifact.case_of(found.run.artifact) == ("pooled" if task else "native")
    assert not list(found.run.artifact.glob("adapter*"))
    ours, theirs = run.predictions(), found.run.predictions()
    assert list(ours["prediction"]) == list(theirs["prediction"])
    assert found.after.keys() == run.metrics["metrics"].keys()
    said = json.loads((found.run.path / "merge.json").read_text())
    assert said["from"] == ["adapter"]
    texts = [row["text"] for row in ROWS[:4]]
    expected = [one["prediction"] for one in hf.predict(run, texts)]
    assert [one["prediction"] for one in hf.predict(found.run, texts)] == expected
    if not task:
        model = AutoModelForSequenceClassification.from_pretrained(found.run.artifact)
        assert sum(one.numel() for one in model.parameters()) == found.run.read("plan.json")["parameters"]["stored"]
    answer = user.run(elsewhere.program(hf.open_run(found.run.path), base, texts))
    assert answer["labels"] == expected, "the card's own lines load it without hfstrat and without peft"


def test_it_is_a_base_for_other_runs(tiny_base, tmp_path):
    found = merged(trained(tiny_base("bert", **LIVELY), tmp_path))
    again = trained(found.run.path, tmp_path, {"kind": "full"}, "again")
    assert again.status == "done"


def test_the_sum_of_several_adapters_is_the_weighted_sum_of_what_they_change(tiny_base, tmp_path):
    base = tiny_base("bert", **LIVELY)
    runs = [trained(base, tmp_path, name=name, seed=seed) for seed, name in enumerate(("first", "second"))]
    found = merged(runs, tmp_path / "both", weights=[0.7, 0.3])
    assert found.difference is None
    assert set(found.before) == {"first", "second"}
    single = [artifact.load(merged(run).run.artifact) for run in runs]
    both, plain = artifact.load(found.run.artifact), AutoModelForSequenceClassification.from_pretrained(base)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    start, *parts = (model.get_parameter(name) for model in (plain, *single))
    changed = 0.7 * (parts[0] - start) + 0.3 * (parts[1] - start)
    assert changed.abs().max() > 1e-3
    torch.testing.assert_close(both.get_parameter(name) - start, changed, atol=1e-6, rtol=0)
    heads = [model.classifier.weight for model in single]
    torch.testing.assert_close(both.classifier.weight, 0.7 * heads[0] + 0.3 * heads[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "how", ["linear", *(pytest.param(how, marks=pytest.mark.slow) for how in ("ties", "dare_linear", "dare_ties"))]
)
def test_other_ways_to_combine(how, tiny_base, tmp_path):
    base = tiny_base("bert", **LIVELY)
    runs = [trained(base, tmp_path, name=name, seed=seed) for seed, name in enumerate(("first", "second"))]
    found = merged(runs, tmp_path / "both", how=how, density=0.6)
    assert found.run.status == "done"
    again = merged(runs, tmp_path / "again", how=how, density=0.6)
    pairs = zip(found.run.predictions()["logits"], again.run.predictions()["logits"], strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs), "what is dropped is the same each time"


def test_in_bf16_it_is_half_as_large(tiny_base, tmp_path):
    run = trained(tiny_base("bert", **LIVELY), tmp_path)
    whole, half = merged(run), merged(run, tmp_path / "half", dtype="bf16")
    assert half.tolerance == merging.COARSE_TOLERANCE
    sizes = [(one.run.artifact / "model.safetensors").stat().st_size for one in (whole, half)]
    assert sizes[1] < 0.55 * sizes[0]


def test_what_differs_too_much_is_refused_and_leaves_nothing(tiny_base, tmp_path):
    run = trained(tiny_base("bert", **LIVELY), tmp_path)
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    with pytest.raises(RunError, match=r"differs from the adapter by .* more than 1e-09: nothing was written"):
        merged(run, tmp_path / "new", dtype="bf16", tolerance=1e-9)
    assert not (tmp_path / "new").exists()
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before


def test_what_cannot_be_merged_is_said(tiny_base, tmp_path):
    base = tiny_base("bert")
    whole = trained(base, tmp_path, {"kind": "head"}, "whole")
    with pytest.raises(UsageError, match="holds a whole model"):
        merged(whole)
    prompts = trained(
        base, tmp_path, {"kind": "peft", "method": "PROMPT_TUNING", "options": {"num_virtual_tokens": 4}}, "p"
    )
    with pytest.raises(ModelError, match="PROMPT_TUNING cannot be merged"):
        merged(prompts)
    first = trained(base, tmp_path, name="first")
    other = trained(tiny_base("bert", num_hidden_layers=3), tmp_path, name="other")
    with pytest.raises(UsageError, match="base_model_name_or_path is"):
        merged([first, other], tmp_path / "new")
    with pytest.raises(UsageError, match="weights are of several runs"):
        merged(first, tmp_path / "new", weights=[0.5])
    merged(first)
    with pytest.raises(UsageError, match="holds another run"):
        merged(first)
    assert merged(first, overwrite=True).run.status == "done"


def test_the_command_line_knows_the_same_words():
    assert typing.get_args(cli.How) == typing.get_args(merging.How)
    assert typing.get_args(cli.Dtype) == typing.get_args(merging.Dtype)


def test_a_folder_that_is_nobodys_run_and_what_is_merged_are_never_cleared(tiny_base, tmp_path):
    run = trained(tiny_base("bert"), tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep this")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="is not empty and holds no run"):
            merged(run, tmp_path / "notes", overwrite=overwrite)
    with pytest.raises(UsageError, match="is merged, and cannot be where that goes"):
        merged(run, tmp_path / "notes" / ".." / "adapter", overwrite=True)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "keep this"
    assert (run.artifact / "adapter_model.safetensors").is_file()
