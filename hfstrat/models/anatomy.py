"""Finding a model's parts by its structure, and naming parameters the same with and without adapters."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from torch import nn
from transformers.pytorch_utils import Conv1D

from hfstrat.errors import ModelError, Problem
from hfstrat.strategies.plan import Anatomy

_WRAPPERS = re.compile(r"^(module\.)?(base_model\.model\.)?|\.base_layer(?=\.|$)|\.modules_to_save\.default(?=\.|$)")
_ADAPTER_NAME = re.compile(r"\.default(?=\.|$)")


def canonical(name: str) -> str:
    """A parameter's or module's name without what PEFT and DDP put around it."""
    name = _WRAPPERS.sub("", name)
    return _ADAPTER_NAME.sub("", name) if "lora_" in name else name


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Canonical names and parameters; PEFT's untouched copies of trained modules are left out."""
    for name, parameter in model.named_parameters():
        if ".original_module." not in name:
            yield canonical(name), parameter


def module_at(model: nn.Module, path: str) -> tuple[nn.Module, str, nn.Module]:
    """The parent, the attribute and the module that a canonical path means."""
    for name, module in model.named_modules():
        wrapped = hasattr(module, "modules_to_save") or hasattr(module, "base_layer")
        if canonical(name) == path and ".original_module" not in name and not wrapped:
            parent, _, attribute = name.rpartition(".")
            return model.get_submodule(parent), attribute, module
    raise KeyError(path)


def find_anatomy(model: nn.Module, fresh: Collection[str], num_labels: int) -> Anatomy:
    """Find backbone, blocks, head and output of a model without adapters.

    Args:
        model: A transformers model, on any device, meta included.
        fresh: Names of parameters that the checkpoint does not have.
        num_labels: Width of the output.

    Raises:
        ModelError: The model has no separate backbone.
    """
    backbone = getattr(model, "base_model_prefix", "")
    if not backbone or not isinstance(getattr(model, backbone, None), nn.Module):
        raise ModelError(
            Problem(
                f"{type(model).__name__} does not part its backbone from its head",
                "model.base",
                hint="Use pooling: mean",
            )
        )
    head = [
        name for name, child in model.named_children() if name != backbone and any(True for _ in child.parameters())
    ]
    fresh_body = {name.rpartition(".")[0] for name in fresh if name.startswith(f"{backbone}.")}
    head = [*sorted(fresh_body), *head]
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    inside = [(n, m) for n, m in linears if any(n == part or n.startswith(f"{part}.") for part in head)]
    outputs = [(name, module) for name, module in inside if module.out_features == num_labels]
    body_linear = (
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and name.startswith(f"{backbone}.")
        and not any(name == part or name.startswith(f"{part}.") for part in head)
    )
    return Anatomy(
        backbone=backbone,
        embeddings=tuple(name for name, module in model.named_modules() if isinstance(module, nn.Embedding)),
        blocks=_blocks(model, backbone),
        head=tuple(head),
        output=outputs[-1][0] if outputs else None,
        output_bias=bool(outputs) and outputs[-1][1].bias is not None,
        linear=tuple(body_linear),
        parameters={name: parameter.numel() for name, parameter in model.named_parameters()},
    )


def _blocks(model: nn.Module, backbone: str) -> tuple[str, ...]:
    """The outermost module list of the backbone that holds the most parameters."""
    lists = [
        (sum(p.numel() for p in module.parameters()), name, len(module))
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.startswith(f"{backbone}.")
    ]
    if not lists:
        return ()
    _, name, length = max(lists)
    return tuple(f"{name}.{place}" for place in range(length))
