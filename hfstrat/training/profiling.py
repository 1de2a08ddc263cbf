"""Where the time of an update goes: a trace of a few of them, and a table by phase and operation."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from torch.profiler import profile as Profile

PHASE = "hfstrat: "
"""How the names of phases begin, in traces and tables."""

_FIRST, _WARM, _ACTIVE, _ROWS = 2, 1, 5, 40
T = TypeVar("T")


def phase(name: str) -> Any:
    """Marks a stretch of an update for a profiler; where none listens it costs about a microsecond."""
    return torch.profiler.record_function(f"{PHASE}{name}")


def profiled(updates: Iterator[T], folder: Path, stage: str) -> Iterator[T]:
    """The same updates; a few near the beginning leave `STAGE.json` (for Perfetto or chrome://tracing) and `STAGE.txt`.

    Args:
        updates: Updates, made when they are asked for.
        folder: Where the files go.
        stage: Name of the stage.
    """
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        kinds.append(torch.profiler.ProfilerActivity.CUDA)

    def write(found: Profile) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        found.export_chrome_trace(os.fspath(folder / f"{stage}.json"))
        (folder / f"{stage}.txt").write_text(_table(found), "utf-8")

    schedule = torch.profiler.schedule(wait=_FIRST, warmup=_WARM, active=_ACTIVE, repeat=1)
    with torch.profiler.profile(activities=kinds, schedule=schedule, on_trace_ready=write) as profiler:
        for update in updates:
            profiler.step()
            yield update


def _table(found: Profile) -> str:
    """Milliseconds an update by phase, and the operations that take longest."""
    spent: dict[str, float] = defaultdict(float)
    for event in found.events() or ():
        if event.name.startswith(PHASE) and event.device_type == torch.autograd.DeviceType.CPU:
            spent[event.name.removeprefix(PHASE)] += event.cpu_time_total / 1000 / _ACTIVE
    total = sum(spent.values())
    lines = [f"Milliseconds an update, mean of {_ACTIVE}"]
    lines += [f"{name:>12} {value:9.2f}  {value / max(total, 1e-9):6.1%}" for name, value in sorted(spent.items())]
    lines += [f"{'total':>12} {total:9.2f}", ""]
    return "\n".join(lines) + str(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=_ROWS)) + "\n"
