"""tones: waveforms by their sound, made by a program; sounds for a first run without network."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from datasets import Dataset

RATE = 16_000  # Hz
SIZES = {"train": 600, "validation": 100, "test": 200}
PITCHES = (110.0, 880.0)  # Hz
LOUDNESS = (-30.0, -6.0)  # dB of full scale, at the peak
SECONDS = (0.25, 0.5)
SNR = (5.0, 30.0)  # dB
Phases = npt.NDArray[np.float64]

WAVEFORMS: dict[str, Callable[[Phases], Phases]] = {
    "sine": lambda phase: np.sin(2 * np.pi * phase),
    "triangle": lambda phase: 4 * np.abs(phase % 1 - 0.5) - 1,
    "square": lambda phase: np.where(phase % 1 < 0.5, 1.0, -1.0),
    "sawtooth": lambda phase: 2 * (phase % 1) - 1,
    "pulse": lambda phase: np.where(phase % 1 < 0.125, 1.0, -1.0),
}


@cache
def tones() -> dict[str, Dataset]:
    """Five waveforms that differ in their overtones alone: pitch, loudness, length, phase and noise are random.

    Returns:
        `train`, `validation` and `test` with the columns `id`, `audio` (`bytes` of a WAV file of 16 bits, and no
        `path`) and `label`; equal rows each time.
    """
    from datasets import Dataset, Features, Value

    features = Features(
        {"id": Value("string"), "audio": {"bytes": Value("binary"), "path": Value("string")}, "label": Value("string")}
    )
    found, start = {}, 0
    for split, size in SIZES.items():
        rows = [_row(f"{split}-{place}", start + place) for place in range(size)]
        found[split], start = Dataset.from_list(rows, features=features), start + size
    return found


def _row(name: str, number: int) -> dict[str, Any]:
    label = list(WAVEFORMS)[number % len(WAVEFORMS)]
    rng = np.random.Generator(np.random.PCG64([number, 1]))
    time = np.arange(int(rng.uniform(*SECONDS) * RATE)) / RATE
    pitch = np.exp(rng.uniform(*np.log(PITCHES)))
    wave = WAVEFORMS[label](pitch * time + rng.uniform())
    wave = wave - wave.mean()
    noise = np.sqrt(np.mean(wave**2)) * 10 ** (-rng.uniform(*SNR) / 20)
    wave = wave + noise * rng.standard_normal(len(wave))
    wave = wave * 10 ** (rng.uniform(*LOUDNESS) / 20) / np.abs(wave).max()
    return {"id": name, "audio": {"bytes": _written(wave), "path": None}, "label": label}


def _written(samples: npt.NDArray[np.float64]) -> bytes:
    """A WAV file of 16 bits."""
    import io
    import wave

    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return file.getvalue()
