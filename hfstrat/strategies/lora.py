"""Low-rank adapters on all linear layers (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from hfstrat.errors import Problem, RecipeError, did_you_mean
from hfstrat.strategies.base import HeadedSpec, Setting, Sizes, epochs_for, head_first, head_setting
from hfstrat.strategies.plan import ADAPTER, Adapter, Anatomy, Fit, Plan, matches

Targets = Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all-linear"]


class LowRank(HeadedSpec):
    """What LoRA is over any kind of base."""

    r: Annotated[int, Field(ge=1)] = 16
    """Rank of the update."""

    alpha: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """The update is scaled by alpha/r (rslora: alpha/√r); auto: 2·r, and for rslora 2·√r, which is the same scale."""

    targets: Targets = "all-linear"
    """Linear modules that get an adapter: all of the body, or names (`query`) or globs (`*.layer.5.*`)."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""

    def plan(self, anatomy: Anatomy, updates: int) -> Plan:
        """Solve the output layer where it is new, then fit adapter and head."""
        beside = anatomy.head_beside_adapter
        options = {"r": self.r, "lora_alpha": self.scale, "lora_dropout": self.dropout, **self.variant_options}
        adapter = Adapter("LORA", options, targets_of(self.targets, anatomy.linear), beside)
        fit = Fit("fit", (ADAPTER, *(f"{module}.*" for module in beside)))
        return Plan(self.body(), adapter, (*head_first(self.head_init, anatomy), fit))

    def defaults(self, sizes: Sizes) -> Mapping[str, Setting]:
        """About ten times full fine-tuning's learning rate, nearly independent of rank (Schulman et al. 2025)."""
        lr = 2e-4 if sizes.body >= 400e6 else 1e-3
        return {
            "strategy.alpha": Setting(self.scale, "an update scaled by two"),
            "strategy.head_init": head_setting(sizes),
            "train.lr": Setting(lr, f"LoRA on {sizes.body / 1e6:.0f} M parameters"),
            "train.epochs": epochs_for(sizes),
            "train.weight_decay": Setting(0.0, "decay would pull the update to zero"),
            "model.dropout": Setting(0.0, "few parameters train"),
        }

    @property
    def variant_options(self) -> Mapping[str, object]:
        """PEFT's words for the variant."""
        return {}

    @property
    def scale(self) -> float:
        """`alpha` as given, or such that the update is scaled by two."""
        if self.alpha != "auto":
            return self.alpha
        return 2.0 * (self.r**0.5 if self.variant_options.get("use_rslora") else self.r)


class Lora(LowRank):
    """LoRA, with the head beside it in the adapter."""

    kind: Literal["lora"] = "lora"

    variant: Literal["lora", "rslora", "dora"] = "lora"
    """rslora keeps the update's size stable at high rank (arXiv:2312.03732); dora trains magnitudes apart from
    directions (arXiv:2402.09353)."""

    @property
    def multiplies_only(self) -> bool:
        """DoRA takes norms of the weights as well."""
        return self.variant != "dora"

    @property
    def variant_options(self) -> Mapping[str, object]:
        """PEFT's words for the variant."""
        return {"use_rslora": self.variant == "rslora", "use_dora": self.variant == "dora"}


def targets_of(targets: tuple[str, ...] | Literal["all-linear"], modules: tuple[str, ...]) -> tuple[str, ...]:
    """The modules that get an adapter.

    Args:
        targets: Names or globs; all-linear takes every one.
        modules: Those that can.

    Raises:
        RecipeError: There are none, or a name matches none.
    """
    if not modules:
        hint = "Use kind: partial or full"
        raise RecipeError(Problem("the model's body has no layer of the kind that is adapted", "strategy", hint=hint))
    if targets == "all-linear":
        return modules
    chosen, problems = set(), []
    for target in targets:
        hits = {name for name in modules if matches(name, (target, f"*.{target}"))}
        if not hits:
            short = sorted({name.rsplit(".", 1)[-1] for name in modules})
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
    return tuple(name for name in modules if name in chosen)
