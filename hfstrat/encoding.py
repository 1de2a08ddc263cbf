"""Examples as a model takes them: texts become tokens, pictures become pixels, sounds become samples or features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from hfstrat.data.varying import Varied
from hfstrat.hearing import all_heard, heard
from hfstrat.models.base import Base
from hfstrat.models.processors import hears
from hfstrat.recipe.recipe import Recipe
from hfstrat.runs.events import Observer
from hfstrat.seeing import seen
from hfstrat.tasks import AudioClassification, TaskSpec, TextsSpec
from hfstrat.tasks.base import Encoded, Examples, Labels
from hfstrat.tasks.language import LanguageSpec
from hfstrat.tokenizing import streamed, tokenized

UNLIMITED = 1_000_000  # tokens; tokenizers say a larger number where they know no limit


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


def encode_all(
    recipe: Recipe, base: Base, examples: Mapping[str, Examples], labels: Labels, observer: Observer | None = None
) -> dict[str, Encoded]:
    """Make all splits into what a model takes, texts at the length that the recipe asks for, else at the model's own.

    Args:
        recipe: What is learned, and how.
        base: The model, with what makes its inputs.
        examples: The splits.
        labels: The classes.
        observer: Hears how far it is.

    Raises:
        DataError: As of `encode`.
    """
    task = recipe.task
    if isinstance(task, AudioClassification):
        assert base.feature_extractor is not None, "a base that hears has a feature extractor"
        return all_heard(task, base.feature_extractor, examples, observer or Observer())
    if not isinstance(task, TextsSpec):
        assert base.image_processor is not None, "a base that looks at pictures has a processor"
        listener, found = observer or Observer(), {}
        listener.phase("pictures", sum(map(len, examples.values())), "pictures")
        keep = recipe.train.cache is not False
        for name, part in examples.items():
            found[name] = task.aimed(seen(base.image_processor, part, listener.advance, keep=keep))
        if task.augmentation is not None:
            found["train"] = replace(found["train"], masking=Varied(task.augmentation, labels))
        return found
    asked = task.max_length
    most = base.max_length or UNLIMITED
    length = min(int(asked), most) if asked != "auto" else min(most, task.longest)
    make = task.encode if recipe.train.cache is False else partial(tokenized, task)
    encoded = {}
    for name, part in examples.items():
        if part.stream is None:
            encoded[name] = make(base.known_tokenizer, part, length)
        else:
            assert isinstance(task, LanguageSpec), "nothing else is streamed"
            words = (part.stream, length, recipe.data.epoch_tokens, observer or Observer())
            encoded[name] = streamed(task, base.known_tokenizer, *words)
    return encoded
