"""The audit of pictures: files that are no pictures, the same picture twice, sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

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
from hfstrat.data.pictures import digest, near_duplicates, perceptual_hash, sizes
from hfstrat.data.splits import Splits
from hfstrat.errors import DataError
from hfstrat.tasks.base import Encoded
from hfstrat.tasks.pixels import Pixels

if TYPE_CHECKING:
    from datasets import Dataset

Columns = Mapping[str, str | tuple[str, ...]]
UNEVEN = 8  # times as high or wide as another picture: one of the two loses most of what it shows
PATH = "data.columns.image"
ALIKE_BITS = 5  # of a perceptual hash of 64
ALIKE_STEPS = 8.0  # of 255, on average over all pixels: less is what compression and scaling do
MOST_PAIRS = 2e9  # of hashes, which take some seconds
MOST_TRIES = 50  # of pictures whose hash is near that of one

Values = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]


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


def audit_alike(encoded: Mapping[str, Encoded]) -> list[str]:
    """Warnings of pictures outside of training that are the same as training's, or nearly so.

    Pictures that were scaled, compressed or lit anew are other files with the same content; a score on them is one on
    what was learned. Of the pairs whose perceptual hashes are near, those count whose pixels are near as well.

    Args:
        encoded: The splits.
    """
    train = encoded["train"].signals
    others = {name: part for name, part in encoded.items() if name != "train"}
    if not isinstance(train, Pixels):
        return []
    if sum(map(len, others.values())) * len(train.values) > MOST_PAIRS:
        return ["there are too many pictures to look for those of other splits that are nearly those of training"]
    own, warnings = _hashes(train.values), []
    for name, part in others.items():
        assert isinstance(part.signals, Pixels), "all splits are pictures"
        near = _alike(train.values, own, part.signals.values, _hashes(part.signals.values))
        if near:
            theirs, ours = next(iter(near.items()))
            shown = f"{part.examples.texts[theirs]} and {encoded['train'].examples.texts[ours]}"
            warnings.append(
                f"{len(near)} pictures of {name} are the same as pictures of train, or nearly "
                f"so, such as {shown}: scores on them are too good"
            )
    return warnings


def _alike(own: Values, own_hashes: Hashes, others: Values, other_hashes: Hashes) -> dict[int, int]:
    """Those of some pictures that are nearly one of others: the place of each, and of that one."""
    # Without edges all are the same to a hash: empty pictures would be compared each with each.
    ours, theirs = np.flatnonzero(own_hashes), np.flatnonzero(other_hashes)
    found: dict[int, int] = {}
    tried: Counter[int] = Counter()
    for place, other in near_duplicates(own_hashes[ours], other_hashes[theirs], ALIKE_BITS):
        one, two = int(ours[place]), int(theirs[other])
        tried[two] += 1
        if two not in found and tried[two] <= MOST_TRIES:
            difference = np.abs(own[one].astype(np.int16) - others[two]).mean()
            if difference <= ALIKE_STEPS:
                found[two] = one
    return found


def _hashes(pictures: Values) -> Hashes:
    return np.array([perceptual_hash(one.transpose(1, 2, 0)) for one in pictures], np.uint64)
