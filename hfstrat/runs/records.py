"""What a run writes down while it goes: the log, and the ledger of what each phase cost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass
class Phase:
    """Cost of one phase.

    Args:
        seconds: Wall time.
        tokens: Tokens that went through the model, padding left out.
        peak_live_bytes: Most bytes of tensors alive at once; None when not measured.
    """

    seconds: float = 0.0
    tokens: int = 0
    peak_live_bytes: int | None = None


@dataclass
class Ledger:
    """Costs by phase: load, tokenize, solve, train, evaluate, save."""

    phases: dict[str, Phase] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Time a phase; entered again, its costs add up."""
        phase = self.phases.setdefault(name, Phase())
        start = time.perf_counter()
        try:
            yield phase
        finally:
            phase.seconds += time.perf_counter() - start

    def to_json(self, **totals: Any) -> dict[str, Any]:
        """The ledger's file: the phases, and totals over them."""
        peaks = [phase.peak_live_bytes for phase in self.phases.values() if phase.peak_live_bytes is not None]
        phases = {
            name: {key: value for key, value in vars(phase).items() if value is not None}
            for name, phase in self.phases.items()
        }
        return {
            "phases": phases,
            "seconds": time.perf_counter() - self.started,
            "peak_live_bytes": max(peaks) if peaks else None,
            **totals,
        }


class Log:
    """`log.jsonl`: one Update or Score a line.

    Args:
        path: The file; None on processes that do not write.
    """

    def __init__(self, path: Path | None) -> None:
        self._stream = path.open("a", encoding="utf-8") if path is not None else None

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Append a line."""
        if self._stream is not None:
            self._stream.write(json.dumps({"kind": kind, **record}, ensure_ascii=False) + "\n")
            self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
