"""Sounds as a model takes them: samples at its rate, from which its own feature extractor makes the inputs.

Models of waves get samples, models of spectrograms get features that take a hundred times as long to compute; those
are computed once and held where memory allows it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hfstrat.tasks.base import FloatArray, IntArray

if TYPE_CHECKING:
    from transformers import SequenceFeatureExtractor

Clip = npt.NDArray[np.int16] | npt.NDArray[np.float32]
FRAME = 320  # samples that become one vector in wav2vec2 and, after its convolutions, in Whisper
FRAMES_A_SECOND = 100  # of a spectrogram, where its extractor does not say
LONGEST = 30.0  # seconds, where neither recipe nor model says less
FULL_SCALE = 2**15


@dataclass(frozen=True)
class Ear:
    """What a model's feature extractor makes of a sound.

    Args:
        extractor: The feature extractor.
        rate: Samples in a second, in Hz.
        name: The model's argument that takes the sound.
        shape: Shape of the features of a sound, whatever its length; None where the model takes the wave.
        bins: Which axis of the features is that of frequencies, 0 or 1.
        masked: Whether the model is told what of a wave is padding.
        limit: Samples that it takes at most; None for any number.
    """

    extractor: SequenceFeatureExtractor
    rate: int
    name: str
    shape: tuple[int, int] | None
    bins: int
    masked: bool
    limit: int | None

    def features(self, clips: Sequence[npt.NDArray[np.float32]]) -> FloatArray:
        """Features of some sounds, float32 `(clips, *shape)`."""
        how: Any = self.extractor
        found: FloatArray = np.asarray(how(list(clips), sampling_rate=self.rate, return_tensors="np")[self.name])
        return found.astype(np.float32, copy=False)

    def waves(self, clips: Sequence[npt.NDArray[np.float32]], most: int) -> dict[str, npt.NDArray[Any]]:
        """Some waves, padded to the longest of them where a mask tells which samples are padding.

        Without a mask the padding is heard, so that all have one length: what a model says of a sound would else
        depend on the sounds beside it.
        """
        how: Any = self.extractor
        length = {"padding": True} if self.masked else {"padding": "max_length", "max_length": most}
        found = how(list(clips), sampling_rate=self.rate, return_tensors="np", **length)
        inputs = {self.name: np.asarray(found[self.name], np.float32)}
        if self.masked:
            inputs["attention_mask"] = np.asarray(found["attention_mask"], np.int64)
        return inputs

    @cached_property
    def described(self) -> bytes:
        """All that decides about what it makes."""
        return json.dumps(self.extractor.to_dict(), sort_keys=True, default=str).encode()


def ear_of(extractor: SequenceFeatureExtractor) -> Ear | None:
    """What a feature extractor does, found out by having it hear two sounds; None for one that cannot be used here."""
    how: Any = extractor
    rate = int(how.sampling_rate)
    noise = np.random.default_rng(0).standard_normal(rate).astype(np.float32)
    shapes = []
    name = how.model_input_names[0]
    for clip in (noise, noise[: rate // 2]):
        found = how([clip], sampling_rate=rate, return_tensors="np")
        shapes.append(tuple(np.shape(found[name]))[1:])
    if len(shapes[0]) == 1:
        masked = bool(getattr(how, "return_attention_mask", False))
        return Ear(extractor, rate, name, None, 0, masked, None)
    if len(shapes[0]) != 2 or shapes[0] != shapes[1]:
        return None
    bins = int(getattr(how, "num_mel_bins", 0) or how.feature_size)
    return Ear(extractor, rate, name, shapes[0], int(shapes[0][1] == bins), False, _limit(how, rate))


def _limit(extractor: Any, rate: int) -> int | None:
    """Samples that become features; what is longer is cut by the extractor."""
    samples = getattr(extractor, "n_samples", None)
    frames = getattr(extractor, "max_length", None)
    if samples:
        return int(samples)
    return int(frames) * rate // FRAMES_A_SECOND if frames else None


@dataclass(frozen=True)
class Waves:
    """The sounds of a split, each as long as it is.

    Args:
        clips: Samples of each, float32 in -1..1; int16 in shares of full scale where that is the same.
        ear: What the model's feature extractor does.
        most: Samples of each that the model hears at most, from the beginning.
    """

    clips: tuple[Clip, ...]
    ear: Ear
    most: int

    def samples(self, row: int) -> npt.NDArray[np.float32]:
        """A whole sound, float32 `(samples,)`."""
        clip = self.clips[row]
        if clip.dtype == np.int16:
            return clip.astype(np.float32) / np.float32(FULL_SCALE)
        return np.asarray(clip, np.float32)

    def inputs(self, rows: IntArray) -> dict[str, npt.NDArray[Any]]:
        """Some sounds as the model takes them."""
        clips = [self.samples(int(row))[: self.most] for row in rows]
        if self.ear.shape is None:
            return self.ear.waves(clips, self.most)
        return {self.ear.name: self.ear.features(clips)}

    def taken(self, rows: IntArray) -> Waves:
        """Some of the sounds."""
        return replace(self, clips=tuple(self.clips[int(row)] for row in rows))

    def and_more(self, more: Waves) -> Waves:
        """These sounds, and others after them."""
        return replace(self, clips=(*self.clips, *more.clips))

    def cut(self) -> Waves:
        """Without what the model does not hear."""
        # A copy, lest a part keep the whole in memory.
        cut = (clip if len(clip) <= self.most else clip[: self.most].copy() for clip in self.clips)
        return replace(self, clips=tuple(cut))

    @property
    def longer(self) -> int:
        """How many are longer than what the model hears."""
        return sum(len(clip) > self.most for clip in self.clips)

    @property
    def seconds(self) -> float:
        """What the model hears of a sound at most."""
        return self.most / self.ear.rate

    @cached_property
    def lengths(self) -> IntArray:
        """Frames of each; where all become of one length, that one's."""
        if self.ear.shape is not None or not self.ear.masked:
            return np.full(len(self.clips), _frames(self.ear.limit or self.most), np.int64)
        return np.array([_frames(min(len(clip), self.most)) for clip in self.clips], np.int64)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all samples, and of what is made of them."""
        found = hashlib.sha256(self.ear.described + str(self.most).encode())
        for clip in self.clips:
            found.update(f"{clip.dtype}{len(clip)}".encode())
            found.update(np.ascontiguousarray(clip).data)
        return found.digest()


@dataclass(frozen=True)
class Features:
    """The sounds of a split as spectrograms of one size.

    Args:
        values: float32 `(n, *ear.shape)`.
        frames: How many frames of each, from the first on, are sound and no padding `(n,)`.
        ear: What made them.
        most: Samples of each that the model hears at most.
    """

    values: FloatArray
    frames: IntArray
    ear: Ear
    most: int

    def inputs(self, rows: IntArray) -> dict[str, FloatArray]:
        """Some of them as the model takes them."""
        return {self.ear.name: self.values[rows]}

    def taken(self, rows: IntArray) -> Features:
        """Some of them."""
        return replace(self, values=self.values[rows], frames=self.frames[rows])

    def and_more(self, more: Features) -> Features:
        """These, and others after them."""
        values, frames = np.concatenate([self.values, more.values]), np.concatenate([self.frames, more.frames])
        return replace(self, values=values, frames=frames)

    @property
    def seconds(self) -> float:
        """What the model hears of a sound at most."""
        return self.most / self.ear.rate

    @cached_property
    def lengths(self) -> IntArray:
        """Frames of each as the model reads them."""
        return np.full(len(self.values), _frames(self.ear.limit or self.most), np.int64)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all values."""
        found = hashlib.sha256(self.ear.described + f"{self.values.shape}{self.most}".encode())
        for row in self.values:
            found.update(np.ascontiguousarray(row).data)
        return found.digest()


