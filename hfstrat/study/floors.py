"""Floors: what is reached without a neural network. They leave run directories like any other."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hfstrat.data.augmenting import resized
from hfstrat.data.pictures import Bytes, decode_all
from hfstrat.environment import describe
from hfstrat.judge import Judge, Score
from hfstrat.prepare import Material, read_data
from hfstrat.recipe.compare import Floor
from hfstrat.recipe.loading import dump
from hfstrat.recipe.recipe import Recipe
from hfstrat.runs.directory import Run, clear, locked, write_json, write_text
from hfstrat.runs.events import Observer
from hfstrat.runs.records import Ledger
from hfstrat.tasks.base import Examples, FloatArray, Labels
from hfstrat.tasks.token_classification import spelled

# Inverse L2 strengths of the linear model over TF-IDF, and over pixels, chosen on validation.
STRENGTHS = (1.0, 10.0, 100.0)
PIXEL_STRENGTHS = (0.01, 0.1, 1.0)
SIDE = 16  # pixels: what a picture is made of is lost below, and a linear model gains little above
NEVER = -30.0
Predict = Callable[[Examples], FloatArray]


def run_floor(kind: Floor, recipe: Recipe, folder: Path, memory: Any = None, observer: Observer | None = None) -> Run:
    """Fit a floor on the recipe's training split and score it on the test split.

    Args:
        kind: Which floor.
        recipe: Its data, task and metrics.
        folder: The run's directory.
        memory: Data handed over in Python.
        observer: Hears progress.
    """
    observer, ledger = observer or Observer(), Ledger()
    with ledger.phase("load"):
        material = read_data(recipe, memory)
    metrics = recipe.evaluate.metrics
    names = recipe.task.default_metrics(material.labels.problem) if metrics == "auto" else metrics
    select = names[0] if recipe.evaluate.select_by == "auto" else recipe.evaluate.select_by
    judge = Judge(recipe.task, material.labels, tuple(names), select)
    observer.phase(kind, 1, "floor")
    with locked(folder) as run:
        clear(folder)
        write_text(folder / "recipe.yaml", dump(recipe))
        with ledger.phase("train"):
            predict, size = FLOORS[kind](material, judge)
        split = next(name for name in ("test", "validation", "train") if name in material.examples)
        part = material.examples[split]
        with ledger.phase("evaluate"):
            threshold = recipe.task.default_threshold
            if "validation" in material.examples:
                held_out = material.examples["validation"]
                threshold = judge.threshold(predict(held_out), held_out)
            result = judge.write(folder, split, part, judge.decode(predict(part), threshold))
        write_json(folder / "plan.json", _plan(kind, recipe.seed, size))
        write_json(folder / "env.json", _environment(material, recipe))
        write_json(folder / "audit.json", material.audit)
        write_json(folder / "ledger.json", ledger.to_json())
        write_json(folder / "status.json", {"state": "done", "reason": None})
    observer.advance()
    observer.scored(kind, split, {name: score["value"] for name, score in result["metrics"].items()})
    return run


def _plan(kind: str, seed: int, size: int) -> dict[str, Any]:
    parameters = {"total": size, "trainable": size, "stored": size, "by_module": {}}
    nothing: dict[str, Any] = {"weights": None, "adapter": None, "stages": [], "anatomy": None}
    return {"kind": kind, "seed": seed, **nothing, "parameters": parameters}


def _environment(material: Material, recipe: Recipe) -> dict[str, Any]:
    return {
        **describe(),
        "device": "cpu",
        "data": {"origin": material.origin, "fingerprint": material.fingerprint, "rows": material.rows},
        "labels": asdict(material.labels),
        "requested": json.loads(recipe.model_dump_json(exclude={"name", "compare", "hub"})),
    }


def _majority(material: Material, judge: Judge) -> tuple[Predict, int]:
    """The same answer for everything: class shares, or the mean."""
    targets, labels = np.asarray(material.examples["train"].targets), material.labels
    if labels.problem == "regression":
        answer = targets.mean(axis=0)
    elif labels.problem == "multi_label":
        answer = _logit(targets.mean(axis=0))
    else:
        shares = np.bincount(targets, minlength=len(labels.names)) / len(targets)
        answer = np.log(np.maximum(shares, 1e-12))
    return lambda examples: np.tile(answer.astype(np.float32), (examples.units, 1)), len(answer)


def _lookup(material: Material, judge: Judge) -> tuple[Predict, int]:
    """For each word the share of its tags in training; one that did not occur there gets the shares of all words."""
    train, classes = material.examples["train"], len(material.labels.names)
    spelt = [word for row in spelled(train) for word in row]
    place = {word: number for number, word in enumerate(sorted(set(spelt)))}
    cells = np.array([place[word] for word in spelt]) * classes + np.asarray(train.targets)
    counts = np.bincount(cells, minlength=(len(place) + 1) * classes).reshape(-1, classes).astype(np.float64)
    counts[-1] = counts.sum(axis=0)
    logits = np.log(np.maximum(counts / counts.sum(axis=1, keepdims=True), 1e-12)).astype(np.float32)

    def predict(examples: Examples) -> FloatArray:
        found: FloatArray = logits[[place.get(word, -1) for row in spelled(examples) for word in row]]
        return found

    return predict, int(logits.size)


def _tfidf(material: Material, judge: Judge) -> tuple[Predict, int]:
    """Words and pairs of words, weighted by rarity, into a linear model whose strength is chosen on validation."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    train = material.examples["train"]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32)
    features = vectorizer.fit_transform(_joined(train))

    def seen(examples: Examples) -> Any:
        return features if examples is train else vectorizer.transform(_joined(examples))

    return _linear(seen, STRENGTHS, material, judge)


