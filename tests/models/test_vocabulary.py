"""Trained tokenizers: right for the family, the same every time, and anybody can load them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from hfstrat.errors import RecipeError
from hfstrat.models import vocabulary as module
from hfstrat.models.vocabulary import fitted_config, train_tokenizer
from hfstrat.strategies.plan import Vocabulary
from tests import tiny

TEXTS = [row["text"] for row in tiny.reviews(300, classes=5)]
KINDS = ("bpe", "wordpiece", "unigram", "characters")
SIZE = 320
ENCODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
DECODER = {**ENCODER, "num_key_value_heads": 1, "head_dim": 16}
BART_HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
BART_WIDTHS = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": ENCODER,
    "roberta": {**ENCODER, "max_position_embeddings": 66, "type_vocab_size": 1},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2},
    "deberta-v2": ENCODER,
    "electra": {**ENCODER, "embedding_size": 16},
    "albert": {**ENCODER, "embedding_size": 16},
    "modernbert": {**ENCODER, "num_hidden_layers": 3},
    "gpt2": {"n_embd": 32, "n_inner": 64, "n_layer": 2, "n_head": 2, "n_positions": 128},
    "llama": DECODER,
    "qwen3": DECODER,
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2},
    "bart": {**BART_WIDTHS, **BART_HEADS, "encoder_layers": 2, "decoder_layers": 2},
}
BERT_TYPES = ["input_ids", "token_type_ids", "attention_mask"]
# First and last tokens of a text, tokens of a pair, and ids in the fitted configuration.
EXPECTED: dict[str, tuple[str, str, str, dict[str, int | None]]] = {
    "bert": ("[CLS]", "[SEP]", "[CLS] A [SEP] B [SEP]", {"pad": 0, "bos": None, "eos": None}),
    "roberta": ("<s>", "</s>", "<s> A </s> </s> B </s>", {"bos": 0, "pad": 1, "eos": 2}),
    "distilbert": ("[CLS]", "[SEP]", "[CLS] A [SEP] B [SEP]", {"pad": 0}),
    "deberta-v2": ("[CLS]", "[SEP]", "[CLS] A [SEP] B [SEP]", {"pad": 0}),
    "electra": ("[CLS]", "[SEP]", "[CLS] A [SEP] B [SEP]", {"pad": 0}),
    "albert": ("[CLS]", "[SEP]", "[CLS] A [SEP] B [SEP]", {"pad": 0, "bos": 2, "eos": 3}),
    "modernbert": ("[CLS]", "[SEP]", "[CLS] A [SEP] B [SEP]", {"pad": 0, "cls": 2, "bos": 2, "sep": 3, "eos": 3}),
    "gpt2": ("", "", "A B", {"bos": 0, "eos": 0}),
    "llama": ("<s>", "", "<s> A <s> B", {"pad": 0, "bos": 1, "eos": 2}),
    "qwen3": ("", "", "A B", {"pad": 0, "eos": 1, "bos": None}),
    "t5": ("", "</s>", "A </s> B </s>", {"pad": 0, "eos": 1, "decoder_start": 0}),
    "bart": (
        "<s>",
        "</s>",
        "<s> A </s> </s> B </s>",
        {"bos": 0, "pad": 1, "eos": 2, "decoder_start": 2, "forced_eos": 2},
    ),
}
SAVED = [(family, kind) for family in ("bert", "gpt2", "t5", "llama") for kind in KINDS]
UNSEEN = ["the film was great", "Ünseen, WORDS!  and\n7 spaces", "", "a [SEP] </s>"]


def config_of(family: str, **fields: Any) -> Any:
    return AutoConfig.for_model(family, **{**CONFIGS.get(family, {}), **fields})


def vocabulary(kind: str, size: int = SIZE, lowercase: bool = False, min_frequency: int = 2) -> Vocabulary:
    return Vocabulary(kind, size, lowercase, min_frequency)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def train() -> Any:
    """`train("bert", "bpe")`: a tokenizer of the reviews, trained once."""
    made: dict[tuple[str, str], PreTrainedTokenizerBase] = {}

    def get(family: str, kind: str) -> PreTrainedTokenizerBase:
        if (family, kind) not in made:
            made[family, kind] = train_tokenizer(vocabulary(kind), TEXTS, config_of(family))
        return made[family, kind]

    return get


def serialised(tokenizer: Any) -> str:
    return tokenizer.backend_tokenizer.to_str()


# --- right for the family -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_of_the_family_takes_it(train, family, kind):
    tokenizer, texts = train(family, kind), ["the film was great", "a", "awful ghost story about people"]
    config = fitted_config(config_of(family), tokenizer)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer) <= SIZE
    for columns in ([texts], [texts, texts[::-1]]):
        with torch.no_grad():
            together = model(**tokenizer(*columns, padding=True, return_tensors="pt")).logits
            alone = [model(**tokenizer(*row, return_tensors="pt")).logits[0] for row in zip(*columns, strict=True)]
        torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", CONFIGS)
def test_special_tokens_are_where_the_family_has_them(train, family, kind):
    first, last, pair, _ = EXPECTED[family]
    tokenizer = train(family, kind)
    special = set(tokenizer.all_special_ids)
    for text in TEXTS[:20]:
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        inner = tokens[bool(first) : len(tokens) - bool(last)]
        assert not first or tokens[0] == first
        assert not last or tokens[-1] == last
        assert not special & set(tokenizer.convert_tokens_to_ids(inner))
    bare = {name: tokenizer.tokenize(text) for name, text in (("A", "a"), ("B", "music"))}
    expected = [token for piece in pair.split() for token in bare.get(piece, [piece])]
    assert tokenizer.convert_ids_to_tokens(tokenizer("a", "music")["input_ids"]) == expected
    assert tokenizer.num_special_tokens_to_add() == bool(first) + bool(last)
    assert tokenizer.num_special_tokens_to_add(pair=True) == len(pair.split()) - 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", CONFIGS)
def test_special_tokens_are_distinct_and_come_first(train, family, kind):
    tokenizer = train(family, kind)
    assert sorted(tokenizer.all_special_ids) == list(range(len(tokenizer.all_special_ids)))
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    others = {tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id}
    assert tokenizer.pad_token_id is not None
    assert tokenizer.pad_token_id not in others
    if kind != "bpe":
        assert tokenizer.convert_ids_to_tokens(tokenizer("✈", add_special_tokens=False)["input_ids"])[-1] == (
            tokenizer.unk_token
        )
        assert tokenizer.unk_token_id != tokenizer.eos_token_id
    assert (tokenizer.mask_token is not None) == (family not in ("gpt2", "llama", "qwen3", "t5"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", CONFIGS)
def test_the_configuration_is_fitted(train, family, kind):
    config, tokenizer = config_of(family), train(family, kind)
    before = config.to_dict()
    fitted = fitted_config(config, tokenizer)
    assert config.to_dict() == before
    assert fitted.vocab_size == len(tokenizer)
    assert fitted.pad_token_id == tokenizer.pad_token_id
    assert {name: getattr(fitted, f"{name}_token_id") for name in EXPECTED[family][3]} == EXPECTED[family][3]
    changed = {name for name, value in fitted.to_dict().items() if before.get(name, "missing") != value}
    assert all(name == "vocab_size" or name.endswith("_token_id") for name in changed)
    again = fitted_config(fitted, tokenizer)
    assert again.to_dict() == fitted.to_dict()


def test_an_id_without_a_token_keeps_its_role(train):
    tokenizer = train("bart", "bpe")
    start = fitted_config(config_of("bart", pad_token_id=7, eos_token_id=[8, 9], decoder_start_token_id=9), tokenizer)
    assert start.decoder_start_token_id == tokenizer.eos_token_id == start.eos_token_id
    start = fitted_config(config_of("bart", pad_token_id=7, decoder_start_token_id=7), tokenizer)
    assert start.decoder_start_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize("family", CONFIGS)
def test_token_types_only_where_the_model_has_them(train, family):
    tokenizer = train(family, "wordpiece")
    names = ["input_ids", "attention_mask"] if family not in ("bert", "electra") else BERT_TYPES
    assert tokenizer.model_input_names == names
    assert list(tokenizer("a", "b")) == names
    if "token_type_ids" in names:
        assert tokenizer("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("family", "fields", "limit"),
    [
        ("bert", {}, 512),
        ("roberta", {"max_position_embeddings": 514}, 512),
        ("xlm-roberta", {**ENCODER, "max_position_embeddings": 514}, 512),
        ("bart", {}, 1024),
        ("gpt2", {}, 128),
        ("llama", {}, 2048),
        ("t5", {}, None),
        ("xlnet", {"d_model": 32, "n_layer": 1, "n_head": 2}, None),
    ],
)
def test_length_is_the_number_of_positions(family, fields, limit):
    tokenizer = train_tokenizer(vocabulary("characters"), TEXTS[:5], config_of(family, **fields))
    assert tokenizer.model_max_length == limit if limit else tokenizer.model_max_length > 1e20


def test_the_longest_text_fits_and_one_token_more_does_not(train):
    tokenizer = train("roberta", "characters")
    model = AutoModelForSequenceClassification.from_config(fitted_config(config_of("roberta"), tokenizer))
    inputs = tokenizer("the " * 100, truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape == (1, 64)
    assert torch.isfinite(model(**inputs).logits).all()
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        model(**tokenizer("the " * 100, truncation=True, max_length=65, return_tensors="pt"))


@pytest.mark.parametrize(
    ("family", "single"),
    [
        ("pegasus", "a </s>"),  # its class cannot be made without a file, and it reads to the end token
        ("mistral", "<s> a"),  # a class for every architecture
        ("olmo2", "a"),
        ("nystromformer", "[CLS] a [SEP]"),
        ("rembert", "[CLS] a [SEP]"),  # its class has the tokens and no template
        ("xlnet", "a <sep> <cls>"),
        ("ctrl", "a"),
    ],
)
def test_families_that_prescribe_less(family, single):
    tokenizer = train_tokenizer(vocabulary("characters"), TEXTS[:5], config_of(family))
    assert tokenizer.convert_ids_to_tokens(tokenizer("a")["input_ids"]) == single.split()
    assert tokenizer.pad_token is not None
    assert tokenizer.unk_token is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_bases_own_tokenizer_is_taken_after(tiny_base, family, kind):
    base = AutoTokenizer.from_pretrained(tiny_base(family))
    if base.pad_token is None:
        base.pad_token = base.eos_token
    base.padding_side, base.model_max_length = "left", 77
    config = AutoConfig.from_pretrained(tiny_base(family))
    tokenizer = train_tokenizer(vocabulary(kind), TEXTS, config, base)
    roles = dict(base.special_tokens_map)
    if family in ("gpt2", "llama"):  # padding is a token of its own, and so is what is unknown
        assert tokenizer.pad_token == "<pad>"
        roles |= {"pad_token": "<pad>", "unk_token": tokenizer.unk_token}
        assert (tokenizer.unk_token == base.unk_token) == (kind == "bpe" or family == "llama")
    assert dict(tokenizer.special_tokens_map) == roles
    assert tokenizer.model_input_names == base.model_input_names
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 77)
    for texts in (["a"], ["a", "music"]):
        assert structure(tokenizer, *texts) == structure(base, *texts)


def structure(tokenizer: Any, *texts: str) -> list[Any]:
    """What stands where, with a text as its number however many tokens it has."""
    encoded = tokenizer(*texts)
    tokens, types = tokenizer.convert_ids_to_tokens(encoded["input_ids"]), encoded.get("token_type_ids")
    pieces = [
        (token if owner is None else owner, types and types[place])
        for place, (token, owner) in enumerate(zip(tokens, encoded.sequence_ids(), strict=True))
    ]
    before = [None, *pieces[:-1]]
    return [piece for piece, last in zip(pieces, before, strict=True) if isinstance(piece[0], str) or piece != last]


# --- what is learned ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bpe", "characters"])
def test_every_character_comes_back(kind):
    texts = ["Two  spaces,\ta tab\r\nand lines\n", "Ünïcode é e\u0301 漢字 👩‍👩‍👧 \u2028", " leading and trailing "]
    tokenizer = train_tokenizer(vocabulary(kind, 400, min_frequency=1), texts, config_of("bert"))
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert tokenizer.unk_token_id not in ids
        if kind == "characters":
            assert len(ids) == len(text) + 2


def test_no_byte_is_unknown_to_byte_pairs(train):
    text = "".join(map(chr, range(1, 0x500))) + "😀"
    tokenizer = train("gpt2", "bpe")
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_words_come_back(train, kind):
    tokenizer = train("bert", kind)
    for text in TEXTS[:20]:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize(("kind", "prefix"), [("bpe", "Ġ"), ("wordpiece", ""), ("unigram", "▁")])
def test_frequent_words_become_pieces(kind, prefix):
    tokenizer = train_tokenizer(vocabulary(kind, 800), TEXTS, config_of("bert"))
    words = {word for words in tiny.CLASS_WORDS.values() for word in words}
    assert sum(f"{prefix}{word}" in tokenizer.get_vocab() for word in words) > 0.9 * len(words)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_a_word_that_was_never_seen_is_put_together(train, kind):
    tokenizer = train("bert", kind)
    ids = tokenizer("wondrously", add_special_tokens=False)["input_ids"]
    assert len(ids) > 1
    assert tokenizer.unk_token_id not in ids


def test_wordpiece_marks_what_goes_on(train):
    entries = set(train("bert", "wordpiece").get_vocab())
    letters = {letter for text in TEXTS for letter in text if letter != " "}
    assert entries >= letters | {f"##{letter}" for letter in letters}
    punctuated = train_tokenizer(vocabulary("wordpiece"), ["stop . now . 漢 漢"] * 3, config_of("bert"))
    assert {".", "漢"} <= set(punctuated.get_vocab())
    assert not {"##.", "##漢"} & set(punctuated.get_vocab())


@pytest.mark.parametrize("kind", KINDS)
def test_lowercase(kind):
    texts = [text.title() for text in TEXTS]
    config = config_of("bert")
    lower = train_tokenizer(vocabulary(kind, lowercase=True), texts, config)
    assert serialised(lower) == serialised(train_tokenizer(vocabulary(kind, lowercase=True), TEXTS, config))
    assert lower("THE Film")["input_ids"] == lower("the film")["input_ids"]
    kept = train_tokenizer(vocabulary(kind), texts, config)
    assert kept("The Film")["input_ids"] != kept("the film")["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_min_frequency(kind):
    texts = ["common words stay"] * 10 + ["zzyzx"]
    rare, frequent = (
        train_tokenizer(vocabulary(kind, 800, min_frequency=number), texts, config_of("bert")) for number in (1, 5)
    )
    new = set(rare.get_vocab()) - set(frequent.get_vocab())
    assert new
    assert all("z" in entry or "x" in entry or "zzyzx".startswith(entry.strip("#▁")) for entry in new)
    assert kind == "bpe" or frequent.unk_token_id in frequent("zzyzx")["input_ids"]


@pytest.mark.parametrize("size", [263, 280, 400])
@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_a_cap(kind, size):
    rng = random.Random(0)
    texts = ["".join(chr(0x4E00 + min(int(rng.expovariate(1 / 200)), 900)) for _ in range(40)) for _ in range(40)]
    tokenizer = train_tokenizer(vocabulary(kind, size, min_frequency=1), texts, config_of("bert"))
    assert len(tokenizer) == size


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "characters"])
def test_the_least_size_holds_one_piece(kind):
    tokenizer = train_tokenizer(vocabulary(kind, 6), TEXTS, config_of("bert"))
    assert len(tokenizer) == 6
    with pytest.raises(RecipeError, match="5 entries have no room for a single piece beside 5 special"):
        train_tokenizer(vocabulary(kind, 5), TEXTS, config_of("bert"))


# --- the same every time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_equal_texts_give_equal_bytes_in_any_order(kind):
    # Many pieces that occur equally often, more than there is room for: this is where ties are.
    rng = random.Random(1)
    syllables = ["ka", "lo", "mi", "tu", "re", "sa", "no", "vi", "pe", "du", "x", "q", "ö"]
    texts = [" ".join("".join(rng.choices(syllables, k=rng.randint(1, 5))) for _ in range(8)) for _ in range(200)]
    made = {
        serialised(train_tokenizer(vocabulary(kind), order, config_of("bert")))
        for order in (texts, texts, texts[::-1], tuple(sorted(texts)))
    }
    assert len(made) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_silent(kind, capfd):
    state = torch.get_rng_state()
    train_tokenizer(vocabulary(kind), TEXTS, config_of("roberta"))
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), state)


def test_unigram_reads_the_most_frequent_words_alone(monkeypatch):
    monkeypatch.setattr(module, "CHARACTERS_READ", 10)
    tokenizer = train_tokenizer(
        vocabulary("unigram", min_frequency=1), ["film film film was was rare"], config_of("t5")
    )
    assert {"▁film", "▁was"} <= set(tokenizer.get_vocab())
    assert "▁rare" not in tokenizer.get_vocab()


PROGRAM = """
import json, sys
from transformers import AutoTokenizer
folders, texts = json.loads(sys.argv[1])
def ids(tokenizer):
    return [tokenizer(texts)["input_ids"], tokenizer(texts, texts, truncation="longest_first", max_length=12).data]
