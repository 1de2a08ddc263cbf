"""Token classification: words and their tokens, what is decided about each, and runs from end to end."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForTokenClassification, AutoTokenizer

import hfstrat as hf
from hfstrat.data.batching import collate
from hfstrat.errors import DataError, RecipeError
from hfstrat.inference import Predictor
from hfstrat.judge import Judge
from hfstrat.models.anatomy import named_parameters
from hfstrat.prepare import Prepared
from hfstrat.report.card import card as write_card
from hfstrat.report.samples import samples
from hfstrat.runs.directory import Run, write_json
from hfstrat.runs.events import Observer
from hfstrat.tags import entities_of
from hfstrat.tasks import TokenClassification
from hfstrat.tasks.base import Encoded, Labels
from hfstrat.tasks.token_classification import snap, spans_in
from hfstrat.training import scoring
from hfstrat.training.engine import logits_of
from hfstrat.verbs import predict
from tests import elsewhere, tiny
from tests.matrix import pairs
from tests.training import helpers

TASK = TokenClassification(kind="token_classification")
WORDS = tiny.SHARED_TEXT.split()
KINDS = {
    "name": (tiny.CLASS_WORDS["positive"], tiny.CLASS_WORDS["funny"]),
    "place": (tiny.CLASS_WORDS["negative"], tiny.CLASS_WORDS["scary"]),
}


def tagged(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of `tokens` and `tags`: words of one class are a name, of another a place; words of two others go on."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        tokens: list[str] = []
        tags: list[str] = []
        for _ in range(rng.integers(3, 9)):
            if rng.random() < 0.35:
                kind = str(rng.choice(list(KINDS)))
                begins, goes_on = KINDS[kind]
                count = int(rng.integers(0, 3))
                tokens += [str(rng.choice(begins)), *(str(rng.choice(goes_on)) for _ in range(count))]
                tags += [f"B-{kind}", *[f"I-{kind}"] * count]
            else:
                tokens.append(str(rng.choice(WORDS)))
                tags.append("O")
        rows.append({"tokens": tokens, "tags": tags})
    return rows


def with_spans(row: dict[str, Any]) -> dict[str, Any]:
    """The same as a text with spans of characters."""
    starts = np.cumsum([0, *(len(word) + 1 for word in row["tokens"])])
    spans = [
        {"start": int(starts[first]), "end": int(starts[end]) - 1, "label": kind}
        for kind, first, end in entities_of(row["tags"])
    ]
    return {"text": " ".join(row["tokens"]), "spans": spans}


def recipe(base: Path, strategy: str | dict[str, Any] = "head", **sections: Any) -> dict[str, Any]:
    task = {"kind": "token_classification", **sections.pop("task", {})}
    given = helpers.recipe(base, strategy, evaluate={"metrics": ["entity_f1"]}, **sections)
    return {**given, "task": task}


def encoded(tokenizer: Any, rows: list[dict[str, Any]], length: int = 64, task: TokenClassification = TASK) -> Encoded:
    split = Dataset.from_list(rows)
    columns = task.columns({}, split.column_names, labelled=False)
    return task.encode(tokenizer, task.read(split, "train", columns, None), length)


@pytest.fixture(scope="module", params=["bert", "roberta", "gpt2", "llama", "t5"])
def tokenizer(request, tiny_base):
    return AutoTokenizer.from_pretrained(tiny_base(request.param))


# --- words and tokens ----------------------------------------------------------------------------------------


def test_each_word_is_decided_about_at_its_first_token(tokenizer):
    data = encoded(tokenizer, tagged(20), 512)
    words = data.examples.words
    ids, units = data.columns["input_ids"], data.units
    assert sorted(units.values[units.values >= 0]) == list(range(len(words)))
    for row in range(len(data)):
        tokens = ids.values[ids.offsets[row] : ids.offsets[row + 1]]
        said = units.values[ids.offsets[row] : ids.offsets[row + 1]]
        text, places = data.examples.texts[row], [*np.flatnonzero(said >= 0), len(tokens)]
        for first, end in pairwise(places):
            word = said[first]
            pieces = tokenizer.decode(tokens[first:end], skip_special_tokens=True)
            assert pieces.strip() == text[words.starts[word] : words.ends[word]]


def test_a_word_in_several_windows_is_decided_about_where_it_has_most_around_it(tiny_base):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base("bert"))
    rows = [{"tokens": tagged(1, seed)[0]["tokens"] * 6} for seed in range(5)]
    data = encoded(tokenizer, rows, 24, TASK.model_copy(update={"stride": 8}))
    words, units = data.examples.words, data.units
    assert data.truncated == 0
    assert sorted(units.values[units.values >= 0]) == list(range(len(words)))
    cut = {"truncation": True, "max_length": 24, "stride": 8, "return_overflowing_tokens": True}
    tokens = tokenizer(list(data.examples.texts), **cut, return_offsets_mapping=True)
    assert len(tokens["input_ids"]) > 2 * len(rows)
    starts = {(row, int(words.starts[word])): word for word, row in enumerate(words.owners)}
    most: dict[int, int] = {}
    chosen: dict[int, int] = {}
    for window, (row, offsets) in enumerate(
        zip(tokens["overflow_to_sample_mapping"], tokens["offset_mapping"], strict=True)
    ):
        for place, (start, end) in enumerate(offsets):
            around = min(place, len(offsets) - 1 - place)
            if end > start and (word := starts.get((row, start))) is not None:
                most[word] = max(most.get(word, 0), around)
            if (unit := int(units.values[units.offsets[window] + place])) >= 0:
                chosen[unit] = around
    assert chosen == most


def test_words_that_are_cut_off_are_counted_and_outside(tiny_base):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base("bert"))
    cut = TASK.model_copy(update={"long_texts": "truncate"})
    data = encoded(tokenizer, [{"tokens": WORDS}, {"tokens": WORDS[:3]}], 8, cut)
    assert data.truncated == 1
    seen = set(data.units.values[data.units.values >= 0].tolist())
    logits = np.full((len(data.examples.words), 3), np.nan, np.float32)
    logits[sorted(seen)] = [0, 5, 0]
    labels = Labels("entities", ("O", "B-x", "I-x"))
    decoded = cut.decode(logits, labels)
    first, second = cut.named(decoded.predictions, data.examples, labels)
    assert first == [*["B-x"] * (len(seen) - 3), *["O"] * (len(WORDS) - len(seen) + 3)]
    assert second == ["B-x"] * 3


@settings(max_examples=50)
@given(st.data())
def test_what_is_read_at_a_word_is_what_the_model_says_there(tiny_base, data):
    """Whatever the batch, its padding and the side that is padded."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_base(data.draw(st.sampled_from(["bert", "llama"]))))
    tokenizer.padding_side = data.draw(st.sampled_from(["left", "right"]))
    found = encoded(tokenizer, tagged(9, data.draw(st.integers(0, 5))), 16)
    rows = np.array(data.draw(st.permutations(range(9))))[: data.draw(st.integers(1, 9))]
    batch = collate(found, rows)
    # A model whose logits are the ids that it reads.
    logits = batch.inputs["input_ids"].flatten()[batch.picked]
    first = {int(unit): int(found.columns["input_ids"].values[place]) for place, unit in enumerate(found.units.values)}
    assert logits.tolist() == [first[int(unit)] for unit in batch.units]
    assert sorted(batch.units) == sorted(found.units_of(rows))
    assert batch.owner is None


