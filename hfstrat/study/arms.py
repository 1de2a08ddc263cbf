"""Arms: the rows of a comparison, as recipes that differ in strategy, seed and amount of data alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hfstrat.errors import Problem, RecipeError, did_you_mean
from hfstrat.recipe.compare import FLOORS, ArmSpec, CompareSpec, Floor
from hfstrat.recipe.data import PerClass
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
    """

    recipe: Recipe
    floor: Floor | None

    @property
    def amount(self) -> str:
        """The amount of data that it asks for, as JSON."""
        return json.dumps(json.loads(self.recipe.data.model_dump_json())["limit"])


def arms_of(
    recipe: Recipe, folder: Path, words: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> list[Arm]:
    """The runs of a comparison, floors first asked, first run.

    Args:
        recipe: The recipe whose `compare` block names arms and seeds.
        folder: The comparison's directory, where the runs go.
        words: Arms in its place: kinds of strategies and floors.
        seeds: Seeds in place of the block's.

    Raises:
        RecipeError: An arm is neither strategy nor floor, or two have one name.
    """
    block = recipe.compare
    asked: Sequence[str | ArmSpec] = words or block.arms or _usual(recipe)
    # What is wrong with an argument stands nowhere in the recipe.
    specs = [_spec(arm, recipe, "" if words else f"compare.arms.{place}") for place, arm in enumerate(asked)]
    chosen = block.seeds if seeds is None else _seeds(seeds)
    if len(set(chosen)) < len(chosen):
        path = "compare.seeds" if seeds is None else ""
        raise RecipeError(Problem("a seed is given twice", path, hint="Each seed is one run"))
    runs = []
    for spec in specs:
        name = _name(spec, recipe)
        # A floor has nothing random in it.
        for seed in [recipe.seed] if spec.floor else spec.seeds or chosen:
            made = _recipe(recipe, spec, name if spec.floor else f"{name}-seed{seed}", seed)
            runs.append(Arm(made, spec.floor))
    runs = [replace(run, recipe=_with_teacher(run.recipe, runs[:place], folder)) for place, run in enumerate(runs)]
    twice = [name for name, count in Counter(arm.recipe.name for arm in runs).items() if count > 1]
    if twice:
        hint = "Give each arm a `name` of its own"
        raise RecipeError([Problem(f"two arms are called '{name}'", "compare.arms", hint=hint) for name in twice])
    return runs


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


def _seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    try:
        return CompareSpec.model_validate_json(json.dumps({"seeds": list(seeds)})).seeds
    except (ValidationError, TypeError):
        hint = "Give whole numbers from 0"
        raise RecipeError(Problem(f"{list(seeds)} are no seeds", hint=hint)) from None


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
    if isinstance(spec.limit, PerClass):
        return f"{kind}-{spec.limit.per_class}-per-class"
    return f"{kind}-{spec.limit}"


def _with_teacher(recipe: Recipe, before: Sequence[Arm], folder: Path) -> Recipe:
    """The recipe with `arm:NAME` as the run that it means: that arm's run of the same seed, else its first.

    Raises:
        RecipeError: No such arm runs before.
    """
    teacher = getattr(recipe.strategy, "teacher", None)
    if teacher is None or not teacher.startswith(ARM):
        return recipe
    name = teacher.removeprefix(ARM)
    found = [arm.recipe for arm in before if arm.floor is None and arm.recipe.name == f"{name}-seed{arm.recipe.seed}"]
    if not found:
        names = sorted({arm.recipe.name.rpartition("-seed")[0] for arm in before if arm.floor is None})
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
