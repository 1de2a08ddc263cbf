"""Solve finds the same optimum as closed forms and as scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn import functional

from hfstrat import fitting, solving
from hfstrat.data.batching import collate
from hfstrat.scheduling import schedule
from hfstrat.tasks import TextClassification
from hfstrat.training.memory import LiveBytes
from hfstrat.training.solve import PATIENCE, TOLERANCE, solve, solve_many
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


def test_its_gradient_is_within_the_tolerance():
    """In double precision, for what single precision found."""
    found = solve(torch.from_numpy(FEATURES), mean_loss(TARGETS, "single_label"), CLASSES, (1e-3,), lambda _: 0.0)
    centre = torch.from_numpy(FEATURES.astype(np.float64).mean(0))
    weight = (found.weight.double() * SCALE).requires_grad_()
    bias = (found.bias.double() + found.weight.double() @ centre).requires_grad_()
    inputs = (torch.from_numpy(FEATURES).double() - centre) / SCALE
    value = mean_loss(TARGETS, "single_label")(inputs @ weight.T + bias) + 0.5 * found.l2 * weight.square().sum()
    value.backward()
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 1.2 * TOLERANCE


def test_features_that_are_not_numbers_end_it():
    broken = torch.full((20, WIDTH), torch.nan)
    found = solve(broken, mean_loss(TARGETS[:20], "single_label"), CLASSES, (1e-2, 1e-3), lambda _: 0.0)
    assert len(found.path) == 2


def test_a_run_keeps_the_strength_with_the_lowest_validation_loss(trained):
    log = trained("llama", "head").run.log()
    (path,) = [line for line in log if line["kind"] == "solve"]
    (score,) = [line for line in log if line["kind"] == "score"]
    best = min(path["path"], key=lambda step: step["loss"])
    assert path["l2"] == best["l2"]
    assert score["loss"] == pytest.approx(best["loss"], rel=1e-5), "the model with the solved layer put in"
    assert len(path["path"]) > 1


# --- many at once -------------------------------------------------------------------------------------------------

ROWS, L2 = 400, (1e-2, 1e-6, 1e-4)  # in no order
EXACT = 1e-12
WIDE = torch.from_numpy(RNG.normal(size=(ROWS, 12)) * np.logspace(0, -1, 12) + 0.5)
INPUTS = (WIDE / WIDE.square().sum(1).mean().sqrt()).numpy()
CENTRED = WIDE - WIDE.mean(0)  # so that each class is about as frequent, and none is missing in a fold
LABELS = torch.from_numpy((CENTRED.numpy() @ RNG.normal(size=(12, 5)) * 2 + RNG.gumbel(size=(ROWS, 5))).argmax(1))
SETS = torch.from_numpy((RNG.normal(size=(ROWS, 4)) + CENTRED.numpy()[:, :4] > 0.0).astype(np.float64))
NUMBERS = torch.from_numpy(WIDE.numpy() @ RNG.normal(size=(12, 3)) + RNG.normal(size=(ROWS, 3)))
FOLDS = torch.stack([(torch.arange(ROWS) % 5 != fold).double() for fold in range(5)])
FOLDS /= FOLDS.sum(1, keepdim=True)
SHOTS = torch.zeros(3, ROWS, dtype=torch.float64)
for shot in range(3):
    SHOTS[shot, RNG.permutation(ROWS)[: 60 + 15 * shot]] = 1 / (60 + 15 * shot)
RESAMPLED = torch.from_numpy(RNG.multinomial(ROWS, np.full(ROWS, 1 / ROWS), size=2) / ROWS)


def cross_entropy(logits, rows, problems):
    return functional.cross_entropy(logits, LABELS[rows], reduction="none")


def several(logits, rows, problems):
    return functional.binary_cross_entropy_with_logits(logits, SETS[rows], reduction="none").mean(1)


def logistic(strength, weights, targets, bias=True, **options):
    """Scikit-learn's C·Σ wᵢ·lossᵢ + ‖W‖²/2; weights `(classes, features)`, and biases, less their mean."""
    peer = LogisticRegression(
        C=1 / strength, solver="newton-cholesky", tol=1e-12, max_iter=1000, fit_intercept=bias, **options
    ).fit(INPUTS, targets, sample_weight=weights)
    return peer.coef_, peer.intercept_ - peer.intercept_.mean() * (len(peer.intercept_) > 1)


def far(found, expected):
    """Largest relative distance of weights and biases, the weights for scaled features."""
    weight, bias = found
    weight = weight.numpy() * float(WIDE.square().sum(1).mean().sqrt())
    bias = bias.numpy() - bias.numpy().mean() * (len(bias) > 1)
    pairs = ((weight, expected[0]), (bias, expected[1]))
    return max(np.linalg.norm(own - peer) / max(np.linalg.norm(peer), 1e-9) for own, peer in pairs)


