"""A tokenizer that is trained on a task's own texts, for a model that is trained from scratch.

What is particular to an architecture is a `Layout`: special tokens, their order and places, the names of the inputs.
It is taken from the base's tokenizer or from the class that Transformers pairs with the configuration. What is
learned from the texts knows nothing of architectures.

Equal texts give equal bytes, which the trainers of `tokenizers` alone do not give: WordPiece's hands out ids in the
order of a hash map that is seeded anew each time, and Unigram's adds up probabilities in that order. Byte pairs alone
are merged by count and then by id, and so depend on nothing else once each letter's id is settled beforehand; the
other two are built upon them.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from hfstrat.errors import Problem, RecipeError
from hfstrat.strategies.plan import Vocabulary

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
BERT = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ROLES = ("pad", "eos", "bos", "cls", "sep", "mask", "unk")

# Unigram starts from this many times the pieces that it keeps, drops at most a quarter of them at a time, and looks
# at the most frequent words only, up to this many characters: a text without white space is one long word.
SEEDS = 4
KEPT = 0.75
LONGEST_PIECE = 16
CHARACTERS_READ = 2_000_000


def train_tokenizer(
    vocabulary: Vocabulary,
    texts: Sequence[str],
    config: PretrainedConfig,
    like: PreTrainedTokenizerBase | None = None,
) -> PreTrainedTokenizerBase:
    """Train a tokenizer with the special tokens of a model's family.

    Args:
        vocabulary: What to train.
        texts: The training texts; they are read several times and not copied.
        config: Configuration of the model.
        like: The base's tokenizer, whose special tokens, template, input names, sides and length are taken over; None
            for those of the model's family.

    Raises:
        RecipeError: There is nothing to learn from, no room for it, or the tokenizer could not be loaded again.
    """
    from transformers import PreTrainedTokenizerFast

    layout = _layout(vocabulary, config, like)
    _check(vocabulary, texts, config, layout)
    pipeline = PIPELINES[vocabulary.kind](vocabulary.lowercase)
    backend = pipeline.around(LEARNERS[vocabulary.kind](vocabulary, texts, layout, pipeline))
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in layout.tokens])
    backend.post_processor = processors.TemplateProcessing(
        single=list(layout.single),
        pair=list(layout.pair),
        special_tokens=[(token, backend.token_to_id(token)) for token in layout.placed],
    )
    limit = {} if layout.max_length is None else {"model_max_length": layout.max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=list(layout.input_names),
        padding_side=layout.padding_side,
        truncation_side=layout.truncation_side,
        clean_up_tokenization_spaces=False,
        **limit,
        **layout.roles,
    )


def fitted_config(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    """A copy of a configuration with the size and the special tokens of a tokenizer.

    An id without a token of its own, such as `decoder_start_token_id`, goes on to be that of the token whose id it was.

    Args:
        config: Configuration of the model.
        tokenizer: The tokenizer that it shall have.
    """
    fitted = copy.deepcopy(config)
    if hasattr(config, "vocab_size"):  # CANINE hashes ids
        fitted.vocab_size = len(tokenizer)
    before = {role: getattr(config, f"{role}_token_id", None) for role in ROLES}
    after = {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES if getattr(tokenizer, f"{role}_token")}
    for name in sorted({*vars(config), *dir(type(config))}):
        if name.endswith("_token_id"):
            setattr(fitted, name, _token_id(name.removesuffix("_token_id"), getattr(config, name), before, after))
    if config.is_encoder_decoder and not hasattr(config, "decoder_start_token_id"):
        # T5's class does not define it, and its decoder does not run without. Its published configurations say pad.
        fitted.decoder_start_token_id = after["pad"]
    return fitted


def _token_id(role: str, old: Any, before: Mapping[str, Any], after: Mapping[str, int]) -> Any:
    if role in after:
        return after[role]
    same = (other for other in ROLES if other in after and old is not None and _is(before[other], old))
    return next((after[other] for other in same), None if role in ROLES else old)


def _is(token_id: int | list[int] | None, other: Any) -> bool:
    """Whether an id is another, or, for texts that may end in several ways, is among those."""
    return token_id == other or (isinstance(token_id, list) and other in token_id)


def _check(vocabulary: Vocabulary, texts: Sequence[str], config: PretrainedConfig, layout: Layout) -> None:
    from transformers.models.auto.tokenization_auto import (
        MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS,
        TOKENIZER_MAPPING_NAMES,
    )

    problems = []
    letters = len(BYTES) if vocabulary.kind == "bpe" else 1
    least = len(layout.tokens) + letters
    if vocabulary.size < least:
        what = "every byte" if vocabulary.kind == "bpe" else "a single piece"
        message = f"{vocabulary.size} entries have no room for {what} beside {len(layout.tokens)} special tokens"
        problems.append(Problem(message, "strategy.tokenizer.vocab_size", hint=f"Set it to {least} at least"))
    if not any(text.strip() for text in texts):
        hint = "Look at the data's text column"
        problems.append(Problem("the training split has no text to train it on", "strategy.tokenizer", hint=hint))
    paired = TOKENIZER_MAPPING_NAMES.get(config.model_type)
    other = "Use another architecture, or the base's tokenizer"
    if config.model_type in MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS and paired != "TokenizersBackend":
        message = f"AutoTokenizer reads every tokenizer of {config.model_type} as a {paired}, which this one is not"
        problems.append(Problem(message, "strategy.tokenizer", hint=other))
    if config.get_text_config() is not config:
        message = f"{config.model_type} has a vocabulary in each of its parts"
        problems.append(Problem(message, "strategy.tokenizer", hint=other))
    if problems:
        raise RecipeError(problems)


# --- what a family prescribes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """What a family prescribes, whatever its vocabulary.

    Args:
        roles: Special tokens by role (`pad_token`).
        tokens: All special tokens in the order of their ids.
        single: Template of a text, piece by piece (`[CLS]:0`, `$A:0`).
        pair: Template of two texts.
        input_names: Inputs of the model.
        padding_side: `right` or `left`.
        truncation_side: `right` or `left`.
        max_length: Tokens that the model takes at most; None when nothing says so.
    """

    roles: Mapping[str, str]
    tokens: tuple[str, ...]
    single: tuple[str, ...]
    pair: tuple[str, ...]
    input_names: tuple[str, ...]
    padding_side: str
    truncation_side: str
    max_length: int | None

    @property
    def placed(self) -> tuple[str, ...]:
        """The special tokens of the templates."""
        return _placed((*self.single, *self.pair))


def _layout(vocabulary: Vocabulary, config: PretrainedConfig, like: PreTrainedTokenizerBase | None) -> Layout:
    pattern = like if like is not None else _paired(config)
    roles = _roles(pattern) if pattern is not None else _usual_roles(config)
    single, pair = _templates(pattern, roles, config)
    placed = _placed((*single, *pair))
    roles = _completed(roles, placed, byte_level=vocabulary.kind == "bpe")
    tokens = _in_order(list(dict.fromkeys([*roles.values(), *placed])), roles, config)
    declared = like.model_max_length if like is not None else math.inf
    return Layout(
        roles=roles,
        tokens=tuple(tokens),
        single=single,
        pair=pair,
        input_names=_input_names(pattern, config),
        padding_side=pattern.padding_side if pattern is not None else "right",
        truncation_side=pattern.truncation_side if pattern is not None else "right",
        # A tokenizer that knows no limit says 10^30.
        max_length=int(declared) if declared < 1e20 else position_limit(config, tokens.index(roles["pad_token"])),
    )


def _paired(config: PretrainedConfig) -> PreTrainedTokenizerBase | None:
    """A tokenizer without a vocabulary, of the class that Transformers pairs with a configuration."""
    from transformers import PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

    tokenizer_class: Any = TOKENIZER_MAPPING.get(type(config), None)
    if tokenizer_class is None:
        return None
    try:
        tokenizer = tokenizer_class()
    except (ImportError, TypeError, ValueError):  # it needs a package, a file or a backend: it prescribes nothing
        return None
    return tokenizer if isinstance(tokenizer, PreTrainedTokenizerFast) else None


def _roles(pattern: PreTrainedTokenizerBase) -> dict[str, str]:
    found = {f"{role}_token": getattr(pattern, f"{role}_token") for role in ROLES}
    return {role: str(token) for role, token in found.items() if token is not None}


def _usual_roles(config: PretrainedConfig) -> dict[str, str]:
    """Special tokens for the ids that a configuration has."""
    has = [role for role in ROLES if getattr(config, f"{role}_token_id", None) is not None]
    if "cls" in has or "sep" in has or _token_types(config) > 1:
        return BERT
    marks = {"bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
    own = {role: token for role, token in marks.items() if role.removesuffix("_token") in has}
    names = {"pad_token": "<pad>", "unk_token": "<unk>"} if own else {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    return {**names, **own}


def _completed(roles: Mapping[str, str], placed: Sequence[str], byte_level: bool) -> dict[str, str]:
    """Add the tokens that are lacking, or that would be taken for another: padding, and what is unknown."""
    roles = dict(roles)
    name = "[{}]" if any(token.startswith("[") for token in roles.values()) else "<{}>"
    if roles.get("pad_token") in (None, roles.get("eos_token"), roles.get("unk_token"), *placed):
        roles["pad_token"] = name.format("PAD" if "[" in name else "pad")
    others = {token for role, token in roles.items() if role != "unk_token"}
    if not byte_level and (roles.get("unk_token") is None or roles["unk_token"] in others):
        roles["unk_token"] = name.format("UNK" if "[" in name else "unk")
    return roles


def _in_order(tokens: Sequence[str], roles: Mapping[str, str], config: PretrainedConfig) -> list[str]:
    """Special tokens by id; one whose id is small in the configuration keeps it.

    Where positions are counted from the padding id on, a greater one would cost positions, and MPNet's code takes its
    padding id for granted.
    """
    places: dict[int, str] = {}
    for role in ROLES:
        place, token = getattr(config, f"{role}_token_id", None), roles.get(f"{role}_token")
        if token is None or token in places.values():
            continue
        if isinstance(place, int) and 0 <= place < len(tokens) and place not in places:
            places[place] = token
    others = iter([token for token in tokens if token not in places.values()])
    return [places[place] if place in places else next(others) for place in range(len(tokens))]


def _templates(
    pattern: PreTrainedTokenizerBase | None, roles: Mapping[str, str], config: PretrainedConfig
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Templates of one text and of two: as a pattern does it, else as is usual for these special tokens."""
    from transformers import PreTrainedTokenizerFast

    encloses = "cls_token" in roles and "sep_token" in roles
    if isinstance(pattern, PreTrainedTokenizerFast):
        single, pair = _observed(pattern.backend_tokenizer.post_processor)
        if _placed(single) or not encloses:  # RemBERT's class leaves its template to the tokenizer's file
            return single, pair
    if encloses:
        single = (f"{roles['cls_token']}:0", "$A:0", f"{roles['sep_token']}:0")
        return single, (*single, "$B:1", f"{roles['sep_token']}:1")
    first = [roles["bos_token"]] if "bos_token" in roles and not config.is_encoder_decoder else []
    last = [roles["eos_token"]] if "eos_token" in roles and config.is_encoder_decoder else []
    single = tuple(f"{piece}:0" for piece in [*first, "$A", *last])
    return single, (*single, *(f"{piece}:1" for piece in [*first, "$B", *last]))


