"""Each metric against scikit-learn or SciPy, against the Hub's documented examples, and against its own resamples."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats
from seqeval import metrics as seqeval
from sklearn import metrics as sk

from hfstrat.errors import RecipeError
from hfstrat.metrics import METRICS, OF_TOKENS, Metric, Outputs, Score, built_in, lookup, resampled, score, suggest
from hfstrat.metrics.detection import Found, Truth
from hfstrat.study.statistics import paired_difference_of
from tests.metrics.test_detection import by_coco, made


@pytest.fixture(autouse=True)
def _quiet_sklearn() -> Iterator[None]:
    """The independent reference warns where a metric is undefined; hfstrat must not (see the test of that)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sk._classification.UndefinedMetricWarning)
        yield


def single_label(n: int = 240, classes: int = 5, seed: int = 0) -> Outputs:
    generator = np.random.default_rng(seed)
    references = generator.integers(0, classes, n)
    logits = generator.normal(size=(n, classes)) * 1.5
    logits[np.arange(n), references] += 1.0
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = np.round(scores, 2) + 1e-3  # coarse, so that there are ties
    scores /= scores.sum(axis=1, keepdims=True)
    return Outputs(references, scores.argmax(axis=1), scores, classes)


def multi_label(n: int = 240, labels: int = 4, seed: int = 0) -> Outputs:
    generator = np.random.default_rng(seed)
    references = (generator.random((n, labels)) < [0.1, 0.3, 0.5, 0.7][:labels]).astype(np.int64)
    scores = np.round(1 / (1 + np.exp(-(2 * references - 1 + generator.normal(size=(n, labels))))), 2)
    return Outputs(references, (scores > 0.5).astype(np.int64), scores, labels)


def regression(n: int = 240, columns: int | None = None, seed: int = 0) -> Outputs:
    generator = np.random.default_rng(seed)
    shape = (n,) if columns is None else (n, columns)
    references = np.round(generator.normal(2, 3, shape), 1)
    return Outputs(references, references + np.round(generator.normal(0, 1, shape), 1), None, columns or 1)


def of_words(names: tuple[str, ...], n: int, seed: int) -> Outputs:
    """Tags of texts of one to nine words, of which three in four are right."""
    generator = np.random.default_rng(seed)
    references = [list(map(str, generator.choice(names, generator.integers(1, 10)))) for _ in range(n)]
    predictions = [
        [tag if generator.random() < 0.75 else str(generator.choice(names)) for tag in tags] for tags in references
    ]
    return Outputs(references, predictions, None, len(names))


def entities(n: int = 240, seed: int = 0) -> Outputs:
    return of_words(("O", "O", "B-name", "I-name", "B-place", "I-place"), n, seed)


def tags(n: int = 240, seed: int = 0) -> Outputs:
    return of_words(("ADJ", "NOUN", "VERB"), n, seed)


def spans(n: int = 240, seed: int = 0) -> Outputs:
    """Answers of one to three words, one in six of them none, of which three in four are right."""
    generator = np.random.default_rng(seed)
    words = ("red", "blue", "barn", "house", "door")
    texts = [" ".join(map(str, generator.choice(words, generator.integers(1, 4)))) for _ in range(3 * n)]
    references = [[] if generator.random() < 1 / 6 else texts[3 * place : 3 * place + 2] for place in range(n)]
    predictions = [
        (row[0] if row else "") if generator.random() < 0.75 else texts[3 * place + 2]
        for place, row in enumerate(references)
    ]
    return Outputs(references, predictions, None, 2)


def tokens(n: int = 240, seed: int = 0) -> Outputs:
    """Sums over the tokens of texts, and texts that were written, of which half are right."""
    generator = np.random.default_rng(seed)
    count = generator.integers(1, 30, n)
    sums = np.stack([generator.gamma(count, 2.0), generator.binomial(count, 0.4), count], axis=1).astype(float)
    words = ("red", "blue", "barn", "house", "door", "stands", "burning")
    true = [" ".join(map(str, generator.choice(words, generator.integers(2, 9)))) for _ in range(n)]
    others = [" ".join(map(str, generator.choice(words, generator.integers(2, 9)))) for _ in range(n)]
    said = [a if generator.random() < 0.5 else b for a, b in zip(true, others, strict=True)]
    return Outputs(np.zeros(n), sums, None, 0, (said, true))


