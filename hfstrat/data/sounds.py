"""Sounds: whatever holds a recording becomes samples of one channel at one rate, or a problem with its remedy.

WAV is read here: most data sets hold it, and it needs no package. The reader of the standard library refuses floating
point and extensible headers, and takes a file that was cut off for a short one. Other kinds are read by soundfile.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from hfstrat.errors import DataError, Problem, UsageError, shortened

Sound: TypeAlias = str | Path | bytes | Mapping[str, Any]
"""A file, its content, or a cell as `datasets` has it: `{"bytes", "path"}` or `{"array", "sampling_rate"}`.

An array has shape `(samples,)` or `(channels, samples)`.
"""
Samples = npt.NDArray[np.float32]
Result = TypeVar("Result")

RATES = (1_000, 768_000)
"""Lowest and highest rate in Hz that a header is believed; a wrong one would take all memory when it is resampled."""
LISTED = 20
SILENCE_DBFS = -60.0
SHORTEST = 0.025
"""Seconds of one frame, which models hear at least."""
FULL_SCALE = 0.99  # what 8 bits can hold at most is 127/128
_CLIPPED_RUN = 3  # samples
_BEYOND_FULL_SCALE = 4.0  # 12 dB: decoders of lossy kinds go over by less, numbers that are no shares by far more
_MOST_CHANNELS = 64
_BLOCK = 2**16  # samples
_MAX_SHORTFALL = 0.01  # of an MP3, whose header only estimates its length

_PCM, _FLOAT, _EXTENSIBLE = 0x0001, 0x0003, 0xFFFE  # format codes of WAV
_SUBFORMAT = bytes.fromhex("000000001000800000aa00389b71")  # what follows the code in an extensible header
_UNKNOWN_SIZE = 0x7FFFF000  # what is written to a pipe has this size or a greater one: it was not known yet
_CODINGS = {
    (_PCM, 1): "unsigned 8 bit",
    (_PCM, 2): "<i2",
    (_PCM, 3): "signed 24 bit",
    (_PCM, 4): "<i4",
    (_FLOAT, 4): "<f4",
    (_FLOAT, 8): "<f8",
}
"""How a sample is written, by format code and bytes."""
_KINDS = {
    b"fLaC": "FLAC",
    b"OggS": "OGG",
    b"ID3": "MP3",
    b"FORM": "AIFF",
    b".snd": "AU",
    b"caff": "CAF",
    b"RF64": "RF64",
    b"RIFX": "RIFX",
    b"riff": "W64",
    b"NIST_1A": "SPHERE",
}
"""Kinds that soundfile reads, by their first bytes."""
_AGAIN = "Copy or download it again"
_INSTALL = "pip install 'hfstrat[audio]'"


@dataclass(frozen=True)
class Recording:
    """A sound as it was recorded, of one channel.

    Args:
        samples: float32 `(samples,)` in -1..1, at least one.
        rate: Samples in a second, in Hz.
    """

    samples: Samples
    rate: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate


class _Malformed(ValueError):
    """What is wrong with a sound, and what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def decoded(sound: Sound, rate: int) -> Samples:
    """The samples of a sound at a rate.

    Args:
        sound: A file, its content or a row's cell.
        rate: Samples in a second, in Hz.

    Returns:
        float32 `(samples,)` in -1..1; the mean of the channels.

    Raises:
        DataError: It is not there, is no sound, was cut off, is empty, or holds what is not a share of full scale.
        UsageError: Its kind needs a package that is not installed.
    """
    found = read(sound)
    return resampled(found.samples, found.rate, rate)


def decoded_all(
    sounds: Sequence[Sound],
    rate: int,
    *,
    rows: Sequence[int] | None = None,
    advance: Callable[[int], object] | None = None,
) -> list[Samples]:
    """The samples of many sounds at one rate.

    Args:
        sounds: Files, their contents or rows' cells.
        rate: Samples in a second, in Hz.
        rows: The number that names each in messages; None for its position, counted from 0.
        advance: Told how many more are done, after each.

    Returns:
        As `decoded`, in their order.

    Raises:
        DataError: Some cannot be read: which and why, twenty at most, and how many more there are.
    """
    return read_all(sounds, lambda found: resampled(found.samples, found.rate, rate), rows=rows, advance=advance)


def tried(sounds: Sequence[Sound]) -> list[Problem | None]:
    """What is wrong with each sound, None where it can be read.

    Raises:
        UsageError: soundfile is needed and missing.
    """
    found: list[Problem | None] = []
    for row, sound in enumerate(sounds):
        try:
            read(sound)
        except DataError as error:
            (problem,) = error.problems
            found.append(replace(problem, where=problem.where or f"row {row}"))
        else:
            found.append(None)
    return found


