"""Building what a Plan asks for: on the meta device to plan, with weights to train."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hfstrat.errors import ModelError, Problem, RecipeError
from hfstrat.models.anatomy import find_anatomy
from hfstrat.models.base import Base
from hfstrat.models.modeling_pooled import PooledConfig, PooledForSequenceClassification
from hfstrat.models.pooled import register
from hfstrat.strategies.plan import Adapter, Anatomy
from hfstrat.tasks.base import Labels

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DROPOUT_FIELD = re.compile(r"dropout|pdrop")


@dataclass(frozen=True)
class Shape:
    """What a classifier looks like, apart from its weights.

    Args:
        auto_class: Auto class of the task.
        labels: Its outputs.
        pooling: `native`, or how tokens are pooled.
        normalize: Whether the pooled vector has length one.
        attention: Attention implementation; None for the model's own choice.
        dropout: Dropout inside the model; None leaves the configuration as it is.
    """

    auto_class: str
    labels: Labels
    pooling: str
    normalize: bool
    attention: str | None = None
    dropout: float | None = None


def plan_shape(base: Base, shape: Shape) -> tuple[Anatomy, str]:
    """Anatomy and attention implementation of the model that would be built, found without reading its weights.

    Raises:
        ModelError: The base does not fit the task.
    """
    model, fresh = _load(base, shape, {"device_map": "meta"})
    inner: Any = getattr(model, "backbone", model) if isinstance(model, PooledForSequenceClassification) else model
    return find_anatomy(model, fresh, len(shape.labels.names)), str(inner.config._attn_implementation)


def build(base: Base, shape: Shape, adapter: Adapter | None, seed: int, auto_task: str) -> nn.Module:
    """The model with its weights in fp32, its adapter put in, in eval mode.

    Args:
        base: The base model.
        shape: What the model looks like.
        adapter: The adapter, if any.
        seed: Seed of whatever is new.
        auto_task: PEFT's name of the task.
    """
    torch.manual_seed(seed)
    model, _ = _load(base, shape, {"dtype": torch.float32})
    return put_in(model, adapter, base.name, auto_task) if adapter is not None else model


def put_in(model: Any, adapter: Adapter, base_name: str, auto_task: str) -> nn.Module:
    """Put an adapter into a model.

    Raises:
        RecipeError: PEFT cannot adapt this model with these options.
    """
    from peft import PeftType, get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    options: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value for name, value in adapter.options.items()
    }
    pooled = isinstance(model, PooledForSequenceClassification)
    config_class: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(adapter.method)]
    config = config_class(
        # PEFT's own classes know nothing of a pooled model, and would add heads by name.
        task_type=None if pooled else auto_task,
        modules_to_save=list(adapter.modules_to_save),
        exclude_modules=list(adapter.modules_to_save),
        base_model_name_or_path=base_name,
        **options,
    )
    model.name_or_path = base_name  # or PEFT warns that it renames the base
    try:
        with warnings.catch_warnings():
            # PEFT sees by itself that GPT-2's linear layers are stored transposed, and says so for each of them.
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
            adapted = get_peft_model(model, config)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise RecipeError(Problem(f"this model takes no such adapter: {error}", "strategy")) from error
    return adapted.eval()


def _load(base: Base, shape: Shape, options: dict[str, Any]) -> tuple[PreTrainedModel, list[str]]:
    """The classifier on this base, and the names of the parameters that its checkpoint does not have."""
    register()
    names = shape.labels.names
    config = base.config.__class__.from_dict(base.config.to_dict())
    set_dropout(config, shape.dropout)
    if shape.attention:
        options = {**options, "attn_implementation": shape.attention}
    labelled = {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: place for place, name in enumerate(names)},
        "problem_type": {
            "single_label": "single_label_classification",
            "multi_label": "multi_label_classification",
        }.get(shape.labels.problem, "regression"),
        "pad_token_id": base.tokenizer.pad_token_id,
    }
    try:
        if shape.pooling == "native":
            return _native(base, shape, config, labelled, options)
        return _pooled(base, shape, config, labelled, options)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        text = str(error).strip().splitlines()[0]
        raise ModelError(Problem(f"{base.name} cannot be used for {shape.auto_class}: {text}", "model.base")) from error


def _native(
    base: Base, shape: Shape, config: Any, labelled: dict[str, Any], options: dict[str, Any]
) -> tuple[PreTrainedModel, list[str]]:
    import transformers

    for name, value in labelled.items():
        if name != "num_labels":  # derived from id2label
            setattr(config, name, value)
    model, info = getattr(transformers, shape.auto_class).from_pretrained(
        base.location, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options, **base.hub
    )
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    return model, sorted([*info["missing_keys"], *mismatched])


def _pooled(
    base: Base, shape: Shape, config: Any, labelled: dict[str, Any], options: dict[str, Any]
) -> tuple[PreTrainedModel, list[str]]:
    pooled = PooledConfig(config, shape.pooling, shape.normalize, shape.dropout or 0.0, **labelled)
    model = PooledForSequenceClassification.from_backbone(base.location, pooled, **options, **base.hub)
    return model, ["classifier.weight", "classifier.bias"]


def set_dropout(config: Any, value: float | None) -> None:
    """Set every dropout rate that a configuration has."""
    if value is None:
        return
    for name, rate in config.to_dict().items():
        if _DROPOUT_FIELD.search(name) and isinstance(rate, (int, float)) and not isinstance(rate, bool):
            setattr(config, name, value)
