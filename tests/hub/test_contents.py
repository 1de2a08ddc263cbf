"""The card and the recipe as they are sent: what the Hub reads in them, and what they keep to themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import EvalResult, ModelCard

from hfstrat.beginning import as_written
from hfstrat.checkpoints import recipe_digest
from hfstrat.hub.contents import CARD, Facts, contents, public_recipe
from hfstrat.recipe.loading import build, load, parse
from hfstrat.report.card import card
from hfstrat.runs.directory import write_json
from tests.report import fake

Pushable = Callable[..., Path]


def sent(run: Path, repo_id: str = "me/x", **options: str) -> dict[str, str]:
    found = contents(Facts.of(run, **options), repo_id)
    return {one.path: one.source.decode() for one in found if isinstance(one.source, bytes)}


def test_the_hub_reads_the_card(pushable: Pushable) -> None:
    run = pushable("lora", hub={"license": "mit", "language": ["en", "de"]}, published_as="someone/tiny")
    data = ModelCard(sent(run)[CARD]).data
    assert (data.license, data.language) == ("mit", ["en", "de"])
    assert (data.base_model, data.base_model_relation) == ("someone/tiny", "adapter")
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-classification")
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert data.eval_results is not None
    assert len(data.eval_results) == len(metrics)
    for result in data.eval_results:
        assert isinstance(result, EvalResult)
        known = metrics[str(result.metric_type)]
        assert result.metric_value == known["value"]
        assert f"95 % interval {known['low']:.3f}–{known['high']:.3f}" in str(result.metric_name)
        assert (result.task_type, result.dataset_split) == ("text-classification", "test")


def test_the_recipe_that_is_sent_is_a_recipe(pushable: Pushable) -> None:
    for strategy in ("full-random", "lora"):
        text = sent(pushable(strategy), published_as="someone/tiny")["recipe.yaml"]
        assert build(parse(text, "recipe.yaml")).model.base == "someone/tiny"


def test_places_are_told_by_their_last_names() -> None:
    resolved = {
        "model": {"base": "/home/me/bert"},
        "data": {"source": "/home/me/train.csv", "test": "../test.csv", "columns": {"text": "a/b"}},
        "strategy": {"kind": "distill", "teacher": "~/runs/teacher"},
        "task": {"prefix": "/summarize", "labels": ["a", "/b/c/d"]},
        "n": [1, None, 2.5],
    }
    assert public_recipe(resolved, None) == {
        "model": {"base": "bert"},
        "data": {"source": "train.csv", "test": "test.csv", "columns": {"text": "a/b"}},
        "strategy": {"kind": "distill", "teacher": "teacher"},
        "task": {"prefix": "/summarize", "labels": ["a", "/b/c/d"]},
        "n": [1, None, 2.5],
    }
    assert public_recipe(resolved, "someone/bert")["model"]["base"] == "someone/bert"


def test_reasons_name_no_place_of_this_machine(tmp_path: Path) -> None:
    run = fake.run(tmp_path, "mine", "lora")
    decisions = [{"path": "task.pooling", "value": "mean", "reason": f"{tmp_path}/models/bert declares it"}]
    write_json(run.path / "decisions.json", {"decisions": decisions})
    text = card(run, resolved=fake.recipe("lora"))
    assert "| `task.pooling` | `mean` | bert declares it |" in text
    assert str(tmp_path) not in text


def test_the_card_of_a_merged_adapter_is_that_of_a_whole_model(tmp_path: Path) -> None:
    run, resolved = fake.run(tmp_path, "mine", "lora"), fake.recipe("lora")
    assert "parameters stored here" in card(run, resolved=resolved)
    text = card(run, resolved=resolved, merged=True)
    assert ModelCard(text).data.library_name == "transformers"
    assert "parameters stored here" not in text
    assert "peft" not in text.partition("## Training")[0]


@pytest.mark.parametrize("change", [{"repo_id": "me/x"}, {"private": False}, {"license": "mit"}])
def test_where_it_is_pushed_to_makes_no_other_run(change: dict[str, object]) -> None:
    given = {
        "name": "mine",
        "model": {"base": "bert"},
        "task": {"kind": "text_classification"},
        "data": {"source": "memory"},
        "strategy": {"kind": "head"},
    }
    one, other = load(given, ())[0], load({**given, "hub": change}, ())[0]
    assert one != other
    assert as_written(one) == as_written(other)
    assert recipe_digest(one) == recipe_digest(other)
