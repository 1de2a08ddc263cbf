"""The builtin digits."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from hfstrat.data.builtin_digits import digits


def pixels(split: str) -> np.ndarray:
    return np.array(digits()[split]["image"][:], np.uint8)


def test_there_are_all_of_them_and_none_twice() -> None:
    assert {name: len(rows) for name, rows in digits().items()} == {"train": 1076, "validation": 272, "test": 449}
    assert list(digits()) == ["train", "validation", "test"]
    every = [picture.tobytes() for split in digits() for picture in pixels(split)]
    assert len(set(every)) == 1797
    assert len({one for rows in digits().values() for one in rows["id"]}) == 1797


@pytest.mark.parametrize(("split", "share"), [("train", 0.6), ("validation", 0.15), ("test", 0.25)])
def test_each_split_has_its_share_of_each_class(split: str, share: float) -> None:
    whole = Counter(label for rows in digits().values() for label in rows["label"])
    assert sorted(whole) == [str(digit) for digit in range(10)]
    for label, count in Counter(digits()[split]["label"]).items():
        assert abs(count - share * whole[label]) <= 1


def test_they_are_those_of_the_source_on_the_scale_of_bytes() -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    for split, rows in digits().items():
        places = [int(one.removeprefix("digit-")) for one in rows["id"]]
        assert places == sorted(places)
        assert rows["label"][:] == [str(source.target[place]) for place in places]
        assert np.array_equal(np.rint(pixels(split) / 255 * 16), source.images[places])
        assert pixels(split).max() == 255


def test_they_need_no_pillow() -> None:
    first = "print(digits()['test'][0]['image'][0])"
    program = f"import sys; sys.modules['PIL'] = None; from hfstrat.data.builtin_digits import digits; {first}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(digits()["test"][0]["image"][0])


def test_the_splits_are_the_same_everywhere() -> None:
    first = {name: [one.removeprefix("digit-") for one in rows["id"][:6]] for name, rows in digits().items()}
    assert first == {
        "train": ["2", "4", "5", "7", "8", "10"],
        "validation": ["25", "51", "57", "60", "66", "73"],
        "test": ["0", "1", "3", "6", "9", "15"],
    }
