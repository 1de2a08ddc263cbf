"""Low-rank adapters on all linear layers (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from hfstrat.errors import Problem, RecipeError, did_you_mean
from hfstrat.strategies.base import HeadInit, Setting, Sizes, StrategySpec, epochs_for, head_first
from hfstrat.strategies.plan import Adapter, Anatomy, Fit, Plan, matches


class Lora(StrategySpec):
    """LoRA, with the head beside it in the adapter."""

    kind: Literal["lora"] = "lora"

    r: Annotated[int, Field(ge=1)] = 16
    """Rank of the update."""

    alpha: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """The update is scaled by alpha/r (rslora: alpha/√r); auto: 2·r, and for rslora 2·√r, which is the same scale."""

    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Linear modules that get an adapter: all of the body, or names (`query`) or globs (`*.layer.5.*`)."""

    variant: Literal["lora", "rslora", "dora"] = "lora"
    """rslora keeps the update's size stable at high rank (arXiv:2312.03732); dora trains magnitudes apart from
    directions (arXiv:2402.09353)."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""

    head_init: HeadInit = "probe"
    """probe: solve the head on frozen features first; random: as initialised."""

    def plan(self, anatomy: Anatomy) -> Plan:
        """Solve the output layer (unless `head_init: random`), then fit adapter and head."""
        adapter = Adapter("LORA", self._options(anatomy), anatomy.head)
        fit = Fit("fit", ("*.lora_*", *anatomy.head_patterns))
        return Plan("pretrained", adapter, (*head_first(self.head_init, anatomy), fit))

    def defaults(self, sizes: Sizes) -> Mapping[str, Setting]:
        """About ten times full fine-tuning's learning rate, nearly independent of rank (Schulman et al. 2025)."""
        lr = 2e-4 if sizes.body >= 400e6 else 1e-3
        return {
            "strategy.alpha": Setting(self.scale, "an update scaled by two"),
            "train.lr": Setting(lr, f"LoRA on {sizes.body / 1e6:.0f} M parameters"),
            "train.epochs": epochs_for(sizes),
            "train.weight_decay": Setting(0.0, "decay would pull the update to zero"),
            "model.dropout": Setting(0.0, "few parameters train"),
        }

    @property
    def scale(self) -> float:
        """`alpha` as given, or such that the update is scaled by two."""
        if self.alpha != "auto":
            return self.alpha
        return 2.0 * (self.r if self.variant != "rslora" else self.r**0.5)

    def _options(self, anatomy: Anatomy) -> dict[str, object]:
        return {
            "r": self.r,
            "lora_alpha": self.scale,
            "target_modules": self._target_modules(anatomy),
            "lora_dropout": self.dropout,
            "use_rslora": self.variant == "rslora",
            "use_dora": self.variant == "dora",
        }

    def _target_modules(self, anatomy: Anatomy) -> tuple[str, ...]:
        if self.targets == "all-linear":
            return anatomy.linear
        chosen, problems = set(), []
        for target in self.targets:
            hits = {name for name in anatomy.linear if matches(name, (target, f"*.{target}"))}
            if not hits:
                short = sorted({name.rsplit(".", 1)[-1] for name in anatomy.linear})
                problems.append(
                    Problem(
                        f"'{target}' matches no linear layer of the model",
                        path="strategy.targets",
                        hint=did_you_mean(target, short, show_all=30),
                    )
                )
            chosen |= hits
        if problems:
            raise RecipeError(problems)
        return tuple(name for name in anatomy.linear if name in chosen)
