"""Arrays that are not there read like those that are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfstrat.tasks.base import Ragged
from hfstrat.tasks.implied import Steps, numbers

SIZES = st.integers(1, 60), st.integers(1, 9)


def written_out(tokens: int, step: int) -> tuple[Steps, np.ndarray]:
    pieces = -(-tokens // step)
    return Steps(pieces + 1, step, tokens), np.minimum(step * np.arange(pieces + 1), tokens)


@given(*SIZES)
def test_they_say_what_is_written_out(tokens, step):
    implied, real = written_out(tokens, step)
    places = np.array([0, len(real) - 1, -1, len(real) // 2])
    for found, true in ((implied, real), (implied.lengths, np.diff(real))):
        assert len(found) == len(true)
        assert found.shape == true.shape
        assert found.dtype == true.dtype
        assert np.array_equal(found, true)
        assert np.array_equal(found[1:-1], true[1:-1])
        inside = places[places < len(true)]
        assert np.array_equal(found[inside], true[inside])
        assert found[0] == true[0]
        assert found[-1] == true[-1]
        with pytest.raises(IndexError):
            found[np.array([0, len(true)])]
    assert implied.lengths.max() == np.diff(real).max()
    assert implied.lengths.sum() == np.diff(real).sum()
    assert np.array_equal(numbers(tokens), np.arange(tokens))


@given(*SIZES)
def test_rows_that_begin_at_them_are_the_same_rows(tokens, step):
    implied, real = written_out(tokens, step)
    one, other = (Ragged(np.arange(tokens) * 7, offsets) for offsets in (implied, real))
    assert len(one) == len(other)
    rows = np.arange(len(one))[::-2]
    for first, second in zip(one.padded(rows, -1, left=True), other.padded(rows, -1, left=True), strict=True):
        assert np.array_equal(first, second)
    assert np.array_equal(one.taken(rows).values, other.taken(rows).values)
