"""Sounds as an epoch hears them: varied as a function of seed, epoch and example alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hfstrat.data.augmenting_sound import Draw, SoundAugmentation, cropped
from hfstrat.tasks.audio_classification import SoundAugmentationSpec
from hfstrat.tasks.base import Encoded, IntArray
from hfstrat.tasks.waves import Features, Waves, featured


class VariedSounds:
    """Varies the sounds of a split each time that they are trained on.

    Args:
        spec: How.
    """

    def __init__(self, spec: SoundAugmentationSpec) -> None:
        times, bins = spec.time_masks or (0, 0), spec.frequency_masks or (0, 0)
        self._crop = spec.crop
        self._masks = bool(spec.masks)
        self._how = SoundAugmentation(spec.shift, spec.gain, spec.noise, *times, 1.0, *bins)

    def drawn(self, data: Encoded, rows: IntArray, seed: int, epoch: int) -> Encoded:
        """Some examples of a split as an epoch hears them; the arguments are those of `Encoded.drawn`."""
        draws = [Draw(seed, epoch, int(row)) for row in rows]
        if isinstance(data.signals, Features):
            return data.varied(rows, self._masked(data.signals.taken(rows), draws))
        waves = data.signals
        assert isinstance(waves, Waves), "sounds are varied"
        clips = tuple(self._heard(waves, draw) for draw in draws)
        varied = replace(waves, clips=clips)
        if waves.ear.shape is None:
            return data.varied(rows, varied)
        return data.varied(rows, self._masked(featured(varied, clips), draws))

    def _heard(self, waves: Waves, draw: Draw) -> npt.NDArray[np.float32]:
        clip = waves.samples(draw.example)
        if len(clip) > waves.most:
            clip = np.asarray(cropped(clip, waves.most, draw) if self._crop else clip[: waves.most], np.float32)
        return np.asarray(self._how.heard(clip, draw), np.float32)

    def _masked(self, features: Features, draws: list[Draw]) -> Features:
        if not self._masks:
            return features
        turned = features.ear.bins == 0
        values = []
        for value, frames, draw in zip(features.values, features.frames, draws, strict=True):
            masked = self._how.masked(value.T if turned else value, draw, int(frames))
            values.append(masked.T if turned else masked)
        return replace(features, values=np.stack(values))
