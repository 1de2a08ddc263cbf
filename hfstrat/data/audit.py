"""Audit: what is wrong with the rows, all of it at once, before a model is loaded.

An error is what would make training fail or its score mean nothing; a warning is what a user should know. Rows
without text or label are errors in each split, however few they are: to drop them silently would change the data that
a score is about, and to drop them in a spreadsheet is a minute's work. Equal texts in two splits that the user made
are a warning, because public benchmarks have them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hfstrat.data.splits import Splits, fold
from hfstrat.errors import Problem, did_you_mean, shortened

if TYPE_CHECKING:
    from datasets import Dataset

FEW_ROWS = 5
"""Classes with fewer training rows than this are named in a warning."""

STRONG_IMBALANCE = 20.0
"""Largest class ÷ smallest class from which there is a warning."""

LONGEST_TEXT, LONGEST_LABEL = 1_000_000, 1_000
"""Characters. A longer text is a whole book, or an open quotation mark that took in the rows after it; to tokenise it
takes minutes, whatever is then cut."""

_SHOWN = 5


@dataclass(frozen=True)
class Audit:
    """What was found in the splits.

    Args:
        rows: Rows by split.
        label_counts: Rows of each label by split; a row with several labels counts for each; empty for numbers.
        problems: What has to be mended before training.
        warnings: What to know, a sentence each.
    """

    rows: dict[str, int]
    label_counts: dict[str, dict[str, int]]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The audit as plain data."""
        return {
            "rows": self.rows,
            "label_counts": self.label_counts,
            "problems": [str(problem) for problem in self.problems],
            "warnings": list(self.warnings),
        }


def audit_texts(
    splits: Splits,
    columns: Mapping[str, str | tuple[str, ...]],
    problem: Literal["single_label", "multi_label", "regression"],
    *,
    label_separator: str | None = None,
) -> Audit:
    """Look for everything that is wrong with the rows.

    Args:
        splits: The rows of each role.
        columns: The column of each role; roles that are left out are not looked at.
        problem: What the labels are.
        label_separator: What separates several labels in one cell.
    """
    report = Report()
    texts, cells = check_texts(report, splits.items(), columns, problem, label_separator)
    return audit_labelled(report, splits, texts, cells, problem)


def audit_labelled(
    report: Report,
    splits: Splits,
    texts: Mapping[str, list[Text] | None],
    cells: Mapping[str, list[Any] | None],
    problem: str,
    noun: str = "text",
) -> Audit:
    """What is wrong with rows beside one another: classes, duplicates, leaks.

    Args:
        report: What was found so far.
        splits: The rows of each role.
        texts: Row number and what tells one row from another, by split.
        cells: Label of each row, by split.
        problem: What the labels are.
        noun: What rows hold.
    """
    named = splits.items()
    counts = {name: _counts(labels) for name, labels in cells.items()} if problem != "regression" else {}
    check_size(report, splits.train)
    if len(splits.train) > 1 and problem != "regression" and counts.get("train"):
        _check_classes(report, counts, cells)
    check_duplicates(report, texts["train"], cells["train"], noun)
    for name in ("validation", "test"):
        if texts.get(name):
            check_leak(report, name, texts["train"], texts[name], noun)
    return Audit({name: len(rows) for name, rows in named}, counts, tuple(report.problems), tuple(report.warnings))


def check_texts(
    report: Report,
    named: Sequence[tuple[str, Dataset]],
    columns: Mapping[str, str | tuple[str, ...]],
    problem: str,
    separator: str | None,
) -> tuple[dict[str, list[Text] | None], dict[str, list[Any] | None]]:
    """Texts and labels of each split, each row looked at by itself."""
    missing = {name: missing_columns(report, name, rows, columns) for name, rows in named}
    texts = {name: texts_of(report, name, rows, columns, missing[name]) for name, rows in named}
    return texts, check_labels(report, named, columns, missing, problem, separator)


