"""Which model a run starts from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hfstrat.spec import Spec


class ModelSpec(Spec):
    """The base model and how it is loaded."""

    base: str
    """A Hub id, a folder, or package:<module>/<folder> for weights inside an installed Python package."""

    revision: str | None = None
    """Branch, tag or commit of a Hub id."""

    published_as: str | None = None
    """Public id of a local base, written to the adapter's configuration and the card."""

    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] = "auto"
    """Attention implementation; auto: eager for short texts in bf16 on a CPU, else the model's own choice."""

    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    """Dropout inside the model while it trains; auto: the strategy's default."""

    trust_remote_code: bool = False
    """Run Python code that comes with the base model. Leave it false unless you have read that code."""
