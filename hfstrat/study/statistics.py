"""How sure a comparison of two strategies on one test set is. NumPy only.

Two strategies that are scored on the same items are compared item by item: what both get right or wrong says nothing
about their difference, so a paired comparison resolves far less than two intervals that overlap suggest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from hfstrat.metrics.intervals import bootstrap, percentile
from hfstrat.metrics.resampled import Statistic

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Difference:
    """A difference of two mean scores with its interval.

    Args:
        value: Mean score of the first minus that of the second.
        low: Lower end of the interval.
        high: Upper end; the two differ when 0 is outside of the interval.
        resamples: Of the bootstrap.
    """

    value: float
    low: float
    high: float
    resamples: int


def paired_difference(
    a: npt.ArrayLike, b: npt.ArrayLike, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Difference:
    """Difference of two strategies on the same items, with a percentile interval (Efron 1979, Ann. Statist. 7:1-26).

    Seeds are averaged for each item first and items are drawn afterwards, so the interval is about other items and
    not about other seeds: with one seed a side, what the seed does is part of the difference.

    Args:
        a: Score of each item, such as 1 for right and 0 for wrong: `(n,)`, or `(seeds, n)`.
        b: The same for the other strategy; its number of seeds may differ.
        resamples: How many times items are drawn.
        seed: Of the bootstrap.
        level: Coverage.

    Raises:
        ValueError: The two do not have the same items, or there are none.
    """
    first, second = _item_means(a), _item_means(b)
    if first.shape != second.shape or not len(first):
        raise ValueError(f"the scores are of {len(first)} and {len(second)} items; a pair needs the same ones")
    differences = first - second
    n = len(differences)
    replicates = bootstrap(lambda weights: differences @ weights / n, n, resamples, seed)
    value = float(differences.mean())
    bounds = percentile(replicates, value, level)
    assert bounds is not None  # a mean is defined on every resample
    return Difference(value, *bounds, resamples)


def paired_difference_of(
    a: Sequence[Statistic], b: Sequence[Statistic], n: int, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Difference:
    """As `paired_difference`, of scores that are no means over items, such as the F1 of entities.

    Args:
        a: For each seed of the first strategy its score as a function of the items' weights `(n, r)`.
        b: The same for the other strategy.
        n: How many items there are.
        resamples: How many times items are drawn.
        seed: Of the bootstrap.
        level: Coverage.
    """

    def difference(weights: FloatArray) -> FloatArray:
        first, second = (np.mean([one(weights) for one in part], axis=0) for part in (a, b))
        return np.asarray(first - second)

    value = float(difference(np.ones((n, 1)))[0])
    bounds = percentile(bootstrap(difference, n, resamples, seed), value, level)
    return Difference(value, *(bounds or (float("nan"), float("nan"))), resamples)


def mcnemar_exact(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Two-sided p-value that two models are right equally often (McNemar 1947, Psychometrika 12:153-157).

    Of the m items on which exactly one model is right, each has it right with probability 1/2 under the hypothesis,
    so the smaller of the two counts is binomial. The sum is exact, in integers.

    Args:
        a: Whether the first model is right, `(n,)` of 0/1 or bool.
        b: The same for the second model on the same items.

    Returns:
        p in (0, 1]; 1 when they never differ.

    Raises:
        ValueError: The two do not have the same shape `(n,)`.
    """
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"both need one value for each item, not shapes {first.shape} and {second.shape}")
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    m, fewer = only_first + only_second, min(only_first, only_second)
    ways = total = 1
    for i in range(fewer):
        ways = ways * (m - i) // (i + 1)
        total += ways
    # Divided as integers, because 2^m is no float for m > 1023.
    return min(1.0, 2 * total / (1 << m))


def detectable_difference(n: int, p: float, *, level: float = 0.95) -> float:
    """Smallest difference of two accuracies that a test set can tell from none.

    The models differ on p·n items. McNemar's statistic (1947) is (n₁ - n₂)² / (n₁ + n₂), where n₁ and n₂ count the
    items on which one model alone is right, so n₁ + n₂ = p·n. It exceeds z², z = 1.96 for 95 %, when
    |n₁ - n₂| / n > z·√(p / n). A true difference of that size is found in about half of all test sets of this size;
    for one that is found in four of five, multiply by (1.96 + 0.84) / 1.96 = 1.43.

    Args:
        n: Items in the test set.
        p: Fraction of items on which exactly one of the two models is right.
        level: Confidence.

    Returns:
        The difference as a fraction. Above p it cannot occur: no result with that much disagreement is significant.

    Raises:
        ValueError: `n` is not positive, or `p` is no fraction.
    """
    if n <= 0 or not 0 <= p <= 1:
        raise ValueError(f"needs n > 0 and 0 <= p <= 1, not n={n} and p={p}")
    return NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(p / n)


def _item_means(scores: npt.ArrayLike) -> FloatArray:
    values = np.asarray(scores, dtype=np.float64)
    return values.mean(axis=0) if values.ndim == 2 else values
