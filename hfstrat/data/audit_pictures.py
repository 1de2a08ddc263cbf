"""The audit of pictures: files that are no pictures, the same picture twice, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hfstrat.data.audit import (
    Audit,
    Report,
    Text,
    audit_labelled,
    check_labels,
    missing_columns,
    numbers_of,
    where,
)
from hfstrat.data.pictures import digest, sizes
from hfstrat.data.splits import Splits
from hfstrat.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

Columns = Mapping[str, str | tuple[str, ...]]
UNEVEN = 8  # times as high or wide as another picture: one of the two loses most of what it shows
PATH = "data.columns.image"


def audit_pictures(splits: Splits, columns: Columns, problem: str, *, label_separator: str | None = None) -> Audit:
    """Look for everything that is wrong with the rows, without decoding the pictures.

    Args:
        splits: The rows of each role.
        columns: The column of each role; roles that are left out are not looked at.
        problem: What the labels are.
        label_separator: What separates several labels in one cell.
    """
    report = Report()
    pictures, cells = check_pictures(report, splits.items(), columns, problem, label_separator)
    return audit_labelled(report, splits, pictures, cells, problem, "picture")


def check_pictures(
    report: Report, named: Sequence[tuple[str, Dataset]], columns: Columns, problem: str, separator: str | None
) -> tuple[dict[str, list[Text] | None], dict[str, list[Any] | None]]:
    """Digests and labels of each split, each row looked at by itself."""
    missing = {name: missing_columns(report, name, rows, columns) for name, rows in named}
    found = {name: None if "image" in missing[name] else looked_at(report, name, rows, columns) for name, rows in named}
    return found, check_labels(report, named, columns, missing, problem, separator)


def looked_at(report: Report, name: str, rows: Dataset, columns: Columns) -> list[Text] | None:
    """Row number and digest of each picture of a split; None where some cannot be read."""
    column = str(columns["image"])
    pictures = rows[column][:]
    empty = where(rows, pictures, lambda one: one is None or (isinstance(one, str) and not one.strip()))
    report.rows(name, empty, f"whose '{column}' is empty", "Name the pictures, or delete the rows", PATH)
    if empty or not pictures:
        return None
    pictures = [np.asarray(one) if isinstance(one, list) else one for one in pictures]
    try:
        measured = sizes(pictures)
    except DataError as error:
        report.problems += [replace(one, path=one.path or PATH) for one in error.problems]
        return None
    low, high = measured.min(axis=0), measured.max(axis=0)
    if (high > UNEVEN * low).any():
        shown = " to ".join(f"{height} × {width}" for height, width in (low, high))
        report.warnings.append(f"pictures of {name} are of very different size, from {shown}; all become of one")
    return [(row, (digest(one).hex(),)) for row, one in zip(numbers_of(rows), pictures, strict=True)]
