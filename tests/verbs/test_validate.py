"""`hfstrat validate` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import tiny
from tests.command import hfstrat
from tests.training.helpers import LIVELY, recipe

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def given(tiny_base, tmp_path, monkeypatch) -> dict[str, Any]:
    """A recipe for a head, with a shape for what begins from random weights."""
    monkeypatch.chdir(tmp_path)
    tiny.write_csv(tmp_path / "reviews.csv", tiny.reviews(60))
    found = recipe(tiny_base("bert", **LIVELY), {"kind": "head"}, name="mine", data={"source": "reviews.csv"})
    found["model"]["config"] = SHAPE
    return found


def write(given: dict[str, Any]) -> None:
    Path("mine.yaml").write_text(yaml.safe_dump(given))


def test_a_comparison_leaves_the_shape_of_random_weights_to_the_arms_that_have_them(given):
    write({**given, "compare": {"arms": ["head", "scratch"]}})
    done = hfstrat("validate", "mine.yaml")
    assert done.code == 0, done.err
    assert "`hfstrat compare mine.yaml` runs it" in done.out.splitlines()[-1]
    write(given)
    done = hfstrat("validate", "mine.yaml")
    assert done.code == 2
    assert "model.config: it is the shape of random weights, and these are pretrained" in done.errors[0]


def test_what_comes_next_is_the_same_with_its_overrides(given):
    del given["model"]["config"]
    write(given)
    done = hfstrat("validate", "mine.yaml", "train.lr=1e-4", "data.limit={per_class: 5}")
    assert done.out.splitlines()[-1].endswith(
        "`hfstrat train mine.yaml train.lr=1e-4 'data.limit={per_class: 5}'` runs it."
    )
