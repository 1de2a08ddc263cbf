"""The Fit stage: gradient training, evaluated on validation as it goes, with checkpoints and an early stop."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hfstrat.caching import replayed
from hfstrat.checkpoints import load_optimizer
from hfstrat.data.batching import Batch, costliest, padding_share, share
from hfstrat.errors import Diverged, Interrupted
from hfstrat.models.adapters import allocate_ranks, orthogonality
from hfstrat.models.anatomy import named_buffers
from hfstrat.models.prefix import aside
from hfstrat.models.quantize import tensors
from hfstrat.prepare import Prepared
from hfstrat.recipe.recipe import Recipe
from hfstrat.runs.records import Ledger
from hfstrat.scheduling import Planned, Schedule, schedule
from hfstrat.state import Patience, State
from hfstrat.strategies.plan import Fit
from hfstrat.tasks.base import Encoded
from hfstrat.training import chunking, engine
from hfstrat.training.arithmetic import Meter
from hfstrat.training.checkpoint import Checkpoint
from hfstrat.training.machine import give_back
from hfstrat.training.memory import LiveBytes, anonymous_bytes
from hfstrat.training.optim import Settings, freeze, optimizer_for, restore, set_lr, snapshot
from hfstrat.training.profiling import phase, profiled

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG_EVERY = 10
HOLES = 2
"""A process holds about so many times the bytes that are alive at once before it looks for what is free."""


def run_fit(stage: Fit, state: State, start: Checkpoint | None = None) -> None:
    """Gradient training, evaluated as it goes: from the best state so far, or on from a checkpoint of this stage."""
    training = set(freeze(state.model, stage))
    if start is None:
        state.begin(training)
    steps = schedule(state.prepared.recipe, state.prepared.plan, state.training, stage)
    state.placed()
    with replayed(stage, state, len(steps) / steps.per_epoch):
        _fit(stage, state, steps, start)


def _fit(stage: Fit, state: State, steps: Schedule, start: Checkpoint | None) -> None:
    """The updates of a stage, on a model in which exactly what trains does."""
    prepared, accelerator, recipe = state.prepared, state.accelerator, state.prepared.recipe
    done = 0 if start is None else int(start.data["update"])
    settings = settings_of(recipe, len(steps))
    model, optimizer = accelerator.prepare(state.model, optimizer_for(state.model, stage, settings))
    loss = sum_loss(prepared, accelerator.device)
    before, exact = (state.micro, state.recomputes), state.exact
    held = anonymous_bytes() or 0
    with state.ledger.phase("measure"):
        live = _live_of_updates(model, optimizer, loss, state, stage)
    if (state.micro, state.recomputes) != before and "train" not in state.ledger.phases:
        state.exact = exact  # no update was made as before
        state.settle_passes()
    patience = Patience(state)
    if start is not None:
        load_optimizer(start, optimizer, model)
        patience.go_on(start.data["patience"])
        if start.data["scaler"] is not None:
            accelerator.scaler.load_state_dict(start.data["scaler"])
    waste = padding_share(state.training, recipe.train.batch_size, recipe.seed, state.micro * state.training.longest)
    state.observer.phase(stage.name, len(steps), "updates", done)
    state.observer.note(f"{waste:.0%} of the computed tokens are padding")
    if large := chunking.verdict(model):
        state.observer.note(large)
    feed, meter = _Feed(steps[done:], state), Meter()
    updates = engine.fit(
        model,
        optimizer,
        feed,
        loss,
        settings,
        accelerator,
        seed=recipe.seed,
        stage=stage.name,
        start=done,
        rows=state.rows,
        quick_masks=bool(recipe.train.fast_dropout),
        smaller=feed.smaller if accelerator.num_processes == 1 else None,
        meter=meter,
        **_adapter_steps(stage, state.model),
    )
    if recipe.train.profile and state.folder is not None:
        updates = profiled(updates, state.folder / "profile", stage.name)
    most = held + HOLES * live if accelerator.device.type == "cpu" else None
    _Following(stage, steps, model, optimizer, patience, state, most, meter).follow(updates, done)
    if accelerator.device.type == "cuda":
        live = torch.cuda.max_memory_allocated()
    phase = state.ledger.phases["train"]
    phase.peak_live_bytes = max(live, phase.peak_live_bytes or 0)
    state.model = bare(accelerator.unwrap_model(model))
    accelerator.free_memory()
    del model, optimizer, updates
    gc.collect()


def bare(model: nn.Module) -> nn.Module:
    """A model without the precision that Accelerate put around its forward pass.

    `unwrap_model(keep_fp32_wrapper=False)` leaves the mark of a model that was prepared, so that a second stage would
    not be put into the run's precision; and it takes the decorators of the model's own class off as well.
    """
    for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
        model.__dict__.pop(name, None)
    return model


@dataclass
class _Following:
    """What happens around the updates of a stage.

    Args:
        stage: The stage.
        steps: All of its updates.
        model: The model as Accelerate prepared it.
        optimizer: The optimiser likewise.
        patience: When to stop early.
        state: The run.
        most: Bytes of memory from which on what is free of it is given back now and then; None: never.
        meter: Counts the arithmetic of the updates.
    """

    stage: Fit
    steps: Schedule
    model: nn.Module
    optimizer: Any
    patience: Patience
    state: State
    most: int | None
    meter: Meter

    def follow(self, updates: Iterator[engine.Update], done: int) -> None:
        """Log updates, keep checkpoints, evaluate, and stop where the recipe says so.

        Args:
            updates: The updates that are still to be made.
            done: Those that were made before.
        """
        state, keeper = self.state, self.state.checkpoints
        scaler = state.accelerator.scaler
        first_bad = torch.full((), -1, device=state.accelerator.device)
        keeper.expect(sum(value.nbytes for value in state.trained_tensors(self.model).values()) * 4)
        with state.signals.held():
            # A checkpoint is written before the update's evaluation, so that comes first when a run goes on.
            if done and self._ends_a_stretch(done) and self._evaluated(done, saved=True):
                return
            for update in _timed(updates, state.ledger, self.meter):
                number = update.number
                state.ledger.phases["train"].tokens += update.tokens
                finite = torch.isfinite(update.loss)
                if scaler is None:  # with one, a gradient that overflows is left out and tried at a smaller scale
                    finite &= torch.isfinite(update.grad_norm)
                elif number % LOG_EVERY == 0:
                    finite &= scaler.get_scale() >= 1
                first_bad = torch.where((first_bad < 0) & ~finite, number, first_bad)
                if self.most is not None and number % LOG_EVERY == 0 and (anonymous_bytes() or 0) > self.most:
                    give_back()
                due = self._ends_a_stretch(number)
                if due or number % LOG_EVERY == 0 or number == 1:
                    self._stop_if_bad(first_bad)
                    _log_update(self.stage.name, update, state)
                state.observer.advance(1)
                ending = state.asked_to_end()
                saved = keeper.wanted and (ending or keeper.due(number))
                if saved:
                    self._stop_if_bad(first_bad)
                    self._save(number)
                if ending:
                    # A launcher ends them all when one does, and the checkpoint may still be being written.
                    state.accelerator.wait_for_everyone()
                    state.signals.check()
                if due and self._evaluated(number, saved=saved):
                    return

    def _ends_a_stretch(self, number: int) -> bool:
        """Whether the model is evaluated after this update."""
        every = self.state.prepared.recipe.evaluate.every
        due = self.steps.ends_epoch(number - 1) if every == "epoch" else number % every == 0
        return due or number == len(self.steps)

    def _evaluated(self, number: int, *, saved: bool) -> bool:
        """Evaluate; whether training should stop."""
        try:
            self.state.consider(self.stage.name, number, self.state.logits(self.model), self.model)
        except Interrupted:
            if not saved:
                self._save(number)
            raise
        if self.patience.exhausted():
            limit = self.patience.limit
            self.state.observer.note(f"stopped early: no better for {limit} evaluations")
            return True
        return False

    def _save(self, number: int) -> None:
        place = self.state.prepared.plan.place_of(self.stage)
        self.state.checkpoints.save(self.state, place, number, self.optimizer, self.patience)

    def _stop_if_bad(self, first_bad: torch.Tensor) -> None:
        """Read the flag off the device, and stop at a figure that is not finite.

        Raises:
            Diverged: There was one.
        """
        bad = int(first_bad)
        if bad < 0:
            return
        recipe, data = self.state.prepared.recipe, self.state.training
        lr = settings_of(recipe, len(self.steps)).lr_at(bad - 1)
        ids = [data.ids[row] for row in self.steps[bad - 1].rows]
        more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
        newest = self.state.checkpoints.newest
        kept = f"the state before is kept in {newest}; " if newest is not None else ""
        raise Diverged(
            f"loss or gradient is not finite at update {bad} of stage {self.stage.name} (learning rate {lr:.2e}, "
            f"examples {', '.join(ids[:5])}{more}); {kept}try a lower train.lr"
        )


class _Feed:
    """What each update is computed from, in a way that takes less memory when it runs out.

    Args:
        steps: The updates.
        state: The run.
    """

    def __init__(self, steps: Sequence[Planned], state: State) -> None:
        self._steps, self._state = steps, state
        self._now = steps[0] if steps else None

    def __iter__(self) -> Iterator[engine.Step]:
        for planned in self._steps:
            self._now = planned
            yield self._made(planned)

    def _made(self, planned: Planned) -> engine.Step:
        state = self._state
        with phase("batch"):
            return step_of(planned, state.prepared, state.training, state.accelerator, state.micro)

    def smaller(self, error: Exception) -> engine.Step:
        """The update under way in micro-batches of half the size, or with activations that are computed again.

        From here on the bytes are of this run alone.

        Raises:
            Exception: There is nothing else that takes less.
        """
        state = self._state
        if self._now is None or (state.micro == 1 and state.recomputes):
            raise error
        if state.micro > 1:
            state.micro = -(-state.micro // 2)
            said = f"memory ran out: train.micro_batch_size is {state.micro} from here on"
        else:
            state.recompute()
            said = "memory ran out: train.gradient_checkpointing is true from here on"
        state.exact = False
        if state.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        state.observer.warn(said)
        state.log.write("memory", {"micro_batch_size": state.micro, "gradient_checkpointing": state.recomputes})
        return self._made(self._now)


def _adapter_steps(stage: Fit, model: nn.Module) -> dict[str, Any]:
    """What an adapter's method does beside the loop, as arguments of the loop."""
    if stage.after_update is None:
        return {}
    weight = next(iter(model.peft_config.values())).orth_reg_weight  # type: ignore[operator]
    return {
        "penalty": lambda: orthogonality(model, weight),
        "after_step": lambda update: allocate_ranks(model, update),
    }


