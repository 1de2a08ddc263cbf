"""What this machine can do, and what bytes that are computed here depend on."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import torch

from hfstrat.environment import PACKAGES, version
from hfstrat.recipe.facts import Machine


def machine(processes: int = 1, local_processes: int = 1) -> Machine:
    """Device, cores and native arithmetic, without touching Accelerate's state."""
    if torch.cuda.is_available():
        device, bf16 = "cuda", torch.cuda.is_bf16_supported(including_emulation=False)
    elif torch.backends.mps.is_available():
        device, bf16 = "mps", False
    else:
        device, bf16 = "cpu", cpu_has_bf16()
    return Machine(device, cores(), processes, local_processes, bf16)


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX512_BF16 or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text("ascii", errors="ignore")
    except OSError:
        return False
    return " avx512_bf16" in flags or " amx_bf16" in flags


def circumstances(processes: int) -> dict[str, Any]:
    """What the same bytes depend on besides: with other circumstances a run goes on, but is not the same to the bit."""
    return {
        "processes": processes,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"cpu {torch.backends.cpu.get_cpu_capability()}",
        "versions": _versions(),
    }


@cache
def _versions() -> dict[str, str | None]:
    return {name: version(name) for name in PACKAGES}
