"""Test items on which arms disagree: right by some and wrong by others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hfstrat.answers import exact_match
from hfstrat.report.comparison import Compared, is_floor
from hfstrat.report.tables import Line
from hfstrat.tags import entities_of

MOST = 60
LONGEST = 400  # characters of a text that are shown
_TEXTS = ("text", "text_pair", "question", "context", "image", "audio", "words")


@dataclass(frozen=True)
class Item:
    """A test item.

    Args:
        name: Its id.
        given: What was asked, by column; nothing where the run did not keep it.
        true: What is true.
        said: What each arm said, by its name.
        right: Arms that are right.
    """

    name: str
    given: dict[str, str]
    true: str
    said: dict[str, str]
    right: tuple[str, ...]


@dataclass(frozen=True)
class Disagreement:
    """How far arms agree, item by item.

    Args:
        arms: Whose predictions were compared; of several seeds the first.
        total: How many items there are.
        all_right: Items that all have right.
        all_wrong: Items that none has right.
        items: Some of the others, the most disputed first.
    """

    arms: tuple[Line, ...]
    total: int
    all_right: int
    all_wrong: int
    items: tuple[Item, ...]

    @property
    def disputed(self) -> int:
        """Items on which they disagree."""
        return self.total - self.all_right - self.all_wrong


def disagreement(compared: Compared, most: int = MOST) -> Disagreement | None:
    """Find the items on which arms disagree.

    Floors are left out where two strategies are there: they are wrong where all others are right.

    Args:
        compared: The comparison.
        most: How many items are given, at most.

    Returns:
        What was found; None where items are neither right nor wrong, or fewer than two arms have the same ones.
    """
    arms = [line for line in compared.done if (compared.run_of(line).path / "predictions.parquet").is_file()]
    strategies = [line for line in arms if not is_floor(line)]
    arms = strategies if len(strategies) > 1 else arms
    if len(arms) < 2:
        return None
    problem = ((compared.run_of(arms[0]).read("env.json") or {}).get("labels") or {}).get("problem", "")
    is_right = _JUDGES.get(problem)
    frames = [compared.run_of(line).predictions() for line in arms]
    if is_right is None or any(list(frame["id"]) != list(frames[0]["id"]) for frame in frames):
        return None
    said = [[_plain(value) for value in frame["prediction"]] for frame in frames]
    true = [_plain(value) for value in frames[0]["reference"]]
    right = [[is_right(one, its) for one, its in zip(column, true, strict=True)] for column in said]
    counts = [sum(column[place] for column in right) for place in range(len(true))]
    disputed = [place for place, count in enumerate(counts) if 0 < count < len(arms)]
    # Where half of them are right the dispute is greatest; the sort keeps the order of items.
    disputed.sort(key=lambda place: abs(2 * counts[place] - len(arms)))
    columns = [name for name in _TEXTS if name in frames[0]]

    def item(place: int) -> Item:
        row = frames[0].iloc[place]
        words = _plain(row["words"]) if problem in ("entities", "tags") else []
        return Item(
            name=str(row["id"]),
            given={name: _text(" ".join(words) if name == "words" else str(row[name])) for name in columns},
            true=_named(true[place], words, problem),
            said={line.arm: _named(column[place], words, problem) for line, column in zip(arms, said, strict=True)},
            right=tuple(line.arm for line, column in zip(arms, right, strict=True) if column[place]),
        )

    return Disagreement(
        arms=tuple(arms),
        total=len(true),
        all_right=counts.count(len(arms)),
        all_wrong=counts.count(0),
        items=tuple(item(place) for place in disputed[:most]),
    )


def _same(said: Any, true: Any) -> bool:
    return bool(said == true)


def _answered(said: Any, true: Any) -> bool:
    return bool(exact_match(said, true))


_JUDGES: dict[str, Callable[[Any, Any], bool]] = {
    "single_label": _same,
    "multi_label": _same,
    "entities": _same,
    "tags": _same,
    "spans": _answered,
}
"""Of problems whose items are right or wrong as a whole."""


def _plain(value: Any) -> Any:
    """Arrays of a data frame as lists, which compare as a whole."""
    return value.tolist() if hasattr(value, "tolist") else value


def _named(value: Any, words: Sequence[str], problem: str) -> str:
    """What is true or was said, as a text of bounded length."""
    if problem == "entities":
        found = [f"{' '.join(words[first:end])} ({kind or 'entity'})" for kind, first, end in entities_of(value)]
        return _text(", ".join(found) or "no entity")
    if problem == "tags":
        return _text(" ".join(f"{word}/{name}" for word, name in zip(words, value, strict=True)))
    if isinstance(value, list):
        return _text(" or ".join(value) if problem == "spans" else ", ".join(value)) or "none"
    return _text(str(value)) or "none"


def _text(text: str) -> str:
    """A text on one line, or its beginning."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
