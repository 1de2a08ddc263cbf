"""What the strategies beyond head, full and LoRA plan: which parts, in which stages, at which rates."""

from __future__ import annotations

import pytest

from hfstrat.errors import RecipeError
from hfstrat.strategies import Distill, Full, Partial, Peft, Qlora, Scratch
from hfstrat.strategies.base import Sizes
from hfstrat.strategies.plan import ADAPTER, Anatomy, Fit, Plan, Quantization, Solve, Vocabulary, matches

SIZES = Sizes(
    rows=9000, body=22_000_000, batch_size=32, generative=False, convex=True, fresh_head=True, solvable=True, blocks=6
)


def anatomy(blocks: int = 4, *, decoder: int = 0, shared: bool = False, fresh_head: bool = True) -> Anatomy:
    """A BERT-like model, or an encoder-decoder."""
    stacks = [tuple(f"bert.encoder.layer.{place}" for place in range(blocks))]
    if decoder:
        stacks.append(tuple(f"bert.decoder.layer.{place}" for place in range(decoder)))
    names = ["bert.embeddings.weight"]
    for block in (block for stack in stacks for block in stack):
        names += [f"{block}.query.weight", f"{block}.LayerNorm.weight"]
    names += ["bert.norm.weight", "classifier.weight", "classifier.bias"]
    blocks_of = [block for stack in stacks for block in stack]
    return Anatomy(
        backbone="bert",
        embeddings=("bert.embeddings",),
        stacks=tuple(stacks),
        above=("bert.norm",),
        head=("classifier",),
        output="classifier",
        output_bias=True,
        linear=tuple(f"{block}.query" for block in blocks_of),
        norms=(*(f"{block}.LayerNorm" for block in blocks_of), "bert.norm"),
        shared=shared,
        fresh=("classifier.bias", "classifier.weight") if fresh_head else (),
        parameters=dict.fromkeys(names, 10),
    )


def trained(plan: Plan, found: Anatomy, stage: int = -1) -> set[str]:
    fit = plan.stages[stage]
    assert isinstance(fit, Fit)
    return {name for name in found.parameters if matches(name, fit.train)}


def test_partial_trains_the_top_what_is_above_it_and_the_head():
    found = anatomy()
    plan = Partial(last_n=1).plan(found, 100)
    top = {name for name in found.parameters if name.startswith("bert.encoder.layer.3.")}
    assert trained(plan, found) == top | {"bert.norm.weight", "classifier.weight", "classifier.bias"}
    assert [stage.kind for stage in plan.stages] == ["solve", "fit"]


@pytest.mark.parametrize(("blocks", "third"), [(1, 1), (2, 1), (4, 1), (6, 2), (12, 4), (24, 8)])
def test_left_out_it_is_a_third_of_the_blocks(blocks, third):
    found = anatomy(blocks)
    moving = trained(Partial().plan(found, 100), found)
    assert len([name for name in moving if name.endswith(".query.weight")]) == third
    assert Partial().defaults(Sizes(**{**vars(SIZES), "blocks": blocks}))["strategy.last_n"].value == third


def test_of_an_encoder_decoder_the_last_blocks_are_the_decoders():
    found = anatomy(4, decoder=3)
    moving = trained(Partial(last_n=2).plan(found, 100), found)
    assert {name.rsplit(".", 2)[0] for name in moving if ".query." in name} == {
        "bert.decoder.layer.1",
        "bert.decoder.layer.2",
    }
    with pytest.raises(RecipeError, match="the model has 3 decoder blocks, not 4"):
        Partial(last_n=4).plan(found, 100)


def test_a_block_that_is_shared_is_the_last_one_or_none():
    found = anatomy(1, shared=True)
    Partial(last_n=1).plan(found, 100)
    with pytest.raises(RecipeError, match="all layers of this model share one block"):
        Partial(last_n=2).plan(found, 100)


def test_patterns_take_the_place_of_blocks_and_the_head_trains_anyway():
    found = anatomy()
    moving = trained(Partial(train=("*.LayerNorm.*",)).plan(found, 100), found)
    norms = {name for name in found.parameters if ".LayerNorm." in name}
    assert moving == norms | {"classifier.weight", "classifier.bias"}


def test_each_pattern_that_matches_nothing_is_told():
    with pytest.raises(RecipeError) as caught:
        Partial(train=("*.layer.9.*", "*.query.*", "*.norms.*")).plan(anatomy(), 100)
    assert [problem.message.split("'")[1] for problem in caught.value.problems] == ["*.layer.9.*", "*.norms.*"]


def test_gradual_adds_a_block_below_in_each_stage_and_shares_the_updates():
    found = anatomy()
    plan = Partial(last_n=3, gradual=True).plan(found, 100)
    _, *fits = plan.stages
    sizes = [len({n for n in trained(plan, found, place) if ".query." in n}) for place in range(1, 4)]
    assert sizes == [1, 2, 3]
    ranges = [plan.updates_of(fit, 100) for fit in fits if isinstance(fit, Fit)]
    assert ranges == [(0, 33), (33, 67), (67, 100)]


@pytest.mark.parametrize("total", [1, 2, 3, 7, 1000])
def test_stages_leave_no_update_out_and_make_none_twice(total):
    plan = Partial(last_n=3, gradual=True).plan(anatomy(), total)
    fits = [stage for stage in plan.stages if isinstance(stage, Fit)]
    made = [update for fit in fits for update in range(*plan.updates_of(fit, total))]
    assert made == list(range(total))


