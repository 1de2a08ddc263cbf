"""What the fields of a recipe do to a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hfstrat import prepare as preparing
from hfstrat.tasks.classification import choose_threshold
from hfstrat.training import scoring
from tests import tiny
from tests.training.helpers import LIVELY, Trained, recipe, sha256, train, weights

ROWS = tiny.reviews(48)
UNEVEN = [row for place, row in enumerate(tiny.reviews(64)) if row["label"] == "negative" or place % 4 == 0]
AUTO = {"metrics": "auto"}
ONE_STRENGTH = {"kind": "head", "l2": [1e-3]}


@pytest.fixture
def go(tiny_base, tmp_path):
    """`go("llama", "head", rows, task={…})`: a run of its own."""

    def run(family: str, strategy: Any, rows: Any = ROWS, **sections: Any) -> Trained:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        return train(recipe(tiny_base(family, **LIVELY), strategy, **sections), rows, folder)

    return run


def settings_of(found: Trained) -> dict[str, Any]:
    """What the artefact's configuration says about its use."""
    return json.loads((found.run.artifact / "config.json").read_text("utf-8"))["hfstrat"]


def validation(found: Trained) -> tuple[np.ndarray, np.ndarray]:
    """Logits and targets of the validation split, of the model that was saved."""
    data = found.prepared.encoded["validation"]
    return scoring.logits(found.model, data, 64), np.asarray(data.targets)


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets)))


def of(found: Trained, kind: str) -> list[dict[str, Any]]:
    return [line for line in found.run.log() if line["kind"] == kind]


# --- problems -----------------------------------------------------------------------------------------------------

SEVERAL = [
    {"text": row["text"], "label": "|".join(sorted({row["label"], *(["long"] if len(row["text"]) > 60 else [])}))}
    for row in tiny.reviews(60)
]


@pytest.mark.parametrize("strategy", ["head", "full-random"])
def test_several_labels_are_given_from_the_threshold_that_validation_chose(go, strategy):
    found = go("llama", strategy, SEVERAL, task={"label_separator": "|"}, evaluate=AUTO)
    assert found.prepared.material.labels.names == ("long", "negative", "positive")
    logits, targets = validation(found)
    threshold = settings_of(found)["threshold"]
    assert threshold == choose_threshold(1 / (1 + np.exp(-logits.astype(np.float64))), targets)
    assert threshold != 0.5
    predictions = found.run.predictions()
    scores = np.array(predictions["scores"].tolist())
    names = np.array(found.prepared.material.labels.names)
    expected = [list(names[row >= threshold]) for row in scores]
    assert [list(row) for row in predictions["prediction"]] == expected
    assert expected != [list(names[row >= 0.5]) for row in scores], "another threshold would have decided the same"


NUMBERS = [
    {
        "text": " ".join(["great"] * praise + ["dull"] * blame + tiny.SHARED_TEXT.split()[filler : filler + 4]),
        "y": praise + 0.25,
        "z": blame - 0.75,
    }
    for praise in range(4)
    for blame in range(4)
    for filler in range(5)
]


@pytest.mark.parametrize(("strategy", "outputs"), [("head", 1), ("head", 2), ("full-random", 1), ("lora", 2)])
def test_numbers_are_learnt(go, strategy, outputs):
    columns = {"label": ["y", "z"] if outputs == 2 else "y"}
    task = {"problem": "regression", "pooling": "mean"}
    found = go(
        "gpt2", strategy, NUMBERS, data={"columns": columns}, task=task, train={"lr": 1e-2, "epochs": 4}, evaluate=AUTO
    )
    assert found.prepared.material.labels.names == ("y", "z")[:outputs]
    predictions = found.run.predictions()
    got, wanted = (np.array(predictions[name].tolist()).reshape(-1, outputs) for name in ("prediction", "reference"))
    assert set(wanted[:, 0]) <= {0.25, 1.25, 2.25, 3.25}
    rmse = float(np.sqrt(((got - wanted) ** 2).mean(axis=0)).mean())
    assert found.run.metrics["metrics"]["rmse"]["value"] == pytest.approx(rmse, rel=1e-6)
    assert rmse < 0.5


