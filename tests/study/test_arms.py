"""Which runs a comparison is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hfstrat.errors import RecipeError
from hfstrat.recipe.loading import load
from hfstrat.recipe.recipe import Recipe
from hfstrat.study.arms import Arm, arms_of

FOLDER = Path("runs/x")


def recipe(compare: dict[str, Any] | None = None, **fields: Any) -> Recipe:
    data = {
        "name": "x",
        "seed": 5,
        "model": {"base": "bert"},
        "task": {"kind": "text_classification"},
        "data": {"source": "a.csv"},
        "strategy": {"kind": "lora", "r": 3},
        **fields,
    }
    return load({**data, "compare": compare} if compare else data)[0]


def names(arms: list[Arm]) -> list[str]:
    return [arm.recipe.name for arm in arms]


def test_left_out_it_is_both_floors_and_every_strategy() -> None:
    assert names(arms_of(recipe(), FOLDER)) == [
        "majority",
        "tfidf",
        *(f"{kind}-seed0" for kind in ("scratch", "head", "partial", "full", "lora", "qlora", "peft", "distill")),
    ]


def test_each_strategy_runs_once_a_seed_and_a_floor_once() -> None:
    arms = arms_of(recipe({"arms": ["lora", "tfidf"], "seeds": [0, 3]}), FOLDER)
    assert names(arms) == ["lora-seed0", "lora-seed3", "tfidf"]
    assert [arm.recipe.seed for arm in arms] == [0, 3, 5]
    assert [arm.floor for arm in arms] == [None, None, "tfidf"]


def test_arguments_take_the_place_of_the_block() -> None:
    block = {"arms": ["tfidf"], "seeds": [0, 1]}
    assert names(arms_of(recipe(block), FOLDER, ["head"], [7])) == ["head-seed7"]
    assert names(arms_of(recipe(block), FOLDER, ["head"])) == ["head-seed0", "head-seed1"]


def test_the_recipes_own_kind_takes_its_fields_and_others_their_defaults() -> None:
    own, other = arms_of(recipe(), FOLDER, ["lora", "full"])
    assert own.recipe.strategy == recipe().strategy
    assert other.recipe.strategy.model_dump() == {"kind": "full", "head_init": "auto", "layer_decay": None}


def test_arms_differ_in_name_seed_strategy_and_limit_alone() -> None:
    given = recipe(data={"source": "a.csv", "limit": 8}, train={"lr": 1e-3})
    (arm,) = arms_of(given, FOLDER, ["head"])
    same = {"name", "seed", "strategy", "compare"}
    assert arm.recipe.model_dump(exclude=same) == given.model_dump(exclude=same)


@pytest.mark.parametrize(
    ("limit", "own", "name", "chosen"),
    [
        ("all", 8, "tfidf-all", None),
        ("all", None, "tfidf", None),
        (4, 8, "tfidf-4", 4),
        (8, 8, "tfidf", 8),
        (None, 8, "tfidf", 8),
        ({"per_class": 2}, 8, "tfidf-2-per-class", {"per_class": 2}),
    ],
)
def test_an_arm_on_another_amount_of_data_says_so_in_its_name(limit: Any, own: Any, name: str, chosen: Any) -> None:
    given = recipe({"arms": [{"floor": "tfidf", "limit": limit}]}, data={"source": "a.csv", "limit": own})
    (arm,) = arms_of(given, FOLDER)
    assert arm.recipe.name == name
    assert arm.recipe.data.model_dump()["limit"] == chosen


def test_every_arm_is_run_on_every_amount_of_data() -> None:
    block = {"arms": ["majority", "lora", {"name": "all", "strategy": {"kind": "head"}, "limit": "all"}]}
    given = recipe({**block, "sizes": [{"per_class": 4}, 100, "all"]}, data={"source": "a.csv", "limit": 8})
    arms = arms_of(given, FOLDER)
    assert names(arms) == [
        *("majority-4-per-class", "lora-4-per-class-seed0", "all-seed0"),
        *("majority-100", "lora-100-seed0", "majority-all", "lora-all-seed0"),
    ]
    assert [(arm.family, arm.size) for arm in arms[1:4]] == [
        ("lora", "4-per-class"),
        ("all", None),
        ("majority", "100"),
    ]
    limits = [arm.recipe.data.model_dump()["limit"] for arm in arms]
    assert limits == [{"per_class": 4}, {"per_class": 4}, None, 100, 100, None, None]
    asked = arms_of(recipe(block), FOLDER, ["lora"], sizes=[{"per_class": 2}, "all"])
    assert names(asked) == ["lora-2-per-class-seed0", "lora-all-seed0"]


def test_learning_rates_are_of_strategies_alone() -> None:
    own = {"strategy": {"kind": "head"}, "lr": [1.0]}
    arms = arms_of(recipe({"arms": ["tfidf", "lora", own], "lr": [1e-4, 3e-4]}), FOLDER)
    assert [arm.rates for arm in arms] == [(), (1e-4, 3e-4), (1.0,)]


def test_a_teacher_has_seen_as_much_as_its_student() -> None:
    found = arms_of(recipe({"arms": ["full", "distill"], "sizes": [50, "all"]}), FOLDER)
    teachers = {arm.recipe.name: arm.recipe.strategy.teacher for arm in found if arm.family == "distill"}
    assert teachers == {"distill-50-seed0": "runs/x/full-50-seed0", "distill-all-seed0": "runs/x/full-all-seed0"}


@pytest.mark.parametrize("sizes", [[0], ["some"], [{"per_class": 0}], [1.5], [10, 10]])
def test_amounts_that_are_none(sizes: list[Any]) -> None:
    with pytest.raises(RecipeError, match=r"no amounts of data|two arms are called"):
        arms_of(recipe(), FOLDER, ["head"], sizes=sizes)


def test_a_name_of_its_own_is_kept() -> None:
    block = {"arms": ["lora", {"name": "small", "strategy": {"kind": "lora", "r": 1}}]}
    assert names(arms_of(recipe(block), FOLDER)) == ["lora-seed0", "small-seed0"]


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"arms": ["tfidf", "tfidf"]}, "two arms are called 'tfidf'"),
        ({"arms": ["lora", {"strategy": {"kind": "lora", "r": 1}}]}, "two arms are called 'lora-seed0'"),
        ({"arms": ["head", {"name": "head-seed0", "floor": "tfidf"}]}, "two arms are called 'head-seed0'"),
        ({"arms": [{}]}, "compare.arms.0: an arm is either a floor or a strategy"),
        (
            {"arms": ["head", "lorra"]},
            "compare.arms.1: 'lorra' is neither a strategy nor a floor. Did you mean 'lora'?",
        ),
        ({"seeds": [1, 1]}, "compare.seeds: a seed is given twice"),
    ],
)
def test_what_cannot_be_run(block: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        arms_of(recipe(block), FOLDER)
    assert said in str(caught.value)


def test_an_arm_may_have_seeds_of_its_own() -> None:
    block = {"arms": ["head", {"strategy": {"kind": "full"}, "seeds": [7]}], "seeds": [0, 1]}
    assert names(arms_of(recipe(block), FOLDER)) == ["head-seed0", "head-seed1", "full-seed7"]


def test_a_teacher_is_the_run_of_the_same_seed_of_an_arm_before() -> None:
    block = {"arms": ["full", "distill"], "seeds": [0, 1]}
    found = {arm.recipe.name: arm.recipe.strategy for arm in arms_of(recipe(block), FOLDER)}
    assert found["distill-seed0"].teacher == "runs/x/full-seed0"
    assert found["distill-seed1"].teacher == "runs/x/full-seed1"
    other = {"kind": "distill", "teacher": "arm:full"}
    block = {"arms": ["full", {"strategy": other, "seeds": [5]}], "seeds": [3]}
    assert arms_of(recipe(block), FOLDER)[-1].recipe.strategy.teacher == "runs/x/full-seed3"


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        (["distill", "full"], "no arm 'full' is run before it. A teacher stands before its student in compare.arms"),
        (["tfidf", "distill"], "no arm 'full' is run before it"),
        (
            ["head", {"strategy": {"kind": "distill", "teacher": "arm:haed"}}],
            "no arm 'haed' is run before it. Did you mean 'head'?",
        ),
    ],
)
def test_a_teacher_that_is_no_arm(arms: list[Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        arms_of(recipe({"arms": arms}), FOLDER)
    assert said in str(caught.value)


def test_the_shape_of_random_weights_is_left_aside_by_arms_that_start_from_pretrained_ones() -> None:
    given = recipe({"arms": ["majority", "head", "scratch"]}, model={"base": "bert", "config": {"hidden_size": 8}})
    found = [arm.recipe.model.config for arm in arms_of(given, FOLDER)]
    assert found == [None, None, {"hidden_size": 8}]


def test_an_architecture_alone_is_compared_with_floors_from_scratch() -> None:
    bare = {"model": {"config": {"model_type": "bert"}}, "strategy": {"kind": "scratch"}}
    arms = arms_of(recipe(**bare), FOLDER)
    assert names(arms) == ["majority", "tfidf", "scratch-seed0"]
    assert all(arm.recipe.model.config == {"model_type": "bert"} for arm in arms)
    with pytest.raises(RecipeError, match="full starts from weights, and the recipe names none"):
        arms_of(recipe({"arms": ["scratch", "full"]}, **bare), FOLDER)


@pytest.mark.parametrize("seeds", [[-1], [2**70], [0.5], [], [0, 0]])
def test_seeds_that_are_none(seeds: list[Any]) -> None:
    with pytest.raises(RecipeError, match="seed"):
        arms_of(recipe(), FOLDER, ["head"], seeds)


def test_what_is_wrong_with_an_argument_stands_nowhere_in_the_recipe() -> None:
    with pytest.raises(RecipeError) as caught:
        arms_of(recipe(), FOLDER, ["lorra"])
    assert caught.value.problems[0].path == ""
