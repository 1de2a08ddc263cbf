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

from hfstrat.models.anatomy import module_at
from hfstrat.models.prefix import Stub

_CACHES = ("past_key_values", "past_key_value", "layer_past")
"""What models call the keys and values of earlier tokens, to which a block adds its own."""


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
        caches = [named[name] for name in _CACHES if named.get(name) is not None]
        if any(cache.get_seq_length() for cache in caches):
            return forward(*given, **named)
        # An empty cache is one for tokens to come, of which there are none.
        kept = {name: None if name in _CACHES else value for name, value in named.items()}
        return checkpoint(partial(forward, **kept), *given, use_reentrant=False)

    return recomputed
