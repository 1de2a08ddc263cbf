"""Curves of a comparison: quality over amounts of training data, and validation over a run's time and updates."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, takewhile
from pathlib import Path, PurePath
from typing import Any, Literal, Protocol

from hfstrat.recipe.compare import FLOORS
from hfstrat.report.tables import Line, arm_of, best_line, plain
from hfstrat.runs.directory import Run

Curves = Mapping[str, Mapping[str, str]]
"""Names of arms, by strategy or floor and by the amount of data as names of runs say it."""


class Told(Protocol):
    """What tests say about two arms."""

    @property
    def better(self) -> Literal["first", "second", "tie"]:
        """Which of them is better, if that can be told."""


Tests = Callable[[str, str], Told | None]
"""What tests say about two arms by their names; None where nothing was tested."""


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

    @property
    def amount(self) -> str:
        """The amount in words, with its examples where its name does not tell them."""
        if self.train_rows is None:
            return self.size
        rows = f"{self.train_rows:,} rows"
        return rows if self.size == str(self.train_rows) else f"{self.size} ({rows})"


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
            tied = f"; {', '.join(others)} cannot be told from it" if others else ""
            yield f"{winner.amount}: {best} is ahead{tied}"
        yield from map(str, self.crossings)
        if len(self.winners) > 1 and not self.crossings:
            yield "no two arms are seen to change places"

    def markdown(self) -> str:
        """The same as a Markdown list."""
        return "".join(f"- {plain(sentence)}\n" for sentence in self.sentences())

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {name: [asdict(one) for one in getattr(self, name)] for name in ("winners", "crossings")}


def curves_of(folder: Path, stored: Mapping[str, Any], lines: Sequence[Line]) -> Curves:
    """Arms on several amounts of data: those that were asked for as such, else those that differ in their data alone.

    Args:
        folder: The comparison's directory.
        stored: What its `comparison.json` holds.
        lines: Its arms.
    """
    if asked := stored.get("curves"):
        return dict(asked)
    alike: dict[str, dict[str, str]] = {}
    for line in lines:
        if line.train_rows:
            alike.setdefault(_strategy(folder, line), {}).setdefault(str(line.train_rows), line.arm)
    found: dict[str, dict[str, str]] = {}
    for arms in alike.values():
        if len(arms) > 1:
            begun = takewhile(lambda letters: len(set(letters)) == 1, zip(*arms.values(), strict=False))
            name = "".join(letters[0] for letters in begun).rstrip("-_.")
            found[name if name and name not in found else ", ".join(arms.values())] = arms
    return found


def _strategy(folder: Path, line: Line) -> str:
    """What makes an arm what it is, beside its data; a teacher is its arm, whatever its seed."""
    if line.kind in FLOORS:
        return line.kind
    asked = ((Run(folder / line.runs[0]).read("env.json") or {}).get("requested") or {}).get("strategy") or {}
    teacher = {"teacher": arm_of(PurePath(asked["teacher"]).name)} if asked.get("teacher") else {}
    return json.dumps([line.kind, {**asked, **teacher}], sort_keys=True)


def shape_of(curves: Curves, lines: Sequence[Line], metric: str, verdict: Tests) -> Shape:
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
    verdict: Tests,
    sizes: Mapping[str, int | None],
) -> Iterator[Winner]:
    of_curves = {arm for arms in curves.values() for arm in arms.values()}
    for size, rows in sizes.items():
        families = {arms[size]: family for family, arms in curves.items() if size in arms}
        # Arms on this amount alone may be ahead on it as well.
        tested = {line.size for line in lines if line.arm in families}
        alone = [line.arm for line in lines if line.train_rows == rows and line.size in tested]
        families |= {arm: arm for arm in alone if arm not in of_curves}
        best = best_line([line for line in lines if line.arm in families], metric)
        if best is None:
            continue
        told = {arm: verdict(best.arm, arm) for arm in families if arm != best.arm}
        tied = [arm for arm, one in told.items() if one is not None and one.better == "tie"]
        yield Winner(size, rows, tuple(families[arm] for arm in (best.arm, *tied)))


def _crossings(curves: Curves, first: str, second: str, verdict: Tests, sizes: Sequence[str]) -> Iterator[Crossing]:
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


@dataclass(frozen=True)
class Moment:
    """A validation of a run.

    Args:
        update: Updates before it, over all stages.
        seconds: Since the run began; None where the run did not write that down.
        score: The deciding metric; None where it is undefined.
        loss: The loss; None where it is not finite.
    """

    update: int
    seconds: float | None
    score: float | None
    loss: float | None


def moments(run: Run, metric: str) -> list[Moment]:
    """The validations of a run, from its log; their times are in its ledger."""
    scores = [*_scores(run.log())]
    times: list[Any] = run.ledger.get("seconds_at_scores") or []
    if len(times) != len(scores):  # a run that ended early has no ledger, and older ones have no times
        times = [None] * len(scores)
    return [
        Moment(update, seconds, score["metrics"].get(metric), score.get("loss"))
        for (update, score), seconds in zip(scores, times, strict=True)
    ]


def _scores(log: Sequence[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Validations, and the updates before each: a log counts those of a stage."""
    stage, before, here = None, 0, 0
    for line in log:
        if line["kind"] not in ("score", "update"):
            continue
        if line["stage"] != stage:
            stage, before, here = line["stage"], before + here, 0
        here = max(here, line["update"])
        if line["kind"] == "score":
            yield before + line["update"], line
