"""The tiny models and data are what they say: every family loads by the Auto classes and runs."""

from __future__ import annotations

import csv
import json
import os
import socket
from collections import Counter

import pytest
import torch
from pytest_socket import SocketBlockedError
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from tests import tiny

FAMILIES = sorted(tiny.FAMILIES)
TEXTS = ["the film was great", "a story about nothing much until the end, then dull and boring"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_on_it_runs_on_a_padded_batch(tiny_base, family):
    folder = tiny_base(family)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    if tokenizer.pad_token is None:
        assert family in {"gpt2", "llama"}
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
        alone = model(**tokenizer(TEXTS[0], return_tensors="pt")).logits
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_a_bare_backbone_with_all_its_weights(tiny_base, family):
    model, info = AutoModel.from_pretrained(tiny_base(family), output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert sum(p.numel() for p in model.parameters()) < 100_000
    assert (tiny_base(family) / "model.safetensors").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_configuration_and_tokenizer_agree(tiny_base, family):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base(family))
    config = AutoModel.from_pretrained(tiny_base(family)).config
    assert config.vocab_size == len(tokenizer) <= tiny.VOCAB_SIZE
    assert config.pad_token_id == tokenizer.pad_token_id
    for name in ("cls", "sep", "bos", "eos"):
        in_config = getattr(config, f"{name}_token_id", None)
        in_tokenizer = getattr(tokenizer, f"{name}_token_id")
        assert None in (in_config, in_tokenizer) or in_config == in_tokenizer, name
    assert tokenizer.model_max_length == tiny.MAX_POSITIONS


@pytest.mark.parametrize(
    ("family", "single", "pair"),
    [
        ("bert", "[CLS] great [SEP]", "[CLS] great [SEP] dull [SEP]"),
        ("distilbert", "[CLS] great [SEP]", "[CLS] great [SEP] dull [SEP]"),
        ("modernbert", "[CLS]great[SEP]", "[CLS]great[SEP]dull[SEP]"),
        ("roberta", "<s>great</s>", "<s>great</s></s>dull</s>"),
        ("gpt2", "great", "greatdull"),
        ("llama", "<s>great", "<s>great<s>dull"),
    ],
)
def test_special_tokens_are_where_the_family_puts_them(tiny_base, family, single, pair):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base(family))
    assert tokenizer.decode(tokenizer("great")["input_ids"]) == single
    assert tokenizer.decode(tokenizer("great", "dull")["input_ids"]) == pair


def test_two_builds_are_equal_byte_for_byte(tmp_path):
    state = torch.random.get_rng_state()
    first, second = (tiny.base("modernbert", tmp_path / name) for name in ("first", "second"))
    for file in sorted(path.name for path in first.iterdir()):
        assert (first / file).read_bytes() == (second / file).read_bytes(), file
    other = tiny.base("modernbert", tmp_path / "other", seed=1)
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()
    assert torch.equal(state, torch.random.get_rng_state())


def test_options_reach_the_model(tiny_base):
    model = AutoModel.from_pretrained(tiny_base("bert", num_hidden_layers=3, num_attention_heads=4))
    assert (len(model.encoder.layer), model.config.num_attention_heads) == (3, 4)
    _, info = AutoModel.from_pretrained(tiny_base("bert", pooler=False), output_loading_info=True)
    assert sorted(info["missing_keys"]) == ["pooler.dense.bias", "pooler.dense.weight"]


def test_it_can_look_like_a_sentence_transformers_checkpoint(tmp_path):
    folder = tiny.base("bert", tmp_path / "st", sentence_transformers="mean", normalize=True)
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["Transformer", "Pooling", "Normalize"]
    pooling = json.loads((folder / modules[1]["path"] / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"]
    assert pooling["word_embedding_dimension"] == 32


@pytest.mark.parametrize("classes", [2, 5])
def test_reviews_are_balanced_repeatable_and_learnable(classes):
    rows = tiny.reviews(200, seed=3, classes=classes)
    assert rows == tiny.reviews(200, seed=3, classes=classes)
    assert rows != tiny.reviews(200, seed=4, classes=classes)
    assert set(Counter(row["label"] for row in rows).values()) == {200 // classes}
    assert 0.9 < sum(_guess(row["text"]) == row["label"] for row in rows) / len(rows) <= 1


def _guess(text: str) -> str:
    words = text.split()
    return max(tiny.CLASS_WORDS, key=lambda name: sum(word in tiny.CLASS_WORDS[name] for word in words))


def test_the_csv_reads_back(reviews_csv):
    with reviews_csv.open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == tiny.reviews(120)


def test_there_is_no_network_and_the_hub_is_offline():
    with pytest.raises(SocketBlockedError):
        socket.socket(socket.AF_INET)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert torch.get_num_threads() == 1
