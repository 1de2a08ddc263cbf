"""The compact vocabulary: rows that occur train alone, and nothing that a run leaves is another byte for it."""

from __future__ import annotations

import fnmatch
import gc
import os
import signal
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hfstrat import execute, prepare
from hfstrat.errors import Interrupted, UsageError
from hfstrat.models import compaction
from hfstrat.models.anatomy import find_anatomy, module_at
from hfstrat.models.compaction import CompactEmbedding, compact, expand, is_compact
from hfstrat.repeating import verify
from hfstrat.runs.directory import Run
from hfstrat.strategies.plan import TokenTable
from hfstrat.training import checkpoint
from tests import tiny
from tests.faults.runs import Calls, files_of, recipe_for, substance
from tests.training.helpers import LIVELY, Trained, built, memory, prepared_for, recipe, train

ROWS = tiny.reviews(40)
# More rows than the tokenizer has entries, and no multiple of what the optimiser computes at once.
VOCABULARY = 1001
FAMILIES = {
    "bert": {},
    "distilbert": {},
    "roberta": {},
    "modernbert": {},
    "gpt2": {},
    "llama": {},
    "electra": {"embedding_size": 10},
    "albert": {},
}
SCRATCH = {"kind": "scratch", "tokenizer": {"kind": "wordpiece", "vocab_size": 150}}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.float32, "float64": torch.float64}


# --- the module ---------------------------------------------------------------------------------------------------


def whole_and_compact(rows: int = 20, width: int = 4, padding: int | None = 3) -> tuple[nn.Embedding, CompactEmbedding]:
    torch.manual_seed(0)
    whole = nn.Embedding(rows, width, padding_idx=padding)
    return whole, CompactEmbedding(whole, np.array([0, 3, 4, 11, 19]))


def test_it_gives_the_rows_of_the_whole_and_passes_their_gradients():
    whole, small = whole_and_compact()
    ids = torch.tensor([[11, 0, 19, 11], [4, 11, 3, 3]])
    outputs = [module(ids) for module in (whole, small)]
    assert torch.equal(*outputs)
    for output in outputs:
        (output * torch.arange(output.numel()).view_as(output)).sum().backward()
    assert torch.equal(whole.weight.grad[[0, 3, 4, 11, 19]], small.weight.grad)
    assert not small.weight.grad[1].any(), "the row of the padding"
    assert (small.num_embeddings, small.padding_idx) == (20, 3), "as a model may ask for them, in ids"
    assert list(small.state_dict()) == ["weight"]


@pytest.mark.parametrize("strange", [1, 18, 20, -1])
def test_an_id_without_a_row_raises(strange):
    _, small = whole_and_compact()
    with pytest.raises(IndexError):
        small(torch.tensor([0, strange]))


def test_what_stays_as_it_is_lies_in_a_file_and_not_in_memory(tiny_base, tmp_path):
    prepared = prepared_for(recipe(tiny_base("bert", vocab_size=VOCABULARY), "full-random"), ROWS)
    model, apart, file = built(prepared), prepared.compact, tmp_path / "rows"
    before = module_at(model, apart.path)[2].weight.detach().clone()
    gone = weakref.ref(module_at(model, apart.path)[2].weight)
    compact(model, apart, file)
    gc.collect()
    assert gone() is None
    assert is_compact(model, apart)
    weight = module_at(model, apart.path)[2].weight
    assert weight.untyped_storage().nbytes() == len(apart.ids) * 32 * 4
    with torch.no_grad():
        weight.add_(1)
    expand(model, apart, file)
    after = module_at(model, apart.path)[2]
    assert type(after) is nn.Embedding
    assert (after.num_embeddings, after.padding_idx) == (VOCABULARY, 0)
    moved = torch.zeros(VOCABULARY, 1)
    moved[torch.from_numpy(apart.ids)] = 1
    assert torch.equal(after.weight, before + moved)
    assert not file.exists()


