"""How this process was started, and what its launcher was asked for.

Accelerate's launcher says in the environment of what it starts neither how many processes it was asked for nor whose
`OMP_NUM_THREADS` it set, so its own command line and environment are read. Where they cannot be seen (it has ended,
belongs to somebody else, was called from a program, or there is a program in between) nothing is known, and nothing is
assumed.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch

# Where those who start several processes say how many there are; those of Accelerate, in its order.
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
THREADS = "OMP_NUM_THREADS"
SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
_PR_SET_PDEATHSIG = 1  # of sys/prctl.h


def on_cpu() -> bool:
    """Whether a run is to be on the CPU: there is nothing else, or whoever started it wants that."""
    return _is_set("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def sharding() -> str | None:
    """What is asked to divide the model between processes, by name; None where each has all of it."""
    return next((name for variable, name in SHARDING.items() if _is_set(variable)), None)


def processes_asked() -> int | None:
    """Processes that were asked for; None where nobody says."""
    sizes = (os.environ[name] for name in SIZES if name in os.environ)
    given = next((int(size) for size in sizes if size.isdigit()), None)
    return given if given is not None else _of_accelerate().get("processes")


def threads_asked() -> tuple[int, str] | None:
    """Threads of each process that the user asked for outside of the recipe, and where; None where that is not known.

    torchrun sets one where nothing is set, and `accelerate launch` always a number, so theirs are no wish of anybody.
    """
    threads = _of_accelerate().get("threads")
    if threads is not None:
        return threads, "--num_cpu_threads_per_process"
    given = _user_environment().get(THREADS, "")
    return (int(given), THREADS) if given.isdigit() and int(given) > 0 else None


def forked() -> bool:
    """Whether this process is a copy of one that had begun already, as `notebook_launcher` makes them."""
    return type(multiprocessing.current_process()).__name__ == "ForkProcess"


def command(processes: int) -> str:
    """The command that starts this program in so many processes on the CPUs of this machine."""
    module = getattr(sys.modules["__main__"].__spec__, "name", "")
    is_ours = module == "hfstrat.__main__" or Path(sys.argv[0]).name == "hfstrat"
    words = ["-m", "hfstrat", *sys.argv[1:]] if is_ours else sys.argv
    cpu = "ACCELERATE_USE_CPU=true " if torch.accelerator.is_available() else ""
    return f"{cpu}torchrun --nproc_per_node {processes} {shlex.join(words)}"


def end_with_launcher() -> None:
    """Have this process asked to end when its launcher ends, on Linux.

    `accelerate launch` of one process hands no signal on, so that what it started would go on without it.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    if prctl is not None and _launcher() is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes", "y", "on", "t")


def _is_launched() -> bool:
    return "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ


@cache
def _launcher() -> psutil.Process | None:
    """The launcher that started this process; None where there is none, or it cannot be seen."""
    if not _is_launched() or forked():
        return None
    with suppress(psutil.Error):
        parent = psutil.Process().parent()
        if parent is not None and (_words_for_accelerate(parent.cmdline()) is not None or _is_torchrun(parent)):
            return parent
    return None


def _is_torchrun(process: psutil.Process) -> bool:
    return any(Path(word).name == "torchrun" or word == "torch.distributed.run" for word in process.cmdline()[:4])


def _words_for_accelerate(words: Sequence[str]) -> list[str] | None:
    """What follows `accelerate launch` on a command line; None where it is another."""
    for place, word in enumerate(words[:4], 1):
        if Path(word).name == "accelerate-launch" or word == "accelerate.commands.launch":
            return [*words[place:]]
        is_accelerate = Path(word).name == "accelerate" or word == "accelerate.commands.accelerate_cli"
        if is_accelerate and [*words[place : place + 1]] == ["launch"]:
            return [*words[place + 1 :]]
    return None


@cache
def _of_accelerate() -> dict[str, Any]:
    """`processes` and `threads` as the command line of `accelerate launch`, or its file, has them."""
    launcher = _launcher()
    words = _words_for_accelerate(launcher.cmdline()) if launcher is not None else None
    if words is None:
        return {}
    from accelerate.commands.config import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    asked, _ = launch_command_parser().parse_known_args(words)
    found = {"threads": asked.num_cpu_threads_per_process, "processes": asked.num_processes}
    has_file = asked.config_file is not None or (Path(default_config_file).is_file() and not asked.cpu)
    if asked.num_processes is None and has_file:
        found["processes"] = load_config_from_file(asked.config_file).num_processes
    return found


def _user_environment() -> dict[str, str]:
    """The environment before a launcher changed it; empty where that cannot be seen."""
    if not _is_launched() or forked():
        return dict(os.environ)
    launcher = _launcher()
    with suppress(psutil.Error):
        return launcher.environ() if launcher is not None else {}
    return {}
