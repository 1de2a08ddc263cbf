"""The one table of metrics: what each is called on the Hub, which way is up, in which unit, with which interval.

`score` turns what a model said into numbers with intervals. The table itself imports nothing heavy, so recipes are
checked against it before evaluate (seconds) is imported. Any metric of the Hub can be named; those of the table work
without network and have intervals.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from hfstrat.errors import Problem, RecipeError
from hfstrat.metrics import detection
from hfstrat.metrics import intervals as _intervals
from hfstrat.metrics.resampled import statistic

if TYPE_CHECKING:
    import evaluate

CLASSES = frozenset({"single_label", "multi_label"})
REGRESSION = frozenset({"regression"})
ENTITIES = frozenset({"entities"})
WORDS = frozenset({"entities", "tags"})
ANSWERS = frozenset({"spans"})
TOKENS = frozenset({"tokens"})
BOXES = frozenset({"boxes"})

# The area under the curve, and points on it, cost items × classes for each resample. Beyond this many cells they get
# fewer resamples (77 classes of 40 items: 1000; ten times as many items: 105), which makes the interval noisier, not
# wider.
_AUC_CELLS = 250_000_000
_AUC_RESAMPLES_AT_LEAST = 100
# Likewise the precision of boxes: boxes × resamples, about 2 s a metric.
_BOX_CELLS = 50_000_000
_OF_CURVES = frozenset({"roc_auc", "sensitivity_at_specificity"})

# Below, more than half of the negatives would be called positive; above, a thousand of them do not tell it from 1.
_SPECIFICITIES = (0.5, 0.999)


@dataclass(frozen=True)
class Metric:
    """A metric as recipes name it.

    Args:
        name: What the recipe says.
        module: The evaluate module that computes it.
        key: Where the module's result has the value.
        higher_is_better: Which way is up.
        unit: Unit of the value.
        needs: Whether it is computed from decisions, from probabilities, or from texts that the model writes.
        problems: Where it is defined: some of "single_label", "multi_label", "regression", "entities", "tags", "spans",
            "tokens" and "boxes".
        options: Keyword arguments of the module's `compute`.
        interval: How its interval is computed; None for a metric that is not in the table.
        package: What has to be installed for it; None where everything is.
    """

    name: str
    module: str
    key: str
    higher_is_better: bool = True
    unit: str = "fraction"
    needs: Literal["predictions", "scores", "texts"] = "predictions"
    problems: frozenset[str] = CLASSES
    options: Mapping[str, object] = field(default_factory=dict)
    interval: Literal["wilson", "bootstrap"] | None = "bootstrap"
    package: str | None = None


def _averages(module: str, **options: object) -> Iterator[Metric]:
    """A metric of one class, of which there are as many as classes, with its ways to average."""
    binary = {"average": "binary", **options}
    yield Metric(module, module, module, problems=frozenset({"single_label"}), options=binary)
    for average in ("macro", "micro", "weighted"):
        yield Metric(f"{module}_{average}", module, module, options={"average": average, **options})


def _error(name: str, module: str, unit: str, **options: object) -> Metric:
    return Metric(name, module, module, higher_is_better=False, unit=unit, problems=REGRESSION, options=options)


def _at_specificity(specificity: str) -> Metric:
    """Sensitivity at a specificity, which is part of the name as it was written: 0.9 and 0.90 are two names."""
    module = "sensitivity_at_specificity"
    options = {"specificity": float(specificity)}
    return Metric(f"{module}_{specificity}", module, module, needs="scores", options=options)


def _written(name: str, module: str, key: str, unit: str, package: str | None = None) -> Metric:
    return Metric(name, module, key, unit=unit, needs="texts", problems=TOKENS, package=package)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", "accuracy", interval="wilson"),  # of several labels: all of a row right
        *_averages("f1"),
        *_averages("precision", zero_division=0),
        *_averages("recall", zero_division=0),
        Metric(
            "matthews_correlation",
            "matthews_correlation",
            "matthews_correlation",
            unit="correlation",
            problems=frozenset({"single_label"}),
        ),
        Metric("roc_auc", "roc_auc", "roc_auc", needs="scores"),
        *map(_at_specificity, ("0.95", "0.9")),
        Metric("log_loss", "log_loss", "log_loss", higher_is_better=False, unit="nats", needs="scores"),
        Metric("ece", "ece", "ece", higher_is_better=False, needs="scores"),
        _error("mse", "mse", "label units squared"),
        _error("rmse", "mse", "label units", squared=False),
        _error("mae", "mae", "label units"),
        # The Hub's module rounds to three decimals; ours can be asked not to.
        Metric("r_squared", "r_squared", "r_squared", problems=REGRESSION, options={"digits": None}),
        Metric("pearsonr", "pearsonr", "pearsonr", unit="correlation", problems=REGRESSION),
        Metric("spearmanr", "spearmanr", "spearmanr", unit="correlation", problems=REGRESSION),
        *(
            Metric(f"entity_{what}", "seqeval", f"overall_{what}", problems=ENTITIES, options={"average": "micro"})
            for what in ("f1", "precision", "recall")
        ),
        Metric("entity_f1_macro", "seqeval", "macro_f1", problems=ENTITIES, options={"average": "macro"}),
        Metric("token_accuracy", "seqeval", "overall_accuracy", problems=WORDS),
        Metric("perplexity", "token_losses", "perplexity", higher_is_better=False, unit="tokens", problems=TOKENS),
        Metric("cross_entropy", "token_losses", "cross_entropy", higher_is_better=False, unit="nats", problems=TOKENS),
        Metric("exact_match", "squad", "exact_match", problems=ANSWERS),
        Metric("answer_f1", "squad", "f1", problems=ANSWERS),
        *(Metric(name, "detection", name, problems=BOXES) for name in detection.NAMES),
        Metric("tag_f1_macro", "f1", "f1", problems=frozenset({"tags"}), options={"average": "macro"}),
        _written("chrf", "chrf", "score", "points", "sacrebleu"),
        _written("bleu", "sacrebleu", "score", "points", "sacrebleu"),
        *(_written(kind, "rouge", kind, "fraction", "rouge_score") for kind in ("rouge1", "rouge2", "rougeL")),
    )
}
OF_TOKENS = {
    metric.name: metric
    for metric in (
        Metric("token_accuracy", "token_losses", "accuracy", problems=TOKENS),
        _written("exact_match", "exact_match", "exact_match", "fraction"),
    )
}
"""Where a name of the table means something else of text that is written."""


@dataclass(frozen=True)
class Outputs:
    """What a model said about a split, and what is true.

    Args:
        references: Class indices int64 `(n,)`; 0/1 `(n, labels)`; numbers `(n,)` or `(n, outputs)`; the tags of the
            words of each text; all answers to each question; the true boxes of each image, `(boxes, 7)`; or anything,
            where predictions say it all.
        predictions: As `references`; one answer to each question, empty for none; of the tokens of each text the sum
            of their losses in nats, how many are right, and how many there are, float64 `(n, 3)`; of each image the
            boxes that were found, `(boxes, 6)`.
        scores: Probabilities float64 `(n, classes)` or `(n, labels)`; None for a regression.
        num_labels: How many classes, labels or outputs there are.
        texts: What the model wrote and what is true, where it was asked to write.
    """

    references: Any
    predictions: Any
    scores: npt.NDArray[np.floating[Any]] | None
    num_labels: int
    texts: tuple[Sequence[str], Sequence[str]] | None = None

    @cached_property
    def matches(self) -> detection.Matches:
        """Of boxes which are right, matched once for all metrics."""
        found = [detection.Found(rows[:, 2:6], rows[:, 0], rows[:, 1]) for rows in self.predictions]
        truth = [detection.Truth(rows[:, 1:5], rows[:, 0], rows[:, 5], rows[:, 6]) for rows in self.references]
        return detection.match(found, truth, self.num_labels)


@dataclass(frozen=True)
class Score:
    """A metric on one split.

    Args:
        value: None where the metric is undefined, such as an area under the curve of one class only.
        low: Lower end of the 95 % interval; None where there is none.
        high: Upper end.
        interval: How the interval was computed: "wilson", "bootstrap" or None.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    interval: str | None = None

    def to_json(self) -> dict[str, float | str | None]:
        """The score as it stands in `metrics.json`."""
        return asdict(self)