# --- reading -------------------------------------------------------------------------------------------------


def test_tags_and_spans_of_the_same_texts_are_the_same_examples():
    rows = tagged(30)
    both = []
    for part in (rows, [with_spans(row) for row in rows]):
        split = Dataset.from_list(part)
        columns = TASK.columns({}, split.column_names)
        problem, _ = TASK.find_problem(split, columns)
        labels = TASK.find_labels(split, columns, problem)
        both.append((problem, labels, TASK.read(split, "train", columns, labels)))
    (problem, labels, words), (_, other, spans) = both
    assert problem == "entities"
    assert (labels.names, labels.counts) == (other.names, other.counts)
    assert labels.names == ("O", "B-name", "I-name", "B-place", "I-place")
    assert words.texts == spans.texts
    assert np.array_equal(words.targets, spans.targets)
    assert [labels.names[value] for value in words.targets] == [tag for row in rows for tag in row["tags"]]
    for one, two in ((words.words.offsets, spans.words.offsets), (words.words.starts, spans.words.starts)):
        assert np.array_equal(one, two)


def test_class_labels_and_cells_of_text_are_read_as_lists():
    names = ["O", "B-name", "I-name"]
    kind = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=names))})
    listed = Dataset.from_dict({"tokens": [["a", "b"], ["c"]], "tags": [[1, 2], [0]]}, features=kind)
    joined = Dataset.from_dict({"tokens": ["a b", "c"], "tags": ["B-name I-name", "O"]})
    found = []
    for split in (listed, joined):
        columns = TASK.columns({}, split.column_names)
        found.append(TASK.read(split, "train", columns, TASK.find_labels(split, columns, "entities")))
    assert found[0].texts == found[1].texts == ["a b", "c"]
    assert found[0].targets.tolist() == found[1].targets.tolist() == [1, 2, 0]


