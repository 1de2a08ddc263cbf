"""What is estimated and trained: random models of many architectures on made-up data, and every strategy.

Models are small and not tiny, so that memory and time are those of their tensors; nothing is downloaded.
"""

from __future__ import annotations

import csv
import random
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORDS = 8_000
WIDTH, BLOCKS, HEADS, INNER, POSITIONS = 192, 4, 4, 768, 256
CLASSES = ("first", "second", "third")
RATE = 16_000
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
STRATEGIES: dict[str, dict[str, Any]] = {
    "scratch": {"kind": "scratch"},
    "head": {"kind": "head"},
    "partial": {"kind": "partial", "last_n": 2},
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "r": 8},
    "qlora": {"kind": "qlora", "r": 8},
    "ia3": {"kind": "peft", "method": "IA3"},
    "distill": {"kind": "distill"},  # from the run of `full`, which is trained before
}


@dataclass(frozen=True)
class Shape:
    """How large batches are.

    Args:
        batch: Examples of an update.
        rows: Examples in all, of which a part is held out.
        words: Fewest and most words of a text.
        target: Words of a text that is written.
        pixels: Height and width of a picture.
        seconds: Shortest and longest sound.
    """

    batch: int
    rows: int
    words: tuple[int, int]
    target: int
    pixels: int
    seconds: tuple[float, float]


SHAPES = {
    "many short": Shape(16, 160, (8, 24), 8, 64, (0.2, 0.5)),
    "few long": Shape(4, 40, (96, 192), 24, 160, (1.0, 2.0)),
}


@dataclass(frozen=True)
class Family:
    """An architecture, and the task that it is trained for.

    Args:
        task: The recipe's task.
        metric: What is scored.
        auto: Class that makes the model, by its name in Transformers.
        config: Fields of its configuration.
    """

    task: str
    metric: str
    auto: str
    config: dict[str, Any]


ENCODER = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
}
READING = {**ENCODER, "vocab_size": WORDS, "max_position_embeddings": POSITIONS + 2, **IDS}
FAMILIES = {
    "bert": Family("text_classification", "accuracy", "AutoModel", READING),
    "roberta": Family("text_classification", "accuracy", "AutoModel", READING),
    "distilbert": Family(
        "text_classification",
        "accuracy",
        "AutoModel",
        {
            "vocab_size": WORDS,
            "dim": WIDTH,
            "hidden_dim": INNER,
            "n_layers": BLOCKS,
            "n_heads": HEADS,
            "max_position_embeddings": POSITIONS,
            **IDS,
        },
    ),
    # As its third version has it: relative positions only.
    "deberta-v2": Family(
        "text_classification",
        "accuracy",
        "AutoModel",
        {
            **READING,
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_buckets": 64,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "pooler_hidden_size": WIDTH,
        },
    ),
    "modernbert": Family(
        "text_classification",
        "accuracy",
        "AutoModel",
        {**READING, "global_attn_every_n_layers": 2, "local_attention": 32, "cls_token_id": 2, "sep_token_id": 3},
    ),
    "gpt2": Family(
        "causal_lm",
        "perplexity",
        "AutoModelForCausalLM",
        {
            "vocab_size": WORDS,
            "n_embd": WIDTH,
            "n_inner": INNER,
            "n_layer": BLOCKS,
            "n_head": HEADS,
            "n_positions": POSITIONS,
            **IDS,
        },
    ),
    "llama": Family("causal_lm", "perplexity", "AutoModelForCausalLM", {**READING, "num_key_value_heads": 2}),
    "qwen3": Family(
        "text_classification", "accuracy", "AutoModel", {**READING, "num_key_value_heads": 2, "head_dim": 48}
    ),
    "t5": Family(
        "seq2seq",
        "perplexity",
        "AutoModelForSeq2SeqLM",
        {
            "vocab_size": WORDS,
            "d_model": WIDTH,
            "d_kv": WIDTH // HEADS,
            "d_ff": INNER,
            "num_layers": BLOCKS,
            "num_decoder_layers": BLOCKS,
            "num_heads": HEADS,
            "decoder_start_token_id": 0,
            **IDS,
        },
    ),
    "vit": Family("image_classification", "accuracy", "AutoModel", {**ENCODER, "patch_size": 16}),
    "convnext": Family(
        "image_classification", "accuracy", "AutoModel", {"hidden_sizes": [48, 96, 192, 384], "depths": [1, 1, 3, 1]}
    ),
    "wav2vec2": Family(
        "audio_classification",
        "accuracy",
        "AutoModel",
        {
            **ENCODER,
            "conv_dim": [128, 128, 128, 128],
            "conv_stride": [5, 4, 4, 2],
            "conv_kernel": [10, 4, 4, 2],
            "num_conv_pos_embeddings": 32,
            "num_conv_pos_embedding_groups": 4,
            "classifier_proj_size": WIDTH,
            "layerdrop": 0.0,  # or it would be chance which layers are computed
        },
    ),
}


