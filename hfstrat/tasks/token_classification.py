"""Token classification: entities in texts, or a tag for each word.

A text is known by its words. Where the data has words, the text is what they give with a blank between them; where it
has a text, words are runs of letters and digits, runs of other signs, and single signs of scripts that are written
without blanks. A word is decided about once, at its first token, in the window in which it has the most around it.
However entities are tagged, they are learned in IOB, which is what the pipelines of transformers read.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import regex
from pydantic import field_validator

from hfstrat.errors import DataError, did_you_mean
from hfstrat.errors import Problem as Trouble
from hfstrat.tags import OUTSIDE, Entity, completed, entities_of, in_order, mark_entities, parted, written
from hfstrat.tasks.base import Decoded, Encoded, Examples, FloatArray, IntArray, Labels, Problem, Ragged, Words
from hfstrat.tasks.task import ClassesSpec, Columns, TextsSpec, distinct, ids_of, softmax, texts_of
from hfstrat.tasks.windows import Tokens, tokens_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

# Signs that are words of their own, with the marks on them; letters and digits with theirs; other signs.
_SINGLE = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(rf"[{_SINGLE}]\p{{M}}*|[[\w\p{{M}}]--[{_SINGLE}]]+|[^\w\s\p{{M}}]+", flags=regex.V1)


class TokenClassification(ClassesSpec, TextsSpec):
    """Find entities in texts, or give each word a tag."""

    kind: Literal["token_classification"] = "token_classification"

    problem: Literal["entities", "tags", "auto"] = "auto"
    """entities: tags such as B-person mark words that belong together; tags: each tag stands for itself; auto: from the
    tags."""
    labels: tuple[str, ...] | None = None
    """Tags in the order of the logits, those of entities in IOB; left out: those of the training split, `O` first."""
    long_texts: Literal["truncate", "windows"] = "windows"
    """Longer texts: cut into overlapping windows, or cut, so that words at their end get no tag."""

    _distinct = field_validator("labels")(distinct)

    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    peft_task_type: ClassVar[str | None] = "TOKEN_CLS"
    pipeline_tag: ClassVar[str] = "token-classification"
    roles: ClassVar[tuple[str, ...]] = ("tokens", "tags", "text", "spans", "id")
    texts: ClassVar[tuple[str, ...]] = ("tokens", "text")
    encoding: ClassVar[tuple[str, ...]] = ("long_texts", "stride")
    floors: ClassVar[tuple[str, ...]] = ("majority", "lookup")

    # --- data -----------------------------------------------------------------------------------------------

    def needed(self, given: Columns, available: Sequence[str], *, labelled: bool) -> set[str]:
        """Words with tags, or a text with spans."""
        named = {*given} - {"id"}
        has = {role for role in self.roles if role in named or role in available}
        by_text = "text" in named if {"text", "tokens"} & named else "text" in has and "tokens" not in has
        wanted = {"text", "spans"} if by_text else {"tokens", "tags"}
        if not labelled:
            return (wanted | ({"id"} & {*given})) - {"tags", "spans"}
        return wanted | {*given}

    def columns(self, given: Columns, available: Sequence[str], *, labelled: bool = True) -> dict[str, Any]:
        """As of every task; of words with tags and a text with spans only those that are used."""
        if not labelled:
            # Words where there are any, else a text: what is to be predicted need not look like what was learned from.
            own = given.get("tokens", "tokens")
            given = {role: column for role, column in given.items() if role in ("tokens", "text", "id")}
            if own not in available:
                given.pop("tokens", None)
                given.setdefault("text", "text")
        chosen = super().columns(given, available, labelled=labelled)
        unused = {"text", "spans"} if "tokens" in chosen else {"tags"}
        return {role: column for role, column in chosen.items() if role not in unused}

    def strata(self, columns: Columns) -> str | tuple[str, ...] | None:
        """None: a text has many tags."""
        return None

    def find_problem(self, train: Dataset, columns: Mapping[str, Any]) -> tuple[Problem, str]:
        """Entities or tags.

        Raises:
            DataError: Spans are to be tags, or tags that mark no entities are to mark some.
        """
        if "spans" in columns:
            if self.problem == "tags":
                hint = "Remove it, or name a column of tags"
                raise DataError(Trouble("spans are entities", "task.problem", hint=hint))
            return "entities", "spans are given"
        names = {name for row in cells_of(train, columns["tags"]) or () for name in row or () if name}
        marks = mark_entities(names)
        if self.problem == "entities" and not marks and names - {OUTSIDE}:
            odd = next((name for name in sorted(names) if name != OUTSIDE and not mark_entities([name, OUTSIDE])), "")
            what = f"the tag '{odd}' does not mark an entity" if odd else f"no word is tagged '{OUTSIDE}'"
            hint = "Write B-…, I-… and O, or set task.problem: tags"
            raise DataError(Trouble(what, "task.problem", hint=hint))
        if self.problem != "auto":
            return self.problem, "given"
        return ("entities", "tags such as B-… mark entities") if marks else ("tags", "each word has a tag of its own")

    def find_labels(self, train: Dataset, columns: Mapping[str, Any], problem: Problem) -> Labels:
        """Tags and how many words have each in the training split.

        Raises:
            DataError: `labels` leaves out a tag that the training split has.
        """
        counts: dict[str, int] = {}
        words = None if "spans" not in columns else words_of(train, columns)[1]
        for row in self._tags(train, columns, problem, words):
            for name in row:
                counts[name] = counts.get(name, 0) + 1
        names = completed(counts) if problem == "entities" else in_order(counts)
        if self.labels is not None:
            lost = [name for name in names if name not in self.labels and counts.get(name)]
            if lost:
                what = f"the training split has tags that `task.labels` leaves out: {', '.join(lost[:10])}"
                raise DataError(Trouble(what, "task.labels", hint="Add them, or remove `task.labels`"))
            names = self.labels
        return Labels(problem, names, tuple(counts.get(name, 0) for name in names))

    def read(self, split: Dataset, name: str, columns: Mapping[str, Any], labels: Labels | None) -> Examples:
        """One split as texts, their words, and a tag for each word."""
        texts, words = words_of(split, columns)
        targets = None
        if labels is not None:
            index = {label: place for place, label in enumerate(labels.names)}
            tags = [tag for row in self._tags(split, columns, labels.problem, words) for tag in row]
            unknown = sorted({tag for tag in tags if tag not in index})
            if unknown:
                shown = ", ".join(f"'{tag}'" for tag in unknown[:5])
                what = f"split {name} has {len(unknown)} tag(s) that the training split does not have: {shown}"
                near = did_you_mean(unknown[0], labels.names, show_all=0)
                hint = f"{near} Correct them, or add such texts to the training split".strip()
                raise DataError(Trouble(what, "data", hint=hint))
            targets = np.array([index[tag] for tag in tags], dtype=np.int64)
        return Examples(ids_of(split, name, columns), texts, None, targets, words)

    def _tags(
        self, split: Dataset, columns: Mapping[str, Any], problem: Problem, words: Words | None
    ) -> Iterator[Sequence[str]]:
        """The tag of each word of each text, those of entities in IOB; spans are of the characters of the words."""
        if "spans" not in columns:
            for row in cells_of(split, columns["tags"]) or ():
                tags = [tag or OUTSIDE for tag in row or ()]
                yield written(entities_of(tags), len(tags)) if problem == "entities" else tags
            return
        assert words is not None, "spans are in texts, whose words are looked for"
        for place, cell in enumerate(split[columns["spans"]][:]):
            first, end = words.offsets[place], words.offsets[place + 1]
            snapped, _ = snap(spans_in(cell), words.starts[first:end], words.ends[first:end])
            yield written(snapped, int(end - first))

    def examples(self, ids: tuple[str, ...], texts: Sequence[str], pairs: Sequence[str] | None) -> Examples:
        """Texts, and the words in them."""
        return Examples(ids, texts, None, None, _found(texts))

    # --- tokens ---------------------------------------------------------------------------------------------

    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int) -> Encoded:
        """Tokenise a split, with the token at which each word is decided about.

        Raises:
            DataError: The tokenizer does not say which characters a token is of, or there is no room for a text.
        """
        assert examples.words is not None, "this task reads words"
        tokens = tokens_of(tokenizer, examples, max_length, windows=self.in_windows, stride=self.stride, offsets=True)
        units = _first_tokens(examples, examples.words, tokens)
        seen = np.zeros(len(examples.words), bool)
        seen[units.values[units.values >= 0]] = True
        lost = len(np.unique(examples.words.owners[~seen]))
        return Encoded(examples, tokens.columns, tokens.windows, lost, tokens.pad, tokens.left, units)

    def lost(self, max_length: int) -> str:
        """Words that were cut off, or of which there is no token."""
        if not self.in_windows:
            return super().lost(max_length)
        return "have words of which the tokenizer makes no token; nothing is decided about these"

    @property
    def in_windows(self) -> bool:
        """As `long_texts` says."""
        return self.long_texts == "windows"

    # --- decisions ------------------------------------------------------------------------------------------

    def collected(self, logits: FloatArray, data: Encoded, labels: Labels) -> FloatArray:
        """The logits of words; one within the token of the word before it goes on with that one's tag."""
        words = data.examples.words
        assert words is not None, "this task reads words"
        unseen = np.flatnonzero(np.isnan(logits[:, 0]))
        unseen = unseen[~np.isin(unseen, words.offsets)]
        goes_on = unseen[words.starts[unseen] == words.ends[unseen - 1]].tolist()
        if not goes_on or not self.in_windows:  # where texts are cut, a word may be unseen for that
            return logits
        place = {name: number for number, name in enumerate(labels.names)}
        marks = labels.problem == "entities"
        pairs = [(place[name], place.get(f"I{name[1:]}")) for name in place if marks and parted(name)[0] == "B"]
        found = logits.copy()
        for word in goes_on:
            found[word] = found[word - 1]
            for begins, inside in pairs:
                if inside is not None and found[word, begins] > found[word, inside]:
                    found[word, [begins, inside]] = found[word, [inside, begins]]
        return found

    def decode(self, logits: FloatArray, labels: Labels, threshold: float = 0.5) -> Decoded:
        """A tag for each word; one that the model did not see is outside of all entities, with a score of 0."""
        seen = ~np.isnan(logits[:, 0])
        scores = np.zeros(logits.shape, np.float64)
        scores[seen] = softmax(logits[seen])
        unseen = labels.names.index(OUTSIDE) if OUTSIDE in labels.names else 0
        return Decoded(logits, scores, np.where(seen, scores.argmax(axis=1), unseen))

    def default_metrics(self, problem: Problem) -> tuple[str, ...]:
        """F1 of entities, or the share of words that are right."""
        if problem == "entities":
            return ("entity_f1", "entity_precision", "entity_recall", "token_accuracy")
        return ("token_accuracy", "tag_f1_macro")

    def measured(self, values: Any, examples: Examples, labels: Labels) -> list[list[str]]:
        """The tags of each text."""
        assert examples.words is not None, "this task reads words"
        names = [labels.names[value] for value in values]
        return [names[first:end] for first, end in _bounds(examples.words)]

    def table(self, decoded: Decoded, examples: Examples, labels: Labels) -> dict[str, list[Any]]:
        """The words, and the probability of the tag that each got."""
        assert examples.words is not None, "this task reads words"
        certain = decoded.scores.max(axis=1)
        return {
            "words": spelled(examples),
            "scores": [certain[first:end] for first, end in _bounds(examples.words)],
        }

    def records(self, decoded: Decoded, examples: Examples, labels: Labels) -> list[dict[str, Any]]:
        """`{"prediction": [{"label", "text", "start", "end", "score"}, …]}` each: entities, or all words.

        A score is the mean probability of the words' tags.
        """
        words = examples.words
        assert words is not None, "this task reads words"
        certain = decoded.scores.max(axis=1)
        found = []
        bounds = zip(examples.texts, self.named(decoded.predictions, examples, labels), _bounds(words), strict=True)
        for text, tags, (first, _) in bounds:
            alone: list[Entity] = [(tag, place, place + 1) for place, tag in enumerate(tags)]
            spans = []
            for kind, begin, end in entities_of(tags) if labels.problem == "entities" else alone:
                start, stop = int(words.starts[first + begin]), int(words.ends[first + end - 1])
                score = float(certain[first + begin : first + end].mean())
                spans.append({"label": kind, "text": text[start:stop], "start": start, "end": stop, "score": score})
            found.append({"prediction": spans})
        return found


