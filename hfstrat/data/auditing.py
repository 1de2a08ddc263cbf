"""The audit of each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hfstrat.data.audit import Audit, Report, audit_texts, check_texts
from hfstrat.data.audit_answers import audit_answers, check_answers
from hfstrat.data.audit_boxes import audit_boxes, check_boxes
from hfstrat.data.audit_language import audit_language, check_language
from hfstrat.data.audit_pictures import audit_pictures, check_pictures
from hfstrat.data.audit_sounds import audit_sounds, check_sounds
from hfstrat.data.audit_words import audit_words, check_words
from hfstrat.errors import Problem
from hfstrat.tasks import (
    AudioClassification,
    ImageClassification,
    ObjectDetection,
    QuestionAnswering,
    TaskSpec,
    TextClassification,
)
from hfstrat.tasks.language import LanguageSpec

if TYPE_CHECKING:
    from datasets import Dataset

    from hfstrat.data.splits import Splits

Columns = Mapping[str, str | tuple[str, ...]]


def audit(task: TaskSpec, splits: Splits, columns: Columns, problem: Any) -> Audit:
    """Look for everything that is wrong with the rows.

    Args:
        task: What is learned.
        splits: The rows of each role.
        columns: The column of each role; roles that are left out are not looked at.
        problem: What the labels are.
    """
    if isinstance(task, TextClassification):
        return audit_texts(splits, columns, problem, label_separator=task.label_separator)
    if isinstance(task, ImageClassification):
        return audit_pictures(splits, columns, problem, label_separator=task.label_separator)
    if isinstance(task, AudioClassification):
        return audit_sounds(splits, columns, problem, label_separator=task.label_separator)
    if isinstance(task, ObjectDetection):
        return audit_boxes(splits, columns, task.boxes, task.labels)
    if isinstance(task, LanguageSpec):
        return audit_language(splits, columns)
    if isinstance(task, QuestionAnswering):
        return audit_answers(splits, columns)
    return audit_words(splits, columns, problem)


def problems_of_rows(task: TaskSpec, name: str, rows: Dataset, columns: Columns, problem: Any) -> tuple[Problem, ...]:
    """What has to be mended before rows can be scored, however few they are and whatever labels they have.

    Args:
        task: What is learned.
        name: What to call them.
        rows: The rows.
        columns: As in `audit`.
        problem: As in `audit`.
    """
    report = Report()
    if isinstance(task, TextClassification):
        check_texts(report, [(name, rows)], columns, problem, task.label_separator)
    elif isinstance(task, ImageClassification):
        check_pictures(report, [(name, rows)], columns, problem, task.label_separator)
    elif isinstance(task, AudioClassification):
        check_sounds(report, [(name, rows)], columns, problem, task.label_separator)
    elif isinstance(task, ObjectDetection):
        check_boxes(report, [(name, rows)], columns, task.boxes)
    elif isinstance(task, LanguageSpec):
        check_language(report, name, rows, columns)
    elif isinstance(task, QuestionAnswering):
        check_answers(report, name, rows, columns)
    else:
        check_words(report, name, rows, columns, problem)
    return tuple(report.problems)
