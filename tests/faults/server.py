"""A warm server of runs to kill: `python -m tests.faults.server`.

It imports everything once and forks a child for each line of its input, which trains with `resume`. A child may be told
to kill itself, by a real SIGKILL, at a place in the code that a clock would seldom hit.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.numpy
import torch

from hfstrat import beginning, checkpoints, execute, judge, sealing, solving
from hfstrat.runs.events import Observer
from hfstrat.training import checkpoint

# Where a child may die: the owner of a function, its name, and whether before or after it.
PLACES: dict[str, tuple[Any, str, str]] = {
    "checkpoint: begun": (checkpoint, "_write_tensors", "before"),
    "checkpoint: half of it": (checkpoint, "_write_tensors", "after"),
    "checkpoint: no seal": (checkpoint, "_write_bytes", "after"),
    "checkpoint: not renamed": (Path, "rename", "before"),
    "checkpoint: renamed": (checkpoints.files, "prune", "before"),
    "checkpoint: pruned": (checkpoints.files, "prune", "after"),
    "cache: features": (solving, "_told", "before"),
    "cache: solved": (solving, "_put_in", "after"),
    "cache: teacher": (safetensors.numpy, "save_file", "after"),
    "beginning": (beginning, "newest", "before"),
    "artifact: weights": (sealing.artifact, "save", "after"),
    "artifact: loaded": (sealing.artifact, "load", "before"),
    "artifact: predictions": (judge.Judge, "_write_predictions", "after"),
    "artifact: digests": (sealing, "write_digests", "after"),
}


def die(*_: Any) -> None:
    """End as a machine does whose power is cut."""
    os.kill(os.getpid(), signal.SIGKILL)


def dying(function: Callable[..., Any], when: str) -> Callable[..., Any]:
    """A function that does not survive its call."""

    def called(*words: Any, **more: Any) -> Any:
        if when == "after":
            function(*words, **more)
        die()

    return called


class Told(Observer):
    """Writes down the phase that a run is in."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def phase(self, name: str, total: int | None, unit: str, done: int = 0) -> None:
        self._file.write_text(name, "utf-8")


def child(job: dict[str, Any]) -> int:
    """Train as one line says; the exit code."""
    if job["place"] is not None:
        owner, name, when = PLACES[job["place"]]
        setattr(owner, name, dying(getattr(owner, name), when))
    told = Path(job["told"])
    told.write_text("loading", "utf-8")
    execute.train(job["recipe"], job["overrides"], runs=job["runs"], resume=True, observer=Told(told))
    return 0


def main() -> None:
    """Answer each line with the child's number, and when it has ended with how."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = child(json.loads(line))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
