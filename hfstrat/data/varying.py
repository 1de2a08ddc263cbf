"""Pictures as an epoch sees them: varied as a function of seed, epoch and example alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hfstrat.data.augmenting import Augmentation
from hfstrat.tasks.base import Encoded, IntArray
from hfstrat.tasks.image_classification import AugmentationSpec
from hfstrat.tasks.pixels import Pixels


class Varied:
    """Varies the pictures of a split each time that they are trained on.

    Args:
        spec: How.
    """

    def __init__(self, spec: AugmentationSpec) -> None:
        self._how = Augmentation(**spec.model_dump())

    def drawn(self, data: Encoded, rows: IntArray, seed: int, epoch: int) -> Encoded:
        """Some examples of a split as an epoch sees them; the arguments are those of `Encoded.drawn`."""
        pixels = data.signals
        assert isinstance(pixels, Pixels), "pictures are varied"
        varied = [
            self._how.augmented(pixels.values[row].transpose(1, 2, 0), pixels.side, seed, epoch, int(row))
            for row in rows
        ]
        values = np.ascontiguousarray(np.stack(varied).transpose(0, 3, 1, 2))
        return data.varied(rows, replace(pixels, values=values))
