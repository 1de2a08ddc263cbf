"""Plan: what a strategy asks for, as plain frozen data that builder, loop, estimate and reports read alike.

Parameter patterns are shell globs over canonical parameter names: the names that the model has before any
adapter is put in (`bert.encoder.layer.0.output.dense.weight`); an adapter's own parameters are named after the
module they adapt (`bert.encoder.layer.0.output.dense.lora_A.weight`). `*` matches dots as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal


@dataclass(frozen=True)
class Anatomy:
    """Where a model keeps its parts; all entries are module paths.

    Args:
        backbone: The pretrained body (`bert`).
        embeddings: Modules of the body below the blocks.
        blocks: The repeated blocks, bottom to top.
        head: The modules that are new for this task, outermost last.
        output: The last linear module, whose output are the logits; None when there is none.
        output_bias: Whether it has a bias.
        linear: Every linear module (or GPT-2's transposed kind) of the body, which adapters may target.
        parameters: Number of elements of each parameter by canonical name.
    """

    backbone: str
    embeddings: tuple[str, ...]
    blocks: tuple[str, ...]
    head: tuple[str, ...]
    output: str | None
    output_bias: bool
    linear: tuple[str, ...]
    parameters: Mapping[str, int] = field(repr=False)

    @property
    def body_size(self) -> int:
        """Number of elements in the body."""
        return sum(size for name, size in self.parameters.items() if not matches(name, self.head_patterns))

    @property
    def head_patterns(self) -> tuple[str, ...]:
        """Patterns for every parameter of the head."""
        return tuple(f"{module}.*" for module in self.head)

    @property
    def is_linear_probe(self) -> bool:
        """Whether the head is one linear module, so that training it on frozen features is convex."""
        return self.output is not None and self.head == (self.output,)


@dataclass(frozen=True)
class Adapter:
    """A PEFT method and its options, in the words of its configuration class.

    Args:
        method: Name of the `peft.PeftType` (`LORA`).
        options: Keyword arguments of that method's configuration.
        modules_to_save: Modules that train beside the adapter and are stored with it.
    """

    method: str
    options: Mapping[str, object]
    modules_to_save: tuple[str, ...]


@dataclass(frozen=True)
class Solve:
    """A linear output solved on frozen features, over a path of L2 strengths chosen on validation.

    Args:
        name: The stage's name in logs and ledger.
        output: The linear module that is solved.
        l2: Strengths λ of the penalty λ/2·‖W‖² added to the mean loss, on features scaled to unit mean square
            norm; tried from the strongest to the weakest, each starting from the one before.
        max_iterations: L-BFGS iterations for each strength.
    """

    name: str
    output: str
    l2: tuple[float, ...]
    max_iterations: int = 200
    kind: Literal["solve"] = "solve"


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate.

    Args:
        name: The group's name in logs.
        patterns: Which parameters; the first group that matches takes a parameter.
        lr_scale: Factor on the recipe's learning rate.
    """

    name: str
    patterns: tuple[str, ...]
    lr_scale: float = 1.0


@dataclass(frozen=True)
class Fit:
    """A stretch of gradient training.

    Args:
        name: The stage's name in logs and ledger.
        train: Patterns of what trains; everything else is frozen and in eval mode. A pattern that matches
            nothing is an error.
        groups: Learning-rate groups over what trains.
    """

    name: str
    train: tuple[str, ...]
    groups: tuple[Group, ...] = (Group("all", ("*",)),)
    kind: Literal["fit"] = "fit"


Stage = Solve | Fit


@dataclass(frozen=True)
class Plan:
    """What a run loads and what it does, in order.

    Args:
        weights: Whether the body's weights are the pretrained ones.
        adapter: The adapter that is put into the body, if any.
        stages: What is trained, one after the other; the best state over all of them is kept.
    """

    weights: Literal["pretrained", "random"]
    adapter: Adapter | None
    stages: tuple[Stage, ...]


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a canonical parameter name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
