"""Object detection: boxes around the objects of pictures, each with its class.

A detector computes its loss itself: which of its boxes are which true ones is part of it (Carion et al. 2020,
arXiv:2005.12872). What it divides by the number of true boxes in a batch is made a sum again here, so that the loss of
an update is divided by its own number of boxes, however it is cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from hfstrat.errors import DataError, did_you_mean
from hfstrat.errors import Problem as Trouble
from hfstrat.spec import Spec
from hfstrat.tasks import boxes
from hfstrat.tasks.base import Decoded, Encoded, Examples, FloatArray, IntArray, Labels, Problem
from hfstrat.tasks.boxes import Objects, names_in, objects_in
from hfstrat.tasks.image_classification import Share
from hfstrat.tasks.media import media_of, names_of
from hfstrat.tasks.pixels import Pixels
from hfstrat.tasks.task import Columns, TaskSpec, distinct, ids_of

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import nn

MOST = 100
"""Boxes of an image that are kept, those with the highest scores: as many as COCO's measure looks at."""
_COLUMNS = 6  # score, class, left, top, right, bottom


class BoxAugmentationSpec(Spec):
    """How training pictures are varied with their boxes, in this order; each part is off unless it is named."""

    crop: Annotated[float, Field(ge=0.01, le=1.0)] | None = None
    """Smallest share of the area of a random crop that is resized; boxes of which less than a third is left go."""
    flip: bool = False
    """Mirror half of the pictures, left to right: for those that mean the same then."""
    colour: Share = 0.0
    """Brightness, contrast and saturation are multiplied by 1 minus to 1 plus this."""
    erase: Share = 0.0
    """Share of pictures of which a random rectangle becomes noise (Zhong et al. 2017, arXiv:1708.04896)."""