def read_all(
    sounds: Sequence[Sound],
    then: Callable[[Recording], Result],
    *,
    rows: Sequence[int] | None = None,
    advance: Callable[[int], object] | None = None,
) -> list[Result]:
    """Read sounds, and do something with each before the next one takes memory; as `decoded_all`.

    Args:
        sounds: Files, their contents or rows' cells.
        then: What is done with each; only what it returns is kept.
        rows: The number that names each in messages; None for its position, counted from 0.
        advance: Told how many more are done, after each.
    """
    found: list[Result] = []
    problems: list[Problem] = []
    lacking: list[Problem] = []
    for row, sound in zip(rows if rows is not None else range(len(sounds)), sounds, strict=True):
        try:
            found.append(then(read(sound)))
        except DataError as error:
            problems += [_in_row(problem, row) for problem in error.problems]
        except UsageError as error:
            lacking += [_in_row(problem, row) for problem in error.problems]
        if advance is not None:
            advance(1)
    if problems or lacking:
        raise DataError([*_listed(problems), *_once(lacking)])
    return found


def _in_row(problem: Problem, row: int) -> Problem:
    where = f"row {row}, {problem.where}" if problem.where else f"row {row}"
    return Problem(problem.message, where=where, hint=problem.hint)


def _listed(problems: list[Problem]) -> list[Problem]:
    more = len(problems) - LISTED
    return problems[:LISTED] + ([Problem(f"{_counted(more)} cannot be read either")] if more > 0 else [])


def _once(lacking: list[Problem]) -> list[Problem]:
    """A package that is not there is one problem, however many sounds need it."""
    more = [Problem(f"{_counted(len(lacking) - 1)} cannot be read for lack of it")] if len(lacking) > 1 else []
    return lacking[:1] + more


def _counted(more: int) -> str:
    return "1 more sound" if more == 1 else f"{more} more sounds"


def check_long_enough(clips: Sequence[npt.NDArray[Any]], rate: int, names: Sequence[str]) -> None:
    """Raise for sounds of which a model would hear nothing.

    Args:
        clips: Samples of each.
        rate: Samples in a second, in Hz.
        names: What to call each.

    Raises:
        DataError: Some are shorter than a frame.
    """
    short = [
        Problem(f"it lasts {1000 * len(clip) / rate:.1f} ms, and models hear {1000 * SHORTEST:g} at least", where=name)
        for clip, name in zip(clips, names, strict=True)
        if len(clip) < SHORTEST * rate
    ]
    if short:
        raise DataError([replace(one, hint="Remove its row") for one in _listed(short)])


def read(sound: Sound) -> Recording:
    """A sound at the rate that it was recorded at; arguments and errors are those of `decoded`."""
    name, content = _content(sound)
    with _naming(name):
        channels, rate = _from_bytes(content) if isinstance(content, bytes) else _from_array(content)
        if not RATES[0] <= rate <= RATES[1]:
            raise _Malformed(f"its rate is said to be {rate} Hz", f"Rates are from {RATES[0]} to {RATES[1]} Hz")
        return Recording(_mono(channels), rate)


def digest(sound: Sound) -> bytes:
    """SHA-256 of the content of a sound: of the bytes of its file, or of the samples and the rate of an array.

    Raises:
        DataError: It is not there, or is no sound.
    """
    name, content = _content(sound)
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest()
    with _naming(name):
        channels, rate = _from_array(content)
    written = np.ascontiguousarray(channels, "<f4").tobytes()
    return hashlib.sha256(f"{rate} {channels.shape}\n".encode() + written).digest()


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except _Malformed as error:
        raise DataError(Problem(str(error), where=name, hint=error.hint)) from None
    except ImportError as error:
        raise UsageError(Problem(str(error), where=name, hint=_INSTALL)) from None


def _content(sound: Sound) -> tuple[str, bytes | Mapping[str, Any]]:
    """The name of a sound, empty if it has none, and its bytes or its array with its rate."""
    if isinstance(sound, bytes):
        return "", sound
    if isinstance(sound, (str, Path)):
        return str(sound), _bytes_of(sound)
    if not isinstance(sound, Mapping):
        kind = type(sound).__name__
        raise DataError(Problem("there is no sound" if sound is None else f"a value of type {kind} is no sound"))
    name = str(sound.get("path") or "")
    if sound.get("array") is not None:
        return name, sound
    if sound.get("bytes") is not None:  # the path beside them is where the file once was
        return name, bytes(sound["bytes"])
    if not name:
        keys = ", ".join(map(str, sound)) or "nothing"
        hint = "A sound has bytes, a path, or an array with its sampling_rate"
        raise DataError(Problem(f"there is no sound in a cell with {shortened(keys)}", hint=hint))
    return name, _bytes_of(name)


