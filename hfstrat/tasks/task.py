"""What every task is: its fields, and how it reads data, encodes, decides and measures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from hfstrat.errors import DataError, did_you_mean
from hfstrat.errors import Problem as Trouble
from hfstrat.spec import Spec
from hfstrat.tasks.base import Decoded, Encoded, Examples, FloatArray, Labels, Problem

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Columns = Mapping[str, str | tuple[str, ...]]


class TaskSpec(Spec):
    """The base of all tasks, and what those share that give classes or numbers to units: examples, or words."""

    kind: str

    auto_class: ClassVar[str]
    peft_task_type: ClassVar[str | None]
    pipeline_tag: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]
    texts: ClassVar[tuple[str, ...]]
    """Roles by which rows are the same or not."""
    one_output: ClassVar[bool] = False
    """Whether the model has one output for each text, and not one for each token."""
    of_vocabulary: ClassVar[bool] = False
    """Whether the outputs are tokens, so that the base's own output layer is the one to use."""
    floors: ClassVar[tuple[str, ...]]
    """What can be reached without a neural network, by its name in a comparison."""
    solvable: ClassVar[bool] = True
    """Whether the output layer can be solved on features that are computed once."""
    default_threshold: ClassVar[float] = 0.5
    """Of decisions, where no validation split chooses another one."""
    refused: ClassVar[Mapping[str, str]] = {}
    """Kinds of strategy that do not go with it, and why."""
    files: ClassVar[str] = ""
    """The role of a column that may name files; empty where none does."""
    reads: ClassVar[str] = "input_ids"
    """What a model has to take, by the name of its argument."""

    # --- data -----------------------------------------------------------------------------------------------

    def columns(self, given: Columns, available: Sequence[str], *, labelled: bool = True) -> dict[str, Any]:
        """The column of each role.

        Args:
            given: `data.columns` of the recipe.
            available: Columns of the data.
            labelled: Whether targets are needed.

        Raises:
            DataError: A role is unknown, or its column is not there.
        """
        problems = [
            Trouble(
                f"'{role}' is not a role of {self.kind}",
                f"data.columns.{role}",
                hint=did_you_mean(role, list(self.roles)),
            )
            for role in given
            if role not in self.roles
        ]
        chosen: dict[str, Any] = {}
        needed = self.needed(given, available, labelled=labelled)
        for role in self.roles:
            column = given.get(role, role)
            names = (column,) if isinstance(column, str) else column
            missing = [name for name in names if name not in available]
            if not missing:
                chosen[role] = column
            elif role in needed:
                problems += [
                    Trouble(
                        f"no column '{name}' for the role {role}",
                        f"data.columns.{role}",
                        hint=_columns_hint(name, available),
                    )
                    for name in missing
                ]
        if problems:
            raise DataError(problems)
        return chosen

    def needed(self, given: Columns, available: Sequence[str], *, labelled: bool) -> set[str]:
        """Roles without whose columns nothing can be read; the arguments are those of `columns`."""
        raise NotImplementedError

    def strata(self, columns: Columns) -> str | tuple[str, ...] | None:
        """The columns by which a random part of the data is stratified; None where it is not."""
        raise NotImplementedError

    def find_problem(self, train: Dataset, columns: Mapping[str, Any]) -> tuple[Problem, str]:
        """Which problem the data poses, and why.

        Raises:
            DataError: None that this task solves.
        """
        raise NotImplementedError

    def find_labels(self, train: Dataset, columns: Mapping[str, Any], problem: Problem) -> Labels:
        """Names and counts of the classes in the training split.

        Raises:
            DataError: The recipe's own names leave one out.
        """
        raise NotImplementedError

    def read(self, split: Dataset, name: str, columns: Mapping[str, Any], labels: Labels | None) -> Examples:
        """One split as texts and targets.

        Args:
            split: The rows.
            name: The split's name, for ids.
            columns: As returned by `columns`.
            labels: As returned by `find_labels`; None to read texts only.

        Raises:
            DataError: A label is not known.
        """
        raise NotImplementedError

    def examples(self, ids: tuple[str, ...], texts: Sequence[str], pairs: Sequence[str] | None) -> Examples:
        """Texts to be decided about."""
        return Examples(ids, texts, pairs, None)

    def aimed(self, encoded: Encoded) -> Encoded:
        """A split that was encoded, with what the model is told of it beside."""
        return encoded

    # --- loss -----------------------------------------------------------------------------------------------

    def weights(self, labels: Labels) -> FloatArray | None:
        """Weight of each class in the loss, float64 `(classes,)`; None when all are one."""
        return None

    @staticmethod
    def loss(
        logits: torch.Tensor,
        targets: torch.Tensor,
        problem: Problem,
        *,
        weights: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> torch.Tensor:
        """Sum of the losses, a scalar; `weight` is what to divide it by.

        Args:
            logits: float `(units, classes)`.
            targets: As in `Examples.targets`; of exclusive classes also the share of each, float `(units, classes)`.
            problem: Binary cross-entropy averaged over independent classes, squared error of numbers, else
                cross-entropy.
            weights: Class weights `(classes,)`.
            label_smoothing: Share of the target spread over all classes.
        """
        from torch.nn import functional

        weights = None if weights is None else weights.to(logits.dtype)
        if problem not in ("multi_label", "regression"):
            targets = targets.to(logits.dtype) if targets.is_floating_point() else targets
            return functional.cross_entropy(
                logits, targets, weight=weights, reduction="sum", label_smoothing=label_smoothing
            )
        targets = targets.to(logits.dtype)
        if problem == "regression":
            return (logits - targets).square().mean(1).sum()
        if label_smoothing:
            targets = targets * (1 - label_smoothing) + label_smoothing / 2
        losses = functional.binary_cross_entropy_with_logits(logits, targets, weight=weights, reduction="none")
        return losses.mean(1).sum()

    @staticmethod
    def distillation_loss(
        logits: torch.Tensor, teacher: torch.Tensor, problem: Problem, temperature: float
    ) -> torch.Tensor:
        """Loss of each unit against a teacher's outputs `(units,)`, times T² so that gradients keep their size.

        Args:
            logits: float `(units, classes)`.
            teacher: The teacher's logits, likewise.
            problem: Divergence of the softened distributions; cross-entropy of each softened class that is independent;
                squared error of numbers.
            temperature: T (Hinton et al. 2015, arXiv:1503.02531).
        """
        from torch.nn import functional

        teacher = teacher.to(logits.dtype)
        if problem == "regression":
            return (logits - teacher).square().mean(1)
        if problem == "multi_label":
            soft = (teacher / temperature).sigmoid()
            losses = functional.binary_cross_entropy_with_logits(logits / temperature, soft, reduction="none")
            return losses.mean(1) * temperature**2
        own, soft = (logits / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
        return functional.kl_div(own, soft, reduction="none", log_target=True).sum(1) * temperature**2

    @staticmethod
    def weight(targets: torch.Tensor, problem: Problem, *, weights: torch.Tensor | None = None) -> torch.Tensor:
        """What a sum of losses is divided by: the number of targets, or the sum of their class weights.

        It depends on targets alone, so an update's divisor is known before its first forward pass.
        """
        import torch

        if weights is not None and problem not in ("multi_label", "regression"):
            return (targets @ weights.to(targets.dtype) if targets.is_floating_point() else weights[targets]).sum()
        share = 1.0 if weights is None else float(weights.mean())
        return torch.tensor(share * len(targets))

    # --- decisions ------------------------------------------------------------------------------------------

    @property
    def calibrates(self) -> bool:
        """Whether a temperature is chosen on validation."""
        return False

    @staticmethod
    def kept(logits: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        """What is kept of the logits of units `(units, …)` when a split is scored; `collected` gets it."""
        return logits

    def collected(self, logits: FloatArray, data: Encoded, labels: Labels) -> FloatArray:
        """What decisions are made from: the logits of units `(units, …)`, or what the task makes of them."""
        return logits

    def mean_loss(self, logits: FloatArray, examples: Examples, labels: Labels) -> float:
        """Mean loss over the units that the model sees, class weights included.

        Args:
            logits: As `collected` gives them.
            examples: What they are about.
            labels: The classes.
        """
        import torch

        seen = ~np.isnan(logits[:, 0])
        targets, wide = torch.from_numpy(np.asarray(examples.targets)[seen]), torch.from_numpy(logits[seen]).double()
        weights = self.weights(labels)
        shares = None if weights is None else torch.from_numpy(weights)
        total = self.loss(wide, targets, labels.problem, weights=shares)
        return float(total / self.weight(targets, labels.problem, weights=shares))

    def thresholded(self, problem: Problem) -> bool:
        """Whether decisions have a threshold."""
        return False

    def threshold(self, logits: FloatArray, examples: Examples, problem: Problem) -> float:
        """The threshold of decisions that is best on these examples."""
        return self.default_threshold

    def decode(self, logits: FloatArray, labels: Labels, threshold: float = 0.5) -> Decoded:
        """Probabilities and decisions from logits.

        Args:
            logits: `(units, classes)`.
            labels: The classes.
            threshold: Of decisions, where the problem has one.
        """
        raise NotImplementedError

    def default_metrics(self, problem: Problem) -> tuple[str, ...]:
        """Metrics of a problem; the first one selects."""
        raise NotImplementedError

    def measured(self, values: Any, examples: Examples, labels: Labels) -> Any:
        """Targets or decisions as metrics take them: of each example.

        Args:
            values: `Examples.targets` or `Decoded.predictions`.
            examples: What they are about.
            labels: The classes.
        """
        raise NotImplementedError

    def named(self, values: Any, examples: Examples, labels: Labels) -> list[Any]:
        """Targets or decisions in words and numbers, for each example; the arguments are those of `measured`."""
        return list(self.measured(values, examples, labels))

    def true_values(self, examples: Examples, labels: Labels) -> Any:
        """What is true of each example, as metrics take it."""
        return self.measured(examples.targets, examples, labels)

    def true_names(self, examples: Examples, labels: Labels) -> list[Any]:
        """What is true of each example, in words and numbers."""
        return self.named(examples.targets, examples, labels)

    def answers_in(self, columns: Collection[str]) -> bool:
        """Whether data with these roles says what is to be written."""
        return False

    def answers(self, examples: Examples) -> list[str]:
        """What is to be written about each example, where a model writes."""
        return []

    def needs_pairs(self, columns: Columns) -> bool:
        """Whether a text comes with a second one, by the columns that a run was trained on."""
        return False

    def table(self, decoded: Decoded, examples: Examples, labels: Labels) -> dict[str, list[Any]]:
        """Columns of `predictions.parquet` beside id, reference and prediction, a value for each example."""
        raise NotImplementedError

    def records(self, decoded: Decoded, examples: Examples, labels: Labels) -> list[dict[str, Any]]:
        """What `predict` says of each example."""
        raise NotImplementedError


class TextsSpec(TaskSpec):
    """A task of texts, which become tokens."""

    encoding: ClassVar[tuple[str, ...]]
    """Fields that decide which tokens a text becomes, beside the length of a window."""
    longest: ClassVar[int] = 512
    """Tokens of a window, where a recipe asks for no length."""

    max_length: Annotated[int, Field(ge=4)] | Literal["auto"] = "auto"
    """Tokens that the model sees of a text; auto: the longest text, at most what the model takes and 512."""
    stride: Annotated[int, Field(ge=0)] = 32
    """Tokens that neighbouring windows share."""

    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int) -> Encoded:
        """Tokenise a split.

        Args:
            tokenizer: The model's tokenizer; it must have a padding token.
            examples: The texts.
            max_length: Tokens of a window, special tokens included.

        Raises:
            DataError: That leaves no room for a text.
        """
        raise NotImplementedError

    def lost(self, max_length: int) -> str:
        """What `Encoded.truncated` counts, as a sentence goes on after a number of texts."""
        cut = f"are longer than {max_length} tokens and were cut"
        return f"{cut}; `task.long_texts: windows` reads all of them"

    @property
    def in_windows(self) -> bool:
        """Whether texts that are longer than the model reads are cut into windows, and not just cut."""
        raise NotImplementedError


class ClassesSpec(TaskSpec):
    """A task that gives classes or numbers to units."""

    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]] | None = None
    """Weights in the loss: balanced (n / (classes · count)), or by name; left out: all one."""

    def weights(self, labels: Labels) -> FloatArray | None:
        """Weight of each class in the loss, float64 `(classes,)`; None when all are one.

        Raises:
            DataError: `class_weights` names a class that does not exist, or weighs numbers.
        """
        if self.class_weights is None:
            return None
        if labels.problem == "regression":
            raise DataError(Trouble("numbers have no class weights", "task.class_weights", hint="Remove it"))
        counts = np.asarray(labels.counts, dtype=np.float64)
        if self.class_weights == "balanced":
            balanced: FloatArray = counts.sum() / (len(counts) * np.maximum(counts, 1.0))
            return balanced
        unknown = [name for name in self.class_weights if name not in labels.names]
        if unknown:
            hints = {name: did_you_mean(name, list(labels.names)) for name in unknown}
            raise DataError(
                [Trouble(f"'{name}' is not a label", "task.class_weights", hint=hint) for name, hint in hints.items()]
            )
        return np.asarray([self.class_weights.get(name, 1.0) for name in labels.names], dtype=np.float64)


def distinct(labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Names of which none is there twice."""
    twice = [name for name, count in Counter(labels or ()).items() if count > 1]
    if twice:
        raise ValueError(f"the label '{twice[0]}' is given twice")
    return labels


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities float64 `(units, classes)` of exclusive classes."""
    wide = logits.astype(np.float64)
    shifted = np.exp(wide - wide.max(axis=1, keepdims=True))
    found: FloatArray = shifted / shifted.sum(axis=1, keepdims=True)
    return found


def texts_of(split: Dataset, column: str) -> list[str]:
    """A column of texts; a missing one is empty."""
    return ["" if value is None else str(value) for value in split[column][:]]


def ids_of(split: Dataset, name: str, columns: Mapping[str, Any]) -> tuple[str, ...]:
    """A stable name for each row: its own, or the split's and its number."""
    if "id" in columns:
        return tuple(str(value) for value in split[columns["id"]][:])
    rows = split["_row"][:] if "_row" in split.column_names else range(len(split))
    return tuple(f"{name}:{row}" for row in rows)


def _columns_hint(name: str, available: Sequence[str]) -> str:
    shown = [column for column in available if column != "_row"]
    return f"{did_you_mean(name, shown, show_all=0)} The columns are: {', '.join(shown)}".strip()
