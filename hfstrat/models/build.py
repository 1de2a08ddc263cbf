"""Building what a Plan asks for: on the meta device to plan, with weights to train."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers.pytorch_utils import Conv1D

from hfstrat.errors import ModelError, Problem, RecipeError
from hfstrat.models import artifact
from hfstrat.models.adapters import check_continues, load_into, put_in, started_plainly
from hfstrat.models.anatomy import (
    adapter_names,
    backbone_name,
    canonical,
    detects,
    find_anatomy,
    named_parameters,
    outside,
)
from hfstrat.models.base import Base
from hfstrat.models.cutting import cut
from hfstrat.models.growing import grow, set_rows
from hfstrat.models.modeling_pooled import PooledConfig, PooledForSequenceClassification
from hfstrat.models.pooled import register
from hfstrat.models.positions import grids, interpolated
from hfstrat.models.pretending import Untriable
from hfstrat.models.quantize import keep_differentiable, quantization_config, quantize_here, quantize_on_meta
from hfstrat.strategies.plan import Anatomy, Body, Plan
from hfstrat.tasks.base import Labels

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DROPOUT_FIELD = re.compile(r"dropout|pdrop")


@dataclass(frozen=True)
class Arithmetic:
    """How a model computes while it is trained.

    Args:
        precision: `bf16` or `fp32`, in which quantised weights compute.
        hold_bf16: Hold the linear weights that an adapter leaves frozen in bfloat16.
        fused_lora: Compute LoRA's layers in fewer operations.
    """

    precision: str
    hold_bf16: bool = False
    fused_lora: bool = False


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
        solvable: Whether its output layer can be solved on features.
    """

    auto_class: str
    labels: Labels
    pooling: str
    normalize: bool
    attention: str | None = None
    dropout: float | None = None
    solvable: bool = True

    @property
    def outputs(self) -> int | None:
        """Width of an output layer that may be solved; None where none may."""
        return len(self.labels.names) if self.solvable else None


