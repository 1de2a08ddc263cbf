"""Dropout with a quarter of the random numbers: the same distribution, a function of the seed, and only where asked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hfstrat.training.dropout import fast_dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_and_the_mean_that_is_kept(p, dtype):
    torch.manual_seed(0)
    ones = torch.ones(1001, 999, dtype=dtype)
    with fast_dropout():
        found = nn.functional.dropout(ones, p)
    n, dropped = ones.numel(), (found == 0).double().mean()
    assert abs(dropped - p) < 4 * (p * (1 - p) / n) ** 0.5 + 0.5 / 2**16, "four standard errors, and rounding"
    assert set(found.unique().tolist()) == {0.0, float(torch.tensor(1 / (1 - round(p * 2**16) / 2**16), dtype=dtype))}
    neighbours = ((found[:, 1:] == 0) & (found[:, :-1] == 0)).double().mean()
    assert abs(neighbours - p**2) < 4 * (p**2 / n) ** 0.5 + 1e-4, "masks of one number are independent"


def test_masks_are_a_function_of_the_seed_and_reach_the_gradient():
    layer, found = nn.Dropout(0.3), []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        values = torch.ones(64, 33, requires_grad=True)
        with fast_dropout():
            output = layer(values)
        output.sum().backward()
        assert torch.equal(values.grad, output.detach()), "of ones, the mask itself"
        found.append(output.detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_what_is_not_trained_or_not_asked_for_is_as_before():
    values = torch.randn(10, 10)
    original = nn.functional.dropout
    with fast_dropout():
        assert nn.Dropout(0.5).eval()(values) is values
        assert torch.equal(nn.functional.dropout(values, 0.0), values)
        assert not nn.functional.dropout(values, 1.0).any()
    with pytest.raises(RuntimeError, match="within"), fast_dropout():
        raise RuntimeError("within")
    assert nn.functional.dropout is original
