"""Masked and causal language models: what is hidden, what is learned, and runs from end to end."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import hfstrat as hf
from hfstrat import generating
from hfstrat.data.batching import collate
from hfstrat.errors import DataError, RecipeError, UsageError
from hfstrat.inference import Predictor
from hfstrat.metrics import Outputs, lookup, of_texts, score
from hfstrat.runs.events import Observer
from hfstrat.tasks import CausalLM, MaskedLM
from hfstrat.tasks.base import Encoded, Examples, Labels
from hfstrat.tasks.chat import PLAIN, asked, conversation, messages_in
from hfstrat.tasks.language import Generation
from hfstrat.tasks.masking import EVALUATION
from hfstrat.training import scoring
from hfstrat.training.engine import logits_of
from tests import elsewhere, tiny
from tests.training import helpers

LABELS = Labels("tokens", ())
TEXTS = [row["text"] for row in tiny.reviews(60)]
MASKED = ("bert", "roberta", "distilbert", "deberta-v2", "albert", "modernbert")
CAUSAL = ("gpt2", "llama")
CHATML = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer_of(base: Path) -> Any:
    found = AutoTokenizer.from_pretrained(base)
    found.pad_token = found.pad_token or found.eos_token
    return found


def examples(texts: Any = TEXTS, pairs: Any = None, chats: Any = None) -> Examples:
    return Examples(tuple(f"train:{place}" for place in range(len(texts))), list(texts), pairs, None, chats=chats)


def recipe(base: Path, strategy: dict[str, Any], task: dict[str, Any], **sections: Any) -> dict[str, Any]:
    given = helpers.recipe(base, strategy, evaluate={"metrics": ["perplexity", "token_accuracy"]}, **sections)
    return {**given, "task": task}


def rows_of(texts: Any = TEXTS) -> list[dict[str, Any]]:
    return [{"text": text} for text in texts]


# --- what is hidden ------------------------------------------------------------------------------------------


def hidden(encoded: Encoded, rows: Any, seed: int, epoch: int) -> list[tuple[Any, ...]]:
    """Ids, places and truth of some examples as an epoch sees them."""
    drawn, own = encoded.drawn(np.asarray(rows), seed, epoch)
    found = []
    for row in own:
        batch = collate(drawn, np.array([row]))
        found.append(
            tuple(tuple(x.flatten().tolist()) for x in (batch.inputs["input_ids"], batch.picked, batch.targets))
        )
    return found


@pytest.mark.parametrize("task", [MaskedLM(), MaskedLM(whole_words=True), MaskedLM(joined=True)], ids=str)
def test_masks_depend_on_seed_epoch_and_example_alone(tiny_base, task):
    encoded = task.encode(tokenizer_of(tiny_base("bert")), examples(), 32)
    rows = list(range(len(encoded)))
    whole = hidden(encoded, rows, 3, 1)
    assert hidden(encoded, rows[::-1], 3, 1) == whole[::-1]
    assert hidden(encoded, rows[:1], 3, 1) == whole[:1]
    assert hidden(encoded, rows, 3, 2) != whole
    assert hidden(encoded, rows, 4, 1) != whole
    fixed = [collate(encoded, np.array([row])).inputs["input_ids"].tolist() for row in rows]
    again = [[list(ids)] for ids, _, _ in hidden(encoded, rows, 0, EVALUATION)]
    assert again == fixed, "evaluations hide the same tokens each time"


@given(st.integers(0, 2**31), st.integers(0, 50), st.sampled_from([0.15, 0.4, 0.9]), st.booleans())
@settings(max_examples=25)
def test_a_share_of_the_tokens_is_predicted_and_no_special_one(tiny_base, seed, epoch, share, whole):
    tokenizer = tokenizer_of(tiny_base("bert"))
    encoded = MaskedLM(mask_share=share, whole_words=whole).encode(tokenizer, examples(), 64)
    drawn, rows = encoded.drawn(np.arange(len(encoded)), seed, epoch)
    truth = tokenizer(TEXTS)["input_ids"]
    for row in rows:
        batch, ids = collate(drawn, np.array([row])), truth[row]
        places = batch.picked.numpy()
        plain = [place for place, one in enumerate(ids) if one not in tokenizer.all_special_ids]
        assert set(places) <= set(plain)
        assert [ids[place] for place in places] == batch.targets.tolist()
        wanted = max(1, round(share * len(plain)))
        if not whole:
            assert len(places) == wanted
            continue
        assert len(places) >= wanted
        words = tokenizer(TEXTS[row]).word_ids()
        chosen = {words[place] for place in places}
        assert [place for place in plain if words[place] in chosen] == list(places), "words are hidden whole"
        others = batch.inputs["input_ids"][0].numpy()
        untouched = np.setdiff1d(np.arange(len(ids)), places)
        assert np.array_equal(others[untouched], np.asarray(ids)[untouched])


def test_of_ten_chosen_tokens_eight_are_hidden_and_one_is_replaced(tiny_base):
    tokenizer = tokenizer_of(tiny_base("bert"))
    encoded = MaskedLM(mask_share=0.5).encode(tokenizer, examples(), 64)
    seen = []
    for epoch in range(60):
        for ids, places, truth in hidden(encoded, range(len(encoded)), 0, epoch):
            seen += [(ids[place], one) for place, one in zip(places, truth, strict=True)]
    said, true = np.array(seen).T
    masked = np.mean(said == tokenizer.mask_token_id)
    assert abs(masked - 0.8) < 4 * math.sqrt(0.16 / len(said))
    assert (
        abs(np.mean((said != true) & (said != tokenizer.mask_token_id)) - 0.1) < 4 * math.sqrt(0.09 / len(said)) + 0.001
    )
    assert not set(said) & (set(tokenizer.all_special_ids) - {tokenizer.mask_token_id})


def test_joined_texts_fill_windows_and_lose_nothing(tiny_base):
    tokenizer = tokenizer_of(tiny_base("bert"))
    encoded = MaskedLM(joined=True).encode(tokenizer, examples(), 32)
    assert set(encoded.lengths[:-1]) == {32}
    flat = []
    for row in range(len(encoded)):
        ids = encoded.masking.ids
        piece = ids.values[ids.offsets[row] : ids.offsets[row + 1]].tolist()
        assert (piece[0], piece[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        flat += piece[1:-1]
    texts = tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    assert flat == [one for place, row in enumerate(texts) for one in ([tokenizer.sep_token_id] * (place > 0) + row)]


def test_a_tokenizer_without_a_mask_is_named(tiny_base):
    with pytest.raises(DataError, match="no mask token"):
        MaskedLM().encode(tokenizer_of(tiny_base("gpt2")), examples(), 32)


# --- what is learned -----------------------------------------------------------------------------------------


def pairs_of(encoded: Encoded) -> list[list[tuple[int, int]]]:
    """Of each example the tokens that are predicted, each with the one that is read there."""
    found = []
    for row in range(len(encoded)):
        batch = collate(encoded, np.array([row]))
        read = batch.inputs["input_ids"].flatten()[batch.picked].tolist()
        found.append(list(zip(read, batch.targets.tolist(), strict=True)))
    return found


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("length", [7, 32])
def test_each_token_of_plain_text_is_predicted_once(tiny_base, family, joined, length):
    tokenizer = tokenizer_of(tiny_base(family))
    encoded = CausalLM(joined=joined).encode(tokenizer, examples(), length)
    first = tokenizer("a")["input_ids"][
        : len(tokenizer("a")["input_ids"]) - len(tokenizer("a", add_special_tokens=False)["input_ids"])
    ]
    first = [one for one in first if one == tokenizer.bos_token_id]
    rows = [[*first, *row, tokenizer.eos_token_id] for row in tokenizer(TEXTS, add_special_tokens=False)["input_ids"]]
    texts = [[one for row in rows for one in row]] if joined else rows
    assert [pair for row in pairs_of(encoded) for pair in row] == [pair for row in texts for pair in pairwise(row)]
    assert encoded.longest <= length
    assert joined is (len({name.split("#")[0] for name in encoded.ids}) == 1)


def test_of_prompts_and_completions_the_completions_and_the_end_are_learned(tiny_base):
    tokenizer = tokenizer_of(tiny_base("gpt2"))
    prompts, answers = ["the film was", "music", ""], [" great", " lovely and warm", "best"]
    encoded = CausalLM().encode(tokenizer, examples(prompts, answers), 64)
    for said, answer in zip(pairs_of(encoded), answers, strict=True):
        wanted = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        assert [one for _, one in said] == wanted[-len(said) :]
        assert len(said) >= len(wanted) - 1, "the first token of a text has nothing before it"


@pytest.mark.parametrize("template", [None, CHATML])
def test_of_conversations_the_answers_and_their_ends_are_learned(tiny_base, template):
    tokenizer = tokenizer_of(tiny_base("llama"))
    tokenizer.chat_template = template
    chat = [
        {"role": "user", "content": "was it great"},
        {"role": "assistant", "content": "lovely music"},
        {"role": "user", "content": "and the story"},
        {"role": "assistant", "content": "awful"},
    ]
    encoded = CausalLM().encode(tokenizer, examples(["was it great"], None, [chat]), 100)
    end = tokenizer.eos_token if template is None else "</s>"
    text, spans = conversation(tokenizer, chat)
    assert [text[slice(*span)] for span in spans] == [f"lovely music{end}", f"awful{end}"]
    learned = [one for _, one in pairs_of(encoded)[0]]
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    wanted = [
        one
        for one, (start, stop) in zip(tokens["input_ids"], tokens["offset_mapping"], strict=True)
        if any(start < last and stop > first and stop > start for first, last in spans)
    ]
    assert learned == wanted
    decoded = tokenizer.decode(learned).replace(" ", "")
    assert "lovelymusic" in decoded
    assert "awful" in decoded
    assert "story" not in decoded


def test_a_template_that_changes_what_was_said_is_refused(tiny_base):
    tokenizer = tokenizer_of(tiny_base("llama"))
    tokenizer.chat_template = "{% for m in messages %}{{ loop.length }}{{ m['content'] | upper }}{% endfor %}"
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 2
    with pytest.raises(DataError, match="changes what the assistant said"):
        CausalLM().encode(tokenizer, examples(["a"], None, [chat]), 100)


def test_of_an_answer_that_is_written_differently_when_others_follow_its_words_and_its_end_are_learned(tiny_base):
    """Qwen3's template has thoughts, if only empty ones, before the last answer alone."""
    tokenizer = tokenizer_of(tiny_base("llama"))
    end = tokenizer.eos_token
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{% if m['role'] == 'assistant' and loop.last %}<think></think>"
        "{% endif %}{{ m['content'] }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    chat = [
        {"role": "user", "content": "great"},
        {"role": "assistant", "content": "great"},
        {"role": "user", "content": "great"},
        {"role": "assistant", "content": "awful"},
    ]
    text, spans = conversation(tokenizer, chat)
    assert [text[slice(*span)] for span in spans] == [f"great{end}", f"awful{end}"]
    assert text[: spans[0][0]].endswith("<assistant>"), "not what the user said"
    assert asked(tokenizer, chat).endswith("great" + end + "\n<assistant><think></think>"), "thoughts are asked for"