def suggest(name: str) -> str | None:
    """The metric of the table whose name is nearest to a misspelt one, if any is near."""
    near = difflib.get_close_matches(name, METRICS, n=1)
    return near[0] if near else None


def built_in(name: str) -> Metric | None:
    """The metric of that name that needs no network: of the table, or sensitivity at any specificity.

    Args:
        name: What the recipe says; `sensitivity_at_specificity_` is followed by a number of up to three decimals.

    Returns:
        The metric; None where the name is left to the Hub.

    Raises:
        RecipeError: The name asks for sensitivity, but not at a specificity from 0.5 to 0.999.
    """
    if name in METRICS or not name.startswith("sensitivity_at_specificity"):
        return METRICS.get(name)
    found = re.fullmatch(r"sensitivity_at_specificity_(0\.[0-9]{1,3})", name)
    least, most = _SPECIFICITIES
    if found is None or not least <= float(found[1]) <= most:
        raise RecipeError(
            Problem(
                f"metric '{name}' has to end in a specificity from {least} to {most}, with up to three decimals",
                hint="Write 'sensitivity_at_specificity_0.95', for one",
            )
        )
    return _at_specificity(found[1])


def lookup(name: str, problem: str) -> Metric:
    """The metric that a recipe names.

    Args:
        name: A metric that is built in; any other name is that of a module on the Hub, of which nothing is known
            before it is loaded: higher is taken to be better, and it has no interval.
        problem: One of those of `Metric.problems`.

    Raises:
        RecipeError: The metric is built in, but not defined for this problem, or its name is wrong.
    """
    metric = OF_TOKENS.get(name) if problem in TOKENS else None
    metric = metric or built_in(name)
    if metric is None:
        everywhere = CLASSES | REGRESSION | WORDS | ANSWERS | TOKENS
        needs: Literal["predictions", "texts"] = "texts" if problem in TOKENS else "predictions"
        return Metric(name, name, _last_part(name), unit="", needs=needs, problems=everywhere, interval=None)
    if problem not in metric.problems:
        table = [*METRICS.values(), *OF_TOKENS.values()]
        usable = [other.name for other in table if problem in other.problems]
        raise RecipeError(
            Problem(f"metric '{name}' is not defined for a {problem} problem", hint=f"Use one of: {', '.join(usable)}")
        )
    return metric


