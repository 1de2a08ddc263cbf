"""Tiny models and a tiny data set, made on the fly: tests need neither a download nor a fixture file.

A tiny base is a folder as the Hub would give it: a bare backbone in safetensors, its configuration and a trained
tokenizer, or what prepares images or sound for it. Weights and tokenizer depend on the arguments only, so two builds
are equal byte for byte.

    folder = tiny.base("bert", tmp_path / "bert", num_hidden_layers=3)
    rows = tiny.reviews(200, seed=1, classes=3)
    path = tiny.write_csv(tmp_path / "reviews.csv", rows)
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCAB_SIZE = 320
MAX_POSITIONS = 128

SHARED_TEXT = (
    "the film was a story about people and their house in city with music it had many scenes we saw this last week "
    "at home one of those where nothing much happens until end then everything does for two hours"
)
"""Its words belong to no class."""

CLASS_WORDS = {
    "negative": ["awful", "boring", "dull", "terrible", "waste", "weak", "poor", "worst"],
    "positive": ["great", "lovely", "superb", "moving", "brilliant", "fresh", "best", "warm"],
    "neutral": ["average", "plain", "usual", "ordinary", "middling", "fine", "common", "okay"],
    "funny": ["hilarious", "witty", "comic", "joke", "laugh", "silly", "absurd", "grin"],
    "scary": ["ghost", "blood", "scream", "haunted", "creepy", "shadow", "monster", "dread"],
}
"""The words that give a class away, by class."""


# --- data ---------------------------------------------------------------------------------------------------------


def reviews(n: int, seed: int = 0, classes: int = 2) -> list[dict[str, str]]:
    """Rows of `text` and `label`, balanced, of varying length, learnable but not trivially so.

    A text has two or three words of its class among shared words, and one time in four a word of another class.

    Args:
        n: Rows.
        seed: Two calls with equal arguments give equal rows.
        classes: How many of `CLASS_WORDS`, two to five.
    """
    names = list(CLASS_WORDS)[:classes]
    if not 2 <= classes == len(names):
        raise ValueError(f"classes is {classes} and has to be between 2 and {len(CLASS_WORDS)}")
    rng = random.Random(f"reviews {seed} {classes}")
    rows = [_review(rng, names[i % classes], names) for i in range(n)]
    rng.shuffle(rows)
    return rows


def _review(rng: random.Random, label: str, names: list[str]) -> dict[str, str]:
    own = rng.randint(2, 3)
    words = rng.choices(SHARED_TEXT.split(), k=rng.randint(3, 14)) + rng.choices(CLASS_WORDS[label], k=own)
    if rng.random() < 0.25:
        words.append(rng.choice(CLASS_WORDS[rng.choice([name for name in names if name != label])]))
    rng.shuffle(words)
    return {"text": " ".join(words), "label": label}


def write_csv(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows with the columns of the first one, and give the path back."""
    rows = list(rows)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


