"""Putting PEFT's adapters into a model, with options that were checked against the method's own configuration."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from hfstrat.errors import Problem, RecipeError, did_you_mean, shortened
from hfstrat.models.anatomy import canonical, named_parameters
from hfstrat.models.base import Adapted
from hfstrat.models.modeling_pooled import PooledForSequenceClassification
from hfstrat.strategies.plan import Adapter, Quantization

# Fields of PEFT's configurations that a recipe says elsewhere, with where.
ELSEWHERE = {
    "target_modules": "strategy.targets",
    "modules_to_save": "",
    "exclude_modules": "strategy.targets",
    "task_type": "task",
    "peft_type": "strategy.method",
    "auto_mapping": "",
    "peft_version": "",
    "inference_mode": "",
    "base_model_name_or_path": "model.base",
    "revision": "model.revision",
}
# What AdaLoRA's allocator remembers of each parameter.
_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
# LoRA's fields that a recipe calls otherwise.
_FIELDS = {"lora_alpha": "alpha", "use_rslora": "variant", "use_dora": "variant"}
# LoRA's starts that move part of the frozen weights into the adapter.
MOVING = ("pissa", "olora")
NOT_STARTED = {
    "corda": "it looks at data before there is an adapter; eva looks at it afterwards",
    "lora_ga": "it needs gradients before there is an adapter",
    "loftq": "it needs a GPU and its own form of a quantised base",
}
"""LoRA's starts that one recipe cannot make, and why."""
_START = "_hfstrat_start"
"""Attribute of an adapted model: its adapter's state before anything was trained, where it was built."""


