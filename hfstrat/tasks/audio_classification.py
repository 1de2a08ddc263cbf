"""Audio classification: one label, several labels, or numbers, for sounds."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from hfstrat.spec import Spec
from hfstrat.tasks.media import MediaClassification

Masks = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


class SoundAugmentationSpec(Spec):
    """How training sounds are varied, in this order; each part is off unless it is named."""

    crop: bool = False
    """Of a sound that is longer than max_seconds take another part each time, and not always its beginning."""
    shift: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Greatest shift in time as a share of the length, either way; zeros fill the gap."""
    noise: tuple[float, float] | None = None
    """Lowest and highest ratio of signal to noise in dB, of white noise that is added."""
    gain: Annotated[float, Field(ge=0.0, le=60.0)] = 0.0
    """Greatest gain or loss in dB."""
    time_masks: Masks | None = None
    """Masks over the frames of a spectrogram, and the frames of each at most (SpecAugment, arXiv:1904.08779)."""
    frequency_masks: Masks | None = None
    """Masks over the frequencies of a spectrogram, and the bins of each at most."""

    @field_validator("noise")
    @classmethod
    def _ordered(cls, noise: tuple[float, float] | None) -> tuple[float, float] | None:
        if noise is not None and noise[0] > noise[1]:
            raise ValueError(f"the lowest ratio comes first, and {noise[0]:g} is above {noise[1]:g}")
        return noise

    @property
    def of_waves(self) -> bool:
        """Whether it changes the waveform."""
        return self.crop or bool(self.shift) or self.noise is not None or bool(self.gain)

    @property
    def masks(self) -> tuple[str, ...]:
        """Names of the parts that change a spectrogram."""
        return tuple(name for name in ("time_masks", "frequency_masks") if getattr(self, name) is not None)


class AudioClassification(MediaClassification):
    """Give sounds a class, several classes, or a number."""

    kind: Literal["audio_classification"] = "audio_classification"

    max_seconds: Annotated[float, Field(ge=0.025)] | Literal["auto"] = "auto"
    """Seconds that the model hears of a sound, from its beginning; auto: the longest sound, at most what the model
    takes and 30."""

    augmentation: SoundAugmentationSpec | None = None
    """How training sounds are varied, anew in each epoch; left out: not at all."""

    auto_class: ClassVar[str] = "AutoModelForAudioClassification"
    pipeline_tag: ClassVar[str] = "audio-classification"
    roles: ClassVar[tuple[str, ...]] = ("audio", "label", "id")
    texts: ClassVar[tuple[str, ...]] = ("audio",)
    files: ClassVar[str] = "audio"
    reads: ClassVar[str] = "input_values"
    noun: ClassVar[str] = "sounds"
