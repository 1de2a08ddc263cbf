"""A fresh process that trains the same in one and in several processes: `python -m tests.training.processes JOB`.

It is a script because sockets are blocked where the tests run, and because a process that has computed gradients must
not fork. It imports once and forks each rank, in the environment that torchrun would give it.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from hfstrat import execute
from hfstrat.errors import Interrupted
from hfstrat.recipe.loading import load
from hfstrat.runs.events import Observer
from tests import tiny
from tests.training.helpers import fitted, memory, prepared_for


def rank(job: dict[str, Any], out: Path, processes: int, process: int) -> None:
    """What one process of several does: the loop in float64 for each recipe, then whole runs."""
    rows = tiny.reviews(job["rows"])
    for name, given in job["loops"].items():
        parsed, _ = load(given, ())
        accelerator = execute.accelerator_for(parsed, out)
        weights, losses = fitted(prepared_for(given, rows), micro=job["micro"][str(processes)], accelerator=accelerator)
        if process == 0:
            torch.save({"weights": weights, "losses": losses}, out / f"{name}-{processes}.pt")
    for given in job["runs"]:
        stop = job.get("stop")
        observer = Stop(stop["update"]) if stop and stop["process"] == process else None
        with suppress(Interrupted) if stop else nullcontext():
            execute.train(given, data=memory(rows), runs=out / f"runs-{processes}", observer=observer)


class Stop(Observer):
    """Asks its own process to end after some updates."""

    def __init__(self, update: int) -> None:
        self._left, self._unit = update, ""

    def phase(self, name: str, total: int | None, unit: str) -> None:
        self._unit = unit

    def advance(self, done: int = 1, **shown: Any) -> None:
        if self._unit == "updates":
            self._left -= done
            if done and self._left == 0:
                os.kill(os.getpid(), signal.SIGTERM)


def fork(what: Callable[[], None]) -> int:
    """Run something in a child; it ends with 1 after any exception."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        what()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def launch(job: dict[str, Any], out: Path, processes: int) -> list[int]:
    """Fork all ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def started(process: int) -> int:
        def run() -> None:
            os.environ["HFSTRAT_CACHE"] = str(out / f"cache-{processes}")  # or some would read what others computed
            if processes > 1:
                ranks = {"RANK": process, "LOCAL_RANK": process, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
                os.environ.update({name: str(value) for name, value in ranks.items()})
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
            rank(job, out, processes, process)

        return fork(run)

    return [started(process) for process in range(processes)]


def main() -> None:
    """Read the job, and do it with each number of processes, all at once."""
    torch.set_num_threads(1)
    gc.freeze()  # what was imported is shared with the children, and not walked in each of them
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    out = Path(sys.argv[1]).parent
    children = {child: processes for processes in job["processes"] for child in launch(job, out, processes)}
    failed = {children[child] for child in children if os.waitpid(child, 0)[1]}
    assert not failed, f"a process of {failed} failed"


if __name__ == "__main__":
    main()
