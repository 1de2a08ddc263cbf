"""Every architecture's parts are found by structure, and what is said to run above the blocks is what does."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForAudioClassification, AutoModelForImageClassification
from transformers import AutoModelForSequenceClassification as AutoModelForText
from transformers.pytorch_utils import Conv1D

from hfstrat.errors import ModelError
from hfstrat.models.anatomy import find_anatomy
from hfstrat.models.modeling_pooled import PooledConfig, PooledForSequenceClassification
from hfstrat.strategies.plan import matches
from tests import tiny

AUTO = {
    **dict.fromkeys(tiny.ALL, AutoModelForText),
    **dict.fromkeys(tiny.OTHERS, AutoModelForImageClassification),
    "wav2vec2": AutoModelForAudioClassification,
    "efficientnet": AutoModelForImageClassification,
}
TEXT = [*tiny.FAMILIES, *tiny.MORE_TEXT]
ABOVE = {
    "bert": ("bert.pooler",),
    "albert": ("albert.pooler",),
    "modernbert": ("model.final_norm",),
    "gpt2": ("transformer.ln_f",),
    "llama": ("model.norm",),
    "qwen3": ("model.norm",),
    "t5": ("transformer.decoder.final_layer_norm",),
    "vit": ("vit.layernorm",),
    "convnext": ("convnext.layernorm",),
}
HEADS = {
    **dict.fromkeys(tiny.ALL, ("classifier",)),
    "distilbert": ("pre_classifier", "classifier"),
    "modernbert": ("head", "classifier"),
    "deberta-v2": ("pooler", "classifier"),
    "gpt2": ("score",),
    "llama": ("score",),
    "qwen3": ("score",),
    "t5": ("classification_head",),
    "bart": ("classification_head",),
    "wav2vec2": ("projector", "classifier"),
}
OUTPUTS = {
    **{family: head[-1] for family, head in HEADS.items()},
    **dict.fromkeys(("roberta", "electra"), "classifier.out_proj"),
    **dict.fromkeys(("t5", "bart"), "classification_head.out_proj"),
    "resnet": "classifier.1",
}
STACKS = {
    "bert": ("bert.encoder.layer",),
    "roberta": ("roberta.encoder.layer",),
    "distilbert": ("distilbert.transformer.layer",),
    "deberta-v2": ("deberta.encoder.layer",),
    "electra": ("electra.encoder.layer",),
    "albert": ("albert.encoder.albert_layer_groups",),
    "modernbert": ("model.layers",),
    "gpt2": ("transformer.h",),
    "llama": ("model.layers",),
    "qwen3": ("model.layers",),
    "t5": ("transformer.encoder.block", "transformer.decoder.block"),
    "bart": ("model.encoder.layers", "model.decoder.layers"),
    "vit": ("vit.layers",),
    "resnet": ("resnet.encoder.stages",),
    "convnext": ("convnext.encoder.stages",),
    "wav2vec2": ("wav2vec2.encoder.layers",),
}


@pytest.fixture(scope="module")
def loaded(tiny_base):
    """`loaded("bert", pooler=False)`: a classifier on a tiny base, and the parameters that it lacks; loaded once."""
    made = {}

    def load(family, *, device="cpu", **options):
        key = repr((family, device, options))
        if key not in made:
            auto, folder = AUTO[family], tiny_base(family, **options)
            made[key] = auto.from_pretrained(folder, num_labels=3, output_loading_info=True, device_map=device)
        model, info = made[key]
        return model, info["missing_keys"]

    return load


@pytest.fixture(scope="module")
def anatomy(loaded):
    """What is found in such a classifier."""
    return lambda family, **options: find_anatomy(*loaded(family, **options), 3)


def from_config(family, fields):
    """A classifier of random weights."""
    return AUTO.get(family, AutoModelForText).from_config(AutoConfig.for_model(family, num_labels=3, **fields)).eval()


def lists(found):
    assert all(list(stack) == [f"{stack[0][:-2]}.{place}" for place in range(len(stack))] for stack in found.stacks)
    return tuple(stack[0].removesuffix(".0") for stack in found.stacks)


@pytest.mark.parametrize("family", tiny.ALL)
def test_the_parts_of_each_family(anatomy, loaded, family):
    found = anatomy(family)
    assert lists(found) == STACKS[family]
    assert found.blocks == tuple(block for stack in found.stacks for block in stack)
    assert found.above == ABOVE.get(family, ())
    assert found.head == HEADS[family]
    assert found.output == OUTPUTS[family]
    assert found.output_bias == (family not in ("gpt2", "llama", "qwen3"))
    assert found.shared == (family == "albert")
    model, missing = loaded(family)
    assert found.fresh == tuple(sorted(missing))
    assert all(matches(name, found.head_patterns) for name in found.fresh)
    assert list(found.parameters.items()) == [(name, p.numel()) for name, p in model.named_parameters()]
    assert found == anatomy(family, device="meta")


@pytest.mark.parametrize("family", tiny.ALL)
def test_linear_layers_norms_and_embeddings_are_all_there(anatomy, loaded, family):
    model, found = loaded(family)[0], anatomy(family)
    weights = {name: parameter.ndim for name, parameter in model.named_parameters() if name.endswith(".weight")}
    body = {name.removesuffix(".weight"): ndim for name, ndim in weights.items() if name.startswith(found.backbone)}
    assert set(found.norms) == {name for name, ndim in body.items() if ndim == 1}
    in_blocks = {f"{side}.0.layer.0.SelfAttention.relative_attention_bias" for side in STACKS["t5"]}
    matrices = {name for name, ndim in body.items() if ndim == 2} - in_blocks
    assert {*found.linear, *found.embeddings} == matrices
    assert all(isinstance(model.get_submodule(name), (nn.Linear, Conv1D)) for name in found.linear)
    assert all(isinstance(model.get_submodule(name), nn.Embedding) for name in found.embeddings)


@pytest.mark.parametrize("family", tiny.ALL)
def test_with_random_weights_all_is_fresh_and_the_head_is_still_the_tasks(loaded, family):
    model, _ = loaded(family)
    found = find_anatomy(model, (), 3, random=True)
    assert found.head == HEADS[family]
    assert found.above == ABOVE.get(family, ())
    assert found.fresh == tuple(sorted(found.parameters))


IDS = {"vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
OPT = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 16}
# The order in which modules are defined is not that in which they run.
VARIANTS = {
    "wav2vec2, norm last": ("wav2vec2", {**tiny.OTHERS["wav2vec2"].config, "do_stable_layer_norm": True}),
    "deberta-v2, convolution": ("deberta-v2", {**IDS, **tiny.MORE_TEXT["deberta-v2"].config, "conv_kernel_size": 3}),
    "mbart": ("mbart", {**IDS, **tiny.MORE_TEXT["bart"].config}),
    "opt": ("opt", {**IDS, **OPT}),
}


@pytest.mark.parametrize("family", [*tiny.ALL, *VARIANTS])
def test_above_is_what_first_runs_when_the_last_block_is_done(loaded, family):
    model, fresh = (from_config(*VARIANTS[family]), ()) if family in VARIANTS else loaded(family)
    found = find_anatomy(model, fresh, 3)
    assert set(found.above) == first_run_after(model, found.blocks[-1], found)


def first_run_after(model, block, found):
    """The outermost modules of the body with parameters that are not called before a block's last call ends."""
    first, done, now = {}, 0, 0

    def start(name):
        def hook(module, inputs):
            nonlocal now
            now += 1
            first.setdefault(name, now)

        return hook

    def end(module, inputs, output):
        nonlocal done
        done = now

    handles = [module.register_forward_pre_hook(start(name)) for name, module in model.named_modules()]
    handles.append(model.get_submodule(block).register_forward_hook(end))
    with torch.no_grad():
        model(**inputs(model))
    for handle in handles:
        handle.remove()
    body = [name for name in first if name.startswith(f"{found.backbone}.") and name not in found.head]
    late = [name for name in body if first[name] > done and any(True for _ in model.get_submodule(name).parameters())]
    return {name for name in late if not any(name.startswith(f"{other}.") for other in late)}


