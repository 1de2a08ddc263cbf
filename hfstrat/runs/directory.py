"""Run: a directory with fixed file names, written atomically, locked while it is written, sealed at the end."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from hfstrat.errors import Problem, UsageError
from hfstrat.redact import redact

if TYPE_CHECKING:
    import pandas

State = Literal["running", "done", "failed", "oom", "diverged", "interrupted"]
LOCK = ".lock"
DIGESTS = "digests.json"


@dataclass(frozen=True)
class Run:
    """A run directory.

    Args:
        path: The directory.
    """

    path: Path

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def status(self) -> State | None:
        """How far the run is; None when the directory holds no run."""
        state: State | None = (self.read("status.json") or {}).get("state")
        return state

    @property
    def metrics(self) -> dict[str, Any]:
        """`metrics.json`: split, n, and each metric with its interval."""
        return self.read("metrics.json") or {}

    @property
    def ledger(self) -> dict[str, Any]:
        """`ledger.json`: what each phase cost."""
        return self.read("ledger.json") or {}

    @property
    def artifact(self) -> Path:
        """The folder with weights, tokenizer and card."""
        return self.path / "artifact"

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the directory; None when it is not there."""
        try:
            found: dict[str, Any] = json.loads((self.path / name).read_text("utf-8"))
        except FileNotFoundError:
            return None
        return found

    def recipe(self) -> str | None:
        """The resolved recipe, as YAML."""
        file = self.path / "recipe.yaml"
        return file.read_text("utf-8") if file.is_file() else None

    def log(self) -> list[dict[str, Any]]:
        """The lines of `log.jsonl`."""
        file = self.path / "log.jsonl"
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []

    def predictions(self) -> pandas.DataFrame:
        """The test items: id, reference, prediction, scores, logits."""
        import pandas

        return pandas.read_parquet(self.path / "predictions.parquet")


def finished(path: str | Path) -> Run:
    """A run that is done.

    Raises:
        UsageError: There is none.
    """
    run = Run(Path(path))
    if not run.path.is_dir() or run.status is None:
        raise UsageError(Problem(f"{path} holds no run", hint="`hfstrat train RECIPE` makes one"))
    if run.status != "done":
        raise UsageError(Problem(f"{path} is {run.status}, not done"))
    if not run.artifact.is_dir():
        raise UsageError(Problem(f"{path} left no model: it is a floor of a comparison"))
    return run


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, without the secrets that a message or a path may have brought in."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(redact(text))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value - value != 0.0:
        return None
    return value


def clear(path: Path) -> None:
    """Empty a run directory, for `--overwrite`; its lock is left to the caller who holds it.

    Its status goes last: a directory that has none is nobody's run, and nobody's to clear.
    """
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name == "status.json"):
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def vacate(path: Path) -> None:
    """Remove a run directory of which nothing is to be left, by the caller who holds its lock."""
    clear(path)
    (path / LOCK).unlink(missing_ok=True)
    with suppress(OSError):  # a file that somebody has put there since
        path.rmdir()


def check_own(path: Path, hint: str) -> bool:
    """Find out whether a directory may be a run's: it is new, or a run was there before.

    Args:
        path: The directory.
        hint: What to do where it may not.

    Returns:
        Whether it is new: it is not there, or holds its lock and a first file that was not whole at most.

    Raises:
        UsageError: It holds something else, which is never deleted, whatever was asked.
    """
    if not path.is_dir() or all(
        entry.name == LOCK or entry.name.startswith(".status.json.") for entry in path.iterdir()
    ):
        return True
    if Run(path).status is None:
        raise UsageError(Problem(f"{path} is not empty and holds no run", hint=hint))
    return False


@contextmanager
def locked(path: Path) -> Iterator[Run]:
    """Hold a run directory against a second writer.

    The lock is the operating system's and ends with the process, so a crash leaves none behind.

    Raises:
        UsageError: Somebody else is writing here.
    """
    import fcntl

    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK).open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(_taken(path, stream)) from None
        stream.seek(0)
        stream.truncate()
        stream.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        stream.flush()
        yield Run(path)


def check_free(path: Path) -> None:
    """Find out whether a run directory could be locked.

    Raises:
        UsageError: Somebody else is writing here.
    """
    import fcntl

    if not (path / LOCK).exists():
        return
    with (path / LOCK).open("r", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(_taken(path, stream)) from None


def _taken(path: Path, stream: IO[str]) -> Problem:
    stream.seek(0)
    try:
        lock = json.loads(stream.read())
        owner = f"process {lock['pid']} on {lock['host']}"
    except (ValueError, KeyError):
        owner = "another process"
    return Problem(f"{path} is being written by {owner}", hint="Wait for it, or choose another name=…")
