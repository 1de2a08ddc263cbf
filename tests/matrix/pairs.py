"""Pairs of a strategy and an architecture that are trained for a few updates, each stage watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from hfstrat import execute, fitting, solving
from hfstrat.models.anatomy import named_buffers
from hfstrat.models.build import Added
from hfstrat.outline import outline
from hfstrat.state import State
from hfstrat.strategies.plan import ADAPTER, Anatomy, Plan, Solve, Stage, matches
from hfstrat.tasks.base import FloatArray
from hfstrat.training import scoring
from hfstrat.training.optim import restore
from tests import elsewhere, tiny
from tests.training import helpers
from tests.training.helpers import Weights, weights

LABELS = ("negative", "positive")
TEXT = (*tiny.FAMILIES, *tiny.MORE_TEXT)
AUTO = {
    **dict.fromkeys(TEXT, "AutoModelForSequenceClassification"),
    **dict.fromkeys(tiny.OTHERS, "AutoModelForImageClassification"),
    "wav2vec2": "AutoModelForAudioClassification",
}
STRATEGIES: dict[str, dict[str, Any]] = {
    "scratch": {"kind": "scratch"},
    "head": {"kind": "head"},
    "partial": {"kind": "partial", "last_n": 1},
    "gradual": {"kind": "partial", "last_n": 2, "gradual": True, "layer_decay": 0.8},
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "r": 4},
    "qlora": {"kind": "qlora", "r": 4},
    "ia3": {"kind": "peft", "method": "IA3"},
    "vera": {"kind": "peft", "method": "VERA"},
    "ln_tuning": {"kind": "peft", "method": "LN_TUNING"},
    "adalora": {"kind": "peft", "method": "ADALORA"},
    "distill": {"kind": "distill", "student": {"every": 2}},
}
# Far more than usual, so that a few updates are seen in the logits; these two multiply several small factors.
LR = {**dict.fromkeys(STRATEGIES, 1e-2), **dict.fromkeys(("vera", "adalora"), 0.1)}
FOUR_BLOCKS: dict[str, dict[str, Any]] = {
    **{family: {"num_hidden_layers": 4} for family in tiny.ALL},
    "distilbert": {"n_layers": 4},
    "gpt2": {"n_layer": 4},
    "t5": {"num_layers": 4, "num_decoder_layers": 4},
    "bart": {"encoder_layers": 4, "decoder_layers": 4},
    "resnet": {"depths": [2, 2]},
    "convnext": {"depths": [2, 2]},
}
LIVELY: dict[str, dict[str, Any]] = {
    **dict.fromkeys(tiny.ALL, helpers.LIVELY),
    "convnext": {**helpers.LIVELY, "layer_scale_init_value": 0.5},  # its blocks start as next to nothing
    "bart": {"init_std": 0.2},
    "t5": {},
    "resnet": {},
}
Bases = Callable[..., Path]


@dataclass(frozen=True)
class Moved:
    """A stage, and the parameters and statistics that it left other than it found them."""

    stage: Stage
    parameters: frozenset[str]
    statistics: frozenset[str]


@dataclass(frozen=True, repr=False)
class Pair:
    """A strategy on an architecture, done.

    Args:
        anatomy: Where the model keeps its parts.
        plan: What the strategy planned.
        added: What its adapter added.
        outline: What is said to train.
        model: The model that was saved.
        before: Parameters as they were built, by canonical name.
        after: Parameters at the end of the last stage, before the best state was put back.
        moved: What each stage moved.
        kept: Parameters and statistics of the state that was to be kept.
        logits: What the model says about a few examples, `(n, classes)`.
        without: What it says when all but its head is as it was built; all of it, where the head alone trains.
        program: Lines that load it without hfstrat and leave the same `logits`.
    """

    anatomy: Anatomy
    plan: Plan
    added: Added
    outline: Mapping[str, Any]
    model: nn.Module
    before: Weights
    after: Weights
    moved: Sequence[Moved]
    kept: Weights
    logits: FloatArray
    without: FloatArray
    program: str

    def planned(self, stage: Stage) -> set[str]:
        """Names of the parameters that a stage trains."""
        if isinstance(stage, Solve):
            return {name for name in self.before if name.startswith(f"{stage.output}.")}
        added = self.added.trains if ADAPTER in stage.train else frozenset()
        return {name for name in self.before if name in added or matches(name, stage.train)}


def crossed(families: Sequence[str], strategies: Sequence[str]) -> list[Any]:
    """Families and strategies as parameters: all strategies on bert and two on each by default, the others slow."""
    return [
        pytest.param(family, kind, marks=() if family == "bert" or kind in ("head", "lora") else pytest.mark.slow)
        for family in families
        for kind in strategies
    ]


def base_of(family: str, bases: Bases, **fields: Any) -> Path:
    """The tiny base of a family, whose logits are not all alike."""
    return bases(family, **LIVELY[family], **fields)


def settings_of(family: str, strategy: str, bases: Bases, folder: Path) -> dict[str, Any]:
    """A strategy as a recipe has it, with a teacher where it needs one."""
    given = STRATEGIES[strategy]
    return given if strategy != "distill" else {**given, "teacher": str(_teacher(family, bases, folder / "teacher"))}


def _teacher(family: str, bases: Bases, folder: Path) -> Path:
    """A classifier of four blocks for the same labels, not trained."""
    base = base_of(family, bases, **FOUR_BLOCKS[family])
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: place for place, name in enumerate(LABELS)}}
    torch.manual_seed(0)
    getattr(transformers, AUTO[family]).from_pretrained(base, **names).save_pretrained(folder)
    if family in TEXT:
        transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def trained(family: str, strategy: str, bases: Bases, folder: Path, **task: Any) -> Pair:
    """Train on a few texts the way a user does, and look over its shoulder."""
    settings = settings_of(family, strategy, bases, folder)
    brief = {"epochs": 1, "batch_size": 4, "lr": LR[strategy]}
    given = helpers.recipe(base_of(family, bases), settings, task=task, train=brief, evaluate={"every": 100})
    moved: list[Moved] = []

    def followed(self: fitting._Following, updates: Any, done: int) -> None:
        self.state.best_score = None  # the end of each stage is kept
        with watching(self.stage, self.model, moved):
            follow(self, updates, done)

    def solved(stage: Solve, state: State) -> None:
        with watching(stage, state.model, moved):
            solve(replace(stage, l2=stage.l2[:2], max_iterations=10), state)  # how well does not matter here

    follow, solve = fitting._Following.follow, execute.run_solve
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting._Following, "follow", followed)
        patch.setattr(execute, "run_solve", solved)
        for module, name in ((solving, "live_of_features"), (fitting, "_live_of_updates")):
            patch.setattr(module, name, lambda *_: 0)  # measuring takes time, and leaves no trace
        found = helpers.train(given, tiny.reviews(16), folder)
    prepared = found.prepared

    def scored(model: nn.Module) -> FloatArray:
        return scoring.logits(model, prepared.encoded["test"], 64)

    return Pair(
        anatomy=prepared.anatomy,
        plan=prepared.plan,
        added=prepared.added,
        outline=outline(prepared),
        model=found.model,
        before=found.before,
        after=found.after,
        moved=moved,
        kept=found.after,
        logits=scored(found.model),
        without=without(found.model, prepared.anatomy, found.before, scored),
        program=elsewhere.program(found.run, prepared.base.location, prepared.material.examples["test"].texts),
    )


def without(
    model: nn.Module, anatomy: Anatomy, before: Weights, logits: Callable[[nn.Module], FloatArray]
) -> FloatArray:
    """Logits when all but the head is as it was built, or all where nothing else moved."""
    now = weights(model) | statistics_of(model)
    moved = different(before, weights(model))
    body = {name: before[name] for name in moved if not matches(name, anatomy.head_patterns)}
    restore(model, body or before)
    found = logits(model)
    restore(model, now)
    return found


@contextmanager
def watching(stage: Stage, model: nn.Module, moved: list[Moved]) -> Iterator[None]:
    """Note what moves meanwhile."""
    parameters, statistics = weights(model), statistics_of(model)
    yield
    moved.append(Moved(stage, different(parameters, weights(model)), different(statistics, statistics_of(model))))


def statistics_of(model: nn.Module) -> Weights:
    """A copy of the buffers that training moves, by canonical name."""
    return {name: buffer.clone() for name, buffer in named_buffers(model)}


def different(one: Weights, other: Weights) -> frozenset[str]:
    """Names of the tensors that are not equal bit for bit."""
    assert one.keys() == other.keys()
    return frozenset(name for name, value in one.items() if not torch.equal(value, other[name]))
