"""Extractive question answering: the stretch of a context that answers a question, or that there is none.

Each window of a context is read with the question before it. In each window the model chooses a first and a last token
among those of the context and one that stands for no answer: the classification token, or the first one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from hfstrat.answers import answer_f1
from hfstrat.tasks.base import Answer, Decoded, Encoded, Examples, FloatArray, IntArray, Labels, Problem, Ragged
from hfstrat.tasks.task import Columns, TextsSpec, ids_of, texts_of
from hfstrat.tasks.windows import Tokens, tokens_of

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

NONE = (-1, -1)  # characters of no answer


class QuestionAnswering(TextsSpec):
    """Find the answers to questions in contexts."""

    kind: Literal["question_answering"] = "question_answering"

    stride: Annotated[int, Field(ge=0)] = 128
    """Tokens that neighbouring windows of a context share."""
    max_answer_length: Annotated[int, Field(ge=1)] = 30
    """Tokens of an answer, at most."""

    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    peft_task_type: ClassVar[str | None] = "QUESTION_ANS"
    pipeline_tag: ClassVar[str] = "question-answering"
    roles: ClassVar[tuple[str, ...]] = ("question", "context", "answers", "id")
    texts: ClassVar[tuple[str, ...]] = ("question", "context")
    encoding: ClassVar[tuple[str, ...]] = ("stride",)
    floors: ClassVar[tuple[str, ...]] = ()
    solvable: ClassVar[bool] = False
    default_threshold: ClassVar[float] = 0.0
    refused: ClassVar[Mapping[str, str]] = {
        "distill": "a teacher's tokens are not its student's, so neither are the places at which answers begin"
    }

    # --- data -----------------------------------------------------------------------------------------------

    def needed(self, given: Columns, available: Sequence[str], *, labelled: bool) -> set[str]:
        """Question and context, and answers where they are known."""
        return {"question", "context", *given, "answers"} - (set() if labelled else {"answers"})

    def columns(self, given: Columns, available: Sequence[str], *, labelled: bool = True) -> dict[str, Any]:
        """As of every task; answers only where they are known."""
        if not labelled:
            given = {role: column for role, column in given.items() if role != "answers"}
        return super().columns(given, available, labelled=labelled)

    def strata(self, columns: Columns) -> str | tuple[str, ...] | None:
        """None: hardly two questions have one answer."""
        return None

    def find_problem(self, train: Dataset, columns: Mapping[str, Any]) -> tuple[Problem, str]:
        """Spans of characters."""
        return "spans", "answers are parts of their context"

    def find_labels(self, train: Dataset, columns: Mapping[str, Any], problem: Problem) -> Labels:
        """The model's two outputs for each token; how many questions have an answer, and how many have none."""
        answers = answers_of(train, columns)
        answered = sum(bool(row) for row in answers)
        return Labels(problem, ("start", "end"), (answered, len(answers) - answered))

    def read(self, split: Dataset, name: str, columns: Mapping[str, Any], labels: Labels | None) -> Examples:
        """One split as questions, contexts and answers; targets are the characters of each first answer."""
        questions, contexts = texts_of(split, columns["question"]), texts_of(split, columns["context"])
        if labels is None:
            return Examples(ids_of(split, name, columns), questions, contexts, None)
        answers = answers_of(split, columns)
        targets = np.array([_stretch(row[0]) if row else NONE for row in answers])
        return Examples(
            ids_of(split, name, columns), questions, contexts, targets.reshape(-1, 2).astype(np.int64), answers=answers
        )

    # --- tokens ---------------------------------------------------------------------------------------------

    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int) -> Encoded:
        """Tokenise a split, with the tokens at which an answer may begin and end, and those at which it does.

        Raises:
            DataError: The tokenizer does not say which characters a token is of, or there is no room for a context.
        """
        tokens = tokens_of(tokenizer, examples, max_length, windows=True, stride=self.stride, offsets=True)
        places = _Places(tokens, tokenizer, examples.pairs or ())
        aims, lost = None, 0
        if examples.targets is not None:
            aims, lost = _aims(places, examples.targets)
        units = np.full(len(places.inside), -1, np.int64)
        units[places.candidates] = np.arange(len(places.candidates))
        return Encoded(
            examples,
            tokens.columns,
            tokens.windows,
            lost,
            tokens.pad,
            tokens.left,
            Ragged(units, tokens.columns["input_ids"].offsets),
            aims=aims,
            spans=np.stack([places.window, places.start, places.end], axis=1)[places.candidates],
        )

    def lost(self, max_length: int) -> str:
        """Answers that the model is not shown."""
        return f"have an answer that no window of {max_length} tokens holds as a whole"

    @property
    def in_windows(self) -> bool:
        """True: what is cut off cannot be answered."""
        return True

    # --- loss -----------------------------------------------------------------------------------------------

    @staticmethod
    def loss(
        logits: torch.Tensor,
        targets: torch.Tensor,
        problem: Problem,
        *,
        weights: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> torch.Tensor:
        """Sum over windows of the mean cross-entropy of first and last token, a scalar.

        Args:
            logits: float `(candidates, 2)`, for first and last token.
            targets: Window of each candidate, whether the answer begins there and whether it ends there:
                `(candidates, 3)`; windows lie together.
            problem: Spans.
            weights: None.
            label_smoothing: 0.
        """
        import torch

        own, place = torch.unique_consecutive(targets[:, 0], return_inverse=True)
        shape = (len(own), 2)
        most = logits.new_full(shape, float("-inf"))
        most = most.scatter_reduce(0, place.unsqueeze(1).expand(-1, 2), logits.detach(), "amax")
        total = logits.new_zeros(shape).index_add(0, place, (logits - most[place]).exp())
        true = logits.new_zeros(shape).index_add(0, place, logits * targets[:, 1:].to(logits.dtype))
        return (total.log() + most - true).mean(1).sum()

    @staticmethod
    def weight(targets: torch.Tensor, problem: Problem, *, weights: torch.Tensor | None = None) -> torch.Tensor:
        """The number of windows: in each one answer, or none, begins once."""
        return targets[:, 1].sum().float()

    # --- decisions ------------------------------------------------------------------------------------------

    def collected(self, logits: FloatArray, data: Encoded, labels: Labels) -> FloatArray:
        """The best answer of each example: `(n, 5)` of its score, that of no answer, its characters, and the loss.

        A score is the sum of the logits of first and last token. Where windows differ the best answer is taken, and of
        no answer the lowest score, as Devlin et al. 2019 do for SQuAD 2.0.
        """
        assert data.spans is not None, "answers were looked for"
        window, start, end = data.spans.T
        found = np.full((len(data), 5), np.nan)
        found[:, 2:4] = NONE
        owner = np.repeat(np.arange(len(data)), np.diff(data.windows))
        nothing = start < 0
        example = owner[window]
        found[:, 0], found[:, 1] = -np.inf, np.inf
        np.minimum.at(found[:, 1], example[nothing], logits[nothing].sum(axis=1, dtype=np.float64))
        best = np.full(len(start), -np.inf)
        ends = np.full(len(start), -1)
        for more in range(min(self.max_answer_length, len(start))):
            first, last = slice(0, len(start) - more), slice(more, len(start))
            usable = (window[first] == window[last]) & ~nothing[first] & ~nothing[last]
            scores = np.where(usable, logits[first, 0].astype(np.float64) + logits[last, 1], -np.inf)
            better = scores > best[first]
            best[first] = np.where(better, scores, best[first])
            ends[first] = np.where(better, end[last], ends[first])
        # The first of equal ones, example by example.
        order = np.lexsort((np.arange(len(best)), -best, example))
        leads = order[np.concatenate([[True], example[order][1:] != example[order][:-1]])] if len(order) else order
        leads = leads[np.isfinite(best[leads])]
        found[example[leads], 0] = best[leads]
        found[example[leads], 2] = start[leads]
        found[example[leads], 3] = ends[leads]
        if data.aims is not None:
            found[:, 4] = _losses(logits, np.asarray(data.aims, np.int64), owner, len(data))
        return found

    def mean_loss(self, logits: FloatArray, examples: Examples, labels: Labels) -> float:
        """Mean over the examples of their windows' mean loss."""
        return float(np.mean(logits[:, 4]))

    def needs_pairs(self, columns: Columns) -> bool:
        """A question is about a context."""
        return True

    def thresholded(self, problem: Problem) -> bool:
        """Whether a question has an answer is decided by how much better the best one is than none."""
        return True

    def threshold(self, logits: FloatArray, examples: Examples, problem: Problem) -> float:
        """By how much the best answer has to score above no answer, for the best F1 on these examples."""
        margins = _margins(logits)
        said = self._texts(logits[:, 2:4].astype(np.int64), examples)
        answers = truth_of(examples)
        gains = np.array(
            [answer_f1(text, true) - answer_f1("", true) for text, true in zip(said, answers, strict=True)]
        )
        order = np.argsort(-margins, kind="stable")
        totals = np.concatenate([[0.0], np.cumsum(gains[order])])
        ranked = margins[order]
        last = np.append(ranked[:-1] != ranked[1:], True)  # a threshold cannot part equal margins
        usable = np.concatenate([[True], last])
        count = int(np.argmax(np.where(usable, totals, -np.inf)))
        high = ranked[count - 1] if count else ranked[0] + 2.0
        low = ranked[count] if count < len(ranked) else ranked[-1] - 2.0
        return float((high + low) / 2)

    def decode(self, logits: FloatArray, labels: Labels, threshold: float = 0.0) -> Decoded:
        """Characters of each answer, and how sure it is that there is one: float64 `(n,)`, from ½ on.

        Without unanswerable questions in training each one is answered.
        """
        margins = _margins(logits) - threshold
        spans = logits[:, 2:4].astype(np.int64)
        answered = (margins >= 0) if labels.counts[1:] != (0,) else np.ones(len(spans), bool)
        return Decoded(logits, 1 / (1 + np.exp(-np.clip(margins, -50, 50))), np.where(answered[:, None], spans, NONE))

    def default_metrics(self, problem: Problem) -> tuple[str, ...]:
        """Those of SQuAD."""
        return ("answer_f1", "exact_match")

    def measured(self, values: Any, examples: Examples, labels: Labels) -> list[str]:
        """The text of each answer, empty for none."""
        return self._texts(np.asarray(values), examples)

    def true_values(self, examples: Examples, labels: Labels) -> list[list[str]]:
        """All answers to each question."""
        return truth_of(examples)

    def true_names(self, examples: Examples, labels: Labels) -> list[Any]:
        """All answers to each question."""
        return list(truth_of(examples))

    def table(self, decoded: Decoded, examples: Examples, labels: Labels) -> dict[str, list[Any]]:
        """Question and context, the characters of the answer, and how sure it is that there is one."""
        return {
            "question": list(examples.texts),
            "context": list(examples.pairs or ()),
            "start": decoded.predictions[:, 0].tolist(),
            "end": decoded.predictions[:, 1].tolist(),
            "score": decoded.scores.tolist(),
        }

    def records(self, decoded: Decoded, examples: Examples, labels: Labels) -> list[dict[str, Any]]:
        """`{"prediction": answer, "start", "end", "score"}` each; for no answer the first three are None."""
        found: list[dict[str, Any]] = []
        texts = self._texts(np.asarray(decoded.predictions), examples)
        for text, (start, end), score in zip(texts, decoded.predictions.tolist(), decoded.scores.tolist(), strict=True):
            span = {"prediction": text, "start": start, "end": end} if start >= 0 else dict.fromkeys(_SPAN)
            found.append({**span, "score": score})
        return found

    @staticmethod
    def _texts(spans: IntArray, examples: Examples) -> list[str]:
        contexts = examples.pairs or ()
        return [
            text[start:end] if start >= 0 else "" for text, (start, end) in zip(contexts, spans.tolist(), strict=True)
        ]


_SPAN = ("prediction", "start", "end")


def truth_of(examples: Examples) -> list[list[str]]:
    """All answers to each question."""
    return [[answer.text for answer in row] for row in examples.answers or ()]


def answers_of(split: Dataset, columns: Mapping[str, Any]) -> list[list[Answer]]:
    """The answers to each question.

    Raises:
        ValueError: One is written in another way, or is not where it is said to be.
    """
    contexts = texts_of(split, columns["context"])
    cells = split[columns["answers"]][:]
    return [answers_in(cell, context) for cell, context in zip(cells, contexts, strict=True)]


def answers_in(cell: Any, context: str) -> list[Answer]:
    """The answers in a cell.

    Args:
        cell: `{"text": [...], "answer_start": [...]}`, a list of `{"text": …, "answer_start": …}`, or a text, which is
            looked for; empty for no answer.
        context: Where they stand.

    Raises:
        ValueError: It is written in another way, or an answer does not stand there.
    """
    pairs: list[tuple[Any, Any]]
    if cell is None:
        return []
    if isinstance(cell, str):
        pairs = [(cell, None)] if cell.strip() else []
    elif isinstance(cell, Mapping):
        texts, starts = cell.get("text"), cell.get("answer_start")
        if texts is None:
            raise ValueError("an answer has no text")
        if isinstance(texts, str):
            texts, starts = [texts], [starts]
        starts = [None] * len(texts) if starts is None else starts
        if not all(isinstance(one, (list, tuple)) for one in (texts, starts)) or len(starts) != len(texts):
            raise ValueError("the answers have not as many texts as starts")
        pairs = list(zip(texts, starts, strict=True))
    elif isinstance(cell, (list, tuple)):
        pairs = [
            (one.get("text"), one.get("answer_start")) if isinstance(one, Mapping) else (one, None) for one in cell
        ]
    else:
        raise ValueError("an answer is no text")
    return [_answer(text, start, context) for text, start in pairs if text != ""]


def _answer(text: Any, start: Any, context: str) -> Answer:
    if not isinstance(text, str) or not text.strip():
        raise ValueError("an answer is no text")
    if start is not None and not (isinstance(start, int) and start >= 0):
        raise ValueError("an answer_start is no whole number from 0")
    if start is None:
        start = context.find(text)
        if start < 0:
            raise ValueError("an answer does not stand in its context")
    elif context[start : start + len(text)] != text:
        raise ValueError("an answer does not stand where its answer_start says")
    return Answer(start, text)


def _stretch(answer: Answer) -> tuple[int, int]:
    """Characters of an answer without the blanks around it, of which there are no tokens."""
    start = answer.start + len(answer.text) - len(answer.text.lstrip())
    return start, max(start, answer.start + len(answer.text.rstrip()))


class _Places:
    """What each token of a split is, `(tokens,)` each.

    Args:
        tokens: The split.
        tokenizer: What made them.
        contexts: Where answers are looked for.
    """

    def __init__(self, tokens: Tokens, tokenizer: PreTrainedTokenizerBase, contexts: Sequence[str]) -> None:
        ids, starts, ends, second = tokens.columns["input_ids"], tokens.starts, tokens.ends, tokens.second
        assert starts is not None, "characters were asked for"
        assert ends is not None, "characters were asked for"
        assert second is not None, "these are pairs"
        lengths = ids.lengths
        self.window = np.repeat(np.arange(len(lengths)), lengths)
        self.owner = np.repeat(np.repeat(np.arange(len(tokens.windows) - 1), np.diff(tokens.windows)), lengths)
        of_context = second.values > 0
        start, end = _without_blanks(contexts, self.owner, of_context, starts.values, ends.values)
        self.inside = of_context & (end > start)
        nothing = np.zeros(len(self.inside), bool)
        nothing[_nothing(ids, of_context, tokenizer)] = True
        self.start, self.end = np.where(nothing, -1, start), np.where(nothing, -1, end)
        self.candidates = np.flatnonzero(self.inside | nothing)


def _without_blanks(
    contexts: Sequence[str], owner: IntArray, of_context: Any, starts: IntArray, ends: IntArray
) -> tuple[IntArray, IntArray]:
    """Characters of tokens without the blanks that some tokenizers count to the word after them."""
    base = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(text) + 1 for text in contexts])])
    whole = "\n".join([*contexts, ""])
    blank = np.fromiter(map(str.isspace, whole), bool, len(whole))
    places = np.arange(len(whole))
    ahead = np.minimum.accumulate(np.where(blank, len(whole), places)[::-1])[::-1]
    behind = np.maximum.accumulate(np.where(blank, 0, places + 1))
    start, end = starts.astype(np.int64), ends.astype(np.int64)
    some = of_context & (end > start)
    shift = base[owner[some]]
    first = np.minimum(ahead[start[some] + shift] - shift, end[some])
    start[some], end[some] = first, np.maximum(behind[end[some] - 1 + shift] - shift, first)
    return start, end


