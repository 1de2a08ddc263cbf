"""Guessing columns, and the recipe that is written from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from pydantic import TypeAdapter

from hfstrat.data.guess import guess
from hfstrat.data.sources import load
from hfstrat.data.splits import split
from hfstrat.errors import DataError, UsageError
from hfstrat.recipe.data import DataSpec
from hfstrat.recipe.loading import build, parse
from hfstrat.tasks import TASKS
from hfstrat.verbs import init

WORDS = ["the film was good", "never again this shop", "it works as it should", "I want my money back", "so so in all"]


def table(**columns: Any) -> Dataset:
    return Dataset.from_dict(columns)


def texts(count: int = 40) -> list[str]:
    return [f"{WORDS[place % 5]} {place}" for place in range(count)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("sentence", "category"),
        ("Review Text", "Stars"),
        ("x", "y"),
        ("a", "b"),
        ("id", "text"),
        ("Frage", "Antwort-Typ"),
    ],
)
def test_two_columns_of_any_name(first: str, second: str) -> None:
    for columns in ({first: texts(), second: ["p", "q"] * 20}, {second: ["p", "q"] * 20, first: texts()}):
        found = guess(table(**columns))
        assert found.columns == {"text": first, "label": second}
        assert found.problem == "single_label"


def test_a_name_does_not_make_sentences_a_label() -> None:
    found = guess(table(label=texts(), text=["p", "q"] * 20, n=[1.5] * 40))
    assert "text" in found.columns


def test_stars_prices_and_ages() -> None:
    assert guess(table(t=texts(), Stars=[1, 2, 3, 4, 5] * 8)).problem == "single_label"
    assert guess(table(t=texts(), price=[place + 0.5 for place in range(40)])).problem == "regression"
    assert guess(table(t=texts(), age=list(range(40)))).problem == "regression"
    assert guess(table(t=texts(1600), intent=[place % 77 for place in range(1600)])).problem == "single_label"


def test_ids_are_left_out() -> None:
    rows = table(
        unnamed_0=list(range(40)), doc_id=[f"d{place}" for place in range(40)], body=texts(), kind=["p", "q"] * 20
    )
    assert guess(rows).columns == {"text": "body", "label": "kind"}


def test_pairs_by_name_and_by_length() -> None:
    two = ["p", "q"] * 20
    assert guess(table(sentence1=texts(), sentence2=texts()[::-1], gold=two)).columns == {
        "text": "sentence1", "text_pair": "sentence2", "label": "gold"
    }  # fmt: skip
    found = guess(table(hypothesis=texts(), premise=texts()[::-1], label=two))
    assert found.columns["text"] == "premise"
    assert guess(table(headline=texts(), story=texts()[::-1], label=two)).columns["text_pair"] == "story"


def test_lists_separators_and_flags_are_several_labels() -> None:
    lists = guess(table(text=texts(), tags=[["x"], ["x", "y"]] * 20))
    assert (lists.problem, lists.label_separator) == ("multi_label", None)
    joined = guess(table(text=texts(), tags=["x|y", "y", "x|z", "x|y|z"] * 10))
    assert (joined.problem, joined.label_separator) == ("multi_label", "|")
    flags = guess(table(text=texts(), toxic=[0, 1] * 20, rude=[0, 0, 1, 1] * 10))
    assert flags.columns["label"] == ("toxic", "rude")
    assert flags.problem == "multi_label"


def test_a_comma_inside_class_names_is_no_separator() -> None:
    found = guess(table(text=texts(), label=["Arts, Music", "Law, Order"] * 20))
    assert found.problem == "single_label"


@pytest.mark.parametrize("columns", [{"n": [1, 2], "m": [3, 4]}, {"text": ["words", "alone"]}])
def test_no_text_or_no_label(columns: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"no column looks like a (text|label)"):
        guess(table(**columns))


CHATS = [[{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "good day"}]] * 4


@pytest.mark.parametrize(
    ("columns", "kind", "roles"),
    [
        ({"id": [1, 2, 3, 4], "messages": CHATS}, "causal_lm", {"messages": "messages"}),
        (
            {"conversations": [[{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]] * 4, "n": [1] * 4},
            "causal_lm",
            {"messages": "conversations"},
        ),
        ({"instruction": WORDS, "output": WORDS}, "causal_lm", {"prompt": "instruction", "completion": "output"}),
        ({"article": WORDS, "summary": WORDS, "id": [*"abcde"]}, "seq2seq", {"source": "article", "target": "summary"}),
        ({"text": WORDS}, "masked_lm", {"text": "text"}),
    ],
)  # fmt: skip
def test_text_to_write_is_known_by_its_form_or_its_names(columns, kind, roles, tmp_path) -> None:
    found = guess(table(**columns))
    assert (found.kind, found.columns) == (kind, roles)
    file = tmp_path / "mine.jsonl"
    table(**columns).to_json(file)
    text = init.run(file, None)
    recipe = yaml.safe_load(text)
    assert recipe["task"]["kind"] == kind
    assert recipe["data"]["columns"] == roles
    assert recipe["strategy"]["kind"] in ("full", "lora")
    build(parse(text, "mine.yaml"))


def test_a_text_file_is_text() -> None:
    found = guess(table(text=["a whole book. " * 50]))
    assert found.kind == "masked_lm"


SENTENCES = [["Ann", "Lee", "left"], ["in", "old", "Rome"]]
TAGS = [["B-per", "I-per", "O"], ["O", "O", "B-loc"]]


@pytest.mark.parametrize(
    ("columns", "roles", "problem"),
    [
        (
            {"tokens": [["Ann", "Lee", "left"], ["in", "old", "Rome"]], "ner_tags": TAGS},
            ("tokens", "ner_tags"),
            "entities",
        ),
        ({"y": TAGS, "x": [["Ann", "Lee", "left"], ["in", "old", "Rome"]]}, ("x", "y"), "entities"),
        (
            {"id": [1, 2], "words": [["a", "dog"], ["the", "cat"]], "pos": [["DET", "NOUN"], ["DET", "NOUN"]]},
            ("words", "pos"),
            "tags",
        ),
        (  # parts of speech beside entities
            {
                "tokens": [["Ann", "left"], ["to", "Rome"]],
                "pos": [["N", "V"], ["P", "N"]],
                "ner": [["B-a", "O"], ["O", "B-b"]],
            },
            ("tokens", "ner"),
            "entities",
        ),
    ],
)
def test_words_and_their_tags(columns: dict[str, Any], roles: tuple[str, str], problem: str) -> None:
    found = guess(table(**columns))
    assert (found.kind, found.problem) == ("token_classification", problem)
    assert found.columns == dict(zip(("tokens", "tags"), roles, strict=True))


def test_a_text_and_spans_in_it() -> None:
    spans = [[{"start": 0, "end": 3, "label": "per"}], []]
    found = guess(table(id=["a", "b"], text=["Ann left the house", "nobody else is here"], entities=spans))
    assert (found.kind, found.problem) == ("token_classification", "entities")
    assert found.columns == {"text": "text", "spans": "entities"}


def test_numbers_beside_lists_of_labels_are_no_tags() -> None:
    found = guess(table(text=texts(3), labels=[["joy"], ["joy", "anger"], ["fear"]], label_ids=[[0], [0, 1], [2]]))
    assert (found.kind, found.problem, found.columns["label"]) == ("text_classification", "multi_label", "labels")


def test_lists_that_are_no_words_are_labels_as_before() -> None:
    found = guess(table(text=texts(4), tags=[["a"], ["b", "c"], [], ["a"]]))
    assert (found.kind, found.problem) == ("text_classification", "multi_label")


# --- hfstrat init -------------------------------------------------------------------------------------------


def csv(path: Path, header: str, labels: list[str]) -> Path:
    lines = [header, *(f"{text},{label}" for text, label in zip(texts(len(labels)), labels, strict=True))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "header", ["sentence,category", "Review Text,Stars", "text: raw,yes", '"a ""b""",#tag', "tëxt,größe"]
)
def test_the_recipe_of_any_csv_is_valid_and_reads_its_data(tmp_path: Path, header: str) -> None:
    source = csv(tmp_path / "my data.csv", header, ["1", "2"] * 20)
    recipe = yaml.safe_load(init.run(source, None, False))
    data = TypeAdapter(DataSpec).validate_json(yaml_to_json(recipe["data"]))
    TASKS[recipe["task"]["kind"]].model_validate_json(yaml_to_json(recipe["task"]))
    loaded = load(data)
    parts = split(loaded, data, data.columns["label"])
    assert set(data.columns) == {"text", "label"}
    assert set(data.columns.values()) <= set(parts.train.column_names)
    assert recipe["name"] == "my-data"


