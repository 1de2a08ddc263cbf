"""One of several processes ends: so do the others, the run says which it was, and it goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from hfstrat.runs.directory import Run
from hfstrat.training import checkpoint
from tests import tiny
from tests.faults.runs import files_of, recipe_for, status_of, substance
from tests.training.test_processes import ROOT, ROWS, run_in_processes

pytestmark = pytest.mark.slow

SECONDS = 30.0
LOST = "of 2 ended before the run did; `--resume` goes on"


def given(tiny_base, **sections: Any) -> dict[str, Any]:
    return recipe_for("lora", tiny_base, **sections)


def ended(folder: Path) -> tuple[list[int], float]:
    """Exit codes in the order in which processes ended, and the seconds between the first and the last."""
    found = json.loads((folder / "ended.json").read_text("utf-8"))
    return [one["code"] for one in found], found[-1]["seconds"] - found[0]["seconds"]


@pytest.fixture(scope="module")
def whole(tiny_base, tmp_path_factory) -> Run:
    """A run of two processes that nothing happened to."""
    folder = run_in_processes(tmp_path_factory.mktemp("whole"), tiny_base, [2], [], [given(tiny_base)])
    return Run(folder / "runs-2" / "run")


@pytest.mark.parametrize(
    ("process", "by", "state", "reason"),
    [
        (1, "SIGKILL", "failed", f"rank 1 {LOST}"),
        (0, "SIGKILL", "failed", f"rank 0 {LOST}"),
        (1, "error", "failed", "rank 1 of 2: a fault"),
        (1, "memory", "oom", "rank 1 of 2: out of memory: CUDA out of memory."),
    ],
)
def test_the_others_end_and_the_run_goes_on_exactly(whole, tiny_base, tmp_path, process, by, state, reason):
    recipes = [given(tiny_base)]
    stop = {"process": process, "update": 8, "by": by}
    run_in_processes(tmp_path, tiny_base, [2], [], recipes, stop=stop)
    codes, seconds = ended(tmp_path)
    assert len(codes) == 2
    assert 0 not in codes
    assert seconds < SECONDS
    run = Run(tmp_path / "runs-2" / "run")
    status = status_of(run)
    assert status["state"] == state
    assert status["reason"].startswith(reason)
    found, damaged = checkpoint.newest(run.path / "checkpoints")
    assert damaged == []
    assert found is not None
    assert found.data["update"] == 6, "each third update has one, and none was written when the group was broken"

    run_in_processes(tmp_path, tiny_base, [2], [], recipes, resume=True)
    assert substance(run) == substance(whole)
    assert files_of(run) == files_of(whole)


def test_a_signal_to_any_process_ends_all_of_them_with_a_checkpoint(whole, tiny_base, tmp_path):
    stop = {"process": 1, "update": 8, "by": "SIGTERM"}
    run_in_processes(tmp_path, tiny_base, [2], [], [given(tiny_base)], stop=stop)
    run = Run(tmp_path / "runs-2" / "run")
    assert status_of(run) == {"state": "interrupted", "reason": "interrupted by SIGTERM"}
    found, _ = checkpoint.newest(run.path / "checkpoints")
    assert found is not None
    assert found.data["update"] == 8


def test_examples_keep_their_order_when_the_number_of_processes_changes(tiny_base, tmp_path):
    """Two processes, then one, then two."""
    recipes = [given(tiny_base, model={"dropout": 0.0})]

    def order(folder: Path, processes: int) -> list[list[int]]:
        return json.loads((folder / f"orders-{processes}.json").read_text("utf-8"))["run"]

    def moved(source: int, target: int) -> None:
        (tmp_path / f"runs-{source}").rename(tmp_path / f"runs-{target}")

    run_in_processes(tmp_path, tiny_base, [2], [], recipes, stop={"process": 1, "update": 4, "by": "SIGTERM"})
    first = order(tmp_path, 2)
    moved(2, 1)
    run_in_processes(
        tmp_path, tiny_base, [1], [], recipes, resume=True, stop={"process": 0, "update": 5, "by": "SIGTERM"}
    )
    second = order(tmp_path, 1)
    moved(1, 2)
    run_in_processes(tmp_path, tiny_base, [2], [], recipes, resume=True)
    third = order(tmp_path, 2)
    assert (len(first), len(second)) == (4, 5)

    plain = tmp_path / "plain"
    plain.mkdir()
    run_in_processes(plain, tiny_base, [1], [], recipes)
    assert first + second + third == order(plain, 1)
    parted, whole = Run(tmp_path / "runs-2" / "run"), Run(plain / "runs-1" / "run")
    for here, there in zip(whole.log(), parted.log(), strict=True):
        assert there.get("lr") == here.get("lr")
        if "loss" in here:
            assert there["loss"] == pytest.approx(here["loss"], rel=1e-5)
    assert status_of(parted)["state"] == "done"


# --- launchers ----------------------------------------------------------------------------------------------------

TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ONE = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]


def started(folder: Path, tiny_base, launcher: list[str], *words: str) -> subprocess.Popen[str]:
    """A run of many updates, under a launcher."""
    tiny.write_csv(folder / "rows.csv", tiny.reviews(ROWS))
    recipe = given(
        tiny_base, data={"source": str(folder / "rows.csv")}, train={"epochs": 3000, "checkpoint_every": 10**6}
    )
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    command = [sys.executable, *launcher, "-m", "hfstrat", "train", "recipe.yaml", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def until(what: str, condition) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.mark.parametrize("launcher", [TWO, ONE], ids=["torchrun", "accelerate"])
def test_a_signal_to_the_launcher_alone_leaves_a_checkpoint(tiny_base, tmp_path, launcher):
    process = started(tmp_path, tiny_base, launcher)
    run = Run(tmp_path / "runs" / "run")
    until("it trains", lambda: any(line["kind"] == "update" and line["update"] > 1 for line in run.log()))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    until("it has ended", lambda: status_of(run)["state"] != "running")
    assert status_of(run) == {"state": "interrupted", "reason": "interrupted by SIGTERM"}
    assert checkpoint.newest(run.path / "checkpoints")[0] is not None