def words_of(split: Dataset, columns: Mapping[str, Any]) -> tuple[list[str], Words]:
    """The texts of a split, and their words.

    Raises:
        DataError: The column of words has none.
    """
    if "tokens" not in columns:
        texts = texts_of(split, columns["text"])
        return texts, _found(texts)
    cells = cells_of(split, columns["tokens"])
    if cells is None:
        what, hint = f"'{columns['tokens']}' holds neither lists nor text", "Write a list of words for each text"
        raise DataError(Trouble(what, "data.columns.tokens", hint=hint))
    rows = [[word or "" for word in row or ()] for row in cells]
    lengths = np.array([len(word) for row in rows for word in row], dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in rows], dtype=np.int64)])
    # A blank follows each word; positions start again with each text.
    ends = np.cumsum(lengths + 1) - 1
    starts = ends - lengths
    begin = np.repeat(np.append(starts, 0)[np.minimum(offsets[:-1], len(starts))], np.diff(offsets))
    return [" ".join(row) for row in rows], Words(offsets, starts - begin, ends - begin)


def cells_of(split: Dataset, column: str) -> list[list[str | None] | None] | None:
    """Words or tags of each row; None for a missing row, a missing cell in one, and a column of something else.

    A cell is a list, the text of one as pandas writes it, or a text with blanks between words.
    """
    feature = getattr(split.features[column], "feature", None)
    names = getattr(feature, "names", None)
    found: list[list[str | None] | None] = []
    for value in split[column][:]:
        if value is None:
            found.append(None)
        elif isinstance(value, str):
            found.append(_listed(value))
        elif isinstance(value, (list, tuple)):
            found.append([_named(item, names) for item in value])
        else:
            return None
    return found