def test_prompts_are_cut_from_the_left_and_answers_never(tiny_base):
    tokenizer = tokenizer_of(tiny_base("gpt2"))
    prompts, answers = [" ".join(TEXTS[:4]), "music"], [" great story", " great"]
    whole = CausalLM().encode(tokenizer, examples(prompts, answers), 100)
    cut = CausalLM().encode(tokenizer, examples(prompts, answers), 12)
    assert cut.longest == 12
    assert cut.truncated == 1
    assert pairs_of(cut) == pairs_of(whole)
    with pytest.raises(DataError, match="1 of 2 answers do not fit into 8 tokens: train:0"):
        CausalLM().encode(tokenizer, examples(prompts, [" ".join(TEXTS[:2]), " great"]), 8)
    some = CausalLM(long_answers="cut").encode(tokenizer, examples(prompts, [" ".join(TEXTS[:2]), " great"]), 8)
    learned = [one for _, one in pairs_of(some)[0]]
    assert learned == tokenizer(" ".join(TEXTS[:2]), add_special_tokens=False)["input_ids"][:7]
    with pytest.raises(DataError, match="nothing is left to learn of 1 of 2 examples: train:1"):
        CausalLM().encode(tokenizer, examples(prompts, [" great", ""]), 100)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (None, "no list"),
        ([], "no list"),
        (["hello"], "no object"),
        ([{"role": "user"}], "no role or no content"),
        ([{"role": "user", "content": "a"}], "no message of the assistant"),
        ([{"role": "assistant", "content": " "}], "is empty"),
    ],
)
def test_what_is_wrong_with_a_conversation_is_said(cell, said):
    with pytest.raises(ValueError, match=said):
        messages_in(cell)