def independent_of_texts(name: str, o: Outputs) -> float:
    assert o.texts is not None
    said, true = (list(part) for part in o.texts)
    if name == "exact_match":
        return sum(a == b for a, b in zip(said, true, strict=True)) / len(said)
    if name in ("chrf", "bleu"):
        return float(getattr(sacrebleu, f"corpus_{name}")(said, [true]).score)
    scorer = RougeScorer([name], use_stemmer=True)
    return statistics.mean(scorer.score(b, a)[name].fmeasure for a, b in zip(said, true, strict=True))


def brute_answer_f1(said: str, true: list[str]) -> float:
    if not said or not true:
        return float(said == (true or [""])[0])
    best = 0.0
    for answer in true:
        left = answer.split()
        common = 0
        for word in said.split():
            if word in left:
                left.remove(word)
                common += 1
        best = max(best, 2 * common / (len(said.split()) + len(answer.split())))
    return best


def boxes(n: int = 240, seed: int = 0) -> Outputs:
    """Boxes of images, no two with the same score: what ties are ordered by does not matter then."""
    found, truth = made(seed, images=n, most=4, levels=10**12)
    said = [np.column_stack([one.scores, one.classes, np.reshape(one.boxes, (-1, 4))]) for one in found]
    true = [
        np.column_stack([one.classes, one.boxes, one.crowd, one.areas]) if len(one.classes) else np.zeros((0, 7))
        for one in truth
    ]
    return Outputs(true, said, None, 3)


_by_coco: dict[bytes, dict[str, Any]] = {}


def independent_of_boxes(name: str, o: Outputs) -> float:
    """By pycocotools, which computes all of them at once and takes its time."""
    key = b"".join(row.tobytes() for part in (o.references, o.predictions) for row in part)
    if key not in _by_coco:
        found = [Found(row[:, 2:], row[:, 0], row[:, 1]) for row in o.predictions]
        truth = [Truth(row[:, 1:5], row[:, 0], row[:, 5], row[:, 6]) for row in o.references]
        _by_coco[key] = by_coco(found, truth, o.num_labels)
    value = float(_by_coco[key][name])
    return math.nan if value == -1 else value


MADE: dict[str, Callable[..., Outputs]] = {
    "boxes": boxes,
    "tokens": tokens,
    "spans": spans,
    "entities": entities,
    "tags": tags,
    "single_label": single_label,
    "multi_label": multi_label,
    "regression": regression,
}
CASES = [
    (metric.name, problem) for metric in (*METRICS.values(), *OF_TOKENS.values()) for problem in sorted(metric.problems)
]


def outputs_for(name: str, problem: str, n: int = 240, seed: int = 0) -> Outputs:
    if lookup(name, problem).options.get("average") == "binary":
        return single_label(n, classes=2, seed=seed)
    return MADE[problem](n, seed=seed)


def brute_ece(confidence: np.ndarray, correct: np.ndarray) -> float:
    total = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15) | ((confidence == 0) & (b == 0))
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


def from_roc_curve(positive: np.ndarray, scores: np.ndarray, specificity: float) -> float:
    """Sensitivity by the points of scikit-learn's curve, whose rates are turned into counts again."""
    if positive.all() or not positive.any():
        return math.nan
    false, true, _ = sk.roc_curve(positive, scores, drop_intermediate=False)
    negatives = int((~positive).sum())
    kept = [negatives - round(rate * negatives) for rate in false]
    return max(float(t) for t, count in zip(true, kept, strict=True) if count / negatives >= specificity)