def test_spans_are_snapped_to_words_and_the_longest_is_kept():
    #        0123456789012345
    text = "Anna-Lena Maier ist"
    words = TASK.examples(("x",), [text], None).words
    entities, changes = snap([("a", 0, 15), ("b", 10, 15)], words.starts, words.ends)
    assert (entities, changes) == ([("a", 0, 4)], ["dropped"])
    entities, changes = snap([("a", 1, 4), ("b", 16, 19)], words.starts, words.ends)
    assert (entities, changes) == ([("a", 0, 1), ("b", 4, 5)], ["moved"])
    assert spans_in([[0, 4, "a"], {"start": 5, "end": 9, "type": "b"}]) == [("a", 0, 4), ("b", 5, 9)]
    assert spans_in([[0, 4, 0]]) == [("0", 0, 4)]


def test_words_that_share_a_token_go_on_with_its_tag():
    examples = TASK.examples(("x", "y"), ["McDonald's café", "'s"], None)
    words = examples.words
    assert [examples.texts[row][a:b] for row, a, b in zip(words.owners, words.starts, words.ends, strict=True)] == [
        "McDonald", "'", "s", "café", "'", "s",
    ]  # fmt: skip
    labels = Labels("entities", ("O", "B-x", "I-x"))
    logits = np.full((6, 3), np.nan, np.float32)
    logits[0] = [0, 5, 1]  # the next two have no token of their own
    logits[3] = [5, 0, 0]
    logits[4] = [0, 1, 5]
    data = Encoded(examples, {}, np.arange(3), 0, {})
    decoded = TASK.decode(TASK.collected(logits, data, labels), labels)
    assert TASK.named(decoded.predictions, examples, labels) == [["B-x", "I-x", "I-x", "O"], ["I-x", "I-x"]]


def test_words_that_were_cut_off_do_not_go_on():
    cut = TASK.model_copy(update={"long_texts": "truncate"})
    examples = cut.examples(("x",), ["北京市"], None)
    labels = Labels("entities", ("O", "B-x", "I-x"))
    logits = np.array([[0, 5, 1], *[[np.nan] * 3] * 2], np.float32)
    data = Encoded(examples, {}, np.arange(2), 1, {})
    decoded = cut.decode(cut.collected(logits, data, labels), labels)
    assert cut.named(decoded.predictions, examples, labels) == [["B-x", "O", "O"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("दिल्ली में", ["दिल्ली", "में"]),
        ("cafe\u0301 x", ["cafe\u0301", "x"]),
        ("我住在北京", ["我", "住", "在", "北", "京"]),
        ("a.b, (c)", ["a", ".", "b", ",", "(", "c", ")"]),
    ],
)
def test_words_of_texts_in_other_scripts(text, words):
    found = TASK.examples(("x",), [text], None).words
    assert [text[start:end] for start, end in zip(found.starts, found.ends, strict=True)] == words


