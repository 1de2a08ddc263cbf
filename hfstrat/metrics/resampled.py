"""The metrics of the table as functions of item weights, for their bootstrap intervals.

The value of a metric comes from its evaluate module. Calling that a thousand times takes minutes; here all resamples
are scored at once. With weights all one each function returns the module's value, which the tests hold it to.

Weights are float64 `(n, r)`: column j says how often resample j holds each item, and sums to n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from hfstrat.answers import answer_f1, exact_match
from hfstrat.metrics import texts
from hfstrat.metrics.detection import map_replicates
from hfstrat.tags import Entity, entities_of

if TYPE_CHECKING:
    from hfstrat.metrics import Metric, Outputs

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
Statistic = Callable[[FloatArray], FloatArray]
Counts = tuple[FloatArray, FloatArray, FloatArray]


def statistic(metric: Metric, problem: str, outputs: Outputs) -> Statistic:
    """How a metric depends on the weights of the items.

    Args:
        metric: A metric of the table.
        problem: One of those of `Metric.problems`.
        outputs: What the model said and what is true.

    Returns:
        A function from weights `(n, r)` to values `(r,)`; a resample on which the metric is undefined gets NaN.
    """
    if problem == "regression":
        return _of_columns(_REGRESSION[metric.name], outputs.references, outputs.predictions)
    if problem in ("entities", "tags"):
        return _of_tags(metric, outputs)
    if problem == "boxes":
        matches = outputs.matches
        return lambda weights: map_replicates(matches, weights, metric.name)
    if metric.needs == "texts":
        return _of_texts(metric, *(outputs.texts or ((), ())))
    if problem == "tokens":
        return _of_tokens(metric, np.asarray(outputs.predictions))
    if problem == "spans":
        one = _ANSWERS[metric.name]
        pairs = zip(outputs.predictions, outputs.references, strict=True)
        return _mean(np.array([one(said, true) for said, true in pairs]))
    if metric.needs == "scores":
        assert outputs.scores is not None
        if metric.module == "sensitivity_at_specificity":
            return _mean_of_defined(
                sensitivities(outputs.references, outputs.scores, cast(float, metric.options["specificity"]))
            )
        return _SCORES[metric.name](outputs.references, outputs.scores)
    counts = _counts(problem, outputs)
    if metric.name == "matthews_correlation":
        return lambda weights: _matthews(counts(weights))
    ratio, average = _RATIOS[metric.module], metric.options.get("average", "binary")
    only_present = problem == "single_label"
    return lambda weights: _averaged(ratio, str(average), counts(weights), only_present)


def _of_tags(metric: Metric, outputs: Outputs) -> Statistic:
    """Of counts in each text, so that a resample holds a text as a whole."""
    if metric.name.startswith("entity_"):
        rows = [[entities_of(tags) for tags in part] for part in (outputs.predictions, outputs.references)]
    else:  # each word is one, with its tag for a type
        rows = [
            [[(tag, place, place + 1) for place, tag in enumerate(tags)] for tags in part]
            for part in (outputs.predictions, outputs.references)
        ]
    hits, predicted, actual = (table.T for table in counted(*rows))
    if metric.name == "token_accuracy":
        return lambda weights: _ratio(hits.sum(axis=0) @ weights, actual.sum(axis=0) @ weights)
    ratio = _RATIOS[metric.key.removeprefix("overall_").removeprefix("macro_")]
    average = str(metric.options["average"])
    return lambda weights: _averaged(ratio, average, (hits @ weights, predicted @ weights, actual @ weights), True)


def _of_tokens(metric: Metric, sums: FloatArray) -> Statistic:
    """Of sums over the tokens of each text: losses, tokens that are right, tokens."""
    loss, right, tokens = sums.T
    if metric.name == "token_accuracy":
        return lambda weights: _ratio(right @ weights, tokens @ weights)
    if metric.name == "perplexity":
        return lambda weights: np.exp(_ratio(loss @ weights, tokens @ weights))
    return lambda weights: _ratio(loss @ weights, tokens @ weights)


def _of_texts(metric: Metric, said: Sequence[str], true: Sequence[str]) -> Statistic:
    """Of what a model wrote: means over texts, or scores of counts that are summed over them."""
    if metric.name == "exact_match":
        return _mean(texts.exact(said, true))
    if metric.module == "rouge":
        return _mean(texts.rouge(metric.name, said, true))
    counts, value = texts.corpus(metric.name, said, true)
    return lambda weights: np.array([value(sums.tolist()) for sums in (counts.T @ weights).T])


def counted(predictions: Sequence[Sequence[Entity]], references: Sequence[Sequence[Entity]]) -> Counts:
    """Entities that are right, predicted and true in each text: three arrays `(texts, types)`, types sorted by name."""
    kinds = sorted({kind for part in (predictions, references) for row in part for kind, *_ in row})
    place = {kind: number for number, kind in enumerate(kinds)}
    tables = np.zeros((3, len(references), len(kinds)))
    for row, (said, true) in enumerate(zip(predictions, references, strict=True)):
        for table, entities in zip(tables, (set(said) & set(true), said, true), strict=True):
            for kind, *_ in entities:
                table[row, place[kind]] += 1
    return tables[0], tables[1], tables[2]


def item_losses(references: IntArray, scores: FloatArray) -> FloatArray:
    """Negative log-likelihood of each item in nats.

    Args:
        references: Class indices `(n,)`, or 0/1 `(n, labels)`.
        scores: Probabilities: of each class `(n, classes)`, of class 1 `(n,)`, or of each label `(n, labels)`.
            They are clipped to the resolution of float64 away from 0, as scikit-learn does, so a class that a model
            rules out costs 36 nats and not infinity.

    Returns:
        `(n,)`; with several labels the mean over the labels.
    """
    eps = np.finfo(np.float64).eps
    if references.ndim == 2:
        p = np.clip(scores, eps, 1 - eps)
        return np.asarray(-np.where(references == 1, np.log(p), np.log1p(-p)).mean(axis=1))
    of_true_class = _rows(scores)[np.arange(len(references)), references]
    return -np.log(np.clip(of_true_class, eps, 1.0))


def calibration_gaps(references: IntArray, scores: FloatArray, bins: int = 15) -> FloatArray:
    """Confidence minus correctness of each item, in the bin of its confidence (Guo et al. 2017, arXiv:1706.04599).

    The expected calibration error is the sum over the bins of the absolute mean over the items.

    Args:
        references: Class indices `(n,)`, or 0/1 `(n, labels)`.
        scores: Probabilities, as for `item_losses`. Of exclusive classes the largest counts, and it is correct where
            its class is the true one; of independent labels each counts, and it is correct where the label is set.
        bins: Number of bins of equal width; each holds its upper edge.

    Returns:
        `(n, bins)`; with several labels the mean over the labels.
    """
    if references.ndim == 2:
        confidence, correct = scores, references
    else:
        rows = _rows(scores)
        confidence = rows.max(axis=1, keepdims=True)
        correct = (rows.argmax(axis=1) == references)[:, None]
    n, labels = confidence.shape
    bin_of = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    cell = np.arange(n)[:, None] * bins + bin_of
    gaps = np.bincount(cell.ravel(), weights=(confidence - correct).ravel() / labels, minlength=n * bins)
    return np.asarray(gaps, dtype=np.float64).reshape(n, bins)


def _rows(scores: FloatArray) -> FloatArray:
    return np.stack([1 - scores, scores], axis=1) if scores.ndim == 1 else scores


def _log_loss(references: IntArray, scores: FloatArray) -> Statistic:
    losses = item_losses(references, scores)
    return lambda weights: losses @ weights / len(losses)


def _ece(references: IntArray, scores: FloatArray) -> Statistic:
    gaps = calibration_gaps(references, scores)
    return lambda weights: np.abs(gaps.T @ weights).sum(axis=0) / len(gaps)


def sensitivities(references: IntArray, scores: FloatArray, specificity: float) -> list[Statistic]:
    """Sensitivity at a specificity, of each class against the rest or of each label.

    A point of the ROC curve is a threshold: items that score at least that are called positive, so items with the
    same score are on the same side of it, and there is no point between two of the curve's. Of all thresholds, the
    one above every score included, at which at least this share of the negatives is called negative, the value is
    the highest share of the positives that is called positive. It is 0 where no positive scores above enough
    negatives, and NaN without a positive or without a negative.

    Args:
        references: Class indices `(n,)`, or 0/1 `(n, labels)`.
        scores: As for `item_losses`; of two classes, the second is the positive one.
        specificity: Share of the negatives that have to be called negative.

    Returns:
        Functions from weights `(n, r)` to values `(r,)`: one of two classes, one for each of several classes or
        labels.
    """
    return [_binary_sensitivity(*one, specificity) for one in _against_the_rest(references, scores)]


def _roc_auc(references: IntArray, scores: FloatArray) -> Statistic:
    return _mean_of_defined([_binary_auc(*one) for one in _against_the_rest(references, scores)])


def _against_the_rest(references: IntArray, scores: FloatArray) -> Iterator[tuple[npt.NDArray[np.bool_], FloatArray]]:
    """What is positive, and how it scores: of the second of two classes, of each class, or of each label."""
    rows = scores if references.ndim == 2 else _rows(scores)
    only_second = references.ndim == 1 and rows.shape[1] == 2
    for c in [1] if only_second else range(rows.shape[1]):
        yield (references[:, c] == 1 if references.ndim == 2 else references == c), rows[:, c]


def _mean_of_defined(statistics: Sequence[Statistic]) -> Statistic:
    """Mean over the classes against the rest, or over the labels, of those that a resample defines."""

    def mean_of_defined(weights: FloatArray) -> FloatArray:
        total, defined = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
        for one in statistics:
            values = one(weights)
            total += np.nan_to_num(values)
            defined += ~np.isnan(values)
        return np.asarray(total / defined)

    return mean_of_defined


def _binary_auc(positive: npt.NDArray[np.bool_], scores: FloatArray) -> Statistic:
    """Share of (positive, negative) pairs in the right order, ties half (Mann and Whitney 1947)."""
    positives, negatives = _by_score(positive, scores)
    below = np.searchsorted(scores[negatives], scores[positives], side="left")
    through = np.searchsorted(scores[negatives], scores[positives], side="right")

    def auc(weights: FloatArray) -> FloatArray:
        passed = _running(weights[negatives])
        of_positives = weights[positives]
        wins = np.einsum("pr,pr->r", of_positives, passed[below] + passed[through]) / 2
        return np.asarray(wins / (of_positives.sum(axis=0) * passed[-1]))

    return auc


def _binary_sensitivity(positive: npt.NDArray[np.bool_], scores: FloatArray, specificity: float) -> Statistic:
    """Share of the positives that score above enough negatives.

    A positive can be called so if a threshold at its own score leaves enough negatives strictly below; a threshold
    that is good enough stays so when it is raised, hence all of these positives can be called so at once. Counts of
    true negatives are divided, for 93 / 100 is the float that 0.93 is, and 1 - 7 / 100 is less.
    """
    positives, negatives = _by_score(positive, scores)
    below = np.searchsorted(scores[negatives], scores[positives], side="left")

    def sensitivity(weights: FloatArray) -> FloatArray:
        passed = _running(weights[negatives])
        of_positives = weights[positives]
        enough = passed[below] / passed[-1] >= specificity
        found = np.einsum("pr,pr->r", of_positives, enough)
        return np.where(passed[-1] > 0, found / of_positives.sum(axis=0), np.nan)

    return sensitivity


def _by_score(positive: npt.NDArray[np.bool_], scores: FloatArray) -> tuple[IntArray, IntArray]:
    """The positive items, and the negative ones from the lowest score up.

    They are sorted once: resampling changes how often an item counts, not where it stands.
    """
    negatives = np.flatnonzero(~positive)
    return np.flatnonzero(positive), negatives[np.argsort(scores[negatives], kind="stable")]


def _running(weights: FloatArray) -> FloatArray:
    """Weight of the first items, of none up to all: `(items + 1, r)`."""
    passed = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=passed[1:])
    return passed


def _counts(problem: str, outputs: Outputs) -> Callable[[FloatArray], Counts]:
    """Items that are right, predicted and true in each class: three arrays `(classes, r)`."""
    references, predictions = outputs.references, outputs.predictions
    if problem == "multi_label":
        tables = [table.astype(np.float64).T for table in (references * predictions, predictions, references)]
        return lambda weights: (tables[0] @ weights, tables[1] @ weights, tables[2] @ weights)
    everything = np.arange(len(references))
    hits = _class_sums(references, np.flatnonzero(references == predictions), outputs.num_labels)
    predicted = _class_sums(predictions, everything, outputs.num_labels)
    actual = _class_sums(references, everything, outputs.num_labels)
    return lambda weights: (hits(weights), predicted(weights), actual(weights))


def _class_sums(labels: IntArray, items: IntArray, classes: int) -> Statistic:
    """Weight of the given items in each class `(classes, r)`, without a one-hot table of items by classes."""
    order = items[np.argsort(labels[items], kind="stable")]
    present, starts = np.unique(labels[order], return_index=True)

    def sums(weights: FloatArray) -> FloatArray:
        totals = np.zeros((classes, weights.shape[1]))
        if len(present):
            totals[present] = np.add.reduceat(weights[order], starts, axis=0)
        return totals

    return sums


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """0 where there is nothing to divide by: scikit-learn's convention, and therefore the Hub's."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _averaged(
    ratio: Callable[[FloatArray, FloatArray, FloatArray], FloatArray],
    average: str,
    counts: Counts,
    only_present: bool,
) -> FloatArray:
    """Average over the classes; exclusive classes that a resample does not hold are left out, labels are not."""
    hits, predicted, actual = counts
    if average == "binary":
        return ratio(hits[1], predicted[1], actual[1])
    if average == "micro":
        return ratio(hits.sum(axis=0), predicted.sum(axis=0), actual.sum(axis=0))
    of_class = ratio(hits, predicted, actual)
    if average == "weighted":
        return _ratio((of_class * actual).sum(axis=0), actual.sum(axis=0))
    present = (predicted + actual > 0) | (not only_present)
    return np.asarray((of_class * present).sum(axis=0) / present.sum(axis=0))


