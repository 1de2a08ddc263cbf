"""CoNLL files: a word a line with its tags beside it, and a blank line after each sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator

SUFFIXES = {".conll", ".conllu", ".bio", ".iob", ".iob2"}
_UNIVERSAL = ("number", "tokens", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_BLANKS = re.compile(r" +")  # others may stand within a word
_NOT_A_WORD = re.compile(r"\d+[-.]\d+")  # a range that two words are written as one in, or a word that is not written


class Malformed(ValueError):
    """A line that cannot be read; its number and what is wrong are the arguments."""


def columns_of(text: str, suffix: str) -> dict[str, list[list[str]]]:
    """The columns of a CoNLL file, a list for each sentence.

    The first column is `tokens`, the last one `tags`, and those between `column_2`, `column_3`, …; in `.conllu` they
    have the names of Universal Dependencies, the words that of `tokens`.

    Args:
        text: The file's content.
        suffix: How its name ends.

    Raises:
        Malformed: A line has another number of columns than the first one.
    """
    universal = suffix == ".conllu"
    names: tuple[str, ...] = _UNIVERSAL if universal else ()
    found: dict[str, list[list[str]]] = {}
    for sentence in _sentences(text, universal):
        rows = []
        for number, line in sentence:
            cells = line.split("\t") if universal or "\t" in line else _BLANKS.split(line.strip(" "))
            if universal and _NOT_A_WORD.fullmatch(cells[0]):
                continue
            if not names:
                between = [f"column_{place}" for place in range(2, len(cells))]
                names = ("tokens", *between, *(["tags"] if len(cells) > 1 else []))
            if len(cells) != len(names):
                raise Malformed(number, f"this line has {len(cells)} columns, and the first one {len(names)}")
            rows.append(cells)
        for place, name in enumerate(names):
            found.setdefault(name, []).append([cells[place].strip(" ") for cells in rows])
    return found


def _sentences(text: str, comments: bool) -> Iterator[list[tuple[int, str]]]:
    """The lines of each sentence with their numbers."""
    lines: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip(" \t\r")
        if not bare or bare.startswith("-DOCSTART-"):
            if lines:
                yield lines
            lines = []
        elif not (comments and bare.startswith("#")):
            lines.append((number, line.rstrip("\r")))
    if lines:
        yield lines
