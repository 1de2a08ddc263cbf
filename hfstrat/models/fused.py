"""LoRA's layers in fewer operations: PEFT's own layer goes over the whole output three times to add its product.

On a CPU that shows in the time of an update. Here the product is added where it is computed, in the forward pass and in
the backward pass, and what comes in is rounded to bfloat16 once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import nn


class FusedLinear(Linear):
    """PEFT's LoRA around a linear layer; wherever more than y = x·Wᵀ + s·x·Aᵀ·Bᵀ is asked for, PEFT's own."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The layer's output, `(…, out)`, of `(…, in)`."""
        active = self.active_adapters
        if args or kwargs or self.disable_adapters or self.merged or len(active) != 1 or not _plain(self, active[0]):
            out: torch.Tensor = super().forward(x, *args, **kwargs)
            return out
        base, down, up = self.base_layer, self.lora_A[active[0]].weight, self.lora_B[active[0]].weight
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        flat = x.reshape(-1, x.shape[-1])  # out here, for what models change in place must be no view of a function's
        found: torch.Tensor = _Product.apply(flat, base.weight, base.bias, down, up, self.scaling[active[0]], dtype)
        return found.view(*x.shape[:-1], -1)


def fuse(model: nn.Module) -> None:
    """Let the LoRA layers of a model compute so, where its base's layers are plain linear ones."""
    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = FusedLinear


@contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """A model whose LoRA layers compute as PEFT's own, as they do once they are loaded from an artefact."""
    layers: list[Any] = [module for module in model.modules() if type(module) is FusedLinear]
    for layer in layers:
        layer.__class__ = Linear
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = FusedLinear


def _plain(layer: Any, adapter: str) -> bool:
    """Whether an adapter of a layer is nothing but a product: no DoRA, no dropout, no bias, and its base is frozen."""
    base = [one for one in (layer.base_layer.weight, layer.base_layer.bias) if one is not None]
    return (
        adapter in layer.lora_A
        and adapter not in layer.lora_variant
        and isinstance(layer.lora_dropout[adapter], nn.Identity)
        and layer.lora_B[adapter].bias is None
        and not (torch.is_grad_enabled() and any(one.requires_grad for one in base))
    )


class _Product(torch.autograd.Function):
    """x·Wᵀ + b + s·x·Aᵀ·Bᵀ of x `(n, in)`, with gradients in x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            flat, weight = x.to(dtype), weight.to(dtype)
            small, large = down.to(dtype), (up * scaling).to(dtype)
            low = flat @ small.T
            out = nn.functional.linear(flat, weight, None if bias is None else bias.to(dtype))
            out.addmm_(low, large.T)
        ctx.save_for_backward(flat, weight, small, large, low)
        ctx.scaling, ctx.dtypes = scaling, (x.dtype, down.dtype, up.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, weight, small, large, low = ctx.saved_tensors
        grad = grads[0].to(flat.dtype)
        of_low = grad @ large
        of_x = of_down = of_up = None
        if ctx.needs_input_grad[0]:
            of_x = (grad @ weight).addmm_(of_low, small).to(ctx.dtypes[0])
        if ctx.needs_input_grad[3]:
            of_down = (of_low.T @ flat).to(ctx.dtypes[1])
        if ctx.needs_input_grad[4]:
            of_up = (grad.T @ low).to(ctx.dtypes[2]).mul_(ctx.scaling)
        return of_x, None, None, of_down, of_up, None, None
