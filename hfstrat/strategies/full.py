"""Everything trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from hfstrat.strategies.base import (
    HeadedSpec,
    LayerDecay,
    Setting,
    Sizes,
    body_defaults,
    decayed,
    epochs_for,
    head_first,
    head_setting,
)
from hfstrat.strategies.plan import Anatomy, Fit, Plan


class Full(HeadedSpec):
    """Full fine-tuning, by default from a head that was solved on the frozen features first."""

    kind: Literal["full"] = "full"

    layer_decay: LayerDecay | None = None
    """Factor on the learning rate from each block to the one below (0.65 to 0.95 are usual); left out: one rate."""

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
