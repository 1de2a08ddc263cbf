"""Whether a run still holds what it wrote, and whether its updates come out the same when they are made again."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfstrat.beginning import RECIPE
from hfstrat.checkpoints import FOLDER
from hfstrat.errors import Problem, UsageError
from hfstrat.execute import train
from hfstrat.recipe.loading import load
from hfstrat.runs.directory import DIGESTS, Run, check_free
from hfstrat.runs.events import Observer
from hfstrat.training import checkpoint as files
from hfstrat.training.checkpoint import Damaged


@dataclass(frozen=True)
class Verification:
    """What was found.

    Args:
        checked: Files whose digest was compared.
        damaged: What is not as it was written.
        start: Where the repetition began.
        updates: Updates that were made again.
        compared: Lines of the log that were compared.
        different: Lines that came out otherwise: as they were, and as they are now.
    """

    checked: int
    damaged: tuple[str, ...]
    start: str
    updates: int
    compared: int
    different: tuple[tuple[str, str], ...]

    @property
    def holds(self) -> bool:
        """Whether everything is as it was."""
        return not self.damaged and not self.different


class _Enough(Exception):
    """The repetition has come as far as was asked."""


def verify(folder: Path, updates: int, *, data: Any = None, observer: Observer | None = None) -> Verification:
    """Compare a run's files with their digests, and make some of its updates again.

    An unfinished run is repeated from its oldest checkpoint, a finished one from its beginning.

    Args:
        folder: The run.
        updates: Updates to make again.
        data: The data that a run with `data.source: memory` was trained on.
        observer: Hears what happens.

    Raises:
        UsageError: There is no run, it is being written, or nothing of it can be repeated.
    """
    run, observer = Run(folder), observer or Observer()
    if run.status is None or not (folder / RECIPE).is_file():
        raise UsageError(Problem(f"{folder} holds no run that can be repeated", hint="`hfstrat train` makes one"))
    check_free(folder)
    checked, damaged, usable = _digests(run)
    with tempfile.TemporaryDirectory(prefix="hfstrat-verify-") as place:
        copy = Path(place) / run.path.resolve().name
        _copy(run, copy, usable)
        begun = (copy / "log.jsonl").read_text("utf-8").count("\n") if usable is not None else 0
        listener = _Until(updates, observer)
        try:
            # A run is not sealed again: the updates are what is compared.
            train(
                load(run.path / RECIPE, {"name": copy.name})[0], data=data, runs=place, resume=True, observer=listener
            )
        except _Enough:
            pass
        finally:
            observer.finished()
        now = _lines(copy / "log.jsonl")
    then = _lines(folder / "log.jsonl")
    pairs = list(zip(then, now, strict=False))[begun:]
    return Verification(
        checked=checked,
        damaged=tuple(damaged),
        start="the beginning" if usable is None else f"checkpoint {usable.name}",
        updates=listener.made,
        compared=len(pairs),
        different=tuple((one, other) for one, other in pairs if one != other),
    )


def _digests(run: Run) -> tuple[int, list[str], Path | None]:
    """How many files were compared, what is wrong with which, and the oldest checkpoint that can be used."""
    sealed = run.read(DIGESTS) or {}
    damaged = []
    for name, known in sealed.items():
        file = run.path / name
        if not file.is_file():
            damaged.append(f"{name} is not there any more")
        elif files.digest(file) != known:
            damaged.append(f"{name} has changed since it was written")
    usable, checked = None, len(sealed)
    for path in files.paths(run.path / FOLDER):
        try:
            checked += len(files.read(path).groups) + 1
            usable = path
        except Damaged as error:
            damaged.append(f"checkpoint {path.name} is damaged: {error}")
    return checked, damaged, usable


def _copy(run: Run, copy: Path, checkpoint: Path | None) -> None:
    """What a run needs to go on elsewhere from a checkpoint; nothing where it begins anew."""
    if checkpoint is None:
        return
    copy.mkdir()
    for name in (RECIPE, "env.json", "plan.json", "log.jsonl"):
        shutil.copy(run.path / name, copy / name)
    log = copy / "log.jsonl"
    with log.open("r+b") as stream:
        stream.truncate(files.read(checkpoint).data["log"])
    (copy / "status.json").write_text(json.dumps({"state": "interrupted", "reason": None}), "utf-8")
    shutil.copytree(checkpoint, copy / FOLDER / checkpoint.name)


def _lines(log: Path) -> list[str]:
    return log.read_text("utf-8").splitlines() if log.is_file() else []


class _Until(Observer):
    """Ends a run after some updates, or when training is over.

    Args:
        updates: How many.
        observer: Hears what happens.
    """

    def __init__(self, updates: int, observer: Observer) -> None:
        self.made = 0
        self._updates, self._observer, self._unit = updates, observer, ""

    def phase(self, name: str, total: int | None, unit: str, done: int = 0) -> None:
        if name == "test":
            raise _Enough
        self._unit = unit
        self._observer.phase(name, total, unit, done)

    def advance(self, done: int = 1, **shown: Any) -> None:
        self._observer.advance(done, **shown)
        if self._unit != "updates" or done == 0:
            return
        if self.made == self._updates:
            raise _Enough
        self.made += done
