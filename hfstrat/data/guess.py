"""Guess: what the columns of an unknown table are, so that a first recipe needs no edit.

Names help, values decide: a label column has few distinct values, a text column has long ones. Every guess says what
it was made from, and the recipe that is written from it shows that to the user.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from hfstrat.data.folders import PICTURE_SUFFIXES, SOUND_SUFFIXES
from hfstrat.data.sounds import looks_like_sound
from hfstrat.errors import DataError, Problem
from hfstrat.tags import mark_entities
from hfstrat.tasks.boxes import objects_in
from hfstrat.tasks.chat import messages_in
from hfstrat.tasks.question_answering import answers_in
from hfstrat.tasks.token_classification import cells_of, spans_in

if TYPE_CHECKING:
    from datasets import Dataset

TEXT_NAMES = ("text", "sentence", "review", "comment", "message", "body", "content", "document", "utterance", "query")
LABEL_NAMES = (
    "label", "labels", "category", "class", "target", "intent", "sentiment", "topic", "tag", "tags", "stars", "rating",
    "score", "emotion", "genre", "y",
)  # fmt: skip
PICTURE_NAMES = ("image", "img", "picture", "photo", "pixels", "scan")
TOKEN_NAMES = ("tokens", "words", "token", "word", "form")
PAIR_NAMES = (
    ("premise", "hypothesis"), ("question", "answer"), ("question", "passage"), ("question", "context"),
    ("question", "sentence"), ("query", "document"), ("query", "passage"), ("title", "body"),
)  # fmt: skip
WRITTEN = (
    (
        "causal_lm",
        ("prompt", "completion"),
        (("prompt", "completion"), ("prompt", "response"), ("instruction", "output"), ("instruction", "response")),
    ),
    (
        "seq2seq",
        ("source", "target"),
        (("source", "target"), ("article", "highlights"), ("article", "summary"), ("document", "summary"),
         ("dialogue", "summary"), ("text", "summary"), ("input", "output")),
    ),
)  # fmt: skip
SEPARATORS = ("|", ";", ",")

CLASS_LIMIT = 20
"""A column of this many distinct whole numbers is one of classes; with more, each needs `ROWS_PER_CLASS` rows."""
ROWS_PER_CLASS = 20
TEXT_WORDS = 2.0
"""Mean number of words from which a second column of strings is taken for a second text."""

_ID_NAME = re.compile(r"(?:.*[_ ]?id|idx|index|uuid|guid|unnamed_\d+|_row|row|nr|no)", re.IGNORECASE)


@dataclass(frozen=True)
class Guess:
    """What the columns of a table are.

    Args:
        columns: The column of each role.
        problem: What the label is; None where the task has one kind only.
        label_separator: What separates several labels in one cell.
        reasons: A sentence for each choice.
        kind: The task.
    """

    columns: dict[str, str | tuple[str, ...]]
    problem: Literal["single_label", "multi_label", "regression", "entities", "tags"] | None
    label_separator: str | None
    reasons: tuple[str, ...]
    kind: str = "text_classification"


@dataclass(frozen=True)
class _Column:
    """One column and the numbers that tell what it is."""

    name: str
    values: list[Any]

    @property
    def filled(self) -> list[Any]:
        return [value for value in self.values if value is not None]

    @property
    def distinct(self) -> int:
        return len({repr(value) for value in self.filled})

    @property
    def is_text(self) -> bool:
        return bool(self.filled) and all(isinstance(value, str) for value in self.filled)

    @property
    def is_list(self) -> bool:
        return any(isinstance(value, (list, tuple)) for value in self.filled)

    @property
    def words(self) -> float:
        return sum(len(value.split()) for value in self.filled) / max(len(self.filled), 1)

    @property
    def is_flag(self) -> bool:
        return bool(self.filled) and all(value in (0, 1) for value in self.filled if not isinstance(value, list))


def guess(rows: Dataset) -> Guess:
    """Guess the roles of the columns and the problem of the label.

    Args:
        rows: The training rows.

    Raises:
        DataError: No column can be the text, or none can be the label.
    """
    columns = [_Column(name, rows[name][:]) for name in rows.column_names]
    columns = [column for column in columns if column.filled]
    useful = [column for column in columns if not _is_id(column, columns)]
    found = (
        _boxed(columns)
        or _asked(columns)
        or _spoken(columns)
        or _written(columns)
        or _tagged(rows, useful)
        or _marked(useful)
    )
    found = found or _alone(useful)
    if found is not None:
        return found
    label = _label(useful, columns)
    problem, separator, why = _problem(label)
    target = label[0].name if len(label) == 1 else tuple(column.name for column in label)
    if (sound := _sounding(useful)) is not None:
        why_so = (f"'{sound.name}' is the sound", why)
        return Guess({"audio": sound.name, "label": target}, problem, separator, why_so, "audio_classification")
    if (picture := _pictured(useful)) is not None:
        why_so = (f"'{picture.name}' is the picture", why)
        return Guess({"image": picture.name, "label": target}, problem, separator, why_so, "image_classification")
    texts = _texts([column for column in useful if column.is_text and column not in label], columns)
    roles: dict[str, str | tuple[str, ...]] = {"text": texts[0].name}
    reasons = [f"'{texts[0].name}' is the text: {texts[0].words:.1f} words on average"]
    if len(texts) > 1:
        roles["text_pair"] = texts[1].name
        reasons.append(f"'{texts[1].name}' is the second text: {texts[1].words:.1f} words on average")
    roles["label"] = target
    return Guess(roles, problem, separator, (*reasons, why))


# --- boxes --------------------------------------------------------------------------------------------------


def _boxed(columns: Sequence[_Column]) -> Guess | None:
    """Pictures, and objects with boxes and categories in them."""
    picture = _pictured(columns)
    for column in columns if picture is not None else ():
        first = column.filled[0]
        if not isinstance(first, dict) and not (column.is_list and all(map(_holds_objects, column.filled))):
            continue
        try:
            found = [objects_in(cell) for cell in column.values]
        except ValueError:
            continue
        count = sum(len(one.names) for one in found)
        if picture is None or not count:
            continue
        kinds = len({name for one in found for name in one.names})
        reasons = (
            f"'{picture.name}' is the picture",
            f"'{column.name}' is the objects in it: {count} of {kinds} classes in {len(found)} pictures",
        )
        return Guess({"image": picture.name, "objects": column.name}, None, None, reasons, "object_detection")
    return None


def _holds_objects(cell: Any) -> bool:
    return isinstance(cell, list) and all(isinstance(one, dict) for one in cell)


# --- questions ----------------------------------------------------------------------------------------------


def _asked(columns: Sequence[_Column]) -> Guess | None:
    """Questions about contexts: three columns of these names, of which answers are parts of contexts."""
    by_word = {_word(column.name): column for column in columns}
    question, context = by_word.get("question"), by_word.get("context") or by_word.get("passage")
    answers = by_word.get("answers") or by_word.get("answer")
    if question is None or context is None or answers is None or not (question.is_text and context.is_text):
        return None
    found = []
    try:
        for cell, text in zip(answers.values, context.values, strict=True):
            found.append(bool(answers_in(cell, text or "")))
    except (ValueError, TypeError):
        return None
    reasons = (
        f"'{question.name}' is the question: {question.words:.1f} words on average",
        f"'{context.name}' is the context: {context.words:.1f} words on average",
        f"'{answers.name}' is the answers in it: {found.count(False)} of {len(found)} questions have none",
    )
    roles: dict[str, str | tuple[str, ...]] = {
        "question": question.name,
        "context": context.name,
        "answers": answers.name,
    }
    return Guess(roles, None, None, reasons, "question_answering")


# --- text to write ------------------------------------------------------------------------------------------


def _spoken(columns: Sequence[_Column]) -> Guess | None:
    """Conversations: lists of messages."""
    for column in columns:
        try:
            found = [messages_in(cell) for cell in column.values]
        except ValueError:
            continue
        turns = sum(len(chat) for chat in found) / len(found)
        reasons = (f"'{column.name}' is the conversations: {turns:.1f} messages on average",)
        return Guess({"messages": column.name}, None, None, reasons, "causal_lm")
    return None


def _written(columns: Sequence[_Column]) -> Guess | None:
    """Prompts with completions, or texts with what is made of them: two columns of such names."""
    by_word = {_word(column.name): column for column in columns if column.is_text}
    for kind, roles, names in WRITTEN:
        for first, second in names:
            if first in by_word and second in by_word:
                given, wanted = by_word[first], by_word[second]
                reasons = (
                    f"'{given.name}' is the {roles[0]}: {given.words:.1f} words on average",
                    f"'{wanted.name}' is the {roles[1]}: {wanted.words:.1f} words on average",
                )
                return Guess({roles[0]: given.name, roles[1]: wanted.name}, None, None, reasons, kind)
    return None


def _alone(columns: Sequence[_Column]) -> Guess | None:
    """Text and nothing else, which may be learned for its own sake."""
    if len(columns) != 1 or not columns[0].is_text or columns[0].words < TEXT_WORDS:
        return None
    column = columns[0]
    reasons = (f"'{column.name}' is text without labels: {column.words:.1f} words on average",)
    return Guess({"text": column.name}, None, None, reasons, "masked_lm")


def _sounding(columns: Sequence[_Column]) -> _Column | None:
    """The column of sounds: names of files, or what `datasets` has of them."""
    for column in columns:
        first = column.filled[0]
        path = first.get("path") if isinstance(first, dict) else first
        if isinstance(path, str) and PurePath(path).suffix.lower() in SOUND_SUFFIXES:
            return column
        if isinstance(first, dict) and ("sampling_rate" in first or looks_like_sound(first.get("bytes") or b"")):
            return column
    return None


def _pictured(columns: Sequence[_Column]) -> _Column | None:
    """The column of pictures: names of files, what `datasets` has of them, or arrays."""
    for column in columns:
        first = column.filled[0]
        if isinstance(first, dict) and {*first} == {"bytes", "path"}:
            return column
        if isinstance(first, str) and PurePath(first).suffix.lower() in PICTURE_SUFFIXES:
            return column
        if isinstance(first, list) and first and isinstance(first[0], list) and _word(column.name) in PICTURE_NAMES:
            return column
    return None


# --- words --------------------------------------------------------------------------------------------------


def _tagged(rows: Dataset, columns: Sequence[_Column]) -> Guess | None:
    """Words and tags: two columns of lists that are equally long, of which the tags repeat themselves more."""
    lists = [column for column in columns if column.is_list and len(column.filled) == len(column.values)]
    lists = [column for column in lists if all(isinstance(cell, (str, int)) for row in column.values for cell in row)]
    if not lists:
        return None
    found = {
        column.name: [cell for row in cells_of(rows, column.name) or () for cell in row or () if cell is not None]
        for column in lists
    }
    named = [column for name in TOKEN_NAMES for column in lists if _word(column.name) == name]
    words = (named or [max(lists, key=lambda column: len(set(found[column.name])))])[0]
    lengths = [len(row) for row in words.values]
    tags = [column for column in lists if column is not words and [len(row) for row in column.values] == lengths]
    if not tags:
        return None
    texts = any(column.is_text for column in columns)
    if not named and texts and not any(mark_entities(found[column.name]) for column in tags):
        return None  # lists beside a text are its labels
    # Tags that mark entities first: parts of speech often stand beside them.
    chosen = min(tags, key=lambda column: (not mark_entities(found[column.name]), lists.index(column)))
    count, marks = len(set(found[chosen.name])), mark_entities(found[chosen.name])
    kind = "which mark entities" if marks else "one for each word"
    reasons = (
        f"'{words.name}' is the words: {len(found[words.name]) / max(len(lengths), 1):.1f} in a text",
        f"'{chosen.name}' is their tags: {count} distinct ones, {kind}",
    )
    roles: dict[str, str | tuple[str, ...]] = {"tokens": words.name, "tags": chosen.name}
    return Guess(roles, "entities" if marks else "tags", None, reasons, "token_classification")


def _marked(columns: Sequence[_Column]) -> Guess | None:
    """A text and spans in it: lists of objects, or of lists of three, with a start, an end and a label."""
    for column in columns:
        cells = [cell for cell in column.filled if cell]
        if not column.is_list or not cells:
            continue
        try:
            count = sum(len(spans_in(cell)) for cell in cells)
        except (TypeError, ValueError):
            continue
        texts = _texts([other for other in columns if other.is_text], columns)
        reasons = (
            f"'{texts[0].name}' is the text: {texts[0].words:.1f} words on average",
            f"'{column.name}' is the spans in it: {count} in {len(column.values)} rows",
        )
        roles: dict[str, str | tuple[str, ...]] = {"text": texts[0].name, "spans": column.name}
        return Guess(roles, "entities", None, reasons, "token_classification")
    return None


def _word(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


def _is_id(column: _Column, columns: Sequence[_Column]) -> bool:
    """Whether a column only names rows; never when that would leave fewer than two columns."""
    if len(columns) <= 2 or not _ID_NAME.fullmatch(column.name.strip()) or column.is_list:
        return False
    return column.distinct == len(column.filled) or all(isinstance(value, int) for value in column.filled)


# --- label --------------------------------------------------------------------------------------------------


def _label(useful: Sequence[_Column], columns: Sequence[_Column]) -> list[_Column]:
    """The label column, or several columns of 0 and 1."""
    for name in LABEL_NAMES:
        for column in useful:
            if _word(column.name) == name and _may_be_label(column, useful):
                return [column]
    flags = [column for column in useful if column.is_flag]
    if len(flags) > 1:
        return flags
    texts = [column for column in useful if column.is_text]
    others = [column for column in useful if not column.is_text]
    # The only text must stay the text; among texts, the label is the one that repeats itself most.
    candidates = others if len(texts) < 2 else [*others, *texts]
    candidates = [column for column in candidates if _may_be_label(column, useful)]
    if not candidates:
        raise _no_column("label", columns)
    named = [column for column in candidates if set(_word(column.name).split()) & set(LABEL_NAMES)]
    return [min(named or candidates, key=lambda column: (not column.is_list, column.distinct, _width(column)))]


def _may_be_label(column: _Column, useful: Sequence[_Column]) -> bool:
    return not column.is_text or sum(other.is_text for other in useful) > 1


def _width(column: _Column) -> float:
    return sum(len(str(value)) for value in column.filled) / len(column.filled)


def _problem(label: Sequence[_Column]) -> tuple[Literal["single_label", "multi_label", "regression"], str | None, str]:
    """The problem, the separator, and why."""
    first = label[0]
    if len(label) > 1:
        return "multi_label", None, f"{len(label)} columns of 0 and 1 are labels"
    if first.is_list:
        return "multi_label", None, f"'{first.name}' is the label: it holds lists"
    values = first.filled
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        if any(isinstance(value, float) and not value.is_integer() for value in values):
            return "regression", None, f"'{first.name}' is the label: it holds numbers with fractions"
        if first.distinct > CLASS_LIMIT and len(values) < ROWS_PER_CLASS * first.distinct:
            return "regression", None, f"'{first.name}' is the label: it holds {first.distinct} distinct numbers"
        return "single_label", None, f"'{first.name}' is the label: it holds {first.distinct} distinct whole numbers"
    separator = _separator(first)
    if separator:
        return "multi_label", separator, f"'{first.name}' is the label: its cells hold names with {separator!r} between"
    return "single_label", None, f"'{first.name}' is the label: it holds {first.distinct} distinct values"


def _separator(column: _Column) -> str | None:
    """What stands between labels, if splitting there leaves fewer names and each of them also stands elsewhere."""
    cells = [str(value) for value in column.filled]
    for mark in SEPARATORS:
        joined = sum(mark in cell for cell in cells)
        parts = [part.strip() for cell in cells for part in cell.split(mark)]
        if joined >= 0.1 * len(cells) and len(set(parts)) < len(set(cells)) and len(parts) >= 2 * len(set(parts)):
            return mark
    return None


# --- text ---------------------------------------------------------------------------------------------------


def _texts(candidates: Sequence[_Column], columns: Sequence[_Column]) -> list[_Column]:
    """The text column, and the second one of a pair."""
    if not candidates:
        raise _no_column("text", columns)
    pair = _pair(candidates)
    if pair:
        return pair
    named = [column for name in TEXT_NAMES for column in candidates if name in _word(column.name).split()]
    if named:
        return [named[0]]
    long = [column for column in candidates if column.words >= TEXT_WORDS and 2 * column.distinct > len(column.filled)]
    if len(long) == 2:
        return long
    return [max(candidates, key=lambda column: column.words)]


def _pair(candidates: Sequence[_Column]) -> list[_Column] | None:
    """Two columns whose names belong together: sentence1 and sentence2, premise and hypothesis."""
    by_word = {_word(column.name): column for column in candidates}
    for first, second in PAIR_NAMES:
        if first in by_word and second in by_word:
            return [by_word[first], by_word[second]]
    for word, column in by_word.items():
        for one, two in (("1", "2"), ("a", "b")):
            other = by_word.get(word.removesuffix(one) + two) if word.endswith(one) else None
            if other is not None:
                return [column, other]
    return None


def _no_column(role: str, columns: Sequence[_Column]) -> DataError:
    names = ", ".join(column.name for column in columns)
    what = "text (strings)" if role == "text" else "label (a class or a number for each row)"
    message = f"no column looks like a {what}; the columns are: {names}"
    hint = f"Write the recipe by hand, with data.columns: {{{role}: …}}"
    return DataError(Problem(message, path=f"data.columns.{role}", hint=hint))
