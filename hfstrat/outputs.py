"""What a model says about a split: scored once, and where a metric is of texts, written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from hfstrat.generating import answered
from hfstrat.judge import Judge
from hfstrat.recipe.recipe import Recipe
from hfstrat.tasks.base import Encoded
from hfstrat.tasks.language import LanguageSpec, Said
from hfstrat.training import scoring

if TYPE_CHECKING:
    from accelerate import Accelerator


def outputs_of(
    model: nn.Module,
    data: Encoded,
    judge: Judge,
    recipe: Recipe,
    processor: Any,
    accelerator: Accelerator | None = None,
    progress: Callable[[int], None] | None = None,
) -> Any:
    """What decisions are made from, as the task collects it, on every process.

    Args:
        model: The model.
        data: The split.
        judge: Says which metrics there are.
        recipe: The resolved recipe.
        processor: What encoded the split.
        accelerator: As for `scoring.logits`.
        progress: As for `scoring.logits`.
    """
    task = recipe.task
    found = scoring.logits(model, data, recipe.evaluation_size, accelerator, progress, task.kept)
    collected = task.collected(found, data, judge.labels)
    if not (judge.writes and isinstance(task, LanguageSpec)):
        return collected
    return Said(collected, answered(task, model, processor, data, accelerator))
