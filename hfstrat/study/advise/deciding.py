"""Deciding: from expectations, pilots, figures and limits to a strategy. NumPy only, and the same each time.

Scores are normal in points. Of draws from them each strategy has the share in which it is within the tolerance of the
best one; of those that are about as likely as the likeliest the cheapest is recommended. A decision is a function of
its question, so what would change it is found by asking again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hfstrat.study.advise.evidence import Evidence
from hfstrat.study.advise.limits import MEASURED, Excluded, Limits, Option, beyond
from hfstrat.study.advise.rules import MOVES_BODY, SHARED, predict

FloatArray = npt.NDArray[np.float64]
DRAWS = 20_000
LEVEL = 0.8
"""How likely a cheaper strategy has to be within the tolerance of the best, by the likeliest: a fifth of that chance is
what its time and memory are worth. With 1 cost would break exact ties alone, and with 0 it would decide everything."""
ALIKE = 1.25
"""Times that differ by less are the same, for they are estimates: then memory decides, and then the probability."""
DRIFT = 1.0
"""Points of standard deviation that a difference of two strategies changes with each doubling of the examples. In the
runs of SetFit the winner with a quarter of the examples was within a point of the best in 33 of 40 cases, with an
eighth in 30, with a sixteenth in 25."""
SEED = 20.0
"""Points of standard deviation of one seed, times the root of the examples, as in the rules."""


@dataclass(frozen=True)
class Belief:
    """What is believed of the scores of some strategies: they are normal together.

    Args:
        kinds: The strategies.
        mean: Points, `(k,)`.
        covariance: `(k, k)`.
    """

    kinds: tuple[str, ...]
    mean: FloatArray
    covariance: FloatArray

    @property
    def sd(self) -> FloatArray:
        """Standard deviations, `(k,)`."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))


@dataclass(frozen=True)
class Rung:
    """Pilots of some strategies on the same examples.

    Args:
        rows: How many examples they trained on.
        scores: Points of each on validation.
        variance: Of each as far as the validation split is the cause; two of them are that of their paired difference.
    """

    rows: int
    scores: Mapping[str, float]
    variance: float


@dataclass(frozen=True)
class Question:
    """All that a decision depends on.

    Args:
        evidence: What is known of data and base.
        options: Strategies with what they take.
        limits: What they may take.
        tolerance: Points that do not matter.
        rungs: Pilots.
    """

    evidence: Evidence
    options: tuple[Option, ...]
    limits: Limits
    tolerance: float
    rungs: tuple[Rung, ...] = ()

    @property
    def margin(self) -> float:
        """Points within which two strategies are the same: the tolerance, or what the test split can tell."""
        return max(self.tolerance, self.evidence.detectable or 0.0)

    def at(self, rows: int) -> Question:
        """The same with another number of examples: a run takes longer by as much as there are more."""
        factor = rows / self.evidence.rows

        def longer(one: Option) -> Option:
            return replace(
                one, seconds=_times(one.seconds, factor), cost=_times(one.cost, factor), flops=_times(one.flops, factor)
            )

        options = tuple(longer(one) for one in self.options)
        return replace(self, evidence=self.evidence.at(rows), options=options)


@dataclass(frozen=True)
class Ranked:
    """A strategy within the limits.

    Args:
        option: It, with what it takes.
        mean: Points that it is expected to have, above the probe or above full fine-tuning.
        sd: Standard deviation.
        probability: That it is within the margin of the best one.
        why: The rule that this began with.
    """

    option: Option
    mean: float
    sd: float
    probability: float
    why: str

    @property
    def kind(self) -> str:
        """The strategy."""
        return self.option.kind


@dataclass(frozen=True)
class Decision:
    """An answer.

    Args:
        ranked: The strategies within the limits, likeliest first.
        recommended: The one to take; None where no strategy keeps within the limits.
        excluded: Those beyond the limits.
    """

    ranked: tuple[Ranked, ...]
    recommended: Ranked | None
    excluded: tuple[Excluded, ...]


@dataclass(frozen=True)
class Flip:
    """A change of the question that changes the answer.

    Args:
        what: `rows`, `tolerance`, or a limit.
        value: From which value on, or down to which.
        recommended: What is recommended then.
    """

    what: str
    value: float
    recommended: str


def decide(question: Question) -> Decision:
    """The strategy to take, and how likely each is to be within the margin of the best."""
    inside, excluded = [], []
    for option in question.options:
        reasons = beyond(option, question.limits)
        excluded += reasons
        inside += [] if reasons else [option]
    if not inside:
        return Decision((), None, tuple(excluded))
    belief = believe(question, [one.kind for one in inside])
    chances = probabilities(belief, question.margin)
    ranked = [
        Ranked(option, float(mean), float(sd), float(chance), predict(option.kind, question.evidence).why)
        for option, mean, sd, chance in zip(inside, belief.mean, belief.sd, chances, strict=True)
    ]
    ranked.sort(key=lambda one: (-one.probability, -one.mean, one.kind))
    return Decision(tuple(ranked), cheapest(ranked), tuple(excluded))


