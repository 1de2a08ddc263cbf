"""Storing a frozen body in 4 or 8 bits by bitsandbytes, on a GPU or a CPU, so that it still passes gradients."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hfstrat.strategies.plan import Quantization

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel


_OUTER = 256  # scales that share a scale of their own, where these are quantised too


def quantization_config(storage: Quantization, head: Sequence[str], compute: str) -> BitsAndBytesConfig:
    """What `from_pretrained` is told.

    Args:
        storage: Bits and data type.
        head: Modules that stay as they are: what trains cannot be quantised.
        compute: `bf16` or `fp32`, in which products are computed.
    """
    from transformers import BitsAndBytesConfig

    # `llm_int8_skip_modules` counts for 4 bits too; without it a new head is quantised and fails at its first use.
    if storage.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(head))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=storage.quant_type,
        bnb_4bit_use_double_quant=storage.double_quant,
        bnb_4bit_compute_dtype=torch.bfloat16 if compute == "bf16" else torch.float32,
        llm_int8_skip_modules=list(head),
    )


def from_json(found: Mapping[str, Any]) -> tuple[Quantization, list[str], str]:
    """What an artefact's configuration says: storage, modules that are not quantised, arithmetic."""
    return Quantization(found["bits"], found["quant_type"], found["double_quant"]), found["skip"], found["compute"]


def to_json(storage: Quantization, head: Sequence[str], compute: str) -> dict[str, Any]:
    """The opposite of `from_json`."""
    return {
        "bits": storage.bits,
        "quant_type": storage.quant_type,
        "double_quant": storage.double_quant,
        "skip": list(head),
        "compute": compute,
    }


def _has_bits(module: Any, bits: int) -> bool:
    """Whether a layer is one of bitsandbytes, which is loaded then; to load it for others takes seconds."""
    library: Any = sys.modules.get("bitsandbytes")
    return library is not None and isinstance(module, library.nn.Linear4bit if bits == 4 else library.nn.Linear8bitLt)


def keep_differentiable(model: nn.Module) -> None:
    """Keep 4-bit layers from packing their weights for inference.

    On CPUs with AVX512_BF16 the first evaluation would repack them in place, and from then on they pass no gradient and
    de-quantise to noise; to be called right after loading.
    """
    modules: Iterator[Any] = model.modules()
    for module in modules:
        if _has_bits(module, 4):
            module.support_avx512bf16_for_cpu = False


def quantize_on_meta(model: PreTrainedModel, config: BitsAndBytesConfig) -> None:
    """Put quantised layers without weights in place of a model's linear ones."""
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    replace_with_bnb_linear(model, list(config.llm_int8_skip_modules or ()), config)
    for name in ("is_quantized", f"is_loaded_in_{4 if config.load_in_4bit else 8}bit"):
        setattr(model, name, True)


def quantize_here(model: PreTrainedModel, config: BitsAndBytesConfig) -> None:
    """Quantise a model that is in memory."""
    import bitsandbytes

    before = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    quantize_on_meta(model, config)
    for name, module in model.named_modules():
        if not isinstance(module, (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)):
            continue
        old: Any = before[name]
        values = old.weight.detach().T.contiguous() if isinstance(old, Conv1D) else old.weight.detach()
        kind: Any = type(module.weight)
        known: dict[str, Any] = {**vars(module.weight), "module": module}
        kept = ("compress_statistics", "quant_type", "blocksize", "quant_storage", "module", "has_fp16_weights")
        options = {option: known[option] for option in kept if option in known}
        if kind is bitsandbytes.nn.Int8Params:
            options.pop("module", None)
        module.weight = kind(values, requires_grad=False, **options).to("cpu")
        if old.bias is not None:
            module.bias = nn.Parameter(old.bias.detach(), requires_grad=False)


def pretend_quantized(module: Any, empty: Callable[..., torch.Tensor]) -> nn.Parameter | None:
    """The stored weight of a layer of four bits, with the scales beside it, as bitsandbytes lays them out.

    Args:
        module: Any module.
        empty: Makes tensors.

    Returns:
        None where the module is no such layer.
    """
    if not _has_bits(module, 4):
        return None
    from bitsandbytes.functional import QuantState

    shape = torch.Size((module.out_features, module.in_features))
    given: Any = module.weight
    blocks = -(-shape.numel() // given.blocksize)
    weight = nn.Parameter(empty(((shape.numel() + 1) // 2, 1), dtype=torch.uint8), requires_grad=False)
    nested: dict[str, Any] = {}
    if given.compress_statistics:
        outer = QuantState(empty((-(-blocks // _OUTER),)), code=empty((256,)), blocksize=_OUTER, dtype=torch.float32)
        nested = {"offset": empty(()), "state2": outer}
    scales = empty((blocks,), dtype=torch.uint8 if nested else torch.float32)
    state = QuantState(scales, shape, empty((16,)), given.blocksize, given.quant_type, dtype=torch.float32, **nested)
    weight.quant_state = state  # type: ignore[attr-defined]
    return weight


def tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """All tensors that a model holds: parameters, buffers, and the scales of quantised weights."""
    yield from model.parameters()
    yield from model.buffers()
    modules: Iterator[Any] = model.modules()
    for module in modules:
        weight: Any = getattr(module, "weight", None)
        if _has_bits(module, 4):
            state = weight.quant_state
            for part in (state, state.state2) if state.nested else (state,):
                yield from (part.absmax, part.code)
        elif _has_bits(module, 8):
            # They move from the weight to the layer at its first use.
            yield weight.SCB if module.state.SCB is None else module.state.SCB


def dequantize(model: PreTrainedModel) -> None:
    """Give a quantised model layers in fp32 with the values that its weights stand for, in place.

    An adapter has to be merged into these: merged into 4 bits, small updates are rounded away.
    """
    # Quantised layers are all of one orientation; GPT-2's own hold their weights transposed.
    transposed = [name for name, module in model.named_modules() if getattr(module, "source_cls", None) is Conv1D]
    model.dequantize(torch.float32)
    for name in transposed:
        model.set_submodule(name, _transposed(model.get_submodule(name)))


def _transposed(linear: Any) -> Conv1D:
    with torch.device("meta"):
        module = Conv1D(linear.out_features, linear.in_features)
    module.weight, module.bias = nn.Parameter(linear.weight.T.contiguous()), linear.bias
    return module
