"""The stages of a Plan: Solve on frozen features, Fit by gradient, each evaluated on validation as it goes."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import broadcast
from torch import nn

from hfstrat.data.batching import order, padding_share, share
from hfstrat.errors import Diverged
from hfstrat.judge import Judge, Score
from hfstrat.models.anatomy import module_at, named_parameters
from hfstrat.prepare import Prepared
from hfstrat.recipe.recipe import Recipe
from hfstrat.runs.events import Observer
from hfstrat.runs.records import Ledger, Log
from hfstrat.strategies.plan import Fit, Solve
from hfstrat.tasks.base import Encoded, FloatArray
from hfstrat.training import engine, scoring
from hfstrat.training.memory import LiveBytes
from hfstrat.training.optim import Settings, freeze, optimizer_for, restore, snapshot
from hfstrat.training.solve import Solution, solve

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG_EVERY = 10


@dataclass
class State:
    """What changes while a run goes on.

    Args:
        model: The model, not wrapped.
        judge: Decides and measures.
        ledger: Costs so far.
        log: Where updates and scores go.
        best: Parameters of the best state so far, by canonical name; empty before anything was trained.
        best_score: Its validation score.
        best_at: Where it was reached.
        trained: Names of all parameters that trained in any stage.
        threshold: Probability from which a label is given.
    """

    model: nn.Module
    judge: Judge
    ledger: Ledger
    log: Log
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    best_score: Score | None = None
    best_at: str = ""
    trained: set[str] = field(default_factory=set)
    threshold: float = 0.5


def run_solve(stage: Solve, state: State, prepared: Prepared, accelerator: Accelerator, observer: Observer) -> None:
    """Run the body once, solve the output layer, and put it in."""
    encoded, labels = prepared.encoded, prepared.material.labels
    model = state.model.to(accelerator.device)
    layer: Any = module_at(model, stage.output)[2]
    held_out = "validation" in encoded
    with state.ledger.phase("solve") as phase, scoring.output_removed(model, stage.output):
        names = [name for name in ("train", "validation") if name in encoded]
        observer.phase("features", sum(len(encoded[name]) for name in names), "texts")
        features = {
            name: torch.from_numpy(
                scoring.logits(model, encoded[name], prepared.recipe.evaluate.batch_size, accelerator, observer.advance)
            ).to(accelerator.device)
            for name in names
        }
        phase.tokens += sum(encoded[name].tokens for name in names)
        live = _live_of_features(model, prepared, list(features.values()), accelerator)
    with state.ledger.phase("solve") as phase:
        phase.peak_live_bytes = live
        observer.phase(stage.name, len(stage.l2), "strengths")
        if accelerator.is_main_process:
            solution = solve(
                features["train"],
                _mean_loss(prepared, accelerator.device),
                len(labels.names),
                stage.l2,
                # By loss, which is smooth where few validation items make steps of accuracy.
                lambda predict: -state.judge.loss(_numpy(predict(features[names[-1]])), encoded[names[-1]].targets),
                bias=layer.bias is not None,
                max_iterations=stage.max_iterations,
                progress=lambda l2, score: observer.advance(1, l2=l2, loss=-score),
            )
            path = [{"l2": l2, "loss": -score} for l2, score in solution.path]
            state.log.write("solve", {"stage": stage.name, "l2": solution.l2, "path": path})
            _put_in(layer, solution)
        for parameter in layer.parameters():
            broadcast(parameter.data)
    outputs = (f"{stage.output}.weight", f"{stage.output}.bias")
    state.trained |= {name for name, _ in named_parameters(model) if name in outputs}
    logits = _numpy(nn.functional.linear(features["validation"], layer.weight, layer.bias)) if held_out else None
    _consider(stage.name, 0, logits, state, prepared, accelerator, observer, model)


def _numpy(tensor: torch.Tensor) -> FloatArray:
    found: FloatArray = tensor.detach().float().cpu().numpy()
    return found


def _put_in(layer: nn.Module, solution: Solution) -> None:
    values = {"weight": solution.weight, "bias": solution.bias}
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            value = values[name]
            assert value is not None, "a solution has a bias where the layer has one"
            parameter.copy_(value)


def _live_of_features(
    model: nn.Module, prepared: Prepared, features: Sequence[torch.Tensor], accelerator: Accelerator
) -> int:
    """Live bytes while the longest batch of the feature pass is computed."""
    if accelerator.device.type != "cpu":
        return torch.cuda.max_memory_allocated() if accelerator.device.type == "cuda" else 0
    longest = next(scoring.evaluation_batches(prepared.encoded["train"], prepared.recipe.evaluate.batch_size))
    model.eval()
    with torch.inference_mode(), accelerator.autocast(), LiveBytes([*model.parameters(), *features]) as live:
        engine.logits_of(model, longest, accelerator.device)
    return live.peak


def _mean_loss(prepared: Prepared, device: torch.device) -> Any:
    task, labels = prepared.recipe.task, prepared.material.labels
    targets = torch.from_numpy(np.asarray(prepared.encoded["train"].targets)).to(device)
    weights = _class_weights(prepared, device)
    divisor = task.weight(targets, labels.problem, weights=weights)
    smoothing = prepared.recipe.train.label_smoothing

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return task.loss(logits, targets, labels.problem, weights=weights, label_smoothing=smoothing) / divisor

    return loss


def _class_weights(prepared: Prepared, device: torch.device | str) -> torch.Tensor | None:
    weights = prepared.recipe.task.weights(prepared.material.labels)
    return None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)


def run_fit(stage: Fit, state: State, prepared: Prepared, accelerator: Accelerator, observer: Observer) -> None:
    """Gradient training from the best state so far, evaluated as it goes."""
    recipe = prepared.recipe
    restore(state.model, state.best)
    trained = freeze(state.model, stage)
    state.trained |= set(trained)
    if state.best:
        # It may stay the best one, so it has to hold all that moves from here on.
        state.best = _trained_state(state.model, state)
    steps = list(_schedule(prepared))
    settings = settings_of(recipe, len(steps))
    optimizer = optimizer_for(state.model, stage, settings)
    model, prepared_optimizer = accelerator.prepare(state.model, optimizer)
    with state.ledger.phase("measure"):
        live = _live_of_updates(model, prepared_optimizer, prepared, accelerator, stage.name)
    every = recipe.evaluate.every
    observer.phase(stage.name, len(steps), "updates")
    waste = padding_share(prepared.encoded["train"], recipe.train.batch_size, recipe.seed)
    observer.note(f"{len(trained)} tensors train; {waste:.0%} of the computed tokens are padding")
    watch = _Patience(recipe, state)
    first_bad = torch.full((), -1, device=accelerator.device)
    phase = state.ledger.phases
    updates = engine.fit(
        model,
        prepared_optimizer,
        (_step(plan, prepared, accelerator) for plan in steps),
        _sum_loss(prepared, accelerator.device),
        settings,
        accelerator,
        seed=recipe.seed,
        stage=stage.name,
    )
    for update in _timed(updates, state.ledger):
        phase["train"].tokens += update.tokens
        finite = torch.isfinite(update.grad_norm) & torch.isfinite(update.loss)
        first_bad = torch.where((first_bad < 0) & ~finite, update.number, first_bad)
        last = update.number == len(steps)
        evaluate_now = last or (_ends_epoch(steps, update.number) if every == "epoch" else update.number % every == 0)
        if evaluate_now or update.number % LOG_EVERY == 0 or update.number == 1:
            _log_update(stage.name, update, first_bad, state, accelerator, recipe, observer)
        observer.advance(1)
        if evaluate_now:
            _evaluate(stage.name, update.number, state, prepared, accelerator, observer, model)
            if watch.enough():
                observer.note(f"stopped early: no better for {watch.patience} evaluations")
                break
    if accelerator.device.type == "cuda":
        live = torch.cuda.max_memory_allocated()
    if "train" in phase:
        phase["train"].peak_live_bytes = max(live, phase["train"].peak_live_bytes or 0)
    state.model = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    accelerator.free_memory()
    del model, optimizer, prepared_optimizer, updates
    gc.collect()


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


@dataclass(frozen=True)
class _Planned:
    epoch: float
    rows: np.ndarray
    ends_epoch: bool


def _schedule(prepared: Prepared) -> Iterator[_Planned]:
    """Which examples each update of the run sees."""
    train, lengths = prepared.recipe.train, prepared.encoded["train"].lengths
    per_epoch = -(-len(lengths) // train.batch_size)
    total = train.max_steps or max(1, round(float(train.epochs) * per_epoch))
    for epoch in range(-(-total // per_epoch)):
        for place, rows in enumerate(order(lengths, train.batch_size, prepared.recipe.seed, epoch)):
            if epoch * per_epoch + place < total:
                yield _Planned(epoch + (place + 1) / per_epoch, rows, place + 1 == per_epoch)


def _ends_epoch(steps: Sequence[_Planned], number: int) -> bool:
    return steps[number - 1].ends_epoch


def _step(plan: _Planned, prepared: Prepared, accelerator: Accelerator) -> engine.Step:
    data, recipe = prepared.encoded["train"], prepared.recipe
    batches = share(
        data, plan.rows, int(recipe.train.micro_batch_size), accelerator.process_index, accelerator.num_processes
    )
    assert data.targets is not None, "the training split has targets"
    weights = _class_weights(prepared, "cpu")
    weight = recipe.task.weight(
        torch.from_numpy(data.targets[plan.rows]), prepared.material.labels.problem, weights=weights
    )
    return engine.Step(plan.epoch, batches, float(weight), len(plan.rows))


def _sum_loss(prepared: Prepared, device: torch.device) -> engine.Loss:
    task, problem = prepared.recipe.task, prepared.material.labels.problem
    weights, smoothing = _class_weights(prepared, device), prepared.recipe.train.label_smoothing

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return task.loss(logits, targets, problem, weights=weights, label_smoothing=smoothing)

    return loss


def _live_of_updates(model: nn.Module, optimizer: Any, prepared: Prepared, accelerator: Accelerator, stage: str) -> int:
    """Live bytes over two untimed updates at the longest texts, which leave no trace: learning rate and decay are 0."""
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if accelerator.device.type != "cpu":
        return 0
    recipe, data = prepared.recipe, prepared.encoded["train"]
    rows = np.argsort(-data.lengths, kind="stable")[: recipe.train.batch_size]
    step = _step(_Planned(0.0, rows, False), prepared, accelerator)
    settings = Settings(updates=2, lr=0.0, clip=recipe.train.clip)
    with LiveBytes([*model.parameters(), *model.buffers()]) as live:
        for _ in engine.fit(
            model,
            optimizer,
            [step, step],
            _sum_loss(prepared, accelerator.device),
            settings,
            accelerator,
            seed=recipe.seed,
            stage=f"{stage}-measure",
        ):
            pass
    optimizer.optimizer.state.clear()
    return live.peak


def _timed(updates: Iterator[engine.Update], ledger: Ledger) -> Iterator[engine.Update]:
    """The same updates, each one's time in the ledger; the caller's own work is not counted."""
    while True:
        with ledger.phase("train"):
            update = next(updates, None)
        if update is None:
            return
        yield update


def _log_update(
    stage: str,
    update: engine.Update,
    first_bad: torch.Tensor,
    state: State,
    accelerator: Accelerator,
    recipe: Recipe,
    observer: Observer,
) -> None:
    """Read the figures off the device, stop if one was not finite, and write a line."""
    bad = int(first_bad)
    if bad >= 0:
        raise Diverged(
            f"loss or gradient is not finite at update {bad} of stage {stage} (learning rate {update.lr:.2e}); "
            "try a lower train.lr"
        )
    figures = {"epoch": update.epoch, "lr": update.lr, "loss": float(update.loss), "grad_norm": float(update.grad_norm)}
    state.log.write("update", {"stage": stage, "update": update.number, **figures})
    observer.advance(0, loss=figures["loss"], lr=update.lr)
    if recipe.track:
        accelerator.log({f"{stage}/{name}": value for name, value in figures.items()}, step=update.number)


def _evaluate(
    stage: str,
    update: int,
    state: State,
    prepared: Prepared,
    accelerator: Accelerator,
    observer: Observer,
    model: nn.Module,
) -> None:
    """Run the validation split, if there is one, and consider the state."""
    logits = None
    if "validation" in prepared.encoded:
        with state.ledger.phase("evaluate"):
            logits = scoring.logits(
                model, prepared.encoded["validation"], prepared.recipe.evaluate.batch_size, accelerator
            )
    _consider(stage, update, logits, state, prepared, accelerator, observer, model)


def _consider(
    stage: str,
    update: int,
    logits: FloatArray | None,
    state: State,
    prepared: Prepared,
    accelerator: Accelerator,
    observer: Observer,
    model: nn.Module,
) -> None:
    """Keep the state if it is the best so far on validation; without validation the last is kept."""
    if logits is None:
        state.best, state.best_at = _trained_state(model, state), f"{stage}, update {update}"
        return
    recipe, targets = prepared.recipe, prepared.encoded["validation"].targets
    with state.ledger.phase("evaluate"):
        score = state.judge.score(logits, targets)
        decoded = state.judge.decode(logits, state.judge.threshold(logits, targets))
        measured = state.judge.measure(decoded, targets, intervals=False)
    values = {name: found.value for name, found in measured.items()}
    record = {"stage": stage, "update": update, "split": "validation", "metrics": values, "loss": -score[1]}
    state.log.write("score", record)
    observer.scored(stage, "validation", values)
    if recipe.track:
        accelerator.log(
            {f"validation/{name}": value for name, value in values.items() if value is not None}, step=update
        )
    if state.best_score is None or score > state.best_score:
        state.best, state.best_score = _trained_state(model, state), score
        state.best_at = f"{stage}, update {update}"


def _trained_state(model: nn.Module, state: State) -> dict[str, torch.Tensor]:
    return snapshot({name: value for name, value in named_parameters(model) if name in state.trained})


class _Patience:
    """Early stopping: how many evaluations passed without an improvement that counts."""

    def __init__(self, recipe: Recipe, state: State) -> None:
        rule = recipe.train.early_stopping
        self.patience = rule.patience if rule else None
        self._delta = rule.min_delta if rule else 0.0
        self._state = state
        self._best = state.best_score
        self._without = 0

    def enough(self) -> bool:
        """Whether training should stop; to be asked after each evaluation."""
        if self.patience is None or self._state.best_score is None:
            return False
        better = self._best is None or self._state.best_score[0] > self._best[0] + self._delta
        self._best, self._without = (self._state.best_score, 0) if better else (self._best, self._without + 1)
        return self._without >= self.patience


def decide(state: State, prepared: Prepared, accelerator: Accelerator, observer: Observer) -> None:
    """Settle what is chosen on validation after training: temperature and threshold."""
    if "validation" not in prepared.encoded:
        return
    task, problem = prepared.recipe.task, prepared.material.labels.problem
    calibrate = task.calibrate and problem != "regression"
    if not calibrate and problem != "multi_label":
        return
    data = prepared.encoded["validation"]
    with state.ledger.phase("evaluate"):
        logits = scoring.logits(state.model, data, prepared.recipe.evaluate.batch_size, accelerator)
    if calibrate:
        temperature = fit_temperature(logits, data, prepared)
        _, _, layer = module_at(state.model, str(prepared.anatomy.output))
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.div_(temperature)
        logits = logits / np.float32(temperature)
        observer.note(f"calibrated: output layer divided by temperature {temperature:.3f}")
    state.threshold = state.judge.threshold(logits, data.targets)


def fit_temperature(logits: FloatArray, data: Encoded, prepared: Prepared) -> float:
    """The temperature with the lowest validation loss (Guo et al. 2017), by ternary search on its logarithm."""
    task, problem = prepared.recipe.task, prepared.material.labels.problem
    values, targets = torch.from_numpy(logits).double(), torch.from_numpy(np.asarray(data.targets))

    def loss(log_temperature: float) -> float:
        return float(task.loss(values / np.exp(log_temperature), targets, problem))

    low, high = -3.0, 3.0
    for _ in range(60):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return float(np.exp((low + high) / 2))
