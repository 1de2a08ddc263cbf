"""Checkpoints: folders of tensors and a manifest that are whole or not there, and checked byte by byte before use.

A checkpoint is written under another name, flushed to the disk, read again, and then renamed. Its manifest has the
SHA-256 of each file, and a file beside it has the manifest's own, so that no byte can change unseen. Nothing is
pickled: tensors are safetensors, everything else is JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

MANIFEST, SEAL = "manifest.json", "manifest.sha256"
VERSION = 1
Tensors = Mapping[str, torch.Tensor]


class Damaged(Exception):
    """A checkpoint that is not what was written."""


class Unreadable(Damaged):
    """A checkpoint that may be whole, but cannot be read: by this process, by this version, or just now."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was verified.

    Args:
        path: Its folder.
        data: What was stored beside the tensors.
        groups: Names of its groups of tensors.
    """

    path: Path
    data: Mapping[str, Any]
    groups: tuple[str, ...]

    def tensors(self, group: str) -> dict[str, torch.Tensor]:
        """A group of tensors, on the CPU."""
        # Not mapped into memory: the file may be removed while its tensors are in use.
        return load_file(self.path / f"{group}.safetensors", backend="pread")


def write(folder: Path, name: str, groups: Mapping[str, Tensors], data: Mapping[str, Any]) -> Checkpoint:
    """Write a checkpoint, whole or not at all.

    Args:
        folder: Where checkpoints lie.
        name: The checkpoint's name; names sort by age.
        groups: Tensors by group, each group a file of its own.
        data: What JSON can hold.

    Raises:
        OSError: It cannot be written.
    """
    target, temporary = folder / name, folder / f".{name}.{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".*"):  # by a process that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir()
    try:
        files = {}
        for group, tensors in groups.items():
            file = temporary / f"{group}.safetensors"
            _write_tensors(file, tensors)
            files[file.name] = digest(file)
        manifest = json.dumps({"version": VERSION, "files": files, "data": data}, indent=1).encode()
        _write_bytes(temporary / MANIFEST, manifest)
        _write_bytes(temporary / SEAL, hashlib.sha256(manifest).hexdigest().encode())
        flush(temporary)
        if target.exists():  # written before a run was interrupted, and now again
            _discard(target)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush(folder)
    return Checkpoint(target, data, tuple(groups))


def _write_tensors(file: Path, tensors: Tensors) -> None:
    """Write tensors, flush them to the disk, and compare what is read again with what is in memory."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, file)
    except SafetensorError as error:
        raise OSError(f"{file}: {error}") from error
    flush(file)
    written = load_file(file)
    for name, tensor in plain.items():
        if not torch.equal(written[name].view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8)):
            raise OSError(f"{file}: '{name}' was not written as it is")


def _write_bytes(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def flush(path: Path) -> None:
    """Have the disk hold a file's bytes, or a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read(path: Path) -> Checkpoint:
    """Verify a checkpoint, every byte of it.

    Raises:
        Damaged: It is not what was written.
    """
    try:
        manifest, seal = (path / MANIFEST).read_bytes(), (path / SEAL).read_bytes()
        if seal != hashlib.sha256(manifest).hexdigest().encode():
            raise Damaged(f"{MANIFEST} has changed since it was written")
        stored = json.loads(manifest)
        if stored["version"] != VERSION:
            raise Unreadable(f"it has version {stored['version']}, and this hfstrat reads version {VERSION}")
        for name, known in stored["files"].items():
            if digest(path / name) != known:
                raise Damaged(f"{name} has changed since it was written")
    except OSError as error:
        kind = Damaged if isinstance(error, FileNotFoundError) else Unreadable
        raise kind(f"{Path(str(error.filename)).name} cannot be read: {error.strerror}") from error
    return Checkpoint(path, stored["data"], tuple(Path(name).stem for name in stored["files"]))


def paths(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first; none are verified."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."), reverse=True)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies.

    Returns:
        The checkpoint, None when there is none; and what is wrong with each one that is newer.

    Raises:
        Unreadable: One that comes first may be whole all the same.
    """
    damaged: list[str] = []
    for path in paths(folder):
        try:
            return read(path), damaged
        except Unreadable as error:
            raise Unreadable(f"{path}: {error}") from error
        except Damaged as error:
            damaged.append(f"{path.name} is damaged: {error}")
    return None, damaged


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest checkpoints."""
    for path in paths(folder)[keep:]:
        _discard(path)


def drop_newer(path: Path) -> None:
    """Remove the damaged checkpoints that are newer than one that a run goes on from."""
    for other in paths(path.parent):
        if other.name > path.name:
            _discard(other)


def _discard(path: Path) -> None:
    """Remove a checkpoint under a name that is not taken for one, lest half of one be left by a kill."""
    gone = path.with_name(f".{path.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
