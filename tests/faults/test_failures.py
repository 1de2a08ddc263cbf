"""What goes wrong while a run goes on: it says so, loses nothing, and goes on where that is right."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from hfstrat import execute, fitting
from hfstrat.errors import Diverged, Interrupted, OutOfMemory, RunError
from hfstrat.runs.directory import Run
from hfstrat.runs.events import Observer
from hfstrat.training import checkpoint, scoring, signals
from tests import tiny
from tests.faults.runs import Calls, recipe_for, short_of_memory, status_of, substance
from tests.training.helpers import memory

ROWS = tiny.reviews(60)
ROOT = Path(__file__).parents[2]


# --- signals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGINT, 130)], ids=lambda one: str(one)
)
def test_a_signal_ends_the_update_and_leaves_a_checkpoint(tiny_base, tmp_path, number, code):
    given = recipe_for("lora", tiny_base, train={"checkpoint_every": 1000})
    with pytest.raises(Interrupted) as ended:
        execute.train(
            given, data=memory(ROWS), runs=tmp_path, observer=AtUpdate(7, lambda: os.kill(os.getpid(), number))
        )
    assert ended.value.exit_code == code
    run = Run(tmp_path / "run")
    assert status_of(run) == {"state": "interrupted", "reason": f"interrupted by {number.name}"}
    found, damaged = checkpoint.newest(run.path / "checkpoints")
    assert damaged == []
    assert found is not None
    assert found.data["update"] == 7


class AtUpdate(Observer):
    """Does something when an update is done."""

    def __init__(self, number: int, what) -> None:
        self._number, self._what, self._unit, self._done = number, what, "", 0
        self.warnings: list[str] = []

    def phase(self, name, total, unit, done=0):
        self._unit, self._done = unit, done

    def advance(self, done=1, **shown):
        if self._unit == "updates" and done:
            self._done += done
            if self._done == self._number:
                self._what()

    def warn(self, text):
        self.warnings.append(text)


def test_a_second_ctrl_c_does_not_wait():
    listener = signals.Signals()
    reached = []

    def two() -> None:
        with listener.listening(), listener.held():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("after the first")
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("after the second")

    with pytest.raises(Interrupted):
        two()
    assert reached == ["after the first"]


def test_a_scheduler_that_asks_twice_is_patient():
    listener = signals.Signals()
    reached = []

    def three() -> None:
        with listener.listening(), listener.held():
            for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
                os.kill(os.getpid(), number)
            reached.append("the end of the update")

    with pytest.raises(Interrupted) as ended:
        three()
    assert reached
    assert ended.value.signal_number == signal.SIGUSR1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_outside_of_training_ends_at_once_and_handlers_are_put_back(tiny_base, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted):
        execute.train(
            recipe_for("head", tiny_base),
            data=memory(ROWS),
            runs=tmp_path,
            observer=Calls(2, lambda: os.kill(os.getpid(), signal.SIGINT)),
        )
    assert status_of(Run(tmp_path / "run"))["state"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("every", [None, 1000])
def test_a_signal_during_an_evaluation_leaves_a_checkpoint_only_where_one_is_wanted(
    tiny_base, tmp_path, every, monkeypatch
):
    def interrupted(*words, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return logits(*words, **more)

    logits = scoring.logits
    monkeypatch.setattr(scoring, "logits", interrupted)
    given = recipe_for("full", tiny_base, train={"checkpoint_every": every})
    given["strategy"] = {"kind": "full", "head_init": "random"}
    with pytest.raises(Interrupted):
        execute.train(given, data=memory(ROWS), runs=tmp_path)
    names = [path.name for path in checkpoint.paths(tmp_path / "run" / "checkpoints")]
    assert names == ([] if every is None else ["00-000000005"]), "the update is not evaluated yet"


# --- figures that are not finite ------------------------------------------------------------------------------------


def test_divergence_names_the_update_its_rate_and_its_examples(tiny_base, tmp_path, monkeypatch):
    given = recipe_for("full", tiny_base)
    bad: list[str] = []

    def poisoned(plan, prepared, data, accelerator, micro):
        step = make(plan, prepared, data, accelerator, micro)
        if plan.epoch > 2.2 and not bad:
            bad.extend(data.ids[row] for row in plan.rows)
        return step if not bad else fitting.engine.Step(step.epoch, step.batches, float("nan"), step.examples)

    make = fitting.step_of
    monkeypatch.setattr(fitting, "step_of", poisoned)
    with pytest.raises(Diverged) as ended:
        execute.train(given, data=memory(ROWS), runs=tmp_path)
    message = str(ended.value)
    number = int(re.search(r"at update (\d+) of stage fit", message)[1])
    assert number > 10
    assert f"examples {', '.join(bad[:5])} and 2 more" in message
    assert "learning rate 0.0" not in message
    run = Run(tmp_path / "run")
    assert status_of(run) == {"state": "diverged", "reason": message}
    found, _ = checkpoint.newest(run.path / "checkpoints")
    assert found is not None
    assert str(found.path) in message
    assert number - 3 <= found.data["update"] < number
    assert all(bool(torch.isfinite(value).all()) for group in found.groups for value in found.tensors(group).values())


# --- memory ---------------------------------------------------------------------------------------------------------


def test_micro_batches_are_made_smaller_before_training(tiny_base, tmp_path, monkeypatch):
    given = recipe_for("full", tiny_base, model={"dropout": 0.0}, train={"micro_batch_size": 7})
    short_of_memory(monkeypatch, 3)
    heard = Calls()
    found = execute.train(given, data=memory(ROWS), runs=tmp_path, observer=heard)
    assert [text for text in heard.warnings if "memory ran out" in text] == [
        "memory ran out: train.micro_batch_size is 4 from here on",
        "memory ran out: train.micro_batch_size is 2 from here on",
    ]
    assert yaml.safe_load(found.recipe())["train"]["micro_batch_size"] == 2
    assert status_of(found)["exact"] is True
    again = execute.train(yaml.safe_load(found.recipe()), data=memory(ROWS), runs=tmp_path / "again")
    assert substance(again)["tensors"] == substance(found)["tensors"]


def test_memory_that_runs_out_later_costs_no_update(tiny_base, tmp_path, monkeypatch):
    given = recipe_for("full", tiny_base, model={"dropout": 0.0}, train={"micro_batch_size": 7})
    plain = execute.train(given, data=memory(ROWS), runs=tmp_path / "plain")
    short_of_memory(monkeypatch, 4, after=12)
    found = execute.train(given, data=memory(ROWS), runs=tmp_path / "short")
    assert status_of(found)["exact"] is False
    assert [line["micro_batch_size"] for line in found.log() if line["kind"] == "memory"] == [4]
    pairs = zip(
        [line for line in found.log() if line["kind"] == "update"],
        [line for line in plain.log() if line["kind"] == "update"],
        strict=True,
    )
    for now, then in pairs:
        assert now["loss"] == pytest.approx(then["loss"], rel=1e-4)


def test_activations_are_computed_again_where_one_example_is_too_much(tiny_base, tmp_path, monkeypatch):
    given = recipe_for("full", tiny_base, train={"micro_batch_size": 2})
    short_of_memory(monkeypatch, 0, enough=lambda model: "forward" in vars(model.bert.encoder.layer[0]))
    heard = Calls()
    found = execute.train(given, data=memory(ROWS), runs=tmp_path, observer=heard)
    assert [text for text in heard.warnings if "memory ran out" in text] == [
        "memory ran out: train.micro_batch_size is 1 from here on",
        "memory ran out: train.gradient_checkpointing is true from here on",
    ]
    settled = yaml.safe_load(found.recipe())["train"]
    assert (settled["micro_batch_size"], settled["gradient_checkpointing"]) == (1, True)
    assert status_of(found)["exact"] is True
    monkeypatch.undo()
    given["train"]["micro_batch_size"] = 1
    plain = execute.train(given, data=memory(ROWS), runs=tmp_path / "plain")
    assert substance(plain)["tensors"] == substance(found)["tensors"]


def test_a_run_that_goes_on_computes_again_what_it_did_before(tiny_base, tmp_path, monkeypatch):
    given = recipe_for("full", tiny_base, train={"micro_batch_size": 1})
    short_of_memory(monkeypatch, 0, after=40, enough=lambda model: "forward" in vars(model.bert.encoder.layer[0]))
    vanish = AtUpdate(13, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        execute.train(given, data=memory(ROWS), runs=tmp_path, observer=vanish)
    told = [line for line in Run(tmp_path / "run").log() if line["kind"] == "memory"]
    assert [(line["micro_batch_size"], line["gradient_checkpointing"]) for line in told] == [(1, True)]
    heard = Calls()
    found = execute.train(given, data=memory(ROWS), runs=tmp_path, resume=True, observer=heard)
    assert not [text for text in heard.warnings if "memory ran out" in text]
    assert status_of(found)["exact"] is False
    monkeypatch.undo()
    plain = execute.train(given, data=memory(ROWS), runs=tmp_path / "plain")
    assert substance(plain)["tensors"] == substance(found)["tensors"]


def test_memory_that_is_not_enough_for_one_example_is_an_error(tiny_base, tmp_path, monkeypatch):
    short_of_memory(monkeypatch, 0)
    with pytest.raises(OutOfMemory, match="out of memory: CUDA out of memory"):
        execute.train(recipe_for("full", tiny_base), data=memory(ROWS), runs=tmp_path)
    assert status_of(Run(tmp_path / "run"))["state"] == "oom"


# --- trackers -------------------------------------------------------------------------------------------------------


def test_a_tracker_that_fails_is_told_once_and_training_goes_on(tiny_base, tmp_path, monkeypatch):
    def broken(self, values, step=None, **more):
        raise ConnectionError("no route to the tracker")

    monkeypatch.setattr("accelerate.Accelerator.log", broken)
    heard = Calls()
    found = execute.train(
        {**recipe_for("full", tiny_base), "track": ["tensorboard"]}, data=memory(ROWS), runs=tmp_path, observer=heard
    )
    assert found.status == "done"
    told = [text for text in heard.warnings if "tracker" in text]
    assert told == ["a tracker failed, and gets nothing more: ConnectionError: no route to the tracker"]


@pytest.mark.parametrize("call", ["init_trackers", "end_training"])
def test_a_tracker_that_does_not_start_or_end_is_no_reason_to_fail(tiny_base, tmp_path, monkeypatch, call):
    def broken(self, *words, **more):
        raise ConnectionError("no route to the tracker")

    monkeypatch.setattr(f"accelerate.Accelerator.{call}", broken)
    heard = Calls()
    given = {**recipe_for("lora", tiny_base), "track": ["tensorboard"]}
    assert execute.train(given, data=memory(ROWS), runs=tmp_path, observer=heard).status == "done"
    assert len([text for text in heard.warnings if "a tracker failed" in text]) == 1


# --- disks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["checkpoint", pytest.param("artifact", marks=pytest.mark.slow)])
def test_a_disk_that_is_full_ends_in_3_and_the_run_goes_on_later(tiny_base, tmp_path, monkeypatch, where):
    """The operating system refuses files above a size, as a full disk does."""
    given = {
        **recipe_for("lora", tiny_base),
        "data": {"source": str(tiny.write_csv(tmp_path / "a.csv", ROWS)), "validation": 0.25, "test": 0.25},
    }
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(given), "utf-8")
    whole = execute.train(file, ["name=whole"], runs=tmp_path)
    code = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from hfstrat import checkpoints, sealing
from hfstrat.cli import main

def full(*words, **more):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    return write(*words, **more)

if {where!r} == "checkpoint":
    write, writes = checkpoints.files.write, []
    def third(*words):
        writes.append(words)
        return full(*words) if len(writes) == 3 else write(*words)
    checkpoints.files.write = third
else:
    write = sealing.artifact.save
    sealing.artifact.save = full
sys.argv = ["hfstrat", "train", {str(file)!r}, "--runs", {str(tmp_path)!r}, "-q"]
main()
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "error: cannot write: " in done.stderr
    assert "Traceback" not in done.stderr
    run = Run(tmp_path / "run")
    assert status_of(run)["state"] == "failed"
    found, damaged = checkpoint.newest(run.path / "checkpoints")
    assert damaged == []
    assert found is not None
    again = execute.train(file, runs=tmp_path, resume=True)
    assert substance(again) == substance(whole)


def test_a_directory_that_vanishes_ends_in_3(tiny_base, tmp_path):
    vanish = AtUpdate(5, lambda: shutil.rmtree(tmp_path / "run"))
    with pytest.raises(RunError, match="cannot write"):
        execute.train(recipe_for("lora", tiny_base), data=memory(ROWS), runs=tmp_path, observer=vanish)


# --- secrets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end", ["failure", *(pytest.param(end, marks=pytest.mark.slow) for end in ("success", "crash"))]
)
def test_a_token_is_found_nowhere(tiny_base, tmp_path, end):
    token = "hf_" + "Qz7" * 12
    other = "correct-horse-battery-staple"
    given = {
        **recipe_for("head", tiny_base),
        "data": {"source": str(tiny.write_csv(tmp_path / "a.csv", ROWS)), "validation": 0.25, "test": 0.25},
    }
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(given), "utf-8")
    code = f"""
import sys
from hfstrat import execute
from hfstrat.cli import main
from hfstrat.errors import RunError

def broken(*words):
    if {end!r} == "failure":
        raise RunError("401 for https://me:" + {other!r} + "@hub.example with Authorization: Bearer " + {token!r})
    raise KeyError("header " + {token!r} + " and " + {other!r})

if {end!r} != "success":
    execute.decide = broken
sys.argv = ["hfstrat", "train", {str(file)!r}, "--runs", {str(tmp_path / "runs")!r}]
main()
"""
    environment = {**os.environ, "HF_TOKEN": token, "MY_SECRET": other, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == {"success": 0, "failure": 3, "crash": 1}[end], done.stderr
    assert ("***" in done.stderr) == (end != "success")
    written = [done.stdout.encode(), done.stderr.encode()]
    written += [path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(written) > 8
    for secret in (token, other):
        assert not any(secret.encode() in content for content in written)
