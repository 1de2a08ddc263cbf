"""(Recipe, Facts) → the same Recipe with no `auto` left, and the reason of each value."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hfstrat.errors import Problem, RecipeError, did_you_mean
from hfstrat.metrics import CLASSES, Outputs, score
from hfstrat.recipe.facts import Facts
from hfstrat.recipe.recipe import Recipe
from hfstrat.strategies.base import Setting, Sizes
from hfstrat.strategies.lora import Lora
from hfstrat.tasks import TextsSpec
from hfstrat.tasks.base import Labels
from hfstrat.tasks.classification import Classification

# Tokens that go through the model at once; more gain no speed and cost memory in proportion.
TOKENS_AT_ONCE = {"cpu": 8192}
# What a pass through a model costs beside its tokens, in tokens: on one core, MiniLM's takes as long as 90 to 100.
PADDING = {"cpu": 96}
TOKENS_AT_ONCE_ON_ACCELERATOR = 65536
# Outputs as wide as a vocabulary are in memory several times over: as numbers, as probabilities, as gradients.
OUTPUTS_AT_ONCE = {"cpu": 2**27}
OUTPUTS_AT_ONCE_ON_ACCELERATOR = 2**30


@dataclass(frozen=True)
class Decision:
    """A value that the recipe left open.

    Args:
        path: Dotted path of the field.
        value: What was chosen.
        reason: Why.
    """

    path: str
    value: Any
    reason: str


def resolve(recipe: Recipe, facts: Facts) -> tuple[Recipe, tuple[Decision, ...]]:
    """Settle every `auto`.

    Raises:
        RecipeError: What the recipe asks for is impossible with these facts.
    """
    _check(recipe, facts)
    sizes = Sizes(
        rows=facts.examples,
        body=facts.body,
        batch_size=recipe.train.batch_size,
        generative=facts.generative,
        convex=facts.convex,
        fresh_head=facts.fresh_head,
        solvable=facts.solvable,
        blocks=facts.blocks,
        speaks=bool(facts.vocabulary),
    )
    settings = {**_settings(recipe, facts), **recipe.strategy.defaults(sizes), **_epochs(recipe, facts)}
    data = json.loads(recipe.model_dump_json())
    data["data"]["columns"] = dict(facts.columns)  # those that were found under a role's own name are used as well
    decisions = []
    for path, setting in settings.items():
        section, field = path.split(".")
        if data[section].get(field) == "auto":
            data[section][field] = setting.value
            decisions.append(Decision(path, setting.value, setting.reason))
    if data["evaluate"]["select_by"] == "auto":
        data["evaluate"]["select_by"] = data["evaluate"]["metrics"][0]
        decisions.append(Decision("evaluate.select_by", data["evaluate"]["select_by"], "the first metric"))
    return Recipe.model_validate_json(json.dumps(data)), tuple(decisions)


def _settings(recipe: Recipe, facts: Facts) -> Mapping[str, Setting]:
    """Settings that do not depend on the strategy."""
    machine, train = facts.machine, recipe.train
    precision = _precision_of(recipe, facts)
    most = TOKENS_AT_ONCE.get(machine.device, TOKENS_AT_ONCE_ON_ACCELERATOR)
    if facts.vocabulary:
        outputs = OUTPUTS_AT_ONCE.get(machine.device, OUTPUTS_AT_ONCE_ON_ACCELERATOR)
        most = min(most, outputs // facts.vocabulary)
    here = max(1, -(-train.batch_size // machine.processes))
    metrics = recipe.task.default_metrics(facts.labels.problem)
    return {
        **{f"data.{role}": _part(value) for role, value in facts.splits.items()},
        "task.problem": Setting(facts.labels.problem, facts.labels_reason),
        "task.max_length": Setting(facts.longest, f"the longest text; the model takes {facts.limit or 'any length'}"),
        **({"task.image_size": Setting(facts.side, "as the base's image processor makes them")} if facts.side else {}),
        "task.max_seconds": Setting(facts.seconds, "the longest sound, as far as the model takes it"),
        "task.pooling": Setting(*facts.pooling),
        "task.normalize": Setting(facts.normalize, facts.pooling[1]),
        "train.precision": precision,
        "model.attention": _attention(facts, str(precision.value)),
        "train.micro_batch_size": Setting(
            max(1, min(here, most // facts.longest)), f"at most {most} tokens at once; results do not depend on it"
        ),
        "train.padding": _padding(facts),
        "train.checkpoint_every": Setting("2 %", "of the time, by what the first one takes"),
        "train.hold_bf16": _hold_bf16(recipe, str(precision.value)),
        "train.fused_lora": _fused_lora(recipe, facts),
        "train.fast_dropout": _fast_dropout(facts),
        "train.cache": Setting(True, "what frozen layers give is computed once"),
        "train.compact_vocabulary": _compact_vocabulary(facts),
        "train.threads": Setting(*machine.threads),
        "evaluate.metrics": Setting(list(metrics), f"the usual ones for {facts.labels.problem}"),
    }


def _padding(facts: Facts) -> Setting:
    device = facts.machine.device
    if device in PADDING:
        return Setting(PADDING[device], "a pass more costs about as much; results do not depend on it")
    return Setting(None, f"a pass more costs a {device} more than padding does")


def _fused_lora(recipe: Recipe, facts: Facts) -> Setting:
    if not isinstance(recipe.strategy, Lora):
        return Setting(False, "there is no LoRA")
    if facts.machine.device == "cpu":
        return Setting(True, "a CPU spends much of a LoRA layer's time on going over its output again")
    return Setting(False, f"not measured on a {facts.machine.device}")


def _fast_dropout(facts: Facts) -> Setting:
    if facts.machine.device == "cpu":
        return Setting(True, "a CPU draws masks one number after the other")
    return Setting(False, f"this {facts.machine.device} draws masks in parallel")


def _hold_bf16(recipe: Recipe, precision: str) -> Setting:
    if precision != "bf16":
        return Setting(False, f"the run is in {precision}")
    if not recipe.strategy.multiplies_only:
        return Setting(False, "frozen weights are saved, or read in other ways than multiplying by them")
    return Setting(True, "frozen linear weights are rounded once, not in each pass")


def _part(value: str | float) -> Setting:
    return Setting(value, "the split of that name" if isinstance(value, str) else "no split of that name has labels")


def _precision_of(recipe: Recipe, facts: Facts) -> Setting:
    given = recipe.train.precision
    return _precision(facts) if given == "auto" else Setting(given, "given")


def _precision(facts: Facts) -> Setting:
    if facts.machine.bf16:
        return Setting("bf16", f"this {facts.machine.device} computes in bfloat16 natively")
    if facts.machine.device == "cuda":
        return Setting("fp16", "this GPU has no bfloat16")
    return Setting("fp32", f"this {facts.machine.device} has no native bfloat16")


def _attention(facts: Facts, precision: str) -> Setting:
    if facts.machine.device == "cpu" and precision == "bf16" and facts.median <= 64:
        return Setting("eager", f"on a CPU in bf16 the fused kernel is slower at {facts.median} tokens")
    return Setting(facts.attention, "the model's own choice")


def _compact_vocabulary(facts: Facts) -> Setting:
    tokens = facts.tokens
    if tokens.whole:
        return Setting(False, tokens.whole)
    return Setting(True, f"{tokens.used:,} of {tokens.rows:,} rows occur; where the embedding trains, they do so alone")


def _epochs(recipe: Recipe, facts: Facts) -> Mapping[str, Setting]:
    """Where updates are asked for, the epochs that they make up; else the strategy decides."""
    steps = recipe.train.max_steps
    if steps is None:
        return {}
    per_epoch = -(-facts.examples // recipe.train.batch_size)
    return {"train.epochs": Setting(steps / per_epoch, f"{steps} updates of {per_epoch} an epoch")}


def updates_of(recipe: Recipe, examples: int) -> int:
    """Updates of a run by its resolved recipe, when an epoch sees so many examples."""
    per_epoch = -(-examples // recipe.train.batch_size)
    return recipe.train.max_steps or max(1, round(float(recipe.train.epochs) * per_epoch))


def check_metrics(recipe: Recipe, labels: Labels, columns: Collection[str] = ()) -> list[Problem]:
    """What is wrong with the metrics for these labels and roles of columns."""
    metrics = recipe.evaluate.metrics
    names = recipe.task.default_metrics(labels.problem) if metrics == "auto" else metrics
    problems = []
    nothing, chances = np.empty(0), np.empty((0, len(labels.names)))
    texts = ((), ()) if recipe.task.answers_in(columns) else None
    outputs = Outputs(nothing, nothing, chances if labels.problem in CLASSES else None, len(labels.names), texts)
    for name in names:
        try:
            score([name], labels.problem, outputs)
        except RecipeError as error:
            problems += [replace(problem, path="evaluate.metrics") for problem in error.problems]
    chosen = recipe.evaluate.select_by
    if chosen != "auto" and chosen not in names:
        hint = did_you_mean(chosen, names)
        problems.append(Problem(f"'{chosen}' is not among evaluate.metrics", "evaluate.select_by", hint=hint))
    return problems


_NOT_SMOOTHED = {"regression": "numbers", "spans": "places of answers", "boxes": "boxes"}


def _check(recipe: Recipe, facts: Facts) -> None:
    problems = check_metrics(recipe, facts.labels, facts.columns)
    if recipe.train.precision == "fp16" and facts.machine.device == "cpu":
        # Accelerate would take it and compute in fp32 without a word.
        problems.append(Problem("fp16 does not exist on a CPU", "train.precision", hint="Use bf16, fp32 or auto"))
    if recipe.train.hold_bf16 is True and not recipe.strategy.multiplies_only:
        message = f"{recipe.strategy.kind} needs its frozen weights as they are"
        problems.append(Problem(message, "train.hold_bf16", hint="Remove it"))
    if recipe.train.hold_bf16 is True and str(_precision_of(recipe, facts).value) != "bf16":
        problems.append(Problem("the run is not in bf16", "train.hold_bf16", hint="Remove it, or set train.precision"))
    if recipe.train.gradient_checkpointing and recipe.strategy.keeps_activations:
        message, hint = recipe.strategy.keeps_activations, "Remove it, or make train.micro_batch_size smaller"
        problems.append(Problem(message, "train.gradient_checkpointing", hint=hint))
    if recipe.train.fast_dropout is True and facts.machine.device != "cpu":
        problems.append(Problem("its masks are drawn on a CPU", "train.fast_dropout", hint="Remove it"))
    if not facts.rows.get("validation"):
        needs = "there is no validation split"
        if recipe.train.early_stopping is not None:
            problems.append(Problem(f"{needs} to stop early by", "train.early_stopping", hint="Set data.validation"))
        if recipe.task.calibrates:
            problems.append(Problem(f"{needs} to calibrate on", "task.calibrate", hint="Set data.validation"))
    task = recipe.task
    if isinstance(task, Classification) and task.label_separator and task.problem not in ("auto", "multi_label"):
        problems.append(Problem("only several labels are separated", "task.label_separator", hint="Remove it"))
    given = task.max_length if isinstance(task, TextsSpec) else None
    if isinstance(task, TextsSpec) and isinstance(given, int) and facts.limit is not None and given > facts.limit:
        windows = ", and set task.long_texts: windows if longer texts are to be read whole"
        hint = f"Leave it out{'' if task.in_windows else windows}"
        message = f"the model takes at most {facts.limit} tokens, not {given}"
        problems.append(Problem(message, "task.max_length", hint=hint))
    epochs = _epochs(recipe, facts).get("train.epochs")
    if epochs is not None and recipe.train.epochs not in ("auto", epochs.value):
        message = f"train.max_steps says {recipe.train.max_steps} updates, which are {epochs.value:g} epochs"
        problems.append(Problem(message, "train.epochs", hint="Remove one of the two"))
    if recipe.train.label_smoothing and facts.labels.problem in _NOT_SMOOTHED:
        what = _NOT_SMOOTHED[facts.labels.problem]
        problems.append(Problem(f"{what} have no label smoothing", "train.label_smoothing", hint="Remove it"))
    if problems:
        raise RecipeError(problems)
