# mypy: allow-subclassing-any
"""The Hub's metric modules for use without the Hub, and the way to all its other ones.

`evaluate.load("accuracy")` downloads code and runs it; no metric is part of the `evaluate` package. The classes here
are called as the modules of the same names on the Hub are, and return what those return. They differ in three ways:
numbers are held in float64 (float32 there), `mse(squared=False)` works with scikit-learn 1.6 and later, and a
correlation of fewer than two items is NaN, not an exception.

This module imports evaluate and scikit-learn (seconds), so import it late.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

from hfstrat.answers import answer_f1, exact_match
from hfstrat.errors import Problem, RecipeError
from hfstrat.metrics import METRICS, suggest, texts
from hfstrat.metrics.resampled import calibration_gaps, counted, item_losses, sensitivities
from hfstrat.tags import entities_of

Weights = Sequence[float] | None
Result = dict[str, Any]


class _Module(evaluate.Metric):
    """What the modules share: nothing is written to the cache folder, whatever runs beside them.

    Args:
        config_name: "default", "multilabel" (0/1 rows), "multiclass" (rows of scores) or "multilist" (rows of
            numbers), where the module of that name on the Hub has it.
    """

    summary = ""
    arguments = ""
    references_url = ""

    def __init__(self, config_name: str | None = None) -> None:
        # evaluate makes a folder per metric even when it keeps everything in memory; it may go at once.
        with tempfile.TemporaryDirectory() as folder:
            super().__init__(
                config_name=config_name,
                keep_in_memory=True,
                cache_dir=folder,
                experiment_id=f"{os.getpid()}-{uuid.uuid4().hex}",
                seed=0,
            )

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.summary,
            citation="",
            inputs_description=self.arguments,
            features=datasets.Features(self._columns()),
            reference_urls=[self.references_url],
        )

    def _columns(self) -> dict[str, Any]:
        raise NotImplementedError


class _Labels(_Module):
    """Takes class indices, or 0/1 rows when configured as "multilabel"."""

    arguments = "predictions and references: class indices, or 0/1 rows with the configuration 'multilabel'."
    references_url = "https://scikit-learn.org/stable/modules/model_evaluation.html#classification-metrics"

    def _columns(self) -> dict[str, Any]:
        integer = datasets.Value("int32")
        column = datasets.Sequence(integer) if self.config_name == "multilabel" else integer
        return {"predictions": column, "references": column}


class _Numbers(_Module):
    """Takes numbers, or rows of numbers when configured as "multilist"."""

    arguments = "predictions and references: numbers, or rows of numbers with the configuration 'multilist'."
    references_url = "https://scikit-learn.org/stable/modules/model_evaluation.html#regression-metrics"

    def _columns(self) -> dict[str, Any]:
        number = datasets.Value("float64")
        column = datasets.Sequence(number) if self.config_name == "multilist" else number
        return {"predictions": column, "references": column}


class _Scores(_Module):
    """Takes scores: a number, or a row of them when configured as "multiclass" or "multilabel"."""

    arguments = "prediction_scores: a score, or a row of scores, of each item; references: the true classes."
    references_url = "https://scikit-learn.org/stable/modules/model_evaluation.html"

    def _columns(self) -> dict[str, Any]:
        number, integer = datasets.Value("float64"), datasets.Value("int32")
        return {
            "prediction_scores": number if self.config_name == "default" else datasets.Sequence(number),
            "references": datasets.Sequence(integer) if self.config_name == "multilabel" else integer,
        }


class Seqeval(_Module):
    """Precision, recall and F1 of entities, by type and in all, and accuracy of words, as `seqeval` counts them."""

    summary = "Entities that tags mark: precision, recall and F1 of each type and over all, and accuracy of words."
    arguments = "predictions and references: the tags of the words of each text, in IOB or IOBES."
    references_url = "https://aclanthology.org/W95-0107/"

    def _columns(self) -> dict[str, Any]:
        tags = datasets.Sequence(datasets.Value("string"))
        return {"predictions": tags, "references": tags}

    def _compute(self, predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Result:
        entities = [[entities_of(row) for row in rows] for rows in (predictions, references)]
        kinds = sorted({kind for rows in entities for row in rows for kind, *_ in row})
        hits, predicted, actual = (table.sum(axis=0) for table in counted(*entities))
        result: Result = {
            kind: {**_ratios(hits[place], predicted[place], actual[place]), "number": int(actual[place])}
            for place, kind in enumerate(kinds)
        }
        overall = _ratios(hits.sum(), predicted.sum(), actual.sum())
        words = [len(row) for row in references]
        right = sum(a == b for rows in zip(predictions, references, strict=True) for a, b in zip(*rows, strict=True))
        return {
            **result,
            **{f"overall_{name}": value for name, value in overall.items()},
            "overall_accuracy": right / sum(words) if sum(words) else float("nan"),
            "macro_f1": float(np.mean([result[kind]["f1"] for kind in kinds])) if kinds else 0.0,
        }


class Squad(_Module):
    """Exact match and F1 of answers as SQuAD 2.0 counts them, as fractions."""

    summary = (
        "Share of answers that are exactly right, and mean F1 of their words; an empty one says that there is none."
    )
    arguments = "predictions: a text each; references: all right answers to each question, none where there is none."
    references_url = "https://rajpurkar.github.io/SQuAD-explorer/"

    def _columns(self) -> dict[str, Any]:
        text = datasets.Value("string")
        return {"predictions": text, "references": datasets.Sequence(text)}

    def _compute(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Result:
        pairs = list(zip(predictions, references, strict=True))
        return {
            "exact_match": float(np.mean([exact_match(said, true) for said, true in pairs])),
            "f1": float(np.mean([answer_f1(said, true) for said, true in pairs])),
        }


class TokenLosses(_Module):
    """Perplexity, mean loss and accuracy of tokens, from their sums in each text."""

    summary = "The mean loss of a token in nats, its exponential, and the share of tokens that are the likeliest ones."
    arguments = "sums: of the tokens of each text the sum of their losses, how many are right, how many there are."
    references_url = "https://huggingface.co/docs/transformers/perplexity"

    def _columns(self) -> dict[str, Any]:
        return {"sums": datasets.Sequence(datasets.Value("float64"))}

    def _compute(self, sums: Sequence[Sequence[float]]) -> Result:
        loss, right, tokens = np.asarray(sums, dtype=np.float64).reshape(-1, 3).sum(axis=0)
        mean = loss / tokens if tokens else float("nan")
        return {
            "cross_entropy": float(mean),
            "perplexity": float(np.exp(mean)),
            "accuracy": float(right / tokens) if tokens else float("nan"),
        }


class _Texts(_Module):
    """Takes texts that were written, and those that are true."""

    arguments = "predictions and references: a text each."

    def _columns(self) -> dict[str, Any]:
        return {"predictions": datasets.Value("string"), "references": datasets.Value("string")}


class ExactMatch(_Texts):
    """Share of texts that are the true ones but for white space around them."""

    summary = "Share of texts that are exactly the true ones."
    references_url = "https://huggingface.co/spaces/evaluate-metric/exact_match"

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> Result:
        return {"exact_match": float(texts.exact(predictions, references).mean())}


class _Corpus(_Texts):
    """A score of sacrebleu over all texts, in points of 100."""

    references_url = "https://github.com/mjpost/sacrebleu"
    kind: str

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> Result:
        counts, value = texts.corpus(self.kind, predictions, references)
        return {"score": value(counts.sum(axis=0).tolist())}


class Bleu(_Corpus):
    """BLEU, tokenised as WMT's evaluations do (13a)."""

    summary = "Common n-grams of up to four words, over all texts."
    kind = "bleu"


