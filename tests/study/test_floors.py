"""Floors: what they say is what scikit-learn says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, f1_score, log_loss, mean_squared_error

from hfstrat.recipe.loading import load
from hfstrat.runs.directory import Run
from hfstrat.study.floors import PIXEL_STRENGTHS, STRENGTHS, run_floor
from tests import tiny

ROWS = tiny.reviews(120, classes=3)
PARTS = {"train": slice(0, 70), "validation": slice(70, 90), "test": slice(90, 120)}
TOPICS = ("negative", "positive", "neutral")


def length(text: str) -> float:
    return len(text.split()) + 0.5


LABELS = {
    "single_label": [row["label"] for row in ROWS],
    "multi_label": [
        [name for name in TOPICS if set(tiny.CLASS_WORDS[name]) & set(row["text"].split())] for row in ROWS
    ],
    "regression": [length(row["text"]) for row in ROWS],
}


def data(problem: str) -> DatasetDict:
    labels = LABELS[problem]
    return DatasetDict(
        {
            part: Dataset.from_dict({"text": [row["text"] for row in ROWS[rows]], "label": labels[rows]})
            for part, rows in PARTS.items()
        }
    )


def floor(kind: Any, problem: str, folder: Path) -> Run:
    recipe, _ = load(
        {
            "name": "x",
            "model": {"base": "none"},
            "task": {"kind": "text_classification"},
            "data": {"source": "memory"},
            "strategy": {"kind": "head"},
        }
    )
    return run_floor(kind, recipe, folder / kind, data(problem))


def value(run: Run, metric: str) -> float:
    return float(run.metrics["metrics"][metric]["value"])


def texts(part: str) -> list[str]:
    return [row["text"] for row in ROWS[PARTS[part]]]


def labels(problem: str, part: str) -> Any:
    found = LABELS[problem][PARTS[part]]
    return np.array([[name in row for name in sorted(TOPICS)] for row in found]) if problem == "multi_label" else found


def features(part: str) -> Any:
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32).fit(texts("train"))
    return vectorizer.transform(texts(part))


class TestMajority:
    def test_one_label(self, tmp_path: Path) -> None:
        run = floor("majority", "single_label", tmp_path)
        dummy = DummyClassifier(strategy="prior").fit(texts("train"), labels("single_label", "train"))
        truth = labels("single_label", "test")
        assert value(run, "accuracy") == accuracy_score(truth, dummy.predict(texts("test")))
        assert value(run, "log_loss") == pytest.approx(log_loss(truth, dummy.predict_proba(texts("test"))), rel=1e-5)

    def test_several_labels(self, tmp_path: Path) -> None:
        run = floor("majority", "multi_label", tmp_path)
        scores = np.stack(run.predictions()["scores"].to_numpy())
        np.testing.assert_allclose(scores, np.tile(labels("multi_label", "train").mean(0), (30, 1)), rtol=1e-5)

    def test_numbers(self, tmp_path: Path) -> None:
        run = floor("majority", "regression", tmp_path)
        mean, truth = np.mean(labels("regression", "train")), labels("regression", "test")
        assert value(run, "rmse") == pytest.approx(mean_squared_error(truth, [mean] * 30) ** 0.5, rel=1e-5)
        assert value(run, "r_squared") <= 0


class TestTfidf:
    def test_one_label(self, tmp_path: Path) -> None:
        run = floor("tfidf", "single_label", tmp_path)
        losses, found = [], []
        for strength in STRENGTHS:
            model = LogisticRegression(C=strength, max_iter=1000).fit(
                features("train"), labels("single_label", "train")
            )
            held_out, truth = features("validation"), labels("single_label", "validation")
            losses.append(
                (-accuracy_score(truth, model.predict(held_out)), log_loss(truth, model.predict_proba(held_out)))
            )
            found.append(accuracy_score(labels("single_label", "test"), model.predict(features("test"))))
        assert value(run, "accuracy") == found[losses.index(min(losses))]
        assert value(run, "accuracy") > 0.5

    def test_several_labels(self, tmp_path: Path) -> None:
        run = floor("tfidf", "multi_label", tmp_path)
        given = np.stack(run.predictions()["scores"].to_numpy())
        truth = labels("multi_label", "train")
        models = [
            [LogisticRegression(C=strength, max_iter=1000).fit(features("train"), column) for column in truth.T]
            for strength in STRENGTHS
        ]
        scores = [np.stack([one.predict_proba(features("test"))[:, 1] for one in each], 1) for each in models]
        assert any(np.allclose(given, one, atol=1e-4) for one in scores)
        decisions = np.array([[name in row for name in sorted(TOPICS)] for row in run.predictions()["prediction"]])
        assert value(run, "f1_micro") == pytest.approx(
            f1_score(labels("multi_label", "test"), decisions, average="micro")
        )

    def test_numbers(self, tmp_path: Path) -> None:
        run = floor("tfidf", "regression", tmp_path)
        errors, found = [], []
        for strength in STRENGTHS:
            model = Ridge(alpha=1 / strength).fit(features("train"), labels("regression", "train"))
            errors.append(mean_squared_error(labels("regression", "validation"), model.predict(features("validation"))))
            found.append(mean_squared_error(labels("regression", "test"), model.predict(features("test"))) ** 0.5)
        assert value(run, "rmse") == pytest.approx(found[errors.index(min(errors))], rel=1e-3)

    def test_beats_the_majority(self, tmp_path: Path) -> None:
        runs = {kind: floor(kind, "single_label", tmp_path) for kind in ("majority", "tfidf")}
        assert value(runs["tfidf"], "accuracy") > value(runs["majority"], "accuracy")


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_a_floor_leaves_a_run_like_any_other(problem: str, tmp_path: Path) -> None:
    run = floor("majority", problem, tmp_path)
    assert run.status == "done"
    assert run.metrics["split"] == "test"
    assert run.metrics["n"] == 30
    assert json.loads((run.path / "plan.json").read_text())["kind"] == "majority"
    assert {"recipe.yaml", "env.json", "audit.json", "ledger.json", "predictions.parquet"} <= {
        entry.name for entry in run.path.iterdir()
    }
    assert not run.artifact.exists()


class TestPixels:
    def test_it_is_a_linear_model_of_small_pictures(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        names = ["dark", "middle", "light"]
        rows = [names[place % 3] for place in range(90)]
        pictures = [
            np.clip(rng.normal(80 + 40 * names.index(row), 60, (24, 24, 3)), 0, 255).astype(np.uint8) for row in rows
        ]
        split = {"train": slice(0, 50), "validation": slice(50, 70), "test": slice(70, 90)}
        given = {
            part: Dataset.from_dict({"image": [one.tolist() for one in pictures[places]], "label": rows[places]})
            for part, places in split.items()
        }
        recipe, _ = load(
            {
                "name": "x",
                "model": {"base": "none"},
                "task": {"kind": "image_classification"},
                "data": {"source": "memory"},
                "strategy": {"kind": "head"},
            }
        )
        run = run_floor("pixels", recipe, tmp_path / "pixels", DatasetDict(given))
        small = [
            np.asarray(Image.fromarray(one).resize((16, 16), Image.Resampling.BILINEAR)).ravel() / 255
            for one in pictures
        ]
        losses, found = [], []
        for strength in PIXEL_STRENGTHS:
            model = LogisticRegression(C=strength, max_iter=1000).fit(small[:50], rows[:50])
            accuracy = accuracy_score(rows[50:70], model.predict(small[50:70]))
            losses.append((-accuracy, log_loss(rows[50:70], model.predict_proba(small[50:70]), labels=model.classes_)))
            found.append(accuracy_score(rows[70:], model.predict(small[70:])))
        assert value(run, "accuracy") == found[losses.index(min(losses))]
        assert value(run, "accuracy") > 0.5
