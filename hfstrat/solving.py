"""The Solve stage: the output layer on features of a frozen body, which runs once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import broadcast
from torch import nn

from hfstrat.caching import features_of
from hfstrat.data.batching import Batch, evaluation_batches
from hfstrat.models.anatomy import module_at, named_parameters
from hfstrat.models.quantize import tensors
from hfstrat.prepare import Prepared
from hfstrat.runs.events import Observer
from hfstrat.state import State
from hfstrat.strategies.plan import Solve
from hfstrat.tasks.base import FloatArray
from hfstrat.training import engine, scoring
from hfstrat.training.memory import LiveBytes
from hfstrat.training.solve import Solution, solve


def run_solve(stage: Solve, state: State) -> None:
    """Run the body once, solve the output layer, and put it in."""
    accelerator, observer = state.accelerator, state.observer
    model = state.placed()
    layer: Any = module_at(model, stage.output)[2]
    with state.ledger.phase("solve") as phase:
        features = features_of_splits(stage.output, model, state)
        observer.phase(stage.name, len(stage.l2), "strengths")
        if accelerator.is_main_process:
            solution = _told(stage, features, layer, state)
            phase.computed(solution.flops)
            _put_in(layer, solution)
        for parameter in layer.parameters():
            broadcast(parameter.data)
    with state.ledger.phase("measure"):
        phase.peak_live_bytes = live_of_features(model, features, longest_batch(state), state)
    outputs = (f"{stage.output}.weight", f"{stage.output}.bias")
    state.trained |= {name for name, _ in named_parameters(model) if name in outputs}
    held_out = features.get("validation")
    logits = None if held_out is None else _numpy(nn.functional.linear(held_out, layer.weight, layer.bias))
    state.consider(stage.name, 0, logits, model)
    state.checkpoints.save(state, state.prepared.plan.place_of(stage) + 1, 0)


def features_of_splits(output: str, model: nn.Module, state: State) -> dict[str, torch.Tensor]:
    """What the output layer gets, for the training and validation splits, float32 `(units, features)`.

    Args:
        output: Canonical path of that layer.
        model: The model, where it is run.
        state: The run, in whose phase `solve` this is.
    """
    splits = {name: part for name, part in state.prepared.encoded.items() if name != "test"}
    state.observer.phase("features", sum(map(len, splits.values())), "texts")
    return {name: features_of(model, output, part, state) for name, part in splits.items()}


def _told(stage: Solve, features: Mapping[str, torch.Tensor], layer: Any, state: State) -> Solution:
    """The solution of a stage, with its path in the run's log."""
    solution = solution_of(stage, features, state, bias=layer.bias is not None, observer=state.observer)
    path = [{"l2": l2, "loss": -score} for l2, score in solution.path]
    state.log.write("solve", {"stage": stage.name, "l2": solution.l2, "path": path})
    return solution


def solution_of(
    stage: Solve,
    features: Mapping[str, torch.Tensor],
    state: State,
    *,
    bias: bool,
    among: torch.Tensor | None = None,
    observer: Observer | None = None,
) -> Solution:
    """The output layer, at the strength with the lowest loss on what was held out.

    Args:
        stage: The strengths, and how long each is sought.
        features: Of the training and validation splits, as `features_of_splits` gives them.
        state: The run, of which the data and the judge are needed.
        bias: Whether the layer has a bias.
        among: The units of the training split that are learned from, bool `(units,)`; None for all.
        observer: Hears of each strength.
    """
    name = "validation" if "validation" in features else "train"
    examples = state.prepared.material.examples[name]
    listener = observer or Observer()
    seen = ~torch.isnan(features["train"][:, 0])
    new = None
    if among is not None:
        seen &= among.to(seen.device)
        new = _new_classes(state.prepared, name, seen)

    def held_out(predict: Any) -> float:
        logits = _numpy(predict(features[name]))
        if new is not None:
            logits[new] = np.nan
        return -state.judge.loss(logits, examples)

    return solve(
        features["train"] if bool(seen.all()) else features["train"][seen],
        _mean_loss(state.prepared, seen),
        len(state.judge.labels.names),
        stage.l2,
        held_out,  # by loss, which is smooth where few validation items make steps of accuracy
        bias=bias,
        max_iterations=stage.max_iterations,
        progress=lambda l2, score: listener.advance(1, l2=l2, loss=-score),
    )


def _new_classes(prepared: Prepared, name: str, learned: torch.Tensor) -> npt.NDArray[np.bool_] | None:
    """The units of a split whose class is not among those that are learned, bool `(units,)`; None for other targets.

    A class without examples has a loss without bound, which the strongest penalty has least of whatever it does to the
    other classes.
    """
    targets = [np.asarray(prepared.encoded[split].targets) for split in ("train", name)]
    if targets[0].ndim != 1:
        return None
    return ~np.isin(targets[1], targets[0][learned.cpu().numpy()])


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


def longest_batch(state: State) -> Batch:
    """The batch of the feature pass that takes most memory."""
    return next(evaluation_batches(state.prepared.encoded["train"], state.prepared.recipe.evaluate.batch_size))


def live_of_features(model: nn.Module, features: Mapping[str, torch.Tensor], longest: Batch, state: State) -> int:
    """Live bytes while a batch of the feature pass is computed.

    Args:
        model: The model.
        features: What the pass gives, `(units, features)` for each split.
        longest: The batch.
        state: The run.
    """
    device = state.accelerator.device
    if device.type != "cpu":
        return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    resident = [*tensors(model), *features.values()]
    with scoring.inferring(model, state.accelerator), LiveBytes(resident) as live:
        engine.logits_of(model, longest, device)
    return live.peak


def _mean_loss(prepared: Prepared, seen: torch.Tensor) -> Any:
    """Mean loss over the units of the training split that the model sees, bool `(units,)`."""
    task, labels = prepared.recipe.task, prepared.material.labels
    targets = torch.from_numpy(np.asarray(prepared.encoded["train"].targets)).to(seen.device)[seen]
    weights = prepared.class_weights(seen.device)
    divisor = task.weight(targets, labels.problem, weights=weights)
    smoothing = prepared.recipe.train.label_smoothing

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return task.loss(logits, targets, labels.problem, weights=weights, label_smoothing=smoothing) / divisor

    return loss
