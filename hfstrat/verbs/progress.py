"""What is shown of a run while it goes: bars on a terminal, one output in a notebook, plain lines anywhere else.

Progress goes to stderr and results to stdout, so that `hfstrat … --json > file` holds nothing but the result.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hfstrat.environment import rank, silence_imports
from hfstrat.redact import printable, redact
from hfstrat.report.markup import Markup, Value, join, tag
from hfstrat.runs.events import Observer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

# A log is read later: a line every ten seconds at first, and fewer as a phase grows long.
SECONDS_BETWEEN_LINES = 10.0
SHARE_BETWEEN_LINES = 0.05
# Quarters that follow each other faster than this are not worth a line each.
SECONDS_BETWEEN_QUARTERS = 1.0
WIDTH_OF_FILES = 140
_WIDE = 110  # columns from which on decisions have room for columns of their own
WARNING = "warning: "
# A notebook keeps the latest lines in sight, and is sent no more of them than a screen can show.
LAST_LINES = 6
SECONDS_BETWEEN_DRAWINGS = 0.25


class Listener(Observer):
    """An observer that can also say what the program is busy with before a run begins."""

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Show that something takes a moment."""
        yield


def observer(*, quiet: bool = False) -> Listener:
    """The listener that suits where stderr goes; what is imported from now on says nothing of its own.

    Args:
        quiet: Show warnings only.
    """
    silence_imports()
    if rank():
        return Listener()  # one process speaks for all
    if quiet:
        return Quiet()
    if _in_notebook():
        return Notebook()
    return Live() if _is_terminal() else Plain()


def show(result: Any) -> None:
    """Print a result on stdout: text as it is, anything else as rich draws it."""
    if isinstance(result, str):
        print(result)
        return
    from rich.console import Console

    # rich takes a pipe or a file for a terminal of 80 columns, and would cut tables to it.
    is_file = not _in_notebook() and not sys.stdout.isatty() and "COLUMNS" not in os.environ
    Console(width=WIDTH_OF_FILES if is_file else None).print(result)


def say(text: str) -> None:
    """Print sentences on stdout; a terminal would part them within words."""
    if sys.stdout.isatty() and not _in_notebook():
        width = shutil.get_terminal_size().columns
        lines = text.split("\n")
        text = "\n".join(textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in lines)
    print(text)


def _is_terminal() -> bool:
    return sys.stderr.isatty() and (os.environ.get("TERM") or "dumb") not in ("dumb", "unknown")


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


# --- what there is to show ----------------------------------------------------------------------------------------


@dataclass
class Phase:
    """A phase as far as it has come.

    Args:
        name: What is done.
        total: Units of work in all; None when that is not known.
        unit: What they are.
        before: Those that were done before it began, by a run that was interrupted.
        figures: The latest figures, such as loss and learning rate.
        started: When it began, on the monotonic clock.
    """

    name: str
    total: int | None
    unit: str
    before: int = 0
    figures: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=lambda: time.monotonic())
    done: int = field(init=False)

    def __post_init__(self) -> None:
        self.done = self.before

    def advance(self, done: int, shown: Mapping[str, Any]) -> None:
        """Add work; more than was announced raises the total, for a count never exceeds it."""
        self.done += done
        if self.total is not None:
            self.total = max(self.total, self.done)
        self.figures |= shown

    @property
    def seconds(self) -> float:
        """Time since it began."""
        return time.monotonic() - self.started

    @property
    def count(self) -> str:
        """`312/1,250 updates`."""
        total = "" if self.total is None else f"/{self.total:,}"
        return f"{self.done:,}{total} {self.unit}"

    @property
    def rate(self) -> str:
        """`12.3/s`, or `4.1 s each` for slow work; empty before there is any."""
        if self.done == self.before or self.seconds < 0.05:
            return ""
        per_second = (self.done - self.before) / self.seconds
        if per_second < 0.5:
            return f"{1 / per_second:.1f} s each"
        return f"{per_second:,.{1 if per_second < 100 else 0}f}/s"

    @property
    def left(self) -> float:
        """Seconds that the rest will take; 0 when that is not known."""
        made = self.done - self.before
        return self.seconds / made * (self.total - self.done) if self.total and made else 0.0

    @property
    def quarter(self) -> int:
        """Quarters that are done, 0 to 4; 0 when the total is not known."""
        return 4 * self.done // self.total if self.total else 0

    @property
    def shown_figures(self) -> str:
        """`loss 0.213  lr 0.0004`."""
        known = ((name, value) for name, value in self.figures.items() if value is not None)
        return "  ".join(f"{name} {_number(value)}" for name, value in known)

    def line(self) -> str:
        """All of it as one line of a log."""
        share = f"{self.done / self.total:.0%}" if self.total else ""
        time_left = f"{_clock(self.left)} left" if self.left >= 1 else ""
        parts = [share, self.count, self.rate, f"{_clock(self.seconds)} elapsed", time_left, self.shown_figures]
        return f"{self.name}: {', '.join(part for part in parts if part)}"


