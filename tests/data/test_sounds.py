"""Sounds in files and cells: the samples that were written, at the rate that is asked for, or what is wrong."""

from __future__ import annotations

import hashlib
import io
import math
import struct
import sys
import tracemalloc
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hfstrat.data.sounds import clipped_share, decoded, decoded_all, digest, is_silent, loudness, read, resampled
from hfstrat.errors import DataError, UsageError

RATE = 16_000
SUBFORMAT = bytes.fromhex("000000001000800000aa00389b71")


def sine(hertz: float = 440, rate: int = RATE, seconds: float = 0.25, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def pcm(shares: np.ndarray, width: int) -> bytes:
    """Shares of full scale as WAV has them, by whole-number arithmetic of its own."""
    whole = [round(float(share) * 2 ** (8 * width - 1)) for share in shares.ravel()]
    if width == 1:
        return bytes(value + 128 for value in whole)
    return b"".join(value.to_bytes(width, "little", signed=True) for value in whole)


def by_wave(shares: np.ndarray, width: int, rate: int = RATE) -> bytes:
    """What the standard library writes of `(samples,)` or `(samples, channels)`."""
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1 if shares.ndim == 1 else shares.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(pcm(shares, width))
    return held.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def riff(body: bytes, code: int, width: int, *, rate: int = RATE, channels: int = 1, before: bytes = b"") -> bytes:
    """A WAV file of given samples; before them may stand other chunks. A code of two parts is extensible."""
    code, inner = divmod(code, 2**16)
    fields = struct.pack("<HHIIHH", code or inner, channels, rate, rate * channels * width, channels * width, 8 * width)
    if code:
        fields += struct.pack("<HHIH", 22, 8 * width, 0, inner) + SUBFORMAT
    whole = b"WAVE" + chunk(b"fmt ", fields) + before + chunk(b"data", body)
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


def extensible(code: int) -> int:
    return 0xFFFE * 2**16 + code


@pytest.fixture
def without_soundfile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)


def said(sound: Any) -> str:
    with pytest.raises(DataError) as caught:
        decoded(sound, RATE)
    return str(caught.value)


# Rounding to whole steps is off by half a step at most; the last term is float32's own rounding of numbers below 1.
@pytest.mark.usefixtures("without_soundfile")
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_whole_numbers_come_back_to_half_a_step(width: int) -> None:
    written = sine()
    found = decoded(by_wave(written, width), RATE)
    assert (found.dtype, found.shape) == (np.float32, written.shape)
    assert np.abs(found - written).max() <= 0.5 / 2 ** (8 * width - 1) + 2**-25
    assert np.ptp(found) > 0.99


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_the_ends_of_the_scale_are_exact(width: int) -> None:
    step = 1 / 2 ** (8 * width - 1)
    found = decoded(by_wave(np.array([-1, 0, 1 - step]), width), RATE)
    assert found.tolist() == [-1, 0, np.float32(1 - step)]


@pytest.mark.parametrize(("kind", "width"), [("<f4", 4), ("<f8", 8)])
@pytest.mark.parametrize("code", [3, extensible(3)])
@pytest.mark.usefixtures("without_soundfile")
def test_floats_come_back_as_they_are(kind: str, width: int, code: int) -> None:
    written = sine()
    assert np.array_equal(decoded(riff(written.astype(kind).tobytes(), code, width), RATE), written.astype(np.float32))


@pytest.mark.usefixtures("without_soundfile")
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_an_extensible_header_changes_nothing(width: int) -> None:
    body = pcm(sine(), width)
    assert np.array_equal(
        decoded(riff(body, extensible(1), width), RATE),
        decoded(by_wave(sine(), width), RATE),
    )


def test_channels_are_averaged() -> None:
    left, right = sine(440), sine(1000, amplitude=0.25)
    found = decoded(by_wave(np.stack([left, right], axis=1), 2), RATE)
    assert np.abs(found - (left + right) / 2).max() <= 0.5 / 2**15 + 2**-25
    cell = {"array": np.stack([left, right]), "sampling_rate": RATE}
    assert np.allclose(decoded(cell, RATE), (left + right) / 2, atol=2**-24)


