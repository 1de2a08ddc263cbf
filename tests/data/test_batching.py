"""Batches: a function of seed and epoch, shared between any number of processes, each example once."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hfstrat.data.batching import collate, costliest, evaluation_batches, order, padding_share, share
from hfstrat.tasks import TextClassification
from hfstrat.tasks.base import Encoded, Examples, Ragged
from tests import tiny

PAD = 99


def encoded(windows: list[int], longest: int = 9, *, left: bool = False, seed: int = 0, lengths=None) -> Encoded:
    """Examples with so many windows each; a window's tokens are its example's number."""
    owner = np.repeat(np.arange(len(windows)), windows)
    if lengths is None:
        lengths = np.random.default_rng(seed).integers(1, longest + 1, len(owner))
    rows = [[int(place)] * int(length) for place, length in zip(owner, lengths, strict=True)]
    ids = tuple(str(place) for place in range(len(windows)))
    return Encoded(
        examples=Examples(ids, [""] * len(ids), None, np.arange(len(ids))),
        columns={"input_ids": Ragged.of(rows), "token_type_ids": Ragged.of([[7] * len(row) for row in rows])},
        windows=np.concatenate([[0], np.cumsum(windows)]),
        truncated=0,
        pad={"input_ids": PAD, "token_type_ids": 0},
        left=left,
    )


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=120).map(np.array)
WINDOWS = st.lists(st.integers(1, 4), min_size=1, max_size=40)

# --- order --------------------------------------------------------------------------------------------------------


@given(LENGTHS, st.integers(1, 17), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_has_each_example_once_in_full_batches_but_one(lengths, size, seed, epoch):
    batches = order(lengths, size, seed, epoch)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert len(batches) == math.ceil(len(lengths) / size)
    assert sum(len(batch) < size for batch in batches) <= 1


def test_the_order_is_a_function_of_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(1, 60, 200)
    torch.manual_seed(1)
    first = np.concatenate(order(lengths, 8, 3, 1))
    np.random.default_rng(5).random()
    torch.manual_seed(2)
    assert np.array_equal(first, np.concatenate(order(lengths, 8, 3, 1)))
    others = [np.concatenate(order(lengths, 8, seed, epoch)) for seed, epoch in ((3, 0), (3, 2), (4, 1), (1, 3))]
    assert not any(np.array_equal(first, other) for other in others)


def test_the_order_does_not_change_between_versions():
    """Golden: a change here changes every run that is resumed or repeated."""
    assert [batch.tolist() for batch in order(np.arange(1, 11), 4, 0, 0)] == GOLDEN


GOLDEN = [[7, 6, 4, 2], [8, 1], [9, 5, 3, 0]]


def test_batches_hold_texts_of_similar_length():
    lengths = np.random.default_rng(0).integers(1, 100, 3000)
    within = [np.ptp(lengths[batch]) for batch in order(lengths, 10, 0, 0)]
    assert np.mean(within) < 10
    assert padding_share(encoded([1] * 400, 60), 10, 0) < 0.1


# --- sharing an update --------------------------------------------------------------------------------------------


@given(WINDOWS, st.integers(1, 9), st.integers(1, 3), st.data())
def test_processes_share_an_update_in_equal_rounds(windows, micro, processes, data):
    source = encoded(windows)
    rows = np.array(data.draw(st.permutations(range(len(windows)))))
    shared = [share(source, rows, micro * source.longest, process, processes) for process in range(processes)]
    assert len({len(batches) for batches in shared}) == 1
    real = [batch for batches in shared for batch in batches if batch.scale]
    assert any(all(batch.scale for batch in batches) for batches in shared), "no round in which nobody computes"
    assert sorted(np.concatenate([batch.rows for batch in real])) == sorted(rows)
    budget = micro * source.longest
    assert all(len(batch.rows) == 1 or batch.inputs["input_ids"].numel() <= budget for batch in real)
    for batch in (batch for batches in shared for batch in batches):
        assert batch.scale in (0.0, 1.0)
        assert len(batch.targets) == len(batch.rows) > 0
        owner = torch.arange(len(batch.rows)) if batch.owner is None else batch.owner
        tokens = batch.inputs["input_ids"]
        assert tokens.shape == batch.inputs["attention_mask"].shape
        assert torch.equal(tokens[:, 0], torch.from_numpy(batch.rows)[owner]), "tokens name their example"
        assert torch.equal(batch.targets, torch.from_numpy(batch.rows))
        assert [int((owner == place).sum()) for place in range(len(batch.rows))] == [windows[r] for r in batch.rows]


def test_a_micro_batch_holds_more_of_shorter_texts():
    source = encoded([1] * 9, lengths=[8, 7, 4, 4, 4, 2, 2, 2, 2])
    parts = [batch.rows.tolist() for batch in share(source, np.arange(9), 16, 0, 1)]
    assert parts == [[0, 1], [2, 3, 4, 5], [6, 7, 8]]
    assert [batch.rows.tolist() for batch in share(source, np.arange(9), 72, 0, 1)] == [list(range(9))]


def test_texts_that_leave_more_padding_than_a_pass_costs_go_in_passes_of_their_own():
    source = encoded([1] * 7, lengths=[9, 8, 5, 2, 2, 2, 1])
    (whole,) = share(source, np.arange(7), 63, 0, 1)
    assert whole.inputs["input_ids"].numel() - whole.tokens == 34
    parts = share(replace(source, padding=5), np.arange(7), 63, 0, 1)
    assert [batch.rows.tolist() for batch in parts] == [[0, 1, 2], [3, 4, 5, 6]]
    assert all(batch.inputs["input_ids"].numel() - batch.tokens <= 5 for batch in parts)
    looked = [batch.rows.tolist() for batch in evaluation_batches(replace(source, padding=5), 5)]
    assert looked == [[0, 1, 2], [3, 4], [5, 6]]
    alike = replace(source, padding=0)
    assert [batch.rows.tolist() for batch in share(alike, np.arange(3, 6), 63, 0, 1)] == [[3, 4, 5]]


@given(LENGTHS, st.integers(1, 17), st.integers(0, 60))
def test_no_pass_has_more_padding_than_is_allowed_and_all_examples_are_there(lengths, size, padding):
    source = replace(encoded([1] * len(lengths), lengths=lengths), padding=padding)
    for rows in order(source.lengths, size, 0, 0):
        parts = share(source, rows, size * source.longest, 0, 1)
        assert np.concatenate([batch.rows for batch in parts]).tolist() == rows.tolist()
        assert all(batch.inputs["input_ids"].numel() - batch.tokens <= padding for batch in parts)


@pytest.mark.parametrize("padding", [None, 0, 20, 96])
@pytest.mark.parametrize("spread", [0.1, 0.6, 1.5])
def test_no_update_has_a_pass_much_larger_than_the_costliest(padding, spread):
    lengths = np.random.default_rng(0).lognormal(2.5, spread, 300).astype(int).clip(1, 200)
    source = replace(encoded([1] * 300, lengths=lengths), padding=padding)
    budget = 16 * source.longest

    def largest(rows):
        parts = [batch.inputs["input_ids"].shape for batch in share(source, rows, budget, 0, 1)]
        return max(count * width * (1 + width / 256) for count, width in parts)

    tried = costliest(source, 16, budget)
    assert set(tried[0]) == set(source.costliest(16)), "the longest are among them"
    most = max(map(largest, tried))
    assert max(largest(rows) for epoch in range(20) for rows in order(source.lengths, 16, 0, epoch)) <= 1.1 * most


# --- evaluation ---------------------------------------------------------------------------------------------------


def test_evaluation_takes_fewer_of_texts_with_many_windows():
    source = encoded([1, 9, 1, 2, 2, 1], lengths=[4] * 16)
    assert [batch.rows.tolist() for batch in evaluation_batches(source, 4)] == [[1], [3, 4], [0], [2, 5]]


@given(WINDOWS, st.integers(1, 9), st.integers(1, 4))
def test_evaluation_has_each_example_once_over_all_processes(windows, size, processes):
    source = encoded(windows)
    batches = [batch for process in range(processes) for batch in evaluation_batches(source, size, process, processes)]
    assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(len(windows)))
    alone = list(evaluation_batches(source, size))
    assert {tuple(batch.rows) for batch in alone} == {tuple(batch.rows) for batch in batches}, "the same batches"
    assert source.lengths[alone[0].rows[0]] == source.lengths.max(), "the longest comes first"


# --- padding ------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 50), max_size=7), min_size=1, max_size=12), st.booleans(), st.data())
def test_rows_are_padded_on_one_side(rows, left, data):
    chosen = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=8)))
    values, mask = Ragged.of(rows).padded(chosen, PAD, left=left)
    width = max(len(rows[place]) for place in chosen)
    assert values.shape == mask.shape == (len(chosen), width)
    assert values.dtype == mask.dtype == np.int64
    for line, on, place in zip(values.tolist(), mask.tolist(), chosen, strict=True):
        gap = width - len(rows[place])
        assert line == ([PAD] * gap + rows[place] if left else rows[place] + [PAD] * gap)
        assert on == ([0] * gap + [1] * len(rows[place]) if left else [1] * len(rows[place]) + [0] * gap)


@pytest.mark.parametrize("left", [False, True])
def test_each_column_has_its_own_padding(left):
    batch = collate(encoded([1, 1, 1, 1], left=left), np.array([0, 1, 2, 3]))
    inputs = batch.inputs
    assert set(inputs) == {"input_ids", "token_type_ids", "attention_mask"}
    assert torch.equal(inputs["input_ids"] == PAD, inputs["attention_mask"] == 0)
    assert torch.equal(inputs["token_type_ids"] == 0, inputs["attention_mask"] == 0)
    assert inputs["attention_mask"][:, -1 if left else 0].all()
    assert batch.tokens == int(inputs["attention_mask"].sum())


# --- windows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_windows_cover_a_text_and_overlap_by_the_stride(tiny_base, family, pairs):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base(family))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    texts = [row["text"] for row in tiny.reviews(12)]
    seconds = texts[::-1] if pairs else None
    firsts = ["great"] * len(texts) if pairs else texts
    long = TextClassification(kind="text_classification", long_texts="windows", stride=3)
    room = 10 + tokenizer.num_special_tokens_to_add(pair=pairs) + (len(tokenizer.tokenize("great")) if pairs else 0)
    data = long.encode(tokenizer, Examples(tuple(texts), firsts, seconds, None), room)
    assert (len(data.windows) - 1, data.windows[0]) == (len(texts), 0)
    assert data.windows[-1] == len(data.columns["input_ids"].lengths) > len(texts)
    assert data.columns["input_ids"].lengths.max() <= room
    assert data.truncated == 0
    special = set(tokenizer.all_special_ids)
    for place, (first, last) in enumerate(zip(data.windows[:-1], data.windows[1:], strict=True)):
        column = data.columns["input_ids"]
        rows = [column.values[column.offsets[row] : column.offsets[row + 1]].tolist() for row in range(first, last)]
        parts = [[token for token in row if token not in special] for row in rows]
        skip = len(tokenizer.tokenize("great")) if pairs else 0
        text = seconds[place] if seconds else texts[place]
        whole = parts[0][skip:]
        for part in parts[1:]:
            assert part[:skip] == parts[0][:skip]
            assert part[skip : skip + 3] == whole[-3:]
            whole += part[skip + 3 :]
        assert whole == tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_windows_of_a_pair_do_not_depend_on_its_neighbours(tiny_base, family):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base(family))
    task = TextClassification(kind="text_classification", long_texts="windows", stride=8)
    texts = [row["text"] for row in tiny.reviews(6)]
    firsts = ["great", " ".join(["great"] * 3), "great", "good film", " ".join(["great"] * 12), "bad"]
    length = (
        tokenizer.num_special_tokens_to_add(pair=True)
        + 2
        + max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in firsts)
    )
    together = task.encode(tokenizer, Examples(tuple(texts), firsts, texts[::-1], None), length)
    for place, (first, second) in enumerate(zip(firsts, texts[::-1], strict=True)):
        alone = task.encode(tokenizer, Examples(("x",), [first], [second], None), length)
        column, own = together.columns["input_ids"], alone.columns["input_ids"]
        start, end = column.offsets[together.windows[place]], column.offsets[together.windows[place + 1]]
        assert column.values[start:end].tolist() == own.values.tolist()
    tightest = together.windows[5] - together.windows[4]
    tokens = len(tokenizer(texts[1], add_special_tokens=False)["input_ids"])
    assert tightest == tokens - 1, "of two tokens, each window shares one"
