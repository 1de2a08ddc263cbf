"""What a comparison says, in sentences: what was compared, which arm is best, what cannot be told, what failed."""

from __future__ import annotations

from typing import Any

import yaml

from hfstrat.report.card import data_name
from hfstrat.report.comparison import Compared, is_floor, names
from hfstrat.report.tables import Line, count, duration, number, score, size
from hfstrat.runs.directory import Run


def resolved(run: Run) -> dict[str, Any]:
    """The recipe of a run as plain data; empty where it has none."""
    found: dict[str, Any] = yaml.safe_load(run.recipe() or "") or {}
    return found


def summary(compared: Compared) -> list[str]:
    """The sentences, plain text."""
    said = (_compared(compared), _answer(compared), _cheapest(compared), _detectable(compared), _failed(compared))
    return [sentence for sentence in said if sentence]


def _compared(compared: Compared) -> str:
    strategies = [line for line in compared.lines if not is_floor(line)]
    floors = len(compared.lines) - len(strategies)
    recipe = next((found for run in compared.runs if (found := resolved(run))), {})
    task = f" of {recipe['task']['kind'].replace('_', ' ')} on {data_name(recipe)}" if recipe else ""
    kinds = ((len(strategies), "strategy", "strategies"), (floors, "floor", "floors"))
    arms = " and ".join(_several(*kind) for kind in kinds if kind[0])
    items = next((line.test_rows for line in compared.done if line.test_rows), None)
    tested = f" were scored by {compared.metric} on the same {items:,} test items" if items else " were compared"
    return f"{arms}{task}{tested}, in {_several(len(compared.runs), 'run', 'runs')}."


def _answer(compared: Compared) -> str:
    best, ties = compared.best, compared.ties
    if best is None:
        return "No arm has a score, so there is no best one."
    measure = best.metrics[compared.metric]
    ahead = "highest" if measure.higher_is_better else "lowest"
    said = f"{best.arm} has the {ahead} {compared.metric}, {score(measure)}"
    others = compared.others
    if not others:
        return f"{said}; there is no other arm that it could be tested against."
    pairs = len(compared.together)
    under = f"with p raised by Holm's rule for all {pairs} pairs" if pairs > 1 else "by a paired test"
    worse = [line for line in others if line not in ties]
    # Few are named; many are all others.
    listed = names(worse) if len(worse) < 4 else f"{'the' if ties else 'all'} {len(worse)} others"
    if not ties:
        return f"{said}, and {under} it is better than {listed}."
    better = f"; it is better than {listed}" if worse else ""
    return f"{said}, but {under} it cannot be told from {names(ties)}{better}."


def _cheapest(compared: Compared) -> str:
    """Where several are level, cost decides."""
    level = [line for line in (compared.best, *compared.ties) if line is not None]
    if len(level) < 2:
        return ""
    found: dict[str, list[str]] = {}
    for what, field, write in (
        ("the least time", "seconds", duration),
        ("the least memory", "peak_live_bytes", size),
        ("the fewest trained parameters", "trainable_parameters", count),
    ):
        known: list[tuple[float, Line]] = [
            (value, line) for line in level if (value := getattr(line, field)) is not None
        ]
        if len(known) == len(level):
            value, line = min(known, key=lambda one: one[0])
            found.setdefault(line.arm, []).append(f"{what} ({write(value)})")
    said = "; ".join(f"{arm} needed {', '.join(least)}" for arm, least in found.items())
    return f"Of these {len(level)}, {said}." if said else ""


def _detectable(compared: Compared) -> str:
    found = compared.detectable()
    if found is None:
        return ""
    unit = next(line.metrics[compared.metric].unit for line in compared.done if compared.metric in line.metrics)
    alone, together = (number(value, unit) for value in found)
    pairs = len(compared.together)
    more = f", and about {together} when all {pairs} pairs are tested together" if pairs > 1 else ""
    return (
        f"The smallest difference that this test set can tell from none is about {alone} for one pair alone{more} "
        "(half of the 95 % interval of a difference, in the median over pairs)."
    )


def _failed(compared: Compared) -> str:
    lines = compared.failed
    if not lines:
        return ""
    listed = ", ".join(f"{line.arm} ({line.state or 'not run'})" for line in lines)
    return f"{_several(len(lines), 'arm', 'arms')} did not end well: {listed}."


def _several(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
