"""Files: one table from one file of a table, CoNLL or text, with the line of whatever is wrong in it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hfstrat.data import conll
from hfstrat.errors import DataError, Problem

if TYPE_CHECKING:
    import pyarrow as pa

SampleBy = Literal["document", "paragraph", "line"]
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)?(?:\.[0-9]+|(?<=[0-9])\.?)(?:[eE][+-]?[0-9]+)?")
_DELIMITERS = ("\t", ";", "|")


@dataclass(frozen=True)
class Table:
    """What stands in one file.

    Args:
        rows: The table (a `pyarrow.Table`); strings are plain `string`.
        sha256: Hash of the file's bytes.
        reasons: A sentence for each decision that was made in reading.
    """

    rows: pa.Table
    sha256: bytes
    reasons: tuple[str, ...] = ()


def read_table(file: Path, delimiter: str | None = None, sample_by: SampleBy = "document") -> Table:
    """Read a file by its suffix.

    Args:
        file: A csv, tsv, json, jsonl, ndjson, parquet, CoNLL or txt file.
        delimiter: Separator of a csv file; None to take it from the suffix, or from the header line when that line
            has no comma.
        sample_by: What of a txt file is a row.

    Raises:
        DataError: The file cannot be read, is empty or is malformed; the message names its line where there is one.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise _error(file, f"the file cannot be read: {error.strerror or error}") from error
    if not data.strip():
        raise _error(file, "the file is empty")
    reasons: list[str] = []
    suffix = file.suffix.lower()
    _check_kind(file, suffix, data)
    if suffix == ".parquet":
        rows = _parquet(file, data)
    elif suffix in (".json", ".jsonl", ".ndjson"):
        rows = _from_records(file, *_records(file, _decode(file, data)))
    elif suffix in (".csv", ".tsv"):
        rows = _separated(file, _decode(file, data), delimiter, reasons)
    elif suffix in conll.SUFFIXES:
        rows = _conll(file, _decode(file, data), suffix)
    elif suffix == ".txt":
        rows = _texts(_decode(file, data), sample_by)
    else:
        raise _error(file, f"'{file.suffix}' files cannot be read", "Use csv, tsv, json, jsonl, parquet, conll or txt")
    if rows.num_rows == 0:
        raise _error(file, "the file has no rows")
    return Table(rows, hashlib.sha256(data).digest(), tuple(reasons))


def _check_kind(file: Path, suffix: str, data: bytes) -> None:
    """Raise for a file whose first bytes say that it is of another kind than its name does."""
    if suffix != ".parquet" and data.startswith(b"PAR1"):
        raise _error(file, "this is a parquet file by its content", "Rename it to end in .parquet")
    if suffix == ".parquet" and not data.startswith(b"PAR1"):
        raise _error(file, "this is not a parquet file by its content", "Rename it to end as what it is")
    for start, kind in ((b"PK\x03\x04", "a zip or Excel file"), (b"\x1f\x8b", "a gzip file")):
        if data.startswith(start):
            raise _error(file, f"this is {kind} by its content", "Unpack or export it as csv, jsonl or parquet")


def plain(table: pa.Table) -> pa.Table:
    """The same table with `string` in place of `large_string` and dictionaries of strings."""
    import pyarrow as pa

    fields = [field.with_type(_plain_type(field.type)) for field in table.schema]
    # What stays as it is is not cast: pyarrow cannot cast objects of which one field is empty everywhere.
    columns = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(table.columns, fields, strict=True)
    ]
    return pa.table(columns, schema=pa.schema(fields, metadata=table.schema.metadata))


def with_common_types(table: pa.Table, parts: Sequence[pa.Table]) -> pa.Table:
    """Cast the columns that have another type in another part: to numbers if all are, else to text."""
    import pyarrow as pa

    def common(name: str) -> pa.DataType:
        types = {part.schema.field(name).type for part in parts} - {pa.null()}
        if len(types) <= 1:
            return next(iter(types), pa.null())
        return pa.float64() if types <= {pa.int64(), pa.float64()} else pa.string()

    return table.cast(pa.schema([(name, common(name)) for name in table.column_names]))


