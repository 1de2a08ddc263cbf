"""Probing: from data and base to the evidence, at the price of one pass through the frozen body.

The test split is counted and not looked at: what is fitted is fitted on training examples, and scored on validation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from hfstrat import metrics
from hfstrat.errors import Problem, UsageError
from hfstrat.execute import judge_of, model_of
from hfstrat.judge import Judge
from hfstrat.prepare import Material, Prepared, prepare
from hfstrat.processes import accelerator_for, threads_of
from hfstrat.recipe.loading import Source
from hfstrat.recipe.recipe import Recipe
from hfstrat.runs.events import Observer
from hfstrat.runs.records import Ledger, Log
from hfstrat.solving import features_of_splits, solution_of
from hfstrat.state import State
from hfstrat.strategies.head import Head
from hfstrat.strategies.plan import Solve
from hfstrat.study.advise.evidence import POINTS, Evidence, Floor, Level, Probe, Slope
from hfstrat.study.floors import FLOORS
from hfstrat.study.statistics import detectable_difference
from hfstrat.tasks import TextClassification
from hfstrat.tasks.base import Examples, FloatArray, IntArray
from hfstrat.training.machine import keep_memory, machine

SHARES = (16, 8, 4, 2)
"""What the examples are divided by for a curve."""
DRAWS = 3
"""Draws of the examples of each smaller size; those of one draw contain those of its smaller sizes."""
LEAST = 16
"""Examples below which nothing is fitted."""
NEIGHBOURS = 5
AT_ONCE = 1024
"""Examples whose neighbours are sought together."""
DISAGREEING = 0.1
"""Share of the test items on which two strategies are assumed to disagree, as in `compare`."""


def gather(
    recipe: Recipe, material: Material, source: Source | None, data: Any, observer: Observer, *, seed: int
) -> Evidence:
    """All evidence there is.

    Args:
        recipe: What is asked about.
        material: Its data.
        source: Where the recipe's fields stand, for messages.
        data: Data handed over in Python.
        observer: Hears what happens.
        seed: Of the draws of examples.

    Raises:
        UsageError: There is nothing to select by.
    """
    if "validation" not in material.examples:
        hint = "Set data.validation to a share of the training rows, a split or a file"
        raise UsageError(
            Problem("advice is about scores on validation, and there is no such split", "data.validation", hint=hint)
        )
    prepared, reason = _probed(recipe, material, source, data, observer)
    judge = judge_of(prepared)
    name, problem = judge.select_by, material.labels.problem
    metric = metrics.lookup(name, problem)
    rows, tests = len(prepared.encoded["train"]), len(prepared.encoded.get("test", ()))
    body, output = prepared.anatomy.body_size, prepared.anatomy.is_linear_probe
    found = Evidence(
        recipe.task.kind,
        problem,
        name,
        metric.higher_is_better,
        None,
        rows,
        len(material.labels.names) if problem != "regression" else 0,
        len(prepared.encoded["validation"]),
        tests,
        POINTS * detectable_difference(tests, DISAGREEING) if tests and metric.unit == "fraction" else None,
        body,
        output and not reason.pooled,
        without_probe=reason.text,
        warnings=material.warnings,
    )
    draws = _draws(rows, np.random.default_rng([seed, 0]))
    measured = _Measured(prepared.material, judge, metric.higher_is_better, material)
    floors = {kind: measured.floor(kind, draws) for kind in recipe.task.floors}
    majority = floors.get("majority")
    point = _point(metric, majority.validation if majority else None)
    probe = None
    if point is not None and not reason.text:
        observer.note("one pass through the frozen base, for a linear probe and its neighbours")
        probe = measured.probe(prepared, draws, observer, pooled=reason.pooled)
    elif not reason.text:
        found = replace(found, without_probe=f"nothing says how much of {name} a point is")
    return replace(found, point=point, probe=probe, floors=floors)


def _point(metric: metrics.Metric, majority: float | None) -> float | None:
    """What a point is: a hundredth of a fraction, or of the error that the same answer for everything has."""
    if metric.unit in ("fraction", "correlation"):
        return 1 / POINTS
    if metric.unit == "points":
        return 1.0
    return majority / POINTS if not metric.higher_is_better and majority else None


@dataclass(frozen=True)
class _Reason:
    """Why there is no probe, or that its features are others than the base's own head gets."""

    text: str = ""
    pooled: bool = False


