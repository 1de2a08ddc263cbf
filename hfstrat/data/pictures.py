"""Pictures: whatever holds one becomes bytes of one layout, and what cannot be read is said for all at once.

Files come in a dozen modes and some are damaged. A model sees 8 bits, upright, in one or three channels; everything
that stands between is decided here, so that training and prediction cannot differ in it. Arrays need no Pillow.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from hfstrat.data.listing import SKIP, refused
from hfstrat.errors import DataError, Problem, UsageError
from hfstrat.tasks.pixels import check_pillow

if TYPE_CHECKING:
    from PIL import Image

Picture: TypeAlias = "str | Path | bytes | Mapping[str, Any] | npt.NDArray[Any] | Image.Image"
Bytes = npt.NDArray[np.uint8]
Channels = Literal[1, 3]
Result = TypeVar("Result")

_ORIENTATION = 0x0112  # the EXIF tag; from 5 on, height and width are exchanged
_AHEAD = 4  # pictures that are begun before their turn, for each thread
_COMPARED = 2**22  # pairs of hashes in memory at once: 32 MiB
_LUMA = (19595, 38470, 7471)  # of red, green and blue, ITU-R 601 in 1/65536, as Pillow has it


def decoded(picture: Picture, channels: Channels) -> Bytes:
    """A picture as bytes, upright.

    Transparency is laid over white and greys are repeated for three channels; of several frames the first is taken.
    Greys of 16 bits, integers of 32 and floats are stretched from their own minimum and maximum to 0 and 255: a
    scanner of 12 bits writes 16, and the range of a medical picture is rarely the whole one, so that a fixed scale
    would leave it black. A picture of one such value is 0 everywhere; values that are not finite are the minimum.

    Args:
        picture: A file's name or its bytes, what `datasets` has for a picture (`bytes`, else `path`), a picture of
            Pillow's, or an array `(height, width)`, `(height, width, 1 | 3 | 4)` or `(1 | 3, height, width)`, where
            the last axis is that of channels if both could be.
        channels: 1 for greys, 3 for red, green and blue.

    Returns:
        uint8 `(height, width, channels)`.

    Raises:
        DataError: It cannot be read, or has more pixels than Pillow's limit (`PIL.Image.MAX_IMAGE_PIXELS`).
        UsageError: Pillow is needed and missing.
    """
    if isinstance(picture, np.ndarray):
        return _with_channels(_bytes_of(_channels_last(picture)), channels)
    return _used(picture, lambda image: _with_channels(_pixels(image), channels))


def sizes(pictures: Sequence[Picture]) -> npt.NDArray[np.int64]:
    """Height and width of pictures as they stand upright, of most formats without decoding them.

    Returns:
        int64 `(pictures, 2)`.

    Raises:
        DataError: Some cannot be read; it names them.
        UsageError: Pillow is needed and missing.
    """
    found = _sound([_attempted(picture, _size, place) for place, picture in enumerate(pictures)])
    return np.array(found, np.int64).reshape(-1, 2)


def decode_each(
    pictures: Sequence[Picture], channels: Channels, then: Callable[[Bytes], Result], *, workers: int | None = None
) -> Iterator[Result | Problem]:
    """Decode pictures and do something with each, a few of them at a time.

    Args:
        pictures: In any form that `decoded` takes.
        channels: 1 or 3.
        then: What is done with each, uint8 `(height, width, channels)`, by several threads at once.
        workers: Threads to do it in: Pillow leaves the interpreter alone while it decodes and resizes. None: as many as
            this process has processors. The results are the same.

    Yields:
        What `then` gives, or what is wrong with the picture, in their order.

    Raises:
        UsageError: Pillow is needed and missing.
    """

    def use(picture: Any) -> Result:
        return then(decoded(picture, channels))

    workers = workers or _processors()
    if workers == 1:
        yield from (_attempted(picture, use, place) for place, picture in enumerate(pictures))
        return
    with ThreadPoolExecutor(workers) as pool:
        begun: deque[Future[Result | Problem]] = deque()
        try:
            for place, picture in enumerate(pictures):
                begun.append(pool.submit(_attempted, picture, use, place))
                if len(begun) > _AHEAD * workers:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for one in begun:
                one.cancel()


def tried(pictures: Sequence[Picture]) -> list[Problem | None]:
    """What is wrong with each picture, None where it can be read.

    Raises:
        UsageError: Pillow is needed and missing.
    """
    found = decode_each(pictures, 1, lambda _: None)
    return list(found)


def decode_all(
    pictures: Sequence[Picture],
    channels: Channels,
    then: Callable[[Bytes], Result],
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Result]:
    """Decode pictures, and do something with each; the arguments are those of `decode_each`.

    Args:
        pictures: As there.
        channels: As there.
        then: As there; only what it returns is kept.
        workers: As there.
        progress: Called for each that is done.

    Returns:
        What `then` gives, in the order of the pictures.

    Raises:
        DataError: Some cannot be read; it names them once all were tried.
        UsageError: Pillow is needed and missing.
    """
    results = []
    for found in decode_each(pictures, channels, then, workers=workers):
        results.append(found)
        if progress is not None:
            progress(1)
    return _sound(results)


# --- one picture --------------------------------------------------------------------------------------------


def _used(picture: Picture, use: Callable[[Image.Image], Result]) -> Result:
    """What a function makes of a picture that is not an array; whatever goes wrong is an error of the data."""
    check_pillow()
    from PIL import Image

    try:
        if isinstance(picture, Image.Image):
            return use(picture)
        with Image.open(_stream(picture)) as image:
            # Pillow warns from its limit on and refuses from twice that on; a warning would be read too late. It is
            # no error by a filter, for filters are those of all threads.
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            return use(image)
    except (MemoryError, UsageError):
        raise
    except Exception as error:  # readers of damaged files raise whatever the damage leads them to
        raise DataError(Problem(_reason(error), where=_name(picture))) from error


def _stream(picture: Any) -> Path | io.BytesIO:
    content = _content(picture)
    if (os.path.getsize(content) if isinstance(content, Path) else len(content)) == 0:
        raise DataError(Problem("the file is empty", where=_name(picture)))
    return content if isinstance(content, Path) else io.BytesIO(content)


def _content(picture: Any) -> Path | bytes:
    """The file of a picture that is neither Pillow's nor an array, or its bytes."""
    if isinstance(picture, Mapping):
        held = picture.get("bytes")
        picture = picture.get("path") if held is None else held
    if isinstance(picture, str):
        return Path(picture)
    if isinstance(picture, (Path, bytes)):
        return picture
    raise DataError(Problem(f"a picture is expected, and this is {type(picture).__name__}"))


