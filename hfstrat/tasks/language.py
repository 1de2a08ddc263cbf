"""What language models share: each token is a decision, measured by its loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from hfstrat.spec import Spec
from hfstrat.tasks.base import Decoded, Encoded, Examples, FloatArray, IntArray, Labels, Problem, Ragged
from hfstrat.tasks.task import Columns, TextsSpec

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

NO_TEACHER = "a teacher's outputs for a whole vocabulary are too many to be kept"
LOSS, HITS, COUNT = range(3)
"""Columns of what is collected for each example: sum of its tokens' losses in nats, tokens that are right, tokens."""
AT_ONCE = 1000  # texts that are tokenised together


class Generation(Spec):
    """How text is continued."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    """Tokens of a continuation, at most."""
    num_beams: Annotated[int, Field(ge=1)] = 1
    """Continuations that are followed side by side; 1 takes the likeliest token each time."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """By which logits are divided before a token is drawn; 0 takes the likeliest one."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the probability, from the likeliest token on, that is drawn from."""


@dataclass(frozen=True)
class Said:
    """What is collected where a model writes.

    Args:
        sums: Sums over the tokens of each example, float64 `(n, 3)`.
        texts: What it wrote about each example.
    """

    sums: FloatArray
    texts: Sequence[str]


class LanguageSpec(TextsSpec):
    """A task whose outputs are tokens of the vocabulary."""

    of_vocabulary: ClassVar[bool] = True
    solvable: ClassVar[bool] = False
    floors: ClassVar[tuple[str, ...]] = ()
    refused: ClassVar[Mapping[str, str]] = {"distill": NO_TEACHER}

    def strata(self, columns: Columns) -> None:
        """Text has no classes to be even about."""
        return

    def find_problem(self, train: Dataset | None, columns: Mapping[str, Any]) -> tuple[Problem, str]:
        """There is one."""
        return "tokens", "each token is predicted"

    def find_labels(self, train: Dataset | None, columns: Mapping[str, Any], problem: Problem) -> Labels:
        """The vocabulary is the tokenizer's."""
        return Labels(problem, ())

    def marks(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
        """The tokens that begin and that end a document, where texts are put one after the other."""
        raise NotImplementedError

    def of_stream(self, tokenizer: PreTrainedTokenizerBase, stream: IntArray, max_length: int) -> Encoded:
        """Examples of tokens that are on disk.

        Args:
            tokenizer: What made them.
            stream: All of them, each document with its `marks`: `(tokens,)`.
            max_length: Tokens of a window, special tokens included.

        Raises:
            DataError: There is nothing to learn.
        """
        raise NotImplementedError

    @property
    def in_windows(self) -> bool:
        """Longer texts are cut into pieces, each of which is an example."""
        return True

    @staticmethod
    def kept(logits: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        """Loss and likeliest token of each unit, float `(units, 2)`."""
        import torch
        from torch.nn import functional

        assert targets is not None, "each token knows what follows"
        losses = functional.cross_entropy(logits, targets, reduction="none")
        return torch.stack([losses, logits.argmax(dim=1).to(losses.dtype)], dim=1)

    def collected(self, logits: FloatArray, data: Encoded, labels: Labels) -> FloatArray:
        """Sums over the tokens of each example, float64 `(n, 3)`: loss in nats, tokens that are right, tokens."""
        assert data.units is not None, "tokens were looked for"
        assert data.aims is not None, "each token knows what follows"
        owner = np.repeat(np.arange(len(data)), data.units.lengths)[data.units.values >= 0]
        right = logits[:, 1].astype(np.int64) == data.aims
        sums = (logits[:, 0].astype(np.float64), right.astype(np.float64), np.ones(len(owner)))
        return np.stack([np.bincount(owner, each, len(data)) for each in sums], axis=1)

    def mean_loss(self, logits: FloatArray | Said, examples: Examples, labels: Labels) -> float:
        """Mean loss of a token in nats."""
        sums = _sums(logits)
        return float(sums[:, LOSS].sum() / max(1.0, sums[:, COUNT].sum()))

    def decode(self, logits: FloatArray | Said, labels: Labels, threshold: float = 0.5) -> Decoded:
        """The sums of each example, its mean loss as score, and what was written about it."""
        sums = _sums(logits)
        texts = logits.texts if isinstance(logits, Said) else None
        return Decoded(sums, sums[:, LOSS] / np.maximum(1.0, sums[:, COUNT]), sums, texts)

    def default_metrics(self, problem: Problem) -> tuple[str, ...]:
        """The perplexity, and how often the likeliest token is right."""
        return ("perplexity", "token_accuracy")

    def measured(self, values: Any, examples: Examples, labels: Labels) -> Any:
        """The sums of each example."""
        return np.asarray(values, dtype=np.float64)

    def true_values(self, examples: Examples, labels: Labels) -> Any:
        """Nothing beyond what the sums know."""
        return np.zeros(len(examples))

    def named(self, values: Any, examples: Examples, labels: Labels) -> list[Any]:
        """The perplexity of each example."""
        sums = np.asarray(values, dtype=np.float64)
        found: list[Any] = np.exp(sums[:, LOSS] / np.maximum(1.0, sums[:, COUNT])).tolist()
        return found

    def table(self, decoded: Decoded, examples: Examples, labels: Labels) -> dict[str, list[Any]]:
        """The text, and the sums that metrics are made of."""
        sums = np.asarray(decoded.logits)
        written = {} if decoded.texts is None else {"true": self.answers(examples), "written": list(decoded.texts)}
        return {
            "text": [str(text) for text in examples.texts],
            **written,
            "loss": sums[:, LOSS].tolist(),
            "right": sums[:, HITS].astype(np.int64).tolist(),
            "tokens": sums[:, COUNT].astype(np.int64).tolist(),
        }

    def answers(self, examples: Examples) -> list[str]:
        """What is to be written about each example."""
        if examples.chats is not None:
            return [str(chat[-1]["content"]) for chat in examples.chats]
        return list(examples.pairs or ())

    def records(self, decoded: Decoded, examples: Examples, labels: Labels) -> list[dict[str, Any]]:
        """The perplexity of each example."""
        return [{"prediction": value} for value in self.named(decoded.predictions, examples, labels)]


def _sums(collected: FloatArray | Said) -> FloatArray:
    return collected.sums if isinstance(collected, Said) else collected


@dataclass(frozen=True)
class Pieces(Sequence[str]):
    """Texts of pieces, read off their tokens when they are asked for.

    Args:
        ids: Tokens of each piece.
        tokenizer: What made them.
    """

    ids: Ragged
    tokenizer: PreTrainedTokenizerBase

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        row = self.ids.taken(np.array([place])).values
        return self.tokenizer.decode(row.tolist(), skip_special_tokens=True)


@dataclass(frozen=True)
class Framed(Ragged):
    """Pieces of a stream of tokens, each with what stands before and after a text; made when they are asked for.

    Args:
        values: The stream, without what stands around pieces.
        offsets: Where each piece begins, with it: `(pieces + 1,)`.
        before: What stands before a piece.
        after: What stands after it.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def taken(self, rows: IntArray) -> Ragged:
        """Some pieces."""
        around = len(self.before) + len(self.after)
        starts = self.offsets[rows] - around * rows
        sizes = self.lengths[rows] - around
        inner = [self.values[start : start + size] for start, size in zip(starts, sizes, strict=True)]
        pieces = [np.concatenate([self.before, piece, self.after]).astype(np.int32) for piece in inner]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(piece) for piece in pieces])])
        return Ragged(np.concatenate(pieces), offsets)


def named_pieces(ids: Sequence[str], counts: IntArray) -> tuple[str, ...]:
    """A name for each piece of some texts: the text's own, and where there are several their number.

    Args:
        ids: Names of the texts.
        counts: Pieces of each text.
    """
    return tuple(_names(ids, counts.tolist()))


def _names(ids: Sequence[str], counts: Sequence[int]) -> Iterator[str]:
    for name, count in zip(ids, counts, strict=True):
        if count == 1:
            yield name
        else:
            yield from (f"{name}#{number}" for number in range(count))


def frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before a text and after it."""
    whole = tokenizer("a")["input_ids"]
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    for start in range(len(whole) - len(inner) + 1):
        if whole[start : start + len(inner)] == inner:
            return list(whole[:start]), list(whole[start + len(inner) :])
    return [], []


def flat_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Ragged:
    """Tokens of some texts, without special ones."""
    rows = []
    for start in range(0, len(texts), AT_ONCE):
        part = list(texts[start : start + AT_ONCE])
        tokens = tokenizer(part, add_special_tokens=False, return_attention_mask=False, verbose=False)
        rows.append(Ragged.of(tokens["input_ids"]))
    return Ragged.joined(rows)
