"""Identities over processes: several compute what one does, and a fresh process repeats this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hfstrat import execute
from hfstrat.runs.directory import Run
from tests import tiny
from tests.faults.runs import Calls
from tests.matrix import pairs
from tests.matrix.pairs import base_of, settings_of
from tests.training.helpers import LIVELY, largest_difference, memory, recipe, sha256, train

ROOT = Path(__file__).parents[2]
ROWS = 38
# 22 rows in batches of seven: the last update has one row, so that some processes have none.
UPDATES = {"max_steps": 50, "batch_size": 7, "schedule": "cosine"}
WINDOWS = {"long_texts": "windows", "max_length": 12, "stride": 4, "class_weights": {"negative": 3.0}}
LOOPS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("bert", "full-random", WINDOWS),
    "gpt2": ("gpt2", "lora", {}),
}
# Solve takes features in float32: these have all of their weights fitted.
RANDOM = ("partial", "gradual", "full", "lora", "ia3", "vera", "ln_tuning", "adalora")
FITTED = {"head": {"solver": "adamw"}, **{kind: {"head_init": "random"} for kind in RANDOM}}
# Its blocks hold four bits a weight, and what multiplies them knows no float64.
NOT_IN_FLOAT64 = {("qlora", "float64")}
WHOLE: dict[str, tuple[str, Any]] = {
    "fp32": ("bert", "full-probe"),
    "bf16": ("gpt2", "rslora"),
    "cached": ("bert", {"kind": "partial", "last_n": 1, "head_init": "random"}),
}


def whole_run(tiny_base, precision: str, **more: Any) -> dict[str, Any]:
    """A recipe whose validation rows make three batches, which two processes cannot share evenly."""
    family, strategy = WHOLE[precision]
    return recipe(
        tiny_base(family, **LIVELY),
        strategy,
        name=precision,
        model={"dropout": 0.1 if precision == "bf16" else 0.0},
        train={"precision": "bf16" if precision == "bf16" else "fp32", "micro_batch_size": 4, "lr": 3e-3},
        evaluate={"batch_size": 4},
        **more,
    )


def python(*words: object, **environment: str) -> None:
    command = [sys.executable, *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stderr


def run_in_processes(
    folder: Path, tiny_base, processes: list[int], loops: list[str], runs: list[dict[str, Any]], **more: Any
) -> Path:
    job = {
        "rows": ROWS,
        "processes": processes,
        "micro": {1: 7, 2: 2, 3: 1},
        "loops": {
            name: recipe(tiny_base(family), strategy, task=task, train=UPDATES)
            for name, (family, strategy, task) in LOOPS.items()
            if name in loops
        },
        "runs": runs,
        **more,
    }
    (folder / "job.json").write_text(json.dumps(job), "utf-8")
    python("-m", "tests.training.processes", folder / "job.json")
    return folder


@pytest.fixture(scope="module")
def two(tiny_base, tmp_path_factory) -> Path:
    """What a fresh process left that trained in one and in two processes."""
    return run_in_processes(tmp_path_factory.mktemp("two"), tiny_base, [1, 2], ["bert"], [whole_run(tiny_base, "fp32")])


@pytest.fixture(scope="module")
def more(tiny_base, tmp_path_factory) -> Path:
    """More runs of that kind."""
    runs = [whole_run(tiny_base, name) for name in WHOLE]
    runs.append({**runs[0], "name": "all-rows", "train": {**runs[0]["train"], "compact_vocabulary": False}})
    return run_in_processes(tmp_path_factory.mktemp("more"), tiny_base, [1, 2], [], runs)


@pytest.fixture(scope="module")
def three(tiny_base, tmp_path_factory) -> Path:
    """The same with one, two and three processes."""
    runs = [whole_run(tiny_base, "fp32")]
    return run_in_processes(tmp_path_factory.mktemp("three"), tiny_base, [1, 2, 3], list(LOOPS), runs)


@pytest.fixture(scope="module")
def strategies(tiny_base, tmp_path_factory) -> Path:
    """Every strategy in one and in two processes, its weights in float64 and in float32."""
    folder = tmp_path_factory.mktemp("strategies")
    train = {"max_steps": 50, "batch_size": 7, "micro_batch_size": 4}
    runs = [
        recipe(
            base_of("bert", tiny_base),
            {**settings_of("bert", kind, tiny_base, folder), **(FITTED.get(kind, {}) if dtype == "float64" else {})},
            f"{kind}-{dtype}",
            train=train,
        )
        for kind in pairs.STRATEGIES
        for dtype in ("float32", "float64")
        if (kind, dtype) not in NOT_IN_FLOAT64
    ]
    return run_in_processes(folder, tiny_base, [1, 2], [], runs, rows=120, log_every=1)


def assert_the_same_weights(folder: Path, loop: str, processes: int) -> None:
    one, many = (torch.load(folder / f"{loop}-{number}.pt", weights_only=True) for number in (1, processes))
    assert len(one["losses"]) == 50
    assert many["losses"] == pytest.approx(one["losses"], rel=1e-12)
    assert largest_difference(one["weights"], many["weights"]) < 1e-10


def assert_the_same_run(one: Run, many: Run, processes: int) -> None:
    assert (one.read("env.json") or {})["processes"] == 1
    assert (many.read("env.json") or {})["processes"] == processes
    assert_the_same_figures(one, many)


def assert_as_much_is_computed(one: Run, many: Run, *phases: str) -> None:
    """But for padding, which depends on what is in a process's batches."""
    for name in phases:
        here, there = (run.ledger["phases"][name]["flops"] for run in (one, many))
        assert there == pytest.approx(here, rel=0.15) != 0