def test_chunks_of_odd_size_are_stepped_over() -> None:
    body = pcm(sine(), 2)
    notes = chunk(b"LIST", b"odd") + chunk(b"data"[::-1], b"12345")
    assert np.array_equal(decoded(riff(body, 1, 2, before=notes), RATE), decoded(riff(body, 1, 2), RATE))


def test_a_byte_of_padding_is_no_sample() -> None:
    assert decoded(riff(pcm(sine()[:7], 1), 1, 1), RATE).shape == (7,)
    assert decoded(riff(pcm(sine()[:7], 1), 1, 1)[:-1], RATE).shape == (7,)  # some leave it out at the end


def test_what_follows_the_samples_is_no_part_of_them() -> None:
    data = riff(pcm(sine(), 2), 1, 2)
    assert np.array_equal(decoded(data + chunk(b"LIST", b"notes") + chunk(b"data", b"1234"), RATE), decoded(data, RATE))


@pytest.mark.parametrize(("width", "channels"), [(2, 1), (2, 2), (3, 1)])
def test_a_part_of_a_sample_at_the_end_is_none(width: int, channels: int) -> None:
    body = pcm(sine(), width)
    torn = riff(body + b"\x01", 1, width, channels=channels)
    assert np.array_equal(decoded(torn, RATE), decoded(riff(body, 1, width, channels=channels), RATE))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_what_was_written_to_a_pipe_ends_where_the_file_does(size: int) -> None:
    data = by_wave(sine(), 2)
    piped = data.replace(b"data" + data[40:44], b"data" + struct.pack("<I", size))
    assert piped != data
    assert np.array_equal(decoded(piped, RATE), decoded(data, RATE))


def test_files_contents_and_cells_are_one_sound(tmp_path: Path) -> None:
    data = by_wave(sine(), 2)
    file = tmp_path / "a.wav"
    file.write_bytes(data)
    array = decoded(data, RATE)
    ways: list[Any] = [file, str(file), {"bytes": data, "path": "gone.wav"}, {"bytes": None, "path": str(file)}]
    for way in ways:
        assert np.array_equal(decoded(way, RATE), array)
        assert digest(way) == hashlib.sha256(data).digest()
    cell = {"array": array, "sampling_rate": RATE, "path": None}
    assert np.array_equal(decoded(cell, RATE), array)


def test_arrays_are_shares_or_whole_numbers_of_a_known_size() -> None:
    whole = np.array([-(2**15), 0, 2**14], np.int16)
    assert decoded({"array": whole, "sampling_rate": RATE}, RATE).tolist() == [-1, 0, 0.5]
    assert decoded({"array": [0.5, -0.25], "sampling_rate": RATE}, RATE).tolist() == [0.5, -0.25]
    assert "holds int64" in said({"array": [1, 2], "sampling_rate": RATE})
    assert "shape (100, 2)" in said({"array": np.zeros((100, 2)), "sampling_rate": RATE})
    assert "different lengths" in said({"array": [[0.1], [0.1, 0.2]], "sampling_rate": RATE})
    assert "sampling_rate of its array is None" in said({"array": [0.5]})


def test_digests_differ_with_samples_rates_and_channels() -> None:
    cells = [
        {"array": np.array([0.5, 0.25]), "sampling_rate": RATE},
        {"array": np.array([0.25, 0.5]), "sampling_rate": RATE},
        {"array": np.array([0.5, 0.25]), "sampling_rate": 8000},
        {"array": np.array([[0.5], [0.25]]), "sampling_rate": RATE},
    ]
    assert len({digest(cell) for cell in cells}) == len(cells)
    assert digest({"array": [0.5, 0.25], "sampling_rate": RATE}) == digest(cells[0])


