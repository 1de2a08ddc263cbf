"""Samples: some test examples with what is true and what was said, so that a person sees whether it works."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hfstrat.runs.directory import Run
from hfstrat.tags import entities_of

SAMPLES = "samples.md"
"""Where a run keeps them."""
MOST = 8
LONGEST = 60  # words of a text that are shown
_MARKUP = re.compile(r"([\\`*_\[\]<>|#])")


def samples(run: Run, most: int = MOST) -> str:
    """Test examples of a run in Markdown, as many that are wrong as right where there are; empty without any.

    Args:
        run: A run whose predictions are written.
        most: How many are shown, at most.
    """
    problem = ((run.read("env.json") or {}).get("labels") or {}).get("problem")
    if problem not in ("entities", "tags"):
        return ""
    frame = run.predictions()
    rows = list(zip(frame["words"], frame["reference"], frame["prediction"], strict=True))
    marked = [row for row in rows if problem == "tags" or any(entities_of(list(tags)) for tags in row[1:])]
    wrong = [row for row in marked if list(row[1]) != list(row[2])]
    right = [row for row in marked if list(row[1]) == list(row[2])]
    few = min(len(wrong), max(most // 2, most - len(right)))
    shown = [*wrong[:few], *right[: most - few]]
    return "\n".join(_sample(*row, problem) for row in shown) + "\n" if shown else ""


def _sample(words: Sequence[str], reference: Sequence[str], prediction: Sequence[str], problem: str) -> str:
    said = _text(words, prediction, problem)
    if list(reference) == list(prediction):
        return f"- right: {said}"
    return f"- true: {_text(words, reference, problem)}\n  <br>said: {said}"


def _text(words: Sequence[str], tags: Sequence[str], problem: str) -> str:
    """A text with its entities in bold, each with its type; or each word with its tag."""
    shown = " ".join(_marked(words[:LONGEST], tags[:LONGEST], problem))
    return f"{shown} …" if len(words) > LONGEST else shown


def _marked(words: Sequence[str], tags: Sequence[str], problem: str) -> Iterator[str]:
    plain = [_MARKUP.sub(r"\\\1", str(word)) for word in words]
    if problem == "tags":
        yield from (f"{word}/{tag}" for word, tag in zip(plain, tags, strict=True))
        return
    place = 0
    for kind, first, end in entities_of(list(tags)):
        yield from plain[place:first]
        kind = _MARKUP.sub(r"\\\1", kind)
        yield f"**{' '.join(plain[first:end])}**" + (f" ({kind})" if kind else "")
        place = end
    yield from plain[place:]
