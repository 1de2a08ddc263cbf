"""What a run writes down while it goes: the log, and the ledger of what each phase cost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hfstrat.redact import redact


@dataclass
class Phase:
    """Cost of one phase.

    Args:
        seconds: Wall time.
        tokens: Tokens that went through the model, padding left out.
        flops: Floating-point operations of the model, a product with a sum counted as two: of updates, of passes over
            splits and of solving, not of trials and checks. None where the phase has none, or not all were counted.
        peak_live_bytes: Most bytes of tensors alive at once; None when not measured.
    """

    seconds: float = 0.0
    tokens: int = 0
    flops: float | None = None
    peak_live_bytes: int | None = None

    def computed(self, flops: float) -> None:
        """Add floating-point operations."""
        self.flops = (self.flops or 0.0) + flops


@dataclass
class Ledger:
    """Costs by phase: load, tokenize, solve, train, checkpoint, evaluate, save.

    Args:
        phases: Each phase's costs.
        started: When this process began.
        earlier: Seconds of the processes whose run this one goes on with.
        first_update: Seconds until the first update began; None where there was none.
        at_scores: Seconds until each validation score of the log, which has none itself: its lines are the same again.
    """

    phases: dict[str, Phase] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    earlier: float = 0.0
    first_update: float | None = None
    at_scores: list[float] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Time a phase; entered again, its costs add up."""
        phase = self.phases.setdefault(name, Phase())
        start = time.perf_counter()
        try:
            yield phase
        finally:
            phase.seconds += time.perf_counter() - start

    @property
    def seconds(self) -> float:
        """Seconds in all, between interruptions left out."""
        return self.earlier + time.perf_counter() - self.started

    def stored(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "seconds": self.seconds,
            "first_update": self.first_update,
            "at_scores": list(self.at_scores),
            "phases": {name: dict(vars(phase)) for name, phase in self.phases.items()},
        }

    def go_on(self, stored: Mapping[str, Any]) -> None:
        """Add the costs up to a checkpoint."""
        self.earlier += stored["seconds"]
        self.first_update = stored["first_update"]
        self.at_scores = list(stored.get("at_scores", ()))  # which checkpoints of before have not
        for name, values in stored["phases"].items():
            phase, before = self.phases.setdefault(name, Phase()), Phase(**values)
            phase.seconds += before.seconds
            phase.tokens += before.tokens
            if before.flops is not None:
                phase.computed(before.flops)
            phase.peak_live_bytes = before.peak_live_bytes

    def to_json(self, **totals: Any) -> dict[str, Any]:
        """The ledger's file: the phases, and totals over them."""
        peaks = [phase.peak_live_bytes for phase in self.phases.values() if phase.peak_live_bytes is not None]
        phases = {
            name: {key: value for key, value in vars(phase).items() if value is not None}
            for name, phase in self.phases.items()
        }
        return {
            "phases": phases,
            "seconds": self.seconds,
            "seconds_before_first_update": self.first_update,
            "seconds_at_scores": self.at_scores,
            "peak_live_bytes": max(peaks) if peaks else None,
            **totals,
        }


class Log:
    """`log.jsonl`: one Update or Score a line.

    Args:
        path: The file; None on processes that do not write.
        keep: Bytes of it that count, when a run goes on: what was written after its checkpoint is written again.
    """

    def __init__(self, path: Path | None, keep: int = 0) -> None:
        self._stream = path.open("a", encoding="utf-8") if path is not None else None
        if self._stream is not None:
            self._stream.truncate(min(keep, os.fstat(self._stream.fileno()).st_size))

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Append a line."""
        if self._stream is not None:
            self._stream.write(redact(json.dumps({"kind": kind, **record}, ensure_ascii=False)) + "\n")
            self._stream.flush()

    def position(self) -> int:
        """Bytes written, which the disk has by then."""
        if self._stream is None:
            return 0
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return os.fstat(self._stream.fileno()).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
