"""Sounds that an epoch hears differently: how is a function of (seed, epoch, example) and of nothing else.

Each kind of change has a stream of its own, so that turning one on leaves the others as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
Purpose = Literal["crop", "shift", "gain", "noise", "time masks", "frequency masks"]
_STREAMS: dict[Purpose, int] = {
    "crop": 1,
    "shift": 2,
    "gain": 3,
    "noise": 4,
    "time masks": 5,
    "frequency masks": 6,
}


@dataclass(frozen=True)
class Draw:
    """What decides about all that is random in an example.

    Args:
        seed: The run's seed.
        epoch: Number of the epoch, from 0.
        example: A number that is the example's in each epoch, such as its row.
    """

    seed: int
    epoch: int
    example: int

    def stream(self, purpose: Purpose) -> np.random.Generator:
        """Random numbers of one kind of change, always the same ones."""
        key = np.array([(self.seed % 2**32) << 32 | self.epoch, self.example % 2**64], np.uint64)
        counter = np.array([0, 0, 0, _STREAMS[purpose]], np.uint64)
        return np.random.Generator(np.random.Philox(counter=counter, key=key))


@dataclass(frozen=True)
class SoundAugmentation:
    """How training examples are changed; as it is made without arguments, nothing is.

    Masks are those of SpecAugment (Park et al. 2019, arXiv:1904.08779, §2), without its time warping, which is costly
    and gained least there.

    Args:
        shift: Greatest shift in time, as share of the length, either way.
        gain: Greatest gain or loss in dB.
        snr: Lowest and highest ratio of signal to noise in dB, of white noise; None for no noise.
        time_masks: Number of masks over frames.
        time_mask_frames: Greatest width of each; the paper's T.
        time_mask_share: Greatest width as share of an example's frames; the paper's p.
        frequency_masks: Number of masks over bins.
        frequency_mask_bins: Greatest width of each; the paper's F.
    """

    shift: float = 0.0
    gain: float = 0.0
    snr: tuple[float, float] | None = None
    time_masks: int = 0
    time_mask_frames: int = 0
    time_mask_share: float = 1.0
    frequency_masks: int = 0
    frequency_mask_bins: int = 0

    def heard(self, array: FloatArray, draw: Draw) -> FloatArray:
        """A waveform as an epoch hears it.

        Args:
            array: Float `(samples,)` in -1..1; it is not changed.
            draw: Which example, and when.

        Returns:
            Of the same shape and dtype; the array itself if nothing is to be changed.
        """
        array = shifted(array, self.shift, draw)
        if self.snr is not None:
            array = noisy(array, self.snr, draw)
        return amplified(array, self.gain, draw)

    def masked(self, features: FloatArray, draw: Draw, frames: int | None = None) -> FloatArray:
        """Features with some frames and bins hidden.

        A mask holds the mean of the frames that are sound, which is the zero of the paper, whose features have a mean
        of zero.

        Args:
            features: Float `(frames, bins)`, such as a log-mel spectrogram; it is not changed.
            draw: Which example, and when.
            frames: How many frames from the first on are sound and no padding; None for all.

        Returns:
            Of the same shape and dtype; the array itself if nothing is to be hidden.
        """
        sound = features[:frames]
        widest = min(self.time_mask_frames, int(self.time_mask_share * len(sound)))
        rows = _masks(len(sound), self.time_masks, widest, draw.stream("time masks"))
        bins = _masks(sound.shape[1], self.frequency_masks, self.frequency_mask_bins, draw.stream("frequency masks"))
        if not (rows.any() or bins.any()):
            return features
        found = features.copy()
        found[:frames][rows[:, None] | bins] = sound.mean(dtype=np.float64)
        return found


def cropped(array: FloatArray, samples: int, draw: Draw | None) -> FloatArray:
    """A part of a sound of a given length; a shorter sound is followed by zeros.

    Args:
        array: Float `(samples,)`.
        samples: The length wanted.
        draw: Which example, and when; None for the middle, which is what is evaluated.
    """
    spare = len(array) - samples
    if spare <= 0:
        return padded(array, samples)
    start = spare // 2 if draw is None else int(draw.stream("crop").integers(0, spare + 1))
    return array[start : start + samples]


def padded(array: FloatArray, samples: int) -> FloatArray:
    """A sound followed by zeros up to a length; one that is as long or longer stays as it is."""
    missing = samples - len(array)
    return np.concatenate([array, np.zeros(missing, array.dtype)]) if missing > 0 else array


def shifted(array: FloatArray, share: float, draw: Draw) -> FloatArray:
    """A sound that begins earlier or later by up to a share of its length; zeros fill the gap.

    Args:
        array: Float `(samples,)`.
        share: Greatest shift as share of the length, either way, up to 1.
        draw: Which example, and when.
    """
    most = int(share * len(array))
    step = int(draw.stream("shift").integers(-most, most + 1))
    if not step:
        return array
    gap = np.zeros(abs(step), array.dtype)
    return np.concatenate([gap, array[:-step]] if step > 0 else [array[-step:], gap])


def amplified(array: FloatArray, decibels: float, draw: Draw) -> FloatArray:
    """A sound that is louder or softer by up to some dB, drawn uniformly; never so loud that it would be cut off.

    Args:
        array: Float `(samples,)` in -1..1.
        decibels: Greatest gain or loss in dB.
        draw: Which example, and when.
    """
    if not decibels:
        return array
    gain = draw.stream("gain").uniform(-decibels, decibels)
    return _within((array * 10 ** (gain / 20)).astype(array.dtype))


def noisy(array: FloatArray, snr: tuple[float, float], draw: Draw) -> FloatArray:
    """A sound with white noise, softer as a whole where the sum would be cut off; silence stays silent.

    Args:
        array: Float `(samples,)` in -1..1.
        snr: Lowest and highest ratio of the power of the signal to that of the noise in dB; the ratio is drawn
            uniformly, and holds exactly.
        draw: Which example, and when.
    """
    power = float(np.mean(np.square(array, dtype=np.float64)))
    if not power:
        return array
    stream = draw.stream("noise")
    ratio = stream.uniform(*snr)
    noise = stream.standard_normal(len(array))
    noise *= np.sqrt(power / 10 ** (ratio / 10) / np.mean(np.square(noise)))
    return _within((array + noise).astype(array.dtype))


def _within(array: FloatArray) -> FloatArray:
    """A waveform in -1..1: a whole that is softer keeps its shape, and one that is cut off does not."""
    peak = np.abs(array).max(initial=0)
    return array / peak if peak > 1 else array


def _masks(size: int, count: int, widest: int, stream: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which of some frames or bins are hidden, bool `(size,)`: widths from 0 on, places where all of a mask fits."""
    hidden = np.zeros(size, bool)
    for _ in range(count):
        width = int(stream.integers(0, min(widest, size) + 1))
        start = int(stream.integers(0, size - width + 1))
        hidden[start : start + width] = True
    return hidden
