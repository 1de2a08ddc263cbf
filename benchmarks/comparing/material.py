"""The rows that both sides get, written once as three files."""

from __future__ import annotations

import csv
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

Row = tuple[str, str]
SEED = 0


def material(source: Path, folder: Path, rows: int | None, test_rows: int | None) -> Path:
    """Write train.csv, validation.csv and test.csv with the columns text and label; what is there stays.

    A tenth of each class is held out for validation. The rest is taken class by class in turn, so that few rows have
    every class, and fewer rows are always among more.

    Args:
        source: Folder of train.csv and test.csv with the columns text and category.
        folder: Where to write.
        rows: Training rows; None for all. Validation is cut in proportion.
        test_rows: Test rows; None for all.
    """
    if folder.is_dir():
        return folder
    train, validation = _held_out(_read(source / "train.csv"))
    test = _read(source / "test.csv")
    random.Random(SEED).shuffle(test)
    if rows is not None:
        validation = validation[: max(1, len(validation) * rows // len(train))]
        train = train[:rows]
    folder.mkdir(parents=True)
    for name, part in {"train": train, "validation": validation, "test": test[:test_rows]}.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("text", "label"))
            writer.writerows(part)
    return folder


def count(folder: Path, name: str) -> int:
    """Rows of a split."""
    return len(texts(folder, name))


def texts(folder: Path, name: str) -> list[str]:
    """Texts of a split."""
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return [row["text"] for row in csv.DictReader(stream)]


def classes(source: Path) -> int:
    """Number of classes."""
    return len({label for _, label in _read(source / "train.csv")})


def digest(source: Path) -> str:
    """SHA-256 of the data."""
    files = (source / "train.csv", source / "test.csv")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _read(file: Path) -> list[Row]:
    with file.open(encoding="utf-8", newline="") as stream:
        return [(row["text"], row["category"]) for row in csv.DictReader(stream)]


def _held_out(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Training and validation rows, each one row of every class after the other."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[1], []).append(row)
    generator = random.Random(SEED)
    for group in groups.values():
        generator.shuffle(group)
    train = [group[len(group) // 10 :] for group in groups.values()]
    validation = [group[: len(group) // 10] for group in groups.values()]
    return _in_turn(train), _in_turn(validation)


def _in_turn(groups: Sequence[Sequence[Row]]) -> list[Row]:
    return [group[place] for place in range(max(map(len, groups))) for group in groups if place < len(group)]