def test_conversations_of_sharegpt_are_read():
    cell = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert messages_in(cell) == [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


# --- outputs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*MASKED, *CAUSAL])
def test_outputs_are_computed_at_the_tokens_that_are_asked_for(tiny_base, family):
    tokenizer = tokenizer_of(tiny_base(family, **helpers.LIVELY))
    masked = family in MASKED
    task, auto = (MaskedLM(), AutoModelForMaskedLM) if masked else (CausalLM(joined=False), AutoModelForCausalLM)
    model = auto.from_pretrained(tiny_base(family, **helpers.LIVELY), dtype=torch.float32).eval()
    encoded = task.encode(tokenizer, examples(), 32)
    batch = collate(encoded, np.arange(7))
    widths = []
    layer = model.get_output_embeddings()
    hook = layer.register_forward_hook(lambda module, given, found: widths.append(found.shape))
    with torch.inference_mode():
        found = logits_of(model, batch, torch.device("cpu"))
        whole = model(**batch.inputs).logits.flatten(0, 1)[batch.picked]
    hook.remove()
    assert torch.allclose(found, whole, atol=1e-5)
    assert widths[0] == (len(batch.targets), len(tokenizer)) or family == "deberta-v2"


@pytest.mark.parametrize("family", CAUSAL)
def test_packed_examples_have_the_losses_of_separate_ones(tiny_base, family):
    base = tiny_base(family, **helpers.LIVELY)
    tokenizer = tokenizer_of(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).eval()
    prompts, answers = TEXTS[:6], [f" {text}" for text in TEXTS[6:12]]
    packed, apart = (CausalLM(packing=on).encode(tokenizer, examples(prompts, answers), 64) for on in (True, False))
    losses = []
    for data in (packed, apart):
        batch = collate(data, np.arange(6))
        assert ("attention_mask" in batch.inputs) is (data is apart)
        assert batch.tokens == data.tokens
        logits = logits_of(model, batch, torch.device("cpu"))
        losses.append(CausalLM.kept(logits, batch.targets)[:, 0])
    assert torch.allclose(*losses, atol=1e-10)


def test_a_model_that_lets_packed_examples_see_each_other_is_refused(tiny_base, tmp_path):
    from transformers import OPTConfig, OPTModel

    folder = tmp_path / "opt"
    tokenizer = tokenizer_of(tiny_base("gpt2"))
    torch.manual_seed(0)
    OPTModel(
        OPTConfig(vocab_size=len(tokenizer), hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
                  word_embed_proj_dim=32, max_position_embeddings=64, init_std=0.3)
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    rows = [{"prompt": one, "completion": f" {two}"} for one, two in zip(TEXTS[:30], TEXTS[30:], strict=True)]
    given = recipe(folder, {"kind": "full"}, {"kind": "causal_lm", "packing": True})
    with pytest.raises(RecipeError, match="lets examples in one row see each other"):
        hf.train(given, data=helpers.memory(rows), runs=tmp_path, quiet=True)


# --- measures ------------------------------------------------------------------------------------------------


def test_perplexity_and_accuracy_are_those_of_all_tokens(tiny_base):
    base = tiny_base("gpt2", **helpers.LIVELY)
    tokenizer = tokenizer_of(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    task = CausalLM(joined=False)
    data = task.encode(tokenizer, examples(TEXTS[:20]), 64)
    found = task.collected(scoring.logits(model, data, 8, kept=task.kept), data, LABELS)
    losses, hits = [], []
    for text in TEXTS[:20]:
        ids = torch.tensor([[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]])
        with torch.inference_mode():
            logits = model(ids).logits[0, :-1].double()
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
        hits.append(logits.argmax(-1) == ids[0, 1:])
    assert found[:, 0] == pytest.approx([float(one.sum()) for one in losses], rel=1e-5)
    assert found[:, 1].tolist() == [int(one.sum()) for one in hits]
    mean = float(torch.cat(losses).mean())
    scores = score(["perplexity", "cross_entropy", "token_accuracy"], "tokens", Outputs(np.zeros(20), found, None, 0))
    assert scores["cross_entropy"].value == pytest.approx(mean, rel=1e-6)
    assert scores["perplexity"].value == pytest.approx(math.exp(mean), rel=1e-5)
    assert scores["token_accuracy"].value == pytest.approx(float(torch.cat(hits).double().mean()))
    for one in scores.values():
        assert one.low < one.value < one.high
    assert task.mean_loss(found, data.examples, LABELS) == pytest.approx(mean, rel=1e-6)


# --- runs ----------------------------------------------------------------------------------------------------


STRATEGIES: dict[str, dict[str, Any]] = {
    "scratch": {"kind": "scratch"},
    "own-tokenizer": {"kind": "scratch", "tokenizer": {"kind": "bpe", "vocab_size": 300}},
    "partial": {"kind": "partial", "last_n": 1},
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "r": 4},
    "qlora": {"kind": "qlora", "r": 4},
    "ia3": {"kind": "peft", "method": "IA3"},
}


def crossed() -> list[Any]:
    """Every family once by a strategy of its own in the default tier, the others in the slow one."""
    found = []
    for number, family in enumerate((*MASKED, *CAUSAL)):
        for place, name in enumerate(STRATEGIES):
            marks = [] if (number + place) % 4 == 0 else [pytest.mark.slow]
            found.append(pytest.param(family, name, marks=marks))
    return found


@pytest.mark.parametrize(("family", "name"), crossed())
def test_every_strategy_leaves_what_predicts_as_it_was_scored(tiny_base, tmp_path, user, family, name):
    base = tiny_base(family, **helpers.LIVELY)
    kind = "masked_lm" if family in MASKED else "causal_lm"
    task: dict[str, Any] = {"kind": kind, "max_length": 32}
    if kind == "causal_lm":
        task |= {"generation": {"max_new_tokens": 5}}
    given = recipe(base, STRATEGIES[name], task, train={"max_steps": 6, "lr": 1e-2})
    if name == "own-tokenizer":
        given["model"]["config"] = {}
        del given["model"]["config"]
    found = helpers.train(given, rows_of(), tmp_path)
    moved = [one for one in found.before if not torch.equal(found.before[one], found.after[one])]
    assert moved
    metrics = found.run.read("metrics.json")
    frame = found.run.predictions()
    mean = frame["loss"].sum() / frame["tokens"].sum()
    assert metrics["metrics"]["perplexity"]["value"] == pytest.approx(math.exp(mean), rel=1e-6)
    predictor = Predictor.of(found.run.path)
    again = predictor.evaluate("test", None, Observer(), helpers.memory(rows_of()))
    assert again["metrics"]["perplexity"]["value"] == pytest.approx(math.exp(mean), rel=1e-4)
    assert (found.run.path / "samples.md").read_text()
    if kind == "masked_lm":
        mask = predictor.tokenizer.mask_token
        (said,) = predictor.predict([f"the film {mask} great"])
        assert len(said["masks"]) == 1
        assert mask not in said["prediction"]
        assert said["masks"][0][0]["score"] >= said["masks"][0][-1]["score"] > 0
    else:
        both = predictor.predict(["the film", "music was in it"])
        alone = [predictor.predict([text])[0] for text in ("the film", "music was in it")]
        assert both == alone, "padding on the left changes nothing"
        assert "".join(predictor.stream("the film")).strip() == alone[0]["prediction"].strip()
    lines = elsewhere.program(found.run, str(base), ["a first text", "a second one"])
    told = user.run(lines)["found"]
    if kind == "causal_lm":
        assert told == [one["prediction"] for one in predictor.predict(["a first text", "a second one"])]
    else:
        (own,) = predictor.predict([f"a text with {predictor.tokenizer.mask_token} in it"])
        names = [
            predictor.tokenizer.decode(predictor.tokenizer.convert_tokens_to_ids([one])).strip() for one in told[0]
        ]
        assert names == [one["token"] for one in own["masks"][0]]


def test_a_masked_run_is_the_base_of_a_classifier(tiny_base, tmp_path):
    base = tiny_base("bert", sentence_transformers="mean", **helpers.LIVELY)
    first = hf.train(
        recipe(base, {"kind": "full"}, {"kind": "masked_lm"}, name="domain", train={"max_steps": 5}),
        data=helpers.memory(rows_of()),
        runs=tmp_path,
        quiet=True,
    )
    trained = AutoModelForMaskedLM.from_pretrained(first.path / "artifact")
    then = helpers.train(helpers.recipe(first.path, "head", name="head"), tiny.reviews(40), tmp_path)
    assert then.prepared.base.pooling == "mean", "what the base declares survives"
    body = {name.removeprefix("bert."): value for name, value in trained.named_parameters() if name.startswith("bert.")}
    shared = [name for name in then.before if name.split(".", 1)[1] in body]
    assert len(shared) > 10
    for name in shared:
        assert torch.equal(then.before[name], body[name.split(".", 1)[1]])


@pytest.mark.parametrize("task", [{"kind": "masked_lm"}, {"kind": "causal_lm"}], ids=lambda task: task["kind"])
def test_a_head_that_is_the_embedding_and_distillation_are_refused(tiny_base, tmp_path, task):
    family = "bert" if task["kind"] == "masked_lm" else "gpt2"
    given = recipe(tiny_base(family), {"kind": "distill", "teacher": str(tiny_base(family))}, task)
    with pytest.raises(RecipeError, match="too many to be kept"):
        hf.train(given, data=helpers.memory(rows_of()), runs=tmp_path, quiet=True)
    if family == "gpt2":
        with pytest.raises(RecipeError, match="no head that could train alone"):
            hf.train(recipe(tiny_base(family), {"kind": "head"}, task), data=helpers.memory(rows_of()), runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_conversations_are_learned_from_a_file_and_predicted(tiny_base, tmp_path, monkeypatch):
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "great"}]} for text in TEXTS
    ]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = recipe(
        tiny_base("llama", **helpers.LIVELY),
        {"kind": "full"},
        {"kind": "causal_lm", "generation": {"max_new_tokens": 8}},
        data={"source": str(file)},
        train={"epochs": 25, "lr": 5e-3},
    )
    run = hf.train(given, runs=tmp_path, quiet=True)
    assert run.metrics["metrics"]["token_accuracy"]["value"] == 1.0
    predictor = Predictor.of(run.path)
    said = list(predictor.predict_file(file, Observer()))
    assert {one["prediction"] for one in said} == {"great"}, "and the end is learned"
    assert AutoTokenizer.from_pretrained(run.path / "artifact").chat_template == PLAIN
    assert "".join(predictor.stream("how was it")) == "great"
    assert predictor.predict(["how was it"]) == [{"prediction": "great"}], "a text is what a user says"
    monkeypatch.setattr(generating, "continued", broken)
    with pytest.raises(ValueError, match="broken"):
        list(predictor.stream("how was it"))


