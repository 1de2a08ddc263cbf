"""`hfstrat verify`: files against their digests, and updates made again."""

from __future__ import annotations

import json
import os
import signal

import pytest
import yaml

from hfstrat import execute
from hfstrat.errors import Interrupted
from hfstrat.repeating import verify
from tests import tiny
from tests.command import hfstrat
from tests.faults.runs import Calls, recipe_for
from tests.training.helpers import memory

ROWS = tiny.reviews(60)


@pytest.fixture
def run(tiny_base, tmp_path):
    """A finished run whose data lie in a file."""
    given = recipe_for("lora", tiny_base)
    data = {"source": str(tiny.write_csv(tmp_path / "a.csv", ROWS)), "validation": 0.25, "test": 0.25}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**given, "data": data}), "utf-8")
    return execute.train(file, runs=tmp_path)


def test_a_finished_run_holds(run):
    before = sorted(run.path.rglob("*"))
    done = hfstrat("verify", run.path, "--updates", 12, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["holds"] is True
    assert (found["updates"], found["start"]) == (12, "the beginning")
    assert found["checked"] > 12
    updates = [line for line in run.log() if line["kind"] == "update" and line["update"] <= 12]
    assert found["compared"] >= len(updates) + 2, "the probe and its score as well"
    assert sorted(run.path.rglob("*")) == before


def test_what_changed_is_named(run):
    weights = run.artifact / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (run.artifact / "config.json").unlink()
    done = hfstrat("verify", run.path, "--updates", 1)
    assert done.code == 3
    assert "  artifact/adapter_model.safetensors has changed since it was written" in done.out
    assert "  artifact/config.json is not there any more" in done.out
    assert done.errors == [f"{run.path} is not what it was: 2 damaged, 0 different"]


def test_updates_that_come_out_otherwise_are_shown(run):
    """As on another machine, or with other versions of the libraries."""
    log = run.path / "log.jsonl"
    lines = log.read_text("utf-8").splitlines()
    place = next(number for number, line in enumerate(lines) if '"update": 10,' in line)
    entry = json.loads(lines[place])
    lines[place] = json.dumps({**entry, "loss": entry["loss"] + 1e-7})
    log.write_text("\n".join(lines) + "\n", "utf-8")
    found = verify(run.path, 11)
    assert found.damaged == ("log.jsonl has changed since it was written",)
    ((before, now),) = found.different
    assert (before, json.loads(now)) == (lines[place], entry)
    assert not found.holds


@pytest.mark.slow
def test_an_interrupted_run_is_repeated_from_its_oldest_checkpoint(tiny_base, tmp_path):
    given = recipe_for("partial", tiny_base)
    with pytest.raises(Interrupted):
        execute.train(
            given,
            data=memory(ROWS),
            runs=tmp_path,
            observer=Calls(44, lambda: os.kill(os.getpid(), signal.SIGTERM)),
        )
    oldest = min(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    found = verify(tmp_path / "run", 50, data=memory(ROWS))
    assert found.start == f"checkpoint {oldest}"
    assert found.compared > 0
    assert found.holds
    assert execute.train(given, data=memory(ROWS), runs=tmp_path, resume=True).status == "done"


def test_a_head_is_solved_again(tiny_base, tmp_path):
    run = execute.train(recipe_for("head", tiny_base), data=memory(ROWS), runs=tmp_path)
    found = verify(run.path, 5, data=memory(ROWS))
    assert (found.updates, found.compared, found.holds) == (0, 2, True)


def test_what_is_no_run_is_told(tmp_path):
    done = hfstrat("verify", tmp_path)
    assert done.code == 2
    assert "holds no run that can be repeated" in done.errors[0]
