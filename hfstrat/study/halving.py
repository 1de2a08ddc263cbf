"""Successive halving: strategies are tried on little data, and those with the lowest validation loss on more of it.

Jamieson & Talwalkar 2016, arXiv:1502.07943, with as many kept as the budget has time for. By loss, for the accuracy on
few validation items tells less of the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfstrat.errors import Problem, RecipeError
from hfstrat.recipe.compare import ArmSpec, Limit
from hfstrat.recipe.data import PerClass
from hfstrat.recipe.recipe import Recipe
from hfstrat.runs.directory import Run
from hfstrat.study.arms import Arm, given
from hfstrat.study.running import Running, validation_score

PARTS = (16, 4, 1)
LEAST = 8  # rows of a rung, or one of each class
_GROWING = ("teacher", "cache", "solve", "train")
"""Phases that take longer with more data."""


@dataclass(frozen=True)
class Rung:
    """What came of an amount of data.

    Args:
        part: Of the training rows, such as `n/4`.
        size: The same as names of runs say it.
        losses: Validation loss of each strategy that was run; None where it has none.
        kept: Those that are run on more.
    """

    part: str
    size: str
    losses: Mapping[str, float | None]
    kept: tuple[str, ...]

    def __str__(self) -> str:
        dropped = [name for name in self.losses if name not in self.kept]
        told = ", ".join(f"{name} ({_loss(self.losses[name])})" for name in dropped)
        return f"{self.part}: {', '.join(self.kept) or 'none'} went on" + (f"; {told} reached no more" if told else "")


def _loss(value: float | None) -> str:
    return "no validation loss" if value is None else f"validation loss {value:.3f}"


@dataclass(frozen=True)
class Measured:
    """What a run says about runs on more data.

    Args:
        name: The strategy.
        loss: On validation; None where it has none.
        seconds: Wall time.
        growing: What of it grows with the training rows.
    """

    name: str
    loss: float | None
    seconds: float
    growing: float

    def on(self, times: float) -> float:
        """Seconds on so many times the rows."""
        return self.seconds - self.growing + times * self.growing


def rungs(limit: Limit | None, rows: int) -> dict[str, Limit]:
    """Amounts of data by the part of all that they are, from the smallest on.

    Args:
        limit: The recipe's own.
        rows: Training rows under it.
    """
    if isinstance(limit, PerClass):
        amounts: dict[int, Limit] = {
            part: PerClass(per_class=limit.per_class // part) for part in PARTS if limit.per_class >= part
        }
    else:
        amounts = {part: rows // part for part in PARTS if rows // part >= LEAST}
        amounts[1] = "all" if limit is None else limit
    return {"n" if part == 1 else f"n/{part}": amount for part, amount in amounts.items()}


def rungs_of(
    recipe: Recipe, budget: str | None, sizes: Sequence[Any] | None, rows: Callable[[], int]
) -> dict[str, Limit]:
    """Amounts of data on which strategies are run within a budget, as of `rungs`; empty without one.

    Args:
        recipe: Its `compare` block may have a budget.
        budget: In its place.
        sizes: Amounts of data that are asked for otherwise.
        rows: Counts the training rows.

    Raises:
        RecipeError: The budget is none, or amounts of data or learning rates are asked for as well.
    """
    block = recipe.compare
    chosen = block.budget if budget is None else given(budget=budget).budget
    if chosen is None:
        return {}
    if block.sizes or sizes:
        hint = "Leave one of the two out"
        raise RecipeError(Problem("a budget chooses the amounts of data itself", "compare.sizes", hint=hint))
    if block.lr or any(isinstance(arm, ArmSpec) and arm.lr for arm in block.arms):
        what = "learning rates are not chosen within a budget"
        raise RecipeError(Problem(what, "compare.lr", hint="Choose them first, and set train.lr"))
    return rungs(recipe.data.limit, rows())


def on_rungs(arms: Sequence[Arm], sizes: Sequence[str]) -> list[Arm]:
    """Arms of a budget: below the last rung strategies alone, with one seed."""
    seen: set[tuple[str, str | None]] = set()
    found = []
    for arm in arms:
        if arm.size in sizes[:-1]:
            if arm.floor is not None or (arm.family, arm.size) in seen:
                continue
            seen.add((arm.family, arm.size))
        found.append(arm)
    return found


def that_ran(arms: Sequence[Arm], reached: Sequence[Rung]) -> list[Arm]:
    """Arms without those on amounts of data that their strategies did not reach."""
    names = [rung.size for rung in reached]
    kept = []
    for arm in arms:
        place = names.index(arm.size) if arm.size in names else len(names)
        if not races(arm) or all(arm.family in rung.kept for rung in reached[:place]):
            kept.append(arm)
    return kept


def races(arm: Arm) -> bool:
    """Whether an arm is one of those among which a budget is divided: a strategy without an amount of its own."""
    return arm.size is not None and arm.floor is None


def survivors(found: Sequence[Measured], seconds: float, later: Sequence[tuple[float, int]]) -> list[str]:
    """The strategies that go on, in the order of their losses: as many as there is time for, and one at least.

    Args:
        found: What each has shown.
        seconds: Time that is left; the best one's way to the end is paid for first.
        later: Of each rung to come how many times the rows it has, and how many runs.
    """
    ranked = sorted((one for one in found if one.loss is not None), key=lambda one: one.loss or 0.0)
    if not ranked:
        return []
    (times, runs), *rest = later
    needed = sum(count * ranked[0].on(more) for more, count in rest)
    kept: list[str] = []
    for one in ranked:
        needed += runs * one.on(times)
        if kept and needed > seconds:
            break
        kept.append(one.name)
    return kept


def run_within(budget: float, arms: Sequence[Arm], sizes: Mapping[str, str], running: Running) -> list[Rung]:
    """Run arms rung by rung.

    What goes on is a function of what finished runs say of themselves, so that a comparison that was killed goes on as
    it would have.

    Args:
        budget: Seconds.
        arms: The strategies on each amount of data.
        sizes: Names of the amounts by their parts, from the smallest on.
        running: Runs an arm.
    """
    alive, spent, found = list(dict.fromkeys(arm.family for arm in arms)), 0.0, []
    parts, last = [*sizes], [*sizes][-1]
    by_size = {part: [arm for arm in arms if arm.size == size] for part, size in sizes.items()}
    for place, part in enumerate(parts):
        own = [arm for arm in by_size[part] if arm.family in alive]
        measured = {}
        for number, arm in enumerate(own, start=1):
            running.observer.note(f"{part}, {number} of {len(own)}: {arm.recipe.name}")
            running.run(arm)
            measured[arm.family] = one = _measured(arm.family, Run(running.folder / arm.recipe.name))
            spent += one.seconds
        if part == last:
            break
        later = [(_share(one) / _share(part), _runs(by_size[one])) for one in parts[place + 1 :]]
        kept = survivors([*measured.values()], budget - spent, later)
        alive = [name for name in alive if name in {*kept, *_teachers(by_size[parts[place + 1]], kept)}]
        losses = {name: one.loss for name, one in measured.items()}
        found.append(Rung(part, sizes[part], losses, tuple(alive)))
        running.observer.note(str(found[-1]))
    if spent > budget:
        what = f"runs took {spent:,.0f} s, and the budget is {budget:,.0f} s"
        running.observer.warn(f"{what}: all are begun, and one is always finished")
    return found


def _measured(name: str, run: Run) -> Measured:
    ledger, score = run.ledger, validation_score(run)
    phases: Mapping[str, Any] = ledger.get("phases", {})
    growing = sum(phases[one]["seconds"] for one in _GROWING if one in phases)
    return Measured(name, None if score is None else -score[1], float(ledger.get("seconds") or 0.0), growing)


def _share(part: str) -> float:
    return 1 / int(part.partition("/")[2] or 1)


def _runs(arms: Sequence[Arm]) -> int:
    """How many seeds a strategy has."""
    return max(1, len(arms) // max(1, len({arm.family for arm in arms})))


def _teachers(arms: Sequence[Arm], kept: Sequence[str]) -> Iterator[str]:
    """The arms that students which go on learn from."""
    names = {arm.recipe.name: arm.family for arm in arms}
    for arm in arms:
        teacher = Path(getattr(arm.recipe.strategy, "teacher", "")).name
        if arm.family in kept and teacher in names:
            yield names[teacher]
