"""Solve: a linear output layer by L-BFGS on features that do not change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

# A path has passed its optimum when this many strengths in a row were worse than the best.
PATIENCE = 3


@dataclass(frozen=True)
class Solution:
    """An output layer.

    Args:
        weight: `(classes, features)`.
        bias: `(classes,)`; None for a layer without one.
        l2: The strength it was solved with.
        path: Every strength tried, with its validation score.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    l2: float
    path: tuple[tuple[float, float], ...]

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits `(n, classes)` of features `(n, features)`."""
        return nn.functional.linear(features, self.weight, self.bias)


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
        features: Training features, float32 `(n, features)`.
        loss: Mean training loss, a scalar tensor, from logits `(n, classes)`.
        classes: Width of the output.
        l2: The strengths λ.
        score: Validation score of a function from features to logits; higher is better.
        bias: Whether the layer has a bias.
        max_iterations: L-BFGS iterations for each strength.
        progress: Called with each strength and its score.
    """
    scale = float(features.square().sum(1).mean().sqrt().clamp(min=1e-12))
    scaled = features / scale
    weight = torch.zeros(classes, features.shape[1], device=features.device, requires_grad=True)
    offset = torch.zeros(classes, device=features.device, requires_grad=bias)
    best: Solution | None = None
    path: list[tuple[float, float]] = []
    worse = 0
    for strength in sorted(l2, reverse=True):
        _minimise(scaled, loss, weight, offset, strength, max_iterations)
        found = Solution(weight.detach() / scale, offset.detach().clone() if bias else None, strength, ())
        value = score(found.logits)
        path.append((strength, value))
        if progress is not None:
            progress(strength, value)
        best, worse = (found, 0) if best is None or value > max(v for _, v in path[:-1]) else (best, worse + 1)
        if worse >= PATIENCE:
            break
    assert best is not None, "a path has at least one strength"
    return Solution(best.weight.clone(), best.bias, best.l2, tuple(path))


def _minimise(
    features: torch.Tensor,
    loss: Callable[[torch.Tensor], torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor,
    strength: float,
    max_iterations: int,
) -> None:
    variables = [weight, bias] if bias.requires_grad else [weight]
    optimizer = torch.optim.LBFGS(
        variables, max_iter=max_iterations, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss(nn.functional.linear(features, weight, bias)) + 0.5 * strength * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
