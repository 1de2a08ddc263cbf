"""Tables of runs: on a terminal, in a notebook, as Markdown, CSV and JSON, all from the same lines."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hfstrat.runs.directory import Run, State
from hfstrat.runs.rows import Row

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

STATE_STYLES = {"done": "green", "running": "cyan", "interrupted": "yellow"}
"""Colours of states; every other state is red."""
_SEED = re.compile(r"-seed\d+$")
_MARKUP = re.compile(r"([\\`*_\[\]<>|#])")
T = TypeVar("T")


class Interval(Protocol):
    """A number with its interval, such as a difference of two arms."""

    @property
    def value(self) -> float:
        """The number."""

    @property
    def low(self) -> float:
        """Lower end."""

    @property
    def high(self) -> float:
        """Upper end."""


@dataclass(frozen=True)
class Measure:
    """A metric of an arm, over its seeds.

    Args:
        value: Mean over seeds; None where it is undefined.
        low: Lower end of the 95 % interval over test items: the mean of the seeds' lower ends.
        high: Upper end, likewise. Neither says what another seed would do; `spread` does.
        spread: Standard deviation over seeds; None with fewer than two.
        interval: How the intervals were computed (`wilson`, `bootstrap`).
        unit: Unit of the value.
        higher_is_better: Which way is up.
    """

    value: float | None
    low: float | None
    high: float | None
    spread: float | None
    interval: str | None
    unit: str
    higher_is_better: bool

    @classmethod
    def over(cls, scores: Sequence[Mapping[str, Any]]) -> Measure:
        """Join the scores of an arm's seeds, each an entry of `metrics.json`."""
        values = _known(score.get("value") for score in scores)
        first = scores[0]
        return cls(
            value=_mean(values),
            low=_mean(_known(score.get("low") for score in scores)),
            high=_mean(_known(score.get("high") for score in scores)),
            spread=statistics.stdev(values) if len(values) > 1 else None,
            interval=first.get("interval"),
            unit=first.get("unit") or "",
            higher_is_better=first.get("higher_is_better", True),
        )


@dataclass(frozen=True)
class Tuned:
    """How an arm's learning rate was chosen.

    Args:
        lr: The rate.
        seconds: What the runs took that it was chosen by, beside the arm's own.
        flops: Their floating-point operations.
    """

    lr: float
    seconds: float | None
    flops: float | None


@dataclass(frozen=True)
class Line:
    """An arm of a comparison: its runs over seeds, as far as they ended alike. What was not measured is None.

    Args:
        arm: Name that its runs share.
        size: Amount of data that it is compared on, as its name says it; None where all arms are compared.
        kind: Strategy or floor.
        state: `done`, or how the runs ended.
        reason: Why the first of them ended so.
        runs: Names of the runs.
        train_rows: Training examples.
        test_rows: Test examples.
        metrics: Each metric over the seeds.
        seconds: Mean wall time of a run, and what choosing its learning rate took.
        training_seconds: Mean wall time of solve and train.
        flops: Mean floating-point operations of a run, likewise.
        cost: Mean price of a run, likewise.
        tuned: How its learning rate was chosen; None where it was given.
        reached: Part of the data after which its strategy was dropped within a budget, such as `n/4`.
        peak_live_bytes: Most bytes of tensors alive at once, over seeds.
        peak_rss_bytes: Most anonymous resident memory, over seeds.
        trainable_parameters: Parameters that trained.
        stored_parameters: Parameters in the artefact.
        architecture: Which ones its strategy can have, as of a Row.
        artifact_bytes: Size of the artefact's weights.
    """

    arm: str
    size: str | None
    kind: str
    state: State | None
    reason: str | None
    runs: tuple[str, ...]
    train_rows: int | None
    test_rows: int | None
    metrics: Mapping[str, Measure]
    seconds: float | None
    training_seconds: float | None
    flops: float | None
    cost: float | None
    tuned: Tuned | None
    reached: str | None
    peak_live_bytes: int | None
    peak_rss_bytes: int | None
    trainable_parameters: int | None
    stored_parameters: int | None
    architecture: str | None
    artifact_bytes: int | None

    @classmethod
    def over(
        cls,
        rows: Sequence[Row],
        price: float | None = None,
        size: str | None = None,
        tuned: Tuned | None = None,
        reached: str | None = None,
    ) -> Line:
        """Join the rows of one arm; the price is that of an hour."""
        first = rows[0]
        seconds, flops = _mean(_known(row.seconds for row in rows)), _mean(_known(row.flops for row in rows))
        if tuned is not None:
            seconds, flops = _both(seconds, tuned.seconds), _both(flops, tuned.flops)
        names = dict.fromkeys(name for row in rows for name in row.metrics)
        return cls(
            arm=arm_of(first.name),
            size=size,
            kind=first.kind,
            state=first.state,
            reason=first.reason,
            runs=tuple(row.name for row in rows),
            train_rows=first.train_rows,
            test_rows=first.test_rows,
            metrics={name: Measure.over([row.metrics[name] for row in rows if name in row.metrics]) for name in names},
            seconds=seconds,
            training_seconds=_mean(_known(row.training_seconds for row in rows)),
            flops=flops,
            tuned=tuned,
            reached=reached,
            cost=None if seconds is None or price is None else seconds * price / 3600,
            peak_live_bytes=max(_known(row.peak_live_bytes for row in rows), default=None),
            peak_rss_bytes=max(_known(row.peak_rss_bytes for row in rows), default=None),
            trainable_parameters=first.trainable_parameters,
            stored_parameters=first.stored_parameters,
            architecture=first.architecture,
            artifact_bytes=max(_known(row.artifact_bytes for row in rows), default=None),
        )


