"""What a tokenizer made of the texts is looked at before a weight is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from hfstrat.data.tokens import audit_tokens
from hfstrat.tasks import CausalLM
from hfstrat.tasks.base import Encoded, Examples
from hfstrat.tasks.text_classification import TextClassification

TASK = TextClassification(kind="text_classification")
UNKNOWN, NOTHING = "☃ ☂", "\u200b\u200b"


@pytest.fixture
def base(tiny_base: Callable[..., Path]) -> tuple[Any, Any]:
    folder = tiny_base("bert")
    return AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)


def encoded(tokenizer: Any, texts: Sequence[str], task: TextClassification = TASK, length: int = 64) -> Encoded:
    ids = tuple(f"x:{place}" for place in range(len(texts)))
    return task.encode(tokenizer, Examples(ids, texts, None, None), length)


def test_ordinary_texts_are_fine(base: tuple[Any, Any]) -> None:
    assert audit_tokens({"train": encoded(base[0], ["the film", "a story"])}, *base) == ([], [])


def test_answers_that_cannot_be_written_are_told(base: tuple[Any, Any]) -> None:
    """A model that learns the unknown token writes nothing, however low its loss."""
    tokenizer, config = base
    tokenizer.eos_token = "[SEP]"
    examples = Examples(("x:0", "x:1"), ["the film", "a story"], ["great", UNKNOWN], None)
    part = CausalLM().encode(tokenizer, examples, 64)
    share = 100 * (part.aims == tokenizer.unk_token_id).mean()
    assert audit_tokens({"train": part}, tokenizer, config) == (
        [],
        [
            f"{share:.2g} % of the tokens to be learned in train are ones that the tokenizer does not know: the "
            "model will never write what they stand for"
        ],
    )


def test_texts_of_which_nothing_is_left(base: tuple[Any, Any]) -> None:
    some = encoded(base[0], ["the film", UNKNOWN, NOTHING])
    assert audit_tokens({"train": some, "test": some}, *base) == (
        [],
        [
            "2 of 3 texts in train have no token that the base's tokenizer knows: x:1, x:2",
            "2 of 3 texts in test have no token that the base's tokenizer knows: x:1, x:2",
        ],
    )
    none = encoded(base[0], [UNKNOWN, NOTHING])
    (problem,), warnings = audit_tokens({"train": none}, *base)
    assert problem.path == "data.columns.text"
    assert problem.message == "no text of train has a token that the base's tokenizer knows"
    assert warnings == []


def test_windows_count_together(base: tuple[Any, Any]) -> None:
    windows = TASK.model_copy(update={"long_texts": "windows", "stride": 0})
    long = encoded(base[0], ["☃ " * 20 + "film", "the film " * 20, "☃ " * 30], windows, 8)
    assert len(long.columns["input_ids"].lengths) > 3
    _, warnings = audit_tokens({"train": long}, *base)
    assert warnings == ["1 of 3 texts in train have no token that the base's tokenizer knows: x:2"]


def test_a_text_of_no_token_at_all(base: tuple[Any, Any]) -> None:
    tokenizer, config = base
    tokenizer.backend_tokenizer.post_processor = None
    (problem,), _ = audit_tokens({"test": encoded(tokenizer, ["the film", NOTHING])}, tokenizer, config)
    assert problem.message == "texts of test become no token at all: x:1"


def test_ids_beyond_the_model(base: tuple[Any, Any]) -> None:
    tokenizer, config = base
    part = encoded(tokenizer, ["the film"])
    largest = int(part.columns["input_ids"].values.max())
    config.vocab_size = largest + 1
    assert audit_tokens({"train": part}, tokenizer, config) == ([], [])
    config.vocab_size = largest
    (problem,), _ = audit_tokens({"train": part}, tokenizer, config)
    assert problem.path == "model.base"
    assert f"ids up to {largest}, and the model has {largest} embeddings" in problem.message
