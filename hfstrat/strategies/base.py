"""What every strategy is: frozen fields, its defaults, and one pure function to a Plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hfstrat.errors import Problem, RecipeError
from hfstrat.spec import Spec
from hfstrat.strategies.plan import Anatomy, Plan, Solve, Stage

HeadInit = Literal["probe", "random"]
# λ of Solve, strongest first: a grid of 13 over six decades. Its optimum moves by two decades between 8 examples
# a class and thousands, and the sweep is worth more than most tricks.
L2_PATH = tuple(10.0 ** (-exponent / 2) for exponent in range(2, 15))


@dataclass(frozen=True)
class Setting:
    """A value chosen for an `auto`, with the reason that is printed beside it."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Sizes:
    """What a strategy's defaults depend on.

    Args:
        rows: Training examples.
        body: Parameters of the body.
        batch_size: Examples per update.
        generative: Whether the body is a decoder (trained to continue text).
        convex: Whether the head is one linear layer.
    """

    rows: int
    body: int
    batch_size: int
    generative: bool
    convex: bool


class StrategySpec(Spec):
    """The base of all strategies."""

    def plan(self, anatomy: Anatomy) -> Plan:
        """What to load and what to do.

        Raises:
            RecipeError: The model lacks what the strategy needs.
        """
        raise NotImplementedError

    def defaults(self, sizes: Sizes) -> Mapping[str, Setting]:
        """Values for the `auto` fields of `train` and `model`, by dotted path."""
        raise NotImplementedError


def probe(anatomy: Anatomy, l2: tuple[float, ...] = L2_PATH) -> Solve:
    """The stage that solves the output layer on the features as they stand."""
    if anatomy.output is None:
        raise RecipeError(
            Problem(
                "this model's head does not end in a linear layer, so it cannot be solved",
                path="strategy",
                hint="Set `head_init: random` (full, lora) or `solver: adamw` (head)",
            )
        )
    return Solve("probe", anatomy.output, l2)


def head_first(head_init: HeadInit, anatomy: Anatomy) -> tuple[Stage, ...]:
    """The stages that give a head its first values.

    A head fitted on frozen features before the body moves keeps those features (LP-FT: Kumar et al. 2022,
    arXiv:2202.10054).
    """
    return (probe(anatomy),) if head_init == "probe" else ()


def epochs_for(sizes: Sizes, *, updates: int = 1000, least: int = 3, most: int = 20) -> Setting:
    """Epochs such that little data still gets enough updates.

    Small sets fail for want of updates rather than by forgetting (Mosbach et al. 2021, arXiv:2006.04884;
    Zhang et al. 2021, arXiv:2006.05987).
    """
    per_epoch = max(1, math.ceil(sizes.rows / sizes.batch_size))
    value = min(most, max(least, math.ceil(updates / per_epoch)))
    return Setting(value, f"{per_epoch} updates an epoch; about {updates} updates, {least} to {most} epochs")
