"""The loop. It knows models, batches and losses; it knows neither recipes nor runs nor strategies.

`fit` is a generator: the caller's `for` loop logs, evaluates and stops. The loss of an update is the sum over all
its targets on all processes, divided by their weight; so results do not depend on micro-batches or processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hfstrat.data.batching import Batch
from hfstrat.models.anatomy import named_parameters
from hfstrat.models.picking import output_at, output_held, picked
from hfstrat.models.prefix import hand_over
from hfstrat.tasks.base import DECODER
from hfstrat.training import chunking
from hfstrat.training.arithmetic import Meter, size_of
from hfstrat.training.dropout import fast_dropout
from hfstrat.training.optim import Settings, set_lr, set_modes
from hfstrat.training.profiling import phase

if TYPE_CHECKING:
    from accelerate import Accelerator

Loss = Callable[[torch.Tensor, Batch], torch.Tensor]


@dataclass(frozen=True)
class Step:
    """What one update is computed from.

    Args:
        epoch: Epochs done when the update is done.
        batches: This process's micro-batches; every process has equally many.
        weight: Weight of all targets of the update, over all processes.
        examples: Number of them.
    """

    epoch: float
    batches: Sequence[Batch]
    weight: float
    examples: int

    @property
    def tensors(self) -> Iterator[torch.Tensor]:
        """All that its micro-batches hold."""
        for batch in self.batches:
            yield from batch.inputs.values()
            for tensor in (batch.targets, batch.owner, batch.picked, batch.teacher, batch.labelled, batch.hidden):
                if tensor is not None:
                    yield tensor


@dataclass(frozen=True)
class Update:
    """What one update did. Tensors stay on the device; reading one waits for it.

    Args:
        number: Updates done, from 1.
        epoch: Epochs done.
        lr: Learning rate.
        loss: Mean loss over the update's targets on all processes, a scalar tensor.
        grad_norm: Gradient norm before clipping, a scalar tensor.
        examples: Examples of the update.
        tokens: Tokens of this process, padding left out.
    """

    number: int
    epoch: float
    lr: float
    loss: torch.Tensor
    grad_norm: torch.Tensor
    examples: int
    tokens: int


def logits_of(model: nn.Module, batch: Batch, device: torch.device) -> torch.Tensor:
    """Logits of each unit, fp32 or wider `(units, classes)`; windows of an example that is one are averaged."""
    inputs = _inputs(model, batch, device)
    if batch.own is not None:
        return chunking.wide(batch.own(model, inputs, None if batch.targets is None else batch.targets.to(device)))
    if batch.picked is None:
        logits: torch.Tensor = model(**inputs).logits
    else:
        places, width = batch.picked.to(device, non_blocking=True), _width(inputs)
        with output_at(model, places, width) as options:
            found = model(**inputs, **options)
        given = getattr(found, "logits", None)
        # A model that answers questions gives its two outputs for each token apart.
        logits = torch.stack([found.start_logits, found.end_logits], dim=-1) if given is None else given
        if logits.dim() == 3:
            logits = picked(logits, places, width)
    logits = chunking.wide(logits)
    if batch.owner is None:
        return logits
    windows = torch.bincount(batch.owner, minlength=len(batch.rows))  # on the CPU: it would wait for a GPU
    total = logits.new_zeros(len(batch.rows), *logits.shape[1:]).index_add_(0, batch.owner.to(device), logits)
    return total / windows.to(device, total.dtype).unsqueeze(1)


def held_of(
    model: nn.Module, batch: Batch, device: torch.device, accelerator: Accelerator | None
) -> tuple[nn.Module, torch.Tensor] | None:
    """A model's output layer and what it gets for each unit `(units, width)`, where logits are computed in chunks.

    Args:
        model: The model, as it is wrapped.
        batch: What it sees.
        device: Where it is.
        accelerator: In which precision.

    Returns:
        None where all logits are to be computed at once.
    """
    if batch.picked is None or batch.teacher is not None or not chunking.pays(model, len(batch.picked)):
        return None
    if accelerator is not None and (
        # Gradients are there before losses are scaled; shards of a layer are together in the model's forward only.
        accelerator.mixed_precision == "fp16" or accelerator.distributed_type.value not in _WHOLE_LAYERS
    ):
        return None
    inputs = _inputs(model, batch, device)
    places, width = batch.picked.to(device, non_blocking=True), _width(inputs)
    context = accelerator.autocast if accelerator is not None else nullcontext
    if not chunking.plain(model, lambda **options: model(**inputs, **options).logits, places, width, context):
        return None
    with output_held(model, places, width) as (options, held):
        model(**inputs, **options)
    assert held.hidden is not None, "the output layer was asked"
    return held.layer, held.hidden


_WHOLE_LAYERS = ("NO", "MULTI_CPU", "MULTI_GPU")


def _inputs(model: nn.Module, batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
    inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()}
    if batch.hidden is not None:
        hand_over(model, batch.hidden.to(device, non_blocking=True))
    if DECODER in inputs:  # what the first token is predicted from is the model's to say
        config: Any = getattr(model, "module", model).config
        inputs[DECODER][:, 0] = _first(config)
    return inputs


def _width(inputs: Mapping[str, torch.Tensor]) -> int:
    return inputs[DECODER if DECODER in inputs else "input_ids"].shape[1]


def _first(config: Any) -> int:
    """The token that a decoder begins with, as `generate` finds it."""
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        found = getattr(config, name, None)
        if found is not None:
            return int(found)
    return 0


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: Iterable[Step],
    loss: Loss,
    settings: Settings,
    accelerator: Accelerator,
    *,
    seed: int,
    stage: str,
    start: int = 0,
    rows: Mapping[str, torch.Tensor] | None = None,
    quick_masks: bool = False,
    penalty: Callable[[], torch.Tensor] | None = None,
    after_step: Callable[[int], None] | None = None,
    smaller: Callable[[Exception], Step] | None = None,
    meter: Meter | None = None,
) -> Iterator[Update]:
    """Train, one update a turn; whoever evaluates in between leaves the modules' modes as they were.

    Args:
        model: Prepared by Accelerate; what trains has `requires_grad`.
        optimizer: Prepared by Accelerate, with `lr_scale` in each group.
        steps: What each update is computed from, without those that are done.
        loss: Sum of the losses of a micro-batch from its logits.
        settings: How to optimise.
        accelerator: Where and in which precision.
        seed: The run's seed.
        stage: The stage's name, part of the seed of dropout.
        start: Updates that are done.
        rows: Rows that alone get gradients, int64 `(n,)` by canonical name of the parameter: norms are summed up over
            them, to the same bits as where the others are not there.
        quick_masks: Draw dropout's masks as `fast_dropout` does; on a CPU.
        penalty: A scalar that is added to each update's mean loss and is no part of what is reported.
        after_step: Called with the updates done before, when weights have moved and gradients are still there.
        smaller: Called when memory ran out, with the error: the same update in smaller micro-batches, or the error
            again.
        meter: Counts the arithmetic of this process.

    Yields:
        An Update after each one.
    """
    device, processes = accelerator.device, accelerator.num_processes

    def gradients(step: Step, number: int) -> torch.Tensor:
        """Sum the gradients of an update up; its summed loss on this process."""
        total = torch.zeros((), device=device)
        for place, batch in enumerate(step.batches):
            torch.manual_seed(dropout_seed(seed, stage, number, place, accelerator.process_index))
            last = place == len(step.batches) - 1
            # Backward draws the masks of blocks that it computes again.
            masks = fast_dropout() if quick_masks else nullcontext()
            with nullcontext() if last else accelerator.no_sync(model), masks:
                with phase("forward"):
                    part = _loss_of(model, batch, loss, accelerator) * batch.scale
                # Data-parallel gradients are averaged over processes; the sum is wanted.
                value = part * (processes / step.weight)
                with phase("backward"):
                    accelerator.backward(value + penalty() if penalty is not None and last else value)
            total = total + part.detach()
        return total

    set_modes(model)
    for number, step in enumerate(steps, start):
        lr = settings.lr_at(number)
        set_lr(optimizer, lr)
        while True:
            try:
                with nullcontext() if meter is None else meter.around(size_of(*step.batches)):
                    total = gradients(step, number)
                break
            except Exception as error:
                if smaller is None or not is_out_of_memory(error):
                    raise
                optimizer.zero_grad(set_to_none=True)
                step = smaller(error)
        with phase("clip"):
            norm = _clip(model, settings.clip, accelerator, rows)
        with phase("optimizer"):
            optimizer.step()
        if after_step is not None:
            after_step(number)
        optimizer.zero_grad(set_to_none=True)
        if processes > 1:
            total = accelerator.reduce(total, reduction="sum")
        yield Update(
            number=number + 1,
            epoch=step.epoch,
            lr=lr,
            loss=total / step.weight,
            grad_norm=norm,
            examples=step.examples,
            tokens=sum(batch.tokens for batch in step.batches if batch.scale),
        )


def _loss_of(model: nn.Module, batch: Batch, loss: Loss, accelerator: Accelerator) -> torch.Tensor:
    """Sum of the losses of a micro-batch, with gradients."""
    held = held_of(model, batch, accelerator.device, accelerator)
    if held is None:
        return loss(logits_of(model, batch, accelerator.device), batch)
    layer, hidden = held

    def of_part(logits: torch.Tensor, part: slice) -> torch.Tensor:
        return loss(logits, replace(batch, targets=None if batch.targets is None else batch.targets[part]))

    return chunking.loss_in_chunks(layer, hidden, of_part, accelerator.autocast)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _clip(
    model: nn.Module, limit: float | None, accelerator: Accelerator, rows: Mapping[str, torch.Tensor] | None
) -> torch.Tensor:
    """Clip gradients; their norm before."""
    most = limit if limit is not None else float("inf")
    if not rows:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        norm = accelerator.clip_grad_norm_(trained, most)
        assert norm is not None, "this kind of sharding reports no gradient norm"
        return norm.detach()
    # The same in its parts. How a sum rounds depends on where its zeros stand, so they are left out of it.
    accelerator.unscale_gradients()
    named = [(name, parameter.grad) for name, parameter in named_parameters(model) if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([grad[rows[name]] if name in rows else grad for name, grad in named])
    torch.nn.utils.clip_grads_with_norm_(model.parameters(), most, norm)
    return norm


def dropout_seed(seed: int, stage: str, update: int, micro: int, process: int) -> int:
    """Seed of a micro-batch's dropout: a function of its position alone, so that a run can start anywhere."""
    text = f"{seed}/{stage}/{update}/{micro}/{process}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
