"""Tensors that have shapes, types and sizes, and no content: a training step can be tried in no memory at all."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from hfstrat.models.quantize import pretend_quantized


class Untriable(Exception):
    """A model cannot be made of shapes alone."""


UNTRIED = (Untriable, DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
"""What is raised where something has to be known for real: a model's tensors, or the result of an operation."""


def pretender() -> FakeTensorMode:
    """The mode in which tensors are made that are not there; real ones may stand beside them."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def pretend(model: nn.Module, mode: FakeTensorMode) -> None:
    """Put tensors on the CPU that are not there in place of those on the meta device; what is shared stays so.

    PEFT and bitsandbytes put nothing into a model of such tensors, so a model is finished on the meta device first
    (and `Module.to` cannot move them).

    Args:
        model: A model on the meta device, changed in place.
        mode: In which the tensors are made.
    """
    made: dict[int, Any] = {}
    with mode:
        for module in model.modules():
            if (weight := pretend_quantized(module, partial(torch.empty, device="cpu"))) is not None:
                made[id(module.weight)] = weight
            for tensors in (module._parameters, module._buffers):
                for name, value in tensors.items():
                    if value is not None:
                        if id(value) not in made:
                            made[id(value)] = _like(value)
                        tensors[name] = made[id(value)]


def _like(value: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(value.shape, dtype=value.dtype, device="cpu")
    return nn.Parameter(empty, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else empty