# --- models -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """What is particular to one architecture.

    Attributes:
        tokens: The special tokens in the order of their ids, by their name in Transformers.
        train: Trains the tokenizer on the corpus.
        single, pair: Templates of one text and of a pair of texts, for `TemplateProcessing`; empty: as they are.
        config: Configuration fields besides the vocabulary and the ids of the special tokens.
        has_pooler: Whether the backbone takes `add_pooling_layer`.
    """

    tokens: dict[str, str]
    train: Callable[[list[str]], Tokenizer]
    single: str
    pair: str
    config: dict[str, Any]
    has_pooler: bool = False


@dataclass(frozen=True)
class Sensory:
    """What is particular to one architecture that sees or hears.

    Attributes:
        processor: Class that prepares its input, by its name in Transformers.
        options: How it does that.
        config: Configuration fields.
        has_pooler: Whether the backbone takes `add_pooling_layer`.
    """

    processor: str
    options: dict[str, Any]
    config: dict[str, Any]
    has_pooler: bool = False


def base(
    family: str,
    folder: Path | str,
    *,
    seed: int = 0,
    pooler: bool = True,
    sentence_transformers: str | None = None,
    normalize: bool = False,
    whole_words: bool = False,
    **config: Any,
) -> Path:
    """Make a tiny random base model with its tokenizer or processor, and give its folder back.

    Args:
        family: One of `ALL`, `SEEING` or `HEARING`, or of `DETECTORS`, which come with the heads of a detector.
        folder: Where to; it is made when missing.
        seed: Seeds the weights; torch's own random state stays as it was.
        pooler: Whether the weights have BERT's pooler (bert, roberta, albert and vit only).
        sentence_transformers: `mean` or `cls` adds the module files of a sentence-transformers checkpoint.
        normalize: Whether those list a Normalize module.
        whole_words: A vocabulary of letters and words of the corpus, which is the same in each process; the trainer of
            WordPiece orders what is equally frequent by chance (bert and distilbert only).
        **config: Fields of the configuration that shall differ, such as `num_hidden_layers=4`.
    """
    import torch
    import transformers
    from transformers import AutoConfig, AutoModel, AutoModelForObjectDetection

    spec = {**ALL, **SEEING, **HEARING, **DETECTORS}[family]
    folder = Path(folder)
    if isinstance(spec, Family):
        processor = _tokenizer(replace(spec, train=_words) if whole_words else spec)
        fields = {"vocab_size": len(processor), **_token_ids(family, processor), **spec.config, **config}
    else:
        processor = getattr(transformers, spec.processor)(**spec.options)
        fields = {**spec.config, **config}
    options = {"add_pooling_layer": pooler} if spec.has_pooler else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        auto = AutoModelForObjectDetection if family in DETECTORS else AutoModel
        model = auto.from_config(AutoConfig.for_model(family, **fields), **options)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if sentence_transformers is not None:
        _write_modules(folder, model.config.hidden_size, sentence_transformers, normalize)
    return folder


def _tokenizer(spec: Family) -> Any:
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = spec.train(list(dict.fromkeys(spec.tokens.values())))
    if spec.single:
        special = [(token, backend.token_to_id(token)) for token in spec.tokens.values() if token in spec.pair]
        backend.post_processor = TemplateProcessing(single=spec.single, pair=spec.pair, special_tokens=special)
    names = ["input_ids", *(["token_type_ids"] if ":1" in spec.pair else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=MAX_POSITIONS, model_input_names=names, **spec.tokens
    )


def _token_ids(family: str, tokenizer: Any) -> dict[str, int | None]:
    ids = {"pad_token_id": tokenizer.pad_token_id}
    if tokenizer.cls_token_id is None or tokenizer.bos_token_id is not None:
        ids |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    elif family == "modernbert":
        cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        ids |= {"cls_token_id": cls, "sep_token_id": sep, "bos_token_id": cls, "eos_token_id": sep}
    return ids


def _corpus() -> list[str]:
    return [row["text"] for row in reviews(400, seed=0, classes=len(CLASS_WORDS))]


def _word_piece(special: list[str]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    # The alphabet beside the corpus' letters, so that no common text is all [UNK].
    alphabet = list("abcdefghijklmnopqrstuvwxyz0123456789.,!?'-")
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _words(special: list[str]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
    words = sorted({word for text in _corpus() for word in text.lower().split() if len(word) > 1})
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *words]
    tokenizer = Tokenizer(models.WordPiece({piece: place for place, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _byte_pairs(special: list[str]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _write_modules(folder: Path, width: int, pooling: str, normalize: bool) -> None:
    names = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * normalize
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (path, name) in enumerate(names)
    ]
    modes = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": "mean_sqrt_len"}
    if pooling not in modes.values():
        raise ValueError(f"sentence_transformers is '{pooling}' and has to be one of {sorted(modes.values())}")
    flags = {f"pooling_mode_{key}": mode == pooling for key, mode in modes.items()}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    if normalize:
        (folder / "2_Normalize").mkdir(exist_ok=True)
    _write_json(folder / "modules.json", modules)
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **flags})
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_POSITIONS, "do_lower_case": False})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


BERT_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
END_OF_TEXT = "<|endoftext|>"

ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
}

FAMILIES = {
    "bert": Family(
        tokens=BERT_TOKENS,
        train=_word_piece,
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        config=ENCODER,
        has_pooler=True,
    ),
    "distilbert": Family(
        tokens=BERT_TOKENS,
        train=_word_piece,
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        config={"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "max_position_embeddings": MAX_POSITIONS},
    ),
    "roberta": Family(
        tokens=ROBERTA_TOKENS,
        train=_byte_pairs,
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        # Positions start after the padding id, 1, so two more are needed; and there is one token type only.
        config={**ENCODER, "max_position_embeddings": MAX_POSITIONS + 2, "type_vocab_size": 1},
        has_pooler=True,
    ),
    "modernbert": Family(
        tokens=BERT_TOKENS,
        train=_byte_pairs,
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        # Three layers: one with global and two with local attention, whose window is shorter than a long text.
        config={**ENCODER, "num_hidden_layers": 3, "global_attn_every_n_layers": 3, "local_attention": 16},
    ),
    "gpt2": Family(
        tokens={"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT},
        train=_byte_pairs,
        single="",
        pair="",
        config={"n_embd": 32, "n_inner": 64, "n_layer": 2, "n_head": 2, "n_positions": MAX_POSITIONS},
    ),
    "llama": Family(
        tokens={"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
        train=_byte_pairs,
        single="<s> $A",
        pair="<s> $A <s> $B",
        config={**ENCODER, "num_key_value_heads": 1},
    ),
}
"""Text families that much is tested with."""

MORE_TEXT = {
    "deberta-v2": Family(
        tokens=BERT_TOKENS,
        train=_word_piece,
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        # As the third version has it: relative positions only, their embeddings normalised and shared by all layers.
        config={
            **ENCODER,
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "pooler_hidden_size": 32,
        },
    ),
    "electra": Family(
        tokens=BERT_TOKENS,
        train=_word_piece,
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        config={**ENCODER, "embedding_size": 16},
    ),
    "albert": Family(
        tokens=BERT_TOKENS,
        train=_word_piece,
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        # One block that runs twice.
        config={**ENCODER, "embedding_size": 16},
        has_pooler=True,
    ),
    "qwen3": Family(
        tokens={"pad_token": END_OF_TEXT, "eos_token": "<|im_end|>"},
        train=_byte_pairs,
        single="",
        pair="",
        config={**ENCODER, "num_key_value_heads": 1, "head_dim": 16},
    ),
    "t5": Family(
        tokens={"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        train=_byte_pairs,
        single="$A </s>",
        pair="$A </s> $B </s>",
        config={
            "d_model": 32,
            "d_kv": 16,
            "d_ff": 64,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "num_heads": 2,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 32,
            "decoder_start_token_id": 0,
        },
    ),
    "bart": Family(
        tokens=ROBERTA_TOKENS,
        train=_byte_pairs,
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        config={
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "max_position_embeddings": MAX_POSITIONS,
        },
    ),
}
"""Text families for tests of what differs between architectures."""

IMAGE_SIZE = 32
IMAGE = {"size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}

OTHERS = {
    "vit": Sensory(
        processor="ViTImageProcessorPil",
        options=IMAGE,
        config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": IMAGE_SIZE,
            "patch_size": 8,
        },
        has_pooler=True,
    ),
    # Two stages; ResNet's second has two layers.
    "resnet": Sensory(
        processor="ConvNextImageProcessorPil",
        options={"size": {"shortest_edge": IMAGE_SIZE}},
        config={"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "basic"},
    ),
    "convnext": Sensory(
        processor="ConvNextImageProcessorPil",
        options={"size": {"shortest_edge": IMAGE_SIZE}},
        config={"num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 2], "image_size": IMAGE_SIZE},
    ),
    "wav2vec2": Sensory(
        processor="Wav2Vec2FeatureExtractor",
        options={"sampling_rate": 16_000, "return_attention_mask": False},
        # One vector for each 80 samples.
        config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "conv_dim": [16, 16, 16],
            "conv_stride": [5, 4, 4],
            "conv_kernel": [10, 4, 4],
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
            "classifier_proj_size": 32,
        },
    ),
}
"""Families that see or hear."""

WAVE = OTHERS["wav2vec2"].config
SEEING = {
    "dinov2": Sensory(
        processor="ViTImageProcessorPil",
        options=IMAGE,
        config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "mlp_ratio": 2,
            "image_size": IMAGE_SIZE,
            "patch_size": 8,
        },
    ),
}
"""Families that a recipe which is shipped is of."""

HEARING = {
    # Padding is told by a mask.
    "hubert": Sensory(
        processor="Wav2Vec2FeatureExtractor",
        options={"sampling_rate": 16_000, "return_attention_mask": True},
        config={**WAVE, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
    ),
    # As it is published: its processor makes a mask that the model was not trained with.
    "wavlm": Sensory(
        processor="Wav2Vec2FeatureExtractor",
        options={"sampling_rate": 16_000, "return_attention_mask": True, "do_normalize": False},
        config=WAVE,
    ),
    # Spectrograms of 0.4 seconds, and of one.
    "audio-spectrogram-transformer": Sensory(
        processor="ASTFeatureExtractor",
        options={"num_mel_bins": 16, "max_length": 40},
        config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 8,
            "frequency_stride": 8,
            "time_stride": 8,
            "max_length": 40,
            "num_mel_bins": 16,
        },
    ),
    "whisper": Sensory(
        processor="WhisperFeatureExtractor",
        options={"feature_size": 16, "chunk_length": 1},
        config={
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_layers": 1,
            "decoder_attention_heads": 2,
            "decoder_ffn_dim": 64,
            "num_mel_bins": 16,
            "max_source_positions": 50,
            "max_target_positions": 16,
            "vocab_size": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
            "classifier_proj_size": 32,
        },
    ),
}
"""More families that hear, for what is particular to sounds."""

ALL: dict[str, Family | Sensory] = {**FAMILIES, **MORE_TEXT, **OTHERS}
"""The families that everything is tested with."""

_RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage4"],
}
_DETR = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": _RESNET,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_queries": 10,
    "num_labels": 5,
}
RT_DETR: dict[str, Any] = {
    "backbone_config": {
        **_RESNET,
        "model_type": "rt_detr_resnet",
        "out_features": ["stage2", "stage3", "stage4"],
    },
    "d_model": 32,
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [16, 24, 32],
    "encoder_ffn_dim": 64,
    "encoder_attention_heads": 2,
    "hidden_expansion": 0.5,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 64,
    "decoder_attention_heads": 2,
    "decoder_layers": 2,
    "encoder_layers": 1,
    "num_queries": 20,
    "num_denoising": 10,
    "num_labels": 5,
}
"""A shape of 150 k parameters that learns quickly."""

DETECTORS = {
    "rt_detr": Sensory(
        processor="RTDetrImageProcessorPil",
        options={"size": {"height": 64, "width": 64}},
        config=RT_DETR,
    ),
    "rt_detr_v2": Sensory(
        processor="RTDetrImageProcessorPil",
        options={"size": {"height": 64, "width": 64}},
        config=RT_DETR,
    ),
    "detr": Sensory(
        processor="DetrImageProcessorPil",
        options={"size": {"shortest_edge": 64, "longest_edge": 100}},
        config=_DETR,
    ),
    "conditional_detr": Sensory(
        processor="ConditionalDetrImageProcessorPil",
        options={"size": {"shortest_edge": 64, "longest_edge": 100}},
        config=_DETR,
    ),
    "deformable_detr": Sensory(
        processor="DeformableDetrImageProcessorPil",
        options={"size": {"shortest_edge": 64, "longest_edge": 100}},
        config={
            **_DETR,
            "num_feature_levels": 3,
            "backbone_config": {**_RESNET, "out_features": ["stage2", "stage3", "stage4"]},
        },
    ),
    "yolos": Sensory(
        processor="YolosImageProcessorPil",
        options={"size": {"shortest_edge": 64, "longest_edge": 100}},
        config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [64, 64],
            "patch_size": 16,
            "num_detection_tokens": 10,
            "num_labels": 5,
        },
    ),
}
"""Families that find boxes."""
