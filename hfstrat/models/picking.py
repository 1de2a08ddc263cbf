"""Outputs over a vocabulary are computed where they are asked for only.

A row of logits is as wide as the vocabulary, and most tokens of a batch have nothing to say: 85 % of those of a masked
model, the prompts of a chat, all padding.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@contextmanager
def output_at(model: nn.Module, places: torch.Tensor, width: int) -> Iterator[dict[str, Any]]:
    """Let a language model's output layer see some tokens only; a model without one gives what it gave.

    Args:
        model: The model, as it is wrapped.
        places: Which of the tokens of the batch, padding included, int64 `(units,)` on the model's device.
        width: Tokens of a row, padding included.

    Yields:
        Keyword arguments that such a model takes beside its inputs. Inside of the block its logits are
        `(units, vocabulary)`.
    """
    layer = output_layer(model)
    if layer is None:
        yield {}
        return

    def pick(module: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        return (picked(given[0], places, width),) if given[0].dim() == 3 else None

    hook = layer.register_forward_pre_hook(pick)
    try:
        yield _options(model)
    finally:
        hook.remove()


@dataclass
class Held:
    """An output layer and what it was to get.

    Args:
        layer: The layer.
        hidden: For each token that was asked for, `(units, width)`; None before the model has run.
    """

    layer: nn.Module
    hidden: torch.Tensor | None = None


@contextmanager
def output_held(
    model: nn.Module, places: torch.Tensor, width: int, *, through: bool = False
) -> Iterator[tuple[dict[str, Any], Held]]:
    """Keep what a language model's output layer was to get, and let it see one token of it.

    Args:
        model: The model, as it is wrapped; it has such a layer.
        places: As of `output_at`.
        width: Likewise.
        through: Let the layer see all of them.

    Yields:
        Keyword arguments as of `output_at`, and what is kept.
    """
    layer = output_layer(model)
    assert layer is not None, "the model has a layer for tokens"
    held = Held(layer)

    def keep(module: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if given[0].dim() != 3:
            return None
        held.hidden = picked(given[0], places, width)
        return (held.hidden if through else held.hidden[:1],)

    hook = layer.register_forward_pre_hook(keep)
    try:
        yield _options(model), held
    finally:
        hook.remove()


def _options(model: nn.Module) -> dict[str, Any]:
    # What is kept for a next token costs memory, and hides from a model that a row holds several texts.
    return {"use_cache": False} if _caches(getattr(model, "module", model)) else {}


def picked(values: torch.Tensor, places: torch.Tensor, width: int) -> torch.Tensor:
    """Values at some tokens.

    Args:
        values: `(rows, width, …)`, or wider where a prompt of an adapter's own stands before the tokens of each row.
        places: Which tokens, as if there were none.
        width: Tokens of a row.
    """
    before = values.shape[1] - width
    moved = places + (places // width + 1) * before if before else places
    return values.flatten(0, 1).index_select(0, moved)


def output_layer(model: nn.Module) -> nn.Module | None:
    """A language model's layer over the vocabulary; None where a model, as it is wrapped, has none."""
    inner: Any = getattr(model, "module", model)
    found = getattr(inner, "get_output_embeddings", lambda: None)()
    return found if isinstance(found, nn.Module) else None


def _caches(model: Any) -> bool:
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    return "use_cache" in inspect.signature(type(inner).forward).parameters
