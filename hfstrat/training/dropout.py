"""Dropout masks on a CPU, where PyTorch draws one number for each element from a generator that has one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_STEPS = 2**16
"""A rate is rounded to so many steps: four masks come out of one 64-bit number."""


@contextmanager
def fast_dropout() -> Iterator[None]:
    """Dropout with a quarter of the random numbers, wherever a model calls `nn.functional.dropout` or `nn.Dropout`.

    Masks are a function of PyTorch's seed, as its own are, but other ones. What a fused attention kernel drops is its
    own affair.
    """
    original = nn.functional.dropout

    def dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        drop = round(p * _STEPS)
        if not training or not 0 < drop < _STEPS or inplace or not input.is_floating_point():
            return original(input, p, training, inplace)
        return input * _mask(input, drop)

    nn.functional.dropout = dropout
    try:
        yield
    finally:
        nn.functional.dropout = original


def _mask(like: torch.Tensor, drop: int) -> torch.Tensor:
    """0 for `drop` of 65536 elements, and what keeps the mean for the others."""
    n = like.numel()
    numbers = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = numbers[:n].view(like.shape) >= drop - _STEPS // 2
    return kept.to(like.dtype).mul_(_STEPS / (_STEPS - drop))
