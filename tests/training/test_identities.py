"""Identities of design.md §8 in one process: what moves, what does not, and what does not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from hfstrat import fitting
from hfstrat.data.batching import collate, evaluation_batches, share
from hfstrat.strategies.plan import ADAPTER, matches
from hfstrat.training import scoring
from hfstrat.training.engine import logits_of
from tests import tiny
from tests.training.helpers import (
    FAMILIES,
    LIVELY,
    STRATEGIES,
    fitted,
    largest_difference,
    prepared_for,
    recipe,
    sha256,
    train,
    weights,
)

ROWS = tiny.reviews(40)

# Softmax over keys does not change when all keys are shifted alike, so the gradient of a key's bias is nothing but
# rounding, and may be nothing at all.
NO_GRADIENT = ("*.key.bias", "*.k_lin.bias")


MORE_FAMILIES = ("distilbert", "modernbert", "llama", "t5", "deberta-v2")


# --- what moves ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_what_is_planned_moves(trained, family, strategy):
    """Among others, tables of positions and token types move as wholes though most rows are never used."""
    found = trained(family, strategy)
    planned = found.prepared.plan.trained
    added = found.prepared.added.trains if ADAPTER in planned else frozenset()
    moved = {name for name, value in found.after.items() if not torch.equal(value, found.before[name])}
    expected = {name for name in found.before if matches(name, planned) or name in added}
    exempt = {name for name in expected if matches(name, NO_GRADIENT) and strategy.startswith("full")}
    assert moved - exempt == expected - exempt
    assert expected
    if found.prepared.plan.adapter is not None:
        body = {
            name
            for name in found.prepared.anatomy.parameters
            if not matches(name, found.prepared.anatomy.head_patterns)
        }
        assert not moved & body
        assert len([name for name in moved if ".lora_B." in name]) == len(found.prepared.anatomy.linear)
    if strategy == "dora":
        assert any("lora_magnitude_vector" in name for name in moved)
    if strategy == "full-random":
        assert expected == set(found.before)


def test_a_state_before_the_last_stage_comes_back_whole(tiny_base, tmp_path):
    """Whatever a Fit does to the body, its probe is the best state here, and the body has to be the probe's again."""
    given = recipe(tiny_base("llama"), "full-probe", train={"lr": 5.0, "clip": None, "warmup": 0.0})
    rows = tiny.reviews(160)
    found = train(given, rows, tmp_path)
    scores = [line for line in found.run.log() if line["kind"] == "score"]
    probe, *fit = (line["metrics"]["accuracy"] for line in scores)
    assert probe > max(fit), "this learning rate was meant to ruin the model"
    assert found.run.read("status.json")["reason"] == "best at probe, update 0"
    output = str(found.prepared.anatomy.output)
    for name, value in weights(found.model).items():
        assert matches(name, (f"{output}.*",)) != torch.equal(value, found.before[name]), name
    data = found.prepared.encoded["validation"]
    judge_score = (scoring.logits(found.model, data, 64).argmax(1) == data.targets).mean()
    assert judge_score == pytest.approx(probe)


# --- what does not matter -----------------------------------------------------------------------------------------

WINDOWS = {"long_texts": "windows", "max_length": 12, "stride": 4}
WEIGHTED = {"class_weights": {"negative": 3.0, "positive": 0.7}}


@pytest.mark.parametrize(
    ("family", "strategy", "task"),
    [
        ("bert", "full-random", WEIGHTED),
        ("bert", "lora", WINDOWS),
        ("bert", "dora", {}),
        ("distilbert", "full-random", WINDOWS),
        ("roberta", "full-random", {}),
        ("modernbert", "full-random", WEIGHTED),
        ("gpt2", "rslora", WEIGHTED),
        ("llama", "full-random", {"pooling": "mean", "normalize": True}),
    ],
    ids=str,
)
def test_micro_batches_do_not_matter(tiny_base, family, strategy, task):
    """Fifty updates of AdamW; the size does not divide the batch, and batches of another shape pad differently."""
    given = recipe(tiny_base(family), strategy, task=task, train={"max_steps": 50, "batch_size": 7})
    prepared = prepared_for(given, ROWS)
    whole, _ = fitted(prepared, micro=7)
    parts, _ = fitted(prepared, micro=4)
    assert largest_difference(whole, parts) < 1e-10
    few = prepared_for(recipe(tiny_base(family), strategy, task=task, train={"batch_size": 7}), ROWS)
    _, losses = fitted(few, micro=7, dtype=torch.float32)
    assert fitted(few, micro=4, dtype=torch.float32)[1] == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("family", ["bert", pytest.param("t5", marks=pytest.mark.slow)])