def _matthews(counts: Counts) -> FloatArray:
    """Correlation of predicted and true class from the counts (Gorodkin 2004)."""
    hits, predicted, actual = counts
    n = actual.sum(axis=0)
    covariance = hits.sum(axis=0) * n - (predicted * actual).sum(axis=0)
    spread = (n**2 - (predicted**2).sum(axis=0)) * (n**2 - (actual**2).sum(axis=0))
    return _ratio(covariance, np.sqrt(spread))


def _of_columns(
    of_column: Callable[[FloatArray, FloatArray], Statistic], references: FloatArray, predictions: FloatArray
) -> Statistic:
    """Mean over the outputs of a regression."""
    true, predicted = (np.asarray(x, dtype=np.float64).reshape(len(x), -1).T for x in (references, predictions))
    statistics = [of_column(t, p) for t, p in zip(true, predicted, strict=True)]
    return lambda weights: np.mean([one(weights) for one in statistics], axis=0)


def _mean(values: FloatArray) -> Statistic:
    return lambda weights: values @ weights / len(values)


def _rmse(true: FloatArray, predicted: FloatArray) -> Statistic:
    mse = _mean((true - predicted) ** 2)
    return lambda weights: np.sqrt(mse(weights))


def _r_squared(true: FloatArray, predicted: FloatArray) -> Statistic:
    mse = _mean((true - predicted) ** 2)
    return lambda weights: 1 - mse(weights) / _variance(true, weights)


