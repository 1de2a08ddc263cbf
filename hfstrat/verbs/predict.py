"""`hfstrat predict`: a line out for each text in.

A line of jsonl is `{"id", "prediction", "scores": {label: probability}}`; for numbers there are no scores. In csv the
columns are `id`, `prediction` and one column for each label; several labels are joined by `|`. Entities are a list of
objects, in csv as JSON, and so are boxes; an answer has its characters and its score in columns of their own. A
continuation of text that is typed in is shown as it is written.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from hfstrat.errors import Problem, UsageError
from hfstrat.verbs.progress import observer, show

Record = dict[str, Any]


def run(
    path: Path,
    data: str,
    output: Path | None,
    revision: str | None,
    trust: bool,
    quiet: bool,
    draw: Path | None = None,
) -> None:
    """Predict a file, or texts from stdin; with `draw` pictures with their boxes go into that folder."""
    if output is not None and output.suffix not in (".jsonl", ".csv"):
        raise UsageError(Problem(f"cannot write {output.suffix or output.name}", hint="Name a .jsonl or a .csv file"))
    listener = observer(quiet=quiet or output is None)
    with listener.working("loading torch and transformers"):
        from hfstrat.execute import quiet as silence
        from hfstrat.hub.pulling import predictor_of
        from hfstrat.training.machine import keep_memory
    silence()
    keep_memory()
    predictor = predictor_of(path, revision, trust_remote_code=trust, observer=listener)
    if draw is not None and (data == "-" or predictor.recipe.task.kind != "object_detection"):
        hint = "Name a file or a folder of pictures, and a run that finds boxes in them"
        raise UsageError(Problem("there are no boxes to draw", hint=hint))
    if data == "-" and output is None and sys.stdin.isatty() and predictor.recipe.task.kind == "causal_lm":
        for line in sys.stdin:
            for part in predictor.stream(line.rstrip("\r\n")):
                print(part, end="", flush=True)
            print()
        return
    records: Iterable[Record] = (
        predictor.predict_file(Path(data), listener, draw)
        if data != "-"
        else _numbered(predictor.predict(texts) for texts in _chunks(sys.stdin, predictor.chunk))
    )
    if output is None:
        for record in records:
            print(json.dumps(record, ensure_ascii=False))
        return
    count = _write(records, output)
    listener.finished()
    show(f"{output}: {count:,} predictions")


def _chunks(lines: IO[str], size: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    for line in lines:
        chunk.append(line.rstrip("\r\n"))
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _numbered(chunks: Iterable[list[Record]]) -> Iterator[Record]:
    number = 0
    for chunk in chunks:
        for record in chunk:
            yield {"id": str(number), **record}
            number += 1


def _write(records: Iterable[Record], output: Path) -> int:
    """Write to a temporary name first, so that a file that is there is whole."""
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            count = _write_jsonl(records, stream) if output.suffix == ".jsonl" else _write_csv(records, stream)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _write_jsonl(records: Iterable[Record], stream: IO[str]) -> int:
    count = 0
    for record in records:
        stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        count += 1
    return count


def _write_csv(records: Iterable[Record], stream: IO[str]) -> int:
    writer, count = csv.writer(stream), 0
    for record in records:
        scores = record.get("scores", {})
        others = [name for name in record if name not in ("id", "prediction", "scores")]
        if count == 0:
            writer.writerow(["id", "prediction", *others, *scores])
        shown = [_cell(record[name]) for name in ("prediction", *others)]
        writer.writerow([record["id"], *shown, *(f"{score:.6f}" for score in scores.values())])
        count += 1
    return count


def _cell(value: Any) -> Any:
    """A value in one cell: labels with a bar between them, entities as JSON, nothing for None."""
    if not isinstance(value, list):
        return value
    plain = not any(isinstance(one, dict) for one in value)
    return "|".join(map(str, value)) if plain else json.dumps(value, ensure_ascii=False)
