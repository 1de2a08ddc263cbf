"""The picture of a comparison: what each arm reaches, and what it costs to get there."""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfstrat.recipe.compare import FLOORS
from hfstrat.report.curves import Curves
from hfstrat.report.tables import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR_COLOUR = "#7f7f7f"
# The palette of Okabe and Ito (2008), which colour-blind readers can tell apart.
COLOURS = {
    "head": "#0072B2",
    "lora": "#009E73",
    "full": "#D55E00",
    "partial": "#CC79A7",
    "distill": "#56B4E9",
    "scratch": "#8c6d1f",
    "qlora": "#E69F00",
    "peft": "#6a3d9a",
}
OTHER_COLOUR = "#222222"


@dataclass(frozen=True)
class Point:
    """An arm in the picture.

    Args:
        line: The arm.
        x: What it cost, such as seconds.
        y: Value of the metric.
        low: Lower end of its interval; the value itself when there is none.
        high: Upper end.
        name: What it is called.
    """

    line: Line
    x: float
    y: float
    low: float
    high: float
    name: str

    @property
    def is_floor(self) -> bool:
        """Whether it is a baseline without a neural network."""
        return self.line.kind in FLOORS

    @property
    def colour(self) -> str:
        """Colour of its kind."""
        return FLOOR_COLOUR if self.is_floor else COLOURS.get(self.line.kind, OTHER_COLOUR)


def quality_against_time(
    lines: Sequence[Line], path: str | Path, metric: str, *, train_rows: int | None = None
) -> Path | None:
    """Draw quality against wall time, with intervals, floors and the Pareto front, as a PNG.

    Args:
        lines: The arms; those that did not end well are named below the picture.
        path: Where to.
        metric: What is drawn upwards.
        train_rows: Size of the recipe's training split, whose arms get filled markers; None: the most frequent one.

    Returns:
        The file; None when matplotlib is not installed or no arm has both a time and the metric.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return None
    points = points_of(lines, metric)
    if not points:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure of its own, without pyplot, leaves the backend and the settings of a notebook alone.
    figure = Figure(figsize=(10, 6.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    higher = _higher_is_better(lines, metric)
    _set_axes(axes, points, metric, higher, "wall time of the whole run, seconds (log scale)")
    _draw_floors(axes, points)
    _draw_front(axes, points, higher)
    _draw_points(axes, points, _usual_rows(points) if train_rows is None else train_rows)
    _draw_notes(figure, axes, lines, points)
    _place_labels(figure, axes, points)
    figure.savefig(path)
    return Path(path)


def quality_against_rows(lines: Sequence[Line], curves: Curves, path: str | Path, metric: str) -> Path | None:
    """Draw quality against training examples, a curve for each strategy and floor with its intervals, as a PNG.

    Args:
        lines: The arms.
        curves: Their names by strategy or floor, and amount of data.
        path: Where to.
        metric: What is drawn upwards.

    Returns:
        The file; None when matplotlib is not installed or no curve has two points.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return None
    drawn = curves_to_draw(lines, curves, metric)
    if not drawn:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = [point for curve in drawn.values() for point in curve]
    _set_axes(axes, points, metric, _higher_is_better(lines, metric), "training rows (log scale)")
    for curve in drawn.values():
        style = (0, (5, 4)) if curve[0].is_floor else "-"
        axes.plot([p.x for p in curve], [p.y for p in curve], color=curve[0].colour, linestyle=style, zorder=2)
    _draw_points(axes, points, None)
    arms = {arm for family in curves.values() for arm in family.values()}
    _draw_notes(figure, axes, [line for line in lines if line.arm in arms], points, curves=True)
    _place_labels(figure, axes, [curve[-1] for curve in drawn.values()])
    figure.savefig(path)
    return Path(path)


def curves_to_draw(lines: Sequence[Line], curves: Curves, metric: str) -> dict[str, list[Point]]:
    """The points of each curve that has any, from the fewest training rows on; empty where no curve has two."""
    found: dict[str, list[Point]] = {}
    for name, arms in curves.items():
        points = points_of([line for line in lines if line.arm in arms.values()], metric, "train_rows")
        if points:
            found[name] = sorted((replace(point, name=name) for point in points), key=lambda point: point.x)
    return found if any(len(points) > 1 for points in found.values()) else {}


def pareto_front(points: Sequence[Point], *, higher_is_better: bool = True) -> list[Point]:
    """The points that no other one beats in both cost and quality, by cost."""
    sign, front = (1 if higher_is_better else -1), []
    best = float("-inf")
    for point in sorted(points, key=lambda one: (one.x, -sign * one.y)):
        if sign * point.y > best:
            front.append(point)
            best = sign * point.y
    return front


