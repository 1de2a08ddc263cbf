"""Frozen blocks that are computed once: the same training, the same bytes each time, and no block that runs again."""

from __future__ import annotations

import os
import shutil
from collections import Counter

import pytest
import torch

from hfstrat import execute
from hfstrat.models import prefix
from hfstrat.models.anatomy import module_at
from hfstrat.models.build import build
from hfstrat.runs import store
from tests import tiny
from tests.faults.runs import Calls, substance
from tests.training.helpers import LIVELY, largest_difference, memory, recipe, train

ROWS = tiny.reviews(60)
TOP = {"kind": "partial", "last_n": 1, "head_init": "random"}
UPPER_LORA = {"kind": "lora", "r": 4, "head_init": "random", "targets": ["*.layer.2.*"]}
ATTENTION = {"kind": "partial", "train": ["*.layer.2.attention.*"], "head_init": "random"}
WINDOWS = {"long_texts": "windows", "max_length": 12, "stride": 4}
# Families with one stack of blocks, none of them shared.
FAMILIES = ("bert", "distilbert", "roberta", "modernbert", "gpt2", "llama", "deberta-v2", "electra", "qwen3")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv(store.HOME, str(tmp_path / "cache"))
    return tmp_path / "cache"


def trained(given, runs, rows=ROWS, **settings):
    """A run, and what it told."""
    calls = Calls()
    given = {**given, "train": {**given["train"], **settings}}
    return execute.train(given, data=memory(rows), runs=runs, observer=calls), calls


