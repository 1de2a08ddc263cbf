"""Text that is read piece by piece: files and data sets that are larger than memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfstrat.data import sources
from hfstrat.errors import DataError, Problem, did_you_mean
from hfstrat.recipe.data import DataSpec, FileData, HubData

if TYPE_CHECKING:
    from datasets import Dataset

PIECE = 1_000_000  # characters that are read together, about
SUFFIXES = (".txt", ".jsonl", ".ndjson", ".parquet")
Part = tuple[str, bool]
"""Some text, and whether a document ends with it."""


@dataclass(frozen=True)
class FileStream:
    """The documents of some files.

    Args:
        files: The files, in order.
        column: The column of texts, where they have columns.
        sample_by: What of a txt file is a document.
        fingerprint: SHA-256 of their content, in hex.
    """

    files: tuple[Path, ...]
    column: str
    sample_by: str
    fingerprint: str

    def parts(self) -> Iterator[Part]:
        """All text in order, in parts of bounded size.

        Raises:
            DataError: A file is not what its name says; with its line.
        """
        for file in self.files:
            if file.suffix.lower() == ".txt":
                yield from self._of_text(file)
            elif file.suffix.lower() == ".parquet":
                yield from self._of_parquet(file)
            else:
                yield from self._of_lines(file)

    def _of_text(self, file: Path) -> Iterator[Part]:
        """Parts that end with a line, and where lines or paragraphs are documents those."""
        held: list[str] = []
        size, ended = 0, True
        for _, line in _lines(file):
            if self.sample_by == "line":
                ends = line.endswith("\n") or len(line) < PIECE
                if line.strip() or not ended:  # of a line that came in parts, all that is left may be its end
                    yield line.rstrip("\n"), ends
                ended = ends
                continue
            if self.sample_by == "paragraph" and not line.strip():
                if held:
                    yield "".join(held).rstrip("\n"), True
                held, size = [], 0
                continue
            held.append(line)
            size += len(line)
            if size >= PIECE:
                yield "".join(held), False
                held, size = [], 0
        text = "".join(held)
        if self.sample_by == "document":
            yield text, True
        elif held:
            yield text.rstrip("\n"), True

    def _of_lines(self, file: Path) -> Iterator[Part]:
        for number, line in _lines(file, whole=True):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise _wrong(file, f"this is not JSON: {error}", number) from None
            yield self._cell(row if isinstance(row, dict) else {}, file, number), True

    def _of_parquet(self, file: Path) -> Iterator[Part]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(file) as table:
                if self.column not in table.schema_arrow.names:
                    raise _wrong(file, _no_column(self.column, table.schema_arrow.names))
                for batch in table.iter_batches(1000, columns=[self.column]):
                    for cell in batch.column(0).to_pylist():
                        yield str(cell or ""), True
        except pa.ArrowInvalid as error:
            raise _wrong(file, f"this is not a whole parquet file: {error}") from None

    def _cell(self, row: Mapping[str, Any], file: Path, number: int) -> str:
        value = row.get(self.column)
        if self.column not in row:
            raise _wrong(file, _no_column(self.column, list(row)), number)
        if value is not None and not isinstance(value, str):
            raise _wrong(file, f"'{self.column}' is not text", number)
        return value or ""


@dataclass(frozen=True)
class HubStream:
    """The documents of a split on the Hub, fetched as they are read.

    Args:
        source: The data set's id.
        subset: Its configuration.
        revision: Its commit.
        split: The split.
        column: The column of texts.
    """

    source: str
    subset: str | None
    revision: str | None
    split: str
    column: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what names the content, in hex."""
        named = (self.source, self.subset, self.revision, self.split, self.column)
        return hashlib.sha256(repr(named).encode()).hexdigest()

    def parts(self) -> Iterator[Part]:
        """All documents in order.

        Raises:
            DataError: They cannot be read, or have no such column.
        """
        import datasets

        try:
            rows = datasets.load_dataset(
                self.source, name=self.subset, revision=self.revision, split=self.split, streaming=True
            )
            for row in rows:
                if self.column not in row:
                    raise DataError(Problem(_no_column(self.column, list(row)), path="data.columns.text"))
                yield str(row[self.column] or ""), True
        except DataError:
            raise
        except Exception as error:  # whatever the readers of some hundred formats raise
            raise DataError(Problem(f"{self.source} cannot be read: {error}", path="data.source")) from error


Stream = FileStream | HubStream