class ObjectDetection(TaskSpec):
    """Find the objects in pictures: a box and a class for each."""

    kind: Literal["object_detection"] = "object_detection"

    boxes: Literal["xywh", "xyxy", "cxcywh_relative"] = "xywh"
    """How the data writes a box: left, top, width and height in pixels; both corners in pixels; or middle, width and
    height in shares of the picture. COCO and Pascal VOC are read as they are."""

    labels: tuple[str, ...] | None = None
    """Names of the classes in the order of the model's outputs; left out: those of the training split, sorted."""

    image_size: Annotated[int, Field(ge=32)] | Literal["auto"] = "auto"
    """Height and width that pictures are resized to, without keeping their ratio; auto: as the base's image processor
    says, of two edges the shorter one."""

    augmentation: BoxAugmentationSpec | None = None
    """How training pictures are varied, anew in each epoch; left out: not at all."""

    auto_class: ClassVar[str] = "AutoModelForObjectDetection"
    peft_task_type: ClassVar[str | None] = None
    pipeline_tag: ClassVar[str] = "object-detection"
    roles: ClassVar[tuple[str, ...]] = ("image", "objects", "id")
    texts: ClassVar[tuple[str, ...]] = ("image",)
    floors: ClassVar[tuple[str, ...]] = ()
    solvable: ClassVar[bool] = False
    files: ClassVar[str] = "image"
    reads: ClassVar[str] = "pixel_values"
    refused: ClassVar[Mapping[str, str]] = {
        "distill": "which of a teacher's boxes is which of its student's is not known"
    }

    _distinct = field_validator("labels")(distinct)

    # --- data -----------------------------------------------------------------------------------------------

    def needed(self, given: Columns, available: Sequence[str], *, labelled: bool) -> set[str]:
        """The picture, and its objects where they are known."""
        return {"image", *given, "objects"} - (set() if labelled else {"objects"})

    def columns(self, given: Columns, available: Sequence[str], *, labelled: bool = True) -> dict[str, Any]:
        """As of every task; objects only where they are known."""
        if not labelled:
            given = {role: column for role, column in given.items() if role != "objects"}
        return super().columns(given, available, labelled=labelled)

    def strata(self, columns: Columns) -> str | tuple[str, ...] | None:
        """None: pictures hold objects of several classes."""
        return None

    def find_problem(self, train: Dataset, columns: Mapping[str, Any]) -> tuple[Problem, str]:
        """Boxes."""
        return "boxes", "objects have boxes and classes"

    def find_labels(self, train: Dataset, columns: Mapping[str, Any], problem: Problem) -> Labels:
        """Names of the classes, and how many boxes of the training split each has.

        Raises:
            DataError: `labels` leaves out a class that the training split has.
        """
        counts: dict[str, int] = {}
        for cell in cells_of(train, columns["objects"]):
            for name in cell.names:
                counts[name] = counts.get(name, 0) + 1
        names = self.labels or names_in(train.features[columns["objects"]]) or tuple(sorted(counts))
        if lost := [name for name in sorted(counts) if name not in names]:
            what = f"the training split has classes that `task.labels` leaves out: {', '.join(lost[:10])}"
            raise DataError(Trouble(what, "task.labels", hint="Add them, or remove `task.labels`"))
        return Labels(problem, tuple(names), tuple(counts.get(name, 0) for name in names))

    def read(self, split: Dataset, name: str, columns: Mapping[str, Any], labels: Labels | None) -> Examples:
        """One split as pictures and true boxes, as the data has them: pictures are not opened yet.

        Raises:
            DataError: An object is of a class that the training split does not have.
        """
        ids, pictures = ids_of(split, name, columns), media_of(split, columns["image"])
        found = Examples(ids, names_of(pictures, ids), None, None, media=pictures)
        if labels is None:
            return found
        cells = cells_of(split, columns["objects"])
        unknown = sorted({one for cell in cells for one in cell.names if one not in labels.names})
        if unknown:
            shown = ", ".join(f"'{one}'" for one in unknown[:5])
            what = f"split {name} has {len(unknown)} class(es) that the training split does not have: {shown}"
            hint = f"{did_you_mean(unknown[0], labels.names, show_all=0)} Correct them, or name them in task.labels"
            raise DataError(Trouble(what, "data", hint=hint.strip()))
        index = {one: place for place, one in enumerate(labels.names)}
        return replace(found, targets=boxes.truth_of(cells, index, self.boxes))

    def examples(self, ids: tuple[str, ...], texts: Sequence[Any], pairs: Sequence[str] | None) -> Examples:
        """Pictures to be decided about: files, arrays, or pictures of Pillow."""
        return Examples(ids, names_of(texts, ids), None, None, media=texts)

    def aimed(self, encoded: Encoded) -> Encoded:
        """A split whose pictures have been opened, with true boxes in their pixels, and as the model is told them."""
        pixels, truth = encoded.signals, encoded.examples.targets
        assert isinstance(pixels, Pixels), "detectors look at pictures"
        assert pixels.sizes is not None, "it is known how large they were"
        if truth is None:
            return replace(encoded, own=Detector())
        truth = boxes.in_pixels(np.asarray(truth), pixels.sizes, self.boxes)
        aims = boxes.aims_of(truth, pixels.sizes)
        examples = replace(encoded.examples, targets=truth)
        return replace(encoded, examples=examples, aims=aims, own=Detector().of_update(aims))

    # --- loss -----------------------------------------------------------------------------------------------

    @staticmethod
    def loss(
        logits: torch.Tensor,
        targets: torch.Tensor,
        problem: Problem,
        *,
        weights: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> torch.Tensor:
        """Sum of the losses that the model has computed, a scalar.

        Args:
            logits: float `(images, columns)`, as `Detector` gives them.
            targets: They are part of it already.
            problem: Boxes.
            weights: None.
            label_smoothing: 0.
        """
        return logits[:, 0].sum()

    @staticmethod
    def weight(targets: torch.Tensor, problem: Problem, *, weights: torch.Tensor | None = None) -> torch.Tensor:
        """The number of true boxes."""
        return (targets[..., 0] >= 0).sum().float()

    # --- decisions ------------------------------------------------------------------------------------------

    def collected(self, logits: FloatArray, data: Encoded, labels: Labels) -> FloatArray:
        """The same with boxes in pixels of the pictures as they were: float64 `(n, 601)`."""
        assert isinstance(data.signals, Pixels), "detectors look at pictures"
        assert data.signals.sizes is not None, "it is known how large they were"
        found = logits.astype(np.float64)
        sides = data.signals.sizes[:, None, [1, 0, 1, 0]].astype(np.float64)
        _rows(found)[..., 2:] *= sides
        return found

    def mean_loss(self, logits: FloatArray, examples: Examples, labels: Labels) -> float:
        """Sum of the losses over the number of true boxes."""
        truth = np.asarray(examples.targets)
        return float(logits[:, 0].sum() / max(1, ((truth[..., 0] >= 0) & (truth[..., 5] == 0)).sum()))

    def thresholded(self, problem: Problem) -> bool:
        """A box is one from a score on; its measure does not depend on it."""
        return True

    def threshold(self, logits: FloatArray, examples: Examples, problem: Problem) -> float:
        """The score from which boxes have the best F1 on these examples, at an overlap of a half."""
        right, scores, wanted = [np.zeros(0, bool)], [np.zeros(0)], 0
        for found, true in zip(_rows(logits), np.asarray(examples.targets), strict=True):
            found, true = boxes.there(found, 1), boxes.there(true)
            which = boxes.matched(found, true)
            right.append(which[which != boxes.LEFT_OUT] >= 0)
            scores.append(found[which != boxes.LEFT_OUT, 0])
            wanted += int((true[:, 5] == 0).sum())
        return _best_threshold(np.concatenate(right), np.concatenate(scores), wanted, self.default_threshold)

    def decode(self, logits: FloatArray, labels: Labels, threshold: float = 0.5) -> Decoded:
        """All boxes of each image `(n, 100, 6)`, and the scores of those above the threshold `(n, 100)`, else NaN."""
        found = _rows(logits)
        return Decoded(logits, np.where(found[..., 0] > threshold, found[..., 0], np.nan), found)

    def default_metrics(self, problem: Problem) -> tuple[str, ...]:
        """COCO's."""
        return ("map", "map50", "map75", "map_small", "map_medium", "map_large", "mar_100")

    def measured(self, values: Any, examples: Examples, labels: Labels) -> list[FloatArray]:
        """All boxes of each image, `(boxes, 6)`: a measure looks at their order, and not at a threshold."""
        return [boxes.there(one, 1) for one in values]

    def true_values(self, examples: Examples, labels: Labels) -> list[FloatArray]:
        """The true boxes of each image, `(boxes, 7)`."""
        return [boxes.there(one) for one in np.asarray(examples.targets)]

    def named(self, values: Any, examples: Examples, labels: Labels) -> list[Any]:
        """All boxes of each image with their label, score, and left, top, width and height."""
        return [boxes.named(one, labels.names, true=False) for one in values]

    def true_names(self, examples: Examples, labels: Labels) -> list[Any]:
        """The true boxes of each image in the same form."""
        return [boxes.named(one, labels.names, true=True) for one in np.asarray(examples.targets)]

    def table(self, decoded: Decoded, examples: Examples, labels: Labels) -> dict[str, list[Any]]:
        """The picture's name, and how many of its boxes, which are in the order of their scores, are given."""
        return {"image": list(examples.texts), "given": np.isfinite(decoded.scores).sum(axis=1).tolist()}

    def records(self, decoded: Decoded, examples: Examples, labels: Labels) -> list[dict[str, Any]]:
        """`{"prediction": [{"label", "score", "box": [left, top, width, height]}, …]}` each."""
        given = np.isfinite(decoded.scores)
        rows = zip(np.asarray(decoded.predictions), given, strict=True)
        return [{"prediction": boxes.named(found[kept], labels.names, true=False)} for found, kept in rows]


def cells_of(split: Dataset, column: str) -> list[Objects]:
    """The objects of each row.

    Raises:
        ValueError: A cell is written in another way.
    """
    names = names_in(split.features[column])
    return [objects_in(cell, names) for cell in split[column][:]]


def _rows(logits: FloatArray) -> FloatArray:
    """The boxes of each image `(n, 100, 6)`; a view."""
    return logits[:, 1:].reshape(len(logits), -1, _COLUMNS)


def _best_threshold(right: Any, scores: FloatArray, wanted: int, otherwise: float) -> float:
    """The middle between the last score that is given for the best F1 and the first one that is not."""
    if not right.any():
        return otherwise
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(right[order])
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + wanted)
    last = np.append(ranked[:-1] != ranked[1:], True)  # a threshold cannot part equal scores
    best = int(np.argmax(np.where(last, f1, -1.0)))
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


