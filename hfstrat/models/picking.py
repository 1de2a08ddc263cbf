"""Outputs over a vocabulary are computed where they are asked for only.

A row of logits is as wide as the vocabulary, and most tokens of a batch have nothing to say: 85 % of those of a masked
model, the prompts of a chat, all padding.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
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
    inner = getattr(model, "module", model)
    layer = _output_layer(inner)
    if layer is None:
        yield {}
        return

    def pick(module: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        return (picked(given[0], places, width),) if given[0].dim() == 3 else None

    hook = layer.register_forward_pre_hook(pick)
    try:
        # What is kept for a next token costs memory, and hides from a model that a row holds several texts.
        yield {"use_cache": False} if _caches(inner) else {}
    finally:
        hook.remove()


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


def _output_layer(model: Any) -> nn.Module | None:
    found = getattr(model, "get_output_embeddings", lambda: None)()
    return found if isinstance(found, nn.Module) else None


def _caches(model: Any) -> bool:
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    return "use_cache" in inspect.signature(type(inner).forward).parameters
