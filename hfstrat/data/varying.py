"""Pictures as an epoch sees them: varied as a function of seed, epoch and example, and of those of the same update."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hfstrat.data.augmenting import Augmentation
from hfstrat.tasks.base import Encoded, FloatArray, IntArray, Labels
from hfstrat.tasks.boxes import NONE
from hfstrat.tasks.image_classification import AugmentationSpec
from hfstrat.tasks.object_detection import BoxAugmentationSpec
from hfstrat.tasks.pixels import Pixels

LEAST_LEFT = 1 / 3
"""Share of a box that a crop has to leave for it to count."""


class Varied:
    """Varies the pictures of a split each time that they are trained on, and the boxes in them.

    Args:
        spec: How.
        labels: The classes, which pictures that are mixed have shares of.
    """

    def __init__(self, spec: AugmentationSpec | BoxAugmentationSpec, labels: Labels) -> None:
        self._how = Augmentation(**spec.model_dump())
        self._labels = labels

    def drawn(self, data: Encoded, rows: IntArray, seed: int, epoch: int) -> Encoded:
        """The examples of an update as an epoch sees them; the arguments are those of `Encoded.drawn`."""
        pixels = data.signals
        assert isinstance(pixels, Pixels), "pictures are varied"
        varied, moves = zip(
            *(
                self._how.moved(pixels.values[row].transpose(1, 2, 0), pixels.side, seed, epoch, int(row))
                for row in rows
            ),
            strict=True,
        )
        values = np.ascontiguousarray(np.stack(varied).transpose(0, 3, 1, 2))
        drawn = data.varied(rows, replace(pixels.taken(rows), values=values))
        if data.aims is not None:
            aims = [_moved(data.aims[row], *one) for row, one in zip(rows, moves, strict=True)]
            drawn = replace(drawn, aims=np.stack(aims))
        if not self._how.mixes or drawn.targets is None:
            return drawn
        values, targets = self._mixed(values, drawn.targets, rows, pixels.side, seed, epoch)
        examples = replace(drawn.examples, targets=targets)
        return replace(drawn, examples=examples, signals=replace(pixels, values=values))

    def _mixed(
        self,
        values: npt.NDArray[np.uint8],
        targets: IntArray | FloatArray,
        rows: IntArray,
        side: tuple[int, int],
        seed: int,
        epoch: int,
    ) -> tuple[npt.NDArray[np.uint8], FloatArray]:
        """Pictures with parts of others of the update in them, rounded to bytes, and the shares of what they show."""
        own = rows.astype(np.int64)
        mixing = self._how.mixing(own, own, side, seed, epoch)
        by_row = np.argsort(rows)
        partners = by_row[np.searchsorted(rows, mixing.partners, sorter=by_row)]
        mixed = mixing.mixed(values.astype(np.float32), values[partners].astype(np.float32))
        single = self._labels.problem == "single_label"
        shown = (np.eye(len(self._labels.names))[targets] if single else targets).astype(np.float32)
        shares = mixing.shares.astype(np.float32)[:, None]
        return np.rint(mixed).astype(np.uint8), shares * shown + (1 - shares) * shown[partners]


def _moved(aims: IntArray | FloatArray, part: tuple[float, float, float, float], mirrored: bool) -> FloatArray:
    """The boxes of an image where a part of it has become all of it; too little is left of some.

    Args:
        aims: Class, middle, width and height of each in shares of the image, `(most, 5)`.
        part: Top, left, bottom and right in shares of the image.
        mirrored: Whether left is right then.
    """
    top, left, bottom, right = part
    corner, sides = np.array([left, top]), np.array([right - left, bottom - top])
    half = aims[:, 3:] / 2
    low, high = (np.clip((aims[:, 1:3] + way * half - corner) / sides, 0.0, 1.0) for way in (-1, 1))
    whole, kept = (aims[:, 3:] / sides).prod(axis=1), (high - low).prod(axis=1)
    if mirrored:
        low[:, 0], high[:, 0] = 1.0 - high[:, 0], 1.0 - low[:, 0]
    found = np.concatenate([aims[:, :1], (low + high) / 2, high - low], axis=1).astype(np.float32)
    found[(aims[:, 0] < 0) | (kept < LEAST_LEFT * whole)] = NONE
    return found
