"""Running a model over a split, each example once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from hfstrat.data.batching import Batch, evaluation_batches
from hfstrat.models.anatomy import module_at
from hfstrat.tasks.base import Encoded, FloatArray
from hfstrat.training.arithmetic import Meter, size_of
from hfstrat.training.chunking import chunks, wide
from hfstrat.training.engine import held_of, logits_of
from hfstrat.training.optim import evaluating as evaluating

if TYPE_CHECKING:
    from accelerate import Accelerator

Kept = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


def logits(
    model: nn.Module,
    data: Encoded,
    batch_size: int,
    accelerator: Accelerator | None = None,
    progress: Callable[[int], None] | None = None,
    kept: Kept | None = None,
    meter: Meter | None = None,
) -> FloatArray:
    """Logits of a split's units in their order, float32 `(units, classes)`, on every process.

    Units that no window holds have NaN.

    Args:
        model: The model; it is in eval mode meanwhile, and afterwards as it was.
        data: The split.
        batch_size: Examples at once.
        accelerator: Shares the work between processes and sets the precision; None: this process, as is.
        progress: Called with the number of examples done.
        kept: What is kept of the logits of a batch and its targets, float `(units, …)`; None: the logits.
        meter: Counts the arithmetic.
    """
    if accelerator is not None:
        # Wrapped for data parallelism it would wait in each pass for processes that may have one batch fewer.
        model = accelerator.unwrap_model(model)
    process, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    device = accelerator.device if accelerator else next(model.parameters()).device
    rows: list[np.ndarray] = []
    units: list[np.ndarray] = []
    values: np.ndarray | None = None  # filled in place: there may be much of it
    with inferring(model, accelerator):
        for batch in evaluation_batches(data, batch_size, process, processes):
            with nullcontext() if meter is None else meter.around(size_of(batch)):
                given = kept_of(model, batch, device, kept, accelerator)
            found = given.float().cpu().numpy()
            if values is None:
                values = np.full((data.count, *found.shape[1:]), np.nan, np.float32)
            values[batch.units] = found
            rows.append(batch.rows)
            units.append(batch.units)
            if progress is not None:
                progress(len(batch.rows))
    if processes > 1:
        from accelerate.utils import gather_object

        mine = [] if values is None else [(*part, values[part[1]]) for part in zip(rows, units, strict=True)]
        parts = gather_object(mine)
        rows = [part[0] for part in parts]
        values = np.full((data.count, *parts[0][2].shape[1:]), np.nan, np.float32)
        for _, places, found in parts:
            values[places] = found
    scored = np.sort(np.concatenate(rows))
    assert values is not None, "a split has examples"
    assert np.array_equal(scored, np.arange(len(data))), "each example is scored once"
    return values


@contextmanager
def inferring(model: nn.Module, accelerator: Accelerator | None) -> Iterator[None]:
    """Eval mode without gradients, in the run's precision; on a CPU weights are rounded once for all batches.

    Autocast keeps the rounded copy of a weight that trains and rounds a frozen one in each pass, which shows on a
    CPU.
    """
    with evaluating(model), torch.inference_mode(), accelerator.autocast() if accelerator else nullcontext():
        frozen = [one for one in model.parameters() if not one.requires_grad and one.dtype == torch.float32]
        kept = frozen if torch.is_autocast_enabled("cpu") and all(one.device.type == "cpu" for one in frozen) else []
        for one in kept:
            one.requires_grad = True
        try:
            yield
        finally:
            for one in kept:
                one.requires_grad = False


def kept_of(
    model: nn.Module, batch: Batch, device: torch.device, kept: Kept | None, accelerator: Accelerator | None = None
) -> torch.Tensor:
    """What is kept of a batch; arguments as of `logits`."""
    if kept is None:
        return logits_of(model, batch, device)
    targets = None if batch.targets is None else batch.targets.to(device)
    held = held_of(model, batch, device, accelerator)
    if held is None:
        return kept(logits_of(model, batch, device), targets)
    layer, hidden = held
    parts = (
        kept(wide(layer(hidden[part])), None if targets is None else targets[part]) for part in chunks(len(hidden))
    )
    return torch.cat(list(parts))


@contextmanager
def output_removed(model: nn.Module, output: str) -> Iterator[None]:
    """Let the model return what its output layer would get, pooled as its logits are."""
    parent, attribute, module = module_at(model, output)
    identity = nn.Identity()
    _put(parent, attribute, identity)
    try:
        yield
    finally:
        _put(parent, attribute, module)


def _put(parent: nn.Module, attribute: str, module: nn.Module) -> None:
    if isinstance(parent, nn.ModuleDict):
        parent[attribute] = module
    else:
        setattr(parent, attribute, module)
