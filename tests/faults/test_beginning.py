"""Whether a run begins anew, goes on or is refused where its directory holds one already."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hfstrat import execute, fitting
from hfstrat.errors import Interrupted, RecipeError, UsageError
from hfstrat.runs.directory import Run, clear, locked
from hfstrat.training import checkpoint
from tests import tiny
from tests.command import hfstrat
from tests.faults.runs import Calls, recipe_for, short_of_memory, status_of, substance
from tests.training.helpers import memory

ROWS = tiny.reviews(60)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupted(given, runs, at: int = 20, rows=ROWS) -> Run:
    with pytest.raises(Interrupted):
        execute.train(given, data=memory(rows), runs=runs, observer=Calls(at, stop))
    run = Run(runs / given["name"])
    assert status_of(run) == {"state": "interrupted", "reason": "interrupted by SIGTERM"}
    return run


@pytest.fixture
def given(tiny_base):
    return recipe_for("lora", tiny_base)


@pytest.fixture
def as_file(given, tmp_path, monkeypatch):
    """The recipe and its data as files, in a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    tiny.write_csv(tmp_path / "a.csv", ROWS)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**given, "data": {"source": "a.csv", "validation": 0.25, "test": 0.25}}), "utf-8")
    return file


def test_an_interrupted_run_is_not_replaced_unasked(given, tmp_path):
    interrupted(given, tmp_path)
    with pytest.raises(UsageError, match=r"is interrupted\. Add --resume to go on with it; add --overwrite to replace"):
        execute.train(given, data=memory(ROWS), runs=tmp_path)


@pytest.mark.slow
def test_overwriting_begins_anew(given, tmp_path):
    interrupted(given, tmp_path / "a")
    anew = execute.train(given, data=memory(ROWS), runs=tmp_path / "a", overwrite=True)
    whole = execute.train(given, data=memory(ROWS), runs=tmp_path / "b")
    assert substance(anew) == substance(whole)


def test_one_cannot_have_both(given, tmp_path):
    with pytest.raises(UsageError, match="either replaced or gone on with"):
        execute.train(given, data=memory(ROWS), runs=tmp_path, overwrite=True, resume=True)


