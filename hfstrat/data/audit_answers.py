"""What is wrong with questions, their contexts and the answers in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hfstrat.data.audit import (
    Audit,
    Report,
    Text,
    check_duplicates,
    check_leak,
    check_size,
    missing_columns,
    numbers_of,
    texts_of,
)
from hfstrat.data.splits import Splits
from hfstrat.tasks.question_answering import answers_in

if TYPE_CHECKING:
    from datasets import Dataset

Columns = Mapping[str, str | tuple[str, ...]]
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
) -> tuple[list[Text], list[tuple[str, ...]]]:
    """What has to be mended before some rows can be learned from or scored.

    Returns:
        Row number, folded question and context of each row; and its answers. Empty where columns are missing.
    """
    missing = missing_columns(report, name, rows, columns)
    questions = texts_of(report, name, rows, columns, missing, ("question", "context")) or []
    if {"context", "answers"} & missing or not {"context", "answers"} <= {*columns}:
        return questions, []
    wrong: dict[str, list[int]] = {}
    answers: list[tuple[str, ...]] = []
    cells, contexts = (rows[str(columns[role])][:] for role in ("answers", "context"))
    for number, cell, context in zip(numbers_of(rows), cells, contexts, strict=True):
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
