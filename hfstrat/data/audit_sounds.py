"""The audit of sounds: files that are no sounds, silence, clipping, the same sound twice, lengths and rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hfstrat.data.audit import (
    Audit,
    Report,
    Text,
    audit_labelled,
    check_labels,
    listed,
    missing_columns,
    numbers_of,
    where,
)
from hfstrat.data.sounds import SHORTEST, Recording, clipped_share, digest, is_silent, read_all
from hfstrat.data.splits import Splits
from hfstrat.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

Columns = Mapping[str, str | tuple[str, ...]]
PATH = "data.columns.audio"
CLIPPED = 0.001
"""Share of samples that are cut off from which a sound is told of; a drum may touch full scale once."""
UNEVEN = 20  # times as long as another sound: most of a batch may be padding


@dataclass(frozen=True)
class _Found:
    """What is known of a recording when its samples are gone."""

    rate: int
    seconds: float
    silent: bool
    clipped: bool

    @classmethod
    def of(cls, recording: Recording) -> _Found:
        samples = recording.samples
        silent = is_silent(samples)
        return cls(recording.rate, recording.seconds, silent, not silent and clipped_share(samples) > CLIPPED)


def audit_sounds(splits: Splits, columns: Columns, problem: str, *, label_separator: str | None = None) -> Audit:
    """Look for everything that is wrong with the rows; each sound is decoded.

    Args:
        splits: The rows of each role.
        columns: The column of each role; roles that are left out are not looked at.
        problem: What the labels are.
        label_separator: What separates several labels in one cell.
    """
    report = Report()
    sounds, cells = check_sounds(report, splits.items(), columns, problem, label_separator)
    return audit_labelled(report, splits, sounds, cells, problem, "sound")


def check_sounds(
    report: Report, named: Sequence[tuple[str, Dataset]], columns: Columns, problem: str, separator: str | None
) -> tuple[dict[str, list[Text] | None], dict[str, list[Any] | None]]:
    """Digests and labels of each split, each row listened to by itself."""
    missing = {name: missing_columns(report, name, rows, columns) for name, rows in named}
    rates: Counter[int] = Counter()
    found = {
        name: None if "audio" in missing[name] else _heard(report, name, rows, columns, rates) for name, rows in named
    }
    if len(rates) > 1:
        shown = ", ".join(f"{count:,} of {rate:,} Hz" for rate, count in rates.most_common(5))
        report.warnings.append(f"sounds have different rates: {shown}; all become those of the model's rate")
    return found, check_labels(report, named, columns, missing, problem, separator)


def _heard(report: Report, name: str, rows: Dataset, columns: Columns, rates: Counter[int]) -> list[Text] | None:
    """Row number and digest of each sound; None where some cannot be read."""
    column = str(columns["audio"])
    sounds = rows[column][:]
    empty = where(rows, sounds, lambda one: one is None or (isinstance(one, str) and not one.strip()))
    report.rows(name, empty, f"whose '{column}' is empty", "Name the sounds, or delete the rows", PATH)
    if empty or not sounds:
        return None
    numbers = numbers_of(rows)
    try:
        found = read_all(sounds, _Found.of, rows=numbers)
    except DataError as error:
        report.problems += [replace(one, path=one.path or PATH) for one in error.problems]
        return None
    rates.update(one.rate for one in found)
    short = [number for number, one in zip(numbers, found, strict=True) if one.seconds < SHORTEST]
    what = f"whose sound is shorter than {1000 * SHORTEST:g} ms, which is a frame of most models"
    report.rows(name, short, what, "Delete the rows", PATH)
    _tell(report, name, numbers, found)
    return [(row, (digest(one).hex(),)) for row, one in zip(numbers, sounds, strict=True)]


def _tell(report: Report, name: str, numbers: Sequence[int], found: Sequence[_Found]) -> None:
    """What is odd about the sounds of a split."""
    paired = list(zip(numbers, found, strict=True))
    for said, which in (
        ("silent", [number for number, one in paired if one.silent]),
        ("cut off at full scale (clipped)", [number for number, one in paired if one.clipped]),
    ):
        if which:
            count = "1 sound" if len(which) == 1 else f"{len(which)} sounds"
            verb = "is" if len(which) == 1 else "are"
            report.warnings.append(f"{count} of {len(found)} in {name} {verb} {said}: {listed(which)}")
    seconds = sorted(one.seconds for one in found)
    if seconds[-1] > UNEVEN * seconds[0]:
        shown = f"from {seconds[0]:.2f} to {seconds[-1]:.2f} seconds"
        report.warnings.append(f"sounds of {name} are of very different length, {shown}")
