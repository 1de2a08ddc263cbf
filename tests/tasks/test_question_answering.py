"""Question answering: tokens of answers, the best stretch of a context, and runs from end to end."""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.text import squad
from transformers import AutoTokenizer

import hfstrat as hf
from hfstrat.answers import answer_f1, exact_match
from hfstrat.data.batching import collate
from hfstrat.errors import DataError, ModelError, RecipeError, UsageError
from hfstrat.inference import Predictor
from hfstrat.metrics import Outputs, score
from hfstrat.runs.events import Observer
from hfstrat.tasks import QuestionAnswering
from hfstrat.tasks.base import Encoded, Labels
from hfstrat.tasks.question_answering import answers_in, truth_of
from hfstrat.training import scoring
from hfstrat.verbs import predict
from tests import elsewhere, tiny
from tests.matrix import pairs
from tests.training import helpers

TASK = QuestionAnswering()
LABELS = Labels("spans", ("start", "end"), (1, 1))
WORDS = tiny.SHARED_TEXT.split()
ASKED = {"what is good": tiny.CLASS_WORDS["positive"], "what is bad": tiny.CLASS_WORDS["negative"]}


def asked(n: int, seed: int = 0, without: float = 0.25, length: int = 10) -> list[dict[str, Any]]:
    """Questions about a word of one of two classes in a context, which some contexts do not have."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        question = str(rng.choice(list(ASKED)))
        words = [str(word) for word in rng.choice(WORDS, length)]
        place = int(rng.integers(0, length))
        answer = None
        for other, answers in ASKED.items():
            if other != question:
                words[(place + length // 2) % length] = str(rng.choice(answers))
            elif rng.random() >= without:
                answer = words[place] = str(rng.choice(answers))
        context = " ".join(words)
        start = len(" ".join(words[:place])) + (place > 0)
        answers = {"text": [answer], "answer_start": [start]} if answer else {"text": [], "answer_start": []}
        rows.append({"id": f"q{number}", "question": question, "context": context, "answers": answers})
    return rows


def recipe(base: Path, strategy: dict[str, Any], **sections: Any) -> dict[str, Any]:
    task = {"kind": "question_answering", **sections.pop("task", {})}
    given = helpers.recipe(base, strategy, evaluate={"metrics": ["answer_f1", "exact_match"]}, **sections)
    return {**given, "task": task}


def encoded(tokenizer: Any, rows: list[dict[str, Any]], length: int = 64, task: QuestionAnswering = TASK) -> Encoded:
    split = Dataset.from_list(rows)
    columns = task.columns({}, split.column_names)
    labels = task.find_labels(split, columns, "spans")
    return task.encode(tokenizer, task.read(split, "train", columns, labels), length)


# --- answers -------------------------------------------------------------------------------------------------

TEXTS = st.text("aAthe n.,-  d", max_size=12)


@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), min_size=1, max_size=8))
def test_scores_are_those_of_squad(rows):
    said, true = zip(*rows, strict=True)
    outputs = Outputs(list(true), list(said), None, 2)
    found = score(["exact_match", "answer_f1"], "spans", outputs, resamples=20)
    predictions = [{"prediction_text": text, "id": str(place)} for place, text in enumerate(said)]
    targets = [
        {"answers": {"text": texts, "answer_start": [0] * len(texts)}, "id": str(place)}
        for place, texts in enumerate(true)
    ]
    expected = squad(predictions, targets)
    assert found["exact_match"].value == pytest.approx(float(expected["exact_match"]) / 100, abs=1e-6)
    # SQuAD 1.1 has no empty answers, and counts a pair of them as wrong.
    if all(answer_f1(text, [""]) == 0 for text in said) and all(answer_f1(t, [""]) == 0 for row in true for t in row):
        assert found["answer_f1"].value == pytest.approx(float(expected["f1"]) / 100, abs=1e-6)
    for one in found.values():
        assert one.low <= one.value <= one.high


@pytest.mark.parametrize(
    ("said", "true", "exact", "f1"),
    [
        ("The  house!", ["house"], 1.0, 1.0),
        ("a red house", ["house", "red barn house"], 0.0, 0.8),
        ("", [], 1.0, 1.0),
        ("house", [], 0.0, 0.0),
        ("", ["house"], 0.0, 0.0),
    ],
)
def test_no_answer_is_right_where_there_is_none(said, true, exact, f1):
    assert (exact_match(said, true), answer_f1(said, true)) == (exact, pytest.approx(f1))


@pytest.mark.parametrize(
    "cell",
    [
        {"text": ["red", "house"], "answer_start": [2, 6]},
        [{"text": "red", "answer_start": 2}, {"text": "house", "answer_start": 6}],
        ["red", "house"],
        {"text": ["red", "house"]},
    ],
)
def test_answers_are_read_as_they_are_written(cell):
    assert [(one.start, one.text) for one in answers_in(cell, "a red house")] == [(2, "red"), (6, "house")]


@pytest.mark.parametrize("cell", [None, "", [], {"text": [], "answer_start": []}])
def test_no_answer_is_written_in_several_ways(cell):
    assert answers_in(cell, "a red house") == []


@pytest.mark.parametrize(
    "cell",
    [
        "blue",
        {"text": ["red"], "answer_start": [3]},
        {"text": ["hou"], "answer_start": [-5]},
        {"text": ["red"], "answer_start": ["2"]},
        {"text": ["red"], "answer_start": 2},
        {"text": [" "], "answer_start": [1]},
        {"answer_start": [1]},
        5,
        [3],
    ],
)
def test_answers_that_are_not_in_their_context(cell):
    with pytest.raises(ValueError, match="answer"):
        answers_in(cell, "a red house")


def test_files_as_squad_is_published_are_rows(tmp_path):
    answers = [{"text": "red", "answer_start": 2}]
    paragraph = {"context": "a red house", "qas": [{"id": "1", "question": "how", "answers": answers}]}
    none = {"id": "2", "question": "why", "answers": [], "is_impossible": True}
    paragraph["qas"].append(none)
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": [paragraph]}]}))
    first, second = hf_rows(file)
    assert (first["question"], first["context"], first["id"], first["title"]) == ("how", "a red house", "1", "t")
    assert first["answers"] == [{"text": "red", "answer_start": 2}]
    assert second["answers"] == []


def hf_rows(file: Path) -> list[dict[str, Any]]:
    from hfstrat.data.files import read_table

    return read_table(file).rows.to_pylist()


# --- tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama", "t5"])
@pytest.mark.parametrize("length", [512, 28])
def test_answers_begin_and_end_at_their_tokens(tiny_base, family, length):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base(family))
    data = encoded(tokenizer, asked(20, length=24), length, TASK.model_copy(update={"stride": 8}))
    windows = len(data.columns["input_ids"].lengths)
    assert data.truncated == 0
    window, begins, ends = data.aims.T
    assert begins.sum() == ends.sum() == windows, "in each window an answer, or none, begins and ends once"
    owner = np.repeat(np.arange(len(data)), np.diff(data.windows))
    held: dict[int, set[str]] = {}
    for place in range(windows):
        (first,), (last,) = (np.flatnonzero((window == place) & (marks == 1)) for marks in (begins, ends))
        example = owner[place]
        start, end = data.spans[first, 1], data.spans[last, 2]
        text = data.examples.pairs[example][start:end] if start >= 0 else ""
        held.setdefault(int(example), set()).add(text)
    for example, texts in held.items():
        answers = {answer.text for answer in data.examples.answers[example]}
        assert texts - {""} == answers
    if length == 512:
        assert windows == len(data)
    else:
        assert windows > len(data)


def test_an_answer_that_no_window_holds_is_counted(tiny_base):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base("bert"))
    context = " ".join(WORDS)
    row = {"question": "what is good", "context": context, "answers": {"text": [context], "answer_start": [0]}}
    assert encoded(tokenizer, [*asked(3), row], 32, TASK.model_copy(update={"stride": 8})).truncated == 1


@settings(max_examples=40)
@given(st.data())
def test_the_best_answer_is_that_of_a_search_through_all(tiny_base, data):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base(data.draw(st.sampled_from(["bert", "llama"]))))
    longest = data.draw(st.integers(1, 6))
    task = TASK.model_copy(update={"stride": 8, "max_answer_length": longest})
    rows = asked(5, data.draw(st.integers(0, 9)), length=16)
    found = encoded(tokenizer, rows, data.draw(st.sampled_from([32, 128])), task)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    logits = np.round(rng.normal(size=(found.count, 2)), 1).astype(np.float32)
    collected = task.collected(logits, found, LABELS)
    window, start, end = found.spans.T
    owner = np.repeat(np.arange(len(found)), np.diff(found.windows))
    for example in range(len(found)):
        own = np.flatnonzero(owner[window] == example)
        usable = [
            (float(logits[i, 0]) + float(logits[j, 1]), i, j)
            for i, j in product(own, own)
            if window[i] == window[j] and start[i] >= 0 and start[j] >= 0 and i <= j < i + longest
        ]
        best = max(value for value, *_ in usable)
        assert collected[example, 0] == pytest.approx(best, abs=1e-6)
        chars = tuple(collected[example, 2:4].astype(int))
        assert chars in {(start[i], end[j]) for value, i, j in usable if value == pytest.approx(best, abs=1e-6)}
        nothing = min(float(logits[i].sum()) for i in own if start[i] < 0)
        assert collected[example, 1] == pytest.approx(nothing, abs=1e-6)


def test_the_loss_is_the_cross_entropy_of_both_ends_in_each_window(tiny_base):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base("bert"))
    data = encoded(tokenizer, asked(6, length=16), 32, TASK.model_copy(update={"stride": 8}))
    rows = np.array([4, 1, 2])
    batch = collate(data, rows)
    torch.manual_seed(0)
    logits = torch.randn(len(batch.units), 2, dtype=torch.float64, requires_grad=True)
    loss = TASK.loss(logits, batch.targets, "spans")
    expected, windows = torch.zeros((), dtype=torch.float64), batch.targets[:, 0].unique()
    for window in windows:
        own = batch.targets[:, 0] == window
        for side in (0, 1):
            target = batch.targets[own][:, side + 1].argmax()
            expected = expected + torch.nn.functional.cross_entropy(logits[own, side], target) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    (one,), (other,) = (torch.autograd.grad(value, logits, retain_graph=True) for value in (loss, expected))
    assert torch.allclose(one, other, atol=1e-12)
    assert float(TASK.weight(batch.targets, "spans")) == len(windows)
    whole = collate(data, np.arange(len(data)))
    wide = np.random.default_rng(0).normal(size=(data.count, 2))
    means = TASK.collected(wide, data, LABELS)[:, 4]
    of_windows = np.diff(data.windows)
    total = float(TASK.loss(torch.from_numpy(wide[whole.units]), whole.targets, "spans"))
    assert float((means * of_windows).sum()) == pytest.approx(total, rel=1e-12)


def test_the_threshold_is_the_one_with_the_best_f1():
    rows = asked(40)
    split = Dataset.from_list(rows)
    columns = TASK.columns({}, split.column_names)
    labels = TASK.find_labels(split, columns, "spans")
    examples = TASK.read(split, "train", columns, labels)
    rng = np.random.default_rng(0)
    logits = np.zeros((40, 5))
    logits[:, 0] = np.round(rng.normal(size=40) + 2 * (examples.targets[:, 0] >= 0), 1)
    logits[:, 2:4] = np.where(examples.targets >= 0, examples.targets, [0, 3])

    def f1(threshold: float) -> float:
        said = TASK.measured(TASK.decode(logits, labels, threshold).predictions, examples, labels)
        return float(np.mean([answer_f1(*pair) for pair in zip(said, truth_of(examples), strict=True)]))

    assert f1(TASK.threshold(logits, examples, "spans")) == pytest.approx(max(map(f1, np.linspace(-5, 5, 101))))


def test_where_training_has_an_answer_to_each_question_all_are_answered():
    logits = np.array([[-9.0, 9.0, 0, 4, 0]])
    assert TASK.decode(logits, Labels("spans", ("start", "end"), (9, 0))).predictions.tolist() == [[0, 4]]
    assert TASK.decode(logits, Labels("spans", ("start", "end"), (9, 1))).predictions.tolist() == [[-1, -1]]


# --- data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said", "path"),
    [
        ({"question": " "}, "whose 'question' is empty: row 3", "data.columns.question"),
        ({"context": None}, "whose 'context' is empty: row 3", "data.columns.context"),
        (
            {"answers": {"text": ["xyz"], "answer_start": [0]}},
            "where its answer_start says: row 3",
            "data.columns.answers",
        ),
    ],
)
def test_rows_that_do_not_fit_are_errors_with_their_numbers(tiny_base, tmp_path, changed, said, path):
    rows = asked(40, without=0)
    rows[3] = {**rows[3], "answers": {"text": [], "answer_start": []}, **changed}
    given = recipe(tiny_base("bert"), {"kind": "full"})
    given["data"] = {"source": "memory"}
    with pytest.raises(DataError) as caught:
        hf.train(given, data=helpers.memory({"train": rows, "test": asked(5, 1)}), runs=tmp_path)
    (problem,) = caught.value.problems
    assert said in problem.message
    assert problem.path == path
    assert problem.hint
    assert not any(tmp_path.iterdir())


def test_a_column_of_answers_is_asked_for(tiny_base, tmp_path):
    rows = [{name: row[name] for name in ("question", "context")} for row in asked(40)]
    with pytest.raises(DataError, match="no column 'answers' for the role answers"):
        hf.train(recipe(tiny_base("bert"), {"kind": "full"}), data=helpers.memory(rows), runs=tmp_path)


def test_answers_that_cannot_be_read_are_not_said_to_be_none(tiny_base, tmp_path):
    rows = [{**row, "answers": {"text": ["xyz"], "answer_start": [0]}} for row in asked(20)]
    given = recipe(tiny_base("bert"), {"kind": "full"})
    given["data"] = {"source": "memory"}
    with pytest.raises(DataError) as caught:
        hf.train(given, data=helpers.memory({"train": rows, "test": asked(5, 1)}), runs=tmp_path)
    assert not any("has no answers" in problem.message for problem in caught.value.problems)


def test_what_is_odd_is_a_warning(tiny_base):
    rows = asked(40, without=0)
    given = recipe(tiny_base("bert"), {"kind": "full"})
    given["data"] = {"source": "memory"}
    parts = {"train": rows, "test": [*asked(20, 5), rows[0]]}
    warnings = " ".join(helpers.prepared_for(given, parts).material.warnings)
    assert "questions without an answer and train has none: each will be answered" in warnings
    assert "1 of 21 rows whose text is also in train" in warnings


def test_distilling_does_not_go_with_it(tiny_base, tmp_path):
    given = recipe(tiny_base("bert"), {"kind": "distill", "teacher": "runs/x"})
    with pytest.raises(RecipeError, match=r"distill does not go with question_answering: a teacher's tokens"):
        hf.train(given, data=helpers.memory(asked(40)), runs=tmp_path)


# --- runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tiny_base, tmp_path_factory):
    """A run that was trained until it knows its words."""
    base = tiny_base("bert", whole_words=True, **helpers.LIVELY)  # what it learns is the same in each process
    given = recipe(base, {"kind": "full"}, train={"epochs": 40, "lr": 5e-3, "batch_size": 16})
    return helpers.train(given, asked(400), tmp_path_factory.mktemp("done"))


def test_a_run_learns_to_answer_and_when_not_to(done):
    metrics = done.run.metrics["metrics"]
    assert metrics["answer_f1"]["value"] > 0.8
    assert metrics["answer_f1"]["low"] <= metrics["answer_f1"]["value"] <= metrics["answer_f1"]["high"]
    table = done.run.predictions()
    said = [row["context"][row["start"] : row["end"]] if row["start"] >= 0 else "" for _, row in table.iterrows()]
    assert said == list(table["prediction"])
    assert any(said)
    assert not all(said)
    values = [answer_f1(text, list(true)) for text, true in zip(said, table["reference"], strict=True)]
    assert np.mean(values) == pytest.approx(metrics["answer_f1"]["value"], abs=1e-12)


def test_predictions_are_answers_with_their_characters(done):
    predictor = Predictor.of(done.run.path)
    context = "the film was great and the music awful"
    good, bad, none = predictor.predict(
        ["what is good", "what is bad", "what is good"], [context, context, "the film was about people"]
    )
    assert (good["prediction"], bad["prediction"]) == ("great", "awful")
    assert context[good["start"] : good["end"]] == "great"
    assert good["score"] >= 0.5
    assert (none["prediction"], none["start"], none["end"]) == (None, None, None)
    assert none["score"] < 0.5
    with pytest.raises(UsageError, match="pairs of texts"):
        predictor.predict(["what is good"])


def test_a_file_is_predicted_and_scored(done, tmp_path):
    file = tmp_path / "new.jsonl"
    rows = asked(20, seed=7)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = list(Predictor.of(done.run.path).predict_file(file, Observer()))
    assert [record["id"] for record in found] == [row["id"] for row in rows]
    result = hf.evaluate(done.run.path, str(file))
    said = [record["prediction"] or "" for record in found]
    values = [answer_f1(text, row["answers"]["text"]) for text, row in zip(said, rows, strict=True)]
    assert result["metrics"]["answer_f1"]["value"] == pytest.approx(np.mean(values))


def test_answers_are_written_as_csv(done, tmp_path):
    file, output = tmp_path / "new.jsonl", tmp_path / "out.csv"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in asked(6, seed=8)))
    predict.run(done.run.path, str(file), output, None, False, True)
    with output.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    said = list(Predictor.of(done.run.path).predict_file(file, Observer()))
    assert [(row["prediction"], row["start"]) for row in rows] == [
        (record["prediction"] or "", "" if record["start"] is None else str(record["start"])) for record in said
    ]


def test_samples_show_answers_in_their_context(done):
    shown = (done.run.path / "samples.md").read_text()
    assert "*what is " in shown
    assert "- right: " in shown
    assert "**" in shown


def test_an_architecture_without_a_body_of_its_own_is_refused(tiny_base, tmp_path):
    given = recipe(tiny_base("t5"), {"kind": "full"})
    with pytest.raises(ModelError, match="T5ForQuestionAnswering does not part its backbone from its head"):
        hf.train(given, data=helpers.memory(asked(40)), runs=tmp_path)


@pytest.mark.parametrize(
    ("family", "strategy"),
    pairs.crossed(
        ["bert", "deberta-v2", "gpt2", "llama", "bart"], ["scratch", "head", "partial", "full", "lora", "qlora", "ia3"]
    ),
)
def test_every_strategy_answers_and_its_card_does_the_same(tiny_base, tmp_path, user, family, strategy):
    train = {"epochs": 1, "batch_size": 8, "lr": 1e-2}
    base = pairs.base_of(family, tiny_base)
    given = recipe(base, pairs.STRATEGIES[strategy], train=train, task={"stride": 8, "max_length": 32})
    found = helpers.train(given, asked(40, length=16), tmp_path)
    assert all(stage.kind == "fit" for stage in found.prepared.plan.stages)
    assert pairs.different(found.before, found.after)
    examples = found.prepared.material.examples["test"]
    texts, contexts = list(examples.texts)[:5], list(examples.pairs)[:5]
    program = elsewhere.program(found.run, found.prepared.base.location, texts, contexts)
    answer = user.run(f"{program}\nlogits = torch.zeros(1)\n")
    said = [record["prediction"] or "" for record in Predictor.of(found.run.path).predict(texts, contexts)]
    assert answer["labels"] == said


def test_the_card_answers_questions_that_leave_little_room(done, user):
    question = "great music it had great music"
    contexts = [f"{tiny.SHARED_TEXT} great {tiny.SHARED_TEXT}"]
    length = done.prepared.recipe.task.max_length
    program = elsewhere.program(done.run, None, [question], contexts)
    assert f"room = {length}" in program
    answer = user.run(f"{program}\nlogits = torch.zeros(1)\n")
    (said,) = Predictor.of(done.run.path).predict([question], contexts)
    assert answer["labels"] == [said["prediction"] or ""]


def test_a_finished_head_is_kept(tiny_base, tmp_path, done):
    again = recipe(done.run.path, {"kind": "full"}, name="again", train={"max_steps": 1, "lr": 1e-5})
    found = helpers.train(again, asked(40), tmp_path)
    assert not found.prepared.anatomy.fresh
    data = found.prepared.encoded["test"]
    model = helpers.built(found.prepared)
    assert np.allclose(scoring.logits(model, data, 64), scoring.logits(done.model, data, 64), atol=1e-5)