def test_words_that_begin_with_what_has_no_token_are_decided_about(tiny_base):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base("bert"))
    data = encoded(tokenizer, [{"tokens": [" the", "film", "\u200bwas", "\ufeffgreat"]}])
    assert sorted(data.units.values[data.units.values >= 0]) == [0, 1, 2, 3]


def test_iobes_is_learned_as_iob():
    rows = [{"tokens": ["a", "b", "c", "d"], "tags": ["S-x", "B-y", "E-y", "O"]}]
    split = Dataset.from_list(rows)
    columns = TASK.columns({}, split.column_names)
    labels = TASK.find_labels(split, columns, "entities")
    examples = TASK.read(split, "train", columns, labels)
    assert labels.names == ("O", "B-x", "I-x", "B-y", "I-y")
    assert TASK.named(examples.targets, examples, labels) == [["B-x", "B-y", "I-y", "O"]]


def test_lists_that_pandas_has_written_are_read():
    split = Dataset.from_dict({"tokens": ["['great', 'film']", "[ a ]"], "tags": ["['B-x', 'O']", "O O O"]})
    columns = TASK.columns({}, split.column_names)
    assert TASK.read(split, "train", columns, None).texts == ["great film", "[ a ]"]
    assert TASK.find_problem(split, columns)[0] == "entities"


def test_hidden_classes_are_missing_tags(tiny_base, tmp_path):
    kind = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=["O", "B-name", "I-name"]))})
    rows = {"tokens": [["a", "great"], ["b"]] * 20, "tags": [[0, 1], [0]] * 20}
    hidden = {"tokens": [["a"]] * 3, "tags": [[-1]] * 3}
    given = recipe(tiny_base("bert"))
    given["data"] = {"source": "memory"}
    data = {"train": Dataset.from_dict(rows, features=kind), "test": Dataset.from_dict(hidden, features=kind)}
    with pytest.raises(DataError, match="split test has 3 rows with an empty tag"):
        hf.train(given, data=data, runs=tmp_path)


def test_texts_of_which_nothing_is_left_do_not_end_a_run(tiny_base, tmp_path):
    rows = [*tagged(40), *[{"tokens": ["\u200b"], "tags": ["O"]}] * 3]
    train = {"epochs": 1, "batch_size": 1, "lr": 1e-3}
    given = recipe(tiny_base("bert"), {"kind": "full", "head_init": "random"}, train=train)
    found = helpers.train(given, rows, tmp_path)
    assert found.run.status == "done"


def test_a_tag_that_is_named_twice_is_refused():
    with pytest.raises(ValueError, match="the label 'O' is given twice"):
        TokenClassification(labels=("O", "B-x", "O"))


@pytest.mark.parametrize(
    "cell", [5, "x", [{"start": 0, "end": 1}], [[0, 1]], ["a"], [{"start": "x", "end": 2, "label": "a"}]]
)
def test_spans_that_cannot_be_read(cell):
    with pytest.raises(ValueError, match="span"):
        spans_in(cell)


