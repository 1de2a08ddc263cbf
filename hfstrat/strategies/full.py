"""Everything trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from hfstrat.strategies.base import (
    HeadInit,
    Setting,
    Sizes,
    StrategySpec,
    decayed,
    epochs_for,
    head_first,
    head_setting,
)
from hfstrat.strategies.plan import Anatomy, Body, Fit, Plan

LayerDecay = Annotated[float, Field(gt=0, le=1)]


class Full(StrategySpec):
    """Full fine-tuning, by default from a head that was solved on the frozen features first."""

    kind: Literal["full"] = "full"

    head_init: HeadInit = "auto"
    """probe: solve the head on frozen features, then train everything (LP-FT); keep: go on from the base's own head;
    random: a new one. auto: keep where the base brings a head for these labels, else probe."""

    layer_decay: LayerDecay | None = None
    """Factor on the learning rate from each block to the one below (0.65 to 0.95 are usual); left out: one rate."""

    def body(self) -> Body:
        """Pretrained weights; a head that fits is kept unless a new one is asked for."""
        return Body(keep_head=self.head_init != "random")

    def plan(self, anatomy: Anatomy, updates: int) -> Plan:
        """Solve the output layer where it is new, then fit all parameters."""
        fit = Fit("fit", ("*",), decayed(anatomy, self.layer_decay))
        return Plan(self.body(), None, (*head_first(self.head_init, anatomy), fit))

    def defaults(self, sizes: Sizes) -> Mapping[str, Setting]:
        """The usual learning rates by size; decoders are trained without dropout."""
        return {
            **body_defaults(sizes, "full fine-tuning"),
            "strategy.head_init": head_setting(sizes),
            "train.epochs": epochs_for(sizes),
        }


def body_defaults(sizes: Sizes, what: str) -> Mapping[str, Setting]:
    """Learning rate, decay and dropout where pretrained weights themselves are trained.

    Args:
        sizes: What they depend on.
        what: The strategy, in words.
    """
    lr = 1e-4 if sizes.body <= 40e6 else 5e-5 if sizes.body <= 80e6 else 2e-5
    if sizes.generative:
        lr = min(lr, 5e-5)
    return {
        "train.lr": Setting(lr, f"{what} of {sizes.body / 1e6:.0f} M parameters"),
        "train.weight_decay": Setting(0.01, "AdamW's usual decay"),
        "model.dropout": (
            Setting(0.0, "decoders are tuned without dropout")
            if sizes.generative
            else Setting(0.1, f"{what} of an encoder")
        ),
    }
