"""Language models at work: prompts are continued, masks are filled in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hfstrat.tasks import CausalLM, MaskedLM
from hfstrat.tasks.base import Encoded, Examples
from hfstrat.tasks.causal_lm import Generation
from hfstrat.tasks.language import LanguageSpec
from hfstrat.training.scoring import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LIKELIEST = 5  # tokens that are told for each mask
AT_ONCE = 8  # prompts that are continued together
SAMPLES, LONGEST = 4, 48  # examples that are shown, and tokens that are written for each


@dataclass(frozen=True)
class Shown:
    """An example, for a person to look at.

    Args:
        given: What the model read.
        true: What follows, or was hidden.
        said: What the model wrote.
    """

    given: str
    true: str
    said: str


def records(
    task: LanguageSpec,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    limit: int | None,
    max_length: int,
) -> Iterator[dict[str, Any]]:
    """What `predict` says of each text: its continuation, or the text with its masks filled in.

    Args:
        task: What the model has learned.
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
        examples: Texts, prompts or conversations.
        limit: Tokens that the model takes at most; None where there is no limit.
        max_length: Tokens of a text with masks that are read.
    """
    if isinstance(task, CausalLM):
        prompts = task.prompts(tokenizer, examples)
        chat = examples.chats is not None
        for text in continued(model, tokenizer, prompts, task.generation, limit, special=not chat):
            yield {"prediction": text}
    else:
        yield from filled(model, tokenizer, examples.texts, max_length)


def continued(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    how: Generation,
    limit: int | None,
    *,
    special: bool = True,
    streamer: Any = None,
) -> Iterator[str]:
    """Continuations of prompts, in their order.

    Args:
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
        prompts: What is continued; of a longer one than the model takes the end is.
        how: How.
        limit: Tokens that the model takes at most; None where there is no limit.
        special: Whether the tokenizer's own first tokens stand before a prompt; a chat template writes them itself.
        streamer: Gets the tokens as they are written, of one prompt at a time.
    """
    at_once = 1 if streamer is not None else AT_ONCE
    device = next(model.parameters()).device
    options: dict[str, Any] = {
        "num_beams": how.num_beams,
        "max_new_tokens": how.max_new_tokens,
        "do_sample": how.temperature > 0,
    }
    if how.temperature > 0:
        options |= {"temperature": how.temperature, "top_p": how.top_p}
    for start in range(0, len(prompts), at_once):
        part = list(prompts[start : start + at_once])
        tokens = _read(tokenizer, part, limit, how.max_new_tokens, special=special)
        inputs = {name: torch.tensor(rows, device=device) for name, rows in tokens.items()}
        with torch.inference_mode():
            written = model.generate(  # type: ignore[operator]
                **inputs, **options, pad_token_id=tokenizer.pad_token_id, streamer=streamer
            )
        yield from tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def _read(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], limit: int | None, new: int, *, special: bool
) -> dict[str, list[list[int]]]:
    """Tokens of prompts, each filled up and cut on the left; an empty prompt begins with what begins a text."""
    rows = tokenizer(prompts, add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    if special and end is not None:
        rows = [row[:-1] if len(row) > 1 and row[-1] == end else row for row in rows]  # a text that is at its end
    first = next(one for one in (tokenizer.bos_token_id, end, tokenizer.pad_token_id) if one is not None)
    rows = [row or [first] for row in rows]
    if limit is not None:
        room = max(1, limit - new)
        rows = [row[-room:] for row in rows]
    width = max(map(len, rows))
    pad = int(tokenizer.pad_token_id or 0)
    return {
        "input_ids": [[pad] * (width - len(row)) + row for row in rows],
        "attention_mask": [[0] * (width - len(row)) + [1] * len(row) for row in rows],
    }


def filled(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> Iterator[dict[str, Any]]:
    """Texts with their masks filled in, `{"prediction": text, "masks": [[{"token", "score"}, …], …]}` each.

    Args:
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
        texts: Texts in which the tokenizer's mask token stands.
        max_length: Tokens that are read of a text.
    """
    device = next(model.parameters()).device
    mask = tokenizer.mask_token_id
    for text in texts:
        tokens = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt").to(device)
        with torch.inference_mode():
            logits = model(**tokens).logits[0]
        places = (tokens["input_ids"][0] == mask).nonzero().squeeze(1)
        best = logits[places].float().softmax(-1).topk(min(LIKELIEST, logits.shape[-1]))
        ids = tokens["input_ids"][0].clone()
        ids[places] = best.indices[:, 0]
        options = [
            [
                {"token": str(tokenizer.decode([one])).strip(), "score": score}
                for one, score in zip(row.tolist(), scores.tolist(), strict=True)
            ]
            for row, scores in zip(best.indices, best.values, strict=True)
        ]
        said = str(text)
        for row in options:
            said = said.replace(tokenizer.mask_token, row[0]["token"], 1)
        yield {"prediction": said, "masks": options}


def gallery(
    task: LanguageSpec,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: Encoded,
    limit: int | None,
) -> list[Shown]:
    """Some examples of a split with what is true and what the model writes, the likeliest token each time.

    Args:
        task: What the model has learned.
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
        data: The split.
        limit: Tokens that the model takes at most; None where there is no limit.
    """
    rows = range(min(SAMPLES, len(data)))
    if isinstance(task, MaskedLM):
        return [_unmasked(model, tokenizer, data, row) for row in rows]
    assert isinstance(task, CausalLM), "it is one of the two"
    examples = data.examples
    if examples.chats is None and examples.pairs is None:
        texts = [str(examples.texts[row]) for row in rows]
        parts = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in texts]
    elif examples.chats is None:
        parts = [(str(examples.texts[row]), str((examples.pairs or ())[row])) for row in rows]
    else:
        prompts = task.prompts(tokenizer, examples)
        parts = [(prompts[row], str(examples.chats[row][-1]["content"])) for row in rows]
    how = Generation(max_new_tokens=min(LONGEST, task.generation.max_new_tokens))
    given = [part for part, _ in parts]
    with evaluating(model):
        said = list(continued(model, tokenizer, given, how, limit, special=examples.chats is None))
    return [Shown(*part, one) for part, one in zip(parts, said, strict=True)]


def _unmasked(model: nn.Module, tokenizer: PreTrainedTokenizerBase, data: Encoded, row: int) -> Shown:
    """A text with what is hidden in it, and with what the model says was there."""
    from hfstrat.data.batching import collate
    from hfstrat.training.engine import logits_of

    assert data.units is not None, "tokens are hidden"
    assert data.aims is not None, "and known"
    batch = collate(data, np.array([row]))
    with evaluating(model), torch.inference_mode():
        best = logits_of(model, batch, next(model.parameters()).device).argmax(-1).tolist()
    ids = data.columns["input_ids"]
    first, last = ids.offsets[row : row + 2]
    given = ids.values[first:last].tolist()
    places = np.flatnonzero(data.units.values[first:last] >= 0).tolist()
    true = data.aims[batch.units].tolist()

    def written(values: Sequence[int]) -> str:
        whole = list(given)
        for place, value in zip(places, values, strict=True):
            whole[place] = value
        return str(tokenizer.decode(whole, skip_special_tokens=True))

    shown = tokenizer.decode(
        [one for one in given if one == tokenizer.mask_token_id or one not in tokenizer.all_special_ids]
    )
    return Shown(str(shown), written(true), written(best))
