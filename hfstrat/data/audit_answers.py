"""What is wrong with questions, their contexts and the answers in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hfstrat.data.audit import (
    LONGEST_TEXT,
    Audit,
    Report,
    check_duplicates,
    check_leak,
    check_size,
    missing_columns,
    numbers_of,
    where,
)
from hfstrat.data.splits import Splits, fold
from hfstrat.tasks.question_answering import answers_in

if TYPE_CHECKING:
    from datasets import Dataset

Columns = Mapping[str, str | tuple[str, ...]]
Questions = list[tuple[int, tuple[str, ...]]]
HINTS = {
    "an answer does not stand where its answer_start says": "answer_start counts characters of the context from 0",
    "an answer does not stand in its context": "Answers are copied from their context, letter by letter",
}


def audit_answers(splits: Splits, columns: Columns) -> Audit:
    """Look for everything that is wrong with the rows.

    Args:
        splits: The rows of each role.
        columns: The column of each role.
    """
    report = Report()
    found = {name: check_answers(report, name, rows, columns) for name, rows in splits.items()}
    check_size(report, splits.train)
    questions, labels = found["train"]
    readable = not any(problem.path == "data.columns.answers" for problem in report.problems)
    if labels and not any(labels) and readable:
        hint = "Name the column of answers, or add questions that have one"
        report.error("split train has no answers", hint, "data.columns.answers")
    check_duplicates(report, questions or None, labels or None)
    for name in ("validation", "test"):
        if name in found and found[name][0]:
            check_leak(report, name, questions, found[name][0])
    counts = {}
    for name, (_, answers) in found.items():
        answered = sum(bool(one) for one in answers)
        counts[name] = {"answered": answered, "unanswerable": len(answers) - answered} if answers else {}
    _check_unanswerable(report, counts)
    rows = {name: len(part) for name, part in splits.items()}
    return Audit(rows, counts, tuple(report.problems), tuple(report.warnings))


def check_answers(
    report: Report, name: str, rows: Dataset, columns: Columns
) -> tuple[Questions, list[tuple[str, ...]]]:
    """What has to be mended before some rows can be learned from or scored.

    Returns:
        Row number, folded question and context of each row; and its answers. Empty where columns are missing.
    """
    missing = missing_columns(report, name, rows, columns)
    texts = {}
    for role in ("question", "context"):
        if role in missing or role not in columns:
            continue
        column, path = str(columns[role]), f"data.columns.{role}"
        values = texts[role] = rows[column][:]
        odd = where(rows, values, lambda value: value is not None and not isinstance(value, str))
        report.rows(name, odd, f"whose '{column}' is not text", "Name a column of texts", path)
        empty = where(rows, values, lambda value: value is None or (isinstance(value, str) and not value.strip()))
        report.rows(name, empty, f"whose '{column}' is empty", "Fill in the text or delete the rows", path)
        long = where(rows, values, lambda value: isinstance(value, str) and len(value) > LONGEST_TEXT)
        report.rows(name, long, f"whose '{column}' has more than {LONGEST_TEXT:,} characters", "Cut it", path)
    if len(texts) < 2:
        return [], []
    numbers = numbers_of(rows)
    folded = ([fold(value) if isinstance(value, str) else "" for value in texts[role]] for role in texts)
    questions: Questions = list(zip(numbers, zip(*folded, strict=True), strict=True))
    if "answers" not in columns or "answers" in missing:
        return questions, []
    wrong: dict[str, list[int]] = {}
    answers: list[tuple[str, ...]] = []
    for number, cell, context in zip(numbers, rows[str(columns["answers"])][:], texts["context"], strict=True):
        try:
            found = answers_in(cell, context if isinstance(context, str) else "")
            answers.append(tuple(answer.text for answer in found))
        except ValueError as error:
            answers.append(())
            wrong.setdefault(str(error), []).append(number)
    for what, which in wrong.items():
        hint = HINTS.get(what, 'Write {"text": ["…"], "answer_start": [0]}, or the text of the answer alone')
        report.rows(name, which, f"in which {what}", hint, "data.columns.answers")
    return questions, answers


def _check_unanswerable(report: Report, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Questions without an answer that training does not prepare for."""
    if counts.get("train") and not counts["train"]["unanswerable"]:
        for name in ("validation", "test"):
            if count := counts.get(name, {}).get("unanswerable"):
                report.warnings.append(
                    f"split {name} has {count} questions without an answer and train has none: each will be answered"
                )
