"""What tasks hand to the loop: examples, ragged token columns, batches. NumPy only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from hfstrat.tasks.implied import Lengths, Steps

if TYPE_CHECKING:
    import torch
    from torch import nn

Problem = Literal["single_label", "multi_label", "regression", "entities", "tags", "spans", "tokens", "boxes"]
DECODER = "decoder_input_ids"
"""The column of what a decoder reads, beside the encoder's `input_ids`."""
IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Labels:
    """What the targets of a task are.

    Args:
        problem: Exclusive classes, independent classes, or numbers; of words, tags that mark entities, or any tags; of
            a context, where an answer stands; tokens of the vocabulary; boxes of a picture.
        names: Names of the classes, or of the numbers; their order is the order of the logits. Tokens have none here.
        counts: Training units of each class; empty for regression.
    """

    problem: Problem
    names: tuple[str, ...]
    counts: tuple[int, ...] = ()


T = TypeVar("T")


@dataclass(frozen=True)
class Chosen(Sequence[T]):
    """Some members of a sequence, or all in another order.

    Args:
        of: The sequence.
        rows: Which members.
    """

    of: Sequence[T]
    rows: IntArray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return Chosen(self.of, self.rows[place])
        return self.of[int(self.rows[place])]


@dataclass(frozen=True)
class Words:
    """Where the words of some texts stand.

    Args:
        offsets: First word of each text, and the end: `(texts + 1,)`.
        starts: First character of each word in its text: `(words,)`.
        ends: The character after its last one: `(words,)`.
    """

    offsets: IntArray
    starts: IntArray
    ends: IntArray

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def owners(self) -> IntArray:
        """The text of each word: `(words,)`."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @classmethod
    def joined(cls, parts: Sequence[Words]) -> Words:
        """The words of all parts."""
        counts = [np.diff(part.offsets) for part in parts]
        return cls(
            np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))]),
            np.concatenate([part.starts for part in parts]),
            np.concatenate([part.ends for part in parts]),
        )


@dataclass(frozen=True)
class Answer:
    """A part of a context that answers a question.

    Args:
        start: Its first character in the context.
        text: It.
    """

    start: int
    text: str


Message = Mapping[str, Any]


class TextStream(Protocol):
    """Text that is read piece by piece."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what it says, in hex."""
        ...

    def parts(self) -> Iterator[tuple[str, bool]]:
        """All of it in order, in parts of bounded size, each with whether a document ends with it."""
        ...


