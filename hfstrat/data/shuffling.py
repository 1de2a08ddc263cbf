"""A random order that is computed where it is asked for, so that it takes no memory however much there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_ROUNDS = 6  # four are enough for a permutation that cannot be told from a random one (Luby & Rackoff 1988)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of SplitMix64
Places = npt.NDArray[np.int64]


class Shuffled:
    """A permutation of the numbers below `size`: a Feistel network over as many bits as it takes.

    What it gives beyond `size` is put in again until it is below (cycle walking: Black & Rogaway 2002), which leaves a
    permutation and takes fewer than four rounds on average.

    Args:
        size: How many numbers there are.
        seed: What the order depends on, with the epoch.
        epoch: Number of the epoch, from 0.
    """

    def __init__(self, size: int, seed: int, epoch: int) -> None:
        self.size = size
        self._half = np.uint64(max(1, -(-max(1, size - 1).bit_length() // 2)))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        draw = np.random.Generator(np.random.PCG64([seed, epoch]))
        self._keys = draw.integers(0, 2**64, _ROUNDS, np.uint64)

    def __len__(self) -> int:
        return self.size

    def at(self, places: npt.NDArray[np.integer[Any]]) -> Places:
        """What stands at some places `(n,)`."""
        found = self._once(np.asarray(places).astype(np.uint64))
        while (beyond := found >= self.size).any():
            found[beyond] = self._once(found[beyond])
        return found.astype(np.int64)

    def _once(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            mixed = right + key
            mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[0]
            mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[1]
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(31))) & self._mask)
        return (left << self._half) | right


class ShuffledBatches(Sequence[npt.NDArray[np.int64]]):
    """A random order cut into batches, of which the last may be smaller.

    Args:
        order: The order.
        batch_size: Examples of a batch.
    """

    def __init__(self, order: Shuffled, batch_size: int) -> None:
        self._order, self._batch_size = order, batch_size

    def __len__(self) -> int:
        return -(-len(self._order) // self._batch_size)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        start = number * self._batch_size
        return self._order.at(np.arange(start, min(start + self._batch_size, len(self._order))))