@dataclass(frozen=True)
class _How:
    """How tensors are made: without storage to plan, with it to train; `quantization` for what is frozen."""

    meta: bool
    quantization: Any = None

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `from_pretrained`."""
        if self.meta:
            return {"device_map": "meta"}
        stored = {} if self.quantization is None else {"quantization_config": self.quantization}
        return {"dtype": torch.float32, **stored}


def plan_shape(base: Base, shape: Shape, body: Body = Body()) -> tuple[Anatomy, str]:  # noqa: B008 - frozen
    """Anatomy and attention implementation of the model that would be built, found without reading its weights.

    Raises:
        UsageError: The base does not fit the task, or what the strategy builds from it.
    """
    _check(base, shape, body)
    model, fresh = _load(base, shape, body, _How(meta=True))
    inner: Any = getattr(model, "backbone", model) if isinstance(model, PooledForSequenceClassification) else model
    anatomy = find_anatomy(model, fresh, shape.outputs, random=body.weights == "random")
    anatomy = replace(anatomy, speaks=not shape.labels.names, new_tokens=base.grown.ids if base.grown else ())
    if base.adapter is None and body.weights == "pretrained":
        _check_body(base, anatomy)
    if base.adapter is not None and body.weights == "pretrained":
        # An adapter brings what the base below it lacked, and its head if that is kept.
        new = () if _keeps_head(base, shape, body) else outside(model)
        anatomy = replace(anatomy, fresh=tuple(name for name in anatomy.fresh if name in new))
    return anatomy, str(inner.config._attn_implementation)


@dataclass(frozen=True)
class Added:
    """What an adapter adds to a model.

    Args:
        sizes: Number of elements of each parameter, by canonical name.
        trains: Those of them that its method trains.
    """

    sizes: Mapping[str, int]
    trains: frozenset[str]


def plan_adapter(base: Base, shape: Shape, plan: Plan, task_type: str | None) -> Added:
    """The parameters that the plan's adapter would add.

    Raises:
        RecipeError: PEFT cannot adapt this model so, or the adapter to start from is another one.
    """
    if plan.adapter is None:
        return Added({}, frozenset())
    if base.regridded and plan.body.weights == "pretrained":
        what = "an adapter is loaded onto its base as it is, whose positions are for pictures of another size"
        raise RecipeError(Problem(what, "task.image_size", hint="Leave it out, or train without an adapter"))
    model, _ = _load(base, shape, plan.body, _How(meta=True))
    if base.adapter is not None:
        check_continues(plan.adapter, plan.body.storage, base.adapter, [name for name, _ in model.named_modules()])
    before = {name for name, _ in named_parameters(model)}
    try:
        with torch.device("meta"):
            adapted = put_in(model, plan.adapter, base.name, task_type)
    except RecipeError as error:
        if "meta" not in str(error).lower():
            raise
        # Some methods compute with the weights as they begin.
        adapted = put_in(_load(base, shape, plan.body, _How(meta=False))[0], plan.adapter, base.name, task_type)
    sizes = {name: parameter.numel() for name, parameter in named_parameters(adapted) if name not in before}
    return Added(sizes, frozenset(adapter_names(adapted)))


def build(
    base: Base,
    shape: Shape,
    plan: Plan,
    anatomy: Anatomy,
    seed: int,
    task_type: str | None,
    arithmetic: Arithmetic,
) -> nn.Module:
    """The model with its weights in fp32 or as the plan stores them, its adapter put in, in eval mode.

    Args:
        base: The base model.
        shape: What the model looks like.
        plan: What is built from it.
        anatomy: Where it keeps its parts.
        seed: Seed of whatever is new.
        task_type: PEFT's name of the task.
        arithmetic: How it computes.
    """
    torch.manual_seed(seed)
    storage = plan.body.storage
    quantization = quantization_config(storage, anatomy.whole, arithmetic.precision) if storage is not None else None
    start = base.adapter if plan.adapter is not None else None
    model, _ = _load(base, shape, plan.body, _How(False, quantization), merge=start is None)
    keep_differentiable(model)
    if plan.adapter is None:
        return model.eval()
    name = base.name if start is None else start.base_name
    new = () if _keeps_head(base, shape, plan.body) else outside(model)
    adapted = put_in(model, plan.adapter if start is None else started_plainly(plan.adapter), name, task_type)
    if start is not None:
        load_into(adapted, start, new)
    return _arranged(adapted, arithmetic)


def imitate(
    base: Base,
    shape: Shape,
    plan: Plan,
    anatomy: Anatomy,
    task_type: str | None,
    arithmetic: Arithmetic,
    *,
    meta: bool,
) -> nn.Module:
    """The model that `build` makes with the same arguments, but of random weights: none is read.

    Args:
        base: As of `build`, like those that follow.
        shape: What the model looks like.
        plan: What is built from it.
        anatomy: Where it keeps its parts.
        task_type: PEFT's name of the task.
        arithmetic: How it computes.
        meta: Make it on the meta device, of shapes alone.

    Raises:
        Untriable: It cannot be made of shapes alone.
    """
    torch.manual_seed(0)
    storage = plan.body.storage
    if meta and storage is not None and storage.bits == 8:
        raise Untriable("what is stored in 8 bits beside its weights is found when they are quantised")
    model, _ = _load(base, shape, replace(plan.body, weights="random"), _How(meta))
    if base.grown is not None and plan.body.weights == "pretrained":
        grow(model, base.grown)
    if storage is not None:
        quantize = quantize_on_meta if meta else quantize_here
        quantize(model, quantization_config(storage, anatomy.whole, arithmetic.precision))
        keep_differentiable(model)
    if plan.adapter is None:
        return model.eval()
    try:
        with torch.device("meta") if meta else nullcontext():
            adapted = put_in(model, started_plainly(plan.adapter), base.name, task_type)
    except RecipeError as error:
        if not meta:
            raise
        raise Untriable(str(error)) from error  # some methods compute with the weights as they begin
    return _arranged(adapted, arithmetic)


def _arranged(adapted: nn.Module, arithmetic: Arithmetic) -> nn.Module:
    """A model with an adapter, as it computes."""
    if arithmetic.hold_bf16:
        _halve(adapted)
    if arithmetic.fused_lora:
        from hfstrat.models.fused import fuse

        fuse(adapted)
    return adapted


def _halve(model: nn.Module) -> None:
    """Round the weights of frozen linear layers to bfloat16, as autocast would in each pass."""
    for module in model.modules():
        own = [*module.parameters(recurse=False)]
        if isinstance(module, (nn.Linear, Conv1D)) and not any(parameter.requires_grad for parameter in own):
            module.to(torch.bfloat16)


def _check(base: Base, shape: Shape, body: Body) -> None:
    """Raise for what cannot be built."""
    import transformers

    problems = []
    if base.code is not None and type(base.config) not in getattr(transformers, shape.auto_class)._model_mapping:
        ending = shape.auto_class.removeprefix("AutoModel")
        what = f"{base.code.file.name} has no class …{ending} for {type(base.config).__name__}"
        problems.append(Problem(what, "model.code", hint="A class is found by how its name ends, and its config_class"))
    if base.head[0] != "native" and shape.pooling == "native" and body.weights == "pretrained":
        what, path = f"{base.name} pools its tokens, and has no head of its own", "task.pooling"
        hint = "Leave task.pooling out"
        if not shape.auto_class.endswith("ForSequenceClassification"):
            what, path = f"{base.name} is a classifier of texts that pools its tokens", "model.base"
            hint = "Name what it was trained from"
        problems.append(Problem(what, path, hint=hint))
    # Its configuration could not be read back from inside a pooled one.
    if (base.code is not None or _is_remote(base.config)) and shape.pooling != "native":
        hint = "Set task.pooling: native, and write the pooling into the architecture"
        problems.append(Problem("an architecture that is code brings its own head", "task.pooling", hint=hint))
    if problems:
        raise RecipeError(problems)


def _check_body(base: Base, anatomy: Anatomy) -> None:
    """Raise where part of the body would start from random numbers: a pooler may be new, blocks and embeddings not."""
    inside = tuple(f"{module}." for module in (*anatomy.blocks, *anatomy.embeddings))
    lost = [name for name in anatomy.fresh if name.startswith(inside)]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        what = f"the weights of {base.name} lack tensors of its body, or have them in another shape: "
        hint = "Copy or download it again; weights and config.json have to be of the same model"
        raise ModelError(Problem(f"{what}{', '.join(lost[:3])}{more}", "model.base", hint=hint))


def _is_remote(config: Any) -> bool:
    """Whether a configuration's class came with the base."""
    return type(config).__module__.startswith("transformers_modules.")


