"""Training tiny models on tiny data, with the weights before and after at hand."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn

from hfstrat import execute, fitting
from hfstrat.models.anatomy import named_parameters
from hfstrat.models.build import Arithmetic, build
from hfstrat.prepare import Prepared, prepare
from hfstrat.recipe.facts import Machine
from hfstrat.recipe.loading import load
from hfstrat.runs.directory import Run
from hfstrat.scheduling import schedule
from hfstrat.state import State
from hfstrat.strategies.plan import Fit
from hfstrat.training import engine
from hfstrat.training.optim import freeze, optimizer_for
from tests import tiny

# Weights of the usual size give a tiny model logits that are all alike.
LIVELY = {"initializer_range": 0.2}
FAMILIES = tuple(tiny.FAMILIES)
STRATEGIES: dict[str, dict[str, Any]] = {
    "head": {"kind": "head"},
    "full-probe": {"kind": "full"},
    "full-random": {"kind": "full", "head_init": "random"},
    "lora": {"kind": "lora", "r": 4},
    "rslora": {"kind": "lora", "r": 4, "variant": "rslora", "head_init": "random"},
    "dora": {"kind": "lora", "r": 4, "variant": "dora"},
}
Rows = Sequence[Mapping[str, Any]]
Weights = dict[str, torch.Tensor]


def recipe(base: Path, strategy: str | dict[str, Any] = "head", name: str = "run", **sections: Any) -> dict[str, Any]:
    """A recipe for data in memory that trains for a handful of updates in fp32 without dropout."""
    data: dict[str, Any] = {
        "name": name,
        "model": {"base": str(base), "dropout": 0.0},
        "task": {"kind": "text_classification"},
        "data": {"source": "memory", "validation": 0.25, "test": 0.25},
        "strategy": STRATEGIES[strategy] if isinstance(strategy, str) else strategy,
        "train": {"epochs": 2, "batch_size": 8, "lr": 1e-3, "precision": "fp32", "threads": 1},
        "evaluate": {"metrics": ["accuracy"]},  # loading a metric takes longer than training
    }
    for section, given in sections.items():
        data[section] = {**data.get(section, {}), **given} if isinstance(given, dict) else given
    if "max_steps" in data["train"]:
        del data["train"]["epochs"]
    return data


@dataclass(frozen=True)
class Trained:
    """A finished run and what it left in memory.

    Args:
        run: Its directory.
        prepared: What was known before.
        model: The model that was saved.
        before: Parameters as they were built, by canonical name.
        after: Parameters at the end of the last stage, before the best state was put back.
    """

    run: Run
    prepared: Prepared
    model: nn.Module
    before: Weights
    after: Weights


def train(
    given: Mapping[str, Any], rows: Rows | Mapping[str, Rows], runs: Path, dtype: torch.dtype | None = None
) -> Trained:
    """Train the way a user does, with weights of any type, and look over its shoulder."""
    with overlooked(dtype) as seen:
        run = execute.train(given, data=memory(rows), runs=runs)
    _settle()
    compact = seen["prepared"].compact
    if compact is not None and len(seen["after"][compact.parameter]) < compact.rows:
        whole = seen["before"][compact.parameter].clone()
        whole[torch.from_numpy(compact.ids)] = seen["after"][compact.parameter]
        seen["after"][compact.parameter] = whole
    return Trained(run=run, **seen)


@contextmanager
def overlooked(dtype: torch.dtype | None = None) -> Iterator[dict[str, Any]]:
    """What runs leave in memory meanwhile, the last one's by name, and the type of their weights."""
    seen: dict[str, Any] = {}

    def built(*words: Any) -> nn.Module:
        model = build(*words) if dtype is None else build(*words).to(dtype)
        seen["before"] = weights(model)
        return model

    def restored(model: nn.Module, state: Weights) -> None:
        seen["after"] = weights(model)
        restore(model, state)

    def sealed(run: Run, state: State, prepared: Prepared, *words: Any) -> None:
        seen.update(model=state.model, prepared=prepared)
        seal(run, state, prepared, *words)

    restore, seal = execute.restore, execute.seal
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "build", built)
        patch.setattr(execute, "restore", restored)
        patch.setattr(execute, "seal", sealed)
        yield seen


@cache
def _settle() -> None:
    """After the first run: what the libraries keep for good need not be walked by each collection from here on."""
    gc.collect()
    gc.freeze()


def memory(rows: Rows | Mapping[str, Rows]) -> Any:
    """Rows as `source: memory` takes them."""
    if isinstance(rows, Mapping):
        return {name: Dataset.from_list([*part]) for name, part in rows.items()}
    return Dataset.from_list([*rows])


def weights(model: nn.Module) -> Weights:
    """A copy of all parameters by canonical name."""
    return {name: parameter.detach().clone() for name, parameter in named_parameters(model)}


def prepared_for(given: Mapping[str, Any], rows: Rows | Mapping[str, Rows]) -> Prepared:
    """What is known before a weight is read."""
    parsed, source = load(given, ())
    return prepare(parsed, Machine("cpu", 1, 1, 1, False), memory=memory(rows), source=source)


def built(prepared: Prepared, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model as a run builds it."""
    recipe = prepared.recipe
    model = build(
        prepared.base,
        prepared.shape,
        prepared.plan,
        prepared.anatomy,
        recipe.seed,
        recipe.task.peft_task_type,
        Arithmetic("fp32"),
    )
    return model.to(dtype)


def fit_of(prepared: Prepared) -> Fit:
    """The gradient stage of a plan."""
    return next(stage for stage in prepared.plan.stages if isinstance(stage, Fit))


def fitted(
    prepared: Prepared, micro: int, dtype: torch.dtype = torch.float64, accelerator: Accelerator | None = None
) -> tuple[Weights, list[float]]:
    """Train by the loop as a run does, in any precision.

    Returns:
        Parameters by canonical name, and the loss of each update.
    """
    accelerator = accelerator or Accelerator(cpu=True)
    model, stage = built(prepared, dtype), fit_of(prepared)
    freeze(model, stage)
    data = prepared.encoded["train"]
    steps = list(schedule(prepared.recipe, prepared.plan, data, stage))
    settings = fitting.settings_of(prepared.recipe, len(steps))
    wrapped, optimizer = accelerator.prepare(model, optimizer_for(model, stage, settings))
    updates = engine.fit(
        wrapped,
        optimizer,
        (fitting.step_of(step, prepared, data, accelerator, micro) for step in steps),
        fitting.sum_loss(prepared, accelerator.device),
        settings,
        accelerator,
        seed=prepared.recipe.seed,
        stage=stage.name,
    )
    losses = [float(update.loss) for update in updates]
    return weights(wrapped), losses


def largest_difference(one: Weights, other: Weights) -> float:
    """The largest absolute difference over all parameters, which have to be the same ones."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def sha256(run: Run) -> str:
    """Digest of the weights that a run stored."""
    (file,) = run.artifact.glob("*.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()
