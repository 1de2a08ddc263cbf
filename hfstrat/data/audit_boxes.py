"""Audit of boxes: everything that is wrong with objects and pictures, all at once and before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hfstrat.data.audit import (
    FEW_ROWS,
    Audit,
    Report,
    Text,
    check_duplicates,
    check_leak,
    check_size,
    listed,
    missing_columns,
    numbers_of,
)
from hfstrat.data.audit_pictures import looked_at
from hfstrat.data.pictures import sizes
from hfstrat.data.splits import Splits
from hfstrat.errors import DataError
from hfstrat.tasks.boxes import Form, Objects, corners, names_in, objects_in

if TYPE_CHECKING:
    from datasets import Dataset

Columns = Mapping[str, str | tuple[str, ...]]
PATH = "data.columns.objects"
ROUNDING = 1.5
"""Pixels by which a box may lie outside: some tools count pixels from one, and count the last one in."""
_SHOWN = 5


def audit_boxes(splits: Splits, columns: Columns, form: Form, labels: Sequence[str] | None = None) -> Audit:
    """Look for everything that is wrong with the rows.

    Args:
        splits: The rows of each role.
        columns: The column of each role; roles that are left out are not looked at.
        form: How a box is written.
        labels: The classes, where the recipe names them; else those that the data names.
    """
    report = Report()
    check_size(report, splits.train)
    named = splits.items()
    pictures, cells = check_boxes(report, named, columns, form)
    counts = {
        name: dict(sorted(Counter(one for cell in cells[name] or () for one in cell.names).items()))
        for name, _ in named
    }
    if cells["train"] is not None:
        _check_classes(report, counts, labels or names_in(splits.train.features[str(columns["objects"])]))
    for name, rows in named:
        _tell_of_empty(report, name, rows, cells[name])
    check_duplicates(report, pictures["train"], None, "picture")
    for name in ("validation", "test"):
        if pictures.get(name):
            check_leak(report, name, pictures["train"], pictures[name], "picture")
    return Audit({name: len(rows) for name, rows in named}, counts, tuple(report.problems), tuple(report.warnings))


def check_boxes(
    report: Report, named: Sequence[tuple[str, Dataset]], columns: Columns, form: Form
) -> tuple[dict[str, list[Text] | None], dict[str, list[Objects] | None]]:
    """Digests and objects of each split, each row looked at by itself."""
    pictures: dict[str, list[Text] | None] = {}
    cells: dict[str, list[Objects] | None] = {}
    for name, rows in named:
        missing = missing_columns(report, name, rows, columns)
        pictures[name] = None if "image" in missing else looked_at(report, name, rows, columns)
        known = "objects" in columns and "objects" not in missing
        cells[name] = _cells(report, name, rows, columns) if known else None
        if "image" not in missing and cells[name] is not None:
            _check_places(report, name, rows, str(columns["image"]), cells[name] or [], form)
    return pictures, cells


def _cells(report: Report, name: str, rows: Dataset, columns: Columns) -> list[Objects] | None:
    """The objects of each row; None where some are not written as objects."""
    column = str(columns["objects"])
    names, found, wrong = names_in(rows.features[column]), [], dict[str, list[int]]()
    for row, cell in zip(numbers_of(rows), rows[column][:], strict=True):
        try:
            found.append(objects_in(cell, names))
        except ValueError as error:
            wrong.setdefault(str(error), []).append(row)
    hint = 'An object cell is {"bbox": [[…], …], "category": […]}, or a list of {"bbox": […], "category": …}'
    for what, places in wrong.items():
        report.rows(name, places, f"of which '{column}' cannot be read, as {what}", hint, PATH)
    return None if wrong else found


def _check_places(report: Report, name: str, rows: Dataset, column: str, cells: Sequence[Objects], form: Form) -> None:
    """Boxes that are none, and where they lie."""
    sides = [_sides(np.asarray(one) if isinstance(one, list) else one) for one in rows[column][:]]
    unfinished, turned, flat, outside, clipped = [], [], [], [], []
    for row, cell, of_picture in zip(numbers_of(rows), cells, sides, strict=True):
        if of_picture is None:
            continue  # it cannot be read, which is said elsewhere
        height, width = of_picture
        if not np.isfinite(cell.boxes).all():
            unfinished.append(row)
            continue
        scale = np.array([width, height] * 2, np.float64) if form == "cxcywh_relative" else np.ones(4)
        box = corners(cell.boxes, form) * scale
        over = np.maximum(np.maximum(-box[:, :2], box[:, 2:] - [width, height]).max(axis=1, initial=-np.inf), 0.0)
        inside = np.clip(box, 0, [width, height, width, height])
        if (over > ROUNDING).any():
            outside.append(row)
        elif (box[:, 2:] < box[:, :2]).any():
            turned.append(row)
        else:
            flat += [row] if ((inside[:, 2:] - inside[:, :2]) <= 0).any() else []
            clipped += [row] if (over > 0).any() else []
    hint = "Correct the boxes, or delete them"
    report.rows(name, unfinished, "with a box whose sides are no numbers", hint, PATH)
    report.rows(name, turned, "with a box that ends before it begins", f"{hint}; task.boxes is {form}", PATH)
    hint = f"task.boxes is {form}: set it to what the data has (xywh, xyxy or cxcywh_relative), or correct the boxes"
    report.rows(name, outside, "with a box that lies outside of its picture", hint, PATH)
    if flat:
        report.warnings.append(
            f"split {name} has {len(flat)} rows with a box of no area, which is left out: {listed(flat)}"
        )
    if clipped:
        what = f"split {name} has {len(clipped)} rows with a box that lies outside by a pixel or less"
        report.warnings.append(f"{what}, and is cut off at the border: {listed(clipped)}")


def _sides(picture: Any) -> tuple[int, int] | None:
    """Height and width of a picture; None where it cannot be read."""
    if picture is None or (isinstance(picture, str) and not picture.strip()):
        return None
    try:
        height, width = sizes([picture])[0].tolist()
    except DataError:
        return None
    return height, width


def _check_classes(report: Report, counts: dict[str, dict[str, int]], labels: Sequence[str] | None) -> None:
    train = counts["train"]
    if not train:
        report.error("split train has no object", "Name the column of objects: data.columns.objects", PATH)
        return
    for name in ("validation", "test"):
        unseen = {one: count for one, count in counts.get(name, {}).items() if one not in train}
        if not unseen:
            continue
        shown = ", ".join(f"'{one}' ({count})" for one, count in list(unseen.items())[:_SHOWN])
        said = f"split {name} has {len(unseen)} classes that train does not have: {shown}"
        if labels is not None and set(unseen) <= set(labels):
            report.warnings.append(f"{said}; they will not be found")
        else:
            hint = "Correct the spelling, delete the objects, add such pictures to train, or name them in task.labels"
            report.error(said, hint, f"data.{name}")
    never = [one for one in labels or () if one not in train]
    if never:
        report.warnings.append(f"classes without an object in train: {', '.join(never[:_SHOWN])}")
    few = [f"{one} ({count})" for one, count in train.items() if count < FEW_ROWS]
    if few:
        report.warnings.append(
            f"{len(few)} of {len(train)} classes have fewer than {FEW_ROWS} boxes in train: {', '.join(few[:_SHOWN])}"
        )


def _tell_of_empty(report: Report, name: str, rows: Dataset, cells: Sequence[Any] | None) -> None:
    empty = [row for row, cell in zip(numbers_of(rows), cells, strict=True) if not cell.names] if cells else []
    if empty:
        what = f"split {name} has {len(empty)} of {len(rows)} pictures without an object"
        report.warnings.append(f"{what}, which say where nothing is: {listed(empty)}")
