"""Classification of pictures and sounds: rows that name files, or hold what files hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hfstrat.spec import Spec
from hfstrat.tasks.base import Decoded, Examples, Labels
from hfstrat.tasks.classification import Classification
from hfstrat.tasks.task import Columns, ids_of

if TYPE_CHECKING:
    from datasets import Dataset


class MediaClassification(Classification):
    """What pictures and sounds share; the column of the role `files` has them."""

    augmentation: Spec | None = None

    noun: ClassVar[str]
    """What examples are, as a word for several."""

    peft_task_type: ClassVar[str | None] = None
    floors: ClassVar[tuple[str, ...]] = ("majority",)

    def needed(self, given: Columns, available: Sequence[str], *, labelled: bool) -> set[str]:
        """The files, whatever is given a column, and the label where targets are needed."""
        return {self.files, *given, "label"} - (set() if labelled else {"label"})

    def read(self, split: Dataset, name: str, columns: Mapping[str, Any], labels: Labels | None) -> Examples:
        """One split as pictures or sounds, and targets."""
        targets = self.targets_of(split, name, columns["label"], labels) if labels is not None else None
        ids, media = ids_of(split, name, columns), media_of(split, columns[self.files])
        return Examples(ids, names_of(media, ids), None, targets, media=media)

    def examples(self, ids: tuple[str, ...], texts: Sequence[Any], pairs: Sequence[str] | None) -> Examples:
        """Pictures or sounds to be decided about: files, or what files hold."""
        return Examples(ids, names_of(texts, ids), None, None, media=texts)

    def table(self, decoded: Decoded, examples: Examples, labels: Labels) -> dict[str, list[Any]]:
        """The file's name, scores and logits."""
        return {self.files: list(examples.texts), **super().table(decoded, examples, labels)}


def media_of(split: Dataset, column: str) -> list[Any]:
    """A column of pictures or sounds; arrays of pixels come out of a data set as lists."""
    return [np.asarray(one, np.uint8) if isinstance(one, list) else one for one in split[column][:]]


def names_of(media: Sequence[Any], ids: Sequence[str]) -> list[str]:
    """What to call each: its file, or the row."""
    found = []
    for one, name in zip(media, ids, strict=True):
        held = one.get("path") if isinstance(one, Mapping) else one
        found.append(PurePath(held).name if isinstance(held, (str, PurePath)) else name)
    return found
