"""What every strategy is: frozen fields, its defaults, and one pure function to a Plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from hfstrat.errors import Problem, RecipeError
from hfstrat.spec import Spec
from hfstrat.strategies.plan import Anatomy, Body, Group, Plan, Solve, Stage

HeadInit = Literal["auto", "probe", "keep", "random"]
LayerDecay = Annotated[float, Field(gt=0, le=1)]
# λ of Solve, strongest first: a grid of 13 over six decades. Its optimum moves by two decades between 8 examples
# a class and thousands, and the sweep is worth more than most tricks.
L2_PATH = tuple(10.0 ** (-exponent / 2) for exponent in range(2, 15))


@dataclass(frozen=True)
class Setting:
    """A value chosen for an `auto`, with the reason that is printed beside it."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Sizes:
    """What a strategy's defaults depend on.

    Args:
        rows: Training examples.
        body: Parameters of the body.
        batch_size: Examples per update.
        generative: Whether the body is a decoder (trained to continue text).
        convex: Whether the head is one linear layer.
        fresh_head: Whether the base brings no head for these labels.
        solvable: Whether the head ends in a linear layer.
        blocks: Blocks of the uppermost stack.
        speaks: Whether what is learned is text itself.
    """

    rows: int
    body: int
    batch_size: int
    generative: bool
    convex: bool
    fresh_head: bool
    solvable: bool
    blocks: int
    speaks: bool = False


class StrategySpec(Spec):
    """The base of all strategies."""

    @property
    def multiplies_only(self) -> bool:
        """Whether frozen linear weights are multiplied by and nothing else: neither saved nor read in another way."""
        return False

    @property
    def keeps_activations(self) -> str:
        """Why blocks have to keep what they compute for backward; empty where they need not."""
        return ""

    def body(self) -> Body:
        """What the model is built from."""
        return Body()

    def plan(self, anatomy: Anatomy, updates: int) -> Plan:
        """What to load and what to do.

        Args:
            anatomy: Where the model that `body` describes keeps its parts.
            updates: Updates of the whole run.

        Raises:
            RecipeError: The model lacks what the strategy needs.
        """
        raise NotImplementedError

    def defaults(self, sizes: Sizes) -> Mapping[str, Setting]:
        """Values for the `auto` fields of `train` and `model`, by dotted path."""
        raise NotImplementedError


class HeadedSpec(StrategySpec):
    """A strategy that trains more than the head, and so may choose what the head starts from."""

    head_init: HeadInit = "auto"
    """probe: solve the head on frozen features, then train (LP-FT); keep: go on from the base's own head; random: a new
    one. auto: keep where the base brings a head for these labels, else probe."""

    def body(self) -> Body:
        """Pretrained weights; a head that fits is kept unless a new one is asked for."""
        return Body(keep_head=self.head_init != "random")


def probe(anatomy: Anatomy, l2: tuple[float, ...] = L2_PATH) -> Solve:
    """The stage that solves the output layer on the features as they stand."""
    if anatomy.output is None:
        raise RecipeError(
            Problem(
                "this model's head does not end in a linear layer, so it cannot be solved",
                path="strategy",
                hint="Set `head_init: random`, or for head `solver: adamw`",
            )
        )
    return Solve("probe", anatomy.output, l2)


def head_first(head_init: HeadInit, anatomy: Anatomy) -> tuple[Stage, ...]:
    """The stages that give a head its first values.

    A head fitted on frozen features before the body moves keeps those features (LP-FT: Kumar et al. 2022,
    arXiv:2202.10054).

    Raises:
        RecipeError: There is no head to keep.
    """
    if head_init == "keep" and anatomy.head_is_fresh:
        raise RecipeError(
            Problem(
                "the base brings no head for these labels",
                path="strategy.head_init",
                hint="Its labels must be the same, in the same order; or set head_init: auto",
            )
        )
    asked = head_init == "probe" or (head_init == "auto" and anatomy.head_is_fresh and anatomy.output is not None)
    return (probe(anatomy),) if asked else ()


def head_setting(sizes: Sizes) -> Setting:
    """What `head_init: auto` becomes."""
    if not sizes.fresh_head:
        return Setting("keep", "the base brings a head for these labels")
    if not sizes.solvable:
        return Setting("random", "the head does not end in a linear layer that could be solved")
    return Setting("probe", "a head solved on frozen features first spares the body (LP-FT)")


def decayed(anatomy: Anatomy, layer_decay: float | None) -> tuple[Group, ...]:
    """Learning-rate groups that fall by a factor from each layer to the one below (Howard & Ruder 2018).

    The head and what stands above the blocks get the whole rate, the last block `layer_decay` of it, and what is
    below the blocks `layer_decay ** (blocks + 1)`.
    """
    if layer_decay is None:
        return (Group("all", ("*",)),)
    top = Group("head", (*anatomy.head_patterns, *(f"{module}.*" for module in anatomy.above)))
    blocks = [
        Group(block, (f"{block}.*",), layer_decay**depth)
        for depth, block in enumerate(reversed(anatomy.blocks), start=1)
    ]
    return (top, *blocks, Group("below", ("*",), layer_decay ** (len(blocks) + 1)))


def epochs_for(sizes: Sizes, *, updates: int = 1000, least: int = 3, most: int = 20) -> Setting:
    """Epochs such that little data still gets enough updates.

    Small sets fail for want of updates rather than by forgetting (Mosbach et al. 2021, arXiv:2006.04884;
    Zhang et al. 2021, arXiv:2006.05987).
    """
    per_epoch = max(1, math.ceil(sizes.rows / sizes.batch_size))
    value = min(most, max(least, math.ceil(updates / per_epoch)))
    return Setting(value, f"{per_epoch} updates an epoch; about {updates} updates, {least} to {most} epochs")


def body_defaults(sizes: Sizes, what: str) -> Mapping[str, Setting]:
    """Learning rate, decay and dropout where pretrained weights themselves are trained.

    The learning rates of BERT's and MiniLM's papers; the smaller a body, the higher the rate that it needs.

    Args:
        sizes: What they depend on.
        what: The strategy, in words.
    """
    lr = next((lr for most, lr in ((5e6, 3e-4), (40e6, 1e-4), (80e6, 5e-5)) if sizes.body <= most), 2e-5)
    if sizes.generative:
        lr = min(lr, 5e-5)
    return {
        "train.lr": Setting(lr, f"{what} of {sizes.body / 1e6:.{0 if sizes.body >= 1e6 else 2}f} M parameters"),
        "train.weight_decay": Setting(0.01, "AdamW's usual decay"),
        "model.dropout": (
            Setting(0.0, "decoders are tuned without dropout")
            if sizes.generative
            else Setting(0.1, f"{what} of an encoder")
        ),
    }
