"""Classification: what texts, pictures and sounds share that get one label, several labels, or numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import field_validator

from hfstrat.errors import DataError, did_you_mean
from hfstrat.errors import Problem as Trouble
from hfstrat.tasks.base import Decoded, Examples, FloatArray, IntArray, Labels, Problem
from hfstrat.tasks.task import ClassesSpec, Columns, distinct, softmax

if TYPE_CHECKING:
    from datasets import Dataset


class Classification(ClassesSpec):
    """Give examples a class, several classes, or a number."""

    problem: Literal["single_label", "multi_label", "regression", "auto"] = "auto"
    """single_label, multi_label or regression; auto: from the label column's values."""
    labels: tuple[str, ...] | None = None
    """Names of the classes in the order of the logits; left out: the classes of the training split, sorted."""
    label_separator: str | None = None
    """What separates the labels in one cell (`sports|politics`); makes the task multi-label."""
    calibrate: bool = False
    """Choose a temperature on validation and divide the output layer by it (Guo et al. 2017, arXiv:1706.04599)."""

    _distinct = field_validator("labels")(distinct)

    one_output: ClassVar[bool] = True

    # --- data -----------------------------------------------------------------------------------------------

    def strata(self, columns: Columns) -> str | tuple[str, ...] | None:
        """The label."""
        return columns["label"]

    def find_problem(self, train: Dataset, columns: Mapping[str, Any]) -> tuple[Problem, str]:
        """Which problem the label column poses, and why.

        Raises:
            DataError: Several label columns are to be one label.
        """
        column = columns["label"]
        if isinstance(column, tuple) and self.problem == "single_label":
            hint = "Name one column, or set task.problem: multi_label"
            raise DataError(
                Trouble(f"{len(column)} label columns are not a single label", "data.columns.label", hint=hint)
            )
        if self.problem != "auto":
            return self.problem, "given"
        if isinstance(column, tuple):
            return "multi_label", f"{len(column)} label columns"
        if self.label_separator:
            return "multi_label", "labels are separated in one cell"
        feature = train.features[column]
        if hasattr(feature, "names"):
            return "single_label", "a column of class labels"
        values = [value for value in train[column][:1000] if value is not None]
        if any(isinstance(value, (list, tuple)) for value in values):
            return "multi_label", "the label column holds lists"
        if any(isinstance(value, float) and not value.is_integer() for value in values):
            return "regression", "the label column holds numbers with fractions"
        if sum(_is_fraction(value) for value in values) > len(values) / 2:
            # A word among them makes them text; as classes nearly each row would be one of its own.
            return "regression", "most labels are numbers with fractions"
        return "single_label", "each row has one label"

    def find_labels(self, train: Dataset, columns: Mapping[str, Any], problem: Problem) -> Labels:
        """Names and counts of the classes in the training split.

        Raises:
            DataError: `labels` leaves out a class that the training split has.
        """
        column = columns["label"]
        if problem == "regression":
            return Labels(problem, (column,) if isinstance(column, str) else tuple(column))
        cells = self._cells(train, column)
        counts: dict[str, int] = {}
        for cell in cells:
            for name in cell:
                counts[name] = counts.get(name, 0) + 1
        if isinstance(column, tuple):
            names: tuple[str, ...] = column
        elif hasattr(train.features[column], "names"):
            names = tuple(train.features[column].names)
        else:
            names = tuple(sorted(counts, key=_label_order))
        if self.labels is not None:
            lost = [name for name in names if name not in self.labels and counts.get(name)]
            if lost:
                raise DataError(
                    Trouble(
                        f"the training split has labels that `task.labels` leaves out: {', '.join(lost[:10])}",
                        "task.labels",
                        hint="Add them, or remove `task.labels`",
                    )
                )
            names = self.labels
        return Labels(problem, names, tuple(counts.get(name, 0) for name in names))

    def _cells(self, split: Dataset, column: str | tuple[str, ...]) -> list[tuple[str, ...]]:
        """Label names of each row, none for a missing label."""
        if isinstance(column, tuple):
            values = {name: split[name][:] for name in column}
            return [tuple(name for name in column if values[name][row]) for row in range(len(split))]
        feature = split.features[column]
        if hasattr(feature, "int2str"):
            return [() if value is None else (feature.int2str(value),) for value in split[column][:]]
        cells: list[tuple[str, ...]] = []
        for value in split[column][:]:
            if value is None:
                cells.append(())
            elif isinstance(value, (list, tuple)):
                cells.append(tuple(str(item) for item in value))
            elif self.label_separator:
                parts = (part.strip() for part in str(value).split(self.label_separator))
                cells.append(tuple(part for part in parts if part))
            else:
                cells.append((_label_name(value),))
        return cells

    def targets_of(self, split: Dataset, name: str, column: Any, labels: Labels) -> IntArray | FloatArray:
        """What is true of each row, as in `Examples`.

        Raises:
            DataError: A label is not known.
        """
        if labels.problem == "regression":
            names = (column,) if isinstance(column, str) else column
            return np.stack([np.asarray(split[part][:], dtype=np.float64) for part in names], axis=1)
        index = {label: place for place, label in enumerate(labels.names)}
        cells = self._cells(split, column)
        unknown = sorted({label for cell in cells for label in cell if label not in index})
        if unknown:
            shown = ", ".join(f"'{label}'" for label in unknown[:5])
            raise DataError(
                Trouble(
                    f"split {name} has {len(unknown)} label(s) that the training split does not have: {shown}",
                    "data",
                    hint=f"{did_you_mean(unknown[0], labels.names, show_all=0)} Correct them, or add such rows to "
                    "the training split".strip(),
                )
            )
        if labels.problem == "single_label":
            return np.array([index[cell[0]] for cell in cells], dtype=np.int64)
        hot = np.zeros((len(cells), len(labels.names)), dtype=np.int64)
        for row, cell in enumerate(cells):
            hot[row, [index[label] for label in cell]] = 1
        return hot

    # --- decisions ------------------------------------------------------------------------------------------

    @property
    def calibrates(self) -> bool:
        """As `calibrate` says."""
        return self.calibrate

    def thresholded(self, problem: Problem) -> bool:
        """Several labels are each given from a probability on."""
        return problem == "multi_label"

    def threshold(self, logits: FloatArray, examples: Examples, problem: Problem) -> float:
        """The probability from which a label is given, for several labels."""
        if problem != "multi_label":
            return self.default_threshold
        return choose_threshold(_sigmoid(logits.astype(np.float64)), np.asarray(examples.targets))

    def decode(self, logits: FloatArray, labels: Labels, threshold: float = 0.5) -> Decoded:
        """Softmax, sigmoid, or the numbers themselves; the threshold is a probability."""
        wide = logits.astype(np.float64)
        if labels.problem == "regression":
            return Decoded(logits, wide, wide)
        if labels.problem == "multi_label":
            scores = _sigmoid(wide)
            return Decoded(logits, scores, (scores >= threshold).astype(np.int64))
        return Decoded(logits, softmax(logits), wide.argmax(axis=1))

    def default_metrics(self, problem: Problem) -> tuple[str, ...]:
        """Accuracy, F1 of several labels, or the root of the squared error."""
        return {
            "multi_label": ("f1_micro", "f1_macro", "accuracy", "log_loss"),
            "regression": ("rmse", "mae", "r_squared", "spearmanr"),
        }.get(problem, ("accuracy", "f1_macro", "log_loss", "ece"))

    def measured(self, values: Any, examples: Examples, labels: Labels) -> Any:
        """As they are; one number of each example without its second axis."""
        single = labels.problem == "regression" and len(labels.names) == 1
        return np.asarray(values)[:, 0] if single else np.asarray(values)

    def named(self, values: Any, examples: Examples, labels: Labels) -> list[Any]:
        """Class indices as names, 0/1 rows as lists of names, numbers as they are."""
        values, names = np.asarray(values), labels.names
        if values.ndim == 1:
            return [names[int(value)] for value in values]
        if values.dtype.kind == "i":
            return [[names[int(place)] for place in np.flatnonzero(row)] for row in values]
        return [float(row[0]) for row in values] if values.shape[1] == 1 else [row.tolist() for row in values]

    def table(self, decoded: Decoded, examples: Examples, labels: Labels) -> dict[str, list[Any]]:
        """Scores and logits."""
        return {"scores": list(decoded.scores), "logits": list(decoded.logits)}

    def records(self, decoded: Decoded, examples: Examples, labels: Labels) -> list[dict[str, Any]]:
        """`{"prediction": …, "scores": {label: probability}}` each; for numbers the prediction alone."""
        predictions = self.named(decoded.predictions, examples, labels)
        if labels.problem == "regression":
            return [{"prediction": prediction} for prediction in predictions]
        scores = [dict(zip(labels.names, map(float, row), strict=True)) for row in decoded.scores]
        return [{"prediction": one, "scores": row} for one, row in zip(predictions, scores, strict=True)]


def choose_threshold(scores: FloatArray, targets: IntArray) -> float:
    """The probability threshold with the best micro-averaged F1; the middle of the best ones when they tie.

    Args:
        scores: Probabilities `(n, classes)`.
        targets: 0/1 `(n, classes)`.
    """
    order = np.argsort(-scores, axis=None, kind="stable")
    ranked, hits = scores.ravel()[order], np.cumsum(targets.ravel()[order])
    given = np.arange(1, len(ranked) + 1)
    f1 = 2 * hits / (given + targets.sum())
    last = np.append(ranked[:-1] != ranked[1:], True)  # a threshold cannot part equal scores
    best = int(np.argmax(np.where(last, f1, -1.0)))
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


def _sigmoid(logits: FloatArray) -> FloatArray:
    found: FloatArray = 1.0 / (1.0 + np.exp(-logits))
    return found


def _label_name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _is_fraction(value: Any) -> bool:
    try:
        number = float(value) if isinstance(value, str) else 0.0
    except ValueError:
        return False
    return math.isfinite(number) and not number.is_integer()


def _label_order(name: str) -> tuple[int, float, str]:
    """Numbers by value, then words."""
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)