def _named(item: Any, names: Sequence[str] | None) -> str | None:
    """A word or a tag; classes are numbers with names, and negative ones are hidden."""
    if item is None or (names is not None and isinstance(item, int) and item < 0):
        return None
    return names[item] if names is not None and isinstance(item, int) else str(item)


def _listed(text: str) -> list[str | None]:
    if text.startswith("[") and text.endswith("]"):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return [*text.split()]
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return value
    return [*text.split()]


def spans_in(cell: Any) -> list[tuple[str, int, int]]:
    """Type, first character and the character after the last one of each span in a cell.

    Args:
        cell: A list of `{"start": …, "end": …, "label": …}` (or `type`), or of `[start, end, label]`.

    Raises:
        ValueError: It is written in another way.
    """
    found = []
    if cell is not None and not isinstance(cell, (list, tuple)):
        raise ValueError("spans are a list")
    for one in cell or ():
        if isinstance(one, Mapping):
            values = (one.get("start"), one.get("end"), one.get("label", one.get("type")))
        elif isinstance(one, (list, tuple)) and len(one) == 3:
            values = tuple(one)
        else:
            raise ValueError("a span is {start, end, label} or [start, end, label]")
        try:
            start, end, label = int(values[0]), int(values[1]), values[2]  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise ValueError("the start and the end of a span are whole numbers") from error
        if label is None or label == "" or isinstance(label, (list, dict)):
            raise ValueError("a span has no label")
        found.append((str(label), start, end))
    return found


