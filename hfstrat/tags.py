"""Tags of words: which entities they mark, and how they are written.

An entity is one or more words with a type. Its words are tagged `B-type I-type` (IOB), or `B- I- E-` with `S-` for a
single word (IOBES, also written `B- I- L- U-`), and all others `O`. Whatever is not written so are tags that stand each
for themselves, such as parts of speech.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

OUTSIDE = "O"
_TAG = re.compile(r"([BIESLUMW])(?:-(.+))?")
_PLAIN = {"L": "E", "U": "S", "W": "S", "M": "I"}  # other letters for the same
Entity = tuple[str, int, int]
"""Type, first word, and the word after the last one."""


def parted(tag: str) -> tuple[str, str]:
    """A tag's position (`B`, `I`, `E`, `S` or `O`) and its type, which is empty where it has none."""
    found = _TAG.fullmatch(tag)
    if found is None:
        return OUTSIDE, ""
    return _PLAIN.get(found[1], found[1]), found[2] or ""


def mark_entities(names: Iterable[str]) -> bool:
    """Whether tags mark entities: each is `O`, or has a position, and some begin one."""
    given = set(names)
    marks = {name for name in given if name != OUTSIDE}
    return bool(marks) and OUTSIDE in given and all(_TAG.fullmatch(name) for name in marks)


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """The entities that tags mark, read as leniently as `conlleval` does.

    An entity begins with `B` or `S`, and also where a word continues none: after another type, after `O`, after an
    end. Both ways to write IOB, with `B` at each beginning or only between neighbours, are therefore read alike.
    """
    found: list[Entity] = []
    begun, kind, before = -1, "", OUTSIDE
    for place, tag in enumerate([*tags, OUTSIDE]):
        position, own = parted(tag)
        inside = begun >= 0
        ends = inside and (position in "BSO" or before in "ES" or own != kind)
        if ends:
            found.append((kind, begun, place))
            begun = -1
        if position != OUTSIDE and (ends or not inside):
            begun, kind = place, own
        before = position
    return found


def written(entities: Iterable[Entity], words: int) -> list[str]:
    """Tags in IOB, with `B` at each beginning."""
    tags = [OUTSIDE] * words
    for kind, first, end in entities:
        tags[first] = f"B-{kind}" if kind else "B"
        tags[first + 1 : end] = [f"I-{kind}" if kind else "I"] * (end - first - 1)
    return tags


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Tags in an order for logits: `O`, then by type and position; other tags by name."""
    given = set(names)
    if not mark_entities(given):
        return tuple(sorted(given))
    return tuple(sorted(given, key=lambda name: (name != OUTSIDE, parted(name)[1], "BIES".find(parted(name)[0]))))


def completed(names: Iterable[str]) -> tuple[str, ...]:
    """All tags in IOB of the types that some tags have."""
    kinds = {parted(name)[1] for name in names if name != OUTSIDE}
    return in_order({OUTSIDE, *(f"{letter}-{kind}" if kind else letter for letter in "BI" for kind in kinds)})


def broken(tags: Sequence[str]) -> list[int]:
    """Words whose tag continues an entity that is not there, where each beginning is to be marked."""
    places, before = [], (OUTSIDE, "")
    for place, tag in enumerate(tags):
        position, kind = parted(tag)
        if position in "IE" and (before[0] in "OES" or before[1] != kind):
            places.append(place)
        before = position, kind
    return places