def _pearson(true: FloatArray, predicted: FloatArray) -> Statistic:
    t, p = true - true.mean(), predicted - predicted.mean()

    def correlation(weights: FloatArray) -> FloatArray:
        n = len(t)
        covariance = (t * p) @ weights / n - (t @ weights / n) * (p @ weights / n)
        return np.asarray(covariance / np.sqrt(_variance(t, weights) * _variance(p, weights)))

    return correlation


def _spearman(true: FloatArray, predicted: FloatArray) -> Statistic:
    rank_true, rank_predicted = _ranks(true), _ranks(predicted)

    def correlation(weights: FloatArray) -> FloatArray:
        mean = (len(true) + 1) / 2
        t, p = rank_true(weights) - mean, rank_predicted(weights) - mean
        covariance = (weights * t * p).sum(axis=0)
        return np.asarray(covariance / np.sqrt((weights * t * t).sum(axis=0) * (weights * p * p).sum(axis=0)))

    return correlation


def _ranks(values: FloatArray) -> Statistic:
    """Rank `(n, r)` of each item in each resample, ties and copies sharing their mean rank."""
    order = np.argsort(values, kind="stable")
    _, starts, group = np.unique(values[order], return_index=True, return_inverse=True)
    group_of_item = np.empty_like(group)
    group_of_item[order] = group

    def ranks(weights: FloatArray) -> FloatArray:
        sizes = np.add.reduceat(weights[order], starts, axis=0)
        return np.asarray((np.cumsum(sizes, axis=0) - (sizes - 1) / 2)[group_of_item])

    return ranks


