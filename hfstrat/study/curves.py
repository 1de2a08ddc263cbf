"""Quality against the amount of data: who is ahead at each of them, and where two arms change places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from hfstrat.report.tables import Line, best_line
from hfstrat.study.verdicts import Verdict, among_the_best

Curves = Mapping[str, Mapping[str, str]]
"""Names of arms, by strategy or floor and by the amount of data as names of runs say it."""


@dataclass(frozen=True)
class Winner:
    """Who is ahead on an amount of data.

    Args:
        size: The amount, as names of runs say it.
        train_rows: Training examples that it is.
        best: Strategies and floors of which none can be told from the best one, itself the first.
    """

    size: str
    train_rows: int | None
    best: tuple[str, ...]


@dataclass(frozen=True)
class Crossing:
    """Two arms of which one is better on less data and the other one on more, where tests tell both.

    Args:
        before: What is better on less.
        after: What is better on more.
        until: The largest amount of data on which the one is.
        since: The smallest one after it on which the other is.
    """

    before: str
    after: str
    until: str
    since: str

    def __str__(self) -> str:
        return f"{self.before} is better than {self.after} up to {self.until}, {self.after} from {self.since} on"


@dataclass(frozen=True)
class Shape:
    """What tests say about curves.

    Args:
        winners: Who is ahead on each amount of data, from the smallest on.
        crossings: Who changes places.
    """

    winners: tuple[Winner, ...]
    crossings: tuple[Crossing, ...]

    def sentences(self) -> Iterator[str]:
        """The same in words."""
        for winner in self.winners:
            best, *others = winner.best
            rows = "" if winner.train_rows is None else f" ({winner.train_rows:,} rows)"
            tied = f"; {', '.join(others)} cannot be told from it" if others else ""
            yield f"{winner.size}{rows}: {best} is ahead{tied}"
        yield from map(str, self.crossings)
        if len(self.winners) > 1 and not self.crossings:
            yield "no two arms are seen to change places"

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {name: [asdict(one) for one in getattr(self, name)] for name in ("winners", "crossings")}


def shape_of(
    curves: Curves, lines: Sequence[Line], metric: str, verdict: Callable[[str, str], Verdict | None]
) -> Shape:
    """Read curves by the tests of each amount of data.

    Args:
        curves: The arms.
        lines: Their figures.
        metric: What decides.
        verdict: Which of two arms is better, if that can be told.
    """
    sizes = by_rows(curves, lines)
    return Shape(
        tuple(_winners(curves, lines, metric, verdict, sizes)),
        tuple(one for pair in combinations(curves, 2) for one in _crossings(curves, *pair, verdict, [*sizes])),
    )


def by_rows(curves: Curves, lines: Sequence[Line]) -> dict[str, int | None]:
    """Amounts of data with their training examples, from the smallest on."""
    rows = {line.arm: line.train_rows for line in lines if line.train_rows is not None}
    sizes = dict.fromkeys(size for arms in curves.values() for size in arms)
    known: dict[str, int | None] = {
        size: next((rows[arms[size]] for arms in curves.values() if arms.get(size) in rows), None) for size in sizes
    }
    return dict(sorted(known.items(), key=lambda item: (item[1] is None, item[1] or 0)))


def _winners(
    curves: Curves,
    lines: Sequence[Line],
    metric: str,
    verdict: Callable[[str, str], Verdict | None],
    sizes: Mapping[str, int | None],
) -> Iterator[Winner]:
    for size, rows in sizes.items():
        families = {arms[size]: family for family, arms in curves.items() if size in arms}
        best = best_line([line for line in lines if line.arm in families], metric)
        if best is None:
            continue
        found = [one for arm in families if arm != best.arm and (one := verdict(best.arm, arm)) is not None]
        tied = among_the_best([*families], best.arm, found)
        yield Winner(size, rows, tuple(families[arm] for arm in sorted(tied, key=lambda arm: arm != best.arm)))


def _crossings(
    curves: Curves, first: str, second: str, verdict: Callable[[str, str], Verdict | None], sizes: Sequence[str]
) -> Iterator[Crossing]:
    told: tuple[str, str] | None = None  # who was better, and where
    for size in sizes:
        if size not in curves[first] or size not in curves[second]:
            continue
        found = verdict(curves[first][size], curves[second][size])
        if found is None or found.better == "tie":
            continue
        ahead = first if found.better == "first" else second
        if told is not None and told[0] != ahead:
            yield Crossing(told[0], ahead, told[1], size)
        told = ahead, size
