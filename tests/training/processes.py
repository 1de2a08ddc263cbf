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
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from hfstrat import execute, fitting
from hfstrat.errors import Interrupted
from hfstrat.processes import accelerator_for
from hfstrat.recipe.loading import load
from tests import tiny
from tests.training.helpers import fitted, memory, overlooked, prepared_for


def rank(job: dict[str, Any], out: Path, processes: int, process: int) -> None:
    """What one process of several does: the loop in float64 for each recipe, then whole runs."""
    rows = tiny.reviews(job["rows"])
    for name, given in job["loops"].items():
        parsed, _ = load(given, ())
        accelerator = accelerator_for(parsed, out)
        weights, losses = fitted(prepared_for(given, rows), micro=job["micro"][str(processes)], accelerator=accelerator)
        if process == 0:
            torch.save({"weights": weights, "losses": losses}, out / f"{name}-{processes}.pt")
    orders = {}
    for given in job["runs"]:
        watching = watched(job.get("stop", {}), process)
        dtype = torch.float64 if "float64" in given["name"] else None
        with overlooked(dtype) as seen, watching as orders[given["name"]], suppress(Interrupted):
            execute.train(given, data=memory(rows), runs=out / f"runs-{processes}", resume=job.get("resume", False))
            if process == 0:
                torch.save({"before": seen["before"], "after": seen["after"]}, out / f"{given['name']}-{processes}.pt")
    if process == 0:
        (out / f"orders-{processes}.json").write_text(json.dumps(orders), "utf-8")


@contextmanager
def watched(stop: dict[str, Any], process: int) -> Iterator[list[list[int]]]:
    """The rows of each update as they are asked for, and the end of one process as it begins an update."""
    orders: list[list[int]] = []

    def asked(feed: Any, planned: Any) -> Any:
        if len(feed._steps) == 1:  # memory is measured before the first update
            return made(feed, planned)
        orders.append([int(row) for row in planned.rows])
        if (stop.get("process"), stop.get("update")) == (process, len(orders)):
            ENDS[stop["by"]]()
        return made(feed, planned)

    made, fitting._Feed._made = fitting._Feed._made, asked
    try:
        yield orders
    finally:
        fitting._Feed._made = made


def fail(error: Exception) -> None:
    """Fail."""
    raise error


ENDS: dict[str, Callable[[], None]] = {
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "error": lambda: fail(ValueError("a fault")),
    "memory": lambda: fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")),
}


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
    fitting.LOG_EVERY = job.get("log_every", fitting.LOG_EVERY)
    out = Path(sys.argv[1]).parent
    children = {child: processes for processes in job["processes"] for child in launch(job, out, processes)}
    ended, began = [], time.monotonic()
    for _ in children:
        child, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        ended.append({"processes": children[child], "code": code, "seconds": time.monotonic() - began})
    (out / "ended.json").write_text(json.dumps(ended), "utf-8")
    assert "stop" in job or not any(one["code"] for one in ended), f"a process failed: {ended}"


if __name__ == "__main__":
    main()
