"""Text classification: one label, several labels, or numbers, for texts and pairs of texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from hfstrat.errors import DataError, did_you_mean
from hfstrat.errors import Problem as Trouble
from hfstrat.spec import Spec
from hfstrat.tasks.base import Decoded, Encoded, Examples, FloatArray, IntArray, Labels, Problem, Ragged

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

AT_ONCE = 10_000  # texts that are tokenised together
Columns = Mapping[str, str | tuple[str, ...]]


class TextClassification(Spec):
    """Give texts a class, several classes, or a number."""

    kind: Literal["text_classification"]

    problem: Problem | Literal["auto"] = "auto"
    """single_label, multi_label or regression; auto: from the label column's values."""
    labels: tuple[str, ...] | None = None
    """Names of the classes in the order of the logits; left out: the classes of the training split, sorted."""
    label_separator: str | None = None
    """What separates the labels in one cell (`sports|politics`); makes the task multi-label."""
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]] | None = None
    """Weights in the loss: balanced (n / (classes · count)), or by name; left out: all one."""
    max_length: Annotated[int, Field(ge=4)] | Literal["auto"] = "auto"
    """Tokens that the model sees of a text; auto: the longest text, at most what the model takes and 512."""
    long_texts: Literal["truncate", "windows"] = "truncate"
    """Longer texts: cut (and counted), or cut into overlapping windows whose logits are averaged."""
    stride: Annotated[int, Field(ge=0)] = 32
    """Tokens that neighbouring windows share."""
    pooling: Literal["auto", "native", "cls", "mean", "last"] = "auto"
    """How tokens become one vector: the model's own head (native), the first token, the mean, the last; auto: what a
    sentence-transformers checkpoint declares, else native."""
    normalize: bool | Literal["auto"] = "auto"
    """Whether the pooled vector is scaled to length one; auto: as a sentence-transformers checkpoint declares. Without
    meaning for native pooling."""
    calibrate: bool = False
    """Choose a temperature on validation and divide the output layer by it (Guo et al. 2017, arXiv:1706.04599)."""

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = [name for name, count in Counter(labels or ()).items() if count > 1]
        if twice:
            raise ValueError(f"the label '{twice[0]}' is given twice")
        return labels

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    peft_task_type: ClassVar[str] = "SEQ_CLS"
    pipeline_tag: ClassVar[str] = "text-classification"
    roles: ClassVar[tuple[str, ...]] = ("text", "label", "text_pair", "id")
    encoding: ClassVar[tuple[str, ...]] = ("long_texts", "stride")
    """Fields that decide which tokens a text becomes, beside the length of a window."""

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
                f"'{role}' is not a role of text_classification", f"data.columns.{role}", hint=_near(role, self.roles)
            )
            for role in given
            if role not in self.roles
        ]
        chosen: dict[str, Any] = {}
        for role in self.roles:
            column = given.get(role, role)
            names = (column,) if isinstance(column, str) else column
            missing = [name for name in names if name not in available]
            needed = role in given or role == "text"
            if role == "label":
                needed = labelled
            if not missing:
                chosen[role] = column
            elif needed:
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
        rows = split["_row"][:] if "_row" in split.column_names else range(len(split))
        ids = split[columns["id"]][:] if "id" in columns else [f"{name}:{row}" for row in rows]
        pairs = _texts(split, columns["text_pair"]) if "text_pair" in columns else None
        targets = self._targets(split, name, columns["label"], labels) if labels is not None else None
        return Examples(tuple(str(value) for value in ids), _texts(split, columns["text"]), pairs, targets)

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

    def _targets(self, split: Dataset, name: str, column: Any, labels: Labels) -> IntArray | FloatArray:
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

    # --- tokens ---------------------------------------------------------------------------------------------

    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int) -> Encoded:
        """Tokenise a split.

        Args:
            tokenizer: The model's tokenizer; it must have a padding token.
            examples: The texts.
            max_length: Tokens of a window, special tokens included.

        Raises:
            DataError: That leaves no room for a text.
        """
        windows = self.long_texts == "windows"
        special = tokenizer.num_special_tokens_to_add(pair=examples.pairs is not None)
        room = max_length - special
        if room < 1 + (examples.pairs is not None):
            message = f"{max_length} tokens leave no room for text beside {special} special ones"
            raise DataError(Trouble(message, "task.max_length", hint="Raise it"))
        rows: dict[str, list[Ragged]] = {}
        owners: list[IntArray] = []
        whole = ((places, 0) for places in _chunks(np.arange(len(examples))))
        for places, stride in self._alike(tokenizer, examples, room) if windows else whole:
            options: dict[str, Any] = {"truncation": True, "max_length": max_length, "return_attention_mask": False}
            if windows:
                options |= {"return_overflowing_tokens": True, "stride": stride}
            if windows and examples.pairs is not None:
                options["truncation"] = "only_second"
            texts = [
                [column[place] for place in places] for column in (examples.texts, examples.pairs) if column is not None
            ]
            tokens: Any = tokenizer(*texts, **options)
            for name in tokenizer.model_input_names:
                if name in tokens:
                    rows.setdefault(name, []).append(Ragged.of(tokens[name]))
            owners.append(places[tokens["overflow_to_sample_mapping"]] if windows else places)
        owner = np.concatenate([np.zeros(0, np.int64), *owners])
        order = np.argsort(owner, kind="stable")
        columns = {name: Ragged.joined(parts).taken(order) for name, parts in rows.items()}
        return Encoded(
            ids=examples.ids,
            columns=columns,
            windows=np.searchsorted(owner[order], np.arange(len(examples) + 1)),
            targets=examples.targets,
            truncated=0 if windows else _count_truncated(tokenizer, examples, columns["input_ids"].lengths, max_length),
            pad={
                name: tokenizer.pad_token_type_id if name == "token_type_ids" else int(tokenizer.pad_token_id or 0)
                for name in columns
            },
            left=tokenizer.padding_side == "left",
        )

    def _alike(
        self, tokenizer: PreTrainedTokenizerBase, examples: Examples, room: int
    ) -> Iterator[tuple[IntArray, int]]:
        """Examples whose windows share as many tokens, and how many: half of what is new in one, at most.

        Raises:
            DataError: A first text of a pair leaves no room for the second one.
        """
        rooms = np.full(len(examples), room)
        if examples.pairs is not None:
            rooms -= _lengths(tokenizer, examples.texts)
        if (rooms < 1).any():
            message = "a first text of a pair is so long that no window has room for the second one"
            hint = "Raise it, name the shorter texts as `text`, or set task.long_texts: truncate"
            raise DataError(Trouble(message, "task.max_length", hint=hint))
        strides = np.minimum(self.stride, rooms // 2)
        for stride in np.unique(strides):
            yield from ((places, int(stride)) for places in _chunks(np.flatnonzero(strides == stride)))

    # --- loss and decisions ---------------------------------------------------------------------------------

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
            raise DataError(
                [Trouble(f"'{n}' is not a label", "task.class_weights", hint=_near(n, labels.names)) for n in unknown]
            )
        return np.asarray([self.class_weights.get(name, 1.0) for name in labels.names], dtype=np.float64)

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
            logits: float `(batch, classes)`.
            targets: As in `Examples.targets`.
            problem: Cross-entropy, binary cross-entropy averaged over classes, or squared error.
            weights: Class weights `(classes,)`.
            label_smoothing: Share of the target spread over all classes.
        """
        from torch.nn import functional

        weights = None if weights is None else weights.to(logits.dtype)
        if problem == "single_label":
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
        """Loss of each example against a teacher's outputs `(batch,)`, times T² so that gradients keep their size.

        Args:
            logits: float `(batch, classes)`.
            teacher: The teacher's logits, likewise.
            problem: Divergence of the softened distributions; cross-entropy of each softened class; squared error.
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

        if weights is not None and problem == "single_label":
            return weights[targets].sum()
        share = 1.0 if weights is None else float(weights.mean())
        return torch.tensor(share * len(targets))

    @staticmethod
    def decode(logits: FloatArray, problem: Problem, threshold: float = 0.5) -> Decoded:
        """Probabilities and decisions from logits.

        Args:
            logits: `(n, classes)`.
            problem: Softmax, sigmoid, or the numbers themselves.
            threshold: Probability from which a label is given, for several labels.
        """
        wide = logits.astype(np.float64)
        if problem == "regression":
            return Decoded(logits, wide, wide)
        if problem == "multi_label":
            scores = 1.0 / (1.0 + np.exp(-wide))
            return Decoded(logits, scores, (scores >= threshold).astype(np.int64))
        shifted = np.exp(wide - wide.max(axis=1, keepdims=True))
        return Decoded(logits, shifted / shifted.sum(axis=1, keepdims=True), wide.argmax(axis=1))

    @staticmethod
    def default_metrics(problem: Problem) -> tuple[str, ...]:
        """Metrics of a problem; the first one selects."""
        return {
            "single_label": ("accuracy", "f1_macro", "log_loss", "ece"),
            "multi_label": ("f1_micro", "f1_macro", "accuracy", "log_loss"),
            "regression": ("rmse", "mae", "r_squared", "spearmanr"),
        }[problem]


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


def _columns_hint(name: str, available: Sequence[str]) -> str:
    return f"{did_you_mean(name, available, show_all=0)} The columns are: {', '.join(available)}".strip()


def _chunks(places: IntArray) -> Iterator[IntArray]:
    """Places in parts: what a tokenizer returns takes many times the memory of the ids that are kept of it."""
    for start in range(0, len(places), AT_ONCE):
        yield places[start : start + AT_ONCE]


def _texts_of(examples: Examples, places: IntArray) -> list[list[str]]:
    """What a tokenizer is given of some examples: first texts, and second ones where there are any."""
    columns = (examples.texts,) if examples.pairs is None else (examples.texts, examples.pairs)
    return [[column[place] for place in places] for column in columns]


def _lengths(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> IntArray:
    """Tokens of each text, without special ones: `(n,)`."""
    found = []
    for places in _chunks(np.arange(len(texts))):
        part = [texts[place] for place in places]
        rows = tokenizer(part, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        found += [len(row) for row in rows]
    return np.array(found, dtype=np.int64)


def _texts(split: Dataset, column: str) -> list[str]:
    return ["" if value is None else str(value) for value in split[column][:]]


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


def _near(word: str, known: Sequence[str]) -> str:
    return did_you_mean(word, list(known))


def _count_truncated(tokenizer: PreTrainedTokenizerBase, examples: Examples, lengths: IntArray, max_length: int) -> int:
    """How many examples are longer than the model sees; only full rows are tokenised again."""
    count = 0
    for places in _chunks(np.flatnonzero(lengths >= max_length)):
        texts = [
            [column[place] for place in places] for column in (examples.texts, examples.pairs) if column is not None
        ]
        count += sum(len(row) > max_length for row in tokenizer(*texts, truncation=False, verbose=False)["input_ids"])
    return count
