"""Comparisons: identities, exact values and the rate of false alarms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hfstrat.study.statistics import (
    Difference,
    detectable_difference,
    difference,
    holm,
    mcnemar_exact,
    of_items,
    of_statistics,
    paired_difference,
    sign_flip,
)
from hfstrat.study.verdicts import LEVEL, among_the_best, verdicts


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


# --- tests of pairs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (5, 0), (3, 9), (10, 10), (40, 60)])
def test_flipping_signs_of_right_and_wrong_is_mcnemars_test(only_a: int, only_b: int) -> None:
    differences = np.array([1] * only_a + [-1] * only_b + [0] * 20)
    a, b = differences > 0, differences < 0
    assert sign_flip(differences, flips=40_000) == pytest.approx(mcnemar_exact(a, b), abs=0.01)


def test_flipping_signs_is_scipys_permutation_test() -> None:
    values = np.random.default_rng(7).choice([-1.0, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1.0], 60) + 0.1
    found = stats.permutation_test(
        (values, np.zeros(60)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=1,
    )
    assert sign_flip(values, flips=20_000) == pytest.approx(found.pvalue, abs=0.01)


def test_items_that_all_differ_are_as_the_normal_law_has_them() -> None:
    values = np.random.default_rng(8).normal(0.1, 1, 300)
    found = sign_flip(values, flips=2000)
    expected = 2 * stats.norm.sf(abs(values.sum()) / np.sqrt(np.sum(values**2)))
    assert found == pytest.approx(expected, abs=0.03)


def test_holms_rule() -> None:
    # Holm 1979: the smallest of m is multiplied by m, the next by m - 1, and none falls below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_difference_of_scores_is_that_of_their_resamples() -> None:
    generator = np.random.default_rng(9)
    a, b = generator.random((2, 400)) < 0.8, generator.random(400) < 0.7
    one, two = of_items(a, resamples=500), of_items(b, resamples=500)
    found = difference(one, two)
    assert found == paired_difference(a, b, resamples=500)
    as_statistics = [
        of_statistics([lambda w, part=part: part @ w / w.sum(0) for part in parts], 400, resamples=500)
        for parts in (a.astype(float), [b.astype(float)])
    ]
    same = difference(*as_statistics)
    assert (same.value, same.low, same.high) == pytest.approx((found.value, found.low, found.high))
    assert same.p is not None
    assert same.p <= 2 / 501, "0.1 of 400 items is far from nothing"


def _verdicts(scores: dict[str, np.ndarray], up: bool = True) -> list:
    def between(first: str, second: str) -> Difference | None:
        values = scores[first] - scores[second]
        return Difference(float(values.mean()), 0.0, 0.0, 999, sign_flip(values, flips=999))

    return verdicts([*scores], between, up=up)


def test_the_best_and_those_that_cannot_be_told_from_it() -> None:
    generator = np.random.default_rng(10)
    scores = {
        name: (generator.random(2000) < rate).astype(float)
        for name, rate in {"bad": 0.5, "good": 0.9, "alike": 0.895}.items()
    }
    found = _verdicts(scores)
    assert among_the_best([*scores], "good", found) == ["good", "alike"]
    assert {(one.first, one.second): one.better for one in found} == {
        ("bad", "good"): "second",
        ("bad", "alike"): "second",
        ("good", "alike"): "tie",
    }
    turned = found[0].turned()
    assert (turned.first, turned.better, turned.difference.value) == ("good", "first", -found[0].difference.value)
    lower = _verdicts(scores, up=False)
    assert lower[0].better == "first", "of a loss the lower one is better"
    assert "bad is better than good" in str(lower[0])
    assert "cannot be told apart" in str(found[2])


def false_alarms(comparisons: int, arms: int = 4, n: int = 150) -> int:
    """Comparisons of arms that are alike in which some pair is told apart."""
    generator = np.random.default_rng(11)
    count = 0
    for _ in range(comparisons):
        hard = generator.random(n)  # arms are right on the same items more often than by chance
        scores = {str(arm): (hard + generator.normal(0, 0.3, n) < 0.7).astype(float) for arm in range(arms)}
        count += any(one.better != "tie" for one in _verdicts(scores))
    return count


def test_alike_arms_are_seldom_told_apart() -> None:
    assert stats.binomtest(false_alarms(150), 150, LEVEL, alternative="greater").pvalue > 0.001


@pytest.mark.slow
def test_no_more_than_one_comparison_in_twenty_tells_of_a_difference_that_is_none() -> None:
    alarms = false_alarms(2000)
    upper = stats.binomtest(alarms, 2000).proportion_ci(0.95, "exact").high
    assert upper <= 0.065, f"{alarms} of 2,000"


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say() -> None:
    generator = np.random.default_rng(12)
    covered = 0
    for trial in range(2000):
        hard = generator.random(300)
        a, b = ((hard + generator.normal(0, 0.3, 300) < rate).astype(float) for rate in (0.75, 0.65))
        found = paired_difference(a, b, resamples=400, seed=trial)
        covered += found.low <= TRUE <= found.high
    assert 0.93 <= covered / 2000 <= 0.97


# P(hard + noise < 0.75) - P(hard + noise < 0.65) of the simulation above, from its distribution function.
TRUE = float(
    stats.norm.expect(lambda z: np.clip(0.75 - 0.3 * z, 0, 1))
    - stats.norm.expect(lambda z: np.clip(0.65 - 0.3 * z, 0, 1))
)