def test_the_recipe_of_words_is_valid_and_reads_its_data(tmp_path: Path) -> None:
    source = tmp_path / "ner.conll"
    source.write_text("Ann B-per\nleft O\n\nin O\nRome B-loc\n\n" * 4, encoding="utf-8")
    text = init.run(source, None, False)
    recipe = yaml.safe_load(text)
    assert recipe["task"]["kind"] == "token_classification"
    task = TASKS["token_classification"].model_validate_json(yaml_to_json(recipe["task"]))
    data = TypeAdapter(DataSpec).validate_json(yaml_to_json(recipe["data"]))
    train = load(data).splits["train"]
    columns = task.columns(data.columns, train.column_names)
    labels = task.find_labels(train, columns, "entities")
    assert task.read(train, "train", columns, labels).texts[:2] == ["Ann left", "in Rome"]


def yaml_to_json(value: Any) -> str:
    import json

    return json.dumps(value)


def test_the_first_line_is_the_command_and_the_output_is_kept(tmp_path: Path) -> None:
    source, output = csv(tmp_path / "a.csv", "text,label", ["p", "q"] * 5), tmp_path / "a.yaml"
    message = init.run(source, output, False)
    assert f"hfstrat train {output}" in message
    text = output.read_text(encoding="utf-8")
    assert text.startswith(f"# hfstrat train {output}\n# yaml-language-server: $schema=")
    with pytest.raises(UsageError, match="exists already"):
        init.run(source, output, False)
    assert "wrote" in init.run(source, output, True)
    with pytest.raises(UsageError, match="cannot be written"):
        init.run(source, tmp_path / "no" / "a.yaml", False)


