"""digits: small pictures of written numerals that every machine with scikit-learn has on its disk."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hfstrat.data.builtin import SHARES

if TYPE_CHECKING:
    from datasets import Dataset

SIDE = 8
BRIGHTEST = 16  # of the greys as they are published


@cache
def digits() -> dict[str, Dataset]:
    """1,797 numerals by 43 people, from the test set of Alpaydin and Kaynak's digits (UCI, 1998).

    About 60 % of each class is for training, 15 % for validation and 25 % for testing, by a hash of the pixels; no
    picture occurs twice. Writers are not known, so one may be in several splits.

    Returns:
        `train`, `validation` and `test` with the columns `id`, `image` (uint8 `(8, 8)`, 0 to 255) and `label` (`0` to
        `9`), rows in the order of the source.
    """
    from datasets import Array2D, Dataset, Features, Value
    from sklearn.datasets import load_digits

    source = load_digits()
    pictures = np.rint(source.images * (255 / BRIGHTEST)).astype(np.uint8)
    labels = [str(label) for label in source.target]
    chosen = _places(pictures, labels)
    features = Features({"id": Value("string"), "image": Array2D((SIDE, SIDE), "uint8"), "label": Value("string")})
    found = {}
    for split in SHARES:
        places = [place for place, one in enumerate(chosen) if one == split]
        columns = {
            "id": [f"digit-{place}" for place in places],
            "image": [pictures[place] for place in places],
            "label": [labels[place] for place in places],
        }
        found[split] = Dataset.from_dict(columns, features=features)
    return found


def _places(pictures: npt.NDArray[np.uint8], labels: list[str]) -> list[str]:
    """The split of each picture: in the order of their hashes, to the split that lacks most of its class's share."""
    keys = [hashlib.sha256(picture.tobytes()).digest() for picture in pictures]
    have: Counter[tuple[str, str]] = Counter()
    splits = [""] * len(keys)
    for place in sorted(range(len(keys)), key=keys.__getitem__):
        label = labels[place]
        splits[place] = min(SHARES, key=lambda split: have[label, split] / SHARES[split])
        have[label, splits[place]] += 1
    return splits
