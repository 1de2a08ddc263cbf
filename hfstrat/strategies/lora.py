"""Low-rank adapters on all linear layers (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from hfstrat.errors import Problem, RecipeError, did_you_mean
from hfstrat.strategies.base import HeadedSpec, Setting, Sizes, epochs_for, head_first, head_setting
from hfstrat.strategies.plan import ADAPTER, Adapter, Anatomy, Fit, Group, Plan, matches

Targets = Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all-linear"]
Init = Literal["random", "gaussian", "orthogonal", "eva"]
Moving = Literal["pissa", "olora"]
_B = "*.lora_B.*"


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

    init: Init = "random"
    """What the update B·A starts from. random: A at random and B zero; gaussian: A from a normal distribution;
    orthogonal: both of orthogonal rows, for an even r; eva: A from the principal directions of what each layer gets
    from the training data (arXiv:2410.07170, ranks as given)."""

    lr_ratio: Annotated[float, Field(ge=1)] = 1.0
    """B's learning rate by A's: LoRA+ (arXiv:2402.12354), whose authors advise 16."""

    freeze_a: bool = False
    """Train B alone, over an A that stays as it starts: LoRA-FA (arXiv:2308.03303), which keeps fewer activations."""

    def plan(self, anatomy: Anatomy, updates: int) -> Plan:
        """Solve the output layer where it is new, then fit adapter and head."""
        beside = anatomy.head_beside_adapter
        options = {"r": self.r, "lora_alpha": self.scale, "lora_dropout": self.dropout, **self.variant_options}
        if self.init != "random":
            options["init_lora_weights"] = self.init
        if anatomy.new_tokens:
            options["trainable_token_indices"] = new_rows(anatomy)
        adapter = Adapter("LORA", options, targets_of(self.targets, anatomy.linear), beside)
        rows = ("*.trainable_tokens_delta",) if anatomy.new_tokens else ()
        trains = (_B, *self._beside_matrices, *rows) if self.freeze_a else (ADAPTER,)
        fit = Fit("fit", (*trains, *(f"{module}.*" for module in beside)), self._groups())
        return Plan(self.body(), adapter, (*head_first(self.head_init, anatomy), fit))

    @property
    def _beside_matrices(self) -> tuple[str, ...]:
        """Patterns of what the variant trains beside A and B."""
        return ()

    def _groups(self) -> tuple[Group, ...]:
        rest = Group("all", ("*",))
        return (rest,) if self.lr_ratio == 1 else (Group("B", (_B,), self.lr_ratio), rest)

    def defaults(self, sizes: Sizes) -> Mapping[str, Setting]:
        """About ten times full fine-tuning's learning rate, nearly independent of rank (Schulman et al. 2025)."""
        lr, why = 2e-4 if sizes.body >= 400e6 else 1e-3, f"LoRA on {sizes.body / 1e6:.0f} M parameters"
        if self.lr_ratio != 1:  # the geometric mean of both rates stays what it is
            lr, why = lr / self.lr_ratio**0.5, f"{why}, B's {self.lr_ratio:g} times as high"
        return {
            "strategy.alpha": Setting(self.scale, "an update scaled by two"),
            "strategy.head_init": head_setting(sizes),
            "train.lr": Setting(lr, why),
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

    init: Init | Moving = "random"  # type: ignore[assignment]  # a wider choice
    """As for qlora; and pissa (arXiv:2404.02948) and olora (arXiv:2406.01775) move the largest singular values, or an
    orthonormal basis, out of the frozen weights into the adapter. It is saved as a plain LoRA of twice the rank for the
    weights as they were."""

    @field_validator("variant", mode="before")
    @classmethod
    def _is_a_variant(cls, variant: object) -> object:
        if variant in (*get_args(Init), *get_args(Moving)):
            raise ValueError(f"{variant} is what a LoRA starts from: write init: {variant}")
        return variant

    @model_validator(mode="after")
    def _saved_as_plain(self) -> Self:
        if self.variant == "dora" and self.moves_weights:
            raise ValueError(f"init: {self.init} is for variant: lora and rslora; a DoRA could not be loaded again")
        return self

    @property
    def moves_weights(self) -> bool:
        """Whether part of the frozen weights moves into the adapter."""
        return self.init in get_args(Moving)

    @property
    def multiplies_only(self) -> bool:
        """DoRA takes norms of the weights as well; and weights that were moved are moved back in full precision."""
        return self.variant != "dora" and not self.moves_weights

    @property
    def _beside_matrices(self) -> tuple[str, ...]:
        return ("*.lora_magnitude_vector*",) if self.variant == "dora" else ()

    @property
    def variant_options(self) -> Mapping[str, object]:
        """PEFT's words for the variant."""
        return {"use_rslora": self.variant == "rslora", "use_dora": self.variant == "dora"}


def new_rows(anatomy: Anatomy) -> dict[str, tuple[int, ...]]:
    """The rows of new tokens, by the modules that have them.

    Raises:
        RecipeError: They cannot train without the others.
    """
    table = anatomy.tokens
    if table is None or len(anatomy.stacks) > 1 or (table.bound and not table.tied):
        what = "new tokens cannot be learned beside an adapter here: " + (
            "encoder and decoder share them" if len(anatomy.stacks) > 1 else table.bound if table else "there are none"
        )
        raise RecipeError(Problem(what, "model.new_tokens", hint="Use kind: full"))
    found = {table.path: anatomy.new_tokens}
    if anatomy.speaks and not table.tied and not anatomy.head_beside_adapter:
        # What is read and what is written are two matrices, and of the second the other rows stay as well.
        output = anatomy.head[-1]
        if [name for name in anatomy.parameters if matches(name, anatomy.head_patterns)] != [f"{output}.weight"]:
            what = "new tokens cannot be learned beside an adapter where outputs are more than one matrix"
            raise RecipeError(Problem(what, "model.new_tokens", hint="Use kind: full"))
        found[output] = anatomy.new_tokens
    return found


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