class Chrf(_Corpus):
    """chrF2: F of common n-grams of up to six characters."""

    summary = "Common n-grams of up to six characters, over all texts."
    kind = "chrf"


class Rouge(_Texts):
    """F1 of common n-grams and of the longest common subsequence, means over texts."""

    summary = "Common words, pairs of words, and longest common subsequences."
    references_url = "https://github.com/google-research/google-research/tree/master/rouge"

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> Result:
        kinds = ("rouge1", "rouge2", "rougeL")
        return {kind: float(texts.rouge(kind, predictions, references).mean()) for kind in kinds}


def _ratios(hits: float, predicted: float, actual: float) -> dict[str, float]:
    """0 where there is nothing to divide by."""
    return {
        "precision": float(hits / predicted) if predicted else 0.0,
        "recall": float(hits / actual) if actual else 0.0,
        "f1": float(2 * hits / (predicted + actual)) if predicted + actual else 0.0,
    }


class Accuracy(_Labels):
    """Fraction of items that are right; with "multilabel", of rows that are right in every label."""

    summary = "Fraction of correct predictions."

    def _compute(
        self, predictions: Any, references: Any, normalize: bool = True, sample_weight: Weights = None
    ) -> Result:
        score = sklearn_metrics.accuracy_score(
            references, predictions, normalize=normalize, sample_weight=sample_weight
        )
        return {"accuracy": float(score)}