# --- the same training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "strategy", "task"),
    [
        *(
            pytest.param(family, TOP, {}, marks=[pytest.mark.slow] * (family not in ("bert", "gpt2")))
            for family in FAMILIES
        ),
        ("bert", TOP, WINDOWS),
        ("bert", {"kind": "head", "solver": "adamw"}, {}),
        ("bert", {**TOP, "last_n": 2, "gradual": True}, {}),
        ("bert", ATTENTION, {"pooling": "mean", "normalize": True}),
        ("roberta", UPPER_LORA, {}),
    ],
    ids=str,
)
def test_the_cache_does_not_matter(tiny_base, tmp_path, family, strategy, task):
    """Fifty updates of AdamW in float64, against the same model with all of its blocks."""
    layers = "n_layers" if family == "distilbert" else "n_layer" if family == "gpt2" else "num_hidden_layers"
    base, found = tiny_base(family, **LIVELY, **{layers: 3}), {}
    for cached in (True, False):
        name = f"cached-{cached}".lower()
        settings = {"max_steps": 50, "cache": cached, "micro_batch_size": 3}
        given = recipe(base, strategy, name, task=task, train=settings, evaluate={"every": 1000})
        found[cached] = train(given, ROWS, tmp_path, dtype=torch.float64)
    assert "cache" in found[True].run.ledger["phases"]
    assert "cache" not in found[False].run.ledger["phases"]
    assert largest_difference(found[True].after, found[False].after) < 1e-10
    before, after = found[True].before, found[True].after
    assert before.keys() == after.keys(), "every block is in its place again"
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_no_frozen_block_runs_once_training_has_begun(tiny_base, tmp_path, monkeypatch):
    runs: Counter[str] = Counter()

    def counted(*words):
        model = build(*words)
        for place in (0, 1, 2):
            block = module_at(model, f"bert.encoder.layer.{place}")[2]
            block.register_forward_pre_hook(lambda *_, name=f"block {place}": runs.update([name]))
        return model

    monkeypatch.setattr(execute, "build", counted)
    given = recipe(tiny_base("bert", num_hidden_layers=3), TOP, train={"epochs": 4})
    _, calls = trained(given, tmp_path)
    first, _ = dict(runs), runs.clear()
    assert first["block 0"] == first["block 1"]
    assert not any("computed every time" in note for note in calls.notes)
    trained({**given, "name": "again"}, tmp_path)
    assert runs["block 0"] == runs["block 1"] < first["block 0"], "the second time for the first look alone"
    assert runs["block 2"] > 4 * (30 // 8), "and the block that trains in every update"


# --- the same bytes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_hit_miss_and_rebuild_give_the_same_bytes(tiny_base, tmp_path, precision):
    base = tiny_base("bert", **LIVELY, num_hidden_layers=3)
    given = recipe(base, {**TOP, "head_init": "probe"}, model={"dropout": 0.1}, train={"precision": precision})
    miss, told = trained(given, tmp_path / "miss")
    assert not any("read from the cache" in note for note in told.notes)
    kept = {entry.path.name: entry.digest for entry in store.entries()}
    assert len(kept) == 4, "features and hidden states, each of two splits"
    hit, told = trained(given, tmp_path / "hit")
    assert sum("read from the cache" in note for note in told.notes) == 4
    assert store.clear() > 0
    assert store.entries() == []
    rebuilt, _ = trained(given, tmp_path / "rebuilt")
    assert {entry.path.name: entry.digest for entry in store.entries()} == kept
    assert substance(miss) == substance(hit) == substance(rebuilt)


def test_a_damaged_entry_is_computed_again(tiny_base, tmp_path):
    given = recipe(tiny_base("bert", **LIVELY), TOP)
    first, _ = trained(given, tmp_path / "first")
    for entry in store.entries():
        file = entry.path / "values.bin"
        values = bytearray(file.read_bytes())
        values[len(values) // 2] ^= 1
        file.write_bytes(values)
    second, told = trained(given, tmp_path / "second")
    assert not any("read from the cache" in note for note in told.notes)
    assert substance(first) == substance(second)
    for entry in store.entries():
        os.truncate(entry.path / "values.bin", 7)
    third, _ = trained(given, tmp_path / "third")
    assert substance(first) == substance(third)


def test_a_cache_that_cannot_be_written_costs_no_run(tiny_base, tmp_path, cache):
    given = recipe(tiny_base("bert", **LIVELY), {**TOP, "head_init": "probe"})
    first, _ = trained(given, tmp_path / "first")
    shutil.rmtree(cache)
    cache.write_text("no folder", "utf-8")
    second, told = trained(given, tmp_path / "second")
    assert any("the cache cannot be written" in warning for warning in told.warnings)
    assert substance(first) == substance(second)


# --- what is shared, and what is not --------------------------------------------------------------------------------


def test_strategies_seeds_and_learning_rates_share_what_the_frozen_body_gives(tiny_base, tmp_path):
    base = tiny_base("bert", **LIVELY)
    trained(recipe(base, "head", "head"), tmp_path)
    (one, other) = store.entries()
    for name, strategy, more in (
        ("full", "full-probe", {"model": {"dropout": 0.1}}),
        ("seed", "head", {"seed": 1, "data": {"seed": 0}}),
        ("rate", "full-probe", {"train": {"lr": 1e-5}}),
    ):
        _, told = trained(recipe(base, strategy, name, **more), tmp_path)
        assert sum("read from the cache" in note for note in told.notes) == 2, name
    assert {entry.path for entry in store.entries()} == {one.path, other.path}


PROBED = {"kind": "lora", "r": 4, "head_init": "probe"}
IA3 = {"kind": "peft", "method": "IA3", "head_init": "probe"}


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        ("bert", "fp32"),
        pytest.param("gpt2", "bf16", marks=pytest.mark.slow),
        pytest.param("bert", "bf16", marks=pytest.mark.slow),
        pytest.param("llama", "fp32", marks=pytest.mark.slow),
    ],
)
def test_an_adapter_that_does_nothing_yet_shares_what_the_base_gives(tiny_base, tmp_path, family, precision):
    base, train = tiny_base(family, **LIVELY), {"precision": precision, "max_steps": 3}
    trained(recipe(base, "head", "head", train=train), tmp_path)
    for strategy in (PROBED, IA3):
        given = recipe(base, strategy, strategy["kind"], train=train)
        hit, told = trained(given, tmp_path)
        assert sum("read from the cache" in note for note in told.notes) == 2
        alone, told = trained(given, tmp_path / "alone", cache=False)
        assert not any("read from the cache" in note for note in told.notes)
        assert substance(hit)["tensors"] == substance(alone)["tensors"]


