"""Texts as windows of tokens that a model can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hfstrat.errors import DataError
from hfstrat.errors import Problem as Trouble
from hfstrat.tasks.base import Examples, IntArray, Ragged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AT_ONCE, CHARACTERS = 10_000, 5_000_000  # that are tokenised together, at most


@dataclass(frozen=True)
class Tokens:
    """Some texts, tokenised.

    Args:
        columns: Token columns by the model's argument name, a row a window.
        windows: First window of each text, and the end: `(n + 1,)`.
        truncated: Texts that lost tokens.
        pad: What fills each column.
        left: Whether padding goes to the left.
        starts: The character at which each token begins in its text, as `input_ids`; None unless asked for.
        ends: The character after it.
        second: 1 for each token of the second text of a pair, else 0; None unless asked for.
    """

    columns: dict[str, Ragged]
    windows: IntArray
    truncated: int
    pad: dict[str, int]
    left: bool
    starts: Ragged | None = None
    ends: Ragged | None = None
    second: Ragged | None = None


def tokens_of(
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    max_length: int,
    *,
    windows: bool,
    stride: int = 0,
    offsets: bool = False,
) -> Tokens:
    """Tokenise texts, or pairs of texts.

    Args:
        tokenizer: The model's tokenizer; it must have a padding token.
        examples: The texts.
        max_length: Tokens of a window, special tokens included.
        windows: Whether longer texts are cut into overlapping windows, and not just cut; of pairs the second ones are.
        stride: Tokens that neighbouring windows share, at most.
        offsets: Whether characters are wanted, and which text of a pair a token is of.

    Raises:
        DataError: The length leaves no room for a text, or the tokenizer does not say which characters a token is of.
    """
    if offsets and not tokenizer.is_fast:
        what = f"{type(tokenizer).__name__} does not tell which characters a token is of"
        raise DataError(Trouble(what, "model.base", hint="Name a base with a tokenizer.json"))
    special = tokenizer.num_special_tokens_to_add(pair=examples.pairs is not None)
    room = max_length - special
    if room < 1 + (examples.pairs is not None):
        message = f"{max_length} tokens leave no room for text beside {special} special ones"
        raise DataError(Trouble(message, "task.max_length", hint="Raise it"))
    rows: dict[str, list[Ragged]] = {}
    owners: list[IntArray] = []
    sizes = np.array([len(text) for text in examples.texts], dtype=np.int64)
    if examples.pairs is not None:
        sizes += [len(text) for text in examples.pairs]
    whole = ((places, 0) for places in _chunks(np.arange(len(examples)), sizes))
    for places, shared in _alike(tokenizer, examples, sizes, room, stride) if windows else whole:
        options: dict[str, Any] = {"truncation": True, "max_length": max_length, "return_attention_mask": False}
        if windows:
            options |= {"return_overflowing_tokens": True, "stride": shared}
        if windows and examples.pairs is not None:
            options["truncation"] = "only_second"
        if offsets:
            options["return_offsets_mapping"] = True
        tokens: Any = tokenizer(*_texts_of(examples, places), **options)
        for name in tokenizer.model_input_names:
            if name in tokens:
                rows.setdefault(name, []).append(Ragged.of(tokens[name]))
        if offsets:
            for place, name in enumerate(("starts", "ends")):
                chars = [[pair[place] for pair in row] for row in tokens["offset_mapping"]]
                rows.setdefault(name, []).append(Ragged.of(chars))
            sides = [[int(side == 1) for side in encoding.sequence_ids] for encoding in tokens.encodings]
            rows.setdefault("second", []).append(Ragged.of(sides))
        owners.append(places[tokens["overflow_to_sample_mapping"]] if windows else places)
    owner = np.concatenate([np.zeros(0, np.int64), *owners])
    order = np.argsort(owner, kind="stable")
    columns = {name: Ragged.joined(parts).taken(order) for name, parts in rows.items()}
    starts, ends, second = (columns.pop(name, None) for name in ("starts", "ends", "second"))
    return Tokens(
        columns=columns,
        windows=np.searchsorted(owner[order], np.arange(len(examples) + 1)),
        truncated=0 if windows else _count_truncated(tokenizer, examples, columns["input_ids"], max_length),
        pad={
            name: tokenizer.pad_token_type_id if name == "token_type_ids" else int(tokenizer.pad_token_id or 0)
            for name in columns
        },
        left=tokenizer.padding_side == "left",
        starts=starts,
        ends=ends,
        second=second,
    )


def _alike(
    tokenizer: PreTrainedTokenizerBase, examples: Examples, sizes: IntArray, room: int, stride: int
) -> Iterator[tuple[IntArray, int]]:
    """Examples whose windows share as many tokens, and how many: half of what is new in one, at most.

    Raises:
        DataError: A first text of a pair leaves no room for the second one.
    """
    rooms = np.full(len(examples), room)
    if examples.pairs is not None:
        rooms -= _lengths(tokenizer, examples.texts)
    if (rooms < 1).any():
        message = "a first text of a pair is so long that no window has room for the second one"
        hint = "Raise it, shorten these texts, or (to classify texts) set task.long_texts: truncate"
        raise DataError(Trouble(message, "task.max_length", hint=hint))
    strides = np.minimum(stride, rooms // 2)
    for shared in np.unique(strides):
        yield from ((places, int(shared)) for places in _chunks(np.flatnonzero(strides == shared), sizes))


def _chunks(places: IntArray, sizes: IntArray) -> Iterator[IntArray]:
    """Places in parts: what a tokenizer returns takes many times the memory of the ids that are kept of it.

    Args:
        places: Some texts.
        sizes: Characters of each text `(n,)`, of which a part has a bounded number.
    """
    ends = np.cumsum(sizes[places])
    start = 0
    while start < len(places):
        most = (ends[start - 1] if start else 0) + CHARACTERS
        end = min(start + AT_ONCE, max(start + 1, int(np.searchsorted(ends, most, side="right"))))
        yield places[start:end]
        start = end


def _texts_of(examples: Examples, places: IntArray) -> list[list[str]]:
    """What a tokenizer is given of some examples: first texts, and second ones where there are any."""
    columns = (examples.texts,) if examples.pairs is None else (examples.texts, examples.pairs)
    return [[column[place] for place in places] for column in columns]


def _lengths(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> IntArray:
    """Tokens of each text, without special ones: `(n,)`."""
    found = []
    for places in _chunks(np.arange(len(texts)), np.array([len(text) for text in texts], dtype=np.int64)):
        part = [texts[place] for place in places]
        rows = tokenizer(part, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        found += [len(row) for row in rows]
    return np.array(found, dtype=np.int64)


def _count_truncated(tokenizer: PreTrainedTokenizerBase, examples: Examples, ids: Ragged, max_length: int) -> int:
    """How many examples are longer than the model sees; only full rows are tokenised again."""
    count, lengths = 0, np.diff(ids.offsets)
    for places in _chunks(np.flatnonzero(lengths >= max_length), lengths):
        rows = tokenizer(*_texts_of(examples, places), truncation=False, verbose=False)["input_ids"]
        count += sum(len(row) > max_length for row in rows)
    return count