# --- the model's own loss ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Detector:
    """How a detector is asked.

    Args:
        counts: How many true boxes each image has of those whose losses are one sum, `(images,)`; None: those of a
            batch are.
    """

    counts: IntArray | None = None

    def of_update(self, targets: FloatArray | IntArray) -> Detector:
        """The same where what it computes is part of the loss of all these targets."""
        return Detector((targets[..., 0] >= 0).sum(axis=1))

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, torch.Tensor], targets: torch.Tensor | None
    ) -> torch.Tensor:
        """Each image's share of the sum of the losses, and while nothing trains its boxes.

        Args:
            model: The model, as it is wrapped.
            inputs: Pictures.
            targets: What is true of them, float `(images, most, 5)`; None where it is not known.

        Returns:
            float `(images, 1)`, or `(images, 1 + 6 · MOST)`: score, class and corners in shares of the picture of the
            best boxes, with the class -1 where there are fewer.
        """
        import torch

        labels = None if targets is None else _labels(targets, inputs["pixel_values"].dtype)
        with _computed_wide(model), _in_one_piece(model, len(inputs["pixel_values"])):
            found = model(**inputs) if labels is None else model(**inputs, labels=labels)
        config: Any = getattr(model, "module", model).config
        exclusive = found.logits.shape[-1] > config.num_labels  # with one class more, that of no object
        images = len(inputs["pixel_values"])
        share: torch.Tensor = found.pred_boxes.new_zeros(images).float()
        if labels is not None:
            share = (self._summed(found, labels, config, exclusive) / images).expand(images)
        if torch.is_grad_enabled():
            return share[:, None]
        return torch.cat([share[:, None], _best(found, exclusive).to(share.dtype)], dim=1)

    def _summed(
        self, found: Any, labels: Sequence[Mapping[str, torch.Tensor]], config: Any, exclusive: bool
    ) -> torch.Tensor:
        """The loss as a sum over true boxes.

        Of exclusive classes the model takes a weighted mean over its queries, in which no object counts less. That is
        made a sum by its weights, which are known from the numbers of boxes, and divided by those of the update.
        """
        own = np.array([len(one["class_labels"]) for one in labels])
        of_boxes: torch.Tensor = found.loss * max(1, int(own.sum()))
        if not exclusive:
            return of_boxes
        queries, none = found.logits.shape[1], float(config.eos_coefficient)
        of_classes = [value for name, value in found.loss_dict.items() if name.startswith("loss_ce")]
        all_of_them = own if self.counts is None else self.counts
        ratio = max(1, int(all_of_them.sum())) / _weights(all_of_them, queries, none)
        more: torch.Tensor = sum(of_classes) * (_weights(own, queries, none) * ratio - max(1, int(own.sum())))
        return of_boxes + more