def _name(picture: Any) -> str:
    """The file's name, empty where there is none."""
    if isinstance(picture, Mapping):
        picture = picture.get("path")
    return str(picture) if isinstance(picture, (str, Path)) else ""


def _reason(error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "the content is not that of a picture, or of a kind that Pillow cannot read"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"the picture has more than {Image.MAX_IMAGE_PIXELS:,} pixels, which is Pillow's limit"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"the picture cannot be read: {said}"


def _pixels(image: Image.Image) -> Bytes:
    """Bytes `(height, width, channels)` of one or three channels."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F" or upright.mode.startswith("I"):
        return _stretched(np.asarray(upright))[..., None]
    if upright.has_transparency_data:
        return _over_white(np.asarray(upright.convert("RGBA")))
    grey = upright.mode in ("1", "L")
    return np.array(upright.convert("L"))[..., None] if grey else np.array(upright.convert("RGB"))


def _size(picture: Picture) -> tuple[int, int]:
    if isinstance(picture, np.ndarray):
        height, width, _ = _channels_last(picture).shape
        return height, width
    return _used(picture, _upright_size)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


# --- arrays -------------------------------------------------------------------------------------------------


def _channels_last(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.size and array.ndim == 2:
        return array[..., None]
    if array.size and array.ndim == 3:
        if array.shape[2] in (1, 3, 4):
            return array
        if array.shape[0] in (1, 3):
            return np.moveaxis(array, 0, 2)
    message = f"an array of the shape {array.shape} is not a picture"
    hint = "A picture is (height, width), (height, width, 1, 3 or 4) or (1 or 3, height, width)"
    raise DataError(Problem(message, hint=hint))


def _bytes_of(array: npt.NDArray[Any]) -> Bytes:
    """Bytes `(height, width, channels)` of one or three channels, of an array that has its channels last."""
    if array.dtype.kind not in "buif":
        hint = "Its values are unsigned integers or floats"
        raise DataError(Problem(f"an array of {array.dtype} is not a picture", hint=hint))
    if array.shape[2] == 4:
        return _over_white(np.concatenate([_bytes_of(array[..., :3]), _opacity(array[..., 3:])], axis=2))
    if array.dtype == np.uint8:
        return array.copy()
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    return _stretched(array)


def _opacity(alpha: npt.NDArray[Any]) -> Bytes:
    """Opacity has a whole range, unlike light: it is that of the type, and 0 to 1 for floats."""
    whole = 1.0 if alpha.dtype.kind in "bf" else float(np.iinfo(alpha.dtype).max)
    return np.rint(np.clip(alpha.astype(np.float64) / whole, 0.0, 1.0) * 255.0).astype(np.uint8)


def _stretched(values: npt.NDArray[Any]) -> Bytes:
    """The values from their minimum to their maximum as 0 to 255."""
    there: npt.NDArray[np.float64] = values.astype(np.float64)
    finite = np.isfinite(there)
    lowest = there.min(initial=np.inf, where=finite)
    highest = there.max(initial=-np.inf, where=finite)
    if not lowest < highest:
        return np.zeros(values.shape, np.uint8)
    scaled = (np.where(finite, there, lowest) - lowest) / (highest - lowest)
    found: Bytes = np.rint(scaled * 255.0).astype(np.uint8)
    return found


def _over_white(picture: Bytes) -> Bytes:
    """Red, green and blue of a picture with opacity, laid over white."""
    colour, alpha = picture[..., :3].astype(np.uint32), picture[..., 3:].astype(np.uint32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _with_channels(picture: Bytes, channels: Channels) -> Bytes:
    if picture.shape[2] == channels:
        return picture
    return np.repeat(picture, 3, axis=2) if channels == 3 else grey(picture)


def grey(picture: Bytes) -> Bytes:
    """Luma of a picture, as Pillow computes it.

    Args:
        picture: uint8 `(height, width, 3)`.

    Returns:
        uint8 `(height, width, 1)`.
    """
    weighted = np.full(picture.shape[:2], 2**15, np.uint32)
    for place, weight in enumerate(_LUMA):  # a product of integer matrices takes ten times as long
        weighted += picture[..., place] * np.uint32(weight)
    return (weighted >> np.uint32(16)).astype(np.uint8)[..., None]


# --- many pictures ------------------------------------------------------------------------------------------


def _processors() -> int:
    """Processors that this process may use: its share of them, where several train together."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, here // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _attempted(picture: Picture, use: Callable[[Picture], Result], place: int) -> Result | Problem:
    try:
        return use(picture)
    except DataError as error:
        (problem,) = error.problems
        return Problem(problem.message, where=problem.where or f"row {place}", hint=problem.hint)


def _sound(results: Sequence[Result | Problem]) -> list[Result]:
    problems = [one for one in results if isinstance(one, Problem)]
    if problems:
        raise refused(problems, SKIP)
    return [one for one in results if not isinstance(one, Problem)]


# --- the same picture twice ---------------------------------------------------------------------------------


def digest(picture: Picture) -> bytes:
    """SHA-256 of a picture's content: of the file's bytes, or of type, shape and values.

    Raises:
        DataError: The file cannot be read.
    """
    if isinstance(picture, np.ndarray):
        values = np.ascontiguousarray(picture, picture.dtype.newbyteorder("<"))
        return hashlib.sha256(repr((values.dtype.str, picture.shape)).encode() + values.tobytes()).digest()
    if not isinstance(picture, (str, Path, bytes, Mapping)):
        return _used(picture, _digest_of_pixels)
    content = _content(picture)
    try:
        if isinstance(content, bytes):
            return hashlib.sha256(content).digest()
        state = content.stat()
        return _digest_of_file(content, state.st_size, state.st_mtime_ns)
    except OSError as error:
        message = f"the picture cannot be read: {error.strerror or error}"
        raise DataError(Problem(message, where=str(content))) from error


@lru_cache(maxsize=2**20)
def _digest_of_file(file: Path, size: int, changed: int) -> bytes:
    """SHA-256 of a file of this size that was last changed then, in ns: audit and cache ask for the same ones."""
    return hashlib.sha256(file.read_bytes()).digest()


def _digest_of_pixels(image: Image.Image) -> bytes:
    pixels = image.tobytes()
    palette = image.getpalette("RGBA") if image.mode in ("P", "PA") else None
    more = (image.mode, image.size, palette, image.info.get("transparency"), image.getexif().get(_ORIENTATION))
    return hashlib.sha256(repr(more).encode() + pixels).digest()


def perceptual_hash(picture: Bytes) -> int:
    """The difference hash of a picture, which small changes of size, light and compression leave nearly as it is.

    The picture is shrunk to 9 × 8 greys; each bit says whether a grey is darker than its right neighbour (N. Krawetz,
    Kind of Like That, 2013, hackerfactor.com/blog). A picture without edges has the hash 0, whatever its colour.

    Args:
        picture: uint8 `(height, width, 1 | 3)`.

    Returns:
        64 bits, the top left one first.
    """
    height, width, channels = picture.shape
    rows, columns = _areas(height, 8), _areas(width, 9)
    low = (rows @ picture.reshape(height, -1).astype(np.float64)).reshape(8, width, channels)
    small = columns @ low @ (np.array(_LUMA if channels == 3 else [2**16]) / 2**16)
    # By more than half a step of 255, because sums of equal greys differ in their last digits.
    return int.from_bytes(np.packbits(np.diff(small) > 0.5).tobytes(), "big")


def _areas(size: int, count: int) -> npt.NDArray[np.float64]:
    """Weights `(count, size)` of pixels in the mean of each of `count` equal stretches of a line."""
    edges = np.arange(count + 1) * (size / count)
    pixels = np.arange(size)
    overlap: npt.NDArray[np.float64] = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights: npt.NDArray[np.float64] = np.maximum(overlap, 0.0) * (count / size)
    return weights


def near_duplicates(
    hashes_a: Sequence[int] | npt.NDArray[np.uint64], hashes_b: Sequence[int] | npt.NDArray[np.uint64], distance: int
) -> npt.NDArray[np.int64]:
    """Pairs of pictures whose perceptual hashes differ in few bits.

    Args:
        hashes_a: Hashes of one set of pictures.
        hashes_b: Those of another.
        distance: Bits in which they differ at most; up to about 5 of the 64 are the same picture.

    Returns:
        Places in the two, int64 `(pairs, 2)`, sorted.
    """
    ours, theirs = np.asarray(hashes_a, np.uint64), np.asarray(hashes_b, np.uint64)
    step = max(1, _COMPARED // max(1, len(theirs)))
    found = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(ours), step):
        bits = np.bitwise_count(ours[start : start + step, None] ^ theirs)
        found.append(np.argwhere(bits <= distance) + np.array([start, 0]))
    return np.concatenate(found)
