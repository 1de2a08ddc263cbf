"""Augmentation: what an example looks like in an epoch is a function of (seed, epoch, example) and of nothing else.

A random stream that is read as training goes would depend on how batches are cut and on how many processes share
them, and a run that goes on from a checkpoint would see other pictures than one that was never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hfstrat.data.pictures import Bytes, check_pillow

if TYPE_CHECKING:
    from PIL import Image

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]

MAX_MAGNITUDE = 10

_PICTURE, _MIXING = 0, 1  # streams of random numbers of one example in one epoch
_CROP_RATIOS = (3 / 4, 4 / 3)  # width by height (Szegedy et al. 2015, §6)
_CROP_TRIES = 10
_ERASE_SHARES, _ERASE_RATIOS, _ERASE_TRIES = (0.02, 0.4), (0.3, 1 / 0.3), 100  # Zhong et al. 2017, §5
_FILL = 128  # grey, where a shifted picture leaves nothing


@dataclass(frozen=True)
class Mixing:
    """With which examples those of a batch are mixed, and how.

    Args:
        partners: The other example of each, int64 `(batch,)`; it may be the same one.
        shares: How much of each is its own, float64 `(batch,)`; also the share of its own target.
        boxes: Top, left, bottom and right of what is pasted from the partner, int64 `(batch, 4)`; empty where whole
            pictures are mixed.
        cut: Whether a box is pasted, bool `(batch,)`.
    """

    partners: Indices
    shares: npt.NDArray[np.float64]
    boxes: Indices
    cut: npt.NDArray[np.bool_]

    def mixed(self, own: Floats, others: Floats) -> Floats:
        """Pictures of a batch with those of their partners in them.

        Args:
            own: Floats `(batch, channels, height, width)`.
            others: The partners' pictures, in the same order and of the same shape.

        Returns:
            Floats of the same shape and type.
        """
        shares = self.shares.astype(own.dtype)[:, None, None, None]
        found = np.where(self.cut[:, None, None, None], own, shares * own + (1 - shares) * others)
        for place in np.flatnonzero(self.cut):
            top, left, bottom, right = self.boxes[place]
            found[place, :, top:bottom, left:right] = others[place, :, top:bottom, left:right]
        return found


@dataclass(frozen=True)
class Augmentation:
    """How training pictures are varied; each part is off unless it is named.

    They are applied in this order: crop, flip, pad, colour, RandAugment, erase; then a batch is mixed.

    Args:
        flip: Whether half of the pictures are mirrored, left to right.
        crop: Smallest share of the area of a random crop that is resized, its ratio between 3/4 and 4/3 (Szegedy et
            al. 2015, arXiv:1409.4842); None for no crop.
        pad: Pixels of black on each side, out of which a crop of the picture's size is taken (He et al. 2015,
            arXiv:1512.03385, §4.2).
        colour: Brightness, contrast and saturation are multiplied by factors of 1 minus to 1 plus this, in random
            order.
        randaugment: Operations of a picture, and their magnitude of at most 10 (Cubuk et al. 2019, arXiv:1909.13719).
        erase: Share of pictures of which a random rectangle becomes noise (Zhong et al. 2017, arXiv:1708.04896).
        mixup: Alpha of Beta(alpha, alpha), the share of a picture in its mix (Zhang et al. 2017, arXiv:1710.09412).
        cutmix: Alpha of the share that a pasted box leaves (Yun et al. 2019, arXiv:1905.04899). With both, each is for
            half of the examples.

    Raises:
        ValueError: A number is out of its range.
    """

    flip: bool = False
    crop: float | None = None
    pad: int = 0
    colour: float = 0.0
    randaugment: tuple[int, int] | None = None
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        ranges: tuple[tuple[str, float | None, float, float], ...] = (
            ("crop", self.crop, 0.01, 1.0),
            ("pad", self.pad, 0, math.inf),
            ("colour", self.colour, 0.0, 1.0),
            ("the number of operations of randaugment", self.randaugment and self.randaugment[0], 1, math.inf),
            ("the magnitude of randaugment", self.randaugment and self.randaugment[1], 0, MAX_MAGNITUDE),
            ("erase", self.erase, 0.0, 1.0),
            ("mixup", self.mixup, 0.0, math.inf),
            ("cutmix", self.cutmix, 0.0, math.inf),
        )
        for name, value, lowest, highest in ranges:
            if value is not None and not lowest <= value <= highest:
                raise ValueError(f"{name} is {value}, and it is between {lowest} and {highest}")

    @property
    def mixes(self) -> bool:
        """Whether examples are mixed with others."""
        return self.mixup > 0 or self.cutmix > 0

    def augmented(self, picture: Bytes, size: tuple[int, int], seed: int, epoch: int, example: int) -> Bytes:
        """A picture as an epoch sees it.

        Args:
            picture: uint8 `(height, width, channels)`, of one channel or three.
            size: Height and width of the result.
            seed: The run's seed.
            epoch: Number of the epoch, from 0.
            example: Which example of the split it is.

        Returns:
            uint8 `(*size, channels)`; the same bytes for the same arguments. Without anything to vary it is the
            picture, resized if it has another size.

        Raises:
            UsageError: Pillow is needed and missing; it is for resizing, colour and RandAugment.
        """
        return self.moved(picture, size, seed, epoch, example)[0]

    def moved(
        self, picture: Bytes, size: tuple[int, int], seed: int, epoch: int, example: int
    ) -> tuple[Bytes, tuple[tuple[float, float, float, float], bool]]:
        """As `augmented`, and where what it shows has gone to; `pad` and `randaugment` move things without a word.

        Returns:
            The picture; and top, left, bottom and right of the part of it that became all of it, in shares of its
            sides, and whether that was mirrored.
        """
        rng = _generator(seed, epoch, example, _PICTURE)
        part = None if self.crop is None else _crop(picture.shape, self.crop, rng)
        found = resized(picture, size, part)
        mirrored = self.flip and rng.random() < 0.5
        if mirrored:
            found = found[:, ::-1]
        if self.pad:
            found = _shifted(found, self.pad, rng)
        if self.colour:
            found = _by_pillow(found, lambda image: _jittered(image, self.colour, rng))
        if self.randaugment:
            count, magnitude = self.randaugment
            found = _by_pillow(found, lambda image: _rand_augmented(image, count, magnitude / MAX_MAGNITUDE, rng))
        if self.erase and rng.random() < self.erase:
            found = _erased(found, rng)
        height, width = picture.shape[:2]
        top, left, bottom, right = (0, 0, height, width) if part is None else part
        shares = (top / height, left / width, bottom / height, right / width)
        return np.array(found, order="C"), (shares, mirrored)

    def mixing(
        self,
        rows: Sequence[int] | Indices,
        update: Sequence[int] | Indices,
        size: tuple[int, int],
        seed: int,
        epoch: int,
    ) -> Mixing:
        """With what the examples of a batch are mixed, whichever batch of the update it is.

        Args:
            rows: Examples of the batch.
            update: All examples of the update, in any order; partners are among them.
            size: Height and width of the pictures.
            seed: The run's seed.
            epoch: Number of the epoch, from 0.

        Raises:
            ValueError: Neither mixup nor cutmix is on.
        """
        if not self.mixes:
            raise ValueError("nothing is mixed")
        choice = np.sort(np.asarray(update, np.int64))
        drawn = [self._mix(_generator(seed, epoch, int(row), _MIXING), choice, size) for row in rows]
        partners, shares, boxes, cut = zip(*drawn, strict=True) if drawn else ((), (), (), ())
        return Mixing(
            np.array(partners, np.int64),
            np.array(shares, np.float64),
            np.array(boxes, np.int64).reshape(-1, 4),
            np.array(cut, np.bool_),
        )

    def _mix(
        self, rng: np.random.Generator, choice: Indices, size: tuple[int, int]
    ) -> tuple[int, float, tuple[int, int, int, int], bool]:
        partner = int(choice[rng.integers(len(choice))])
        cut = self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        share = float(rng.beta(alpha, alpha))
        if not cut:
            return partner, share, (0, 0, 0, 0), False
        box = _pasted(size, share, rng)
        # The box is cut off at the border, so its area says the share anew.
        area = (box[2] - box[0]) * (box[3] - box[1])
        return partner, 1.0 - area / (size[0] * size[1]), box, True


def resized(picture: Bytes, size: tuple[int, int], box: tuple[int, int, int, int] | None = None) -> Bytes:
    """A picture, or a part of it, in another size; bilinear, with all pixels counted where it shrinks.

    Args:
        picture: uint8 `(height, width, channels)`.
        size: Height and width of the result.
        box: Top, left, bottom and right of the part; None for the whole.

    Raises:
        UsageError: The size changes, and Pillow is missing.
    """
    if box is not None:
        top, left, bottom, right = box
        picture = picture[top:bottom, left:right]
    if picture.shape[:2] == size:
        return picture
    return _by_pillow(picture, lambda image: image.resize((size[1], size[0]), _bilinear()))


def _generator(seed: int, epoch: int, example: int, stream: int) -> np.random.Generator:
    """Random numbers of one example in one epoch; streams are so far apart that they never meet."""
    key = np.array([(seed % 2**32) << 32 | epoch, example], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


def _by_pillow(picture: Bytes, change: Callable[[Image.Image], Image.Image]) -> Bytes:
    check_pillow()
    from PIL import Image

    grey = picture.shape[2] == 1
    image = Image.fromarray(np.ascontiguousarray(picture[..., 0] if grey else picture))
    found = np.asarray(change(image))
    return found[..., None] if grey else found


def _bilinear() -> Image.Resampling:
    from PIL import Image

    return Image.Resampling.BILINEAR


# --- where --------------------------------------------------------------------------------------------------


def _rectangle(
    height: int, width: int, shares: tuple[float, float], ratios: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int]:
    """Height and width of a random rectangle, which may be larger than the picture.

    Args:
        height: The picture's.
        width: The picture's.
        shares: Bounds of the share of its area.
        ratios: Bounds of width by height; drawn by their logarithm, so that wide and high ones are as frequent.
        rng: Random numbers.
    """
    area = rng.uniform(*shares) * height * width
    ratio = math.exp(rng.uniform(math.log(ratios[0]), math.log(ratios[1])))
    return round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))


def _placed(height: int, width: int, inner: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A rectangle at a random place of a picture that holds it."""
    top, left = (int(rng.integers(whole - part + 1)) for whole, part in zip((height, width), inner, strict=True))
    return top, left, top + inner[0], left + inner[1]


