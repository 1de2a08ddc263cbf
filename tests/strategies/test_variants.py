"""Variants of LoRA: where the update starts, and how A and B train."""

from __future__ import annotations

import json

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from hfstrat import execute
from hfstrat.errors import RecipeError
from hfstrat.inference import Predictor
from hfstrat.models.anatomy import named_parameters
from hfstrat.runs.events import Observer
from hfstrat.starting import some_batches, start_from_data
from tests import tiny
from tests.faults.test_resume import check_goes_on
from tests.training.helpers import LIVELY, built, memory, prepared_for, recipe, train

ROWS = tiny.reviews(60)
# GPT-2 stores its weights transposed.
MOVED = [
    ("bert", "pissa", "lora"),
    ("bert", "olora", "rslora"),
    ("gpt2", "pissa", "rslora"),
    ("llama", "olora", "lora"),
]


def variant(base, family="bert", **fields):
    return recipe(base(family, **LIVELY), {"kind": "lora", "r": 4, "head_init": "random", **fields})


@pytest.mark.parametrize(("family", "init", "kind"), MOVED)
def test_weights_that_moved_into_an_adapter_load_onto_the_base_as_it_was(family, init, kind, tiny_base, tmp_path):
    given = variant(tiny_base, family, init=init, variant=kind)
    given["train"] |= {"lr": 1e-2}
    found = train(given, ROWS, tmp_path)
    config = json.loads((found.run.artifact / "adapter_config.json").read_text("utf-8"))
    assert (config["r"], config["init_lora_weights"]) == (8, True), "twice the rank, and nothing to start from"

    base = AutoModelForSequenceClassification.from_pretrained(tiny_base(family, **LIVELY), num_labels=2)
    base.config.pad_token_id = found.model.config.pad_token_id
    loaded = PeftModel.from_pretrained(base, str(found.run.artifact)).eval()
    ids = torch.randint(5, 40, (4, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        trained, published = found.model(input_ids=ids).logits, loaded(input_ids=ids).logits
        plain = loaded.disable_adapter()
        with plain:
            before = loaded(input_ids=ids).logits
    assert torch.allclose(trained, published, atol=1e-5)
    assert not torch.allclose(before, published, atol=1e-2), "what was learned is in the adapter"


@pytest.mark.parametrize(("family", "init", "kind"), MOVED[1:3])
def test_a_moved_start_says_what_the_base_says(family, init, kind, tiny_base):
    given = variant(tiny_base, family, init=init, variant=kind)
    ids = torch.randint(5, 40, (4, 9), generator=torch.Generator().manual_seed(1))
    moved, plain = (built(prepared_for(one, ROWS)) for one in (given, variant(tiny_base, family)))
    weights = dict(named_parameters(plain))
    changed = [
        name
        for name, value in named_parameters(moved)
        if name in weights and "lora_" not in name and not torch.equal(value, weights[name])
    ]
    assert changed, "weights have moved"
    head = {name: value for name, value in plain.state_dict().items() if "modules_to_save" in name}
    moved.load_state_dict(head, strict=False)
    with torch.no_grad():
        assert torch.allclose(moved(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-5)


def test_a_start_from_data_has_the_principal_directions_of_what_a_layer_gets(tiny_base):
    prepared = prepared_for(variant(tiny_base, init="eva"), ROWS)
    model, data = built(prepared), prepared.encoded["train"]
    start_from_data(model, data, 8, 0, Accelerator(cpu=True), Observer())
    name = "bert.encoder.layer.0.attention.self.query"
    layer = dict(model.base_model.model.named_modules())[name]
    seen = []
    handle = layer.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    for batch in some_batches(data, 8, 0):
        with torch.no_grad():
            model(**batch.inputs)
        seen[-1] = seen[-1][batch.inputs["attention_mask"].bool()]
    handle.remove()
    inputs = torch.cat(seen)
    centred = inputs - inputs.mean(0)
    a = layer.lora_A["default"].weight.detach()
    assert torch.allclose(a @ a.T, torch.eye(4), atol=1e-4)
    # As much of what varies as four directions can hold; they were found batch by batch, so nearly.
    most = torch.linalg.svdvals(centred)[:4].square().sum()
    assert 0.97 < float((centred @ a.T).square().sum() / most) <= 1.0 + 1e-6
    assert not layer.lora_B["default"].weight.any()


def test_a_rank_that_no_layer_has_directions_for_is_said(tiny_base, tmp_path):
    for rank, said in ((40, "takes 32 numbers, which have no 40 directions"), (30, "22 training examples give no 30")):
        with pytest.raises(RecipeError, match=said):
            execute.train(variant(tiny_base, init="eva", r=rank), data=memory(ROWS[:40]), runs=tmp_path)


def test_b_alone_trains_over_an_a_that_stays(tiny_base, tmp_path):
    found = train(variant(tiny_base, freeze_a=True), ROWS, tmp_path)
    moved = {name for name, value in found.after.items() if not torch.equal(value, found.before[name])}
    assert {name.rsplit(".", 2)[-2] for name in moved} == {"lora_B", "classifier"}
    assert {name for name in found.after if ".lora_B." in name} <= moved
    parameters = found.run.read("plan.json")["parameters"]
    assert parameters["trainable"] == sum(value.numel() for name, value in found.after.items() if name in moved)
    assert Predictor.of(found.run.path).predict(["good"])


def test_b_learns_faster_by_the_ratio(tiny_base, tmp_path):
    """At update 1 AdamW moves every weight by its learning rate, whatever the gradient is."""
    given = variant(tiny_base, lr_ratio=16, init="gaussian")
    given["train"] |= {"max_steps": 1, "warmup": 0.0, "schedule": "constant", "weight_decay": 0.0}
    del given["train"]["epochs"]
    found = train(given, ROWS, tmp_path)
    largest = {
        kind: max(float((found.after[name] - found.before[name]).abs().max()) for name in found.after if kind in name)
        for kind in (".lora_B.", "classifier")
    }
    assert largest[".lora_B."] == pytest.approx(16e-3, rel=1e-2)
    assert largest["classifier"] == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("fields", [{"init": "eva", "freeze_a": True}, {"init": "pissa", "lr_ratio": 4.0}], ids=str)
def test_a_killed_run_goes_on(fields, tiny_base, tmp_path):
    given = variant(tiny_base, **fields)
    given["train"] |= {"epochs": 3, "checkpoint_every": 3}
    check_goes_on(given, ROWS, tmp_path)


def test_an_adapter_that_moved_weights_is_continued_as_what_was_saved(tiny_base, tmp_path):
    first = execute.train(variant(tiny_base, init="pissa"), data=memory(ROWS), runs=tmp_path)
    more = variant(tiny_base, r=8, alpha=16) | {"name": "more"}
    more["model"] = {"base": str(first.path), "dropout": 0.0}
    more["strategy"]["head_init"] = "keep"
    more["train"] |= {"lr": 1e-12}
    again = execute.train(more, data=memory(ROWS), runs=tmp_path)
    texts = [row["text"] for row in ROWS[:5]]
    before, after = (Predictor.of(run.path).predict(texts) for run in (first, again))
    for one, two in zip(before, after, strict=True):
        assert one["scores"] == pytest.approx(two["scores"], abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"variant": "pissa"}, "write init: pissa"),
        ({"variant": "dora", "init": "olora"}, "init: olora is for variant"),
        ({"kind": "qlora", "init": "pissa"}, "strategy.init"),
        ({"kind": "lora", "lr_ratio": 0.5}, "strategy.lr_ratio"),
    ],
)
def test_what_does_not_go_together_is_said(fields, said, tiny_base, tmp_path):
    with pytest.raises(RecipeError, match=said):
        execute.train(variant(tiny_base, **fields), data=memory(ROWS), runs=tmp_path)


def test_olora_says_where_weights_are_transposed(tiny_base, tmp_path):
    with pytest.raises(RecipeError, match="stored transposed"):
        execute.train(variant(tiny_base, "gpt2", init="olora"), data=memory(ROWS), runs=tmp_path)
