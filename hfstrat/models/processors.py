"""What makes inputs of pictures: the base's image processor, or a plain one for a shape of the recipe's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hfstrat.errors import Problem, RecipeError
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


def detector_processor(config: PretrainedConfig) -> BaseImageProcessor:
    """The image processor that goes with a detector, with the sizes of its kind; for a base that has none."""
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    check_pillow()
    # Those without one of their own are published with that of RT-DETR.
    known: Any = IMAGE_PROCESSOR_MAPPING_NAMES.get(config.model_type) or {}
    found: Any = getattr(transformers, known.get("pil") or "RTDetrImageProcessorPil")()
    return found


def squared(processor: BaseImageProcessor, side: int | None) -> BaseImageProcessor:
    """A detector's processor that makes all pictures squares of one size.

    Most detectors were trained on pictures with their ratio kept, of which a batch is filled up to the largest. Where a
    box is told in shares of a picture a square says the same, and every batch costs the same.

    Args:
        processor: The base's.
        side: Height and width; None for what it says, of two edges the shorter one.
    """
    how: Any = processor
    if side is None:
        size = how.size
        side = int(getattr(size, "shortest_edge", None) or min(size.height or 640, size.width or 640))
    how.size, how.do_pad = {"height": side, "width": side}, False
    return processor


def side_of(config: PretrainedConfig) -> int | None:
    """Height and width that a model is made for; None where it takes any."""
    size = getattr(config, "image_size", None)
    if isinstance(size, (list, tuple)):
        size = size[0]
    return int(size) if size else None


def resized(processor: BaseImageProcessor, config: PretrainedConfig, side: int) -> BaseImageProcessor:
    """A processor that makes pictures of another size.

    Raises:
        RecipeError: The model has positions for its own size alone.
    """
    own = side_of(config)
    if own is not None and own != side and hasattr(config, "patch_size") and hasattr(config, "num_attention_heads"):
        what = f"the model has positions for pictures of {own} × {own}, not {side} × {side}"
        raise RecipeError(Problem(what, "task.image_size", hint="Leave it out, or set model.config.image_size too"))
    how: Any = processor
    square = {"height": side, "width": side}
    if getattr(how, "do_center_crop", False) and getattr(how, "crop_size", None):
        # A smaller part of a larger picture: both grow alike.
        grown = round(side * _edge(how.size) / _edge(how.crop_size))
        how.crop_size, how.size = square, _like(how.size, grown)
    else:
        how.size = _like(how.size, side)
    return processor


def _edge(size: Any) -> int:
    return int(getattr(size, "shortest_edge", None) or size.height)


def _like(size: Any, side: int) -> dict[str, int]:
    """A size that is given in the same way as another one."""
    if getattr(size, "shortest_edge", None):
        return {"shortest_edge": side}
    return {"height": side, "width": side}