def _observed(processor: processors.PostProcessor | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a post-processor does, seen by letting it do it: there are several kinds and nests of them."""
    if processor is None:
        return ("$A:0",), ("$A:0", "$B:1")
    probe = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    first, second = probe.encode("a"), probe.encode("b")
    encodings = processor.process(first), processor.process(first, second)
    single, pair = (
        tuple(
            f"{token if text is None else ('$A', '$B')[text]}:{token_type}"
            for token, text, token_type in zip(made.tokens, made.sequence_ids, made.type_ids, strict=True)
        )
        for made in encodings
    )
    return single, pair


def _placed(template: Sequence[str]) -> tuple[str, ...]:
    tokens = (piece.rpartition(":")[0] for piece in template)
    return tuple(dict.fromkeys(token for token in tokens if token not in ("$A", "$B")))


def _input_names(pattern: PreTrainedTokenizerBase | None, config: PretrainedConfig) -> tuple[str, ...]:
    usual = ["input_ids", "token_type_ids", "attention_mask"]
    names = pattern.model_input_names if pattern is not None else usual
    # DistilBERT shares BERT's class, and takes no token types.
    return tuple(name for name in names if name != "token_type_ids" or _token_types(config) > 1)


def _token_types(config: PretrainedConfig) -> int:
    return int(getattr(config, "type_vocab_size", None) or 0)


def position_limit(config: PretrainedConfig, pad_id: int) -> int | None:
    """Tokens that have a position; None when a model counts none."""
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if positions is None or positions <= 0:
        return None
    return int(positions) - (pad_id + 1 if _counts_from_padding(config, positions, pad_id) else 0)


def _counts_from_padding(config: PretrainedConfig, positions: int, pad_id: int) -> bool:
    """Whether a model numbers positions from the padding id on (RoBERTa): the table of positions then has that row."""
    import torch
    from transformers import MODEL_MAPPING, AutoModel

    if type(config) not in MODEL_MAPPING:
        return False
    config = copy.deepcopy(config)
    config.vocab_size, config.pad_token_id = pad_id + 1, pad_id
    try:
        with torch.device("meta"):
            modules = AutoModel.from_config(config).named_modules()
    except (ValueError, TypeError, RuntimeError, AttributeError, ImportError) as error:
        text = " ".join(str(error).split())
        raise RecipeError(Problem(f"no model can be built of this shape: {text}", "model.config")) from error
    return any(
        "position" in name and getattr(module, "padding_idx", None) is not None and len(module.weight) == positions
        for name, module in modules
    )


# --- what is learned ------------------------------------------------------------------------------------------------


class Pipeline(NamedTuple):
    """How text is cut before a model sees it, and put together again."""

    normalizer: normalizers.Normalizer | None
    pre_tokenizer: pre_tokenizers.PreTokenizer
    decoder: decoders.Decoder

    def around(self, model: models.Model) -> Tokenizer:
        """A tokenizer with this pipeline and a model."""
        tokenizer = Tokenizer(model)
        if self.normalizer is not None:
            tokenizer.normalizer = self.normalizer
        tokenizer.pre_tokenizer = self.pre_tokenizer
        tokenizer.decoder = self.decoder
        return tokenizer

    def pieces(self, text: str) -> list[str]:
        """A text, normalised and cut."""
        text = text if self.normalizer is None else self.normalizer.normalize_str(text)
        return [piece for piece, _ in self.pre_tokenizer.pre_tokenize_str(text)]


def _lower(lowercase: bool) -> normalizers.Normalizer | None:
    return normalizers.Lowercase() if lowercase else None


def _byte_pipeline(lowercase: bool) -> Pipeline:
    return Pipeline(_lower(lowercase), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())


def _bert_pipeline(lowercase: bool) -> Pipeline:
    return Pipeline(
        normalizers.BertNormalizer(lowercase=lowercase), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    )


def _metaspace_pipeline(lowercase: bool) -> Pipeline:
    """SentencePiece's: characters in their compatible form, white space collapsed."""
    normalizer = normalizers.Sequence([normalizers.NFKC(), *([normalizers.Lowercase()] if lowercase else [])])
    metaspace = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return Pipeline(normalizer, metaspace, decoders.Metaspace())


def _character_pipeline(lowercase: bool) -> Pipeline:
    return Pipeline(_lower(lowercase), pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse())


def _train_byte_pairs(vocabulary: Vocabulary, texts: Sequence[str], layout: Layout, pipeline: Pipeline) -> models.Model:
    tokenizer = pipeline.around(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary.size,
        min_frequency=vocabulary.min_frequency,
        special_tokens=list(layout.tokens),
        initial_alphabet=BYTES,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.model


def _train_word_pieces(
    vocabulary: Vocabulary, texts: Sequence[str], layout: Layout, pipeline: Pipeline
) -> models.Model:
    letters = _frequent(_characters(texts, pipeline), vocabulary)
    forms = [[letter, f"##{letter}"] if _continues(letter, pipeline) else [letter] for letter in letters]
    room = vocabulary.size - len(layout.tokens)
    # Each letter's forms are settled beforehand. Half of the room at most, so that rare letters crowd out no word.
    settled = [form for form, total in zip(forms, _totals(forms), strict=True) if 2 * total <= room]
    alphabet = [form[0] for form in settled]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary.size,
        min_frequency=vocabulary.min_frequency,
        special_tokens=[*layout.tokens, *itertools.chain(*settled)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner = pipeline.around(models.WordPiece(unk_token=layout.roles["unk_token"]))
    learner.train_from_iterator(texts, trainer)
    learned = learner.get_vocab()
    entries = dict.fromkeys([*sorted(learned, key=learned.__getitem__), *itertools.chain(*forms)])
    kept = itertools.islice(entries, vocabulary.size)
    return models.WordPiece({entry: place for place, entry in enumerate(kept)}, unk_token=layout.roles["unk_token"])


def _train_characters(vocabulary: Vocabulary, texts: Sequence[str], layout: Layout, pipeline: Pipeline) -> models.Model:
    letters = _frequent(_characters(texts, pipeline), vocabulary)
    entries = [*layout.tokens, *letters][: vocabulary.size]
    unknown = layout.roles["unk_token"]
    return models.WordLevel({entry: place for place, entry in enumerate(entries)}, unk_token=unknown)


def _train_unigram(vocabulary: Vocabulary, texts: Sequence[str], layout: Layout, pipeline: Pipeline) -> models.Model:
    """Prune byte-pair pieces by what each does for the likelihood (Kudo 2018, arXiv:1804.10959).

    It differs from the paper in that a word counts in its likeliest cut alone: those counts are whole numbers, whose
    sum does not depend on their order.
    """
    words = _words(texts, pipeline)
    every = _frequent(_weighted_letters(words), vocabulary)
    room = vocabulary.size - len(layout.tokens)
    letters = every[: max(1, room // 2)]
    pieces = _seeds(vocabulary, words, letters, SEEDS * room, pipeline)
    pieces = [piece for piece in pieces if piece not in layout.tokens]
    fit = _fit_unigram(pieces, letters, words, room - len(letters), vocabulary.min_frequency)
    entries = [(token, 0.0) for token in layout.tokens]
    entries += sorted(fit.items(), key=lambda entry: (-entry[1], entry[0]))
    entries += [(letter, entries[-1][1]) for letter in every[len(letters) :]]
    unknown = layout.tokens.index(layout.roles["unk_token"])
    return models.Unigram(entries[: vocabulary.size], unk_id=unknown)


PIPELINES: dict[str, Callable[[bool], Pipeline]] = {
    "bpe": _byte_pipeline,
    "wordpiece": _bert_pipeline,
    "unigram": _metaspace_pipeline,
    "characters": _character_pipeline,
}
LEARNERS: dict[str, Callable[[Vocabulary, Sequence[str], Layout, Pipeline], models.Model]] = {
    "bpe": _train_byte_pairs,
    "wordpiece": _train_word_pieces,
    "unigram": _train_unigram,
    "characters": _train_characters,
}


def _characters(texts: Iterable[str], pipeline: Pipeline) -> Counter[str]:
    """How often each character occurs in normalised texts, from a look at each different one alone."""
    raw: Counter[str] = Counter()
    for text in texts:
        raw.update(text)
    seen: Counter[str] = Counter()
    for character, count in raw.items():
        for made in itertools.chain(*pipeline.pieces(character)):
            seen[made] += count
    return seen


def _frequent(counts: Mapping[str, int], vocabulary: Vocabulary) -> list[str]:
    """The letters that are frequent enough, from the most frequent on."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    frequent = [letter for letter, count in ranked if count >= vocabulary.min_frequency]
    if not frequent:
        message = f"no character occurs {vocabulary.min_frequency} times in the training split"
        raise RecipeError(Problem(message, "strategy.tokenizer.min_frequency", hint="Lower it, or use more texts"))
    return frequent


def _continues(letter: str, pipeline: Pipeline) -> bool:
    """Whether a letter can stand inside a word; punctuation and Chinese characters are words of their own."""
    return pipeline.pieces(f"a{letter}") == [f"a{letter}"]


def _totals(forms: Iterable[Sequence[str]]) -> Iterator[int]:
    return itertools.accumulate(len(form) for form in forms)


# --- unigram --------------------------------------------------------------------------------------------------------


def _words(texts: Iterable[str], pipeline: Pipeline) -> dict[str, int]:
    """How often each of the most frequent words occurs, up to `CHARACTERS_READ`."""
    assert pipeline.normalizer is not None, "the pipeline of unigram has one"
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(pipeline.normalizer.normalize_str(text).split())
    ranked = sorted(counts)
    ranked.sort(key=counts.__getitem__, reverse=True)
    lengths = itertools.accumulate(len(word) for word in ranked)
    number = sum(1 for _ in itertools.takewhile(lambda length: length <= CHARACTERS_READ, lengths))
    return {f"▁{word}": counts[word] for word in ranked[: max(1, number)]}


def _weighted_letters(words: Mapping[str, int]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            counts[letter] += count
    return counts


def _seeds(
    vocabulary: Vocabulary, words: Mapping[str, int], letters: Sequence[str], size: int, pipeline: Pipeline
) -> list[str]:
    """Pieces of two letters and more to choose from, about from the most frequent on."""
    trainer = trainers.BpeTrainer(
        vocab_size=len(letters) + size,
        min_frequency=vocabulary.min_frequency,
        initial_alphabet=list(letters),
        limit_alphabet=len(letters),
        max_token_length=LONGEST_PIECE,
        show_progress=False,
    )
    learner = pipeline.around(models.BPE())
    learner.train_from_iterator(_repeated(words), trainer)
    learned = learner.get_vocab()
    return [piece for piece in sorted(learned, key=learned.__getitem__) if len(piece) > 1]


def _repeated(words: Mapping[str, int]) -> Iterator[str]:
    """Texts in which each word occurs as often as it did, since a trainer takes no counts."""
    for word, count in words.items():
        for start in range(0, count, 1000):
            yield " ".join([word[1:]] * min(1000, count - start))


def _fit_unigram(
    pieces: list[str], letters: Sequence[str], words: Mapping[str, int], room: int, min_frequency: int
) -> dict[str, float]:
    """Log probabilities of the letters and of as many pieces as there is room for."""
    # Frequencies fall about as one over the rank (Zipf), which is enough to start from.
    ranked = [*pieces, *letters]
    total = math.log(len(ranked)) + 1
    scores = {piece: -math.log((rank + 1) * total) for rank, piece in enumerate(ranked)}
    spelled, frequencies = list(words), np.fromiter(words.values(), np.float64, len(words))
    while True:
        for _ in range(2):
            counts = _cut_counts(scores, spelled, frequencies)
            scores = _scored(counts, min_frequency)
        if len(scores) - len(letters) <= room:
            return scores
        scores = _pruned(scores, counts, room)


def _cut_counts(scores: Mapping[str, float], words: list[str], frequencies: np.ndarray) -> dict[str, float]:
    """How often each piece occurs when every word is cut in its likeliest way."""
    cutter = Tokenizer(models.Unigram([("", 0.0), *scores.items()], unk_id=0))
    counts = np.zeros(len(scores) + 1)
    for start in range(0, len(words), 10_000):
        batch = slice(start, start + 10_000)
        ids = [encoding.ids for encoding in cutter.encode_batch_fast(words[batch])]
        weights = np.repeat(frequencies[batch], [len(row) for row in ids])
        counts += np.bincount(np.concatenate(ids).astype(np.int64), weights, minlength=len(counts))
    return dict(zip(scores, counts[1:].tolist(), strict=True))


def _scored(counts: Mapping[str, float], min_frequency: int) -> dict[str, float]:
    """Log probabilities of what occurs often enough, and of every letter, lest a word becomes unknown."""
    kept = {piece: count for piece, count in counts.items() if len(piece) == 1 or count >= min_frequency}
    total = sum(kept.values()) + 0.5 * len(kept)
    return {piece: math.log((count + 0.5) / total) for piece, count in kept.items()}


def _pruned(scores: Mapping[str, float], counts: Mapping[str, float], room: int) -> dict[str, float]:
    """Without the pieces that the likelihood loses least by."""
    long = [piece for piece in scores if len(piece) > 1]
    losses = {piece: counts[piece] * (scores[piece] - _score_without(piece, scores)) for piece in long}
    ranked = sorted(long, key=lambda piece: (-losses[piece], piece))
    kept = set(ranked[: max(room, int(KEPT * len(ranked)))])
    return {piece: score for piece, score in scores.items() if len(piece) == 1 or piece in kept}


def _score_without(piece: str, scores: Mapping[str, float]) -> float:
    """Log probability of a piece's letters in their likeliest cut into smaller pieces."""
    best = [0.0] + [-math.inf] * len(piece)
    for end in range(1, len(piece) + 1):
        for start in range(end == len(piece), end):
            best[end] = max(best[end], best[start] + scores.get(piece[start:end], -math.inf))
    return best[-1]
