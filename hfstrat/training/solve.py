"""Solve: linear output layers by preconditioned L-BFGS on features that do not change, one or many at once.

A strength after the other, strongest first, and all problems of a strength together. What makes a path cheap, most
effective first:

- The curvature of each output is known well enough to undo most of it: the rows that matter to it and a diagonal for
  the rest, inverted by Woodbury's identity (`_precondition`).
- A strength begins where the last two lead to, and keeps the curvature pairs of the one before (`_begin`).
- A step needs two products with the features: the line search works on logits, which are linear in the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from hfstrat.training.arithmetic import Meter

# A path has passed its optimum when this many strengths in a row were worse than the best.
PATIENCE = 3
# Largest entry of a gradient at an optimum. Features are scaled, so that it means the same for every model.
TOLERANCE = 5e-7
# Curvature pairs of L-BFGS that are kept, and those that are taken along to the next strength. Most strengths take
# fewer steps; where one takes more, 30 pairs may make it four times as many. Of those taken along, old ones do harm.
PAIRS = 100
TAKEN_ALONG = 30
# Rows that stand for the curvature of an output. On banking77, 128 save a tenth of the steps, which does not pay.
ROWS = 64
# Steps until the curvature is looked at again.
REFRESH = 20
# Random signs for the diagonal of a Hessian.
PROBES = 4
# Tries of a line search.
TRIES = 20
# Problems share one product with the rows of all when they have this share of them, though it wastes the others: for
# few classes the time is that of reading the features, for many a wider product is a little faster.
SHARED = 0.5
# Share of the first slope at which a line search ends. At 0.9, which is usual, banking77 takes a third more steps.
FLAT = 0.3
_PARTS = ("begin", "step", "precondition", "score")
# Outputs are filled up to a multiple of this; the product of 9 000 × 385 with 77 columns takes a third longer than
# with 80 on a CPU with AVX-512.
ALIGN = 16

RowLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Losses `(r,)` from logits `(r, classes)`, int64 rows `(r,)` of the features and int64 problems `(r,)`."""
_Losses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Losses `(problems,)` from logits `(problems, n, classes)` and int64 problems `(problems,)`."""


@dataclass(frozen=True)
class Solution:
    """An output layer.

    Args:
        weight: `(classes, features)`.
        bias: `(classes,)`; None for a layer without one.
        l2: The strength it was solved with.
        path: Every strength tried, with its validation score.
        flops: Floating-point operations that all of them took.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    l2: float
    path: tuple[tuple[float, float], ...]
    flops: float = 0.0

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits `(n, classes)` of features `(n, features)`."""
        return nn.functional.linear(features, self.weight, self.bias)


@dataclass(frozen=True)
class Solutions:
    """Output layers: of each problem at each strength.

    Args:
        weight: `(problems, strengths, classes, features)`.
        bias: `(problems, strengths, classes)`; None for layers without one.
        l2: The strengths, as they were given.
        grad_norm: Largest entry of each gradient on scaled features, `(problems, strengths)`.
        iterations: Steps that each took from the strength before, int64 `(problems, strengths)`.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    l2: tuple[float, ...]
    grad_norm: torch.Tensor
    iterations: torch.Tensor

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits `(problems, strengths, n, classes)` of features `(n, features)`."""
        found = features @ self.weight.mT
        return found if self.bias is None else found + self.bias[..., None, :]


def solve(
    features: torch.Tensor,
    loss: Callable[[torch.Tensor], torch.Tensor],
    classes: int,
    l2: tuple[float, ...],
    score: Callable[[Callable[[torch.Tensor], torch.Tensor]], float],
    *,
    bias: bool = True,
    max_iterations: int = 200,
    progress: Callable[[float, float], None] | None = None,
) -> Solution:
    """Minimise mean loss + λ/2·‖W‖² for each λ, strongest first, and keep the one that scores best.

    Features are scaled to unit mean square norm, so that a strength means the same for every model; the scale goes
    into the returned weights.

    Args:
        features: Training features, float32 or float64 `(n, features)`.
        loss: Mean training loss, a scalar tensor, from logits `(n, classes)`: convex, twice differentiable, and a sum
            over rows.
        classes: Width of the output.
        l2: The strengths λ.
        score: Validation score of a function from features to logits; higher is better.
        bias: Whether the layer has a bias.
        max_iterations: L-BFGS iterations for each strength.
        progress: Called with each strength and its score.
    """
    scale = _scale(features)
    linear = _Linear.of(features[None] / scale, lambda logits, _: loss(logits[0])[None], bias)
    best: Solution | None = None
    path: list[tuple[float, float]] = []
    worse = 0
    for strength, state in _path(linear, 1, classes, l2, max_iterations, TOLERANCE):
        with linear.counting("score", 1):
            weight, offset = linear.layers(state.weight, scale)
            found = Solution(weight[0], None if offset is None else offset[0], strength, ())
            value = score(found.logits)
        path.append((strength, value))
        if progress is not None:
            progress(strength, value)
        best, worse = (found, 0) if best is None or value > max(v for _, v in path[:-1]) else (best, worse + 1)
        if worse >= PATIENCE:
            break
    assert best is not None, "a path has at least one strength"
    return replace(best, path=tuple(path), flops=linear.meter.flops)


def solve_many(
    features: torch.Tensor,
    loss: RowLoss,
    classes: int,
    l2: Sequence[float],
    weights: torch.Tensor,
    *,
    bias: bool = True,
    max_iterations: int = 200,
    tolerance: float = TOLERANCE,
    memory: int = 2**28,
) -> Solutions:
    """Minimise Σ wᵢ·lossᵢ + λ/2·‖W‖² for each row of `weights` and each λ: folds, subsets, resamples, other targets.

    Features are scaled to unit mean square norm over all rows, so that a strength means the same as in `solve`; the
    scale goes into the returned weights. A row without weight costs nothing. Problems are solved together as far as
    `memory` allows; that changes an optimum by rounding only.

    Args:
        features: float32 or float64 `(n, features)`.
        loss: Loss of each row, convex and twice differentiable.
        classes: Width of the output.
        l2: The strengths λ.
        weights: Weight of each row in each problem, `(problems, n)`. A mean is a weight of 1 / rows.
        bias: Whether the layers have a bias.
        max_iterations: L-BFGS iterations for each strength.
        tolerance: Largest entry of a gradient at an optimum, on scaled features.
        memory: Bytes for problems that are solved together, beside two copies of the features. A problem with n rows
            counts as 24·n·classes + n·features + (4·`PAIRS` + 3·`ROWS` + 10)·classes·features numbers; one alone is
            solved even where that is more.
    """
    scale = _scale(features)
    scaled = features / scale
    order = {strength: place for place, strength in enumerate(l2)}
    shape = (len(weights), len(order))
    found = Solutions(
        features.new_zeros(*shape, classes, features.shape[1]),
        features.new_zeros(*shape, classes) if bias else None,
        tuple(order),
        features.new_zeros(shape),
        torch.zeros(shape, dtype=torch.int64, device=features.device),
    )
    for chosen in _together(weights, classes, features.shape[1], memory // features.element_size()):
        linear = _Linear.subsets(scaled, loss, weights[chosen], chosen, bias)
        for strength, state in _path(linear, len(chosen), classes, l2, max_iterations, tolerance):
            place = order[strength]
            found.weight[chosen, place], offset = linear.layers(state.weight, scale)
            if found.bias is not None and offset is not None:
                found.bias[chosen, place] = offset
            found.grad_norm[chosen, place] = state.grad_norm()
            found.iterations[chosen, place] = state.iterations
    return found


def _scale(features: torch.Tensor) -> float:
    return float(features.square().sum(1).mean().sqrt().clamp(min=1e-12))


def _rows(count: int) -> int:
    """How many of `count` rows stand for the curvature of an output: fewer where a step costs little anyway."""
    return min(count, ROWS, max(16, count // 64))


def _taken_along(count: int) -> int:
    """How many pairs are taken along to the next strength, likewise."""
    return min(TAKEN_ALONG, max(2, count // 256))


def _together(weights: torch.Tensor, classes: int, width: int, numbers: int) -> Iterator[torch.Tensor]:
    """Problems to solve together: of about as many rows, within `numbers` of memory."""
    counts = (weights != 0).sum(1)
    order = counts.argsort(descending=True, stable=True)
    sizes = counts[order].tolist()
    first = 0
    while first < len(sizes):
        rows = sizes[first]
        each = rows * (24 * classes + width) + (4 * PAIRS + 3 * _rows(rows) + 10) * classes * width
        alike = sum(size >= 0.75 * rows for size in sizes[first:])
        size = max(1, min(alike, numbers // each))
        yield order[first : first + size]
        first += size


# --- the problems -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Linear:
    """Losses of linear layers on fixed inputs; p problems, n rows, d columns.

    Args:
        inputs: `(1, n, d)` when all problems have the same rows, else `(p, n, d)`: features less their mean, and ones
            for the bias.
        losses: As `_Losses`.
        penalised: 1 for a column with a penalty, 0 for the bias, `(d,)`.
        mean: What was taken off the features; `(1 or p, features)`; None for layers without a bias.
        squares: Mean square of each column, `(1 or p, d)`.
        width: Number of features.
        meter: Counts the arithmetic.
    """

    inputs: torch.Tensor
    losses: _Losses
    penalised: torch.Tensor
    mean: torch.Tensor | None
    squares: torch.Tensor
    width: int
    meter: Meter = field(default_factory=Meter)

    def counting(self, what: str, problems: int) -> AbstractContextManager[None]:
        """Count a part of the method, which takes the same each time for each problem."""
        return self.meter.around(problems * np.array([what == part for part in _PARTS], np.float64))

    @classmethod
    def of(cls, features: torch.Tensor, losses: _Losses, bias: bool) -> _Linear:
        """From features `(1 or p, n, features)`."""
        sets, rows, width = features.shape
        penalised = features.new_ones(width + bias)
        if not bias:
            return cls(features, losses, penalised, None, features.square().mean(1), width)
        # With a bias the mean is free to choose, and far from it a step of the weights is one of the bias too.
        mean = features.mean(1)
        inputs = features.new_ones(sets, rows, width + 1)
        torch.sub(features, mean[:, None], out=inputs[:, :, :width])
        penalised[width] = 0.0
        return cls(inputs, losses, penalised, mean, inputs.square().mean(1), width)

    @classmethod
    def subsets(
        cls, features: torch.Tensor, loss: RowLoss, weights: torch.Tensor, problems: torch.Tensor, bias: bool
    ) -> _Linear:
        """From features `(n, features)` and the weights `(p, n)` of their rows in `problems` `(p,)`."""
        used = weights != 0
        union = used.any(0)
        if int(used.sum()) >= SHARED * len(problems) * int(union.sum()):
            rows = union.nonzero().T
        else:
            # Rows with weight come first, in their order; problems with fewer rows are filled up with rows without.
            rows = used.int().argsort(dim=1, descending=True, stable=True)[:, : int(used.sum(1).max())]
        inputs = features[rows]
        share = weights.gather(1, rows.expand(len(problems), -1)).to(features.dtype)

        def losses(logits: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
            shape = logits.shape[:2]
            own = rows.expand(len(problems), -1)[which]
            number = problems[which, None].expand(shape)
            found = loss(logits.flatten(0, 1), own.flatten(), number.flatten())
            return (found.view(shape) * share[which]).sum(1)

        return cls.of(inputs, losses, bias)

    def logits(self, weight: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Logits `(p, n, classes)` of weights `(p, classes, d)`."""
        count, classes, _ = weight.shape
        if len(self.inputs) > 1:
            return torch.stack([_product(self.inputs[at], own) for at, own in zip(which.tolist(), weight, strict=True)])
        found = _product(self.inputs[0], weight.flatten(0, 1))
        return found.unflatten(1, (count, classes)).transpose(0, 1).contiguous()

    def transposed(self, slope: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """The gradient `(p, classes, d)` in the weights from the one in the logits, `(p, n, classes)`."""
        count, rows, classes = slope.shape
        if len(self.inputs) > 1:
            return torch.stack([own.T @ self.inputs[at] for at, own in zip(which.tolist(), slope, strict=True)])
        return (slope.transpose(0, 1).reshape(rows, -1).T @ self.inputs[0]).view(count, classes, -1)

    def evaluate(self, logits: torch.Tensor, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses `(p,)` and their gradient in the logits, `(p, n, classes)`."""
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            losses = self.losses(logits, which)
            (slope,) = torch.autograd.grad(losses.sum(), logits)
        return losses.detach(), slope

    def curvature(self, logits: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Diagonal of the Hessian in the logits, `(p, n, classes)`, of losses that are sums over rows.

        Hutchinson's estimator E[s ∘ Hs] with random signs s (Bekas, Kokiopoulou & Saad 2007, 10.1016/j.apnum.2007.
        01.003). It is exact where outputs do not interact, and for softmax, where it lies between 0 and twice the
        truth. The signs are the same at each call and for each problem.
        """
        bits = torch.randint(2**PROBES, logits.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        bits = bits.to(logits.device)
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.losses(logits, which).sum(), logits, create_graph=True)
            total = torch.zeros_like(slope, requires_grad=False)
            for probe in range(PROBES):
                signs = (bits >> probe & 1).to(slope.dtype) * 2 - 1
                (product,) = torch.autograd.grad((slope * signs).sum(), logits, retain_graph=True)
                total += product * signs
        return (total / PROBES).clamp_(min=0)

    def layers(self, weight: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weights `(p, classes, features)` and biases `(p, classes)` for features as they were."""
        own = weight[:, :, : self.width]
        if self.mean is None:
            return own / scale, None
        return own / scale, weight[:, :, self.width] - (own @ self.mean[:, :, None])[:, :, 0]


@dataclass
class _State:
    """Where problems stand.

    Args:
        which: Their numbers, int64 `(p,)`.
        weight: `(p, classes, d)`.
        logits: `(p, n, classes)`.
        value: Losses with penalties, `(p,)`.
        slope: Gradient of the losses in the logits, `(p, n, classes)`.
        gradient: Gradient in the weights, `(p, classes, d)`.
        iterations: Steps, int64 `(p,)`.
        failures: Steps in a row that found nothing lower, int64 `(p,)`.
        stretch: What the inverse of `_precondition` has to be multiplied by, `(p,)`.
        pairs: Steps s, changes of the gradient y, both `(p, classes, d)`, and 1/(s·y) `(p,)`, oldest first; 0 in place
            of a pair without use.
    """

    which: torch.Tensor
    weight: torch.Tensor
    logits: torch.Tensor
    value: torch.Tensor
    slope: torch.Tensor
    gradient: torch.Tensor
    iterations: torch.Tensor
    failures: torch.Tensor
    stretch: torch.Tensor
    pairs: list[_Pair]

    def grad_norm(self) -> torch.Tensor:
        """Largest entry of each gradient, `(p,)`."""
        return self.gradient.abs().amax((1, 2))

    def take(self, kept: torch.Tensor) -> _State:
        """Some of the problems, in their order; `kept` is a mask `(p,)` or numbers."""
        tensors: dict[str, Any] = {name: getattr(self, name)[kept] for name in _TENSORS}
        return _State(**tensors, pairs=[(step[kept], change[kept], share[kept]) for step, change, share in self.pairs])

    @staticmethod
    def join(parts: Sequence[_State]) -> _State:
        """All problems in their order, with the pairs to take along; who has fewer gets some without use."""
        most = _taken_along(parts[0].logits.shape[1])
        if len(parts) == 1:
            return replace(parts[0], pairs=parts[0].pairs[-most:])
        most = min(most, max(len(part.pairs) for part in parts))
        padded = [[_useless(part.weight)] * (most - len(part.pairs)) + part.pairs[-most:] for part in parts]
        tensors: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS}
        whole = _State(**tensors, pairs=[_joined(own) for own in zip(*padded, strict=True)])
        return whole.take(whole.which.argsort())


_Pair = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_TENSORS = ("which", "weight", "logits", "value", "slope", "gradient", "iterations", "failures", "stretch")


def _joined(pairs: Sequence[_Pair]) -> _Pair:
    steps, changes, inverses = zip(*pairs, strict=True)
    return torch.cat(steps), torch.cat(changes), torch.cat(inverses)


def _useless(weight: torch.Tensor) -> _Pair:
    zeros = torch.zeros_like(weight)
    return zeros, zeros, weight.new_zeros(len(weight))


def _product(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Logits `(n, outputs)` of inputs `(n, d)` and weights `(outputs, d)`."""
    outputs = len(weight)
    return (inputs @ nn.functional.pad(weight, (0, 0, 0, -outputs % ALIGN)).T)[:, :outputs]


def _dot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Inner products `(p,)` of two `(p, …)`."""
    return torch.linalg.vecdot(one.flatten(1), other.flatten(1))


def _each(numbers: torch.Tensor) -> torch.Tensor:
    """`(p,)` as `(p, 1, 1)`."""
    return numbers[:, None, None]


# --- the method ---------------------------------------------------------------------------------------------------


def _path(
    linear: _Linear, problems: int, classes: int, l2: Sequence[float], max_iterations: int, tolerance: float
) -> Iterator[tuple[float, _State]]:
    """Each strength, strongest first, with all problems at their optimum."""
    inputs = linear.inputs
    zeros = torch.zeros(problems, dtype=torch.int64, device=inputs.device)
    which = torch.arange(problems, device=inputs.device)
    weight = inputs.new_zeros(problems, classes, inputs.shape[2])
    logits = inputs.new_zeros(problems, inputs.shape[1], classes)
    state = _State(which, weight, logits, zeros, logits, weight, zeros, zeros, inputs.new_ones(problems), [])
    past = 0.0
    for strength in sorted(set(l2), reverse=True):
        before = weight, logits
        with linear.counting("begin", problems):
            weight, logits = state.weight, linear.logits(state.weight, which)  # anew: rounding errors do not add up
            state = _begin(linear, replace(state, logits=logits), before, strength, past)
        state = _minimise(linear, state, strength, max_iterations, tolerance)
        past = strength
        yield strength, state


def _begin(
    linear: _Linear, state: _State, before: tuple[torch.Tensor, torch.Tensor], strength: float, past: float
) -> _State:
    """Go on from the optimum of the strength `past` to another, along the step from the weights and logits before."""
    pairs = []
    for step, change, _ in state.pairs:
        # The curvature of the loss is as it was; that of the penalty is known.
        change = change + (strength - past) * linear.penalised * step
        pairs.append(_pair(step, change))
    losses, slope = linear.evaluate(state.logits, state.which)
    value = losses + 0.5 * strength * _dot(linear.penalised * state.weight, state.weight)
    none = torch.zeros_like(state.iterations)
    start = replace(state, value=value, slope=slope, iterations=none, failures=none, pairs=pairs)
    _advance(linear, start, state.weight - before[0], state.logits - before[1], strength, first=0.5)
    start.gradient = linear.transposed(start.slope, start.which) + strength * linear.penalised * start.weight
    return start


def _minimise(linear: _Linear, state: _State, strength: float, max_iterations: int, tolerance: float) -> _State:
    """L-BFGS; a problem that is done leaves the batch.

    Nocedal & Wright, Numerical Optimization (2006), algorithm 7.4, with the inverse of `_precondition` for H₀.
    """
    done: list[_State] = []
    inverse: _Inverse | None = None
    steps = 0
    while True:
        # Twice nothing lower, the second time along the preconditioned gradient: this is what the precision gives.
        # Written so that what is not a number is over too.
        over = ~(state.grad_norm() > tolerance) | (state.failures > 1) | (state.iterations >= max_iterations)
        if bool(over.all()):
            return _State.join([*done, state])
        if bool(over.any()):
            done.append(state.take(over))
            state = state.take(~over)
            inverse = None if inverse is None else inverse.take(~over)
        if inverse is None or steps % REFRESH == 0:
            with linear.counting("precondition", len(state.which)):
                inverse = _precondition(linear, state, strength)
        steps += 1
        with linear.counting("step", len(state.which)):
            _step(linear, state, _direction(state, inverse), strength)


def _step(linear: _Linear, state: _State, direction: torch.Tensor, strength: float) -> None:
    """One step, in place."""
    weight, gradient = state.weight, state.gradient
    length = _advance(linear, state, direction, linear.logits(direction, state.which), strength)
    moved = length > 0
    state.gradient = linear.transposed(state.slope, state.which) + strength * linear.penalised * state.weight
    state.pairs = [*state.pairs, _pair(state.weight - weight, state.gradient - gradient)][-PAIRS:]
    state.iterations = state.iterations + 1
    state.failures = torch.where(moved, 0, state.failures + 1)
    # Outputs interact, which the inverse leaves out: its steps are too long by a factor that hardly changes. Without
    # it most line searches need a second try.
    state.stretch = torch.where(moved, (state.stretch * length).clamp(0.1, 10.0), state.stretch)
    if not bool(moved.all()):
        state.pairs = [(step, change, inverse * moved) for step, change, inverse in state.pairs]


def _pair(step: torch.Tensor, change: torch.Tensor) -> _Pair:
    """A pair for L-BFGS, without use where rounding hides the curvature."""
    product, square = _dot(step, change), _dot(change, change)
    useful = product > torch.finfo(step.dtype).eps * square
    return step, change, torch.where(useful, product, torch.inf).reciprocal()


def _direction(state: _State, inverse: _Inverse) -> torch.Tensor:
    """The two loops of L-BFGS (Nocedal & Wright 2006, algorithm 7.4): `(p, classes, d)`."""
    found = -state.gradient
    shares = []
    for step, change, scale in reversed(state.pairs):
        share = _each(scale * _dot(step, found))
        found = torch.addcmul(found, share, change, value=-1)
        shares.append(share)
    found = inverse(found) * _each(state.stretch)
    for (step, change, scale), share in zip(state.pairs, reversed(shares), strict=True):
        found = torch.addcmul(found, share - _each(scale * _dot(change, found)), step)
    return found


@dataclass(frozen=True)
class _Inverse:
    """The inverse of diagonal + rowsᵀ·rows for each output by Woodbury's identity; r rows.

    Args:
        scale: The diagonal's inverse, `(p, classes, d)`.
        rows: Times the scale, `(p, classes, r, d)`.
        core: Inverse of 1 + rows·diagonal⁻¹·rowsᵀ, `(p, classes, r, r)`.
    """

    scale: torch.Tensor
    rows: torch.Tensor
    core: torch.Tensor

    @classmethod
    def of(cls, diagonal: torch.Tensor, rows: torch.Tensor) -> _Inverse:
        """From the diagonal `(p, classes, d)` and the rows `(p, classes, r, d)`."""
        scaled = rows / diagonal[..., None, :]
        inner = scaled @ rows.mT
        inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
        # Multiplying by this costs less than a triangular system for each of the outputs.
        return cls(diagonal.reciprocal(), scaled, torch.cholesky_inverse(torch.linalg.cholesky(inner)))

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """The product with `(p, classes, d)`."""
        return vectors * self.scale - (vectors[..., None, :] @ self.rows.mT @ self.core @ self.rows)[..., 0, :]

    def take(self, kept: torch.Tensor) -> _Inverse:
        """That of some problems."""
        return _Inverse(self.scale[kept], self.rows[kept], self.core[kept])


def _precondition(linear: _Linear, state: _State, strength: float) -> _Inverse:
    """Roughly the inverse Hessian, an output at a time.

    The Hessian of an output is Σ cᵢ·xᵢ·xᵢᵀ + λ with the curvature cᵢ of its loss at row i. The `ROWS` rows with the
    largest curvature enter as they are: of many classes each has few rows that are not yet decided. The others enter
    with the mean square of each column.
    """
    curvature = linear.curvature(state.logits, state.which).transpose(1, 2)
    largest, places = curvature.topk(_rows(curvature.shape[2]), dim=2)
    if len(linear.inputs) > 1:
        rows = linear.inputs[state.which[:, None, None], places]
        squares = linear.squares[state.which]
    else:
        rows, squares = linear.inputs[0][places], linear.squares
    rows = rows * largest.sqrt()[..., None]
    rest = curvature.sum(2) - largest.sum(2)
    diagonal = rest.clamp_(min=0)[..., None] * squares[:, None] + strength * linear.penalised
    # Woodbury's identity subtracts: it is as exact as what it leaves is large beside what it takes away.
    whole = curvature.sum(2) * squares.sum(1, keepdim=True) + strength
    diagonal += (1e3 * torch.finfo(whole.dtype).eps * whole + torch.finfo(whole.dtype).tiny)[..., None]
    return _Inverse.of(diagonal, rows)


def _advance(
    linear: _Linear,
    state: _State,
    direction: torch.Tensor,
    logits: torch.Tensor,
    strength: float,
    first: float = 1.0,
) -> torch.Tensor:
    """Go along a direction, in place, as far as is good for each problem; the gradient in the weights stays as it was.

    A length is good when the loss is lower by Armijo's condition, or as low but for rounding with a slope as in Hager
    & Zhang (2005, 10.1137/030601880, 4.1), and when the slope is at most `FLAT` of that at the start. It is sought on
    the slope alone, which rises with the length because losses are convex.

    Args:
        linear: The problems.
        state: Where they stand.
        direction: `(p, classes, d)`.
        logits: The direction's, `(p, n, classes)`.
        strength: λ.
        first: The length to try first.

    Returns:
        The lengths `(p,)`, 0 where nothing lower was found.
    """
    penalty = strength * linear.penalised * direction
    along, square = _dot(penalty, state.weight), _dot(penalty, direction)
    fixed = 0.5 * strength * _dot(linear.penalised * state.weight, state.weight)
    start = _dot(state.slope, logits) + along
    limit = state.value + 10 * torch.finfo(start.dtype).eps * state.value.abs()
    bracket = _Bracket.of(start)
    searching = start < 0
    length = torch.where(searching, first, 0.0)
    for attempt in range(1, TRIES + 2):
        tried = torch.addcmul(state.logits, _each(length), logits)
        losses, slopes = linear.evaluate(tried, state.which)
        values = losses + fixed + length * (along + 0.5 * length * square)
        slope = _dot(slopes, logits) + along + length * square
        lower = values <= state.value + 1e-4 * length * start
        lower |= (values <= limit) & (slope <= (2e-4 - 1) * start)
        searching &= ~(lower & ((slope.abs() <= FLAT * start.abs()) | (attempt == TRIES)))
        if not bool(searching.any()):
            break
        after = bracket.next(length, slope, ~lower | (slope > 0)) if attempt < TRIES else 0.0
        length = torch.where(searching, after, length)
    state.weight = torch.addcmul(state.weight, _each(length), direction)
    state.logits, state.value, state.slope = tried, values, slopes
    return length


@dataclass
class _Bracket:
    """Lengths between which the slope of a convex loss turns from negative to positive, all `(p,)`.

    Args:
        start: Slope at 0.
        low: The longest length known to be too short.
        low_slope: The slope there.
        high: The shortest length known to be too long; infinite before there is one.
        high_slope: The slope there.
    """

    start: torch.Tensor
    low: torch.Tensor
    low_slope: torch.Tensor
    high: torch.Tensor
    high_slope: torch.Tensor

    @classmethod
    def of(cls, start: torch.Tensor) -> _Bracket:
        """From the slopes at 0."""
        return cls(start, torch.zeros_like(start), start, torch.full_like(start, torch.inf), start)

    def next(self, length: torch.Tensor, slope: torch.Tensor, long: torch.Tensor) -> torch.Tensor:
        """The next length to try, after one that is too `long` or too short: where a secant of the slope is 0."""
        self.high, self.high_slope = torch.where(long, length, self.high), torch.where(long, slope, self.high_slope)
        self.low, self.low_slope = torch.where(long, self.low, length), torch.where(long, self.low_slope, slope)
        width = self.high - self.low
        secant = self.low - self.low_slope * width / (self.high_slope - self.low_slope)
        sound = torch.isfinite(secant) & (self.high_slope > self.low_slope)
        inner = torch.where(sound, secant, self.low + 0.5 * width)
        inner = torch.minimum(torch.maximum(inner, self.low + 0.1 * width), self.high - 0.1 * width)
        outer = length * self.start / (self.start - slope)
        outer = torch.where(torch.isfinite(outer), outer, 2 * length)
        outer = torch.minimum(torch.maximum(outer, 1.5 * length), 5 * length)
        return torch.where(torch.isfinite(self.high), inner, outer)
