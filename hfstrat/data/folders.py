"""Folders of pictures or sound, in the forms that the Hub's `imagefolder` and `audiofolder` have.

A folder says by its names what a file is: `root/<class>/<file>`, or `root/<split>/<class>/<file>`; or a table beside
the files, `metadata.csv` or `metadata.jsonl`, says it of each. The Hub's readers take what fits one form and leave out
the rest without a word; here, everything that does not fit is a problem, and all problems are reported at once.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hfstrat.data import files
from hfstrat.data.listing import refused
from hfstrat.data.sources import SPLIT_ALIASES
from hfstrat.errors import DataError, Problem, did_you_mean
from hfstrat.recipe.data import TABLE_SUFFIXES

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

PICTURE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
SOUND_SUFFIXES = frozenset({".flac", ".mp3", ".ogg", ".wav"})
MEDIA = {"image": PICTURE_SUFFIXES, "audio": SOUND_SUFFIXES}
"""Endings of the files that a column of a role names."""
METADATA = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"
"""The column of the metadata that names a file, relative to the metadata's own folder."""

_SPLITS = ("train", "validation", "test")
_FORMS = "Use root/class/file, root/split/class/file, or files with metadata.csv or metadata.jsonl"


@dataclass
class _Reading:
    """What is found in a folder, and what is wrong with it."""

    root: Path
    suffixes: Collection[str]
    column: str
    tables: dict[str, pa.Table] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, message: str, where: Path, hint: str = "") -> None:
        self.problems.append(Problem(message, where=str(where), hint=hint))


def is_media_folder(path: Path, suffixes: Collection[str]) -> bool:
    """Whether a folder is one of media files: there is one at most three levels down, and no table of other data.

    Args:
        path: A folder, or something else.
        suffixes: Endings of media files, in small letters.
    """
    if not path.is_dir():
        return False
    tables = TABLE_SUFFIXES - {".txt"}  # a text beside the files tells of them
    if any(entry.suffix.lower() in tables and entry.name not in METADATA for entry in _entries(path)):
        return False
    return next(_media(path, suffixes, depth=3), None) is not None


def read_folder(path: Path, suffixes: Collection[str], column: str) -> dict[str, Dataset]:
    """The files of a folder by split, with what the folder says of each.

    Splits are folders named train, validation or test, or with another of their names (`val`); without any, all is
    train. Hidden files, and files with other endings, are left out.

    Args:
        path: The folder.
        suffixes: Endings of its media files, in small letters.
        column: Name of the column for the files.

    Returns:
        By split, `column` with absolute names and `label` with the class's, both strings, sorted by name; with
        metadata, its columns as they are with `column` in place of `file_name`, in the order of its rows.

    Raises:
        DataError: The folder has another form, or files and metadata do not belong together.
    """
    root = Path(os.path.abspath(path))
    reading = _Reading(root, suffixes, column)
    if next(_media(root, suffixes), None) is None:
        endings = ", ".join(sorted(suffixes))
        reading.wrong("there is no file in this folder that can be read", root, f"Files end in {endings}")
    elif _metadata_of(root):
        _read_metadata(reading, root, None)
    else:
        _read_folders(reading)
    _check_alike(reading)
    if reading.problems:
        raise refused(reading.problems)
    return _datasets(reading.tables)


def files_alone(path: Path, suffixes: Collection[str], column: str) -> Dataset | None:
    """A file, or all files of a folder however deep, by their names alone (`id`); None where there is none.

    Args:
        path: The file or the folder.
        suffixes: Endings of media files, in small letters.
        column: Name of the column for the files.
    """
    from datasets import Dataset

    if path.is_file():
        found = [path] if path.suffix.lower() in suffixes else []
    else:
        found = sorted(_media(path, suffixes)) if is_media_folder(path, suffixes) else []
    if not found:
        return None
    root = path if path.is_dir() else path.parent
    names = [file.relative_to(root).as_posix() for file in found]
    return Dataset.from_dict({"id": names, column: [file.absolute().as_posix() for file in found]})


def _datasets(tables: Mapping[str, pa.Table]) -> dict[str, Dataset]:
    from datasets import Dataset

    there = list(tables.values())
    if all(set(table.column_names) == set(there[0].column_names) for table in there):
        # A column may look like numbers in one split and like text in another: text holds both.
        tables = {split: files.with_common_types(table, there) for split, table in tables.items()}
    return {split: Dataset(tables[split]) for split in sorted(tables, key=_SPLITS.index)}