def _variance(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Variance in each resample; NaN where the resample holds one value only and rounding is all that is left."""
    centered = values - values.mean()
    n = len(values)
    variance = centered**2 @ weights / n - (centered @ weights / n) ** 2
    return np.where(variance > 1e-12 * np.var(values), variance, np.nan)


_RATIOS: dict[str, Callable[[FloatArray, FloatArray, FloatArray], FloatArray]] = {
    "f1": lambda hits, predicted, actual: _ratio(2 * hits, predicted + actual),
    "precision": lambda hits, predicted, actual: _ratio(hits, predicted),
    "recall": lambda hits, predicted, actual: _ratio(hits, actual),
}
_ANSWERS = {"exact_match": exact_match, "answer_f1": answer_f1}
_SCORES: dict[str, Callable[[IntArray, FloatArray], Statistic]] = {
    "ece": _ece,
    "log_loss": _log_loss,
    "roc_auc": _roc_auc,
}
_REGRESSION: dict[str, Callable[[FloatArray, FloatArray], Statistic]] = {
    "mae": lambda true, predicted: _mean(np.abs(true - predicted)),
    "mse": lambda true, predicted: _mean((true - predicted) ** 2),
    "pearsonr": _pearson,
    "r_squared": _r_squared,
    "rmse": _rmse,
    "spearmanr": _spearman,
}