def _crop(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    height, width = shape[:2]
    for _ in range(_CROP_TRIES):
        high, wide = _rectangle(height, width, (share, 1.0), _CROP_RATIOS, rng)
        if 0 < high <= height and 0 < wide <= width:
            return _placed(height, width, (high, wide), rng)
    # Long pictures hold few large crops of such ratios: the largest in the middle is taken.
    high, wide = min(height, round(width / _CROP_RATIOS[0])), min(width, round(height * _CROP_RATIOS[1]))
    top, left = (height - high) // 2, (width - wide) // 2
    return top, left, top + high, left + wide


def _shifted(picture: Bytes, pad: int, rng: np.random.Generator) -> Bytes:
    height, width = picture.shape[:2]
    padded = np.pad(picture, ((pad, pad), (pad, pad), (0, 0)))
    top, left = rng.integers(2 * pad + 1, size=2)
    return padded[top : top + height, left : left + width]


def _erased(picture: Bytes, rng: np.random.Generator) -> Bytes:
    height, width, channels = picture.shape
    for _ in range(_ERASE_TRIES):
        high, wide = _rectangle(height, width, _ERASE_SHARES, _ERASE_RATIOS, rng)
        if 0 < high <= height and 0 < wide <= width:
            top, left, bottom, right = _placed(height, width, (high, wide), rng)
            found = picture.copy()
            found[top:bottom, left:right] = rng.integers(256, size=(high, wide, channels), dtype=np.uint8)
            return found
    return picture


def _pasted(size: tuple[int, int], share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A box around a random place that covers what is not the picture's own share, cut off at the border."""
    side = math.sqrt(1.0 - share)
    bounds = []
    for whole in size:
        middle, half = int(rng.integers(whole)), int(whole * side) // 2
        bounds.append((max(0, middle - half), min(whole, middle + half)))
    (top, bottom), (left, right) = bounds
    return top, left, bottom, right


# --- light and colour ---------------------------------------------------------------------------------------


def _jittered(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    from PIL import ImageEnhance

    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for kind in rng.permutation(len(kinds)):
        image = kinds[kind](image).enhance(rng.uniform(1.0 - strength, 1.0 + strength))
    return image


def _rand_augmented(image: Image.Image, count: int, strength: float, rng: np.random.Generator) -> Image.Image:
    """Apply operations drawn with replacement, each with equal chance.

    Args:
        image: The picture.
        count: How many.
        strength: 0 to 1 of the range of each; signs are random.
        rng: Random numbers.
    """
    names = list(OPERATIONS)
    for place in rng.integers(len(names), size=count):
        sign = 1.0 if rng.random() < 0.5 else -1.0
        image = OPERATIONS[names[place]](image, strength, sign)
    return image


def _identity(image: Image.Image, strength: float, sign: float) -> Image.Image:
    return image


def _auto_contrast(image: Image.Image, strength: float, sign: float) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, strength: float, sign: float) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.equalize(image)


def _rotate(image: Image.Image, strength: float, sign: float) -> Image.Image:
    return image.rotate(sign * 30.0 * strength, _bilinear(), fillcolor=_fill(image))


def _solarize(image: Image.Image, strength: float, sign: float) -> Image.Image:
    """Light above a threshold is inverted; at strength 0 there is none above it."""
    from PIL import ImageOps

    return ImageOps.solarize(image, 256 - round(256 * strength))


def _posterize(image: Image.Image, strength: float, sign: float) -> Image.Image:
    """From all 8 bits down to 4."""
    from PIL import ImageOps

    return ImageOps.posterize(image, 8 - round(4 * strength))


def _color(image: Image.Image, strength: float, sign: float) -> Image.Image:
    from PIL import ImageEnhance

    return ImageEnhance.Color(image).enhance(1.0 + sign * 0.9 * strength)


def _contrast(image: Image.Image, strength: float, sign: float) -> Image.Image:
    from PIL import ImageEnhance

    return ImageEnhance.Contrast(image).enhance(1.0 + sign * 0.9 * strength)


def _brightness(image: Image.Image, strength: float, sign: float) -> Image.Image:
    from PIL import ImageEnhance

    return ImageEnhance.Brightness(image).enhance(1.0 + sign * 0.9 * strength)


def _sharpness(image: Image.Image, strength: float, sign: float) -> Image.Image:
    from PIL import ImageEnhance

    return ImageEnhance.Sharpness(image).enhance(1.0 + sign * 0.9 * strength)


def _shear_x(image: Image.Image, strength: float, sign: float) -> Image.Image:
    return _affine(image, (1.0, sign * 0.3 * strength, 0.0, 0.0, 1.0, 0.0))


def _shear_y(image: Image.Image, strength: float, sign: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, sign * 0.3 * strength, 1.0, 0.0))


def _translate_x(image: Image.Image, strength: float, sign: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, sign * _SHIFT * image.width * strength, 0.0, 1.0, 0.0))


def _translate_y(image: Image.Image, strength: float, sign: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, 0.0, 1.0, sign * _SHIFT * image.height * strength))


_SHIFT = 150 / 331  # of a side: pixels at the size that the ranges were published for


def _affine(image: Image.Image, matrix: tuple[float, float, float, float, float, float]) -> Image.Image:
    from PIL import Image

    return image.transform(image.size, Image.Transform.AFFINE, matrix, _bilinear(), fillcolor=_fill(image))


def _fill(image: Image.Image) -> int | tuple[int, ...]:
    return _FILL if image.mode == "L" else (_FILL,) * len(image.getbands())


OPERATIONS: dict[str, Callable[[Image.Image, float, float], Image.Image]] = {
    "Identity": _identity,
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Rotate": _rotate,
    "Solarize": _solarize,
    "Color": _color,
    "Posterize": _posterize,
    "Contrast": _contrast,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
}
"""The fourteen of RandAugment, with the ranges of AutoAugment (Cubuk et al. 2018, arXiv:1805.09501, table 6); each is
stronger at a higher strength, of 0 to 1, and of either sign where it has one."""