def arm_of(name: str) -> str:
    """A run's name without its seed."""
    return _SEED.sub("", name)


def comparison_rows(
    rows: Sequence[Row],
    price: float | None = None,
    sizes: Mapping[str, str] | None = None,
    tuned: Mapping[str, Tuned] | None = None,
    reached: Mapping[str, str] | None = None,
) -> list[Line]:
    """Join runs that differ only by their seed; runs that ended differently stay apart.

    Args:
        rows: The runs, in the order in which their arms shall stand.
        price: Of an hour.
        sizes: Amounts of data on which arms are compared with others on the same.
        tuned: How learning rates of arms were chosen.
        reached: Parts of the data after which arms were dropped.
    """
    arms: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        # What failed knows no size, which must not part it from its like, and its state parts it from what is done.
        key = (arm_of(row.name), row.kind, row.train_rows, row.state)
        arms.setdefault(key, []).append(row)
    sizes, tuned, reached = sizes or {}, tuned or {}, reached or {}
    named = [(arm_of(group[0].name), group) for group in arms.values()]
    return [Line.over(group, price, sizes.get(name), tuned.get(name), reached.get(name)) for name, group in named]


def best_line(lines: Iterable[Line], metric: str) -> Line | None:
    """The arm that is ahead by a metric, if any has it."""
    scored = [(measure.value, line) for line in lines if (measure := line.metrics.get(metric)) and _has(measure)]
    if not scored:
        return None
    sign = 1 if scored[0][1].metrics[metric].higher_is_better else -1
    return max(scored, key=lambda pair: sign * (pair[0] or 0.0))[1]


def by_size(lines: Sequence[Line]) -> dict[str | None, list[Line]]:
    """The lines that are compared with each other."""
    found: dict[str | None, list[Line]] = {}
    for line in lines:
        found.setdefault(line.size, []).append(line)
    return found


