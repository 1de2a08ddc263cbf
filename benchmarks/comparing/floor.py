"""The least that training takes: the floating-point operations that cannot be left out, at a matrix product's rate."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from comparing.material import texts

LONGEST = 512


@dataclass(frozen=True)
class Work:
    """One forward pass over a split.

    Args:
        matrices: Operations of the products with weights: two for each weight and token.
        attention: Those of queries with keys and of weights with values, four times the width for each pair of tokens.
        adapters: Those of low-rank adapters on all linear layers of the blocks.
    """

    matrices: float
    attention: float
    adapters: float = 0.0


def forward(base: Path, data: Path, split: str, rank: int = 0) -> Work:
    """What a forward pass costs, without padding.

    Args:
        base: Folder of a BERT encoder and its tokenizer.
        data: The rows.
        split: Which of them.
        rank: Rank of the adapters; 0: there are none.
    """
    config = json.loads((base / "config.json").read_text("utf-8"))
    layers, width, inner = (config[name] for name in ("num_hidden_layers", "hidden_size", "intermediate_size"))
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    lengths = np.array([len(row.ids) for row in tokenizer.encode_batch(texts(data, split))], dtype=np.float64)
    weights = layers * (4 * width**2 + 2 * width * inner)
    low_rank = layers * rank * (4 * 2 * width + 2 * (width + inner))
    tokens = float(lengths.sum())
    return Work(2 * weights * tokens, 4 * width * layers * float((lengths**2).sum()), 2 * low_rank * tokens)


def flops(kind: str, base: Path, data: Path, epochs: float, rank: int) -> tuple[float, float]:
    """Operations of solving the head on frozen features, and of the updates after it.

    A backward pass makes two products for each one of the forward pass: the gradients of its input and of its weight.
    Frozen weights need the first alone. The solver's and the optimiser's own operations are left out.

    Args:
        kind: full or lora.
        base: Folder of the encoder.
        data: The rows.
        epochs: Passes over them.
        rank: Rank of the adapters.
    """
    features = [forward(base, data, split) for split in ("train", "validation")]
    solve = sum(work.matrices + work.attention for work in features)
    work = forward(base, data, "train", rank if kind == "lora" else 0)
    products = 2 if kind == "lora" else 3
    return solve, epochs * (products * work.matrices + 3 * work.attention + 3 * work.adapters)
