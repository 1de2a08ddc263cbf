"""Everything that is wrong with the rows, at once."""

from __future__ import annotations

import json
import math
from typing import Any

from datasets import ClassLabel, Dataset, Features, Value

from hfstrat.data.audit import Audit, audit_texts
from hfstrat.data.splits import Splits

COLUMNS: dict[str, str | tuple[str, ...]] = {"text": "text", "label": "label"}


def table(texts: list[Any], labels: list[Any]) -> Dataset:
    return Dataset.from_dict({"text": texts, "label": labels, "_row": list(range(10, 10 + len(texts)))})


def fine(count: int = 12) -> Dataset:
    return table([f"text {place}" for place in range(count)], ["a", "b"] * (count // 2))


def look(train: Dataset, test: Dataset | None = None, problem: Any = "single_label", **columns: Any) -> Audit:
    return audit_texts(Splits(train, None, test, ()), {**COLUMNS, **columns}, problem)


def test_good_rows_have_neither_problems_nor_warnings() -> None:
    found = look(fine(), table(["new"], ["a"]))
    assert found.problems == ()
    assert found.warnings == ()
    assert found.rows == {"train": 12, "test": 1}
    assert found.label_counts == {"train": {"a": 6, "b": 6}, "test": {"a": 1}}
    assert json.loads(json.dumps(found.to_json()))["rows"] == {"train": 12, "test": 1}


def test_a_missing_column_is_named_with_its_neighbours() -> None:
    found = look(fine(), label="labl")
    (problem,) = found.problems
    assert problem.path == "data.columns.label"
    assert "no column 'labl'" in problem.message
    assert problem.hint == "Did you mean 'label'? The columns are: text, label"


def test_all_problems_are_told_at_once_with_their_rows() -> None:
    train = table(["one", None, " \n", "four", "five"], ["a", "b", "a", None, ""])
    test = table(["new", ""], ["a", "c"])
    found = look(train, test)
    messages = [problem.message for problem in found.problems]
    assert messages == [
        "split train has 2 rows whose 'text' is empty: rows 11, 12",
        "split test has 1 row whose 'text' is empty: row 11",
        "split train has 2 rows without a label in 'label': rows 13, 14",
        "split test has 1 labels that train does not have: 'c' (1 row)",
    ]
    assert all(problem.hint for problem in found.problems)


def test_long_lists_of_rows_are_cut() -> None:
    found = look(table([""] * 9, ["a", "b", "c"] * 3))
    assert found.problems[0].message.endswith("rows 10, 11, 12, 13, 14 …")


def test_cells_that_are_not_text() -> None:
    found = look(table([1, 2, 3], ["a", "b", "a"]))
    assert "whose 'text' is not text: rows 10, 11, 12" in found.problems[0].message


def test_unseen_labels_show_what_train_has() -> None:
    found = look(fine(), table(["x", "y", "z"], ["A ", "A ", "zebra"]))
    (problem,) = found.problems
    assert "'A ' (2 rows; train has 'a'), 'zebra' (1 row)" in problem.message


def test_duplicates_and_contradictions_in_train() -> None:
    train = table(["One  two", "one two", "three", "four", "ONE TWO"], ["a", "a", "b", "b", "b"])
    warnings = look(train).warnings
    assert "split train has 2 rows whose text occurs before: rows 11, 14" in warnings
    assert "split train has 1 texts with different labels, such as rows 10 (a) and 14 (b)" in warnings


def test_texts_of_train_in_test() -> None:
    found = look(fine(), table(["TEXT  3", "new"], ["a", "b"]))
    assert found.problems == ()
    assert "split test has 1 of 2 rows whose text is also in train (row 10)" in found.warnings[0]


def test_pairs_are_equal_only_when_both_texts_are() -> None:
    def pairs(second: list[str]) -> Dataset:
        return table(["same"] * len(second), ["a", "b"] * (len(second) // 2)).add_column("other", second)

    found = look(pairs(["x", "y"] * 1), pairs(["x", "z"]), text_pair="other")
    assert any("1 of 2 rows" in warning for warning in found.warnings)
    assert not any("occurs before" in warning for warning in found.warnings)


def test_one_class_and_too_few_rows() -> None:
    messages = [problem.message for problem in look(table(["x"], ["a"])).problems]
    assert messages == ["split train has 1 row"]


def test_labels_that_are_numbers_and_words_are_a_warning() -> None:
    found = look(table([f"text {place}" for place in range(12)], ["1", "2", "other"] * 4))
    assert found.problems == ()
    assert found.warnings[0] == "some labels are numbers ('1') and some are words ('other')"


def test_what_is_too_long_is_a_problem_and_is_not_shown_whole() -> None:
    texts = [f"text {place}" for place in range(12)]
    long = look(table(["x" * 1_000_001, *texts[1:]], ["a", "b"] * 6))
    assert [p.message for p in long.problems] == [
        "split train has 1 row whose 'text' has more than 1,000,000 characters: row 10"
    ]
    found = look(table(texts, ["a", "b"] * 5 + ["c" * 1001] * 2))
    assert [p.message for p in found.problems] == [
        "split train has 2 rows whose 'label' has more than 1,000 characters: rows 20, 21"
    ]
    assert all(len(text) < 300 for text in found.warnings)


def test_rare_unbalanced_and_similar_classes_are_warnings() -> None:
    labels = ["many"] * 80 + ["Many "] * 6 + ["few"] * 4
    found = look(table([f"text {place}" for place in range(90)], labels))
    assert found.problems == ()
    text = "\n".join(found.warnings)
    assert "'Many ' = 'many'" in text
    assert "1 of 3 classes have fewer than 5 training rows: few (4)" in text
    assert "'many' has 80 training rows and 'few' has 4" in text


def test_class_labels_are_counted_by_name_and_minus_one_is_missing() -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    train = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, -1]}, features=features)
    found = look(train)
    assert found.label_counts["train"] == {"no": 1, "yes": 1}
    assert "without a label in 'label': row 2" in found.problems[0].message


def test_numbers() -> None:
    train = table(["a", "b", "c", "d"], [1.0, math.inf, None, 2.5])
    found = look(train, problem="regression")
    assert [problem.message for problem in found.problems] == [
        "split train has 1 row without a label in 'label': row 12",
        "split train has 1 row whose 'label' is not a finite number: row 11",
    ]
    assert found.label_counts == {}
    words = look(table(["a", "b"], ["1", "NA"]), problem="regression")
    assert "not a finite number: row 11" in words.problems[0].message


def test_several_labels_in_lists_cells_and_columns() -> None:
    lists = table(["a", "b", "c"], [["x"], ["x", "y"], []])
    assert look(lists, problem="multi_label").label_counts["train"] == {"x": 2, "y": 1}
    cells = table(["a", "b"], ["x|y", "x"])
    found = audit_texts(Splits(cells, None, None, ()), COLUMNS, "multi_label", label_separator="|")
    assert found.label_counts["train"] == {"x": 2, "y": 1}
    flags = table(["a", "b"], ["", ""]).add_column("one", [1, 0]).add_column("two", [1, 2])
    found = look(flags, problem="multi_label", label=("one", "two"))
    assert found.label_counts["train"] == {"one": 1, "two": 2}
    assert "whose 'one', 'two' are not 0 or 1: row 11" in found.problems[0].message


def test_lists_in_a_single_label_task() -> None:
    found = look(table(["a", "b"], [["x"], ["x", "y"]]))
    assert "with no label or several in 'label': row 11" in found.problems[0].message