def test_data_without_the_columns_names_them(tiny_base, tmp_path):
    rows = [{"words": row["tokens"], "ner": row["tags"]} for row in tagged(12)]
    with pytest.raises(DataError) as caught:
        hf.train(recipe(tiny_base("bert")), data=helpers.memory(rows), runs=tmp_path)
    assert {problem.path for problem in caught.value.problems} == {"data.columns.tokens", "data.columns.tags"}
    assert "words, ner" in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said", "path"),
    [
        ({3: {"tags": ["O"]}}, "numbers of 'tokens' and 'tags' differ: row 3", "data.columns.tags"),
        ({4: {"tokens": [], "tags": []}}, "whose 'tokens' is empty: row 4", "data.columns.tokens"),
        ({5: {"tokens": ["a", " "], "tags": ["O", "O"]}}, "an empty word in 'tokens': row 5", "data.columns.tokens"),
        ({6: {"tags": None}}, "without 'tags': row 6", "data.columns.tags"),
    ],
)
def test_rows_that_do_not_fit_are_errors_with_their_numbers(tiny_base, tmp_path, changed, said, path):
    rows = [{**row, **changed.get(place, {})} for place, row in enumerate(tagged(40))]
    given = recipe(tiny_base("bert"))
    data = helpers.memory({"train": rows, "validation": tagged(5, 1), "test": tagged(5, 2)})
    given["data"] = {"source": "memory"}
    with pytest.raises(DataError) as caught:
        hf.train(given, data=data, runs=tmp_path)
    (problem,) = caught.value.problems
    assert said in problem.message
    assert problem.path == path
    assert not any(tmp_path.iterdir())


def test_what_is_odd_in_tags_is_a_warning(tiny_base):
    rows = tagged(40)
    rows[7] = {"tokens": ["a", "great", "film"], "tags": ["O", "I-name", "O"]}
    rows[8] = {"tokens": ["a", "great", "story"], "tags": ["O", "B-name", "O"]}
    rows[9] = {"tokens": ["a", "great", "story"], "tags": ["O", "O", "O"]}
    given = recipe(tiny_base("bert"))
    given["data"] = {"source": "memory"}
    warnings = helpers.prepared_for(given, {"train": rows, "test": [rows[8]]}).material.warnings
    for part in (
        "tags that go on with an entity that is not there, such as 'I-name' of word 1 in row 7 (row 7)",
        "rows whose text occurs before: row 9",
        "texts with different labels, such as rows 8 (name great) and 9 (no label)",
        "1 of 1 rows whose text is also in train",
    ):
        assert any(part in warning for warning in warnings), (part, warnings)


def test_spans_that_leave_their_text_or_cut_words(tiny_base, tmp_path):
    rows = [with_spans(row) for row in tagged(40)]
    bad = {"text": "short", "spans": [{"start": 3, "end": 9, "label": "name"}]}
    data = helpers.memory({"train": [*rows, bad], "validation": rows[:5], "test": rows[5:10]})
    given = recipe(tiny_base("bert"), data={"source": "memory"})
    given["data"] = {"source": "memory"}
    with pytest.raises(DataError, match="not within its text: row 40"):
        hf.train(given, data=data, runs=tmp_path)


def test_types_that_train_does_not_have(tiny_base, tmp_path):
    other = [{"tokens": ["a", "b"], "tags": ["B-odd", "O"]}]
    given = recipe(tiny_base("bert"))
    given["data"] = {"source": "memory"}
    with pytest.raises(DataError, match=r"split test has 1 entity type\(s\) that train does not have: 'odd'"):
        hf.train(given, data=helpers.memory({"train": tagged(40), "test": tagged(4, 1) + other}), runs=tmp_path)


def test_metrics_of_other_problems_are_refused(tiny_base, tmp_path):
    given = recipe(tiny_base("bert"))
    given["evaluate"] = {"metrics": ["f1_macro"]}
    with pytest.raises(RecipeError, match="not defined for a entities problem"):
        hf.train(given, data=helpers.memory(tagged(40)), runs=tmp_path)


# --- runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tiny_base, tmp_path_factory):
    """A run that was trained until it knows its words."""
    given = recipe(tiny_base("bert", **helpers.LIVELY), {"kind": "full"}, train={"epochs": 15, "lr": 1e-2})
    given["evaluate"] = {}
    return helpers.train(given, tagged(160), tmp_path_factory.mktemp("done"))


