"""What is wrong with words and their tags, or with texts and their spans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hfstrat.data.audit import (
    FEW_ROWS,
    LONGEST_TEXT,
    Audit,
    Report,
    Text,
    check_duplicates,
    check_leak,
    check_size,
    listed,
    missing_columns,
    numbers_of,
    texts_of,
    where,
)
from hfstrat.data.splits import Splits, fold
from hfstrat.errors import shortened
from hfstrat.tags import OUTSIDE, broken, entities_of, parted
from hfstrat.tasks.token_classification import cells_of, snap, spans_in, words_of

if TYPE_CHECKING:
    from datasets import Dataset

Columns = Mapping[str, str | tuple[str, ...]]
_SHOWN = 5


@dataclass
class _Found:
    """What one split holds.

    Args:
        texts: Row number and folded text of each row; None when there is no column of them.
        labels: What is marked in each row, in words.
        counts: Entities, or words, by type or tag.
    """

    texts: list[Text] | None = None
    labels: list[tuple[str, ...]] | None = None
    counts: Counter[str] = field(default_factory=Counter)


def audit_words(splits: Splits, columns: Columns, problem: str) -> Audit:
    """Look for everything that is wrong with the rows.

    Args:
        splits: The rows of each role.
        columns: The column of each role.
        problem: `entities` or `tags`.
    """
    report = Report()
    found = {name: _check_rows(report, name, rows, columns, problem) for name, rows in splits.items()}
    check_size(report, splits.train)
    train = found["train"]
    if train.labels is not None and len(splits.train) > 1:
        _check_kinds(report, found, columns, problem)
    check_duplicates(report, train.texts, train.labels)
    for name in ("validation", "test"):
        if name in found and found[name].texts:
            check_leak(report, name, train.texts, found[name].texts)
    counts = {name: dict(sorted(part.counts.items())) for name, part in found.items()}
    rows = {name: len(part) for name, part in splits.items()}
    return Audit(rows, counts, tuple(report.problems), tuple(report.warnings))


def check_words(report: Report, name: str, rows: Dataset, columns: Columns, problem: str) -> None:
    """What has to be mended before some rows can be scored."""
    _check_rows(report, name, rows, columns, problem)


def _check_rows(report: Report, name: str, rows: Dataset, columns: Columns, problem: str) -> _Found:
    missing = missing_columns(report, name, rows, columns)
    if "tokens" in columns:
        return _check_tagged(report, name, rows, columns, missing, problem)
    return _check_spans(report, name, rows, columns, missing)


# --- words and tags -----------------------------------------------------------------------------------------


def _check_tagged(
    report: Report, name: str, rows: Dataset, columns: Columns, missing: set[str], problem: str
) -> _Found:
    words = _cells(report, name, rows, columns, "tokens", missing)
    tags = _cells(report, name, rows, columns, "tags", missing)
    found = _Found()
    if words is None:
        return found
    path, column = "data.columns.tokens", columns["tokens"]
    empty = where(rows, words, lambda row: not row)
    report.rows(name, empty, f"whose '{column}' is empty", "Fill in the words or delete the rows", path)
    blank = where(rows, words, lambda row: any(not (word or "").strip() for word in row or ()))
    report.rows(name, blank, f"with an empty word in '{column}'", "Delete these words and their tags", path)
    long = where(rows, words, lambda row: sum(len(word or "") for word in row or ()) > LONGEST_TEXT)
    report.rows(name, long, f"whose '{column}' has more than {LONGEST_TEXT:,} characters", "Cut these texts", path)
    spelt = [[word or "" for word in row or ()] for row in words]
    folded = [(fold(" ".join(row)),) for row in spelt]
    found.texts = list(zip(numbers_of(rows), folded, strict=True))
    if tags is None:
        return found
    pairs = list(zip(words, tags, strict=True))
    gone = where(rows, tags, lambda row: row is None)
    report.rows(name, gone, f"without '{columns['tags']}'", "Fill in the tags or delete the rows", "data.columns.tags")
    uneven = where(rows, pairs, lambda pair: bool(pair[0]) and pair[1] is not None and len(pair[0]) != len(pair[1]))
    what = f"in which the numbers of '{column}' and '{columns['tags']}' differ"
    report.rows(name, uneven, what, "Each word has one tag", "data.columns.tags")
    unnamed = where(rows, tags, lambda row: any(not (tag or "").strip() for tag in row or ()))
    report.rows(
        name, unnamed, f"with an empty tag in '{columns['tags']}'", f"Write {OUTSIDE} for none", "data.columns.tags"
    )
    known = [[tag or OUTSIDE for tag in row or ()] for row in tags]
    found.labels = [_marked(*pair, problem) for pair in zip(spelt, known, strict=True)]
    if problem == "entities":
        found.counts.update(kind for row in known for kind, *_ in entities_of(row))
        _check_scheme(report, name, rows, known)
    else:
        found.counts.update(tag for row in known for tag in row)
    return found


def _cells(
    report: Report, name: str, rows: Dataset, columns: Columns, role: str, missing: set[str]
) -> list[list[str | None] | None] | None:
    if role not in columns or role in missing:
        return None
    found = cells_of(rows, str(columns[role]))
    if found is None:
        hint = "Write a list for each text, or one text with blanks between"
        report.error(f"split {name}: '{columns[role]}' holds neither lists nor text", hint, f"data.columns.{role}")
    return found


def _marked(words: Sequence[str], tags: Sequence[str], problem: str) -> tuple[str, ...]:
    """What is marked in a text, in words."""
    if problem != "entities":
        return tuple(tags)
    return tuple(f"{kind} {' '.join(words[first:end])}" for kind, first, end in entities_of(tags))


def _check_scheme(report: Report, name: str, rows: Dataset, tags: Sequence[list[str]]) -> None:
    """Words that go on with an entity that is not there, where the data marks where entities begin."""
    begun = sum(parted(tag)[0] in "BS" for row in tags for tag in row)
    places = [(number, row, broken(row)) for number, row in zip(numbers_of(rows), tags, strict=True)]
    torn = [place for place in places if place[2]]
    count = sum(len(words) for *_, words in torn)
    if not count or count > begun:  # in the older way a beginning is marked between neighbours alone
        return
    number, row, (word, *_) = torn[0]
    which = listed([number for number, *_ in torn])
    report.warnings.append(
        f"split {name} has {count} tags that go on with an entity that is not there, such as '{row[word]}' of word "
        f"{word} in row {number} ({which}); each is read as the beginning of one"
    )


# --- texts and spans ----------------------------------------------------------------------------------------


def _check_spans(report: Report, name: str, rows: Dataset, columns: Columns, missing: set[str]) -> _Found:
    found = _Found(texts_of(report, name, rows, columns, missing))
    if found.texts is None or "spans" not in columns or "spans" in missing:
        return found
    path, column, numbers = "data.columns.spans", str(columns["spans"]), numbers_of(rows)
    texts, words = words_of(rows, columns)
    odd: dict[str, list[int]] = {}
    outside: list[int] = []
    dropped: list[int] = []
    moved: list[int] = []
    found.labels = []
    for place, cell in enumerate(rows[column][:]):
        number, text = numbers[place], texts[place]
        try:
            spans = spans_in(cell)
        except ValueError as error:
            odd.setdefault(str(error), []).append(number)
            spans = []
        if any(not 0 <= start < end <= len(text) for _, start, end in spans):
            outside.append(number)
            spans = []
        first, end = words.offsets[place], words.offsets[place + 1]
        kept, changes = snap(spans, words.starts[first:end], words.ends[first:end])
        dropped += [number] * changes.count("dropped")
        moved += [number] * changes.count("moved")
        found.counts.update(kind for kind, *_ in kept)
        found.labels.append(tuple(f"{kind} {text[start:stop]}" for kind, start, stop in spans))
    for what, which in odd.items():
        report.rows(name, which, f"whose '{column}' cannot be read", f"{what[0].upper()}{what[1:]}", path)
    hint = "Spans count characters from 0, and their end is the character after the last one"
    report.rows(name, outside, f"with a span in '{column}' that is not within its text", hint, path)
    for count, what in (
        (dropped, "share a word with a longer one and are left out"),
        (moved, "do not begin and end with a word and are widened"),
    ):
        if count:
            report.warnings.append(f"split {name} has {len(count)} spans that {what} ({listed(sorted(set(count)))})")
    return found


# --- types --------------------------------------------------------------------------------------------------


def _check_kinds(report: Report, found: Mapping[str, _Found], columns: Columns, problem: str) -> None:
    train, what = found["train"].counts, "entity type" if problem == "entities" else "tag"
    path = "data.columns.spans" if "spans" in columns else "data.columns.tags"
    if not train:
        if any(problem.path == path for problem in report.problems):
            return
        hint = "There is nothing to learn: name the column in which they are, or add texts with some"
        report.error("split train has no entities", hint, path)
        return
    if problem == "tags" and len(train) == 1:
        hint = "There is nothing to learn: add texts with others"
        report.error(f"split train has one tag only: '{shortened(next(iter(train)))}'", hint, path)
    for name in ("validation", "test"):
        unseen = [kind for kind in found[name].counts if kind not in train] if name in found else []
        if unseen:
            shown = ", ".join(f"'{shortened(kind)}' ({found[name].counts[kind]})" for kind in unseen[:_SHOWN])
            report.error(
                f"split {name} has {len(unseen)} {what}(s) that train does not have: {shown}",
                "Correct the spelling, delete them, or add such texts to train",
                f"data.{name}",
            )
    few = [f"{shortened(kind)} ({count})" for kind, count in sorted(train.items()) if count < FEW_ROWS]
    if few:
        names = ", ".join(few[:_SHOWN]) + (" …" if len(few) > _SHOWN else "")
        report.warnings.append(
            f"{len(few)} of {len(train)} {what}s occur fewer than {FEW_ROWS} times in train: {names}"
        )