def _load(base: Base, shape: Shape, body: Body, how: _How, *, merge: bool = True) -> tuple[PreTrainedModel, list[str]]:
    """The classifier, and the names of the parameters that no checkpoint gives."""
    register()
    try:
        model, fresh = _whole(base, shape, body, how, merge)
        if base.grown is not None and body.weights == "pretrained" and (how.meta or base.adapter is None or not merge):
            grow(model, base.grown)
        return (model, fresh) if body.every == 1 else _smaller(model, fresh, shape, body, how)
    except (OSError, ValueError, RuntimeError, ImportError, AttributeError, TypeError, SafetensorError) as error:
        raise ModelError(_unbuildable(base, shape, body, error)) from error


def _unbuildable(base: Base, shape: Shape, body: Body, error: Exception) -> Problem:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    path, hint = "model.base" if body.weights == "pretrained" else "model.config", ""
    if text.startswith("Unrecognized configuration class"):
        text = f"transformers has no such class of a {base.config.model_type} model"
        texts = shape.auto_class.endswith("ForSequenceClassification")
        hint = f"{'Set task.pooling: mean, which needs the body alone, or name' if texts else 'Name'} another base"
    elif "safetensors" in text:
        hint = "Weights are read from safetensors alone: name a base, or a model.revision, that has them"
    return Problem(f"{base.name} cannot be used for {shape.auto_class}: {text.rstrip('.')}", path, hint=hint)


