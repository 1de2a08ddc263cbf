"""Masked tokens: which are hidden, and by what, is a function of (seed, epoch, example) and of nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hfstrat.tasks.base import Encoded, IntArray, Ragged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT, REPLACED = 0.1, 0.1  # of the chosen tokens stay as they are, become another token (Devlin et al. 2019, §3.1)
EVALUATION = 2**32 - 1  # in place of an epoch: each evaluation hides the same tokens
_CONTINUES = "##"  # of WordPiece
_BEGINS = ("Ġ", "▁")  # of byte pairs, and of SentencePiece


@dataclass(frozen=True)
class Masks:
    """Hides a share of the tokens of each example.

    Args:
        ids: All tokens, as they are, a row an example.
        share: Share of the tokens of a text that are chosen, at least one.
        mask: Id of the token that hides another.
        fillers: Ids by which a chosen token may be replaced.
        special: For each id of the vocabulary whether it is never chosen.
        continues: For each id whether it goes on with the word before it; None to choose token by token.
        names: Name of each example, which its tokens are hidden by.
    """

    ids: Ragged
    share: float
    mask: int
    fillers: IntArray
    special: npt.NDArray[np.bool_]
    continues: npt.NDArray[np.bool_] | None
    names: Sequence[str]

    def hidden(self, data: Encoded, rows: IntArray, seed: int, epoch: int) -> Encoded:
        """Some examples of a split with tokens hidden.

        Args:
            data: The split.
            rows: Which examples.
            seed: The run's seed.
            epoch: Number of the epoch, from 0.
        """
        taken = {name: column.taken(rows) for name, column in data.columns.items()}
        whole = self.ids.taken(rows)
        ids, chosen = whole.values.copy(), np.zeros(len(whole.values), bool)
        for place, row in enumerate(rows):
            start, end = whole.offsets[place : place + 2]
            key = np.array([(seed % 2**32) << 32 | epoch, _number(self.names[row])], np.uint64)
            rng = np.random.Generator(np.random.Philox(key=key))
            some = self._chosen(whole.values[start:end], rng)
            chosen[start + some] = True
            ids[start + some] = self._replaced(ids[start + some], rng)
        units = np.where(chosen, np.cumsum(chosen) - 1, -1).astype(np.int32)
        return replace(
            data,
            examples=data.examples.taken(rows),
            columns={**taken, "input_ids": Ragged(ids, whole.offsets)},
            windows=np.arange(len(rows) + 1),
            units=Ragged(units, whole.offsets),
            aims=whole.values[chosen],
        )

    def drawn(self, data: Encoded, rows: IntArray, seed: int, epoch: int) -> Encoded:
        """Some examples of a split as an epoch sees them; the arguments are those of `Encoded.drawn`."""
        return replace(self.hidden(data, rows, seed, epoch), masking=None)

    def _chosen(self, ids: IntArray, rng: np.random.Generator) -> IntArray:
        """Places of the tokens that are to be predicted, in their order."""
        places = np.flatnonzero(~self.special[ids])
        if not len(places):
            return places
        wanted = max(1, round(self.share * len(places)))
        if self.continues is None:
            return np.sort(rng.permutation(places)[:wanted])
        begins = ~self.continues[ids[places]]
        begins[1:] |= np.diff(places) > 1  # after a special token a word begins, whatever it looks like
        begins[0] = True
        word = np.cumsum(begins) - 1
        order = rng.permutation(int(word[-1]) + 1)
        sizes = np.bincount(word)[order]
        # Words until the share is reached; the last one may exceed it.
        count = int(np.searchsorted(np.cumsum(sizes), wanted)) + 1
        return places[np.isin(word, order[:count])]

    def _replaced(self, ids: IntArray, rng: np.random.Generator) -> IntArray:
        lots = rng.random(len(ids))
        others = self.fillers[rng.integers(0, len(self.fillers), len(ids))]
        found = np.full(len(ids), self.mask, ids.dtype)
        found = np.where(lots < KEPT, ids, found)
        return np.where(lots >= 1 - REPLACED, others, found).astype(ids.dtype)


def masks(tokenizer: PreTrainedTokenizerBase, ids: Ragged, names: Sequence[str], share: float, whole: bool) -> Masks:
    """What hides tokens of some examples.

    Args:
        tokenizer: What made them; it has a mask token.
        ids: Tokens of each example.
        names: Its name.
        share: Share of its tokens that are chosen.
        whole: Whether all tokens of a word are chosen together.

    Raises:
        ValueError: Words are to be chosen whole, and the tokenizer's tokens do not tell where one begins.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = np.zeros(len(tokens), bool)
    special[[one for one in tokenizer.all_special_ids if one < len(tokens)]] = True
    return Masks(
        ids,
        share,
        int(tokenizer.mask_token_id),
        np.flatnonzero(~special),
        special,
        _continuing(tokens) if whole else None,
        names,
    )


def _number(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _continuing(tokens: Sequence[str | None]) -> npt.NDArray[np.bool_]:
    """For each token whether it goes on with the word before it."""
    spelled = [token or "" for token in tokens]
    if any(token.startswith(_CONTINUES) and len(token) > len(_CONTINUES) for token in spelled):
        return np.array([token.startswith(_CONTINUES) for token in spelled])
    if any(token.startswith(_BEGINS) and len(token) > 1 for token in spelled):
        # What is neither letter nor digit, such as a comma, is a word of its own.
        return np.array([token[:1].isalnum() and not token.startswith(_BEGINS) for token in spelled])
    raise ValueError("the tokenizer's tokens do not tell where a word begins")