def _weights(counts: IntArray, queries: int, none: float) -> float:
    """Weights of all queries of some images: 1 for those that are a true box, less for the others."""
    matched = np.minimum(counts, queries)
    return float((matched + none * (queries - matched)).sum())


def _labels(targets: torch.Tensor, dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
    """What transformers calls labels: of each image the classes of its boxes, and their middle, width and height."""
    rows = [row[row[:, 0] >= 0] for row in targets]
    return [{"class_labels": row[:, 0].long(), "boxes": row[:, 1:].to(dtype)} for row in rows]


def _best(found: Any, exclusive: bool) -> torch.Tensor:
    """The best boxes of each image as the image processors of transformers choose them, `(images, 6 · MOST)`."""
    import torch
    from torch.nn.functional import pad

    logits, centres = found.logits.float(), found.pred_boxes.float()
    most = min(MOST, logits.shape[1])
    if exclusive:
        scores, classes = logits.softmax(-1)[..., :-1].max(-1)
        scores, query = scores.topk(most, dim=1)
        classes = classes.gather(1, query)
    else:
        scores, place = logits.sigmoid().flatten(1).topk(most, dim=1)
        classes, query = place % logits.shape[2], place // logits.shape[2]
    middle, half = centres[..., :2], centres[..., 2:] / 2
    box = torch.cat([middle - half, middle + half], dim=-1)
    box = box.gather(1, query[..., None].expand(-1, -1, 4))
    rows = torch.cat([scores[..., None], classes[..., None].to(scores.dtype), box], dim=-1)
    return pad(rows, (0, 0, 0, MOST - rows.shape[1]), value=float(boxes.NONE)).flatten(1)


@contextmanager
def _computed_wide(model: nn.Module) -> Iterator[None]:
    """Let a model's loss be computed in fp32 or wider, and of this process alone.

    What matches boxes knows no bfloat16; and some losses divide by a mean over all processes, for which the sum over
    their boxes stands here.
    """
    import torch
    from transformers.loss import loss_for_object_detection as shared

    inner: Any = getattr(model, "module", model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    plain, asks = inner.loss_function, shared.is_accelerate_available

    def wide(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16):
            return value.float()
        return value

    def loss(*args: Any, **options: Any) -> Any:
        device = options["logits"].device if "logits" in options else args[0].device
        with torch.autocast(device.type, enabled=False) if device.type in ("cpu", "cuda") else nullcontext():
            return plain(*map(wide, args), **{name: wide(value) for name, value in options.items()})

    had = "_loss_function" in inner.__dict__
    inner.loss_function, shared.is_accelerate_available = loss, lambda: False
    try:
        yield
    finally:
        shared.is_accelerate_available = asks
        if had:
            inner.loss_function = plain
        else:
            del inner._loss_function


@contextmanager
def _in_one_piece(model: nn.Module, images: int) -> Iterator[None]:
    """Hand batch norms their gradients in one piece where there is one image.

    A detector turns maps into rows, whose gradients come back transposed. Of a single image that looks to PyTorch
    (2.13, on a CPU) like another layout of memory, and what its batch norm makes of them is wrong.
    """
    import torch

    def keep(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient.contiguous())  # type: ignore[no-untyped-call]

    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)] if images == 1 else []
    hooks = [module.register_forward_hook(keep) for module in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
