"""Image classification: one label, several labels, or numbers, for pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from hfstrat.spec import Spec
from hfstrat.tasks.base import Decoded, Examples, Labels
from hfstrat.tasks.classification import Classification
from hfstrat.tasks.task import Columns, ids_of

if TYPE_CHECKING:
    from datasets import Dataset


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


class ImageClassification(Classification):
    """Give pictures a class, several classes, or a number."""

    kind: Literal["image_classification"] = "image_classification"

    image_size: Annotated[int, Field(ge=4)] | Literal["auto"] = "auto"
    """Height and width that pictures are resized to; auto: as the base's image processor says."""

    augmentation: AugmentationSpec | None = None
    """How training pictures are varied, anew in each epoch; left out: not at all."""

    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    peft_task_type: ClassVar[str | None] = None
    pipeline_tag: ClassVar[str] = "image-classification"
    roles: ClassVar[tuple[str, ...]] = ("image", "label", "id")
    texts: ClassVar[tuple[str, ...]] = ("image",)
    floors: ClassVar[tuple[str, ...]] = ("majority",)
    files: ClassVar[str] = "image"
    reads: ClassVar[str] = "pixel_values"

    def needed(self, given: Columns, available: Sequence[str], *, labelled: bool) -> set[str]:
        """The picture, whatever is given a column, and the label where targets are needed."""
        return {"image", *given, "label"} - (set() if labelled else {"label"})

    def read(self, split: Dataset, name: str, columns: Mapping[str, Any], labels: Labels | None) -> Examples:
        """One split as pictures and targets."""
        targets = self.targets_of(split, name, columns["label"], labels) if labels is not None else None
        ids, pictures = ids_of(split, name, columns), pictures_of(split, columns["image"])
        return Examples(ids, names_of(pictures, ids), None, targets, media=pictures)

    def examples(self, ids: tuple[str, ...], texts: Sequence[Any], pairs: Sequence[str] | None) -> Examples:
        """Pictures to be decided about: files, arrays, or pictures of Pillow."""
        return Examples(ids, names_of(texts, ids), None, None, media=texts)

    def table(self, decoded: Decoded, examples: Examples, labels: Labels) -> dict[str, list[Any]]:
        """The picture's name, scores and logits."""
        return {"image": list(examples.texts), **super().table(decoded, examples, labels)}


def pictures_of(split: Dataset, column: str) -> list[Any]:
    """A column of pictures; arrays come out of a data set as lists."""
    return [np.asarray(one, np.uint8) if isinstance(one, list) else one for one in split[column][:]]


def names_of(pictures: Sequence[Any], ids: Sequence[str]) -> list[str]:
    """What to call each picture: its file, or the row."""
    found = []
    for picture, name in zip(pictures, ids, strict=True):
        held = picture.get("path") if isinstance(picture, Mapping) else picture
        found.append(PurePath(held).name if isinstance(held, (str, PurePath)) else name)
    return found
