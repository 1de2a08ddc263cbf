"""Several examples in one row: whether a model keeps them apart."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from hfstrat.data.batching import collate
from hfstrat.errors import Problem, RecipeError
from hfstrat.tasks.base import Encoded
from hfstrat.training.engine import logits_of
from hfstrat.training.scoring import evaluating

if TYPE_CHECKING:
    from accelerate import Accelerator

_ROUNDING, _COARSE = 1e-3, 5e-2  # relative difference of logits that rounding explains, in fp32 and in less


def check_packing(model: nn.Module, data: Encoded, accelerator: Accelerator) -> None:
    """Try on some examples whether a model says of each the same in one row with others and by itself.

    Args:
        model: The model, where it is trained.
        data: Its examples.
        accelerator: In which precision: some kinds of attention take no other.

    Raises:
        RecipeError: It does not: examples would be learned together with what happens to stand before them.
    """
    if not data.packed:
        return
    rows = data.samples
    device, apart = next(model.parameters()).device, replace(data, packed=False)
    with evaluating(model), torch.inference_mode(), accelerator.autocast():
        together = logits_of(model, collate(data, rows), device)
        alone = torch.cat([logits_of(model, collate(apart, np.array([row])), device) for row in rows])
    rounding = _ROUNDING if accelerator.mixed_precision == "no" else _COARSE
    allowed = rounding * max(1.0, float(alone.abs().max()))
    if not float((together - alone).abs().max()) <= allowed:
        what = "this model lets examples in one row see each other"
        raise RecipeError(Problem(what, "task.packing", hint="Set it to false: batches of similar length pad little"))
