"""A classifier that pools the tokens of any backbone.

This file is copied into the artefact beside the weights, so that `transformers` can load it without hfstrat. It
therefore imports nothing but torch and transformers.
"""

import inspect
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class PooledConfig(PretrainedConfig):
    """Configuration of a backbone, of its pooling and of a linear head.

    Args:
        backbone_config: The backbone's own configuration, or its dictionary.
        pooling: `mean` over tokens, the first token (`cls`), or the `last` token.
        normalize: Whether the pooled vector is scaled to length one.
        classifier_dropout: Dropout before the head while training.
    """

    model_type = "pooled-classifier"
    sub_configs = {  # noqa: RUF012 - as transformers declares it
        "backbone_config": AutoConfig
    }

    def __init__(
        self,
        backbone_config: Any = None,
        pooling: str = "mean",
        normalize: bool = False,
        classifier_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        self.backbone_config = backbone_config
        self.pooling = pooling
        self.normalize = normalize
        self.classifier_dropout = classifier_dropout
        super().__init__(**kwargs)


class PooledForSequenceClassification(PreTrainedModel):
    """A backbone, pooling over its tokens, and a linear head."""

    config_class = PooledConfig
    base_model_prefix = "backbone"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    supports_gradient_checkpointing = True

    random_parameters: list[str] | tuple[str, ...] = ()
    """Names of the parameters that a pretrained backbone did not bring."""

    def __init__(self, config: PooledConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        given = [] if backbone is None else list(backbone.parameters())
        if backbone is None:
            backbone = AutoModel.from_config(config.backbone_config, **_without_pooler(config))
        self.backbone: Any = backbone
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.backbone_config.hidden_size, config.num_labels or 2)
        for parameter in given:
            setattr(parameter, "_is_hf_initialized", True)  # noqa: B010 - post_init must not touch loaded weights
        self.post_init()

    @classmethod
    def from_backbone(
        cls, backbone: str, config: PooledConfig | str, **kwargs: Any
    ) -> "PooledForSequenceClassification":
        """Put a new head on a pretrained backbone.

        Args:
            backbone: Hub id or folder of the backbone.
            config: The classifier's configuration, or a folder that holds it.
            **kwargs: Handed to `AutoModel.from_pretrained` (`dtype`, `revision`, …).
        """
        if isinstance(config, str):
            config = PooledConfig.from_pretrained(config)
        if PretrainedConfig.get_config_dict(backbone)[0].get("model_type") == cls.config_class.model_type:
            # The base is a pooled classifier itself; a head of another width is new.
            return cls.from_pretrained(backbone, config=config, ignore_mismatched_sizes=True, **kwargs).eval()
        options = {**_without_pooler(config), **kwargs, "output_loading_info": True}
        body, info = AutoModel.from_pretrained(backbone, config=config.backbone_config, **options)
        with torch.device(body.device):
            model = cls(config, body).eval()
        for mark in ("hf_quantizer", "is_quantized", "quantization_method", "is_loaded_in_4bit", "is_loaded_in_8bit"):
            if hasattr(body, mark):  # PEFT and transformers look for them on the outermost model
                setattr(model, mark, getattr(body, mark))
        lost = [*info["missing_keys"], *(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])]
        model.random_parameters = sorted(f"backbone.{key}" for key in lost)
        return model

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> SequenceClassifierOutput:
        """Logits for each text.

        Args:
            input_ids: int64 `(batch, length)`.
            attention_mask: 1 where a token stands, `(batch, length)`; None when there is no padding.
            **kwargs: What else the backbone takes (`token_type_ids`, `inputs_embeds`).

        Returns:
            Output with `logits`, float `(batch, labels)`.
        """
        kwargs.pop("labels", None)
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **kwargs)[0]
        if attention_mask is None:
            attention_mask = hidden.new_ones(hidden.shape[:2])
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(self._pool(hidden, attention_mask))))

    def _pool(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.config.pooling == "mean":
            weight = mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        else:
            place = torch.arange(mask.shape[1], device=mask.device) * mask
            last = place.argmax(1) if self.config.pooling == "last" else mask.argmax(1)
            pooled = hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
        return nn.functional.normalize(pooled, dim=-1) if self.config.normalize else pooled


def _without_pooler(config: PooledConfig) -> dict[str, bool]:
    """BERT-like backbones have a pooling layer that would be stored and never used."""
    found: Any = AutoModel._model_mapping.get(type(config.backbone_config), None)
    family = found[0] if isinstance(found, (list, tuple)) else found
    takes = family is not None and "add_pooling_layer" in inspect.signature(family).parameters
    return {"add_pooling_layer": False} if takes else {}