class F1(_Labels):
    """Harmonic mean of precision and recall."""

    summary = "Harmonic mean of precision and recall."

    def _compute(
        self,
        predictions: Any,
        references: Any,
        labels: Sequence[int] | None = None,
        pos_label: int = 1,
        average: str | None = "binary",
        sample_weight: Weights = None,
    ) -> Result:
        score = sklearn_metrics.f1_score(
            references,
            predictions,
            labels=labels,
            pos_label=pos_label,
            average=average,
            sample_weight=sample_weight,
        )
        return {"f1": _float_if_single(score)}


class Precision(_Labels):
    """Fraction of the items that were given a label that have it."""

    summary = "True positives among everything that was predicted positive."

    def _compute(
        self,
        predictions: Any,
        references: Any,
        labels: Sequence[int] | None = None,
        pos_label: int = 1,
        average: str | None = "binary",
        sample_weight: Weights = None,
        zero_division: str | int = "warn",
    ) -> Result:
        score = sklearn_metrics.precision_score(
            references,
            predictions,
            labels=labels,
            pos_label=pos_label,
            average=average,
            sample_weight=sample_weight,
            zero_division=zero_division,
        )
        return {"precision": _float_if_single(score)}


class Recall(_Labels):
    """Fraction of the items that have a label that were given it."""

    summary = "True positives among everything that is positive."

    def _compute(
        self,
        predictions: Any,
        references: Any,
        labels: Sequence[int] | None = None,
        pos_label: int = 1,
        average: str | None = "binary",
        sample_weight: Weights = None,
        zero_division: str | int = "warn",
    ) -> Result:
        score = sklearn_metrics.recall_score(
            references,
            predictions,
            labels=labels,
            pos_label=pos_label,
            average=average,
            sample_weight=sample_weight,
            zero_division=zero_division,
        )
        return {"recall": _float_if_single(score)}


class MatthewsCorrelation(_Labels):
    """Correlation of predicted and true classes; 0 for chance, whatever the class frequencies."""

    summary = "Matthews correlation coefficient."

    def _compute(
        self, predictions: Any, references: Any, average: str | None = None, sample_weight: Weights = None
    ) -> Result:
        if self.config_name != "multilabel":
            score = sklearn_metrics.matthews_corrcoef(references, predictions, sample_weight=sample_weight)
            return {"matthews_correlation": float(score)}
        if average not in (None, "macro"):
            raise ValueError(f"average must be 'macro' or None, not {average!r}")
        columns = zip(np.asarray(references).T, np.asarray(predictions).T, strict=True)
        scores = [float(sklearn_metrics.matthews_corrcoef(r, p, sample_weight=sample_weight)) for r, p in columns]
        return {"matthews_correlation": float(np.mean(scores)) if average == "macro" else scores}