def test_a_run_learns_and_says_what_it_scored(done):
    metrics = done.run.metrics
    assert list(metrics["metrics"]) == ["entity_f1", "entity_precision", "entity_recall", "token_accuracy"]
    f1 = metrics["metrics"]["entity_f1"]
    assert f1["value"] > 0.9
    assert f1["low"] <= f1["value"] <= f1["high"]
    assert f1["interval"] == "bootstrap"
    assert set(metrics["by_type"]) == set(KINDS)
    table = done.run.predictions()
    references = [list(row) for row in table["reference"]]
    assert [len(row) for row in table["words"]] == [len(row) for row in references] == [len(s) for s in table["scores"]]
    test = done.prepared.material.examples["test"]
    assert [" ".join(row) for row in table["words"]] == list(test.texts)
    judge = Judge(done.prepared.recipe.task, done.prepared.material.labels, ("entity_f1",), "entity_f1")
    decoded = judge.decode(scoring.logits(done.model, done.prepared.encoded["test"], 64))
    assert judge.measure(decoded, test, intervals=False)["entity_f1"].value == pytest.approx(f1["value"], abs=1e-9)


def test_predictions_are_entities_with_their_characters(done):
    predictor = Predictor.of(done.run.path)
    text = "the film about great   people\tand awful music"
    (found,) = predictor.predict([text])
    for entity in found["prediction"]:
        assert text[entity["start"] : entity["end"]] == entity["text"]
        assert 0 < entity["score"] <= 1
    assert [(one["label"], one["text"]) for one in found["prediction"]] == [("name", "great"), ("place", "awful")]
    assert predictor.predict([]) == []


@pytest.mark.parametrize("form", ["tokens", "text"])
def test_a_file_of_words_or_of_texts_is_predicted(done, tmp_path, form):
    rows = tagged(7, seed=9)
    file = tmp_path / "new.jsonl"
    lines = [{"tokens": row["tokens"]} if form == "tokens" else {"text": " ".join(row["tokens"])} for row in rows]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = list(Predictor.of(done.run.path).predict_file(file, Observer()))
    assert [record["id"] for record in found] == [str(place) for place in range(7)]
    expected = [[entity[0] for entity in entities_of(row["tags"])] for row in rows]
    said = [[entity["label"] for entity in record["prediction"]] for record in found]
    assert sum(a == b for a, b in zip(said, expected, strict=True)) >= 5


def test_entities_are_written_as_csv(done, tmp_path):
    file, output = tmp_path / "new.jsonl", tmp_path / "out.csv"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in tagged(4, seed=9)))
    predict.run(done.run.path, str(file), output, None, False, True)
    with output.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    said = list(Predictor.of(done.run.path).predict_file(file, Observer()))
    assert [json.loads(row["prediction"] or "[]") for row in rows] == [record["prediction"] for record in said]


def test_another_file_is_scored(done, tmp_path):
    file = tmp_path / "new.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in tagged(20, seed=5)))
    result = hf.evaluate(done.run.path, str(file))
    assert result["n"] == 20
    assert result["metrics"]["entity_f1"]["value"] > 0.8


def test_the_card_s_own_lines_find_the_same_entities(done, user):
    """Of texts whose words are those into which the pipeline cuts them."""
    texts = [" ".join(row["tokens"]) for row in tagged(8, seed=3)]
    lines = "found = [[(e['entity_group'], int(e['start']), int(e['end'])) for e in row] for row in found]"
    found = user.run(f"{elsewhere.program(done.run, None, texts)}{lines}\nlogits, labels = torch.zeros(1), found\n")
    own = [
        [[one["label"], one["start"], one["end"]] for one in record["prediction"]]
        for record in Predictor.of(done.run.path).predict(texts)
    ]
    assert any(own)
    assert [[list(entity) for entity in row] for row in found["labels"]] == own


