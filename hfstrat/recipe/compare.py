"""Which arms a comparison runs."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from hfstrat.errors import Problem, UsageError
from hfstrat.recipe.data import PerClass, Seed
from hfstrat.recipe.train import Rate
from hfstrat.spec import Spec
from hfstrat.strategies import Strategy

FLOORS = ("majority", "tfidf", "lookup", "pixels")
Floor = Literal["majority", "tfidf", "lookup", "pixels"]
Limit = Annotated[int, Field(ge=1)] | PerClass | Literal["all"]
Budget = Annotated[str, Field(pattern=r"^([0-9]*[1-9][0-9]*(\.[0-9]+)?|0+\.[0-9]*[1-9][0-9]*)[smh]$")]
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=120)]


def seconds_of(text: str) -> float:
    """`2h`, `90 min`, `1h30m`, `45s` or `1d`, in seconds.

    Raises:
        UsageError: It is something else.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(d|h|m|s)[a-z]*\s*", text.lower())
    whole = re.fullmatch(r"\s*(?:\d+(?:\.\d+)?\s*(?:d|days?|h|hours?|m|min|minutes?|s|sec|seconds?)\s*)+", text.lower())
    total = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if whole is None or not total:
        raise UsageError(Problem(f"'{text}' is no time", hint="Write 2h, 90min or 1h30m"))
    return total


def suffix(limit: Limit) -> str:
    """How names of runs say an amount of data."""
    return f"{limit.per_class}-per-class" if isinstance(limit, PerClass) else str(limit)


class ArmSpec(Spec):
    """One row of a comparison: a strategy or a floor, perhaps on another amount of data."""

    name: Annotated[Name, Field(max_length=90)] | None = None
    """Name of the arm; left out: the kind, with `-all` or the limit when that differs from the recipe's."""
    floor: Floor | None = None
    """A baseline without a neural network, in place of a strategy."""
    strategy: Strategy | None = None
    """The strategy of this arm."""
    limit: Limit | None = None
    """In place of `data.limit`; all: every row."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    """In place of the comparison's seeds, for an arm that is too dear for all of them."""
    lr: Annotated[tuple[Rate, ...], Field(min_length=1)] | None = None
    """In place of the comparison's learning rates."""


class CompareSpec(Spec):
    """The arms and seeds of `hfstrat compare`."""

    arms: tuple[str | ArmSpec, ...] = ()
    """Kinds of strategy (`head`), floors (`majority`, `tfidf`; of words `lookup`, of pictures `pixels`) or {strategy:
    …, limit: …}; a kind that the recipe's own `strategy` has takes its fields. Left out: the task's floors and every
    strategy."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Each strategy is run once for each seed; all seeds share one split."""
    lr: tuple[Rate, ...] = ()
    """Learning rates in place of `train.lr`, for strategies that learn by steps. Each is tried with an arm's first
    seed; the one that is best on validation is kept for all seeds, and what the others took is charged to the arm."""
    sizes: tuple[Limit, ...] = ()
    """Amounts of data in place of `data.limit`: numbers of rows, {per_class: n}, or all. Each arm without a `limit` of
    its own is run on each of them; the smaller ones are parts of the larger ones."""
    budget: Budget | None = None
    """Time for all strategies, such as `30m` or `2h`. They are run on a sixteenth of the data, then on a quarter and on
    all of it as many as there is time for, those with the lowest validation loss; floors are run on all of it."""
    price: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Price of an hour of this machine, for what each run costs."""