def scores(stage: str, split: str, metrics: Mapping[str, float | None], at: Phase | None) -> str:
    """One evaluation as a line."""
    values = "  ".join(
        f"{name} {'undefined' if value is None else format(value, '.4f')}" for name, value in metrics.items()
    )
    # The count tells evaluations of the same stage apart.
    place = f" at {at.count}" if at is not None and at.name == stage and at.total else ""
    return f"{stage}, {split}{place}: {values}"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _yaml(value: Any) -> str:
    """A chosen value as one would write it in a recipe."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- listeners ----------------------------------------------------------------------------------------------------


class Quiet(Listener):
    """Shows warnings, and nothing else."""

    def warn(self, text: str) -> None:
        """Print it."""
        _print(WARNING + text)


class Plain(Quiet):
    """Writes lines that read well in a log file: no carriage returns, and not many of them."""

    def __init__(self) -> None:
        self._phase: Phase | None = None
        self._last = 0.0  # when a line was written
        self._quarter = 0

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Say it once."""
        _print(text)
        yield

    def note(self, text: str) -> None:
        """Print it."""
        _print(text)

    def decided(self, decisions: Sequence[Any]) -> None:
        """One decision a line."""
        for decision in decisions:
            _print(_decision(decision))

    def phase(self, name: str, total: int | None, unit: str, done: int = 0) -> None:
        """Say what begins, and how much of it there is."""
        self._phase, self._last = Phase(name, total, unit, done), time.monotonic()
        self._quarter = self._phase.quarter
        before = f", {done:,} of them done before" if done else ""
        _print(f"{name}: {'' if total is None else f'{total:,} '}{unit}{before}")

    def advance(self, done: int = 1, **shown: Any) -> None:
        """A line at each quarter, and one in between when there was none for a while."""
        if self._phase is None:
            return
        self._phase.advance(done, shown)
        quarter, silent = self._phase.quarter, time.monotonic() - self._last
        waited = silent >= max(SECONDS_BETWEEN_LINES, SHARE_BETWEEN_LINES * self._phase.seconds)
        reached = quarter > self._quarter and (quarter == 4 or silent >= SECONDS_BETWEEN_QUARTERS)
        self._quarter = max(quarter, self._quarter)
        if waited or reached:
            _print(self._phase.line())
            self._last = time.monotonic()

    def scored(self, stage: str, split: str, metrics: Mapping[str, float | None]) -> None:
        """One evaluation a line."""
        _print(scores(stage, split, metrics, self._phase))

    def finished(self) -> None:
        """Forget the phase."""
        self._phase = None


class Notebook(Listener):
    """Shows what was said last below a cell, and all of it where that is unfolded; no widgets are needed for it."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._phase: Phase | None = None  # its line is the last but for what was said since
        self._place = 0
        self._drawn = 0.0
        self._output: Any = None

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Say it once."""
        self.note(text)
        yield

    def note(self, text: str) -> None:
        """Add it."""
        self._add(text)

    def warn(self, text: str) -> None:
        """Add it; it stays in sight."""
        self._add(WARNING + text)

    def decided(self, decisions: Sequence[Any]) -> None:
        """One decision a line."""
        if decisions:
            self._add(*map(_decision, decisions))

    def phase(self, name: str, total: int | None, unit: str, done: int = 0) -> None:
        """Begin a line that moves; the one before stays as it is."""
        self._end_phase()
        self._phase, self._place = Phase(name, total, unit, done), len(self._lines)
        self._add(self._phase.line())

    def advance(self, done: int = 1, **shown: Any) -> None:
        """Move the line, now and then."""
        if self._phase is None:
            return
        self._phase.advance(done, shown)
        if time.monotonic() - self._drawn >= SECONDS_BETWEEN_DRAWINGS:
            self._draw()

    def scored(self, stage: str, split: str, metrics: Mapping[str, float | None]) -> None:
        """One evaluation a line."""
        self._add(scores(stage, split, metrics, self._phase))

    def finished(self) -> None:
        """Leave everything as it is."""
        if self._phase is not None:
            self._end_phase()
            self._draw()

    def _end_phase(self) -> None:
        if self._phase is not None:
            self._lines[self._place] = _clean(self._phase.line())
            self._phase = None

    def _add(self, *texts: str) -> None:
        self._lines += map(_clean, texts)
        self._draw()

    def _draw(self) -> None:
        from IPython.display import display

        if self._phase is not None:
            self._lines[self._place] = _clean(self._phase.line())
        shown = {"text/plain": "\n".join(self._lines), "text/html": self._html()}
        if self._output is None:
            self._output = display(shown, raw=True, display_id=True)
        else:
            self._output.update(shown, raw=True)
        self._drawn = time.monotonic()

    def _html(self) -> str:
        hidden, last = self._lines[:-LAST_LINES], self._lines[-LAST_LINES:]
        parts = []
        if hidden:
            summary = tag("summary", {}, f"{len(hidden)} lines before")
            parts += [tag("details", {}, summary, _lines(hidden)), _lines(filter(_is_warning, hidden))]
        phase = self._phase
        if phase is not None and phase.total:
            ends: dict[str, Value] = {"value": phase.done, "max": phase.total}
            parts.append(tag("progress", {**ends, "aria-label": phase.name, "style": "width:100%"}))
        return str(tag("div", {}, parts, _lines(last)))


