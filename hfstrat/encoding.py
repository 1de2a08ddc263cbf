"""Examples as a model takes them: texts become tokens, pictures become pixels, sounds become samples or features."""

from __future__ import annotations

from typing import Any

from hfstrat.hearing import heard
from hfstrat.models.processors import hears
from hfstrat.seeing import seen
from hfstrat.tasks import AudioClassification, TaskSpec, TextsSpec
from hfstrat.tasks.base import Encoded, Examples


def encode(task: TaskSpec, processor: Any, examples: Examples, max_length: int) -> Encoded:
    """Make a split into what a model takes.

    Args:
        task: What is learned.
        processor: The model's tokenizer, image processor or feature extractor.
        examples: The split.
        max_length: Tokens of a window, special tokens included, where there are tokens.

    Raises:
        DataError: It cannot be; of pictures and sounds all that cannot be read are named.
    """
    if isinstance(task, TextsSpec):
        return task.encode(processor, examples, max_length)
    if isinstance(task, AudioClassification):
        return heard(hears(processor), examples, task.max_seconds)
    return task.aimed(seen(processor, examples))
