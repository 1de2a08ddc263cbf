"""Who asks which strategy to take need not name one; who trains has to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import hfstrat as hf
from hfstrat.recipe.loading import load
from hfstrat.recipe.schema import schema
from hfstrat.study.arms import arms_of, kinds_of
from tests import tiny
from tests.command import hfstrat
from tests.training.helpers import LIVELY, recipe

REQUIRED = (
    "mine.yaml:1: strategy: 'strategy' is required. How the model is trained; if you do not know, leave it out and ask "
    "`hfstrat advise` or `hfstrat compare`"
)


@pytest.fixture
def given(tiny_base, tmp_path, monkeypatch) -> dict[str, Any]:
    """A recipe without a strategy, in `mine.yaml` and as plain data."""
    monkeypatch.chdir(tmp_path)
    tiny.write_csv(tmp_path / "reviews.csv", tiny.reviews(80))
    found = recipe(tiny_base("bert", **LIVELY), name="mine", data={"source": "reviews.csv"})
    del found["strategy"]
    Path("mine.yaml").write_text(yaml.safe_dump(found, sort_keys=False))
    return found


@pytest.mark.slow
def test_estimate_is_the_same_as_with_one(given):
    done = hfstrat("estimate", "mine.yaml", "--arms", "head,lora", "--no-calibrate", "--json")
    assert done.code == 0, done.err
    named = hf.estimate({**given, "strategy": {"kind": "full"}}, arms=["head", "lora"], calibrate=False, quiet=True)
    counts = ("arm", "parameters", "trained", "live", "artifact")
    without, those = json.loads(done.out)["arms"], json.loads(json.dumps(named.records()))
    assert [one["arm"] for one in without] == ["head", "lora"]
    assert [[one[name] for name in counts] for one in without] == [[one[name] for name in counts] for one in those]
    assert [one.arm for one in hf.estimate(given, arms=["head"], calibrate=False, quiet=True).arms] == ["head"]


def test_what_is_advised_has_one(given):
    done = hfstrat("advise", "mine.yaml", "--arms", "head,full", "--no-pilots", "--no-calibrate", "--json")
    assert done.code == 0, done.err
    advised, _ = load("mine-advised.yaml")
    assert advised.strategy.kind == json.loads(done.out)["recommended"] in ("head", "full")
    assert hfstrat("validate", "mine-advised.yaml", "--quiet").code == 0


@pytest.mark.slow
def test_compare_runs_each_arm_with_its_defaults(given):
    done = hfstrat("compare", "mine.yaml", "--arms", "majority,head", "--json")
    assert done.code == 0, done.err
    assert [one["arm"] for one in json.loads(done.out)["arms"]] == ["majority", "head"]
    asked = Path("runs/mine/recipe.yaml")
    assert "strategy" not in yaml.safe_load(asked.read_text()), "it holds what was asked for"
    assert load("runs/mine/head-seed0/recipe.yaml")[0].strategy.kind == "head"
    again = hfstrat("compare", asked)
    assert again.code == 0
    assert "2 of 2 arms are done already" in again.err


@pytest.mark.parametrize("verb", ["train", "show"])
def test_what_trains_needs_one(given, verb):
    done = hfstrat(verb, "mine.yaml")
    assert (done.code, done.errors) == (2, [REQUIRED])
    assert not Path("runs").exists()


def test_validate_says_what_it_is_a_recipe_for(given):
    done = hfstrat("validate", "mine.yaml")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "mine.yaml is valid: 45 train, 15 validation, 20 test rows; 2 outputs; no strategy",
        "It is a recipe for `hfstrat advise`, `estimate` and `compare`; what trains needs a strategy.",
    ]
    said = json.loads(hfstrat("validate", "mine.yaml", "--json").out)
    assert (said["strategy"], said["stages"], said["auto"]) == (None, [], [])
    assert json.loads(hfstrat("validate", "mine.yaml", "strategy.kind=head", "--json").out)["strategy"] == "head"


def test_mistakes_elsewhere_are_told_alone(given):
    done = hfstrat("estimate", "mine.yaml", "train.lrr=1")
    assert done.code == 2
    assert [error.split(". ")[0] for error in done.errors] == ["override: train.lrr: 'lrr' is not a field of train"]
    done = hfstrat("estimate", "mine.yaml", "strategy.r=4")
    assert done.errors[0].startswith("override: strategy: strategy needs a 'kind'")


def test_arms_are_those_of_what_the_recipe_starts_from(given):
    usual, _ = load(given, of_any_strategy=True)
    assert {arm.family for arm in arms_of(usual, Path())} >= {"head", "full", "lora", "distill", "scratch"}
    shape = {"model_type": "bert", "num_hidden_layers": 1}
    alone, _ = load({**given, "model": {"config": shape}}, of_any_strategy=True)
    assert kinds_of(alone) == ("scratch",)


def test_editors_take_a_recipe_without_one():
    assert {"name", "model", "task", "data"} == set(schema()["required"]) < set(schema()["properties"])
    assert "strategy" in schema()["properties"]