# --- a comparison ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of text.

    Args:
        title: Its heading.
        cells: One text a line; empty for what was not measured.
        rank: Columns with a low rank stay longest when there is little room.
        right: Whether numbers are lined up on the right.
    """

    title: str
    cells: tuple[str, ...]
    rank: int
    right: bool = True

    @property
    def width(self) -> int:
        """Characters that it takes."""
        return max(map(len, (*self.title.split("\n"), *self.cells)))


def columns(
    lines: Sequence[Line], metric_names: Sequence[str], differences: Mapping[str, Interval] | None = None
) -> list[Column]:
    """A comparison as columns of text; a column without anything in it is left out."""

    def column(title: str, cells: Iterable[str], rank: int, right: bool = True) -> Column:
        return Column(title, tuple(cells), rank, right)

    made = [
        column("arm", (line.arm for line in lines), 0, right=False),
        column("train\nrows", (_text(line.train_rows, lambda n: f"{n:,}") for line in lines), 4),
        column("reached", (line.reached or "" for line in lines), 2),
        column("seeds", (_seeds(line, metric_names) for line in lines), 8),
        *(_metric_column(lines, name, place) for place, name in enumerate(metric_names)),
        column("time", (_text(line.seconds, duration) for line in lines), 1),
        column("FLOP", (_text(line.flops, operations) for line in lines), 7),
        column("cost", (_text(line.cost, money) for line in lines), 2),
        column("learning rate\nchosen", (_text(line.tuned, _chosen) for line in lines), 7),
        column("peak live\nmemory", (_text(line.peak_live_bytes, size) for line in lines), 2),
        column("peak resident\nmemory", (_text(line.peak_rss_bytes, size) for line in lines), 10),
        column("trained\nparams", (_text(line.trainable_parameters, count) for line in lines), 5),
        column("stored\nparams", (_text(line.stored_parameters, count) for line in lines), 9),
        column("artefact", (_text(line.artifact_bytes, size) for line in lines), 6),
    ]
    if differences and metric_names:
        best = [best_line(group, metric_names[0]) for group in by_size(lines).values()]
        cells = (_difference(line, differences.get(line.arm), any(line is one for one in best)) for line in lines)
        made.append(column("difference\nto the best", cells, 3))
    return [one for one in made if one.rank == 0 or any(one.cells)]


def _metric_column(lines: Sequence[Line], name: str, place: int) -> Column:
    cells = []
    for line in lines:
        measure = line.metrics.get(name)
        ended = "" if line.state == "done" or place else line.state or "not a run"
        # Only the deciding metric has room for its interval; the others' are in the files and in `show`.
        cells.append(ended or (_shown(measure, interval=not place) if measure else ""))
    down = any(name in line.metrics and not line.metrics[name].higher_is_better for line in lines)
    return Column(f"{name} ↓" if down else name, tuple(cells), (place - 1) * 10 + 1 if place else 0)


@dataclass(frozen=True)
class ComparisonTable:
    """A comparison that shows as many columns as there is room for.

    Args:
        lines: The arms.
        metric_names: Metrics to show; the first one matters most.
        differences: By arm, its first metric minus that of the best arm.
        title: What stands above.
    """

    lines: Sequence[Line]
    metric_names: Sequence[str]
    differences: Mapping[str, Interval] | None = None
    title: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Draw it for a console of some width."""
        from rich.text import Text

        if not self.lines:
            yield Text("no runs", "dim")
            return
        best = best_line(self.lines, self.metric_names[0]) if self.metric_names else None
        styles = ["bold" if line is best else "" if line.state == "done" else _style(line.state) for line in self.lines]
        shown = columns(self.lines, self.metric_names, self.differences)
        yield drawn(fitting(shown, options.max_width), styles, self.title)
        for line in self.lines:
            if line.state != "done" and line.reason:
                # The first line of a reason says it; the rest is in status.json.
                yield Text(f" {line.arm}: {line.state}: {line.reason.splitlines()[0]}", _style(line.state))
        if any(measure.low is not None for line in self.lines for measure in line.metrics.values()):
            yield Text(" [low–high]: 95 % interval over test items; ±: standard deviation over seeds", "dim")