print(json.dumps([ids(AutoTokenizer.from_pretrained(folder)) for folder in folders]))
assert "hfstrat" not in sys.modules
"""


def test_anybody_can_load_it(train, tmp_path):
    folders = []
    for family, kind in SAVED:
        folders.append(str(tmp_path / f"{family}-{kind}"))
        train(family, kind).save_pretrained(folders[-1])
        fitted_config(config_of(family), train(family, kind)).save_pretrained(folders[-1])
    command = [sys.executable, "-c", PROGRAM, json.dumps([folders, UNSEEN])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    for (family, kind), (single, pairs) in zip(SAVED, json.loads(done.stdout), strict=True):
        tokenizer = train(family, kind)
        assert single == tokenizer(UNSEEN)["input_ids"], (family, kind)
        assert pairs == tokenizer(UNSEEN, UNSEEN, truncation="longest_first", max_length=12).data
    assert sorted(path.name for path in Path(folders[0]).iterdir()) == [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize("family", CONFIGS)
def test_loaded_again_it_is_the_same(train, family, tmp_path):
    saved = train(family, "wordpiece")
    saved.save_pretrained(tmp_path)
    fitted_config(config_of(family), saved).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert serialised(loaded) == serialised(saved)
    for name in ("special_tokens_map", "model_input_names", "model_max_length", "padding_side", "truncation_side"):
        assert getattr(loaded, name) == getattr(saved, name), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "llama"])
def test_windows_cover_a_long_text(train, family, kind):
    tokenizer, text = train(family, kind), " ".join(TEXTS[:4])
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    cut = tokenizer(text, truncation=True, max_length=16, stride=4, return_overflowing_tokens=True)["input_ids"]
    room = 16 - tokenizer.num_special_tokens_to_add()
    assert all(len(window) == 16 for window in cut[:-1])
    inner = [[token for token in window if token not in tokenizer.all_special_ids] for window in cut]
    assert inner[0] == bare[:room]
    assert [token for place, window in enumerate(inner) for token in window[4 if place else 0 :]] == bare
    full = tokenizer(text)["input_ids"]
    for window in cut:
        assert (window[0] == full[0]) or full[0] not in tokenizer.all_special_ids
        assert (window[-1] == full[-1]) or full[-1] not in tokenizer.all_special_ids


# --- what cannot be done ------------------------------------------------------------------------------------------


def problem(spec: Vocabulary, texts: list[str], config: Any) -> Any:
    with pytest.raises(RecipeError) as caught:
        train_tokenizer(spec, texts, config)
    return caught.value.problems


def test_bytes_need_room():
    (found,) = problem(vocabulary("bpe", 260), TEXTS, config_of("bert"))
    assert found.path == "strategy.tokenizer.vocab_size"
    assert found.message == "260 entries have no room for every byte beside 5 special tokens"
    assert found.hint == "Set it to 261 at least"
    assert len(train_tokenizer(vocabulary("bpe", 261), TEXTS, config_of("bert"))) == 261


@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_an_empty_corpus_and_everything_at_once(texts):
    (found,) = problem(vocabulary("unigram"), texts, config_of("bert"))
    assert (found.path, found.message) == ("strategy.tokenizer", "the training split has no text to train it on")
    assert len(problem(vocabulary("bpe", 10), texts, config_of("bert"))) == 2


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "characters"])
def test_nothing_is_frequent_enough(kind):
    (found,) = problem(vocabulary(kind, min_frequency=9), ["abc"], config_of("bert"))
    assert found.path == "strategy.tokenizer.min_frequency"
    assert "no character occurs 9 times" in found.message


def test_architectures_whose_tokenizers_would_be_misread():
    (found,) = problem(vocabulary("bpe"), TEXTS, config_of("qwen2"))
    assert "AutoTokenizer reads every tokenizer of qwen2 as a Qwen2Tokenizer" in found.message
    (found,) = problem(vocabulary("characters"), TEXTS, config_of("gemma3"))
    assert "gemma3 has a vocabulary in each of its parts" in found.message
