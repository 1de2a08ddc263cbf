"""What a model says about a split: scored once, and where a metric is of texts, written; whether two say the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hfstrat.data.batching import collate
from hfstrat.generating import answered
from hfstrat.judge import Judge
from hfstrat.recipe.recipe import Recipe
from hfstrat.runs.records import Phase
from hfstrat.tasks.base import Encoded
from hfstrat.tasks.language import LanguageSpec, Said
from hfstrat.training import scoring
from hfstrat.training.arithmetic import Meter

if TYPE_CHECKING:
    from accelerate import Accelerator


COMPARED, AT_ONCE = 32, 4  # examples
TOLERANCE, COARSE_TOLERANCE = 1e-3, 5e-2
"""How far two models that are the same may be apart, by the largest output: rounding explains 1e-6 in fp32, and some
thousandths in 8 bits of mantissa, to which weights were rounded or in which quantised layers compute."""


def said_of_some(model: nn.Module, data: Encoded, recipe: Recipe) -> torch.Tensor:
    """What a model says about up to `COMPARED` examples that lie evenly in a split, as one vector of float64.

    Of outputs over a vocabulary that is the loss of each token, else all logits.
    """
    rows = np.unique(np.linspace(0, len(data) - 1, min(COMPARED, len(data))).astype(np.int64))
    device, found = next(model.parameters()).device, []
    with scoring.evaluating(model), torch.inference_mode():
        for part in np.split(rows, range(AT_ONCE, len(rows), AT_ONCE)):
            given = scoring.kept_of(model, collate(data, part), device, recipe.task.kept)
            found.append((given[:, 0] if recipe.task.of_vocabulary else given).double().cpu().flatten())
    return torch.cat(found)


def apart(before: torch.Tensor, after: torch.Tensor) -> float:
    """Largest difference of two vectors of outputs, by the largest output of the first."""
    there = before.isfinite()
    largest = float(before[there].abs().max()) if bool(there.any()) else 0.0
    return float((before - after)[there].abs().nan_to_num(float("inf")).max()) / max(1e-12, largest)


def outputs_of(
    model: nn.Module,
    data: Encoded,
    judge: Judge,
    recipe: Recipe,
    processor: Any,
    accelerator: Accelerator | None = None,
    progress: Callable[[int], None] | None = None,
    meter: Meter | None = None,
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
        meter: As for `scoring.logits`; what the model writes is not counted.
    """
    task = recipe.task
    found = scoring.logits(model, data, recipe.evaluation_size, accelerator, progress, task.kept, meter)
    collected = task.collected(found, data, judge.labels)
    if not (judge.writes and isinstance(task, LanguageSpec)):
        return collected
    return Said(collected, answered(task, model, processor, data, accelerator))


def counted(meter: Meter, phase: Phase, judge: Judge) -> AbstractContextManager[None]:
    """Put what passes take into the ledger; where the model writes as well, that would be a part for the whole."""
    return nullcontext() if judge.writes else meter.told(phase.computed)
