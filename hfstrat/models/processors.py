"""What makes inputs of pictures and sounds: the base's own, or a plain one for a shape of the recipe's."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hfstrat.errors import ModelError, Problem, RecipeError
from hfstrat.models.positions import takes
from hfstrat.tasks.pixels import check_pillow
from hfstrat.tasks.waves import Ear, ear_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, SequenceFeatureExtractor
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


# --- sounds -------------------------------------------------------------------------------------------------


def read_feature_extractor(location: str, hub: Mapping[str, Any]) -> SequenceFeatureExtractor:
    """The feature extractor of a base."""
    from transformers import AutoFeatureExtractor

    with _few_frequencies():
        found: Any = AutoFeatureExtractor.from_pretrained(location, **hub)
    return found


def plain_feature_extractor(config: PretrainedConfig) -> SequenceFeatureExtractor:
    """Sounds of 16 kHz as a model of this shape takes them; for a base that has no feature extractor.

    Raises:
        RecipeError: There is none for such a shape.
    """
    import transformers

    how: Any = config
    bins = getattr(how, "num_mel_bins", None)
    if config.model_type == "audio-spectrogram-transformer":
        with _few_frequencies():
            return transformers.ASTFeatureExtractor(num_mel_bins=bins, max_length=how.max_length)
    if config.model_type == "whisper":
        # Two frames of 10 ms for each position.
        if how.max_source_positions % 50:
            what = f"{how.max_source_positions} positions of 20 ms are no whole seconds"
            raise RecipeError(Problem(what, "model.config.max_source_positions", hint="Use a multiple of 50"))
        return transformers.WhisperFeatureExtractor(feature_size=bins, chunk_length=how.max_source_positions // 50)
    return transformers.Wav2Vec2FeatureExtractor(return_attention_mask=_knows_padding(config))


@contextmanager
def _few_frequencies() -> Iterator[None]:
    """Without the warning of AST's own 128 bins, the lowest of which have no frequency of a Fourier transform."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At least one mel filter has all zero values")
        yield


def listening(extractor: SequenceFeatureExtractor, config: PretrainedConfig) -> SequenceFeatureExtractor:
    """A feature extractor that tells a model of waves what is padding only where that is of use.

    Models whose first convolution is normalised over time hear padding in each frame, and were trained without masks.
    """
    how: Any = extractor
    if getattr(how, "return_attention_mask", False) and not _knows_padding(config):
        how.return_attention_mask = False
    return extractor


def _knows_padding(config: PretrainedConfig) -> bool:
    return bool(getattr(config, "feat_extract_norm", "layer") == "layer")


def hears(extractor: SequenceFeatureExtractor) -> Ear:
    """What a feature extractor does.

    Raises:
        ModelError: It makes inputs that are of no known form.
    """
    found = ear_of(extractor)
    if found is None:
        what = f"inputs of {type(extractor).__name__} are neither waves nor spectrograms of one size"
        hint = "Use a wav2vec2, HuBERT, WavLM, AST or Whisper model"
        raise ModelError(Problem(what, "model.base", hint=hint))
    return found