def of_texts(names: Iterable[str], problem: str) -> bool:
    """Whether any of some metrics is of texts that a model writes."""
    if problem not in TOKENS:
        return False
    table = {**METRICS, **OF_TOKENS}
    return any(name not in table or table[name].needs == "texts" for name in names)


def score(
    metrics: Sequence[str],
    problem: str,
    outputs: Outputs,
    *,
    seed: int = 0,
    intervals: bool = True,
    resamples: int = 1000,
) -> dict[str, Score]:
    """Compute metrics with 95 % intervals.

    Values come from evaluate modules, intervals from Wilson's formula or from a percentile bootstrap over items that
    draws the same resamples for every metric.

    Args:
        metrics: Names, see `lookup`.
        problem: One of those of `Metric.problems`.
        outputs: What the model said about a split.
        seed: Of the bootstrap.
        intervals: False leaves the intervals out, as while a run trains.
        resamples: Of the bootstrap; the area under the curve, and sensitivity at a specificity, get fewer where
            items × classes is large.

    Returns:
        A score for each name.

    Raises:
        RecipeError: A metric is not defined for this problem, or cannot be loaded.
    """
    found = [lookup(name, problem) for name in metrics]
    problems = [trouble for metric in found if (trouble := _unusable(metric, problem, outputs))]
    if problems:
        raise RecipeError(problems)
    return {metric.name: _score(metric, problem, outputs, seed, resamples if intervals else 0) for metric in found}


