"""A random order that is computed where it is asked for."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hfstrat.data.shuffling import Shuffled, ShuffledBatches


@given(st.integers(1, 3000), st.integers(0, 9), st.integers(0, 9), st.integers(1, 70))
def test_every_example_comes_once_an_epoch(size, seed, epoch, batch_size):
    batches = ShuffledBatches(Shuffled(size, seed, epoch), batch_size)
    assert sorted(np.concatenate(list(batches))) == list(range(size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


def test_the_order_is_a_function_of_seed_and_epoch():
    places = np.arange(5000)
    first = Shuffled(5000, 3, 1).at(places)
    assert np.array_equal(first, Shuffled(5000, 3, 1).at(places))
    assert np.array_equal(first[[7, 11]], Shuffled(5000, 3, 1).at(np.array([7, 11])))
    for seed, epoch in ((3, 0), (3, 2), (4, 1), (1, 3)):
        other = Shuffled(5000, seed, epoch).at(places)
        assert (first == other).mean() < 0.01
        assert abs(stats.spearmanr(first, other).statistic) < 0.06


@pytest.mark.parametrize("size", [8, 37, 1000])
def test_each_place_is_as_likely(size):
    """Where the first, the middle and the last example come to stand, over many seeds (χ², one in 10,000)."""
    seeds = 200 * min(size, 40)
    for place in (0, size // 2, size - 1):
        found = np.array([Shuffled(size, seed, 0).at(np.array([place]))[0] for seed in range(seeds)])
        counts = np.bincount(found * min(size, 40) // size, minlength=min(size, 40))
        expected = np.bincount(np.arange(size) * min(size, 40) // size) * seeds / size
        assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_neighbours_are_parted():
    """What stands side by side in a stream is no more often side by side in an epoch than chance has it."""
    order = Shuffled(100_000, 1, 0).at(np.arange(100_000))
    beside = int((np.abs(np.diff(order)) == 1).sum())
    assert stats.poisson.sf(beside - 1, 2) > 1e-4
    assert abs(stats.spearmanr(order[:-1], order[1:]).statistic) < 0.02


def test_any_number_takes_no_memory():
    tracemalloc.start()
    try:
        batches = ShuffledBatches(Shuffled(10**12, 1, 0), 64)
        found = np.concatenate([batches[place] for place in (0, 10**9, len(batches) - 1)])
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert len(set(found)) == 3 * 64
    assert ((found >= 0) & (found < 10**12)).all()