def check_labels(
    report: Report,
    named: Sequence[tuple[str, Dataset]],
    columns: Mapping[str, str | tuple[str, ...]],
    missing: Mapping[str, set[str]],
    problem: str,
    separator: str | None,
) -> dict[str, list[Any] | None]:
    """Labels of each split, each row looked at by itself."""
    cells = {name: _labels(rows, columns, missing[name], problem, separator) for name, rows in named}
    for name, rows in named:
        _check_cells(report, name, rows, cells[name], columns, problem)
    return cells


class Report:
    """Problems and warnings in the order in which they are found."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[str] = []

    def error(self, message: str, hint: str, path: str = "data") -> None:
        """Add a problem."""
        self.problems.append(Problem(message, path=path, hint=hint))

    def rows(self, name: str, rows: Sequence[int], what: str, hint: str, path: str) -> None:
        """An error about some rows of a split, if there are any."""
        if rows:
            count = "1 row" if len(rows) == 1 else f"{len(rows)} rows"
            self.error(f"split {name} has {count} {what}: {listed(rows)}", hint, path)


def listed(rows: Sequence[int]) -> str:
    """Row numbers, counted from 0 as in the `_row` column."""
    shown = ", ".join(str(row) for row in rows[:_SHOWN])
    return f"row {shown}" if len(rows) == 1 else f"rows {shown}" + (" …" if len(rows) > _SHOWN else "")


def _quoted(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(f"'{name}'" for name in listed[:_SHOWN]) + (" …" if len(listed) > _SHOWN else "")


def _names(columns: Mapping[str, str | tuple[str, ...]], role: str) -> tuple[str, ...]:
    column = columns.get(role, ())
    return (column,) if isinstance(column, str) else tuple(column)


def numbers_of(rows: Dataset) -> list[int]:
    """Each row's number in the split that it was taken from."""
    return list(rows["_row"][:]) if "_row" in rows.column_names else list(range(len(rows)))


def where(rows: Dataset, values: Sequence[Any], test: Callable[[Any], bool]) -> list[int]:
    """Numbers of the rows whose value passes a test."""
    return [number for number, value in zip(numbers_of(rows), values, strict=True) if test(value)]


def check_size(report: Report, train: Dataset) -> None:
    """Raise no hopes where there is nothing to train on."""
    if len(train) < 2:
        rows = "1 row" if len(train) else "no rows"
        hint = "Training needs two at least: add rows, raise data.limit, or take less for validation and test"
        report.error(f"split train has {rows}", hint)


# --- columns and texts --------------------------------------------------------------------------------------


def missing_columns(report: Report, name: str, rows: Dataset, columns: Mapping[str, str | tuple[str, ...]]) -> set[str]:
    """Roles whose columns are not there, which is reported."""
    have = [column for column in rows.column_names if column != "_row"]
    missing = set()
    for role in columns:
        for column in _names(columns, role):
            if column not in have:
                missing.add(role)
                near = did_you_mean(column, have, show_all=0)
                hint = f"{near} The columns are: {', '.join(have)}".strip()
                report.error(f"split {name} has no column '{column}' for {role}", hint, f"data.columns.{role}")
    return missing


Text = tuple[int, tuple[str, ...]]


def texts_of(
    report: Report,
    name: str,
    rows: Dataset,
    columns: Mapping[str, str | tuple[str, ...]],
    missing: set[str],
    wanted: Sequence[str] = ("text", "text_pair"),
    longest: int | None = LONGEST_TEXT,
) -> list[Text] | None:
    """Row number and folded texts of each row; None when there is no column of the first of the wanted roles.

    Texts of more characters than `longest` are errors; None where books are read.
    """
    roles = [role for role in wanted if role in columns and role not in missing]
    if wanted[0] not in roles:
        return None
    parts: list[list[str]] = []
    most = longest or math.inf
    for role in roles:
        for column in _names(columns, role):
            values = rows[column][:]
            path = f"data.columns.{role}"
            other = where(rows, values, lambda value: value is not None and not isinstance(value, str))
            hint = "Name a column of texts, or write these cells as text"
            report.rows(name, other, f"whose '{column}' is not text", hint, path)
            empty = where(rows, values, lambda value: value is None or (isinstance(value, str) and not value.strip()))
            report.rows(name, empty, f"whose '{column}' is empty", "Fill in the text or delete the rows", path)
            long = where(rows, values, lambda value: isinstance(value, str) and len(value) > most)
            hint = "Look for a quotation mark that is not closed, or cut these texts"
            report.rows(name, long, f"whose '{column}' has more than {most:,} characters", hint, path)
            parts.append([fold(value) if isinstance(value, str) else "" for value in values])
    return list(zip(numbers_of(rows), zip(*parts, strict=True), strict=True))


