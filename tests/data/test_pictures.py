"""Pictures in every mode, damaged ones, and the same one twice."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hfstrat.data import pictures
from hfstrat.data.pictures import decode_all, decoded, digest, near_duplicates, perceptual_hash, sizes
from hfstrat.errors import DataError, UsageError

Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(256, size=(5, 7, 3), dtype=np.uint8)
GREYS = COLOURS[..., 0]
SMOOTH = np.add.outer(np.arange(40) * 3, np.arange(50) * 2).astype(np.uint8)


def png(image: Any, **more: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, more.pop("kind", "PNG"), **more)
    return stream.getvalue()


def in_colour(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def said(*given: Any) -> str:
    with pytest.raises(DataError) as caught:
        decode_all(given, 3, np.copy)
    return str(caught.value)


def test_colours_come_back_as_they_were() -> None:
    image = Image.fromarray(COLOURS)
    for form in (image, png(image), png(image, kind="BMP"), {"bytes": png(image), "path": "a.png"}, COLOURS):
        assert np.array_equal(decoded(form, 3), COLOURS)


def test_a_file_is_read_by_each_of_its_names(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png(Image.fromarray(COLOURS)))
    for form in (file, str(file), {"bytes": None, "path": str(file)}):
        assert np.array_equal(decoded(form, 3), COLOURS)


def test_greys_are_repeated_and_colours_become_the_greys_of_pillow() -> None:
    assert np.array_equal(decoded(png(Image.fromarray(GREYS)), 3), in_colour(GREYS))
    assert np.array_equal(decoded(png(Image.fromarray(GREYS)), 1), GREYS[..., None])
    grey = np.asarray(Image.fromarray(COLOURS).convert("L"))[..., None]
    assert np.array_equal(decoded(png(Image.fromarray(COLOURS)), 1), grey)
    assert np.array_equal(decoded(COLOURS, 1), grey)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(5, 9), st.just(3))))
def test_luma_is_that_of_pillow(colours: np.ndarray) -> None:
    assert np.array_equal(pictures.grey(colours)[..., 0], np.asarray(Image.fromarray(colours).convert("L")))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_transparent_is_white_and_what_is_not_stays(mode: str) -> None:
    image = Image.fromarray(
        np.dstack([in_colour(GREYS), np.where(np.arange(7) < 3, 0, 255)[None].repeat(5, 0)]).astype(np.uint8)
    )
    found = decoded(image.convert("LA").convert(mode), 3)
    assert np.all(found[:, :3] == 255)
    assert np.array_equal(found[:, 3:], in_colour(GREYS)[:, 3:])


def test_a_palette_may_have_opacity() -> None:
    clear = np.array([[[1, 2, 3, 0], [1, 2, 3, 255]]], np.uint8)
    image = Image.fromarray(clear).quantize(4)
    assert image.mode == "P"
    assert decoded(image, 3).tolist() == [[[255, 255, 255], [1, 2, 3]]]


def test_half_transparent_is_half_white() -> None:
    clear = np.dstack([np.zeros((2, 2, 3), np.uint8), np.full((2, 2), 51, np.uint8)])
    assert np.all(decoded(png(Image.fromarray(clear)), 3) == 204)
    assert np.all(decoded(clear, 1) == 204)
    assert np.all(decoded(np.dstack([in_colour(SMOOTH[:2, :2]) / 9, np.zeros((2, 2))]), 3) == 255)


@given(st.integers(0, 255), st.integers(0, 255))
def test_opacity_is_a_rounded_mean_with_white(grey: int, alpha: int) -> None:
    clear = np.full((1, 1, 4), grey, np.uint8)
    clear[..., 3] = alpha
    expected = int((grey * alpha + 255 * (255 - alpha)) / 255 + 0.5)
    assert decoded(clear, 3).ravel().tolist() == [expected] * 3


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_a_palette_may_have_a_transparent_colour(transparency: Any) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    found = decoded(png(image, transparency=transparency), 3)
    assert found.tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]


def test_a_grey_or_colour_may_be_declared_transparent() -> None:
    assert decoded(png(Image.fromarray(np.array([[7, 8]], np.uint8)), transparency=7), 1).ravel().tolist() == [255, 8]
    two = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    assert decoded(png(Image.fromarray(two), transparency=(1, 2, 3)), 3).tolist() == [[[255] * 3, [4, 5, 6]]]


def test_print_colours_are_turned_into_light() -> None:
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # cyan
    assert decoded(png(image, kind="TIFF"), 3)[0, 0].tolist() == [0, 255, 255]
    assert np.allclose(decoded(png(image, kind="JPEG", quality=95), 3)[4, 4], [0, 255, 255], atol=8)


def test_bits_are_black_and_white() -> None:
    bits = GREYS > 100
    assert np.array_equal(decoded(png(Image.fromarray(bits)), 1)[..., 0], bits * 255)
    assert np.array_equal(decoded(bits, 1)[..., 0], bits * 255)


@pytest.mark.parametrize(
    ("values", "kind"),
    [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.int32, "TIFF"), (np.float32, "TIFF"), (">u2", "TIFF")],
)
def test_wide_values_are_stretched_from_their_own_range(values: Any, kind: str) -> None:
    array = (1000 + 2 * GREYS.astype(np.int64)).astype(values)
    low, high = int(GREYS.min()), int(GREYS.max())
    expected = np.rint((GREYS.astype(float) - low) / (high - low) * 255).astype(np.uint8)
    for form in (array, png(Image.fromarray(array), kind=kind)):
        assert np.array_equal(decoded(form, 1)[..., 0], expected)
        assert np.array_equal(decoded(form, 3), in_colour(expected))


def test_one_wide_value_is_black_and_what_is_not_finite_is_the_minimum() -> None:
    assert not decoded(np.full((2, 2), 60000, np.uint16), 1).any()
    assert not decoded(np.full((2, 2), np.nan), 1).any()
    assert decoded(np.array([[np.nan, 1.0], [np.inf, 3.0]]), 1).ravel().tolist() == [0, 0, 0, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright_whichever_way_the_camera_was_held(orientation: int) -> None:
    flat = np.kron(np.array([[0, 80, 160], [250, 200, 120]], np.uint8), np.ones((16, 16), np.uint8))
    turned = {
        1: flat, 2: flat[:, ::-1], 3: flat[::-1, ::-1], 4: flat[::-1],
        5: flat.T, 6: np.rot90(flat, -1), 7: flat[::-1, ::-1].T, 8: np.rot90(flat),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG"):
        data = png(Image.fromarray(flat), kind=kind, exif=exif)
        found = decoded(data, 1)[..., 0]
        assert found.shape == turned.shape
        assert np.abs(found.astype(int) - turned).max() <= 6
        assert sizes([data]).tolist() == [list(turned.shape)]


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (1, 5, 7), (3, 5, 7), (5, 7, 3), (5, 7, 4)])
def test_arrays_have_their_channels_at_either_end(shape: tuple[int, ...]) -> None:
    array = RNG.integers(256, size=shape, dtype=np.uint8)
    assert decoded(array, 3).shape == (5, 7, 3)
    assert sizes([array]).tolist() == [[5, 7]]
    if shape == (3, 5, 7):
        assert np.array_equal(decoded(array, 3), array.transpose(1, 2, 0))


@pytest.mark.parametrize("array", [np.zeros(4), np.zeros((5, 7, 2)), np.zeros((0, 4)), np.zeros((2, 3, 4, 5))])
def test_other_shapes_are_no_pictures(array: np.ndarray) -> None:
    assert f"an array of the shape {array.shape} is not a picture" in said(array)


def test_what_was_given_is_not_what_is_returned() -> None:
    array = COLOURS.copy()
    decoded(array, 3)[:] = 0
    assert np.array_equal(array, COLOURS)


def test_of_several_frames_the_first_is_taken() -> None:
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    assert np.all(decoded(png(frames[0], kind="GIF", save_all=True, append_images=frames[1:]), 1) == 10)


def test_all_damaged_files_are_named_at_once(tmp_path: Path) -> None:
    jpeg = png(Image.fromarray(RNG.integers(256, size=(64, 64, 3), dtype=np.uint8)), kind="JPEG")
    contents = {"cut.jpg": jpeg[: len(jpeg) // 2], "text.png": b"not a picture", "none.png": b"", "good.jpg": jpeg}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    text = said(*(tmp_path / name for name in (*contents, "gone.png")), b"bytes", None, {"bytes": None, "path": None})
    lines = text.splitlines()
    assert [line.split(":")[0].removeprefix(f"{tmp_path}/") for line in lines] == [
        "cut.jpg", "text.png", "none.png", "gone.png", "row 5", "row 6", "row 7",
    ]  # fmt: skip
    assert "truncated" in lines[0]
    assert "not that of a picture" in lines[1]
    assert "the file is empty" in lines[2]
    assert "No such file" in lines[3]


def test_twenty_problems_are_shown_and_the_others_counted() -> None:
    with pytest.raises(DataError) as caught:
        sizes([b"x"] * 30)
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1].message == "and 10 more such problems"
    assert "data.skip_unreadable: true" in caught.value.problems[-1].hint


def test_a_picture_of_too_many_pixels_is_refused_from_the_limit_on(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(Image.new("L", (10, 10)))
    for limit, refused in ((100, False), (99, True), (40, True)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        if refused:
            assert f"more than {limit} pixels" in said(data)
        else:
            assert decoded(data, 1).shape == (10, 10, 1)


def test_threads_give_what_one_gives_in_the_same_order() -> None:
    many = [png(Image.fromarray(np.roll(COLOURS, place, 0))) for place in range(70)]
    counted: list[int] = []
    alone = decode_all(many, 3, digest, workers=1, progress=counted.append)
    assert sum(counted) == 70
    assert alone == [digest(decoded(one, 3)) for one in many]
    assert decode_all(many, 3, digest, workers=3) == alone
    with pytest.raises(DataError, match=r"row 66: .*\nrow 69: "):
        decode_all([*many[:66], b"a", *many[67:69], b"b"], 3, digest, workers=3)


def test_without_pillow_arrays_are_read_and_files_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(Image.fromarray(COLOURS))
    for name in [name for name in sys.modules if name.split(".")[0] == "PIL"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert np.array_equal(decoded(COLOURS, 3), COLOURS)
    with pytest.raises(UsageError, match=r"pip install 'hfstrat\[images\]'") as caught:
        decode_all([data], 3, np.copy)
    assert not isinstance(caught.value, DataError)


def test_a_digest_is_of_the_content(tmp_path: Path) -> None:
    data = png(Image.fromarray(COLOURS))
    (tmp_path / "a.png").write_bytes(data)
    assert digest(tmp_path / "a.png") == digest(data) == digest({"bytes": data, "path": "elsewhere"})
    assert digest(COLOURS) == digest(COLOURS.copy(order="F"))
    assert digest(GREYS.astype(">u2")) == digest(GREYS.astype("<u2"))
    other = COLOURS.copy()
    other[0, 0, 0] ^= 1
    different = [COLOURS, other, GREYS, GREYS.T, GREYS[..., None], GREYS.astype(np.uint16), GREYS.astype(np.int8)]
    different += [Image.fromarray(COLOURS), Image.fromarray(other), Image.fromarray(GREYS), data]
    clear = Image.fromarray(GREYS)
    clear.info["transparency"] = 7
    different.append(clear)
    assert len({digest(one) for one in different}) == len(different)
    with pytest.raises(DataError, match=r"gone\.png"):
        digest(tmp_path / "gone.png")


def test_a_hash_knows_a_picture_that_was_resized_lightened_and_compressed() -> None:
    image = Image.fromarray(RNG.integers(256, size=(6, 6, 3), dtype=np.uint8)).resize((96, 96), 3)
    whole = perceptual_hash(np.asarray(image))
    changed = [image.resize((60, 50)), image.point(lambda value: value * 0.8 + 20)]
    changed.append(Image.open(io.BytesIO(png(image, kind="JPEG", quality=60))))
    for one in changed:
        assert (whole ^ perceptual_hash(np.asarray(one))).bit_count() <= 5
    assert (whole ^ perceptual_hash(np.asarray(image)[:, ::-1])).bit_count() > 15


def test_the_bits_of_a_hash_say_where_it_becomes_lighter() -> None:
    lighter = np.repeat(np.arange(9, dtype=np.uint8)[None, :, None], 8, axis=0)
    assert perceptual_hash(lighter) == 2**64 - 1
    assert perceptual_hash(lighter[:, ::-1]) == 0
    assert perceptual_hash(np.full((33, 47, 3), 77, np.uint8)) == 0
    first = np.zeros((8, 9, 1), np.uint8)
    first[0, 1:] = 9
    assert perceptual_hash(first) == 2**63


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=8), st.lists(st.integers(0, 2**64 - 1), max_size=8), st.integers(0, 40)
)
def test_near_duplicates_are_those_of_the_definition(ours: list[int], theirs: list[int], distance: int) -> None:
    theirs = theirs + ours[:1]
    expected = [[a, b] for a, x in enumerate(ours) for b, y in enumerate(theirs) if (x ^ y).bit_count() <= distance]
    assert near_duplicates(ours, theirs, distance).tolist() == expected


def test_near_duplicates_do_not_depend_on_how_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = RNG.integers(2**64, size=50, dtype=np.uint64)
    whole = near_duplicates(hashes, hashes, 26)
    assert len(whole) > 50
    monkeypatch.setattr(pictures, "_COMPARED", 120)
    assert np.array_equal(near_duplicates(hashes, hashes, 26), whole)
