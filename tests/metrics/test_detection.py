"""Mean average precision: against COCO's own code where it is there, and identities that need nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from hfstrat.metrics import detection
from hfstrat.metrics.detection import DetectionScore, Found, Truth, detection_score, map_replicates, match
from hfstrat.metrics.intervals import bootstrap, percentile

Images = tuple[list[Found], list[Truth]]
SIDES = (5.0, 16.0, 31.75, 32.0, 32.25, 64.0, 95.75, 96.0, 96.25, 200.0)  # at the bounds of small, medium and large
KEYS = [field.name for field in fields(DetectionScore) if field.name.startswith("ma")]


def image(generator: np.random.Generator, most: int, classes: int, levels: int, crowds: float) -> tuple[Found, Truth]:
    """Boxes in quarters of pixels, so that sides and corners are exact, and some that were found near them."""
    n = int(generator.integers(0, most + 1))
    corner = generator.integers(0, 400, (n, 2)) / 4
    true = np.concatenate([corner, corner + generator.choice(SIDES, (n, 2))], axis=1)
    of_class = generator.integers(0, classes, n)
    areas = np.where(generator.random(n) < 0.3, generator.choice([32.0**2, 96.0**2, 100.0], n), _areas(true))
    copies = np.repeat(np.arange(n), generator.integers(0, 3, n))
    moved = true[copies] + generator.integers(-8, 9, (len(copies), 4)) / 4
    other = generator.integers(0, 400, (int(generator.integers(0, 4)), 2)) / 4
    boxes = np.concatenate([moved, np.concatenate([other, other + generator.choice(SIDES, other.shape)], axis=1)])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 0.25)
    said = np.concatenate([of_class[copies], generator.integers(0, classes, len(other))])
    said = np.where(generator.random(len(said)) < 0.1, generator.integers(0, classes, len(said)), said)
    scores = generator.integers(1, levels + 1, len(boxes)) / levels
    return Found(boxes, scores, said), Truth(true, of_class, generator.random(n) < crowds, areas)


def made(
    seed: int, images: int = 30, most: int = 8, classes: int = 3, levels: int = 10, crowds: float = 0.15
) -> Images:
    """Images of which some are empty or have nothing found in them, and one class that is never true."""
    generator = np.random.default_rng(seed)
    pairs = [image(generator, most, classes, levels, crowds) for _ in range(images)]
    nothing = Found(np.zeros((0, 4)), [], [])
    found = [nothing if place % 7 == 3 else one for place, (one, _) in enumerate(pairs)]
    empty = Truth(np.zeros((0, 4)), [])
    return found, [empty if place % 11 == 5 else one for place, (_, one) in enumerate(pairs)]


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def wide(boxes: Any) -> list[list[float]]:
    """Left, top, width and height, as COCO's files have them."""
    boxes = np.asarray(boxes)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()