def independent(name: str, problem: str, o: Outputs) -> float:
    """The metric by scikit-learn or SciPy, or by a loop where they do not have it."""
    y, p, s = o.references, o.predictions, o.scores
    if problem == "tokens" and lookup(name, problem).needs == "texts":
        return independent_of_texts(name, o)
    if problem == "tokens":
        loss, right, count = (float(column.sum()) for column in p.T)
        return {"perplexity": math.exp(loss / count), "cross_entropy": loss / count, "token_accuracy": right / count}[
            name
        ]
    if problem == "boxes":
        return independent_of_boxes(name, o)
    base, _, average = name.partition("_")
    if base == "entity":
        options = {"average": "macro" if average.endswith("macro") else "micro", "zero_division": 0}
        function = {"f1": seqeval.f1_score, "precision": seqeval.precision_score, "recall": seqeval.recall_score}
        return float(function[average.removesuffix("_macro")](y, p, **options))
    if name == "exact_match":
        return float(np.mean([said in true or not (said or true) for said, true in zip(p, y, strict=True)]))
    if name == "answer_f1":
        return float(np.mean([brute_answer_f1(said, true) for said, true in zip(p, y, strict=True)]))
    if base in ("tag", "token"):
        y, p = ([tag for row in rows for tag in row] for rows in (y, p))
        return float(sk.f1_score(y, p, average="macro") if base == "tag" else sk.accuracy_score(y, p))
    if base in ("f1", "precision", "recall"):
        function = {"f1": sk.f1_score, "precision": sk.precision_score, "recall": sk.recall_score}[base]
        return float(function(y, p, average=average or "binary", zero_division=0))
    if name == "roc_auc":
        if problem == "multi_label":
            return float(sk.roc_auc_score(y, s))
        return float(sk.roc_auc_score(y, s, multi_class="ovr", labels=range(o.num_labels)))
    if base == "sensitivity":
        held = y if problem == "multi_label" else np.eye(o.num_labels)[y]
        classes = [1] if problem == "single_label" and o.num_labels == 2 else range(o.num_labels)
        specificity = float(name.rpartition("_")[2])
        return float(np.mean([from_roc_curve(held[:, c] == 1, s[:, c], specificity) for c in classes]))
    if name == "log_loss":
        if problem == "multi_label":
            return float(np.mean([sk.log_loss(y[:, c], s[:, c], labels=[0, 1]) for c in range(y.shape[1])]))
        return float(sk.log_loss(y, s, labels=range(o.num_labels)))
    if name == "ece":
        if problem == "multi_label":
            return brute_ece(s.ravel(), y.ravel())
        return brute_ece(s.max(axis=1), s.argmax(axis=1) == y)
    return float(
        {
            "accuracy": sk.accuracy_score,
            "matthews_correlation": sk.matthews_corrcoef,
            "mse": sk.mean_squared_error,
            "rmse": sk.root_mean_squared_error,
            "mae": sk.mean_absolute_error,
            "r_squared": sk.r2_score,
            "pearsonr": lambda y, p: stats.pearsonr(y, p).statistic,
            "spearmanr": lambda y, p: stats.spearmanr(y, p).statistic,
        }[name](y, p)
    )


def taken(o: Outputs, items: np.ndarray) -> Outputs:
    if o.texts is not None:
        said, true = ([part[item] for item in items] for part in o.texts)
        return Outputs(o.references[items], o.predictions[items], None, 0, (said, true))
    if isinstance(o.references, list):
        rows = ([part[item] for item in items] for part in (o.references, o.predictions))
        return Outputs(*rows, None, o.num_labels)
    return Outputs(
        o.references[items], o.predictions[items], None if o.scores is None else o.scores[items], o.num_labels
    )


def every_class_is_mixed(problem: str, o: Outputs) -> bool:
    held = o.references if problem == "multi_label" else np.eye(o.num_labels)[o.references]
    share = held.mean(axis=0)
    return bool(((share > 0) & (share < 1)).all())


@pytest.mark.parametrize(("name", "problem"), CASES)
def test_value_is_the_independent_one_and_lies_in_its_interval(name: str, problem: str) -> None:
    outputs = outputs_for(name, problem)
    found = score([name], problem, outputs, resamples=200)[name]
    assert found.value == pytest.approx(independent(name, problem, outputs), rel=1e-12, abs=1e-12)
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.high
    assert found.low <= found.value <= found.high
    assert found.interval == lookup(name, problem).interval


@pytest.mark.parametrize("n", [240, 12])  # with 12 items, resamples lack classes
@pytest.mark.parametrize(("name", "problem"), [case for case in CASES if lookup(*case).interval == "bootstrap"])
def test_a_resample_is_scored_as_if_its_items_were_copied(name: str, problem: str, n: int) -> None:
    outputs = outputs_for(name, problem, n)
    draws = np.vstack([np.arange(n), np.random.default_rng(5).integers(0, n, (12, n))])
    weights = np.stack([np.bincount(row, minlength=n) for row in draws], axis=1).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = resampled.statistic(lookup(name, problem), problem, outputs)(weights)
    for row, value in zip(draws, values, strict=True):
        copied = taken(outputs, row)
        if name.startswith(("roc_auc", "sensitivity")) and not every_class_is_mixed(problem, copied):
            continue  # undefined on all classes: the interval takes the mean over the others
        assert value == pytest.approx(independent(name, problem, copied), rel=1e-9, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if "regression" in metric.problems])
def test_regression_with_several_outputs_is_the_mean_over_them(name: str) -> None:
    outputs = regression(columns=3)
    columns = [Outputs(outputs.references[:, c], outputs.predictions[:, c], None, 1) for c in range(outputs.num_labels)]
    found = score([name], "regression", outputs, resamples=100)[name]
    assert found.value == pytest.approx(np.mean([independent(name, "regression", one) for one in columns]))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_one_column_is_one_number() -> None:
    flat, column = regression(), regression()
    column = Outputs(flat.references[:, None], flat.predictions[:, None], None, 1)
    names = [name for name, metric in METRICS.items() if "regression" in metric.problems]
    assert score(names, "regression", flat, resamples=50) == score(names, "regression", column, resamples=50)


