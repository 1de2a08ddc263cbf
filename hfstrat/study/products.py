"""Which bfloat16 products a run makes, told from those of a few passes: oneDNN compiles and keeps each of them.

A product has sides that are alike in all passes, such as a layer's width, and sides that are the pass's own: its
examples, its tokens. Another pass has others in their place, so that its products are known without making it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from hfstrat.data.batching import Batch
from hfstrat.tasks.base import DECODER
from hfstrat.training.arithmetic import Product

Sides = tuple[int, ...]
"""A forward pass's own sides, in one order for all passes of a kind. A number is the first of them that it equals."""
Own = tuple[int, int]
"""In the place of a number: which of a pass's own sides it is, and how often it is taken."""


class _Pattern(NamedTuple):
    """A product of any pass."""

    operation: str
    shapes: tuple[tuple[int | Own, ...], ...]
    turned: tuple[bool, ...]

    def filled(self, sides: Sides) -> Product:
        """The product of a pass."""
        shapes = (
            tuple(sides[number[0]] * number[1] if isinstance(number, tuple) else number for number in shape)
            for shape in self.shapes
        )
        return Product(self.operation, tuple(shapes), self.turned)


def sides_of(batch: Batch) -> Sides:
    """Tokens with padding, outputs, lengths and examples of a forward pass."""
    read = [batch.inputs[name] for name in ("input_ids", DECODER) if name in batch.inputs]
    windows = len(next(iter(batch.inputs.values())))
    return (*(tensor.numel() for tensor in read), len(batch.units), *(tensor.shape[1] for tensor in read), windows)


def products_of_all(
    counted: Sequence[tuple[Sequence[Sides], set[Product]]], passes: Iterable[Sequence[Sides]]
) -> set[Product]:
    """The products of all passes.

    Args:
        counted: Passes that were made: the sides of each forward pass in them, and all their products.
        passes: The sides of each forward pass of all of them.
    """
    made = [products for _, products in counted]
    found: set[Product] = set().union(*made)
    if len(made) < 2:  # all are of one size, or there would be more
        return found
    alike = set.intersection(*({number for product in each for number in _numbers(product)} for each in made))
    supposed = {
        _Pattern(product.operation, shapes, product.turned)
        for cuts, products in counted
        for product in products
        for shapes in _explained(product, cuts, alike)
    }
    # Numbers may be equal by chance: what is no product of some other pass that was made is none of the rest either.
    patterns = [
        pattern
        for pattern in supposed
        if all(pattern.filled(sides) in products for cuts, products in counted for sides in cuts)
    ]
    for sides in {sides for cuts in passes for sides in cuts}:
        found |= {pattern.filled(sides) for pattern in patterns}
    return found


def _numbers(product: Product) -> Iterable[int]:
    return (number for shape in product.shapes for number in shape)


def _explained(product: Product, cuts: Sequence[Sides], alike: set[int]) -> Iterator[tuple[tuple[int | Own, ...], ...]]:
    """Its shapes with a pass's own sides in them: of each pass, and with those numbers left that all passes have."""
    for sides in cuts:
        for spared in (alike, set[int]()):
            yield tuple(
                tuple(_own(number, sides, spared, len(shape) == 3 and place == 0) for place, number in enumerate(shape))
                for shape in product.shapes
            )


def _own(number: int, sides: Sides, spared: set[int], is_first_of_three: bool) -> int | Own:
    if number in sides and number not in spared:
        return sides.index(number), 1
    if is_first_of_three and number % sides[-1] == 0:  # examples times heads
        return len(sides) - 1, number // sides[-1]
    return number
