"""Counting only looks on: what is computed under it is what is computed without it, to the bit."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from hfstrat.training.arithmetic import Meter
from tests import tiny
from tests.training.helpers import LIVELY

FAMILIES: dict[str, Any] = {**tiny.ALL, **tiny.HEARING, **tiny.DETECTORS}
QUICK = ("bert", "vit", "rt_detr")
TEXTS = ["the film was great", "a story about nothing much until the end, then dull and boring"]
Found = dict[str, torch.Tensor]


def inputs_of(family: str, folder: Path, model: nn.Module) -> dict[str, Any]:
    """Two examples of unequal size where the family takes them."""
    spec, generator = FAMILIES[family], np.random.default_rng(0)
    if isinstance(spec, tiny.Family):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        found = tokenizer(TEXTS, padding=True, return_tensors="pt")
    else:
        processor = getattr(transformers, spec.processor).from_pretrained(folder)
        if "Image" in spec.processor:
            pictures = [generator.integers(0, 256, (height, 64, 3), dtype=np.uint8) for height in (64, 48)]
            found = processor(images=pictures, return_tensors="pt")
        else:
            sounds = [generator.standard_normal(length).astype(np.float32) for length in (16_000, 12_000)]
            found = processor(sounds, sampling_rate=16_000, padding=True, return_tensors="pt")
            if family == "wavlm":  # not trained with the mask that its processor makes
                del found["attention_mask"]
    if "decoder_input_ids" in inspect.signature(model.forward).parameters and family not in tiny.DETECTORS:
        found["decoder_input_ids"] = torch.tensor([[1, 5, 6], [1, 7, 8]])
    return dict(found)


def computed(
    model: nn.Module, inputs: dict[str, Any], looking: AbstractContextManager[None], *, half: bool, inferring: bool
) -> Found:
    """Outputs, and gradients of the sum of their squares, from the same random numbers each time."""
    torch.manual_seed(1)
    np.random.seed(1)  # wav2vec2 draws its masks with NumPy
    model.zero_grad()
    with torch.inference_mode(inferring), torch.autocast("cpu", torch.bfloat16, enabled=half), looking:
        outputs = model(**inputs)
    found = {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}
    if not inferring:
        torch.stack([one.float().square().sum() for one in found.values() if one.requires_grad]).sum().backward()
        grads = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
        assert grads
        found |= grads
    return {name: value.detach() for name, value in found.items()}


class PassingOn(TorchDispatchMode):
    """Sees operations, and does nothing about them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


ROUNDED_OTHERWISE = {"wavlm"}
"""Families that PyTorch itself rounds otherwise in inference mode where any mode sees its operations."""


def alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in FAMILIES]
)
def test_counting_moves_no_bit_of_outputs_and_gradients(tiny_base, family, half):
    folder = tiny_base(family, **(LIVELY if isinstance(FAMILIES[family], tiny.Family) else {}))
    auto = transformers.AutoModelForObjectDetection if family in tiny.DETECTORS else transformers.AutoModel
    model = auto.from_pretrained(folder)
    inputs = inputs_of(family, folder, model)
    for training, inferring in ((True, False), (False, False), (False, True)):
        model.train(training)
        idle = PassingOn() if family in ROUNDED_OTHERWISE and inferring else nullcontext()
        plain = computed(model, inputs, idle, half=half, inferring=inferring)
        meter = Meter()
        counted = computed(model, inputs, meter.around(np.ones(1)), half=half, inferring=inferring)
        assert meter.flops > 0
        assert plain.keys() == counted.keys()
        differing = [name for name, value in plain.items() if not alike(value, counted[name])]
        assert differing == [], (training, inferring)


GRU = nn.GRU(16, 8, batch_first=True)
OPERATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "linear": lambda x: functional.linear(x, torch.ones(3, 16), torch.ones(3)),
    "einsum": lambda x: torch.einsum("bij,bkj->bik", x, x),
    "matmul": lambda x: x @ x.mT,
    "attention": lambda x: functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]),
    "convolution": lambda x: functional.conv1d(x, torch.ones(4, 9, 3), padding="same"),
    "enlarged": lambda x: functional.interpolate(x, size=29, mode="linear") @ torch.ones(29, 2),
    "enlarged in both": lambda x: functional.interpolate(x[:, None], size=(19, 29), mode="bicubic") @ torch.ones(29, 2),
    "recurrent": lambda x: GRU(x)[0],
}
"""Each is made of others, so that it may come whole; PyTorch has formulas in Python for some."""
APART = {("einsum", True), ("recurrent", False), ("recurrent", True)}
"""Their parts are out of reach of autocast, or of what is quicker for them as a whole."""


@pytest.mark.parametrize(
    ("name", "half"),
    [
        pytest.param(name, half, marks=[pytest.mark.xfail(strict=True)] if (name, half) in APART else [])
        for name in OPERATIONS
        for half in (False, True)
    ],
)
def test_operations_are_taken_apart_as_pytorch_does(name, half):
    made = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
    meter = Meter()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        plain = OPERATIONS[name](made)
        with meter.around(np.ones(1)):
            counted = OPERATIONS[name](made)
    assert meter.flops > 0
    assert alike(plain, counted)
