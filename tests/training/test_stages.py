"""Several gradient stages make one run: its updates are parted among them, and nothing else changes."""

from __future__ import annotations

import numpy as np
import torch

from hfstrat.scheduling import Planned, Schedule, schedule
from hfstrat.strategies.plan import Fit
from tests import tiny
from tests.training.helpers import largest_difference, prepared_for, recipe, train

ROWS = tiny.reviews(40)
GRADUAL = {"kind": "partial", "last_n": 2, "gradual": True, "head_init": "random"}


def fits_of(prepared) -> list[Fit]:
    return [stage for stage in prepared.plan.stages if isinstance(stage, Fit)]


def test_stages_see_the_examples_that_one_stage_would_see(tiny_base):
    parted = prepared_for(recipe(tiny_base("bert"), GRADUAL, train={"epochs": 3}), ROWS)
    whole = prepared_for(recipe(tiny_base("bert"), "full-random", train={"epochs": 3}), ROWS)
    (fit,) = fits_of(whole)
    data = whole.encoded["train"]
    expected = _seen(schedule(whole.recipe, whole.plan, data, fit))
    found = [step for one in fits_of(parted) for step in _seen(schedule(parted.recipe, parted.plan, data, one))]
    assert len(fits_of(parted)) == 2
    assert len(found) == len(expected) > 2
    for (one, ended), (other, ends) in zip(found, expected, strict=True):
        assert np.array_equal(one.rows, other.rows)
        assert (one.epoch, ended) == (other.epoch, ends)


def _seen(updates: Schedule) -> list[tuple[Planned, bool]]:
    return [(one, updates.ends_epoch(number)) for number, one in enumerate(updates)]


def test_each_stage_moves_its_own_blocks(tiny_base, tmp_path):
    """After both, the upper block has moved twice and the lower one once; the embeddings never."""
    given = recipe(tiny_base("bert"), GRADUAL, train={"epochs": 2}, data={"validation": 0.25})
    found = train(given, ROWS, tmp_path)
    log = [line for line in found.run.log() if line["kind"] == "update"]
    assert {line["stage"] for line in log} == {"top-1", "top-2"}
    moved = {name for name, value in found.after.items() if not torch.equal(value, found.before[name])}
    assert any(".layer.0." in name for name in moved)
    assert any(".layer.1." in name for name in moved)
    assert not any("embeddings" in name for name in moved)


def test_a_decay_of_one_is_no_decay(tiny_base, tmp_path):
    plain = train(recipe(tiny_base("bert"), "full-probe"), ROWS, tmp_path / "plain")
    decayed = train(recipe(tiny_base("bert"), {"kind": "full", "layer_decay": 1.0}), ROWS, tmp_path / "decayed")
    other = train(recipe(tiny_base("bert"), {"kind": "full", "layer_decay": 0.5}), ROWS, tmp_path / "other")
    assert largest_difference(plain.after, decayed.after) == 0.0
    assert largest_difference(plain.after, other.after) > 0.0