def assert_the_same_figures(one: Run, many: Run) -> None:
    for here, there in zip(one.log(), many.log(), strict=True):
        assert there.get("lr") == here.get("lr")
        assert there.get("metrics") == here.get("metrics")
        if "loss" in here:
            assert there["loss"] == pytest.approx(here["loss"], rel=1e-5)
    assert list(many.predictions()["id"]) == list(one.predictions()["id"])
    for here, there in zip(one.predictions()["logits"], many.predictions()["logits"], strict=True):
        assert there == pytest.approx(here, abs=1e-4)


def test_two_processes_compute_what_one_does_in_float64(two):
    assert_the_same_weights(two, "bert", 2)


def test_a_run_of_two_processes_is_that_of_one(two):
    one, many = Run(two / "runs-1" / "fp32"), Run(two / "runs-2" / "fp32")
    assert_the_same_run(one, many, 2)
    assert_as_much_is_computed(one, many, "train", "evaluate")


@pytest.mark.slow
def test_frozen_blocks_that_two_processes_computed_are_those_of_one(more):
    one, many = (Run(more / f"runs-{number}" / "cached") for number in (1, 2))
    assert_as_much_is_computed(one, many, "cache", "train")
    assert_the_same_run(one, many, 2)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_compact_vocabulary_changes_nothing(more, processes):
    folder = more / f"runs-{processes}"
    compact, whole = Run(folder / "fp32"), Run(folder / "all-rows")
    assert "compact_vocabulary: true" in (compact.recipe() or "")
    assert "compact_vocabulary: false" in (whole.recipe() or "")
    assert "best at fit" in (whole.read("status.json") or {})["reason"]
    assert sha256(compact) == sha256(whole)
    assert compact.log() == whole.log()


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(two, tiny_base, tmp_path):
    """One process is asked to end, the main process writes the checkpoint, and all of them end."""
    stop = {"process": 0, "update": 3, "by": "SIGTERM"}
    run_in_processes(tmp_path, tiny_base, [2], [], [whole_run(tiny_base, "fp32")], stop=stop)
    run = Run(tmp_path / "runs-2" / "fp32")
    assert run.status == "interrupted"
    assert max(path.name for path in (run.path / "checkpoints").iterdir()) == "01-000000003"
    heard = Calls()
    execute.train(
        whole_run(tiny_base, "fp32"),
        data=memory(tiny.reviews(ROWS)),
        runs=tmp_path / "runs-2",
        resume=True,
        observer=heard,
    )
    assert any("processes are not those that the run began with" in text for text in heard.warnings)
    assert (run.read("status.json") or {})["exact"] is False
    assert_the_same_figures(Run(two / "runs-1" / "fp32"), run)


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_three_processes_compute_what_one_does_in_float64(three, loop):
    assert_the_same_weights(three, loop, 2)
    assert_the_same_weights(three, loop, 3)
    assert_the_same_run(Run(three / "runs-1" / "fp32"), Run(three / "runs-3" / "fp32"), 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in pairs.STRATEGIES if (kind, "float64") not in NOT_IN_FLOAT64])