def _unusable(metric: Metric, problem: str, outputs: Outputs) -> Problem | None:
    if metric.needs == "scores" and outputs.scores is None:
        return Problem(f"metric '{metric.name}' needs the probability of each class, and there are only decisions")
    if metric.needs == "texts" and outputs.texts is None:
        hint = "Name columns for prompt and completion, or messages"
        return Problem(f"metric '{metric.name}' is of answers, and plain text has none", hint=hint)
    if metric.package is not None and find_spec(metric.package) is None:
        what = f"metric '{metric.name}' needs the package {metric.package.replace('_', '-')}"
        return Problem(what, hint="pip install 'hfstrat[text]'")
    if metric.options.get("average") == "binary" and outputs.num_labels != 2:
        return Problem(
            f"metric '{metric.name}' is that of class 1 of two classes, and there are {outputs.num_labels} classes",
            hint=f"Use {metric.name}_macro, {metric.name}_micro or {metric.name}_weighted",
        )
    return None


def _score(metric: Metric, problem: str, outputs: Outputs, seed: int, resamples: int) -> Score:
    n = len(outputs.references)
    if n == 0:
        return Score(None)
    value = _value(metric, problem, outputs)
    if not np.isfinite(value):
        return Score(None)
    bounds = None
    if metric.interval == "wilson" and resamples:
        bounds = _intervals.wilson(round(value * n), n)
    elif metric.interval == "bootstrap" and resamples:
        of_weights = statistic(metric, problem, outputs)
        drawn = _resamples(metric, outputs, resamples)
        bounds = _intervals.percentile(_intervals.bootstrap(of_weights, n, drawn, seed), value)
    return Score(value) if bounds is None else Score(value, *bounds, metric.interval)


def _resamples(metric: Metric, outputs: Outputs, resamples: int) -> int:
    if metric.problems == BOXES:
        affordable = _BOX_CELLS // max(1, len(outputs.matches.image))
        return min(resamples, max(_AUC_RESAMPLES_AT_LEAST, affordable))
    if metric.module not in _OF_CURVES or outputs.num_labels == 2:
        return resamples
    affordable = _AUC_CELLS // (len(outputs.references) * outputs.num_labels)
    return min(resamples, max(_AUC_RESAMPLES_AT_LEAST, affordable))


def _value(metric: Metric, problem: str, outputs: Outputs) -> float:
    """The value by the metric's evaluate module; not finite where it is undefined."""
    from hfstrat.metrics import modules

    if metric.problems == BOXES:  # no module of the Hub takes boxes without pycocotools
        return float(statistic(metric, problem, outputs)(np.ones((len(outputs.references), 1)))[0])
    if metric.interval is None:
        return _external_value(metric, modules.load(metric.module), outputs)
    with warnings.catch_warnings():  # that a metric is undefined is said by the value
        warnings.simplefilter("ignore")
        if problem == "regression":
            return _regression_value(metric, modules.load(metric.module), outputs)
        if problem in ANSWERS:
            result = modules.load(metric.module).compute(predictions=outputs.predictions, references=outputs.references)
            return float(result[metric.key])
        if metric.needs == "texts":
            said, true = outputs.texts or ((), ())
            result = modules.load(metric.module).compute(predictions=list(said), references=list(true))
            return float(result[metric.key])
        if problem in TOKENS:
            return float(modules.load(metric.module).compute(sums=outputs.predictions)[metric.key])
        if problem in WORDS:
            return _value_of_tags(metric, modules.load(metric.module), outputs)
        if metric.needs == "scores":
            return _value_of_scores(metric, problem, outputs)
        module = modules.load(metric.module, "multilabel" if problem == "multi_label" else None)
        result = module.compute(predictions=outputs.predictions, references=outputs.references, **metric.options)
        return float(result[metric.key])


