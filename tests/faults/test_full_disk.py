"""A disk that is really full: a small tmpfs of the test's own, which takes root and Linux."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

from hfstrat import execute
from hfstrat.runs.directory import Run
from hfstrat.training import checkpoint
from tests import tiny
from tests.faults.runs import recipe_for, status_of, substance

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ROWS = tiny.reviews(60)
SIZE = 16 * 2**20


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def taken(files: Iterable[Path]) -> int:
    """The bytes that files take on a tmpfs, which counts in pages."""
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(-(-file.stat().st_size // page) * page for file in files if file.is_file())


@pytest.mark.parametrize(("where", "every"), [("checkpoint", 3), ("artifact", 15)])
def test_a_full_disk_ends_in_3_and_with_more_room_the_run_goes_on(tiny_base, tmp_path, disk, monkeypatch, where, every):
    given = recipe_for("full", tiny_base, train={"checkpoint_every": every})
    given["data"] = {"source": str(tiny.write_csv(tmp_path / "a.csv", ROWS)), "validation": 0.25, "test": 0.25}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(given), "utf-8")
    checkpoints: list[int] = []
    prune = checkpoint.prune

    def measured(folder: Path, keep: int) -> None:
        checkpoints.append(taken(folder.rglob("*")))
        prune(folder, keep)

    monkeypatch.setattr(checkpoint, "prune", measured)
    whole = execute.train(file, runs=tmp_path / "whole")
    # The small files fit. Beside them there is room for three quarters of the checkpoints or, where the artefact is to
    # fail, for all of them and half the artefact.
    half_artifact = taken(whole.artifact.rglob("*")) // 2
    small = taken(set(whole.path.rglob("*")) - set(whole.artifact.rglob("*")))
    room = small + (max(checkpoints) * 3 // 4 if where == "checkpoint" else max(checkpoints) + half_artifact)
    (disk / "ballast").write_bytes(b"\0" * (SIZE - room))

    command = [sys.executable, "-m", "hfstrat", "train", str(file), "--runs", str(disk), "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 3, done.stderr
    assert "error: cannot write: " in done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    run = Run(disk / "run")
    assert status_of(run)["state"] in ("failed", "running"), "what cannot be written cannot be said"
    found, damaged = checkpoint.newest(run.path / "checkpoints")
    assert damaged == []
    assert found is not None
    reached = (found.data["stage"], found.data["update"])
    assert reached == (1, 15) if where == "artifact" else reached < (1, 20)
    (disk / "ballast").unlink()
    again = execute.train(file, runs=disk, resume=True)
    assert substance(again) == substance(whole)
