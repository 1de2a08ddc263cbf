"""The software around a run, for `env.json` and `doctor`."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

# Where launchers tell a process its number, among all and among those of its machine.
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
LOCAL_RANKS = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")
PACKAGES = (
    "hfstrat",
    "torch",
    "transformers",
    "datasets",
    "peft",
    "accelerate",
    "evaluate",
    "bitsandbytes",
    "tokenizers",
    "safetensors",
    "scikit-learn",
    "numpy",
)


def describe() -> dict[str, Any]:
    """Versions, Python, platform, and the git state of the working directory."""
    return {
        "versions": {name: version(name) for name in PACKAGES},
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "git": git_state(),
    }


def silence_imports() -> None:
    """Keep libraries from warning, as they are imported, about what hfstrat does not use.

    These are kernels of bitsandbytes, which peft imports for any adapter, bars that tqdm would draw by widgets, and
    what PyTorch's own code says of parameters without gradients, on each process.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="IProgress not found")


def rank() -> int:
    """This process's number among those of its run."""
    return _number(RANKS)


def first_here() -> bool:
    """Whether this process is the one that speaks for those of its run on this machine."""
    return _number(LOCAL_RANKS) == 0


def _number(names: Sequence[str]) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), 0)


def version(package: str) -> str | None:
    """The installed version of a package; None when it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_state(folder: Path | None = None) -> dict[str, Any] | None:
    """Commit and whether tracked files are changed; None outside a repository."""
    commit = _git(["rev-parse", "HEAD"], folder)
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(["status", "--porcelain", "--untracked-files=no"], folder))}


def _git(words: list[str], folder: Path | None) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
