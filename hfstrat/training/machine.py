"""What this machine can do."""

from __future__ import annotations

import os
from pathlib import Path

import torch

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
