"""How many processes and threads were asked for, found out from a launcher; and runs under each of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from hfstrat.errors import UsageError
from hfstrat.processes import Group, accelerator_for, check_launch
from hfstrat.recipe.facts import Machine
from hfstrat.recipe.loading import load
from hfstrat.runs.directory import Run
from hfstrat.runs.events import Observer
from hfstrat.training import launch
from hfstrat.verbs import recipes
from tests import tiny
from tests.faults.runs import files_of, recipe_for, status_of, substance
from tests.training.test_processes import ROOT, ROWS

FILES = recipes.folder() / recipes.LAUNCHING
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


class Launcher:
    """A process as psutil shows it."""

    def __init__(self, command: str, **environment: str) -> None:
        self._command, self._environment = command, environment

    def parent(self) -> Launcher:
        return self

    def cmdline(self) -> list[str]:
        return self._command.split()

    def environ(self) -> dict[str, str]:
        return self._environment


@pytest.fixture
def under(monkeypatch):
    """A process that a launcher has started: by its command line and the environment that the user gave it."""

    def start(command: str, **environment: str) -> None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setattr(psutil, "Process", lambda: Launcher(command, **environment))
        for known in (launch._launcher, launch._of_accelerate):
            known.cache_clear()

    yield start
    for known in (launch._launcher, launch._of_accelerate):
        known.cache_clear()


@pytest.mark.parametrize(
    ("command", "processes", "threads"),
    [
        ("python /x/bin/accelerate launch --cpu --num_processes 2 -m hfstrat train a.yaml", 2, None),
        ("python -m accelerate.commands.launch --num_processes=3 -m hfstrat train a.yaml --num_processes 9", 3, None),
        ("python /x/bin/accelerate-launch --num_cpu_threads_per_process 4 script.py", None, 4),
        (f"accelerate launch --config_file {FILES / 'two-cpu.yaml'} -m hfstrat train a.yaml", 2, None),
        (f"accelerate launch --config_file {FILES / 'two-cpu.yaml'} --num_processes 1 script.py", 1, None),
        ("bash a-script-of-mine --num_processes 2", None, None),
    ],
)
def test_a_command_line_says_what_was_asked_for(under, command, processes, threads):
    under(command)
    assert launch.processes_asked() == processes
    assert launch.threads_asked() == (None if threads is None else (threads, "--num_cpu_threads_per_process"))


def test_threads_that_the_user_set_are_told_from_those_of_a_launcher(under, monkeypatch):
    assert Machine("cpu", 8, 2, 2, False).threads == (4, "8 cores, 2 process(es) here")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert launch.threads_asked() == (3, "OMP_NUM_THREADS")
    assert Machine("cpu", 8, 2, 2, False, launch.threads_asked()).threads == (3, "OMP_NUM_THREADS")
    under("/x/bin/torchrun --nproc_per_node 2 -m hfstrat train a.yaml")
    assert launch.threads_asked() is None
    under("/x/bin/torchrun --nproc_per_node 2 -m hfstrat train a.yaml", OMP_NUM_THREADS="1")
    assert launch.threads_asked() == (1, "OMP_NUM_THREADS")


def test_another_number_than_was_asked_for_is_an_error(under, monkeypatch, tmp_path, tiny_base):
    under("accelerate launch --cpu --num_processes 2 -m hfstrat train a.yaml")
    monkeypatch.setattr(sys, "argv", ["/x/bin/hfstrat", "train", "a.yaml"])
    parsed, _ = load(recipe_for("lora", tiny_base), ())
    with pytest.raises(UsageError) as found:
        Group(accelerator_for(parsed, tmp_path))
    command = "torchrun --nproc_per_node 2 -m hfstrat train a.yaml`"
    assert str(found.value).startswith("2 processes were asked for and 1 started. Start them by `")
    assert str(found.value).endswith(command)


@pytest.mark.parametrize("kind", launch.SHARDING)
def test_a_model_is_not_divided_on_a_cpu(monkeypatch, kind):
    told: list[str] = []
    observer = Observer()
    monkeypatch.setattr(observer, "warn", told.append)
    check_launch(observer)
    monkeypatch.setenv(kind, "true")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(UsageError, match="Accelerate divides no model on a CPU"):
        check_launch(observer)
    assert told == []
    monkeypatch.setattr(launch, "on_cpu", lambda: False)
    check_launch(observer)
    assert told == [f"{launch.SHARDING[kind]} is passed on to Accelerate; hfstrat has not been measured with it yet"]


# --- as a user starts them ----------------------------------------------------------------------------------------


@pytest.fixture
def here(tiny_base, tmp_path) -> Path:
    """A folder with data, a recipe, and the files for launchers."""
    tiny.write_csv(tmp_path / "rows.csv", tiny.reviews(ROWS))
    given = recipe_for("lora", tiny_base, model={"dropout": 0.0}, data={"source": "rows.csv"})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given), "utf-8")
    recipes.copy(recipes.LAUNCHING, tmp_path, force=False)
    return tmp_path


def run(here: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False, timeout=240)


def environment_of(folder: Path) -> dict[str, Any]:
    found = Run(folder).read("env.json")
    assert found is not None
    return found


TRAIN = ("-m", "hfstrat", "train", "recipe.yaml", "-q")


@pytest.mark.slow
def test_the_files_for_cpus_start_what_they_say(here):
    for name, processes in (("one-cpu", 1), ("two-cpu", 2)):
        file = here / "accelerate" / f"{name}.yaml"
        done = run(here, *ACCELERATE, "--config_file", file, *TRAIN, f"name={name}", ACCELERATE_USE_CPU="true")
        assert done.returncode == 0, done.stderr
        found = environment_of(here / "runs" / name)
        assert (found["processes"], found["device"].partition(":")[0]) == (processes, "cpu")
        assert found["threads"] == max(1, len(os.sched_getaffinity(0)) // processes)
    done = run(here, sys.executable, *TRAIN, "name=alone")
    assert done.returncode == 0, done.stderr
    one, alone = (Run(here / "runs" / name) for name in ("one-cpu", "alone"))
    assert substance(one) == substance(alone)


@pytest.mark.slow
def test_launchers_that_would_start_one_say_so(here):
    done = run(here, *ACCELERATE, "--cpu", "--num_processes", "2", *TRAIN)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: 2 processes were asked for and 1 started. Start them by `")
    command = errors[0].split("`")[1]
    assert not (here / "runs").exists()

    again = run(here, "bash", "-c", command.replace("torchrun", f"{sys.executable} -m torch.distributed.run"))
    assert again.returncode == 0, again.stderr
    assert environment_of(here / "runs" / "run")["processes"] == 2


@pytest.mark.slow
def test_sharding_on_cpus_is_refused_once(here):
    words = ("--use_fsdp", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no")
    done = run(here, *ACCELERATE, *words, "--dynamo_backend", "no", *TRAIN, ACCELERATE_USE_CPU="true")
    assert done.returncode != 0
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: FSDP is asked for")]) == 1
    assert not (here / "runs").exists()


NOTEBOOK = """
import socket
import sys
import torch
import hfstrat
from accelerate import notebook_launcher
if "computed" in sys.argv:
    torch.set_num_threads(2)
    torch.ones(1 << 22).exp().sum()
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
notebook_launcher(hfstrat.train, ("recipe.yaml", sys.argv[2:]), num_processes=2, use_port=port)
"""


@pytest.mark.slow
def test_a_notebook_starts_two_processes_or_says_what_to_do(here):
    done = run(here, sys.executable, "-c", NOTEBOOK, "fresh", "train.threads=2")
    assert done.returncode == 0, done.stderr
    assert environment_of(here / "runs" / "run")["processes"] == 2
    done = run(here, sys.executable, "-c", NOTEBOOK, "computed", "train.threads=2", "name=other")
    assert "Restart the kernel and call notebook_launcher before anything else" in done.stderr
    assert not (here / "runs" / "other").exists()
    done = run(here, sys.executable, "-c", NOTEBOOK, "computed", "train.threads=1", "name=other")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_job_that_slurm_ends_is_queued_again_and_goes_on(here):
    """A stand-in for Slurm writes down what it is asked."""
    tools = here / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> {here}/asked\n', "utf-8")
    (tools / "scontrol").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": "7",
        "LAUNCH": f"{' '.join(ACCELERATE)} --config_file accelerate/one-cpu.yaml",
    }
    words = ["bash", "accelerate/slurm.sh", "recipe.yaml", "-q", "train.epochs=40"]
    job = subprocess.Popen(words, cwd=here, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    found = Run(here / "runs" / "run")
    end = time.monotonic() + 200
    while not any(line["kind"] == "update" and line["update"] > 3 for line in found.log()):
        assert time.monotonic() < end
        assert job.poll() is None, job.communicate()[1]
        time.sleep(0.05)
    job.send_signal(10)
    job.communicate(timeout=100)
    assert (here / "asked").read_text("utf-8") == "requeue 7\n"
    assert status_of(found)["state"] == "interrupted"

    again = subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert again.returncode == 0, again.stderr
    assert (here / "asked").read_text("utf-8") == "requeue 7\n"
    whole = run(here, sys.executable, *TRAIN, "train.epochs=40", "--runs", "whole")
    assert whole.returncode == 0, whole.stderr
    assert substance(found) == substance(Run(here / "whole" / "run"))
    assert files_of(found) == files_of(Run(here / "whole" / "run"))
