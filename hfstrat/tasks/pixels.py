"""Pictures as a model takes them: resized once, held as bytes, turned into numbers batch by batch."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hfstrat.errors import Problem, UsageError
from hfstrat.tasks.base import FloatArray, IntArray

if TYPE_CHECKING:
    from transformers.image_processing_utils import BaseImageProcessor


def check_pillow() -> None:
    """Raise where Pillow is missing.

    Raises:
        UsageError: It is.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        hint = "pip install 'hfstrat[images]'"
        raise UsageError(Problem("pictures are read by Pillow, which is not installed", hint=hint)) from error


PATCH = 16  # pixels


@dataclass(frozen=True)
class Pixels:
    """The pictures of a split, all of one size.

    Args:
        values: uint8 `(n, channels, height, width)`.
        scale: What a value is multiplied by.
        mean: What is taken away then, of each channel.
        std: What it is divided by then, of each channel.
        sizes: Height and width of each picture as it was, `(n, 2)`; None where nobody asks.
    """

    values: npt.NDArray[np.uint8]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sizes: IntArray | None = None

    def inputs(self, rows: IntArray) -> dict[str, FloatArray]:
        """Some pictures as the model takes them, float32 `(len(rows), channels, height, width)`."""
        shape = (1, -1, 1, 1)
        # One product and one sum for each value: (scale · x - mean) / std.
        std = np.asarray(self.std, np.float32).reshape(shape)
        factor = np.float32(self.scale) / std
        shift = -np.asarray(self.mean, np.float32).reshape(shape) / std
        found: FloatArray = self.values[rows] * factor + shift
        return {"pixel_values": found}

    def taken(self, rows: IntArray) -> Pixels:
        """Some of the pictures."""
        sizes = None if self.sizes is None else self.sizes[rows]
        return replace(self, values=self.values[rows], sizes=sizes)

    def and_more(self, more: Pixels) -> Pixels:
        """These pictures, and others after them."""
        sizes = None
        if self.sizes is not None and more.sizes is not None:
            sizes = np.concatenate([self.sizes, more.sizes])
        return replace(self, values=np.concatenate([self.values, more.values]), sizes=sizes)

    @property
    def lengths(self) -> IntArray:
        """Patches of each picture, as if all models had those of the usual size."""
        return np.full(len(self.values), math.ceil(math.prod(self.side) / PATCH**2), np.int64)

    @property
    def side(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.values.shape[2]), int(self.values.shape[3])

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all values, and of what is made of them."""
        found = hashlib.sha256(repr((self.values.shape, self.scale, self.mean, self.std)).encode())
        for start in range(0, len(self.values), 1024):
            found.update(np.ascontiguousarray(self.values[start : start + 1024]).data)
        return found.digest()


def sized(processor: BaseImageProcessor, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A picture resized and cropped as the model's image processor says.

    What it does with the values of a pixel is left to `Pixels.inputs`, which is the same arithmetic.

    Args:
        processor: The model's.
        picture: uint8 `(height, width, channels)`.

    Returns:
        uint8 `(channels, height, width)`.
    """
    how: Any = processor
    found = how(
        [picture],
        do_rescale=False,
        do_normalize=False,
        do_convert_rgb=False,
        input_data_format="channels_last",
        return_tensors="np",
    )
    only: npt.NDArray[np.uint8] = found["pixel_values"][0].astype(np.uint8)
    return only


def pixels_of(processor: BaseImageProcessor, values: npt.NDArray[np.uint8], sizes: IntArray | None = None) -> Pixels:
    """Pictures with what a model's image processor makes of the values of their pixels.

    Args:
        processor: The model's.
        values: Pictures as `sized` gives them, `(n, channels, height, width)`.
        sizes: Height and width of each as it was, `(n, 2)`.
    """
    how: Any = processor
    channels = values.shape[1]
    normal = bool(getattr(how, "do_normalize", False))
    mean = tuple(how.image_mean) if normal else (0.0,) * channels
    std = tuple(how.image_std) if normal else (1.0,) * channels
    scale = float(how.rescale_factor) if getattr(how, "do_rescale", True) else 1.0
    return Pixels(values, scale, _each(mean, channels), _each(std, channels), sizes)


def _each(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return tuple(float(value) for value in (values if len(values) == channels else values[:1] * channels))
