"""Intervals: known values, and the coverage that they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hfstrat.metrics import intervals
from hfstrat.metrics.intervals import bootstrap, percentile, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_published_values(successes: int, n: int, low: float, high: float) -> None:
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 2, 7, 100, 3080])
def test_wilson_equals_scipy_and_holds_its_value(n: int, level: float) -> None:
    for successes in {0, 1, n // 3, n - 1, n}:
        low, high = wilson(successes, n, level)
        known = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
        assert (low, high) == pytest.approx((known.low, known.high), abs=1e-12)
        assert 0 <= low <= successes / n <= high <= 1


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="proportion"):
        wilson(successes, n)


def test_weights_of_a_resample_are_how_often_it_holds_each_item() -> None:
    weights = bootstrap(lambda w: w, 7, resamples=50, seed=1)
    assert weights.shape == (7, 50)
    assert (weights.sum(axis=0) == 7).all()
    assert len(np.unique(weights, axis=1).T) > 40


def test_chunks_do_not_change_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bootstrap(lambda w: w, 30, resamples=11, seed=3)
    monkeypatch.setattr(intervals, "_CELLS_AT_ONCE", 70)
    assert (bootstrap(lambda w: w, 30, resamples=11, seed=3) == whole).all()
    assert (bootstrap(lambda w: w, 30, resamples=11, seed=4) != whole).any()


def test_spread_of_replicates_is_the_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=500)
    replicates = bootstrap(lambda w: values @ w / 500, 500, resamples=4000)
    assert replicates.mean() == pytest.approx(values.mean(), abs=0.003)
    assert replicates.std() == pytest.approx(values.std() / np.sqrt(500), rel=0.05)


def test_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    generator, n, truth, covered = np.random.default_rng(0), 200, 0.7, 0
    for simulation in range(600):
        correct = (generator.random(n) < truth).astype(float)
        bounds = percentile(bootstrap(lambda w, x=correct: x @ w / n, n, resamples=500, seed=simulation))
        assert bounds is not None
        covered += bounds[0] <= truth <= bounds[1]
    assert 0.93 <= covered / 600 <= 0.97


def test_undefined_resamples_are_dropped_and_too_many_leave_no_interval() -> None:
    replicates = np.array([np.nan, 1.0, 2.0, 3.0, np.inf])
    assert percentile(replicates) == pytest.approx((1.05, 2.95))
    assert percentile(np.array([np.nan, np.nan, 1.0])) is None
    assert percentile(np.array([])) is None


def test_percentile_widens_to_a_value_outside() -> None:
    assert percentile(np.array([1.0, 2.0]), value=0.5, level=0.9) == pytest.approx((0.5, 1.95))
