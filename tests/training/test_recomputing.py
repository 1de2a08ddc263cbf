"""Gradient checkpointing: the same bits in less memory, whatever a model and a strategy do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hfstrat import execute
from hfstrat.errors import RecipeError
from hfstrat.models import recomputing
from hfstrat.models.anatomy import named_buffers
from hfstrat.models.build import Arithmetic, Shape, build, plan_shape
from hfstrat.models.recomputing import recompute
from hfstrat.strategies.full import Full
from hfstrat.tasks.base import Labels
from hfstrat.training.memory import LiveBytes
from hfstrat.training.optim import set_modes
from tests import tiny
from tests.matrix import senses
from tests.matrix.pairs import AUTO, LABELS, STRATEGIES, TEXT, base_of, settings_of
from tests.training.helpers import Trained, Weights, memory, recipe, train

ROWS = tiny.reviews(40)
WIDE = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 6}
checkpoint = recomputing.checkpoint


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows with each block that keeps its input alone."""
    made: list[bool] = []

    def called(*given: Any, **named: Any) -> Any:
        made.append(True)
        return checkpoint(*given, **named)

    monkeypatch.setattr(recomputing, "checkpoint", called)
    return made


def same_bits(given: Mapping[str, Any], folder: Path) -> tuple[Trained, Trained]:
    """Two runs that differ in nothing but what is kept for backward, and not in their weights, losses and scores."""
    plain, again = (
        train({**given, "train": {**given["train"], "gradient_checkpointing": on}}, ROWS, folder / str(on))
        for on in (False, True)
    )
    assert any(not torch.equal(value, plain.before[name]) for name, value in plain.after.items())
    for name, value in plain.after.items():
        assert torch.equal(value, again.after[name]), name
    logs = [[line for line in one.run.log() if line["kind"] in ("update", "score")] for one in (plain, again)]
    assert logs[0] == logs[1]
    return plain, again


def peak(found: Trained) -> int:
    """Most live bytes while it trained, beside the weights."""
    whole = int(found.run.read("ledger.json")["phases"]["train"]["peak_live_bytes"])
    return whole - sum(value.nbytes for value in found.before.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_less_is_kept_and_the_bits_stay(tiny_base, tmp_path, calls, precision):
    model, settings = {"dropout": 0.1}, {"precision": precision, "batch_size": 16}
    plain, again = same_bits(recipe(tiny_base("bert", **WIDE), "lora", model=model, train=settings), tmp_path)
    assert calls
    assert peak(again) < 0.5 * peak(plain)


KINDS = [kind for kind in STRATEGIES if kind != "head"]
PAIRS = [
    *(("bert", kind) for kind in KINDS),
    *((family, kind) for family in TEXT for kind in ("full", "lora") if family != "bert"),
]
USUAL = (("bert", "lora"), ("llama", "full"), ("t5", "lora"))


@pytest.mark.parametrize(
    ("family", "kind"),
    [pytest.param(*pair, marks=() if pair in USUAL else pytest.mark.slow, id="-".join(pair)) for pair in PAIRS],
)
def test_the_bits_stay_on_texts(tiny_base, tmp_path, calls, family, kind):
    settings = settings_of(family, kind, tiny_base, tmp_path)
    given = recipe(base_of(family, tiny_base), settings, model={"dropout": 0.1}, train={"micro_batch_size": 3})
    same_bits(given, tmp_path)
    assert calls


@pytest.mark.parametrize("family", [*tiny.OTHERS])
def test_the_bits_stay_on_pictures_and_sounds(tiny_base, family):
    base = senses.opened(family, base_of(family, tiny_base))
    shape = Shape(AUTO[family], Labels("single_label", LABELS), "native", False, dropout=0.1)
    anatomy, _ = plan_shape(base, shape)
    plan = Full(head_init="random").plan(anatomy, 1)

    def gradients(on: bool) -> tuple[Weights, nn.Module, int]:
        model = build(base, shape, plan, anatomy, 0, None, Arithmetic("fp32"))
        if on:
            recompute(model, anatomy.blocks)
        set_modes(model)
        torch.manual_seed(3)
        np.random.seed(3)  # wav2vec2 draws its masks with NumPy
        with LiveBytes() as live:
            logits = model(**senses.inputs_of(family)).logits
            nn.functional.cross_entropy(logits, senses.TARGETS).backward()
        found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        return found, model, live.peak

    (plain, before, most), (again, after, less) = gradients(False), gradients(True)
    statistics, others = dict(named_buffers(before)), dict(named_buffers(after))
    assert plain.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in plain.items())
    assert all(torch.equal(value, others[name]) for name, value in statistics.items())
    norms = any(isinstance(module, nn.BatchNorm2d) for module in before.modules())
    assert less == most if norms else less < most


def test_a_prefix_is_not_put_before_its_own_keys(tiny_base, tmp_path):
    prefix = {"kind": "peft", "method": "PREFIX_TUNING", "options": {"num_virtual_tokens": 4}}
    given = recipe(tiny_base("bert"), prefix, train={"gradient_checkpointing": True})
    with pytest.raises(RecipeError, match="a prefix is lengthened by each pass through a block"):
        execute.train(given, data=memory(ROWS), runs=tmp_path)