def hub(name: str, config: str | None = None, **arguments: Any) -> Any:
    from hfstrat.metrics import modules

    return modules.load(name, config).compute(**arguments)


AT_95 = "sensitivity_at_specificity_0.95"
BINARY = {"references": [0, 1, 0, 1, 0], "predictions": [0, 0, 1, 1, 0]}
THREE = {"references": [0, 1, 2, 0, 1, 2], "predictions": [0, 2, 1, 0, 0, 1]}
WEIGHTS = [0.9, 0.5, 3.9, 1.2, 0.3]
RECALL = {"references": [0, 0, 1, 1, 1], "predictions": [0, 1, 0, 1, 1]}
MATTHEWS = {"references": [1, 3, 2, 0, 3, 2], "predictions": [1, 2, 2, 0, 3, 3]}
AUC_ROWS = [[0.3, 0.5, 0.2], [0.7, 0.2, 0.1], [0.005, 0.99, 0.005], [0.2, 0.3, 0.5], [0.1, 0.1, 0.8], [0.1, 0.7, 0.2]]
AUC_LABELS = [[1, 1, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1], [1, 0, 1]]
NUMBERS = {"predictions": [2.5, 0.0, 2, 8], "references": [3, -0.5, 2, 7]}
ROWS = {"predictions": [[0.5, 1], [-1, 1], [7, -6]], "references": [[0, 2], [-1, 2], [8, -5]]}
RANKS = {"references": [1, 2, 3, 4, 5], "predictions": [10, 9, 2.5, 6, 4]}
DOCUMENTED: list[tuple[str, str | None, dict[str, Any], Any]] = [
    ("accuracy", None, {"references": [0, 1, 2, 0, 1, 2], "predictions": [0, 1, 1, 2, 1, 0]}, 0.5),
    (
        "accuracy",
        None,
        {"references": [0, 1, 2, 0, 1, 2], "predictions": [0, 1, 1, 2, 1, 0], "normalize": False},
        3.0,
    ),
    (
        "accuracy",
        None,
        {
            "references": [0, 1, 2, 0, 1, 2],
            "predictions": [0, 1, 1, 2, 1, 0],
            "sample_weight": [0.5, 2, 0.7, 0.5, 9, 0.4],
        },
        0.8778625954198473,
    ),
    ("f1", None, BINARY, 0.5),
    ("f1", None, {**BINARY, "pos_label": 0}, 0.67),
    ("f1", None, {**BINARY, "sample_weight": WEIGHTS}, 0.35),
    ("f1", None, {**THREE, "average": "macro"}, 0.27),
    ("f1", None, {**THREE, "average": "micro"}, 0.33),
    ("f1", None, {**THREE, "average": "weighted"}, 0.27),
    ("f1", None, {**THREE, "average": None}, [0.8, 0.0, 0.0]),
    (
        "f1",
        "multilabel",
        {"predictions": [[0, 1, 1], [1, 1, 0]], "references": [[0, 1, 1], [0, 1, 0]], "average": "macro"},
        0.67,
    ),
    ("precision", None, BINARY, 0.5),
    ("precision", None, {**BINARY, "pos_label": 0}, 0.67),
    ("precision", None, {**BINARY, "sample_weight": WEIGHTS}, 0.23529411764705882),
    ("precision", None, {**THREE, "average": "macro"}, 0.2222222222222222),
    ("precision", None, {**THREE, "average": None}, [0.67, 0.0, 0.0]),
    ("recall", None, RECALL, 0.6666666666666666),
    ("recall", None, {**RECALL, "pos_label": 0}, 0.5),
    ("recall", None, {**RECALL, "sample_weight": [0.9, 0.2, 0.9, 0.3, 0.8]}, 0.55),
    ("recall", None, {**THREE, "average": None}, [1.0, 0.0, 0.0]),
    ("matthews_correlation", None, MATTHEWS, 0.5384615384615384),
    ("matthews_correlation", None, {**MATTHEWS, "sample_weight": [0.5, 3, 1, 1, 1, 2]}, 0.09782608695652174),
    ("matthews_correlation", None, {**MATTHEWS, "sample_weight": [0.5, 1, 0, 0, 0, 1]}, -0.25),
    (
        "roc_auc",
        None,
        {"references": [1, 0, 1, 1, 0, 0], "prediction_scores": [0.5, 0.2, 0.99, 0.3, 0.1, 0.7]},
        0.78,
    ),
    (
        "roc_auc",
        "multiclass",
        {"references": [1, 0, 1, 2, 2, 0], "prediction_scores": AUC_ROWS, "multi_class": "ovr"},
        0.85,
    ),
    (
        "roc_auc",
        "multilabel",
        {"references": AUC_LABELS, "prediction_scores": AUC_ROWS, "average": None},
        [0.83, 0.38, 0.94],
    ),
    ("mse", None, NUMBERS, 0.375),
    ("mse", None, {**NUMBERS, "squared": False}, 0.6123724356957945),
    ("mse", "multilist", ROWS, 0.7083333333333334),
    ("mse", "multilist", {**ROWS, "multioutput": "raw_values"}, [0.41666667, 1.0]),
    ("mae", None, NUMBERS, 0.5),
    ("mae", "multilist", ROWS, 0.75),
    ("mae", "multilist", {**ROWS, "multioutput": "raw_values"}, [0.5, 1.0]),
    ("pearsonr", None, RANKS, -0.74),
    ("spearmanr", None, RANKS, -0.7),
]