def compared(loss, classes, weights, peer, **options):
    """The largest distance over problems and strengths; `peer` takes a strength and weights."""
    found = solve_many(WIDE, loss, classes, L2, weights, tolerance=EXACT, max_iterations=1000, **options)
    assert found.grad_norm.max() <= EXACT
    return max(
        far((found.weight[problem, place], found.bias[problem, place]), peer(strength, weights[problem].numpy()))
        for problem in range(len(weights))
        for place, strength in enumerate(L2)
    )


@pytest.mark.parametrize("weights", [FOLDS, SHOTS, RESAMPLED], ids=["folds", "shots", "resampled"])
def test_many_are_logistic_regressions(weights):
    assert compared(cross_entropy, 5, weights, lambda l2, share: logistic(l2, share, LABELS)) < 1e-6


def test_many_with_class_weights_are_logistic_regressions():
    shares = torch.tensor([0.5, 1.0, 3.0, 1.0, 0.2], dtype=torch.float64)

    def loss(logits, rows, problems):
        return functional.cross_entropy(logits, LABELS[rows], weight=shares, reduction="none")

    options = {"class_weight": dict(enumerate(shares.tolist()))}
    assert compared(loss, 5, FOLDS, lambda l2, share: logistic(l2, share, LABELS, **options)) < 1e-6


def test_many_with_smoothing_are_logistic_regressions_on_all_labels():
    def loss(logits, rows, problems):
        return functional.cross_entropy(logits, LABELS[rows], label_smoothing=0.2, reduction="none")

    def peer(strength, share):
        spread = share[:, None] * (0.8 * np.eye(5)[LABELS.numpy()] + 0.2 / 5)
        fit = LogisticRegression(C=1 / strength, solver="newton-cholesky", tol=1e-12, max_iter=1000)
        fit.fit(np.repeat(INPUTS, 5, 0), np.tile(np.arange(5), ROWS), sample_weight=spread.ravel())
        return fit.coef_, fit.intercept_ - fit.intercept_.mean()

    assert compared(loss, 5, FOLDS[:2], peer) < 1e-6


def test_many_with_two_classes_are_logistic_regressions_with_half_the_strength():
    """Two outputs share what one has: their weights are ±w/2, with half the square."""
    labels = (LABELS > 1).long()

    def loss(logits, rows, problems):
        return functional.cross_entropy(logits, labels[rows], reduction="none")

    def peer(strength, share):
        weight, bias = logistic(strength / 2, share, labels)
        return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2

    assert compared(loss, 2, FOLDS, peer) < 1e-6


@pytest.mark.parametrize("weights", [FOLDS, SHOTS], ids=["folds", "shots"])
def test_many_with_several_labels_are_logistic_regressions_for_each(weights):
    def peer(strength, share):
        each = [logistic(4 * strength, share, SETS[:, label]) for label in range(4)]
        return np.concatenate([weight for weight, _ in each]), _centred(np.concatenate([bias for _, bias in each]))

    assert compared(several, 4, weights, peer) < 1e-6


def test_many_with_numbers_are_ridge_regressions():
    def loss(logits, rows, problems):
        return (logits - NUMBERS[rows]).square().mean(1)

    def peer(strength, share):
        fit = Ridge(alpha=strength * 3 / 2, solver="cholesky").fit(INPUTS, NUMBERS, sample_weight=share)
        return fit.coef_, _centred(fit.intercept_)

    assert compared(loss, 3, FOLDS, peer) < 1e-6


def _centred(numbers):
    return numbers - numbers.mean()


def test_many_without_a_bias_are_logistic_regressions_without_one():
    found = solve_many(WIDE, cross_entropy, 5, L2, FOLDS, bias=False, tolerance=EXACT, max_iterations=1000)
    assert found.bias is None
    weight, _ = logistic(L2[2], FOLDS[3].numpy(), LABELS, bias=False)
    scale = float(WIDE.square().sum(1).mean().sqrt())
    assert np.linalg.norm(found.weight[3, 2].numpy() * scale - weight) < 1e-6 * np.linalg.norm(weight)
    assert found.logits(WIDE)[3, 2].numpy() == pytest.approx(INPUTS @ weight.T, abs=1e-4)


def test_many_on_ill_conditioned_features_are_logistic_regressions():
    """Singular values over five decades, turned so that no column shows it."""
    left, right = (np.linalg.qr(RNG.normal(size=(rows, 12)))[0] for rows in (ROWS, 12))
    features = torch.from_numpy(left * np.logspace(0, -5, 12) @ right.T + 0.1)
    scale = float(features.square().sum(1).mean().sqrt())
    found = solve_many(features, cross_entropy, 5, (1e-3, 1e-9), FOLDS[:2], tolerance=EXACT, max_iterations=1000)
    assert found.grad_norm.max() <= EXACT
    for place, strength in enumerate(found.l2):
        peer = LogisticRegression(C=1 / strength, solver="newton-cholesky", tol=1e-12, max_iter=1000)
        peer.fit(features.numpy() / scale, LABELS, sample_weight=FOLDS[0].numpy())
        weight = found.weight[0, place].numpy() * scale
        assert np.linalg.norm(weight - peer.coef_) < 1e-6 * np.linalg.norm(peer.coef_)


