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
        p: Two-sided p-value that there is no difference; None where nothing was tested.
    """

    value: float
    low: float
    high: float
    resamples: int
    p: float | None = None


@dataclass(frozen=True)
class Resampled:
    """A strategy's score, and what it would have been on other items; of the same seed on the same ones.

    Args:
        value: On all items; the mean over seeds.
        replicates: On each resample, `(resamples,)`.
        n: How many items there are.
        items: Score of each item, averaged over seeds, `(n,)`; None where the score is no mean over items.
    """

    value: float
    replicates: FloatArray
    n: int
    items: FloatArray | None


def of_items(scores: npt.ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> Resampled:
    """A score that is a mean over items.

    Args:
        scores: Of each item, such as 1 for right and 0 for wrong: `(n,)`, or `(seeds, n)`.
        resamples: How many times items are drawn.
        seed: Of the bootstrap.

    Raises:
        ValueError: There are no items.
    """
    items = _item_means(scores)
    n = len(items)
    if not n:
        raise ValueError("there are no items")
    return Resampled(float(items.mean()), bootstrap(lambda weights: items @ weights / n, n, resamples, seed), n, items)


def of_statistics(statistics: Sequence[Statistic], n: int, *, resamples: int = 2000, seed: int = 0) -> Resampled:
    """A score that is no mean over items, such as the F1 of entities.

    Args:
        statistics: For each seed the score as a function of the items' weights `(n, r)`.
        n: How many items there are.
        resamples: How many times items are drawn.
        seed: Of the bootstrap.
    """

    def mean(weights: FloatArray) -> FloatArray:
        return np.asarray(np.mean([one(weights) for one in statistics], axis=0))

    return Resampled(float(mean(np.ones((n, 1)))[0]), bootstrap(mean, n, resamples, seed), n, None)


def difference(a: Resampled, b: Resampled, *, level: float = 0.95, seed: int = 0) -> Difference:
    """Difference of two strategies on the same items, with a percentile interval (Efron 1979, Ann. Statist. 7:1-26).

    Seeds are averaged first and items are drawn afterwards, so the interval is about other items and not about other
    seeds: with one seed a side, what the seed does is part of the difference.

    Args:
        a: The first.
        b: The second, of the same resamples.
        level: Coverage.
        seed: Of the test.

    Raises:
        ValueError: The two do not have the same items.
    """
    if a.n != b.n:
        raise ValueError(f"the scores are of {a.n} and {b.n} items; a pair needs the same ones")
    replicates, value = a.replicates - b.replicates, a.value - b.value
    bounds = percentile(replicates, value, level)
    if bounds is None:
        return Difference(value, float("nan"), float("nan"), len(replicates))
    if a.items is not None and b.items is not None:
        p = sign_flip(a.items - b.items, flips=len(replicates), seed=seed)
    else:
        # Where there is no difference, replicates lie around it as they lie around the value here (Efron & Tibshirani
        # 1993, An Introduction to the Bootstrap, ch. 16).
        away = np.abs(replicates[np.isfinite(replicates)] - value)
        p = (1 + int(np.sum(away >= abs(value)))) / (1 + len(away))
    return Difference(value, *bounds, len(replicates), p)


def paired_difference(
    a: npt.ArrayLike, b: npt.ArrayLike, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Difference:
    """`difference` of two strategies by their scores of items, as `of_items` takes them."""
    first, second = (of_items(one, resamples=resamples, seed=seed) for one in (a, b))
    return difference(first, second, level=level)


def paired_difference_of(
    a: Sequence[Statistic], b: Sequence[Statistic], n: int, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Difference:
    """`difference` of two strategies by their scores as functions of items' weights, as `of_statistics` takes them."""
    first, second = (of_statistics(one, n, resamples=resamples, seed=seed) for one in (a, b))
    return difference(first, second, level=level)


def sign_flip(differences: npt.ArrayLike, *, flips: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value that paired scores differ by nothing (Fisher 1935, The Design of Experiments, §21).

    Were the two alike, each item's difference would be as likely with the other sign. Among items whose differences are
    of one size, how many keep their sign is binomial, so a whole flip is drawn with a number for each size.

    Args:
        differences: Of each item, `(n,)`.
        flips: How many are drawn.
        seed: Of the draw.

    Returns:
        p in (0, 1], never below 1 / (flips + 1).
    """
    values = np.asarray(differences, np.float64)
    sizes, counts = np.unique(np.abs(values[values != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    generator, total = np.random.default_rng(seed), abs(float(values.sum()))
    at_once, extreme = max(1, 4_000_000 // len(sizes)), 0
    for begin in range(0, flips, at_once):
        kept = generator.binomial(counts, 0.5, (min(at_once, flips - begin), len(sizes)))
        # Sums that are equal but for rounding are equal.
        extreme += int(np.sum(np.abs((2 * kept - counts) @ sizes) >= total * (1 - 1e-12)))
    return (1 + extreme) / (1 + flips)


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several tests, raised so that a false alarm in any of them is as rare as in one (Holm 1979).

    Scand. J. Statist. 6:65-70.

    Args:
        p: Of each test.

    Returns:
        The same in the same order, at most 1.
    """
    raised = [0.0] * len(p)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        raised[place] = highest
    return raised


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
