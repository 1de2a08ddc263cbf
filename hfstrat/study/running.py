"""Arms run one after the other, each in a process of its own, some at several learning rates first."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.context import BaseContext
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from hfstrat.beginning import as_written
from hfstrat.errors import Interrupted
from hfstrat.metrics import lookup
from hfstrat.report.tables import arm_of
from hfstrat.runs.directory import Run
from hfstrat.runs.events import Observer
from hfstrat.study import worker
from hfstrat.study.arms import Arm


@dataclass(frozen=True)
class Tuning:
    """How an arm's learning rate was chosen.

    Args:
        lr: The rate with the best validation score of one seed.
        runs: Names of the runs that it was chosen by and that are not the arm's own.
    """

    lr: float
    runs: tuple[str, ...]


@dataclass
class Running:
    """Runs the arms of a comparison that are not sealed yet.

    Args:
        folder: The comparison's directory.
        data: Data handed over in Python.
        fingerprints: Of the data, for each amount of it.
        observer: Hears what happens; decisions and warnings that arms share once.
        overwrite: Run sealed arms again.
        tuned: How learning rates were chosen so far, by arm.
    """

    folder: Path
    data: Any
    fingerprints: Mapping[str, str]
    observer: Observer
    overwrite: bool
    tuned: dict[str, Tuning] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._context, self._listener = _context(), _OnlyNew(self.observer)
        self._adopted: set[str] = set()

    def sealed(self, arm: Arm) -> bool:
        """Whether an arm is done already, on this data and as it now is written."""
        run = Run(self.folder / arm.recipe.name)
        env = run.read("env.json") or {}
        same_data = env.get("data", {}).get("fingerprint") == self.fingerprints[arm.amount]
        done = run.status == "done" and same_data and env.get("requested") == as_written(arm.recipe)
        return done and not self.overwrite

    def run(self, arm: Arm) -> None:
        """Run an arm to its end, whatever that is, at the best of its learning rates."""
        if arm.rates:
            arm = self._at_best_rate(arm)
        if arm.recipe.name not in self._adopted and not self.sealed(arm):
            self._start(arm)

    def _at_best_rate(self, arm: Arm) -> Arm:
        """An arm at the rate that is best on validation for its first seed, whose run then is the arm's."""
        name = arm_of(arm.recipe.name)
        if name not in self.tuned:
            tried = [_at(arm, rate, _name(name, rate, arm.recipe.seed)) for rate in arm.rates]
            for number, one in enumerate(tried, start=1):
                self.observer.note(f"learning rate {number} of {len(tried)}: {one.recipe.name}")
                if not self.sealed(one):
                    self._start(one)
            scores = [validation_score(Run(self.folder / one.recipe.name)) for one in tried]
            best = max(range(len(tried)), key=lambda place: (scores[place] is not None, scores[place] or ()))
            own = self._adopt(tried[best].recipe.name, arm.recipe.name) if scores[best] is not None else None
            others = tuple(one.recipe.name for one in tried if one.recipe.name != own)
            self.tuned[name] = Tuning(arm.rates[best], others)
        return _at(arm, self.tuned[name].lr, arm.recipe.name)

    def _adopt(self, winner: str, name: str) -> str | None:
        """Give a run a second name; None where that is taken by a run of another recipe, which is to be replaced."""
        link = self.folder / name
        if link.is_symlink():
            link.unlink()
        if link.exists():
            return None
        link.symlink_to(winner, target_is_directory=True)
        self._adopted.add(name)
        return winner

    def _start(self, arm: Arm) -> None:
        """Run an arm, and pass on what it tells; one that was interrupted goes on."""
        folder, name = self.folder, arm.recipe.name
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / name).is_symlink():  # the run behind it is another arm's
            (folder / name).unlink()
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(  # type: ignore[attr-defined]
            target=worker.run_arm, args=(arm, folder, self.data, sender, self.overwrite), name=name
        )
        with _without_main():
            process.start()
        sender.close()
        try:
            while True:
                try:
                    called, args, kwargs = receiver.recv()
                except EOFError:
                    break
                getattr(self._listener, called)(*args, **kwargs)
            process.join()
        except (KeyboardInterrupt, Interrupted) as error:
            process.terminate()  # the arm writes down that it was interrupted
            process.join()
            raise error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT) from None
        if process.exitcode:
            state = "oom" if process.exitcode == -9 else "failed"
            reason = f"killed by signal {-process.exitcode}" if process.exitcode < 0 else "ended with a traceback"
            worker.end(folder / name, arm, state, reason)
            said = (Run(folder / name).read("status.json") or {})["reason"]
            self._listener.warn(f"{name} failed: {said}")


class _OnlyNew(Observer):
    """Passes everything on, but each decision and warning only once: arms decide most things alike."""

    def __init__(self, observer: Observer) -> None:
        self._seen: set[str] = set()
        self.note, self.phase, self.advance = observer.note, observer.phase, observer.advance  # type: ignore[method-assign]
        self.scored = observer.scored  # type: ignore[method-assign]
        self._observer = observer

    def decided(self, decisions: Sequence[Any]) -> None:
        new = [decision for decision in decisions if self._new(f"{decision.path}={decision.value}")]
        self._observer.decided(new)

    def warn(self, text: str) -> None:
        if self._new(text):
            self._observer.warn(text)

    def _new(self, text: str) -> bool:
        known = len(self._seen)
        self._seen.add(text)
        return len(self._seen) > known


def validation_score(run: Run) -> tuple[float, float] | None:
    """A run's best score on validation, by what compares its states; higher is better. None where it has none."""
    if run.status != "done":
        return None
    select = yaml.safe_load(run.recipe() or "")["evaluate"]["select_by"]
    problem = (run.read("env.json") or {})["labels"]["problem"]
    sign = 1 if lookup(select, problem).higher_is_better else -1
    found = []
    for record in run.log():
        if record["kind"] == "score" and record["split"] == "validation":
            value = record["metrics"].get(select)
            found.append((float("-inf") if value is None else sign * float(value), -float(record["loss"])))
    return max(found, default=None)


def _name(arm: str, rate: float, seed: int) -> str:
    return f"{arm}-lr{f'{rate:g}'.replace('+', '')}-seed{seed}"


def _at(arm: Arm, rate: float, name: str) -> Arm:
    train = arm.recipe.train.model_copy(update={"lr": rate})
    return replace(arm, recipe=arm.recipe.model_copy(update={"name": name, "train": train}))


@contextmanager
def _without_main() -> Iterator[None]:
    """Let a new process not run the program again that asks for it, as it would without `if __name__ == "__main__"`."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _context() -> BaseContext:
    """Processes forked from a server that has the imports done; spawned ones where there is no fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([worker.__name__])
    return context
