"""Augmentation: the same for the same (seed, epoch, example), and what each part leaves as it is."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfstrat.data import augmenting
from hfstrat.data.augmenting import OPERATIONS, Augmentation, Mixing, resized
from hfstrat.errors import UsageError

Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)
SIZE = (24, 32)
COLOURS = RNG.integers(256, size=(*SIZE, 3), dtype=np.uint8)
GREYS = COLOURS[..., :1]
SMOOTH = np.asarray(Image.fromarray(RNG.integers(256, size=(5, 6, 3), dtype=np.uint8)).resize(SIZE[::-1], 3))
EVERYTHING = Augmentation(flip=True, crop=0.3, pad=2, colour=0.4, randaugment=(2, 7), erase=0.5)
PARTS: dict[str, Any] = {
    "flip": True,
    "crop": 0.3,
    "pad": 3,
    "colour": 0.4,
    "randaugment": (2, 9),
    "erase": 1.0,
}


def seen(augmentation: Augmentation, picture: np.ndarray, **more: int) -> np.ndarray:
    return augmentation.augmented(picture, SIZE, **{"seed": 1, "epoch": 0, "example": 0, **more})


def epochs(augmentation: Augmentation, picture: np.ndarray, count: int = 40) -> list[np.ndarray]:
    return [seen(augmentation, picture, epoch=epoch) for epoch in range(count)]


@pytest.mark.parametrize("picture", [COLOURS, GREYS], ids=["colours", "greys"])
def test_nothing_changes_when_everything_is_off(picture: np.ndarray) -> None:
    assert np.array_equal(seen(Augmentation(), picture), picture)
    assert np.array_equal(seen(Augmentation(mixup=1.0, cutmix=1.0), picture), picture)


@pytest.mark.parametrize("picture", [COLOURS, GREYS], ids=["colours", "greys"])
@pytest.mark.parametrize("part", PARTS)
def test_the_same_arguments_give_the_same_bytes_and_others_give_others(part: str, picture: np.ndarray) -> None:
    one = replace(Augmentation(), **{part: PARTS[part]})
    for name in ("seed", "epoch", "example"):
        made = [seen(one, picture, **{name: value}) for value in range(20)]
        again = [seen(one, picture, **{name: value}) for value in reversed(range(20))][::-1]
        assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))
        assert len({view.tobytes() for view in made}) > (1 if part == "flip" else 9)
    assert {(view.shape, view.dtype) for view in made} == {(picture.shape, np.dtype(np.uint8))}


def test_no_stream_of_random_numbers_is_read_or_moved() -> None:
    np.random.seed(3)
    random.seed(3)
    first = seen(EVERYTHING, COLOURS)
    assert np.random.random() == np.random.RandomState(3).random_sample()
    assert random.random() == random.Random(3).random()
    assert np.array_equal(seen(EVERYTHING, COLOURS), first)


def test_the_picture_itself_stays() -> None:
    copy = COLOURS.copy()
    for augmentation in (
        Augmentation(),
        EVERYTHING,
        *(replace(Augmentation(), **{part: PARTS[part]}) for part in PARTS),
    ):
        for view in epochs(augmentation, COLOURS):
            view[:] = 0
    assert np.array_equal(COLOURS, copy)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0, 10**6))
def test_any_picture_becomes_one_of_the_size(height: int, width: int, channels: int, epoch: int) -> None:
    picture = np.random.default_rng(epoch).integers(256, size=(height, width, channels), dtype=np.uint8)
    view = seen(EVERYTHING, picture, epoch=epoch)
    assert (view.shape, view.dtype) == ((*SIZE, channels), np.uint8)


def test_half_of_the_pictures_are_mirrored_and_twice_is_not_at_all() -> None:
    flip = Augmentation(flip=True)
    views = epochs(flip, COLOURS, 400)
    mirrored = [not np.array_equal(view, COLOURS) for view in views]
    assert 150 < sum(mirrored) < 250
    again = [seen(flip, view, epoch=epoch) for epoch, view in enumerate(views)]
    assert all(np.array_equal(view, COLOURS) for view in again)


def test_a_crop_of_the_whole_is_the_picture() -> None:
    square, whole = RNG.integers(256, size=(24, 24, 3), dtype=np.uint8), Augmentation(crop=1.0)
    for epoch in range(20):
        assert np.array_equal(whole.augmented(square, (24, 24), 0, epoch, 0), square)
        assert np.array_equal(whole.augmented(square, (10, 16), 0, epoch, 0), resized(square, (10, 16)))
        # Of another ratio it may lack a line of pixels where the sides are rounded.
        assert np.abs(seen(whole, SMOOTH, epoch=epoch).astype(int) - SMOOTH).mean() < 12


def test_crops_have_the_shares_and_ratios_that_are_asked_for() -> None:
    boxes = [augmenting._crop((200, 300, 3), 0.2, np.random.default_rng(seed)) for seed in range(300)]
    high, wide = (np.array([box[place + 2] - box[place] for box in boxes]) for place in (0, 1))
    shares, ratios = high * wide / 60000, wide / high
    assert all(0 <= top < bottom <= 200 and 0 <= left < right <= 300 for top, left, bottom, right in boxes)
    assert 0.19 < shares.min() < 0.25
    assert 0.6 < shares.max() < 0.9
    assert 0.74 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.35
    assert abs(np.log(ratios).mean()) < 0.05


def test_a_crop_is_a_part_of_the_picture() -> None:
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[None, :, None], (100, 100, 1))
    for epoch in range(20):
        view = Augmentation(crop=0.1).augmented(ramp, (50, 50), 0, epoch, 0).astype(int)
        assert np.all(np.diff(view, axis=1) >= 0)
        assert not np.diff(view, axis=0).any()
        width = view[0, -1, 0] - view[0, 0, 0]
        assert 25 < width < 100


def test_a_long_picture_is_cropped_in_the_middle() -> None:
    assert augmenting._crop((10, 1000, 3), 0.9, np.random.default_rng(0)) == (0, 493, 10, 506)
    assert augmenting._crop((1000, 10, 3), 0.9, np.random.default_rng(0)) == (493, 0, 506, 10)


def test_a_padded_crop_is_the_picture_shifted_over_black() -> None:
    padded = np.pad(COLOURS, ((2, 2), (2, 2), (0, 0)))
    shifts = {padded[top : top + 24, left : left + 32].tobytes() for top in range(5) for left in range(5)}
    assert {view.tobytes() for view in epochs(Augmentation(pad=2), COLOURS, 300)} == shifts


def test_colour_moves_light_on_average_nowhere_and_leaves_greys_grey() -> None:
    # Pillow rounds down each of the three times.
    assert np.abs(seen(Augmentation(colour=1e-6), COLOURS).astype(int) - COLOURS).max() <= 3
    means = [view.mean() for view in epochs(Augmentation(colour=0.3), SMOOTH, 200)]
    assert abs(np.mean(means) - SMOOTH.mean()) < 10
    assert np.std(means) > 5
    grey = np.repeat(GREYS, 3, axis=2)
    for view in epochs(Augmentation(colour=0.8), grey, 20):
        assert np.array_equal(view, np.repeat(view[..., :1], 3, axis=2))


def test_there_are_the_fourteen_operations() -> None:
    assert len(OPERATIONS) == 14
    assert next(iter(OPERATIONS)) == "Identity"


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_stronger_at_a_higher_magnitude(name: str) -> None:
    image = Image.fromarray(SMOOTH)
    change = [
        np.abs(np.asarray(OPERATIONS[name](image, strength, 1.0)).astype(int) - SMOOTH).mean()
        for strength in (0.0, 0.3, 1.0)
    ]
    if name in ("AutoContrast", "Equalize"):
        assert change[0] == change[1] == change[2] > 0
    elif name == "Identity":
        assert change == [0, 0, 0]
    else:
        assert change[0] == 0 < change[1] < change[2]


@pytest.mark.parametrize(
    "name", ["Rotate", "Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY"]
)
def test_an_operation_goes_both_ways(name: str) -> None:
    image = Image.fromarray(SMOOTH)
    there, back = (np.asarray(OPERATIONS[name](image, 0.5, sign)) for sign in (1.0, -1.0))
    assert not np.array_equal(there, back)
    if name in ("Rotate", "TranslateX"):
        mirrored = OPERATIONS[name](Image.fromarray(SMOOTH[:, ::-1]), 0.5, -1.0)
        assert np.abs(np.asarray(mirrored)[:, ::-1].astype(int) - there).max() <= 2


def test_operations_are_drawn_with_equal_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def spied(name: str) -> Any:
        return lambda image, strength, sign: drawn.append(name) or image

    monkeypatch.setattr(augmenting, "OPERATIONS", {name: spied(name) for name in OPERATIONS})
    epochs(Augmentation(randaugment=(3, 5)), COLOURS, 700)
    assert len(drawn) == 2100
    assert all(100 < drawn.count(name) < 200 for name in OPERATIONS)


def test_what_is_erased_is_one_rectangle_of_noise() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    erase = Augmentation(erase=0.5)
    views = [erase.augmented(picture, (64, 64), 0, epoch, 0) for epoch in range(200)]
    changed = [view for view in views if view.any()]
    assert 70 < len(changed) < 130
    for view in changed:
        rows, columns = np.flatnonzero(view.any((1, 2))), np.flatnonzero(view.any((0, 2)))
        inside = view[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert 0.015 < inside[..., 0].size / 64**2 < 0.42
        assert 100 < inside.mean() < 155


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop": 0.0},
        {"crop": 1.5},
        {"pad": -1},
        {"colour": 2.0},
        {"randaugment": (0, 5)},
        {"randaugment": (2, 11)},
        {"erase": 1.1},
        {"mixup": -1.0},
        {"cutmix": -0.1},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*between"):
        Augmentation(**wrong)


def test_what_needs_no_pillow_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = seen(Augmentation(flip=True, pad=2, erase=1.0), COLOURS)
    for name in [name for name in sys.modules if name.split(".")[0] == "PIL"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert np.array_equal(seen(Augmentation(flip=True, pad=2, erase=1.0), COLOURS), expected)
    with pytest.raises(UsageError, match="pip install"):
        seen(Augmentation(colour=0.1), COLOURS)


# --- mixing -------------------------------------------------------------------------------------------------


UPDATE = np.array([40, 3, 17, 99, 5, 8, 61, 12])
BATCH = RNG.random((8, 3, *SIZE)).astype(np.float32)


def partners_of(mixing: Mixing) -> np.ndarray:
    return BATCH[[list(UPDATE).index(one) for one in mixing.partners]]


@pytest.mark.parametrize("mix", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}], ids=str)
def test_mixing_does_not_depend_on_how_an_update_is_cut(mix: dict[str, float]) -> None:
    augmentation = Augmentation(**mix)
    whole = augmentation.mixing(UPDATE, UPDATE, SIZE, 1, 2)
    mixed = whole.mixed(BATCH, partners_of(whole))
    for rows in (UPDATE[:3], UPDATE[3:], UPDATE[::-1]):
        part = augmentation.mixing(rows, UPDATE[::-1], SIZE, 1, 2)
        places = [list(UPDATE).index(row) for row in rows]
        assert np.array_equal(part.partners, whole.partners[places])
        assert np.array_equal(part.shares, whole.shares[places])
        assert np.array_equal(part.mixed(BATCH[places], partners_of(part)), mixed[places])
    assert not np.array_equal(augmentation.mixing(UPDATE, UPDATE, SIZE, 1, 3).shares, whole.shares)
    assert not np.array_equal(augmentation.mixing(UPDATE, UPDATE, SIZE, 2, 2).shares, whole.shares)


@given(st.integers(0, 10**6), st.floats(0.1, 4), st.booleans())
def test_the_share_is_what_is_left_of_the_picture_itself(epoch: int, alpha: float, cut: bool) -> None:
    augmentation = Augmentation(cutmix=alpha) if cut else Augmentation(mixup=alpha)
    mixing = augmentation.mixing(UPDATE, UPDATE, SIZE, 0, epoch)
    assert np.all(mixing.cut == cut)
    assert set(mixing.partners) <= set(UPDATE)
    assert np.all((mixing.shares >= 0) & (mixing.shares <= 1))
    left = mixing.mixed(np.ones((8, 1, *SIZE)), np.zeros((8, 1, *SIZE)))
    assert np.allclose(left.mean((1, 2, 3)), mixing.shares)
    assert np.allclose(mixing.mixed(BATCH, BATCH), BATCH, atol=1e-6)
    assert mixing.mixed(BATCH, BATCH).dtype == np.float32


def test_shares_have_the_distribution_that_is_asked_for_and_partners_are_all_as_frequent() -> None:
    rows = np.arange(3000)
    mixing = Augmentation(mixup=0.4).mixing(rows, rows[:10], SIZE, 0, 0)
    assert abs(mixing.shares.mean() - 0.5) < 0.03
    assert abs(mixing.shares.var() - 1 / (4 * (2 * 0.4 + 1))) < 0.01
    assert np.bincount(mixing.partners).min() > 230
    assert len(np.bincount(mixing.partners)) == 10
    both = Augmentation(mixup=0.4, cutmix=1.0).mixing(rows, rows, SIZE, 0, 0)
    assert 0.45 < both.cut.mean() < 0.55


@given(st.floats(0, 1), st.integers(0, 1000))
def test_a_box_is_as_large_as_what_the_picture_loses_unless_it_is_at_the_border(share: float, seed: int) -> None:
    top, left, bottom, right = augmenting._pasted((100, 200), share, np.random.default_rng(seed))
    assert 0 <= top <= bottom <= 100
    assert 0 <= left <= right <= 200
    area = (bottom - top) * (right - left) / 20000
    assert area <= 1 - share + 1e-9
    if top and left and bottom < 100 and right < 200:
        assert area > (1 - share) - 0.06


def test_the_streams_of_an_example_have_nothing_in_common() -> None:
    first, second = (augmenting._generator(1, 2, 3, stream).random(1000) for stream in (0, 1))
    assert not set(first) & set(second)


def test_an_empty_batch_is_mixed_and_nothing_is_without_mixing() -> None:
    mixing = Augmentation(mixup=1.0).mixing([], UPDATE, SIZE, 0, 0)
    assert mixing.mixed(BATCH[:0], BATCH[:0]).shape == (0, 3, *SIZE)
    assert not Augmentation().mixes
    with pytest.raises(ValueError, match="nothing is mixed"):
        Augmentation().mixing(UPDATE, UPDATE, SIZE, 0, 0)