def cheapest(ranked: Sequence[Ranked]) -> Ranked:
    """Of the strategies that are about as likely as the likeliest the one with least time, then least memory."""
    likely = [one for one in ranked if one.probability >= LEVEL * max(each.probability for each in ranked)]
    for figure in ("seconds", "memory"):
        least = min(_known(getattr(one.option, figure)) for one in likely)
        likely = [one for one in likely if _known(getattr(one.option, figure)) <= ALIKE * least]
    return min(likely, key=lambda one: (-one.probability, -one.mean, one.kind))


def believe(question: Question, kinds: Sequence[str]) -> Belief:
    """What rules and pilots together say of some strategies."""
    belief = prior(question.evidence, kinds)
    for rung in question.rungs:
        belief = updated(belief, rung, question.evidence.rows)
    return belief


def prior(evidence: Evidence, kinds: Sequence[str]) -> Belief:
    """What the rules say."""
    found = [predict(kind, evidence) for kind in kinds]
    sd = np.array([one.sd for one in found])
    moves = np.array([kind in MOVES_BODY for kind in kinds])
    correlation = np.where(np.outer(moves, moves), SHARED, 0.0)
    np.fill_diagonal(correlation, 1.0)
    return Belief(tuple(kinds), np.array([one.mean for one in found]), correlation * np.outer(sd, sd))


def updated(belief: Belief, rung: Rung, rows: int) -> Belief:
    """A belief after pilots, of which the differences count and not the level.

    A pilot shows a strategy's score with fewer examples, plus a constant that is the same for all and unknown, plus an
    error: of the validation split, of the seed, and of what changes until all examples are there. With a flat prior for
    the constant its precision is V⁻¹ - V⁻¹11ᵀV⁻¹ / 1ᵀV⁻¹1.

    Args:
        belief: Before.
        rung: The pilots; of strategies that the belief is not about they say nothing.
        rows: Examples that the belief is about.
    """
    places = [place for place, kind in enumerate(belief.kinds) if kind in rung.scores]
    if len(places) < 2:
        return belief
    doublings = max(0.0, math.log2(rows / rung.rows))
    seed = SEED / math.sqrt(rung.rows)
    # Half of the drift of a difference is that of each of the two.
    variance = rung.variance + seed**2 + (DRIFT * doublings) ** 2 / 2
    weight = np.eye(len(places)) / variance
    weight -= np.outer(weight.sum(1), weight.sum(0)) / weight.sum()
    seen = np.array([rung.scores[belief.kinds[place]] for place in places])
    precision = np.linalg.inv(belief.covariance)
    shift = precision @ belief.mean
    precision[np.ix_(places, places)] += weight
    shift[places] += weight @ seen
    covariance = np.linalg.inv(precision)
    return Belief(belief.kinds, covariance @ shift, (covariance + covariance.T) / 2)


def probabilities(belief: Belief, margin: float, draws: int = DRAWS) -> FloatArray:
    """How likely each strategy is to be no more than a margin below the best one, `(k,)`."""
    generator = np.random.default_rng(0)
    lower = np.linalg.cholesky(belief.covariance)
    scores = belief.mean + generator.standard_normal((draws, len(belief.kinds))) @ lower.T
    found: FloatArray = np.mean(scores >= scores.max(axis=1, keepdims=True) - margin, axis=0)
    return found


# --- what would change it -------------------------------------------------------------------------------------------

_DOUBLINGS = range(1, 8)
_FEWEST = 16
_TOLERANCES = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


def flips(question: Question) -> tuple[Flip, ...]:
    """The nearest changes of examples, tolerance and limits, each alone, that lead to another strategy."""
    now = decide(question).recommended
    kind = now.kind if now else None
    rows, given = question.evidence.rows, question.tolerance

    def more_or_fewer(value: float) -> Question:
        return question.at(round(value))

    def tolerant(value: float) -> Question:
        return replace(question, tolerance=value)

    found = [
        _first("rows", [rows * 2.0**power for power in _DOUBLINGS], more_or_fewer, kind),
        _first("rows", [rows / 2**power for power in _DOUBLINGS if rows / 2**power >= _FEWEST], more_or_fewer, kind),
        _first("tolerance", [one for one in _TOLERANCES if one > given], tolerant, kind),
        _first("tolerance", [one for one in reversed(_TOLERANCES) if one < given], tolerant, kind),
    ]
    for name in MEASURED:

        def limited(value: float, name: str = name) -> Question:
            changed: dict[str, Any] = {name: value}
            return replace(question, limits=replace(question.limits, **changed))

        found += [_first(name, values, limited, kind) for values in _limits(question, now, name)]
    return tuple(one for one in found if one is not None)


def _limits(question: Question, now: Ranked | None, name: str) -> Iterator[list[float]]:
    """Values of a limit to try: what the recommended one just does not keep, and what those just keep that are out."""
    figure, most = MEASURED[name].option, getattr(question.limits, name)
    if now is not None and (own := getattr(now.option, figure)) is not None:
        yield [own * 0.999]
    if most is not None:
        has = [getattr(option, figure) for option in question.options]
        yield sorted(value for value in has if value is not None and value > most)


def _first(what: str, values: Sequence[float], asked: Callable[[float], Question], kind: str | None) -> Flip | None:
    """The first of some values that leads to another strategy."""
    for value in values:
        other = decide(asked(value)).recommended
        if other is not None and other.kind != kind:
            return Flip(what, value, other.kind)
    return None


def _known(value: float | None) -> float:
    """What is not known is dear."""
    return math.inf if value is None else value


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
