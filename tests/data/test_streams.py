"""Text that is streamed: the same tokens, the same updates, the same bytes when a run goes on."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoTokenizer

import hfstrat as hf
from hfstrat import fitting, tokenizing
from hfstrat.data import streams
from hfstrat.data.batching import collate, order, padding_share, share
from hfstrat.data.streams import FileStream, HubStream
from hfstrat.errors import Interrupted, UsageError
from hfstrat.inference import Predictor
from hfstrat.runs.events import Observer
from hfstrat.tasks import CausalLM, MaskedLM
from hfstrat.tasks.base import Encoded, Examples
from tests import tiny
from tests.training import helpers

TEXTS = [row["text"] for row in tiny.reviews(80)]


def write(folder: Path, kind: str, texts: list[str], name: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    elif kind == "parquet":
        Dataset.from_dict({"text": texts}).to_parquet(file)
    else:
        file.write_text("\n\n".join(texts) + "\n")
    return file


def of(file: Path, sample_by: str = "paragraph") -> FileStream:
    return FileStream((file,), "text", sample_by, "print")


def recipe(base: Path, folder: Path, task: dict[str, Any], **sections: Any) -> dict[str, Any]:
    data = {"source": f"{folder}/", "streaming": True, "sample_by": "paragraph", **sections.pop("data", {})}
    given = helpers.recipe(
        base, {"kind": "full"}, evaluate={"metrics": ["perplexity"]}, **{"train": {"max_steps": 12}, **sections}
    )
    return {**given, "task": task, "data": data}


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_documents_are_those_of_the_file_wherever_it_is_parted(tmp_path, monkeypatch, kind):
    file = write(tmp_path, kind, TEXTS)
    assert list(of(file).parts()) == [(text, True) for text in TEXTS]
    if kind == "txt":
        assert list(of(file, "line").parts()) == [(text, True) for text in TEXTS]
        assert list(of(file, "document").parts()) == [(file.read_text(), True)]
        monkeypatch.setattr(streams, "PIECE", 100)
        parts = list(of(file, "document").parts())
        assert len(parts) > 10
        assert "".join(text for text, _ in parts) == file.read_text()
        assert [ends for _, ends in parts] == [False] * (len(parts) - 1) + [True]


def test_a_row_may_be_a_book_and_a_line_longer_than_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "PIECE", 50)
    texts = [" ".join(TEXTS), "x" * 100, "short"]  # the second one ends where a part does
    assert list(of(write(tmp_path, "jsonl", texts)).parts()) == [(text, True) for text in texts]
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(texts) + "\n")
    documents, held = [], ""
    for text, ends in of(lines, "line").parts():
        held += text
        if ends:
            documents.append(held)
            held = ""
    assert documents == texts


def test_a_run_on_a_stream_is_scored_on_what_was_held_out(tiny_base, tmp_path):
    folder = tmp_path / "text"
    write(folder, "txt", TEXTS)
    write(folder, "txt", TEXTS[:20], "validation")
    given = recipe(tiny_base("gpt2"), folder, {"kind": "causal_lm", "max_length": 16}, train={"max_steps": 2})
    run = hf.train(given, runs=tmp_path, quiet=True)
    predictor = Predictor.of(run.path)
    again = predictor.evaluate("validation", None, Observer())
    assert again["metrics"]["perplexity"]["value"] == pytest.approx(
        run.metrics["metrics"]["perplexity"]["value"], rel=1e-5
    )
    with pytest.raises(UsageError, match="has no test split"):
        predictor.evaluate("test", None, Observer())


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_tokens_are_those_of_texts_in_memory(tiny_base, tmp_path, monkeypatch, family):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base(family))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    task = MaskedLM(joined=True) if family == "bert" else CausalLM()
    monkeypatch.setattr(tokenizing, "AT_ONCE", 7)
    stream = of(write(tmp_path, "jsonl", TEXTS))
    found = tokenizing.streamed(task, tokenizer, stream, 16, None, Observer())
    ids = tuple("train" for _ in TEXTS)
    whole = task.encode(tokenizer, Examples(ids, TEXTS, None, None), 16)
    # In memory nothing parts the last text from one that follows it in another file.
    assert abs(found.tokens - whole.tokens) <= 1
    assert found.streamed
    rows = np.arange(len(whole) - 1)
    for data in (found, whole):
        assert data.longest == 16
    if family == "bert":
        assert same(found.drawn(rows, 1, 2), whole.drawn(rows, 1, 2)) is None
        ids_found, ids_whole = (data.masking.ids.taken(rows) for data in (found, whole))
        assert np.array_equal(ids_found.values, ids_whole.values)
    else:
        one, other = (collate(data, rows) for data in (found, whole))
        assert torch.equal(one.targets, other.targets)
        assert torch.equal(one.picked, other.picked)
        assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in other.inputs)


def same(first: tuple[Encoded, Any], second: tuple[Encoded, Any]) -> None:
    """Other names, other masks; as many of them."""
    assert first[0].count == second[0].count


def test_reading_stops_when_an_epoch_is_full(tiny_base, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base("llama"))
    file = write(tmp_path, "jsonl", TEXTS)
    found = tokenizing.streamed(CausalLM(), tokenizer, of(file), 16, 100, Observer())
    assert found.tokens == 99, "the last one has nothing after it"
    again = tokenizing.streamed(CausalLM(), tokenizer, of(file), 16, 100, Observer())
    assert np.array_equal(found.aims, again.aims)


@pytest.mark.parametrize("task", ["causal_lm", "masked_lm"])
def test_a_run_on_a_stream_goes_on_to_the_bit(tiny_base, tmp_path, monkeypatch, task):
    folder = tmp_path / "text"
    write(folder, "txt", TEXTS)
    write(folder, "txt", TEXTS[:20], "validation")
    base = tiny_base("bert" if task == "masked_lm" else "gpt2", **helpers.LIVELY)
    given = recipe(
        base, folder, {"kind": task, "joined": True, "max_length": 16}, train={"max_steps": 12, "checkpoint_every": 2}
    )
    whole = hf.train(given, runs=tmp_path / "whole", quiet=True)
    updates = [json.loads(line) for line in (whole.path / "log.jsonl").read_text().splitlines()]
    assert len([one for one in updates if "loss" in one]) > 1

    class Stopping(fitting._Feed):
        def __iter__(self) -> Any:
            for number, step in enumerate(super().__iter__()):
                if number == 7:
                    raise Interrupted(15)
                yield step

    monkeypatch.setattr(fitting, "_Feed", Stopping)
    with pytest.raises(Interrupted):
        hf.train(given, runs=tmp_path / "parted", quiet=True)
    monkeypatch.undo()
    parted = hf.train(given, runs=tmp_path / "parted", resume=True, quiet=True)
    one, other = (load_file(run.path / "artifact" / "model.safetensors") for run in (whole, parted))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert whole.metrics == parted.metrics
    assert (whole.path / "metrics.json").read_text() == (parted.path / "metrics.json").read_text()


def test_a_tokenizer_can_be_trained_on_a_stream(tiny_base, tmp_path):
    folder = tmp_path / "text"
    write(folder, "txt", TEXTS)
    write(folder, "txt", TEXTS[:20], "validation")
    given = recipe(tiny_base("llama"), folder, {"kind": "causal_lm", "max_length": 16})
    given["strategy"] = {"kind": "scratch", "tokenizer": {"kind": "bpe", "vocab_size": 300}}
    run = hf.train(given, runs=tmp_path, quiet=True)
    assert run.metrics["split"] == "validation"
    assert run.metrics["metrics"]["perplexity"]["value"] > 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"validation": 0.1}}, "a share of text that is streamed cannot be held out for validation"),
        ({}, "is measured on other text"),
        ({"data": {"limit": 5}}, "has no rows"),
        ({"task": {"kind": "causal_lm", "joined": False}}, "texts of causal_lm are not streamed"),
        ({"task": {"kind": "seq2seq"}}, "texts of seq2seq are not streamed"),
        ({"data": {"train": "other"}}, "there is no split 'other'"),
        ({"data": {"columns": {"text": "body"}}, "kind": "jsonl"}, "no column 'body'"),
        ({"kind": "csv"}, "cannot be streamed"),
        ({"kind": "jsonl", "content": "{not json"}, "train.jsonl:1: data.source: this is not JSON"),
        ({"kind": "txt", "content": b"\xff\xfe\x00"}, "not UTF-8"),
    ],
)
def test_what_cannot_be_streamed_is_said(tiny_base, tmp_path, changes, said):
    folder = tmp_path / "text"
    kind = changes.get("kind", "txt")
    file = write(folder, "txt" if kind == "csv" else kind, TEXTS)
    if kind == "csv":
        file = file.rename(folder / "train.csv")
        file.write_text("text\n" + "\n".join(TEXTS))
    content = changes.get("content")
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    if changes:
        write(folder, "txt" if kind == "csv" else kind, TEXTS[:9], "validation")
    given = recipe(tiny_base("gpt2"), folder, changes.get("task", {"kind": "causal_lm"}), data=changes.get("data", {}))
    with pytest.raises(UsageError, match=said):
        hf.train(given, runs=tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()


def test_a_split_of_the_hub_is_read_as_it_comes(monkeypatch):
    import datasets

    asked: dict[str, Any] = {}

    def loaded(source: str, **options: Any) -> Any:
        asked.update(source=source, **options)
        return Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", loaded)
    stream = HubStream("me/texts", None, "abc", "train", "text")
    assert list(stream.parts()) == [(text, True) for text in TEXTS]
    assert asked == {"source": "me/texts", "name": None, "revision": "abc", "split": "train", "streaming": True}
    assert stream.fingerprint != HubStream("me/texts", None, "abd", "train", "text").fingerprint


@pytest.mark.parametrize("task", [CausalLM(), MaskedLM(joined=True)], ids=["causal_lm", "masked_lm"])
def test_a_stream_of_any_length_costs_the_memory_of_a_batch(tiny_base, task):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base("bert"))
    stream = np.broadcast_to(np.uint16(7), 10**11)  # 200 GB on a disk
    tracemalloc.start()
    try:
        data = task.of_stream(tokenizer, stream, 128)
        batches = order(data.lengths, 16, 0, 3)
        for rows in (batches[0], batches[len(batches) // 2], data.costliest(16), data.samples):
            drawn, places = data.drawn(rows, 0, 3)
            (batch,) = share(drawn, places, 16 * data.longest, 0, 1)
            assert batch.inputs["input_ids"].shape == (len(rows), 128)
            assert len(drawn.units_of(places)) == len(batch.units) > 0
        assert (data.longest, data.median) == (128, 128)
        assert padding_share(data, 16, 0) < 1e-6
        assert data.examples.texts[10**7]
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
