"""Advice: what is recommended, shown with everything that it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfstrat.report import tables
from hfstrat.report.notebook import as_html
from hfstrat.study.advise.deciding import LEVEL, Decision, Flip, Question, Ranked
from hfstrat.study.advise.evidence import INTERVAL
from hfstrat.study.advise.limits import MEASURED, Excluded
from hfstrat.study.advise.piloting import Pilots

if TYPE_CHECKING:
    import pandas
    from rich.console import RenderableType


@dataclass(frozen=True)
class Advice:
    """A recommendation and its evidence.

    Args:
        name: The recipe's.
        where: The machine that figures are for.
        question: Evidence, figures, limits, tolerance and pilots: all that the answer depends on.
        decision: The answer.
        without_pilots: What it would be without pilots; the same where there were none.
        excluded: Strategies that are out of the question, and why.
        pilots: What was tried, or why nothing was.
        flips: What would change the answer.
        recipe: The recommended recipe, in YAML.
        path: Where it was written; None where it was not.
        rows: Examples at hand; the question may be about more.
        seconds: That the advice took, pilots included.
    """

    name: str
    where: str
    question: Question
    decision: Decision
    without_pilots: Decision
    excluded: tuple[Excluded, ...]
    pilots: Pilots
    flips: tuple[Flip, ...]
    recipe: str
    path: Path | None
    rows: int
    seconds: float

    @property
    def chosen(self) -> Ranked:
        """The recommended strategy with its figures."""
        assert self.decision.recommended is not None, "advice recommends something"
        return self.decision.recommended

    @property
    def recommended(self) -> str:
        """The kind of the recommended strategy."""
        return self.chosen.kind

    @property
    def probability(self) -> float:
        """That it is within the margin of the best strategy within the limits."""
        return self.chosen.probability

    @property
    def probability_without_pilots(self) -> float:
        """The same by the rules alone, of the same strategy."""
        return next(one.probability for one in self.without_pilots.ranked if one.kind == self.recommended)

    @property
    def command(self) -> str:
        """What trains as recommended."""
        from shlex import quote

        return f"hfstrat train {quote(str(self.path or f'{self.name}-advised.yaml'))}"

    @cached_property
    def reasons(self) -> dict[str, str]:
        """What each of the seven factors has to say."""
        return dict(_reasons(self))

    def records(self) -> list[dict[str, Any]]:
        """A plain record for each strategy within the limits, likeliest first."""
        return [self._record(one) for one in self.decision.ranked]

    def _record(self, one: Ranked) -> dict[str, Any]:
        score = self._scores(one)
        return {
            "strategy": one.kind,
            "recommended": one.kind == self.recommended,
            "probability": one.probability,
            "probability_without_pilots": next(
                (each.probability for each in self.without_pilots.ranked if each.kind == one.kind), None
            ),
            "points": one.mean,
            "points_sd": one.sd,
            "score": None if score is None else {"value": score[0], "low": score[1], "high": score[2]},
            "seconds": one.option.seconds,
            "memory": one.option.memory,
            "cost": one.option.cost,
            "artifact": one.option.artifact,
            "why": one.why,
        }

    def _scores(self, one: Ranked) -> tuple[float, float, float] | None:
        """Expected score with its 95 % interval in the metric; None where only differences are expected.

        The probe's own score, from which differences are counted, is as unsure as the validation split is small.
        """
        evidence = self.question.evidence
        if evidence.probe is None:
            return None
        zero, half = evidence.points(evidence.probe.validation), INTERVAL * math.hypot(one.sd, evidence.noise)
        value, *ends = (evidence.value(min(100.0, zero + one.mean + sign * half)) for sign in (0.0, -1.0, 1.0))
        return value, min(ends), max(ends)

    def table(self) -> pandas.DataFrame:
        """The strategies within the limits as a data frame."""
        import pandas

        return pandas.json_normalize(self.records())

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        evidence, question = self.question.evidence, self.question
        return {
            "name": self.name,
            "where": self.where,
            "recommended": self.recommended,
            "probability": self.probability,
            "probability_without_pilots": self.probability_without_pilots,
            "recommended_without_pilots": None
            if self.without_pilots.recommended is None
            else self.without_pilots.recommended.kind,
            "metric": evidence.metric,
            "tolerance": question.tolerance,
            "margin": question.margin,
            "rows": self.rows,
            "rows_asked": evidence.rows,
            "limits": asdict(question.limits),
            "strategies": self.records(),
            "excluded": [asdict(one) for one in self.excluded],
            "evidence": {**asdict(evidence), "warnings": list(evidence.warnings)},
            "pilots": {
                "rungs": [asdict(one) for one in self.pilots.rungs],
                "reason": self.pilots.reason,
                "path": None if self.pilots.path is None else str(self.pilots.path),
                "seconds": self.pilots.seconds,
            },
            "reasons": self.reasons,
            "flips": [asdict(one) for one in self.flips],
            "recipe": self.recipe,
            "path": None if self.path is None else str(self.path),
            "command": self.command,
            "seconds": self.seconds,
        }

    def __rich__(self) -> RenderableType:
        """The answer, the strategies, what speaks for it, and what would change it."""
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = [Text(_headline(self), "bold"), _strategies(self)]
        lines = [f"{one.kind}: {one.why}" for one in self.decision.ranked]
        lines += [f"{name}: {text}" for name, text in self.reasons.items()]
        lines += [_pilot_line(self), *(f"{one.kind} is out: {one.why}{_fix(one)}" for one in self.excluded)]
        lines += [f"It would be {one.recommended} {_when(one)}." for one in self.flips]
        return Group(*parts, *(Text(line) for line in lines))

    def _repr_html_(self) -> str:
        return as_html(self)


def _headline(advice: Advice) -> str:
    question, chosen = advice.question, advice.chosen
    text = f"{advice.name}: train by {chosen.kind}. "
    text += f"Within {question.margin:.1f} points of the best: {chosen.probability:.2f}"
    if advice.pilots.rungs:
        text += f" ({advice.probability_without_pilots:.2f} without pilots)"
    likeliest = advice.decision.ranked[0]
    if chosen is not likeliest:
        text += f"; likeliest is {likeliest.kind}, {likeliest.probability:.2f}"
    elif len(advice.decision.ranked) > 1:
        text += f"; next is {advice.decision.ranked[1].kind}, {advice.decision.ranked[1].probability:.2f}"
    return f"{text}. Of those at least {LEVEL} as likely as the likeliest it is the cheapest."


def _strategies(advice: Advice) -> RenderableType:
    from rich import box
    from rich.table import Table

    evidence = advice.question.evidence
    priced = any(one.option.cost is not None for one in advice.decision.ranked)
    expected = evidence.metric if evidence.probe is not None else "points to full"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="bold")
    for title in (
        "strategy",
        expected,
        "P(within)",
        "time",
        "memory",
        *(["cost"] if priced else []),
        "artefact",
    ):
        table.add_column(title, justify="left" if title == "strategy" else "right")
    for one in advice.decision.ranked:
        scores, option = advice._scores(one), one.option
        if scores is None:
            shown = f"{one.mean:+.1f} ±{INTERVAL * one.sd:.1f}"
        else:
            shown = f"{scores[0]:.3f} [{scores[1]:.3f}–{scores[2]:.3f}]"
        cells = [
            one.kind,
            shown,
            f"{one.probability:.2f}",
            _text(option.seconds, "time"),
            _text(option.memory, "memory"),
            *([_text(option.cost, "cost")] if priced else []),
            _text(option.artifact, "artifact"),
        ]
        table.add_row(*cells, style="green" if one is advice.chosen else None)
    return table


def _text(value: float | None, limit: str) -> str:
    return "" if value is None else MEASURED[limit].write(value)


def _reasons(advice: Advice) -> Iterator[tuple[str, str]]:
    evidence, chosen, limits = advice.question.evidence, advice.chosen, advice.question.limits
    option = chosen.option
    rows = f"{evidence.rows:,} examples" + (f", {evidence.per_class:,.0f} a class" if evidence.classes else "")
    asked = "" if evidence.rows == advice.rows else f" as asked; {advice.rows:,} are at hand"
    told = evidence.detectable
    tests = f"; {evidence.test_rows:,} test items tell {told:.1f} points apart" if told is not None else ""
    more = (
        ", so the tolerance is that, and more of them would help first"
        if told and told > advice.question.tolerance
        else ""
    )
    yield "data", f"{rows}{asked}{tests}{more}"
    yield "compute", f"{_text(option.memory, 'memory') or 'unknown'} of memory{_of(limits.memory, 'memory')}"
    dearest = max((one.option.seconds or 0.0 for one in advice.decision.ranked), default=0.0)
    takes = f"{_text(option.seconds, 'time') or 'unknown'}{_of(limits.time, 'time')}"
    yield "time", f"{takes}; the longest would take {tables.duration(dearest)}"
    yield "money", "no price was given" if option.cost is None else f"{option.cost:,.2f}{_of(limits.cost, 'cost')}"
    yield "similarity", " ".join(_similarity(advice))
    keeps = "has to change" if limits.architecture_changes else "may stay"
    yield "flexibility", f"the architecture {keeps}"
    yield (
        "deployment",
        f"{_text(option.artifact, 'artifact') or 'unknown'} of weights{_of(limits.artifact, 'artifact')}",
    )


def _of(limit: float | None, name: str) -> str:
    return "" if limit is None else f" of {MEASURED[name].write(limit)}"


def _similarity(advice: Advice) -> Iterator[str]:
    evidence, probe = advice.question.evidence, advice.question.evidence.probe
    if probe is None:
        yield f"no probe: {evidence.without_probe};"
    else:
        yield f"a linear layer on frozen features has {probe.validation:.3f} on validation,"
        yield f"{probe.train:.3f} in training;"
        yield f"nearest neighbours {probe.neighbours:.3f};"
        if probe.slope is not None:
            yield f"twice the examples add {probe.slope.value:+.3f};"
    name = evidence.floor
    if name is None or evidence.floors is None:
        yield "no floor goes with the task"
    else:
        yield f"the floor {name} has {evidence.floors[name].validation:.3f}{_hardly(advice, name)}"


def _hardly(advice: Advice, floor: str) -> str:
    """What is to be said where a floor is as good as what is recommended."""
    evidence = advice.question.evidence
    if evidence.probe is None or evidence.floors is None:
        return ""
    behind = evidence.points(evidence.probe.validation) - evidence.points(evidence.floors[floor].validation)
    near = behind + advice.chosen.mean <= advice.question.margin
    return ", so near that no network may be needed" if near else ""


def _pilot_line(advice: Advice) -> str:
    pilots = advice.pilots
    if not pilots.rungs:
        return f"No pilots: {pilots.reason}."
    shown = "; ".join(f"{one.rows:,} examples: {_scores_of(one.scores)}" for one in pilots.rungs)
    return f"Pilots, points on validation, {shown}.{f' No more: {pilots.reason}.' if pilots.reason else ''}"


def _scores_of(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {value:.1f}" for kind, value in scores.items()) or "none ended well"


def _fix(one: Excluded) -> str:
    return f" ({one.fix})" if one.fix else ""


def _when(one: Flip) -> str:
    if one.what == "rows":
        return f"with {one.value:,.0f} examples"
    if one.what == "tolerance":
        return f"with a tolerance of {one.value:g} points"
    return f"if {MEASURED[one.what].write(one.value)} {MEASURED[one.what].noun} may be taken and no more"