def by_coco(found: Sequence[Found], truth: Sequence[Truth], classes: int) -> dict[str, Any]:
    """The same scores by pycocotools."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    true, said = coco.COCO(), []
    annotations: list[dict[str, Any]] = []
    for place, (ours, theirs) in enumerate(zip(found, truth, strict=True)):
        boxes = np.asarray(theirs.boxes)
        crowd = np.zeros(len(boxes)) if theirs.crowd is None else np.asarray(theirs.crowd)
        areas = _areas(boxes) if theirs.areas is None else np.asarray(theirs.areas)
        for box, kind, many, area in zip(wide(boxes), np.asarray(theirs.classes), crowd, areas, strict=True):
            number = len(annotations) + 1  # 0 would be taken for no match
            row = {"id": number, "image_id": place, "category_id": int(kind), "bbox": box}
            annotations.append({**row, "area": float(area), "iscrowd": int(many)})
        for box, kind, score in zip(wide(ours.boxes), np.asarray(ours.classes), np.asarray(ours.scores), strict=True):
            said.append({"image_id": place, "category_id": int(kind), "bbox": box, "score": float(score)})
    true.dataset = {
        "info": {},
        "images": [{"id": place} for place in range(len(found))],
        "categories": [{"id": kind} for kind in range(classes)],
        "annotations": annotations,
    }
    true.createIndex()
    evaluated = evaluation.COCOeval(true, true.loadRes(said), "bbox")
    evaluated.evaluate()
    evaluated.accumulate()
    evaluated.summarize()
    precision = evaluated.eval["precision"][..., 0, 2]
    return {
        **dict(zip(KEYS, evaluated.stats.tolist(), strict=False)),
        "of_class": precision.mean(axis=(0, 1)),
        "of_class_50": precision[0].mean(axis=0),
    }


def assert_same(score: DetectionScore, expected: dict[str, Any], tolerance: float = 1e-9) -> None:
    for name in [field.name for field in fields(DetectionScore)]:
        assert getattr(score, name) == pytest.approx(expected[name], rel=0, abs=tolerance), name


def as_dict(score: DetectionScore) -> dict[str, Any]:
    return {field.name: getattr(score, field.name) for field in fields(DetectionScore)}


CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "many ties": {"levels": 2},
    "all scores alike": {"levels": 1},
    "no ties": {"levels": 10**9},
    "no crowds": {"crowds": 0.0},
    "many crowds": {"crowds": 0.6},
    "crowds only": {"crowds": 1.0},
    "crowded": {"images": 8, "most": 40, "classes": 1},
    "more than a hundred": {"images": 4, "most": 250, "classes": 1, "levels": 20},
    "few": {"images": 2, "most": 2},
    "many classes": {"images": 20, "most": 6, "classes": 25},
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_coco(case: str, seed: int) -> None:
    options = CASES[case]
    found, truth = made(seed, **options)
    classes = options.get("classes", 3) + 1
    assert sum(len(np.asarray(one.scores)) for one in found) > 0
    score = detection_score(match(found, truth, classes))
    assert_same(score, by_coco(found, truth, classes))
    assert score.of_class[-1] == -1
    if case not in ("few", "crowds only"):
        assert 0 < score.map < 1


def test_two_true_boxes_that_a_box_overlaps_alike_are_taken_as_coco_takes_them() -> None:
    # The later one is taken, and the box that comes second overlaps with nothing else.
    truth = [Truth([[0, 0, 10, 10], [0, 4, 10, 14]], [0, 0])]
    for second in ([0, 0, 10, 10], [0, 4, 10, 14]):
        found = [Found([[0, 2, 10, 12], second], [0.9, 0.8], [0, 0])]
        assert_same(detection_score(match(found, truth, 1)), by_coco(found, truth, 1))


def test_pairs_are_found_in_portions_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found, truth = made(1)
    whole = as_dict(detection_score(match(found, truth, 3)))
    weights = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), 20).T.astype(float)
    replicates = map_replicates(match(found, truth, 3), weights)
    monkeypatch.setattr(detection, "_PAIRS_AT_ONCE", 9)
    monkeypatch.setattr(detection, "_CELLS_AT_ONCE", 90)
    assert len(list(detection._portions(np.full(30, 5)))) > 10
    assert_same(detection_score(match(found, truth, 3)), whole, 0)
    assert map_replicates(match(found, truth, 3), weights) == pytest.approx(replicates, rel=0, abs=1e-14)


def test_what_is_true_is_found_perfectly() -> None:
    _, truth = made(2, crowds=0.0)
    found = [Found(one.boxes, np.linspace(1, 0.5, len(np.asarray(one.classes))), one.classes) for one in truth]
    score = detection_score(match(found, truth, 4))
    plain = [replace(one, areas=None) for one in truth]
    for name in ("map", "map50", "map75", "mar_100"):
        assert getattr(score, name) == pytest.approx(1, abs=1e-12)
    assert score.mar_1 < score.mar_10 <= 1
    assert score.of_class == pytest.approx([1, 1, 1, -1], abs=1e-12)
    by_size = detection_score(match(found, plain, 4))
    assert [by_size.map_small, by_size.map_medium, by_size.map_large] == pytest.approx([1, 1, 1], abs=1e-12)


def test_known_precision() -> None:
    # Right, wrong, right: precision 1 up to a recall of 1/2, and 2/3 from there on.
    truth = [Truth([[0, 0, 10, 10], [20, 0, 30, 10]], [0, 0])]
    found = [Found([[0, 0, 10, 10], [50, 50, 60, 60], [20, 0, 30, 10]], [0.9, 0.8, 0.7], [0, 0, 0])]
    score = detection_score(match(found, truth, 1))
    assert score.map == score.map50 == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert (score.mar_1, score.mar_10) == (0.5, 1)
    assert (score.map_medium, score.map_large) == (-1, -1)


@pytest.mark.parametrize(
    ("area", "where"), [(1023.75, "s"), (1024, "sm"), (1024.25, "m"), (9215.75, "m"), (9216, "ml"), (9216.25, "l")]
)
def test_an_area_at_a_bound_is_on_both_sides_of_it(area: float, where: str) -> None:
    box = [[0, 0, 40, 40]]
    score = detection_score(match([Found(box, [0.5], [0])], [Truth(box, [0], areas=[area])], 1))
    of_sizes = {"s": score.map_small, "m": score.map_medium, "l": score.map_large}
    assert {size: round(value) for size, value in of_sizes.items()} == {
        size: 1 if size in where else -1 for size in of_sizes
    }


def test_of_boxes_with_one_score_those_of_earlier_images_and_places_come_first() -> None:
    right, wrong = [0, 0, 10, 10], [50, 50, 60, 60]
    truth = [Truth([right], [0])]
    for boxes, precision in (([right, wrong], 1), ([wrong, right], 1 / 2)):
        assert detection_score(match([Found(boxes, [0.5, 0.5], [0, 0])], truth, 1)).map == pytest.approx(precision)
    apart = [Found([wrong], [0.5], [0]), Found([right], [0.5], [0])]
    empty = Truth([], [])
    assert detection_score(match(apart, [empty, *truth], 1)).map == pytest.approx(1 / 2)
    assert detection_score(match(apart[::-1], [*truth, empty], 1)).map == pytest.approx(1)


def test_boxes_inside_a_crowd_count_for_nothing_and_a_second_one_on_an_object_is_wrong() -> None:
    crowd = Truth([[0, 0, 10, 10], [50, 50, 90, 90]], [0, 0], [False, True])
    inside = Found([[0, 0, 10, 10], [50, 50, 60, 60], [60, 60, 70, 70]], [0.5, 0.9, 0.8], [0, 0, 0])
    assert detection_score(match([inside], [crowd], 1)).map == pytest.approx(1)
    twice = Found([[0, 0, 10, 10], [0, 0, 10, 9]], [0.5, 0.9], [0, 0])
    score = detection_score(match([twice], [crowd], 1))
    assert score.map50 == pytest.approx(1)
    assert score.map == pytest.approx((9 * 1 + 0.5) / 10)  # at 0.95 the first of the two overlaps too little


@pytest.mark.parametrize("case", CASES)
def test_weights_of_one_give_the_plain_value(case: str) -> None:
    matches = match(*made(3, **CASES[case]), 26)
    values = map_replicates(matches, np.ones((matches.images, 3)))
    expected = detection_score(matches).map
    if expected == -1:
        assert np.isnan(values).all()
    else:
        assert values == pytest.approx(np.full(3, expected), rel=0, abs=1e-12)


@pytest.mark.parametrize("crowds", [0.0, 0.3])
def test_an_image_that_counts_twice_is_in_the_data_twice(crowds: float) -> None:
    # No two scores are the same, but those of copies: what ties are ordered by does not matter then.
    found, truth = made(4, levels=10**12, crowds=crowds)
    scores = np.concatenate([np.asarray(one.scores) for one in found])
    assert len(np.unique(scores)) == len(scores)
    draws = np.random.default_rng(6).integers(0, 30, (12, 30))
    weights = np.stack([np.bincount(row, minlength=30) for row in draws], axis=1).astype(float)
    values = map_replicates(match(found, truth, 4), weights)
    assert len(np.unique(values)) == 12
    for row, value in zip(draws, values, strict=True):
        copied = detection_score(match([found[place] for place in row], [truth[place] for place in row], 4))
        assert value == pytest.approx(copied.map, rel=0, abs=1e-12)


def test_a_resample_that_lacks_a_class_leaves_it_out_and_one_with_nothing_to_find_is_undefined() -> None:
    found, truth = made(5, levels=10**12)
    weights = np.eye(30)
    values = map_replicates(match(found, truth, 4), weights)
    for place, value in enumerate(values):
        alone = detection_score(match([found[place]], [truth[place]], 4)).map
        assert (np.isnan(value) and alone == -1) or value == pytest.approx(alone, rel=0, abs=1e-12)
    assert np.isnan(values).any()
    assert np.isfinite(values).sum() > 15


def test_interval_holds_the_value_and_narrows_with_more_images() -> None:
    widths = []
    for images in (20, 320):
        matches = match(*made(6, images=images), 3)
        bounds = percentile(bootstrap(lambda weights, m=matches: map_replicates(m, weights), images, 200))
        assert bounds is not None
        assert bounds[0] < detection_score(matches).map < bounds[1]
        widths.append(bounds[1] - bounds[0])
    assert widths[1] < 0.5 * widths[0]


def test_images_without_anything() -> None:
    nothing, empty = Found(np.zeros((0, 4)), [], []), Truth(np.zeros((0, 4)), [])
    box = Truth([[0, 0, 10, 10]], [1])
    false = Found([[0, 0, 10, 10]], [0.5], [1])
    for found, truth in (([], []), ([nothing], [empty]), ([false], [empty])):
        score = detection_score(match(found, truth, 2))
        assert {getattr(score, name) for name in KEYS} == {-1}
        assert score.of_class.tolist() == [-1, -1]
    score = detection_score(match([nothing], [box], 2))
    assert (score.map, score.map_small, score.map_large, score.mar_100) == (0, 0, -1, 0)
    assert score.of_class.tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("found", "truth", "message"),
    [
        ([], [Truth([[0, 0, 1, 1]], [0])], "0 images, and there are 1"),
        ([Found([[0, 0, 1, 1]], [], [0])], [Truth([], [])], "1 boxes and 0 scores"),
        ([Found([[0, 0, 1, 1]], [0.5], [0, 1])], [Truth([], [])], "1 boxes and 2 classes"),
        ([Found([[0, 0, 1, 1]], [0.5], [2])], [Truth([], [])], "none of the 2"),
        ([Found([[0, 0, 1, 1]], [0.5], [-1])], [Truth([], [])], "none of the 2"),
        ([Found([[0, 0, 1, 1]], [np.nan], [0])], [Truth([], [])], "score is not a number"),
        ([Found([[0, 0, np.inf, 1]], [0.5], [0])], [Truth([], [])], "side of a box"),
        ([Found([], [], [])], [Truth([[0, 0, 1, 1]], [0], crowd=[0, 1])], "1 boxes and 2 crowd"),
        ([Found([], [], [])], [Truth([[0, 0, 1, 1]], [0], areas=[])], "1 boxes and 0 areas"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(found: list[Found], truth: list[Truth], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match(found, truth, 2)


def test_weights_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="of 3 images, and there are 30"):
        map_replicates(match(*made(0), 3), np.ones((3, 1)))


def test_many_images_are_scored_in_time() -> None:
    found, truth = made(7, images=1000, most=20, classes=10)
    start = time.process_time()
    detection_score(match(found, truth, 10))
    assert time.process_time() - start < 5  # 0.1 s on a quiet machine
