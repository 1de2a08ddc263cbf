"""Mean average precision of boxes as COCO has it, and the same on resampled images.

NumPy only. What is found is matched to what is true once for all images; that does not depend on which other images
there are. Precision and recall are then sums over images, and a resample is how often each image counts in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
BoolArray = npt.NDArray[np.bool_]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Overlaps from which on a box is the one that is meant: 0.50, 0.55 … 0.95."""
RECALLS = np.linspace(0, 1, 101)
"""Where precision is read off."""
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Least and largest area in square pixels, both included: a box of 32 × 32 is small and medium."""
MOST = 100
"""How many boxes of a class count in an image; those with the lowest scores are left out."""

# Overlaps are computed for this many pairs at once: 64 MB of float64 for their corners.
_PAIRS_AT_ONCE = 1_000_000
# And this many cells of boxes × resamples, which a core's cache holds.
_CELLS_AT_ONCE = 200_000
# Added to what precision is divided by, as COCO does: of nothing at all it is 0.
_SPACING = np.spacing(1.0)


@dataclass(frozen=True)
class Found:
    """Boxes that a model found in an image.

    Args:
        boxes: Left, top, right and bottom in pixels, float64 `(n, 4)`.
        scores: How sure the model is of each, `(n,)`; only their order counts.
        classes: Class index of each, int64 `(n,)`.
    """

    boxes: npt.ArrayLike
    scores: npt.ArrayLike
    classes: npt.ArrayLike


@dataclass(frozen=True)
class Truth:
    """Boxes that are in an image.

    Args:
        boxes: Left, top, right and bottom in pixels, float64 `(n, 4)`.
        classes: Class index of each, int64 `(n,)`.
        crowd: Whether a box holds many objects that nobody told apart, bool `(n,)`. It need not be found, and any
            number of boxes inside of it count neither for nor against the model. None where there is no such box.
        areas: Area of each object in square pixels, `(n,)`, by which it is small, medium or large; COCO takes that of
            its outline. None for that of its box.
    """

    boxes: npt.ArrayLike
    classes: npt.ArrayLike
    crowd: npt.ArrayLike | None = None
    areas: npt.ArrayLike | None = None


@dataclass(frozen=True)
class Matches:
    """Which of the boxes that were found are right, at each overlap and for objects of each range of areas.

    Boxes are in order of their class, and from the highest score down; of the same score, in order of their images.

    Args:
        images: How many images there are.
        image: Image of each box that was found, `(found,)`.
        rank: Its place among those of its image and class, 0 the highest score, `(found,)`.
        starts: Where the boxes of each class begin, and where those of the last one end, `(classes + 1,)`.
        right: Whether it is right, bool `(areas, overlaps, found)`.
        counts: Whether it is right or wrong, and not left out, bool `(areas, overlaps, found)`.
        true_image: Image of each true box, `(true,)`.
        true_starts: As `starts`, of the true boxes.
        wanted: Whether a true box has to be found, bool `(areas, true)`.
    """

    images: int
    image: IntArray
    rank: IntArray
    starts: IntArray
    right: BoolArray
    counts: BoolArray
    true_image: IntArray
    true_starts: IntArray
    wanted: BoolArray


@dataclass(frozen=True)
class DetectionScore:
    """COCO's scores, as fractions; as there, -1 where there is nothing to find.

    Args:
        map: Average precision, mean over the overlaps 0.50 to 0.95 and over the classes with anything to find.
        map50: The same at an overlap of 0.5.
        map75: The same at an overlap of 0.75.
        map_small: As `map`, of objects of up to 32 × 32 pixels.
        map_medium: As `map`, of objects between that and 96 × 96 pixels.
        map_large: As `map`, of objects from 96 × 96 pixels on.
        mar_1: Recall by the best box of each class in each image, mean over overlaps and classes.
        mar_10: The same by the ten best boxes.
        mar_100: The same by the hundred best boxes.
        of_class: `map` of each class, `(classes,)`.
        of_class_50: `map50` of each class, `(classes,)`.
    """

    map: float
    map50: float
    map75: float
    map_small: float
    map_medium: float
    map_large: float
    mar_1: float
    mar_10: float
    mar_100: float
    of_class: FloatArray
    of_class_50: FloatArray


@dataclass(frozen=True)
class _Boxes:
    """Boxes of all images in a row, by image and class: float64 `(n, 4)`, then `(n,)` each."""

    boxes: FloatArray
    areas: FloatArray
    image: IntArray
    classes: IntArray
    group: IntArray

    def taken(self, order: IntArray) -> _Boxes:
        """Some of them, in this order."""
        rows = self.boxes[order], self.areas[order]
        return _Boxes(*rows, self.image[order], self.classes[order], self.group[order])


def match(found: Sequence[Found], truth: Sequence[Truth], classes: int) -> Matches:
    """Match what was found in each image to what is there, as COCO does (Lin et al. 2014, arXiv:1405.0312).

    From the highest score down, each box takes the true box of its class with the largest overlap among those that
    reach the threshold and that no other has taken; of two with the same overlap, the later one. True boxes that
    need not be found, which are crowds and those of other areas, are taken only where no other is left, and what
    takes them is left out. So is what takes none and is of another area itself.

    Args:
        found: What was found in each image.
        truth: What is there; as many images, in the same order.
        classes: How many classes there are, at least one.

    Raises:
        ValueError: The two differ in their number of images, arrays do not fit together, a class is none of them,
            or a box or a score is not a number.
    """
    if len(found) != len(truth):
        raise ValueError(f"boxes were found in {len(found)} images, and there are {len(truth)}")
    ours, scores, rank = _found(found, classes)
    true, crowd = _truth(truth, classes)
    box, target, overlap = _overlapping(ours, true, crowd)
    pairs = _Pairs(box, target, overlap, _turns(ours.group, box), crowd)
    right, counts, wanted = [], [], []
    for least, most in AREAS.values():
        needless = crowd | _outside(true.areas, least, most)
        taken, left_out = pairs.matched(len(ours.group), needless)
        ignored = np.where(taken, left_out, _outside(ours.areas, least, most))
        right.append(taken & ~ignored)
        counts.append(~ignored)
        wanted.append(~needless)
    order, true_order = np.lexsort((-scores, ours.classes)), np.argsort(true.classes, kind="stable")
    places = np.arange(classes + 1)
    return Matches(
        images=len(found),
        image=ours.image[order],
        rank=rank[order],
        starts=np.searchsorted(ours.classes[order], places),
        right=np.stack(right)[..., order],
        counts=np.stack(counts)[..., order],
        true_image=true.image[true_order],
        true_starts=np.searchsorted(true.classes[true_order], places),
        wanted=np.stack(wanted)[:, true_order],
    )


def detection_score(matches: Matches) -> DetectionScore:
    """COCO's scores of all images."""
    once = np.ones((matches.images, 1))
    of_area = {
        area: np.stack([_precision(matches, place, one, once)[:, 0] for one in _classes(matches)])
        for place, area in enumerate(AREAS)
    }
    whole = of_area["all"]
    at_50, at_75 = (int(np.argmin(np.abs(THRESHOLDS - overlap))) for overlap in (0.5, 0.75))
    recall = {
        most: np.stack([_recall(matches, one, most, once)[:, 0] for one in _classes(matches)]) for most in (1, 10, MOST)
    }
    return DetectionScore(
        map=_mean_of_defined(whole),
        map50=_mean_of_defined(whole[:, at_50]),
        map75=_mean_of_defined(whole[:, at_75]),
        map_small=_mean_of_defined(of_area["small"]),
        map_medium=_mean_of_defined(of_area["medium"]),
        map_large=_mean_of_defined(of_area["large"]),
        mar_1=_mean_of_defined(recall[1]),
        mar_10=_mean_of_defined(recall[10]),
        mar_100=_mean_of_defined(recall[MOST]),
        of_class=np.nan_to_num(whole.mean(axis=1), nan=-1),
        of_class_50=np.nan_to_num(whole[:, at_50], nan=-1),
    )


