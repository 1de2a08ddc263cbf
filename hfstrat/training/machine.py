"""What this machine can do, and what bytes that are computed here depend on."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from hfstrat.environment import PACKAGES, version
from hfstrat.recipe.facts import Machine
from hfstrat.training import launch

# Names and numbers of malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
# What is left of an alignment keeps a place from being used again at once, until seven such are there: larger tensors
# would take seven times their size.
_MAPPED, _MOST_BEFORE_2_35 = 64 << 20, 32 << 20


def machine(processes: int = 1, local_processes: int = 1) -> Machine:
    """Device, cores and native arithmetic, without touching Accelerate's state."""
    if launch.on_cpu():
        device, bf16 = "cpu", cpu_has_bf16()
    elif on_gpu():
        device, bf16 = "cuda", torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        device, bf16 = str(torch.accelerator.current_accelerator()), False
    return Machine(device, cores(), processes, local_processes, bf16, launch.threads_asked())


def on_gpu() -> bool:
    """Whether runs that are started as this process was are on a GPU of NVIDIA's or AMD's."""
    return torch.cuda.is_available() and not launch.on_cpu()


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def memory_here() -> int:
    """Bytes that this machine, or the container around this process, has; on a GPU those of the device."""
    if on_gpu():
        return int(torch.cuda.get_device_properties(0).total_memory)
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # `max` where there is no limit
            limits.append(int(Path(file).read_text("ascii")))
    return min(limits)


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX512_BF16 or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text("ascii", errors="ignore")
    except OSError:
        return False
    return " avx512_bf16" in flags or " amx_bf16" in flags


def keep_memory() -> None:
    """Let glibc keep the memory of tensors that are gone for the next ones, in place of giving it back each time.

    By default it asks the system anew for each tensor of 32 MiB and more, and gives what is free at the end of its heap
    back again and again; the system clears every page of it first, which shows in the time of an update. Tensors of
    `_MAPPED` bytes and more still go back at once. Settings that whoever started the process has made are left alone;
    elsewhere than on Linux with glibc nothing is done.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return
    if not mallopt(_MMAP_THRESHOLD, _MAPPED):
        mallopt(_MMAP_THRESHOLD, _MOST_BEFORE_2_35)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_TOP_PAD, 64 << 20)


def give_back() -> None:
    """Have glibc give pages to the system that nothing stands in, wherever in its heap they are; elsewhere nothing.

    Batches of many shapes leave holes that none of the next tensors fits: over a thousand updates the heap grows to
    five times what is alive at once.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def circumstances(processes: int) -> dict[str, Any]:
    """What the same bytes depend on besides: with other circumstances a run goes on, but is not the same to the bit."""
    return {
        "processes": processes,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if on_gpu() else f"cpu {torch.backends.cpu.get_cpu_capability()}",
        "versions": _versions(),
    }


@cache
def _versions() -> dict[str, str | None]:
    return {name: version(name) for name in PACKAGES}
