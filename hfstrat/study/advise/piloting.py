"""Pilots: short runs of the likeliest strategies on fewer examples, where they can change the answer.

They are arms of an ordinary comparison, over the recipe's training and validation rows alone: what stands in for the
test split there is the whole validation split. Those that are sealed are not run again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hfstrat import metrics
from hfstrat.data.splits import ROW, Splits
from hfstrat.errors import UsageError
from hfstrat.prepare import read_splits
from hfstrat.recipe.loading import Source
from hfstrat.recipe.recipe import Recipe
from hfstrat.runs.events import Observer
from hfstrat.study.advise.deciding import Decision, Question, Ranked, Rung, decide
from hfstrat.study.advise.evidence import INTERVAL, Evidence
from hfstrat.study.arms import strategy_of
from hfstrat.study.compare import Comparison, compare
from hfstrat.study.estimate import estimate

SURE = 0.8
"""From this probability on nothing is tried where the second is not within the margin as well."""
CONTENDERS = 3
RUNGS = (8, 4)
"""What the examples are divided by: all contenders first, and then the better half of them."""
WORTH = 0.5
"""Of the time that the contenders would take on all examples: pilots that take more are not worth it."""
LEAST = 32
"""Examples of the smallest pilot."""
START = 4.0
"""Seconds that a run takes beside its arithmetic, at least."""


@dataclass(frozen=True)
class Pilots:
    """What was tried, or why nothing was.

    Args:
        rungs: Results, smallest first.
        reason: Why there are none, or no more.
        path: The comparison's directory; None where nothing was run.
        seconds: That all of them took, those of an earlier call included.
    """

    rungs: tuple[Rung, ...] = ()
    reason: str = ""
    path: Path | None = None
    seconds: float = 0.0


def why_not(question: Question, decision: Decision, rows: int) -> str:
    """Why no pilot can change the answer; empty where one can.

    Args:
        question: What is asked.
        decision: The answer without pilots.
        rows: Training examples at hand.
    """
    ranked = decision.ranked
    if len(ranked) < 2:
        return "there is one strategy alone"
    if rows // RUNGS[0] < LEAST:
        return f"an eighth of {rows} examples is too little to learn from"
    best, second = sorted(ranked, key=lambda one: -one.mean)[:2]
    if best.mean - second.mean >= question.tolerance and ranked[0].probability >= SURE:
        return f"the rules are sure enough: {ranked[0].probability:.2f} for {ranked[0].kind}"
    if all(one.probability >= SURE for one in contenders(decision)):
        return "whichever of the likeliest is taken, it is within the margin of the best"
    return ""


def contenders(decision: Decision) -> list[Ranked]:
    """The likeliest, and the one that is recommended."""
    first = [*decision.ranked[:CONTENDERS]]
    now = decision.recommended
    if now is not None and now not in first:
        first[-1] = now
    return first


def run(
    recipe: Recipe,
    question: Question,
    decision: Decision,
    *,
    rows: int,
    source: Source | None,
    data: Any,
    runs: Path,
    observer: Observer,
) -> Pilots:
    """Run the pilots that are worth their time.

    Args:
        recipe: What is asked about.
        question: What is asked.
        decision: The answer without pilots.
        rows: Training examples at hand.
        source: Where the recipe's fields stand, for messages.
        data: Data handed over in Python.
        runs: Where the comparison goes.
        observer: Hears what happens.
    """
    if recipe.data.streaming:
        return Pilots(reason="text that is streamed has no rows to take fewer of")
    if question.evidence.point is None:
        return Pilots(reason=f"nothing says how much of {question.evidence.metric} a point is")
    tried = contenders(decision)
    _, splits, _, _ = read_splits(recipe, data, source)
    small, parts = _small(recipe, question.evidence), _rows(splits)
    sizes = [rows // share for share in RUNGS]
    starting = START * sum(_counts(len(tried)))
    if reason := _too_dear(question, tried, starting):
        return Pilots(reason=reason)
    expected = _expected(small, question, tried, sizes, parts)
    if reason := _too_dear(question, tried, expected):
        return Pilots(reason=reason)
    observer.note(f"pilots of {', '.join(one.kind for one in tried)}: about {expected:,.0f} s")
    kinds, arms, path, seconds = [one.kind for one in tried], [], None, 0.0
    for size in sizes:
        arms += [_arm(kind, size, recipe) for kind in kinds]
        try:
            found = compare(_with_arms(small, arms), data=parts, runs=runs, observer=observer)
        except UsageError as error:
            # A class that only other rows have, say: it is known when the rows are drawn.
            said = "; ".join(one.message for one in error.problems)
            return Pilots(question.rungs, f"no pilots with {size} examples: {said}", path, seconds)
        path, seconds = found.path, sum(row.seconds or 0.0 for row in found.rows)
        rung = read_rung(found, kinds, size, question.evidence)
        question = replace(question, rungs=(*question.rungs, rung))
        likely = [one.kind for one in decide(question).ranked if one.kind in rung.scores]
        kinds = likely[: _counts(len(kinds))[1]]
        if len(kinds) < 2:
            break
    return Pilots(question.rungs, "", path, seconds)


def read_rung(found: Comparison, kinds: Sequence[str], size: int, evidence: Evidence) -> Rung:
    """What the pilots of one size show; one that failed shows nothing."""
    values: dict[str, float] = {}
    for kind in kinds:
        row = next((row for row in found.rows if row.name.rpartition("-seed")[0] == _name(kind, size)), None)
        value = row.metrics[evidence.metric]["value"] if row is not None and row.state == "done" else None
        values |= {} if value is None else {kind: value}
    scores = {kind: evidence.points(value) for kind, value in values.items()}
    names = [_name(kind, size) for kind in scores]
    pairs = [found.verdict(one, other) for place, one in enumerate(names) for other in names[:place]]
    spreads = [pair.difference.high - pair.difference.low for pair in pairs if pair is not None]
    # Of classes and numbers items are compared by whether they are right, which is what accuracy is a mean of.
    if not spreads or not (
        evidence.metric == "accuracy" or evidence.problem not in metrics.CLASSES | metrics.REGRESSION
    ):
        return Rung(size, scores, evidence.noise**2)
    assert evidence.point is not None, "scores have points"
    error = sum(spreads) / len(spreads) / (2 * INTERVAL) / evidence.point
    return Rung(size, scores, error**2 / 2)


def _counts(first: int) -> tuple[int, int]:
    """How many strategies each rung has."""
    return first, (first + 1) // 2


def _too_dear(question: Question, tried: Sequence[Ranked], expected: float) -> str:
    whole = [one.option.seconds or 0.0 for one in tried]
    limit = question.limits.time
    if expected > WORTH * sum(whole):
        return f"pilots would take {expected:,.0f} s, and these strategies on all examples {sum(whole):,.0f} s"
    if limit is not None and expected + max(whole) > limit:
        return f"pilots would take {expected:,.0f} s, which the time does not leave"
    return ""


def _expected(small: Recipe, question: Question, tried: Sequence[Ranked], sizes: Sequence[int], parts: Any) -> float:
    """Seconds of all pilots: their arithmetic, as `estimate` counts it, at the pace of the whole runs."""
    arms = [_arm(one.kind, size, small) for size in sizes for one in tried]
    counted = estimate(_with_arms(small, arms), data=parts, calibrate=False)
    total = 0.0
    for size, count in zip(sizes, _counts(len(tried)), strict=True):
        each = []
        for one in tried:
            flops = counted.arm(_name(one.kind, size)).flops
            part = flops.value / one.option.flops if flops and one.option.flops else size / question.evidence.rows
            each.append(START + part * (one.option.seconds or 0.0))
        total += sum(sorted(each)[-count:])
    return total


def _rows(splits: Splits) -> dict[str, Any]:
    """The rows that pilots see, the test split not among them."""
    assert splits.validation is not None, "there is a validation split"
    train, held_out = (part.remove_columns(ROW) for part in (splits.train, splits.validation))
    return {"train": train, "validation": held_out, "test": held_out}


def _small(recipe: Recipe, evidence: Evidence) -> Recipe:
    """The recipe on data in memory, with the deciding metric alone, and no trackers."""
    plain = json.loads(recipe.model_dump_json(exclude={"compare", "hub"}))
    columns = plain["data"]["columns"]
    plain["data"] = {
        "source": "memory",
        "columns": columns,
        "train": "train",
        "validation": "validation",
        "test": "test",
    }
    plain["data"]["seed"] = recipe.data.seed
    plain["evaluate"] |= {"metrics": [evidence.metric], "select_by": evidence.metric}
    return Recipe.model_validate_json(json.dumps({**plain, "name": f"{recipe.name}-pilots", "track": []}))


def _arm(kind: str, size: int, recipe: Recipe) -> dict[str, Any]:
    strategy = json.loads(strategy_of(kind, recipe).model_dump_json())
    return {"name": _name(kind, size), "strategy": strategy, "limit": size}


def _with_arms(small: Recipe, arms: Sequence[dict[str, Any]]) -> Recipe:
    plain = json.loads(small.model_dump_json())
    plain["compare"] = {"arms": list(arms), "seeds": [small.seed]}
    return Recipe.model_validate_json(json.dumps(plain))


def _name(kind: str, size: int) -> str:
    return f"{kind}-{size}"