def _value_of_scores(metric: Metric, problem: str, outputs: Outputs) -> float:
    from hfstrat.metrics import modules

    config, scores, options = "multiclass", outputs.scores, dict(metric.options)
    assert scores is not None
    if problem == "multi_label":
        config = "multilabel"
    elif metric.module in _OF_CURVES and outputs.num_labels == 2:
        config, scores = "default", scores[:, 1]
    elif metric.module == "roc_auc":
        options |= {"multi_class": "ovr", "labels": list(range(outputs.num_labels))}
    module = modules.load(metric.module, config)
    return float(module.compute(prediction_scores=scores, references=outputs.references, **options)[metric.key])


def _value_of_tags(metric: Metric, module: evaluate.EvaluationModule, outputs: Outputs) -> float:
    if metric.module == "seqeval":
        result = module.compute(predictions=outputs.predictions, references=outputs.references)
        return float(result[metric.key])
    flat = [[tag for row in rows for tag in row] for rows in (outputs.predictions, outputs.references)]
    place = {tag: number for number, tag in enumerate(sorted({*flat[0], *flat[1]}))}
    predictions, references = ([place[tag] for tag in tags] for tags in flat)
    return float(module.compute(predictions=predictions, references=references, **metric.options)[metric.key])


def by_type(outputs: Outputs) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and number of the entities of each type."""
    from hfstrat.metrics import modules

    result = modules.load("seqeval").compute(predictions=outputs.predictions, references=outputs.references)
    return {kind: value for kind, value in result.items() if isinstance(value, dict)}


def by_class(outputs: Outputs, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Average precision of each class, and how many true boxes there are of it; None where there is none."""
    found, whole = detection.detection_score(outputs.matches), outputs.matches
    numbers = [
        int(whole.wanted[0, start:end].sum())
        for start, end in zip(whole.true_starts[:-1], whole.true_starts[1:], strict=True)
    ]
    rows = zip(names, found.of_class, found.of_class_50, numbers, strict=True)
    return {
        name: {"map": float(one) if number else None, "map50": float(half) if number else None, "number": number}
        for name, one, half, number in rows
    }


def _regression_value(metric: Metric, module: evaluate.EvaluationModule, outputs: Outputs) -> float:
    """Mean over the outputs: most modules take one column."""
    true, predicted = (x.reshape(len(x), -1).T for x in (outputs.references, outputs.predictions))
    results = [
        module.compute(predictions=p, references=t, **metric.options) for t, p in zip(true, predicted, strict=True)
    ]
    values = [result[metric.key] if isinstance(result, dict) else result for result in results]
    return float(np.mean(values))


def _external_value(metric: Metric, module: evaluate.EvaluationModule, outputs: Outputs) -> float:
    said, true = outputs.texts or (outputs.predictions, outputs.references)
    result = module.compute(predictions=said, references=true, **metric.options)
    if not isinstance(result, Mapping):
        return float(result)
    if metric.key in result:
        return float(result[metric.key])
    if len(result) == 1:
        return float(next(iter(result.values())))
    raise RecipeError(
        Problem(
            f"metric '{metric.name}' returns several values and none of them is called '{metric.key}': "
            + ", ".join(map(str, result))
        )
    )


def _last_part(name: str) -> str:
    """`someone/theirs` and `./metrics/theirs.py` are both called `theirs`."""
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].removesuffix(".py")
