"""The builtin tones."""

from __future__ import annotations

from collections import Counter

import numpy as np

from hfstrat.data.builtin_tones import LOUDNESS, RATE, SECONDS, SIZES, WAVEFORMS, tones
from hfstrat.data.sounds import read


def test_there_are_all_of_them_and_none_twice() -> None:
    assert {name: len(rows) for name, rows in tones().items()} == SIZES
    every = [cell["bytes"] for rows in tones().values() for cell in rows["audio"]]
    assert len(set(every)) == sum(SIZES.values())
    assert len({one for rows in tones().values() for one in rows["id"]}) == sum(SIZES.values())


def test_each_class_is_there_equally_often() -> None:
    for name, rows in tones().items():
        assert Counter(rows["label"]) == dict.fromkeys(WAVEFORMS, SIZES[name] // len(WAVEFORMS))


def test_they_are_sounds_as_they_are_described() -> None:
    for row in tones()["validation"]:
        recording = read(row["audio"])
        assert recording.rate == RATE
        assert SECONDS[0] - 0.01 < recording.seconds < SECONDS[1]
        peak = 20 * np.log10(np.abs(recording.samples).max())
        assert LOUDNESS[0] - 0.1 < peak < LOUDNESS[1] + 0.1


def test_neither_loudness_nor_length_tells_the_class() -> None:
    rows = tones()["train"]
    found = [(np.log(np.abs(one.samples).max()), one.seconds) for one in map(read, rows["audio"])]
    labels = np.array(rows["label"][:])
    means = np.array([np.mean(np.array(found)[labels == label], axis=0) for label in WAVEFORMS])
    spread = np.std(np.array(found), axis=0)
    assert (np.ptp(means, axis=0) < 0.5 * spread).all()


def test_overtones_tell_it() -> None:
    """A square wave has odd overtones alone, a sine has none; found at the multiples of the strongest frequency."""
    strong = {}
    for label, second in (("sine", 0.1), ("sawtooth", 0.2)):
        ratios = []
        for row in tones()["test"]:
            if row["label"] == label:
                samples = read(row["audio"]).samples
                spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
                place = int(spectrum.argmax())
                ratios.append(spectrum[2 * place - 3 : 2 * place + 4].max() / spectrum[place])
        strong[label] = (float(np.median(ratios)), second)
    assert strong["sine"][0] < 0.1
    assert strong["sawtooth"][0] > 0.3
