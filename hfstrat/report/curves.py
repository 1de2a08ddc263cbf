"""Curves of a comparison: quality over amounts of training data, and validation over a run's time and updates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, takewhile
from pathlib import PurePath
from typing import Any

from hfstrat.report.comparison import Compared, is_floor
from hfstrat.report.tables import Line, arm_of, best_line
from hfstrat.runs.directory import Run


@dataclass(frozen=True)
class Family:
    """Arms that differ by their amount of training data alone.

    Args:
        name: What they have in common.
        lines: By training rows, from few to many.
    """

    name: str
    lines: dict[int, Line]


def families(compared: Compared) -> list[Family]:
    """Arms by strategy, of those that were run on several amounts of data."""
    found: dict[str, dict[int, Line]] = {}
    for line in compared.done:
        measure = line.metrics.get(compared.metric)
        if line.train_rows and measure is not None and measure.value is not None:
            found.setdefault(_strategy(line, compared), {}).setdefault(line.train_rows, line)
    grown = (dict(sorted(lines.items())) for lines in found.values() if len(lines) > 1)
    return [Family(_common([*lines.values()]), lines) for lines in grown]


def _strategy(line: Line, compared: Compared) -> str:
    """What makes an arm what it is, beside its data; a teacher is its arm, whatever its seed."""
    if is_floor(line):
        return line.kind
    asked = ((compared.run_of(line).read("env.json") or {}).get("requested") or {}).get("strategy") or {}
    teacher = {"teacher": arm_of(PurePath(asked["teacher"]).name)} if asked.get("teacher") else {}
    return json.dumps([line.kind, {**asked, **teacher}], sort_keys=True)


def _common(lines: Sequence[Line]) -> str:
    """What the names of some arms begin with, or their kind."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*(line.arm for line in lines), strict=False))
    return "".join(letters[0] for letters in alike).rstrip("-_.") or lines[0].kind


def leaders(compared: Compared, grown: Sequence[Family]) -> list[str]:
    """For each amount of data that several families share who is ahead, as far as tests tell."""
    said = []
    for rows in _shared(grown):
        there = [family.lines[rows] for family in grown if rows in family.lines]
        best = best_line(there, compared.metric)
        if best is None:
            continue
        pairs = {line.arm: compared.pair(best.arm, line.arm) for line in there if line is not best}
        worse = [arm for arm, pair in pairs.items() if pair is not None and pair.better == "first"]
        level = [arm for arm, pair in pairs.items() if pair is not None and pair.better == "tie"]
        parts = [f"better than {', '.join(worse)}"] if worse else []
        parts += [f"not to be told from {', '.join(level)}"] if level else []
        if parts:
            said.append(f"At {rows:,} rows {best.arm} is ahead: {'; '.join(parts)}.")
    return said


def crossings(compared: Compared, grown: Sequence[Family]) -> list[str]:
    """Pairs of families of which one is better at one amount of data and the other at a larger one, both told."""
    said = []
    for first, second in combinations(grown, 2):
        told = []
        for rows in sorted(first.lines.keys() & second.lines.keys()):
            pair = compared.pair(first.lines[rows].arm, second.lines[rows].arm)
            if pair is not None and pair.better != "tie":
                told.append((rows, first if pair.better == "first" else second))
        for (fewer, before), (more, after) in pairwise(told):
            if before is not after:
                said.append(
                    f"{before.name} is better at {fewer:,} rows and {after.name} at {more:,}: they cross between."
                )
    return said


def _shared(grown: Sequence[Family]) -> list[int]:
    every = [rows for family in grown for rows in family.lines]
    return sorted({rows for rows in every if every.count(rows) > 1})


@dataclass(frozen=True)
class Moment:
    """A validation of a run.

    Args:
        update: Updates before it, over all stages.
        seconds: Since the run began; None where the run did not write that down.
        score: The deciding metric; None where it is undefined.
        loss: The loss; None where it is not finite.
    """

    update: int
    seconds: float | None
    score: float | None
    loss: float | None


def moments(run: Run, metric: str) -> list[Moment]:
    """The validations of a run, from its log; their times are in its ledger."""
    scores = [*_scores(run.log())]
    times: list[Any] = run.ledger.get("seconds_at_scores") or []
    if len(times) != len(scores):  # a run that ended early has no ledger, and older ones have no times
        times = [None] * len(scores)
    return [
        Moment(update, seconds, score["metrics"].get(metric), score.get("loss"))
        for (update, score), seconds in zip(scores, times, strict=True)
    ]


def _scores(log: Sequence[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Validations, and the updates before each: a log counts those of a stage."""
    stage, before, here = None, 0, 0
    for line in log:
        if line["kind"] not in ("score", "update"):
            continue
        if line["stage"] != stage:
            stage, before, here = line["stage"], before + here, 0
        here = max(here, line["update"])
        if line["kind"] == "score":
            yield before + line["update"], line