def _higher_is_better(lines: Sequence[Line], metric: str) -> bool:
    """Which way of a metric is up."""
    return next((line.metrics[metric].higher_is_better for line in lines if metric in line.metrics), True)


def points_of(lines: Sequence[Line], metric: str, cost: str = "seconds") -> list[Point]:
    """The arms of which both the metric and a cost, which is a field of their lines, were measured."""
    found = []
    for line in lines:
        measure, x = line.metrics.get(metric), getattr(line, cost)
        if line.state == "done" and x and measure is not None and measure.value is not None:
            value = measure.value
            low, high = (value if end is None else end for end in (measure.low, measure.high))
            # The mean of bounds always holds the mean of values, but rounding may say otherwise.
            found.append(Point(line, x, value, min(low, value), max(high, value), line.arm))
    return found


def _usual_rows(points: Sequence[Point]) -> int | None:
    rows = [point.line.train_rows for point in points if not point.is_floor]
    return max(rows, key=rows.count) if rows else None


def frame(points: Sequence[Point], higher: bool) -> tuple[float, float]:
    """Lowest and highest value to show: all arms and the best floor, and other floors unless they are far away.

    With many classes a majority vote is so far off that the arms would lie on one line.
    """
    floors = sorted((point for point in points if point.is_floor), key=lambda one: -one.y if higher else one.y)
    shown = [point for point in points if not point.is_floor] + floors[:1]
    for floor in floors[1:]:
        low, high = min(point.low for point in shown), max(point.high for point in shown)
        if max(low - floor.low, floor.high - high) <= 1.5 * (high - low):
            shown.append(floor)
    return min(point.low for point in shown), max(point.high for point in shown)