def held(samples: npt.NDArray[np.float32]) -> Clip:
    """A sound in half of the memory, where that is the same to the bit: 16 bits, as most files have it."""
    whole = samples * np.float32(FULL_SCALE)
    if np.array_equal(whole, np.rint(whole)) and whole.max(initial=0) < FULL_SCALE:
        return whole.astype(np.int16)
    return samples


def featured(waves: Waves, clips: Iterable[npt.NDArray[np.float32]] | None = None) -> Features:
    """The features of some sounds, made one after the other.

    Args:
        waves: The sounds.
        clips: What is heard in their place, as many, of any length.
    """
    ear = waves.ear
    assert ear.shape is not None, "a model of spectrograms"
    values = np.empty((len(waves.clips), *ear.shape), np.float32)
    frames = np.empty(len(waves.clips), np.int64)
    heard = clips if clips is not None else (waves.samples(row)[: waves.most] for row in range(len(waves.clips)))
    hop = int(getattr(ear.extractor, "hop_length", 0) or ear.rate // FRAMES_A_SECOND)
    for row, clip in enumerate(heard):
        values[row] = ear.features([clip])[0]
        frames[row] = min(ear.shape[1 - ear.bins], -(-len(clip) // hop))
    return Features(values, frames, ear, waves.most)


def _frames(samples: int) -> int:
    return max(1, samples // FRAME)