def test_every_strategy_in_two_processes_moves_weights_as_in_one(strategies, kind):
    one, many = (torch.load(strategies / f"{kind}-float64-{number}.pt", weights_only=True) for number in (1, 2))
    before, after = one["before"], one["after"]
    assert all(value.dtype == torch.float64 for value in after.values() if value.is_floating_point())
    moved = [name for name in after if after[name].shape == before[name].shape and (after[name] - before[name]).any()]
    assert largest_difference({name: before[name] for name in moved}, {name: after[name] for name in moved}) > 1e-3
    assert largest_difference(after, many["after"]) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("kind", pairs.STRATEGIES)
def test_every_strategy_in_two_processes_says_what_it_says_in_one(strategies, kind):
    one, many = (Run(strategies / f"runs-{number}" / f"{kind}-float32") for number in (1, 2))
    losses = [[line["loss"] for line in run.log() if line["kind"] == "update"] for run in (one, many)]
    assert len(losses[0]) == (0 if kind == "head" else 50)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    here, there = (run.predictions() for run in (one, many))
    assert list(here["id"]) == list(there["id"])
    assert (here["prediction"] == there["prediction"]).mean() >= 0.999


@pytest.mark.slow
def test_torchrun_on_the_command_line_is_a_run_of_one_process(tiny_base, tmp_path):
    tiny.write_csv(tmp_path / "rows.csv", tiny.reviews(ROWS))
    given = whole_run(tiny_base, "fp32", data={"source": str(tmp_path / "rows.csv")})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given), "utf-8")
    words = ("-m", "hfstrat", "train", tmp_path / "recipe.yaml", "--runs")
    python(*words, tmp_path / "one")
    launched = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2)
    python(*launched, *words, tmp_path / "two", ACCELERATE_USE_CPU="true")
    assert_the_same_run(Run(tmp_path / "one" / "fp32"), Run(tmp_path / "two" / "fp32"), 2)


@pytest.mark.slow
def test_eleven_examples_are_counted_once_by_three_processes(tiny_base, tmp_path):
    run_in_processes(tmp_path, tiny_base, [1, 3], [], [whole_run(tiny_base, "fp32")], rows=60)
    one, many = (Run(tmp_path / f"runs-{number}" / "fp32") for number in (1, 3))
    rows = (many.read("env.json") or {})["data"]["rows"]
    assert rows["validation"] == 11  # which scoring counts, and fails where one is missing or twice
    assert len(many.predictions()) == many.metrics["n"] == rows["test"]
    assert_the_same_run(one, many, 3)


@pytest.mark.parametrize(
    ("precision", "fixture"),
    [
        ("fp32", "two"),
        pytest.param("bf16", "more", marks=pytest.mark.slow),
        pytest.param("cached", "more", marks=pytest.mark.slow),
    ],
)
def test_repeats_are_equal_bit_for_bit(request, tiny_base, tmp_path, precision, fixture):
    rows = tiny.reviews(ROWS)
    first, second = (train(whole_run(tiny_base, precision), rows, tmp_path / name).run for name in ("a", "b"))
    fresh = Run(request.getfixturevalue(fixture) / "runs-1" / precision)
    assert "best at fit" in first.read("status.json")["reason"], "or these would be the weights of the base"
    assert sha256(first) == sha256(second) == sha256(fresh)
    assert first.log() == second.log() == fresh.log()
    for other in (second, fresh):
        for name, column in first.predictions().items():
            assert [str(value) for value in column] == [str(value) for value in other.predictions()[name]], name


@pytest.mark.slow
def test_with_dropout_the_number_of_processes_matters(more):
    """Only the shape of a run makes its bytes there, so all that can be asked of two shapes is that both trained."""
    one, many = (Run(more / f"runs-{number}" / "bf16") for number in (1, 2))
    assert one.status == many.status == "done"
    assert [line.get("lr") for line in one.log()] == [line.get("lr") for line in many.log()]
    assert sha256(one) != sha256(many)
