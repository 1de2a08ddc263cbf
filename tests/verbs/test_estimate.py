"""`hfstrat estimate` on the command line."""

from __future__ import annotations

import json

import pytest
import yaml

from tests import tiny
from tests.command import hfstrat
from tests.training.helpers import LIVELY, recipe


@pytest.fixture
def written(tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write_csv(tmp_path / "reviews.csv", tiny.reviews(60))
    given = recipe(tiny_base("bert", **LIVELY), {"kind": "lora", "r": 4}, data={"source": "reviews.csv"})
    given["compare"] = {"arms": ["majority", "head", "full", "lora"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(given))
    return tmp_path / "mine.yaml"


def test_the_arms_of_a_recipe_are_shown_with_what_to_do_next(written, monkeypatch):
    monkeypatch.setenv("COLUMNS", "170")
    done = hfstrat("estimate", "mine.yaml", "--no-calibrate", "--price", 2)
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert [words[0] for words in lines if words and words[0] in ("majority", "head", "full", "lora")][:3] == [
        "head",
        "full",
        "lora",
    ]
    assert "Next: `hfstrat compare mine.yaml --arms head,full,lora` measures them on your data." in done.out
    assert not (written.parent / "runs").exists()


def test_json_has_each_figure_with_where_it_is_from(written):
    done = hfstrat("estimate", "mine.yaml", "--no-calibrate", "--arms", "full,lora", "--json")
    found = json.loads(done.out)
    assert [one["arm"] for one in found["arms"]] == ["full", "lora"]
    full, lora = found["arms"]
    assert full["live"]["how"] == "counted"
    assert full["seconds"]["how"] == "guessed"
    assert full["live"]["low"] <= full["live"]["value"] <= full["live"]["high"]
    assert full["trained"] == full["parameters"] < lora["parameters"]
    assert lora["artifact"]["value"] < full["artifact"]["value"]
    assert full["fits"] is True
    assert "cost" not in full


def test_what_does_not_fit_is_said_with_a_way_out(written):
    done = hfstrat("estimate", "mine.yaml", "--no-calibrate", "--arms", "full", "--memory", "1MB", "--quiet")
    assert done.code == 0
    assert "full does not fit into 0.0 GiB: try kind: qlora or kind: lora or a shorter task.max_length" in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "h10"], "no device 'h10' is known"),
        (["--memory", "much"], "'much' is no amount of memory"),
        (["--arms", "majority"], "a floor trains no model"),
        (["--arms", "lorra"], "'lorra' is neither a strategy nor a floor"),
    ],
)
def test_wrong_words_are_errors_of_the_user(written, words, said):
    done = hfstrat("estimate", "mine.yaml", *words)
    assert done.code == 2
    assert said in done.err
