"""Tokens that a recipe adds: how they begin, that they are learned, and that what is saved has them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from hfstrat import execute
from hfstrat.errors import RecipeError
from hfstrat.inference import Predictor
from hfstrat.merging import merge
from tests import elsewhere, tiny
from tests.strategies.table import PLAIN
from tests.tasks import test_language_models
from tests.training.helpers import LIVELY, built, memory, prepared_for, recipe, train

NEW = ["<amount>", "refurbished"]
ROWS = [{**row, "text": f"{row['text']} {NEW[place % 2]}"} for place, row in enumerate(tiny.reviews(60))]
STRATEGIES = {
    "full": {"kind": "full", "head_init": "random"},
    "lora": {"kind": "lora", "r": 4},
    "qlora": {"kind": "qlora", "r": 4},
    "lora-fa": {"kind": "lora", "r": 4, "freeze_a": True},
    "scratch": {"kind": "scratch"},
}


def grown(base, strategy, **sections):
    given = recipe(base, STRATEGIES[strategy], **sections)
    given["model"] |= {"new_tokens": NEW}
    return given


def embedding(model):
    return model.get_input_embeddings().weight.detach()


def test_a_new_token_begins_as_the_mean_of_its_parts(tiny_base):
    base = tiny_base("bert", **LIVELY)
    prepared = prepared_for(grown(base, "full"), ROWS)
    before, tokenizer = embedding(AutoModel.from_pretrained(base)), AutoTokenizer.from_pretrained(base)
    after = embedding(built(prepared))
    assert after.shape == (len(before) + 2, before.shape[1])
    assert torch.equal(after[: len(before)], before)
    for place, text in enumerate(NEW):
        parts = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert torch.allclose(after[len(before) + place], before[parts].mean(0), atol=1e-6)
    ids = prepared.base.known_tokenizer(ROWS[1]["text"])["input_ids"]
    assert len(before) + 1 in ids, "it is one token now"


@pytest.mark.parametrize(
    ("strategy", "pooling"),
    [("full", "mean"), ("lora", "native"), ("lora-fa", "mean"), ("qlora", "mean"), ("scratch", "native")],
)
def test_new_tokens_are_learned_and_saved(strategy, pooling, tiny_base, tmp_path):
    base = tiny_base("bert", **LIVELY)
    given = grown(base, strategy, task={"pooling": pooling}, evaluate={"metrics": "auto"})
    found = train(given, ROWS, tmp_path)
    assert found.run.metrics["reproduced"]["difference"] <= 1e-5
    assert Predictor.of(found.run.path).predict([ROWS[0]["text"]])[0]["prediction"] in ("negative", "positive")
    if strategy == "scratch":
        return
    whole = strategy == "full"
    ending = "word_embeddings.weight" if whole else "word_embeddings.trainable_tokens_delta"
    (name,) = (name for name in found.after if name.endswith(ending))
    moved = (found.after[name] - found.before[name]).abs().amax(1)
    assert bool((moved[-2:] > 0).all())
    if not whole:
        assert len(moved) == 2
        original = embedding(AutoModel.from_pretrained(base))
        (frozen,) = (value for name, value in found.after.items() if name.endswith("word_embeddings.weight"))
        assert torch.equal(frozen[: len(original)], original), "the other rows are frozen"


@pytest.mark.parametrize(("strategy", "pooling"), [("lora", "native"), ("lora", "mean")])
def test_the_lines_of_the_card_load_them(strategy, pooling, user, tiny_base, tmp_path):
    base = tiny_base("bert", **LIVELY)
    given = grown(base, strategy, task={"pooling": pooling}, evaluate={"metrics": "auto"})
    run = execute.train(given, data=memory(ROWS), runs=tmp_path)
    texts = [row["text"] for row in ROWS[:4]]
    said = Predictor.of(run.path).predict(texts)
    found = user.run(elsewhere.program(run, base, texts))
    assert found["labels"] == [one["prediction"] for one in said]
    scores = torch.tensor(found["logits"]).softmax(-1)
    given = torch.tensor([[one["scores"][name] for name in ("negative", "positive")] for one in said])
    assert torch.allclose(scores, given, atol=1e-5)


def test_an_adapter_with_tokens_is_merged_and_continued(tiny_base, tmp_path):
    base = tiny_base("bert", **LIVELY)
    first = execute.train(grown(base, "lora"), data=memory(ROWS), runs=tmp_path)
    texts = [row["text"] for row in ROWS[:6]]
    said = Predictor.of(first.path).predict(texts)
    merged = merge([first.path], memory=memory(ROWS))
    assert merged.difference is not None
    assert merged.difference <= 1e-5
    for kind in ("lora", "full"):
        more = recipe(first.path, STRATEGIES[kind] | {"head_init": "keep"}, name=f"more-{kind}")
        more["train"] |= {"lr": 1e-12}
        again = execute.train(more, data=memory(ROWS), runs=tmp_path)
        for one, two in zip(said, Predictor.of(again.path).predict(texts), strict=True):
            assert one["scores"] == pytest.approx(two["scores"], abs=1e-5)
    whole = recipe(merged.run.path, STRATEGIES["full"] | {"head_init": "keep"}, name="whole")
    whole["train"] |= {"lr": 1e-12}
    again = execute.train(whole, data=memory(ROWS), runs=tmp_path)
    assert Predictor.of(again.path).predict(texts)[0]["scores"] == pytest.approx(said[0]["scores"], abs=1e-5)


@pytest.mark.parametrize("head", ["tied", "new", "its own"])
@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_a_model_writes_new_tokens(strategy, head, tiny_base, tmp_path):
    base = tiny_base("llama", tie_word_embeddings=head == "tied", **LIVELY)
    if head == "its own":
        base = shutil.copytree(base, tmp_path / "base")
        AutoModelForCausalLM.from_pretrained(base).save_pretrained(base)
    rows = [{"text": f"{row['text']} <amount>"} for row in PLAIN]
    given = test_language_models.recipe(base, STRATEGIES[strategy], {"kind": "causal_lm", "max_length": 16})
    given["strategy"].pop("head_init", None)
    given["model"] |= {"new_tokens": ["<amount>"]}
    given["train"] |= {"lr": 3e-2, "epochs": 4}
    found = train(given, rows, tmp_path / "runs")
    assert found.run.metrics["reproduced"]["difference"] <= 1e-5
    config = json.loads((found.run.artifact / "config.json").read_text("utf-8"))
    assert config["vocab_size"] == len(AutoTokenizer.from_pretrained(base)) + 1
    if strategy == "lora":
        rows_of = [name for name in found.after if name.endswith("trainable_tokens_delta")]
        assert len(rows_of) == (2 if head == "its own" else 1), "a new head trains as a whole"
        assert all(not torch.equal(found.after[name], found.before[name]) for name in rows_of)


@pytest.mark.parametrize(
    ("strategy", "family", "tokens", "said"),
    [
        ({"kind": "head"}, "bert", NEW, "new tokens would never be learned"),
        ({"kind": "partial", "last_n": 1}, "bert", NEW, "new tokens would never be learned"),
        ({"kind": "peft", "method": "IA3"}, "bert", NEW, "new tokens would never be learned"),
        ({"kind": "full"}, "bert", ["[CLS]"], "a token of the base already"),
        ({"kind": "full"}, "bert", ["a b", "a b"], "has some twice"),
        ({"kind": "lora"}, "t5", NEW, "encoder and decoder share them"),
        ({"kind": "scratch", "tokenizer": {"kind": "characters"}}, "bert", NEW, "finds its own"),
    ],
    ids=str,
)
def test_tokens_that_cannot_be_learned_are_refused(strategy, family, tokens, said, tiny_base, tmp_path):
    given = recipe(tiny_base(family), strategy)
    given["model"] |= {"new_tokens": tokens}
    with pytest.raises(RecipeError, match=said):
        execute.train(given, data=memory(ROWS), runs=tmp_path)
    assert not [*tmp_path.iterdir()]
