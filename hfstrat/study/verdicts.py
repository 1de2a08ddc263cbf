"""Who is better than whom: every pair of arms on the items that they share, and what cannot be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

from hfstrat.study.statistics import Difference, holm

LEVEL = 0.05
"""How often a comparison may tell of any difference where there is none."""


@dataclass(frozen=True)
class Verdict:
    """What two arms' scores on the same items say about them.

    Args:
        first: An arm.
        second: Another one.
        difference: Score of the first minus that of the second, with its interval.
        p: p-value of that, raised for the number of pairs (Holm 1979).
        up: Whether higher scores are better.
    """

    first: str
    second: str
    difference: Difference
    p: float
    up: bool = True

    @property
    def arms(self) -> tuple[str, str]:
        """Both."""
        return self.first, self.second

    @property
    def better(self) -> Literal["first", "second", "tie"]:
        """Which of them is better, if that can be told."""
        if not self.p <= LEVEL:
            return "tie"
        return "first" if (self.difference.value > 0) == self.up else "second"

    def __str__(self) -> str:
        value, low, high = (f"{one:+.3f}" for one in (self.difference.value, self.difference.low, self.difference.high))
        names = {"first": (self.first, self.second), "second": (self.second, self.first)}
        said = (
            " is better than ".join(names.get(self.better, ()))
            or f"{self.first} and {self.second} cannot be told apart"
        )
        return (
            f"{said}: {self.first} - {self.second} = {value} [{low}, {high}], p = {self.p:.2g} for all pairs together"
        )

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "first": self.first,
            "second": self.second,
            "difference": self.difference.value,
            "low": self.difference.low,
            "high": self.difference.high,
            "p": self.p,
            "better": self.better,
        }

    def turned(self) -> Verdict:
        """The same with the arms in the other order."""
        found = self.difference
        # Not by a minus sign, of which nothing has one too: -0.000.
        turned = replace(found, value=0.0 - found.value, low=0.0 - found.high, high=0.0 - found.low)
        return Verdict(self.second, self.first, turned, self.p, self.up)


def verdicts(
    arms: Sequence[str], difference: Callable[[str, str], Difference | None], *, up: bool = True
) -> list[Verdict]:
    """A verdict for every pair of arms that can be compared.

    Args:
        arms: Their names.
        difference: Score of one arm minus that of another on the items that both have; None where those are others.
        up: Whether higher scores are better.
    """
    found = [(first, second, difference(first, second)) for first, second in combinations(arms, 2)]
    tested = [(first, second, one) for first, second, one in found if one is not None and one.p is not None]
    raised = holm([one.p for *_, one in tested if one.p is not None])
    return [Verdict(first, second, one, p, up) for (first, second, one), p in zip(tested, raised, strict=True)]


def among_the_best(arms: Sequence[str], best: str, found: Sequence[Verdict]) -> list[str]:
    """The arms that cannot be told from the best one, itself among them; those that no test is about are not."""
    ties = {one.second if one.first == best else one.first for one in found if one.better == "tie" and best in one.arms}
    return [arm for arm in arms if arm == best or arm in ties]
