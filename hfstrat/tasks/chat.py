"""Conversations as text, and which characters of it a model is to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hfstrat.tasks.base import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWERER = "assistant"
PLAIN = (
    "{%- for message in messages %}"
    "{{- message['role'] + ': ' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + (eos_token or '') }}{% endgeneration %}"
    "{%- else %}{{- message['content'] }}{%- endif %}"
    "{{- '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}"
)
"""A template for tokenizers that bring none: a line for each message, an answer's with the end token."""


def with_template(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, with a plain template where it has none."""
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN
    return tokenizer


def messages_in(cell: Any) -> list[Message]:
    """The messages in a cell.

    Args:
        cell: A list of `{"role": …, "content": …}`, or of `{"from": …, "value": …}` as ShareGPT has them.

    Raises:
        ValueError: It is written in another way, or there is no answer in it.
    """
    if not isinstance(cell, (list, tuple)) or not cell:
        raise ValueError("a conversation is no list of messages")
    found: list[Message] = [_message(one) for one in cell]
    if not any(one["role"] == ANSWERER for one in found):
        raise ValueError("a conversation has no message of the assistant")
    return found


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
    return _rendered(tokenizer, messages[: last + 1], generate=True)


def conversation(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
    """A conversation as its template writes it, and the stretches of characters that the assistant wrote.

    What is learned is what the model will have to write: the answer, and what the template ends it with. Some templates
    write an answer differently when others follow it (Qwen3's leave its thoughts out): of such a one its own words are
    learned, and the end token.

    Args:
        tokenizer: Its template is used.
        messages: The conversation.

    Raises:
        ValueError: The template changes what is said, so that no part of it is the answer; or fails.
    """
    whole = _rendered(tokenizer, messages)
    spans = []
    for place, message in enumerate(messages):
        if message["role"] != ANSWERER:
            continue
        before = _rendered(tokenizer, messages[:place], generate=True) if place else _opening(tokenizer, messages)
        through = _rendered(tokenizer, messages[: place + 1])
        if whole.startswith(through) and through.startswith(before):
            # Nobody waits for the line breaks after an answer's end.
            spans.append((len(before), len(through.rstrip("\n"))))
        else:
            spans.append(_found(tokenizer, messages, place, whole))
    return whole, spans


def _found(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], place: int, whole: str) -> tuple[int, int]:
    """Where an answer stands in a conversation: where another one would stand in its place."""
    other = [*messages[:place], {**messages[place], "content": _OTHER}, *messages[place + 1 :]]
    start = _rendered(tokenizer, other).find(_OTHER)
    content = str(messages[place]["content"])
    text = content if start >= 0 and whole.startswith(content, start) else content.strip()
    if start < 0 or not whole.startswith(text, start):
        raise ValueError("the chat template changes what the assistant said")
    end, mark = start + len(text), tokenizer.eos_token or ""
    return start, end + len(mark) if mark and whole.startswith(mark, end) else end


def _opening(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """What stands before an answer that opens the conversation: nothing that can be told apart from it."""
    through = _rendered(tokenizer, messages[:1])
    return through[: max(0, through.find(messages[0]["content"]))]


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generate: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            [dict(one) for one in messages], tokenize=False, add_generation_prompt=generate
        )
    except TemplateError as error:
        raise ValueError(f"the chat template refuses it: {error}") from error
    return str(text)