def digits(value: float) -> int:
    """As many decimals as the example shows."""
    return len(repr(float(value)).partition(".")[2])


@pytest.mark.parametrize(("name", "config", "arguments", "expected"), DOCUMENTED)
def test_module_returns_what_its_page_on_the_hub_shows(
    name: str, config: str | None, arguments: dict[str, Any], expected: Any
) -> None:
    result = hub(name, config, **arguments)
    assert list(result) == [name]
    values, wanted = np.atleast_1d(result[name]), np.atleast_1d(expected)
    assert len(values) == len(wanted)
    for value, want in zip(values, wanted, strict=True):
        assert value == pytest.approx(want, abs=0.51 * 10.0 ** -max(2, min(digits(want), 8)))


def test_p_values_have_the_keys_of_the_hub() -> None:
    pearson = hub("pearsonr", **RANKS, return_pvalue=True)
    assert sorted(pearson) == ["p-value", "pearsonr"]
    assert pearson["p-value"] == pytest.approx(0.15, abs=0.005)
    assert hub("spearmanr", **RANKS, return_pvalue=True)["spearmanr_pvalue"] == pytest.approx(0.19, abs=0.005)


def test_r_squared_is_a_bare_rounded_number_as_on_the_hub_and_score_has_all_digits() -> None:
    references, predictions = [0.9, 2.1, 3.2, 3.8], [1, 2, 3, 4]
    assert hub("r_squared", predictions=predictions, references=references) == 0.98
    outputs = Outputs(np.array(references), np.array(predictions, dtype=float), None, 1)
    assert score(["r_squared"], "regression", outputs)["r_squared"].value == pytest.approx(1 - 0.1 / 4.9)


def test_matthews_of_several_labels() -> None:
    arguments = {"references": [[0, 1], [1, 0], [1, 1]], "predictions": [[0, 1], [1, 1], [0, 1]]}
    assert hub("matthews_correlation", "multilabel", **arguments)["matthews_correlation"] == [0.5, 0.0]
    macro = hub("matthews_correlation", "multilabel", **arguments, average="macro")
    assert macro["matthews_correlation"] == 0.25


def test_modules_combine_as_evaluate_ones_do_and_take_batches() -> None:
    import evaluate

    from hfstrat.metrics import modules

    both = evaluate.combine([modules.load("accuracy"), modules.load("f1")])
    assert both.compute(**BINARY) == {"accuracy": 0.6, "f1": 0.5}
    accuracy = modules.load("accuracy")
    accuracy.add_batch(predictions=[0, 1], references=[0, 0])
    accuracy.add_batch(predictions=np.array([1]), references=np.array([1]))
    assert accuracy.compute()["accuracy"] == pytest.approx(2 / 3)