def inputs(model):
    given = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.rand(1, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, generator=given)}
    if model.main_input_name == "input_values":
        return {"input_values": torch.rand(1, 2000, generator=given)}
    end = model.config.eos_token_id
    return {"input_ids": torch.tensor([[5, 6, 7, 8, 4 if end is None else end]])}


def test_embeddings_that_are_tied_are_named_once(anatomy):
    assert anatomy("t5").embeddings == ("transformer.shared",)
    positions = tuple(f"model.{side}.embed_positions" for side in ("encoder", "decoder"))
    assert anatomy("bart").embeddings == ("model.shared", *positions)


@pytest.mark.parametrize("family", TEXT)
def test_a_pooled_models_head_is_one_layer(tiny_base, family):
    config = PooledConfig(AutoConfig.from_pretrained(tiny_base(family)), num_labels=3)
    with torch.device("meta"):
        model = PooledForSequenceClassification(config)
    found = find_anatomy(model, ["classifier.weight", "classifier.bias"], 3)
    backbones = [path.partition(".")[2] for path in STACKS[family]]
    assert lists(found) == tuple(f"backbone.{path}" for path in backbones)
    # Poolers of its own are left out, where the backbone can do without.
    above = [path.partition(".")[2] for path in ABOVE.get(family, ()) if "pooler" not in path]
    assert found.above == tuple(f"backbone.{path}" for path in above)
    assert found.is_linear_probe
    assert found.head_is_fresh