def drawn(shown: Sequence[Column], styles: Sequence[str], title: str | None = None) -> Table:
    """Columns side by side for a terminal.

    Args:
        shown: The columns.
        styles: One for each row.
        title: What stands above.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    above = Text(title, "bold") if title else None
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=above, header_style="bold")
    for column in shown:
        table.add_column(
            Text(column.title),
            justify="right" if column.right else "left",
            no_wrap=column.right,
            overflow="ellipsis" if column.right else "fold",
            vertical="top",
        )
    for place, style in enumerate(styles):
        table.add_row(*(Text(column.cells[place]) for column in shown), style=style)
    return table


def fitting(every: Sequence[Column], width: int) -> list[Column]:
    """The most important columns that fit, in their own order."""
    room, chosen = width, set()
    for column in sorted(every, key=lambda one: one.rank):
        # A gap of two parts columns, and two more stand at the edges.
        if column.rank == 0 or column.width + 2 <= room - 2:
            chosen.add(id(column))
            room -= column.width + 2
    return [column for column in every if id(column) in chosen]


def comparison_table(
    lines: Sequence[Line],
    metric_names: Sequence[str] | None = None,
    differences: Mapping[str, Interval] | None = None,
    *,
    title: str | None = None,
) -> ComparisonTable:
    """A comparison for a terminal or a notebook.

    Args:
        lines: The arms, as from `comparison_rows`.
        metric_names: Metrics to show, the most important one first; None for all.
        differences: By arm, its first metric minus that of the best arm.
        title: What stands above.
    """
    return ComparisonTable(lines, _names(lines, metric_names), differences, title)


def to_markdown(
    lines: Sequence[Line],
    metric_names: Sequence[str] | None = None,
    differences: Mapping[str, Interval] | None = None,
) -> str:
    """A comparison as a Markdown table with every column."""
    shown = columns(lines, _names(lines, metric_names), differences)
    return markdown_table(
        [column.title.replace("\n", " ") for column in shown],
        zip(*(column.cells for column in shown), strict=True),
        right=[column.right for column in shown],
    )


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[bool] | None = None) -> str:
    """Text as a Markdown table, with what would break it escaped."""
    marks = ["--:" if is_right else "---" for is_right in right or [False] * len(titles)]
    body = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in (titles, marks, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in body) + "\n"


def plain(text: str) -> str:
    """A text that is no Markdown, in one line."""
    return _MARKUP.sub(r"\\\1", re.sub(r"[\r\n]+", " ", text))


def records(
    lines: Sequence[Line],
    metric_names: Sequence[str] | None = None,
    differences: Mapping[str, Interval] | None = None,
) -> list[dict[str, Any]]:
    """A comparison as plain data in base units (seconds, bytes, parameters); not measured is None."""
    names = _names(lines, metric_names)
    basic = ("arm", "kind", "state", "reason", "train_rows", "test_rows")
    cost = ("seconds", "training_seconds", "flops", "cost", "peak_live_bytes", "peak_rss_bytes")
    sizes = ("trainable_parameters", "stored_parameters", "artifact_bytes")
    found = []
    for line in lines:
        record: dict[str, Any] = {name: getattr(line, name) for name in basic}
        record["runs"] = list(line.runs)
        record["reached"] = line.reached
        record["lr"] = line.tuned.lr if line.tuned else None
        record["tuning_seconds"] = line.tuned.seconds if line.tuned else None
        record["metrics"] = {name: vars(line.metrics[name]) for name in names if name in line.metrics}
        record |= {name: getattr(line, name) for name in (*cost, *sizes)}
        difference = (differences or {}).get(line.arm)
        record["difference_to_best"] = _bounds(difference) if difference else None
        found.append(record)
    return found


def to_json(
    lines: Sequence[Line],
    metric_names: Sequence[str] | None = None,
    differences: Mapping[str, Interval] | None = None,
) -> str:
    """A comparison as JSON text: `records`."""
    return json.dumps(records(lines, metric_names, differences), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def flat_records(
    lines: Sequence[Line],
    metric_names: Sequence[str] | None = None,
    differences: Mapping[str, Interval] | None = None,
) -> list[dict[str, Any]]:
    """A comparison as records without anything nested: `accuracy`, `accuracy_low`, …, `difference_value`."""
    names = _names(lines, metric_names)
    parts = ("value", "low", "high", "spread")
    flat = []
    for record in records(lines, names, differences):
        metrics, difference = record.pop("metrics"), record.pop("difference_to_best") or {}
        record["runs"] = " ".join(record["runs"])
        for name in names:
            measured = metrics.get(name, {})
            record |= {name if part == "value" else f"{name}_{part}": measured.get(part) for part in parts}
        record |= {f"difference_{part}": difference.get(part) for part in ("value", "low", "high")}
        flat.append(record)
    return flat


def to_csv(
    lines: Sequence[Line],
    metric_names: Sequence[str] | None = None,
    differences: Mapping[str, Interval] | None = None,
) -> str:
    """A comparison as CSV in base units, a line for each arm; not measured is empty."""
    flat = flat_records(lines, metric_names, differences)
    stream = io.StringIO()
    if flat:
        writer = csv.DictWriter(stream, fieldnames=list(flat[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
    return stream.getvalue()


# --- one run -----------------------------------------------------------------------------------------------------


def run_table(run: Run) -> RenderableType:
    """One run: how it ended, its scores, what it cost."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, padding=(0, 1), title=Text(run.name, "bold"), title_justify="left")
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text, style in _facts(run):
        if text:
            table.add_row(Text(name), Text(text, style))
    return table


