"""Sounds as a model takes them: samples at its rate, or what its feature extractor makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hfstrat.data.sounds import check_long_enough, decoded_all
from hfstrat.data.varying_sounds import VariedSounds
from hfstrat.errors import Problem, RecipeError
from hfstrat.models.processors import hears
from hfstrat.runs.events import Observer
from hfstrat.tasks import AudioClassification
from hfstrat.tasks.base import Encoded, Examples
from hfstrat.tasks.waves import LONGEST, Ear, Waves, featured, held

if TYPE_CHECKING:
    from transformers import SequenceFeatureExtractor

TOLD = 32  # sounds after which it is told how far it is
FEATURES_HELD = 2**31  # bytes of memory for spectrograms that are computed once


def heard(
    ear: Ear, examples: Examples, seconds: float | Literal["auto"], progress: Callable[[int], object] | None = None
) -> Encoded:
    """Decode sounds at the rate of a model.

    Args:
        ear: What the model's feature extractor does.
        examples: The sounds.
        seconds: What is heard of each at most; auto: of the longest all that the model takes.
        progress: Hears how many more are done.

    Raises:
        DataError: Some cannot be read, or are too short to be heard; all of them are named.
    """
    assert examples.media is not None, "this task hears sounds"
    done = count(1)

    def advance(_: int) -> None:  # not for each sound, which takes a millisecond
        number = next(done)
        if progress is not None and (number % TOLD == 0 or number == len(examples)):
            progress(number % TOLD or TOLD)

    clips = tuple(held(clip) for clip in decoded_all(examples.media, ear.rate, advance=advance))
    check_long_enough(clips, ear.rate, examples.texts)
    longest = max(map(len, clips), default=ear.rate)
    most = min(longest, int(LONGEST * ear.rate)) if seconds == "auto" else round(seconds * ear.rate)
    waves = Waves(clips, ear, min(most, ear.limit or most))
    return Encoded(examples, {}, np.arange(len(clips) + 1), waves.longer, {}, signals=waves)


def all_heard(
    task: AudioClassification, extractor: SequenceFeatureExtractor, examples: Mapping[str, Examples], observer: Observer
) -> dict[str, Encoded]:
    """The sounds of all splits, of which the model hears equally much.

    Args:
        task: What is learned.
        extractor: The model's.
        examples: The splits.
        observer: Hears how far it is.

    Raises:
        DataError: As of `heard`.
        RecipeError: The model takes less than the recipe asks for, or no spectrograms that could be masked.
    """
    ear, how = hears(extractor), task.augmentation
    _check_ear(task, ear)
    observer.phase("sounds", sum(map(len, examples.values())), "sounds")
    whole = {name: heard(ear, part, task.max_seconds, observer.advance) for name, part in examples.items()}
    most = max(signals.most for signals in map(_waves, whole.values()))
    if task.max_seconds == "auto":  # hundredths of a second are what is written into the recipe
        most = -(-most * 100 // ear.rate) * ear.rate // 100
        most = min(most, ear.limit or most)
    size = 4 * int(np.prod(ear.shape or 0)) * sum(map(len, whole.values()))
    if size > FEATURES_HELD:
        observer.note(f"spectrograms of {size / 2**30:.1f} GiB are computed for each batch, and not held")
    found = {}
    for name, part in whole.items():
        waves = replace(_waves(part), most=most)
        varied = how is not None and name == "train"
        signals: Any = waves if varied and how is not None and how.crop else waves.cut()
        if ear.shape is not None and size <= FEATURES_HELD and not (varied and how is not None and how.of_waves):
            signals = featured(waves)
        masking = VariedSounds(how) if varied and how is not None else None
        found[name] = replace(part, signals=signals, truncated=waves.longer, masking=masking)
    return found


def _waves(encoded: Encoded) -> Waves:
    assert isinstance(encoded.signals, Waves), "sounds are waves before they are features"
    return encoded.signals


def _check_ear(task: AudioClassification, ear: Ear) -> None:
    problems = []
    if task.max_seconds != "auto" and ear.limit is not None and task.max_seconds * ear.rate > ear.limit:
        message = f"the model takes at most {ear.limit / ear.rate:g} seconds, not {task.max_seconds:g}"
        problems.append(Problem(message, "task.max_seconds", hint="Leave it out: longer sounds are cut"))
    if task.augmentation is not None and ear.shape is None:
        message, hint = "the model takes waves, which have no frequencies to hide", "Remove it, or use shift and noise"
        problems += [Problem(message, f"task.augmentation.{name}", hint=hint) for name in task.augmentation.masks]
    if problems:
        raise RecipeError(problems)
