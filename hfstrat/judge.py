"""Judge: how a task's outputs are turned into decisions, scores and files. Strategies and floors share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hfstrat import metrics as table
from hfstrat.runs.directory import write_json
from hfstrat.tasks import Task
from hfstrat.tasks.base import Decoded, FloatArray, Labels
from hfstrat.tasks.text_classification import choose_threshold

# Compared from left to right, higher is better: the selecting metric, then the negative loss to break ties.
Score = tuple[float, float]


@dataclass(frozen=True)
class Judge:
    """Decides and measures.

    Args:
        task: What is learned.
        labels: Its classes or outputs.
        metrics: Names of metrics to report.
        select_by: The metric that compares states.
    """

    task: Task
    labels: Labels
    metrics: tuple[str, ...]
    select_by: str

    def decode(self, logits: FloatArray, threshold: float = 0.5) -> Decoded:
        """Probabilities and decisions from logits `(n, classes)`."""
        return self.task.decode(logits, self.labels.problem, threshold)

    def threshold(self, logits: FloatArray, targets: Any) -> float:
        """The threshold for several labels that is best on these; 0.5 for any other problem."""
        if self.labels.problem != "multi_label":
            return 0.5
        return choose_threshold(self.decode(logits).scores, np.asarray(targets))

    def measure(
        self, decoded: Decoded, targets: Any, names: Sequence[str] | None = None, *, intervals: bool
    ) -> dict[str, table.Score]:
        """Metrics of decisions against targets, with intervals if asked for."""
        single = self.labels.problem == "regression" and np.asarray(targets).shape[1] == 1
        references, predictions = (
            (np.asarray(targets)[:, 0], np.asarray(decoded.predictions)[:, 0])
            if single
            else (np.asarray(targets), np.asarray(decoded.predictions))
        )
        outputs = table.Outputs(
            references=references,
            predictions=predictions,
            scores=None if self.labels.problem == "regression" else decoded.scores,
            num_labels=len(self.labels.names),
        )
        return table.score(names or self.metrics, self.labels.problem, outputs, seed=0, intervals=intervals)

    def loss(self, logits: FloatArray, targets: Any) -> float:
        """Mean loss over some items, class weights included."""
        import torch

        answers, wide = torch.from_numpy(np.asarray(targets)), torch.from_numpy(logits).double()
        weights = self.task.weights(self.labels)
        shares = None if weights is None else torch.from_numpy(weights)
        total = self.task.loss(wide, answers, self.labels.problem, weights=shares)
        return float(total / self.task.weight(answers, self.labels.problem, weights=shares))

    def score(self, logits: FloatArray, targets: Any) -> Score:
        """What states are compared by, each at its own best threshold."""
        decoded = self.decode(logits, self.threshold(logits, targets))
        value = self.measure(decoded, targets, [self.select_by], intervals=False)[self.select_by].value
        up = table.lookup(self.select_by, self.labels.problem).higher_is_better
        signed = float("-inf") if value is None else value if up else -value
        return signed, -self.loss(logits, targets)

    def metrics_json(self, split: str, n: int, measured: dict[str, table.Score]) -> dict[str, Any]:
        """`metrics.json`: each metric with its interval, unit and direction."""
        found = {}
        for name, score in measured.items():
            metric = table.lookup(name, self.labels.problem)
            found[name] = {**score.to_json(), "unit": metric.unit, "higher_is_better": metric.higher_is_better}
        return {"split": split, "n": n, "metrics": found}

    def write(self, folder: Path, split: str, ids: Sequence[str], targets: Any, decoded: Decoded) -> dict[str, Any]:
        """Measure, and write `metrics.json` and `predictions.parquet`.

        Returns:
            What `metrics.json` holds.
        """
        result = self.metrics_json(split, len(ids), self.measure(decoded, targets, intervals=True))
        write_predictions(folder / "predictions.parquet", ids, targets, decoded, self.labels.names)
        write_json(folder / "metrics.json", result)
        return result


def write_predictions(path: Path, ids: Sequence[str], targets: Any, decoded: Decoded, names: Sequence[str]) -> None:
    """`predictions.parquet`: id, reference, prediction, scores, logits."""
    import pyarrow
    from pyarrow import parquet

    columns = {
        "id": list(ids),
        "reference": None if targets is None else named(np.asarray(targets), names),
        "prediction": named(decoded.predictions, names),
        "scores": list(decoded.scores),
        "logits": list(decoded.logits),
    }
    parquet.write_table(pyarrow.table({name: value for name, value in columns.items() if value is not None}), path)


def named(values: Any, names: Sequence[str]) -> list[Any]:
    """Class indices as names, 0/1 rows as lists of names, numbers as they are."""
    if values.ndim == 1:
        return [names[int(value)] for value in values]
    if values.dtype.kind == "i":
        return [[names[int(place)] for place in np.flatnonzero(row)] for row in values]
    return [float(row[0]) for row in values] if values.shape[1] == 1 else [row.tolist() for row in values]
