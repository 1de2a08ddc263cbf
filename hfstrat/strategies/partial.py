"""The top of the body and the head train; what is below stays as it was pretrained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hfstrat.errors import Problem, RecipeError, did_you_mean
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
from hfstrat.strategies.plan import Anatomy, Fit, Plan, matches


class Partial(HeadedSpec):
    """The head and the last blocks, or the parameters that globs name."""

    kind: Literal["partial"] = "partial"

    last_n: Annotated[int, Field(ge=1)] | Literal["auto"] | None = "auto"
    """Blocks that train, counted from the top (of an encoder-decoder: of the decoder); auto: a third of them, unless
    `train` says it."""

    train: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of parameters that train, as globs (`*.layer.5.*`, `*.LayerNorm.*`), in place of `last_n`. Each must match.
    The head always trains."""

    gradual: bool = False
    """Start with the last block alone and add one below it in each of `last_n` stages (ULMFiT, arXiv:1801.06146)."""

    layer_decay: LayerDecay | None = None
    """Factor on the learning rate from each block to the one below; left out: one rate."""

    @model_validator(mode="after")
    def _one_way(self) -> Partial:
        if self.train is not None and isinstance(self.last_n, int):
            raise ValueError("last_n and train say the same thing in two ways; remove one of them")
        if self.train is None and self.last_n is None:
            raise ValueError("last_n says how many blocks train; give a number, or leave it out")
        if self.train is not None and self.gradual:
            raise ValueError("gradual adds block after block, so it needs last_n and not train")
        return self

    def plan(self, anatomy: Anatomy, updates: int) -> Plan:
        """Solve the output layer where it is new, then fit the top; with `gradual` in a stage for each block."""
        groups = decayed(anatomy, self.layer_decay)
        if self.train is not None:
            _check(self.train, anatomy)
            fits = [Fit("fit", (*self.train, *anatomy.head_patterns), groups)]
        elif self.gradual:
            n = self._blocks(anatomy)
            fits = [Fit(f"top-{i}", _top(anatomy, i), groups, share=1 / n) for i in range(1, n + 1)]
        else:
            fits = [Fit("fit", _top(anatomy, self._blocks(anatomy)), groups)]
        return Plan(self.body(), None, (*head_first(self.head_init, anatomy), *fits))

    def defaults(self, sizes: Sizes) -> Mapping[str, Setting]:
        """As full fine-tuning, but for what is frozen."""
        return {
            **body_defaults(sizes, "fine-tuning the top"),
            "strategy.last_n": (
                Setting(third(sizes.blocks), f"a third of {sizes.blocks} blocks")
                if self.train is None
                else Setting(None, "train names what trains")
            ),
            "strategy.head_init": head_setting(sizes),
            "train.epochs": epochs_for(sizes),
        }

    def _blocks(self, anatomy: Anatomy) -> int:
        there = len(anatomy.stacks[-1]) if anatomy.stacks else 0
        n = self.last_n if isinstance(self.last_n, int) else third(there)
        if anatomy.shared and n > 1:
            raise RecipeError(
                Problem(
                    "all layers of this model share one block, so there is nothing to tell the last ones by",
                    "strategy.last_n",
                    hint="Set last_n: 1, which trains the shared block",
                )
            )
        if n > there:
            what = "decoder blocks" if len(anatomy.stacks) > 1 else "blocks"
            raise RecipeError(
                Problem(f"the model has {there} {what}, not {n}", "strategy.last_n", hint="Lower it, or use kind: full")
            )
        return n


def third(blocks: int) -> int:
    """A third, at least one: the last quarter has most of the gain already (Lee et al. 2019, arXiv:1911.03090)."""
    return max(1, round(blocks / 3))


def _top(anatomy: Anatomy, blocks: int) -> tuple[str, ...]:
    modules = (*anatomy.stacks[-1][-blocks:], *anatomy.above)
    return (*(f"{module}.*" for module in modules), *anatomy.head_patterns)


def _check(patterns: tuple[str, ...], anatomy: Anatomy) -> None:
    """Raise for patterns that match nothing."""
    names = list(anatomy.parameters)
    lost = [pattern for pattern in patterns if not any(matches(name, (pattern,)) for name in names)]
    if lost:
        raise RecipeError(
            [
                Problem(
                    f"'{pattern}' matches no parameter of the model",
                    "strategy.train",
                    hint=did_you_mean(pattern, names, show_all=0) or f"They look like '{names[len(names) // 2]}'",
                )
                for pattern in lost
            ]
        )