def _whole(base: Base, shape: Shape, body: Body, how: _How, merge: bool) -> tuple[PreTrainedModel, list[str]]:
    config = _configured(base, shape)
    if body.weights == "random":
        return _from_config(config, shape, how), []
    keep = _keeps_head(base, shape, body)
    if base.adapter is None:
        return _pretrained(base, config, shape, keep, how)
    if not how.meta and merge:
        source: Any = artifact.load(base.adapter.folder, base.location, shape.auto_class, base.hub, dequantize=True)
        merged = source.merge_and_unload()
        return _transferred(merged, config, shape, keep, how)
    return _pretrained(base, config, shape, False, how)


def _keeps_head(base: Base, shape: Shape, body: Body) -> bool:
    """Whether the base's head is for the very same labels, of vectors that are pooled in the same way."""
    same = base.labels == shape.labels.names and base.head == (shape.pooling, shape.normalize)
    same |= not shape.labels.names  # a head over the vocabulary, which is the base's
    return same and body.keep_head and body.weights == "pretrained"


def _configured(base: Base, shape: Shape) -> Any:
    """The configuration of the classifier: the base's, or a pooled one around it."""
    names = shape.labels.names
    kinds = {
        "single_label": "single_label_classification",
        "multi_label": "multi_label_classification",
        "regression": "regression",
    }
    labelled: dict[str, Any] = {
        "id2label": dict(enumerate(names)),  # num_labels is derived from it
        "label2id": {name: place for place, name in enumerate(names)},
        "problem_type": kinds.get(shape.labels.problem),
    }
    if not names:  # tokens are named by the tokenizer
        labelled = {}
    tokenizer = base.tokenizer
    # A row of the embedding that pads is not learned, and what ends a text has to be.
    if tokenizer is not None and (names or tokenizer.pad_token_id != tokenizer.eos_token_id):
        labelled["pad_token_id"] = tokenizer.pad_token_id
    config = copy.deepcopy(base.config)
    set_dropout(config, shape.dropout)
    if shape.attention:
        config._attn_implementation = _attention(shape)
    if shape.pooling != "native":
        pooled = PooledConfig(
            config, shape.pooling, shape.normalize, shape.dropout or 0.0, num_labels=len(names), **labelled
        )
        if shape.attention:
            pooled._attn_implementation = shape.attention
        return pooled
    for name, value in labelled.items():
        setattr(config, name, value)
    return config


def _attention(shape: Shape) -> str | dict[str, Any]:
    """The implementation as transformers takes it: convolutions below a detector have none."""
    return {"": shape.attention} if shape.auto_class == "AutoModelForObjectDetection" else str(shape.attention)


def _from_config(config: Any, shape: Shape, how: _How) -> PreTrainedModel:
    """A classifier of random weights."""
    import transformers

    with torch.device("meta") if how.meta else nullcontext():
        if isinstance(config, PooledConfig):
            return PooledForSequenceClassification(config)
        model: PreTrainedModel = getattr(transformers, shape.auto_class).from_config(config, dtype=torch.float32)
        return model