def settings_of(recipe: Recipe, updates: int) -> Settings:
    """The optimiser's settings from a resolved recipe."""
    train = recipe.train
    return Settings(
        updates=updates,
        lr=float(train.lr),
        schedule=train.schedule,
        warmup=train.warmup,
        min_lr_ratio=train.min_lr_ratio,
        weight_decay=float(train.weight_decay),
        betas=train.optimizer.betas,
        eps=train.optimizer.eps,
        clip=train.clip,
    )


def step_of(plan: Planned, prepared: Prepared, data: Encoded, accelerator: Accelerator, micro: int) -> engine.Step:
    """What an update is computed from, in micro-batches of so many examples."""
    recipe = prepared.recipe
    budget = micro * data.longest
    data, rows = data.drawn(plan.rows, recipe.seed, plan.passed)
    batches = share(data, rows, budget, accelerator.process_index, accelerator.num_processes)
    assert data.targets is not None, "the training split has targets"
    units = data.units_of(rows)
    counted = units if data.labelled is None else units[data.labelled[units]]
    weights = prepared.class_weights("cpu")
    weight = recipe.task.weight(
        torch.from_numpy(data.targets[counted]), prepared.material.labels.problem, weights=weights
    )
    if data.own is not None:
        own = data.own.of_update(data.targets[units])
        batches = [replace(batch, own=own) for batch in batches]
    whole = float(weight) + len(units) - len(counted)
    # Texts of which the tokenizer makes nothing have no loss, which is to be divided by something.
    return engine.Step(plan.epoch, batches, whole or 1.0, len(plan.rows))


