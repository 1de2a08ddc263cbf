"""Signals that ask a run to end: at once where nothing would be lost, at the end of an update where something would."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hfstrat.errors import Interrupted

# SIGUSR1 is what Slurm sends as a warning before it takes the machine away.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Signals:
    """Listens for signals that ask a run to end.

    A signal raises `Interrupted` where it arrives, but while `held` it is only noted in `pending`, and the run ends
    itself when its state is whole. A second Ctrl-C does not wait.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self._held = False

    @contextmanager
    def listening(self) -> Iterator[Signals]:
        """Take the signals over, where this thread may."""
        try:
            before = {number: signal.signal(number, self._heard) for number in ENDING}
        except ValueError:  # not the main thread: a server's business
            yield self
            return
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Note signals without raising; what was noted and not acted on raises at the end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.check()

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Do nothing about signals: the run ends already, and that is being written down."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before

    def check(self) -> None:
        """Raise what is pending.

        Raises:
            Interrupted: A signal was noted.
        """
        if self.pending is not None:
            raise Interrupted(self.pending)

    def _heard(self, number: int, frame: Any) -> None:
        again = number == signal.SIGINT == self.pending
        self.pending = number if self.pending is None else self.pending
        if not self._held or again:
            raise Interrupted(number)
