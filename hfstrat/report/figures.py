"""The pictures of a report: fronts of quality and cost, curves, and what of a model trains."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hfstrat.report import charts
from hfstrat.report.charts import Axis, Mark, Series
from hfstrat.report.comparison import Compared, is_floor
from hfstrat.report.curves import Moment, moments
from hfstrat.report.links import Links
from hfstrat.report.markup import Markup, join, scrolled, tag
from hfstrat.report.palette import KINDS
from hfstrat.report.plot import Point, curves_to_draw, frame, pareto_front, points_of
from hfstrat.report.svg import svg
from hfstrat.report.tables import Line, arm_of, count, duration, number, size
from hfstrat.runs.directory import Run


@dataclass(frozen=True)
class Cost:
    """A cost that quality is held against.

    Args:
        field: Of a line.
        title: In words.
        short: In a word or two.
        write: A value as text.
        file: Where runs have it.
    """

    field: str
    title: str
    short: str
    write: Callable[[float], str]
    file: str


COSTS = (
    Cost("seconds", "wall time of the whole run", "time", duration, "ledger.json"),
    Cost("peak_live_bytes", "peak of live tensors", "peak memory", size, "ledger.json"),
    Cost("artifact_bytes", "size of the artefact's weights", "artefact size", size, "ledger.json"),
    Cost("trainable_parameters", "parameters that trained", "trained parameters", count, "plan.json"),
)


# --- quality against cost ----------------------------------------------------------------------------------------


def fronts(compared: Compared, links: Links) -> Markup:
    """Quality against each cost, with the Pareto front; empty where nothing was measured."""
    panels = [panel for cost in COSTS if (panel := _front(compared, cost, links))]
    if not panels:
        return Markup()
    notes = (
        "Bars: 95 % intervals over test items. The grey steps are the Pareto front: the best that a cost buys. "
        "Dashed: floors. A square is a floor, a hollow mark an arm on another amount of training data, a triangle at "
        "the edge a value beyond it."
    )
    return join([tag("p", {}, notes), tag("div", {"class": "panels", "data-panels": "Cost"}, panels)])


def _front(compared: Compared, cost: Cost, links: Links) -> Markup:
    points = points_of(compared.lines, compared.metric, cost.field)
    if not points:
        return Markup()
    write = _values(compared)
    low, high = frame(points, compared.higher_is_better)
    y = Axis.over(_upwards(compared), [low, high], write, margin=0.09)
    x = Axis.over(f"{cost.title} (log scale)", [point.x for point in points], cost.write, is_log=True, margin=0.12)
    rows = [point.line.train_rows for point in points if not point.is_floor]
    usual = max(rows, key=rows.count, default=None)
    marks = [_mark(point, usual, cost, y) for point in points]
    front = [(point.x, point.y) for point in pareto_front(points, higher_is_better=compared.higher_is_better)]
    # A floor costs so little that it may have no cost to be placed by; its line is there all the same.
    lines = [line for line in compared.done if is_floor(line) and compared.metric in line.metrics]
    floors = [(line.arm, value) for line in lines if (value := line.metrics[compared.metric].value) is not None]
    title = f"{compared.metric} against {cost.short}"
    picture = charts.scatter(f"front-{cost.field}", title, marks, x, y, floors=floors, front=front)
    runs = [run for run in compared.runs if any(run.name in point.line.runs for point in points)]
    return _figure(cost.short, title, picture, links.source(runs, "metrics.json", cost.file))


def _mark(point: Point, usual: int | None, cost: Cost, y: Axis) -> Mark:
    line = point.line
    interval = f" [{y.write(point.low)}–{y.write(point.high)}]" if point.high > point.low else ""
    beyond = not y.low <= point.y <= y.high
    return Mark(
        label=f"{line.arm} ({y.write(point.y)})" if beyond else line.arm,
        about=f"{line.arm}: {y.write(point.y)}{interval} for {cost.write(point.x)}",
        x=point.x,
        y=point.y,
        low=point.low,
        high=point.high,
        look=_look(line),
        shape="square" if point.is_floor else "circle",
        is_hollow=not point.is_floor and line.train_rows not in (None, usual),
    )


def _look(line: Line) -> str:
    """Class of the colour of its kind."""
    return f"kind-{'floor' if is_floor(line) else line.kind if line.kind in KINDS else 'other'}"


def _shared(lines: Mapping[str, Line]) -> Mapping[str, tuple[str, int]]:
    """The colours of kinds, as all figures of the page have them, for series by name; none where all are of one kind.

    Series of the same kind differ by their dashes.
    """
    looks = {name: _look(line) for name, line in lines.items()}
    names: dict[str, list[str]] = {}
    for name, look in looks.items():
        names.setdefault(look, []).append(name)
    if len(names) == 1:
        return {}
    return {name: (look, names[look].index(name)) for name, look in looks.items()}


# --- curves ------------------------------------------------------------------------------------------------------


def curves(compared: Compared, links: Links) -> Markup:
    """Quality over training rows, and validation over updates and time; empty without either."""
    return join([_over_rows(compared, links), _over_training(compared, links)])


def _over_rows(compared: Compared, links: Links) -> Markup:
    drawn = curves_to_draw(compared.lines, compared.curves, compared.metric)
    if not drawn:
        return Markup()
    every = [point for points in drawn.values() for point in points]
    shared = _shared({name: points[0].line for name, points in drawn.items()})
    series = [
        Series(name, [(point.x, point.y, point.low, point.high) for point in points], place, shared.get(name))
        for place, (name, points) in enumerate(drawn.items())
    ]
    x = Axis.over("training rows (log scale)", [point.x for point in every], lambda n: f"{n:,.0f}", is_log=True)
    y = Axis.over(_upwards(compared), [end for one in every for end in (one.low, one.high)], _values(compared))
    title = f"{compared.metric} against training rows"
    said = tag("ul", {}, (tag("li", {}, sentence) for sentence in compared.shape.sentences()))
    runs = [run for run in compared.runs if any(run.name in point.line.runs for point in every)]
    picture = join([charts.lines("curve-rows", title, series, x, y), _legend(series)])
    figure = _figure("", title, picture, links.source(runs, "metrics.json", "env.json"))
    return join([tag("h3", {}, "Amounts of training data"), figure, said])


def _over_training(compared: Compared, links: Links) -> Markup:
    """Validation of each run over its updates and over its seconds."""
    arms = {line.arm: line for line in compared.lines}
    found = {run: moments(run, compared.metric) for run in compared.runs}
    seen = {run: some for run, some in found.items() if some}
    panels = []
    for what, title, write in (
        ("score", f"validation {compared.metric}", _values(compared)),
        ("loss", "validation loss", lambda value: f"{value:.3g}"),
    ):
        for along in ("updates", "seconds"):
            panels.append(_history(seen, arms, (what, title, write), along, links))
    panels = [panel for panel in panels if panel]
    if not panels:
        return Markup()
    note = (
        "One line for each run, in the colour of its arm; arms that were solved and not fitted have one point. Times "
        "count from the start of a run, loading included."
    )
    box = tag("div", {"class": "panels", "data-panels": "Curve"}, panels)
    return join([tag("h3", {}, "Validation while training"), tag("p", {}, note), box])


def _history(
    seen: dict[Run, list[Moment]],
    arms: Mapping[str, Line],
    measured: tuple[str, str, Callable[[float], str]],
    along: str,
    links: Links,
) -> Markup:
    what, title, write = measured
    series, shared, place = [], _shared(arms), {arm: number for number, arm in enumerate(arms)}
    for run, some in seen.items():
        places = [(moment.update if along == "updates" else moment.seconds, getattr(moment, what)) for moment in some]
        points = [(float(x), y, y, y) for x, y in places if x is not None and y is not None]
        if points:
            arm = arm_of(run.name)
            series.append(Series(run.name, points, place[arm], shared.get(arm)))
    if not series:
        return Markup()
    every = [point for one in series for point in one.points]
    seconds = along == "seconds"
    spread = min(point[0] for point in every) > 0 and max(point[0] for point in every) > 20 * min(
        point[0] for point in every
    )
    name = f"{'wall time' if seconds else 'updates'}{' (log scale)' if seconds and spread else ''}"
    x = Axis.over(name, [point[0] for point in every], duration if seconds else lambda n: f"{n:,.0f}",
                  is_log=seconds and spread)  # fmt: skip
    y = Axis.over(title, [point[1] for point in every], write)
    shown = f"{title} against {'time' if seconds else along}"
    by_arm = {one.number: replace(one, label=arm_of(one.label)) for one in series}
    picture = join([charts.lines(f"curve-{what}-{along}", shown, series, x, y), _legend([*by_arm.values()])])
    names = {one.label for one in series}
    runs = [run for run in seen if run.name in names]
    files = ("log.jsonl", "ledger.json") if seconds else ("log.jsonl",)
    return _figure(f"{what} over {'time' if seconds else along}", shown, picture, links.source(runs, *files))


# --- layers ------------------------------------------------------------------------------------------------------


def drawings(compared: Compared, links: Links) -> Markup:
    """What is frozen and what trains in each arm; arms whose drawings are the same share one."""
    found: dict[str, list[Line]] = {}
    for line in compared.lines:
        plan = compared.run_of(line).read("plan.json")
        if plan and (plan.get("parameters") or {}).get("by_module"):
            found.setdefault(svg(plan), []).append(line)
    figures = []
    for picture, lines in found.items():
        arms = ", ".join(line.arm for line in lines)
        # As a picture it keeps its own style and its own names, of which a page may have each but once.
        coded = base64.b64encode(picture.encode()).decode()
        about = {"src": f"data:image/svg+xml;base64,{coded}", "alt": f"Layers of {arms}", "class": "drawing"}
        runs = [compared.run_of(line) for line in lines]
        figures.append(_figure("", arms, tag("img", about), links.source(runs, "plan.json")))
    if not figures:
        return Markup()
    note = (
        "From the input at the bottom to the output at the top: which layers are frozen, which train, what an adapter "
        "adds, and what starts from random numbers. Colour and pattern say the same, and so do the words beside."
    )
    return join([tag("p", {}, note), tag("div", {"class": "drawings"}, figures)])


# --- parts -------------------------------------------------------------------------------------------------------


def _figure(panel: str, title: str, picture: Markup, source: Markup) -> Markup:
    box = scrolled(picture, title)
    return tag("figure", {"data-panel": panel or None}, tag("figcaption", {}, title), box, source)


def _legend(series: Sequence[Series]) -> Markup:
    entries = (tag("li", {"data-series": one.number}, charts.swatch(one), " ", one.label) for one in series)
    return tag("ul", {"class": "legend"}, entries)


def _values(compared: Compared) -> Callable[[float], str]:
    """The deciding metric as text."""
    units = (line.metrics[compared.metric].unit for line in compared.done if compared.metric in line.metrics)
    unit = next(units, "fraction")
    return lambda value: number(value, unit)


def _upwards(compared: Compared) -> str:
    return f"{compared.metric} on test{'' if compared.higher_is_better else ' (lower is better)'}"
