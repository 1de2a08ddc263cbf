"""What is predicted before a run is what the run then says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hfstrat as hf
from hfstrat import fitting, processes
from hfstrat.errors import RecipeError, UsageError
from hfstrat.prepare import prepare
from hfstrat.recipe.loading import load
from hfstrat.study import devices
from hfstrat.study.estimate import estimate
from hfstrat.study.trying import Pass, Trial
from hfstrat.training import arithmetic
from hfstrat.training.arithmetic import Counter
from hfstrat.training.machine import machine
from tests import tiny
from tests.strategies.table import TASKS, Workshop
from tests.training.helpers import LIVELY, memory, recipe

QUICK = ("text_classification", "causal_lm", "object_detection")

ROWS = tiny.reviews(80)
KINDS: dict[str, dict[str, Any]] = {
    "scratch": {"kind": "scratch"},
    "head": {"kind": "head"},
    "head-adamw": {"kind": "head", "solver": "adamw"},
    "partial": {"kind": "partial", "last_n": 1},
    "gradual": {"kind": "partial", "last_n": 2, "gradual": True},
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "r": 4},
    "dora": {"kind": "lora", "r": 4, "variant": "dora"},
    "qlora": {"kind": "qlora", "r": 4},
    "qlora-8": {"kind": "qlora", "r": 4, "bits": 8},
    "ia3": {"kind": "peft", "method": "IA3"},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Workshop(tmp_path_factory.mktemp("workshop"))


def measured(given: dict[str, Any], rows: Any, folder: Path) -> tuple[int, int]:
    """Live bytes and trained parameters as the finished run has them."""
    run = hf.train(given, data=None if rows is None else memory(rows), runs=folder, quiet=True)
    ledger, plan = (json.loads((run.path / name).read_text()) for name in ("ledger.json", "plan.json"))
    return ledger["peak_live_bytes"], plan["parameters"]["trainable"]


def predicted(given: dict[str, Any], rows: Any, **options: Any) -> Any:
    found = estimate(
        given,
        arms=[given["strategy"]["kind"]],
        data=None if rows is None else memory(rows),
        **{"calibrate": False, **options},
    )
    return found.arms[0]


QUICK = {("bert", kind) for kind in ("head", "partial", "full", "lora")}
PAIRS = [
    pytest.param(family, kind, marks=[pytest.mark.slow] * ((family, kind) not in QUICK))
    for family in ("bert", "gpt2", "deberta-v2", "roberta")
    for kind in KINDS
]


@pytest.mark.parametrize(("family", "strategy"), PAIRS)
def test_memory_is_what_a_run_measures(tiny_base, tmp_path, family, strategy):
    base = tiny_base(family, **LIVELY)
    given = recipe(base, KINDS[strategy], train={"epochs": 2, "batch_size": 16}, model={"dropout": 0.1})
    found = predicted(given, ROWS)
    live, trained = measured(given, ROWS, tmp_path)
    assert found.trained == trained
    assert found.live.how == "counted"
    # Of tensors that are not there transformers cannot see that a mask hides nothing, and builds it: this shows where
    # stubs leave little else to be computed.
    bound = 0.05 if strategy in ("head-adamw", "partial", "gradual") else 0.02
    assert found.live.value == pytest.approx(live, rel=0.0 if family == "bert" and bound == 0.02 else bound)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("strategy", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_precision_counts(tiny_base, tmp_path, strategy, precision):
    given = recipe(
        tiny_base("bert", **LIVELY), KINDS[strategy], train={"precision": precision, "batch_size": 16, "epochs": 2}
    )
    assert predicted(given, ROWS).live.value == pytest.approx(measured(given, ROWS, tmp_path)[0], rel=0.02)


@pytest.mark.parametrize("task", [pytest.param(task, marks=[pytest.mark.slow] * (task not in QUICK)) for task in TASKS])
@pytest.mark.parametrize("kind", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_every_task_is_estimated(shop, tmp_path, task, kind):
    given, rows = TASKS[task](shop, {"kind": kind})
    given["train"] |= {"max_steps": 3}
    given["train"].pop("epochs", None)
    found = predicted(given, rows)
    live, trained = measured(given, rows, tmp_path)
    assert found.trained == trained
    assert found.live.value == pytest.approx(live, rel=0.05)


@pytest.mark.parametrize(
    "strategy", ["full", "partial", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("qlora", "head"))]
)
def test_arithmetic_is_what_pytorch_counts(tiny_base, monkeypatch, strategy):
    """A few samples say what all batches take, and those that are not there what those that are."""
    given = recipe(tiny_base("bert", **LIVELY), KINDS[strategy], train={"epochs": 1, "batch_size": 8})
    parsed, source = load(given)
    prepared = prepare(parsed, machine(), memory=memory(tiny.reviews(200, classes=3)), source=source)
    accelerator = processes.accelerator_for(prepared.recipe, Path("nowhere"))
    few = Trial(prepared, accelerator, real=False).tried()
    monkeypatch.setattr(arithmetic, "telling", lambda sizes: [*range(len(sizes))])
    every = Trial(prepared, accelerator, real=True).tried()
    assert {*few.passes} == {*every.passes}
    for name, one in few.passes.items():
        whole = every.passes[name]
        assert whole.count == one.count
        assert len(one.flops) <= min(whole.count, 6)
        assert one.total_flops == pytest.approx(one.times * sum(whole.flops), rel=1e-6)
    assert every.seconds is not None
    assert every.seconds > 0
    assert few.seconds is None


@pytest.mark.parametrize(
    "strategy",
    ["partial", "lora", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("head-adamw", "full", "ia3"))],
)
def test_arithmetic_is_what_the_run_counts(tiny_base, tmp_path, strategy):
    """By phase: what is cached, what is evaluated through it, and features without an adapter that does nothing yet."""
    base = tiny_base("bert", num_hidden_layers=4, **LIVELY)
    given = recipe(base, KINDS[strategy])
    parsed, source = load(given)
    prepared = prepare(parsed, machine(), memory=memory(ROWS), source=source)
    passes = Trial(prepared, processes.accelerator_for(prepared.recipe, Path("nowhere")), real=False).tried().passes
    run = hf.train(given, data=memory(ROWS), runs=tmp_path, quiet=True)
    phases = json.loads((run.path / "ledger.json").read_text())["phases"]
    found = {name: one.total_flops for name, one in passes.items()}
    assert found["fit"] == pytest.approx(phases["train"]["flops"], rel=1e-9)
    scored = sum(flops for name, flops in found.items() if "validation" in name or name == "test")
    assert scored == pytest.approx(phases["evaluate"]["flops"], rel=1e-9)
    if "cache" in phases:
        cached = sum(flops for name, flops in found.items() if "cache" in name)
        assert cached == pytest.approx(phases["cache"]["flops"], rel=1e-9)


@pytest.mark.slow
def test_arithmetic_of_a_teacher_is_what_the_run_counts(tiny_base, tmp_path):
    base = tiny_base("bert", num_hidden_layers=4, **LIVELY)
    hf.train(recipe(base, KINDS["full"], "teacher"), data=memory(ROWS), runs=tmp_path, quiet=True)
    given = recipe(base, {"kind": "distill", "teacher": str(tmp_path / "teacher")})
    parsed, source = load(given)
    prepared = prepare(parsed, machine(), memory=memory(ROWS), source=source)
    passes = Trial(prepared, processes.accelerator_for(prepared.recipe, Path("nowhere")), real=False).tried().passes
    run = hf.train(given, data=memory(ROWS), runs=tmp_path, quiet=True)
    measured = json.loads((run.path / "ledger.json").read_text())["phases"]["teacher"]["flops"]
    assert sum(one.total_flops for name, one in passes.items() if "teacher" in name) == pytest.approx(
        measured, rel=1e-9
    )


SLOW = pytest.mark.slow
DEEP = {"num_hidden_layers": 6, "hidden_size": 64, "intermediate_size": 256}


@pytest.mark.parametrize("strategy", ["lora", pytest.param("full", marks=SLOW), pytest.param("qlora", marks=SLOW)])
def test_what_is_computed_again_is_counted(tiny_base, tmp_path, strategy):
    given = recipe(tiny_base("bert", **DEEP, **LIVELY), KINDS[strategy], model={"dropout": 0.1})
    plain = predicted(given, ROWS)
    given["train"]["gradient_checkpointing"] = True
    found = predicted(given, ROWS)
    live, _ = measured(given, ROWS, tmp_path)
    assert found.live.value == pytest.approx(live, rel=0.02)
    assert found.live.value < plain.live.value
    parsed, source = load(given)
    prepared = prepare(parsed, machine(), memory=memory(ROWS), source=source)
    passes = Trial(prepared, processes.accelerator_for(prepared.recipe, Path("nowhere")), real=False).tried().passes
    counted = json.loads((tmp_path / "run" / "ledger.json").read_text())["phases"]["train"]["flops"]
    assert passes["fit"].total_flops == pytest.approx(counted, rel=1e-9)
    assert plain.flops.value < found.flops.value < 4 / 3 * plain.flops.value


def test_what_fits_by_computing_again_is_told(tiny_base, monkeypatch):
    monkeypatch.setattr("hfstrat.study.estimate.anonymous_bytes", lambda: 10**8)
    lora = {**KINDS["lora"], "head_init": "random"}
    given = recipe(tiny_base("bert", **DEEP, **LIVELY), lora, train={"micro_batch_size": 1})
    plain = predicted(given, ROWS)
    given["train"]["gradient_checkpointing"] = True
    again = predicted(given, ROWS)
    del given["train"]["gradient_checkpointing"]
    assert again.resident.value < plain.resident.value
    found = predicted(given, ROWS, memory=int(again.resident.value + plain.resident.value) // 2)
    assert not found.fits
    assert found.hint.startswith("train.gradient_checkpointing=true (results stay the same")


@pytest.mark.slow
def test_features_are_tried_without_an_adapter_that_does_nothing_yet(tiny_base):
    found = {}
    for strategy in ("full", "lora", "ia3", "dora"):
        parsed, source = load(recipe(tiny_base("bert", **LIVELY), KINDS[strategy]))
        prepared = prepare(parsed, machine(), memory=memory(ROWS), source=source)
        accelerator = processes.accelerator_for(prepared.recipe, Path("nowhere"))
        found[strategy] = Trial(prepared, accelerator, real=False).tried().passes["features 0"].total_flops
    assert found["lora"] == found["ia3"] == found["full"] < found["dora"]


def test_one_update_takes_the_arithmetic_of_its_products(tiny_base):
    """By hand: two for each weight of a linear layer and token that it sees, forwards, and twice that backwards."""
    given = recipe(tiny_base("bert", **LIVELY), KINDS["full"], model={"attention": "eager"})
    parsed, source = load(given)
    prepared = prepare(parsed, machine(), memory=memory(ROWS), source=source)
    accelerator = processes.accelerator_for(prepared.recipe, Path("nowhere"))
    trial = Trial(prepared, accelerator, real=True)
    found = trial.tried().passes["fit"]
    place = found.samples[-1]
    tokens, windows, squares, _ = found.sizes[place]
    config = prepared.base.config
    inner = [
        size for name, size in prepared.anatomy.parameters.items() if ".layer." in name and name.endswith("weight")
    ]
    linear = sum(size for size in inner if size > config.hidden_size)
    pooler = [size for name, size in prepared.anatomy.parameters.items() if "pooler.dense.weight" in name]
    head = len(prepared.material.labels.names) * config.hidden_size
    attention = 2 * 2 * squares * config.hidden_size * config.num_hidden_layers
    forward = 2 * tokens * linear + 2 * windows * (sum(pooler) + head) + attention
    assert found.flops[-1] == pytest.approx(3 * forward, rel=1e-9)


def test_a_line_through_what_was_timed():
    sizes = np.array([[length, 1.0, length**2] for length in (1, 2, 3, 4, 5)])
    flops = 100 * sizes[:, 0]
    found = Pass(10, sizes, [0, 2, 4], flops=[*flops[[0, 2, 4]]], seconds=[3.0, None, 7.0])
    assert found.total_flops == pytest.approx(2 * flops.sum())
    assert found.total_seconds == pytest.approx(2 * (3 + 4 + 5 + 6 + 7))
    alike = Pass(10, sizes[:1], [0], flops=[100.0], seconds=[3.0])
    assert alike.total_seconds == pytest.approx(30.0)
    assert Pass(1, sizes[:1], [0], flops=[1.0]).total_seconds is None


def test_no_weight_is_read_and_nothing_is_written(tiny_base, tmp_path, monkeypatch):
    base = tiny_base("bert", **LIVELY)
    weights = base / "model.safetensors"
    raw = weights.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    copy = tmp_path / "base"
    copy.mkdir()
    for file in base.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    # The header tells names and shapes; of what follows nothing may matter.
    (copy / "model.safetensors").write_bytes(raw[:start] + b"\xff" * (len(raw) - start))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    found = hf.estimate(recipe(copy, KINDS["full"]), arms=["head", "full", "lora"], data=memory(ROWS), quiet=True)
    assert [one.arm for one in found.arms] == ["head", "full", "lora"]
    for one in found.arms:
        assert np.isfinite([one.seconds.value, one.live.value, one.flops.value]).all()
        assert one.seconds.how == "calibrated"
        assert one.seconds.low < one.seconds.value < one.seconds.high
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_what_does_not_fit_is_said_with_what_would(tiny_base, monkeypatch):
    monkeypatch.setattr(
        "hfstrat.study.estimate.anonymous_bytes", lambda: 10**8
    )  # what the tests before have left varies
    given = recipe(tiny_base("bert", **LIVELY), KINDS["full"], train={"batch_size": 64})
    many = tiny.reviews(200)
    roomy = predicted(given, many)
    assert roomy.fits
    assert roomy.hint == ""
    # Room for the process and half of what the update adds.
    limit = int(roomy.resident.value - 20 * (roomy.live.value - 4 * roomy.parameters * 4) / 64)
    tight = predicted(given, many, memory=limit)
    assert not tight.fits
    assert tight.micro_batch is not None
    assert 0 < tight.largest < tight.micro_batch
    assert tight.hint == f"train.micro_batch_size={tight.largest} (results stay the same)"
    smaller = predicted({**given, "train": {**given["train"], "micro_batch_size": tight.largest}}, many)
    assert smaller.live.value < tight.live.value
    hopeless = predicted(given, many, memory=1000)
    assert hopeless.largest == 0
    assert "qlora" in hopeless.hint


def test_another_device_is_guessed_and_priced(tiny_base):
    given = recipe(tiny_base("bert", **LIVELY), KINDS["lora"])
    found = predicted(given, ROWS, device=devices.device("H100"), price=2.5)
    assert found.seconds.how == found.resident.how == "guessed"
    assert found.cost.value == pytest.approx(found.seconds.value * 2.5 / 3600)
    assert found.cost.low < found.cost.value < found.cost.high
    with pytest.raises(UsageError, match="no device 'h1000' is known"):
        devices.device("h1000")


@pytest.mark.parametrize(
    ("text", "size"), [("16GB", 16 * 2**30), ("512 MiB", 512 * 2**20), ("1.5g", 3 * 2**29), ("4096", 4096)]
)
def test_memory_is_written_as_people_write_it(text, size):
    assert devices.bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "many", "16 GBit", "-3GB", "0"])
def test_what_is_no_memory_is_an_error(text):
    with pytest.raises(UsageError, match="is no amount of memory"):
        devices.bytes_of(text)


def test_a_strategy_that_cannot_be_is_a_row_beside_others(shop):
    given, rows = TASKS["causal_lm"](shop, {"kind": "full"})
    given["compare"] = {"arms": ["full", {"name": "taught", "strategy": {"kind": "distill", "teacher": "nobody"}}]}
    found = estimate(given, data=memory(rows), calibrate=False)
    assert found.arm("full").refused is None
    assert "distill does not go with causal_lm" in found.arm("taught").refused
    assert "taught" in str(found.table()["arm"].tolist())
    with pytest.raises(RecipeError, match="distill does not go with"):
        estimate(given | {"compare": {"arms": given["compare"]["arms"][1:]}}, data=memory(rows), calibrate=False)
    with pytest.raises(UsageError, match="there is no arm 'lora'"):
        found.arm("lora")


@pytest.mark.slow
def test_a_student_is_estimated_before_its_teacher_is_there(tiny_base):
    given = recipe(tiny_base("bert", num_hidden_layers=4, **LIVELY), KINDS["full"])
    given["compare"] = {"arms": ["full", "distill"]}
    found = estimate(given, data=memory(ROWS), calibrate=False)
    student, teacher = found.arm("distill"), found.arm("full")
    assert student.refused is None
    assert student.parameters < teacher.parameters
    assert student.flops.value > 0


def test_what_frozen_blocks_give_is_counted_once(tiny_base):
    base = tiny_base("bert", num_hidden_layers=4, **LIVELY)
    kept, again = (
        predicted(recipe(base, KINDS["partial"], train={"cache": cache, "epochs": 16}), ROWS) for cache in (True, False)
    )
    assert kept.flops.value < 0.7 * again.flops.value
    assert kept.disk.value > again.disk.value


@pytest.mark.slow
def test_micro_batches_count_for_memory_alone(tiny_base):
    base = tiny_base("bert", **LIVELY)
    whole, parts = (
        predicted(recipe(base, KINDS["full"], train={"batch_size": 32, "micro_batch_size": micro}), ROWS)
        for micro in (32, 4)
    )
    assert parts.live.value < whole.live.value
    assert parts.flops.value == pytest.approx(whole.flops.value, rel=0.2)


def test_a_run_is_tried_by_the_code_that_trains(tiny_base, tmp_path):
    """The arithmetic of the updates is that of the loop itself, on the same batches."""
    given = recipe(tiny_base("bert", **LIVELY), KINDS["full"], train={"epochs": 1, "batch_size": 8})
    parsed, source = load(given)
    prepared = prepare(parsed, machine(), memory=memory(ROWS), source=source)
    accelerator = processes.accelerator_for(prepared.recipe, Path("nowhere"))
    expected = Trial(prepared, accelerator, real=False).tried().passes["fit"].total_flops
    counted = 0.0
    fit = fitting.engine.fit

    def counting(model: Any, optimizer: Any, steps: Any, *words: Any, **options: Any) -> Any:
        nonlocal counted
        if str(options["stage"]).endswith("-measure"):
            yield from fit(model, optimizer, steps, *words, **options)
            return
        with Counter() as counter:
            yield from fit(model, optimizer, steps, *words, **options)
        counted += counter.flops

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting.engine, "fit", counting)
        # Evaluations are made inside of the loop, and would be counted too.
        patch.setattr(fitting._Following, "_evaluated", lambda *_, **__: False)
        hf.train(given, data=memory(ROWS), quiet=True, runs=tmp_path)
    assert counted == pytest.approx(expected, rel=1e-6)
