"""The learning rate's schedule, which modules are in training mode, and what decays."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from hfstrat.errors import ModelError
from hfstrat.fitting import step_of, sum_loss
from hfstrat.models.anatomy import named_parameters
from hfstrat.scheduling import schedule
from hfstrat.strategies.plan import Fit, Group
from hfstrat.training import engine
from hfstrat.training.optim import Settings, freeze, optimizer_for, restore, set_modes, snapshot
from tests import tiny
from tests.training.helpers import FAMILIES, built, fit_of, prepared_for, recipe

ROWS = tiny.reviews(40)

# --- the schedule -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "floor", "golden"),
    [
        ("linear", 0.0, [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("linear", 0.2, [0.5, 1.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]),
        ("cosine", 0.0, [0.5, 1.0, 1.0, 0.96193977, 0.85355339, 0.69134172, 0.5, 0.30865828, 0.14644661, 0.03806023]),
        ("constant", 0.0, [0.5] + [1.0] * 9),
    ],
)
def test_golden_learning_rates(schedule, floor, golden):
    settings = Settings(updates=10, lr=3e-4, schedule=schedule, warmup=0.2, min_lr_ratio=floor)
    assert [settings.lr_at(update) / 3e-4 for update in range(10)] == pytest.approx(golden, abs=1e-8)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("updates", [1, 2, 3, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.99])
def test_the_rate_rises_to_its_peak_then_falls_and_is_never_zero(schedule, updates, warmup):
    settings = Settings(updates=updates, lr=1.0, schedule=schedule, warmup=warmup)
    rates = [settings.lr_at(update) for update in range(updates)]
    peak = rates.index(max(rates))
    assert max(rates) == 1.0
    assert min(rates) > 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_the_loop_sets_the_rate_of_each_group_whatever_the_processes(processes):
    """Accelerate's own scheduler would have stepped once for each process."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD([{"params": model.parameters(), "lr_scale": 0.5}], lr=1.0)
    alone = Accelerator(cpu=True)
    stub = SimpleNamespace(
        device=alone.device,
        num_processes=processes,
        process_index=0,
        clip_grad_norm_=alone.clip_grad_norm_,
        reduce=lambda tensor, reduction: tensor,
    )
    settings = Settings(updates=4, lr=1.0, warmup=0.0)
    steps = [engine.Step(1.0, [], 1.0, 1) for _ in range(4)]
    rates = [
        (update.lr, optimizer.param_groups[0]["lr"])
        for update in engine.fit(model, optimizer, steps, lambda *_: None, settings, stub, seed=0, stage="fit")
    ]
    assert rates == [(1.0, 0.5), (0.75, 0.375), (0.5, 0.25), (0.25, 0.125)]