def snap(spans: Sequence[tuple[str, int, int]], starts: IntArray, ends: IntArray) -> tuple[list[Entity], list[str]]:
    """Spans of characters as spans of words, and what had to be changed for that.

    A span takes in each word that it shares a character with. Of spans that share a word the longest is kept.

    Returns:
        Entities in the order of the text; for each change `moved` or `dropped`.
    """
    taken = np.zeros(len(starts), bool)
    found: list[Entity] = []
    changes: list[str] = []
    for kind, start, end in sorted(spans, key=lambda span: (span[1] - span[2], span[1])):
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(starts, end, side="left"))
        if first >= last or taken[first:last].any():
            changes.append("dropped")
            continue
        taken[first:last] = True
        found.append((kind, first, last))
        if starts[first] != start or ends[last - 1] != end:
            changes.append("moved")
    return sorted(found, key=lambda entity: entity[1]), changes


def _found(texts: Sequence[str]) -> Words:
    """The words of texts that are given as such."""
    spans = [[found.span() for found in _WORD.finditer(text)] for text in texts]
    counts = np.cumsum([len(row) for row in spans], dtype=np.int64)
    flat = np.array([span for row in spans for span in row], dtype=np.int64).reshape(-1, 2)
    return Words(np.concatenate([np.zeros(1, np.int64), counts]), flat[:, 0], flat[:, 1])


