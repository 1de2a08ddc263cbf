"""Only the head trains; the frozen body is run once over the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from hfstrat.errors import Problem, RecipeError
from hfstrat.strategies.base import L2_PATH, Setting, Sizes, StrategySpec, epochs_for, probe
from hfstrat.strategies.plan import Anatomy, Fit, Plan


class Head(StrategySpec):
    """A new head on a frozen backbone (linear probing when the head is one linear layer)."""

    kind: Literal["head"] = "head"

    solver: Literal["auto", "lbfgs", "adamw"] = "auto"
    """lbfgs solves the output layer exactly on cached features; adamw trains the whole head by gradient. auto: lbfgs
    when the head is one linear layer, which makes the problem convex."""

    l2: tuple[Annotated[float, Field(ge=0)], ...] = L2_PATH
    """Strengths of the L2 penalty that are tried by lbfgs; the one with the lowest validation loss is kept."""

    def plan(self, anatomy: Anatomy, updates: int) -> Plan:
        """One Solve, or one Fit of the head."""
        if not anatomy.head:
            what = "the output is the input embedding, turned over: there is no head that could train alone"
            raise RecipeError(Problem(what, "strategy.kind", hint="Use partial, lora or full"))
        convex = self.solver == "lbfgs" or (self.solver == "auto" and anatomy.is_linear_probe)
        stage = probe(anatomy, self.l2) if convex else Fit("fit", anatomy.head_patterns)
        return Plan(self.body(), None, (stage,))

    def defaults(self, sizes: Sizes) -> Mapping[str, Setting]:
        """A new layer starts from random numbers and wants a high learning rate."""
        solver = (
            Setting("lbfgs", "the head is one linear layer, so the problem is convex")
            if sizes.convex
            else Setting("adamw", "the head has several layers")
        )
        return {
            "strategy.solver": solver,
            "train.lr": Setting(1e-3, "a head that starts from random weights"),
            "train.epochs": epochs_for(sizes),
            "train.weight_decay": Setting(0.01, "AdamW's usual decay"),
            "model.dropout": Setting(0.0, "the body is frozen"),
        }
