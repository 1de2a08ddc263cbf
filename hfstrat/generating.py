"""Language models at work: prompts are continued, masks are filled in."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hfstrat.models.vocabulary import position_limit
from hfstrat.tasks import CausalLM, MaskedLM, Seq2Seq
from hfstrat.tasks.base import Encoded, Examples, IntArray
from hfstrat.tasks.chat import ending, with_template
from hfstrat.tasks.language import Generation, LanguageSpec
from hfstrat.training.scoring import evaluating

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import GenerationConfig, PreTrainedTokenizerBase

LIKELIEST = 5  # tokens that are told for each mask
AT_ONCE = 16  # texts that are written together
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
    max_length: int,
) -> Iterator[dict[str, Any]]:
    """What `predict` says of each text: its continuation, or the text with its masks filled in.

    Args:
        task: What the model has learned.
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
        examples: Texts, prompts or conversations.
        max_length: Tokens of a text with masks that are read.
    """
    if isinstance(task, Seq2Seq):
        data = task.encode(tokenizer, replace(examples, pairs=None), max_length)
        how = settings(model, tokenizer, task.generation)
        for text in rewritten(model, tokenizer, data, np.arange(len(data)), how):
            yield {"prediction": text}
    elif isinstance(task, CausalLM):
        prompts = task.prompts(tokenizer, examples)
        chat = examples.chats is not None
        how = settings(model, tokenizer, task.generation, chat=chat)
        for text in continued(model, tokenizer, prompts, how, special=not chat):
            yield {"prediction": text}
    else:
        yield from filled(model, tokenizer, examples.texts, max_length)


def answered(
    task: LanguageSpec,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: Encoded,
    accelerator: Accelerator | None = None,
    most: int | None = None,
) -> list[str]:
    """What a model writes about each example of a split, on every process; each writes its share.

    Args:
        task: What the model has learned.
        model: The model; it is in eval mode meanwhile, and afterwards as it was.
        tokenizer: Its tokenizer.
        data: The split.
        accelerator: Shares the work between processes and sets the precision; None: this process, as is.
        most: Tokens that are written at most, where that is less than the task says.
    """
    model = model if accelerator is None else accelerator.unwrap_model(model)
    process, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    rows = np.arange(len(data))[process::processes]
    rows = rows[np.argsort(-data.columns["input_ids"].lengths[data.windows[rows]], kind="stable")]
    own: Any = task  # of the two kinds that write
    chat = data.examples.chats is not None
    how = settings(model, tokenizer, own.generation.model_copy(update={"temperature": 0.0}), chat=chat)
    if most is not None:
        how.max_new_tokens = min(most, how.max_new_tokens)
    with evaluating(model), accelerator.autocast() if accelerator else nullcontext():
        if isinstance(task, CausalLM):
            prompts = task.prompts(tokenizer, data.examples)
            texts = list(continued(model, tokenizer, [prompts[row] for row in rows], how, special=not chat))
        else:
            texts = list(rewritten(model, tokenizer, data, rows, how))
    pairs = list(zip(rows.tolist(), texts, strict=True))
    if processes > 1:
        from accelerate.utils import gather_object

        pairs = gather_object(pairs)
    found = dict(pairs)
    return [found[row] for row in range(len(data))]


def rewritten(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, data: Encoded, rows: IntArray, how: GenerationConfig
) -> Iterator[str]:
    """What an encoder-decoder makes of some sources, in their order.

    Args:
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
        data: The split.
        rows: Which examples.
        how: How.
    """
    device = next(model.parameters()).device
    sources = data.columns["input_ids"]
    for start in range(0, len(rows), AT_ONCE):
        values, mask = sources.padded(rows[start : start + AT_ONCE], data.pad["input_ids"], left=data.left)
        inputs = {"input_ids": torch.from_numpy(values), "attention_mask": torch.from_numpy(mask)}
        with torch.inference_mode():
            written = model.generate(  # type: ignore[operator]
                **{name: value.to(device) for name, value in inputs.items()}, generation_config=how
            )
        yield from tokenizer.batch_decode(written, skip_special_tokens=True)


def settings(
    model: Any, tokenizer: PreTrainedTokenizerBase, how: Generation, *, chat: bool = False
) -> GenerationConfig:
    """How a model writes, with nothing left to what its base was published with but its tokens.

    A base's own settings, such as a penalty on what the prompt says already, would be part of every score otherwise.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        how: As the recipe says.
        chat: Whether it was trained on conversations, whose template has an end of its own.
    """
    from transformers import GenerationConfig

    limit, known = _limit(model), model.generation_config
    ends = [*_listed(known.eos_token_id), *_listed(tokenizer.eos_token_id)]
    if chat:
        last = tokenizer(ending(with_template(tokenizer)), add_special_tokens=False)["input_ids"]
        ends += last if len(last) == 1 else []
    return GenerationConfig(
        max_new_tokens=how.max_new_tokens if limit is None else min(how.max_new_tokens, limit - 1),
        num_beams=how.num_beams,
        do_sample=how.temperature > 0,
        temperature=how.temperature or 1.0,
        top_p=how.top_p if how.temperature > 0 else 1.0,
        top_k=0 if how.temperature > 0 else 50,
        typical_p=1.0,
        min_length=0,
        repetition_penalty=1.0,
        length_penalty=1.0,
        early_stopping=False,
        no_repeat_ngram_size=0,
        encoder_no_repeat_ngram_size=0,
        num_return_sequences=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=known.bos_token_id,
        eos_token_id=list(dict.fromkeys(ends)) or None,
        decoder_start_token_id=known.decoder_start_token_id,
    )


def _listed(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def continued(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    how: GenerationConfig,
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
        special: Whether the tokenizer's own first tokens stand before a prompt; a chat template writes them itself.
        streamer: Gets the tokens as they are written, of one prompt at a time.
    """
    at_once = 1 if streamer is not None else AT_ONCE
    device = next(model.parameters()).device
    limit, new = _limit(model), int(how.max_new_tokens or 1)
    for start in range(0, len(prompts), at_once):
        part = list(prompts[start : start + at_once])
        tokens = _read(tokenizer, part, limit, new, special=special)
        if limit is not None:
            how = copy.copy(how)
            how.max_new_tokens = min(new, limit - len(tokens["input_ids"][0]))
        inputs = {name: torch.tensor(rows, device=device) for name, rows in tokens.items()}
        with torch.inference_mode():
            written = model.generate(**inputs, generation_config=how, streamer=streamer)  # type: ignore[operator]
        yield from tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def _limit(model: Any) -> int | None:
    """Tokens that a model takes at most; None where nothing says so."""
    known = getattr(model.config, "hfstrat", None) or {}
    return known.get("limit") or position_limit(model.config, model.config.pad_token_id or 0)


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
        room = max(1, limit - min(new, limit // 2))  # half of what it takes is read, whatever is to be written
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
) -> list[Shown]:
    """Some examples of a split with what is true and what the model writes, the likeliest token each time.

    Args:
        task: What the model has learned.
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
        data: The split.
    """
    rows = range(min(SAMPLES, len(data)))
    if isinstance(task, MaskedLM):
        return [_unmasked(model, tokenizer, data, row) for row in rows]
    some = data.first(len(rows))
    examples = some.examples
    if isinstance(task, CausalLM) and examples.chats is None and examples.pairs is None:
        texts = [str(text) for text in examples.texts]
        given, true = ([text[: len(text) // 2] for text in texts], [text[len(text) // 2 :] for text in texts])
        some = replace(some, examples=replace(examples, texts=given))
    else:
        given = task.prompts(tokenizer, examples) if isinstance(task, CausalLM) else list(examples.texts)
        true = task.answers(examples)
    said = answered(task, model, tokenizer, some, most=LONGEST)
    return [Shown(*one) for one in zip(given, true, said, strict=True)]


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