def test_passes_of_little_padding_do_not_matter(tiny_base, tmp_path, family):
    """Fifty updates of AdamW, and what the model says about each text in the end."""
    found = {}
    for padding in (None, 3):
        settings = {"max_steps": 50, "padding": padding}
        given = recipe(tiny_base(family), "full-random", name=f"padding-{padding}".lower(), train=settings)
        found[padding] = train(given, ROWS, tmp_path, dtype=torch.float64)
    assert largest_difference(found[None].after, found[3].after) < 1e-10
    notes = [one.prepared.encoded["train"].padding for one in found.values()]
    assert notes == [None, 3]
    few = [[*evaluation_batches(one.prepared.encoded["validation"], 64)] for one in found.values()]
    assert len(few[0]) < len(few[1]), "there was something to part"


@pytest.mark.parametrize("family", ["bert", pytest.param("t5", marks=pytest.mark.slow)])
def test_weights_rounded_once_for_all_batches_say_the_same_bits(tiny_base, tmp_path, family):
    found = train(recipe(tiny_base(family), "full-random", train={"precision": "bf16"}), ROWS, tmp_path)
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    model, data = found.model, found.prepared.encoded["validation"]
    model.requires_grad_(False)
    once = scoring.logits(model, data, 2, accelerator)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    each = np.full_like(once, np.nan)
    with scoring.evaluating(model), torch.inference_mode():
        for batch in evaluation_batches(data, 2):
            with accelerator.autocast():
                each[batch.units] = logits_of(model, batch, accelerator.device).float().numpy()
    assert np.array_equal(once, each)


def test_a_batch_that_only_keeps_processes_in_step_contributes_nothing(tiny_base, monkeypatch):
    prepared = prepared_for(recipe(tiny_base("bert"), "full-random"), ROWS)
    alone, losses = fitted(prepared, micro=8, dtype=torch.float32)

    def padded(data, rows, *words):
        return [*share(data, rows, *words), collate(data, rows[:3], scale=0.0)]

    monkeypatch.setattr(fitting, "share", padded)
    beside, again = fitted(prepared, micro=8, dtype=torch.float32)
    assert losses == again
    assert largest_difference(alone, beside) == 0.0


@pytest.mark.parametrize(("strategy", "precision"), [("full-probe", "fp32"), ("lora", "bf16")])
def test_the_measuring_pass_leaves_no_trace(tiny_base, tmp_path, monkeypatch, strategy, precision):
    given = recipe(
        tiny_base("bert"),
        strategy,
        model={"dropout": 0.1},
        train={"precision": precision, "weight_decay": 0.1, "batch_size": 10},
    )
    measured = train(given, ROWS, tmp_path / "measured")
    monkeypatch.setattr(fitting, "_live_of_updates", lambda *_: 0)
    unmeasured = train(given, ROWS, tmp_path / "unmeasured")
    assert measured.run.ledger["phases"]["train"]["peak_live_bytes"] > 0
    assert unmeasured.run.ledger["phases"]["train"]["peak_live_bytes"] == 0
    assert sha256(measured.run) == sha256(unmeasured.run)
    for name, value in measured.after.items():
        assert torch.equal(value, unmeasured.after[name]), name


@pytest.mark.parametrize(
    "family", ["bert", "gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_FAMILIES)]
)
def test_frozen_weights_that_are_held_in_bf16_give_the_same_bits(tiny_base, tmp_path, family):
    found = {}
    for held in (True, False):
        settings = {"precision": "bf16", "hold_bf16": held, "max_steps": 10}
        given = recipe(tiny_base(family, **LIVELY), "rslora", name=f"held-{held}".lower(), train=settings)
        found[held] = train(given, ROWS, tmp_path)
    frozen = {name for name, value in found[True].before.items() if value.dtype == torch.bfloat16}
    assert len(frozen) >= len(found[True].prepared.anatomy.linear)
    assert all(value.dtype == torch.float32 for value in found[False].before.values())
    assert found[True].run.log() == found[False].run.log()
    assert sha256(found[True].run) == sha256(found[False].run)


@pytest.mark.parametrize(
    "family",
    ["bert", "gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_FAMILIES)],
)
def test_fused_lora_trains_the_same_weights(tiny_base, tmp_path, family):
    """Fifty updates of AdamW in float64; fewer roundings in bf16 are another matter."""
    found = {}
    for fused in (True, False):
        settings = {"fused_lora": fused, "max_steps": 50}
        strategy = {"kind": "lora", "head_init": "random"}
        given = recipe(tiny_base(family, **LIVELY), strategy, name=f"fused-{fused}".lower(), train=settings)
        found[fused] = train(given, ROWS, tmp_path, dtype=torch.float64)
    assert largest_difference(found[True].after, found[False].after) < 1e-10
    assert largest_difference(found[True].before, found[True].after) > 1e-4
