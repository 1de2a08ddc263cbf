"""What makes inputs of pictures: the base's image processor, or a plain one for a shape of the recipe's own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hfstrat.errors import Problem, RecipeError
from hfstrat.models.positions import takes
from hfstrat.tasks.pixels import check_pillow

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.image_processing_utils import BaseImageProcessor


def read_image_processor(location: str, hub: Mapping[str, Any]) -> BaseImageProcessor:
    """The image processor of a base, by the code that needs Pillow alone."""
    from transformers import AutoImageProcessor

    check_pillow()
    found: Any = AutoImageProcessor.from_pretrained(location, backend="pil", **hub)
    return found


def plain_image_processor(config: PretrainedConfig) -> BaseImageProcessor:
    """Pictures scaled to -1 … 1, as large as the model is made for; for a base that has no processor."""
    from transformers import ViTImageProcessorPil

    check_pillow()
    channels, size = int(getattr(config, "num_channels", 3)), side_of(config) or 224
    half = [0.5] * channels
    found: Any = ViTImageProcessorPil(size={"height": size, "width": size}, image_mean=half, image_std=half)
    return found


def side_of(config: PretrainedConfig) -> int | None:
    """Height and width that a model is made for; None where it takes any."""
    size = getattr(config, "image_size", None)
    if isinstance(size, (list, tuple)):
        size = size[0]
    return int(size) if size else None


def resized(
    processor: BaseImageProcessor, config: PretrainedConfig, side: int
) -> tuple[BaseImageProcessor, PretrainedConfig]:
    """A processor that makes pictures of another size, and the configuration of a model that takes them.

    Where a model has positions for its own size alone, those of the other size are interpolated when it is built.

    Raises:
        RecipeError: It cannot take that size.
    """
    if side_of(config) not in (None, side) and not takes(config, side):
        config = copy.deepcopy(config)
        config.image_size = side
        patch = getattr(config, "patch_size", None)
        if not takes(config, side):
            what = f"the model cannot look at pictures of {side} × {side}"
            hint = f"Use a multiple of {patch}" if isinstance(patch, int) and side % patch else "Leave it out"
            raise RecipeError(Problem(what, "task.image_size", hint=hint))
    how: Any = processor
    square = {"height": side, "width": side}
    if getattr(how, "do_center_crop", False) and getattr(how, "crop_size", None):
        # A smaller part of a larger picture: both grow alike.
        grown = round(side * _edge(how.size) / _edge(how.crop_size))
        how.crop_size, how.size = square, _like(how.size, grown)
    else:
        how.size = _like(how.size, side)
    return processor, config


def _edge(size: Any) -> int:
    return int(getattr(size, "shortest_edge", None) or size.height)


def _like(size: Any, side: int) -> dict[str, int]:
    """A size that is given in the same way as another one."""
    if getattr(size, "shortest_edge", None):
        return {"shortest_edge": side}
    return {"height": side, "width": side}
