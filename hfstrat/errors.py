"""What can go wrong, and with which exit code the shell hears of it.

The tree::

    HfstratError                  exit code
    ├── UsageError                2  the recipe, the data or the command line; nothing was started
    │   ├── RecipeError           2  a recipe or an override
    │   ├── DataError             2  the data that a recipe points at
    │   └── ModelError            2  the base model, its tokenizer or its configuration
    ├── RunError                  3  the run was started and failed; its directory says why
    │   ├── Diverged              3  a loss or gradient that is not finite
    │   ├── OutOfMemory           3
    │   └── ProcessLost           3  another process of the same run ended
    ├── HubError                  3  the Hub cannot be reached, or does not take what is sent
    └── Interrupted         130/143  SIGINT; SIGTERM or SIGUSR1

A `UsageError` carries a list of `Problem`s, because a user wants to mend all of them at once.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hfstrat.redact import printable, redact


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, said so that it can be mended.

    Args:
        message: What is wrong, as a sentence without a full stop at its end.
        path: Dotted path in the recipe (`strategy.r`), empty when the recipe is not to blame.
        where: `file:line` of the recipe or the data file.
        hint: What to do about it.
    """

    message: str
    path: str = ""
    where: str = ""
    hint: str = ""

    def __str__(self) -> str:
        place = " ".join(part for part in (self.where and f"{self.where}:", self.path and f"{self.path}:") if part)
        text = f"{place} {self.message}" if place else self.message
        return f"{text}. {self.hint}" if self.hint else text


class HfstratError(Exception):
    """The root: everything that hfstrat raises on purpose."""

    exit_code = 3
    shared = False
    """Whether all processes of a run raise it, so that one on each machine says it."""

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython shows in place of a traceback: what is wrong, not where in hfstrat it was noticed."""
        return [printable(redact(f"{type(self).__name__}: {line}")) for line in str(self).splitlines()]


class UsageError(HfstratError):
    """The user's input is wrong and nothing was started."""

    exit_code = 2
    shared = True

    def __init__(self, problems: Iterable[Problem] | Problem | str) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[UsageError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class RecipeError(UsageError):
    """A recipe, or an override of it, cannot be used."""


class DataError(UsageError):
    """The data cannot be used as the recipe asks."""


class ModelError(UsageError):
    """The base model, its tokenizer or its configuration cannot be used as the recipe asks."""


class RunError(HfstratError):
    """A run was started and failed; `status.json` in its directory has the reason."""

    status = "failed"


class Diverged(RunError):
    """A loss or a gradient stopped being finite."""

    status = "diverged"
    shared = True


class OutOfMemory(RunError):
    """The device or the machine has no memory left."""

    status = "oom"


class ProcessLost(RunError):
    """Another process of the same run ended, and nothing can be computed without it."""

    shared = True


class HubError(HfstratError):
    """The Hub cannot be reached, is busy for too long, or does not take what is sent."""


class Interrupted(HfstratError):
    """A signal asked the run to end."""

    status = "interrupted"
    shared = True

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        # A scheduler's warning is a request to end, however it is sent.
        self.exit_code = 128 + (signal.SIGINT if signal_number == signal.SIGINT else signal.SIGTERM)
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int]]:
        return type(self), (self.signal_number,)


def shortened(text: str, most: int = 60) -> str:
    """A text that a message quotes, no longer than fits a line."""
    return text if len(text) <= most else f"{text[:most]}…"


def did_you_mean(word: str, known: Sequence[str], *, show_all: int = 12) -> str:
    """A hint for a misspelt word: the nearest legal one, or the legal ones when there are few.

    Args:
        word: What the user wrote.
        known: The legal words.
        show_all: List all of them when nothing is near and there are at most this many.
    """
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    if 0 < len(known) <= show_all:
        return f"Use one of: {', '.join(sorted(known))}"
    return ""
