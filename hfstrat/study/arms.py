"""Arms: the rows of a comparison, as recipes that differ in strategy, seed and amount of data alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hfstrat.errors import Problem, RecipeError, did_you_mean
from hfstrat.recipe.compare import FLOORS, ArmSpec, CompareSpec, Floor, Limit, suffix
from hfstrat.recipe.recipe import Recipe
from hfstrat.runs.directory import Run
from hfstrat.strategies import STRATEGIES, Strategy

ARM = "arm:"


@dataclass(frozen=True)
class Arm:
    """One run of a comparison.

    Args:
        recipe: What to run; its name is the arm's and the seed's.
        floor: Which floor, or None for a strategy.
        family: The arm's name without the amount of data.
        size: The amount of data by which it was multiplied; None where it was not.
        rates: Learning rates of which the best on validation is taken; empty: the recipe's own.
    """

    recipe: Recipe
    floor: Floor | None
    family: str = ""
    size: str | None = None
    rates: tuple[float, ...] = ()

    @property
    def amount(self) -> str:
        """The amount of data that it asks for, as JSON."""
        return json.dumps(json.loads(self.recipe.data.model_dump_json())["limit"])


def arms_of(
    recipe: Recipe,
    folder: Path,
    words: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    sizes: Sequence[Any] | None = None,
) -> list[Arm]:
    """The runs of a comparison, floors first asked, first run.

    Args:
        recipe: The recipe whose `compare` block names arms and seeds.
        folder: The comparison's directory, where the runs go.
        words: Arms in its place: kinds of strategies and floors.
        seeds: Seeds in place of the block's.
        sizes: Amounts of data in place of the block's.

    Raises:
        RecipeError: An arm is neither strategy nor floor, or two have one name.
    """
    block = recipe.compare
    asked: Sequence[str | ArmSpec] = words or block.arms or _usual(recipe)
    # What is wrong with an argument stands nowhere in the recipe.
    specs = [_spec(arm, recipe, "" if words else f"compare.arms.{place}") for place, arm in enumerate(asked)]
    chosen = block.seeds if seeds is None else given(seeds=seeds).seeds
    if len(set(chosen)) < len(chosen):
        path = "compare.seeds" if seeds is None else ""
        raise RecipeError(Problem("a seed is given twice", path, hint="Each seed is one run"))
    amounts = block.sizes if sizes is None else given(sizes=sizes).sizes
    runs = []
    for spec, family, size in _multiplied(specs, amounts, recipe):
        name = family if size is None else f"{family}-{size}"
        # A floor has nothing random in it.
        for seed in [recipe.seed] if spec.floor else spec.seeds or chosen:
            made = _recipe(recipe, spec, name if spec.floor else f"{name}-seed{seed}", seed)
            rates = () if spec.floor else block.lr if spec.lr is None else spec.lr
            runs.append(Arm(made, spec.floor, family, size, rates))
    runs = [replace(run, recipe=_with_teacher(run, runs[:place], folder)) for place, run in enumerate(runs)]
    twice = [name for name, count in Counter(arm.recipe.name for arm in runs).items() if count > 1]
    if twice:
        hint = "Give each arm a `name` of its own"
        raise RecipeError([Problem(f"two arms are called '{name}'", "compare.arms", hint=hint) for name in twice])
    return runs


def _multiplied(
    specs: Sequence[ArmSpec], sizes: Sequence[Limit], recipe: Recipe
) -> Iterator[tuple[ArmSpec, str, str | None]]:
    """Each arm on each amount of data, in their order; what has an amount of its own is run once."""
    for place, size in enumerate(sizes):
        for spec in specs:
            if spec.limit is None:
                yield spec.model_copy(update={"limit": size}), _name(spec, recipe), suffix(size)
            elif place == 0:
                yield spec, _name(spec, recipe), None
    if not sizes:
        yield from ((spec, _name(spec, recipe), None) for spec in specs)


def given(
    *,
    seeds: Sequence[int] = (0,),
    sizes: Sequence[Any] = (),
    budget: str | None = None,
    price: float | None = None,
) -> CompareSpec:
    """Arguments in place of a recipe's `compare` block, checked as that is.

    Raises:
        RecipeError: One of them is none.
    """
    try:
        plain = {"seeds": list(seeds), "sizes": list(sizes), "budget": budget, "price": price}
        return CompareSpec.model_validate_json(json.dumps(plain))
    except TypeError as error:
        raise RecipeError(Problem(f"compare is given what is no plain data: {error}")) from None
    except ValidationError as error:
        wrong = {str(one["loc"][0]) for one in error.errors()}
        said = {
            "seeds": (f"{list(seeds)} are no seeds", "Give whole numbers from 0"),
            "sizes": (f"{list(sizes)} are no amounts of data", "Give whole numbers from 1, {per_class: n}, or all"),
            "budget": (f"'{budget}' is no budget", "Write 30m, 90s or 2h"),
            "price": (f"{price} is no price of an hour", "Give a number from 0"),
        }
        raise RecipeError([Problem(said[name][0], hint=said[name][1]) for name in said if name in wrong]) from None


def kinds_of(recipe: Recipe) -> tuple[str, ...]:
    """All strategies that go with the task and with what the recipe starts from."""
    kinds = [kind for kind in STRATEGIES if kind not in recipe.task.refused]
    if recipe.model.base is None:
        kinds = [kind for kind in kinds if kind == recipe.strategy.kind or _begins_at_random(_spec(kind, recipe, ""))]
    return tuple(kinds)


def strategy_of(kind: str, recipe: Recipe) -> Strategy:
    """A strategy as the recipe has it, else with its defaults."""
    if kind == recipe.strategy.kind:
        return recipe.strategy
    # A teacher is the one field that has no default, and in a comparison there is one at hand.
    given = {"teacher": f"{ARM}full"} if "teacher" in STRATEGIES[kind].model_fields else {}
    found: Strategy = STRATEGIES[kind].model_validate(given)
    return found


def _usual(recipe: Recipe) -> tuple[str, ...]:
    """All floors and strategies that go with the task."""
    return (*recipe.task.floors, *kinds_of(recipe))


def _begins_at_random(spec: ArmSpec) -> bool:
    return spec.strategy is not None and spec.strategy.body().weights == "random"


def _spec(arm: str | ArmSpec, recipe: Recipe, path: str) -> ArmSpec:
    floor = arm.floor if isinstance(arm, ArmSpec) else arm if arm in FLOORS else None
    if floor is not None and floor not in recipe.task.floors:
        hint = f"Its floors are {' and '.join(recipe.task.floors)}" if recipe.task.floors else "It has none"
        raise RecipeError(Problem(f"{floor} is not a floor of {recipe.task.kind}", path, hint=hint))
    if isinstance(arm, ArmSpec):
        if (arm.floor is None) == (arm.strategy is None):
            raise RecipeError(Problem("an arm is either a floor or a strategy", path))
        return arm
    if floor is not None:
        return ArmSpec.model_validate({"floor": floor})
    if arm in STRATEGIES:
        return ArmSpec(strategy=strategy_of(arm, recipe))
    hint = did_you_mean(arm, [*recipe.task.floors, *STRATEGIES])
    raise RecipeError(Problem(f"'{arm}' is neither a strategy nor a floor", path, hint=hint))


def _name(spec: ArmSpec, recipe: Recipe) -> str:
    if spec.name:
        return spec.name
    kind = spec.floor or (spec.strategy.kind if spec.strategy else "")
    if spec.limit in (None, "all" if recipe.data.limit is None else recipe.data.limit):
        return kind
    return f"{kind}-{suffix(spec.limit)}"


def _with_teacher(arm: Arm, before: Sequence[Arm], folder: Path) -> Recipe:
    """An arm's recipe with `arm:NAME` as the run that it means: of the same amount of data and seed, else its first.

    Raises:
        RecipeError: No such arm runs before.
    """
    recipe = arm.recipe
    teacher = getattr(recipe.strategy, "teacher", None)
    if teacher is None or not teacher.startswith(ARM):
        return recipe
    name = teacher.removeprefix(ARM)
    teachers = [one for one in before if one.floor is None and one.family == name]
    found = [one.recipe for one in teachers if one.size in (arm.size, None)]
    if not found:
        names = sorted({one.family for one in before if one.floor is None})
        hint = did_you_mean(name, names) or "A teacher stands before its student in compare.arms"
        raise RecipeError(Problem(f"no arm '{name}' is run before it", "compare.arms", hint=hint))
    run = next((one for one in found if one.seed == recipe.seed), found[0])
    strategy = recipe.strategy.model_copy(update={"teacher": str(folder / run.name)})
    return recipe.model_copy(update={"strategy": strategy})


def without_teacher(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe as it can be checked before its teacher, a run of the same comparison, is there."""
    student = getattr(recipe.strategy, "student", None)
    teacher = Path(getattr(recipe.strategy, "teacher", ""))
    if student is None or student.weights != "teacher" or teacher.parent != folder or Run(teacher).status == "done":
        return recipe
    strategy = recipe.strategy.model_copy(update={"student": student.model_copy(update={"weights": "base"})})
    return recipe.model_copy(update={"strategy": strategy})


def _recipe(recipe: Recipe, spec: ArmSpec, name: str, seed: int) -> Recipe:
    data: dict[str, Any] = json.loads(recipe.model_dump_json(exclude={"compare"}))
    data |= {"name": name, "seed": seed}
    if spec.strategy is not None:
        data["strategy"] = json.loads(spec.strategy.model_dump_json())
        if spec.strategy.body().weights == "pretrained":
            if recipe.model.base is None and spec.strategy.body().origin is None:
                what = f"{spec.strategy.kind} starts from weights, and the recipe names none"
                raise RecipeError(Problem(what, "model.base", hint="Name a base, or compare scratch alone"))
            data["model"]["config"] = None  # the shape of random weights
    if spec.floor is not None and recipe.model.base is not None:
        data["model"]["config"] = None
    if spec.limit is not None:
        data["data"]["limit"] = None if spec.limit == "all" else json.loads(spec.model_dump_json())["limit"]
    return Recipe.model_validate_json(json.dumps(data))
