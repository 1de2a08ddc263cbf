"""Making the pooled classifier known to transformers, in this process and in what is saved."""

from __future__ import annotations

from functools import cache


@cache
def register() -> None:
    """Let the Auto classes load pooled classifiers here without remote code."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from hfstrat.models.modeling_pooled import PooledConfig, PooledForSequenceClassification

    AutoConfig.register(PooledConfig.model_type, PooledConfig)
    AutoModelForSequenceClassification.register(PooledConfig, PooledForSequenceClassification)
    # Saving then writes `auto_map` and copies modeling_pooled.py beside the weights.
    PooledConfig.register_for_auto_class()
    PooledForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