def sum_loss(prepared: Prepared, device: torch.device) -> engine.Loss:
    """The sum of a micro-batch's losses; unlabelled examples count as one each."""
    task, problem = prepared.recipe.task, prepared.material.labels.problem
    weights, smoothing = prepared.class_weights(device), prepared.recipe.train.label_smoothing
    taught = prepared.plan.distillation

    def hard(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return task.loss(logits, targets, problem, weights=weights, label_smoothing=smoothing)

    def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        assert batch.targets is not None, "training needs targets"
        targets = batch.targets.to(device)
        if taught is None:
            return hard(logits, targets)
        assert batch.teacher is not None, "a teacher has spoken before its student is trained"
        soft = task.distillation_loss(logits, batch.teacher.to(device), problem, taught.temperature)
        if batch.labelled is None:
            return taught.alpha * soft.sum() + (1 - taught.alpha) * hard(logits, targets)
        # Places, for a mask would have to be read off the device.
        known, rest = (mask.nonzero().squeeze(1).to(device) for mask in (batch.labelled, ~batch.labelled))
        labelled = taught.alpha * soft[known].sum() + (1 - taught.alpha) * hard(logits[known], targets[known])
        return labelled + soft[rest].sum()

    return loss


def _live_of_updates(model: nn.Module, optimizer: Any, loss: engine.Loss, state: State, stage: Fit) -> int:
    """Live bytes over the untimed updates that take most memory, which leave no trace: learning rate and decay are 0.

    Where memory is not enough for them, what takes less is found before the run begins.
    """
    recipe, data, accelerator = state.prepared.recipe, state.training, state.accelerator
    on_cuda = accelerator.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    statistics, peak = snapshot(dict(named_buffers(model))), 0
    for rows in costliest(data, recipe.train.batch_size, state.micro * data.longest):
        feed = _Feed([Planned(0.0, rows, 0)], state)
        (step,) = feed
        smaller = feed.smaller if accelerator.num_processes == 1 else None
        with nullcontext() if on_cuda else LiveBytes([*tensors(model), *aside_of(model), *step.tensors]) as live:
            for _ in tried_updates(model, optimizer, [step], loss, state, stage, smaller):
                pass
        optimizer.optimizer.state.clear()
        peak = torch.cuda.max_memory_allocated() if live is None else max(peak, live.peak)
    restore(model, statistics)
    return peak


def tried_updates(
    model: nn.Module,
    optimizer: Any,
    steps: Iterable[engine.Step],
    loss: engine.Loss,
    state: State,
    stage: Fit,
    smaller: Callable[[Exception], engine.Step] | None = None,
) -> Iterator[engine.Update]:
    """Updates as those of a stage, at a learning rate of 0 and with all that its optimiser will hold.

    Args:
        model: The model as Accelerate prepared it.
        optimizer: The optimiser likewise.
        steps: What the updates are computed from.
        loss: Sum of the losses of a micro-batch.
        state: The run.
        stage: The stage.
        smaller: As of `engine.fit`.
    """
    recipe = state.prepared.recipe
    _fill_moments(model, optimizer)
    yield from engine.fit(
        model,
        optimizer,
        steps,
        loss,
        Settings(updates=1, lr=0.0, clip=recipe.train.clip),
        state.accelerator,
        seed=recipe.seed,
        stage=f"{stage.name}-measure",
        rows=state.rows,
        quick_masks=bool(recipe.train.fast_dropout),
        smaller=smaller,
    )


def _fill_moments(model: nn.Module, optimizer: Any) -> None:
    """Let an optimiser hold all that it will hold, as if an update had been made."""
    set_lr(optimizer, 0.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def aside_of(model: nn.Module) -> Iterator[torch.Tensor]:
    """Tensors of the frozen blocks that are not run, which are there all the same."""
    for block in aside(model):
        yield from tensors(block)


def _timed(updates: Iterator[engine.Update], ledger: Ledger, meter: Meter) -> Iterator[engine.Update]:
    """The same updates, each one's time and arithmetic in the ledger; the caller's own work is not counted."""
    if ledger.first_update is None:
        ledger.first_update = ledger.seconds
    while True:
        with ledger.phase("train") as phase, meter.told(phase.computed):
            update = next(updates, None)
        if update is None:
            return
        yield update


def _log_update(stage: str, update: engine.Update, state: State) -> None:
    """Read the figures off the device and write a line."""
    figures = {"epoch": update.epoch, "lr": update.lr, "loss": float(update.loss), "grad_norm": float(update.grad_norm)}
    state.log.write("update", {"stage": stage, "update": update.number, **figures})
    state.observer.advance(0, loss=figures["loss"], lr=update.lr)
    state.track({f"{stage}/{name}": value for name, value in figures.items()}, update.number)