def _pretrained(base: Base, config: Any, shape: Shape, keep: bool, how: _How) -> tuple[PreTrainedModel, list[str]]:
    import transformers

    assert base.location is not None, "pretrained weights have a place"
    if base.grown is not None:
        set_rows(config, base.grown.rows)
    attention = {"attn_implementation": _attention(shape)} if shape.attention else {}
    options = {**how.options, **attention, **base.hub}
    if isinstance(config, PooledConfig) and not base.pooled:
        options["ignore_mismatched_sizes"] = True  # they are told below, by name
        model = PooledForSequenceClassification.from_backbone(base.location, config, **options)
        return model, ["classifier.weight", "classifier.bias", *model.random_parameters]
    auto: Any = PooledForSequenceClassification if base.pooled else getattr(transformers, shape.auto_class)
    model, info = auto.from_pretrained(
        base.location, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    fresh = {*info["missing_keys"], *mismatched}
    if positions := grids(model, mismatched):
        fresh -= _interpolated(base, model, positions, auto, options, how)
    # A head for other labels may have the right width by chance.
    read = [] if keep else [name for name in outside(model) if name not in fresh]
    _renew(model, read)
    return model, sorted([*fresh, *read])


def _interpolated(
    base: Base, model: PreTrainedModel, names: list[str], auto: Any, options: dict[str, Any], how: _How
) -> set[str]:
    """Give a model the base's positions for pictures of its own size; the names of those that it has now."""
    source = auto.from_pretrained(base.location, ignore_mismatched_sizes=True, **options)
    found = set()
    for name in names:
        target, values = model.get_parameter(name), source.get_parameter(name)
        if how.meta:
            values = torch.empty(values.shape)
        made = interpolated(values.detach(), target.shape[1])
        if made is not None:
            found.add(name)
            if not how.meta:
                with torch.no_grad():
                    target.copy_(made)
    return found


def _renew(model: PreTrainedModel, names: Collection[str]) -> None:
    """Give parameters that were read the random values of those that were not found."""
    parameters = dict(model.named_parameters())
    for name in names:
        setattr(parameters[name], "_is_hf_initialized", False)  # noqa: B010 - what `_init_weights` goes by
    with torch.no_grad():
        owners = dict.fromkeys(name.rpartition(".")[0] for name in names)
        if detects(model) and names:  # what a class begins with is for the modules around it to say
            parts = (owner.split(".") for owner in owners)
            owners |= dict.fromkeys(".".join(part[:end]) for part in parts for end in range(len(part) - 1, -1, -1))
        for owner in owners:
            model._init_weights(model.get_submodule(owner))


def _transferred(source: Any, config: Any, shape: Shape, keep: bool, how: _How) -> tuple[PreTrainedModel, list[str]]:
    """A new classifier with the weights of another one over the same backbone, its head only if it fits."""
    target = _from_config(config, shape, how)
    new = [] if keep else outside(target)
    # LN_TUNING leaves the head in its wrapper.
    state = source.state_dict()
    given = {canonical(name, source): value for name, value in state.items() if ".original_module." not in name}
    there, here = (f"{name}." if (name := backbone_name(model)) else "" for model in (source, target))
    names = {name: there + name.removeprefix(here) if name.startswith(here) else name for name in target.state_dict()}
    _copy({name: given[other] for name, other in names.items() if name not in new}, target)
    return target, new


def _smaller(
    model: PreTrainedModel, fresh: list[str], shape: Shape, body: Body, how: _How
) -> tuple[PreTrainedModel, list[str]]:
    """Every so many-th block of a model."""
    anatomy = find_anatomy(model, fresh, shape.outputs, random=body.weights == "random")
    smaller = cut(model.config, anatomy, body.every, shape.auto_class)
    target = _from_config(smaller.config, shape, how)
    names = [name for name, _ in target.named_parameters()]
    if body.weights == "pretrained" and not how.meta:
        state = model.state_dict()
        _copy({name: state[smaller.source(name)] for name in target.state_dict()}, target)
    return target, [name for name in names if smaller.source(name) in fresh]


def _copy(state: Mapping[str, torch.Tensor], target: nn.Module) -> None:
    result = target.load_state_dict(dict(state), strict=False)
    assert not result.unexpected_keys, f"tensors that fit nothing: {result.unexpected_keys[:3]}"


def set_dropout(config: Any, value: float | None) -> None:
    """Set every dropout rate that a configuration has; without dropout no layers are dropped either.

    Masks that some models of waves lay over their own hidden states are off: how sounds are varied is the task's.
    """
    if getattr(config, "apply_spec_augment", False):
        config.apply_spec_augment = False
    if value is None:
        return
    for name, rate in config.to_dict().items():
        if value == 0 and name.endswith("layerdrop"):
            setattr(config, name, 0.0)
        if _DROPOUT_FIELD.search(name) and isinstance(rate, (int, float)) and not isinstance(rate, bool):
            setattr(config, name, value)
