"""What runs an arm, in a process of its own.

The fork server imports this module once, so that an arm starts in a moment; nothing here runs a tensor operation
at import, because threads of the math library do not survive a fork.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hfstrat.environment import silence_imports

silence_imports()  # this module is a process's own beginning

# ruff: noqa: E402
import accelerate
import evaluate
import peft
import sklearn.feature_extraction.text
import sklearn.linear_model
import transformers.models.auto.modeling_auto

from hfstrat import execute
from hfstrat.beginning import was_interrupted
from hfstrat.errors import HfstratError
from hfstrat.metrics import modules
from hfstrat.runs.directory import Run, write_json
from hfstrat.runs.events import Observer
from hfstrat.study.arms import Arm
from hfstrat.study.floors import run_floor

PRELOADED = (accelerate, evaluate, peft, sklearn, transformers, modules)
# What the imports made stays for good: looking through it again takes half the time of an arm's own Python.
gc.freeze()


class _Relay(Observer):
    """Sends everything to the process that started this one."""

    def __init__(self, pipe: Connection) -> None:
        for name in ("note", "warn", "decided", "phase", "advance", "scored"):
            setattr(self, name, self._sender(pipe, name))

    @staticmethod
    def _sender(pipe: Connection, name: str) -> Any:
        def send(*args: Any, **kwargs: Any) -> None:
            with contextlib.suppress(BrokenPipeError):  # nobody listens any more: the run goes on
                pipe.send((name, args, kwargs))

        return send


def run_arm(arm: Arm, runs: Path, memory: Any, pipe: Connection, overwrite: bool) -> None:
    """Run one arm, whose directory says how it ended; the exit code is the run's.

    An arm that was interrupted goes on; anything else that its directory holds is replaced.

    Args:
        arm: What to run.
        runs: Where its directory goes.
        memory: Data handed over in Python.
        pipe: Takes what the run tells.
        overwrite: Whether an arm that was interrupted begins anew.
    """
    relay = _Relay(pipe)
    try:
        if arm.floor is not None:
            run_floor(arm.floor, arm.recipe, runs / arm.recipe.name, memory, relay)
        else:
            resume = not overwrite and was_interrupted(runs / arm.recipe.name, arm.recipe)
            execute.train(arm.recipe, data=memory, runs=runs, overwrite=not resume, resume=resume, observer=relay)
    except HfstratError as error:
        end(runs / arm.recipe.name, arm, "failed", str(error))
        sys.exit(error.exit_code)
    finally:
        pipe.close()


def end(folder: Path, arm: Arm, state: str, reason: str) -> None:
    """Write down how an arm ended that could not do so itself, so that it stays a row of the table."""
    status = Run(folder).status
    if status not in (None, "running"):
        return
    folder.mkdir(parents=True, exist_ok=True)
    kind = arm.floor or arm.recipe.strategy.kind
    if not (folder / "plan.json").exists():
        write_json(folder / "plan.json", {"kind": kind, "seed": arm.recipe.seed})
    write_json(folder / "status.json", {"state": state, "reason": reason})