def _plain_type(kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def _error(file: Path, message: str, hint: str = "", *, line: int | None = None) -> DataError:
    return DataError(Problem(message, where=f"{file}:{line}" if line else str(file), hint=hint))


def _decode(file: Path, data: bytes) -> str:
    """UTF-8, with or without a byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise _error(file, "the text is UTF-16", _convert("utf-16", file)) from None
        # The byte order mark is cut off before positions are counted.
        place = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data.count(b"\n", 0, place) + 1
        message = f"the text is not UTF-8: byte 0x{data[place]:02x} at position {place}"
        raise _error(file, message, _convert("windows-1252", file), line=line) from None


def _convert(encoding: str, file: Path) -> str:
    return f"Convert it, for example: iconv -f {encoding} -t utf-8 {file.name}"


# --- csv and tsv --------------------------------------------------------------------------------------------


def _separated(file: Path, text: str, delimiter: str | None, reasons: list[str]) -> pa.Table:
    import pyarrow as pa

    mark = delimiter or _delimiter(file, text, reasons)
    if len(mark) != 1:
        raise _error(file, f"the delimiter {mark!r} is not one character", "Correct data.delimiter")
    try:
        rows = _cells(file, text, mark, csv.QUOTE_MINIMAL)
    except csv.Error as error:
        if mark != "\t":
            raise _unquoted(file, str(error)) from None
        # Tab-separated files are often written without any quoting, and then a quotation mark is only a sign.
        reasons.append(f"{file.name}: quotation marks are read as text ({error})")
        rows = _cells(file, text, mark, csv.QUOTE_NONE)
    header = _header(file, rows[0][1])
    _check_widths(file, rows, len(header))
    columns = zip(*(cells for _, cells in rows[1:]), strict=True)
    arrays = [_typed(column) for column in columns] or [pa.array([], pa.string()) for _ in header]
    return pa.table(arrays, names=header)


def _unquoted(file: Path, said: str) -> DataError:
    line, _, message = said.partition("\t")
    hint = 'A cell with quotation marks is written "like ""this"" one"'
    return _error(file, f"a quotation mark is not closed or not doubled ({message})", hint, line=int(line))


def _cells(file: Path, text: str, delimiter: str, quoting: Any) -> list[tuple[int, list[str]]]:
    """Rows with the line that they begin in; blank lines are left out.

    Raises:
        csv.Error: Quoting is wrong; the text is the line, a tab and the reason.
    """
    limit = csv.field_size_limit(len(text) + 1)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        strict=True,
        quoting=quoting,
        skipinitialspace=delimiter != "\t",
    )
    rows: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for cells in reader:
            if any(cells) or len(cells) > 1:  # a blank line is no row
                rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(f"{line}\t{error}") from None
    finally:
        csv.field_size_limit(limit)
    return rows


def _delimiter(file: Path, text: str, reasons: list[str]) -> str:
    if file.suffix.lower() == ".tsv":
        return "\t"
    header = text.lstrip().splitlines()[0]
    if "," not in header:
        for mark in _DELIMITERS:
            if mark in header:
                reasons.append(f"{file.name}: cells are separated by {mark!r}, as in the header line")
                return mark
    return ","


def _header(file: Path, cells: Sequence[str]) -> list[str]:
    """Names of the columns; an index column that pandas wrote has none and gets one."""
    names = [name.strip() or f"unnamed_{place}" for place, name in enumerate(cells)]
    _check_unique(file, names, line=1)
    return names


def _check_unique(file: Path, names: Iterable[str], line: int | None = None) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise _error(file, f"two columns are named '{twice[0]}'", "Rename or remove one", line=line)


def _check_widths(file: Path, rows: Sequence[tuple[int, list[str]]], width: int) -> None:
    ragged = [(line, len(cells)) for line, cells in rows if len(cells) != width]
    if ragged:
        line, count = ragged[0]
        others = f"; {len(ragged) - 1} more such rows" if len(ragged) > 1 else ""
        message = f"this row has {count} cells and the header has {width}{others}"
        hint = "Put cells that contain the separator in quotation marks, or set data.delimiter"
        raise _error(file, message, hint, line=line)


def _typed(column: Sequence[str]) -> pa.Array:
    """Numbers only where each cell is written as a number is; `001`, `NA`, `None` and `nan` stay text.

    An empty cell is a missing value.
    """
    import pyarrow as pa

    filled = [cell for cell in column if cell != ""]
    if filled and all(_INTEGER.fullmatch(cell) for cell in filled):
        return pa.array([int(cell) if cell else None for cell in column], pa.int64())
    if filled and all(_NUMBER.fullmatch(cell) for cell in filled):
        return pa.array([float(cell) if cell else None for cell in column], pa.float64())
    return pa.array([cell or None for cell in column], pa.string())


# --- json ---------------------------------------------------------------------------------------------------


Records = list[tuple[int, dict[str, Any]]]


class _Twice(ValueError):
    """A field that an object has twice; the text is its name."""


def _records(file: Path, text: str) -> tuple[Records, bool]:
    """Objects with a number that finds them: their line in json lines, their position in a json list.

    Returns:
        Them, and whether the numbers are lines.
    """
    if file.suffix.lower() == ".json":
        try:
            return list(enumerate(_list_in(file, json.loads(text, object_pairs_hook=_object)), 1)), False
        except json.JSONDecodeError as error:
            # Many a .json file has one object a line.
            if error.msg != "Extra data":
                hint = "Is it another kind of file? It is read as its name ends"
                raise _error(file, f"this is not JSON: {error.msg}", hint, line=error.lineno) from None
        except RecursionError:
            raise _error(file, "it is nested too deeply") from None
        except _Twice as error:
            raise _error(file, f"an object has the field '{error}' twice", "Rename or remove one") from None
    return list(_lines(file, text)), True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Twice(next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1))
    return found


def _list_in(file: Path, value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
        if value and all(isinstance(one, dict) and _is_article(one) for one in value):
            value = list(_questions(value))
    if isinstance(value, dict) and not any(isinstance(cell, (dict, list)) for cell in value.values()):
        value = [value]
    if not isinstance(value, list):
        raise _error(file, "this is not a list of objects", 'Write [{"text": …}, …] or {"data": [{"text": …}, …]}')
    for place, item in enumerate(value, 1):
        if not isinstance(item, dict):
            raise _error(file, f"item {place} is not an object", 'Each item is written {"text": …, "label": …}')
    return value


def _is_article(value: dict[str, Any]) -> bool:
    paragraphs = value.get("paragraphs")
    return isinstance(paragraphs, list) and all(isinstance(one, dict) for one in paragraphs)


def _questions(articles: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of a file as SQuAD, and CUAD after it, are published: articles of paragraphs of questions."""
    for article in articles:
        for paragraph in article["paragraphs"]:
            for one in paragraph.get("qas") or ():
                yield {
                    "id": one.get("id"),
                    "title": article.get("title"),
                    "question": one.get("question"),
                    "context": paragraph.get("context"),
                    "answers": one.get("answers") or [],
                }


def _lines(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(): it also splits at signs that may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_object)
        except _Twice as error:
            raise _error(file, f"the field '{error}' is given twice", "Rename or remove one", line=number) from None
        except json.JSONDecodeError as error:
            message = f"this line is not JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
            raise _error(file, message, "Each line is one whole object", line=number) from None
        except RecursionError:
            raise _error(file, "this line is nested too deeply", line=number) from None
        if not isinstance(value, dict):
            raise _error(file, "this line is not an object", 'Write {"text": …, "label": …}', line=number)
        yield number, value


def _from_records(file: Path, records: Records, has_lines: bool) -> pa.Table:
    import pyarrow as pa

    names = list(dict.fromkeys(name for _, record in records for name in record))
    arrays = []
    for name in names:
        values = [record.get(name) for _, record in records]
        try:
            arrays.append(pa.array(values, from_pandas=False))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
            raise _mixed(file, name, records, error, has_lines) from None
    return plain(pa.table(arrays, names=names))


def _mixed(file: Path, name: str, records: Records, error: Exception, has_lines: bool) -> DataError:
    """Where a column begins to hold something else than in its first row, or half a character."""
    first: type | None = None
    for number, record in records:
        value = record.get(name)
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            place = f"column '{name}'" if has_lines else f"item {number}, column '{name}',"
            message = f"{place} holds half a character (an escape from \\ud800 to \\udfff)"
            return _error(file, message, "Remove it", line=number if has_lines else None)
        kind = float if type(value) is int else type(value)
        if value is None or kind is first:
            continue
        if first is not None:
            place = "here" if has_lines else f"in item {number}"
            message = f"column '{name}' holds {_json_kind(first)} above and {_json_kind(kind)} {place}"
            return _error(file, message, "Write all of them in one way", line=number if has_lines else None)
        first = kind
    return _error(file, f"column '{name}' cannot be read: {_said(error)}", "Write these cells as text")


def _said(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _json_kind(kind: type) -> str:
    names = {str: "text", float: "numbers", bool: "true/false", list: "lists", dict: "objects"}
    return names.get(kind, kind.__name__)


def _conll(file: Path, text: str, suffix: str) -> pa.Table:
    import pyarrow as pa

    try:
        return pa.table(conll.columns_of(text, suffix))
    except conll.Malformed as error:
        number, message = error.args
        raise _error(file, message, "Each line is a word with its tags", line=number) from None


def _texts(text: str, sample_by: SampleBy) -> pa.Table:
    """The whole text, its paragraphs, or its lines; empty ones are left out."""
    import pyarrow as pa

    text = text.replace("\r\n", "\n")
    if sample_by == "document":
        return pa.table({"text": [text]})
    parts = text.split("\n") if sample_by == "line" else re.split(r"\n[ \t]*\n", text)
    return pa.table({"text": [part.strip("\n") for part in parts if part.strip()]})


# --- parquet ------------------------------------------------------------------------------------------------


def _parquet(file: Path, data: bytes) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _check_unique(file, pq.read_schema(pa.BufferReader(data)).names)
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise _error(file, f"this is not a whole parquet file: {_said(error)}", "Copy or download it again") from None
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        hint = "Write text as UTF-8, as pandas and pyarrow do"
        raise _error(file, f"its cells are not what its columns say: {_said(error)}", hint) from None
    index = [name for name in table.column_names if re.fullmatch(r"__index_level_\d+__", name)]
    return plain(table.drop_columns(index))
