"""Runs to interrupt, and all that two runs have to have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from hfstrat import fitting
from hfstrat.runs.directory import Run
from hfstrat.runs.events import Observer
from tests.training.helpers import LIVELY, recipe

STRATEGIES: dict[str, dict[str, Any]] = {
    "scratch": {"kind": "scratch", "tokenizer": {"kind": "wordpiece", "vocab_size": 200}},
    "head": {"kind": "head"},
    "head-adamw": {"kind": "head", "solver": "adamw"},
    "partial": {"kind": "partial", "last_n": 2, "gradual": True, "layer_decay": 0.9},
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "r": 4},
    "qlora": {"kind": "qlora", "r": 4},
    "adalora": {"kind": "peft", "method": "ADALORA"},
    "distill": {"kind": "distill", "student": {"weights": "base", "every": 2}},
}


def recipe_for(
    strategy: str, tiny_base: Callable[..., Path], teacher: Path | None = None, **sections: Any
) -> dict[str, Any]:
    """A recipe with dropout, which writes a checkpoint after every third update."""
    chosen = dict(STRATEGIES[strategy])
    if strategy == "distill":
        chosen["teacher"] = str(teacher)
    model: dict[str, Any] = {"dropout": 0.1, **sections.pop("model", {})}
    if strategy == "scratch":
        model["config"] = {"initializer_range": 0.2}
    train = {"epochs": 4, "batch_size": 7, "micro_batch_size": 4, "checkpoint_every": 3, **sections.pop("train", {})}
    return recipe(tiny_base("bert", **LIVELY), chosen, model=model, train=train, **sections)


class Calls(Observer):
    """Counts what a run tells, and does something when it is told for the n-th time.

    Args:
        at: When.
        what: What to do.
    """

    def __init__(self, at: int = 0, what: Callable[[], None] = lambda: None) -> None:
        self.count, self._at, self._what = 0, at, what
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def _called(self) -> None:
        self.count += 1
        if self.count == self._at:
            self._what()

    def advance(self, done: int = 1, **shown: Any) -> None:
        self._called()

    def phase(self, name: str, total: int | None, unit: str, done: int = 0) -> None:
        self._called()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def substance(run: Run) -> dict[str, Any]:
    """All of a run that has to be the same when it is repeated: tensors, predictions, scores, log."""
    tensors = {
        f"{file.name}/{name}": hashlib.sha256(value.tobytes()).hexdigest()
        for file in sorted(run.artifact.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }
    frame = run.predictions()
    predictions = {name: [_plain(value) for value in frame[name]] for name in frame.columns}
    names = ("tokenizer.json", "preprocessor_config.json")
    processors = [run.artifact / name for name in names if (run.artifact / name).is_file()]
    assert processors, "texts or pictures are made into inputs"
    return {
        "tensors": tensors,
        "predictions": predictions,
        "metrics": run.metrics,
        "log": run.log(),
        "processor": [hashlib.sha256(file.read_bytes()).hexdigest() for file in processors],
    }


def _plain(value: Any) -> Any:
    """Numbers as their bits, for NaN is not equal to itself; texts as they are."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if not hasattr(value, "tobytes"):
        return value
    return [_plain(one) for one in value] if value.dtype == object else value.tobytes().hex()


def files_of(run: Run) -> list[str]:
    """Names of what a run left, its lock apart."""
    return sorted(
        str(file.relative_to(run.path)) for file in run.path.rglob("*") if file.is_file() and file.name[0] != "."
    )


def status_of(run: Run) -> dict[str, Any]:
    """`status.json`."""
    found: dict[str, Any] = json.loads((run.path / "status.json").read_text("utf-8"))
    return found


def short_of_memory(
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    after: int = 0,
    enough: Callable[[nn.Module], bool] = lambda model: False,
) -> None:
    """Let every forward pass in training run out of memory that takes more than so many of the longest texts.

    Args:
        monkeypatch: The test's own.
        most: So many.
        after: Passes before memory is short.
        enough: Whether a model takes less than is there, whatever goes through it.
    """
    passes = [0]
    longest = [0]

    def logits(model, batch, device):
        if torch.is_grad_enabled():
            tokens = batch.inputs["input_ids"]
            passes[0], longest[0] = passes[0] + 1, max(longest[0], tokens.shape[1])  # the first pass has the longest
            if passes[0] > after and tokens.numel() > most * longest[0] and not enough(model):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return compute(model, batch, device)

    compute = fitting.engine.logits_of
    monkeypatch.setattr(fitting.engine, "logits_of", logits)
