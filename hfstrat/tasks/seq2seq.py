"""Sequence to sequence: a text is read, and another one written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from hfstrat.tasks.base import DECODER, Encoded, Examples, Labels, Problem, Ragged
from hfstrat.tasks.language import Generation, LanguageSpec
from hfstrat.tasks.task import Columns, ids_of, texts_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class Seq2Seq(LanguageSpec):
    """Texts that are turned into others: translations, summaries, normal forms."""

    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    peft_task_type: ClassVar[str | None] = "SEQ_2_SEQ_LM"
    pipeline_tag: ClassVar[str] = "text2text-generation"
    roles: ClassVar[tuple[str, ...]] = ("source", "target", "id")
    texts: ClassVar[tuple[str, ...]] = ("source", "target")
    encoding: ClassVar[tuple[str, ...]] = ("prefix", "max_target_length")

    kind: Literal["seq2seq"] = "seq2seq"

    prefix: str = ""
    """What is put before each source, such as `summarize: `, by which T5 was told what to do."""
    max_target_length: Annotated[int, Field(ge=2)] = 256
    """Tokens of a target, at most; longer ones are cut, and counted in a warning."""
    generation: Generation = Generation()
    """How texts are written, in evaluations and by `predict`."""

    def needed(self, given: Columns, available: Sequence[str], *, labelled: bool) -> set[str]:
        """A source, and to learn from it or score it a target."""
        return {"source", "target"} if labelled else {"source"}

    def read(self, split: Dataset, name: str, columns: Mapping[str, Any], labels: Labels | None) -> Examples:
        """One split as sources and targets."""
        targets = texts_of(split, columns["target"]) if "target" in columns and labels is not None else None
        return Examples(ids_of(split, name, columns), texts_of(split, columns["source"]), targets, None)

    def answers_in(self, columns: Collection[str]) -> bool:
        """Each source has a target."""
        return True

    def lost(self, max_length: int) -> str:
        """Sources and targets are cut."""
        return f"have a source of more than {max_length} tokens, or a target of more than {self.max_target_length}, cut"

    def default_metrics(self, problem: Problem) -> tuple[str, ...]:
        """Of the texts that are written."""
        return ("chrf", "bleu", "exact_match")

    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int) -> Encoded:
        """Tokenise a split.

        Each token of the target is predicted from those before it. What the first one is predicted from is a matter of
        the model, which puts it in.
        """
        pad = int(tokenizer.pad_token_id or 0)
        sources, cut = _tokens(tokenizer, [self.prefix + text for text in examples.texts], max_length)
        found = Encoded(
            examples=examples,
            columns={"input_ids": sources},
            windows=np.arange(len(examples) + 1),
            truncated=int(cut.sum()),
            pad={"input_ids": pad, DECODER: pad},
            left=tokenizer.padding_side == "left",
        )
        if examples.pairs is None:
            return found
        targets, short = _tokens(tokenizer, list(examples.pairs), self.max_target_length, target=True)
        before = np.roll(targets.values, 1)
        before[targets.offsets[:-1]] = pad
        return replace(
            found,
            columns={**found.columns, DECODER: Ragged(before, targets.offsets)},
            truncated=int((cut | short).sum()),
            units=Ragged(np.arange(len(targets.values), dtype=np.int32), targets.offsets),
            aims=targets.values,
        )


def _tokens(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], most: int, *, target: bool = False
) -> tuple[Ragged, Any]:
    """Tokens of texts with what begins and ends them, and which texts were cut, bool `(n,)`."""
    rows: list[list[int]] = tokenizer(
        **{"text_target" if target else "text": texts}, return_attention_mask=False, verbose=False
    )["input_ids"]
    end = tokenizer.eos_token_id
    if end is not None:
        rows = [row if row and row[-1] == end else [*row, end] for row in rows]
    cut = np.array([len(row) > most for row in rows])
    last = [] if end is None else [end]
    return Ragged.of([[*row[: most - len(last)], *last] if len(row) > most else row for row in rows]), cut
