"""Losses over a vocabulary in chunks: what all tokens in one give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from hfstrat.data.batching import collate
from hfstrat.training import chunking, engine, scoring
from hfstrat.training.memory import LiveBytes
from tests import tiny
from tests.training import helpers

TEXTS = [{"text": row["text"]} for row in tiny.reviews(40)]
PAIRS = [{"source": row["text"], "target": row["text"][:20]} for row in tiny.reviews(40)]
CASES = {
    "bert": ("masked_lm", {"kind": "full"}),
    "gpt2": ("causal_lm", {"kind": "full"}),
    "llama": ("causal_lm", {"kind": "lora", "r": 4}),
    "llama-frozen-output": ("causal_lm", {"kind": "partial", "last_n": 1}),
    "t5": ("seq2seq", {"kind": "full"}),
    "bart": ("seq2seq", {"kind": "full"}),
}


@pytest.fixture
def in_chunks(monkeypatch):
    """Chunks of a few tokens, for each batch; how many there were."""
    seen: list[int] = []

    def watched(layer: Any, hidden: Any, *words: Any) -> Any:
        seen.append(len(hidden))
        return once(layer, hidden, *words)

    once = chunking.loss_in_chunks
    monkeypatch.setattr(chunking, "TOKENS", 7)
    monkeypatch.setattr(chunking, "_WHOLE", 0)
    monkeypatch.setattr(chunking, "loss_in_chunks", watched)
    return seen


def prepared_for(tiny_base: Any, case: str, **config: Any) -> Any:
    kind, strategy = CASES[case]
    rows = PAIRS if kind == "seq2seq" else TEXTS
    base = tiny_base(case.split("-")[0], **config)
    given = helpers.recipe(base, strategy, evaluate={"metrics": ["perplexity"]}, train={"epochs": 1})
    return helpers.prepared_for({**given, "task": {"kind": kind}}, rows)


@pytest.mark.parametrize("case", CASES)
def test_chunks_change_no_weight_beyond_rounding(tiny_base, case, request):
    prepared = prepared_for(tiny_base, case)
    whole, losses = helpers.fitted(prepared, 4)
    seen = request.getfixturevalue("in_chunks")
    parted, same = helpers.fitted(prepared, 4)
    assert max(seen, default=0) > 7, "there was something to part"
    assert np.allclose(losses, same, rtol=1e-9)
    before = helpers.weights(helpers.built(prepared, torch.float64))
    assert helpers.largest_difference(before, whole) > 1e-4, "something was learned"
    assert helpers.largest_difference(whole, parted) < 1e-6


@pytest.mark.parametrize("case", ["bert", "gpt2", "t5"])
def test_scores_in_chunks_are_those_of_all_at_once(tiny_base, case, request):
    prepared = prepared_for(tiny_base, case)
    model, task, data = helpers.built(prepared), prepared.recipe.task, prepared.encoded["validation"]
    whole = scoring.logits(model, data, 8, Accelerator(cpu=True), kept=task.kept)
    request.getfixturevalue("in_chunks")
    parted = scoring.logits(model, data, 8, Accelerator(cpu=True), kept=task.kept)
    np.testing.assert_allclose(parted[:, 0], whole[:, 0], rtol=1e-5, atol=1e-5)
    assert (parted[:, 1] == whole[:, 1]).mean() > 0.99, "the likeliest token, but for ties"


def test_a_model_that_bounds_its_logits_is_left_alone(tiny_base, in_chunks):
    prepared = prepared_for(tiny_base, "gpt2")
    model = helpers.built(prepared)
    inner = model.forward

    def bounded(*words: Any, **named: Any) -> Any:
        found = inner(*words, **named)
        found.logits = 5 * torch.tanh(found.logits / 5)
        return found

    model.forward = bounded
    batch = collate(prepared.encoded["train"], np.arange(4))
    assert engine.held_of(model, batch, torch.device("cpu"), None) is None
    assert not in_chunks


def test_logits_of_a_large_vocabulary_are_never_there_together(tiny_base, monkeypatch):
    prepared = prepared_for(tiny_base, "gpt2", vocab_size=50_000)
    data, model = prepared.encoded["train"], helpers.built(prepared)
    batch = collate(data, np.arange(len(data)))
    units, width = len(batch.picked), 50_000
    accelerator = Accelerator(cpu=True)

    def loss(logits: torch.Tensor, batch: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum")

    def peak() -> int:
        model.zero_grad(set_to_none=True)
        with LiveBytes(model.parameters()) as live:
            engine._loss_of(model, batch, loss, accelerator).backward()
        return live.peak

    whole = peak()
    monkeypatch.setattr(chunking, "TOKENS", units // 8)
    monkeypatch.setattr(chunking, "_WHOLE", 0)
    assert peak() < whole - 1.5 * units * width * 4, "logits, and what a loss makes of them"