@dataclass(frozen=True)
class Case:
    """A strategy, an architecture and a shape of batch.

    Args:
        family: Name of the architecture.
        strategy: Name of the strategy.
        shape: Name of the shape.
    """

    family: str
    strategy: str
    shape: str

    @property
    def name(self) -> str:
        """Its own, of which a run's directory is called."""
        return f"{self.family}-{self.strategy}-{self.shape.replace(' ', '-')}"

    @property
    def teacher(self) -> Case | None:
        """The case whose run is the teacher; None where there is none."""
        return Case(self.family, "full", self.shape) if self.strategy == "distill" else None

    def recipe(self, folder: Path) -> dict[str, Any]:
        """Its recipe; model and data are made where they are missing.

        Args:
            folder: Where models, data and runs are.
        """
        family, shape = FAMILIES[self.family], SHAPES[self.shape]
        base = made(
            folder / "bases" / f"{self.family}-{shape.pixels}", lambda to: write_base(to, self.family, family, shape)
        )
        data = made(folder / "data" / f"{family.task}-{shape.pixels}", lambda to: WRITERS[family.task](to, shape))
        taught = {"teacher": str(folder / "runs" / self.teacher.name)} if self.teacher else {}
        return {
            "name": self.name,
            "model": {"base": str(base)},
            "task": {"kind": family.task, **({"max_length": POSITIONS} if _reads(family) else {})},
            "data": {"source": f"{data}/rows.csv" if _reads(family) else f"{data}/", "validation": 0.2, "test": 0.2},
            "strategy": {**STRATEGIES[self.strategy], **taught},
            "train": {"epochs": 2, "batch_size": shape.batch, "lr": 1e-3, "threads": 1},
            "evaluate": {"metrics": [family.metric]},
        }


def cases(families: Sequence[str], strategies: Sequence[str], shapes: Sequence[str]) -> list[Case]:
    """All of these, teachers before their students."""
    chosen = [name for name in STRATEGIES if name in strategies]
    return [Case(family, strategy, shape) for strategy in chosen for shape in shapes for family in families]


# --- models and data ---------------------------------------------------------------------------------------------


def made(folder: Path, write: Callable[[Path], None]) -> Path:
    """A folder, written where it is missing, and only there as a whole."""
    if not folder.is_dir():
        under_way = folder.with_name(f".{folder.name}")
        under_way.mkdir(parents=True, exist_ok=True)
        write(under_way)
        under_way.rename(folder)
    return folder


def _reads(family: Family) -> bool:
    return "vocab_size" in family.config


def write_base(folder: Path, model_type: str, family: Family, shape: Shape, positions: int = POSITIONS) -> None:
    """Write a model with random weights, and what makes its inputs.

    Args:
        folder: Where to.
        model_type: Of its configuration.
        family: The other fields of it, and the task.
        shape: The size of pictures.
        positions: Tokens that it reads.
    """
    import torch
    import transformers

    sized = {"image_size": shape.pixels} if family.task == "image_classification" else {}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **family.config, **sized)
    getattr(transformers, family.auto).from_config(config).save_pretrained(folder)
    _processor(family, shape, positions).save_pretrained(folder)


def _processor(family: Family, shape: Shape, positions: int) -> Any:
    import transformers

    if family.task == "image_classification":
        return transformers.ViTImageProcessorPil(size={"height": shape.pixels, "width": shape.pixels})
    if family.task == "audio_classification":
        return transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=False)
    return _tokenizer(positions, ends=family.task == "text_classification", is_read=family.task == "seq2seq")


def _tokenizer(positions: int, *, ends: bool, is_read: bool) -> Any:
    """Each word is a token; texts of encoders begin and end with one of their own, what is read for writing ends so."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = list(dict.fromkeys(SPECIAL.values()))
    pieces = [*special, *_words()][:WORDS]
    backend = Tokenizer(models.WordLevel({piece: place for place, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    around = [(name, pieces.index(name)) for name in ("[CLS]", "[SEP]")]
    if ends or is_read:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]" if ends else "$A [SEP]",
            pair="[CLS] $A [SEP] $B [SEP]" if ends else "$A [SEP] $B [SEP]",
            special_tokens=around,
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=positions, **SPECIAL)


def _words() -> list[str]:
    return [f"word{place}" for place in range(WORDS)]


def _texts(shape: Shape) -> Iterator[str]:
    """Texts whose words are as frequent as words are (Zipf)."""
    draw = random.Random(0)
    words = _words()[: WORDS - len(SPECIAL)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    for _ in range(shape.rows):
        yield " ".join(draw.choices(words, weights, k=draw.randint(*shape.words)))


def _write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_labelled(folder: Path, shape: Shape) -> None:
    rows = [{"text": text, "label": CLASSES[place % len(CLASSES)]} for place, text in enumerate(_texts(shape))]
    _write_rows(folder, rows)


def _write_texts(folder: Path, shape: Shape) -> None:
    _write_rows(folder, [{"text": text} for text in _texts(shape)])


def _write_pairs(folder: Path, shape: Shape) -> None:
    _write_rows(folder, [{"source": text, "target": " ".join(text.split()[: shape.target])} for text in _texts(shape)])


def _write_pictures(folder: Path, shape: Shape) -> None:
    import numpy as np
    from PIL import Image

    for place in range(shape.rows):
        noise = np.random.default_rng(place).integers(0, 256, (shape.pixels, shape.pixels, 3)).astype(np.uint8)
        file = folder / CLASSES[place % len(CLASSES)] / f"{place}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(noise).save(file)


def _write_sounds(folder: Path, shape: Shape) -> None:
    import numpy as np

    for place in range(shape.rows):
        draw = np.random.default_rng(place)
        noise = draw.integers(-8_000, 8_000, int(RATE * draw.uniform(*shape.seconds)))
        path = folder / CLASSES[place % len(CLASSES)] / f"{place}.wav"
        path.parent.mkdir(exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(noise.astype("<i2").tobytes())


WRITERS: dict[str, Callable[[Path, Shape], None]] = {
    "text_classification": _write_labelled,
    "causal_lm": _write_texts,
    "seq2seq": _write_pairs,
    "image_classification": _write_pictures,
    "audio_classification": _write_sounds,
}