# --- modes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["head", "full-random", "lora"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "gpt2"])
def test_frozen_modules_are_in_eval_mode_and_trained_ones_train(tiny_base, family, strategy):
    prepared = prepared_for(recipe(tiny_base(family), strategy, model={"dropout": 0.5}), ROWS)
    model = built(prepared)
    fit = Fit("fit", prepared.anatomy.head_patterns) if strategy == "head" else fit_of(prepared)
    freeze(model, fit)
    model.eval()
    set_modes(model)
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        if parameters:
            assert module.training == any(parameter.requires_grad for parameter in parameters), name
    drops = {name: module.training for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    frozen_body = strategy == "head"
    body = [on for name, on in drops.items() if f"{prepared.anatomy.backbone}." in name and "embed" not in name]
    assert body
    if frozen_body:
        assert not any(body)
    if strategy == "full-random":
        assert all(drops.values())


def test_dropout_inside_frozen_modules_is_off(tiny_base):
    """Under a trained head the frozen body gives the same features twice; under full fine-tuning it does not."""
    prepared = prepared_for(recipe(tiny_base("bert"), "head", model={"dropout": 0.5}), ROWS)
    model = built(prepared)
    batch = dict(prepared.base.tokenizer(["a great film"], return_tensors="pt"))
    for train, equal in ((prepared.anatomy.head_patterns, True), (("*",), False)):
        freeze(model, Fit("fit", train))
        set_modes(model)
        features = [model.bert(**batch).last_hidden_state for _ in range(2)]
        assert torch.equal(*features) is equal


# --- groups -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["full-random", "dora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_only_matrices_outside_embeddings_decay(tiny_base, family, strategy):
    prepared = prepared_for(recipe(tiny_base(family), strategy), ROWS)
    model, fit = built(prepared), fit_of(prepared)
    freeze(model, fit)
    optimizer = optimizer_for(model, fit, Settings(updates=1, lr=1.0, weight_decay=0.3))
    names = {id(parameter): name for name, parameter in named_parameters(model)}
    decayed, plain = set(), set()
    for group in optimizer.param_groups:
        assert group["weight_decay"] in (0.3, 0.0)
        (decayed if group["weight_decay"] else plain).update(names[id(parameter)] for parameter in group["params"])
    shapes = {name: parameter.ndim for name, parameter in named_parameters(model) if parameter.requires_grad}
    assert decayed | plain == set(shapes)
    words = ("embed", "norm", "wte", "wpe", "ln_", "bias", "magnitude")
    assert {name for name in plain if not any(word in name.lower() for word in words)} == set()
    assert {name for name in decayed if any(word in name.lower() for word in words)} == set()
    assert all(shapes[name] == 2 for name in decayed)
    output = f"{prepared.anatomy.output}.weight"
    assert output in decayed


def test_decay_reaches_only_what_decays(tiny_base):
    """With no gradient at all, one update at rate 1 shrinks matrices by the decay, and leaves the rest bit by bit."""
    prepared = prepared_for(recipe(tiny_base("bert"), "full-random"), ROWS)
    model, fit = built(prepared), fit_of(prepared)
    before = snapshot(freeze(model, fit))
    optimizer = optimizer_for(model, fit, Settings(updates=1, lr=1.0, weight_decay=0.25))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 1.0
    optimizer.step()
    for name, parameter in named_parameters(model):
        factor = 1.0 if parameter.ndim < 2 or "embedding" in name else 0.75
        assert torch.equal(parameter, before[name] * factor), name


def test_groups_scale_the_rate_and_the_first_that_matches_takes_a_parameter(tiny_base):
    prepared = prepared_for(recipe(tiny_base("bert"), "full-random"), ROWS)
    model = built(prepared)
    fit = Fit("fit", ("*",), (Group("low", ("bert.encoder.layer.0.*",), 0.1), Group("rest", ("*",), 1.0)))
    freeze(model, fit)
    optimizer = optimizer_for(model, fit, Settings(updates=1, lr=1.0))
    names = {id(parameter): name for name, parameter in named_parameters(model)}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["lr_scale"] == (0.1 if ".layer.0." in names[id(parameter)] else 1.0)


def test_a_pattern_that_matches_nothing_is_an_error(tiny_base):
    model = built(prepared_for(recipe(tiny_base("bert")), ROWS))
    with pytest.raises(ModelError, match=r"'bert\.encoder\.layer\.7\.\*' matches no parameter"):
        freeze(model, Fit("fit", ("classifier.*", "bert.encoder.layer.7.*")))


def test_a_parameter_without_a_gradient_is_legal_and_stays(tiny_base):
    """A pooled model of a backbone with an unused layer: nothing flows there, nothing moves, nothing decays."""
    prepared = prepared_for(recipe(tiny_base("bert"), "full-random"), ROWS)
    model, fit = built(prepared), fit_of(prepared)
    model.unused = nn.Linear(3, 3)
    freeze(model, fit)
    settings = Settings(updates=2, lr=0.1, weight_decay=0.5)
    accelerator, data = Accelerator(cpu=True), prepared.encoded["train"]
    before = model.unused.weight.detach().clone()
    wrapped, optimizer = accelerator.prepare(model, optimizer_for(model, fit, settings))
    steps = [
        step_of(plan, prepared, data, accelerator, 8)
        for plan in schedule(prepared.recipe, prepared.plan, data, fit)[:2]
    ]
    loss = sum_loss(prepared, accelerator.device)
    updates = list(engine.fit(wrapped, optimizer, steps, loss, settings, accelerator, seed=0, stage="fit"))
    assert all(update.grad_norm.isfinite() and update.grad_norm > 0 for update in updates)
    assert torch.equal(model.unused.weight, before)


def test_a_snapshot_comes_back_and_is_no_view(tiny_base):
    model = built(prepared_for(recipe(tiny_base("bert"), "lora"), ROWS))
    state = snapshot(dict(named_parameters(model)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert not any(torch.equal(value, state[name]) for name, value in named_parameters(model))
    restore(model, state)
    assert all(torch.equal(value, state[name]) for name, value in named_parameters(model))
    with pytest.raises(KeyError):
        restore(model, {"nowhere": torch.zeros(1)})