def _set_axes(axes: Axes, points: Sequence[Point], metric: str, higher: bool, across: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    least, most = min(point.x for point in points), max(point.x for point in points)
    axes.set_xlim(least / 1.8, most * 2.6)  # labels stand on the right
    bottom, top = frame(points, higher)
    margin = 0.09 * (top - bottom) or 0.01
    axes.set_ylim(bottom - margin, top + margin)
    if most / least < 100:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=11)
    axes.set_xlabel(across, fontsize=12)
    axes.set_ylabel(f"{metric} on test" + ("" if higher else " (lower is better)"), fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_floors(axes: Axes, points: Sequence[Point]) -> None:
    for point in points:
        if point.is_floor:
            axes.axhline(point.y, color=FLOOR_COLOUR, linestyle=(0, (5, 4)), linewidth=1.2, zorder=1)


def _draw_front(axes: Axes, points: Sequence[Point], higher: bool) -> None:
    front = pareto_front(points, higher_is_better=higher)
    # Steps: between two arms, the faster one is still the best that this time buys.
    axes.step(
        [point.x for point in front], [point.y for point in front], where="post",
        color="#b5b5b5", linewidth=2.2, solid_capstyle="round", zorder=2, label="Pareto front",
    )  # fmt: skip


def _draw_points(axes: Axes, points: Sequence[Point], train_rows: int | None) -> None:
    for point in points:
        if edge := _edge(axes, point):
            axes.plot(point.x, edge[0], marker=edge[1], markersize=11, color=point.colour, clip_on=False, zorder=3)
            continue
        filled = point.is_floor or train_rows is None or point.line.train_rows in (None, train_rows)
        axes.errorbar(
            point.x, point.y, yerr=[[point.y - point.low], [point.high - point.y]],
            fmt="s" if point.is_floor else "o", markersize=9, markeredgewidth=2, color=point.colour,
            markerfacecolor=point.colour if filled else "white",
            elinewidth=1.6, capsize=4, capthick=1.6, zorder=3,
        )  # fmt: skip


def _edge(axes: Axes, point: Point) -> tuple[float, str] | None:
    """Where and with which marker a point stands that is outside of the axes."""
    bottom, top = axes.get_ylim()
    if bottom <= point.y <= top:
        return None
    return (bottom, "v") if point.y < bottom else (top, "^")


def _draw_notes(
    figure: Figure, axes: Axes, lines: Sequence[Line], points: Sequence[Point], *, curves: bool = False
) -> None:
    """What the marks mean, below the picture, and which arms are missing from it."""
    said = ["bars: 95 % interval over test items", *([] if curves else ["grey line: Pareto front"])]
    if any(point.is_floor for point in points):
        said.append("dashed: floors")
    if not curves and len({point.line.train_rows for point in points if not point.is_floor}) > 1:
        said.append("hollow: another number of training rows")
    if any(_edge(axes, point) for point in points):
        said.append("triangle: beyond the edge, value in brackets")
    shown = {id(point.line) for point in points}
    missing = [f"{line.arm} ({line.state or 'not a run'})" for line in lines if id(line) not in shown]
    notes = [" · ".join(said), *([f"not shown: {', '.join(missing)}"] if missing else [])]
    wrapped = "\n".join(textwrap.fill(note, 125) for note in notes)
    figure.supxlabel(wrapped, fontsize=10, color="#555555", x=0.01, ha="left")


# --- labels ------------------------------------------------------------------------------------------------------

# Where a label may stand: its nearer end, in points from its marker, nearest first. Right comes before left.
_PLACES = sorted(
    ((right, up) for right in (11, -11, 38, -38, 70, -70) for up in (8, -8, 23, -23, 38, -38, 53, -53, 68, -68)),
    key=lambda place: (place[0] ** 2 + place[1] ** 2, -place[0]),
)
_FONT_SIZE = 11.5


def _place_labels(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Put each label at the nearest place where it covers nothing; those that stand far off get a leader line."""
    figure.canvas.draw()  # the layout settles here; without it positions are those of an empty figure
    figure.set_layout_engine("none")
    inside = axes.get_window_extent()
    taken = [box for point in points for box in _own_boxes(figure, axes, point)]
    for point in sorted(points, key=lambda one: -one.y):
        width = _label_width(figure, axes, point)
        boxes = [_label_box(figure, axes, point, place, width) for place in _PLACES]
        costs = [_cost(box, inside, taken) for box in boxes]
        chosen = min(range(len(costs)), key=lambda place: (costs[place], place))
        taken.append(boxes[chosen])
        _label(axes, point, _PLACES[chosen])


def _text_of(axes: Axes, point: Point) -> str:
    return f"{point.name} ({point.y:.3f})" if _edge(axes, point) else point.name


def _anchor(axes: Axes, point: Point) -> tuple[float, float]:
    """Where a point's marker is, in data."""
    edge = _edge(axes, point)
    return point.x, edge[0] if edge else point.y


def _label_width(figure: Figure, axes: Axes, point: Point) -> float:
    """How wide a label is, in pixels."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    letters = TextPath((0, 0), _text_of(axes, point), size=_FONT_SIZE, prop=FontProperties(weight="bold"))
    return float((letters.get_extents().width + 2) * figure.dpi / 72)


def _label_box(figure: Figure, axes: Axes, point: Point, place: tuple[int, int], width: float) -> Any:
    """What a label would cover, in pixels."""
    from matplotlib.transforms import Bbox

    scale = figure.dpi / 72
    x, y = axes.transData.transform(_anchor(axes, point))
    x, y, half = x + place[0] * scale, y + place[1] * scale, 0.62 * _FONT_SIZE * scale
    return Bbox([[x - width * (place[0] < 0), y - half], [x + width * (place[0] > 0), y + half]])


def _label(axes: Axes, point: Point, place: tuple[int, int]) -> None:
    right, up = place
    leader = {"arrowstyle": "-", "color": point.colour, "linewidth": 0.8, "alpha": 0.6, "shrinkA": 0, "shrinkB": 5}
    axes.annotate(
        _text_of(axes, point), _anchor(axes, point), xytext=place, textcoords="offset points",
        ha="left" if right > 0 else "right", va="center",
        fontsize=_FONT_SIZE, color=point.colour, fontweight="bold", zorder=5, annotation_clip=False,
        arrowprops=leader if abs(right) > 30 or abs(up) > 16 else None,
        # A white ground keeps letters readable over lines.
        bbox={"boxstyle": "square,pad=0.03", "facecolor": "white", "alpha": 0.75, "edgecolor": "none"},
    )  # fmt: skip


def _own_boxes(figure: Figure, axes: Axes, point: Point) -> list[Any]:
    """What a point covers, in pixels: its marker and its bar."""
    from matplotlib.transforms import Bbox

    x, y = axes.transData.transform(_anchor(axes, point))
    marker, cap = 6 * figure.dpi / 72, 3 * figure.dpi / 72
    boxes = [Bbox([[x - marker, y - marker], [x + marker, y + marker]])]
    if _edge(axes, point) is None:
        (_, low), (_, high) = axes.transData.transform([(point.x, point.low), (point.x, point.high)])
        boxes.append(Bbox([[x - cap, low], [x + cap, high]]))
    return boxes


def _cost(box: Any, inside: Any, taken: Sequence[Any]) -> float:
    """Area of a label that lies on something else; outside of the axes counts most."""
    from matplotlib.transforms import Bbox

    overlaps = (Bbox.intersection(box, other) for other in taken)
    covered = sum(both.width * both.height for both in overlaps if both is not None)
    visible = Bbox.intersection(box, inside)
    hidden = box.width * box.height - (visible.width * visible.height if visible is not None else 0.0)
    return float(covered + 10 * max(0.0, hidden))
