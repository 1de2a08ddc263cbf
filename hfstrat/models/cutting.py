"""Making a smaller model out of every so many-th block of a larger one, as DistilBERT did (arXiv:1910.01108)."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig

from hfstrat.errors import Problem, RecipeError
from hfstrat.models.modeling_pooled import PooledConfig
from hfstrat.models.pooled import register
from hfstrat.strategies.plan import Anatomy

# `num_hidden_layers`, `n_layer`, `decoder_layers`; not `max_window_layers` or `num_feat_extract_layers`.
_COUNT = re.compile(r"(num_|n_)?(hidden_|encoder_|decoder_)?layers?")
_AUTO_CLASSES = (
    "AutoModel",
    "AutoModelForSequenceClassification",
    "AutoModelForImageClassification",
    "AutoModelForAudioClassification",
)


@dataclass(frozen=True)
class Cut:
    """A smaller model, and which blocks of the larger one it is made of.

    Args:
        config: Configuration of the smaller model.
        kept: Places of the blocks that are kept, for each stack.
        lists: Paths of the module lists that hold the stacks.
    """

    config: PretrainedConfig
    kept: tuple[tuple[int, ...], ...]
    lists: tuple[str, ...]

    def source(self, name: str) -> str:
        """The name in the larger model of a parameter or buffer of the smaller one."""
        for path, kept in zip(self.lists, self.kept, strict=True):
            if name.startswith(f"{path}."):
                place, dot, inside = name.removeprefix(f"{path}.").partition(".")
                return f"{path}.{kept[int(place)]}{dot}{inside}"
        return name


def kept_blocks(count: int, every: int) -> tuple[int, ...]:
    """Places of the blocks that are kept: evenly spaced, from the first to the last.

    A single one is the first, in which T5 holds the relative positions of all others.

    Args:
        count: Blocks of the larger model.
        every: One of so many is kept, rounded up.
    """
    last = -(-count // every) - 1
    if last == 0:
        return (0,)
    # Halves are rounded down, in whole numbers: 0, 2, 5 of six.
    return tuple((2 * place * (count - 1) + last - 1) // (2 * last) for place in range(last + 1))


def cut(config: PretrainedConfig, anatomy: Anatomy, every: int, auto_class: str | None = None) -> Cut:
    """Keep every so many-th block of a model.

    Args:
        config: Configuration of the model, which stays as it is.
        anatomy: Where it keeps its blocks.
        every: 1 keeps all, 2 half of them.
        auto_class: Auto class of the model; None: of the bare body.

    Raises:
        RecipeError: A model of this architecture cannot be made smaller in this way.
    """
    lengths = {len(stack): kept_blocks(len(stack), every) for stack in anatomy.stacks}
    smaller = Cut(
        config=copy.deepcopy(config),
        kept=tuple(lengths[len(stack)] for stack in anatomy.stacks),
        lists=tuple(stack[0].rpartition(".")[0] for stack in anatomy.stacks),
    )
    if every == 1:
        return smaller
    _check(config, anatomy, every)
    counted = _shorten(smaller.config, lengths)
    if not counted:
        # Stages of a convolutional network, above all, whose widths differ.
        raise RecipeError(_uncuttable(config, "its configuration does not say how many blocks there are"))
    if not _fits(config, smaller, anatomy, auto_class):
        raise RecipeError(_uncuttable(config, "a smaller one is not made of the same blocks"))
    return smaller


def _check(config: PretrainedConfig, anatomy: Anatomy, every: int) -> None:
    if not anatomy.stacks:
        raise RecipeError(_uncuttable(config, "it has no blocks"))
    if anatomy.shared:
        raise RecipeError(_uncuttable(config, "its layers share their weights, so fewer would not be smaller"))
    most = max(len(stack) for stack in anatomy.stacks)
    if every > most:
        message, hint = f"every is {every}, and there are {most} blocks", f"Use {most} at most"
        raise RecipeError(Problem(message, "strategy.student.every", hint=hint))


def _uncuttable(config: PretrainedConfig, reason: str) -> Problem:
    kind = _inner(config).model_type
    hint = "Use every: 1, or another base"
    return Problem(f"blocks of {kind} cannot be left out: {reason}", "strategy.student.every", hint=hint)


def _inner(config: PretrainedConfig) -> Any:
    """The configuration that counts the blocks."""
    return config.backbone_config if isinstance(config, PooledConfig) else config


def _shorten(config: PretrainedConfig, lengths: Mapping[int, tuple[int, ...]]) -> bool:
    """Set what a configuration says of its layers, and tell whether it says how many there are."""
    inner, counted = _inner(config), False
    for name, value in inner.to_dict().items():
        if type(value) is int and value in lengths and _COUNT.fullmatch(name):
            setattr(inner, name, len(lengths[value]))
            counted = True
        elif isinstance(value, (list, tuple)) and len(value) in lengths and "layer" in name:
            setattr(inner, name, [value[place] for place in lengths[len(value)]])
    return counted


def _fits(config: PretrainedConfig, smaller: Cut, anatomy: Anatomy, auto_class: str | None) -> bool:
    """Whether the smaller model's tensors are those of the larger one without the blocks that are left out."""
    dropped = tuple(
        f"{block}."
        for stack, kept in zip(anatomy.stacks, smaller.kept, strict=True)
        for place, block in enumerate(stack)
        if place not in kept
    )
    try:
        before = _shapes(config, anatomy.backbone, auto_class)
        # As it will be read from its file.
        after = _shapes(type(config).from_dict(smaller.config.to_dict()), anatomy.backbone, auto_class)
        found = {smaller.source(name): shape for name, shape in after.items()}
    except Exception as error:  # whatever a configuration or a model says to numbers that do not go together
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RecipeError(_uncuttable(config, f"a smaller one cannot be built ({reason})")) from error
    return found == {name: shape for name, shape in before.items() if not name.startswith(dropped)}


def _shapes(config: PretrainedConfig, backbone: str, auto_class: str | None) -> dict[str, torch.Size]:
    """Shapes of all tensors by the names that they have in the whole model; nothing is allocated."""
    register()
    names = _AUTO_CLASSES if auto_class is None else (auto_class, *_AUTO_CLASSES)
    autos = [getattr(transformers, name) for name in names]
    auto = next((auto for auto in autos if type(config) in auto._model_mapping), transformers.AutoModel)
    with torch.device("meta"):
        state = auto.from_config(config).state_dict()
    prefix = f"{backbone}." if auto is transformers.AutoModel else ""
    return {f"{prefix}{name}": tensor.shape for name, tensor in state.items()}
