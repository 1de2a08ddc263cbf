"""A text is tokenised once: what a tokenizer made of a split is kept, for this run and for others.

Tokens that were kept are read from a file that is mapped into memory, so their number does not show in what the process
holds. Whatever cannot be kept is tokenised again: a cache is no reason for a run to fail.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from hfstrat.runs import store
from hfstrat.tasks import TaskSpec
from hfstrat.tasks.base import Encoded, Examples, IntArray, Ragged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1  # of what is kept, and of how texts are encoded: to be raised when either changes
FEWEST = 2000  # examples; fewer are tokenised sooner than a file is looked up, verified and read


def tokenized(task: TaskSpec, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int) -> Encoded:
    """A split's tokens, read where they were kept for these very texts, this tokenizer and these settings.

    Args:
        task: Encodes what was not kept.
        tokenizer: The model's tokenizer.
        examples: The split.
        max_length: Tokens of a window, special tokens included.

    Raises:
        DataError: As of `task.encode`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # Where words and answers stand among the tokens is not kept.
    if len(examples) < FEWEST or backend is None or not task.one_output:
        return task.encode(tokenizer, examples, max_length)
    key = _key(task, tokenizer, examples, max_length)
    kept = store.find(key)
    if kept is not None:
        return _unpacked(kept, examples)
    encoded = task.encode(tokenizer, examples, max_length)
    packed = _packed(encoded)
    if packed is not None:
        with suppress(OSError):
            kept = _kept(key, f"tokens of {len(examples):,} texts", packed)
    return encoded if kept is None else _unpacked(kept, examples)


def _kept(key: str, what: str, packed: IntArray) -> store.Array | None:
    """An array as the cache has it, once it is there; None where there is no room."""
    if packed.nbytes > store.room():
        return None
    with store.begun(key, what, packed.shape, str(packed.dtype)) as file:
        store.opened(file, packed.shape, str(packed.dtype))[:] = packed
    return store.find(key)


def _key(task: TaskSpec, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int) -> str:
    """A name that says all that the tokens depend on."""
    backend: Any = tokenizer.backend_tokenizer
    # What the last call asked for stays in it, and is no part of what it is.
    backend.no_truncation()
    backend.no_padding()
    described = {
        "format": FORMAT,
        "task": task.kind,
        "encoding": {name: getattr(task, name) for name in task.encoding},
        "max_length": max_length,
        "class": f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}",
        "whole_special_tokens": not getattr(tokenizer, "split_special_tokens", False),
        "pad": (tokenizer.pad_token_id, tokenizer.pad_token_type_id),
        "inputs": tokenizer.model_input_names,
        "special": tokenizer.special_tokens_map,
        "sides": (tokenizer.padding_side, tokenizer.truncation_side),
        "versions": {name: version(name) for name in ("transformers", "tokenizers")},
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    digest.update(backend.to_str().encode())
    for texts in (examples.texts, examples.pairs or ()):
        digest.update(f"{len(texts)}".encode())
        for text in texts:
            raw = text.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def _packed(encoded: Encoded) -> IntArray | None:
    """All that a tokenizer gives, in one array; None where it is more than that."""
    first, *others = encoded.columns.values()
    if any(not np.array_equal(first.offsets, other.offsets) for other in others):
        return None
    about = {"pad": dict(encoded.pad), "left": encoded.left, "truncated": encoded.truncated}
    header = np.frombuffer(json.dumps(about).encode(), np.uint8)
    sizes = [len(header), len(encoded.windows), len(first.lengths)]
    values = [column.values for column in encoded.columns.values()]
    return np.concatenate([sizes, header, encoded.windows, first.lengths, *values], dtype=np.int32, casting="same_kind")


def _unpacked(packed: store.Array, examples: Examples) -> Encoded:
    ends = np.cumsum([3, *packed[:3]])
    about = json.loads(packed[3 : ends[1]].astype(np.uint8).tobytes())
    windows, lengths = (packed[ends[place] : ends[place + 1]].astype(np.int64) for place in (1, 2))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    tokens = int(offsets[-1])
    starts = {name: int(ends[3]) + place * tokens for place, name in enumerate(about["pad"])}
    return Encoded(
        examples=examples,
        columns={name: Ragged(packed[start : start + tokens], offsets) for name, start in starts.items()},
        windows=windows,
        truncated=about["truncated"],
        pad=about["pad"],
        left=about["left"],
    )
