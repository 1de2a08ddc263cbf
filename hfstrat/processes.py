"""The processes of a run: how they are started, what they agree on, and what the others say when one of them ends."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import torch

from hfstrat.errors import Interrupted, Problem, ProcessLost, UsageError
from hfstrat.recipe.facts import Machine
from hfstrat.recipe.recipe import Recipe
from hfstrat.runs.events import Observer
from hfstrat.training import launch

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

SECONDS_TO_END = 2.0
"""A connection is closed a moment before its process has ended."""
_UNREACHABLE = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe")


def check_launch(observer: Observer) -> None:
    """Refuse, before there is an Accelerator, what it would leave out without a word.

    Raises:
        UsageError: The model is to be divided between processes on a CPU.
    """
    kind = launch.sharding()
    if kind is None:
        return
    if launch.on_cpu():
        reason = f"{kind} is asked for, and Accelerate divides no model on a CPU: each process would have all of it"
        hint = f"Leave {kind} out: processes on CPUs share the examples of each update"
        raise UsageError(Problem(reason, hint=hint))
    observer.warn(f"{kind} is passed on to Accelerate; hfstrat has not been measured with it yet")


def accelerator_for(recipe: Recipe, folder: Path) -> Accelerator:
    """An Accelerator in a recipe's precision; in one process it may follow another of another precision."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=False)
    precision = {"fp32": "no", "auto": "no"}.get(recipe.train.precision, recipe.train.precision)
    return Accelerator(
        cpu=launch.on_cpu(),  # or several processes on a machine without a GPU would know nothing of each other
        mixed_precision=precision,
        log_with=list(recipe.track) or None,
        project_dir=str(folder / "trackers") if recipe.track else None,
        # A parameter that gets no gradient is legal: an unused pooler, a token type that does not occur.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def threads_of(recipe: Recipe, here: Machine) -> int:
    """CPU threads of a process of a run."""
    return recipe.train.threads if recipe.train.threads != "auto" else here.threads[0]


class Group:
    """The processes of a run, which go on together or not at all.

    Args:
        accelerator: How they are connected.

    Raises:
        UsageError: There are not as many as were asked for.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.size = accelerator, accelerator.num_processes
        asked = launch.processes_asked()
        if asked is not None and asked not in (0, self.size):
            raise UsageError(_of_another_number(asked, self.size))
        self._places: list[tuple[str, int]] = self._of_all((socket.gethostname(), os.getpid()))

    @property
    def local_size(self) -> int:
        """Those on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    @property
    def name(self) -> str:
        """This process among them, counted from 0 as launchers do."""
        return f"rank {self.accelerator.process_index} of {self.size}"

    def agreed(self, question: Callable[[], T]) -> T:
        """The main process's answer, or its error, on every process: none may go on alone."""
        from accelerate.utils import broadcast_object_list

        answer: list[Any] = [None]
        if self.accelerator.is_main_process:
            try:
                answer = [question()]
            except UsageError as error:
                answer = [error]
        if self.size > 1:
            broadcast_object_list(answer)
        if isinstance(answer[0], UsageError):
            raise answer[0]
        found: T = answer[0]
        return found

    def once(self, work: Callable[[], T]) -> T:
        """What one process of each machine computes and keeps, so that the others there find it; all, or an error."""
        found: list[T] = []
        for turn in (True, False):
            error = None
            if self.accelerator.is_local_main_process is turn:
                try:
                    found = [work()]
                except UsageError as raised:
                    error = raised
            first = next((one for one in self._of_all(error) if one is not None), None)
            if first is not None:
                raise first
            if self.size == 1:
                break
        return found[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Say which process ended, where this one fails because of it.

        Raises:
            ProcessLost: Another one ended.
        """
        try:
            yield
        except Exception as error:
            if self.size > 1 and _is_unreachable(error):
                raise self.lost() from error
            raise

    def blamed(self, error: BaseException) -> BaseException:
        """An error, or the end of another process where that is its cause: launchers then ask all others to end."""
        if self.size == 1:
            return error
        if _is_unreachable(error):
            return self.lost()
        return self.lost(wait=False) if isinstance(error, Interrupted) and self._ended() else error

    def lost(self, *, wait: bool = True) -> ProcessLost:
        """What to say when another process cannot be reached."""
        until = time.monotonic() + (SECONDS_TO_END if wait else 0.0)
        while not (ended := self._ended()) and time.monotonic() < until:
            time.sleep(0.05)
        who = " and ".join(f"rank {number}" for number in ended) if ended else "another process"
        return ProcessLost(f"{who} of {self.size} ended before the run did; `--resume` goes on")

    def _ended(self) -> list[int]:
        """Numbers of the processes on this machine that are there no more."""
        here = socket.gethostname()
        return [number for number, (host, pid) in enumerate(self._places) if host == here and not _is_alive(pid)]

    def _of_all(self, mine: T) -> list[T]:
        from accelerate.utils import gather_object

        return list(gather_object([mine]))


def check_threads(threads: int) -> None:
    """Refuse to compute where threads are waited for that did not survive a fork.

    The threads of PyTorch's library belong to the process that first computed with several of them. A copy of that
    process believes in them and waits for good; a copy of the copy finds out.

    Raises:
        UsageError: This process is such a copy.
    """
    if threads == 1 or not launch.forked():
        return
    child = os.fork()
    if child == 0:
        torch.ones(1 << 20).exp_()
        os._exit(0)
    until = time.monotonic() + 10 * SECONDS_TO_END
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    reason = (
        "PyTorch has computed with several threads in this notebook, which the processes copied from it do not have"
    )
    hint = "Restart the kernel and call notebook_launcher before anything else, or set train.threads: 1"
    raise UsageError(Problem(reason, "train.threads", hint=hint))


def _of_another_number(asked: int, started: int) -> Problem:
    devices = torch.cuda.device_count() if not launch.on_cpu() else 0
    start = f"start them by `{launch.command(asked)}`"
    if devices:
        start = f"this machine has {devices} GPU{'s' * (devices > 1)}: ask for as many processes, or {start}"
    what = f"{asked} process{'es were' if asked > 1 else ' was'} asked for and {started} started"
    return Problem(what, hint=start[0].upper() + start[1:])


def _is_unreachable(error: BaseException) -> bool:
    """Whether an error says that another process does not answer."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _UNREACHABLE)


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