def test_nothing_is_left_in_the_cache_folder() -> None:
    import evaluate

    score(["accuracy", "f1_macro"], "single_label", single_label(), resamples=10)
    cache = Path(evaluate.config.HF_METRICS_CACHE)
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize(
    ("name", "problem", "outputs"),
    [
        ("roc_auc", "single_label", Outputs(np.zeros(4, int), np.zeros(4, int), np.full((4, 2), 0.5), 2)),
        ("roc_auc", "single_label", Outputs(np.array([0, 1, 1]), np.zeros(3, int), np.full((3, 3), 1 / 3), 3)),
        ("roc_auc", "multi_label", Outputs(np.eye(3, 2, dtype=int) * [1, 0], np.eye(3, 2), np.eye(3, 2), 2)),
        (AT_95, "single_label", Outputs(np.zeros(4, int), np.zeros(4, int), np.full((4, 2), 0.5), 2)),
        (AT_95, "single_label", Outputs(np.ones(4, int), np.zeros(4, int), np.full((4, 2), 0.5), 2)),
        (AT_95, "single_label", Outputs(np.array([0, 1, 1]), np.zeros(3, int), np.full((3, 3), 1 / 3), 3)),
        (AT_95, "multi_label", Outputs(np.eye(3, 2, dtype=int) * [1, 0], np.eye(3, 2), np.eye(3, 2), 2)),
        ("pearsonr", "regression", Outputs(np.ones(4), np.arange(4.0), None, 1)),
        ("spearmanr", "regression", Outputs(np.arange(4.0), np.ones(4), None, 1)),
        ("pearsonr", "regression", Outputs(np.ones(1), np.ones(1), None, 1)),
        ("r_squared", "regression", Outputs(np.ones(4), np.arange(4.0), None, 1)),
        ("accuracy", "single_label", Outputs(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2)), 2)),
    ],
)
def test_undefined_is_none_without_a_warning(name: str, problem: str, outputs: Outputs) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score([name], problem, outputs) == {name: Score(None)}


def test_zero_division_is_zero_as_in_scikit_learn() -> None:
    nothing_found = Outputs(np.array([0, 0, 1]), np.array([0, 0, 0]), np.full((3, 2), 0.5), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(["f1", "precision", "recall", "f1_macro"], "single_label", nothing_found)
    assert [found[name].value for name in ("f1", "precision", "recall")] == [0, 0, 0]


def test_calibration_error_of_known_cases() -> None:
    sure = np.array([[1.0, 0.0]] * 10)
    half_right = Outputs(np.array([0, 1] * 5), np.zeros(10, int), sure, 2)
    assert score(["ece"], "single_label", half_right)["ece"].value == pytest.approx(0.5)
    right = Outputs(np.zeros(10, int), np.zeros(10, int), sure, 2)
    assert score(["ece"], "single_label", right)["ece"].value == 0


def test_scores_in_float32_raise_no_complaint_about_their_sums() -> None:
    o = single_label()
    assert o.scores is not None
    coarse = Outputs(o.references, o.predictions, o.scores.astype(np.float32), o.num_labels)
    names = ["log_loss", "roc_auc", "ece"]
    exact, found = (score(names, "single_label", x, intervals=False) for x in (o, coarse))
    for name in names:
        assert found[name].value == pytest.approx(exact[name].value, rel=1e-4)


def test_impossible_event_costs_a_finite_loss() -> None:
    outputs = Outputs(np.array([1, 0]), np.array([0, 0]), np.array([[1.0, 0.0], [1.0, 0.0]]), 2)
    found = score(["log_loss"], "single_label", outputs)["log_loss"].value
    assert found == pytest.approx(-math.log(np.finfo(float).eps) / 2)


def test_intervals_can_be_left_out_and_do_not_touch_the_value() -> None:
    with_, without = (score(["f1_macro"], "single_label", single_label(), intervals=i) for i in (True, False))
    assert without["f1_macro"] == Score(with_["f1_macro"].value)


def test_same_seed_same_interval() -> None:
    scores = [score(["f1_macro"], "single_label", single_label(), seed=s, resamples=300) for s in (1, 1, 2)]
    assert scores[0] == scores[1] != scores[2]


def test_score_is_json() -> None:
    found = score(["accuracy"], "single_label", single_label(), resamples=10)["accuracy"]
    assert json.loads(json.dumps(found.to_json())) == {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "interval": "wilson",
    }


def test_large_test_set_is_scored_in_time() -> None:
    outputs = single_label(3080, 77)
    names = ["accuracy", "f1_macro", "precision_macro", "recall_macro", "matthews_correlation", "log_loss", "ece"]
    score(names, "single_label", outputs, intervals=False)  # imports
    start = time.process_time()
    score(names, "single_label", outputs)
    assert time.process_time() - start < 6  # 1 s on a quiet machine


def test_area_under_the_curve_gets_fewer_resamples_where_it_would_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    from hfstrat import metrics

    monkeypatch.setattr(metrics, "_AUC_CELLS", 240 * 5 * 150)
    assert metrics._resamples(METRICS["roc_auc"], single_label(), 1000) == 150
    assert metrics._resamples(METRICS["roc_auc"], single_label(2400), 1000) == 100
    assert metrics._resamples(METRICS["roc_auc"], single_label(classes=2), 1000) == 1000
    assert metrics._resamples(METRICS[AT_95], single_label(), 1000) == 150
    assert metrics._resamples(METRICS[AT_95], single_label(classes=2), 1000) == 1000
    assert metrics._resamples(METRICS["f1_macro"], single_label(), 1000) == 1000


@st.composite
def scored_items(draw: st.DrawFn) -> tuple[str, Outputs]:
    """Scores with ties, constant ones among them, of which some lack a class."""
    problem = draw(st.sampled_from(["single_label", "multi_label"]))
    classes, n = draw(st.integers(2, 4)), draw(st.integers(1, 40))
    levels = draw(st.integers(1, 12))
    rows = st.lists(st.integers(1, levels), min_size=classes, max_size=classes)
    scores = np.array(draw(st.lists(rows, min_size=n, max_size=n))) / (levels + 1)
    if problem == "single_label":
        references = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))
    else:
        labels = st.lists(st.integers(0, 1), min_size=classes, max_size=classes)
        references = np.array(draw(st.lists(labels, min_size=n, max_size=n)))
    return problem, Outputs(references, references, scores, classes)