class RocAuc(_Scores):
    """Area under the receiver operating characteristic."""

    summary = "Area under the receiver operating characteristic."

    def _compute(
        self,
        references: Any,
        prediction_scores: Any,
        average: str | None = "macro",
        sample_weight: Weights = None,
        max_fpr: float | None = None,
        multi_class: str = "raise",
        labels: Sequence[int] | None = None,
    ) -> Result:
        score = sklearn_metrics.roc_auc_score(
            references,
            prediction_scores,
            average=average,
            sample_weight=sample_weight,
            max_fpr=max_fpr,
            multi_class=multi_class,
            labels=labels,
        )
        return {"roc_auc": _float_if_single(score)}


class SensitivityAtSpecificity(_Scores):
    """Highest sensitivity among the thresholds with at least some specificity; of several classes the mean."""

    summary = "Share of the positives that are found while at least some share of the negatives is called negative."

    def _compute(self, references: Any, prediction_scores: Any, specificity: float = 0.95) -> Result:
        true, scores = np.asarray(references), np.asarray(prediction_scores)
        once = np.ones((len(true), 1))
        with np.errstate(divide="ignore", invalid="ignore"):  # a class that is missing makes the mean NaN
            values = [one(once)[0] for one in sensitivities(true, scores, specificity)]
        return {"sensitivity_at_specificity": float(np.mean(values))}


class Mse(_Numbers):
    """Mean squared error, or its root with `squared=False`."""

    summary = "Mean squared error."

    def _compute(
        self,
        predictions: Any,
        references: Any,
        sample_weight: Weights = None,
        multioutput: str | Sequence[float] = "uniform_average",
        squared: bool = True,
    ) -> Result:
        function = sklearn_metrics.mean_squared_error if squared else sklearn_metrics.root_mean_squared_error
        score = function(references, predictions, sample_weight=sample_weight, multioutput=multioutput)
        return {"mse": _float_if_single(score)}


class Mae(_Numbers):
    """Mean absolute error."""

    summary = "Mean absolute error."

    def _compute(
        self,
        predictions: Any,
        references: Any,
        sample_weight: Weights = None,
        multioutput: str | Sequence[float] = "uniform_average",
    ) -> Result:
        score = sklearn_metrics.mean_absolute_error(
            references, predictions, sample_weight=sample_weight, multioutput=multioutput
        )
        return {"mae": _float_if_single(score)}


class RSquared(_Numbers):
    """Coefficient of determination: a bare number, not a dictionary, rounded to three decimals as on the Hub.

    `digits=None`, which the Hub's module does not have, returns all digits.
    """

    summary = "Coefficient of determination."

    def _compute(self, predictions: Any, references: Any, digits: int | None = 3) -> float:
        predicted, true = np.asarray(predictions), np.asarray(references)
        with np.errstate(divide="ignore", invalid="ignore"):
            residual = np.sum((true - predicted) ** 2) / np.sum((true - np.mean(true)) ** 2)
        return float(1 - residual if digits is None else np.round(1 - residual, digits))


class Pearsonr(_Numbers):
    """Linear correlation."""

    summary = "Pearson's correlation coefficient."

    def _compute(self, predictions: Any, references: Any, return_pvalue: bool = False) -> Result:
        value, p_value = _correlation(stats.pearsonr, predictions, references)
        return {"pearsonr": value, "p-value": p_value} if return_pvalue else {"pearsonr": value}


class Spearmanr(_Numbers):
    """Correlation of ranks."""

    summary = "Spearman's rank correlation coefficient."

    def _compute(self, predictions: Any, references: Any, return_pvalue: bool = False) -> Result:
        value, p_value = _correlation(stats.spearmanr, predictions, references)
        return {"spearmanr": value, "spearmanr_pvalue": p_value} if return_pvalue else {"spearmanr": value}


class LogLoss(_Scores):
    """Mean negative log-likelihood in nats; with "multilabel", of the mean label."""

    summary = "Mean negative log-likelihood of the true classes, in nats."

    def _compute(self, references: Any, prediction_scores: Any) -> Result:
        return {"log_loss": float(np.mean(item_losses(np.asarray(references), np.asarray(prediction_scores))))}