def test_the_second_text_counts(go):
    """The label says whether two texts are the same: neither alone tells."""
    words = ["great", "dull", "warm", "weak"]
    rows = [
        {"text": a, "other": f"{b} {filler}", "label": str(a == b)}
        for a in words
        for b in words
        for filler in tiny.SHARED_TEXT.split()[:6]
    ]
    found = go("bert", "full-random", rows, data={"columns": {"text_pair": "other"}}, train={"lr": 3e-3})
    data = found.prepared.encoded["test"]
    types = data.columns["token_type_ids"]
    assert set(types.values.tolist()) == {0, 1}
    assert types.lengths.tolist() == data.columns["input_ids"].lengths.tolist()
    examples = found.prepared.material.examples["test"]
    assert {len(set(pair)) for pair in zip(examples.texts, examples.pairs, strict=True)} == {2}
    logits = scoring.logits(found.model, data, 64)
    by_first = {text: logits[[one == text for one in examples.texts]] for text in set(examples.texts)}
    assert max(float(rows.std(axis=0).max()) for rows in by_first.values()) > 1e-3


# --- the loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["head", "lora"])
def test_balanced_class_weights_are_those_by_hand(go, strategy):
    balanced = go("llama", strategy, UNEVEN, task={"class_weights": "balanced"})
    negative, positive = balanced.prepared.material.labels.counts
    assert negative > 2 * positive
    total = negative + positive
    by_hand = {"negative": total / (2 * negative), "positive": total / (2 * positive)}
    assert sha256(balanced.run) == sha256(go("llama", strategy, UNEVEN, task={"class_weights": by_hand}).run)
    plain = go("llama", strategy, UNEVEN)
    lean = [np.subtract(*validation(found)[0].T).mean() for found in (plain, balanced)]
    assert lean[0] > lean[1] + 0.1, "the rare class gains"


def test_label_smoothing_sets_how_sure_a_model_can_be(go):
    """A smoothed target of two classes is 1 - s/2, which a model that fits its training rows gives them."""
    for smoothing in (0.0, 0.3):
        found = go("llama", {"kind": "head", "l2": [1e-6]}, train={"label_smoothing": smoothing})
        logits = torch.from_numpy(scoring.logits(found.model, found.prepared.encoded["train"], 64))
        sure = logits.softmax(1).max(dim=1).values
        assert sure.numpy() == pytest.approx(1 - smoothing / 2, abs=0.02)


@pytest.mark.parametrize(("family", "strategy"), [("llama", {"kind": "head", "l2": [1e-6]}), ("bert", "lora")])
def test_calibration_lowers_the_validation_loss_and_is_folded_into_the_output(go, family, strategy):
    options = {"train": {"lr": 1e-2}, "task": {"pooling": "mean"}}
    plain = go(family, strategy, **options)
    found = go(family, strategy, **{**options, "task": {"pooling": "mean", "calibrate": True}})
    before, after = weights(plain.model), weights(found.model)
    output = str(found.prepared.anatomy.output)
    temperature = float(before[f"{output}.weight"].norm() / after[f"{output}.weight"].norm())
    assert abs(temperature - 1) > 0.05
    for name, value in before.items():
        scale = temperature if name.startswith(f"{output}.") else 1.0
        assert torch.allclose(after[name] * scale, value, rtol=1e-5, atol=1e-7), name
    (logits, targets), (raw, _) = validation(found), validation(plain)
    assert cross_entropy(logits, targets) < cross_entropy(raw, targets) - 1e-4
    assert cross_entropy(logits, targets) <= min(cross_entropy(raw / t, targets) for t in np.geomspace(0.1, 10, 99))
    assert (logits.argmax(1) == raw.argmax(1)).all()


# --- long texts ---------------------------------------------------------------------------------------------------


def test_windows_read_what_truncation_cuts(go):
    rows = [{**row, "text": f"{tiny.SHARED_TEXT} {row['text']}"} for row in ROWS]
    cut, read = (
        go("llama", ONE_STRENGTH, rows, task={"max_length": 24, "long_texts": how}) for how in ("truncate", "windows")
    )
    assert cut.run.read("audit.json")["truncated"]["train"] > 0
    assert read.run.read("audit.json")["truncated"]["train"] == 0
    assert np.ptp(np.array(cut.run.predictions()["logits"].tolist()), axis=0) == pytest.approx(0, abs=1e-5)
    logits = np.array(read.run.predictions()["logits"].tolist())
    assert np.ptp(logits, axis=0).min() > 1e-2
    data = read.prepared.encoded["test"]
    column = data.columns["input_ids"]
    with torch.inference_mode():
        for place, row in enumerate(logits):
            windows = [
                column.values[column.offsets[window] : column.offsets[window + 1]]
                for window in range(data.windows[place], data.windows[place + 1])
            ]
            assert len(windows) > 1
            alone = [read.model(torch.from_numpy(window)[None].long()).logits[0] for window in windows]
            assert torch.stack(alone).mean(0).numpy() == pytest.approx(row, abs=1e-4)


def test_windows_of_short_texts_are_no_windows(go):
    cut, read = (go("bert", "lora", task={"long_texts": how}) for how in ("truncate", "windows"))
    assert sha256(cut.run) == sha256(read.run)


