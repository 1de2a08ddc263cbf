"""Floating-point operations: of few batches counted by PyTorch, of all others told from their sizes.

PyTorch's counter looks at each operation, which takes longer than many an operation itself. What a model computes for
a batch is, but for few architectures, a sum of what its size has, so that three batches say what all take.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._C import DispatchKey
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from hfstrat.data.batching import Batch
from hfstrat.tasks.base import DECODER, FloatArray

_APART = 1.5  # by which factor a batch is larger or smaller than those that were counted, to be counted as well
_ROUNDING = 1e-9  # of a size, that is no size of its own
_COMPOSITE = DispatchKey.CompositeImplicitAutograd
_PRODUCTS = {getattr(torch.ops.aten, name) for name in ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_")}
_SMALL = 16**3  # multiplications of a bfloat16 product up to which PyTorch makes it itself


class Product(NamedTuple):
    """A bfloat16 product of matrices, as far as another one that is alike can be computed by the same code.

    Args:
        operation: Its name.
        shapes: Of both factors.
        turned: Which of them lie in memory by columns.
    """

    operation: str
    shapes: tuple[tuple[int, ...], ...]
    turned: tuple[bool, ...]

    @property
    def is_kept(self) -> bool:
        """Whether oneDNN makes it, which keeps what it compiles."""
        return math.prod(self.shapes[0]) * self.shapes[1][-1] > _SMALL


class Counter(TorchDispatchMode):
    """Counts floating-point operations while it is entered, a product with a sum as two.

    It is PyTorch's `FlopCounterMode` without the count by module, whose hooks fail in inference mode on modules that
    are given parameters, and with the operations that one does not know.

    Attributes:
        flops: The count.
        products: The bfloat16 products of matrices.
    """

    supports_higher_order_operators = True  # such as flex attention

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0
        self.products: set[Product] = set()
        self._formulas = {**flop_registry, **_more()}
        # On a CPU it makes its weight whole and multiplies by that.
        self._of_four_bits = torch.ops.bitsandbytes.gemm_4bit if "bitsandbytes" in sys.modules else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return self._counted(func, func(*args, **kwargs), args, kwargs)
        # In inference mode an operation may come whole that is made of others; which device tensors that are not
        # there are on is not one. It is taken apart by PyTorch's own kernel: `decompose` prefers formulas in Python,
        # which round otherwise.
        may_be_whole = torch.is_inference_mode_enabled() and func is not torch.ops.prim.device.default
        if may_be_whole and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE):
            with self:
                return func._op_dk(_COMPOSITE, *args, **kwargs)
        return self._counted(func.overloadpacket, func(*args, **kwargs), args, kwargs)

    def _counted(self, operation: Any, result: Any, args: Any, kwargs: Any) -> Any:
        formula = self._formulas.get(operation)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
            factors = [value for value in args if isinstance(value, torch.Tensor)][-2:]
            if operation in _PRODUCTS and factors[0].dtype == torch.bfloat16:
                shapes = tuple(tuple(map(int, value.shape)) for value in factors)
                turned = tuple(value.stride(-1) != 1 for value in factors)
                self.products.add(Product(str(operation), shapes, turned))
            elif operation is self._of_four_bits and args[0].dtype == torch.bfloat16:
                rows, (wide, long) = args[0].numel() // int(args[2][1]), map(int, args[2])
                self.products.add(Product(str(operation), ((rows, long), (long, wide)), (False, True)))
        return result


def _more() -> dict[Any, Any]:
    """Formulas that PyTorch lacks: of attention on a CPU, products added in place, and products with 4-bit weights."""

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query.shape, key.shape, value.shape))

    def backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))

    def product(given: Any, packed: Any, shape: Any, *_: Any, **__: Any) -> int:
        return 2 * int(given.numel()) * int(shape[0])

    aten = torch.ops.aten
    found = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
        aten.addmm_: flop_registry[aten.addmm],
        aten.baddbmm_: flop_registry[aten.baddbmm],
    }
    if "bitsandbytes" in sys.modules:  # what registers the operation
        found[torch.ops.bitsandbytes.gemm_4bit] = product
    return found


def rates(sizes: FloatArray, flops: FloatArray) -> FloatArray:
    """Operations for each unit of each size, `(sizes,)`.

    Args:
        sizes: Of batches that were counted, `(batches, sizes)`.
        flops: Of each of them, `(batches,)`.
    """
    scale = np.maximum(np.abs(sizes).max(axis=0, initial=0), 1)
    found: FloatArray = np.linalg.lstsq(sizes / scale, flops, rcond=None)[0] / scale
    return found


def size_of(*batches: Batch) -> FloatArray:
    """What the operations on batches grow with: tokens with padding, windows, squared lengths, outputs.

    Of pictures and sounds numbers of the input take the place of tokens.
    """
    found: FloatArray = np.sum([_size_of_one(batch) for batch in batches], axis=0)
    return found


def _size_of_one(batch: Batch) -> FloatArray:
    read = [batch.inputs[name] for name in ("input_ids", DECODER) if name in batch.inputs]
    widest = read or [max(batch.inputs.values(), key=lambda tensor: tensor.numel())]
    numbers = [float(tensor.numel()) for tensor in widest]
    windows = len(widest[0])
    # Each attends to itself, and what is written to what is read.
    squares = [one * other / max(1, windows) for one, other in combinations_with_replacement(numbers, 2)]
    return np.array([*numbers, windows, *squares, len(batch.units)], np.float64)


class _Counted:
    """Sizes of passes that were counted, and whether they tell what another one takes."""

    def __init__(self) -> None:
        self._span: list[FloatArray] = []
        self._near: set[int] = set()
        self._scale: Any = None

    def tell_of(self, size: FloatArray) -> bool:
        """Whether a pass of this size needs not be counted."""
        return self._apart(size) is None and _place(size) in self._near

    def add(self, size: FloatArray) -> None:
        """A pass of this size was counted."""
        direction = self._apart(size)
        if direction is not None:
            self._span.append(direction)
        self._near.add(_place(size))

    def _apart(self, size: FloatArray) -> FloatArray | None:
        """What of a size is no sum of those that were counted, of length 1; None where it is."""
        if self._scale is None:
            self._scale = np.where(size > 0, size, 1.0)
        rest: FloatArray = size / self._scale
        length = float(np.linalg.norm(rest))
        for direction in self._span:
            rest = rest - (rest @ direction) * direction
        left = float(np.linalg.norm(rest))
        return rest / left if left > _ROUNDING * length else None


def _place(size: FloatArray) -> int:
    return round(math.log(max(size[0], 1.0), _APART))


def telling(sizes: FloatArray) -> list[int]:
    """Places of the passes that a `Meter` would count of these.

    Args:
        sizes: What they grow with, `(passes, sizes)`.
    """
    counted, found = _Counted(), []
    for place, size in enumerate(sizes):
        if not counted.tell_of(size):
            counted.add(size)
            found.append(place)
    return found


class Meter:
    """Counts what passes of one kind take: those of sizes that tell something new, as they are made.

    The count is exact where what a model computes is a sum of what sizes have; where it is not, it lies between batches
    that were counted, of which there is one for about each half more.
    """

    def __init__(self) -> None:
        self._sizes: list[FloatArray] = []
        self._flops: list[float] = []
        self._counted = _Counted()
        self._whole: Any = 0.0
        self._rates: Any = 0.0

    @property
    def flops(self) -> float:
        """Of all passes so far."""
        return float(np.sum(self._whole * self._rates))

    @contextmanager
    def told(self, hear: Callable[[float], None]) -> Iterator[None]:
        """Tell what the passes in between take, once they are made."""
        before = self.flops
        yield
        hear(self.flops - before)

    @contextmanager
    def around(self, size: FloatArray) -> Iterator[None]:
        """Count a pass; one that does not end well counts for nothing.

        Args:
            size: What it grows with, `(sizes,)`, the same for all passes of this kind.
        """
        if self._counted.tell_of(size):
            yield
        else:
            with Counter() as counted:
                yield
            self._counted.add(size)
            self._sizes.append(size)
            self._flops.append(counted.flops)
            self._rates = rates(np.stack(self._sizes), np.array(self._flops))
        self._whole = self._whole + size