class Ece(_Scores):
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3)."""

    summary = "Mean distance between confidence and accuracy over bins of equal width."

    def _compute(self, references: Any, prediction_scores: Any, n_bins: int = 15) -> Result:
        gaps = calibration_gaps(np.asarray(references), np.asarray(prediction_scores), n_bins)
        return {"ece": float(np.abs(gaps.mean(axis=0)).sum())}


MODULES: dict[str, type[_Module]] = {
    "accuracy": Accuracy,
    "seqeval": Seqeval,
    "squad": Squad,
    "ece": Ece,
    "f1": F1,
    "log_loss": LogLoss,
    "mae": Mae,
    "matthews_correlation": MatthewsCorrelation,
    "mse": Mse,
    "pearsonr": Pearsonr,
    "precision": Precision,
    "r_squared": RSquared,
    "recall": Recall,
    "roc_auc": RocAuc,
    "sensitivity_at_specificity": SensitivityAtSpecificity,
    "spearmanr": Spearmanr,
    "token_losses": TokenLosses,
    "chrf": Chrf,
    "exact_match": ExactMatch,
    "rouge": Rouge,
    "sacrebleu": Bleu,
}


def load(name: str, config_name: str | None = None) -> evaluate.EvaluationModule:
    """A metric module by its Hub name; those in `MODULES` need no network, all other ones do.

    What is downloaded is code, and it is run: `evaluate` has no switch against that.

    Args:
        name: A module in `MODULES`, the name of another one on the Hub (`rouge`, `someone/theirs`), or the path of
            a script. A path has a separator in it, so that a folder that happens to lie in the working directory
            and is called like a metric is never run instead of it.
        config_name: Which configuration of the module.

    Returns:
        The module; its `compute` takes predictions and references.

    Raises:
        RecipeError: The module cannot be had.
    """
    if name in MODULES:
        return MODULES[name](config_name)
    if "/" not in name and os.sep not in name and os.path.exists(name):
        raise RecipeError(
            Problem(
                f"metric '{name}' is not built in, and evaluate would run the file or folder of that name here",
                hint=f"If that is meant, write './{name}'; if not, rename it or work in another directory",
            )
        )
    try:
        with _offline_if_asked():
            return evaluate.load(
                name, config_name, keep_in_memory=True, experiment_id=f"{os.getpid()}-{uuid.uuid4().hex}"
            )
    except (OSError, ImportError) as error:  # ConnectionError and FileNotFoundError are OSErrors
        raise RecipeError(_cannot_load(name, error)) from error


@contextmanager
def _offline_if_asked() -> Iterator[None]:
    """Let HF_HUB_OFFLINE count as well: evaluate knows only its own variable and would wait for the network."""
    before = evaluate.config.HF_EVALUATE_OFFLINE
    evaluate.config.HF_EVALUATE_OFFLINE = before or _is_offline()
    try:
        yield
    finally:
        evaluate.config.HF_EVALUATE_OFFLINE = before


def _is_offline() -> bool:
    yes = {"1", "ON", "TRUE", "YES"}
    return any(os.environ.get(name, "").upper() in yes for name in ("HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE"))


def _cannot_load(name: str, error: Exception) -> Problem:
    nearest = suggest(name)
    if isinstance(error, ImportError):
        return Problem(f"metric '{name}' needs packages that are missing: {error}")
    why = "offline mode is on" if _is_offline() else "the Hub was not reached or does not have it"
    return Problem(
        f"metric '{name}' is not built in and cannot be fetched from the Hub: {why}",
        hint=(f"Did you mean '{nearest}'? " if nearest else "")
        + f"Built in are {', '.join(METRICS)}. For any other one, run once with the network on, or save its script "
        "and write the path, such as './metrics/mine.py'",
    )


def _float_if_single(score: Any) -> Any:
    """A Python float where scikit-learn returns one number, its array where it returns one per class."""
    return float(score) if np.ndim(score) == 0 else score


def _correlation(function: Callable[[Any, Any], Any], predictions: Any, references: Any) -> tuple[float, float]:
    if len(references) < 2:
        return float("nan"), float("nan")
    result = function(references, predictions)
    return float(result[0]), float(result[1])
