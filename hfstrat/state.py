"""State: what changes while a run goes on, and how it is judged on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hfstrat.checkpoints import Checkpoints
from hfstrat.errors import Interrupted
from hfstrat.judge import Judge, Score
from hfstrat.models.anatomy import module_at, named_buffers, named_parameters
from hfstrat.models.recomputing import recompute
from hfstrat.outputs import counted, outputs_of
from hfstrat.prepare import Prepared
from hfstrat.runs.events import Observer
from hfstrat.runs.records import Ledger, Log
from hfstrat.tasks.base import Encoded, FloatArray
from hfstrat.training.arithmetic import Meter
from hfstrat.training.optim import restore, snapshot
from hfstrat.training.signals import Signals

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hfstrat.recipe.recipe import Recipe


@dataclass
class State:
    """A run under way.

    Args:
        prepared: What is done, with which data.
        accelerator: Where, and in which precision.
        observer: Hears what happens.
        judge: Decides and measures.
        ledger: Costs so far.
        log: Where updates and scores go.
        model: The model, not wrapped.
        training: What gradient stages train on: the training split, with a teacher's outputs and more texts if any.
        folder: The run's directory; None on processes that do not write.
        checkpoints: Writes the run's checkpoints.
        signals: Hears what asks the run to end.
        settled: Called with the recipe when a value of it is settled after the model was built.
        best: Parameters and statistics of the best state so far, by canonical name; empty before anything was trained.
        best_score: Its validation score.
        best_at: Where it was reached.
        trained: Names of all parameters that trained in any stage.
        threshold: Of decisions, such as the probability from which a label is given.
        micro: Examples that go through the model at once on each process.
        recomputes: Whether the model's blocks compute again for backward what they did not keep.
        exact: Whether a repeat of the run would give the same bytes.
        rows: Rows that alone get gradients, int64 `(n,)` by parameter; rows that train without the others are none.
        meter: Counts the arithmetic of evaluations, as the model now is.
        held_out: The validation split, if there is one.
    """

    prepared: Prepared
    accelerator: Accelerator
    observer: Observer
    judge: Judge
    ledger: Ledger
    log: Log
    model: nn.Module
    training: Encoded
    folder: Path | None = None
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    signals: Signals = field(default_factory=Signals)
    settled: Callable[[Recipe], None] = lambda recipe: None
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    best_score: Score | None = None
    best_at: str = ""
    trained: set[str] = field(default_factory=set)
    threshold: float = 0.5
    micro: int = 1
    exact: bool = True
    rows: Mapping[str, torch.Tensor] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)
    held_out: Encoded | None = field(init=False)
    recomputes: bool = field(init=False, default=False)
    _tracker_failed: bool = False

    def __post_init__(self) -> None:
        self.held_out = self.prepared.encoded.get("validation")
        if self.prepared.recipe.train.gradient_checkpointing:
            self.recompute()

    def recompute(self) -> None:
        """Let the model's blocks keep their input alone for backward, from here on."""
        if not self.recomputes:
            recompute(self.model, self.prepared.anatomy.blocks)
            self.recomputes = True

    def placed(self) -> nn.Module:
        """The model, put where it is trained; quantised weights are put there when they are loaded, and stay."""
        quantized = getattr(self.model, "is_quantized", False)
        return self.model if quantized else self.model.to(self.accelerator.device)

    def begin(self, names: set[str]) -> None:
        """Go on from the best state, with more parameters that may move."""
        restore(self.model, self.best)
        self.trained |= names
        if self.best:
            # It may stay the best one, so it has to hold all that moves from here on.
            self.best = snapshot(self.trained_tensors(self.model))

    def logits(self, model: nn.Module) -> Any:
        """What a model says about the validation split, as the task collects it; None when there is none.

        Raises:
            Interrupted: A signal asked the run to end; only where no other process waits.
        """
        if self.held_out is None:
            return None
        alone = self.accelerator.num_processes == 1
        with self.ledger.phase("evaluate") as phase, counted(self.meter, phase, self.judge):
            return outputs_of(
                model,
                self.held_out,
                self.judge,
                self.prepared.recipe,
                self.prepared.base.processor,
                self.accelerator,
                (lambda _: self.signals.check()) if alone else None,
                self.meter,
            )

    def settle_passes(self) -> None:
        """Write into the recipe how updates are made so that memory is enough, when it was found before the first."""
        recipe = self.prepared.recipe
        found = {"micro_batch_size": self.micro, "gradient_checkpointing": self.recomputes}
        train = recipe.train.model_copy(update=found)
        self.prepared = replace(self.prepared, recipe=recipe.model_copy(update={"train": train}))
        self.settled(self.prepared.recipe)

    def asked_to_end(self) -> bool:
        """Whether a signal asked any process of the run to end; all of them hear the same answer."""
        if self.accelerator.num_processes > 1:
            mine = torch.tensor([self.signals.pending or 0], device=self.accelerator.device)
            self.signals.pending = int(self.accelerator.gather(mine).max()) or None
        return self.signals.pending is not None

    def consider(self, stage: str, update: int, logits: Any, model: nn.Module) -> None:
        """Log the validation score, and keep the state if it is the best so far; without validation, the last one."""
        if logits is None or self.held_out is None:
            self._keep(stage, update, model, None)
            return
        with self.ledger.phase("evaluate"):
            examples = self.held_out.examples
            score = self.judge.score(logits, examples)
            decoded = self.judge.decode(logits, self.judge.threshold(logits, examples))
            measured = self.judge.measure(decoded, examples, intervals=False)
        values = {name: found.value for name, found in measured.items()}
        record = {"stage": stage, "update": update, "split": "validation", "metrics": values, "loss": -score[1]}
        self.log.write("score", record)
        self.ledger.at_scores.append(self.ledger.seconds)
        self.observer.scored(stage, "validation", values)
        self.track({f"validation/{name}": value for name, value in values.items() if value is not None}, update)
        if self.best_score is None or score > self.best_score:
            self._keep(stage, update, model, score)

    def track(self, figures: dict[str, float], update: int) -> None:
        """Send figures to the trackers that the recipe names."""
        self.tracking(lambda: self.accelerator.log(figures, step=update))

    def tracking(self, call: Callable[[], object]) -> None:
        """Ask something of the trackers that the recipe names, until one of them fails."""
        if not self.prepared.recipe.track or self._tracker_failed:
            return
        try:
            call()
        except Interrupted:
            raise
        except Exception as error:  # a tracker is somebody else's program; hours of training do not hang on it
            self._tracker_failed = True
            self.observer.warn(f"a tracker failed, and gets nothing more: {type(error).__name__}: {error}")

    def _keep(self, stage: str, update: int, model: nn.Module, score: Score | None) -> None:
        self.best = snapshot(self.trained_tensors(model))
        self.best_score, self.best_at = score, f"{stage}, update {update}"

    def trained_tensors(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """All that has moved so far, by canonical name, as it is now: parameters, and statistics of batch norms."""
        parameters = {name: value for name, value in named_parameters(model) if name in self.trained}
        return {**parameters, **dict(named_buffers(model))}


def decide(state: State) -> None:
    """Settle what is chosen on validation after training: temperature and threshold."""
    task, problem, data = state.prepared.recipe.task, state.judge.labels.problem, state.held_out
    calibrate = task.calibrates and problem != "regression"
    if data is None or not (calibrate or task.thresholded(problem)):
        return
    logits = state.logits(state.model)
    assert logits is not None, "there is a validation split"
    if calibrate:
        temperature = fit_temperature(logits, data, state.prepared)
        _, _, layer = module_at(state.model, str(state.prepared.anatomy.output))
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.div_(temperature)
        logits = logits / np.float32(temperature)
        state.observer.note(f"calibrated: output layer divided by temperature {temperature:.3f}")
    state.threshold = state.judge.threshold(logits, data.examples)


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


class Patience:
    """Early stopping: how many evaluations passed without an improvement that counts."""

    def __init__(self, state: State) -> None:
        rule = state.prepared.recipe.train.early_stopping
        self.limit = rule.patience if rule else None
        self._delta = rule.min_delta if rule else 0.0
        self._state = state
        self._best = state.best_score
        self._without = 0

    def stored(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"best": self._best, "without": self._without}

    def go_on(self, stored: Mapping[str, Any]) -> None:
        """Count on from a checkpoint."""
        self._best = None if stored["best"] is None else tuple(stored["best"])
        self._without = stored["without"]

    def exhausted(self) -> bool:
        """Whether training should stop; to be asked after each evaluation."""
        if self.limit is None or self._state.best_score is None:
            return False
        better = self._best is None or self._state.best_score[0] > self._best[0] + self._delta
        self._best, self._without = (self._state.best_score, 0) if better else (self._best, self._without + 1)
        return self._without >= self.limit
