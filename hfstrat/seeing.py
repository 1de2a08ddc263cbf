"""Pictures as a model takes them: decoded and resized once, and kept for other runs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hfstrat.data.listing import SKIP, refused
from hfstrat.data.pictures import Channels, decode_each, digest, sizes
from hfstrat.errors import DataError, Problem
from hfstrat.runs import store
from hfstrat.tasks.base import Encoded, Examples
from hfstrat.tasks.pixels import pixels_of, sized

if TYPE_CHECKING:
    from transformers.image_processing_utils import BaseImageProcessor


FORMAT = 1  # of what is kept, and of how pictures are read: to be raised when either changes
TOLD = 32  # pictures after which it is told how far it is: each takes a millisecond
FEWEST = 500  # pictures; fewer are read sooner than a file is looked up and verified
Values = npt.NDArray[np.uint8]


def seen(
    processor: BaseImageProcessor,
    examples: Examples,
    progress: Callable[[int], None] | None = None,
    *,
    keep: bool = False,
) -> Encoded:
    """Decode and resize pictures, each before the next one takes memory.

    Args:
        processor: The model's image processor.
        examples: The pictures.
        progress: Hears how many more are done.
        keep: Whether what was resized is kept for other runs; it is mapped into memory then, and not held there.

    Raises:
        DataError: Some cannot be read; all of them are named.
    """
    assert examples.media is not None, "this task looks at pictures"
    how: Any = processor
    grey = isinstance(how.image_mean, (list, tuple)) and len(how.image_mean) == 1
    channels: Channels = 1 if grey else 3
    whole = np.zeros((len(examples), 2), np.int64)
    shape = (len(examples), *sized(processor, np.zeros((64, 64, channels), np.uint8)).shape)

    def fill(values: Values) -> None:
        problems = []
        for place, found in enumerate(decode_each(examples.media or (), channels, partial(_small, processor))):
            if isinstance(found, Problem):
                problems.append(found)
            else:
                values[place], whole[place] = found
            done = place + 1
            if progress is not None and (done % TOLD == 0 or done == len(examples)):
                progress(done % TOLD or TOLD)
        if problems:
            raise refused(problems, SKIP)

    values = None
    if keep and len(examples) >= FEWEST:
        values = _kept(processor, examples, channels, shape, fill)
    if values is None:
        values = np.empty(shape, np.uint8)
        fill(values)
    elif not whole.all():
        whole = sizes(examples.media)
    windows = np.arange(len(examples) + 1)
    return Encoded(examples, {}, windows, 0, {}, signals=pixels_of(processor, values, whole))


def _small(processor: Any, picture: Values) -> tuple[Values, tuple[int, int]]:
    """A picture resized, and its height and width before."""
    return sized(processor, picture), picture.shape[:2]


def _kept(
    processor: Any, examples: Examples, channels: int, shape: tuple[int, ...], fill: Callable[[Values], None]
) -> Values | None:
    """Resized pictures, mapped from the cache; they are put there if they are not. None where it takes none.

    Raises:
        DataError: As of `fill`.
    """
    described = {
        "format": FORMAT,
        "processor": processor.to_dict(),
        "channels": channels,
        "versions": {name: version(name) for name in ("pillow", "transformers")},
    }
    found = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    try:
        for picture in examples.media or ():
            found.update(digest(picture))
    except DataError:
        return None  # filling names all that cannot be read
    key = found.hexdigest()
    kept = store.find(key)
    if kept is None and math.prod(shape) <= store.room():
        what = f"{len(examples):,} pictures of {shape[-2]} × {shape[-1]}"
        with suppress(OSError), store.begun(key, what, shape, "uint8") as file:
            fill(store.opened(file, shape, "uint8"))
        kept = store.find(key)
    return kept
