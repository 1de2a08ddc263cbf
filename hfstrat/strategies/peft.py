"""Any method of PEFT by its name, with its own options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from hfstrat.errors import Problem, RecipeError
from hfstrat.strategies.base import HeadedSpec, Setting, Sizes, epochs_for, head_first, head_setting
from hfstrat.strategies.lora import Targets, targets_of
from hfstrat.strategies.plan import ADAPTER, Adapter, Anatomy, Fit, Plan


@dataclass(frozen=True)
class Method:
    """What a method's defaults are where PEFT has none, or none that work.

    Args:
        lr: Learning rate, for AdamW.
        reason: Where it is from.
    """

    lr: float
    reason: str


USUAL = Method(1e-3, "small modules that start as nothing")
METHODS = {
    "IA3": Method(5e-3, "IA³ only rescales, and learns nothing at usual rates (arXiv:2205.05638)"),
    "VERA": Method(5e-3, "VeRA trains two vectors a layer (arXiv:2310.11454)"),
    "LN_TUNING": Method(1e-3, "norms alone (arXiv:2312.11420)"),
    "ADALORA": Method(1e-3, "as LoRA (arXiv:2303.10512)"),
}


PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
REFUSED = {
    "MULTITASK_PROMPT_TUNING": "it needs the number of a task with each example",
    "POLY": "it needs the number of a task with each example",
    "SHADOW": "it runs a second model beside the base, which must be one that writes",
    "XLORA": "it mixes adapters that were trained before",
    "ADAPTION_PROMPT": "what it trains cannot be told from the model's own parameters",
    "CARTRIDGE": "it starts from the cache of a model that has read a text",
}
"""Methods that one recipe cannot train, and why."""


class Peft(HeadedSpec):
    """A parameter-efficient method by PEFT's name of it."""

    kind: Literal["peft"] = "peft"

    method: str = "IA3"
    """Name of the method in PEFT: IA3, VERA, LN_TUNING, ADALORA, BOFT, …"""

    options: dict[str, object] = Field(default_factory=dict)
    """Fields of the method's configuration class in PEFT, under their names there; checked before anything runs."""

    targets: Targets | Literal["auto"] = "auto"
    """Modules that are adapted, as for lora; auto: the norms for LN_TUNING, the embedding for TRAINABLE_TOKENS, else
    all linear layers of the body."""

    @field_validator("method")
    @classmethod
    def _upper(cls, method: str) -> str:
        name = method.upper().replace("-", "_")
        if name in REFUSED:
            raise ValueError(f"{name} is not for this: {REFUSED[name]}")
        return name

    @model_validator(mode="after")
    def _tokens_are_named(self) -> Self:
        if self.method == "TRAINABLE_TOKENS" and not self.options.get("token_indices"):
            raise ValueError(
                "TRAINABLE_TOKENS trains rows of the embedding: name them by options: {token_indices: [...]}"
            )
        return self

    @property
    def keeps_activations(self) -> str:
        """Blocks add their keys to those of a prefix, and would do so twice."""
        return "a prefix is lengthened by each pass through a block" if self.method == "PREFIX_TUNING" else ""

    def plan(self, anatomy: Anatomy, updates: int) -> Plan:
        """Solve the output layer where it is new, then fit adapter and head."""
        options = {**_required(self.method, updates), **self.options}
        beside = anatomy.head_beside_adapter
        adapter = Adapter(self.method, options, self._targets(anatomy), beside)
        fit = Fit(
            "fit",
            (ADAPTER, *(f"{module}.*" for module in beside)),
            after_update="adalora" if self.method == "ADALORA" else None,
        )
        return Plan(self.body(), adapter, (*head_first(self.head_init, anatomy), fit))

    def defaults(self, sizes: Sizes) -> Mapping[str, Setting]:
        """Each method has a learning rate of its own."""
        method = METHODS.get(self.method, USUAL)
        return {
            "strategy.head_init": head_setting(sizes),
            "train.lr": Setting(method.lr, method.reason),
            "train.epochs": epochs_for(sizes),
            "train.weight_decay": Setting(0.0, "decay would pull scales to zero"),
            "model.dropout": Setting(0.0, "few parameters train"),
        }

    def _targets(self, anatomy: Anatomy) -> tuple[str, ...]:
        if self.method == "TRAINABLE_TOKENS":
            return (_token_table(anatomy),)
        modules = anatomy.norms if self.method == "LN_TUNING" else anatomy.linear
        return targets_of("all-linear" if self.targets == "auto" else self.targets, modules)


def _token_table(anatomy: Anatomy) -> str:
    """The module with the rows of tokens.

    Raises:
        RecipeError: There is none, or its rows cannot train without the others.
    """
    table = anatomy.tokens
    said = "the model reads none" if table is None else table.bound
    if table is None or said:
        raise RecipeError(Problem(f"rows of tokens cannot be trained here: {said}", "strategy.method"))
    return table.path


def _required(method: str, updates: int) -> dict[str, object]:
    """Options that a method cannot do without and that follow from the rest."""
    if method == "ADALORA":  # its budget falls between tinit and total_step - tfinal (arXiv:2303.10512, §3.3)
        return {"total_step": updates, "tinit": updates // 10, "tfinal": updates // 3, "deltaT": max(1, updates // 100)}
    if method == "IA3":
        return {"feedforward_modules": ()}  # all targets are scaled at their output
    if method in PROMPTS:  # more gain little (Lester et al. 2021, arXiv:2104.08691, §3.2)
        return {"num_virtual_tokens": 20}
    return {}