# --- what is wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"zero, one, two\n" * 10, "no sound by its content"),
        ("zero\n".encode("utf-16"), "no sound by its content"),
        (by_wave(sine()[:0], 2), "holds no samples"),
        (by_wave(sine(), 2)[:-1000], "cut off: 7000 of 8000 bytes"),
        (by_wave(sine(), 2)[:40], "cut off before its samples"),
        (by_wave(sine(), 2)[:30], "does not say how its samples are written"),
        (riff(np.array([0.5, np.nan], "<f4").tobytes(), 3, 4), "not a finite number"),
        (riff(np.array([0.5, 1e300], "<f8").tobytes(), 3, 8), "not a finite number"),
        (riff(np.array([0.5, -32768], "<f4").tobytes(), 3, 4), "samples reach 32768"),
        (by_wave(sine(), 2, rate=7), "rate is said to be 7 Hz"),
        (by_wave(sine(), 2, rate=4_000_000), "rate is said to be 4000000 Hz"),
        (b"\0\0\0\x20ftypM4A " + bytes(20), "MP4 by its content"),
        (b"\x1aE\xdf\xa3" + bytes(20), "Matroska or WebM by its content"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(content)
    assert message in said(file)
    assert said(file).startswith(f"{file}: ")
    assert message in said(content)


def test_what_is_no_sound_at_all_is_said(tmp_path: Path) -> None:
    assert "No such file" in said(tmp_path / "gone.wav")
    assert "directory" in said(tmp_path)
    assert "cannot be read" in said("a\0b.wav")
    assert said(None) == "there is no sound"
    assert "type int" in said(3)
    assert "a cell with text, label" in said({"text": "a", "label": 1})
    assert "a cell with bytes, path" in said({"bytes": None, "path": None})


@pytest.mark.usefixtures("without_soundfile")
def test_whatever_byte_of_a_header_is_wrong_it_is_samples_or_a_problem() -> None:
    whole = riff(pcm(sine(seconds=0.01), 2), extensible(1), 2, before=chunk(b"LIST", b"odd"))
    outcomes = set()
    for place in range(whole.index(b"data") + 8):
        for value in (0, 1, 0x7F, 0xFF):
            torn = whole[:place] + bytes([value]) + whole[place + 1 :]
            try:
                found = read(torn).samples
            except UsageError as error:
                outcomes.add(error.problems[0].message)
            else:
                assert found.dtype == np.float32
                assert found.ndim == 1
                assert np.abs(found).max() <= 1
                outcomes.add("")
    assert "" in outcomes
    assert len(outcomes) > 5


def test_a_little_beyond_full_scale_is_cut_off() -> None:
    assert decoded(riff(np.array([1.5, -1.2, 0.5], "<f4").tobytes(), 3, 4), RATE).tolist() == [1, -1, 0.5]


def test_all_that_cannot_be_read_is_reported_at_once(tmp_path: Path) -> None:
    good = by_wave(sine(), 2)
    advanced: list[int] = []
    gone = [str(tmp_path / f"{number}.wav") for number in range(23)]
    with pytest.raises(DataError) as caught:
        decoded_all([good, b"", *gone], RATE, rows=range(100, 125), advance=advanced.append)
    lines = str(caught.value).split("\n")
    assert lines[0] == "row 101: the file is empty. Copy or download it again"
    assert lines[1].startswith(f"row 102, {gone[0]}: the file cannot be read")
    assert lines[20] == "4 more sounds cannot be read either"
    assert len(lines) == 21
    assert advanced == [1] * 25
    with pytest.raises(DataError) as caught:
        decoded_all([good, *gone[:20]], RATE)
    assert len(caught.value.problems) == 20
    assert caught.value.problems[0].where.startswith("row 1, ")


def test_many_sounds_are_each_as_one_is() -> None:
    given = [by_wave(sine(hertz), 2, rate) for hertz, rate in ((440, 8000), (500, RATE), (600, 44_100))]
    found = decoded_all(given, RATE)
    assert len(found) == 3
    assert all(np.array_equal(one, decoded(sound, RATE)) for one, sound in zip(found, given, strict=True))


@pytest.mark.usefixtures("without_soundfile")
def test_a_package_that_is_not_there_is_one_problem() -> None:
    with pytest.raises(UsageError, match=r"FLAC by its content.*pip install 'hfstrat\[audio\]'"):
        decoded(b"fLaC" + bytes(50), RATE)
    with pytest.raises(UsageError, match="WAV of this coding"):
        decoded(riff(bytes(50), 7, 1), RATE)
    with pytest.raises(UsageError, match="MP3"):
        decoded(b"\xff\xfb" + bytes(50), RATE)
    with pytest.raises(DataError) as caught:
        decoded_all([b"OggS" + bytes(50)] * 30 + [b""], RATE)
    first, needed, more = str(caught.value).split("\n")
    assert first.startswith("row 30: the file is empty")
    assert needed.startswith("row 0: this is OGG by its content")
    assert more == "29 more sounds cannot be read for lack of it"


# --- what soundfile reads -----------------------------------------------------------------------------------


def by_soundfile(shares: np.ndarray, rate: int = RATE, **how: str) -> bytes:
    held = io.BytesIO()
    pytest.importorskip("soundfile").write(held, shares, rate, **how)
    return held.getvalue()


@pytest.mark.parametrize(("subtype", "width"), [("PCM_16", 2), ("PCM_24", 3)])
def test_flac_comes_back_to_half_a_step(subtype: str, width: int) -> None:
    stereo = np.stack([sine(), sine(amplitude=0.25)], axis=1)
    found = decoded(by_soundfile(stereo, format="FLAC", subtype=subtype), RATE)
    # A step and not half of one: libsndfile cuts off what it does not round.
    assert np.abs(found - stereo.mean(axis=1)).max() <= 1 / 2 ** (8 * width - 1) + 2**-25
    assert np.ptp(found) > 0.74


def test_ogg_sounds_alike() -> None:
    found = decoded(by_soundfile(sine(), format="OGG"), RATE)
    assert found.shape == sine().shape
    assert loudness(found - sine().astype(np.float32)) < loudness(found) - 20


def test_wav_in_the_coding_of_telephones_comes_back() -> None:
    found = decoded(by_soundfile(sine(), format="WAV", subtype="ULAW"), RATE)
    # Steps of the μ-law grow with the sample: at half of full scale one is a 64th of it, and half is the error.
    assert np.abs(found - sine()).max() <= 0.5 / 32
    assert np.abs(found - sine()).max() > 0


def test_wav_is_read_as_soundfile_reads_it(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"):
        for kind in ("WAV", "WAVEX"):
            data = by_soundfile(sine(), format=kind, subtype=subtype)
            theirs, rate = soundfile.read(io.BytesIO(data), dtype="float32")
            assert rate == RATE
            assert np.array_equal(decoded(data, RATE), theirs), (subtype, kind)


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3"])
def test_other_kinds_that_were_cut_off_are_said(kind: str) -> None:
    data = by_soundfile(sine(seconds=3), format=kind)
    assert decoded(data, RATE).shape == (3 * RATE,)
    assert "cut off" in (message := said(data[: len(data) // 2])) or "cannot be read" in message


def test_a_header_that_promises_too_much_takes_no_memory() -> None:
    data = by_soundfile(sine(seconds=3), format="FLAC")
    # The count of samples is 36 bits, of which the last 32 stand at byte 22 of the file: 17 GB of float32 here.
    promised = data[:22] + b"\xff\xff\xff\xff" + data[26:]
    tracemalloc.start()
    try:
        message = said(promised)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "cut off" in message or "cannot be read" in message
    assert peak_bytes < 10 * 2**20


# --- rates --------------------------------------------------------------------------------------------------


def strongest(samples: np.ndarray, rate: int) -> tuple[float, float]:
    """Frequency in Hz and amplitude of the sine that fits best."""
    window = np.hanning(len(samples))
    size = 2**20
    spectrum = np.abs(np.fft.rfft(samples * window, size))
    place = int(spectrum.argmax())
    return place * rate / size, 2 * float(spectrum[place]) / float(window.sum())


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("hertz", [100, 440, 2000])
def test_a_sine_stays_the_same_at_another_rate(rate: int, hertz: int) -> None:
    found = decoded(by_wave(sine(hertz, rate, 1.0), 3, rate), RATE)
    assert len(found) == RATE
    frequency, amplitude = strongest(found, RATE)
    # The transform is read off at steps of 0.015 Hz.
    assert frequency == pytest.approx(hertz, abs=0.02)
    # A Kaiser window of 5.0 keeps ripples 54 dB below what passes: 0.2 %.
    assert amplitude == pytest.approx(0.5, rel=0.002)


def test_what_the_lower_rate_cannot_hold_is_gone() -> None:
    found = decoded(by_wave(sine(15_000, 44_100, 1.0), 3, 44_100), RATE)
    middle = found[1000:-1000]  # where the sine begins and ends there is a click of all frequencies
    assert loudness(middle) < loudness(sine()) - 45


def test_equal_rates_leave_samples_as_they_are() -> None:
    samples = sine().astype(np.float32)
    assert resampled(samples, RATE, RATE) is samples


def test_resampled_lengths_are_those_of_the_time() -> None:
    for length in (1, 2, 999, 1000):
        found = resampled(np.full(length, 0.1, np.float32), 44_100, RATE)
        assert len(found) == math.ceil(length * RATE / 44_100)
        assert found.dtype == np.float32


def test_a_steep_edge_stays_within_full_scale() -> None:
    square = np.sign(sine(100, 8000, amplitude=1)).astype(np.float32)
    assert np.abs(resampled(square, 8000, RATE)).max() == 1


# --- what an audit asks -------------------------------------------------------------------------------------


def test_loudness_is_in_decibels_of_full_scale() -> None:
    assert loudness(np.ones(100, np.float32)) == 0
    assert loudness(np.full(100, 0.1, np.float32)) == pytest.approx(-20, abs=1e-5)
    assert loudness(sine(amplitude=1, seconds=1).astype(np.float32)) == pytest.approx(-3.0103, abs=1e-3)
    assert loudness(np.zeros(100, np.float32)) == -math.inf


def test_silence_is_where_nothing_moves() -> None:
    assert is_silent(np.zeros(100, np.float32))
    assert is_silent(np.full(100, 0.2, np.float32))  # a microphone's offset
    assert is_silent(sine(amplitude=0.0009).astype(np.float32))
    assert not is_silent(sine(amplitude=0.0011).astype(np.float32))
    assert is_silent(sine(amplitude=0.0011).astype(np.float32), threshold=-50)
    word = np.zeros(60 * RATE, np.float32)
    word[5000:6000] = sine()[:1000] / 50
    assert loudness(word) < -60
    assert not is_silent(word)


def test_clipping_is_a_run_at_full_scale() -> None:
    flat = np.array([0, 0.5, 1, 1, 1, 0.5, -1, -1, -1, -1, 0, 1, 1, 0, 0.5, 0.5, 0.5, 0, 0, 0], np.float32)
    assert clipped_share(flat) == 7 / 20
    assert clipped_share(np.ones(5, np.float32)) == 1
    assert clipped_share(np.ones(1, np.float32)) == 0
    assert clipped_share(sine(100, amplitude=1).astype(np.float32)) == 0


@pytest.mark.parametrize("width", [1, 2, 3])
def test_what_was_recorded_too_loud_is_clipped(width: int) -> None:
    step = 1 / 2 ** (8 * width - 1)
    loud = np.clip(sine(440, amplitude=2), -1, 1 - step)
    # A sine of twice full scale is beyond it two thirds of the time: where |sin| > 1/2.
    assert clipped_share(read(by_wave(loud, width)).samples) == pytest.approx(2 / 3, abs=0.02)


def test_seconds_are_those_of_the_recording() -> None:
    found = read(by_wave(sine(rate=8000, seconds=0.5), 2, 8000))
    assert (found.rate, found.seconds) == (8000, 0.5)
