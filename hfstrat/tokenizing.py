"""A text is tokenised once: what a tokenizer made of a split is kept, for this run and for others.

Tokens that were kept are read from a file that is mapped into memory, so their number does not show in what the process
holds. Whatever cannot be kept is tokenised again: a cache is no reason for a run to fail.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from hfstrat.errors import DataError, Problem
from hfstrat.runs import store
from hfstrat.runs.events import Observer
from hfstrat.tasks import TextsSpec
from hfstrat.tasks.base import Encoded, Examples, IntArray, Ragged, TextStream
from hfstrat.tasks.language import LanguageSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1  # of what is kept, and of how texts are encoded: to be raised when either changes
AT_ONCE, CHARACTERS = 1000, 4_000_000  # parts of a stream that are tokenised together, at most
FEWEST = 2000  # examples; fewer are tokenised sooner than a file is looked up, verified and read


def tokenized(task: TextsSpec, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int) -> Encoded:
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


def streamed(
    task: LanguageSpec,
    tokenizer: PreTrainedTokenizerBase,
    stream: TextStream,
    max_length: int,
    most: int | None,
    observer: Observer,
) -> Encoded:
    """Tokens of text that is too much for memory, written to the cache once and mapped from there.

    Args:
        task: What is learned.
        tokenizer: The model's tokenizer.
        stream: The text.
        max_length: Tokens of a window, special tokens included.
        most: Tokens after which reading stops; None for all of it.
        observer: Hears how far it is.

    Raises:
        DataError: The text cannot be read, there is nothing to learn, or the disk has no room.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        what = f"{type(tokenizer).__name__} is too slow to stream"
        raise DataError(Problem(what, "model.base", hint="Name a base with a tokenizer.json"))
    before, end = task.marks(tokenizer)
    described = {**_described(tokenizer), "stream": stream.fingerprint, "marks": (before, end), "most": most}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    digest.update(backend.to_str().encode())
    key = digest.hexdigest()
    kept = store.find(key)
    if kept is None:
        dtype = "uint16" if len(tokenizer) <= 2**16 else "int32"
        observer.phase("tokens", most, "tokens")
        try:
            with store.growing(key, "tokens of a stream", dtype) as append:
                count = 0
                for ids in _ids_of(stream, tokenizer, before, end):
                    ids = ids if most is None else ids[: most - count]
                    append(ids)
                    count += len(ids)
                    observer.advance(len(ids))
                    if count == most:
                        break
        except OSError as error:
            hint = f"{store.HOME} names another folder for what is kept"
            raise DataError(Problem(f"the tokens cannot be written: {error}", "data.streaming", hint=hint)) from error
        kept = store.find(key)
        if kept is None:
            raise DataError(Problem(f"{store.LIMIT} leaves no room for the tokens", "data.streaming", hint="Raise it"))
    return task.of_stream(tokenizer, kept, max_length)


def _ids_of(
    stream: TextStream, tokenizer: PreTrainedTokenizerBase, before: list[int], end: list[int]
) -> Iterator[IntArray]:
    """Tokens of a stream, with what begins and ends each document, as many at a time as memory stays small by."""
    held: list[tuple[str, bool]] = []
    size, begins = 0, True
    for part in stream.parts():
        held.append(part)
        size += len(part[0])
        if size >= CHARACTERS or len(held) >= AT_ONCE:
            found, begins = _ids_of_parts(held, tokenizer, before, end, begins)
            yield found
            held, size = [], 0
    if held:
        yield _ids_of_parts(held, tokenizer, before, end, begins)[0]


def _ids_of_parts(
    parts: list[tuple[str, bool]],
    tokenizer: PreTrainedTokenizerBase,
    before: list[int],
    end: list[int],
    begins: bool,
) -> tuple[IntArray, bool]:
    texts = [text for text, _ in parts]
    # Without the characters that tokens are of, which nobody asks for here: twice as fast.
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    found: list[IntArray] = []
    for encoding, (_, ends) in zip(encodings, parts, strict=True):
        ids = np.array(encoding.ids, dtype=np.int64)
        found += [np.array(before if begins else [], np.int64), ids, np.array(end if ends else [], np.int64)]
        begins = ends
    return np.concatenate(found), begins


def _kept(key: str, what: str, packed: IntArray) -> store.Array | None:
    """An array as the cache has it, once it is there; None where there is no room."""
    if packed.nbytes > store.room():
        return None
    with store.begun(key, what, packed.shape, str(packed.dtype)) as file:
        store.opened(file, packed.shape, str(packed.dtype))[:] = packed
    return store.find(key)


def _key(task: TextsSpec, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int) -> str:
    """A name that says all that the tokens depend on."""
    described = {
        **_described(tokenizer),
        "task": task.kind,
        "encoding": {name: getattr(task, name) for name in task.encoding},
        "max_length": max_length,
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for texts in (examples.texts, examples.pairs or ()):
        digest.update(f"{len(texts)}".encode())
        for text in texts:
            raw = text.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def _described(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What is particular to a tokenizer beside its algorithm."""
    # What the last call asked for stays in it, and is no part of what it is.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return {
        "format": FORMAT,
        "class": f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}",
        "whole_special_tokens": not getattr(tokenizer, "split_special_tokens", False),
        "pad": (tokenizer.pad_token_id, tokenizer.pad_token_type_id),
        "inputs": tokenizer.model_input_names,
        "special": tokenizer.special_tokens_map,
        "sides": (tokenizer.padding_side, tokenizer.truncation_side),
        "versions": {name: version(name) for name in ("transformers", "tokenizers")},
    }


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
