"""Arms: the rows of a comparison, as recipes that differ in strategy, seed and amount of data alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hfstrat.errors import Problem, RecipeError, did_you_mean
from hfstrat.recipe.compare import FLOORS, ArmSpec, Floor
from hfstrat.recipe.data import PerClass
from hfstrat.recipe.recipe import Recipe
from hfstrat.strategies import STRATEGIES


@dataclass(frozen=True)
class Arm:
    """One run of a comparison.

    Args:
        recipe: What to run; its name is the arm's and the seed's.
        floor: Which floor, or None for a strategy.
    """

    recipe: Recipe
    floor: Floor | None


def arms_of(recipe: Recipe, words: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> list[Arm]:
    """The runs of a comparison, floors first asked, first run.

    Args:
        recipe: The recipe whose `compare` block names arms and seeds.
        words: Arms in its place: kinds of strategies and floors.
        seeds: Seeds in place of the block's.

    Raises:
        RecipeError: An arm is neither strategy nor floor, or two have one name.
    """
    block = recipe.compare
    asked: Sequence[str | ArmSpec] = words or block.arms or (*FLOORS, *STRATEGIES)
    specs = [_spec(arm, recipe, place) for place, arm in enumerate(asked)]
    names = [_name(spec, recipe) for spec in specs]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        hint = "Give each arm a `name` of its own"
        raise RecipeError([Problem(f"two arms are called '{name}'", "compare.arms", hint=hint) for name in twice])
    runs = []
    for spec, name in zip(specs, names, strict=True):
        # A floor has nothing random in it.
        for seed in [recipe.seed] if spec.floor else seeds or block.seeds:
            runs.append(Arm(_recipe(recipe, spec, name if spec.floor else f"{name}-seed{seed}", seed), spec.floor))
    return runs


def _spec(arm: str | ArmSpec, recipe: Recipe, place: int) -> ArmSpec:
    if isinstance(arm, ArmSpec):
        if (arm.floor is None) == (arm.strategy is None):
            raise RecipeError(Problem("an arm is either a floor or a strategy", f"compare.arms.{place}"))
        return arm
    if arm in FLOORS:
        return ArmSpec.model_validate({"floor": arm})
    if arm == recipe.strategy.kind:
        return ArmSpec(strategy=recipe.strategy)
    if arm in STRATEGIES:
        return ArmSpec(strategy=STRATEGIES[arm]())
    hint = did_you_mean(arm, [*FLOORS, *STRATEGIES])
    raise RecipeError(Problem(f"'{arm}' is neither a strategy nor a floor", f"compare.arms.{place}", hint=hint))


def _name(spec: ArmSpec, recipe: Recipe) -> str:
    if spec.name:
        return spec.name
    kind = spec.floor or (spec.strategy.kind if spec.strategy else "")
    if spec.limit is None or spec.limit == recipe.data.limit:
        return kind
    if isinstance(spec.limit, PerClass):
        return f"{kind}-{spec.limit.per_class}-per-class"
    return f"{kind}-{spec.limit}"


def _recipe(recipe: Recipe, spec: ArmSpec, name: str, seed: int) -> Recipe:
    data: dict[str, Any] = json.loads(recipe.model_dump_json(exclude={"compare"}))
    data |= {"name": name, "seed": seed}
    if spec.strategy is not None:
        data["strategy"] = json.loads(spec.strategy.model_dump_json())
    if spec.limit is not None:
        data["data"]["limit"] = None if spec.limit == "all" else json.loads(spec.model_dump_json())["limit"]
    return Recipe.model_validate_json(json.dumps(data))