# --- how long, how far --------------------------------------------------------------------------------------------


def test_training_stops_when_nothing_got_better(go):
    hopeless = {"lr": 1e-12, "epochs": 9, "early_stopping": {"patience": 2}}
    after_probe, alone = (go("llama", strategy, train=hopeless) for strategy in ("full-probe", "full-random"))
    assert [line["update"] for line in of(after_probe, "score") if line["stage"] == "fit"] == [4, 8]
    assert [line["update"] for line in of(alone, "score")] == [4, 8, 12], "its first evaluation is the one to beat"
    whole = go("llama", "full-probe", train={**hopeless, "early_stopping": None, "epochs": 3})
    assert of(whole, "score")[-1]["update"] == 12


def test_updates_may_be_counted_instead_of_epochs(go):
    found = go("bert", "full-random", train={"max_steps": 6}, evaluate={"every": 4})
    assert [line["update"] for line in of(found, "score")] == [4, 6]
    last = of(found, "update")[-1]
    assert (last["update"], last["epoch"]) == (6, 1.5)
    resolved = yaml.safe_load((found.run.path / "recipe.yaml").read_text("utf-8"))
    assert resolved["train"]["max_steps"] == 6


def test_clipping_limits_the_step_and_null_does_not(go):
    """The norm in the log is the one before clipping; AdamW's epsilon makes its step depend on the scale."""
    options = {"optimizer": {"eps": 1e-2}, "max_steps": 3}
    none, loose, tight = (go("bert", "full-random", train={**options, "clip": clip}) for clip in (None, 1e6, 1e-3))
    assert sha256(none.run) == sha256(loose.run) != sha256(tight.run)
    assert of(none, "update")[0]["grad_norm"] == of(tight, "update")[0]["grad_norm"] > 1e-3
    far, near = (
        sum(float((found.after[name] - value).square().sum()) for name, value in found.before.items())
        for found in (none, tight)
    )
    assert near < far / 4


@pytest.mark.parametrize("strategy", ["head", "full-probe"])
def test_without_validation_the_last_state_is_kept(go, monkeypatch, strategy):
    read = preparing.read_data

    def without(*words: Any) -> Any:
        material = read(*words)
        kept = {name: part for name, part in material.examples.items() if name != "validation"}
        return preparing.replace(material, examples=kept)

    monkeypatch.setattr(preparing, "read_data", without)
    found = go("llama", strategy, train={"lr": 0.5, "clip": None})
    assert of(found, "score") == []
    for name, value in weights(found.model).items():
        assert torch.equal(value, found.after[name]), name
    if strategy == "full-probe":
        assert found.run.read("status.json")["reason"] == "best at fit, update 8"
    else:
        assert len(of(found, "solve")[0]["path"]) > 1


def test_the_card_is_there_whatever_the_problem(go):
    found = go("llama", "head", SEVERAL, task={"label_separator": "|"}, evaluate=AUTO)
    assert str(settings_of(found)["threshold"]) in Path(found.run.artifact, "README.md").read_text("utf-8")


def test_a_profile_says_where_an_update_spends_its_time_and_changes_nothing(go):
    plain, profiled = (go("bert", "full-random", train={"max_steps": 12, "profile": on}) for on in (False, True))
    assert not (plain.run.path / "profile").exists()
    trace = json.loads((profiled.run.path / "profile" / "fit.json").read_text("utf-8"))
    marked = [event["name"] for event in trace["traceEvents"] if str(event.get("name", "")).startswith("hfstrat: ")]
    assert {name: marked.count(name) for name in set(marked)} == {
        f"hfstrat: {name}": 5 for name in ("batch", "forward", "backward", "clip", "optimizer")
    }
    table = (profiled.run.path / "profile" / "fit.txt").read_text("utf-8")
    assert "Milliseconds an update, mean of 5" in table
    assert "aten::addmm" in table
    assert sha256(plain.run) == sha256(profiled.run)


def test_sensitivity_at_a_specificity_of_the_users_own_chooses_and_is_reported_without_network(go):
    name = "sensitivity_at_specificity_0.75"
    found = go("bert", "full-random", evaluate={"metrics": [name, "accuracy"]})
    entry = found.run.metrics["metrics"][name]
    assert (entry["interval"], entry["unit"], entry["higher_is_better"]) == ("bootstrap", "fraction", True)
    assert 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1
    front = yaml.safe_load(Path(found.run.artifact, "README.md").read_text("utf-8").split("---\n")[1])
    measured = front["model-index"][0]["results"][0]["metrics"]
    assert [one["type"] for one in measured] == ["sensitivity_at_specificity", "accuracy"]