def test_each_word_counts_once_in_the_loss(tiny_base):
    """The loss of an update is the mean over its words, in whatever micro-batches, and windows count none twice."""
    base = tiny_base("bert", **helpers.LIVELY)
    runs = []
    for micro in (8, 2):
        train = {"max_steps": 3, "lr": 1e-3}
        given = recipe(base, {"kind": "full", "head_init": "random"}, task={"max_length": 8, "stride": 2}, train=train)
        prepared = helpers.prepared_for(given, tagged(24))
        data = prepared.encoded["train"]
        assert len(data.columns["input_ids"].lengths) > len(data)
        runs.append(helpers.fitted(prepared, micro))
    (one, losses), (other, others) = runs
    assert losses == pytest.approx(others, rel=1e-10)
    assert helpers.largest_difference(one, other) < 1e-10


def test_a_head_is_solved_on_the_features_of_words(tiny_base, tmp_path):
    found = helpers.train(recipe(tiny_base("bert", **helpers.LIVELY)), tagged(160), tmp_path)
    assert [stage.kind for stage in found.prepared.plan.stages] == ["solve"]
    data, labels = found.prepared.encoded["train"], found.prepared.material.labels
    # Without its penalty the loss of training has hardly a slope there, if targets are those of their words.
    model = found.model
    output = dict(named_parameters(model))[f"{found.prepared.anatomy.output}.weight"]
    batch = collate(data, np.arange(len(data)))

    def slope(targets: torch.Tensor) -> float:
        loss = TASK.loss(logits_of(model, batch, torch.device("cpu")), targets, labels.problem) / len(targets)
        return float(torch.autograd.grad(loss, output)[0].norm())

    turned = batch.targets.roll(1)
    assert slope(batch.targets) < 0.1 * slope(turned)


def test_tags_that_stand_for_themselves(tiny_base, tmp_path):
    kinds = {tag: tag.split("-")[-1].upper() for row in tagged(40) for tag in row["tags"]}
    rows = [{"tokens": row["tokens"], "tags": [kinds[tag] for tag in row["tags"]]} for row in tagged(120)]
    given = recipe(tiny_base("bert", **helpers.LIVELY))
    given["evaluate"] = {}
    found = helpers.train(given, rows, tmp_path)
    assert found.prepared.material.labels.problem == "tags"
    assert list(found.run.metrics["metrics"]) == ["token_accuracy", "tag_f1_macro"]
    said = [tag for row in found.run.predictions()["reference"] for tag in row]
    assert found.run.metrics["metrics"]["token_accuracy"]["value"] > said.count("O") / len(said) + 0.05
    (record,) = Predictor.of(found.run.path).predict(["the great film"])
    assert [one["text"] for one in record["prediction"]] == ["the", "great", "film"]


# --- comparisons ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_strategies_are_compared_on_the_f1_of_entities(tiny_base, tmp_path):
    given = recipe(tiny_base("bert", **helpers.LIVELY), train={"epochs": 2, "lr": 3e-3})
    given["compare"] = {"arms": ["majority", "lookup", "head", "full"]}
    found = hf.compare(given, data=helpers.memory(tagged(120)), runs=tmp_path, quiet=True)
    scores = {run.path.name: run.metrics["metrics"]["entity_f1"]["value"] for run in found.runs}
    assert scores["majority"] == 0.0
    assert scores["lookup"] > 0.9, "in these texts a word nearly tells its tag"
    assert set(found.differences) == {"majority", "head", "full"}
    for arm, difference in found.differences.items():
        own = next(value for name, value in scores.items() if name.partition("-")[0] == arm)
        assert difference.value == pytest.approx(own - scores["lookup"], abs=1e-12)
        assert difference.low <= difference.value <= difference.high


def test_floors_of_texts_are_none_of_words(tiny_base, tmp_path):
    with pytest.raises(RecipeError, match=r"tfidf is not a floor of token_classification.*majority and lookup"):
        hf.compare(recipe(tiny_base("bert")), arms=["tfidf"], data=helpers.memory(tagged(40)), runs=tmp_path)


