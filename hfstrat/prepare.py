"""The first half of a run: from a recipe to everything that is known before a weight is read. Writes nothing.

`validate` ends here. Data and model are looked at independently, so that one wrong column does not hide a
misspelt model: all problems are raised together.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hfstrat.data import audit as auditing
from hfstrat.data import sources
from hfstrat.data.splits import Splits, split, train_name
from hfstrat.errors import DataError, Problem, RecipeError, UsageError
from hfstrat.models.base import Base, open_base
from hfstrat.models.build import Shape, plan_shape
from hfstrat.recipe.data import MemoryData
from hfstrat.recipe.facts import Facts, Machine
from hfstrat.recipe.loading import Source
from hfstrat.recipe.recipe import Recipe
from hfstrat.recipe.resolve import Decision, resolve
from hfstrat.runs.events import Observer
from hfstrat.runs.records import Ledger
from hfstrat.strategies.plan import Anatomy, Plan
from hfstrat.tasks.base import Encoded, Examples, Labels

HINT_RUNS = "Name another folder with --runs (in Python: runs=…)"
LONGEST = 512
SPLITS = ("train", "validation", "test")
T = TypeVar("T")


@dataclass(frozen=True)
class Material:
    """The data, read and audited.

    Args:
        examples: Texts and targets of each split.
        labels: Classes or outputs.
        labels_reason: Why the problem was taken for what it is.
        audit: What the audit found, as plain data.
        warnings: Its warnings.
        fingerprint: Digest of the data.
        origin: Where the data came from, in words.
        reasons: How the splits came about.
        splits: The split or the share of rows that each part is.
        columns: The column of each role that the data has.
    """

    examples: Mapping[str, Examples]
    labels: Labels
    labels_reason: str
    audit: Mapping[str, Any]
    warnings: tuple[str, ...]
    fingerprint: str
    origin: str
    reasons: tuple[str, ...]
    splits: Mapping[str, str | float]
    columns: Mapping[str, str | tuple[str, ...]]

    @property
    def rows(self) -> dict[str, int]:
        """Examples of each split."""
        return {name: len(examples) for name, examples in self.examples.items()}


@dataclass(frozen=True)
class Prepared:
    """All that is known before a weight is read.

    Args:
        requested: The recipe as written.
        recipe: The recipe with no `auto` left.
        decisions: What was chosen for each `auto`, and why.
        material: The data.
        encoded: The splits, tokenised.
        base: The base model.
        shape: What the model looks like.
        anatomy: Where it keeps its parts.
        plan: What the strategy does with it.
    """

    requested: Recipe
    recipe: Recipe
    decisions: tuple[Decision, ...]
    material: Material
    encoded: Mapping[str, Encoded]
    base: Base
    shape: Shape
    anatomy: Anatomy
    plan: Plan


def prepare(
    recipe: Recipe,
    machine: Machine,
    *,
    memory: Any = None,
    source: Source | None = None,
    ledger: Ledger | None = None,
    observer: Observer | None = None,
) -> Prepared:
    """Read data and base model, settle every `auto`, and plan.

    Args:
        recipe: What to do.
        machine: Where.
        memory: Data sets handed over in Python, for `source: memory`.
        source: Where the recipe's fields stand, for messages.
        ledger: Takes the seconds of loading and tokenising.
        observer: Hears decisions and warnings.

    Raises:
        UsageError: Everything that is wrong with data, model and recipe.
    """
    ledger, observer = ledger or Ledger(), observer or Observer()
    with located(source):
        with ledger.phase("load"):
            material, base = both(lambda: read_data(recipe, memory, source), lambda: open_base(recipe.model))
        pooling, normalize = choose_pooling(recipe, base)
        with ledger.phase("tokenize"):
            limit = base.max_length if recipe.task.max_length != "auto" else min(base.max_length, LONGEST)
            length = recipe.task.max_length if recipe.task.max_length != "auto" else limit
            encoded = {
                name: recipe.task.encode(base.tokenizer, examples, min(int(length), base.max_length))
                for name, examples in material.examples.items()
            }
        with ledger.phase("load"):
            asked = None if recipe.model.attention == "auto" else recipe.model.attention
            shape = Shape(recipe.task.auto_class, material.labels, pooling[0], normalize, asked)
            anatomy, attention = plan_shape(base, shape)
        facts = _facts(material, encoded, base, anatomy, attention, pooling, normalize, machine)
        resolved, decisions = resolve(recipe, facts)
        resolved.task.weights(material.labels)
        _check_external_metrics(resolved)
        plan = resolved.strategy.plan(anatomy)
    observer.decided(decisions)
    for warning in (*material.warnings, *_truncation(encoded, resolved)):
        observer.warn(warning)
    shape = replace(shape, attention=resolved.model.attention, dropout=float(resolved.model.dropout))
    return Prepared(recipe, resolved, decisions, material, encoded, base, shape, anatomy, plan)


def read_data(recipe: Recipe, memory: Any = None, source: Source | None = None) -> Material:
    """Load, split and audit the data.

    Raises:
        DataError: All that is wrong with it.
    """
    if memory is not None and not isinstance(recipe.data, MemoryData):
        raise RecipeError(Problem("data was handed over, but the recipe names another source", "data.source"))
    folder = Path(source.file).parent if source is not None and Path(source.file).is_file() else None
    loaded = sources.load(recipe.data, memory, folder=folder)
    task = recipe.task
    train = loaded.splits[train_name(loaded, recipe.data)]
    columns = task.columns(recipe.data.columns, train.column_names)
    splits = split(loaded, recipe.data, columns["label"])
    problem, reason = task.find_problem(splits.train, columns)
    audit = auditing.audit(splits, columns, problem, label_separator=task.label_separator)
    if audit.problems:
        raise DataError(audit.problems)
    labels = task.find_labels(splits.train, columns, problem)
    examples = {name: task.read(part, name, columns, labels) for name, part in _parts(splits).items()}
    reasons = (*loaded.reasons, *splits.reasons)
    return Material(
        examples,
        labels,
        reason,
        audit.to_json(),
        audit.warnings,
        loaded.fingerprint,
        loaded.origin,
        reasons,
        splits.chosen,
        columns,
    )


def _parts(splits: Splits) -> dict[str, Any]:
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {name: part for name, part in parts.items() if part is not None and len(part)}


def choose_pooling(recipe: Recipe, base: Base) -> tuple[tuple[str, str], bool]:
    """Pooling with its reason, and whether vectors are scaled to length one."""
    task = recipe.task
    if task.pooling != "auto":
        chosen = (str(task.pooling), "given")
    elif base.pooling is not None:
        chosen = (base.pooling, f"{base.name} declares it")
    else:
        chosen = ("native", "the model's own head")
    if chosen[0] == "native":
        return chosen, False
    return chosen, base.normalize if task.normalize == "auto" else bool(task.normalize)


def _check_external_metrics(recipe: Recipe) -> None:
    """Load metrics that are not built in now, for a misspelt one should not show when the first score is due."""
    from hfstrat.metrics import METRICS

    problems: list[Problem] = []
    for name in recipe.evaluate.metrics:
        if name not in METRICS:
            from hfstrat.metrics.modules import load

            try:
                load(name)
            except RecipeError as error:
                problems += [replace(problem, path="evaluate.metrics") for problem in error.problems]
    if problems:
        raise RecipeError(problems)


def _facts(
    material: Material,
    encoded: Mapping[str, Encoded],
    base: Base,
    anatomy: Anatomy,
    attention: str,
    pooling: tuple[str, str],
    normalize: bool,
    machine: Machine,
) -> Facts:
    longest = max(int(part.columns["input_ids"].lengths.max()) for part in encoded.values())
    return Facts(
        rows=material.rows,
        splits=material.splits,
        columns=material.columns,
        labels=material.labels,
        labels_reason=material.labels_reason,
        longest=max(4, min(base.max_length, 8 * math.ceil(longest / 8))),
        median=int(np.median(encoded["train"].lengths)),
        limit=base.max_length,
        attention=attention,
        body=anatomy.body_size,
        convex=anatomy.is_linear_probe,
        generative=any("CausalLM" in name or "LMHead" in name for name in base.config.architectures or ())
        or bool(getattr(base.config, "is_decoder", False)),
        pooling=pooling,
        normalize=normalize,
        machine=machine,
    )


def _truncation(encoded: Mapping[str, Encoded], recipe: Recipe) -> list[str]:
    return [
        f"{part.truncated} of {len(part)} texts in {name} are longer than {recipe.task.max_length} tokens and were "
        "cut; `task.long_texts: windows` reads all of them"
        for name, part in encoded.items()
        if part.truncated
    ]


def both(first: Callable[[], T], second: Callable[[], Any]) -> tuple[T, Any]:
    """Run two independent steps and raise the problems of both."""
    results: list[Any] = []
    problems: list[Problem] = []
    kinds: list[type[UsageError]] = []
    for step in (first, second):
        try:
            results.append(step())
        except UsageError as error:
            problems += error.problems
            kinds.append(type(error))
    if problems:
        raise (kinds[0] if len(kinds) == 1 else UsageError)(problems)
    return results[0], results[1]


class located:
    """Adds the recipe's file and line to problems that know their dotted path."""

    def __init__(self, source: Source | None) -> None:
        self._source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._source is None or not isinstance(error, UsageError):
            return
        problems = [self._located(problem, self._source) for problem in error.problems]
        raise type(error)(problems) from error.__cause__

    @staticmethod
    def _located(problem: Problem, source: Source) -> Problem:
        if problem.where or not problem.path:
            return problem
        steps = tuple(int(step) if step.isdigit() else step for step in problem.path.split("."))
        return replace(problem, where=source.where(steps))


def folder_of(runs: Path, recipe: Recipe) -> Path:
    """The run's directory.

    Raises:
        UsageError: Nothing can be written there.
    """
    folder = runs / recipe.name
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    if not there.is_dir():
        raise UsageError(Problem(f"{folder} cannot be written: {there} is a file", hint=HINT_RUNS))
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(Problem(f"{folder} cannot be written: no permission to write in {there}", hint=HINT_RUNS))
    return folder
