"""Judge: how a task's outputs are turned into decisions, scores and files. Strategies and floors share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfstrat import metrics as table
from hfstrat.runs.directory import write_json
from hfstrat.tasks import TaskSpec
from hfstrat.tasks.base import Decoded, Examples, FloatArray, Labels

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

    task: TaskSpec
    labels: Labels
    metrics: tuple[str, ...]
    select_by: str

    @property
    def writes(self) -> bool:
        """Whether a metric is of texts that the model writes."""
        return table.of_texts((*self.metrics, self.select_by), self.labels.problem)

    def decode(self, logits: FloatArray, threshold: float = 0.5) -> Decoded:
        """Probabilities and decisions from logits, as the task has collected them."""
        return self.task.decode(logits, self.labels, threshold)

    def threshold(self, logits: FloatArray, examples: Examples) -> float:
        """The threshold of decisions that is best on these examples; 0.5 where the problem has none."""
        return self.task.threshold(logits, examples, self.labels.problem)

    def measure(
        self, decoded: Decoded, examples: Examples, names: Sequence[str] | None = None, *, intervals: bool
    ) -> dict[str, table.Score]:
        """Metrics of decisions against targets, with intervals if asked for."""
        outputs = self.outputs(decoded, examples)
        return table.score(names or self.metrics, self.labels.problem, outputs, seed=0, intervals=intervals)

    def outputs(self, decoded: Decoded, examples: Examples) -> table.Outputs:
        """Decisions and targets as metrics take them."""
        return table.Outputs(
            references=self.task.true_values(examples, self.labels),
            predictions=self.task.measured(decoded.predictions, examples, self.labels),
            scores=decoded.scores if self.labels.problem in table.CLASSES else None,
            num_labels=len(self.labels.names),
            texts=None if decoded.texts is None else (decoded.texts, self.task.answers(examples)),
        )

    def loss(self, logits: FloatArray, examples: Examples) -> float:
        """Mean loss over some units, class weights included; those that the model did not see are left out."""
        return self.task.mean_loss(logits, examples, self.labels)

    def score(self, logits: FloatArray, examples: Examples) -> Score:
        """What states are compared by, each at its own best threshold."""
        decoded = self.decode(logits, self.threshold(logits, examples))
        value = self.measure(decoded, examples, [self.select_by], intervals=False)[self.select_by].value
        up = table.lookup(self.select_by, self.labels.problem).higher_is_better
        signed = float("-inf") if value is None else value if up else -value
        return signed, -self.loss(logits, examples)

    def metrics_json(self, split: str, n: int, measured: dict[str, table.Score]) -> dict[str, Any]:
        """`metrics.json`: each metric with its interval, unit and direction."""
        found = {}
        for name, score in measured.items():
            metric = table.lookup(name, self.labels.problem)
            found[name] = {**score.to_json(), "unit": metric.unit, "higher_is_better": metric.higher_is_better}
        return {"split": split, "n": n, "metrics": found}

    def write(self, folder: Path, split: str, examples: Examples, decoded: Decoded) -> dict[str, Any]:
        """Measure, and write `metrics.json` and `predictions.parquet`.

        Returns:
            What `metrics.json` holds.
        """
        result = self.metrics_json(split, len(examples), self.measure(decoded, examples, intervals=True))
        if self.labels.problem in table.ENTITIES:
            result["by_type"] = table.by_type(self.outputs(decoded, examples))
        if self.labels.problem in table.BOXES:
            result["by_class"] = table.by_class(self.outputs(decoded, examples), self.labels.names)
        self._write_predictions(folder / "predictions.parquet", examples, decoded)
        write_json(folder / "metrics.json", result)
        return result

    def _write_predictions(self, path: Path, examples: Examples, decoded: Decoded) -> None:
        """`predictions.parquet`: id, reference, prediction, and what the task has to say besides."""
        import pyarrow
        from pyarrow import parquet

        columns: dict[str, list[Any]] = {"id": list(examples.ids)}
        if examples.targets is not None:
            columns["reference"] = self.task.true_names(examples, self.labels)
        columns["prediction"] = self.task.named(decoded.predictions, examples, self.labels)
        parquet.write_table(pyarrow.table({**columns, **self.task.table(decoded, examples, self.labels)}), path)