# --- which rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "width"), [(1001, 10), (999, 6), (1000, 3), (517, 33), (130, 1), (320, 32)])
def test_the_optimizer_moves_a_row_alike_wherever_it_lies(rows, width, dtype):
    """In PyTorch's fused AdamW the last few elements of a tensor are rounded otherwise than the others."""
    rng = np.random.default_rng(rows)
    used = np.sort(rng.choice(rows, rows // 4, replace=False))
    for ids in (used, np.union1d(used, [rows - 1])):
        kept = compaction._aligned(ids, TokenTable("", rows, width))
        assert set(ids) <= set(kept)
        assert len(kept) <= len(ids) + 30
        start, index = torch.randn(rows, width, dtype=dtype), torch.from_numpy(kept)
        whole, small = nn.Parameter(start.clone()), nn.Parameter(start[index])
        optimizers = [torch.optim.AdamW([one], lr=1e-2, weight_decay=0.0, fused=True) for one in (whole, small)]
        for _ in range(30):
            whole.grad = torch.zeros_like(whole)
            whole.grad[torch.from_numpy(ids)] = torch.randn(len(ids), width, dtype=dtype)
            small.grad = whole.grad[index]
            for optimizer in optimizers:
                optimizer.step()
        expected = start.clone()
        expected[index] = small.detach()
        assert torch.equal(whole, expected)


def test_they_are_those_of_the_texts_that_training_sees_and_of_special_tokens(tiny_base):
    base = tiny_base("bert", vocab_size=VOCABULARY)
    texts = {"train": "great film", "validation": "awful music", "test": "scary ghost"}
    rows = {name: [{"text": text, "label": label} for label in "ab"] for name, text in texts.items()}
    data = {"source": "memory", "validation": "validation", "test": "test"}
    prepared = prepared_for(recipe(base, "full-random", data=data), rows)
    ids = {name: set(part.columns["input_ids"].values) for name, part in prepared.encoded.items()}
    special = {*prepared.base.tokenizer.all_special_ids}
    assert set(prepared.apart.ids) >= ids["train"] | ids["validation"] | special
    assert prepared.apart.used == len(ids["train"] | ids["validation"] | special)
    assert ids["test"] - set(prepared.apart.ids), "what only the test split has is looked up in what was saved"


@pytest.mark.parametrize(
    ("family", "strategy", "reason"),
    [
        ("t5", "full-random", "shared.weight, * and *decoder.embed_tokens.weight are one matrix"),
        ("bart", "full-random", "shared.weight, * and *decoder.embed_tokens.weight are one matrix"),
        ("bert", "head", "its embedding of tokens does not train by gradient"),
        ("bert", "lora", "its embedding of tokens does not train by gradient"),
        ("bert", SCRATCH, "* of 150 rows occur, which are more than half"),
    ],
    ids=str,
)
def test_where_they_cannot_train_alone_the_reason_is_given(tiny_base, tmp_path, family, strategy, reason):
    given = recipe(tiny_base(family), strategy, train={"compact_vocabulary": True, "max_steps": 1})
    heard = Calls()
    run = execute.train(given, data=memory(ROWS), runs=tmp_path, observer=heard)
    assert run.status == "done"
    assert fnmatch.filter(heard.notes, f"the vocabulary is not compacted: *{reason}")


def test_an_embedding_that_does_more_than_look_rows_up_is_left_alone(tiny_base):
    class Scaled(nn.Embedding):
        pass

    prepared = prepared_for(recipe(tiny_base("bert", vocab_size=VOCABULARY), "full-random"), ROWS)
    table = prepared.anatomy.tokens
    assert (table.path, table.rows, table.width, table.bound) == (
        "bert.embeddings.word_embeddings",
        VOCABULARY,
        32,
        "",
    )
    model = built(prepared)
    for embedding, reason in (
        (nn.Embedding(VOCABULARY, 32, max_norm=1.0), "scales rows"),
        (Scaled(VOCABULARY, 32), "Scaled does more"),
    ):
        model.set_input_embeddings(embedding)
        assert reason in find_anatomy(model, [], 2).tokens.bound
    model.__class__ = type("Mine", (type(model),), {"__module__": "mine"})
    assert "the model is code" in find_anatomy(model, [], 2).tokens.bound


# --- the same run -------------------------------------------------------------------------------------------------


def both(given, folder: Path, dtype: torch.dtype = torch.float32) -> list[Trained]:
    """A run with the compact vocabulary, and the same without."""
    return [
        train({**given, "train": {**given["train"], "compact_vocabulary": chosen}}, ROWS, folder / str(chosen), dtype)
        for chosen in (True, False)
    ]


def assert_the_same_bytes(one: Run, other: Run) -> None:
    assert substance(one) == substance(other)
    names = ["log.jsonl", "predictions.parquet", "metrics.json", "artifact/model.safetensors", "artifact/config.json"]
    for name in names:
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), name
    assert files_of(one) == files_of(other)
    assert not (one.path / execute.VOCABULARY).exists()


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        *(
            pytest.param(family, "fp32", marks=[pytest.mark.slow] * (family not in ("bert", "roberta")))
            for family in FAMILIES
        ),
        ("bert", "bf16"),
        ("electra", "float64"),
    ],
)
def test_a_run_is_the_same_with_it_and_without(tiny_base, tmp_path, family, precision):
    """Fifty updates whose gradients are clipped."""
    base = tiny_base(family, vocab_size=VOCABULARY, **LIVELY, **FAMILIES[family])
    settings = {"max_steps": 50, "batch_size": 7, "micro_batch_size": 4, "clip": 1e-3, "lr": 1e-3}
    settings["precision"] = "fp32" if precision == "float64" else precision
    on, off = both(recipe(base, "full-random", train=settings, evaluate={"every": 25}), tmp_path, PRECISIONS[precision])
    assert all(line["grad_norm"] > 1e-3 for line in on.run.log() if line["kind"] == "update")
    apart = on.prepared.compact
    assert off.prepared.compact is None
    assert apart.used < VOCABULARY / 4
    name = apart.parameter
    assert on.after.keys() == off.after.keys()
    for other, value in on.after.items():
        assert torch.equal(value, off.after[other]), other
    moved = (off.after[name] != off.before[name]).any(1).nonzero().flatten().tolist()
    assert len(moved) > apart.used / 2
    assert set(moved) <= set(apart.ids)
    peaks = [found.run.ledger["phases"]["train"]["peak_live_bytes"] for found in (on, off)]
    assert peaks[0] < peaks[1] - (VOCABULARY - len(apart.ids)) * on.after[name][0].nbytes * 2
    assert_the_same_bytes(on.run, off.run)