def _pixels(material: Material, judge: Judge) -> tuple[Predict, int]:
    """The colours of a picture of 16 × 16 pixels into a linear model whose strength is chosen on validation."""

    def small(picture: Bytes) -> Bytes:
        return resized(picture, (SIDE, SIDE)).ravel()

    def seen(examples: Examples) -> Any:
        assert examples.media is not None, "this floor is for pictures"
        return np.stack(decode_all(examples.media, 3, small)).astype(np.float32) / 255

    return _linear(seen, PIXEL_STRENGTHS, material, judge)


def _linear(
    seen: Callable[[Examples], Any], strengths: tuple[float, ...], material: Material, judge: Judge
) -> tuple[Predict, int]:
    """A linear model whose strength is chosen on validation.

    Args:
        seen: Features of examples `(n, features)`.
        strengths: Inverse L2 strengths, from the strongest on; without validation the middle one is taken.
        material: The data.
        judge: Scores what the models say.
    """
    train = material.examples["train"]
    strengths = strengths if "validation" in material.examples else strengths[1:2]
    held_out = material.examples.get("validation", train)
    features, own = seen(train), seen(held_out)
    best: tuple[Score, Linear] | None = None
    for linear in _path(features, np.asarray(train.targets), material.labels, strengths):
        score = judge.score(linear.logits(own), held_out)
        if best is None or score > best[0]:
            best = score, linear
    assert best is not None, "a path has at least one strength"
    chosen = best[1]
    return lambda examples: chosen.logits(seen(examples)), chosen.size


@dataclass(frozen=True)
class Linear:
    """A linear model: `features @ weight.T + bias`."""

    weight: FloatArray
    bias: FloatArray

    def logits(self, features: Any) -> FloatArray:
        """float32 `(n, outputs)`."""
        return np.asarray(features @ self.weight.T + self.bias, dtype=np.float32)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return int(self.weight.size + self.bias.size)


def _path(features: Any, targets: Any, labels: Labels, strengths: tuple[float, ...]) -> Iterator[Linear]:
    """Linear models of growing freedom."""
    from sklearn.linear_model import LogisticRegression, Ridge

    if labels.problem == "regression":
        for strength in strengths:
            ridge = Ridge(alpha=1.0 / strength).fit(features, targets)
            yield Linear(np.atleast_2d(ridge.coef_), np.atleast_1d(ridge.intercept_))
        return
    if labels.problem == "multi_label":
        for strength in strengths:
            yield _one_each(features, targets, strength)
        return
    # Each strength starts from the one before, which halves the time.
    model = LogisticRegression(max_iter=1000, warm_start=True)
    for strength in strengths:
        with warnings.catch_warnings():
            # It takes few rows of many classes for numbers that are to be predicted.
            warnings.filterwarnings("ignore", "The number of unique classes is greater than")
            model.set_params(C=strength).fit(features, targets)
        yield _widened(model.coef_.copy(), model.intercept_.copy(), model.classes_, len(labels.names))


def _widened(weight: FloatArray, bias: FloatArray, classes: Any, outputs: int) -> Linear:
    """Logits for every class: two classes come as one difference, and a class without rows not at all."""
    if len(classes) == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    every = Linear(np.zeros((outputs, weight.shape[1]), weight.dtype), np.full(outputs, NEVER, bias.dtype))
    every.weight[classes], every.bias[classes] = weight, bias
    return every


def _one_each(features: Any, targets: Any, strength: float) -> Linear:
    """A logistic regression for each label; a label that is always or never there gets a constant."""
    from sklearn.linear_model import LogisticRegression

    found = Linear(np.zeros((targets.shape[1], features.shape[1])), _logit(targets.mean(axis=0)))
    for place, column in enumerate(targets.T):
        if 0 < column.sum() < len(column):
            model = LogisticRegression(C=strength, max_iter=1000).fit(features, column)
            found.weight[place], found.bias[place] = model.coef_[0], model.intercept_[0]
    return found


def _logit(share: FloatArray) -> FloatArray:
    clipped = np.clip(share, 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))


def _joined(examples: Examples) -> list[str]:
    if examples.pairs is None:
        return list(examples.texts)
    return [f"{text} {pair}" for text, pair in zip(examples.texts, examples.pairs, strict=True)]


FLOORS: dict[Floor, Callable[[Material, Judge], tuple[Predict, int]]] = {
    "majority": _majority,
    "tfidf": _tfidf,
    "lookup": _lookup,
    "pixels": _pixels,
}
