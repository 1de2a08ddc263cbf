"""Factors of choice: what is often said of strategies in adjectives (large, slow, flexible), as measured here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hfstrat.recipe.compare import FLOORS
from hfstrat.report import tables
from hfstrat.report.tables import Interval, Line

if TYPE_CHECKING:
    from rich.table import Table

Gain = Callable[[Line, Line], Interval | None]
"""How much better one arm is than another on the same test items; None where that was not tested."""


@dataclass(frozen=True)
class Factor:
    """One question about all strategies.

    Args:
        name: What is asked.
        cells: An answer for each strategy; empty where it was not measured.
    """

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Factors:
    """What decides between strategies, side by side.

    Args:
        strategies: Their names.
        rows: The factors; those of which nothing was measured are left out.
    """

    strategies: tuple[str, ...]
    rows: tuple[Factor, ...]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Factors:
        """From plain data."""
        rows = (Factor(row["name"], tuple(row["cells"])) for row in stored["rows"])
        return cls(tuple(stored["strategies"]), tuple(rows))

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def markdown(self) -> str:
        """As a Markdown table; empty with fewer than two strategies, between which there is nothing to choose."""
        if len(self.strategies) < 2:
            return ""
        rows = [(row.name, *row.cells) for row in self.rows]
        return tables.markdown_table(["", *self.strategies], rows, right=[False, *[True] * len(self.strategies)])

    def __rich__(self) -> Table:
        """For a terminal or a notebook."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        table.add_column("", overflow="fold")
        for name in self.strategies:
            table.add_column(Text(name), justify="right", overflow="fold")
        for row in self.rows:
            # An interval goes below its number, for there may be many strategies.
            table.add_row(Text(row.name), *(Text(cell.replace(" [", "\n[").replace(" (", "\n(")) for cell in row.cells))
        return table


def factors(lines: Sequence[Line], metric: str, gain: Gain, needed: Mapping[str, str] | None = None) -> Factors:
    """Put what was measured of each strategy under the factors that are asked for.

    Args:
        lines: The arms, floors among them.
        metric: What decides.
        gain: How much better one arm is than another.
        needed: The data that each arm needs to be as good as the best one, in words.
    """
    strategies = _strategies(lines)
    floors = [line for line in lines if line.kind in FLOORS]
    scratch = [line for line in strategies if line.architecture == "any"]

    def each(name: str, answer: Callable[[Line], str]) -> Factor:
        return Factor(name, tuple(answer(line) for line in strategies))

    def over(others: Sequence[Line]) -> Callable[[Line], str]:
        def text(line: Line) -> str:
            alike = [one for one in others if one.train_rows == line.train_rows and one is not line]
            other = tables.best_line(alike, metric)
            found = None if other is None else gain(line, other)
            return "" if found is None else f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"

        return text

    def quality(line: Line) -> str:
        measure = line.metrics.get(metric)
        return tables.score(measure) if measure is not None else line.state or ""

    rows = (
        each("data: as good as the best from", lambda line: (needed or {}).get(line.arm, "")),
        each("compute: FLOP of a run", _of("flops", tables.operations)),
        each("time of a run", _of("seconds", tables.duration)),
        each("cost of a run", _of("cost", tables.money)),
        each("similarity: gain over random weights", over(scratch)),
        each("similarity: gain over the best floor", over(floors)),
        each("flexibility: architecture", lambda line: line.architecture or ""),
        each("deployed: artefact", _of("artifact_bytes", tables.size)),
        each("deployed: parameters stored", _of("stored_parameters", tables.count)),
        each("peak live memory", _of("peak_live_bytes", tables.size)),
        each("peak resident memory", _of("peak_rss_bytes", tables.size)),
        each(f"quality: {metric}", quality),
    )
    return Factors(tuple(line.arm for line in strategies), tuple(row for row in rows if any(row.cells)))


def _strategies(lines: Sequence[Line]) -> list[Line]:
    """A line for each strategy: of those whose seeds ended differently the one that is done."""
    found: dict[str, Line] = {}
    for line in lines:
        if line.kind not in FLOORS and (line.arm not in found or line.state == "done"):
            found[line.arm] = line
    return [*found.values()]


def _of(name: str, write: Callable[[float], str]) -> Callable[[Line], str]:
    def text(line: Line) -> str:
        value = getattr(line, name)
        return "" if value is None else write(value)

    return text


def needed(winners: Iterable[tuple[str, Sequence[str]]], arms: Iterable[str]) -> dict[str, str]:
    """For each arm the amount of data from which on it cannot be told from the best, else `never`.

    On little data nothing can be told from anything; so it has to hold for every larger amount as well.

    Args:
        winners: Amounts of data in words, from the smallest on, each with the arms that are the best there.
        arms: All arms.
    """
    told = [*winners]
    found = dict.fromkeys(arms, "never") if told else {}
    for arm in found:
        for size, best in reversed(told):
            if arm not in best:
                break
            found[arm] = size
    return found
