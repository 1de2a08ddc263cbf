"""Gradient checkpointing: blocks keep their input alone for backward, and compute what they need again.

Chen et al. 2016, arXiv:1604.06174. The mechanism of transformers leaves out blocks in eval mode; here frozen ones
through which gradients pass take part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache

from hfstrat.models.anatomy import module_at
from hfstrat.models.prefix import Stub


def recompute(model: nn.Module, blocks: Sequence[str]) -> None:
    """Let blocks keep their input alone, wherever gradients are computed; the same bits come out.

    Random numbers and precision are those of the first time. A block whose statistics move in a forward pass, or that
    is given keys and values that it did not compute itself, keeps everything: a second pass would not be as the first.

    Args:
        model: The model.
        blocks: Canonical paths of the blocks.
    """
    for path in blocks:
        block: Any = module_at(model, path)[2]
        if not isinstance(block, Stub):
            block.forward = _recomputed(block, block.forward)


def _recomputed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]

    @wraps(forward)
    def recomputed(*given: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled() or any(norm.training and norm.track_running_stats for norm in norms):
            return forward(*given, **named)
        caches = [value for value in (*given, *named.values()) if isinstance(value, Cache)]
        if any(cache.get_seq_length() for cache in caches):
            return forward(*given, **named)
        again = partial(forward, **{name: _uncached(value) for name, value in named.items()})
        return checkpoint(again, *map(_uncached, given), use_reentrant=False)

    return recomputed


def _uncached(value: Any) -> Any:
    """An argument of a block, but for the cache to which it would add its keys and values: no more tokens come."""
    return None if isinstance(value, Cache) else value
