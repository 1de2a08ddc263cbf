"""LoRA over a base whose frozen weights are stored in 4 or 8 bits (Dettmers et al. 2023, arXiv:2305.14314)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from hfstrat.errors import Problem, RecipeError
from hfstrat.strategies.lora import LowRank
from hfstrat.strategies.plan import Anatomy, Body, Plan, Quantization


class Qlora(LowRank):
    """LoRA over a quantised base: for bases that do not fit the memory otherwise."""

    kind: Literal["qlora"] = "qlora"

    bits: Literal[4, 8] = 4
    """Bits of a stored weight; 8 is LLM.int8 (arXiv:2208.07339)."""

    quant_type: Literal["nf4", "fp4"] = "nf4"
    """Data type of 4 bits: nf4 has its values where normally distributed weights are."""

    double_quant: bool = True
    """Quantise the scales of 4-bit blocks as well, which saves about 0.4 bits a weight."""

    def body(self) -> Body:
        """The base, quantised."""
        return replace(super().body(), storage=Quantization(self.bits, self.quant_type, self.double_quant))

    def plan(self, anatomy: Anatomy, updates: int) -> Plan:
        """As LoRA's; there must be linear layers to quantise."""
        if not any(name.startswith(f"{block}.") for name in anatomy.linear for block in anatomy.blocks):
            hint = "Use kind: partial or full"
            raise RecipeError(
                Problem("only linear layers are quantised, and this model's blocks have none", "strategy", hint=hint)
            )
        return super().plan(anatomy, updates)