def broken(*words: Any, **options: Any) -> Any:
    raise ValueError("broken")


@pytest.mark.parametrize(
    ("columns", "row", "said"),
    [
        ({}, {"text": " "}, "row whose 'text' is empty"),
        ({}, {"prompt": "a", "completion": ""}, "row whose 'completion' is empty"),
        ({}, {"prompt": "a"}, "no column 'completion'"),
        ({}, {"messages": [{"role": "user", "content": "a"}]}, "no message of the assistant"),
        ({"text": "body"}, {"text": "a"}, "no column 'body'"),
    ],
)
def test_what_is_wrong_with_the_rows_is_said(tiny_base, tmp_path, columns, row, said):
    file = tmp_path / "rows.jsonl"
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    good = {key: chat if key == "messages" else "text" for key in row}
    file.write_text("".join(json.dumps(one) + "\n" for one in [{**good, **row}, *[good] * 3]))
    given = recipe(
        tiny_base("gpt2"),
        {"kind": "full"},
        {"kind": "causal_lm"},
        data={"source": str(file), "columns": columns},
    )
    with pytest.raises(UsageError, match=said):
        hf.train(given, runs=tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()


def test_text_files_are_read_whole_by_paragraph_or_by_line(tiny_base, tmp_path):
    text = "\n\n".join("\n".join(TEXTS[start : start + 2]) for start in range(0, 60, 2)) + "\n"
    file = tmp_path / "book.txt"
    file.write_text(text)
    task = {"kind": "causal_lm", "max_length": 32}
    counts = {}
    for sample_by in ("paragraph", "line"):
        given = recipe(
            tiny_base("gpt2"), {"kind": "full"}, task, name=sample_by,
            data={"source": str(file), "sample_by": sample_by}, train={"max_steps": 2},
        )  # fmt: skip
        counts[sample_by] = sum(hf.train(given, runs=tmp_path, quiet=True).read("env.json")["data"]["rows"].values())
    assert counts == {"paragraph": 30, "line": 60}
    given = recipe(tiny_base("gpt2"), {"kind": "full"}, task, data={"source": str(file)})
    with pytest.raises(UsageError, match="sample_by: paragraph"):
        hf.train(given, runs=tmp_path, quiet=True)


# --- what users have -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "available", "labelled", "chosen"),
    [
        ({}, ["prompt", "completion", "messages"], True, {"messages"}),
        (
            {"prompt": "prompt", "completion": "chosen"},
            ["prompt", "chosen", "messages"],
            True,
            {"prompt", "completion"},
        ),
        ({"text": "text"}, ["text", "prompt"], True, {"text"}),
        ({"prompt": "prompt", "completion": "completion"}, ["prompt"], False, {"prompt"}),
        ({"messages": "messages", "id": "id"}, ["messages"], False, {"messages"}),
    ],
)
def test_columns_are_those_of_one_form_and_of_the_one_that_is_named(given, available, labelled, chosen):
    assert {*CausalLM().columns(given, available, labelled=labelled)} == chosen