def _probed(
    recipe: Recipe, material: Material, source: Source | None, data: Any, observer: Observer
) -> tuple[Prepared, _Reason]:
    """What a probe is made of, or what else is to be known where there is none."""

    def prepared(asked: Recipe) -> Prepared:
        # Teachers are not asked, and what is decided for the probe is not decided for the user.
        return prepare(asked, machine(), memory=data, source=source, known=material, teacher_is_there=False)

    given = recipe.strategy
    strategy = Head(l2=given.l2) if isinstance(given, Head) else Head()
    # A configuration beside a base is the shape of random weights, which is what another strategy begins with.
    shapeless = {"model": recipe.model.model_copy(update={"config": None})}
    head = recipe.model_copy(update={"strategy": strategy, **shapeless})
    if given.body().weights == "pretrained":
        recipe = recipe.model_copy(update=shapeless)
    if recipe.model.base is None:
        return prepared(recipe), _Reason("there are no pretrained weights, so no features")
    if not recipe.task.solvable:
        return prepared(recipe), _Reason(
            f"what {recipe.task.kind} predicts is no linear layer on features that stay as they are"
        )
    if "head" in recipe.task.refused:
        return prepared(recipe), _Reason(recipe.task.refused["head"])
    try:
        found = prepared(head)
    except UsageError:
        return prepared(recipe), _Reason("the base's head cannot train alone")
    if _is_probe(found):
        return found, _Reason()
    if isinstance(recipe.task, TextClassification):
        pooled = prepared(head.model_copy(update={"task": recipe.task.model_copy(update={"pooling": "mean"})}))
        if _is_probe(pooled):
            observer.note("the base's head has several layers: the probe is on means over its tokens")
            return pooled, _Reason(pooled=True)
    return found, _Reason("the base's head has several layers, of which the lower ones would stay random")


def _is_probe(prepared: Prepared) -> bool:
    """Whether a head is solved and nothing else is trained, so that what it gets is what the base gives."""
    stages = prepared.plan.stages
    return len(stages) == 1 and isinstance(stages[0], Solve)


def _draws(rows: int, generator: np.random.Generator) -> list[IntArray]:
    """Orders of the examples; what comes first in one is a smaller set of them."""
    return [generator.permutation(rows) for _ in range(DRAWS)]


