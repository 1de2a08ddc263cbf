"""What is wrong with text that is to be continued or filled in: plain, prompts with completions, conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hfstrat.data.audit import (
    Audit,
    Report,
    Text,
    check_duplicates,
    check_leak,
    missing_columns,
    numbers_of,
    texts_of,
    where,
)
from hfstrat.data.splits import Splits, fold
from hfstrat.tasks.chat import messages_in

if TYPE_CHECKING:
    from datasets import Dataset

Columns = Mapping[str, str | tuple[str, ...]]


def audit_language(splits: Splits, columns: Columns) -> Audit:
    """Look for everything that is wrong with the rows.

    Args:
        splits: The rows of each role.
        columns: The column of each role.
    """
    report = Report()
    found = {name: check_language(report, name, rows, columns) for name, rows in splits.items()}
    if len(splits.items()) == 1 and len(splits.train) < 2:
        hint = "Name files for data.validation and data.test, or set data.sample_by: paragraph to part a text file"
        report.error("the data is a single text, of which nothing can be held out", hint)
    texts = found["train"]
    check_duplicates(report, texts or None, None)
    for name in ("validation", "test"):
        if found.get(name):
            check_leak(report, name, texts, found[name])
    rows = {name: len(part) for name, part in splits.items()}
    return Audit(rows, {}, tuple(report.problems), tuple(report.warnings))


def check_language(report: Report, name: str, rows: Dataset, columns: Columns) -> list[Text]:
    """What has to be mended before some rows can be learned from or scored.

    Returns:
        Row number and folded text of each row; empty where a column is missing.
    """
    missing = missing_columns(report, name, rows, columns)
    if "messages" in columns:
        return [] if "messages" in missing else _conversations(report, name, rows, str(columns["messages"]))
    if "source" in columns:
        return _pairs(report, name, rows, columns, missing, ("source", "target"))
    if "prompt" in columns:
        return _pairs(report, name, rows, columns, missing, ("prompt", "completion"))
    return texts_of(report, name, rows, columns, missing, ("text",), longest=None) or []


def _pairs(
    report: Report, name: str, rows: Dataset, columns: Columns, missing: set[str], roles: tuple[str, str]
) -> list[Text]:
    """Texts, and those to write after them; the former may be empty, the latter not."""
    given, wanted = roles
    if wanted in columns and wanted not in missing:
        values = rows[str(columns[wanted])][:]
        empty = where(rows, values, lambda value: not isinstance(value, str) or not value.strip())
        hint = f"Fill in the {wanted} or delete the rows"
        report.rows(name, empty, f"whose '{columns[wanted]}' is empty or no text", hint, f"data.columns.{wanted}")
    if missing & {*roles}:
        return []
    cells = [rows[str(columns[role])][:] for role in roles if role in columns]
    other = where(rows, cells[0], lambda value: value is not None and not isinstance(value, str))
    report.rows(
        name, other, f"whose '{columns[given]}' is not text", "Write these cells as text", f"data.columns.{given}"
    )
    folded = [tuple(fold(str(cell)) for cell in row) for row in zip(*cells, strict=True)]
    return list(zip(numbers_of(rows), folded, strict=True))


def _conversations(report: Report, name: str, rows: Dataset, column: str) -> list[Text]:
    wrong: dict[str, list[int]] = {}
    found: list[Text] = []
    for number, cell in zip(numbers_of(rows), rows[column][:], strict=True):
        try:
            messages = messages_in(cell)
            found.append((number, tuple(fold(f"{one['role']}: {one['content']}") for one in messages)))
        except ValueError as error:
            wrong.setdefault(str(error), []).append(number)
    for what, which in wrong.items():
        hint = 'Write [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'
        report.rows(name, which, f"in which {what}", hint, "data.columns.messages")
    return found
