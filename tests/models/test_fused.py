"""LoRA's layers in fewer operations."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import nn

from hfstrat.models.fused import FusedLinear, fuse


class Two(nn.Module):
    """A feed-forward block."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(6, 10)
        self.narrow = nn.Linear(10, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.narrow(nn.functional.gelu(self.wide(x)))
        return out


def adapted(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    model: Any = get_peft_model(Two(), LoraConfig(r=3, lora_alpha=12, target_modules=["wide", "narrow"], **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model


def fused(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    fuse(other)
    return other


def passed(model: nn.Module, dtype: torch.dtype, *, autocast: bool = False) -> list[torch.Tensor]:
    """The output, and the gradients of input and parameters."""
    torch.manual_seed(1)
    x = torch.randn(2, 5, 6, dtype=dtype, requires_grad=True)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = model.to(dtype)(x)
    out.double().square().sum().backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert x.grad is not None
    return [out.detach(), x.grad, *grads]


def test_output_and_gradients_are_those_of_peft():
    model = adapted()
    for one, other in zip(passed(model, torch.float64), passed(fused(model), torch.float64), strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=0)


def test_in_bf16_it_is_no_further_from_the_truth_than_peft():
    model = adapted()
    truth = passed(copy.deepcopy(model), torch.float64)
    theirs, ours = (passed(copy.deepcopy(one), torch.float32, autocast=True) for one in (model, fused(model)))
    for true, their, our in zip(truth, theirs, ours, strict=True):
        assert our.dtype == their.dtype
        assert our.shape == their.shape
        off = (our.double() - true).norm() / true.norm()
        assert off <= max(2**-7, 1.5 * float((their.double() - true).norm() / true.norm()))


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True}], ids=lambda given: next(iter(given))
)
def test_what_is_more_than_a_product_stays_as_it_is(options):
    model = adapted(**options).train()
    for one, other in zip(passed(model, torch.float32), passed(fused(model), torch.float32), strict=True):
        assert torch.equal(one, other)


def test_an_adapter_that_is_off_or_merged_is_left_out():
    model: Any = fused(adapted())
    x = torch.randn(4, 6)
    with_it = model(x)
    with model.disable_adapter():
        off = model(x)
    assert not torch.allclose(with_it, off)
    model.merge_adapter()
    assert torch.allclose(model(x), with_it, atol=1e-5)
    model.unmerge_adapter()
    assert torch.allclose(model(x), with_it, atol=1e-5)


def test_what_it_gives_may_be_changed_in_place():
    model = fused(adapted())
    out = model(torch.randn(2, 5, 6))
    out[:, 0] = 0
    out.sum().backward()


def test_only_plain_layers_are_changed():
    model = fused(adapted())
    kinds = {type(module) for module in model.modules() if isinstance(module, Linear)}
    assert kinds == {FusedLinear}
    assert fused(Two()).state_dict().keys() == Two().state_dict().keys()
