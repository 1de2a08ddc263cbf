"""Only the head trains; the frozen body is run once over the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from hfstrat.errors import Problem, RecipeError
from hfstrat.strategies.base import L2_PATH, Setting, Sizes, StrategySpec, epochs_for, probe
from hfstrat.strategies.plan import Anatomy, Fit, Plan

Solver = Literal["lbfgs", "adamw", "lbfgs+adamw"]
WHY: Mapping[Solver, str] = {
    "lbfgs": "the head is one linear layer, so the problem is convex",
    "lbfgs+adamw": "the head has several layers, and the last one can be solved before all of them train",
    "adamw": "the head does not end in a linear layer that could be solved",
}
"""What `auto` becomes, and why."""


class Head(StrategySpec):
    """A new head on a frozen backbone (linear probing when the head is one linear layer)."""

    kind: Literal["head"] = "head"

    solver: Literal["auto", "lbfgs", "adamw", "lbfgs+adamw"] = "auto"
    """lbfgs solves the output layer exactly on cached features; adamw trains the whole head by gradient; lbfgs+adamw
    begins the one with the other. auto: lbfgs when the head is one linear layer, which makes the problem convex, else
    lbfgs+adamw where the head ends in a linear layer."""

    l2: tuple[Annotated[float, Field(ge=0)], ...] = L2_PATH
    """Strengths of the L2 penalty that are tried by lbfgs; the one with the lowest validation loss is kept."""

    def plan(self, anatomy: Anatomy, updates: int) -> Plan:
        """A Solve of the output layer, a Fit of the head, or both."""
        if not anatomy.head:
            what = "the output is the input embedding, turned over: there is no head that could train alone"
            raise RecipeError(Problem(what, "strategy.kind", hint="Use partial, lora or full"))
        solver = self.solver
        if solver == "auto":
            solver = _solver(anatomy.is_linear_probe, anatomy.output is not None)
        solved = (probe(anatomy, self.l2),) if "lbfgs" in solver else ()
        fitted = (Fit("fit", anatomy.head_patterns),) if "adamw" in solver else ()
        return Plan(self.body(), None, (*solved, *fitted))

    def defaults(self, sizes: Sizes) -> Mapping[str, Setting]:
        """A new layer starts from random numbers and wants a high learning rate."""
        solver = _solver(sizes.convex, sizes.solvable)
        return {
            "strategy.solver": Setting(solver, WHY[solver]),
            "train.lr": Setting(1e-3, "a head on features that stay as they are"),
            "train.epochs": epochs_for(sizes),
            "train.weight_decay": Setting(0.01, "AdamW's usual decay"),
            "model.dropout": Setting(0.0, "the body is frozen"),
        }


def _solver(convex: bool, solvable: bool) -> Solver:
    """How a head is trained best."""
    if convex:
        return "lbfgs"
    return "lbfgs+adamw" if solvable else "adamw"
