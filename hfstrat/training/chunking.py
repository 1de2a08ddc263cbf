"""Losses over a vocabulary, some tokens at a time: logits of all tokens of a batch are never there together.

The output layer sees a chunk of tokens, its loss is computed, and so are its gradients at once, so that nothing is
computed twice (as in Liger Kernel, arXiv:2410.10989). Sums are those of all tokens in one, but for rounding.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from hfstrat.models.picking import output_held, output_layer
from hfstrat.training.optim import evaluating

# Tokens at once. Fewer make the products with the output layer slow, and the sum of its gradients is read each time.
TOKENS = 512
# Logits of fewer bytes than this are computed in one.
_WHOLE = 1 << 28

# Fields of configurations by which logits are scaled or bounded.
_CHANGED = ("final_logit_softcapping", "logits_scaling", "logit_scale")

_checked: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()

Context = Callable[[], AbstractContextManager[Any]]


def pays(model: nn.Module, units: int) -> bool:
    """Whether the fp32 logits of some tokens are large enough, and those of a model that has them for tokens."""
    if units <= TOKENS or output_layer(model) is None:
        return False
    config: Any = getattr(model, "module", model).config
    return units * int(config.get_text_config().vocab_size) * 4 > _WHOLE


def plain(model: nn.Module, run: Callable[..., Any], places: torch.Tensor, width: int, context: Context) -> bool:
    """Whether a model's logits are what its output layer gives: some scale or bound them afterwards.

    It is tried once for each model, on a few tokens.

    Args:
        model: The model, as it is wrapped.
        run: Runs it on the batch with more keyword arguments.
        places: Which tokens have an output, int64 `(units,)`.
        width: Tokens of a row, padding included.
        context: The precision of the run.
    """
    inner = getattr(model, "module", model)
    if inner not in _checked:
        with evaluating(inner), torch.no_grad(), context():
            with output_held(model, places[:2], width, through=True) as (options, held):
                given = run(**options)
            own = held.layer(held.hidden)
        _checked[inner] = given.shape == own.shape and torch.equal(wide(given), wide(own))
    return _checked[inner]


def presume(model: nn.Module) -> None:
    """Take the answer of `plain` from what a configuration says, where nothing can be tried."""
    inner: Any = getattr(model, "module", model)
    config = inner.config.get_text_config()
    _checked[inner] = not any(getattr(config, name, None) for name in _CHANGED)


def verdict(model: nn.Module) -> str | None:
    """What was made of a model whose logits are large; None where they were not, so far."""
    inner: Any = getattr(model, "module", model)
    if inner not in _checked:
        return None
    size = f"{int(inner.config.get_text_config().vocab_size):,}"
    if _checked[inner]:
        return f"logits over {size} tokens are computed for {TOKENS} targets at a time"
    return f"logits over {size} tokens are computed all at once: this model changes what its output layer gives"


def wide(logits: torch.Tensor) -> torch.Tensor:
    """Logits in fp32 where they have fewer bits."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def chunks(units: int) -> Iterator[slice]:
    """The tokens of a batch, some at a time."""
    for first in range(0, units, TOKENS):
        yield slice(first, min(first + TOKENS, units))


def loss_in_chunks(
    layer: nn.Module,
    hidden: torch.Tensor,
    loss: Callable[[torch.Tensor, slice], torch.Tensor],
    context: Context = nullcontext,
) -> torch.Tensor:
    """Sum of the losses of all tokens, with gradients for what the layer gets and for its parameters.

    Args:
        layer: The output layer.
        hidden: What it gets, `(units, width)`.
        loss: Sum of the losses of some tokens, from their logits in fp32.
        context: The precision of the run.
    """
    parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    total: torch.Tensor = _Chunked.apply(layer, loss, context, hidden, *parameters)
    return total


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layer: nn.Module, loss: Any, context: Context, hidden: torch.Tensor, *parameters: torch.Tensor
    ) -> torch.Tensor:
        total = torch.zeros((), device=hidden.device)
        learns = any(ctx.needs_input_grad)
        of_hidden = torch.empty_like(hidden) if learns else None
        of_parameters: list[torch.Tensor] = []
        for part in chunks(len(hidden)):
            with torch.set_grad_enabled(learns), context():
                own = hidden[part].detach().requires_grad_(learns)
                value = loss(wide(layer(own)), part)
            if of_hidden is not None:
                first, *rest = torch.autograd.grad(value, [own, *parameters])
                of_hidden[part] = first
                of_parameters = (
                    [each.add_(more) for each, more in zip(of_parameters, rest, strict=True)] if of_parameters else rest
                )
            total = total + value.detach()  # as wide as the loss is
        if of_hidden is not None:
            ctx.save_for_backward(of_hidden, *of_parameters)
        return total

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor) -> Any:
        gradients = [tensor * given[0].to(tensor.dtype) for tensor in ctx.saved_tensors]
        return None, None, None, *gradients