def _bytes_of(file: str | Path) -> bytes:
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as error:  # a path with a zero byte is the latter
        reason = getattr(error, "strerror", None) or error
        raise DataError(Problem(f"the file cannot be read: {reason}", where=str(file))) from None


def _mono(channels: npt.NDArray[np.float32]) -> Samples:
    """The mean of channels `(samples, channels)`, cut off at full scale as a player does.

    Raises:
        _Malformed: There are no samples, or they are not shares of full scale.
    """
    if not channels.size:
        raise _Malformed("it holds no samples", "Remove its row")
    lowest, highest = float(channels.min()), float(channels.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise _Malformed("a sample is not a finite number", "Write it again, or remove its row")
    if (peak := max(-lowest, highest)) > _BEYOND_FULL_SCALE:
        hint = "Divide its samples by the greatest number that they can be"
        raise _Malformed(f"its samples reach {peak:g}, and full scale is 1", hint)
    mean = channels.mean(axis=1, dtype=np.float64) if channels.shape[1] > 1 else channels[:, 0]
    return np.clip(mean, -1, 1).astype(np.float32)


# --- kinds of files -----------------------------------------------------------------------------------------


def _from_bytes(data: bytes) -> tuple[npt.NDArray[np.float32], int]:
    """Channels `(samples, channels)` and the rate in Hz of a file."""
    if not data:
        raise _Malformed("the file is empty", _AGAIN)
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return _from_wav(data) or _from_other(data, "WAV of this coding")
    kind = next((kind for start, kind in _KINDS.items() if data.startswith(start)), None)
    if kind is None and len(data) > 1 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2:  # a frame of layer III
        kind = "MP3"
    if kind is not None:
        return _from_other(data, kind)
    if data[4:8] == b"ftyp" or data.startswith(b"\x1aE\xdf\xa3"):
        video = "MP4" if data[4:8] == b"ftyp" else "Matroska or WebM"
        raise _Malformed(f"this is {video} by its content, which cannot be read", "Convert it: ffmpeg -i FILE FILE.wav")
    raise _Malformed("this is no sound by its content", "Use WAV, FLAC, OGG or MP3, or remove its row")


def looks_like_sound(data: bytes) -> bool:
    """Whether a file begins as those do that are read here."""
    return (data[:4] == b"RIFF" and data[8:12] == b"WAVE") or data.startswith(tuple(_KINDS))


def _from_wav(data: bytes) -> tuple[npt.NDArray[np.float32], int] | None:
    """Channels and rate of a WAV file; None if its samples are written in a way that is not read here."""
    chunks: dict[bytes, tuple[int, int]] = {}
    for name, start, size in _chunks(data):
        chunks.setdefault(name, (start, size))
    start, size = chunks.get(b"fmt ", (len(data), 0))
    if size < 16 or start + size > len(data):
        raise _Malformed("its header does not say how its samples are written", _AGAIN)
    if b"data" not in chunks:
        raise _Malformed("it was cut off before its samples", _AGAIN)
    code, channels, rate, _, frame, _ = struct.unpack_from("<HHIIHH", data, start)
    if code == _EXTENSIBLE and size >= 40 and data[start + 26 : start + 40] == _SUBFORMAT:
        (code,) = struct.unpack_from("<H", data, start + 24)
    # The bytes of a sample and not its bits decide: 20 bits are written as 24, the lowest of them zero.
    coding = _CODINGS.get((code, frame // channels)) if channels and frame % channels == 0 else None
    if coding is None:
        return None
    return _samples(coding, _wav_samples(data, *chunks[b"data"], frame)).reshape(-1, channels), rate


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and said size in bytes of each part of a RIFF file."""
    place = 12
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        yield name, place + 8, size
        place += 8 + size + size % 2  # a part begins at an even place


def _wav_samples(data: bytes, start: int, size: int, frame: int) -> memoryview:
    there = len(data) - start
    if size >= _UNKNOWN_SIZE:
        size = there
    if there < size:
        raise _Malformed(f"it was cut off: {there} of {size} bytes of samples are there", _AGAIN)
    return memoryview(data)[start : start + size - size % frame]  # less than a sample may follow the last one


def _samples(coding: str, written: memoryview) -> npt.NDArray[np.float32]:
    """Samples as shares of full scale; exact but for 32-bit integers and 64-bit numbers, which are rounded."""
    if coding == "unsigned 8 bit":
        return _shares((np.frombuffer(written, np.uint8) ^ 128).view(np.int8))  # zero is written as 128
    if coding == "signed 24 bit":
        wide = np.zeros((len(written) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(written, np.uint8).reshape(-1, 3)
        return _shares(wide.view("<i4").ravel())
    return _shares(np.frombuffer(written, coding))


def _shares(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Numbers as they are, signed integers as shares of the greatest one."""
    if values.dtype.kind == "i":
        return values.astype(np.float32) / np.float32(2 ** (8 * values.dtype.itemsize - 1))
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and that is found
        return values.astype(np.float32)


def _from_other(data: bytes, kind: str) -> tuple[npt.NDArray[np.float32], int]:
    """Channels and rate of a file that soundfile reads.

    Raises:
        ImportError: It is not installed, or its library is not.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # the latter: the package is there, the library that it calls is not
        raise ImportError(f"this is {kind} by its content, which needs the package soundfile ({error})") from error
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            channels = np.concatenate(list(_blocks(file)))
            rate, promised = int(file.samplerate), int(file.frames)
    except soundfile.SoundFileError as error:
        said = " ".join(str(error).split(": ")[-1].split()).rstrip(".")
        raise _Malformed(f"this is {kind} by its content, and cannot be read: {said}", _AGAIN) from None
    if len(channels) < promised * (1 - _MAX_SHORTFALL):
        raise _Malformed(f"it was cut off: {len(channels)} of {promised} samples are there", _AGAIN)
    return channels, rate


def _blocks(file: Any) -> Iterator[npt.NDArray[np.float32]]:
    """What a file holds, the last block being empty: a header may promise more samples than there is memory for."""
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        yield block
    yield block


def _from_array(cell: Mapping[str, Any]) -> tuple[npt.NDArray[np.float32], int]:
    """Channels `(samples, channels)` and the rate in Hz of an array `(samples,)` or `(channels, samples)`."""
    rate = cell.get("sampling_rate")
    if not isinstance(rate, (int, np.integer)) or isinstance(rate, bool):
        raise _Malformed(f"the sampling_rate of its array is {rate!r}", "It is a whole number in Hz")
    try:
        values = np.asarray(cell["array"])
    except ValueError:
        raise _Malformed("its array has rows of different lengths") from None
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[0] > _MOST_CHANNELS):
        raise _Malformed(f"its array has the shape {values.shape}", "It is (samples,) or (channels, samples)")
    # A list of whole numbers has 64 bits whatever it was recorded with, so that full scale is not known.
    if values.size and values.dtype.kind != "f" and values.dtype not in (np.int16, np.int32):
        raise _Malformed(f"its array holds {values.dtype}", "It holds floats in -1..1, int16 or int32")
    return np.atleast_2d(_shares(values)).T, int(rate)


# --- rates --------------------------------------------------------------------------------------------------


def resampled(samples: Samples, rate: int, wanted: int) -> Samples:
    """The same sound at another rate, by a polyphase filter that lets nothing above half of the lower rate through.

    Args:
        samples: float32 `(samples,)` in -1..1.
        rate: Their rate in Hz.
        wanted: The new rate in Hz.

    Returns:
        float32 `(ceil(samples * wanted / rate),)` in -1..1; the array itself if the rates are equal.
    """
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly

    divisor = math.gcd(rate, wanted)
    found: Samples = resample_poly(samples, wanted // divisor, rate // divisor)
    # Beside a steep edge the filter swings over full scale.
    return np.clip(found, -1, 1).astype(np.float32)


# --- what an audit asks -------------------------------------------------------------------------------------


def loudness(samples: Samples) -> float:
    """Root mean square in dB of full scale: a square wave of full scale has 0, a sine -3.01, zeros -inf.

    Args:
        samples: float32 `(samples,)` in -1..1, at least one.
    """
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return 10 * math.log10(power) if power else -math.inf


def is_silent(samples: Samples, threshold: float = SILENCE_DBFS) -> bool:
    """Whether no sample is as far as a threshold from the mean, which a microphone may hold off zero.

    Peaks decide and not the loudness of the whole: one word in a long pause is no silence.

    Args:
        samples: float32 `(samples,)` in -1..1, at least one.
        threshold: In dB of full scale.
    """
    mean = samples.mean(dtype=np.float64)
    return bool(np.abs(samples - mean).max() < 10 ** (threshold / 20))


def clipped_share(samples: Samples) -> float:
    """Share of samples in runs of three or more that stay at full scale, where a sound was cut off.

    Only equal neighbours are a run: a loud sine is near full scale for a while too, and moves there. Look at a sound
    at the rate that it was recorded at, since a filter rounds runs off.

    Args:
        samples: float32 `(samples,)` in -1..1, at least one.
    """
    stays = (np.abs(samples[1:]) >= FULL_SCALE) & (samples[1:] == samples[:-1])
    edges = np.flatnonzero(np.diff(stays.astype(np.int8), prepend=0, append=0))
    lengths = edges[1::2] - edges[::2] + 1
    return float(lengths[lengths >= _CLIPPED_RUN].sum()) / len(samples)
