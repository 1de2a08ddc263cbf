"""Files of predictions: written whole or not at all, gone on with where a process was killed.

While rows are predicted they are appended to `.NAME.partial`, a line of JSON each, and after each stretch it is noted
how many are safe. What is asked for, jsonl, csv or parquet, is made of that in the end, a stretch at a time.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from hfstrat.errors import Problem, UsageError
from hfstrat.runs.directory import write_json

Record = dict[str, Any]
FORMATS = (".jsonl", ".csv", ".parquet")
AT_ONCE = 4096  # rows in memory at once where one format becomes another


@contextmanager
def written(output: Path, about: Mapping[str, Any] | None) -> Iterator[Partial]:
    """A file of predictions, which is there once the block ends well.

    Args:
        output: What it is called; its ending says in which format it is.
        about: What the predictions depend on, plain data: a partial file of the same is gone on with. None where what
            is read cannot be read again from its middle, such as a pipe.

    Raises:
        UsageError: Another process writes it, or its folder cannot be written.
    """
    place = output.with_name(f".{output.name}.partial")
    try:
        stream = place.open("a+b")
    except OSError as error:
        what = f"{output} cannot be written: {error.strerror or error}"
        raise UsageError(Problem(what, hint="Name another --output")) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(Problem(f"another process writes {output}", hint="Name another --output")) from None
        partial = Partial(output, place, stream, about)
        try:
            yield partial
        except BaseException:
            if not partial.kept:
                partial.remove()
            raise
        partial.finish()


class Partial:
    """Predictions that are being written.

    Args:
        output: What they become.
        place: Where they are until then.
        stream: That file.
        about: As of `written`.
    """

    def __init__(self, output: Path, place: Path, stream: IO[bytes], about: Mapping[str, Any] | None) -> None:
        self._output, self._place, self._stream, self._about = output, place, stream, about
        self._note = place.with_name(f"{place.name}.json")
        self.done, size = self._safe()
        """Rows that are written, those of an earlier process included."""
        stream.truncate(size)
        stream.seek(size)

    def _safe(self) -> tuple[int, int]:
        """How many rows and bytes of the same predictions an earlier process left."""
        if self._about is None or not self._note.is_file():
            return 0, 0
        try:
            known = json.loads(self._note.read_text("utf-8"))
            rows, size, about = int(known["rows"]), int(known["bytes"]), known["about"]
        except (ValueError, KeyError, TypeError):
            return 0, 0
        whole = about == json.loads(json.dumps(self._about)) and self._place.stat().st_size >= size
        return (rows, size) if whole else (0, 0)

    @property
    def kept(self) -> bool:
        """Whether another process could go on with what is here."""
        return self._about is not None and self.done > 0

    def write(self, records: Iterable[Record], size: int) -> None:
        """Append rows.

        Args:
            records: They.
            size: After how many of them it is noted that they are safe.
        """
        stretches = iter(records)
        while lines := [json.dumps(record, ensure_ascii=False) + "\n" for record in islice(stretches, size)]:
            self._stream.write("".join(lines).encode("utf-8"))
            self._stream.flush()
            self.done += len(lines)
            if self._about is not None:
                os.fsync(self._stream.fileno())
                write_json(self._note, {"rows": self.done, "bytes": self._stream.tell(), "about": self._about})

    def finish(self) -> None:
        """Put the file in its place."""
        _MAKE[self._output.suffix](self._place, self._output)
        self.remove()

    def remove(self) -> None:
        """Leave nothing but what was asked for."""
        self._place.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def _records(place: Path) -> Iterator[list[Record]]:
    with place.open(encoding="utf-8") as stream:
        while lines := list(islice(stream, AT_ONCE)):
            yield [json.loads(line) for line in lines]


def _jsonl(place: Path, output: Path) -> None:
    place.replace(output)


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A temporary name that becomes the file once it is whole."""
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def _csv(place: Path, output: Path) -> None:
    """A column for each label and each further entry; lists are joined by `|`, objects are JSON."""
    with _beside(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer, names = csv.writer(stream), None
        for record in (record for stretch in _records(place) for record in stretch):
            scores = record.get("scores", {})
            if names is None:
                names = [name for name in record if name not in ("id", "prediction", "scores")]
                writer.writerow(["id", "prediction", *names, *scores])
            shown = [_cell(record[name]) for name in ("prediction", *names)]
            writer.writerow([record["id"], *shown, *(f"{score:.6f}" for score in scores.values())])


def _cell(value: Any) -> Any:
    """A value in one cell: labels with a bar between them, entities as JSON, nothing for None."""
    if not isinstance(value, list):
        return value
    plain = not any(isinstance(one, dict) for one in value)
    return "|".join(map(str, value)) if plain else json.dumps(value, ensure_ascii=False)


def _parquet(place: Path, output: Path) -> None:
    """Columns as in jsonl, `scores` a structure with a field for each label."""
    import pyarrow
    from pyarrow import parquet

    schemas = [pyarrow.schema([("id", pyarrow.string())])]
    schemas += [pyarrow.Table.from_pylist(stretch).schema for stretch in _records(place)]
    # A stretch without any entity does not know what one is made of.
    schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
    with _beside(output) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for stretch in _records(place):
            writer.write_table(pyarrow.Table.from_pylist(stretch, schema))


_MAKE: dict[str, Callable[[Path, Path], None]] = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
