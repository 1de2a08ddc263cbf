"""The strategies: one file each, one line each in the union below."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hfstrat.strategies.distill import Distill
from hfstrat.strategies.full import Full
from hfstrat.strategies.head import Head
from hfstrat.strategies.lora import Lora
from hfstrat.strategies.partial import Partial
from hfstrat.strategies.peft import Peft
from hfstrat.strategies.qlora import Qlora
from hfstrat.strategies.scratch import Scratch

Strategy = Annotated[
    Scratch | Head | Partial | Full | Lora | Qlora | Peft | Distill,
    Field(discriminator="kind"),
]

STRATEGIES = {
    spec.model_fields["kind"].default: spec for spec in (Scratch, Head, Partial, Full, Lora, Qlora, Peft, Distill)
}
