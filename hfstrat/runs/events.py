"""What a run tells while it goes; terminals, notebooks and tests listen in their own way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Observer:
    """Hears everything and does nothing; listeners override what they show."""

    def note(self, text: str) -> None:
        """A sentence for the reader."""

    def warn(self, text: str) -> None:
        """A sentence that the reader should not miss."""

    def decided(self, decisions: Sequence[Any]) -> None:
        """The values chosen for `auto`, with `path`, `value` and `reason`."""

    def phase(self, name: str, total: int | None, unit: str, done: int = 0) -> None:
        """A phase begins; `total` units of work, None when that is not known, of which `done` were before."""

    def advance(self, done: int = 1, **shown: Any) -> None:
        """Work of the phase was done; `shown` are figures of the moment."""

    def scored(self, stage: str, split: str, metrics: Mapping[str, float | None]) -> None:
        """A model was evaluated."""

    def finished(self) -> None:
        """No more phases follow."""