NAMES = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100")
"""Fields of `DetectionScore` that are one number."""


def map_replicates(matches: Matches, weights: FloatArray, name: str = "map") -> FloatArray:
    """A number of `DetectionScore` on resamples of the images; for `intervals.bootstrap`.

    An image that a resample holds twice counts as two images, except that its boxes with the same score stay
    together: the first one counts twice, then the second one.

    Args:
        matches: Of all images.
        weights: How often each resample holds each image, float64 `(images, r)`.
        name: One of `NAMES`.

    Returns:
        `(r,)`; NaN for a resample without anything to find.

    Raises:
        ValueError: The weights are not those of these images.
    """
    if len(weights) != matches.images:
        raise ValueError(f"the weights are of {len(weights)} images, and there are {matches.images}")
    longest = max(1, int(np.diff(matches.starts).max(initial=0)))
    columns = max(1, _CELLS_AT_ONCE // longest)
    parts = [weights[:, at : at + columns] for at in range(0, weights.shape[1], columns)]
    return np.concatenate([_of_name(matches, name, part) for part in parts]) if parts else np.zeros(0)


def _of_name(matches: Matches, name: str, weights: FloatArray) -> FloatArray:
    kind, _, which = name.partition("_")
    area = list(AREAS).index(which) if which in AREAS else 0
    overlap = {"map50": 0.5, "map75": 0.75}.get(name)
    at = slice(None) if overlap is None else [int(np.argmin(np.abs(THRESHOLDS - overlap)))]
    total, defined = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for one in _classes(matches):
        if kind == "mar":
            of_class = _recall(matches, one, int(which), weights).mean(axis=0)
        else:
            of_class = _precision(matches, area, one, weights)[at].mean(axis=0)
        total += np.nan_to_num(of_class)
        defined += ~np.isnan(of_class)
    return np.divide(total, defined, out=np.full_like(total, np.nan), where=defined > 0)


def _classes(matches: Matches) -> range:
    return range(len(matches.starts) - 1)


def _of_class(starts: IntArray, one: int) -> slice:
    return slice(int(starts[one]), int(starts[one + 1]))


def _to_find(matches: Matches, area: int, one: int, weights: FloatArray) -> FloatArray:
    """How many boxes of a class have to be found in each resample, `(r,)`."""
    own = _of_class(matches.true_starts, one)
    return np.asarray(weights[matches.true_image[own][matches.wanted[area, own]]].sum(axis=0))


def _precision(matches: Matches, area: int, one: int, weights: FloatArray) -> FloatArray:
    """Average precision of a class at each overlap `(overlaps, r)`; NaN where nothing is to be found."""
    own = _of_class(matches.starts, one)
    right, counts = matches.right[area, :, own], matches.counts[area, :, own]
    to_find = _to_find(matches, area, one, weights)
    # Sums run along the boxes, which therefore lie side by side: (r, boxes).
    of_boxes = np.take(weights.T, matches.image[own], axis=1)
    # Nearly all boxes count at every overlap or at none, and their running sum is made once.
    always, ever = counts.all(axis=0), counts.any(axis=0)
    of_most, some = np.cumsum(of_boxes * always, axis=1), np.flatnonzero(ever & ~always)
    of_some = np.zeros((len(of_boxes), len(some) + 1))
    result = np.zeros((len(THRESHOLDS), len(of_boxes)))
    for place in range(len(THRESHOLDS)):
        at = np.flatnonzero(right[place])
        np.cumsum(np.take(of_boxes, some, axis=1) * counts[place, some], axis=1, out=of_some[:, 1:])
        seen = np.take(of_most, at, axis=1) + np.take(of_some, np.searchsorted(some, at, side="right"), axis=1)
        found = np.cumsum(np.take(of_boxes, at, axis=1), axis=1)
        result[place] = _average(found, seen, to_find)
    return np.where(to_find > 0, result, np.nan)


def _average(found: FloatArray, seen: FloatArray, to_find: FloatArray) -> FloatArray:
    """Mean of the precision at 101 recalls, `(r,)`: each is the best one at that recall or a higher one.

    Recall rises only at boxes that are right, so precision is read off at them alone: each counts for as many of the
    101 as it is the first to reach.

    Args:
        found: How many are right up to each box that is right, `(r, right)`.
        seen: How many count up to there, `(r, right)`.
        to_find: How many are to be found, `(r,)`.
    """
    precision = found / (seen + _SPACING)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = np.divide(found, to_find[:, None], out=np.zeros_like(found), where=to_find[:, None] > 0)
    reached = np.searchsorted(RECALLS, recall, side="right")
    newly = np.diff(reached, axis=1, prepend=0)
    return np.asarray(np.einsum("rn,rn->r", best, newly) / len(RECALLS))


def _recall(matches: Matches, one: int, most: int, weights: FloatArray) -> FloatArray:
    """Share of a class that the best boxes of each image find at each overlap `(overlaps, r)`."""
    own = _of_class(matches.starts, one)
    to_find = _to_find(matches, 0, one, weights)
    right = matches.right[0, :, own] & (matches.rank[own] < most)
    found = right.astype(np.float64) @ weights[matches.image[own]]
    return np.divide(found, to_find, out=np.full_like(found, np.nan), where=to_find > 0)


def _mean_of_defined(values: FloatArray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else -1.0


@dataclass(frozen=True)
class _Pairs:
    """Boxes that were found with true ones that they overlap enough with, `(pairs,)` each.

    Args:
        box: Place of the box that was found.
        target: Place of the true one.
        overlap: Intersection over union; of a crowd, over the area of the box that was found.
        turn: When the box that was found chooses: no two of an image and class at once.
        crowd: Of each true box, `(true,)`.
    """

    box: IntArray
    target: IntArray
    overlap: FloatArray
    turn: IntArray
    crowd: BoolArray

    def matched(self, n: int, needless: BoolArray) -> tuple[BoolArray, BoolArray]:
        """Which of n boxes take a true one, and which of them one that need not be found: `(overlaps, n)` each.

        All images and classes, and all thresholds, take a turn together: there are as many turns as boxes of one
        class in one image, not as there are boxes.
        """
        # The first pair of a box that is still free is then the one it takes.
        order = np.lexsort((-self.target, -self.overlap, needless[self.target], self.box, self.turn))
        box, target, overlap = self.box[order], self.target[order], self.overlap[order]
        reaches, many = overlap[:, None] >= THRESHOLDS, self.crowd[target][:, None]
        gone = np.zeros((len(self.crowd), len(THRESHOLDS)), dtype=bool)
        taken, left_out = np.zeros((2, n, len(THRESHOLDS)), dtype=bool)
        turns = np.searchsorted(self.turn[order], np.arange(int(self.turn.max(initial=-1)) + 2))
        for start, end in pairwise(turns.tolist()):
            now, none = slice(start, end), end - start
            free = reaches[now] & (many[now] | ~gone[target[now]])
            firsts = np.flatnonzero(np.diff(box[now], prepend=-1))
            chosen = np.minimum.reduceat(np.where(free, np.arange(none)[:, None], none), firsts, axis=0)
            which, threshold = np.nonzero(chosen < none)
            at = target[now][chosen[which, threshold]]
            gone[at, threshold] = True
            taken[box[now][firsts][which], threshold] = True
            left_out[box[now][firsts][which], threshold] = needless[at]
        return taken.T, left_out.T


def _turns(group: IntArray, box: IntArray) -> IntArray:
    """Of each pair, how many boxes of the same image and class come before its own that are in a pair as well."""
    firsts = np.diff(box, prepend=-1) != 0
    number = np.cumsum(firsts) - 1  # of the boxes that are in a pair
    groups = group[box[firsts]]
    return np.asarray((np.arange(len(groups)) - np.searchsorted(groups, groups))[number], dtype=np.int64)


def _overlapping(ours: _Boxes, true: _Boxes, crowd: BoolArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Pairs of the same image and class that reach the lowest threshold: both places, and their overlap."""
    lows, highs = (np.searchsorted(true.group, ours.group, side=side) for side in ("left", "right"))
    found = [
        _overlaps(ours, true, crowd, np.arange(start, end), lows[start:end], highs[start:end])
        for start, end in _portions(highs - lows)
    ]
    boxes, targets, overlaps = zip(*found, strict=True)
    return np.concatenate(boxes), np.concatenate(targets), np.concatenate(overlaps)


def _portions(sizes: IntArray) -> Iterator[tuple[int, int]]:
    """Runs of boxes that have about so many pairs as are computed at once; at least one run."""
    portion = np.cumsum(sizes) // _PAIRS_AT_ONCE
    bounds = [0, *(np.flatnonzero(np.diff(portion)) + 1).tolist(), len(sizes)]
    yield from pairwise(bounds)


def _overlaps(
    ours: _Boxes, true: _Boxes, crowd: BoolArray, places: IntArray, lows: IntArray, highs: IntArray
) -> tuple[IntArray, IntArray, FloatArray]:
    sizes = highs - lows
    box = np.repeat(places, sizes)
    target = np.arange(len(box)) - np.repeat(np.cumsum(sizes) - sizes - lows, sizes)
    a, b = ours.boxes[box], true.boxes[target]
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    common = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0.0)
    own, other = _areas(a), _areas(b)
    whole = np.where(crowd[target], own, own + other - common)
    overlap = np.divide(common, whole, out=np.zeros_like(common), where=common > 0)
    kept = overlap >= THRESHOLDS[0]
    return box[kept], target[kept], overlap[kept]


def _areas(boxes: FloatArray) -> FloatArray:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _outside(areas: FloatArray, least: float, most: float) -> BoolArray:
    return np.asarray((areas < least) | (areas > most))


def _found(found: Sequence[Found], classes: int) -> tuple[_Boxes, FloatArray, IntArray]:
    """What was found, its scores, and its ranks in its image and class, of which there are at most `MOST`."""
    rows = _joined([one.boxes for one in found], [one.classes for one in found], None, classes)
    scores = _column([one.scores for one in found], rows.image, len(found), "scores")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not a number")
    order = np.lexsort((-scores, rows.group))
    group = rows.group[order]
    rank = np.arange(len(group)) - np.searchsorted(group, group)
    order, rank = order[rank < MOST], rank[rank < MOST]
    return rows.taken(order), scores[order], rank


def _truth(truth: Sequence[Truth], classes: int) -> tuple[_Boxes, BoolArray]:
    """What is true, and what of it is a crowd."""
    areas = [_areas(_rows(one.boxes)) if one.areas is None else one.areas for one in truth]
    rows = _joined([one.boxes for one in truth], [one.classes for one in truth], areas, classes)
    crowd = [np.zeros(len(_rows(one.boxes))) if one.crowd is None else one.crowd for one in truth]
    order = np.argsort(rows.group, kind="stable")
    return rows.taken(order), _column(crowd, rows.image, len(truth), "crowd")[order] != 0


def _joined(
    boxes: Sequence[npt.ArrayLike],
    classes: Sequence[npt.ArrayLike],
    areas: Sequence[npt.ArrayLike] | None,
    number: int,
) -> _Boxes:
    rows = [_rows(one) for one in boxes]
    joined = np.concatenate([*rows, np.zeros((0, 4))])
    image = np.repeat(np.arange(len(rows)), np.array([len(one) for one in rows], dtype=np.int64))
    of_class = _column(classes, image, len(rows), "classes").astype(np.int64)
    if not ((of_class >= 0) & (of_class < number)).all():
        raise ValueError(f"a class is none of the {number} from 0 on")
    if not np.isfinite(joined).all():
        raise ValueError("a side of a box is not a number")
    of_area = _areas(joined) if areas is None else _column(areas, image, len(rows), "areas")
    return _Boxes(joined, of_area, image, of_class, image * number + of_class)


def _rows(boxes: npt.ArrayLike) -> FloatArray:
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def _column(values: Sequence[npt.ArrayLike], image: IntArray, images: int, what: str) -> FloatArray:
    """One value for each box, float64 `(n,)`."""
    columns = [np.asarray(one, dtype=np.float64).reshape(-1) for one in values]
    sizes = np.bincount(image, minlength=images)
    for place, (column, size) in enumerate(zip(columns, sizes, strict=True)):
        if len(column) != size:
            raise ValueError(f"image {place} has {size} boxes and {len(column)} {what}")
    return np.concatenate([*columns, np.zeros(0)])