def test_layer_decay_falls_from_the_head_to_the_embeddings():
    found = anatomy(2)
    fit = Full(layer_decay=0.5).plan(found, 100).stages[-1]
    assert isinstance(fit, Fit)

    def scale(name: str) -> float:
        return next(group.lr_scale for group in fit.groups if matches(name, group.patterns))

    assert scale("classifier.weight") == scale("bert.norm.weight") == 1.0
    assert scale("bert.encoder.layer.1.query.weight") == 0.5
    assert scale("bert.encoder.layer.0.LayerNorm.weight") == 0.25
    assert scale("bert.embeddings.weight") == 0.125


def test_layer_decay_goes_through_the_decoder_and_on_through_the_encoder():
    found = anatomy(1, decoder=1)
    fit = Full(layer_decay=0.5).plan(found, 100).stages[-1]
    assert isinstance(fit, Fit)
    scales = {group.name: group.lr_scale for group in fit.groups}
    assert scales["bert.decoder.layer.0"] == 0.5
    assert scales["bert.encoder.layer.0"] == 0.25


@pytest.mark.parametrize(
    ("head_init", "fresh", "kinds"),
    [
        ("auto", True, ["solve", "fit"]),
        ("auto", False, ["fit"]),
        ("keep", False, ["fit"]),
        ("probe", False, ["solve", "fit"]),
        ("random", True, ["fit"]),
    ],
)
def test_a_head_that_the_base_brings_is_kept(head_init, fresh, kinds):
    plan = Full(head_init=head_init).plan(anatomy(fresh_head=fresh), 100)
    assert [stage.kind for stage in plan.stages] == kinds
    assert plan.body.keep_head == (head_init != "random")


def test_what_auto_becomes_for_a_head():
    for sizes, value in (
        (SIZES, "probe"),
        (Sizes(**{**vars(SIZES), "fresh_head": False}), "keep"),
        (Sizes(**{**vars(SIZES), "solvable": False}), "random"),
    ):
        assert Full().defaults(sizes)["strategy.head_init"].value == value


def test_a_head_to_keep_has_to_be_there():
    with pytest.raises(RecipeError, match="the base brings no head for these labels"):
        Full(head_init="keep").plan(anatomy(), 100)


def test_scratch_fits_everything_from_random_weights():
    found = anatomy()
    spec = Scratch.model_validate({"tokenizer": {"kind": "unigram", "vocab_size": 500, "min_frequency": 3}})
    plan = spec.plan(found, 100)
    assert plan.body.weights == "random"
    assert plan.body.vocabulary == Vocabulary("unigram", 500, lowercase=False, min_frequency=3)
    assert trained(plan, found) == set(found.parameters)
    assert [stage.kind for stage in plan.stages] == ["fit"]
    few, many = (Scratch().defaults(Sizes(**{**vars(SIZES), "rows": rows})) for rows in (1000, 1_000_000))
    assert few["train.weight_decay"].value == many["train.weight_decay"].value == 0.1
    assert few["model.dropout"].value > many["model.dropout"].value


def test_qlora_is_lora_over_a_quantised_body():
    plan = Qlora(bits=8, r=4).plan(anatomy(), 100)
    assert plan.body.storage == Quantization(8, "nf4", True)
    assert plan.adapter is not None
    assert (plan.adapter.method, plan.adapter.options["r"]) == ("LORA", 4)
    bare = Anatomy(**{**vars(anatomy()), "linear": ()})
    with pytest.raises(RecipeError, match="only linear layers are quantised"):
        Qlora().plan(bare, 100)


def test_methods_of_peft_have_their_own_targets_rates_and_schedules():
    found = anatomy()
    norms = Peft(method="ln-tuning").plan(found, 100).adapter
    assert norms is not None
    assert (norms.method, norms.targets) == ("LN_TUNING", found.norms)
    ada = Peft.model_validate({"method": "ADALORA", "options": {"init_r": 6}}).plan(found, 300)
    assert ada.adapter is not None
    assert ada.adapter.options == {"total_step": 300, "tinit": 30, "tfinal": 100, "deltaT": 3, "init_r": 6}
    fit = ada.stages[-1]
    assert isinstance(fit, Fit)
    assert fit.after_update == "adalora"
    assert fit.train == (ADAPTER, "classifier.*")
    rates = {method: Peft(method=method).defaults(SIZES)["train.lr"].value for method in ("IA3", "BOFT")}
    assert rates["IA3"] > rates["BOFT"]


def test_a_student_starts_from_teacher_base_or_nothing():
    from_teacher = Distill(teacher="runs/t")
    assert (from_teacher.body().origin, from_teacher.body().every) == ("runs/t", 2)
    base = Distill.model_validate({"teacher": "runs/t", "student": {"weights": "base", "every": 3}})
    assert (base.body().origin, base.body().every, base.body().weights) == (None, 3, "pretrained")
    nothing = Distill.model_validate({"teacher": "runs/t", "student": {"weights": "random"}})
    assert nothing.body().weights == "random"
    assert [stage.kind for stage in nothing.plan(anatomy(), 100).stages] == ["fit"]
    assert [stage.kind for stage in base.plan(anatomy(), 100).stages] == ["solve", "fit"]
    assert isinstance(base.plan(anatomy(), 100).stages[0], Solve)


def test_without_weight_there_is_no_teacher():
    assert Distill(teacher="runs/t", alpha=0.0).plan(anatomy(), 100).distillation is None
    taught = Distill(teacher="runs/t", alpha=0.7, temperature=3.0).plan(anatomy(), 100).distillation
    assert taught is not None
    assert (taught.teacher, taught.alpha, taught.temperature) == ("runs/t", 0.7, 3.0)
