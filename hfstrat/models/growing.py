"""Tokens that a recipe adds to a base's vocabulary: rows of the embedding that begin as the mean of their parts.

A word that the tokenizer cuts into pieces begins where the mean of the pieces' vectors lies (Hewitt 2021 has why random
rows harm; here it is the mean of the word's own pieces in place of that of all).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hfstrat.errors import Problem, RecipeError
from hfstrat.strategies.plan import Body

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Grown:
    """Tokens that were added.

    Args:
        rows: Rows of the embedding before.
        ids: Ids of the new tokens, rising.
        parts: For each of them the ids of what it was cut into; empty where their rows come from an adapter.
    """

    rows: int
    ids: tuple[int, ...]
    parts: tuple[tuple[int, ...], ...] = ()

    @property
    def after(self) -> int:
        """Rows of the embedding with them: a vocabulary may have had some to spare."""
        return max(self.rows, max(self.ids) + 1)

    def to_json(self) -> dict[str, Any]:
        """What an artefact has to know of it."""
        return {"rows": self.rows, "ids": list(self.ids)}


def grown_of(
    texts: Sequence[str],
    known: Mapping[str, Any],
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    body: Body,
    *,
    adapted: bool,
) -> Grown | None:
    """The tokens that a recipe adds, or that were added before below an adapter; random weights need nothing else.

    Args:
        texts: What the recipe adds.
        known: What hfstrat wrote into the base's configuration.
        config: The body's configuration, which gets its rows.
        tokenizer: The base's, which gets the tokens; None where it reads none.
        body: What is built.
        adapted: Whether the base is an adapter.

    Raises:
        RecipeError: This model takes none.
    """
    before = known.get("vocabulary") if adapted else None
    if not texts:
        return None if before is None else Grown(before["rows"], tuple(before["ids"]))
    rows = getattr(config.get_text_config(), "vocab_size", None)
    reasons = {
        "it reads no tokens": tokenizer is None,
        "it reads letters": rows is None,
        "a tokenizer that is trained finds its own": body.vocabulary is not None,
        "an adapter is continued with the tokens that it has": adapted,
    }
    said = next((reason for reason, holds in reasons.items() if holds), None)
    if said is not None or tokenizer is None or rows is None:
        raise RecipeError(Problem(f"no tokens can be added: {said}", "model.new_tokens", hint="Leave it out"))
    grown = add_tokens(tokenizer, texts, int(rows))
    set_rows(config, grown.after)
    return grown if body.weights == "pretrained" else None  # random weights have all rows from the beginning


def add_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], rows: int) -> Grown:
    """Add tokens to a tokenizer.

    Args:
        tokenizer: It is changed.
        texts: What they stand for, each a piece of text that is never cut.
        rows: Rows of the model's embedding.

    Raises:
        RecipeError: Some are tokens already.
    """
    from tokenizers import AddedToken

    known = tokenizer.get_vocab()
    there = [text for text in texts if text in known]
    if there:
        what = f"{', '.join(map(repr, there))}: a token of the base already"
        raise RecipeError(Problem(what, "model.new_tokens", hint="Leave it out"))
    parts = tuple(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in texts])
    ids = tokenizer.get_vocab()
    return Grown(rows, tuple(ids[text] for text in texts), parts)


def grow(model: Any, grown: Grown) -> None:
    """Give a model's embedding, and an output layer over the vocabulary, rows for new tokens."""
    if grown.after > grown.rows:
        model.resize_token_embeddings(grown.after, mean_resizing=False)
        set_rows(model.config, grown.after)
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    layers: list[nn.Module] = [inputs]
    if outputs is not None and outputs.weight is not inputs.weight:
        layers.append(outputs)
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                if len(parameter) < grown.after or parameter.is_meta:
                    continue
                everything = parameter[: grown.rows].mean(0)
                for place, cut in zip(grown.ids, grown.parts, strict=False):
                    parameter[place] = parameter[list(cut)].mean(0) if cut else everything


def set_rows(config: Any, rows: int) -> None:
    """Make a configuration that of a model with so many rows in its embedding of tokens."""
    getattr(config, "backbone_config", config).get_text_config().vocab_size = rows