@dataclass(frozen=True)
class _Measured:
    """Measures what is fitted on parts of a training split.

    Args:
        material: The data.
        judge: Its judge.
        up: Whether more of the deciding metric is better.
        known: The data as they were read.
    """

    material: Material
    judge: Judge
    up: bool
    known: Material

    def score(self, logits: FloatArray, split: str) -> float:
        """The deciding metric; what is undefined counts as nothing."""
        signed = self.judge.score(logits, self.material.examples[split])[0]
        return signed if self.up else -signed

    def floor(self, kind: Any, draws: Sequence[IntArray]) -> Floor:
        """A floor with its curve: of each smaller size one draw, for words none."""
        train, held_out = self.material.examples["train"], self.material.examples["validation"]

        def fitted(material: Material) -> float:
            predict, _ = FLOORS[kind](material, self.judge)
            return self.score(predict(held_out), "validation")

        levels = []
        for rows in _sizes(len(train)) if train.words is None else []:
            part = subset(train, np.sort(draws[0][:rows]))
            if _learnable(part):
                some = replace(self.material, examples={"train": part, "validation": held_out})
                levels.append(Level(rows, (fitted(some),)))
        levels.append(Level(len(train), (fitted(self.material),)))
        return Floor(tuple(levels), slope(levels))

    def probe(self, prepared: Prepared, draws: Sequence[IntArray], observer: Observer, *, pooled: bool) -> Probe:
        """The probe on all examples and on fewer, and what else there is in its features."""
        state = _state(prepared, observer)
        stage = prepared.plan.stages[0]
        assert isinstance(stage, Solve), "a probe is solved"
        with state.ledger.phase("solve"):
            features = features_of_splits(stage.output, state.placed(), state)
        train = prepared.encoded["train"]
        bias = prepared.anatomy.output_bias

        def solved(among: torch.Tensor | None) -> Any:
            return solution_of(stage, features, state, bias=bias, among=among)

        def said(solution: Any, split: str) -> FloatArray:
            found: FloatArray = functional.linear(features[split], solution.weight, solution.bias).float().cpu().numpy()
            return found

        observer.phase("probe", 1 + len(_sizes(len(train))) * len(draws), "heads")
        levels = []
        for rows in _sizes(len(train)):
            scores = []
            for order in draws:
                chosen = np.sort(order[:rows])
                if _learnable(self.material.examples["train"], train.units_of(chosen)):
                    among = torch.zeros(train.count, dtype=torch.bool)
                    among[torch.from_numpy(np.asarray(train.units_of(chosen)))] = True
                    scores.append(self.score(said(solved(among), "validation"), "validation"))
                observer.advance()
            levels += [Level(rows, tuple(scores))] if scores else []
        whole = solved(None)
        observer.advance()
        logits = said(whole, "validation")
        levels.append(Level(len(train), (self.score(logits, "validation"),)))
        low, high = self._interval(logits)
        return Probe(
            levels[-1].mean,
            self.score(said(whole, "train"), "train"),
            whole.l2,
            low,
            high,
            self.score(self._neighbours(features), "validation"),
            self._means(features),
            tuple(levels),
            slope(levels),
            pooled,
        )

    def _interval(self, logits: FloatArray) -> tuple[float | None, float | None]:
        held_out = self.material.examples["validation"]
        decoded = self.judge.decode(logits, self.judge.threshold(logits, held_out))
        name = self.judge.select_by
        found = self.judge.measure(decoded, held_out, [name], intervals=True)[name]
        return found.low, found.high

    def _targets(self) -> torch.Tensor:
        """What is true of each training unit, as numbers that can be averaged: float `(units, outputs)`."""
        targets = torch.from_numpy(np.asarray(self.material.examples["train"].targets))
        if targets.ndim == 1:
            return functional.one_hot(targets, len(self.material.labels.names)).float()
        return targets.float()

    def _neighbours(self, features: dict[str, torch.Tensor]) -> FloatArray:
        """What the nearest training units have on average, by cosine: float32 `(units, outputs)`."""
        train, held_out = (functional.normalize(features[name], dim=1) for name in ("train", "validation"))
        seen = ~torch.isnan(train[:, 0])
        known, targets = train[seen], self._targets().to(train.device)[seen]
        count = min(NEIGHBOURS, len(known))
        found = torch.full((len(held_out), targets.shape[1]), torch.nan)
        for first in range(0, len(held_out), AT_ONCE):
            near = (held_out[first : first + AT_ONCE] @ known.T).topk(count, dim=1)
            # The nearest counts a little more, so that a tie is decided.
            weights = torch.softmax(near.values, dim=1)[..., None]
            found[first : first + AT_ONCE] = (targets[near.indices] * weights).sum(1).cpu()
        return self._as_logits(found, torch.isnan(held_out[:, 0]).cpu())

    def _means(self, features: dict[str, torch.Tensor]) -> float | None:
        """Score of the class whose training units' mean is nearest by cosine; None where units have no one class."""
        if np.asarray(self.material.examples["train"].targets).ndim != 1:
            return None
        train, held_out = (functional.normalize(features[name], dim=1) for name in ("train", "validation"))
        seen = ~torch.isnan(train[:, 0])
        means = functional.normalize(self._targets().to(train.device)[seen].T @ train[seen], dim=1)
        return self.score((held_out @ means.T).float().cpu().numpy(), "validation")

    def _as_logits(self, shares: torch.Tensor, unseen: torch.Tensor) -> FloatArray:
        if self.material.labels.problem == "multi_label":
            shares = shares.clamp(1e-3, 1 - 1e-3).logit()
        elif self.material.labels.problem != "regression":
            shares = shares.clamp(min=1e-3).log()
        shares[unseen] = torch.nan
        found: FloatArray = shares.numpy()
        return found


def subset(examples: Examples, rows: IntArray) -> Examples:
    """Some examples with their targets, where each is one unit."""
    assert examples.targets is not None, "training examples have targets"
    return replace(examples.taken(rows), targets=examples.targets[rows])


def slope(levels: Sequence[Level]) -> Slope | None:
    """What twice the examples add, by a line through the last three sizes of a curve."""
    last = [(math.log2(level.rows), score) for level in levels[-3:] for score in level.scores]
    sizes = {x for x, _ in last}
    if len(sizes) < 2:
        return None
    from scipy import stats

    line = stats.linregress([x for x, _ in last], [y for _, y in last])
    value = float(line.slope)
    if len(last) < 4:
        return Slope(value, None, None)
    half = float(stats.t.ppf(0.975, len(last) - 2) * line.stderr)
    return Slope(value, value - half, value + half)


def _sizes(rows: int) -> list[int]:
    """Sizes of smaller parts of so many examples."""
    return [rows // share for share in SHARES if rows // share >= LEAST]


def _learnable(examples: Examples, units: IntArray | None = None) -> bool:
    """Whether there are two different targets at least."""
    targets = np.asarray(examples.targets)
    return len(np.unique(targets if units is None else targets[units], axis=0)) > 1


def _state(prepared: Prepared, observer: Observer) -> State:
    """A run of which nothing is written, as far as a pass through its model."""
    recipe, here = prepared.recipe, machine()
    torch.set_num_threads(threads_of(recipe, here))
    if here.device == "cpu":
        keep_memory()
    model = model_of(prepared)
    accelerator = accelerator_for(recipe, Path("nowhere"))
    return State(
        prepared, accelerator, observer, judge_of(prepared), Ledger(), Log(None), model, prepared.encoded["train"]
    )
