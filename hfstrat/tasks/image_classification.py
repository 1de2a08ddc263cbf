"""Image classification: one label, several labels, or numbers, for pictures."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from hfstrat.spec import Spec
from hfstrat.tasks.media import MediaClassification

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class AugmentationSpec(Spec):
    """How training pictures are varied, in this order; each part is off unless it is named."""

    crop: Annotated[float, Field(ge=0.01, le=1.0)] | None = None
    """Smallest share of the area of a random crop that is resized (Szegedy et al. 2015, arXiv:1409.4842)."""
    flip: bool = False
    """Mirror half of the pictures, left to right: for those that mean the same then."""
    pad: Annotated[int, Field(ge=0)] = 0
    """Pixels of black on each side, out of which a crop of the picture's size is taken."""
    colour: Share = 0.0
    """Brightness, contrast and saturation are multiplied by 1 minus to 1 plus this."""
    randaugment: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=0, le=10)]] | None = None
    """Operations of a picture, and their magnitude of at most 10 (Cubuk et al. 2019, arXiv:1909.13719)."""
    erase: Share = 0.0
    """Share of pictures of which a random rectangle becomes noise (Zhong et al. 2017, arXiv:1708.04896)."""
    mixup: Annotated[float, Field(ge=0.0)] = 0.0
    """Alpha of Beta(alpha, alpha), a picture's share of its mix with another (Zhang et al. 2017, arXiv:1710.09412)."""
    cutmix: Annotated[float, Field(ge=0.0)] = 0.0
    """Alpha of the share that a box pasted from another picture leaves (Yun et al. 2019, arXiv:1905.04899)."""


class ImageClassification(MediaClassification):
    """Give pictures a class, several classes, or a number."""

    kind: Literal["image_classification"] = "image_classification"

    image_size: Annotated[int, Field(ge=4)] | Literal["auto"] = "auto"
    """Height and width that pictures are resized to; auto: as the base's image processor says."""

    augmentation: AugmentationSpec | None = None
    """How training pictures are varied, anew in each epoch; left out: not at all."""

    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    pipeline_tag: ClassVar[str] = "image-classification"
    roles: ClassVar[tuple[str, ...]] = ("image", "label", "id")
    texts: ClassVar[tuple[str, ...]] = ("image",)
    floors: ClassVar[tuple[str, ...]] = ("majority", "pixels")
    files: ClassVar[str] = "image"
    reads: ClassVar[str] = "pixel_values"
    noun: ClassVar[str] = "pictures"
