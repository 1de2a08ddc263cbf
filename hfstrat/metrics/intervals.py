"""Intervals around a score of one test set: how far it could move if other items had been drawn.

NumPy only. Both kinds treat the model as fixed and the items as a sample; neither knows about seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

# Weights are made for this many (item, resample) cells at once: 32 MB of float64.
_CELLS_AT_ONCE = 4_000_000


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927, JASA 22:209-212).

    Unlike the normal approximation it stays inside [0, 1] and does not shrink to a point at 0 or n successes.

    Args:
        successes: How many of the items are correct.
        n: How many items there are, at least one.
        level: Coverage.

    Returns:
        Lower and upper bound.

    Raises:
        ValueError: `n` is not positive, or `successes` is outside of [0, n].
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"a proportion needs 0 <= successes <= n and n > 0, not {successes} of {n}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = successes / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At 0 and n successes one bound equals p in exact arithmetic; rounding must not put it on the other side.
    return max(0.0, min(p, center - half)), min(1.0, max(p, center + half))


def bootstrap(
    statistic: Callable[[FloatArray], FloatArray], n: int, resamples: int = 1000, seed: int = 0
) -> FloatArray:
    """Replicates of a statistic on items drawn with replacement (Efron 1979, Ann. Statist. 7:1-26).

    A resample is how often it holds each item, not a list of indices: most metrics are then functions of weighted
    sums, and all resamples are scored by a few matrix products.

    Args:
        statistic: Takes weights, float64 `(n, r)`, column j saying how often resample j holds each item, and
            returns `(..., r)`. It is called for some resamples at a time.
        n: How many items there are.
        resamples: How many resamples to draw.
        seed: The same seed gives the same resamples for every statistic.

    Returns:
        The statistic on each resample, `(..., resamples)`.
    """
    # Undefined resamples are NaN and dropped by `percentile`; dividing 0 by 0 is expected here.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.concatenate([statistic(weights) for weights in _weights(n, resamples, seed)], axis=-1)


def percentile(replicates: FloatArray, value: float | None = None, level: float = 0.95) -> tuple[float, float] | None:
    """Percentile interval of bootstrap replicates (Efron 1979).

    Args:
        replicates: `(resamples,)`; those that are not finite are dropped.
        value: The statistic on all items. The interval is widened to it where the statistic's own bias would leave
            it outside: the calibration error of a resample, for one, is on average larger than that of the sample.
        level: Coverage.

    Returns:
        Lower and upper bound, or None when fewer than half of the resamples are defined.
    """
    defined = replicates[np.isfinite(replicates)]
    if 2 * len(defined) < max(len(replicates), 1):
        return None
    low, high = (float(bound) for bound in np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]))
    return (low, high) if value is None else (min(low, value), max(high, value))


def _weights(n: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Weights `(n, r)` of all resamples, some at a time; each column sums to n."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // n)
    for start in range(0, resamples, at_once):
        r = min(at_once, resamples - start)
        # Drawn resample by resample, so that the chunk size does not change what is drawn.
        draws = generator.integers(0, n, size=(r, n)).T
        cells = draws * r + np.arange(r)
        yield np.bincount(cells.ravel(), minlength=n * r).reshape(n, r).astype(np.float64)