@settings(max_examples=150)
@given(scored_items(), st.sampled_from(["0.5", "0.75", "0.8", "0.9", "0.95", "0.999"]))
def test_sensitivity_is_that_of_the_curve_of_scikit_learn(made: tuple[str, Outputs], specificity: str) -> None:
    problem, outputs = made
    name = f"sensitivity_at_specificity_{specificity}"
    found, expected = score([name], problem, outputs, intervals=False)[name].value, independent(name, problem, outputs)
    if math.isnan(expected):
        assert found is None
    else:
        assert found == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("kept", [50, 66, 67, 68, 80, 90, 93, 95, 99])  # 1 - 7 / 100 is less than 0.93
def test_exactly_the_specificity_of_the_name_is_enough(kept: int) -> None:
    # A hundred negatives with scores 0 to 99, and a positive above each of them, before the next one.
    scores = np.concatenate([np.arange(100.0), np.arange(100) + 0.5]) / 100
    references = np.repeat([0, 1], 100)
    outputs = Outputs(references, references, np.stack([1 - scores, scores], axis=1), 2)
    name = f"sensitivity_at_specificity_{kept / 100}"
    # The lowest positive that is found is the one with so many negatives below it.
    assert score([name], "single_label", outputs, resamples=10)[name].value == (100 - kept + 1) / 100


def test_sensitivity_counts_no_positive_that_ties_with_a_negative_it_may_not_take() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.8, 0.8, 0.8, 0.9, 0.1])
    references = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    outputs = Outputs(references, references, np.stack([1 - scores, scores], axis=1), 2)
    names = [f"sensitivity_at_specificity_{share}" for share in ("0.75", "0.751")]
    found = score(names, "single_label", outputs)
    assert [found[name].value for name in names] == [0.75, 0.25]
    constant = Outputs(references, references, np.full((8, 2), 0.5), 2)
    assert score([AT_95], "single_label", constant)[AT_95].value == 0


@pytest.mark.parametrize("name", ["sensitivity_at_specificity_0.5", "sensitivity_at_specificity_0.999"])
def test_any_specificity_of_the_pattern_is_built_in(name: str) -> None:
    found = lookup(name, "single_label")
    assert found == built_in(name)
    assert (found.needs, found.interval, found.options) == ("scores", "bootstrap", {"specificity": float(name[27:])})
    with pytest.raises(RecipeError, match="is not defined for a regression problem"):
        lookup(name, "regression")


@pytest.mark.parametrize("ending", ["", "_0.49", "_1.0", "_0.9999", "_95", "_0.95x", "_0.", "_high"])
def test_specificity_that_cannot_be_meant_is_refused_and_not_asked_of_the_hub(ending: str) -> None:
    with pytest.raises(RecipeError, match=r"from 0.5 to 0.999") as caught:
        score([f"sensitivity_at_specificity{ending}"], "single_label", single_label())
    assert AT_95 in caught.value.problems[0].hint