def fingerprint(path: Path, suffixes: Collection[str]) -> str:
    """SHA-256, in hex, over relative names and contents of the media files and the metadata of a folder.

    Raises:
        DataError: A file cannot be read.
    """
    digest = hashlib.sha256()
    found = [*_media(path, suffixes), *(file for file in _walk(path) if file.name in METADATA)]
    for name, file in sorted((file.relative_to(path).as_posix(), file) for file in found):
        try:
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").digest()
        except OSError as error:
            message = f"the file cannot be read: {error.strerror or error}"
            raise DataError(Problem(message, where=str(file))) from error
        # The length tells where a name ends.
        digest.update(f"{len(name.encode())} {name}".encode() + content)
    return digest.hexdigest()


# --- what lies there ----------------------------------------------------------------------------------------


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without what systems leave there (`.DS_Store`, `__MACOSX`)."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__")))


def _walk(folder: Path, depth: int | None = None) -> Iterator[Path]:
    """Files of a folder and of folders in it, that many levels down; None for all."""
    for entry in _entries(folder):
        if not entry.is_dir():
            yield entry
        elif depth is None or depth > 1:
            yield from _walk(entry, None if depth is None else depth - 1)


def _media(folder: Path, suffixes: Collection[str], depth: int | None = None) -> Iterator[Path]:
    return (file for file in _walk(folder, depth) if file.suffix.lower() in suffixes)


def _metadata_of(folder: Path) -> list[Path]:
    return [folder / name for name in METADATA if (folder / name).is_file()]


def _split_of(name: str) -> str | None:
    """The split that a folder's name stands for; None if it is another name."""
    split = SPLIT_ALIASES.get(name.lower(), name.lower())
    return split if split in _SPLITS else None


# --- classes ------------------------------------------------------------------------------------------------


def _read_folders(reading: _Reading) -> None:
    """A folder without metadata of its own: of splits, or of classes."""
    inside = [entry for entry in _entries(reading.root) if entry.is_dir()]
    splits = [folder for folder in inside if _split_of(folder.name)]
    if not splits:
        _read_classes(reading, reading.root, "train")
        return
    _check_loose(reading, reading.root)
    for folder in inside:
        if folder not in splits:
            message = f"this folder is beside the split '{splits[0].name}' and is not named as a split"
            reading.wrong(message, folder, "Splits are named train, validation (valid, val, dev) and test")
    with_metadata = [folder for folder in splits if _metadata_of(folder)]
    for folder in splits:
        split = _split_of(folder.name) or ""
        if split in reading.tables:
            reading.wrong(f"two folders are the split {split}", folder, "Put their files into one")
        elif folder in with_metadata:
            _read_metadata(reading, folder, split)
        elif with_metadata:
            message = f"this split has no metadata, and {with_metadata[0].name} has"
            reading.wrong(message, folder, "Write metadata.csv or metadata.jsonl for each split or for none")
        else:
            _read_classes(reading, folder, split)


def _read_classes(reading: _Reading, folder: Path, split: str) -> None:
    """A folder of one split whose folders are classes."""
    import pyarrow as pa

    rows: list[tuple[str, str]] = []
    _check_loose(reading, folder)
    classes = [entry for entry in _entries(folder) if entry.is_dir()]
    if not classes:
        reading.wrong("this folder has no folder for a class", folder, _FORMS)
    for one in classes:
        found = list(_media(one, reading.suffixes, depth=1))
        deeper = next((file for file in _media(one, reading.suffixes) if file.parent != one), None)
        if deeper is not None:
            name = deeper.relative_to(one).as_posix()
            reading.wrong(f"the class '{one.name}' has files in folders of its own ({name})", one, _FORMS)
        elif not found:
            reading.wrong(f"the class '{one.name}' has no file that can be read", one, "Remove the folder, or fill it")
        if _metadata_of(one):
            reading.wrong("metadata lies in the folder of a class", one, _FORMS)
        rows += [(file.as_posix(), one.name) for file in found]
    names, labels = [name for name, _ in rows], [label for _, label in rows]
    reading.tables[split] = pa.table({reading.column: pa.array(names, pa.string()), "label": labels})


