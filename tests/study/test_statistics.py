"""Comparisons: identities, exact values and the rate of false alarms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hfstrat.study.statistics import detectable_difference, mcnemar_exact, paired_difference


def test_difference_of_a_model_with_itself_is_nothing() -> None:
    correct = np.random.default_rng(0).random(100) < 0.8
    found = paired_difference(correct, correct, resamples=200)
    assert (found.value, found.low, found.high, found.resamples) == (0, 0, 0, 200)
    assert mcnemar_exact(correct, correct) == 1


def test_difference_is_antisymmetric_and_holds_its_value() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.random(300) < 0.8, generator.random(300) < 0.7
    ab, ba = paired_difference(a, b, resamples=1000), paired_difference(b, a, resamples=1000)
    assert ab.value == pytest.approx(a.mean() - b.mean())
    assert (ab.low, ab.high) == pytest.approx((-ba.high, -ba.low))
    assert ab.low <= ab.value <= ab.high


def test_interval_is_that_of_the_mean_difference() -> None:
    generator = np.random.default_rng(2)
    a, b = generator.normal(1, 1, size=400), generator.normal(0, 1, size=400)
    found = paired_difference(a, b)
    half = 1.96 * (a - b).std() / np.sqrt(400)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.01)


def test_seeds_are_averaged_for_each_item_first() -> None:
    generator = np.random.default_rng(3)
    a, b = generator.random((3, 50)), generator.random((5, 50))
    assert paired_difference(a, b, seed=4, resamples=300) == paired_difference(
        a.mean(axis=0), b.mean(axis=0), seed=4, resamples=300
    )


def test_pairing_is_what_makes_a_small_difference_visible() -> None:
    a = np.arange(1000) < 800
    b = np.arange(1000) < 785  # wrong wherever a is, and on 15 more
    found = paired_difference(a, b, resamples=2000)
    assert 0 < found.low < 0.015 < found.high < 0.03


@pytest.mark.parametrize(("a", "b"), [([1, 0], [1, 0, 1]), ([], [])])
def test_scores_of_other_items_are_refused(a: list[int], b: list[int]) -> None:
    with pytest.raises(ValueError, match="items"):
        paired_difference(a, b)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (5, 0), (3, 9), (10, 10), (1, 2), (900, 1000)])
def test_mcnemar_equals_the_binomial_test(only_a: int, only_b: int) -> None:
    a = np.array([1] * only_a + [0] * only_b + [1, 0] * 5)
    b = np.array([0] * only_a + [1] * only_b + [1, 0] * 5)
    m = only_a + only_b
    expected = stats.binomtest(only_a, m, 0.5).pvalue if m else 1.0
    assert mcnemar_exact(a, b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(b, a) == mcnemar_exact(a, b)


def test_mcnemar_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="shapes"):
        mcnemar_exact([1, 0], [1, 0, 1])


def test_detectable_difference_is_where_mcnemar_turns_significant() -> None:
    n, differing = 3080, 308
    assert detectable_difference(n, 0.1) == pytest.approx(1.959964 * np.sqrt(0.1 / n))
    edge = detectable_difference(n, differing / n) * n
    for lead, significant in ((edge + 6, True), (edge - 6, False)):
        more = round((differing + lead) / 2)
        a, b = np.arange(n) < more, (np.arange(n) >= more) & (np.arange(n) < differing)
        assert (mcnemar_exact(a, b) < 0.05) is significant


def test_detectable_difference_shrinks_with_items_and_grows_with_disagreement_and_level() -> None:
    assert detectable_difference(400, 0.1) == pytest.approx(2 * detectable_difference(1600, 0.1))
    assert detectable_difference(400, 0.1) < detectable_difference(400, 0.2)
    assert detectable_difference(400, 0.1) < detectable_difference(400, 0.1, level=0.99)
    assert detectable_difference(400, 0.0) == 0
    with pytest.raises(ValueError, match="n > 0"):
        detectable_difference(0, 0.1)