def test_a_finished_run_is_done(given, tmp_path):
    execute.train(given, data=memory(ROWS), runs=tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file() and file.name != ".lock"}
    heard = Calls()
    execute.train(given, data=memory(ROWS), runs=tmp_path, resume=True, observer=heard)
    assert any("is done already" in note for note in heard.notes)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_what_a_kill_after_the_end_left_is_cleared_away(given, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(execute.Checkpoints, "remove", lambda self: None)
        run = execute.train(given, data=memory(ROWS), runs=tmp_path)
    assert (run.path / "checkpoints").is_dir()
    execute.train(given, data=memory(ROWS), runs=tmp_path, resume=True)
    assert not (run.path / "checkpoints").exists()


def test_nothing_to_go_on_from_is_no_error(given, tmp_path):
    """So that a script for a scheduler can always say --resume."""
    found = execute.train(given, data=memory(ROWS), runs=tmp_path, resume=True)
    assert found.status == "done"


@pytest.mark.parametrize("where", ["train.lr=0.002", "strategy.r=8", "seed=1", "evaluate.every=2"])
def test_another_recipe_is_refused_with_its_field(as_file, where):
    runs = as_file.parent / "runs"
    with pytest.raises(Interrupted):
        execute.train(as_file, runs=runs, observer=Calls(20, stop))
    with pytest.raises(RecipeError) as refused:
        execute.train(as_file, [where], runs=runs, resume=True)
    (problem,) = refused.value.problems
    assert problem.path == where.partition("=")[0]
    assert f"now it is {where.partition('=')[2]}" in problem.message
    assert "add --overwrite to begin anew" in problem.hint


def test_checkpoints_may_be_written_at_another_pace(as_file):
    runs = as_file.parent / "runs"
    with pytest.raises(Interrupted):
        execute.train(as_file, runs=runs, observer=Calls(20, stop))
    found = execute.train(as_file, ["train.checkpoint_every=2"], runs=runs, resume=True)
    assert found.status == "done"


def test_other_data_are_refused(given, tmp_path):
    interrupted(given, tmp_path)
    with pytest.raises(UsageError, match=r"the data of the run in .* changed since it began"):
        execute.train(given, data=memory(tiny.reviews(60, seed=1)), runs=tmp_path, resume=True)


def test_another_base_is_refused(given, tmp_path, tiny_base):
    base = tmp_path / "base"
    shutil.copytree(given["model"]["base"], base)
    given["model"]["base"] = str(base)
    interrupted(given, tmp_path / "runs")
    shutil.copytree(tiny_base("bert", initializer_range=0.3), base, dirs_exist_ok=True)
    with pytest.raises(UsageError, match=r"the weights of the base of the run in .* changed"):
        execute.train(given, data=memory(ROWS), runs=tmp_path / "runs", resume=True)


@pytest.mark.slow
def test_a_run_goes_on_by_its_directory(as_file):
    runs = as_file.parent / "runs"
    whole = execute.train(as_file, ["name=whole"], runs=runs)
    with pytest.raises(Interrupted):
        execute.train(as_file, runs=runs, observer=Calls(20, stop))
    refused = hfstrat("train", runs / "run")
    assert refused.code == 2
    assert refused.errors == [
        f"{runs / 'run'} is the directory of a run. Add --resume to go on with it, or name a recipe"
    ]
    done = hfstrat("train", runs / "run", "--resume", "--quiet")
    assert done.code == 0, done.err
    assert substance(Run(runs / "run")) == substance(whole)
    again = hfstrat("train", as_file, "--resume")
    assert again.code == 0
    assert "is done already" in again.err


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(given, tmp_path):
    whole = execute.train(given, data=memory(ROWS), runs=tmp_path / "whole")
    run = interrupted(given, tmp_path / "parted", at=33)
    one, two = sorted((run.path / "checkpoints").iterdir())
    file = two / "current.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    heard = Calls()
    found = execute.train(given, data=memory(ROWS), runs=tmp_path / "parted", resume=True, observer=heard)
    assert heard.warnings[0] == f"{two.name} is damaged: current.safetensors has changed since it was written"
    assert any(str(one) in note for note in heard.notes)
    assert substance(found) == substance(whole)


def test_without_a_whole_checkpoint_it_begins_anew(given, tmp_path):
    whole = execute.train(given, data=memory(ROWS), runs=tmp_path / "whole")
    run = interrupted(given, tmp_path / "parted", at=33)
    for path in (run.path / "checkpoints").iterdir():
        (path / "manifest.json").unlink()
    heard = Calls()
    found = execute.train(given, data=memory(ROWS), runs=tmp_path / "parted", resume=True, observer=heard)
    assert len(heard.warnings) == 3
    assert "has no checkpoint to go on from: it begins anew" in heard.warnings[-1]
    assert substance(found) == substance(whole)


def test_a_directory_that_is_being_written_names_its_owner(as_file):
    runs = as_file.parent / "runs"
    with locked(runs / "run"):
        for words in ((), ("--resume",), ("--overwrite",)):
            done = hfstrat("train", as_file, *words)
            assert done.code == 2
            (problem,) = done.errors
            assert f"run is being written by process {os.getpid()} on " in problem
    assert hfstrat("train", as_file, "-q").code == 0, "the lock ends with its owner"


def test_the_lock_of_a_process_that_died_holds_nobody_up(as_file):
    runs = as_file.parent / "runs"
    code = f"""
import os, signal
from hfstrat.runs.directory import locked
with locked(__import__("pathlib").Path({str(runs / "run")!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    assert json.loads((runs / "run" / ".lock").read_text("utf-8"))["pid"]
    assert hfstrat("train", as_file, "-q").code == 0


def test_a_signal_after_the_end_does_not_undo_it(given, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(execute.Checkpoints, "remove", lambda self: stop())
        run = execute.train(given, data=memory(ROWS), runs=tmp_path)
    assert run.status == "done"
    assert (run.path / "checkpoints").is_dir()
    execute.train(given, data=memory(ROWS), runs=tmp_path, resume=True)
    assert not (run.path / "checkpoints").exists()


def test_what_a_kill_left_among_the_checkpoints_does_not_undo_the_end(given, tmp_path):
    run = interrupted(given, tmp_path)
    (run.path / "checkpoints" / ".01-000000003.4711").mkdir()
    (run.path / "checkpoints" / ".nfs0001").write_text("")
    given["train"]["checkpoint_every"] = 1000  # so that none is written, which would clear that away
    execute.train(given, data=memory(ROWS), runs=tmp_path, resume=True)
    assert run.status == "done"
    assert not (run.path / "checkpoints").exists()


def test_micro_batches_that_were_settled_are_no_other_recipe(given, tmp_path, monkeypatch):
    """Memory runs out in the first stage of gradients, and the process is killed before its first checkpoint."""
    given["strategy"] = {"kind": "full", "head_init": "probe"}
    given["train"]["checkpoint_every"] = 1000
    settled: list[Run] = []

    def killed(self, updates, done):
        settled.append(Run(tmp_path / "run"))
        raise Interrupted(signal.SIGTERM)

    with monkeypatch.context() as patch:
        short_of_memory(patch, 3)
        patch.setattr(fitting._Following, "follow", killed)
        with pytest.raises(Interrupted):
            execute.train(given, data=memory(ROWS), runs=tmp_path)
    assert yaml.safe_load(settled[0].recipe())["train"]["micro_batch_size"] == 2
    found = execute.train(given, data=memory(ROWS), runs=tmp_path, resume=True)
    assert found.status == "done"
    heard = Calls()
    execute.train(given, data=memory(ROWS), runs=tmp_path, resume=True, observer=heard)
    assert any("is done already" in note for note in heard.notes)


def test_a_checkpoint_that_cannot_be_read_just_now_is_not_cleared_away(given, tmp_path):
    run = interrupted(given, tmp_path)
    (newest, *_) = checkpoint.paths(run.path / "checkpoints")
    manifest = newest / "manifest.json"
    stored = json.loads(manifest.read_bytes())
    changed = json.dumps({**stored, "version": 2}).encode()
    manifest.write_bytes(changed)
    (newest / "manifest.sha256").write_text(hashlib.sha256(changed).hexdigest())
    with pytest.raises(UsageError, match=r"it has version 2, and this hfstrat reads version 1\. Mend that, remove it"):
        execute.train(given, data=memory(ROWS), runs=tmp_path, resume=True)
    assert newest.is_dir()


def test_damaged_checkpoints_make_no_room_for_themselves(given, tmp_path):
    given["train"]["keep_checkpoints"] = 3
    run = interrupted(given, tmp_path)
    folder = run.path / "checkpoints"
    newest, before, *_ = checkpoint.paths(folder)
    (newest / "current.safetensors").write_bytes(b"")
    given["train"]["keep_checkpoints"] = 1
    with pytest.raises(Interrupted):
        execute.train(given, data=memory(ROWS), runs=tmp_path, resume=True, observer=Calls(12, stop))
    (kept,) = checkpoint.paths(folder)
    assert kept.name >= before.name
    assert checkpoint.newest(folder) == (checkpoint.read(kept), [])


def test_a_directory_in_which_a_run_had_hardly_begun_is_free(given, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".status.json.4711").write_text("{")
    assert execute.train(given, data=memory(ROWS), runs=tmp_path, resume=True).status == "done"


def test_what_is_cleared_is_a_run_until_the_last(tmp_path, monkeypatch):
    for name in ("a.json", "status.json", "z.json"):
        (tmp_path / name).write_text("{}")
    gone: list[str] = []
    monkeypatch.setattr(Path, "unlink", lambda self: gone.append(self.name))
    clear(tmp_path)
    assert gone[-1] == "status.json"
    assert sorted(gone) == ["a.json", "status.json", "z.json"]


def test_other_texts_without_labels_are_refused(tiny_base, tmp_path):
    teacher = execute.train(recipe_for("full", tiny_base, name="teacher"), data=memory(ROWS), runs=tmp_path)
    more = tiny.write_csv(tmp_path / "more.csv", tiny.reviews(20, seed=2))
    given = recipe_for("distill", tiny_base, teacher.path)
    given["strategy"]["unlabelled"] = str(more)
    interrupted(given, tmp_path)
    tiny.write_csv(tmp_path / "more.csv", tiny.reviews(20, seed=3))
    with pytest.raises(UsageError, match=r"the data of the run in .* changed since it began"):
        execute.train(given, data=memory(ROWS), runs=tmp_path, resume=True)