def _lines(lines: Iterable[str]) -> Markup:
    """Lines as HTML, warnings in bold."""
    style = "white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;line-height:1.35;margin:0.2em 0"
    return tag("pre", {"style": style}, join((tag("b", {}, one) if _is_warning(one) else one for one in lines), "\n"))


def _is_warning(line: str) -> bool:
    return line.startswith(WARNING)


def _decision(decision: Any) -> str:
    return f"auto: {decision.path} = {_yaml(decision.value)}  ({decision.reason})"


def _clean(text: str) -> str:
    return printable(redact(text))


def _print(text: str) -> None:
    print(_clean(text), file=sys.stderr, flush=True)


class Live(Listener):
    """Draws a bar for each phase at the bottom of a terminal, and everything else above them.

    Args:
        console: Where to draw; left out: stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._given = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._phase: Phase | None = None

    @property
    def _console(self) -> Console:
        if self._given is None:
            from rich.console import Console

            self._given = Console(stderr=True)
        return self._given

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Turn a spinner until it is done."""
        if self._progress is not None:  # the bars move already
            self.note(text)
            yield
            return
        with self._console.status(_text(text)):
            yield

    def note(self, text: str) -> None:
        """Print it above the bars."""
        self._console.print(_text(text))

    def warn(self, text: str) -> None:
        """Print it above the bars, in yellow."""
        self._console.print(_text(WARNING + text, "yellow"))

    def decided(self, decisions: Sequence[Any]) -> None:
        """Decisions as an aligned table."""
        from rich.table import Table
        from rich.text import Text

        if not decisions:
            return
        wide = self._console.width >= _WIDE
        table = Table.grid(padding=(0, 1))
        for style in ("dim", "", "bold", "dim") if wide else ("dim", ""):
            table.add_column(style=style, overflow="fold")
        for place, decision in enumerate(decisions):
            name, value, reason = decision.path, f"= {_yaml(decision.value)}", f"({decision.reason})"
            parts = [_text(part, style) for part, style in ((name, ""), (value, "bold"), (reason, "dim"))]
            table.add_row("" if place else "auto:", *(parts if wide else [Text(" ").join(parts)]))
        self._console.print(table)

    def phase(self, name: str, total: int | None, unit: str, done: int = 0) -> None:
        """Add a bar; the one before stays as it is."""
        progress = self._running()
        if self._task is not None:
            progress.stop_task(self._task)
        self._phase = Phase(name, total, unit, done)
        self._task = progress.add_task(
            _escaped(name), total=total, completed=done, count=self._phase.count, rate="", figures=""
        )

    def advance(self, done: int = 1, **shown: Any) -> None:
        """Move the bar and show the latest figures."""
        if self._phase is None or self._progress is None or self._task is None:
            return
        phase = self._phase
        phase.advance(done, shown)
        self._progress.update(
            self._task,
            completed=phase.done,
            total=phase.total,
            count=phase.count,
            rate=phase.rate,
            figures=_escaped(phase.shown_figures),
        )

    def scored(self, stage: str, split: str, metrics: Mapping[str, float | None]) -> None:
        """One evaluation a line, above the bars."""
        self._console.print(_text(scores(stage, split, metrics, self._phase), "green"))

    def finished(self) -> None:
        """Leave the bars as they are and give the cursor back."""
        progress, self._progress, self._task, self._phase = self._progress, None, None, None
        if progress is not None:
            progress.stop()
            atexit.unregister(self.finished)

    def _running(self) -> Progress:
        if self._progress is None:
            self._progress = _bars(self._console)
            self._progress.start()
            atexit.register(self.finished)  # an error that nobody catches must not leave the cursor hidden
        return self._progress


def _bars(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column

    def text(field: str) -> TextColumn:
        return TextColumn(f"{{task.fields[{field}]}}", table_column=Column(no_wrap=True))

    class Figures(TextColumn):
        """Gives way where there is no room for all; a column that may not wrap would not."""

        def render(self, task: Any) -> Any:
            found = super().render(task)
            found.no_wrap, found.overflow = True, "ellipsis"
            return found

    return Progress(
        TextColumn("{task.description}", style="bold", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=16),
        text("count"),
        text("rate"),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, elapsed_when_finished=False, table_column=Column(no_wrap=True)),
        Figures("{task.fields[figures]}"),
        console=console,
        refresh_per_second=4,  # drawing takes time from the processor that trains
        # While bars are drawn rich reroutes stdout to the same console, which is right only where they share a screen.
        redirect_stdout=sys.stdout.isatty(),
    )


def _text(text: str, style: str = "") -> Any:
    """Text in which rich sees no markup, nobody a secret, and the terminal no order."""
    from rich.text import Text

    return Text(_clean(text), style)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(printable(redact(text)))
