"""Parameter groups, AdamW and the learning rate's schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from hfstrat.errors import ModelError, Problem
from hfstrat.models.anatomy import adapter_names, canonical, named_buffers, named_parameters
from hfstrat.strategies.plan import ADAPTER, Fit, matches


@dataclass(frozen=True)
class Settings:
    """How a Fit is optimised.

    Args:
        updates: Number of updates in all.
        lr: Peak learning rate.
        schedule: Its shape after warm-up.
        warmup: Share of the updates over which it rises.
        min_lr_ratio: Where it ends, as a share of the peak.
        weight_decay: Decoupled decay of matrices outside embeddings.
        betas: AdamW's decay rates.
        eps: AdamW's epsilon.
        clip: Largest gradient norm; None for no clipping.
    """

    updates: int
    lr: float
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.1
    min_lr_ratio: float = 0.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float | None = 1.0

    def lr_at(self, update: int) -> float:
        """Learning rate of an update, counted from 0; it depends on nothing else."""
        rise = math.ceil(self.warmup * self.updates)
        if update < rise:
            return self.lr * (update + 1) / rise
        done = (update - rise) / max(1, self.updates - rise)
        curve = {"linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done)), "constant": 1.0}[self.schedule]
        return self.lr * (self.min_lr_ratio + (1.0 - self.min_lr_ratio) * curve)


def freeze(model: nn.Module, fit: Fit) -> dict[str, nn.Parameter]:
    """Let exactly the planned parameters train.

    Returns:
        What trains, by canonical name.

    Raises:
        ModelError: A pattern matches nothing.
    """
    hit = dict.fromkeys(fit.train, False)
    added = adapter_names(model) if ADAPTER in fit.train else set()
    trained: dict[str, nn.Parameter] = {}
    for name, parameter in named_parameters(model):
        found = [
            pattern for pattern in fit.train if (name in added if pattern == ADAPTER else matches(name, (pattern,)))
        ]
        hit.update(dict.fromkeys(found, True))
        parameter.requires_grad_(bool(found))
        if found:
            trained[name] = parameter
    lost = [pattern for pattern, was in hit.items() if not was]
    if lost:
        raise ModelError([Problem(f"'{pattern}' matches no parameter of the model", "strategy") for pattern in lost])
    return trained


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and every module's own mode again afterwards: a training loop may go on."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def set_modes(model: nn.Module) -> None:
    """Training mode where something trains, eval mode for frozen modules; dropout follows the module around it."""
    trains: dict[int, bool | None] = {}  # None: no parameters at all

    def look(module: nn.Module) -> bool | None:
        inside = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
        inside += [found for child in module.children() if (found := look(child)) is not None]
        trains[id(module)] = any(inside) if inside else None
        return trains[id(module)]

    def set_mode(module: nn.Module, around: bool) -> None:
        found = trains[id(module)]
        module.training = around if found is None else found
        for child in module.children():
            set_mode(child, module.training)

    look(model)
    set_mode(model, True)


def optimizer_for(model: nn.Module, fit: Fit, settings: Settings) -> torch.optim.AdamW:
    """AdamW over what trains, in groups by learning rate and decay.

    Biases, norms and embeddings get no weight decay.
    """
    plain = _undecayed(model)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in named_parameters(model):
        if not parameter.requires_grad:
            continue
        place = next(index for index, group in enumerate(fit.groups) if matches(name, group.patterns))
        groups.setdefault((place, name not in plain), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr_scale": fit.groups[place].lr_scale,
                "weight_decay": settings.weight_decay if decayed else 0.0,
            }
            for (place, decayed), parameters in groups.items()
        ],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )


def _undecayed(model: nn.Module) -> set[str]:
    names: set[str] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            norm = "norm" in type(module).__name__.lower()
            rows = path.endswith("trainable_tokens_delta")  # of an embedding
            if isinstance(module, nn.Embedding) or rows or norm or parameter.ndim < 2:
                names.add(canonical(f"{path}.{name}" if path else name, model))
    return names


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, by its scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def snapshot(parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy of parameters on the CPU."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in parameters.items()}


def restore(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put a snapshot of parameters and buffers back.

    Raises:
        KeyError: The model has no such parameter or buffer.
    """
    tensors = {**dict(named_parameters(model)), **dict(named_buffers(model))}
    with torch.no_grad():
        for name, value in state.items():
            tensors[name].copy_(value)
