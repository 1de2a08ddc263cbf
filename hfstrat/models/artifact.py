"""The artefact: saved in `save_pretrained`'s layout, loaded again the way a user would."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import safe_open
from torch import nn

from hfstrat.errors import ModelError, Problem
from hfstrat.models import modeling_pooled, quantize
from hfstrat.models.adapters import is_adapted, save_adapter, unwarned
from hfstrat.models.growing import Grown, grow, set_rows
from hfstrat.models.modeling_pooled import PooledConfig, PooledForSequenceClassification
from hfstrat.models.pooled import register

if TYPE_CHECKING:
    from transformers import FeatureExtractionMixin, ImageProcessingMixin, PreTrainedTokenizerBase

    Processor = PreTrainedTokenizerBase | ImageProcessingMixin | FeatureExtractionMixin

Case = Literal["native", "native-adapter", "pooled", "pooled-adapter"]


def save(model: nn.Module, processor: Processor, folder: Path, base_name: str, extra: dict[str, Any]) -> None:
    """Write weights, configuration, and what makes inputs of texts, images or sound.

    Args:
        model: The trained model, not wrapped by Accelerate.
        processor: Its tokenizer, image processor or feature extractor.
        folder: Where to; it is replaced.
        base_name: Public name of the base, in place of any path of this machine.
        extra: Entries for the configuration (`max_length`, `threshold`, …).
    """
    shutil.rmtree(folder, ignore_errors=True)
    adapted: Any = model if is_adapted(model) else None
    inner: Any = model if adapted is None else adapted.get_base_model()
    for config in (inner.config, getattr(inner.config, "backbone_config", None)):
        if config is not None:
            config._name_or_path = base_name
    inner.name_or_path = base_name
    inner.config.hfstrat = extra
    if adapted is not None:
        inner.config.architectures = [type(inner).__name__]  # as `save_pretrained` of a whole model does
        # A base is quantised when it is loaded; said here, it would be taken for weights that are quantised already.
        inner.config.__dict__.pop("quantization_config", None)
        for adapter in adapted.peft_config.values():
            if adapter.peft_type == "ADALORA":
                # The best state may be from before ranks were cut for good: keep all of them, cut ones are zero.
                setattr(adapter, "rank_pattern", None)  # noqa: B010 - a field of AdaLoRA's configuration alone
        save_adapter(adapted, folder)
        inner.config.save_pretrained(folder)
        if isinstance(inner.config, PooledConfig):
            shutil.copy(modeling_pooled.__file__, folder / "modeling_pooled.py")
    else:
        model.save_pretrained(folder)  # type: ignore[operator]
    for noise in ("is_local", "local_files_only"):  # of where the base was loaded from
        getattr(processor, "init_kwargs", {}).pop(noise, None)
    backend = getattr(processor, "backend_tokenizer", None)
    if backend is not None:  # how the last texts were cut and filled up is not a property of the tokenizer
        backend.no_truncation()
        backend.no_padding()
    processor.save_pretrained(folder)


def case_of(folder: Path) -> Case:
    """Which of the four kinds of artefact a folder holds."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    kind = "pooled" if config.get("model_type") == PooledConfig.model_type else "native"
    return f"{kind}-adapter" if (folder / "adapter_config.json").is_file() else kind  # type: ignore[return-value]


def load(
    folder: Path,
    base: str | None = None,
    auto_class: str = "AutoModelForSequenceClassification",
    hub: Mapping[str, Any] | None = None,
    *,
    dequantize: bool = False,
) -> nn.Module:
    """Load an artefact in eval mode: in fp32, or on the quantised base that it was trained on.

    Args:
        folder: The artefact.
        base: Where the base of an adapter is; None: as the adapter's configuration says.
        auto_class: Auto class of the task.
        hub: Keyword arguments for what is loaded from where the base is.
        dequantize: Whether a quantised base is turned into fp32 again, which merging needs.

    Raises:
        ModelError: The folder holds no artefact.
    """
    import transformers

    register()
    if not (folder / "config.json").is_file():
        raise ModelError(Problem(f"{folder} holds no model", hint="Did the run end well?"))
    case, auto = case_of(folder), getattr(transformers, auto_class)
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "trust_remote_code": False,
        "use_safetensors": True,
        **(hub or {}),
    }
    trust = {"trust_remote_code": options["trust_remote_code"]}
    if not case.endswith("adapter"):
        return auto.from_pretrained(folder, dtype=torch.float32, **trust).eval()
    base = base or json.loads((folder / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
    config = transformers.AutoConfig.from_pretrained(folder, **trust)
    ours = getattr(config, "hfstrat", None) or {}
    stored, grown = ours.get("storage"), ours.get("vocabulary")
    if grown is not None:
        set_rows(config, grown["rows"])
    if stored is not None:
        options["quantization_config"] = quantize.quantization_config(*quantize.from_json(stored))
    if case == "pooled-adapter":
        body: Any = PooledForSequenceClassification.from_backbone(base, config, **options)
    else:
        body = auto.from_pretrained(base, config=config, ignore_mismatched_sizes=True, **options)
    if grown is not None:
        grow(body, Grown(grown["rows"], tuple(grown["ids"])))
    quantize.keep_differentiable(body)
    if stored is not None and dequantize:
        quantize.dequantize(body)
    from peft import PeftModel

    with unwarned():
        return PeftModel.from_pretrained(body, str(folder)).eval()


def weights_of(folder: Path) -> tuple[int, int]:
    """Elements and bytes of the tensors that an artefact stores."""
    elements = size = 0
    for file in sorted(folder.glob("*.safetensors")):
        size += file.stat().st_size
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dictionary
                count = 1
                for width in tensors.get_slice(name).get_shape():
                    count *= width
                elements += count
    return elements, size