def test_after_a_probe_as_well(tiny_base, tmp_path):
    """While the probe is solved the embedding is whole: what it is solved on is the same for other strategies."""
    on, off = both(recipe(tiny_base("bert", vocab_size=VOCABULARY, **LIVELY), "full-probe"), tmp_path)
    assert on.prepared.compact is not None
    assert "best at fit" in on.run.read("status.json")["reason"]
    assert_the_same_bytes(on.run, off.run)


def test_what_is_done_is_said(tiny_base, tmp_path):
    heard = Calls()
    given = recipe(tiny_base("bert", vocab_size=VOCABULARY), "full-random", train={"max_steps": 1})
    run = execute.train(given, data=memory(ROWS), runs=tmp_path, observer=heard)
    assert "compact_vocabulary: true" in run.recipe()
    (note,) = (text for text in heard.notes if "rows of the vocabulary" in text)
    assert note.endswith(" of 1,001 rows of the vocabulary occur and train; the others stay as they are")


# --- runs that end early ------------------------------------------------------------------------------------------


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupted(given, runs: Path, at: int) -> Run:
    with pytest.raises(Interrupted):
        execute.train(given, data=memory(ROWS), runs=runs, observer=Calls(at, stop))
    run = Run(runs / given["name"])
    assert not (run.path / execute.VOCABULARY).exists()
    return run


@pytest.mark.slow
def test_it_goes_on_to_the_same_bytes(tiny_base, tmp_path):
    given = recipe_for("full", tiny_base, train={"compact_vocabulary": True})
    whole = execute.train(given, data=memory(ROWS), runs=tmp_path / "whole")
    without = {**given, "train": {**given["train"], "compact_vocabulary": False}}
    assert substance(execute.train(without, data=memory(ROWS), runs=tmp_path / "without")) == substance(whole)
    for at in (12, 22):
        run = interrupted(given, tmp_path / str(at), at)
        (run.path / execute.VOCABULARY).write_text("left by a process that was killed")
        found = execute.train(given, data=memory(ROWS), runs=tmp_path / str(at), resume=True)
        assert_the_same_bytes(found, whole)
    assert verify(whole.path, 9, data=memory(ROWS)).holds


def test_checkpoints_hold_the_rows_in_use(tiny_base, tmp_path):
    given = recipe_for("full", tiny_base, train={"compact_vocabulary": True})
    run = interrupted(given, tmp_path, 22)
    found, _ = checkpoint.newest(run.path / "checkpoints")
    apart = prepared_for(given, ROWS).compact
    assert found.tensors("current")[apart.parameter].shape == (len(apart.ids), 32)
    moments = found.tensors("optimizer")
    assert moments[f"{apart.parameter}/exp_avg"].shape == (len(apart.ids), 32)


def test_a_run_does_not_go_on_with_other_rows(tiny_base, tmp_path, monkeypatch):
    """As with a tokenizer of another version: the same number of other rows would fit."""
    given = recipe_for("full", tiny_base, train={"compact_vocabulary": True})
    interrupted(given, tmp_path, 22)
    find = prepare.ids_in_use
    monkeypatch.setattr(prepare, "ids_in_use", lambda *words: np.union1d(find(*words)[:-1], [300]))
    with pytest.raises(UsageError, match="the token ids in the texts of the run in"):
        execute.train(given, data=memory(ROWS), runs=tmp_path, resume=True)


def test_a_run_that_fails_leaves_no_rows_behind(tiny_base, tmp_path, monkeypatch):
    seen = []

    def fail(*_):
        seen.append((tmp_path / "run" / execute.VOCABULARY).exists())
        raise OSError("the disk is gone")

    monkeypatch.setattr(execute, "run_fit", fail)
    given = recipe(tiny_base("bert", vocab_size=VOCABULARY), "full-random")
    with pytest.raises(Exception, match="the disk is gone"):
        execute.train(given, data=memory(ROWS), runs=tmp_path)
    assert seen == [True]
    assert not (tmp_path / "run" / execute.VOCABULARY).exists()