def check_duplicates(report: Report, texts: list[Text] | None, labels: list[Any] | None, noun: str = "text") -> None:
    """Equal texts, or what else rows hold, within train."""
    if texts is None:
        return
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, (_, text) in enumerate(texts):
        if any(text):
            groups.setdefault(text, []).append(place)
    again = [texts[place][0] for places in groups.values() for place in places[1:]]
    if again:
        report.warnings.append(f"split train has {len(again)} rows whose {noun} occurs before: {listed(sorted(again))}")
    if labels is None:
        return
    torn = [places for places in groups.values() if len({repr(labels[place]) for place in places}) > 1]
    if torn:
        example = torn[0]
        other = next(place for place in example if repr(labels[place]) != repr(labels[example[0]]))
        report.warnings.append(
            f"split train has {len(torn)} {noun}s with different labels, such as rows {texts[example[0]][0]} "
            f"({_shown(labels[example[0]])}) and {texts[other][0]} ({_shown(labels[other])})"
        )


def check_leak(
    report: Report, name: str, train: list[Text] | None, texts: list[Text] | None, noun: str = "text"
) -> None:
    """Texts of train, or what else rows hold, in a split that is to measure."""
    if train is None or texts is None:
        return
    known = {text for _, text in train if any(text)}
    leaked = [row for row, text in texts if text in known]
    if leaked:
        report.warnings.append(
            f"split {name} has {len(leaked)} of {len(texts)} rows whose {noun} is also in train ({listed(leaked)}); "
            "scores on it are too good by as much"
        )


# --- labels -------------------------------------------------------------------------------------------------


def _labels(
    rows: Dataset,
    columns: Mapping[str, str | tuple[str, ...]],
    missing: set[str],
    problem: str,
    separator: str | None,
) -> list[Any] | None:
    """The label of each row: a tuple of names, a tuple of numbers for regression, None where it is missing."""
    names = _names(columns, "label")
    if not names or "label" in missing:
        return None
    values = list(zip(*(rows[name][:] for name in names), strict=True))
    if problem == "regression":
        return [None if any(_is_missing(cell) for cell in row) else row for row in values]
    if len(names) > 1:
        return [_flags(row, names) for row in values]
    feature = rows.features[names[0]]
    return [_label_names(row[0], feature, separator) for row in values]


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _flags(row: Sequence[Any], names: Sequence[str]) -> tuple[str, ...] | None:
    if any(_is_missing(cell) for cell in row):
        return None
    return tuple(name for name, cell in zip(names, row, strict=True) if cell)


def _label_names(value: Any, feature: Any, separator: str | None) -> tuple[str, ...] | None:
    if isinstance(value, (list, tuple)):
        return tuple(str(item) for item in value)
    if _is_missing(value):
        return None
    if hasattr(feature, "int2str"):
        return None if value < 0 else (feature.int2str(value),)
    if separator:
        return tuple(part.strip() for part in str(value).split(separator) if part.strip())
    return (str(int(value)) if isinstance(value, float) and value.is_integer() else str(value),)


def _shown(label: Any) -> str:
    return "no label" if not label else ", ".join(shortened(str(part)) for part in label)


def _counts(labels: list[Any] | None) -> dict[str, int]:
    """Rows of each label, in the order of labels."""
    return dict(sorted(Counter(name for cell in labels or () for name in cell or ()).items()))