def _bounds(words: Words) -> list[tuple[int, int]]:
    """First word of each text, and the one after its last."""
    return list(zip(words.offsets[:-1].tolist(), words.offsets[1:].tolist(), strict=True))


def spelled(examples: Examples) -> list[list[str]]:
    """The words of each text."""
    words = examples.words
    assert words is not None, "this task reads words"
    starts, ends = words.starts.tolist(), words.ends.tolist()
    return [
        [text[starts[word] : ends[word]] for word in range(first, end)]
        for text, (first, end) in zip(examples.texts, _bounds(words), strict=True)
    ]


def _first_tokens(examples: Examples, words: Words, tokens: Tokens) -> Ragged:
    """For each token the word that is decided about there, -1 for none."""
    starts, ends = tokens.starts, tokens.ends
    assert starts is not None, "characters were asked for"
    assert ends is not None, "characters were asked for"
    count, offsets = len(starts.values), starts.offsets
    # One line of characters for all texts, so that a single search finds the words of all tokens.
    base = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(text) + 1 for text in examples.texts])])
    lengths = starts.lengths
    shift = np.repeat(np.repeat(base[:-1], np.diff(tokens.windows)), lengths)
    start, end = starts.values + shift, ends.values + shift
    word_starts, word_ends = words.starts + base[words.owners], words.ends + base[words.owners]
    word = np.searchsorted(word_ends, start, side="right")
    inside = np.minimum(word, max(len(words) - 1, 0))
    # Special tokens are of no character; a token may begin with the blank before its word.
    begins = (word < len(words)) & (end > start) & (end > word_starts[inside]) if len(words) else np.zeros(count, bool)
    earliest = np.full(len(words), np.iinfo(np.int64).max)
    np.minimum.at(earliest, word[begins], start[begins])
    begins[begins] = start[begins] == earliest[word[begins]]  # a window may begin within a word
    place = np.arange(count) - np.repeat(offsets[:-1], lengths)
    row = np.repeat(np.arange(len(lengths)), lengths)
    begins[1:] &= ~(begins[:-1] & (word[1:] == word[:-1]) & (row[1:] == row[:-1]))
    around = np.minimum(place, np.repeat(lengths, lengths) - 1 - place)
    candidates = np.flatnonzero(begins)
    order = candidates[np.lexsort((candidates, -around[candidates], word[candidates]))]
    chosen = order[np.concatenate([[True], word[order][1:] != word[order][:-1]])] if len(order) else order
    units = np.full(count, -1, np.int64)
    units[chosen] = word[chosen]
    return Ragged(units, offsets)