def open_stream(spec: DataSpec, column: str, folder: Path | None = None) -> tuple[Stream, dict[str, Dataset], str]:
    """The training split as a stream, and the other splits that the recipe names, read whole.

    Args:
        spec: The recipe's `data`.
        column: The column of texts.
        folder: The recipe's folder.

    Returns:
        The stream, validation and test rows by role, and where all is from, in words.

    Raises:
        DataError: A file is missing or cannot be streamed, or a part of what is streamed is to be held out.
    """
    problems = [
        Problem(
            f"a share of text that is streamed cannot be held out for {role}",
            path=f"data.{role}",
            hint="Name a split or a file, or leave it out",
        )
        for role in ("validation", "test")
        if not isinstance(getattr(spec, role), str)
    ]
    if not isinstance(spec, (FileData, HubData)):
        problems.append(Problem("only files and data sets on the Hub are streamed", "data.streaming", hint="Remove it"))
    if problems:
        raise DataError(problems)
    if isinstance(spec, HubData):
        return _on_hub(spec, column)
    assert isinstance(spec, FileData), "nothing else is streamed"
    groups = sources.groups_of(spec, folder)
    name = (
        spec.train if spec.train != "auto" else "train" if "train" in groups or len(groups) > 1 else next(iter(groups))
    )
    if name not in groups:
        hint = did_you_mean(name, list(groups))
        raise DataError(Problem(f"there is no split '{name}'", "data.train", hint=hint))
    odd = [file for file in groups[name] if file.suffix.lower() not in SUFFIXES]
    if odd:
        hint = f"Files that end in {', '.join(SUFFIXES)} are"
        raise DataError(Problem(f"{odd[0].name} cannot be streamed", "data.streaming", hint=hint))
    held = _held(spec, name, list(groups), lambda key: sources.read_files(groups[key], spec))
    stream = FileStream(tuple(groups[name]), column, spec.sample_by, _content(groups[name], spec.sample_by, column))
    return stream, held, spec.source


def _on_hub(spec: HubData, column: str) -> tuple[HubStream, dict[str, Dataset], str]:
    try:
        return _found_on_hub(spec, column)
    except DataError:
        raise
    except Exception as error:  # whatever the readers of some hundred formats raise
        hint = "Name data.subset, if it has several"
        raise DataError(Problem(f"{spec.source} cannot be read: {error}", "data.source", hint=hint)) from error


def _found_on_hub(spec: HubData, column: str) -> tuple[HubStream, dict[str, Dataset], str]:
    import datasets

    revision = sources.revision_on_hub(spec)
    train = "train" if spec.train == "auto" else spec.train
    names = datasets.get_dataset_split_names(spec.source, spec.subset, revision=revision)
    if train not in names:
        hint = did_you_mean(train, names)
        raise DataError(Problem(f"{spec.source} has no split '{train}'", "data.train", hint=hint))
    options = {"name": spec.subset, "revision": revision}
    held = _held(spec, train, names, lambda key: datasets.load_dataset(spec.source, split=key, **options))
    return HubStream(spec.source, spec.subset, revision, train, column), held, f"{spec.source}, commit {revision}"


def _held(spec: DataSpec, train: str, names: list[str], read: Callable[[str], Dataset]) -> dict[str, Dataset]:
    """Validation and test rows by role, of which there are those of one at least.

    Args:
        spec: The recipe's `data`.
        train: The split that is streamed.
        names: All splits.
        read: Reads one.

    Raises:
        DataError: A split that the recipe names is not there, or nothing is.
    """
    found = {}
    for role in ("validation", "test"):
        asked = getattr(spec, role)
        key = role if asked == "auto" else asked
        if key in names and key != train:
            found[role] = read(key)
        elif asked != "auto":
            hint = did_you_mean(key, names)
            raise DataError(Problem(f"there is no split '{key}' beside train", f"data.{role}", hint=hint))
    if not found:
        hint = "Name a split or a file for data.validation or data.test"
        raise DataError(Problem("a model that is trained on a stream is measured on other text", "data", hint=hint))
    return found


def _content(files: list[Path], sample_by: str, column: str) -> str:
    digest = hashlib.sha256(f"{sample_by}\n{column}".encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _lines(file: Path, *, whole: bool = False) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1; very long ones in parts, unless they are wanted whole.

    Raises:
        DataError: One is no UTF-8.
    """
    number = 0
    try:
        with file.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream if whole else _bounded(stream), 1):
                yield number, line
    except UnicodeDecodeError as error:
        raise _wrong(file, f"the text is not UTF-8: {error.reason}", number + 1) from None


def _bounded(stream: Any) -> Iterator[str]:
    """Lines, of which a very long one comes in parts."""
    while line := stream.readline(PIECE):
        yield line


def _no_column(column: str, names: list[str]) -> str:
    return f"there is no column '{column}'; the columns are: {', '.join(names)}"


def _wrong(file: Path, message: str, line: int | None = None) -> DataError:
    return DataError(Problem(message, path="data.source", where=f"{file}:{line}" if line else str(file)))
