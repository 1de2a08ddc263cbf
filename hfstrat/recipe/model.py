"""Which model a run starts from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hfstrat.spec import Spec


class ModelSpec(Spec):
    """The base model and how it is loaded."""

    base: str | None = None
    """A Hub id, a folder, a run of hfstrat, or `package:<module>/<folder>` for weights inside an installed Python
    package. A model from random weights can do without."""

    config: dict[str, object] | None = None
    """Shape of random weights (scratch, and a student with `weights: random`): fields of the configuration that
    differ from the base's, or with `model_type` a whole configuration of any architecture. Arms of a comparison that
    start from pretrained weights leave it aside."""

    code: str | None = None
    """A local file of Python with an architecture of your own: a PretrainedConfig with its `model_type`, and a
    PreTrainedModel. It is run, and a copy goes with the artefact."""

    revision: str | None = None
    """Branch, tag or commit of a Hub id."""

    new_tokens: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Pieces of text that become one token each, such as marks of a form or names of a trade; they begin as the mean of
    what they were cut into, and are learned by full, lora and qlora."""

    published_as: str | None = None
    """Public id of a local base, written to the adapter's configuration and the card."""

    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] = "auto"
    """Attention implementation; auto: eager for short texts in bf16 on a CPU, else the model's own choice."""

    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    """Dropout inside the model while it trains; auto: the strategy's default."""

    trust_remote_code: bool = False
    """Run Python code that comes with the base model. Leave it false unless you have read that code."""

    @model_validator(mode="after")
    def _something(self) -> ModelSpec:
        if self.base is None and "model_type" not in (self.config or {}):
            raise ValueError("a model needs a base, or a config with its model_type")
        if len({*self.new_tokens}) < len(self.new_tokens):
            raise ValueError("new_tokens has some twice")
        return self
