"""The strategies: one file each, one line each in the union below."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hfstrat.strategies.full import Full
from hfstrat.strategies.head import Head
from hfstrat.strategies.lora import Lora

Strategy = Annotated[Head | Full | Lora, Field(discriminator="kind")]

STRATEGIES = {spec.model_fields["kind"].default: spec for spec in (Head, Full, Lora)}