def _nothing(ids: Ragged, inside: Any, tokenizer: PreTrainedTokenizerBase) -> IntArray:
    """The token of each window that stands for no answer: the classification token, else the first one."""
    first = ids.offsets[:-1].copy()
    if tokenizer.cls_token_id is not None:
        places = np.flatnonzero((ids.values == tokenizer.cls_token_id) & ~inside)
        window = np.searchsorted(ids.offsets, places, side="right") - 1
        own, at = np.unique(window, return_index=True)
        first[own] = places[at]
    return first


def _aims(places: _Places, targets: IntArray | FloatArray) -> tuple[IntArray, int]:
    """Window, whether the answer begins and whether it ends at each candidate; and how many answers no window holds."""
    window, start, end = (values[places.candidates] for values in (places.window, places.start, places.end))
    owner = places.owner[places.candidates]
    first, last = targets[owner, 0], targets[owner, 1] - 1
    nothing = start < 0
    part = (first >= 0) & ~nothing & (start <= last) & (end > first)
    begins, ends = _only(part, window, first_one=True), _only(part, window, first_one=False)
    count = int(places.window[-1]) + 1 if len(places.window) else 0
    # A window may end within an answer, or begin there.
    whole = np.bincount(window, part & (start <= first), count) * np.bincount(window, part & (end > last), count) > 0
    held = whole[window]
    aims = np.stack([window, np.where(held, begins, nothing), np.where(held, ends, nothing)], axis=1)
    answered = np.zeros(len(targets), bool)
    answered[owner[held]] = True
    return aims.astype(np.int64), int((~answered & (targets[:, 0] >= 0)).sum())


