"""Which rows go where: shares, strata, limits, and that the choice is made again the same."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given
from hypothesis import strategies as st

from hfstrat.data.sources import Loaded
from hfstrat.data.splits import Splits, choose, in_order, split
from hfstrat.errors import DataError
from hfstrat.recipe.data import MemoryData, PerClass


def rows(labels: list[Any], prefix: str = "text") -> Dataset:
    return Dataset.from_dict({"text": [f"{prefix} {place}" for place in range(len(labels))], "label": labels})


def loaded(**splits: Dataset) -> Loaded:
    return Loaded(splits, "0" * 64, "memory")


def positions(part: Dataset | None) -> list[int]:
    assert part is not None
    return part["_row"][:]


LABELS = ["a"] * 60 + ["b"] * 30 + ["c"] * 10


def test_fractions_are_stratified_disjoint_and_whole() -> None:
    got = split(loaded(train=rows(LABELS)), MemoryData(), "label")
    assert Counter(got.test["label"][:]) == {"a": 12, "b": 6, "c": 2}
    assert Counter(got.validation["label"][:]) == {"a": 5, "b": 2, "c": 1}
    places = positions(got.train) + positions(got.validation) + positions(got.test)
    assert sorted(places) == list(range(100))
    assert positions(got.train) == sorted(positions(got.train))
    assert any("20 % of train (20 rows), stratified by label, seed 0" in reason for reason in got.reasons)
    assert [name for name, _ in got.items()] == ["train", "validation", "test"]


def test_rows_keep_their_position_and_text() -> None:
    data = rows(LABELS)
    for _, part in split(loaded(train=data), MemoryData(), "label").items():
        assert part["text"][:] == [data["text"][place] for place in part["_row"][:]]


def test_the_choice_does_not_change_between_versions() -> None:
    """Golden: a change here changes the split of every recipe that gives a fraction."""
    assert choose(["a"] * 6 + ["b"] * 4, 4, (0, 1)).tolist() == GOLDEN_SMALL
    got = split(loaded(train=rows(LABELS)), MemoryData(seed=3), "label")
    assert positions(got.test)[:8] == GOLDEN_TEST


GOLDEN_SMALL = [4, 5, 7, 9]
GOLDEN_TEST = [14, 19, 24, 28, 34, 42, 43, 45]


def test_seeds_differ_and_repeat() -> None:
    def test_rows(seed: int) -> list[int]:
        return positions(split(loaded(train=rows(LABELS)), MemoryData(seed=seed), "label").test)

    assert test_rows(1) == test_rows(1) != test_rows(2)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.data())
def test_choose_keeps_its_promises(strata: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(strata)))
    chosen = choose(strata, count, (0, 1))
    assert len(chosen) == count == len(set(chosen.tolist()))
    assert np.all(np.diff(chosen) > 0)
    sizes, taken = Counter(strata), Counter(strata[row] for row in chosen)
    several = [name for name in sizes if sizes[name] >= 2]
    if len(several) <= count <= sum(size - 1 for size in sizes.values()):
        assert all(1 <= taken[name] < sizes[name] for name in several)
        assert all(taken[name] == 0 for name in sizes if sizes[name] == 1)


def test_rare_classes_stay_in_train() -> None:
    got = split(loaded(train=rows(["a"] * 50 + ["b"] * 49 + ["once"])), MemoryData(), "label")
    assert "once" in got.train["label"][:]


def test_numbers_and_too_many_labels_are_split_at_random() -> None:
    got = split(loaded(train=rows([place / 7 for place in range(50)])), MemoryData(), "label")
    assert (len(got.train), len(got.validation), len(got.test)) == (36, 4, 10)
    assert any("at random, because the label is a number" in reason for reason in got.reasons)
    got = split(loaded(train=rows([str(place % 25) for place in range(50)])), MemoryData(), "label")
    assert any("too few for 25 labels" in reason for reason in got.reasons)
    assert len(got.test) == 10


def test_no_label_lists_and_label_columns() -> None:
    assert len(split(loaded(train=rows(LABELS)), MemoryData(), None).test) == 20
    lists = [["x"], ["x", "y"]] * 20
    assert len(split(loaded(train=rows(lists)), MemoryData(), "label").test) == 8
    flags = rows(LABELS).add_column("one", [0, 1] * 50).add_column("two", [0, 0, 1, 1] * 25)
    got = split(loaded(train=flags), MemoryData(), ("one", "two"))
    assert Counter(zip(got.test["one"][:], got.test["two"][:], strict=True)) == dict.fromkeys(
        [(0, 0), (1, 0), (0, 1), (1, 1)], 5
    )


def test_equal_texts_stay_on_one_side() -> None:
    data = Dataset.from_dict(
        {"text": [f"Text  {place // 4}" + " " * (place % 2) for place in range(80)], "label": [0, 1] * 40}
    )
    got = split(loaded(train=data), MemoryData(), "label")
    sides = [{text.split()[1] for text in part["text"][:]} for _, part in got.items()]
    assert sum(map(len, sides)) == 20
    assert any("rows of the same text" in reason for reason in got.reasons)


def test_named_splits_are_taken_whole() -> None:
    data = loaded(train=rows(LABELS), dev=rows(["a", "b"], "v"), held=rows(["a"] * 3, "t"))
    got = split(data, MemoryData(validation="dev", test="held", limit=20), "label")
    assert (len(got.train), len(got.validation), len(got.test)) == (20, 2, 3)
    assert "test: split held, 3 rows" in got.reasons


def test_auto_takes_validation_and_test_and_the_only_split() -> None:
    data = loaded(train=rows(LABELS), validation=rows(["a"] * 4, "v"), test=rows(["a"] * 5, "t"))
    got = split(data, MemoryData(), "label")
    assert (len(got.train), len(got.validation), len(got.test)) == (100, 4, 5)
    assert len(split(loaded(corpus=rows(LABELS)), MemoryData(), "label").train) == 72


def test_a_test_split_without_labels_is_not_used() -> None:
    hidden = rows([-1, -1], "t")
    got = split(loaded(train=rows([0, 1] * 20), test=hidden), MemoryData(), "label")
    assert len(got.test) == 8
    assert any("has no labels and is not used" in reason for reason in got.reasons)


def test_limits_cut_train_and_validation_but_not_test() -> None:
    data = loaded(train=rows(LABELS), validation=rows(LABELS, "v"), test=rows(LABELS, "t"))
    got = split(data, MemoryData(limit=20), "label")
    assert Counter(got.train["label"][:]) == {"a": 12, "b": 6, "c": 2}
    assert (len(got.validation), len(got.test)) == (20, 100)
    got = split(data, MemoryData(limit=PerClass(per_class=16)), "label")
    assert Counter(got.train["label"][:]) == {"a": 16, "b": 16, "c": 10}
    assert len(got.test) == 100
    assert any("cut from 100 to 42 rows, at most 16 of each class" in reason for reason in got.reasons)
    with pytest.raises(DataError, match="needs a label with classes"):
        split(data, MemoryData(limit=PerClass(per_class=2)), None)


def test_smaller_limits_are_parts_of_larger_ones() -> None:
    """So that a learning curve adds rows instead of exchanging them."""
    data = loaded(train=rows(LABELS), validation=rows(LABELS, "v"), test=rows(LABELS, "t"))

    def kept(limit: Any, seed: int = 0) -> set[int]:
        return set(positions(split(data, MemoryData(limit=limit, seed=seed), "label").train))

    for n in range(1, 40):
        assert kept(n) < kept(n + 1)
        assert len(kept(n)) == n
    for n in range(1, 10):
        assert kept(PerClass(per_class=n)) < kept(PerClass(per_class=n + 1))
    # Of each class, rows come in one order however they are counted.
    labels = data.splits["train"]["label"][:]
    for name in "abc":
        counted, by_class = (
            {row for row in kept(limit) if labels[row] == name} for limit in (20, PerClass(per_class=4))
        )
        assert counted <= by_class or by_class <= counted
    assert kept(20) != kept(20, seed=1)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.data())
def test_each_beginning_of_the_order_has_each_stratum_by_its_share(strata: list[int], data: st.DataObject) -> None:
    order = in_order(strata, (0, 3))
    assert sorted(order.tolist()) == list(range(len(strata)))
    count = data.draw(st.integers(0, len(strata)))
    sizes, taken = Counter(strata), Counter(strata[row] for row in order[:count])
    assert len(taken) == min(count, len(sizes))
    for name, size in sizes.items():
        assert abs(taken[name] - count * size / len(strata)) <= len(sizes)


def test_class_labels_and_tiny_data() -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    data = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    got = split(loaded(train=data), MemoryData(), "label")
    assert (len(got.train), got.validation, len(got.test)) == (1, None, 1)
    assert got.train.features["label"].names == ["no", "yes"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (MemoryData(test="tset"), "Did you mean 'test'"),
        (MemoryData(train="nowhere"), "has no split 'nowhere'"),
        (MemoryData(validation="test"), "split 'test' is used for both validation and test"),
        (MemoryData(test="train"), "split 'train' is used for both train and test"),
    ],
)
def test_wrong_names(spec: MemoryData, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(loaded(train=rows(LABELS), test=rows(LABELS, "t")), spec, "label")


def test_several_splits_without_train_and_the_reserved_column() -> None:
    with pytest.raises(DataError, match="no split named train"):
        split(loaded(a=rows(LABELS), b=rows(LABELS)), MemoryData(), "label")
    with pytest.raises(DataError, match="'_row' is used by hfstrat"):
        split(loaded(train=rows(LABELS).rename_column("text", "_row")), MemoryData(), "label")


def test_splits_are_frozen() -> None:
    got = Splits(rows(["a"]), None, None, ())
    with pytest.raises(AttributeError):
        got.train = rows(["b"])  # type: ignore[misc]
