"""The docstrings of the running Python as a task; exact counts differ between versions of Python."""

from __future__ import annotations

import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset

from hfstrat.data import builtin
from hfstrat.data.builtin_names import QUESTIONS, python_names, python_questions
from hfstrat.errors import DataError
from hfstrat.tasks.question_answering import answers_in


@pytest.fixture(scope="module")
def docs() -> dict[str, Dataset]:
    return builtin.python_docs()


def test_every_class_has_rows_for_few_shot_runs(docs: dict[str, Dataset]) -> None:
    counts = {name: Counter(rows["label"][:]) for name, rows in docs.items()}
    assert set(counts) == {"train", "validation", "test"}
    # Debian's Python leaves ctypes.macholib out, and has fewer texts of that class: more than notebooks take of one.
    whole = Path(sysconfig.get_path("stdlib"), "ctypes", "macholib").is_dir()
    for label in builtin.LABELS:
        assert counts["train"][label] >= (24 if whole or label != "ctypes" else 16), label
        assert sum(count[label] for count in counts.values()) >= 40, label
        assert counts["validation"][label] >= 5, label
        assert counts["test"][label] >= 8, label
    assert set(counts["train"]) == set(builtin.LABELS)


def test_shares_are_as_promised(docs: dict[str, Dataset]) -> None:
    total = sum(map(len, docs.values()))
    assert total > 3000
    for name, rows in docs.items():
        assert len(rows) / total == pytest.approx(builtin.SHARES[name], abs=0.03)


def test_texts_are_prose_unique_and_short(docs: dict[str, Dataset]) -> None:
    texts = [text for rows in docs.values() for text in rows["text"][:]]
    ids = [id for rows in docs.values() for id in rows["id"][:]]
    assert len({text.casefold() for text in texts}) == len(texts)
    assert len(set(ids)) == len(ids)
    assert all(builtin.MIN_CHARS <= len(text) <= builtin.MAX_CHARS for text in texts)
    assert not any(">>>" in text or "  " in text or "\n" in text for text in texts)


def test_no_docstring_is_torn_over_splits(docs: dict[str, Dataset]) -> None:
    owners: dict[str, set[str]] = {}
    for name, rows in docs.items():
        for id in rows["id"][:]:
            owners.setdefault(id.rsplit(":", 1)[0], set()).add(name)
    # The same docstring may stand at two places, so only places are compared.
    assert all(len(splits) == 1 for splits in owners.values())


def test_rows_are_the_same_again(docs: dict[str, Dataset]) -> None:
    again = builtin.python_docs()
    assert {name: rows.to_list() for name, rows in again.items()} == {
        name: rows.to_list() for name, rows in docs.items()
    }


def test_a_python_without_sources_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs the source of 'asyncio'"):
        builtin._rows(tmp_path)


def test_short_paragraphs_join_and_long_ones_are_cut() -> None:
    short = "This sentence is too short to stand alone."
    assert builtin._texts(f"{short}\n\n{short}\n\n{short}") == [" ".join([short] * 3)]
    assert builtin._texts("Only four words here.\n\n" + short) == [short]
    cut = builtin._cut("First sentence is long enough to reach past the half of it, " * 4 + "and ends. " + "x " * 200)
    assert cut.endswith("and ends.")
    assert len(builtin._cut("word " * 100)) <= builtin.MAX_CHARS


def test_doctests_are_not_prose() -> None:
    text = "Return the sum of the two arguments that were given.\n\n>>> add(1, 2)  # this is not a sentence at all\n3"
    assert builtin._texts(text) == ["Return the sum of the two arguments that were given."]


def test_names_are_marked_where_they_stand() -> None:
    names, docs = python_names(), builtin.python_docs()
    assert {name: len(part) for name, part in names.items()} == {name: len(part) for name, part in docs.items()}
    kinds: Counter[str] = Counter()
    for row in names["train"]:
        for span in row["spans"]:
            word = row["text"][span["start"] : span["end"]]
            kinds[span["label"]] += 1
            assert word == word.strip()
            assert word
            if span["label"] == "function":
                assert row["text"][span["end"]] == "("
    assert set(kinds) == set(QUESTIONS)
    assert min(kinds.values()) > 50


def test_questions_have_their_answers_in_their_contexts() -> None:
    for part in python_questions().values():
        without = 0
        for row in part:
            answers = answers_in(row["answers"], row["context"])
            without += not answers
        assert len(part) > 500
        assert 0.2 < without / len(part) < 0.6
