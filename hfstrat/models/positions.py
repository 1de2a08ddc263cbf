"""Position embeddings of pictures of another size than those that a model was trained on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def takes(config: Any, side: int) -> bool:
    """Whether a model looks at pictures of a size; nothing is allocated.

    Args:
        config: Its configuration.
        side: Height and width.
    """
    from transformers import AutoModel

    channels = int(getattr(config, "num_channels", 3))
    try:
        with torch.device("meta"), torch.no_grad():
            AutoModel.from_config(config)(pixel_values=torch.empty(1, channels, side, side))
    except (ValueError, RuntimeError):  # what a model says to a size that it was not made for
        return False
    return True


def grids(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of some parameters that are positions of the patches of a picture, by their name and shape."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    found = (name for name in names if name in shapes and len(shapes[name]) == 3 and shapes[name][0] == 1)
    return [name for name in found if "position" in name or "pos_embed" in name]


def interpolated(values: torch.Tensor, count: int) -> torch.Tensor | None:
    """Embeddings of a square grid of patches for a finer or a coarser one, as ViT does it (arXiv:2010.11929, §3.2).

    Args:
        values: `(1, k + n², width)`: of k tokens that are no patches, and of the patches by row.
        count: How many positions there are to be, k among them.

    Returns:
        `(1, count, width)`; None where the two are no squares with the same k.
    """
    for others in range(4):  # a class token, one of distillation, registers
        sides = [math.isqrt(max(0, length - others)) for length in (values.shape[1], count)]
        if all(side * side + others == length for side, length in zip(sides, (values.shape[1], count), strict=True)):
            break
    else:
        return None
    grid = values[:, others:].reshape(1, sides[0], sides[0], -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid.float(), size=(sides[1], sides[1]), mode="bicubic", align_corners=False)
    flat = grid.permute(0, 2, 3, 1).flatten(1, 2).to(values.dtype)
    return torch.cat([values[:, :others], flat], dim=1)
