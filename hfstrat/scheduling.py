"""Which examples each update of a stage sees: looked up when it is asked for, for any number of updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from hfstrat.data.batching import order
from hfstrat.recipe.recipe import Recipe
from hfstrat.recipe.resolve import updates_of
from hfstrat.strategies.plan import Fit, Plan
from hfstrat.tasks.base import Encoded, IntArray


@dataclass(frozen=True)
class Planned:
    """An update that is to be made.

    Args:
        epoch: How often the split has been gone over after it, in parts of it.
        rows: The examples that it sees.
        passed: Epochs that are done before.
    """

    epoch: float
    rows: IntArray
    passed: int


class Schedule(Sequence[Planned]):
    """Updates one after the other, numbered from 0.

    Args:
        order: The batches of an epoch, by its number.
        per_epoch: Updates of an epoch.
        updates: Numbers of these updates among those of the run.
    """

    def __init__(self, order: Callable[[int], Sequence[IntArray]], per_epoch: int, updates: range) -> None:
        self._order, self.per_epoch, self._updates = order, per_epoch, updates

    def __len__(self) -> int:
        return len(self._updates)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return Schedule(self._order, self.per_epoch, self._updates[number])
        update = self._updates[number]
        epoch, place = divmod(update, self.per_epoch)
        return Planned((update + 1) / self.per_epoch, self._order(epoch)[place], epoch)

    def ends_epoch(self, number: int) -> bool:
        """Whether an update is the last one of an epoch."""
        return (self._updates[number] + 1) % self.per_epoch == 0


def schedule(recipe: Recipe, plan: Plan, data: Encoded, stage: Fit) -> Schedule:
    """A stage's share of the run's updates, where the stage before it ended.

    Args:
        recipe: Of the run.
        plan: What it does.
        data: The training split.
        stage: One of the plan.
    """
    size = recipe.train.batch_size
    epoch = partial(order, data.lengths, size, recipe.seed)
    updates = range(*plan.updates_of(stage, updates_of(recipe, len(data))))
    return Schedule(lru_cache(2)(epoch), -(-len(data) // size), updates)
