"""Killed again and again, by real SIGKILLs, a run ends in the bytes of the run that nobody touched."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from hfstrat import execute
from hfstrat.runs.directory import Run
from tests import tiny
from tests.faults.runs import files_of, recipe_for, substance
from tests.faults.server import PLACES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ROWS = tiny.reviews(60)
KILLED = -signal.SIGKILL
CHECKPOINTS = [place for place in PLACES if place.startswith("checkpoint")]
ARTIFACT = [place for place in PLACES if place.startswith("artifact")]


@dataclass
class Server:
    """A warm server."""

    process: subprocess.Popen[str]
    told: Path

    def start(self, recipe: Path, runs: Path, overrides: list[str], place: str | None) -> int:
        """Start a run; its process."""
        job = {
            "recipe": str(recipe),
            "runs": str(runs),
            "overrides": overrides,
            "place": place,
            "told": str(self.told),
        }
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> int:
        """How the run ended."""
        return os.waitstatus_to_exitcode(int(self.process.stdout.readline()))


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.server"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield Server(process, tmp_path_factory.mktemp("told") / "phase")
    process.stdin.close()
    process.wait(timeout=60)
    process.stdout.close()


@pytest.fixture(scope="module")
def folder(tiny_base, tmp_path_factory) -> Path:
    """A folder with the data and a teacher."""
    found = tmp_path_factory.mktemp("killed")
    tiny.write_csv(found / "a.csv", ROWS)
    execute.train(write(found, "teacher", recipe_for("full", tiny_base, name="teacher")), runs=found)
    return found


def write(folder: Path, name: str, given: dict[str, Any]) -> Path:
    file = folder / f"{name}.yaml"
    data = {"source": str(folder / "a.csv"), "validation": 0.25, "test": 0.25}
    file.write_text(yaml.safe_dump({**given, "name": name, "data": data}), "utf-8")
    return file


def forget(teacher: Path) -> None:
    """Remove a teacher's outputs."""
    for kept in (teacher / "outputs").glob("*"):
        kept.unlink()


def cold_start() -> float:
    """Seconds until the command line has imported what it needs, on this machine and now."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import hfstrat.execute, transformers, peft"], cwd=ROOT, check=True)
    return time.monotonic() - start


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("strategy", ["scratch", "head", "partial", "full", "lora", "distill"])
def test_killed_again_and_again(strategy, precision, server, folder, tiny_base, capsys):
    name, rng = f"{strategy}-{precision}", random.Random(f"{strategy} {precision}")
    teacher = folder / "teacher"
    forget(teacher)
    train = {"precision": precision, "epochs": 25}
    recipe = write(folder, name, recipe_for(strategy, tiny_base, teacher, train=train))
    whole = execute.train(recipe, runs=folder / "whole")
    forget(teacher)

    # Where a strategy computes what is not in a checkpoint yet: a teacher's outputs, or the features of a head.
    cache = (
        ["cache: teacher"]
        if strategy == "distill"
        else []
        if strategy == "scratch"
        else ["cache: features", "cache: solved"]
    )
    queue = deque([*CHECKPOINTS, *ARTIFACT, *rng.choices(cache, k=3 if cache else 0), "beginning", *["cold"] * 5])
    queue.extend(["random"] * (25 - len(queue)))
    rng.shuffle(queue)
    runs, started = folder / "parted", cold_start()
    landed: Counter[str] = Counter()
    finished: list[Run] = []
    for _ in range(100):
        # A run that ends before it is killed is one more that has to be the same, and another one begins.
        place = queue[0] if queue else None
        where = runs / str(len(finished))
        if place == "cache: teacher":  # else its outputs are there already
            forget(teacher)
        ended, phase = (
            cold(recipe, where, started, rng) if place == "cold" else warm(server, recipe, where, place, started, rng)
        )
        if ended == 0:
            finished.append(Run(where / name))
            queue.rotate(-1)
            if not queue:
                break
        else:
            assert ended == KILLED, f"{place} ended in {ended}"
            landed[f"{place}, {phase}" if place in ("cold", "random") else str(queue[0])] += 1
            queue.popleft()
    with capsys.disabled():
        print(f"\n{name}: {landed.total()} kills, {len(finished)} runs: {dict(sorted(landed.items()))}")

    assert landed.total() == 25
    assert sum(landed[place] for place in CHECKPOINTS) >= 5
    assert sum(landed[place] for place in ARTIFACT) >= 3
    assert sum(landed[place] for place in cache) == (3 if cache else 0)
    assert finished
    for run in finished:
        assert substance(run) == substance(whole)
        assert files_of(run) == files_of(whole)


def warm(
    server: Server, recipe: Path, runs: Path, place: str | None, started: float, rng: random.Random
) -> tuple[int, str]:
    """Let the server train, and kill it at a random moment or at a place; how it ended, and in which phase."""
    pid = server.start(recipe, runs, [], None if place == "random" else place)
    if place == "random":
        time.sleep(rng.uniform(0.02, 1.0) * started)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return server.wait(), server.told.read_text("utf-8")


def cold(recipe: Path, runs: Path, started: float, rng: random.Random) -> tuple[int, str]:
    """Kill the command line at a random moment; how it ended, and how far it was."""
    log = runs / recipe.stem / "log.jsonl"
    before = log.stat().st_mtime_ns if log.exists() else None
    command = [sys.executable, "-m", "hfstrat", "train", str(recipe), "--runs", str(runs), "--resume", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    time.sleep(rng.uniform(0.7, 1.7) * started)
    process.kill()
    ended = process.wait()
    after = log.stat().st_mtime_ns if log.exists() else None
    return ended, "training" if after != before else "loading"