def test_a_file_of_prompts_alone_is_continued(tiny_base, tmp_path):
    rows = [{"prompt": text, "completion": " great"} for text in TEXTS]
    task = {"kind": "causal_lm", "generation": {"max_new_tokens": 4}}
    given = recipe(tiny_base("gpt2"), {"kind": "full"}, task, train={"max_steps": 3})
    run = hf.train(given, data=helpers.memory(rows), runs=tmp_path, quiet=True)
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in TEXTS[:5]))
    predictor = Predictor.of(run.path)
    assert list(predictor.predict_file(file, Observer())) == [
        {"id": str(place), **one} for place, one in enumerate(predictor.predict(TEXTS[:5]))
    ]


def test_what_a_base_was_published_with_is_no_part_of_how_it_writes(tiny_base):
    base = tiny_base("gpt2", **helpers.LIVELY)
    tokenizer = tokenizer_of(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    how = Generation(max_new_tokens=12)
    plain = list(generating.continued(model, tokenizer, TEXTS[:4], generating.settings(model, tokenizer, how)))
    published = {
        "repetition_penalty": 3.0,
        "no_repeat_ngram_size": 1,
        "min_length": 60,
        "top_k": 2,
        "length_penalty": 3.0,
    }
    for name, value in published.items():
        setattr(model.generation_config, name, value)
    found = generating.settings(model, tokenizer, how)
    assert list(generating.continued(model, tokenizer, TEXTS[:4], found)) == plain
    # The likeliest token each time, by hand.
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    length = ids.shape[1]
    for _ in range(12):
        with torch.inference_mode():
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        if ids[0, -1] == tokenizer.eos_token_id:
            break
    assert plain[0] == tokenizer.decode(ids[0, length:], skip_special_tokens=True)


def test_an_answer_ends_where_the_template_ends_it(tiny_base):
    base = tiny_base("llama")
    tokenizer = tokenizer_of(base)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<turn>"]})
    tokenizer.chat_template = CHATML.replace("</s>", "<turn>")
    model = AutoModelForCausalLM.from_pretrained(base)
    ends = generating.settings(model, tokenizer, Generation(), chat=True).eos_token_id
    assert {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<turn>")} <= {*ends}


@pytest.mark.parametrize("family", CAUSAL)
def test_no_more_is_written_than_the_model_has_places_for(tiny_base, family):
    base = tiny_base(family, **helpers.LIVELY)
    tokenizer = tokenizer_of(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    prompts = [" ".join(TEXTS[:30]), "the film"]
    how = generating.settings(model, tokenizer, Generation(max_new_tokens=5000))
    said = list(generating.continued(model, tokenizer, prompts, how))
    assert len(said) == 2
    assert how.max_new_tokens < tiny.MAX_POSITIONS


@pytest.mark.parametrize("strategy", [{"kind": "partial", "last_n": 1}, {"kind": "lora", "r": 2}, {"kind": "full"}])
def test_packed_and_padded_batches_learn_the_same(tiny_base, tmp_path, strategy):
    rows = [{"prompt": one, "completion": f" {two}"} for one, two in zip(TEXTS[:30], TEXTS[30:], strict=True)]
    after = []
    for packing in (True, False):
        given = recipe(
            tiny_base("gpt2", **helpers.LIVELY), strategy, {"kind": "causal_lm", "packing": packing},
            name=f"packed-{packing}", train={"epochs": 2, "batch_size": 8},
        )  # fmt: skip
        after.append(helpers.train(given, rows, tmp_path, torch.float64).after)
    for name, value in after[0].items():
        assert torch.allclose(value, after[1][name], atol=1e-9), name


@pytest.mark.parametrize("method", ["PROMPT_TUNING", "P_TUNING"])
def test_outputs_are_those_of_the_tokens_behind_a_prompt_of_an_adapters_own(tiny_base, method):
    from peft import PromptEncoderConfig, PromptTuningConfig, get_peft_model

    base = tiny_base("gpt2", **helpers.LIVELY)
    tokenizer = tokenizer_of(base)
    kind = PromptTuningConfig if method == "PROMPT_TUNING" else PromptEncoderConfig
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        kind(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ).eval()
    data = CausalLM(joined=False).encode(tokenizer, examples(TEXTS[:5]), 64)
    batch = collate(data, np.arange(5))
    with torch.inference_mode():
        found = logits_of(model, batch, torch.device("cpu"))
        whole = model(**batch.inputs).logits
    expected = whole[:, -batch.inputs["input_ids"].shape[1] :].flatten(0, 1)[batch.picked]
    assert torch.allclose(found, expected, atol=1e-5)


def test_what_ends_a_text_is_learned_where_it_pads_as_well(tiny_base, tmp_path):
    base = tiny_base("llama", **helpers.LIVELY)
    tokenizer = AutoTokenizer.from_pretrained(base)
    folder = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    found = helpers.train(
        recipe(folder, {"kind": "full"}, {"kind": "causal_lm", "max_length": 32}, train={"max_steps": 3}),
        rows_of(),
        tmp_path,
    )
    (name,) = [name for name in found.after if "embed_tokens" in name]
    row = tokenizer.eos_token_id
    assert not torch.equal(found.before[name][row], found.after[name][row])


def test_metrics_of_others_are_given_what_was_written():
    assert of_texts(["wer"], "tokens")
    assert lookup("wer", "tokens").needs == "texts"
    assert not of_texts(["wer"], "single_label")


@pytest.mark.slow
def test_strategies_are_compared_on_the_same_tokens(tiny_base, tmp_path):
    rows = [{"prompt": text, "completion": " great"} for text in TEXTS]
    task = {"kind": "causal_lm", "generation": {"max_new_tokens": 4}}
    given = recipe(tiny_base("gpt2", **helpers.LIVELY), {"kind": "full"}, task, train={"max_steps": 3})
    given["evaluate"] = {"metrics": ["perplexity", "exact_match"]}
    found = hf.compare(given, arms=["full", "lora"], seeds=[0], data=helpers.memory(rows), runs=tmp_path)
    assert [run.status for run in found.runs] == ["done", "done"]
    assert len(found.differences) == 1
    (difference,) = found.differences.values()
    values = sorted(run.metrics["metrics"]["perplexity"]["value"] for run in found.runs)
    assert difference.value == pytest.approx(values[1] - values[0], rel=1e-6)
    assert "perplexity" in (found.path / "table.md").read_text()
