"""A comparison as its directory holds it: arms, pairs, and what they say together. Needs no torch."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

from hfstrat.errors import Problem, UsageError
from hfstrat.recipe.compare import FLOORS
from hfstrat.report import tables
from hfstrat.report.curves import Curves, Shape, curves_of, shape_of
from hfstrat.report.factors import Factors
from hfstrat.runs.directory import Run
from hfstrat.runs.rows import Row


@dataclass(frozen=True)
class Pair:
    """What is known of two arms on the same items: a line of `verdicts.json`.

    Args:
        first: An arm.
        second: Another one.
        value: Score of the first minus that of the second.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p: p-value, raised for the number of pairs (Holm 1979).
        better: Which of them is better, if that can be told.
    """

    first: str
    second: str
    value: float
    low: float
    high: float
    p: float
    better: Literal["first", "second", "tie"]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Pair:
        """Read a line."""
        names = ("first", "second", "low", "high", "p", "better")
        return cls(value=stored["difference"], **{name: stored[name] for name in names})

    def turned(self) -> Pair:
        """The same with the arms in the other order."""
        better: dict[str, Literal["first", "second", "tie"]] = {"first": "second", "second": "first", "tie": "tie"}
        return Pair(self.second, self.first, -self.value, -self.high, -self.low, self.p, better[self.better])


@dataclass(frozen=True)
class Compared:
    """A comparison's directory.

    Args:
        path: The directory.
        runs: Its runs, in order.
        lines: A line for each arm, over its seeds.
        metrics: Names of the metrics, the deciding one first.
        pairs: All pairs of arms that were tested.
        curves: Arms on several amounts of data.
        factors: What decides between the strategies; None in directories without it.
    """

    path: Path
    runs: tuple[Run, ...]
    lines: list[tables.Line]
    metrics: tuple[str, ...]
    pairs: tuple[Pair, ...]
    curves: Curves
    factors: Factors | None = None

    @classmethod
    def read(cls, folder: str | Path) -> Compared:
        """Read a comparison's directory.

        Raises:
            UsageError: It is none, or files of it are missing or damaged.
        """
        path = Path(folder)
        stored, verdicts = _json(path, "comparison.json"), _json(path, "verdicts.json")
        try:
            runs = tuple(Run(path / name) for name in stored["runs"])
            pairs = tuple(map(Pair.of, verdicts["pairs"]))
            metrics = tuple(stored["metrics"])
            lines = lines_of(path, stored)
            curves = curves_of(path, stored, lines)
            decides = Run(path).read("factors.json")
            factors = None if decides is None else Factors.of(decides)
        except (KeyError, TypeError):
            hint = "`hfstrat compare RECIPE` writes its files again; arms that are done are not run again"
            raise UsageError(Problem(f"the files of {path} are not those of a comparison", hint=hint)) from None
        return cls(path, runs, lines, metrics, pairs, curves, factors)

    @property
    def name(self) -> str:
        """Of the directory."""
        return self.path.resolve().name

    @property
    def metric(self) -> str:
        """The deciding one."""
        return self.metrics[0]

    @property
    def done(self) -> list[tables.Line]:
        """Arms that ended well."""
        return [line for line in self.lines if line.state == "done"]

    @property
    def failed(self) -> list[tables.Line]:
        """Those that did not."""
        return [line for line in self.lines if line.state != "done"]

    @cached_property
    def best(self) -> tables.Line | None:
        """The arm that is ahead, whether or not that can be told."""
        return tables.best_line(self.done, self.metric)

    @cached_property
    def shape(self) -> Shape:
        """Who is ahead on each amount of data, and which arms change places."""
        return shape_of(self.curves, self.lines, self.metric, self.pair)

    @property
    def higher_is_better(self) -> bool:
        """Which way of the deciding metric is up."""
        return next((line.metrics[self.metric].higher_is_better for line in self._measured), True)

    @property
    def _measured(self) -> list[tables.Line]:
        return [line for line in self.done if self.metric in line.metrics]

    def run_of(self, line: tables.Line) -> Run:
        """The first run of an arm."""
        return Run(self.path / line.runs[0])

    def pair(self, first: str, second: str) -> Pair | None:
        """What is known of two arms; None where nothing was tested."""
        return self._by_arms.get((first, second))

    @cached_property
    def _by_arms(self) -> dict[tuple[str, str], Pair]:
        both = (one for pair in self.pairs for one in (pair, pair.turned()))
        return {(one.first, one.second): one for one in both}

    @property
    def differences(self) -> dict[str, Pair]:
        """For each arm its difference to the best one on as much data."""
        found: dict[str, Pair] = {}
        for lines in tables.by_size(self.done).values():
            best = tables.best_line(lines, self.metric)
            pairs = {line.arm: self.pair(line.arm, best.arm) for line in lines} if best is not None else {}
            found |= {arm: pair for arm, pair in pairs.items() if pair is not None}
        return found

    @property
    def others(self) -> list[tables.Line]:
        """Arms that were tested against the best one."""
        best = self.best
        return [] if best is None else [line for line in self.done if self.pair(line.arm, best.arm) is not None]

    @property
    def together(self) -> list[Pair]:
        """The pairs for which p was raised together with those of the best arm: all on as much data as it."""
        size = None if self.best is None else self.best.size
        arms = {line.arm for line in self.lines if line.size == size}
        return [pair for pair in self.pairs if pair.first in arms]

    @property
    def ties(self) -> list[tables.Line]:
        """Arms that cannot be told from the best one."""
        return [line for line in self.others if self.differences[line.arm].better == "tie"]

    def detectable(self) -> tuple[float, float] | None:
        """About which difference is told from none: of one pair alone, and of all pairs together.

        That is half of a 95 % interval of a difference, in the median over the pairs of strategies; of all together it
        is wider by as much as the normal quantile of Holm's first step.
        """
        floors = {line.arm for line in self.lines if is_floor(line)}
        own = [pair for pair in self.together if not {pair.first, pair.second} & floors] or self.together
        halves = [(pair.high - pair.low) / 2 for pair in own if pair.high > pair.low]
        if not halves:
            return None
        alone, quantile = statistics.median(halves), NormalDist().inv_cdf
        return alone, alone * quantile(1 - 0.025 / len(self.together)) / quantile(0.975)


def lines_of(folder: Path, stored: Mapping[str, Any]) -> list[tables.Line]:
    """A line for each arm of a comparison, over its seeds.

    Args:
        folder: The comparison's directory.
        stored: What its `comparison.json` holds.
    """
    rows = [Row.of(Run(folder / name)) for name in stored["runs"]]
    curves = stored.get("curves", {})
    sizes = {arm: size for arms in curves.values() for size, arm in arms.items()}
    tuned = {arm: _tuned(folder, **one) for arm, one in stored.get("tuned", {}).items()}
    dropped = {
        curves[name][rung["size"]]: rung["part"]
        for rung in stored.get("rungs", ())
        for name in rung["losses"]
        if name not in rung["kept"]
    }
    return tables.comparison_rows(rows, stored.get("price"), sizes, tuned, dropped)


def _tuned(folder: Path, lr: float, runs: Sequence[str]) -> tables.Tuned:
    """What choosing a learning rate took; None where not all of it was measured."""
    rows = [Row.of(Run(folder / name)) for name in runs]
    seconds, flops = ([getattr(row, name) for row in rows] for name in ("seconds", "flops"))
    return tables.Tuned(lr, None if None in seconds else sum(seconds), None if None in flops else sum(flops))


def is_floor(line: tables.Line) -> bool:
    """Whether an arm is a baseline without a neural network."""
    return line.kind in FLOORS


def names(lines: Sequence[tables.Line]) -> str:
    """Arms in a sentence."""
    words = [line.arm for line in lines]
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        found = Run(folder).read(name)
    except (json.JSONDecodeError, NotADirectoryError):
        found = None
    if found is None:
        known = (folder / "comparison.json").is_file()
        what = f"{folder / name} is missing or damaged" if known else f"{folder} holds no comparison"
        raise UsageError(Problem(what, hint="`hfstrat compare RECIPE` makes one, and writes its files again"))
    return found