@dataclass(frozen=True)
class Examples:
    """One split as the user wrote it.

    What is decided about is a unit: an example, or each word of it.

    Args:
        ids: A stable name for each example.
        texts: First texts.
        pairs: Second texts, for pairs.
        targets: Class indices `(units,)`, 0/1 `(units, classes)`, numbers `(units, outputs)`, or the characters of the
            first answer `(n, 2)`, -1 where there is none; of pictures true boxes `(n, most, 7)`; None without labels.
        words: The words of the texts, where those are the units.
        answers: All answers to each question, where texts are questions about their pairs.
        chats: The messages of each conversation, `{"role": …, "content": …}` each, where texts are those.
        stream: Where the texts are instead, when there are too many to be in memory.
        media: Pictures or sounds, where those are decided about; `texts` are their names then.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    pairs: Sequence[str] | None
    targets: IntArray | FloatArray | None
    words: Words | None = None
    answers: Sequence[Sequence[Answer]] | None = None
    chats: Sequence[Sequence[Message]] | None = None
    stream: TextStream | None = None
    media: Sequence[Any] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def units(self) -> int:
        """How many things are decided about."""
        return len(self) if self.words is None else len(self.words)

    def taken(self, rows: IntArray) -> Examples:
        """Some examples, without targets; each is looked at only when it is asked for."""
        return Examples(
            Chosen(self.ids, rows),
            Chosen(self.texts, rows),
            None if self.pairs is None else Chosen(self.pairs, rows),
            None,
            chats=None if self.chats is None else Chosen(self.chats, rows),
            media=None if self.media is None else Chosen(self.media, rows),
        )

    def and_unlabelled(self, more: Examples) -> Examples:
        """These examples, and others whose targets do not count."""
        assert self.targets is not None, "labelled examples have targets"
        blank = np.zeros((more.units, *self.targets.shape[1:]), self.targets.dtype)
        return Examples(
            (*self.ids, *more.ids),
            [*self.texts, *more.texts],
            None if self.pairs is None else [*self.pairs, *(more.pairs or ())],
            np.concatenate([self.targets, blank]),
            None if self.words is None or more.words is None else Words.joined([self.words, more.words]),
            media=None if self.media is None else [*self.media, *(more.media or ())],
        )


@dataclass(frozen=True)
class Ragged:
    """Rows of unequal length in one flat array.

    Args:
        values: All rows one after the other.
        offsets: Where each row starts, and the end: `(rows + 1,)`.
    """

    values: IntArray
    offsets: IntArray | Steps

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        """Pack a list of rows."""
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        values = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(lengths.sum()))
        return cls(values, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> IntArray | Lengths:
        """Length of each row."""
        return self.offsets.lengths if isinstance(self.offsets, Steps) else np.diff(self.offsets)

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of all parts."""
        lengths = np.concatenate([np.zeros(1, np.int64), *(part.lengths for part in parts)])
        return cls(np.concatenate([np.zeros(0, np.int32), *(part.values for part in parts)]), np.cumsum(lengths))

    def taken(self, rows: IntArray) -> Ragged:
        """Some rows, or all in another order."""
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self
        lengths = self.lengths[rows]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        source = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(self.values[source], offsets)

    def padded(self, rows: IntArray, fill: int, *, left: bool = False) -> tuple[IntArray, IntArray]:
        """Some rows as a rectangle, with its mask.

        Args:
            rows: Which rows.
            fill: Value of the padding.
            left: Pad on the left.

        Returns:
            Values and mask (1 where a value stands), int64 `(len(rows), longest)`.
        """
        source, mask = self.places(rows, left=left)
        values = self.values[source] if self.values.size else np.zeros(source.shape, np.int32)
        return np.where(mask, values, fill).astype(np.int64), mask.astype(np.int64)

    def places(self, rows: IntArray, *, left: bool = False) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """Where the values of some rows stand in the flat array, as a rectangle with its mask.

        Returns:
            Places, 0 for padding, and where a value stands: `(len(rows), longest)`.
        """
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        width = int(lengths.max(initial=0))
        place = np.arange(width)[None, :]
        start = (width - lengths)[:, None] if left else np.zeros_like(lengths)[:, None]
        mask = (place >= start) & (place < start + lengths[:, None])
        return np.where(mask, self.offsets[rows][:, None] + place - start, 0), mask


@dataclass(frozen=True)
class Hidden:
    """Hidden states of all tokens of a split, computed before.

    Args:
        values: `(tokens, width)`, in the order of `input_ids`; of signals `(n, …)`; bfloat16 as its 16 bits.
        dtype: What they are, by torch's name (`float32`).
    """

    values: npt.NDArray[Any]
    dtype: str


class Signals(Protocol):
    """The pictures or the sounds of a split, as a model takes them."""

    def inputs(self, rows: IntArray) -> Mapping[str, npt.NDArray[Any]]:
        """Some of them as keyword arguments of the model, `(len(rows), …)` each."""
        ...

    def taken(self, rows: IntArray) -> Self:
        """Some of them."""
        ...

    def and_more(self, more: Self) -> Self:
        """These, and others after them."""
        ...

    @property
    def lengths(self) -> IntArray:
        """What each costs, in tokens of a text `(n,)`: patches of a picture, frames of a sound."""
        ...

    @property
    def digest(self) -> bytes:
        """SHA-256 of all that a model takes of them."""
        ...


class OwnLoss(Protocol):
    """How a model is asked that is told what is true and computes its loss itself."""

    def of_update(self, targets: IntArray | FloatArray) -> Self:
        """The same where what it computes is part of the loss of all these targets."""
        ...

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, torch.Tensor], targets: torch.Tensor | None
    ) -> torch.Tensor:
        """Of each unit of a batch its part of the loss, and what decisions are made from: float `(units, columns)`."""
        ...