def test_problems_may_have_targets_of_their_own():
    labels = torch.stack([LABELS, (LABELS + 1) % 5])

    def loss(logits, rows, problems):
        return functional.cross_entropy(logits, labels[problems, rows], reduction="none")

    found = solve_many(WIDE, loss, 5, L2, torch.full((2, ROWS), 1 / ROWS, dtype=torch.float64), tolerance=EXACT)
    assert found.weight[1].roll(-1, dims=1).numpy() == pytest.approx(found.weight[0].numpy(), abs=1e-5)


@pytest.mark.parametrize("weights", [FOLDS, SHOTS], ids=["folds", "shots"])
def test_a_problem_is_solved_as_if_it_were_alone(weights):
    options = {"tolerance": EXACT, "max_iterations": 1000}
    weights, strengths = weights[:3], L2[::2]
    together = solve_many(WIDE, cross_entropy, 5, strengths, weights, **options)
    for problem in range(len(weights)):
        alone = solve_many(WIDE, cross_entropy, 5, strengths, weights[problem : problem + 1], **options)
        distance = (together.weight[problem] - alone.weight[0]).norm() / alone.weight.norm()
        assert distance < 1e-7
    each = solve_many(WIDE, cross_entropy, 5, strengths, weights, memory=0, **options)
    assert each.weight.numpy() == pytest.approx(together.weight.numpy(), abs=1e-6)


def test_it_solves_what_solve_does():
    single = solve(torch.from_numpy(FEATURES), mean_loss(TARGETS, "single_label"), CLASSES, (1e-2,), lambda _: 0.0)
    answers = torch.from_numpy(TARGETS)
    (many,) = solve_many(
        torch.from_numpy(FEATURES),
        lambda logits, rows, _: functional.cross_entropy(logits, answers[rows], reduction="none"),
        CLASSES,
        (1e-2,),
        torch.full((1, N), 1 / N),
    ).weight[:, 0]
    assert many.numpy() == pytest.approx(single.weight.numpy(), abs=1e-5)


def test_a_problem_that_is_done_does_not_change():
    """The first has one label only where the others go on; how long they do is nothing to it."""
    labels = torch.stack([torch.zeros_like(LABELS), LABELS, LABELS.flip(0)])

    def loss(logits, rows, problems):
        return functional.cross_entropy(logits, labels[problems, rows], reduction="none")

    weights = torch.full((3, ROWS), 1 / ROWS)
    short, long = (
        solve_many(WIDE.float(), loss, 5, (1e-3,), weights, bias=False, max_iterations=limit) for limit in (15, 200)
    )
    assert long.iterations[0, 0] < 15 < long.iterations[1, 0]
    assert torch.equal(short.weight[0], long.weight[0])
    assert not torch.equal(short.weight[1], long.weight[1])


@pytest.mark.parametrize("weights", [FOLDS, SHOTS], ids=["folds", "shots"])
def test_again_gives_the_same_bytes(weights):
    one, other = (solve_many(WIDE.float(), cross_entropy, 5, L2, weights.float()) for _ in range(2))
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)
    one, other = (
        solve(torch.from_numpy(FEATURES), mean_loss(TARGETS, "single_label"), CLASSES, (1e-2, 1e-4), lambda _: 0.0)
        for _ in range(2)
    )
    assert torch.equal(one.weight, other.weight)


@pytest.mark.parametrize("weights", [FOLDS, SHOTS], ids=["folds", "shots"])
def test_memory_is_bounded(weights, monkeypatch):
    """What is held at once grows with the number of problems, up to the bound."""
    monkeypatch.setattr("hfstrat.training.solve.PAIRS", 10)
    features, weights = WIDE.float().repeat(1, 8), weights.repeat(4, 1).float()
    result = 4 * len(weights) * 5 * (features.shape[1] + 3)

    def peak(memory):
        with LiveBytes([features, weights]) as live:
            held = live.current
            solve_many(features, cross_entropy, 5, (1e-4,), weights, memory=memory, tolerance=0, max_iterations=14)
        return live.peak - held - 2 * features.nbytes - result

    at_once, bound = peak(2**40), 2**19
    assert at_once > 1.5 * bound
    assert peak(bound) < bound


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
    found = float(solving._mean_loss(prepared, torch.ones(len(data), dtype=torch.bool))(logits))
    sum_loss = fitting.sum_loss(prepared, torch.device("cpu"))
    total = weight = 0.0
    for plan in schedule(prepared.recipe, prepared.plan, data, fit_of(prepared))[: -(-len(data) // 8)]:
        total += float(sum_loss(logits[plan.rows], collate(data, plan.rows)))
        weight += fitting.step_of(plan, prepared, data, Accelerator(cpu=True), 8).weight
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
