"""Masked language models: domain pre-training of encoders on text without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from hfstrat.errors import DataError
from hfstrat.errors import Problem as Trouble
from hfstrat.tasks.base import Encoded, Examples, IntArray, Labels, Ragged
from hfstrat.tasks.implied import Numbered, Steps, numbers
from hfstrat.tasks.language import Framed, LanguageSpec, Pieces, flat_ids, frame, named_pieces
from hfstrat.tasks.masking import EVALUATION, Masks, masks
from hfstrat.tasks.task import Columns, ids_of, texts_of
from hfstrat.tasks.windows import tokens_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class MaskedLM(LanguageSpec):
    """Text in which tokens are hidden, and predicted from what is around them."""

    auto_class: ClassVar[str] = "AutoModelForMaskedLM"
    peft_task_type: ClassVar[str | None] = None
    pipeline_tag: ClassVar[str] = "fill-mask"
    roles: ClassVar[tuple[str, ...]] = ("text", "id")
    texts: ClassVar[tuple[str, ...]] = ("text",)
    encoding: ClassVar[tuple[str, ...]] = ("joined",)

    kind: Literal["masked_lm"] = "masked_lm"

    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens of a text that are predicted: of ten of them eight are hidden, one is replaced by any other,
    one stays (BERT, arXiv:1810.04805); larger models gain from 0.4 (arXiv:2202.08005)."""
    whole_words: bool = False
    """Whether all tokens of a word are predicted together."""
    joined: bool = False
    """Whether texts are put one after the other and cut into pieces of the greatest length, so that short ones fill a
    window together; else each text is read by itself, and only longer ones are cut."""

    def needed(self, given: Columns, available: Sequence[str], *, labelled: bool) -> set[str]:
        """A text is all that is needed."""
        return {"text", *given}

    def read(self, split: Dataset, name: str, columns: Mapping[str, Any], labels: Labels | None) -> Examples:
        """One split as texts."""
        return Examples(ids_of(split, name, columns), texts_of(split, columns["text"]), None, None)

    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int) -> Encoded:
        """Tokenise a split, and hide the tokens that evaluations ask for.

        Raises:
            DataError: There is no room for text, the tokenizer has no mask, or does not tell words apart.
        """
        columns, counts, pad = (self._joined if self.joined else self._apart)(tokenizer, examples, max_length)
        names = named_pieces(examples.ids if not self.joined else [examples.ids[0]], counts)
        ids = columns["input_ids"]
        single = len(names) == len(examples) and not self.joined
        pieces = Examples(names, examples.texts if single else Pieces(ids, tokenizer), None, None)
        masking = self._masks(tokenizer, ids, names)
        plain = Encoded(pieces, columns, np.arange(len(names) + 1), 0, pad, tokenizer.padding_side == "left")
        hidden = masking.hidden(plain, np.arange(len(names)), 0, EVALUATION)
        return replace(hidden, examples=pieces, masking=masking)

    def marks(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
        """What parts texts from each other in one window."""
        between = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        return [], [] if between is None else [between]

    def of_stream(self, tokenizer: PreTrainedTokenizerBase, stream: IntArray, max_length: int) -> Encoded:
        """Pieces of the stream one after the other, as texts that are joined; none of their tokens hidden yet."""
        if not len(stream):
            raise DataError(Trouble("there is no token to learn", "data.columns.text"))
        ids = _framed(tokenizer, stream, max_length)
        pieces = len(ids)
        names = Numbered("train", pieces)
        columns, pad = {"input_ids": ids}, {"input_ids": int(tokenizer.pad_token_id or 0)}
        return Encoded(
            examples=Examples(names, Pieces(ids, tokenizer), None, None),
            columns=columns,
            windows=numbers(pieces + 1),
            truncated=0,
            pad=pad,
            left=tokenizer.padding_side == "left",
            masking=self._masks(tokenizer, ids, names),
            streamed=True,
        )

    def _masks(self, tokenizer: PreTrainedTokenizerBase, ids: Ragged, names: Sequence[str]) -> Masks:
        """What hides tokens of some examples.

        Raises:
            DataError: The tokenizer has no mask, or does not tell words apart.
        """
        if tokenizer.mask_token_id is None:
            hint = "Name an encoder such as BERT, or train this model with task: {kind: causal_lm}"
            raise DataError(Trouble("the tokenizer has no mask token", "model.base", hint=hint))
        try:
            return masks(tokenizer, ids, names, self.mask_share, self.whole_words)
        except ValueError as error:
            raise DataError(Trouble(str(error), "task.whole_words", hint="Set it to false")) from error

    @staticmethod
    def _apart(
        tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int
    ) -> tuple[dict[str, Ragged], IntArray, dict[str, int]]:
        """Each text by itself: token columns, pieces of each text, and what fills up columns."""
        tokens = tokens_of(tokenizer, examples, max_length, windows=True)
        return tokens.columns, np.diff(tokens.windows), tokens.pad

    @staticmethod
    def _joined(
        tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int
    ) -> tuple[dict[str, Ragged], IntArray, dict[str, int]]:
        """All texts one after the other, cut into pieces: as `_apart`, of one text."""
        rows = flat_ids(tokenizer, examples.texts)
        _, between = MaskedLM().marks(tokenizer)
        stream = np.insert(rows.values, rows.offsets[1:-1], between[0]) if between else rows.values
        framed = _framed(tokenizer, stream, max_length)
        pieces = len(framed)
        ids = framed.taken(np.arange(pieces))
        columns = {"input_ids": ids}
        pad = {"input_ids": int(tokenizer.pad_token_id or 0)}
        if "token_type_ids" in tokenizer.model_input_names:
            columns["token_type_ids"] = Ragged(np.zeros_like(ids.values), ids.offsets)
            pad["token_type_ids"] = tokenizer.pad_token_type_id
        return columns, np.array([pieces]), pad


def _framed(tokenizer: PreTrainedTokenizerBase, stream: IntArray, max_length: int) -> Framed:
    """A stream of tokens in pieces of the greatest length, with special tokens around each.

    Raises:
        DataError: There is no room for text beside them.
    """
    before, after = frame(tokenizer)
    around = len(before) + len(after)
    room = max_length - around
    if room < 1:
        what = f"{max_length} tokens leave no room for text beside {around} special ones"
        raise DataError(Trouble(what, "task.max_length", hint="Raise it"))
    pieces = max(1, -(-len(stream) // room))
    return Framed(stream, Steps(pieces + 1, max_length, len(stream) + around * pieces), tuple(before), tuple(after))
