"""Samples: some test examples with what is true and what was said, so that a person sees whether it works."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hfstrat.answers import exact_match
from hfstrat.report.tables import plain
from hfstrat.runs.directory import Run
from hfstrat.tags import entities_of

SAMPLES = "samples.md"
"""Where a run keeps them."""
MOST = 8
LONGEST = 60  # words of a text that are shown
NEAR = 120  # characters of a context that are shown on each side of an answer


def samples(run: Run, most: int = MOST) -> str:
    """Test examples of a run in Markdown, as many that are wrong as right where there are; empty without any.

    Args:
        run: A run whose predictions are written.
        most: How many are shown, at most.
    """
    problem = ((run.read("env.json") or {}).get("labels") or {}).get("problem")
    if problem in ("entities", "tags"):
        found = _of_words(run, problem)
    elif problem == "spans":
        found = _of_questions(run)
    else:
        return ""
    wrong: list[str] = []
    right: list[str] = []
    for is_right, text in found:
        (right if is_right else wrong).append(text)
        if min(len(wrong), len(right)) >= most:
            break
    few = min(len(wrong), max(most // 2, most - len(right)))
    shown = [*wrong[:few], *right[: most - few]]
    return "\n".join(shown) + "\n" if shown else ""


def continuations(shown: Sequence[tuple[str, str, str]]) -> str:
    """What a language model read, what is true, and what it wrote, in Markdown.

    Args:
        shown: These three of each example.
    """
    lines = []
    for given, true, said in shown:
        parts = [plain(_shortened(text)) or "nothing" for text in (given, true, said)]
        lines.append("- given: {}\n  <br>true: {}\n  <br>said: {}".format(*parts))
    return "\n".join(lines) + "\n" if lines else ""


def _shortened(text: str) -> str:
    """A text, or its beginning and its end."""
    return text if len(text) <= 4 * NEAR else f"{text[: 2 * NEAR]} … {text[-2 * NEAR :]}"


def _of_words(run: Run, problem: str) -> Iterator[tuple[bool, str]]:
    """Texts with entities, or all with tags: whether all was right, and the text."""
    frame = run.predictions()
    for words, *tags in zip(frame["words"], frame["reference"], frame["prediction"], strict=True):
        true, said = (list(row) for row in tags)
        if problem == "entities" and not (entities_of(true) or entities_of(said)):
            continue
        text = _text(words, said, problem)
        if true == said:
            yield True, f"- right: {text}"
        else:
            yield False, f"- true: {_text(words, true, problem)}\n  <br>said: {text}"


def _of_questions(run: Run) -> Iterator[tuple[bool, str]]:
    """Questions with the answer in its context: whether it was right, and both."""
    frame = run.predictions()
    columns = ("question", "context", "start", "end", "prediction", "reference")
    for question, context, start, end, said, true in zip(*(frame[name] for name in columns), strict=True):
        asked = f"*{plain(question)}*<br>{_around(context, start, end)}"
        if exact_match(said, list(true)):
            yield True, f"- right: {asked}"
        else:
            answers = " or ".join(f"**{plain(answer)}**" for answer in dict.fromkeys(true)) or "no answer"
            yield False, f"- wrong: {asked}\n  <br>true: {answers}"


def _around(context: str, start: int, end: int) -> str:
    """A context with the answer in bold, and what stands about it."""
    if start < 0:
        return f"{plain(context[: 2 * NEAR])}{' …' * (len(context) > 2 * NEAR)} → no answer"
    before, after = context[max(0, start - NEAR) : start], context[end : end + NEAR]
    parts = [plain(before), f"**{plain(context[start:end])}**", plain(after)]
    return "… " * (start > NEAR) + "".join(parts) + " …" * (end + NEAR < len(context))


def _text(words: Sequence[str], tags: Sequence[str], problem: str) -> str:
    """A text with its entities in bold, each with its type; or each word with its tag."""
    shown = " ".join(_marked(words[:LONGEST], tags[:LONGEST], problem))
    return f"{shown} …" if len(words) > LONGEST else shown


def _marked(words: Sequence[str], tags: Sequence[str], problem: str) -> Iterator[str]:
    shown = [plain(str(word)) for word in words]
    if problem == "tags":
        yield from (f"{word}/{tag}" for word, tag in zip(shown, tags, strict=True))
        return
    place = 0
    for kind, first, end in entities_of(list(tags)):
        yield from shown[place:first]
        yield f"**{' '.join(shown[first:end])}**" + (f" ({plain(kind)})" if kind else "")
        place = end
    yield from shown[place:]