@pytest.mark.parametrize(
    ("family", "strategy"),
    pairs.crossed(
        ["bert", "deberta-v2", "gpt2", "llama", "t5"],
        ["scratch", "head", "partial", "full", "lora", "qlora", "ia3", "distill"],
    ),
)
def test_every_strategy_tags_words_and_what_it_leaves_is_what_others_load(tiny_base, tmp_path, user, family, strategy):
    settings = pairs.STRATEGIES[strategy]
    if strategy == "distill":
        settings = {**settings, "teacher": str(teacher(family, tiny_base, tmp_path / "teacher"))}
    train = {"epochs": 1, "batch_size": 8, "lr": 1e-2}
    given = recipe(pairs.base_of(family, tiny_base), settings, train=train)
    found = helpers.train(given, tagged(40), tmp_path)
    moved = pairs.different(found.before, found.after)
    trains = [name for stage in found.prepared.plan.stages for name in trained_by(found.prepared, stage)]
    assert moved
    assert moved <= {*trains}
    texts = list(found.prepared.material.examples["test"].texts)[:4]
    lines = "tokens = tokenizer(texts[0], return_tensors='pt')\nlogits = model(**tokens).logits\n"
    lines += "labels = tokens['input_ids'][0].tolist()\n"
    program = elsewhere.program(found.run, found.prepared.base.location, texts)
    answer = user.run(f"{program.partition('tagger = ')[0]}{lines}")
    data = found.prepared.encoded["test"]
    own = scoring.logits(found.model, data, 64)
    ids, units = data.columns["input_ids"], data.units
    assert answer["labels"] == ids.values[: ids.offsets[1]].tolist()
    said = units.values[: ids.offsets[1]]
    there = np.array(answer["logits"])[0][said >= 0]
    assert there == pytest.approx(own[said[said >= 0]], abs=1e-4)


def trained_by(prepared: Prepared, stage: Any) -> list[str]:
    sizes = {**prepared.anatomy.parameters, **prepared.added.sizes}
    return [name for name in sizes if prepared.plan.trains(name, stage, prepared.added.trains)]


def teacher(family: str, bases: Any, folder: Path) -> Path:
    """A tagger of four blocks for the same tags, not trained."""
    base = pairs.base_of(family, bases, **pairs.FOUR_BLOCKS[family])
    names = ("O", *(f"{position}-{kind}" for kind in KINDS for position in "BI"))
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}
    torch.manual_seed(0)
    AutoModelForTokenClassification.from_pretrained(base, **labels).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def test_a_run_shows_samples_that_its_card_keeps_to_itself(done):
    """Rows of the user's own are nobody else's business, and cards are pushed."""
    shown = (done.run.path / "samples.md").read_text()
    assert "**" in shown
    assert "(name)" in shown or "(place)" in shown
    card = (done.run.artifact / "README.md").read_text()
    assert "## Samples" not in card
    assert "| `name` |" in card.replace("  ", " ")
    resolved = json.loads(done.prepared.recipe.model_dump_json())
    for kind, shown in (("hub", False), ("builtin", True)):  # a data set on the Hub may be private
        other = {**resolved, "data": {**resolved["data"], "kind": kind, "source": "someone/entities"}}
        assert ("## Samples" in write_card(done.run, resolved=other)) is shown


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [(["Ann", "Lee", "left"], ["B-per", "I-per", "O"], ["B-per", "O", "O"])],
            "- true: **Ann Lee** (per) left\n  <br>said: **Ann** (per) Lee left\n",
        ),
        ([(["a", "*b*"], ["O", "S-x_y"], ["O", "S-x_y"])], "- right: a **\\*b\\*** (x\\_y)\n"),
        ([(["a", "b"], ["O", "O"], ["O", "O"])], ""),
    ],
)
def test_samples_are_written_as_markdown(tmp_path, rows, expected):
    run = Run(tmp_path)
    write_json(tmp_path / "env.json", {"labels": {"problem": "entities"}})
    words, references, predictions = zip(*rows, strict=True)
    pandas.DataFrame({"words": words, "reference": references, "prediction": predictions}).to_parquet(
        tmp_path / "predictions.parquet"
    )
    assert samples(run) == expected
