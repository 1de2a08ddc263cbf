"""Examples as a model takes them: texts become tokens, pictures become pixels."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hfstrat.data.pictures import decode_all
from hfstrat.tasks import TaskSpec, TextsSpec
from hfstrat.tasks.base import Encoded, Examples
from hfstrat.tasks.pixels import pixels_of, sized

if TYPE_CHECKING:
    from transformers.image_processing_utils import BaseImageProcessor


def encode(task: TaskSpec, processor: Any, examples: Examples, max_length: int) -> Encoded:
    """Make a split into what a model takes.

    Args:
        task: What is learned.
        processor: The model's tokenizer or image processor.
        examples: The split.
        max_length: Tokens of a window, special tokens included, where there are tokens.

    Raises:
        DataError: It cannot be; of pictures all that cannot be read are named.
    """
    if isinstance(task, TextsSpec):
        return task.encode(processor, examples, max_length)
    return task.aimed(seen(processor, examples))


def seen(processor: BaseImageProcessor, examples: Examples, progress: Callable[[int], None] | None = None) -> Encoded:
    """Decode and resize pictures, each before the next one takes memory.

    Args:
        processor: The model's image processor.
        examples: The pictures.
        progress: Hears how many more are done.

    Raises:
        DataError: Some cannot be read; all of them are named.
    """
    assert examples.media is not None, "this task looks at pictures"
    how: Any = processor
    grey = isinstance(how.image_mean, (list, tuple)) and len(how.image_mean) == 1
    values: list[npt.NDArray[np.uint8]] = []  # one array of all, once the size of the first is known
    places, sizes = count(), np.zeros((len(examples), 2), np.int64)

    def keep(picture: npt.NDArray[np.uint8]) -> None:
        found, place = sized(processor, picture), next(places)
        sizes[place] = picture.shape[:2]
        if not values:
            values.append(np.empty((len(examples), *found.shape), np.uint8))
        values[0][place] = found

    decode_all(examples.media, 1 if grey else 3, keep, progress=progress)
    windows = np.arange(len(examples) + 1)
    return Encoded(examples, {}, windows, 0, {}, signals=pixels_of(processor, values[0], sizes))
