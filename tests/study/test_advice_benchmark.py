"""The parts of benchmarks/advice that a table of its would be wrong by."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.advice import run
from benchmarks.advice.scoring import POLICIES, Case, best_elsewhere, clustered, oracle, reliability, result
from hfstrat.recipe.loading import load
from hfstrat.strategies import STRATEGIES


def case(dataset: str, rows: int = 500, head: float = 80, full: float = 82, said: str = "full", p: float = 0.9) -> Case:
    scores = {"head": [head - 1, head + 1], "full": [full - 1, full + 1], "full-random": [full - 3.0, full - 3.0]}
    seconds = {"head": 1.0, "full": 10.0, "full-random": 9.0}
    return Case(dataset, rows, scores, seconds, {"pilots": (said, p, 5.0), "rules": ("head", 0.5, 1.0)})


CASES = [case("a"), case("a", head=85), case("b", full=90), case("b", rows=5000, said="head", p=0.6)]


def test_regret_is_to_the_best_over_seeds():
    assert case("a").regret("head") == pytest.approx(2)
    assert case("a").regret("full") == 0
    assert case("a").exhaustive == 2 * (1 + 10 + 9)


def test_an_oracle_has_no_regret_and_others_what_they_deserve():
    assert result(oracle, CASES, 1.0).regret == (0, 0, 0)
    assert result(POLICIES["always head"], CASES, 1.0).regret[0] == pytest.approx((2 + 0 + 10 + 2) / 4)
    assert result(POLICIES["always LoRA"], CASES, 1.0) is None
    # One of the four has the head as its best, and is advised to take full.
    found = result(POLICIES["advise"], CASES, 1.0, "pilots")
    assert found.hits[0] == pytest.approx(0.5)
    assert found.regret[0] == pytest.approx((0 + 3 + 0 + 2) / 4)
    assert found.brier == pytest.approx((0.1**2 + 0.9**2 + 0.1**2 + 0.6**2) / 4)
    assert found.cost == pytest.approx((3 * 15 + 6) / 4 / 40)
    # Half of the cases of either data set are hits.
    assert found.brier_of_share == pytest.approx(0.25)


def test_the_table_of_adjectives_goes_by_rows_alone():
    policy = POLICIES["table of adjectives"]
    assert [policy(case("a", rows=rows), []) for rows in (100, 999, 1000, 99_999)] == ["head"] * 2 + ["full-random"] * 2
    assert policy(case("a", rows=200_000), []) is None


def test_the_best_elsewhere_does_not_look_at_its_own_data_set():
    own, others = case("a", head=99), [case("b"), case("b"), case("c", head=85)]
    assert best_elsewhere(own, others[:2]) == "full"
    assert best_elsewhere(own, others) == "head"  # data sets count alike, however many cases they have
    assert best_elsewhere(own, []) is None
    seen: list[set[str]] = []
    result(lambda one, rest: seen.append({other.dataset for other in rest}) or "head", CASES, 1.0)
    assert seen == [{"b"}, {"b"}, {"a"}, {"a"}]


def test_intervals_are_over_data_sets():
    values = np.array([0.0] * 50 + [1.0] * 50)
    mean, low, high = clustered(values, ["a"] * 50 + ["b"] * 50)
    assert (mean, low, high) == (0.5, 0.0, 1.0)  # two data sets that disagree say next to nothing
    _, low, high = clustered(values, [str(place) for place in range(100)])
    assert 0.35 < low < 0.45
    assert 0.55 < high < 0.65


def test_probabilities_are_put_beside_hits():
    assert reliability(CASES, "pilots", 1.0) == [(0.6, 0.0, 1), (pytest.approx(0.9), pytest.approx(2 / 3), 3)]


def test_the_report_has_a_line_for_each_policy_that_was_measured():
    text = run.report(CASES, 1.0, [0, 1])
    assert "4 cases of 2 data sets (a, b)" in text
    lines = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert {"| advise", "| advise without pilots", "| oracle", "| always LP-FT", "| a, 500", "| b, 5,000"} <= {*lines}
    assert "| always LoRA" not in lines


@pytest.mark.parametrize("name", run.DATASETS)
def test_every_recipe_is_one(name, tmp_path):
    parsed, _ = load(run.recipe_of(name, 250, tmp_path, run.BASE, {}))
    assert parsed.data.limit == 250
    assert parsed.data.source.startswith(("builtin:", str(tmp_path)))
    assert set(run.CHOICES) <= set(run.ARMS)
    assert set(run.CHOICES) <= set(STRATEGIES)


def test_a_case_that_is_done_is_read(tmp_path, monkeypatch):
    (tmp_path / "cases").mkdir()
    stored = '{"dataset": "wnut17", "rows": 250, "scores": {"head": [1.0]}, "seconds": {"head": 2.0}, "advised": {}}'
    (tmp_path / "cases" / "wnut17-250.json").write_text(stored)
    words = run.argparse.Namespace(folder=tmp_path)
    assert run.measured("wnut17", 250, words).scores == {"head": [1.0]}
