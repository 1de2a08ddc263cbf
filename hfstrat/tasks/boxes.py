"""Boxes around objects: how cells of data write them, and which of those that were found are right. NumPy only.

A true box is a row of seven numbers: class, left, top, right, bottom, whether it is a crowd, and the area of its
object. A box that was found is one of six: score, class, left, top, right, bottom. Images have as many rows as the one
with the most; rows with the class -1 are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hfstrat.tasks.base import FloatArray, IntArray

Form = Literal["xywh", "xyxy", "cxcywh_relative"]
BOXES = ("bbox", "bboxes", "boxes", "box")
CATEGORIES = ("category", "categories", "label", "labels", "class", "classes", "category_id")
NONE = -1  # the class of a row that is no box
LEFT_OUT = -2  # neither right nor wrong: inside of a crowd
OVERLAP = 0.5  # from which a box is the one that is meant, where one overlap has to do


@dataclass(frozen=True)
class Objects:
    """The objects of an image as its cell has them.

    Args:
        boxes: Four numbers each, in the form of the data: `(n, 4)`.
        names: Their categories.
        crowd: Whether each is many objects that nobody told apart, `(n,)`.
        areas: Square pixels of each `(n,)`; NaN where only its box is known.
    """

    boxes: FloatArray
    names: tuple[str, ...]
    crowd: FloatArray
    areas: FloatArray


def objects_in(cell: Any, names: Sequence[str] | None = None) -> Objects:
    """The objects of a cell.

    Args:
        cell: `{"bbox": [[…], …], "category": […]}`, with `iscrowd` and `area` if those are known, or a list of
            `{"bbox": […], "category": …}`; None for none.
        names: What numbers of categories stand for; None: for themselves.

    Raises:
        ValueError: It is written in another way.
    """
    if cell is None:
        cell = {}
    if isinstance(cell, (list, tuple)):
        if not all(isinstance(one, Mapping) for one in cell):
            raise ValueError("an object is no mapping of a box and a category")
        keys = dict.fromkeys(key for one in cell for key in one)
        cell = {key: [one.get(key) for one in cell] for key in keys}
    if not isinstance(cell, Mapping):
        raise ValueError("the objects are no mapping of boxes and categories")
    boxes, categories = _of(cell, BOXES), _of(cell, CATEGORIES)
    if len(boxes) != len(categories):
        raise ValueError(f"there are {len(boxes)} boxes and {len(categories)} categories")
    if not all(isinstance(box, (list, tuple, np.ndarray)) and len(box) == 4 for box in boxes):
        raise ValueError("a box is not four numbers")
    try:
        numbers = np.array([[np.nan if side is None else side for side in box] for box in boxes], np.float64)
        crowd = np.array([bool(one) for one in _of(cell, ("iscrowd", "crowd")) or [0] * len(boxes)], np.float64)
        areas = [np.nan if one is None else one for one in _of(cell, ("area", "areas")) or [None] * len(boxes)]
        of_objects = np.array(areas, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("a box, a crowd or an area is no number") from error
    if len(crowd) != len(boxes) or len(of_objects) != len(boxes):
        raise ValueError("there are not as many crowds or areas as boxes")
    return Objects(numbers.reshape(-1, 4), tuple(_name(one, names) for one in categories), crowd, of_objects)


def _of(cell: Mapping[str, Any], keys: Sequence[str]) -> Sequence[Any]:
    found = next((cell[key] for key in keys if cell.get(key) is not None), ())
    if not isinstance(found, (list, tuple, np.ndarray)):
        raise ValueError(f"'{next(key for key in keys if key in cell)}' is no list")
    return found if isinstance(found, (list, tuple)) else found.tolist()


def _name(category: Any, names: Sequence[str] | None) -> str:
    if category is None or category == "":
        raise ValueError("an object has no category")
    if isinstance(category, float) and category.is_integer():
        category = int(category)
    if names is not None and isinstance(category, (int, np.integer)):
        if not 0 <= category < len(names):
            raise ValueError(f"the category {category} is none of the {len(names)} that the data names")
        return names[int(category)]
    return str(category)


def names_in(feature: Any) -> tuple[str, ...] | None:
    """What the numbers of categories stand for, by the type of a column of objects; None where they have no names."""
    if hasattr(feature, "names") and hasattr(feature, "int2str"):
        return tuple(feature.names)
    inside = list(feature.values()) if isinstance(feature, Mapping) else [getattr(feature, "feature", None)]
    if isinstance(feature, (list, tuple)):
        inside = list(feature)
    found = (names_in(one) for one in inside if one is not None)
    return next((names for names in found if names is not None), None)


def corners(boxes: FloatArray, form: Form) -> FloatArray:
    """Left, top, right and bottom of boxes in some form; of relative ones in shares of the picture's sides."""
    if form == "xyxy":
        return boxes
    if form == "xywh":
        return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def centres(boxes: FloatArray) -> FloatArray:
    """Middle, width and height of boxes that are given by their corners."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=-1)


def truth_of(cells: Sequence[Objects], index: Mapping[str, int], form: Form) -> FloatArray:
    """True boxes, float64 `(images, most, 7)`; areas that are not known are NaN."""
    most = max((len(cell.names) for cell in cells), default=0)
    found = np.full((len(cells), most, 7), float(NONE))
    for row, cell in zip(found, cells, strict=True):
        n = len(cell.names)
        row[:n, 0] = [index[name] for name in cell.names]
        row[:n, 1:5] = corners(cell.boxes, form)
        row[:n, 5], row[:n, 6] = cell.crowd, cell.areas
    return found


def in_pixels(truth: FloatArray, sizes: IntArray, form: Form) -> FloatArray:
    """The same boxes in pixels of pictures of these sizes, cut off at their borders; those without an area are none."""
    found = truth.copy()
    sides = sizes[:, None, [1, 0, 1, 0]].astype(np.float64)
    given = found[..., 1:5] * sides if form == "cxcywh_relative" else found[..., 1:5]
    there = found[..., 0] >= 0
    found[..., 1:5] = np.clip(given, 0.0, sides)
    own = (found[..., 3] - found[..., 1]) * (found[..., 4] - found[..., 2])
    there &= own > 0  # nobody could find the others
    found[~there] = NONE
    found[..., 6] = np.where(there, np.where(np.isfinite(found[..., 6]), found[..., 6], own), -1.0)
    return found


def aims_of(truth: FloatArray, sizes: IntArray) -> FloatArray:
    """What a model is told of true boxes in pixels: class, middle, width and height in shares of the picture.

    Crowds are left out, and so is what has no area.

    Returns:
        float32 `(images, most, 5)`.
    """
    shares = centres(truth[..., 1:5] / sizes[:, None, [1, 0, 1, 0]])
    counts = (truth[..., 0] >= 0) & (truth[..., 5] == 0) & (shares[..., 2:] > 0).all(axis=-1)
    found = np.concatenate([truth[..., :1], shares], axis=-1)
    found[~counts] = NONE
    return found.astype(np.float32)


def overlaps(found: FloatArray, truth: FloatArray, crowd: FloatArray) -> FloatArray:
    """Intersection over union of boxes by their corners `(found, true)`; of a crowd, over the area of the one found."""
    sides = np.minimum(found[:, None, 2:], truth[None, :, 2:]) - np.maximum(found[:, None, :2], truth[None, :, :2])
    common = np.clip(sides, 0, None).prod(axis=-1)
    own, other = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) for boxes in (found, truth))
    whole = np.where(crowd[None, :] != 0, own[:, None], own[:, None] + other[None, :] - common)
    shared: FloatArray = np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)
    return shared


def matched(found: FloatArray, truth: FloatArray, overlap: float = OVERLAP) -> IntArray:
    """Which true box each box that was found is, in one image.

    From the highest score down, each takes the free true box of its class that it overlaps most with.

    Args:
        found: Boxes that were found, the highest score first: `(n, 6)`.
        truth: True boxes, `(m, 7)`.
        overlap: From which on two boxes are the same.

    Returns:
        Places of true boxes `(n,)`, `NONE` for what is wrong, and `LEFT_OUT` for what lies in a crowd.
    """
    which = np.full(len(found), NONE)
    if not len(found) or not len(truth):
        return which
    shared = overlaps(found[:, 2:6], truth[:, 1:5], truth[:, 5])
    shared[found[:, None, 1] != truth[None, :, 0]] = 0.0
    free, crowd = np.ones(len(truth), bool), truth[:, 5] != 0
    for place in np.flatnonzero(shared.max(axis=1) >= overlap):
        own = np.where(free & ~crowd, shared[place], 0.0)
        best = int(own.argmax())
        if own[best] >= overlap:
            which[place], free[best] = best, False
        elif (shared[place, crowd] >= overlap).any():
            which[place] = LEFT_OUT
    return which


def there(rows: FloatArray, column: int = 0) -> FloatArray:
    """The rows of an image that are boxes, by the column of their class."""
    return rows[rows[:, column] >= 0]


def named(rows: FloatArray, names: Sequence[str], *, true: bool) -> list[dict[str, Any]]:
    """Boxes of one image in words and numbers, with left, top, width and height in pixels."""
    kept = there(rows, 0 if true else 1)
    box = kept[:, 1:5] if true else kept[:, 2:6]
    sides = np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], axis=1).tolist()
    if true:
        return [
            {"label": names[int(row[0])], "box": one, "crowd": bool(row[5]), "area": float(row[6])}
            for row, one in zip(kept, sides, strict=True)
        ]
    return [
        {"label": names[int(row[1])], "score": float(row[0]), "box": one} for row, one in zip(kept, sides, strict=True)
    ]


def rows_of(said: Sequence[Mapping[str, Any]], index: Mapping[str, int], *, true: bool) -> FloatArray:
    """What `named` was made of."""
    box = corners(np.array([one["box"] for one in said], np.float64).reshape(-1, 4), "xywh")
    classes = np.array([index[one["label"]] for one in said], np.float64)
    if true:
        more = np.array([[one["crowd"], one["area"]] for one in said], np.float64).reshape(-1, 2)
        return np.concatenate([classes[:, None], box, more], axis=1)
    scores = np.array([one["score"] for one in said], np.float64)
    return np.concatenate([scores[:, None], classes[:, None], box], axis=1)
