"""(Recipe, Facts) → the same Recipe with no `auto` left, and the reason of each value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hfstrat.errors import Problem, RecipeError, did_you_mean
from hfstrat.metrics import lookup
from hfstrat.recipe.facts import Facts
from hfstrat.recipe.recipe import Recipe
from hfstrat.strategies.base import Setting, Sizes

# Tokens that go through the model at once; more gain no speed and cost memory in proportion.
TOKENS_AT_ONCE = {"cpu": 8192}
TOKENS_AT_ONCE_ON_ACCELERATOR = 65536


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
    sizes = Sizes(facts.rows["train"], facts.body, recipe.train.batch_size, facts.generative)
    settings = {**_settings(recipe, facts), **recipe.strategy.defaults(sizes)}
    data = json.loads(recipe.model_dump_json())
    decisions = []
    for path, setting in settings.items():
        section, field = path.split(".")
        if data[section][field] == "auto":
            data[section][field] = setting.value
            decisions.append(Decision(path, setting.value, setting.reason))
    data["evaluate"]["select_by"], reason = _select_by(recipe, data["evaluate"]["metrics"])
    if reason:
        decisions.append(Decision("evaluate.select_by", data["evaluate"]["select_by"], reason))
    if recipe.train.max_steps is not None:
        # Updates were asked for: the epochs that they make up are a consequence, not a second wish.
        per_epoch = facts.rows["train"] / recipe.train.batch_size
        data["train"]["epochs"] = max(recipe.train.max_steps / per_epoch, 1e-6)
        decisions = [decision for decision in decisions if decision.path != "train.epochs"]
    resolved = Recipe.model_validate_json(json.dumps(data))
    for name in resolved.evaluate.metrics:
        lookup(name, facts.labels.problem)
    return resolved, tuple(decisions)


def _settings(recipe: Recipe, facts: Facts) -> Mapping[str, Setting]:
    """Settings that do not depend on the strategy."""
    machine, train = facts.machine, recipe.train
    precision = _precision(facts) if train.precision == "auto" else Setting(train.precision, "given")
    most = TOKENS_AT_ONCE.get(machine.device, TOKENS_AT_ONCE_ON_ACCELERATOR)
    here = max(1, -(-train.batch_size // machine.processes))
    threads = max(1, machine.cores // machine.local_processes)
    metrics = recipe.task.default_metrics(facts.labels.problem)
    return {
        "task.problem": Setting(facts.labels.problem, facts.labels_reason),
        "task.max_length": Setting(facts.longest, f"the longest text; the model takes {facts.limit}"),
        "task.pooling": Setting(*facts.pooling),
        "task.normalize": Setting(facts.normalize, facts.pooling[1]),
        "train.precision": precision,
        "model.attention": _attention(facts, str(precision.value)),
        "train.micro_batch_size": Setting(
            max(1, min(here, most // facts.longest)), f"at most {most} tokens at once; results do not depend on it"
        ),
        "train.threads": Setting(threads, f"{machine.cores} cores, {machine.local_processes} process(es) here"),
        "evaluate.metrics": Setting(list(metrics), f"the usual ones for {facts.labels.problem}"),
    }


def _precision(facts: Facts) -> Setting:
    if facts.machine.bf16:
        return Setting("bf16", f"this {facts.machine.device} computes in bfloat16 natively")
    if facts.machine.device == "cuda":
        return Setting("fp16", "this GPU has no bfloat16")
    return Setting("fp32", f"this {facts.machine.device} has no native bfloat16")


def _attention(facts: Facts, precision: str) -> Setting:
    if facts.machine.device == "cpu" and precision == "bf16" and facts.median <= 64:
        return Setting("eager", f"on a CPU in bf16 the fused kernel is slower at {facts.median} tokens")
    return Setting("auto", "the model's own choice")


def _select_by(recipe: Recipe, metrics: list[str]) -> tuple[str, str]:
    chosen = recipe.evaluate.select_by
    if chosen == "auto":
        return metrics[0], "the first metric"
    if chosen not in metrics:
        hint = did_you_mean(chosen, metrics)
        raise RecipeError(Problem(f"'{chosen}' is not among evaluate.metrics", "evaluate.select_by", hint=hint))
    return chosen, ""


def _check(recipe: Recipe, facts: Facts) -> None:
    problems = []
    if recipe.train.precision == "fp16" and facts.machine.device == "cpu":
        # Accelerate would take it and compute in fp32 without a word.
        problems.append(Problem("fp16 does not exist on a CPU", "train.precision", hint="Use bf16, fp32 or auto"))
    if not facts.rows.get("validation"):
        needs = "there is no validation split"
        if recipe.train.early_stopping is not None:
            problems.append(Problem(f"{needs} to stop early by", "train.early_stopping", hint="Set data.validation"))
        if recipe.task.calibrate:
            problems.append(Problem(f"{needs} to calibrate on", "task.calibrate", hint="Set data.validation"))
    if recipe.task.label_separator and recipe.task.problem not in ("auto", "multi_label"):
        problems.append(Problem("only several labels are separated", "task.label_separator", hint="Remove it"))
    given = recipe.task.max_length
    if isinstance(given, int) and given > facts.limit:
        problems.append(Problem(f"the model takes at most {facts.limit} tokens, not {given}", "task.max_length"))
    if recipe.train.label_smoothing and facts.labels.problem == "regression":
        problems.append(Problem("numbers have no label smoothing", "train.label_smoothing", hint="Remove it"))
    if problems:
        raise RecipeError(problems)
