"""Pictures as an epoch sees them: varied as a function of seed, epoch and example, and of those of the same update."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hfstrat.data.augmenting import Augmentation
from hfstrat.tasks.base import Encoded, FloatArray, IntArray, Labels
from hfstrat.tasks.image_classification import AugmentationSpec
from hfstrat.tasks.pixels import Pixels


class Varied:
    """Varies the pictures of a split each time that they are trained on.

    Args:
        spec: How.
        labels: The classes, which pictures that are mixed have shares of.
    """

    def __init__(self, spec: AugmentationSpec, labels: Labels) -> None:
        self._how = Augmentation(**spec.model_dump())
        self._labels = labels

    def drawn(self, data: Encoded, rows: IntArray, seed: int, epoch: int) -> Encoded:
        """The examples of an update as an epoch sees them; the arguments are those of `Encoded.drawn`."""
        pixels = data.signals
        assert isinstance(pixels, Pixels), "pictures are varied"
        varied = [
            self._how.augmented(pixels.values[row].transpose(1, 2, 0), pixels.side, seed, epoch, int(row))
            for row in rows
        ]
        values = np.ascontiguousarray(np.stack(varied).transpose(0, 3, 1, 2))
        drawn = data.varied(rows, replace(pixels, values=values))
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