def test_the_base_is_the_packaged_one_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = csv(tmp_path / "a.csv", "text,label", ["p", "q"] * 5)
    monkeypatch.setattr(init, "find_spec", lambda _: None)
    text = init.run(source, None, False)
    assert yaml.safe_load(text)["model"] == {"base": init.PUBLIC_BASE}
    assert "yaml-language-server" not in text
    monkeypatch.setattr(init, "find_spec", lambda _: object())
    model = yaml.safe_load(init.run(source, None, False))["model"]
    assert model == {"base": f"package:{init.PACKAGED_BASE}/model", "published_as": init.PUBLIC_BASE}


def test_a_folder_with_its_own_test_split(tmp_path: Path) -> None:
    csv(tmp_path / "train.csv", "text,label", ["p", "q"] * 20)
    csv(tmp_path / "test.csv", "text,label", ["p", "q"] * 5)
    data = yaml.safe_load(init.run(tmp_path, None, False))["data"]
    assert data["source"] == f"{tmp_path}/"
    assert data["validation"] == 0.1
    assert "test" not in data


def test_separators_are_written_to_the_task(tmp_path: Path) -> None:
    source = csv(tmp_path / "a.csv", "text,tags", ["x|y", "y", "x|z", "x|y|z"] * 10)
    task = yaml.safe_load(init.run(source, None, False))["task"]
    assert task == {"kind": "text_classification", "problem": "multi_label", "label_separator": "|"}


def test_missing_data_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file or folder"):
        init.run(tmp_path / "no.csv", None, False)
