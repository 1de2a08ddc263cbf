"""`hfstrat predict`: a line out for each text in.

A line of jsonl is `{"id", "prediction", "scores": {label: probability}}`; for numbers there are no scores. In csv the
columns are `id`, `prediction` and one column for each label; several labels are joined by `|`. Entities are a list of
objects, in csv as JSON, and so are boxes; an answer has its characters and its score in columns of their own. Parquet
has the columns of jsonl. A continuation of text that is typed in is shown as it is written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hfstrat.errors import Problem, UsageError
from hfstrat.verbs.predictions import FORMATS, Record, written
from hfstrat.verbs.progress import observer, say

if TYPE_CHECKING:
    from hfstrat.inference import Predictor


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
    if output is not None and output.suffix not in FORMATS:
        hint = "Name a .jsonl, .csv or .parquet file"
        raise UsageError(Problem(f"cannot write {output.suffix or output.name}", hint=hint))
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

    def records(start: int = 0) -> Iterable[Record]:
        if data != "-":
            return predictor.predict_file(Path(data), listener, draw, start)
        return _numbered(predictor.predict(texts) for texts in _chunks(sys.stdin, predictor.chunk))

    if output is None:
        for record in records():
            print(json.dumps(record, ensure_ascii=False))
        return
    with written(output, _about(predictor, data)) as partial:
        if partial.done:
            listener.note(f"going on after {partial.done:,} predictions of an earlier process")
        try:
            partial.write(records(partial.done), predictor.chunk)
        except BaseException:
            if partial.kept:
                listener.note(f"{partial.done:,} predictions are kept; the same command goes on after them")
            raise
    listener.finished()
    say(f"{output}: {partial.done:,} predictions")


def _about(predictor: Predictor, data: str) -> dict[str, Any] | None:
    """What the predictions of a file depend on; None where it is no file, and is read from its beginning each time."""
    file = Path(data)
    if data == "-" or not file.is_file():
        return None
    artefact = sorted(path for path in predictor.run.artifact.rglob("*") if path.is_file())
    return {"data": _mark(file), "model": [_mark(path) for path in artefact]}


def _mark(file: Path) -> list[Any]:
    """A file's name, size and time, which change when it does."""
    known = file.stat()
    return [str(file.resolve()), known.st_size, known.st_mtime_ns]


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
