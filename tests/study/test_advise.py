"""Advice: what it rests on, that it is the same each time, and that nothing of it comes from the test split."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

import hfstrat as hf
from hfstrat.errors import UsageError
from hfstrat.recipe.compare import seconds_of
from hfstrat.recipe.loading import load
from hfstrat.runs.events import Observer
from hfstrat.strategies import STRATEGIES
from hfstrat.study.advise import piloting
from hfstrat.study.advise.advising import advise
from hfstrat.study.advise.deciding import Belief, Question, Rung, decide, flips, prior, probabilities, updated
from hfstrat.study.advise.evidence import Evidence, Floor, Level, Probe, Slope
from hfstrat.study.advise.limits import Limits, Option, at_once, beyond, price_of
from hfstrat.study.advise.probing import slope
from hfstrat.study.advise.rules import WITH_PROBE, WITHOUT_PROBE, predict
from tests import tiny
from tests.command import hfstrat
from tests.strategies.table import TASKS, Workshop
from tests.training.helpers import LIVELY, memory, recipe

ROWS = tiny.reviews(200)
PARTS = {"train": ROWS[:120], "validation": ROWS[120:160], "test": ROWS[160:]}
ARMS = ["head", "full", "lora"]
SHARED = ["film", "house", "city", "music"]
AUTO: dict[str, Any] = {"data": {"validation": "auto", "test": "auto"}}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def evidence(validation: float = 0.8, train: float = 0.82, rows: int = 4000, **other: Any) -> Evidence:
    """What is known of a task with two classes, unless told otherwise."""
    curve = (Level(rows // 2, (validation - 0.005,)), Level(rows, (validation,)))
    probe = Probe(
        validation, train, 0.01, validation - 0.02, validation + 0.02, 0.7, 0.7, curve, Slope(0.005, None, None)
    )
    known: dict[str, Any] = {
        "task": "text_classification",
        "problem": "single_label",
        "metric": "accuracy",
        "up": True,
        "point": 0.01,
        "rows": rows,
        "classes": 2,
        "validation_rows": 500,
        "test_rows": 1000,
        "detectable": None,
        "body": 22_000_000,
        "head_is_linear": True,
        "probe": probe,
        "floors": {"tfidf": Floor((Level(rows, (validation - 0.05,)),), None)},
    }
    return Evidence(**{**known, **other})


OPTIONS = (
    Option("head", 10.0, 400.0 * 2**20, 0.01, 90.0 * 2**20, 1e12),
    Option("lora", 100.0, 600.0 * 2**20, 0.1, 3.0 * 2**20, 3e13, "train.micro_batch_size=4"),
    Option("full", 150.0, 900.0 * 2**20, 0.15, 90.0 * 2**20, 4e13),
)


def question(tolerance: float = 1.0, limits: Limits | None = None, **known: Any) -> Question:
    return Question(evidence(**known), OPTIONS, limits or Limits(), tolerance)


# --- rules and decisions --------------------------------------------------------------------------------------------


def test_every_strategy_has_a_rule_with_and_without_a_probe():
    assert set(WITH_PROBE) == set(WITHOUT_PROBE) == set(STRATEGIES)
    for kind in STRATEGIES:
        for known in (evidence(), evidence(probe=None, without_probe="none")):
            found = predict(kind, known)
            assert found.sd > 0
            assert found.why


def test_where_features_lack_the_task_weights_move():
    assert decide(question()).recommended.kind == "full"


def test_where_nothing_is_left_to_gain_the_head_is_enough():
    assert decide(question(validation=0.99, train=0.995)).recommended.kind == "head"


def test_where_examples_are_too_few_less_is_expected_of_moving_weights():
    lacking, varying = evidence(0.84, 0.85), evidence(0.84, 1.0)
    assert predict("full", varying).mean < predict("full", lacking).mean / 3


def test_the_rules_are_near_the_tables_that_they_were_written_from():
    # SST-2 in full and Banking77 with eight a class, docstring of `tuned_share`.
    assert predict("full", evidence(0.811, 0.82, 6920)).mean == pytest.approx(8.1, abs=1.0)
    banking = evidence(0.832, 0.9916, 616, classes=77)
    assert predict("full", banking).mean == pytest.approx(0.9, abs=0.3)


def test_nothing_is_expected_to_be_better_than_perfect():
    known = evidence(0.999, 0.999)
    assert all(predict(kind, known).mean <= 0.1 + 1e-9 for kind in STRATEGIES)


def test_an_error_is_counted_down_from_that_of_the_same_answer_for_everything():
    known = evidence(probe=None, metric="rmse", up=False, point=0.02, problem="regression")
    assert known.points(2.0) == 0
    assert known.points(0.0) == 100
    assert known.value(known.points(0.7)) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("first", "second", "sd", "margin"), [(0, 0, 1, 0), (1, 0, 2, 1), (-3, 2, 4, 1.5), (2, 0, 0.5, 1)]
)
def test_probabilities_are_those_of_the_closed_form(first, second, sd, margin):
    covariance = np.array([[1.0, 0.3 * sd], [0.3 * sd, sd**2]])
    found = probabilities(Belief(("head", "full"), np.array([first, second], float), covariance), margin, 200_000)
    spread = math.sqrt(1 + sd**2 - 2 * 0.3 * sd)
    for place, ahead in enumerate((first - second, second - first)):
        assert found[place] == pytest.approx(NormalDist().cdf((ahead + margin) / spread), abs=0.005)


def test_probabilities_are_calibrated_over_worlds_like_the_belief():
    """Of worlds drawn from a belief, each strategy is within the margin as often as was said."""
    belief, generator = prior(evidence(), ["head", "lora", "full"]), np.random.default_rng(7)
    worlds = generator.multivariate_normal(belief.mean, belief.covariance, 4000)
    share = (worlds >= worlds.max(1, keepdims=True) - 1).mean(0)
    assert probabilities(belief, 1.0) == pytest.approx(share, abs=0.03)


def test_a_pilot_of_two_moves_their_difference_as_bayes_says():
    belief = Belief(("head", "full"), np.array([0.0, 3.0]), np.diag([1.0, 4.0]))
    rung = Rung(500, {"head": 80.0, "full": 79.0}, 0.5)
    found = updated(belief, rung, 2000)
    noise = 2 * (0.5 + 400 / 500 + 2**2 / 2)
    expected = (5.0 * -1.0 + noise * 3.0) / (5.0 + noise)
    assert found.mean[1] - found.mean[0] == pytest.approx(expected)
    contrast = np.array([-1.0, 1.0])
    assert contrast @ found.covariance @ contrast == pytest.approx(5.0 * noise / (5.0 + noise))


def test_of_pilots_the_level_does_not_count_and_one_alone_says_nothing():
    belief = prior(evidence(), ["head", "lora", "full"])
    scores = {"head": 70.0, "lora": 71.0, "full": 73.0}
    one = updated(belief, Rung(500, scores, 1.0), 4000)
    other = updated(belief, Rung(500, {kind: value + 9 for kind, value in scores.items()}, 1.0), 4000)
    assert one.mean == pytest.approx(other.mean)
    assert updated(belief, Rung(500, {"head": 70.0}, 1.0), 4000) is belief


def test_pilots_on_fewer_examples_count_less():
    belief = prior(evidence(), ["head", "full"])
    scores = {"head": 80.0, "full": 70.0}
    near, far = (updated(belief, Rung(rows, scores, 0.1), 4000).mean[1] for rows in (2000, 250))
    assert near < far < belief.mean[1]


def test_of_what_is_about_as_likely_the_cheapest_is_taken():
    # With a wide tolerance all are the same, and the head is the quickest.
    assert decide(question(tolerance=30)).recommended.kind == "head"
    alike = (replace(OPTIONS[1], seconds=140.0), OPTIONS[2])
    known = evidence(body=1_000_000_000)
    assert decide(Question(known, alike, Limits(), 3.0)).recommended.kind == "lora"  # in time the same, less memory


def test_a_small_test_split_widens_the_tolerance():
    narrow, wide = question(), question(detectable=40.0)
    assert (narrow.margin, wide.margin) == (1.0, 40.0)
    assert decide(wide).recommended.kind == "head"


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        (Limits(time=120), {"head", "lora"}),
        (Limits(memory=700 * 2**20), {"head", "lora"}),
        (Limits(cost=0.05), {"head"}),
        (Limits(artifact=50 * 2**20), {"lora"}),
        (Limits(time=120, artifact=50 * 2**20), {"lora"}),
    ],
)
def test_what_does_not_keep_within_a_limit_is_out(limits, left):
    found = decide(question(limits=limits))
    assert {one.kind for one in found.ranked} == left
    assert found.recommended.kind in left
    assert {one.kind for one in found.excluded} == {"head", "lora", "full"} - left
    assert all(one.fix for one in found.excluded)


def test_what_would_let_a_strategy_in_does():
    out = beyond(OPTIONS[1], Limits(time=5, memory=2**20, cost=0.001, artifact=2**20))
    assert [one.limit for one in out] == ["memory", "time", "cost", "artifact"]
    assert out[0].fix == "train.micro_batch_size=4, or --memory 600MB"
    words = dict(one.fix.rsplit(" ", 2)[-2:] for one in out)
    assert words == {"--memory": "600MB", "--time": "100s", "--max-cost": "0.10", "--max-artifact": "3MB"}
    assert not beyond(OPTIONS[1], Limits(100, 600 * 2**20, 0.105, 3 * 2**20))


def test_an_architecture_that_changes_leaves_scratch_and_a_student(tiny_base, tmp_path):
    parsed, _ = load(recipe(tiny_base("bert")))
    kinds, out = at_once(parsed, Limits(architecture_changes=True))
    assert kinds == ["scratch"]
    assert {one.kind: one.limit for one in out} == {
        **dict.fromkeys(("head", "partial", "full", "lora", "qlora", "peft"), "architecture"),
        "distill": "recipe",
    }
    with_teacher, _ = load(recipe(tiny_base("bert"), {"kind": "distill", "teacher": "runs/some"}))
    assert at_once(with_teacher, Limits(architecture_changes=True))[0] == ["scratch", "distill"]


def test_without_weights_nothing_starts_from_them(tiny_base):
    given = recipe(tiny_base("bert"), {"kind": "scratch"})
    given["model"] = {"config": {"model_type": "bert", "hidden_size": 16}}
    kinds, out = at_once(load(given)[0], Limits())
    assert kinds == ["scratch"]
    assert {one.fix for one in out if one.kind != "distill"} == {"model.base=…"}


def test_a_flip_is_what_is_recommended_then():
    asked = question(limits=Limits(time=120, artifact=200 * 2**20))
    found = flips(asked)
    assert {one.what for one in found} >= {"time", "tolerance"}
    now = decide(asked).recommended.kind
    for one in found:
        if one.what == "rows":
            changed = asked.at(round(one.value))
        elif one.what == "tolerance":
            changed = replace(asked, tolerance=one.value)
        else:
            changed = replace(asked, limits=replace(asked.limits, **{one.what: one.value}))
        assert decide(changed).recommended.kind == one.recommended != now


def test_more_examples_are_worth_half_of_the_slope():
    known = evidence()
    assert known.at(8000).probe.validation == pytest.approx(0.8 + 0.0025)
    assert known.at(2000).probe.validation == pytest.approx(0.8 - 0.005)
    assert known.at(4000) is known


def test_a_slope_is_that_of_a_line():
    levels = [Level(rows, tuple(0.1 * math.log2(rows) + off for off in (-0.01, 0.01))) for rows in (64, 128, 256)]
    found = slope(levels)
    assert found.value == pytest.approx(0.1)
    assert found.low < 0.1 < found.high
    assert slope(levels[:1]) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90 min", 5400), ("1h30m", 5400), ("45s", 45), ("1d", 86400)]
)
def test_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "0h", "2 hands", "-1h", "1h and more"])
def test_what_is_no_time(text):
    with pytest.raises(UsageError, match="is no time"):
        seconds_of(text)


def test_prices():
    assert price_of("2.5/h") == price_of(" 2.5 ") == price_of("2.5/hour") == 2.5
    for text in ("free", "2.5/d", ""):
        with pytest.raises(UsageError, match="no price"):
            price_of(text)


# --- from end to end ------------------------------------------------------------------------------------------------


def asked(base: Path, **options: Any) -> Any:
    """Advice on reviews, quickly."""
    parts = options.pop("parts", PARTS)
    given = recipe(base, "head", **AUTO)
    return advise(given, data=memory(parts), **{"arms": ARMS, "pilots": False, "calibrate": False, **options})


def told(advice: Any) -> dict[str, Any]:
    """What advice says, without what a clock says."""
    found = advice.to_json()
    for name in ("seconds", "reasons", "flips"):
        found.pop(name)
    found["pilots"].pop("seconds")
    for one in found["strategies"]:
        for name in ("seconds", "memory", "cost"):
            one.pop(name)
    return found


ENOUGH = Limits(memory=64 * 2**30)


@pytest.fixture(scope="module")
def advice(tiny_base):
    """Advice on reviews, asked for once."""
    return asked(tiny_base("bert", **LIVELY), limits=ENOUGH, price=2.5)


@pytest.mark.slow
def test_advice_is_the_same_each_time(tiny_base, advice):
    assert told(asked(tiny_base("bert", **LIVELY), limits=ENOUGH, price=2.5)) == told(advice)


def test_what_is_expected_of_the_probe_is_as_unsure_as_its_own_score(advice):
    known = advice.question.evidence
    head = next(one for one in advice.to_json()["strategies"] if one["strategy"] == "head")
    assert head["score"]["value"] == pytest.approx(known.probe.validation)
    width = head["score"]["high"] - head["score"]["low"]
    assert width == pytest.approx(known.probe.high - known.probe.low, rel=0.01)


@pytest.fixture
def eager(monkeypatch):
    """Pilots whatever they cost, on few examples, which is quick here."""
    monkeypatch.setattr(piloting, "why_not", lambda *_: "")
    monkeypatch.setattr(piloting, "WORTH", float("inf"))
    monkeypatch.setattr(piloting, "RUNGS", (4, 2))


class Notes(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.slow
def test_the_test_split_decides_nothing_and_pilots_are_run_once(tiny_base, tmp_path, eager, monkeypatch):
    monkeypatch.setattr(piloting, "_expected", lambda *_: 0.0)  # which takes longer than these pilots
    base = tiny_base("bert", **LIVELY)
    options = {"arms": ["head", "full"], "limits": ENOUGH, "pilots": True}
    first = asked(base, runs=tmp_path / "one", **options)
    assert [rung.rows for rung in first.pilots.rungs] == [30]
    assert set(first.pilots.rungs[0].scores) == {"head", "full"}
    assert first.decision.ranked != first.without_pilots.ranked
    labels = [row["label"] for row in PARTS["test"]]
    turned = {"positive": "negative", "negative": "positive"}
    poisoned = {
        **PARTS,
        "test": [{**row, "label": turned[label]} for row, label in zip(PARTS["test"], labels, strict=True)],
    }
    notes = Notes()
    second = asked(base, runs=tmp_path / "one", parts=poisoned, observer=notes, **options)
    assert told(second) == told(first)
    # Pilots see training and validation rows alone, so that other test rows leave them as they are.
    assert "2 of 2 arms are done already" in notes.notes
    run = hf.open_run(tmp_path / "one" / "run-pilots" / "head-30-seed0")
    assert run.metrics["n"] == len(PARTS["validation"])


@pytest.mark.slow
def test_pilots_that_cannot_change_the_answer_are_not_run(tiny_base, tmp_path):
    found = asked(tiny_base("bert", **LIVELY), arms=["head", "full"], pilots=True, expect_rows=5000)
    assert (found.rows, found.question.evidence.rows) == (120, 5000)
    assert found.pilots.rungs == ()
    assert found.pilots.reason == "an eighth of 120 examples is too little to learn from"
    assert found.decision == found.without_pilots
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_pilots_that_take_too_long_are_not_run(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(piloting, "why_not", lambda *_: "")
    assert "on all examples" in asked(tiny_base("bert", **LIVELY), arms=["head", "full"], pilots=True).pilots.reason


def test_pilots_are_made_where_they_can_change_the_answer():
    near, far, alike = question(validation=0.9, train=0.97), question(), question(tolerance=50.0)
    near = replace(near, options=OPTIONS[1:])
    assert piloting.why_not(near, decide(near), 4000) == ""
    far = replace(far, options=(OPTIONS[0], OPTIONS[2]))
    assert "sure enough" in piloting.why_not(far, decide(far), 4000)
    assert "whichever" in piloting.why_not(alike, decide(alike), 4000)
    one = replace(near, options=OPTIONS[:1])
    assert piloting.why_not(one, decide(one), 4000) == "there is one strategy alone"


def test_the_better_half_goes_on_to_more_examples(tiny_base, tmp_path, monkeypatch):
    """Three on an eighth of the examples, and of them the likelier two on a quarter."""
    asked_for: list[list[str]] = []

    def compared(given, *, data, runs, observer):
        asked_for.append([arm.name for arm in given.compare.arms])
        assert set(data) == {"train", "validation", "test"}
        assert data["test"]["text"] == data["validation"]["text"] == [row["text"] for row in PARTS["validation"]]
        return SimpleNamespace(path=tmp_path, rows=[SimpleNamespace(seconds=2.0)] * len(given.compare.arms))

    def read(found, kinds, size, known):
        return Rung(size, {kind: {"head": 90.0, "lora": 60.0, "full": 80.0}[kind] for kind in kinds}, 0.01)

    monkeypatch.setattr(piloting, "compare", compared)
    monkeypatch.setattr(piloting, "read_rung", read)
    monkeypatch.setattr(piloting, "_expected", lambda *_: 0.0)
    parsed, source = load(recipe(tiny_base("bert"), "head", **AUTO))
    wanted = question(rows=120)
    found = piloting.run(
        parsed, wanted, decide(wanted), rows=120, source=source, data=memory(PARTS), runs=tmp_path, observer=Observer()
    )
    first, second = asked_for
    assert sorted(first) == ["full-15", "head-15", "lora-15"]
    assert sorted(second) == sorted([*first, "full-30", "head-30"])
    assert [(rung.rows, set(rung.scores)) for rung in found.rungs] == [
        (15, {"head", "lora", "full"}),
        (30, {"head", "full"}),
    ]
    assert found.seconds == 10.0


def test_the_probe_is_what_a_head_scores_on_validation(tiny_base, tmp_path, advice):
    given = recipe(tiny_base("bert", **LIVELY), "head", **AUTO)
    found = advice.question.evidence.probe
    run = hf.train(given, data=memory(PARTS), runs=tmp_path, quiet=True)
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    score = next(line for line in lines if line.get("split") == "validation")
    assert found.validation == score["metrics"]["accuracy"]
    assert found.l2 == next(line["l2"] for line in lines if "l2" in line)
    assert found.curve[-1].scores == (found.validation,)
    assert [level.rows for level in found.curve] == [30, 60, 120]
    assert all(len(level.scores) == 3 for level in found.curve[:-1])


def test_what_separates_well_is_found_by_all_three_of_the_triad(tiny_base):
    rows = [{"text": "great superb lovely" if i % 2 else "awful boring dull", "label": "yn"[i % 2]} for i in range(120)]
    rows = [{**row, "text": f"{row['text']} {SHARED[i % 4]}"} for i, row in enumerate(rows)]
    found = asked(
        tiny_base("bert", **LIVELY),
        parts={"train": rows[:80], "validation": rows[80:100], "test": rows[100:]},
        arms=["head"],
    )
    probe = found.question.evidence.probe
    assert (probe.validation, probe.train, probe.neighbours, probe.means) == (1.0, 1.0, 1.0, 1.0)
    assert all(one.mean <= 0 for one in found.decision.ranked)
    assert "no network may be needed" in found.reasons["similarity"]


def test_a_class_without_examples_does_not_make_the_others_unlearnt(tiny_base):
    names = "amber basalt cedar delta ember fjord grove heath islet jetty knoll ledge marsh notch oasis plain"
    words = names.split()
    rows = [{"text": f"{words[i % 16]} {words[i % 16]}", "label": words[i % 16]} for i in range(288)]
    probe = asked(
        tiny_base("bert", **LIVELY),
        parts={"train": rows[:256], "validation": rows[256:], "test": rows[:16]},
        arms=["head"],
    ).question.evidence.probe
    assert probe.curve[0].rows == 16
    # Of 16 draws among 16 classes ten are different; each that was drawn is recognised.
    assert all(0.4 < score < 0.9 for score in probe.curve[0].scores), probe.curve


@pytest.mark.slow
def test_a_head_of_several_layers_is_probed_on_means_over_tokens(tiny_base):
    found = asked(tiny_base("roberta", **LIVELY), arms=["head"]).question.evidence
    assert found.probe.pooled
    assert not found.head_is_linear


KEYS = {
    "command", "evidence", "excluded", "flips", "limits", "margin", "metric", "name", "path", "pilots", "probability",
    "probability_without_pilots", "reasons", "recipe", "recommended", "recommended_without_pilots", "rows",
    "rows_asked", "seconds", "strategies", "tolerance", "where",
}  # fmt: skip


def test_advice_shows_itself_and_is_plain_data(advice):
    found = advice
    plain = json.loads(json.dumps(found.to_json()))
    assert set(plain) == KEYS
    assert set(plain["reasons"]) == {"data", "compute", "time", "money", "similarity", "flexibility", "deployment"}
    assert set(plain["strategies"][0]) == {
        "strategy", "recommended", "probability", "probability_without_pilots", "points", "points_sd", "score",
        "seconds", "memory", "cost", "artifact", "why",
    }  # fmt: skip
    assert (plain["rows"], plain["rows_asked"]) == (120, 120)
    assert sum(one["recommended"] for one in plain["strategies"]) == 1
    assert {one["strategy"] for one in plain["strategies"]} == set(ARMS)
    assert all(one["cost"] > 0 for one in plain["strategies"])
    assert list(found.table()["strategy"]) == [one["strategy"] for one in plain["strategies"]]
    assert f"train by {found.recommended}" in found._repr_html_()
    assert isinstance(found, hf.Advice)


NO_PROBE = ["question_answering", "causal_lm", "masked_lm", "seq2seq", "object_detection"]
PROBED = ["token_classification", "image_classification"]


@pytest.mark.parametrize(
    "task",
    [
        "image_classification",
        *(pytest.param(task, marks=pytest.mark.slow) for task in (*NO_PROBE, *PROBED[:1], "audio_classification")),
    ],
)
def test_every_task_is_advised_about(shop, task):
    given, rows = TASKS[task](shop, {"kind": "full"})
    given["train"] |= {"max_steps": 2}
    given["train"].pop("epochs", None)
    data = None if rows is None else memory(rows)
    found = advise(given, data=data, arms=["full"], pilots=False, calibrate=False)
    known = found.question.evidence
    assert found.recommended == "full"
    assert (known.probe is not None) == (task in PROBED)
    assert bool(known.without_probe) == (task not in PROBED)
    if task not in PROBED:
        assert f"no probe: {known.without_probe}" in found.reasons["similarity"]
    found._repr_html_()
    json.dumps(found.to_json())


@pytest.mark.slow
@pytest.mark.parametrize("task", ["image_classification", "token_classification", "question_answering"])
def test_pilots_of_other_tasks(shop, tmp_path, eager, task):
    given, rows = TASKS[task](shop, {"kind": "full"})
    given["train"] |= {"max_steps": 2}
    given["train"].pop("epochs", None)
    data = None if rows is None else memory(rows)
    options = {"pilots": True, "calibrate": False, "runs": tmp_path / "runs"}
    found = advise(given, data=data, arms=["full", "lora"], **options)
    assert [set(rung.scores) for rung in found.pilots.rungs] == [{"full", "lora"}], found.pilots.reason


@pytest.mark.slow
def test_several_labels_and_numbers(tiny_base):
    base = tiny_base("bert", **LIVELY)
    rows = [{"text": row["text"], "a": int(row["label"] == "positive"), "b": i % 2} for i, row in enumerate(ROWS)]
    given = recipe(base, "head", data={"columns": {"label": ["a", "b"]}}, evaluate={"metrics": ["f1_micro"]})
    found = advise(given, data=memory(rows), arms=["head"], pilots=False, calibrate=False)
    assert 0 < found.question.evidence.probe.validation <= 1
    assert found.question.evidence.probe.means is None
    numbers = [{"text": row["text"], "label": len(row["text"]) / 7} for row in ROWS]
    given = recipe(base, "head", evaluate={"metrics": ["rmse"]})
    found = advise(given, data=memory(numbers), arms=["head"], pilots=False, calibrate=False)
    known = found.question.evidence
    assert known.points(known.floors["majority"].validation) == pytest.approx(0.0)
    assert known.points(known.probe.validation) > 0


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tiny_base, tmp_path):
    """A recipe in a file of its own folder, with its data beside it."""
    (tmp_path / "there").mkdir()
    tiny.write_csv(tmp_path / "there" / "reviews.csv", ROWS)
    given = recipe(tiny_base("bert", **LIVELY), "lora", name="mine", data={"source": "reviews.csv"})
    given["compare"] = {"arms": ["head"], "seeds": [0]}
    path = tmp_path / "there" / "mine.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


QUICK = ("--no-pilots", "--no-calibrate", "--quiet")


@pytest.mark.slow
def test_the_recommended_recipe_is_valid_and_trains(written, tmp_path):
    done = hfstrat("advise", written, "--arms", "head,full", *QUICK)
    assert done.code == 0, done.err
    assert "train by " in done.out
    assert "`hfstrat train mine-advised.yaml`" in done.out
    lines = (tmp_path / "mine-advised.yaml").read_text().splitlines()
    assert lines[0].startswith("# yaml-language-server: $schema=")
    assert lines[1].startswith("# hfstrat train mine-advised.yaml : ")
    parsed, _ = load(tmp_path / "mine-advised.yaml")
    original, _ = load(written)
    assert parsed.name == "mine-advised"
    assert parsed.strategy.kind in ("head", "full")
    assert parsed.compare.arms == ()
    for section in ("model", "task", "data", "train", "evaluate"):
        assert getattr(parsed, section) == getattr(original, section)
    assert hfstrat("validate", "mine-advised.yaml", "--quiet").code == 0
    assert hfstrat("train", "mine-advised.yaml", "--quiet").code == 0
    again = hfstrat("advise", written, "--arms", "head,full", *QUICK)
    assert again.code == 2
    assert again.errors == ["mine-advised.yaml exists. Add --overwrite to replace it, or name another with --out"]
    assert hfstrat("advise", written, "--arms", "head", *QUICK, "--overwrite", "--json").code == 0


@pytest.mark.slow
def test_the_strategy_of_the_recipe_keeps_its_fields(written, tmp_path):
    done = hfstrat("advise", written, "strategy.r=3", "--arms", "lora", "--out", "o.yaml", "--json", *QUICK)
    assert done.code == 0, done.err
    assert json.loads(done.out)["recommended"] == "lora"
    assert json.loads(done.out)["path"] == "o.yaml"
    assert load(tmp_path / "o.yaml")[0].strategy.r == 3


@pytest.mark.slow
def test_random_weights_keep_their_shape_and_others_lose_it(written, tmp_path):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = json.dumps({"model_type": "bert", **shape})
    shaped = ("strategy={kind: scratch}", f"model.config={config}")
    done = hfstrat("advise", written, *shaped, "--must-change-architecture", *QUICK)
    assert done.code == 0, done.err
    parsed, _ = load(tmp_path / "mine-advised.yaml")
    assert parsed.strategy.kind == "scratch"
    assert parsed.model.config is not None
    done = hfstrat("advise", written, *shaped, "--arms", "head", "--out", "o.yaml", *QUICK)
    assert done.code == 0, done.err
    assert load(tmp_path / "o.yaml")[0].model.config is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--time", "soon"], "--time: 'soon' is no time. Write 2h, 90min or 1h30m"),
        (["--memory", "much"], "--memory: 'much' is no amount of memory. Write 16GB"),
        (["--price", "dear"], "--price: 'dear' is no price of an hour. Write 2.5/h"),
        (["--max-cost", "3"], "a cost is limited, and an hour has no price. Add --price, such as 2.5/h"),
        (["--tolerance", "-1"], "a tolerance of -1.0 points means nothing. Give a number from 0, such as 1"),
        (["--tolerance", "nan"], "a tolerance of nan points means nothing. Give a number from 0, such as 1"),
        (["--expect-rows", "0"], "0 examples are none to train on. Give a number from 1"),
        (["--arms", "haed"], "'haed' is no strategy to choose from. Did you mean 'head'?"),
        (["--out", "nowhere/o.yaml"], "nowhere/o.yaml cannot be written. Name a .yaml file in a folder that exists"),
        (["--device", "h1"], "no device 'h1' is known. Did you mean 'h100'?"),
    ],
)  # fmt: skip
def test_mistakes(written, tmp_path, words, said):
    done = hfstrat("advise", written, *words, *QUICK)
    assert done.code == 2
    assert done.errors == [said]
    assert not (tmp_path / "mine-advised.yaml").exists()


def test_where_nothing_keeps_within_the_limits_it_is_said_what_would(written, tmp_path):
    done = hfstrat("advise", written, "--arms", "head,full,distill", "--max-artifact", "1KB", *QUICK)
    assert done.code == 2
    first, *others = done.errors
    assert first == "no strategy keeps within the limits. What would let each in stands below"
    assert {line.partition(":")[0] for line in others} == {"head", "full", "distill"}
    assert next(line for line in others if line.startswith("full")).endswith("Nearest: --max-artifact 1MB")
    assert not (tmp_path / "mine-advised.yaml").exists()


def test_a_single_strategy_that_the_base_refuses(shop, tmp_path):
    given, rows = TASKS["causal_lm"](shop, {"kind": "full"})
    given["model"]["base"] = str(shop.base("gpt2", **LIVELY))
    with pytest.raises(UsageError, match=r"no strategy keeps[\s\S]*head: .*turned over"):
        advise(given, data=memory(rows), arms=["head"], pilots=False, calibrate=False)


def test_without_validation_there_is_no_advice(tiny_base):
    parts = {"train": ROWS[:1] * 2, "test": ROWS[160:]}
    with pytest.raises(UsageError):
        asked(tiny_base("bert"), parts=parts)
