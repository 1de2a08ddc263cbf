"""What was measured, kept as it is measured, so that a long measurement can be cut and continued."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from hfstrat.environment import git_state

Entry = dict[str, Any]
PACKAGES = ("torch", "transformers", "peft", "accelerate", "sentence-transformers", "scikit-learn")
FLAGS = ("avx512f", "avx512_bf16", "amx_bf16")


def machine() -> dict[str, Any]:
    """Processor, its native arithmetic, and the versions of what is compared."""
    lines = Path("/proc/cpuinfo").read_text("ascii", "ignore").splitlines() if Path("/proc/cpuinfo").exists() else []
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(found.get("flags", "").split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": found.get("model name", "unknown"),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def commit(root: Path) -> dict[str, Any]:
    """Which hfstrat was measured."""
    found = git_state(root)
    return {"commit": None, "dirty": False} if found is None else {**found, "commit": found["commit"][:12]}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


class Records:
    """The lines of `results.jsonl` in a folder that belongs to one machine and one setting.

    Args:
        folder: The folder.
        settings: What all its results have in common.

    Raises:
        SystemExit: The folder has results of other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "results.jsonl"
        kept = folder / "settings.json"
        if kept.is_file():
            before = json.loads(kept.read_text("utf-8"))
            changed = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
            if changed:
                raise SystemExit(f"{folder} was measured with other {', '.join(changed)}: name another --out")
        kept.write_text(json.dumps(dict(settings), indent=2) + "\n", "utf-8")
        self.settings = dict(settings)
        lines = self._file.read_text("utf-8").splitlines() if self._file.is_file() else []
        self.entries: list[Entry] = [json.loads(line) for line in lines]

    def of(self, name: str) -> list[Entry]:
        """Results of a comparison; a side that failed is left out once there is one that did not."""
        found = [entry for entry in self.entries if entry["name"] == name]
        good = [entry for entry in found if "error" not in entry]
        return good or found[-1:]

    def has(self, name: str, pair: int) -> bool:
        """Whether a pair was measured; one that failed is tried again."""
        return any(entry["pair"] == pair and "error" not in entry for entry in self.of(name))

    def add(self, entry: Entry) -> None:
        """Keep a result."""
        self.entries.append(entry)
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
