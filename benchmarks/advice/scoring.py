"""Scoring advice: how often, how far and how confidently it is wrong, beside rules that look at nothing. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Case:
    """A data set of some size, what its strategies score in truth, and what was advised.

    Args:
        dataset: Its name; cases of one data set are not independent.
        rows: Training examples.
        scores: Points of each arm on the test split, one for each seed.
        seconds: Wall time of a run of each arm, the mean over seeds.
        advised: By variant of the procedure: the arm, its probability to be within the tolerance, and the seconds that
            the advice took.
    """

    dataset: str
    rows: int
    scores: Mapping[str, Sequence[float]]
    seconds: Mapping[str, float]
    advised: Mapping[str, tuple[str, float, float]]

    def mean(self, arm: str) -> float:
        """Points of an arm, over seeds."""
        return float(np.mean(self.scores[arm]))

    def regret(self, arm: str) -> float:
        """Points by which an arm is behind the best one."""
        return max(map(self.mean, self.scores)) - self.mean(arm)

    @property
    def exhaustive(self) -> float:
        """Seconds of every arm with every seed."""
        return sum(len(self.scores[arm]) * self.seconds[arm] for arm in self.scores)


Policy = Callable[[Case, Sequence[Case]], str | None]
"""The arm that is taken for a case, given the cases of other data sets; None where it has none."""


def always(arm: str) -> Policy:
    """The same arm each time, where it was run."""
    return lambda case, others: arm if arm in case.scores else None


def adjectives(case: Case, others: Sequence[Case]) -> str | None:
    """The usual table: little data, a head; moderate, fine-tuning; much, from scratch."""
    wanted = "head" if case.rows < 1_000 else "full-random" if case.rows < 100_000 else "scratch"
    return wanted if wanted in case.scores else None


def best_elsewhere(case: Case, others: Sequence[Case]) -> str | None:
    """The arm with the least mean regret on the other data sets, each of which counts the same."""
    found: dict[str, float] = {}
    for arm in case.scores:
        by_set: dict[str, list[float]] = {}
        for other in others:
            if arm in other.scores:
                by_set.setdefault(other.dataset, []).append(other.regret(arm))
        if by_set:
            found[arm] = float(np.mean([np.mean(values) for values in by_set.values()]))
    return min(found, key=lambda arm: (found[arm], arm), default=None)


def oracle(case: Case, others: Sequence[Case]) -> str | None:
    """The best arm."""
    return max(case.scores, key=lambda arm: (case.mean(arm), arm))


def advised(variant: str) -> Policy:
    """What a variant of the procedure recommended."""
    return lambda case, others: case.advised[variant][0] if variant in case.advised else None


POLICIES: dict[str, Policy] = {
    "advise": advised("pilots"),
    "advise without pilots": advised("rules"),
    "always head": always("head"),
    "always LoRA": always("lora"),
    "always full (random head)": always("full-random"),
    "always LP-FT": always("full"),
    "table of adjectives": adjectives,
    "best on the other data sets": best_elsewhere,
    "oracle": oracle,
}


@dataclass(frozen=True)
class Result:
    """How a policy fares.

    Args:
        cases: For how many cases it had an answer.
        hits: Share of them within the tolerance of the best arm, with its interval.
        regret: Mean points behind, with its interval.
        worst_tenth: The ninth decile of points behind.
        cost: Time of advice and of the run that it leads to, by that of every arm with every seed; the mean of cases.
        brier: Mean squared error of the probability that it is a hit; None for policies that give none.
        brier_of_share: The same of the share of hits on the other data sets.
    """

    cases: int
    hits: tuple[float, float, float]
    regret: tuple[float, float, float]
    worst_tenth: float
    cost: float
    brier: float | None
    brier_of_share: float | None


def result(policy: Policy, cases: Sequence[Case], tolerance: float, variant: str | None = None) -> Result | None:
    """How a policy fares over cases, each decided with the other data sets in view alone.

    Args:
        policy: The policy.
        cases: All cases.
        tolerance: Points that do not matter.
        variant: The procedure whose probabilities are scored and whose time counts; None for a policy that costs none.
    """
    taken = [(case, policy(case, elsewhere(case, cases))) for case in cases]
    known = [(case, arm) for case, arm in taken if arm is not None]
    if not known:
        return None
    regrets = np.array([case.regret(arm) for case, arm in known])
    hits = (regrets <= tolerance).astype(float)
    sets = [case.dataset for case, _ in known]
    extra = [case.advised[variant][2] if variant else 0.0 for case, _ in known]
    cost = [(more + case.seconds[arm]) / case.exhaustive for more, (case, arm) in zip(extra, known, strict=True)]
    brier = brier_of_share = None
    if variant is not None:
        said = np.array([case.advised[variant][1] for case, _ in known])
        brier = float(np.mean((said - hits) ** 2))
        brier_of_share = _brier_of_share(hits, sets)
    return Result(
        len(known),
        clustered(hits, sets),
        clustered(regrets, sets),
        float(np.quantile(regrets, 0.9)),
        float(np.mean(cost)),
        brier,
        brier_of_share,
    )


def elsewhere(case: Case, cases: Sequence[Case]) -> list[Case]:
    """The cases of other data sets."""
    return [other for other in cases if other.dataset != case.dataset]


def _brier_of_share(hits: Any, sets: Sequence[str]) -> float | None:
    names = np.array(sets)
    if len(set(sets)) < 2:
        return None
    shares = np.array([hits[names != name].mean() for name in sets])
    return float(np.mean((shares - hits) ** 2))


def clustered(values: Any, sets: Sequence[str], seed: int = 0) -> tuple[float, float, float]:
    """A mean over cases, with its 95 % interval over other data sets: whole ones are drawn."""
    names = np.unique(sets)
    sums = np.array([np.sum(values[np.array(sets) == name]) for name in names])
    counts = np.array([np.sum(np.array(sets) == name) for name in names])
    drawn = np.random.default_rng(seed).integers(0, len(names), (RESAMPLES, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean(values)), float(low), float(high)


def reliability(cases: Sequence[Case], variant: str, tolerance: float, bins: int = 5) -> list[tuple[float, float, int]]:
    """Of probabilities that lie together: their mean, the share of hits, and how many there are."""
    pairs = [
        (case.advised[variant][1], float(case.regret(case.advised[variant][0]) <= tolerance))
        for case in cases
        if variant in case.advised and case.advised[variant][0] in case.scores
    ]
    found = []
    for place in range(bins):
        low, high = place / bins, (place + 1) / bins
        inside = [pair for pair in pairs if low <= pair[0] < high or (place == bins - 1 and pair[0] == 1.0)]
        if inside:
            said, hit = np.mean(inside, axis=0)
            found.append((float(said), float(hit), len(inside)))
    return found
