"""Causal language models: pre-training on plain text, and answers to prompts and in conversations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from hfstrat.errors import DataError
from hfstrat.errors import Problem as Trouble
from hfstrat.tasks.base import Encoded, Examples, IntArray, Labels, Ragged
from hfstrat.tasks.chat import ANSWERER, asked, conversation, messages_in, with_template
from hfstrat.tasks.implied import Numbered, Steps, numbers
from hfstrat.tasks.language import Generation, LanguageSpec, Pieces, flat_ids, frame, named_pieces
from hfstrat.tasks.task import Columns, ids_of, texts_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_SHOWN = 5
Marks = npt.NDArray[np.bool_]


class CausalLM(LanguageSpec):
    """Text in which each token is predicted from those before it."""

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    peft_task_type: ClassVar[str | None] = "CAUSAL_LM"
    pipeline_tag: ClassVar[str] = "text-generation"
    roles: ClassVar[tuple[str, ...]] = ("text", "prompt", "completion", "messages", "id")
    texts: ClassVar[tuple[str, ...]] = ("text", "prompt", "completion", "messages")
    encoding: ClassVar[tuple[str, ...]] = ("joined", "long_answers")
    longest: ClassVar[int] = 2048

    kind: Literal["causal_lm"] = "causal_lm"

    joined: bool = True
    """Whether plain texts are put one after the other, with the end token between them, and cut into pieces of the
    greatest length; else each text is read by itself."""
    packing: bool = False
    """Whether examples of a batch go through the model in one row without padding. Batches of similar length have
    little of it, and attention over a long row costs more; flash attention gains. Models that would let examples see
    each other are refused."""
    long_answers: Literal["refuse", "cut"] = "refuse"
    """What happens to answers that are longer than `max_length`; prompts are cut from the left, answers never unless
    it is said here."""
    generation: Generation = Generation()
    """How prompts are continued: by `predict`, and in evaluations where a metric is of what is written."""

    # --- data -----------------------------------------------------------------------------------------------

    def needed(self, given: Columns, available: Sequence[str], *, labelled: bool) -> set[str]:
        """Plain text, prompts with their completions, or conversations: as the recipe says, else by what there is."""
        form = _form(given) or _form(available) or ("text",)
        return {*form, *({"id"} & {*given})} if labelled else {form[0]}

    def columns(self, given: Columns, available: Sequence[str], *, labelled: bool = True) -> dict[str, Any]:
        """The columns of one form of text, and of the id; those of other forms are left aside."""
        form = _form(given) or _form(available) or ("text",)
        found = super().columns(given, available, labelled=labelled)
        return {role: column for role, column in found.items() if role in (*form, "id")}

    def read(self, split: Dataset, name: str, columns: Mapping[str, Any], labels: Labels | None) -> Examples:
        """One split as texts, as prompts with completions, or as conversations.

        Raises:
            DataError: A conversation is written in another way.
        """
        ids = ids_of(split, name, columns)
        if "messages" in columns:
            try:
                chats = [_chat(cell, complete=labels is not None) for cell in split[columns["messages"]][:]]
            except ValueError as error:
                raise DataError(Trouble(str(error), "data.columns.messages")) from error
            return Examples(ids, [chat[0]["content"] for chat in chats], None, None, chats=chats)
        if "prompt" in columns:
            completions = texts_of(split, columns["completion"]) if "completion" in columns else None
            return Examples(ids, texts_of(split, columns["prompt"]), completions, None)
        return Examples(ids, texts_of(split, columns["text"]), None, None)

    def answers_in(self, columns: Collection[str]) -> bool:
        """Prompts have completions, and conversations answers."""
        return bool({"completion", "messages"} & {*columns})

    def lost(self, max_length: int) -> str:
        """What is before the last answer is cut, and answers where that is asked for."""
        return f"have more than {max_length} tokens; the first of what is before the last answer were left out"

    # --- tokens ---------------------------------------------------------------------------------------------

    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int) -> Encoded:
        """Tokenise a split; each token's unit is about the token after it.

        Raises:
            DataError: An answer is longer than the window, nothing is left to learn, or a chat template does not tell
                where an answer begins.
        """
        if examples.chats is not None:
            return self._answers(tokenizer, examples, *_chats(tokenizer, examples), max_length)
        if examples.pairs is not None:
            return self._answers(tokenizer, examples, *_completions(tokenizer, examples), max_length)
        return self._texts(tokenizer, examples, max_length)

    def marks(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before a text, and the end token."""
        before, _ = frame(tokenizer)
        return before, [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def of_stream(self, tokenizer: PreTrainedTokenizerBase, stream: IntArray, max_length: int) -> Encoded:
        """Pieces of the stream one after the other, as texts that are joined."""
        read = len(stream) - 1
        if read < 1:
            raise DataError(_too_short())
        pieces = -(-read // max_length)
        offsets = Steps(pieces + 1, max_length, read)
        ids = Ragged(stream[:-1], offsets)
        return Encoded(
            examples=Examples(Numbered("train", pieces), Pieces(ids, tokenizer), None, None),
            columns={"input_ids": ids},
            windows=numbers(pieces + 1),
            truncated=0,
            pad={"input_ids": int(tokenizer.pad_token_id or 0)},
            units=Ragged(numbers(read), offsets),  # type: ignore[arg-type]
            aims=stream[1:],
            streamed=True,
            packed=self.packing,
        )

    def _texts(self, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int) -> Encoded:
        """Plain text in pieces; the last token of a piece is about the first one of the next."""
        stream, bounds = _stream(tokenizer, examples.texts, *self.marks(tokenizer))
        if self.joined:
            bounds = bounds[[0, -1]]
        # Of each text all tokens but the last are read, and all but the first predicted.
        lengths = np.maximum(np.diff(bounds) - 1, 0)
        counts = -(-lengths // max_length)
        if not counts.any():
            raise DataError(_too_short())
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.repeat(bounds[:-1], counts) + max_length * number
        sizes = np.minimum(max_length, np.repeat(bounds[:-1] + lengths, counts) - starts)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        places = np.repeat(starts - offsets[:-1], sizes) + np.arange(offsets[-1])
        ids = Ragged(stream[places], offsets)
        names = named_pieces([examples.ids[0]] if self.joined else examples.ids, counts)
        pieces = Examples(names, Pieces(ids, tokenizer), None, None)
        return _encoded(pieces, ids, np.ones(len(places), bool), stream[places + 1], tokenizer, 0, self.packing)

    def _answers(
        self,
        tokenizer: PreTrainedTokenizerBase,
        examples: Examples,
        rows: Sequence[IntArray],
        learned: Sequence[Marks],
        keep: int,
        max_length: int,
    ) -> Encoded:
        """Examples of which some tokens are learned.

        Args:
            tokenizer: What made the tokens.
            examples: What they are of.
            rows: All tokens of each example.
            learned: Whether each of them is to be written by the model.
            keep: Tokens at the beginning that are never left out.
            max_length: Tokens of an example, at most.
        """
        cut, long, nothing = 0, [], []
        kept: list[IntArray] = []
        marks: list[Marks] = []
        for name, ids, mark in zip(examples.ids, rows, learned, strict=True):
            if len(ids) > max_length:
                cut += 1
                answer = _last_answer(mark)
                fits = answer + keep < max_length
                if not fits and self.long_answers == "refuse":
                    long.append(name)
                    continue
                # What is left of the prompt, or its last token and as much of the answer as there is room for.
                start = len(ids) - (max_length - keep) if fits else len(ids) - answer - 1
                ids, mark = _without(ids, keep, start, max_length), _unbroken(mark, keep, start, max_length)
            if not mark[1:].any():
                nothing.append(name)
            kept.append(ids)
            marks.append(mark)
        self._check(examples, long, nothing, max_length)
        table = Ragged(np.concatenate(kept), np.concatenate([[0], np.cumsum([len(ids) for ids in kept])]))
        # What is said at a token is about the next one; the last one of an example has none.
        about = np.roll(np.concatenate(marks), -1)
        about[table.offsets[1:] - 1] = False
        aims = np.roll(table.values, -1)[about]
        return _encoded(examples, table, about, aims, tokenizer, cut, self.packing)

    def _check(self, examples: Examples, long: list[str], nothing: list[str], max_length: int) -> None:
        problems = []
        if long:
            what = f"{len(long)} of {len(examples)} answers do not fit into {max_length} tokens: {_some(long)}"
            hint = "Raise it, shorten the answers, or set task.long_answers: cut"
            problems.append(Trouble(what, "task.max_length", hint=hint))
        if nothing:
            what = f"nothing is left to learn of {len(nothing)} of {len(examples)} examples: {_some(nothing)}"
            role = "messages" if examples.chats is not None else "completion"
            problems.append(Trouble(what, f"data.columns.{role}", hint="Fill in the answers or delete the rows"))
        if problems:
            raise DataError(problems)

    def prompts(self, tokenizer: PreTrainedTokenizerBase, examples: Examples) -> list[str]:
        """What a model is to continue: plain text, prompts, or conversations up to the next answer."""
        if examples.chats is not None:
            return [asked(with_template(tokenizer), chat) for chat in examples.chats]
        return list(examples.texts)


_FORMS = (("messages",), ("prompt", "completion"), ("text",))


def _form(roles: Collection[str]) -> tuple[str, ...] | None:
    """The form of text that some roles or columns are of; None where they are of none."""
    return next((form for form in _FORMS if {*form} & {*roles}), None)


def _chat(cell: Any, *, complete: bool) -> list[Mapping[str, Any]]:
    found = messages_in(cell, answered=complete)
    if not complete:
        return found
    last = max(place for place, one in enumerate(found) if one["role"] == ANSWERER)
    return found[: last + 1]  # of what was asked after it there is nothing to learn


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + " …" * (len(names) > _SHOWN)


def _without(values: npt.NDArray[Any], keep: int, start: int, most: int) -> npt.NDArray[Any]:
    """The first values, and those from a place on, as many as there is room for."""
    return np.concatenate([values[:keep], values[max(start, keep) :]])[:most]


def _unbroken(mark: Marks, keep: int, start: int, most: int) -> Marks:
    """What is learned of what is left: of an earlier answer that lost its beginning nothing."""
    left = _without(mark, keep, start, most)
    if start > keep and mark[start - 1]:
        rest = left[keep:]
        left[keep : keep + (len(rest) if rest.all() else int(rest.argmin()))] = False
    return left


def _last_answer(mark: Marks) -> int:
    """Tokens from the beginning of the last stretch that is learned to the end."""
    places = np.flatnonzero(mark)
    if not len(places):
        return 0
    breaks = np.flatnonzero(np.diff(places) > 1)
    return len(mark) - int(places[breaks[-1] + 1] if len(breaks) else places[0])


def _too_short() -> Trouble:
    return Trouble("no text has two tokens, one to read and one to predict", "data.columns.text")


def _stream(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], before: list[int], end: list[int]
) -> tuple[IntArray, IntArray]:
    """Tokens of all texts one after the other, each with what begins and ends a text; and where each begins."""
    rows = flat_ids(tokenizer, texts)
    bounds = rows.offsets + (len(before) + len(end)) * np.arange(len(rows.offsets))
    stream = np.empty(int(bounds[-1]), np.int32)
    shift = bounds[:-1] + len(before) - rows.offsets[:-1]
    stream[np.repeat(shift, rows.lengths) + np.arange(len(rows.values))] = rows.values
    for place, one in enumerate(before):
        stream[bounds[:-1] + place] = one
    for one in end:
        stream[bounds[1:] - 1] = one
    return stream, bounds


def _encoded(
    examples: Examples,
    ids: Ragged,
    about: Marks,
    aims: IntArray,
    tokenizer: PreTrainedTokenizerBase,
    cut: int,
    packed: bool,
) -> Encoded:
    units = np.where(about, np.cumsum(about) - 1, -1).astype(np.int32)
    return Encoded(
        examples=examples,
        columns={"input_ids": ids},
        windows=np.arange(len(examples) + 1),
        truncated=cut,
        pad={"input_ids": int(tokenizer.pad_token_id or 0)},
        units=Ragged(units, ids.offsets),
        aims=aims,
        packed=packed,
    )


def _completions(tokenizer: PreTrainedTokenizerBase, examples: Examples) -> tuple[list[IntArray], list[Marks], int]:
    """Prompts with their completions and the end token, of which all after the prompt is learned.

    Both are tokenised by themselves, as the prompt is when it is continued.
    """
    before, end = CausalLM().marks(tokenizer)
    prompts, answers = flat_ids(tokenizer, examples.texts), flat_ids(tokenizer, examples.pairs or ())
    rows: list[IntArray] = []
    learned: list[Marks] = []
    for place in range(len(examples)):
        prompt = prompts.values[prompts.offsets[place] : prompts.offsets[place + 1]]
        answer = answers.values[answers.offsets[place] : answers.offsets[place + 1]]
        ids = np.concatenate([before, prompt, answer, end]).astype(np.int32)
        rows.append(ids)
        learned.append((np.arange(len(ids)) >= len(before) + len(prompt)) & bool(len(answer)))
    return rows, learned, len(before)


def _chats(tokenizer: PreTrainedTokenizerBase, examples: Examples) -> tuple[list[IntArray], list[Marks], int]:
    """Conversations, of which the assistant's messages are learned.

    Raises:
        DataError: The template does not tell where they begin.
    """
    with_template(tokenizer)
    if not tokenizer.is_fast:
        what = f"{type(tokenizer).__name__} does not tell which characters a token is of"
        raise DataError(Trouble(what, "model.base", hint="Name a base with a tokenizer.json"))
    rows: list[IntArray] = []
    learned: list[Marks] = []
    problems = []
    for name, chat in zip(examples.ids, examples.chats or (), strict=True):
        try:
            text, spans = conversation(tokenizer, chat)
        except ValueError as error:
            hint = "Name a base whose template writes each message once and for all, or delete the row"
            problems.append(Trouble(f"{name}: {error}", "data.columns.messages", hint=hint))
            continue
        tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        starts, ends = np.array(tokens["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
        mark = np.zeros(len(starts), bool)
        for first, last in spans:
            mark |= (starts < last) & (ends > first) & (ends > starts)
        rows.append(np.array(tokens["input_ids"], dtype=np.int32))
        learned.append(mark)
    if problems:
        raise DataError(problems[:_SHOWN])
    return rows, learned, 0