def _only(marked: Any, window: IntArray, *, first_one: bool) -> Any:
    """Of what is marked the first or the last in each window."""
    places = np.flatnonzero(marked)
    if not first_one:
        places = places[::-1]
    _, at = np.unique(window[places], return_index=True)
    chosen = np.zeros(len(marked), bool)
    chosen[places[at]] = True
    return chosen


def _losses(logits: FloatArray, aims: IntArray, owner: IntArray, examples: int) -> FloatArray:
    """Mean over the windows of each example of the mean cross-entropy of first and last token."""
    window, count = aims[:, 0], len(owner)
    wide = logits.astype(np.float64)
    most = np.full((count, 2), -np.inf)
    np.maximum.at(most, window, wide)
    total, true = np.zeros((count, 2)), np.zeros((count, 2))
    np.add.at(total, window, np.exp(wide - most[window]))
    np.add.at(true, window, wide * aims[:, 1:])
    losses = (np.log(total) + most - true).mean(axis=1)
    found: FloatArray = np.bincount(owner, losses, examples) / np.bincount(owner, minlength=examples)
    return found


def _margins(logits: FloatArray) -> FloatArray:
    """By how much the best answer of each example scores above none; far below where there is no candidate."""
    with np.errstate(invalid="ignore"):
        margins: FloatArray = np.nan_to_num(logits[:, 0] - logits[:, 1], nan=-1e4, posinf=1e4, neginf=-1e4)
    return margins