def config_class_of(adapter: Adapter) -> Any:
    """The configuration class of an adapter's method.

    Raises:
        RecipeError: There is no such method, or it has no such option: all of them at once.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {str(kind.value): cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if adapter.method not in known:
        hint = did_you_mean(adapter.method, sorted(known), show_all=60)
        raise RecipeError(Problem(f"PEFT has no method '{adapter.method}'", "strategy.method", hint=hint))
    found = known[adapter.method]
    fields = {field.name for field in dataclasses.fields(found)}
    problems = []
    for name in adapter.options:
        path = f"strategy.options.{name}"
        if name in ELSEWHERE:
            hint = f"It is {ELSEWHERE[name]} in the recipe" if ELSEWHERE[name] else "hfstrat sets it; remove it"
            problems.append(Problem(f"'{name}' is not an option here", path, hint=hint))
        elif name not in fields:
            hint = did_you_mean(name, sorted(fields - set(ELSEWHERE)), show_all=40)
            problems.append(Problem(f"{adapter.method} has no option '{name}'", path, hint=hint))
    if problems:
        raise RecipeError(problems)
    return found


def _options(adapter: Adapter) -> dict[str, Any]:
    return {name: _lists(value) for name, value in adapter.options.items()}


def _lists(value: Any) -> Any:
    """Lists in place of tuples, which PEFT would write otherwise, and index with otherwise."""
    if isinstance(value, Mapping):
        return {name: _lists(one) for name, one in value.items()}
    return [_lists(one) for one in value] if isinstance(value, (list, tuple)) else value


def put_in(model: Any, adapter: Adapter, base_name: str, task_type: str | None) -> nn.Module:
    """Put an adapter into a model, which is in eval mode afterwards.

    Args:
        model: The model, on any device, meta included.
        adapter: What to put in.
        base_name: Public name of the base, which the adapter's configuration names.
        task_type: PEFT's name of the task; None where it has none.

    Raises:
        RecipeError: PEFT cannot adapt this model with these options.
    """
    from peft import PromptLearningConfig, get_peft_model

    config_class = config_class_of(adapter)
    fields = {field.name for field in dataclasses.fields(config_class)}
    options = _options(adapter)
    if "target_modules" in fields:
        options["target_modules"] = list(adapter.targets)
    if "exclude_modules" in fields:
        options["exclude_modules"] = list(adapter.modules_to_save)
    if "modules_to_save" in fields:
        options["modules_to_save"] = list(adapter.modules_to_save)
    elif adapter.modules_to_save:
        what = f"{adapter.method} keeps nothing beside its own weights, and this model's head is new"
        raise RecipeError(Problem(what, "strategy.method", hint="Use another method, or a base that brings its head"))
    pooled = isinstance(model, PooledForSequenceClassification)
    if issubclass(config_class, PromptLearningConfig) and (pooled or task_type is None):
        what = f"{adapter.method} puts vectors before a text, for which PEFT has to know the task"
        hint = "Set task.pooling: native" if pooled else "Use another strategy.method"
        raise RecipeError(Problem(f"{what}, and it does not know this one", "strategy.method", hint=hint))
    init = options.get("init_lora_weights")
    if init in NOT_STARTED:
        where = "strategy.options.init_lora_weights"
        raise RecipeError(Problem(f"{init} is not for this: {NOT_STARTED[init]}", where))
    if init == "eva":
        from peft import EvaConfig

        options["eva_config"] = EvaConfig(rho=1.0)  # ranks stay as the plan has them
    if init == "olora" and any(isinstance(module, Conv1D) for module in model.modules()):
        hint = "Use init: pissa"
        raise RecipeError(Problem("OLoRA is not for layers that are stored transposed", "strategy.init", hint=hint))
    model.name_or_path = base_name  # or PEFT warns that it renames the base
    try:
        with unwarned():
            # PEFT's own classes know nothing of a pooled model, and would add heads by name.
            config = config_class(task_type=None if pooled else task_type, base_model_name_or_path=base_name, **options)
            adapted: nn.Module = get_peft_model(model, config)
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError, AssertionError) as error:
        text = shortened(" ".join(str(error).split()), 200)
        raise RecipeError(Problem(f"{adapter.method} cannot adapt this model: {text}", "strategy")) from error
    if starts_from_data(adapted):
        _check_directions(adapted)
    if _moves(adapted):
        setattr(adapted, _START, _state(adapted))
    return adapted.eval()


def _check_directions(model: Any) -> None:
    """Raise where a layer's input has fewer directions than the adapter's rank."""
    rank = next(iter(model.peft_config.values())).r
    least = min((layer.in_features for _, layer in _adapted_layers(model)), default=rank)
    if rank > least:
        what = f"a layer that is adapted takes {least} numbers, which have no {rank} directions"
        raise RecipeError(Problem(what, "strategy.r", hint=f"Use {least} at most, or another strategy.init"))


def _moves(model: Any) -> bool:
    """Whether weights of the base have moved into a model's adapter."""
    init = str(getattr(next(iter(model.peft_config.values())), "init_lora_weights", ""))
    return init.startswith(MOVING)


def _state(model: Any) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: value.detach().clone() for name, value in found.items()}


def save_adapter(model: Any, folder: Path) -> None:
    """Write a model's adapter, so that it loads onto the base as it was published.

    Where weights of the base have moved into it, what it has learned is the difference to how it started, which is a
    LoRA of twice the rank.

    Args:
        model: The model of PEFT.
        folder: Where to.
    """
    # `save_embedding_layers="auto"` would ask the Hub whether the vocabulary was resized; it never is here.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text("utf-8"))
    if "init_lora_weights" not in config:
        return
    config |= {"init_lora_weights": True, "eva_config": None}  # where all is loaded there is nothing to start from
    if _moves(model):
        # (A, B) of 2r with B·A - B₀·A₀ at the same scale: alpha / r, or alpha / √r.
        config |= {"r": 2 * config["r"], "lora_alpha": config["lora_alpha"] * (2**0.5 if config["use_rslora"] else 2)}
        weights = folder / "adapter_model.safetensors"
        save_file(_difference(load_file(weights), getattr(model, _START)), weights, {"format": "pt"})
    file.write_text(json.dumps(config, indent=2, sort_keys=True), "utf-8")


