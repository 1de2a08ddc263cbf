"""Limits: what a strategy may take and leave behind, read from words, and what does not keep within them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hfstrat.errors import Problem, UsageError, did_you_mean
from hfstrat.recipe.compare import seconds_of
from hfstrat.recipe.recipe import Recipe
from hfstrat.report import tables
from hfstrat.strategies import STRATEGIES
from hfstrat.study.arms import ARM, kinds_of
from hfstrat.study.devices import bytes_of

CHANGING = ("scratch", "distill")
"""Strategies whose model may have another shape than the base."""


@dataclass(frozen=True)
class Limits:
    """What a run may take; None is no limit.

    Args:
        time: Seconds.
        memory: Bytes of the process, or of the device.
        cost: At the price of an hour.
        artifact: Bytes of the weights that are left at the end.
        architecture_changes: Whether the model has to have another shape than the base.
    """

    time: float | None = None
    memory: int | None = None
    cost: float | None = None
    artifact: int | None = None
    architecture_changes: bool = False


@dataclass(frozen=True)
class Option:
    """A strategy with what it takes; None where that is not known.

    Args:
        kind: The strategy.
        seconds: Wall time of a run.
        memory: Bytes of the process, or of the device.
        cost: At the price that was given.
        artifact: Bytes of the weights that are left at the end.
        flops: Floating-point operations of a run.
        hint: What makes it fit into less memory.
    """

    kind: str
    seconds: float | None = None
    memory: float | None = None
    cost: float | None = None
    artifact: float | None = None
    flops: float | None = None
    hint: str = ""


@dataclass(frozen=True)
class Excluded:
    """A strategy that is out of the question.

    Args:
        kind: Which.
        limit: The name of what excludes it: `memory`, `time`, `cost`, `artifact`, `architecture` or `recipe`.
        why: In words.
        fix: What would let it in; empty where nothing does.
    """

    kind: str
    limit: str
    why: str
    fix: str = ""


@dataclass(frozen=True)
class Measured:
    """One of the limits that figures are held against.

    Args:
        option: The figure's name in an Option.
        noun: What it is.
        write: Its value in words.
        word: The value as the command line takes it.
        flag: The option of the command line that sets the limit.
    """

    option: str
    noun: str
    write: Callable[[float], str]
    word: Callable[[float], str]
    flag: str


def _mebibytes(value: float) -> str:
    return f"{math.ceil(value / 2**20)}MB"


MEASURED = {
    "memory": Measured("memory", "of memory", tables.size, _mebibytes, "--memory"),
    "time": Measured("seconds", "of time", tables.duration, lambda value: f"{math.ceil(value)}s", "--time"),
    "cost": Measured(
        "cost", "of money", "{:,.2f}".format, lambda value: f"{math.ceil(100 * value) / 100:.2f}", "--max-cost"
    ),
    "artifact": Measured("artifact", "of weights", tables.size, _mebibytes, "--max-artifact"),
}
"""The limits by their name."""


def beyond(option: Option, limits: Limits) -> list[Excluded]:
    """Why an option does not keep within limits; empty where it does."""
    found = []
    for name, measured in MEASURED.items():
        most, has = getattr(limits, name), getattr(option, measured.option)
        if most is not None and has is not None and has > most:
            why = f"it takes {measured.write(has)} {measured.noun}, of which {measured.write(most)} may be taken"
            fix = f"{measured.flag} {measured.word(has)}"
            hint = f"{option.hint}, or " if name == "memory" and option.hint else ""
            found.append(Excluded(option.kind, name, why, f"{hint}{fix}"))
    return found


def at_once(recipe: Recipe, limits: Limits, arms: Sequence[str] | None = None) -> tuple[list[str], list[Excluded]]:
    """Strategies that may be thought of, and those that need no figures to be out of the question.

    Args:
        recipe: What is asked about.
        limits: What may not be.
        arms: Kinds of strategies to choose from; None: all.

    Raises:
        UsageError: One of them is no strategy.
    """
    wanted = list(dict.fromkeys(STRATEGIES if arms is None else arms))
    unknown = [kind for kind in wanted if kind not in STRATEGIES]
    if unknown or not wanted:
        hint = did_you_mean(unknown[0], list(STRATEGIES)) if unknown else "Write --arms head,lora,full"
        names = ", ".join(f"'{kind}'" for kind in unknown) or "nothing"
        raise UsageError(Problem(f"{names} is no strategy to choose from", hint=hint))
    usual = kinds_of(recipe)
    kinds, out = [], []
    for kind in wanted:
        if kind in recipe.task.refused:
            out.append(Excluded(kind, "recipe", recipe.task.refused[kind]))
        elif limits.architecture_changes and kind not in CHANGING:
            why = "it keeps the base's architecture, which has to change"
            out.append(Excluded(kind, "architecture", why, "leave out --must-change-architecture"))
        elif kind == "distill" and not _has_teacher(recipe):
            why = "it learns from a finished model, and the recipe names none"
            out.append(Excluded(kind, "recipe", why, "strategy: {kind: distill, teacher: RUN}"))
        elif kind not in usual:
            out.append(Excluded(kind, "recipe", "it starts from weights, and the recipe names none", "model.base=…"))
        else:
            kinds.append(kind)
    return kinds, out


def _has_teacher(recipe: Recipe) -> bool:
    return not getattr(recipe.strategy, "teacher", ARM).startswith(ARM)


def price_of(text: str) -> float:
    """`2.5/h`, or a number: the price of an hour.

    Raises:
        UsageError: It is something else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*(?:h|hour))?\s*", text.lower())
    if found is None:
        raise UsageError(Problem(f"'{text}' is no price of an hour", hint="Write 2.5/h"))
    return float(found[1])


def asked(
    time: str | float | None,
    memory: str | int | None,
    price: str | float | None,
    max_cost: float | None,
    max_artifact: str | int | None,
    must_change: bool,
) -> tuple[float | None, Limits]:
    """The price of an hour, and the limits, from words or numbers.

    Raises:
        UsageError: A word is no time, no amount of memory or no price; or a cost is limited and has no price.
    """
    problems: list[Problem] = []

    def read(value: Any, parse: Callable[[str], Any], flag: str) -> Any:
        try:
            return parse(value) if isinstance(value, str) else value
        except UsageError as error:
            problems.extend(replace(problem, message=f"{flag}: {problem.message}") for problem in error.problems)
            return None

    hour = read(price, price_of, "--price")
    limits = Limits(
        read(time, seconds_of, "--time"),
        read(memory, bytes_of, "--memory"),
        max_cost,
        read(max_artifact, bytes_of, "--max-artifact"),
        must_change,
    )
    if max_cost is not None and price is None:
        problems.append(Problem("a cost is limited, and an hour has no price", hint="Add --price, such as 2.5/h"))
    if problems:
        raise UsageError(problems)
    return hour, limits
