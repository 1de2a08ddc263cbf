"""Within a budget the best by validation loss go on, and one always ends."""

from __future__ import annotations

import pytest

from hfstrat.recipe.data import PerClass
from hfstrat.study.halving import Measured, Rung, rungs, survivors

FOUND = [Measured("slow", 0.1, 110.0, 100.0), Measured("fast", 0.2, 11.0, 1.0), Measured("worse", 0.3, 11.0, 1.0)]
LATER = [(4.0, 1), (16.0, 1)]


def test_what_grows_with_the_data_is_told_from_what_does_not() -> None:
    assert FOUND[0].on(4) == 410.0
    assert FOUND[1].on(16) == 26.0


def test_as_many_go_on_as_there_is_time_for() -> None:
    way = FOUND[0].on(4) + FOUND[0].on(16)
    assert survivors(FOUND, 1e9, LATER) == ["slow", "fast", "worse"]
    assert survivors(FOUND, way + 14.0, LATER) == ["slow", "fast"]
    assert survivors(FOUND, way + 13.9, LATER) == ["slow"]
    assert survivors(FOUND, 0.0, LATER) == ["slow"]
    # At the end there is a run for each seed.
    assert survivors(FOUND, 3 * FOUND[0].on(4) + 3 * 14.0, [(4.0, 3)]) == ["slow", "fast"]
    assert survivors(FOUND, 3 * FOUND[0].on(4) + 2 * 14.0, [(4.0, 3)]) == ["slow"]


def test_what_failed_goes_no_further() -> None:
    failed = Measured("failed", None, 0.0, 0.0)
    assert survivors([failed, FOUND[1]], 1e9, LATER) == ["fast"]
    assert survivors([failed], 1e9, LATER) == []


@pytest.mark.parametrize(
    ("limit", "rows", "found"),
    [
        (None, 1600, {"n/16": 100, "n/4": 400, "n": "all"}),
        (800, 800, {"n/16": 50, "n/4": 200, "n": 800}),
        (None, 100, {"n/4": 25, "n": "all"}),
        (None, 20, {"n": "all"}),
        (PerClass(per_class=16), 99, {f"n/{k}": PerClass(per_class=16 // k) for k in (16, 4)}),
        (PerClass(per_class=3), 99, {}),
    ],
)
def test_rungs_are_parts_of_what_the_recipe_asks_for(limit, rows, found) -> None:
    assert rungs(limit, rows) == (found | {"n": limit} if isinstance(limit, PerClass) else found)
    assert list(rungs(limit, rows))[-1] == "n"


def test_it_is_said_in_words() -> None:
    rung = Rung("n/4", "25", {"head": 0.5, "full": 0.7512, "wild": None}, ("head",))
    assert str(rung) == "n/4: head went on; full (validation loss 0.751), wild (no validation loss) reached no more"
    assert str(Rung("n/4", "25", {"head": 0.5}, ("head",))) == "n/4: head went on"