def _difference(now: Mapping[str, torch.Tensor], start: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A LoRA of twice the rank that adds what one adds less what it added when it started."""
    found = dict(now)
    for name, value in now.items():
        if ".lora_A." in name:
            found[name] = torch.cat([value, start[name]])
        elif ".lora_B." in name:
            found[name] = torch.cat([value, -start[name]], dim=1)
    return found


def starts_from_data(model: Any) -> bool:
    """Whether a model's adapter wants to see the training data before it starts."""
    configs = getattr(model, "peft_config", {}).values()
    return any(getattr(config, "init_lora_weights", None) == "eva" for config in configs)


def is_adapted(model: nn.Module) -> bool:
    """Whether PEFT has put adapters into a model; it is loaded then, and takes a second or two where it is not."""
    peft: Any = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def begins_idle(model: Any) -> bool:
    """Whether a new adapter changes nothing to begin with, as far as its settings tell."""
    configs = getattr(model, "peft_config", {}).values()
    return bool(configs) and not _moves(model) and not any(getattr(config, "use_dora", False) for config in configs)


def started_plainly(adapter: Adapter) -> Adapter:
    """An adapter that gets its values from elsewhere, and moves nothing before."""
    options = {name: value for name, value in adapter.options.items() if name != "init_lora_weights"}
    return dataclasses.replace(adapter, options=options)


@contextmanager
def unwarned() -> Iterator[None]:
    """Keep PEFT from warning of what it gets right by itself."""
    with warnings.catch_warnings():
        # It sees which linear layers are stored transposed, as GPT-2's are, and says so for each of them.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        # It looks for the widths of a norm, and LN_TUNING copies norms whole.
        warnings.filterwarnings("ignore", message="Unsupported layer type .*norm")
        # What a model of random weights on the meta device would win by, of which there is none here.
        warnings.filterwarnings("ignore", message=".*with eva initialization used with low_cpu_mem_usage")
        # BOFT has kernels for a GPU, and does without.
        warnings.filterwarnings("ignore", module=r"peft\.tuners\.boft")
        yield


def check_continues(adapter: Adapter, storage: Quantization | None, start: Adapted, modules: Sequence[str]) -> None:
    """Find out whether an adapter goes on from another one.

    Args:
        adapter: What the plan puts in.
        storage: How the plan stores what is below it.
        start: The adapter to go on from.
        modules: Paths of all modules of the model.

    Raises:
        RecipeError: It is of another kind or shape, or was made for weights that are stored differently.
    """
    there: Mapping[str, Any] = json.loads((start.folder / "adapter_config.json").read_text("utf-8"))
    config_class, what = config_class_of(adapter), "the adapter that is continued"
    hint = "Continue it with the same values, or train on from the merged weights with kind: full, partial or head"
    if there["peft_type"] != adapter.method:
        message = f"{what} is one of {there['peft_type']}, not of {adapter.method}"
        raise RecipeError(Problem(message, "strategy", hint=hint))
    here = config_class(**_options(adapter)).to_dict()
    problems = [
        Problem(f"{what} has {name} {there[name]}, not {value}", f"strategy.{_FIELDS.get(name, name)}", hint=hint)
        for name, value in here.items()
        if name in there and _shapes(name) and _plain(there[name]) != _plain(value)
    ]
    if "target_modules" in there and not _same_targets(there["target_modules"], adapter.targets, modules):
        problems.append(Problem(f"{what} sits on other modules", "strategy.targets", hint=hint))
    before, now = _stored(start.storage), _stored(dataclasses.asdict(storage) if storage is not None else None)
    if before != now:
        problems.append(Problem(f"{what} was trained on weights {before}, not {now}", "strategy", hint=hint))
    if problems:
        raise RecipeError(problems)


def _shapes(name: str) -> bool:
    """Whether a field of a PEFT configuration belongs to what an adapter is, rather than to how it is trained."""
    # The first four are a schedule; the last PEFT finds out by itself.
    others = ("total_step", "tinit", "tfinal", "deltaT", "fan_in_fan_out", "eva_config", *ELSEWHERE)
    return name not in others and "dropout" not in name and not name.startswith("init_")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (list, tuple, set)) else value