class Masking(Protocol):
    """Hides tokens of examples, or varies signals, as a function of seed, epoch and the example alone."""

    def drawn(self, data: Encoded, rows: IntArray, seed: int, epoch: int) -> Encoded:
        """Some examples of a split, changed anew; the arguments are those of `Encoded.drawn`."""
        ...


@dataclass(frozen=True)
class Encoded:
    """One split, tokenised.

    Args:
        examples: What was tokenised.
        columns: Token columns by the model's argument name (`input_ids`, `token_type_ids`, `decoder_input_ids`), a row
            a window.
        windows: First window of each example, and the end: `(n + 1,)`; without windows, `0 … n`.
        truncated: Examples that lost tokens.
        pad: What fills each column.
        left: Whether padding goes to the left.
        units: For each token the unit that the model's output at it is about, -1 for none, as `input_ids` or as what
            the decoder reads; None where the model has one output for each example.
        teacher: A teacher's logits, float32 `(units, classes)`; None without a teacher.
        labelled: Whether each unit's target counts, bool `(units,)`; None when all do.
        aims: What is true of each unit, where units are tokens, or where a model is told it in other words than
            examples have; None where examples or words know it.
        spans: Window and characters of each unit that is a token, `(units, 3)`; characters are -1 for no answer.
        hidden: What the frozen blocks give for each token or signal, where that is not computed again; else None.
        masking: How tokens are hidden, or signals varied, anew each time that an example is trained on; None where
            they are not. `columns`, `units`, `aims` and `signals` are those of evaluations.
        streamed: Whether the tokens are on disk and too many to be in memory at once.
        packed: Whether examples of a batch go through the model one after the other in a single row, without padding.
        signals: The pictures or sounds, where the model takes those; there are no token columns then.
        own: How the model is asked, where it computes its loss itself; None where the task does.
        padding: Tokens of padding that a pass through the model computes at most; None: any number.
    """

    examples: Examples
    columns: Mapping[str, Ragged]
    windows: IntArray | Steps
    truncated: int
    pad: Mapping[str, int]
    left: bool = False
    units: Ragged | None = None
    teacher: FloatArray | None = None
    labelled: npt.NDArray[np.bool_] | None = None
    aims: IntArray | FloatArray | None = None
    spans: IntArray | None = None
    hidden: Hidden | None = None
    masking: Masking | None = None
    streamed: bool = False
    packed: bool = False
    signals: Signals | None = None
    own: OwnLoss | None = None
    padding: int | None = None

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def ids(self) -> Sequence[str]:
        """A stable name for each example."""
        return self.examples.ids

    @property
    def targets(self) -> IntArray | FloatArray | None:
        """What is true of each unit: as in `Examples`, or of tokens as the task has it."""
        return self.examples.targets if self.spans is None and self.aims is None else self.aims

    @property
    def count(self) -> int:
        """How many units there are."""
        tokens = self.spans if self.spans is not None else self.aims
        return self.examples.units if tokens is None else len(tokens)

    def units_of(self, rows: IntArray) -> IntArray:
        """The units of some examples that the model says something about."""
        if self.units is None:
            return rows
        source, mask = self.units.places(self.windows_of(rows), left=self.left)
        found = self.units.values[source[mask]]
        return found[found >= 0]

    def windows_of(self, rows: IntArray) -> IntArray:
        """The windows of some examples, one example after the other."""
        first, last = self.windows[rows], self.windows[rows + 1]
        if bool((last - first == 1).all()):
            return first
        return np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])

    @cached_property
    def lengths(self) -> IntArray | Lengths:
        """Tokens of each example's longest window, those of the decoder included; of a signal what it costs."""
        if self.signals is not None:
            return self.signals.lengths
        lengths = self.columns["input_ids"].lengths
        if isinstance(lengths, Lengths):
            return lengths
        if DECODER in self.columns:
            lengths = lengths + self.columns[DECODER].lengths
        if len(lengths) == len(self):
            return lengths
        return np.maximum.reduceat(lengths, self.windows[:-1])

    def costliest(self, count: int) -> IntArray:
        """The examples that take most to be computed, so many of them, all windows of each counted."""
        if isinstance(self.lengths, Lengths):
            return np.arange(min(count, len(self)))
        return np.argsort(-self.lengths * np.diff(self.windows), kind="stable")[:count]

    @property
    def samples(self) -> IntArray:
        """A short, a middling and a long example."""
        if isinstance(self.lengths, Lengths):
            return np.unique([0, len(self) // 2, len(self) - 1])
        by_length = np.argsort(self.lengths, kind="stable")
        return np.unique(by_length[[0, len(by_length) // 2, -1]])

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest window."""
        return int(self.lengths.max(initial=0))

    @property
    def median(self) -> float:
        """Half of the examples have fewer tokens in their longest window."""
        return self.longest if isinstance(self.lengths, Lengths) else float(np.median(self.lengths))

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return sum(int(column.offsets[-1]) for name, column in self.columns.items() if name in ("input_ids", DECODER))

    def drawn(self, rows: IntArray, seed: int, epoch: int) -> tuple[Encoded, IntArray]:
        """Some examples as an epoch sees them, and which rows of it they are.

        Args:
            rows: Which examples.
            seed: The run's seed.
            epoch: Number of the epoch, from 0.
        """
        if self.masking is None:
            return self, rows
        return self.masking.drawn(self, rows, seed, epoch), np.arange(len(rows))

    def varied(self, rows: IntArray, signals: Signals) -> Encoded:
        """Some examples with other signals, which are these rows' as an epoch sees or hears them."""
        targets = self.examples.targets
        return replace(
            self,
            examples=replace(self.examples.taken(rows), targets=None if targets is None else targets[rows]),
            windows=np.arange(len(rows) + 1),
            signals=signals,
            masking=None,
        )

    def first(self, count: int) -> Encoded:
        """The first examples, to be looked at: their tokens, and no units."""
        windows = self.windows[: count + 1]
        rows = np.arange(windows[-1])
        return replace(
            self,
            examples=self.examples.taken(np.arange(count)),
            columns={name: column.taken(rows) for name, column in self.columns.items()},
            windows=windows,
            units=None,
            aims=None,
            signals=None if self.signals is None else self.signals.taken(np.arange(count)),
        )

    def with_teacher(self, logits: FloatArray) -> Encoded:
        """The same tokens with a teacher's logits."""
        return replace(self, teacher=logits)

    def with_hidden(self, hidden: Hidden) -> Encoded:
        """The same tokens with what the frozen blocks give for them."""
        return replace(self, hidden=hidden)

    def and_unlabelled(self, more: Encoded) -> Encoded:
        """These examples, and others whose targets do not count."""
        units, own = None, self.examples.units
        if self.units is not None and more.units is not None:
            moved = np.where(more.units.values < 0, -1, more.units.values + own)
            units = Ragged.joined([self.units, Ragged(moved, more.units.offsets)])
        return replace(
            self,
            examples=self.examples.and_unlabelled(more.examples),
            columns={name: Ragged.joined([column, more.columns[name]]) for name, column in self.columns.items()},
            windows=np.concatenate([self.windows, self.windows[-1] + more.windows[1:]]),
            truncated=self.truncated + more.truncated,
            units=units,
            labelled=np.arange(own + more.examples.units) < own,
            signals=None if self.signals is None or more.signals is None else self.signals.and_more(more.signals),
        )


@dataclass(frozen=True)
class Decoded:
    """What a model says about a split.

    Args:
        logits: float32 `(units, classes)`; NaN where the model did not see a unit.
        scores: Probabilities, or the numbers themselves for regression: float64 `(units, classes)`.
        predictions: Class indices `(units,)`, 0/1 `(units, classes)`, or numbers `(units, outputs)`.
        texts: What the model wrote about each example, where it was asked to.
    """

    logits: FloatArray
    scores: FloatArray
    predictions: IntArray | FloatArray
    texts: Sequence[str] | None = None