def _facts(run: Run) -> Iterator[tuple[str, str, str]]:
    row, env = Row.of(run), run.read("env.json") or {}
    status = row.state or "not a run"
    yield "state", f"{status}: {row.reason}" if row.reason else status, _style(row.state)
    yield "strategy", "" if row.kind == "?" else row.kind, ""
    yield "model", str((env.get("model") or {}).get("name") or ""), ""
    yield "rows", rows_by_split(env), ""
    for name, entry in row.metrics.items():
        yield name, score(Measure.over([entry])), "bold"
    yield "time", _text(row.seconds, duration), ""
    phases = run.ledger.get("phases", {})
    yield "", ", ".join(f"{name} {duration(phase['seconds'])}" for name, phase in phases.items()), "dim"
    yield "arithmetic", _text(row.flops, lambda flops: f"{operations(flops)}FLOP"), ""
    yield "peak live memory", _text(row.peak_live_bytes, size), ""
    yield "peak resident memory", _text(row.peak_rss_bytes, size), ""
    yield "trained parameters", _text(row.trainable_parameters, count), ""
    yield "stored parameters", _text(row.stored_parameters, count), ""
    yield "artefact", _text(row.artifact_bytes, size), ""


def rows_by_split(env: Mapping[str, Any]) -> str:
    """How many rows each split has, from `env.json`."""
    rows = (env.get("data") or {}).get("rows") or {}
    return ", ".join(f"{name} {number:,}" for name, number in rows.items() if number is not None)


# --- numbers as text ---------------------------------------------------------------------------------------------


def number(value: float, unit: str = "fraction") -> str:
    """A metric's value: three decimals for what lies between -1 and 1 by nature, else four digits."""
    return f"{value:.3f}" if unit in ("fraction", "correlation", "nats") else f"{value:.4g}"


def score(measure: Measure) -> str:
    """A metric with its interval: `0.931 [0.922–0.940]`."""
    if measure.value is None:
        return "undefined"
    text = number(measure.value, measure.unit)
    if measure.low is None or measure.high is None:
        return text
    return f"{text} [{number(measure.low, measure.unit)}–{number(measure.high, measure.unit)}]"


def duration(seconds: float) -> str:
    """Wall time in seconds, in hours when it is long."""
    if seconds >= 3 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds:,.{0 if seconds >= 100 else 1 if seconds >= 10 else 2}f} s"


def size(n_bytes: float) -> str:
    """Bytes in MiB; in KiB when small and GiB when large."""
    mib = n_bytes / 2**20
    if mib >= 10_000:
        return f"{mib / 1024:.1f} GiB"
    if mib < 0.1:
        return f"{n_bytes / 1024:.1f} KiB"
    return f"{mib:,.{0 if mib >= 100 else 1}f} MiB"


def money(amount: float) -> str:
    """A price in hundredths; a small one with two digits."""
    return f"{amount:,.2f}" if amount >= 0.1 or amount == 0 else f"{amount:.2g}" if amount >= 1e-4 else "< 0.0001"


def operations(flops: float) -> str:
    """Floating-point operations with three digits: `41.2T`, `1.80P`."""
    for unit, name in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")):
        if flops >= 0.9995 * unit:
            value = flops / unit
            return f"{value:,.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{name}"
    return f"{flops / 1e6:.3g}M"


def count(n: float) -> str:
    """Parameters with three digits: `590k`, `22.7M`, `1.24B`."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        # 999 950 would round up to four digits of the smaller unit.
        if n >= 0.9995 * unit:
            value = n / unit
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{name}"
    return f"{n:.0f}"


def _shown(measure: Measure, *, interval: bool) -> str:
    return score(measure) if interval or measure.value is None else number(measure.value, measure.unit)


def _seeds(line: Line, metric_names: Sequence[str]) -> str:
    spread = line.metrics[metric_names[0]].spread if metric_names and metric_names[0] in line.metrics else None
    return f"{len(line.runs)} (±{spread:.3f})" if spread is not None else str(len(line.runs))


def _difference(line: Line, difference: Interval | None, is_best: bool) -> str:
    if difference is None:
        return "best" if is_best else ""
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def _chosen(tuned: Tuned) -> str:
    return f"{tuned.lr:g}" if tuned.seconds is None else f"{tuned.lr:g} (in {duration(tuned.seconds)})"


def _both(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _bounds(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _names(lines: Sequence[Line], names: Sequence[str] | None) -> Sequence[str]:
    return list(dict.fromkeys(name for line in lines for name in line.metrics)) if names is None else names


def _style(state: str | None) -> str:
    return STATE_STYLES.get(state or "", "red")


def _has(measure: Measure) -> bool:
    return measure.value is not None


def _known(values: Iterable[T | None]) -> list[T]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _text(value: Any, write: Any) -> str:
    return "" if value is None else str(write(value))