def test_a_new_pooler_belongs_to_the_head(anatomy):
    found = anatomy("bert", pooler=False)
    assert found.head == ("bert.pooler.dense", "classifier")
    assert found.above == ()
    assert "bert.pooler.dense" not in found.linear
    assert anatomy("bert").linear[-1] == "bert.pooler.dense"


def test_one_new_parameter_does_not_take_the_modules_around_it_into_the_head(loaded):
    model, missing = loaded("wav2vec2")
    mask = "wav2vec2.masked_spec_embed"
    found = find_anatomy(model, [*missing, mask], 3)
    assert found.head == HEADS["wav2vec2"]
    assert mask in found.fresh


def test_blocks_are_found_below_heavier_convolutions(anatomy):
    found = anatomy("wav2vec2", conv_dim=[96, 96, 96])
    convolutions = sum(size for name, size in found.parameters.items() if "conv_layers" in name)
    assert convolutions > sum(size for name, size in found.parameters.items() if "encoder.layers" in name)
    assert lists(found) == STACKS["wav2vec2"]


def test_layers_are_shared_only_where_blocks_run_again(anatomy):
    assert anatomy("albert", num_hidden_layers=4, num_hidden_groups=2).shared
    assert not anatomy("albert", num_hidden_layers=2, num_hidden_groups=2).shared
    # Its configuration counts four times as many layers as its table has rows.
    with torch.device("meta"):
        assert not find_anatomy(from_config("efficientnet", {}), (), 3).shared


def test_a_model_without_blocks():
    class Plain(transformers.PreTrainedModel):
        config_class = transformers.PretrainedConfig
        base_model_prefix = "body"

        def __init__(self, config):
            super().__init__(config)
            self.body = nn.Linear(4, 4)
            self.classifier = nn.Linear(4, 3)

    found = find_anatomy(Plain(transformers.PretrainedConfig()), (), 3)
    assert (found.stacks, found.blocks, found.above, found.shared) == ((), (), (), False)
    assert (found.head, found.linear) == (("classifier",), ("body",))


def test_a_model_without_a_backbone_is_refused():
    with pytest.raises(ModelError, match="Linear does not part its backbone from its head"):
        find_anatomy(nn.Linear(2, 2), (), 2)


def test_code_without_its_source_is_refused():
    model = from_config("llama", {**IDS, **tiny.FAMILIES["llama"].config})
    names: dict = {"Base": type(model.model)}
    exec("class Hidden(Base):\n    def forward(self, *args, **kwargs):\n        return self.layers", names)
    model.model.__class__ = names["Hidden"]
    with pytest.raises(ModelError, match=r"the source of Hidden\.forward is not there"):
        find_anatomy(model, (), 3)