def _check_cells(
    report: Report,
    name: str,
    rows: Dataset,
    labels: list[Any] | None,
    columns: Mapping[str, str | tuple[str, ...]],
    problem: str,
) -> None:
    if labels is None:
        return
    column = _quoted(_names(columns, "label"))
    path = "data.columns.label"
    gone = where(rows, labels, lambda label: label is None)
    report.rows(name, gone, f"without a label in {column}", "Fill in the label or delete the rows", path)
    if problem != "regression":
        long = where(rows, labels, lambda label: any(len(part) > LONGEST_LABEL for part in label or ()))
        hint = "Name the column of labels, or look for a quotation mark that is not closed"
        report.rows(name, long, f"whose {column} has more than {LONGEST_LABEL:,} characters", hint, path)
    if problem == "regression":
        bad = where(rows, labels, lambda label: label is not None and not all(_is_finite(cell) for cell in label))
        hint = "Correct or delete the rows; for classes set task.problem: single_label"
        report.rows(name, bad, f"whose {column} is not a finite number", hint, path)
    elif isinstance(columns.get("label"), tuple):
        values = list(zip(*(rows[part][:] for part in _names(columns, "label")), strict=True))
        odd = where(rows, values, lambda row: any(not _is_missing(cell) and cell not in (0, 1) for cell in row))
        report.rows(name, odd, f"whose {column} are not 0 or 1", "Several label columns hold 0 or 1", path)
    elif problem == "single_label":
        several = where(rows, labels, lambda label: label is not None and len(label) != 1)
        report.rows(name, several, f"with no label or several in {column}", "Set task.problem: multi_label", path)


def _is_finite(value: Any) -> bool:
    try:  # among words a column's numbers are text
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _check_classes(report: Report, counts: dict[str, dict[str, int]], cells: Mapping[str, list[Any] | None]) -> None:
    train = counts["train"]
    if len(train) == 1 and all(cell == tuple(train) for cell in cells["train"] or () if cell is not None):
        report.error(
            f"split train has one label only: '{shortened(next(iter(train)))}'",
            "There is nothing to learn: add another class",
        )
    for name in ("validation", "test"):
        _check_unseen(report, name, counts.get(name, {}), train)
    alike = _alike(train)
    if alike:
        groups = "; ".join(" = ".join(f"'{shortened(name)}'" for name in group) for group in alike[:_SHOWN])
        report.warnings.append(f"labels that differ only in case or white space are different classes: {groups}")
    numbers = [name for name in train if _is_finite(name)]
    if 0 < len(numbers) < len(train):
        number, word = numbers[0], next(shortened(name) for name in train if name not in numbers)
        report.warnings.append(f"some labels are numbers ('{number}') and some are words ('{word}')")
    few = [f"{shortened(name)} ({count})" for name, count in train.items() if count < FEW_ROWS]
    if few:
        names = ", ".join(few[:_SHOWN]) + (" …" if len(few) > _SHOWN else "")
        report.warnings.append(f"{len(few)} of {len(train)} classes have fewer than {FEW_ROWS} training rows: {names}")
    ratio = max(train.values()) / min(train.values())
    if ratio >= STRONG_IMBALANCE:
        low, high = min(train, key=train.__getitem__), max(train, key=train.__getitem__)
        report.warnings.append(
            f"the classes are unbalanced: '{shortened(high)}' has {train[high]} training rows and '{shortened(low)}' "
            f"has {train[low]}; f1_macro says more than accuracy, and task.class_weights: balanced weighs them alike"
        )


def _check_unseen(report: Report, name: str, counts: dict[str, int], train: Mapping[str, int]) -> None:
    unseen = {label: count for label, count in counts.items() if label not in train}
    if not unseen:
        return
    folded = {fold(label): label for label in train}
    shown = []
    for label, count in list(unseen.items())[:_SHOWN]:
        near = folded.get(fold(label))
        rows = "1 row" if count == 1 else f"{count} rows"
        shown.append(f"'{shortened(label)}' ({rows}{f'; train has {near!r}' if near else ''})")
    more = " …" if len(unseen) > _SHOWN else ""
    report.error(
        f"split {name} has {len(unseen)} labels that train does not have: {', '.join(shown)}{more}",
        "Correct the spelling, delete the rows, or add such rows to train",
        f"data.{name}",
    )


def _alike(labels: Iterable[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(fold(label), []).append(label)
    return [group for group in groups.values() if len(group) > 1]
