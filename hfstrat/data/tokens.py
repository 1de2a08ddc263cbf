"""What a tokenizer made of the texts: ids that the model does not have, and texts of which nothing is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from hfstrat.errors import Problem
from hfstrat.tasks.base import Encoded, IntArray

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_SHOWN = 5


def audit_tokens(
    encoded: Mapping[str, Encoded], tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig
) -> tuple[list[Problem], list[str]]:
    """Look for what makes training fail or mean nothing.

    A token that says something is none of the special ones, among which is the one for what is unknown.

    Args:
        encoded: The splits.
        tokenizer: What encoded them.
        config: Of the model that reads them.

    Returns:
        Problems, and warnings of a sentence each.
    """
    problems = _beyond(encoded.values(), config)
    warnings = []
    for name, part in encoded.items():
        if part.streamed:
            continue  # its pieces are full of tokens, and more than can be looked at together
        if empty := _named(part, _tokens(part, ()) == 0):
            hint = "Fill in the text or delete the rows"
            problems.append(Problem(f"texts of {name} become no token at all: {empty}", "data.columns.text", hint=hint))
        if unknown := _unknown(part, tokenizer):
            warnings.append(
                f"{unknown} of the tokens to be learned in {name} are ones that the tokenizer does "
                "not know: the model will never write what they stand for"
            )
        silent = _tokens(part, tokenizer.all_special_ids) == 0
        if name == "train" and silent.all():
            what = "no text of train has a token that the base's tokenizer knows"
            hint = "Name the column of texts, raise task.max_length, or name a base for this language"
            problems.append(Problem(what, "data.columns.text", hint=hint))
        elif silent.any():
            count = f"{int(silent.sum())} of {len(part)} texts in {name}"
            warnings.append(f"{count} have no token that the base's tokenizer knows: {_named(part, silent)}")
    return problems, warnings


def _beyond(parts: Iterable[Encoded], config: PretrainedConfig) -> list[Problem]:
    """Ids for which the model has no embedding."""
    vocabulary = getattr(config.get_text_config(), "vocab_size", None)
    if not isinstance(vocabulary, int):
        return []
    largest = max(max(int(part.columns["input_ids"].values.max(initial=0)), part.pad["input_ids"]) for part in parts)
    if largest < vocabulary:
        return []
    what = f"its tokenizer gives ids up to {largest:,}, and the model has {vocabulary:,} embeddings"
    return [Problem(what, "model.base", hint="Take tokenizer and weights of the same model")]


def _tokens(part: Encoded, left_out: Iterable[int]) -> IntArray:
    """Tokens of each example over all of its windows, without some ids: `(n,)`."""
    rows = part.columns["input_ids"]
    counted = ~np.isin(rows.values, list(left_out))
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(counted)])
    found: IntArray = np.diff(before[rows.offsets[part.windows]])
    return found


def _unknown(part: Encoded, tokenizer: PreTrainedTokenizerBase) -> str:
    """The share of what is to be written that the tokenizer has no tokens for, in percent; empty for none."""
    unknown = tokenizer.unk_token_id
    if part.aims is None or part.spans is not None or unknown in (None, tokenizer.eos_token_id):
        return ""
    share = float(np.mean(part.aims == unknown))
    return f"{100 * share:.2g} %" if share else ""


def _named(part: Encoded, which: IntArray) -> str:
    """Names of some examples, empty for none."""
    places = np.flatnonzero(which)
    return ", ".join(part.ids[place] for place in places[:_SHOWN]) + " …" * (len(places) > _SHOWN)