def test_paired_difference_of_sensitivities_is_that_of_the_values_and_less_wide_than_the_intervals() -> None:
    first = single_label(classes=2)
    assert first.scores is not None
    lower = first.scores[:, 1] - 0.3 * (np.random.default_rng(1).random(len(first.references)) < 0.3)
    second = Outputs(first.references, first.predictions, np.stack([1 - lower, lower], axis=1), 2)
    name = "sensitivity_at_specificity_0.8"
    metric = lookup(name, "single_label")
    of_weights = [[resampled.statistic(metric, "single_label", one)] for one in (first, second)]
    difference = paired_difference_of(*of_weights, len(first.references))
    scores = [score([name], "single_label", one)[name] for one in (first, second)]
    assert all(one.value is not None and one.low is not None and one.high is not None for one in scores)
    assert difference.value == pytest.approx(scores[0].value - scores[1].value, abs=1e-12)
    assert difference.low < difference.value < difference.high
    assert difference.high - difference.low < sum(one.high - one.low for one in scores)
    same = paired_difference_of(of_weights[0], of_weights[0], len(first.references))
    assert (same.low, same.value, same.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("name", "problem"), [("accuracy", "regression"), ("mse", "single_label"), ("f1", "multi_label")]
)
def test_metric_of_another_problem_is_refused_with_those_that_fit(name: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=f"'{name}' is not defined for a {problem} problem. Use one of: "):
        lookup(name, problem)


def test_every_metric_is_found_where_it_is_defined() -> None:
    for name, problem in CASES:
        assert lookup(name, problem) is (OF_TOKENS if problem == "tokens" and name in OF_TOKENS else METRICS)[name]
        assert problem == "boxes" or lookup(name, problem).module in _modules()
    assert {lookup(*case).module for case in CASES if case[1] != "boxes"} == set(_modules())


def _modules() -> dict[str, Any]:
    from hfstrat.metrics.modules import MODULES

    return MODULES


def test_unknown_name_is_a_module_of_the_hub() -> None:
    assert lookup("someone/theirs", "regression") == Metric(
        "someone/theirs",
        "someone/theirs",
        "theirs",
        unit="",
        problems=frozenset({"single_label", "multi_label", "regression", "entities", "tags", "spans", "tokens"}),
        interval=None,
    )
    assert suggest("acuracy") == "accuracy"
    assert suggest("sensitivty_at_specificity_0.95") == AT_95
    assert suggest("bleurt-large") is None


def test_binary_metric_of_many_classes_and_scores_that_are_missing_are_said_at_once() -> None:
    outputs = single_label()
    decisions = Outputs(outputs.references, outputs.predictions, None, outputs.num_labels)
    with pytest.raises(RecipeError, match="f1_macro") as caught:
        score(["f1", "roc_auc"], "single_label", decisions)
    assert len(caught.value.problems) == 2


def test_other_metrics_without_network_fail_at_once_and_say_how_to_go_on() -> None:
    score(["accuracy"], "single_label", single_label(), intervals=False)  # imports
    start = time.perf_counter()
    with pytest.raises(RecipeError, match=r"'acuracy' is not built in .* offline mode is on") as caught:
        score(["acuracy"], "single_label", single_label())
    assert time.perf_counter() - start < 1
    hint = caught.value.problems[0].hint
    assert hint.startswith("Did you mean 'accuracy'? ")
    assert "f1_macro" in hint
    assert AT_95 in hint


THEIRS = """
import datasets
import evaluate


class Theirs(evaluate.Metric):
    def _info(self):
        column = datasets.Value("int32")
        features = datasets.Features({"predictions": column, "references": column})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return RESULT
"""


def write_metric(folder: Path, name: str, result: str) -> None:
    (folder / name).mkdir()
    (folder / name / f"{name}.py").write_text(THEIRS.replace("RESULT", result))


def test_folder_that_is_called_like_a_metric_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_metric(tmp_path, "accuracy", "{'accuracy': 42.0}")
    write_metric(tmp_path, "theirs", "{'theirs': 42.0}")
    assert score(["accuracy"], "single_label", single_label())["accuracy"].value != 42
    with pytest.raises(RecipeError, match=r"write './theirs'"):
        score(["theirs"], "single_label", single_label())


def test_script_by_its_path_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_metric(tmp_path, "theirs", "{'theirs': 42.0, 'other': 1.0}")
    write_metric(tmp_path, "unlike", "{'one': 1.0, 'other': 1.0}")
    assert score(["./theirs"], "single_label", single_label()) == {"./theirs": Score(42.0)}
    assert score(["./theirs/theirs.py"], "single_label", single_label())["./theirs/theirs.py"].value == 42
    with pytest.raises(RecipeError, match="none of them is called 'unlike': one, other"):
        score(["./unlike"], "single_label", single_label())


def test_table_imports_nothing_heavy() -> None:
    heavy = "{'evaluate', 'sklearn', 'scipy', 'datasets', 'torch', 'pandas', 'transformers'}"
    code = f"import sys, hfstrat.metrics, hfstrat.study.statistics; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
