"""Tokens that were kept are those that the tokenizer would make again, and stand for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from hfstrat import execute, tokenizing
from hfstrat.runs import store
from hfstrat.tasks.base import Encoded, Examples
from hfstrat.tasks.text_classification import TextClassification
from hfstrat.tokenizing import tokenized
from tests import tiny
from tests.training.helpers import recipe

TASK = TextClassification(kind="text_classification")
WINDOWS = TASK.model_copy(update={"long_texts": "windows", "stride": 2})
TEXTS = ("the film was good", "bad", "the story of a film that was long and bad and not good at all", "é ☃ the film")
SHORT = ("a film", "bad", "the story", "é ☃")
PAIRS = ("a film", "the story was good and long, and the film was not bad at all, and long", "bad", "good")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(tokenizing, "FEWEST", 1)


def examples(texts=TEXTS, pairs=None) -> Examples:
    return Examples(tuple(map(str, range(len(texts)))), texts, pairs, np.arange(len(texts)) % 2)


def plain(encoded: Encoded) -> dict[str, Any]:
    columns = {name: (np.asarray(one.values).tolist(), one.offsets.tolist()) for name, one in encoded.columns.items()}
    rest = {name: getattr(encoded, name) for name in ("ids", "truncated", "left", "hidden", "teacher", "labelled")}
    windows, targets = np.asarray(encoded.windows).tolist(), np.asarray(encoded.targets).tolist()
    return {**rest, "pad": dict(encoded.pad), "columns": columns, "windows": windows, "targets": targets}


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "t5"])
@pytest.mark.parametrize("task", [TASK, WINDOWS], ids=["truncate", "windows"])
@pytest.mark.parametrize("pairs", [None, PAIRS], ids=["texts", "pairs"])
def test_miss_and_hit_are_what_the_tokenizer_gives(tiny_base: Callable[..., Path], family, task, pairs):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base(family))
    asked = examples(pairs=None) if pairs is None else examples(SHORT, pairs)
    expected = plain(task.encode(tokenizer, asked, 12))
    assert plain(tokenized(task, tokenizer, asked, 12)) == expected
    (entry,) = store.entries()
    assert entry.what == "tokens of 4 texts"
    found = tokenized(task, tokenizer, asked, 12)
    assert isinstance(found.columns["input_ids"].values, np.memmap), "not held in memory"
    assert plain(found) == expected
    assert len(store.entries()) == 1
    # Targets and ids are the data's, and no part of what is kept.
    other = tokenized(task, tokenizer, replace(asked, targets=None, ids=("a", "b", "c", "d")), 12)
    assert (other.ids, other.targets) == (("a", "b", "c", "d"), None)
    assert len(store.entries()) == 1


def test_another_question_has_an_answer_of_its_own(tiny_base: Callable[..., Path]):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base("bert"))
    other = AutoTokenizer.from_pretrained(tiny_base("bert"))
    other.add_tokens(["film"])
    left = AutoTokenizer.from_pretrained(tiny_base("bert"), padding_side="left")
    stride = WINDOWS.model_copy(update={"stride": 3})
    questions = [
        (TASK, tokenizer, examples(), 12),
        (TASK, tokenizer, examples(), 8),
        (TASK, tokenizer, examples(pairs=PAIRS), 12),
        (TASK, tokenizer, examples(("the film", "was good", *TEXTS[1:])), 12),
        (TASK, tokenizer, examples(("the filmwas good", *TEXTS[1:])), 12),
        (WINDOWS, tokenizer, examples(), 12),
        (stride, tokenizer, examples(), 12),
        (TASK, other, examples(), 12),
        (TASK, left, examples(), 12),
    ]
    for place, question in enumerate(questions, 1):
        task, *rest = question
        assert plain(tokenized(*question)) == plain(task.encode(*rest))
        assert len(store.entries()) == place


def test_what_a_tokenizer_was_asked_before_does_not_matter(tiny_base: Callable[..., Path]):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base("bert"))
    tokenized(TASK, tokenizer, examples(), 12)
    tokenizer(list(TEXTS), truncation=True, max_length=5, padding="max_length")
    tokenized(TASK, tokenizer, examples(), 12)
    assert len(store.entries()) == 1


def test_few_texts_are_not_kept(tiny_base: Callable[..., Path], monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base("bert"))
    monkeypatch.setattr(tokenizing, "FEWEST", 5)
    expected = plain(TASK.encode(tokenizer, examples(), 12))
    assert plain(tokenized(TASK, tokenizer, examples(), 12)) == expected
    assert store.entries() == []


def test_a_cache_that_is_damaged_or_cannot_be_written_is_no_reason_to_fail(
    tiny_base: Callable[..., Path], monkeypatch, tmp_path
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base("bert"))
    expected = plain(tokenized(TASK, tokenizer, examples(), 12))
    (entry,) = store.entries()
    file = entry.path / "values.bin"
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    assert plain(tokenized(TASK, tokenizer, examples(), 12)) == expected
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("HFSTRAT_CACHE", str(tmp_path / "a file" / "cache"))
    assert plain(tokenized(TASK, tokenizer, examples(), 12)) == expected
    monkeypatch.setenv("HFSTRAT_CACHE_SIZE", "0")
    monkeypatch.setenv("HFSTRAT_CACHE", str(tmp_path / "none"))
    assert plain(tokenized(TASK, tokenizer, examples(), 12)) == expected
    assert not (tmp_path / "none").exists()


def test_a_run_is_the_same_with_it_and_without(tiny_base: Callable[..., Path], tmp_path, monkeypatch):
    data = tiny.write_csv(tmp_path / "a.csv", tiny.reviews(40))
    given = recipe(tiny_base("bert"), {"kind": "full", "head_init": "random"}, train={"epochs": 2})
    given["data"] = {"source": str(data), "validation": 0.25, "test": 0.25}
    runs = [execute.train(given, {"name": name}, runs=tmp_path) for name in ("kept", "read")]
    assert sum(entry.what.startswith("tokens of ") for entry in store.entries()) == 3
    monkeypatch.setattr(tokenizing, "FEWEST", 1000)
    runs.append(execute.train(given, {"name": "without"}, runs=tmp_path))
    weights = [(run.artifact / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1] == weights[2]
    kept = {entry.path.name for entry in store.entries()}
    monkeypatch.setattr(tokenizing, "FEWEST", 1)
    execute.train(given, {"name": "off", "train.cache": False, "task.max_length": 16}, runs=tmp_path)
    assert {entry.path.name for entry in store.entries()} == kept, "train.cache: false keeps nothing"
