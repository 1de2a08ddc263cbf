"""Conversations as text, and which characters of it a model is to write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from hfstrat.tasks.base import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWERER = "assistant"
PLAIN = (
    "{{- bos_token or '' }}"
    "{%- for message in messages %}"
    "{{- message['role'] + ':\\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + (eos_token or '') }}{% endgeneration %}"
    "{%- else %}{{- message['content'] }}{%- endif %}"
    "{{- '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'assistant:\\n' }}{%- endif %}"
)
"""A template for tokenizers that bring none; an answer begins on a line of its own, where tokens part anyway."""


def with_template(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, with a plain template where it has none."""
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN
    return tokenizer


def messages_in(cell: Any, *, answered: bool = True) -> list[Message]:
    """The messages in a cell.

    Args:
        cell: A list of `{"role": …, "content": …}`, or of `{"from": …, "value": …}` as ShareGPT has them; or either as
            JSON.
        answered: Whether there has to be an answer.

    Raises:
        ValueError: It is written in another way, or there is no answer in it.
    """
    if isinstance(cell, str):
        with suppress(ValueError):
            cell = json.loads(cell)
    if not isinstance(cell, (list, tuple)) or not cell:
        raise ValueError("a conversation is no list of messages")
    found: list[Message] = [_message(one) for one in cell]
    if answered and not any(one["role"] == ANSWERER for one in found):
        raise ValueError("a conversation has no message of the assistant")
    return found


# Some templates write the day into what they are asked; it would change while a run is interrupted.
_FIXED: dict[str, Any] = {
    "date_string": "26 Jul 2024",
    "strftime_now": lambda form: datetime(2024, 7, 26).strftime(form),
}
_OTHER = "\ue000other\ue000"  # private characters, which nobody says
_ROLES = {"human": "user", "gpt": ANSWERER, "bot": ANSWERER, "model": ANSWERER}


def _message(given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise ValueError("a message is no object")
    role, content = given.get("role", given.get("from")), given.get("content", given.get("value"))
    if not isinstance(role, str) or not isinstance(content, str):
        raise ValueError("a message has no role or no content that is text")
    if not content.strip() and _ROLES.get(role, role) == ANSWERER:
        raise ValueError("a message of the assistant is empty")
    return {"role": _ROLES.get(role, role), "content": content}


def asked(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """A conversation up to where the next answer begins.

    Args:
        tokenizer: Its template is used.
        messages: The conversation; answers that it ends with are left out.
    """
    last = max((place for place, one in enumerate(messages) if one["role"] != ANSWERER), default=-1)
    before = [*messages[: last + 1]]
    prompt = _rendered(tokenizer, before, generate=True)
    # Some templates begin each new answer with words of their own, such as Qwen3's with empty thoughts.
    answered = _rendered(tokenizer, [*before, {"role": ANSWERER, "content": _OTHER}])
    start = answered.find(_OTHER)
    return answered[:start] if start >= 0 and answered.startswith(prompt) else prompt


def ending(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a template ends an answer with, without line breaks after it."""
    whole = _rendered(tokenizer, [{"role": "user", "content": "a"}, {"role": ANSWERER, "content": _OTHER}])
    return whole.partition(_OTHER)[2].rstrip("\n")


def conversation(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
    """A conversation as its template writes it, and the stretches of characters that the assistant wrote.

    What is learned is what the model will have to write: the answer's own words, and what the template ends them with.
    What a template puts before an answer, such as Qwen3's empty thoughts, is part of what is asked.

    Args:
        tokenizer: Its template is used.
        messages: The conversation.

    Raises:
        ValueError: The template changes what is said, so that no part of it is the answer; or fails.
    """
    whole, mark = _rendered(tokenizer, messages), ending(tokenizer)
    places = [place for place, message in enumerate(messages) if message["role"] == ANSWERER]
    return whole, [_found(tokenizer, messages, place, whole, mark) for place in places]


def _found(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], place: int, whole: str, mark: str
) -> tuple[int, int]:
    """Where an answer stands in a conversation: where another one would stand in its place."""
    other = [*messages[:place], {**messages[place], "content": _OTHER}, *messages[place + 1 :]]
    start = _rendered(tokenizer, other).find(_OTHER)
    content = str(messages[place]["content"])
    text = content if start >= 0 and whole.startswith(content, start) else content.strip()
    if start < 0 or not whole.startswith(text, start):
        raise ValueError("the chat template changes what the assistant said")
    end = start + len(text)
    return start, end + len(mark) if mark and whole.startswith(mark, end) else end


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generate: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            [dict(one) for one in messages], tokenize=False, add_generation_prompt=generate, **_FIXED
        )
    except TemplateError as error:
        raise ValueError(f"the chat template refuses it: {error}") from error
    return str(text)