def _same_targets(there: Any, here: tuple[str, ...], modules: Sequence[str]) -> bool:
    """PEFT stores long lists of names as the endings that they share."""
    endings = tuple(f".{name}" for name in there)
    return isinstance(there, str) or {name for name in modules if f".{name}".endswith(endings)} == set(here)


def _stored(storage: Mapping[str, Any] | None) -> str:
    """How weights are stored, in words."""
    if storage is None:
        return "as they are"
    if storage["bits"] == 8:
        return "in 8 bits"
    return f"in {storage['quant_type']} with{'' if storage['double_quant'] else 'out'} double_quant"


def load_into(model: Any, start: Adapted, new: Collection[str]) -> None:
    """Give a new adapter the weights of an earlier one.

    Args:
        model: The model with the new adapter in it.
        start: The earlier adapter.
        new: Parameters of its head that stay as they are.
    """
    from peft import set_peft_model_state_dict

    own, state = dict(named_parameters(model)), load_file(start.folder / "adapter_model.safetensors")
    state |= {name: own[canonical(name, model)].detach() for name in state if canonical(name, model) in new}
    result: Any = set_peft_model_state_dict(model, state)
    assert not result.unexpected_keys, f"the adapter has tensors that fit nothing: {result.unexpected_keys[:3]}"


def beside_base(model: nn.Module) -> set[str]:
    """Names in a model's state of what adapted layers have beside the layers of the base."""
    return {
        f"{path}.{name}"
        for path, layer in _adapted_layers(model)
        for name in layer.state_dict()
        if not name.startswith("base_layer.")
    }


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """The layers of a model without their adapter; what an adapter's method trains as a whole stays as it is."""
    layers = [layer for _, layer in _adapted_layers(model)]
    training = [parameter for layer in layers for parameter in layer.parameters() if parameter.requires_grad]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
            layer.requires_grad_(False)
        for parameter in training:
            parameter.requires_grad_()


def _adapted_layers(model: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(path, module) for path, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def allocate_ranks(model: nn.Module, update: int) -> None:
    """AdaLoRA's step: weigh each rank by its gradient, and give the budget to the most important (before gradients go).

    Args:
        model: The model with its adapter, not wrapped.
        update: Updates done before this one.
    """
    tuner: Any = model.base_model
    tuner.update_and_allocate(update)


def orthogonality(model: nn.Module, weight: float) -> torch.Tensor:
    """AdaLoRA's penalty on singular vectors that are not orthogonal (arXiv:2303.10512, equation 4), a scalar."""
    terms = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (".lora_A." in name or ".lora_B." in name):
            gram = parameter @ parameter.T if ".lora_A." in name else parameter.T @ parameter
            terms.append(torch.norm(gram - torch.eye(len(gram), device=gram.device, dtype=gram.dtype), p="fro"))
    return weight * torch.stack(terms).mean()


def allocator_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """What AdaLoRA knows beside its weights: how important each rank was, and which ranks are cut; else nothing."""
    allocator = _allocator(model)
    if allocator is None:
        return {}
    pattern = next(iter(model.peft_config.values())).rank_pattern or {}  # type: ignore[operator]
    return {
        **{f"{kind}/{name}": value for kind in _IMPORTANCE for name, value in getattr(allocator, kind).items()},
        **{f"rank_pattern/{name}": torch.tensor(kept) for name, kept in pattern.items()},
    }


def set_allocator_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put back what `allocator_state` gave."""
    allocator = _allocator(model)
    if allocator is None:
        return
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        kind, _, name = key.partition("/")
        found.setdefault(kind, {})[name] = value
    parameters = dict(model.base_model.model.named_parameters())  # type: ignore[union-attr]
    for kind in _IMPORTANCE:
        there = {name: value.to(parameters[name].device) for name, value in found.get(kind, {}).items()}
        setattr(allocator, kind, there)
    config = next(iter(model.peft_config.values()))  # type: ignore[operator]
    config.rank_pattern = {name: kept.tolist() for name, kept in found.get("rank_pattern", {}).items()} or None


def _allocator(model: nn.Module) -> Any:
    return getattr(getattr(model, "base_model", None), "rankallocator", None)
