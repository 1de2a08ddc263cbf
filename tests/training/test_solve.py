"""Solve finds the same optimum as closed forms and as scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression

from hfstrat import stages
from hfstrat.data.batching import collate
from hfstrat.tasks import TextClassification
from hfstrat.training.solve import PATIENCE, solve
from tests import tiny
from tests.training.helpers import fit_of, prepared_for, recipe

task = TextClassification(kind="text_classification")
RNG = np.random.default_rng(0)
N, WIDTH, CLASSES = 240, 6, 3
FEATURES = (RNG.normal(size=(N, WIDTH)) * 7.0).astype(np.float32)
TARGETS = (FEATURES @ RNG.normal(size=(WIDTH, CLASSES)) / 7 + RNG.gumbel(size=(N, CLASSES))).argmax(1)
SCALE = float(np.sqrt((FEATURES**2).sum(1).mean()))


def mean_loss(targets, problem):
    answers = torch.from_numpy(np.asarray(targets))
    return lambda logits: task.loss(logits, answers, problem) / task.weight(answers, problem)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("strength", [1e-1, 1e-2, 1e-4])
def test_it_is_logistic_regression(strength, bias):
    """C = 1 / (n λ) on features scaled to unit mean square norm."""
    found = solve(
        torch.from_numpy(FEATURES), mean_loss(TARGETS, "single_label"), CLASSES, (strength,), lambda _: 0.0, bias=bias
    )
    peer = LogisticRegression(C=1 / (N * strength), fit_intercept=bias, tol=1e-10, max_iter=10_000)
    expected = peer.fit(FEATURES.astype(np.float64) / SCALE, TARGETS).predict_proba(FEATURES / SCALE)
    assert found.logits(torch.from_numpy(FEATURES)).softmax(1).numpy() == pytest.approx(expected, abs=1e-3)
    assert (found.bias is not None) == bias


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_ridge_regression(outputs, bias):
    """The mean over outputs makes a strength λ of one output k·λ for k outputs."""
    strength = 1e-2
    targets = FEATURES[:, :outputs].astype(np.float64) * 0.3 + RNG.normal(size=(N, outputs)) + 2.0
    found = solve(
        torch.from_numpy(FEATURES), mean_loss(targets, "regression"), outputs, (strength,), lambda _: 0.0, bias=bias
    )
    x = FEATURES.astype(np.float64) / SCALE
    middle, level = (x.mean(0), targets.mean(0)) if bias else (0.0, 0.0)
    gram = (x - middle).T @ (x - middle) * 2 / (N * outputs) + strength * np.eye(WIDTH)
    weight = np.linalg.solve(gram, (x - middle).T @ (targets - level) * 2 / (N * outputs))
    expected = (x - middle) @ weight + level
    assert found.logits(torch.from_numpy(FEATURES)).numpy() == pytest.approx(expected, abs=1e-3)


def test_the_path_keeps_the_strength_that_scores_best_and_stops_past_it():
    strengths = tuple(10.0**-exponent for exponent in range(8))
    told = iter([0.1, 0.5, 0.3, 0.7, 0.6, 0.2, 0.7, 0.9])
    seen = []
    found = solve(
        torch.from_numpy(FEATURES),
        mean_loss(TARGETS, "single_label"),
        CLASSES,
        tuple(reversed(strengths)),
        lambda _: next(told),
        progress=lambda l2, score: seen.append((l2, score)),
    )
    assert found.path == tuple(seen) == tuple(zip(strengths, [0.1, 0.5, 0.3, 0.7, 0.6, 0.2, 0.7], strict=False))
    assert len(found.path) == 4 + PATIENCE
    assert found.l2 == 1e-3
    alone = solve(torch.from_numpy(FEATURES), mean_loss(TARGETS, "single_label"), CLASSES, (found.l2,), lambda _: 0.0)
    assert found.weight.numpy() == pytest.approx(alone.weight.numpy(), abs=2e-3), "a warm start changes nothing"


def test_a_run_keeps_the_strength_with_the_lowest_validation_loss(trained):
    log = trained("llama", "head").run.log()
    (path,) = [line for line in log if line["kind"] == "solve"]
    (score,) = [line for line in log if line["kind"] == "score"]
    best = min(path["path"], key=lambda step: step["loss"])
    assert path["l2"] == best["l2"]
    assert score["loss"] == pytest.approx(best["loss"], rel=1e-5), "the model with the solved layer put in"
    assert len(path["path"]) > 1


# --- its loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, {"negative": 3.0, "positive": 0.5}])
@pytest.mark.parametrize("separator", [None, "|"])
def test_its_loss_is_that_of_the_loop(tiny_base, smoothing, weights, separator):
    """The sum over all updates of an epoch, divided by the sum of their weights, is Solve's mean; and by hand."""
    rows = tiny.reviews(30)[:27]
    given = recipe(
        tiny_base("bert"),
        "full-probe",
        task={"class_weights": weights, "label_separator": separator},
        train={"label_smoothing": smoothing},
        evaluate={"metrics": "auto"},
    )
    prepared = prepared_for(given, rows)
    data = prepared.encoded["train"]
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(len(data), 2)))
    found = float(stages._mean_loss(prepared, torch.device("cpu"))(logits))
    sum_loss = stages._sum_loss(prepared, torch.device("cpu"))
    total = weight = 0.0
    for plan in list(stages._schedule(prepared, data, fit_of(prepared)))[: -(-len(data) // 8)]:
        total += float(sum_loss(logits[plan.rows], collate(data, plan.rows)))
        weight += stages._step(plan, prepared, data, Accelerator(cpu=True), 8).weight
    assert found == pytest.approx(total / weight, rel=1e-6)
    by_hand = _multi_label if separator else _single_label
    shares = np.ones(2) if weights is None else np.array([3.0, 0.5])
    assert found == pytest.approx(by_hand(logits.numpy(), data.targets, shares, smoothing), rel=1e-6)


def _single_label(logits, targets, weights, smoothing):
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    spread = (1 - smoothing) * np.eye(2)[targets] + smoothing / 2
    return -(spread * weights * logs).sum() / weights[targets].sum()


def _multi_label(logits, targets, weights, smoothing):
    soft = targets * (1 - smoothing) + smoothing / 2
    losses = -(soft * np.log(1 / (1 + np.exp(-logits))) + (1 - soft) * np.log(1 / (1 + np.exp(logits))))
    return (losses * weights).mean(1).sum() / (len(targets) * weights.mean())