def _check_loose(reading: _Reading, folder: Path) -> None:
    loose = list(_media(folder, reading.suffixes, depth=1))
    if loose:
        more = f" and {len(loose) - 1:,} more" if len(loose) > 1 else ""
        message = f"files lie beside folders or without a class ({loose[0].name}{more})"
        reading.wrong(message, folder, _FORMS)


def _check_alike(reading: _Reading) -> None:
    """Names that differ only in capitals, or in how an accent is written, are one file on many a disk."""
    seen: dict[str, str] = {}
    for file in _media(reading.root, reading.suffixes):
        name = file.relative_to(reading.root).as_posix()
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            reading.wrong(f"two files are named alike: {other} and {name}", file, "Rename or remove one")


# --- metadata -----------------------------------------------------------------------------------------------


def _read_metadata(reading: _Reading, folder: Path, split: str | None) -> None:
    """A folder of which a table says what each file is.

    Args:
        reading: What is read.
        folder: Where the table is.
        split: The split that it is; None to take it from the names of files, as in `train/a.png`.
    """
    tables = _metadata_of(folder)
    if len(tables) > 1:
        reading.wrong("there are metadata.csv and metadata.jsonl", folder, "Remove one")
        return
    for other in _walk(folder):
        if other.name in METADATA and other != tables[0]:
            reading.wrong(f"there is metadata in {folder} and here", other, "Put it into one file")
    try:
        table = files.read_table(tables[0]).rows
    except DataError as error:
        reading.problems += error.problems
        return
    if not _check_columns(reading, tables[0], table):
        return
    names = [None if name is None else str(name) for name in table[FILE_NAME].to_pylist()]
    if _check_files(reading, tables[0], names):
        _take(reading, folder, split, table, [name for name in names if name is not None])


def _check_columns(reading: _Reading, file: Path, table: pa.Table) -> bool:
    if FILE_NAME not in table.column_names:
        near = did_you_mean(FILE_NAME, table.column_names, show_all=0)
        reading.wrong(f"there is no column '{FILE_NAME}'", file, near or "It names the file of each row")
        return False
    if reading.column in table.column_names:
        reading.wrong(f"the column '{reading.column}' is where the files go", file, "Rename it")
        return False
    return True


def _check_files(reading: _Reading, metadata: Path, names: Sequence[str | None]) -> bool:
    """Whether the rows and the files are each other's."""
    before = len(reading.problems)
    folder = metadata.parent
    there = {file.relative_to(folder).as_posix() for file in _media(folder, reading.suffixes)}
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        if name is None:
            reading.wrong(f"row {row} names no file", metadata)
            continue
        place = PurePosixPath(name).as_posix()
        if place in rows:
            reading.wrong(f"rows {rows[place]} and {row} name the same file {name}", metadata, "Remove one")
        elif place not in there:
            reading.wrong(f"row {row} names {name}, {_absent(reading, folder, name)}", metadata)
        rows.setdefault(place, row)
    for name in sorted(there - set(rows)):
        reading.wrong(f"{metadata.name} does not name this file", folder / name, "Add a row for it, or remove it")
    return len(reading.problems) == before


def _absent(reading: _Reading, folder: Path, name: str) -> str:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return "which is not a name inside the folder"
    if not (folder / name).is_file():
        return "which is not there"
    return f"which does not end in {', '.join(sorted(reading.suffixes))}"


def _take(reading: _Reading, folder: Path, split: str | None, table: pa.Table, names: Sequence[str]) -> None:
    """Keep the rows by split, with the files' absolute names."""
    import pyarrow as pa

    place = table.column_names.index(FILE_NAME)
    absolute = pa.array([(folder / name).as_posix() for name in names], pa.string())
    whole = table.set_column(place, reading.column, absolute)
    if split is not None:
        reading.tables[split] = whole
        return
    heads = [PurePosixPath(name).parts[0] if len(PurePosixPath(name).parts) > 1 else "" for name in names]
    splits = [_split_of(head) for head in heads]
    if all(one is None for one in splits):
        reading.tables["train"] = whole
        return
    for head, one in dict(zip(heads, splits, strict=True)).items():
        if one is None:
            elsewhere = f"in '{head}'" if head else "are not"
            reading.wrong(
                f"some files are in folders of splits and others {elsewhere}",
                folder,
                "Put all of them into folders of splits, or none",
            )
    for one in dict.fromkeys(one for one in splits if one is not None):
        reading.tables[one] = whole.filter(pa.array([other == one for other in splits]))
