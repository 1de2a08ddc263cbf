"""Arrays whose numbers follow from their places, so that they take no memory however long they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.integer[Any]]


class Implied:
    """What reads like an array `(size,)`: by a place, a slice, or an array of places."""

    size: int
    dtype = np.dtype(np.int64)

    @property
    def shape(self) -> tuple[int]:
        """As of an array."""
        return (self.size,)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, places: Any) -> Any:
        if isinstance(places, slice):
            return self._at(np.arange(*places.indices(self.size)))
        places = np.asarray(places)
        if ((places < -self.size) | (places >= self.size)).any():
            raise IndexError(f"{places} of {self.size}")
        found = self._at(np.where(places < 0, places + self.size, places).astype(np.int64))
        return found if found.ndim else int(found)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All of it, for whoever cannot do without."""
        return self._at(np.arange(self.size)).astype(dtype or self.dtype)

    def _at(self, places: Places) -> Places:
        raise NotImplementedError


@dataclass(frozen=True)
class Steps(Implied):
    """Where pieces of one length begin, of which the last may be shorter: `min(step · place, end)`.

    Args:
        size: How many numbers there are: the pieces, and one for the end.
        step: Length of a piece.
        end: Where the last one ends.
    """

    size: int
    step: int
    end: int

    @property
    def lengths(self) -> Lengths:
        """The length of each piece."""
        return Lengths(self.size - 1, self.step, self.end - self.step * (self.size - 2))

    def _at(self, places: Places) -> Places:
        return np.minimum(self.step * places, self.end)


@dataclass(frozen=True)
class Lengths(Implied):
    """Lengths of pieces that are alike, but for the last one.

    Args:
        size: How many pieces there are.
        each: Length of all but the last.
        last: Length of the last one, no more than that.
    """

    size: int
    each: int
    last: int

    def max(self, initial: int = 0) -> int:
        """The longest."""
        return max(initial, self.each if self.size > 1 else self.last)

    def sum(self) -> int:
        """All together."""
        return self.each * (self.size - 1) + self.last

    def _at(self, places: Places) -> Places:
        return np.where(places == self.size - 1, self.last, self.each)


def numbers(size: int) -> Steps:
    """The numbers from 0."""
    return Steps(size, 1, size)


@dataclass(frozen=True)
class Numbered(Sequence[str]):
    """Names of pieces that differ by their number.

    Args:
        name: What they have in common.
        size: How many there are.
    """

    name: str
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(self.size))]
        if not -self.size <= place < self.size:
            raise IndexError(place)
        return f"{self.name}#{place % self.size}"
