"""Galleries: what is shown of a test split, and in which order."""

from __future__ import annotations

import numpy as np
from PIL import Image

from hfstrat import execute
from hfstrat.report.gallery import GALLERY
from hfstrat.showing import tiles_of
from hfstrat.tasks import AudioClassification, ImageClassification
from hfstrat.tasks.base import Decoded, Examples, Labels
from tests.tasks.test_image_classification import recipe, write_folder

NAMES = ("a", "b")


def decoded(scores: list[list[float]], problem: str = "single_label") -> Decoded:
    values = np.array(scores)
    ways = {"single_label": values.argmax(1), "multi_label": (values >= 0.5).astype(int), "regression": values}
    said = ways[problem]
    return Decoded(values.astype(np.float32), values, said)


def examples(targets: list, media: list) -> Examples:
    names = tuple(f"{place}.png" for place in range(len(media)))
    return Examples(names, list(names), None, np.array(targets), media=media)


def test_what_is_most_surely_wrong_comes_first():
    media = [np.full((6, 8, 3), 40 * place, np.uint8) for place in range(4)]
    said = decoded([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.55, 0.45]])
    tiles = tiles_of(ImageClassification(), Labels("single_label", NAMES), examples([0, 0, 0, 0], media), said)
    assert [tile.caption for tile in tiles] == [
        "b 0.80, in truth a: 1.png",
        "b 0.60, in truth a: 2.png",
        "a 0.55: 3.png",
        "a 0.90: 0.png",
    ]
    assert [tile.right for tile in tiles] == [False, False, True, True]
    assert [tile.picture.getpixel((0, 0))[0] for tile in tiles] == [40, 80, 120, 0]


def test_several_labels_and_numbers():
    media = [np.zeros((6, 8, 3), np.uint8)] * 2
    several = decoded([[0.9, 0.1], [0.9, 0.7]], "multi_label")
    tiles = tiles_of(ImageClassification(), Labels("multi_label", NAMES), examples([[1, 0], [0, 0]], media), several)
    assert [tile.caption for tile in tiles] == ["a, b, in truth none: 1.png", "a: 0.png"]
    numbers = decoded([[1.0], [2.5]], "regression")
    tiles = tiles_of(ImageClassification(), Labels("regression", ("size",)), examples([[1.2], [5.0]], media), numbers)
    assert [tile.caption for tile in tiles] == ["2.5, in truth 5: 1.png", "1, in truth 1.2: 0.png"]
    assert {tile.right for tile in tiles} == {None}


def test_a_sound_is_shown_by_its_wave():
    loud = np.concatenate([np.zeros(800), np.sin(np.arange(800))]).astype(np.float32)
    media = [{"array": loud, "sampling_rate": 8000}, {"array": np.zeros(3, np.float32), "sampling_rate": 8000}]
    said = decoded([[0.1, 0.9], [0.9, 0.1]])
    tiles = tiles_of(AudioClassification(), Labels("single_label", NAMES), examples([0, 0], media), said)
    ink = np.asarray(tiles[0].picture) != np.asarray(tiles[0].picture)[0, 0]
    inked = ink.any(2).sum(0)
    assert inked[:150].max() <= 2, "it begins in silence"
    assert inked[170:].min() > 200
    assert tiles[1].picture.size == tiles[0].picture.size


def test_a_run_leaves_a_gallery_that_the_card_names(tiny_base, tmp_path):
    run = execute.train(recipe(tiny_base("vit"), {"kind": "head"}, write_folder(tmp_path / "pictures")), runs=tmp_path)
    with Image.open(run.path / GALLERY) as sheet:
        colours = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 100
    assert GALLERY in (run.artifact / "README.md").read_text()
    assert not (run.artifact / GALLERY).exists(), "it is not pushed"
    assert GALLERY in run.read("digests.json")
