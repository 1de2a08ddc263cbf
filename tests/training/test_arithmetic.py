"""Arithmetic that a run counts of itself is what PyTorch counts around it."""

from __future__ import annotations

import json
import os
import signal
from collections import defaultdict
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoModelForSequenceClassification

from hfstrat import caching, execute, fitting, solving
from hfstrat.errors import Interrupted
from hfstrat.runs import store
from hfstrat.runs.directory import Run
from hfstrat.runs.rows import Row
from hfstrat.training import scoring
from hfstrat.training.arithmetic import Counter, Meter
from tests import tiny
from tests.faults.runs import Calls
from tests.strategies.table import TASKS, Workshop
from tests.training.helpers import LIVELY, memory, recipe, sha256

ROWS = tiny.reviews(90, classes=3)
KINDS: dict[str, dict[str, Any]] = {
    "scratch": {"kind": "scratch"},
    "head": {"kind": "head"},
    "partial": {"kind": "partial", "last_n": 1},
    "gradual": {"kind": "partial", "last_n": 2, "gradual": True},
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "r": 4},
    "qlora": {"kind": "qlora", "r": 4},
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv(store.HOME, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Workshop(tmp_path_factory.mktemp("workshop"))


@contextmanager
def around(found: dict[str, float], name: str):
    with Counter() as counter:
        yield
    found[name] += counter.flops


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """PyTorch's counts of all that a run computes, by what computes it; they go on as the run does."""
    found: dict[str, float] = defaultdict(float)

    def wrap(module: Any, attribute: str, name: str) -> None:
        function = getattr(module, attribute)

        def within(*words: Any, **options: Any) -> Any:
            with around(found, name):
                return function(*words, **options)

        monkeypatch.setattr(module, attribute, within)

    fit = fitting.engine.fit

    def updates(*words: Any, **options: Any) -> Any:
        made = fit(*words, **options)
        if str(options["stage"]).endswith("-measure"):
            yield from made
            return
        while True:
            with around(found, "train"):
                update = next(made, None)
            if update is None:
                return
            yield update

    monkeypatch.setattr(fitting.engine, "fit", updates)
    wrap(scoring, "logits", "passes")
    wrap(solving, "solve", "solve")
    output_of = caching.prefix.output_of

    def below(*words: Any) -> Any:
        with around(found, "cache"):
            return output_of(*words)

    hidden = caching._hidden

    def filling(*words: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(caching.prefix, "output_of", below)
            return hidden(*words)

    monkeypatch.setattr(caching, "_hidden", filling)
    return found


def phases(run: Run) -> dict[str, float]:
    """What a run counted of itself."""
    found = json.loads((run.path / "ledger.json").read_text())["phases"]
    return {name: phase["flops"] for name, phase in found.items() if "flops" in phase}


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("strategy", KINDS)
def test_a_run_counts_what_pytorch_counts(tiny_base, tmp_path, monkeypatch, strategy, precision):
    base = tiny_base("bert", num_hidden_layers=3, **LIVELY)
    given = recipe(base, KINDS[strategy], train={"epochs": 4, "batch_size": 8, "precision": precision})
    true = counted(monkeypatch)
    run = execute.train(given, data=memory(ROWS), runs=tmp_path)
    found = phases(run)
    assert found.get("train", 0.0) == pytest.approx(true["train"], rel=1e-6)
    assert found.get("cache", 0.0) == pytest.approx(true["cache"], rel=1e-6)
    assert found.get("solve", 0.0) + found["evaluate"] == pytest.approx(true["passes"] + true["solve"], rel=1e-6)
    assert ("solve" in found) == (strategy != "scratch")
    assert ("cache" in found) == (strategy in ("partial", "gradual"))
    assert Row.of(run).flops == sum(found.values()) == pytest.approx(sum(true.values()), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_of_every_task(shop, tmp_path, monkeypatch, task):
    given, rows = TASKS[task](shop, {"kind": "full"})
    given["train"].pop("epochs", None)
    given["train"]["max_steps"] = 6
    if task == "seq2seq":
        given["evaluate"] = {"metrics": ["perplexity"]}
    true = counted(monkeypatch)
    run = execute.train(given, data=None if rows is None else memory(rows), runs=tmp_path)
    # Of sounds convolutions leave whole numbers of frames, and queries of detectors follow the boxes of a batch.
    bound = {"audio_classification": 0.02, "object_detection": 0.02}.get(task, 1e-6)
    assert sum(phases(run).values()) == pytest.approx(sum(true.values()), rel=bound)


def test_what_is_read_from_a_cache_counts_for_nothing(tiny_base, tmp_path, monkeypatch):
    given = recipe(tiny_base("bert", num_hidden_layers=3, **LIVELY), KINDS["partial"])
    first = phases(execute.train(given, data=memory(ROWS), runs=tmp_path))
    true = counted(monkeypatch)
    again = phases(execute.train(given, data=memory(ROWS), runs=tmp_path, overwrite=True))
    assert first["cache"] > 0
    assert again["cache"] == true["cache"] == 0
    assert again["train"] == pytest.approx(first["train"], rel=1e-9)
    assert again["solve"] < first["solve"]
    assert sum(again.values()) == pytest.approx(sum(true.values()), rel=1e-6)


@pytest.mark.slow
def test_a_teacher_counts_once(tiny_base, tmp_path, monkeypatch):
    base = tiny_base("bert", num_hidden_layers=4, **LIVELY)
    teacher = execute.train(recipe(base, KINDS["full"], name="teacher"), data=memory(ROWS), runs=tmp_path)
    given = recipe(base, {"kind": "distill", "teacher": str(teacher.path)}, name="student")
    true = counted(monkeypatch)
    found = phases(execute.train(given, data=memory(ROWS), runs=tmp_path))
    assert found["teacher"] > 0
    assert sum(found.values()) == pytest.approx(sum(true.values()), rel=1e-6)
    assert phases(execute.train(given, data=memory(ROWS), runs=tmp_path, overwrite=True))["teacher"] == 0


def test_an_early_stop_counts_what_was_done(tiny_base, tmp_path, monkeypatch):
    stop = {"patience": 1, "min_delta": 2.0}
    base = tiny_base("bert", **LIVELY)
    given = recipe(base, {"kind": "full", "head_init": "random"}, train={"epochs": 5, "early_stopping": stop})
    true = counted(monkeypatch)
    told = Calls()
    found = phases(execute.train(given, data=memory(ROWS), runs=tmp_path, observer=told))
    assert any("stopped early" in str(call) for call in told.notes)
    assert sum(found.values()) == pytest.approx(sum(true.values()), rel=1e-6)


def test_a_run_that_goes_on_counts_all_of_it_once(tiny_base, tmp_path):
    given = recipe(tiny_base("bert", **LIVELY), KINDS["lora"], train={"batch_size": 7, "checkpoint_every": 2})
    told = Calls()
    whole = execute.train(given, data=memory(ROWS), runs=tmp_path / "whole", observer=told)
    stop = Calls(told.count // 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        execute.train(given, data=memory(ROWS), runs=tmp_path / "parted", observer=stop)
    parted = execute.train(given, data=memory(ROWS), runs=tmp_path / "parted", resume=True)
    assert phases(parted)["train"] == pytest.approx(phases(whole)["train"], rel=1e-6)
    assert phases(parted)["solve"] <= phases(whole)["solve"]


def test_counting_moves_no_bit(tiny_base, tmp_path, monkeypatch):
    given = recipe(tiny_base("bert", **LIVELY), KINDS["lora"], model={"dropout": 0.1})
    counting = execute.train(given, data=memory(ROWS), runs=tmp_path / "a")
    monkeypatch.setattr(Meter, "around", lambda self, size: contextmanager(lambda: iter([None]))())
    plain = execute.train(given, data=memory(ROWS), runs=tmp_path / "b")
    assert sha256(counting) == sha256(plain)
    assert sum(phases(plain).values()) == 0


def test_what_a_model_writes_leaves_no_sum(shop, tmp_path):
    given, rows = TASKS["seq2seq"](shop, {"kind": "full"})
    given["evaluate"] = {"metrics": ["rougeL"]}
    given["train"].pop("epochs", None)
    given["train"]["max_steps"] = 2
    run = execute.train(given, data=memory(rows), runs=tmp_path)
    assert phases(run)["train"] > 0
    assert "evaluate" not in phases(run)
    assert Row.of(run).flops is None


def test_the_counter_is_pytorchs(tiny_base):
    """But for attention on a CPU, which that one does not know."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_base("bert", **LIVELY))
    ids = torch.randint(5, 50, (4, 9))
    aten = torch.ops.aten
    known = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *s, **_: sdpa_backward_flop_count(*s[:4]),
    }
    with FlopCounterMode(display=False, custom_mapping=known) as expected:
        model(ids).logits.sum().backward()
    with Counter() as found:
        model(ids).logits.sum().backward()
    with Counter() as inferred, torch.inference_mode():
        model(ids)
    assert found.flops == expected.get_total_flops() > 0
    assert 0 < inferred.flops < found.flops / 2
    config = model.config
    attention = 2 * 2 * 4 * 9 * 9 * config.hidden_size * config.num_hidden_layers
    assert 0 < attention <= inferred.flops


def test_products_that_are_added_in_place_count():
    """As LoRA's layers compute; PyTorch's own counter leaves them out."""
    sums, left, right = torch.zeros(4, 7), torch.ones(4, 5), torch.ones(5, 7)
    with Counter() as found:
        sums.addmm_(left, right)
        sums[None].baddbmm_(left[None], right[None])
    assert found.flops == 2 * (2 * 4 * 5 * 7)


# --- the meter itself -----------------------------------------------------------------------------------------------


def product(rows: int, inner: int) -> None:
    torch.ones(rows, inner) @ torch.ones(inner, 7)


def test_few_are_counted_and_all_are_known():
    meter, true = Meter(), 0
    sizes = np.random.default_rng(0).integers(1, 60, size=(300, 2))
    for rows, inner in sizes.tolist():
        with meter.around(np.array([rows, inner, rows * inner], np.float64)):
            product(rows, inner)
        true += 2 * rows * inner * 7
    assert meter.flops == pytest.approx(true, rel=1e-9)
    assert len(meter._sizes) < 16


def test_a_pass_that_fails_counts_for_nothing():
    meter = Meter()

    def failing() -> None:
        with meter.around(np.array([8.0])):
            product(8, 8)
            raise MemoryError

    with pytest.raises(MemoryError):
        failing()
    assert meter.flops == 0
    with meter.around(np.array([4.0])):
        product(4, 8)
    assert meter.flops == 2 * 4 * 8 * 7


def test_where_steps_are_told_from_sizes_all_lies_between():
    """What is computed in stretches of 64, as some kinds of attention are."""
    meter, true, told = Meter(), 0.0, []
    for length in range(400, 40, -1):
        with meter.told(told.append), meter.around(np.array([length, 1.0, length**2])):
            product(-(-length // 64) * 64, 8)
        true += 2 * (-(-length // 64) * 64) * 8 * 7
    assert meter.flops == pytest.approx(sum(told))
    assert meter.flops == pytest.approx(true, rel=0.1)
