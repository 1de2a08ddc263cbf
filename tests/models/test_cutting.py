"""A model made of every so many-th block: its weights are those of the blocks, and it runs as if nothing else were."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoConfig, AutoModelForAudioClassification, AutoModelForImageClassification
from transformers import AutoModelForSequenceClassification as AutoModelForText

from hfstrat.errors import RecipeError
from hfstrat.models.anatomy import find_anatomy
from hfstrat.models.cutting import cut, kept_blocks
from hfstrat.models.modeling_pooled import PooledConfig, PooledForSequenceClassification
from tests import tiny

FULL, SLIDING = "full_attention", "sliding_attention"
# Every second of six blocks is 0, 2, 5; of three 0, 2.
LARGE = {
    "bert": {"num_hidden_layers": 6},
    "distilbert": {"n_layers": 6},
    "deberta-v2": {"num_hidden_layers": 6},
    "gpt2": {"n_layer": 6},
    "llama": {"num_hidden_layers": 6},
    "qwen3": {
        "num_hidden_layers": 6,
        "layer_types": [FULL, SLIDING] * 3,
        "use_sliding_window": True,
        "sliding_window": 4,
    },
    "modernbert": {"num_hidden_layers": 6, "local_attention": 4},
    "t5": {"num_layers": 6, "num_decoder_layers": 3},
    "bart": {"encoder_layers": 6, "decoder_layers": 3},
    "vit": {"num_hidden_layers": 6},
    "wav2vec2": {"num_hidden_layers": 6},
}
COUNTED = {"distilbert": ("n_layers",), "gpt2": ("n_layer",)} | {
    "t5": ("num_layers", "num_decoder_layers"),
    "bart": ("encoder_layers", "decoder_layers"),
}
AUTO = {"vit": AutoModelForImageClassification, "wav2vec2": AutoModelForAudioClassification}


def config_of(family, **fields):
    spec = tiny.ALL[family]
    ids = {} if family in tiny.OTHERS else {"vocab_size": 32, "pad_token_id": 0, "eos_token_id": 1}
    return AutoConfig.for_model(family, **{**ids, **spec.config, "num_labels": 3, **fields})


def built(config, family, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AUTO.get(family, AutoModelForText).from_config(config).eval()


def anatomy_of(config, auto=AutoModelForText):
    with torch.device("meta"):
        return find_anatomy(auto.from_config(config), (), 3, random=True)


@pytest.fixture(scope="module")
def halved():
    """`halved("bert")`: a model of six blocks, its anatomy, the cut, and the model with the weights of the cut."""
    made = {}

    def make(family):
        if family not in made:
            large = built(config_of(family, **LARGE[family]), family, seed=0)
            found = find_anatomy(large, (), 3, random=True)
            smaller = cut(large.config, found, 2)
            small = built(smaller.config, family, seed=1)
            state = large.state_dict()
            small.load_state_dict({name: state[smaller.source(name)] for name in small.state_dict()})
            made[family] = large, found, smaller, small
        return made[family]

    return make


def test_the_published_choices():
    assert kept_blocks(12, 2) == (0, 2, 4, 7, 9, 11)  # DistilBERT
    assert kept_blocks(6, 2) == (0, 2, 5)
    assert kept_blocks(4, 2) == (0, 3)
    assert kept_blocks(3, 2) == (0, 2)
    assert kept_blocks(12, 12) == kept_blocks(1, 1) == kept_blocks(1, 5) == (0,)


@given(st.integers(1, 200), st.integers(1, 20))
def test_kept_blocks_are_evenly_spaced_from_the_first_to_the_last(count, every):
    kept = kept_blocks(count, every)
    assert len(kept) == (count + every - 1) // every
    assert kept[0] == 0
    assert kept[-1] == (count - 1 if len(kept) > 1 else 0)
    gaps = {after - before for before, after in pairwise(kept)}
    assert min(gaps, default=1) > 0
    assert max(gaps, default=1) - min(gaps, default=1) <= 1
    if every == 1:
        assert kept == tuple(range(count))


@pytest.mark.parametrize("family", LARGE)
def test_the_weights_are_those_of_the_kept_blocks(halved, family):
    large, found, smaller, small = halved(family)
    assert smaller.kept == ((0, 2, 5), (0, 2))[: len(found.stacks)]
    blocks = [stack[place] for stack, kept in zip(found.stacks, smaller.kept, strict=True) for place in kept]
    mine = find_anatomy(small, (), 3, random=True).blocks
    assert len(mine) == len(blocks)
    for block, source in zip(mine, blocks, strict=True):
        theirs = large.get_submodule(source).state_dict()
        assert theirs
        for name, tensor in small.get_submodule(block).state_dict().items():
            assert torch.equal(tensor, theirs[name]), (block, name)
    outside = [name for name in small.state_dict() if not name.startswith(tuple(f"{block}." for block in mine))]
    assert outside
    assert all(smaller.source(name) == name for name in outside)


@pytest.mark.parametrize("family", LARGE)
def test_the_configuration_counts_the_kept_blocks(halved, family):
    large, _, smaller, _ = halved(family)
    counted = COUNTED.get(family, ("num_hidden_layers",))
    assert tuple(getattr(smaller.config, name) for name in counted) == tuple(len(kept) for kept in smaller.kept)
    before, after = large.config.to_dict(), smaller.config.to_dict()
    assert {name for name in before if before[name] != after[name]} - {"layer_types"} == set(counted)
    # The one that was given is as it was.
    assert {name: getattr(large.config, name) for name in LARGE[family]} == LARGE[family]
    assert AutoConfig.for_model(**after).to_dict() == after


@pytest.mark.parametrize("family", LARGE)
def test_it_runs_as_the_large_one_without_the_other_blocks(halved, family):
    large, found, smaller, small = halved(family)
    by_hand = copy.deepcopy(large)
    dropped = [
        block
        for stack, kept in zip(found.stacks, smaller.kept, strict=True)
        for place, block in enumerate(stack)
        if place not in kept
    ]
    for block in dropped:
        by_hand.get_submodule(block).forward = hand_on
    with torch.no_grad():
        given, expected = small(**inputs(small)).logits, by_hand(**inputs(small)).logits
        whole = large(**inputs(large)).logits
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(given, whole, rtol=1e-3)


def hand_on(hidden, *args, **kwargs):
    """A block that does nothing; T5's give on the relative positions of both attentions too, DeBERTa's two things."""
    if len(args) == 5:
        return hidden, args[1], args[4]
    return (hidden, None) if "rel_embeddings" in kwargs else hidden


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_it_runs_as_the_large_one_with_its_list_shortened(halved, family):
    large, found, smaller, small = halved(family)
    by_hand = copy.deepcopy(large)
    path, _, last = smaller.lists[0].rpartition(".")
    kept = [by_hand.get_submodule(found.blocks[place]) for place in smaller.kept[0]]
    setattr(by_hand.get_submodule(path), last, nn.ModuleList(kept))
    with torch.no_grad():
        given, expected = (model(**inputs(small), **NO_CACHE.get(family, {})).logits for model in (small, by_hand))
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-6)


# Its places are those of the blocks in the large model.
NO_CACHE = {"llama": {"use_cache": False}}


def inputs(model):
    given = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.rand(2, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, generator=given)}
    if model.main_input_name == "input_values":
        return {"input_values": torch.rand(2, 2000, generator=given)}
    ids = torch.randint(5, 32, (2, 12), generator=given)
    ids[:, -1] = model.config.eos_token_id
    return {"input_ids": ids}


@pytest.mark.parametrize(
    ("family", "kept"), [("qwen3", [FULL, FULL, SLIDING]), ("modernbert", [FULL, SLIDING, SLIDING])]
)
def test_a_block_keeps_its_kind_of_attention(halved, family, kept):
    large, _, smaller, _ = halved(family)
    assert len(large.config.layer_types) == 6
    assert smaller.config.layer_types == kept


def test_the_second_of_two_blocks_that_modernbert_keeps_attends_to_all():
    config = config_of("modernbert", num_hidden_layers=4)
    smaller = cut(config, anatomy_of(config), 2)
    # Counted anew it would be the first of those with a window.
    assert smaller.config.layer_types == [FULL, FULL]


def test_t5_keeps_its_relative_positions(halved):
    large, _, _, small = halved("t5")
    found = [name for name, _ in small.named_parameters() if "relative_attention_bias" in name]
    assert len(found) == 2
    assert all(torch.equal(small.get_parameter(name), large.get_parameter(name)) for name in found)


def test_stacks_of_different_heights_are_cut_each_for_itself():
    config = config_of("bart", encoder_layers=4, decoder_layers=1)
    smaller = cut(config, anatomy_of(config), 4)
    assert smaller.kept == ((0,), (0,))
    assert (smaller.config.encoder_layers, smaller.config.decoder_layers) == (1, 1)


@pytest.mark.parametrize("family", ["bert", "llama", "bart"])
def test_of_a_pooled_model_the_backbone_is_cut(family):
    config = PooledConfig(config_of(family, **LARGE[family]), num_labels=3)
    with torch.device("meta"):
        found = find_anatomy(PooledForSequenceClassification(config), (), 3, random=True)
    smaller = cut(config, found, 2)
    assert smaller.config.backbone_config.num_hidden_layers == 3
    assert config.backbone_config.num_hidden_layers == 6
    inside = found.blocks[1].removeprefix("backbone.")
    assert smaller.source(f"backbone.{inside}.x.weight") == f"{found.blocks[2]}.x.weight"
    assert smaller.source("classifier.weight") == "classifier.weight"


def test_every_block_is_kept_where_one_in_one_is():
    for family in ("bert", "albert"):
        config = config_of(family)
        found = anatomy_of(config)
        same = cut(config, found, 1)
        assert same.config.to_dict() == config.to_dict()
        assert same.config is not config
        assert all(same.source(name) == name for name in found.parameters)


def test_how_attention_is_computed_is_kept():
    config = config_of("bert")
    config._attn_implementation = "eager"
    assert cut(config, anatomy_of(config), 2).config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("albert", "blocks of albert cannot be left out: its layers share their weights"),
        ("resnet", "blocks of resnet cannot be left out: its configuration does not say how many"),
        ("convnext", "blocks of convnext cannot be left out: its configuration does not say how many"),
    ],
)
def test_some_architectures_cannot_be_cut(family, reason):
    config = config_of(family)
    found = anatomy_of(config, AutoModelForImageClassification if family in tiny.OTHERS else AutoModelForText)
    with pytest.raises(RecipeError, match=reason) as raised:
        cut(config, found, 2)
    assert [problem.path for problem in raised.value.problems] == ["strategy.student.every"]
    assert all(problem.hint for problem in raised.value.problems)


def test_more_than_there_are_blocks_is_refused():
    config = config_of("bert")
    found = anatomy_of(config)
    assert cut(config, found, 2).kept == ((0,),)
    with pytest.raises(RecipeError, match=r"every is 3, and there are 2 blocks\. Use 2 at most"):
        cut(config, found, 3)


def test_a_model_without_blocks_is_refused():
    config = config_of("bert")
    with pytest.raises(RecipeError, match="cannot be left out: it has no blocks"):
        cut(config, replace(anatomy_of(config), stacks=()), 2)


def test_a_list_of_kinds_is_cut_as_the_blocks_are():
    kinds = [[["global", "local"], 3]]
    ids = {"vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = AutoConfig.for_model("gpt_neo", hidden_size=32, num_heads=2, num_layers=6, attention_types=kinds, **ids)
    smaller = cut(config, anatomy_of(config), 2)
    assert (smaller.config.num_layers, smaller.config.attention_layers) == (3, ["global", "global", "local"])


def test_stages_whose_width_is_that_of_their_place_are_refused():
    config = AutoConfig.for_model("swin", image_size=32, embed_dim=16, depths=[1, 1], num_heads=[1, 2], window_size=4)
    found = anatomy_of(config, AutoModelForImageClassification)
    with pytest.raises(RecipeError, match=r"cannot be left out: a smaller one cannot be built \(tuple index out"):
        cut(config, found, 2)


def test_blocks_that_lie_in_several_lists_are_refused():
    config = AutoConfig.for_model("xlm", emb_dim=32, n_layers=4, n_heads=2)
    with pytest.raises(RecipeError, match="cannot be left out: a smaller one is not made of the same blocks"):
        cut(config, anatomy_of(config), 2)
