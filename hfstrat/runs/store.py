"""Arrays that were computed once and are shared between runs: files in a cache, bounded, and checked when read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hfstrat.errors import Problem, UsageError

HOME = "HFSTRAT_CACHE"
LIMIT = "HFSTRAT_CACHE_SIZE"
DEFAULT_LIMIT = "20 GB"

_VALUES, _ENTRY = "values.bin", "entry.json"
_ABANDONED = 24 * 3600.0  # seconds after which what a killed process left half-written is removed
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

Array = npt.NDArray[Any]
Fill = Callable[[Array], None]


@dataclass(frozen=True)
class Entry:
    """One array of the cache.

    Args:
        path: Its folder, whose name is its key.
        what: What it is, in words.
        shape: Its shape.
        dtype: Its NumPy type.
        digest: SHA-256 of its bytes.
        used: When it was last read or written, in seconds since the epoch.
    """

    path: Path
    what: str
    shape: tuple[int, ...]
    dtype: str
    digest: str
    used: float

    @property
    def size(self) -> int:
        """Bytes."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


def home() -> Path:
    """The cache's folder: `HFSTRAT_CACHE`, else `hfstrat` in the user's own cache."""
    given = os.environ.get(HOME)
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hfstrat"


def limit() -> int:
    """Bytes that the cache may hold.

    Raises:
        UsageError: `HFSTRAT_CACHE_SIZE` is no size.
    """
    text = os.environ.get(LIMIT, DEFAULT_LIMIT)
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?B?)\s*", text, re.IGNORECASE)
    unit = found[2].upper() if found else ""
    if found is None or (unit and unit not in _UNITS and f"{unit}B" not in _UNITS):
        raise UsageError(Problem(f"{LIMIT} is '{text}', which is no size", hint="Write `20 GB`, or 0 for no cache"))
    return int(float(found[1]) * _UNITS.get(unit, _UNITS.get(f"{unit}B", 1)))


def room() -> int:
    """Bytes that a new entry may have: what the cache may hold, and half of what the disk has left."""
    there = next(place for place in (home(), *home().parents) if place.exists())
    return min(limit(), shutil.disk_usage(there).free // 2)


def entries() -> list[Entry]:
    """All entries that are whole, the one that was used last first."""
    found = [entry for folder in _folders() if (entry := _read(folder)) is not None]
    return sorted(found, key=lambda entry: -entry.used)


def clear() -> int:
    """Remove everything; how many bytes that were."""
    freed = sum(entry.size for entry in entries())
    for folder in [*_folders(), *_half_written()]:
        shutil.rmtree(folder, ignore_errors=True)
    return freed


def find(key: str) -> Array | None:
    """The array of a key, read-only and mapped into memory; None where there is none, or its bytes are not its own."""
    folder = home() / key
    entry = _read(folder)
    if entry is None:
        if folder.is_dir():  # names are given when everything is there: this one was being removed, or lost its bytes
            _discard(folder)
        return None
    try:
        values = np.memmap(entry.path / _VALUES, np.dtype(entry.dtype), "r", shape=entry.shape)
    except (OSError, ValueError):
        values = None
    if values is None or _digest(values) != entry.digest:
        _discard(entry.path)
        return None
    with contextlib.suppress(OSError):  # another user's cache may be read all the same
        os.utime(entry.path)
    return values


@contextlib.contextmanager
def begun(key: str, what: str, shape: tuple[int, ...], dtype: str) -> Iterator[Path]:
    """A new entry while it is filled: a file of the array's size, which counts only when the block ends well.

    Args:
        key: Its key, which says all that its bytes depend on.
        what: What it is, in words.
        shape: Its shape.
        dtype: Its NumPy type.

    Yields:
        The file, for `opened`.

    Raises:
        OSError: It cannot be written.
    """
    home().mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{key[:16]}-", dir=home()))
    try:
        size = int(np.dtype(dtype).itemsize * np.prod(shape, dtype=np.int64))
        with (folder / _VALUES).open("wb") as stream:
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, size)  # or a full disk would be a SIGBUS later on
            else:
                stream.truncate(size)
        yield folder / _VALUES
        _finish(folder, key, what, shape, dtype)
    finally:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def growing(key: str, what: str, dtype: str) -> Iterator[Callable[[Array], None]]:
    """A new entry of one dimension whose length is known only when all of it is there.

    Args:
        key: Its key, which says all that its bytes depend on.
        what: What it is, in words.
        dtype: Its NumPy type.

    Yields:
        A function that appends values.

    Raises:
        OSError: It cannot be written.
    """
    home().mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{key[:16]}-", dir=home()))
    count = 0
    try:
        with (folder / _VALUES).open("wb") as stream:

            def append(values: Array) -> None:
                nonlocal count
                stream.write(np.ascontiguousarray(values, np.dtype(dtype)).data)
                count += len(values)

            yield append
        _finish(folder, key, what, (count,), dtype)
    finally:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)


def _finish(folder: Path, key: str, what: str, shape: tuple[int, ...], dtype: str) -> None:
    """Give a new entry its digest and its name."""
    values = np.memmap(folder / _VALUES, np.dtype(dtype), "r", shape=shape)
    described = {"what": what, "shape": shape, "dtype": dtype, "digest": _digest(values)}
    (folder / _ENTRY).write_text(json.dumps(described), "utf-8")
    try:
        folder.rename(home() / key)
    except OSError:
        if _read(home() / key) is None:
            raise
        # Another run has just written the same bytes.
    _make_room(home() / key)


def opened(file: Path, shape: tuple[int, ...], dtype: str) -> Array:
    """The array of an entry that is being filled, to be written to."""
    return np.memmap(file, np.dtype(dtype), "r+", shape=shape)


def _folders() -> list[Path]:
    return [place for place in _inside() if not place.name.startswith(".")]


def _half_written() -> list[Path]:
    return [place for place in _inside() if place.name.startswith(".")]


def _inside() -> list[Path]:
    try:
        return sorted(place for place in home().iterdir() if place.is_dir())
    except OSError:
        return []


def _read(folder: Path) -> Entry | None:
    try:
        found = json.loads((folder / _ENTRY).read_text("utf-8"))
        used = folder.stat().st_mtime
        return Entry(folder, found["what"], tuple(found["shape"]), found["dtype"], found["digest"], used)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(values: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data).hexdigest()


def _make_room(newest: Path) -> None:
    """Remove what was not used for longest until the cache holds no more than it may; the newest entry stays."""
    for folder in _half_written():
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)
    held = entries()
    total = sum(entry.size for entry in held)
    for entry in reversed(held):
        if total <= limit():
            break
        if entry.path != newest:
            _discard(entry.path)
            total -= entry.size


def _discard(folder: Path) -> None:
    """Remove an entry under a name that is nobody's key, lest half of one be left by a kill."""
    gone = folder.with_name(f".{folder.name}-{os.getpid()}-gone")
    with contextlib.suppress(OSError):  # another process may be quicker
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
