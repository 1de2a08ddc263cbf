"""Everything trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from hfstrat.strategies.base import HeadInit, Setting, Sizes, StrategySpec, epochs_for, head_first
from hfstrat.strategies.plan import Anatomy, Fit, Plan


class Full(StrategySpec):
    """Full fine-tuning, by default from a head that was solved on the frozen features first."""

    kind: Literal["full"] = "full"

    head_init: HeadInit = "probe"
    """probe: solve the head on frozen features, then train everything (LP-FT); random: as initialised."""

    def plan(self, anatomy: Anatomy) -> Plan:
        """Solve the output layer (unless `head_init: random`), then fit all parameters."""
        return Plan("pretrained", None, (*head_first(self.head_init, anatomy), Fit("fit", ("*",))))

    def defaults(self, sizes: Sizes) -> Mapping[str, Setting]:
        """The usual learning rates by size; decoders are trained without dropout."""
        lr = 1e-4 if sizes.body <= 40e6 else 5e-5 if sizes.body <= 80e6 else 2e-5
        if sizes.generative:
            lr = min(lr, 5e-5)
        return {
            "train.lr": Setting(lr, f"full fine-tuning of {sizes.body / 1e6:.0f} M parameters"),
            "train.epochs": epochs_for(sizes),
            "train.weight_decay": Setting(0.01, "AdamW's usual decay"),
            "model.dropout": (
                Setting(0.0, "decoders are tuned without dropout")
                if sizes.generative
                else Setting(0.1, "full fine-tuning of an encoder")
            ),
        }