@pytest.mark.slow
@pytest.mark.parametrize("changed", [{"init_lora_weights": "pissa"}, {"init_lora_weights": False}], ids=str)
def test_an_adapter_that_does_something_has_features_of_its_own(tiny_base, tmp_path, changed):
    base = tiny_base("bert", **LIVELY)
    trained(recipe(base, "head", "head"), tmp_path)
    strategy = {"kind": "peft", "method": "LORA", "head_init": "probe", "options": {"r": 4, **changed}}
    given = recipe(base, strategy, "own", train={"max_steps": 3})
    hit, told = trained(given, tmp_path)
    assert not any("read from the cache" in note for note in told.notes)
    alone, _ = trained(given, tmp_path / "alone", cache=False)
    assert substance(hit)["tensors"] == substance(alone)["tensors"]
    _, told = trained({**given, "name": "again"}, tmp_path)
    assert sum("read from the cache" in note for note in told.notes) == 2
    other = {**strategy, "options": {**strategy["options"], "lora_alpha": 3}}
    _, told = trained(recipe(base, other, "other"), tmp_path)
    assert not any("read from the cache" in note for note in told.notes), "its scale is no tensor"


@pytest.mark.parametrize(
    "change",
    [
        {"task": {"max_length": 6}},
        {"train": {"precision": "bf16"}},
        {"train": {"threads": 2}},
        {"model": {"attention": "eager"}},
        {"evaluate": {"batch_size": 7}},
        {"strategy": {**TOP, "last_n": 2}},
        {"model": {"base": "other"}},
    ],
    ids=str,
)
def test_what_bytes_depend_on_is_in_the_key(tiny_base, tmp_path, change):
    given = recipe(tiny_base("bert", **LIVELY, num_hidden_layers=3), TOP, "first")
    trained(given, tmp_path)
    assert len(store.entries()) == 2
    if change == {"model": {"base": "other"}}:
        change = {"model": {"base": str(tiny_base("bert", **LIVELY, num_hidden_layers=3, seed=1))}}
    changed = {name: {**given[name], **values} for name, values in change.items()}
    trained({**given, **changed, "name": "second"}, tmp_path)
    assert len(store.entries()) == 4


@pytest.mark.parametrize(
    ("family", "strategy"),
    [("t5", TOP), ("bart", TOP), ("albert", TOP), ("bert", {"kind": "full", "head_init": "random"}), ("bert", "lora")],
    ids=str,
)
def test_without_one_frozen_bottom_there_is_nothing_to_keep(tiny_base, tmp_path, family, strategy):
    given = recipe(tiny_base(family), strategy, train={"cache": True})
    run, _ = trained(given, tmp_path)
    assert "cache" not in run.ledger["phases"]
    assert not any("blocks" in entry.what for entry in store.entries())


def test_a_model_that_hands_on_more_goes_without_and_says_why(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(prefix, "wrapping", lambda _: None)
    run, told = trained(recipe(tiny_base("bert", **LIVELY), TOP), tmp_path)
    assert "the 1 frozen blocks are computed every time: they hand on more than hidden states" in told.notes
    assert "cache" not in run.ledger["phases"]


def test_hidden_states_that_depend_on_the_padding_are_found_out(tiny_base, tmp_path):
    """GPT-2 counts positions from the left edge, so that padding there moves them."""
    base = tmp_path / "left"
    shutil.copytree(tiny_base("gpt2", **LIVELY), base)
    config = (base / "tokenizer_config.json").read_text("utf-8")
    (base / "tokenizer_config.json").write_text(config.replace("{", '{"padding_side": "left",', 1), "utf-8")
    run, told = trained(recipe(base, TOP), tmp_path)
    assert any("needs more than their hidden states" in note for note in told.notes)
    assert "cache" not in run.ledger["phases"]


def test_it_is_left_out_where_it_does_not_pay(tiny_base, tmp_path, monkeypatch):
    base = tiny_base("bert")
    run, _ = trained(recipe(base, TOP, "once"), tmp_path, epochs=1)
    assert "cache" not in run.ledger["phases"]
    monkeypatch.setenv(store.LIMIT, "10 KB")
    run, _ = trained(recipe(base, TOP, "small"), tmp_path)
    (decision,) = [one for one in run.read("decisions.json")["decisions"] if one["path"] == "train.cache"]
    assert decision["value"] is False
    assert "the cache has room for" in decision["reason"]
    assert store.entries() == []
