"""Charts for a page, as SVG that takes its colours from the page: marks with intervals, lines, axes, labels.

Each chart says in words what it shows, for those who do not see it. A mark tells what it is by its shape and its label
as well as by its colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hfstrat.report.markup import Markup, tag
from hfstrat.report.svg import fitted, text_width

# In units of the picture, which is as wide as its box.
WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 18, 16, 52
SIZE = 12
LOOKS = 8
"""Colours of series; `look-0` and so on in the page's style."""
DASHES = ("", "7 4", "2 3", "9 3 2 3")
SHAPES = ("circle", "square", "diamond", "triangle", "cross")
_CAP, _RADIUS = 4, 5
_ROOM = 200  # of a label
# Where a label may stand: its nearer end, from its mark, nearest first. Right comes before left.
_PLACES = sorted(
    ((right, up) for right in (10, -10, 34, -34, 66, -66) for up in (4, -6, 14, -18, 26, -30, 40, -44, 58, -62)),
    key=lambda place: (place[0] ** 2 + place[1] ** 2, -place[0]),
)
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Axis:
    """One direction of a chart.

    Args:
        title: What is measured along it.
        low: Its lower end.
        high: Its upper end.
        write: A value of it as text.
        is_log: Whether equal distances are equal factors.
    """

    title: str
    low: float
    high: float
    write: Callable[[float], str]
    is_log: bool = False

    @classmethod
    def over(
        cls,
        title: str,
        values: Sequence[float],
        write: Callable[[float], str],
        *,
        is_log: bool = False,
        margin: float = 0.06,
    ) -> Axis:
        """An axis on which all values have room.

        Args:
            title: What is measured along it.
            values: What has to be seen; positive ones on a logarithmic axis.
            write: A value as text.
            is_log: Whether equal distances are equal factors.
            margin: Room on either side, as a share of the axis.
        """
        low, high = min(values), max(values)
        if is_log:
            room = max(math.log(high / low), math.log(2)) * margin
            return cls(title, low / math.exp(room), high * math.exp(room), write, is_log=True)
        room = (high - low or abs(high) or 1.0) * margin
        return cls(title, low - room, high + room, write)

    def share(self, value: float) -> float:
        """How far along the axis a value is, from 0 to 1."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values on it, at most eight or so."""
        if not self.is_log:
            raw = (self.high - self.low) / 6
            power = 10 ** math.floor(math.log10(raw))
            step = power * next(one for one in (1, 2, 2.5, 5, 10) if one * power >= raw)
            first, last = math.ceil(self.low / step), math.floor(self.high / step)
            return [place * step for place in range(first, last + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for parts in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            found = [part * 10**decade for decade in decades for part in parts]
            found = [tick for tick in found if self.low <= tick <= self.high]
            if len(found) <= 8:
                break
        return found if len(found) > 1 else [self.low * (self.high / self.low) ** share for share in (0.1, 0.5, 0.9)]


@dataclass(frozen=True)
class Mark:
    """A point with its interval.

    Args:
        label: What stands beside it.
        about: What it says in words.
        x: Where it is.
        y: Its value.
        low: Lower end of the interval.
        high: Upper end.
        look: Class of its colour.
        shape: One of SHAPES.
        is_hollow: Whether it is drawn as an outline.
    """

    label: str
    about: str
    x: float
    y: float
    low: float
    high: float
    look: str
    shape: str = "circle"
    is_hollow: bool = False


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Args:
        label: What they are.
        points: x, y, and the ends of the interval, which may be y itself.
        number: Its place among all, by which it has a look of its own.
        shared: Class of a colour that others have too, in place of its own; and its place among these.
    """

    label: str
    points: Sequence[tuple[float, float, float, float]]
    number: int
    shared: tuple[str, int] | None = None

    @property
    def look(self) -> str:
        """Class of its colour."""
        return self.shared[0] if self.shared else f"look-{self.number % LOOKS}"

    @property
    def dash(self) -> str:
        """Of its line."""
        return DASHES[(self.shared[1] if self.shared else self.number // LOOKS) % len(DASHES)]

    @property
    def shape(self) -> str:
        """Of its marks."""
        return SHAPES[self.number % len(SHAPES)]


def scatter(
    identity: str,
    title: str,
    marks: Sequence[Mark],
    x: Axis,
    y: Axis,
    *,
    floors: Sequence[tuple[str, float]] = (),
    front: Sequence[tuple[float, float]] = (),
) -> Markup:
    """Marks with labels, dashed floors and the steps of a Pareto front.

    Args:
        identity: An id that no other chart of the page has.
        title: What it shows.
        marks: The marks.
        x: Rightwards.
        y: Upwards.
        floors: Name and value of what is drawn as a line from side to side.
        front: Corners of the front, by x.
    """
    frame = Frame(x, y)
    drawn = [*frame.axes()]
    for name, value in floors:
        if y.low <= value <= y.high:
            at = frame.y(value)
            line = {"class": "floor", "d": f"M{LEFT} {at:.1f}H{WIDTH - RIGHT}"}
            drawn.append(tag("path", line, tag("title", {}, f"{name}: {y.write(value)}")))
    if front:
        drawn.append(tag("path", {"class": "front", "d": _steps(frame, front)}))
    placed = _labels(frame, marks)
    for mark, label in zip(marks, placed, strict=True):
        drawn.append(tag("g", {"class": mark.look}, tag("title", {}, mark.about), *_marked(frame, mark), label))
    said = "; ".join(mark.about for mark in marks)
    lines = "".join(f"; floor {name}: {y.write(value)}" for name, value in floors)
    return _document(identity, title, f"{y.title} against {x.title}. {said}{lines}.", drawn)


def lines(identity: str, title: str, series: Sequence[Series], x: Axis, y: Axis) -> Markup:
    """Lines through points with intervals; what they are stands in a legend beside the picture.

    Args:
        identity: An id that no other chart of the page has.
        title: What it shows.
        series: The lines.
        x: Rightwards.
        y: Upwards.
    """
    frame = Frame(x, y)
    drawn, said = [*frame.axes()], []
    for one in series:
        corners = " ".join(f"{frame.x(px):.1f} {frame.y(py):.1f}" for px, py, _, _ in one.points)
        line = {"class": "line", "d": f"M{corners}", "stroke-dasharray": one.dash or None}
        parts = [tag("path", line)] if len(one.points) > 1 else []
        for px, py, low, high in one.points:
            interval = f" [{y.write(low)}–{y.write(high)}]" if high > low else ""
            about = f"{one.label}: {y.write(py)}{interval} at {x.write(px)}"
            mark = Mark("", about, px, py, low, high, one.look, one.shape)
            parts.append(tag("g", {}, tag("title", {}, about), *_marked(frame, mark, radius=3.5)))
        drawn.append(tag("g", {"class": one.look, "data-series": one.number}, parts))
        first, last = one.points[0], one.points[-1]
        said.append(f"{one.label}: from {y.write(first[1])} at {x.write(first[0])} to {y.write(last[1])} at "
                    f"{x.write(last[0])}")  # fmt: skip
    return _document(identity, title, f"{y.title} against {x.title}. {'; '.join(said)}.", drawn)


def swatch(series: Series) -> Markup:
    """How a line looks, for a legend."""
    line = tag("path", {"class": "line", "d": "M1 7H33", "stroke-dasharray": series.dash or None})
    mark = tag("path", {"class": "mark", "d": _shape(series.shape, 17, 7, 3.5)})
    box = {
        "viewBox": "0 0 34 14",
        "width": "34",
        "height": "14",
        "aria-hidden": "true",
        "class": f"swatch {series.look}",
    }
    return tag("svg", box, line, mark)


@dataclass(frozen=True)
class Frame:
    """Where values are in a picture.

    Args:
        right: Its axis rightwards.
        up: Its axis upwards.
    """

    right: Axis
    up: Axis

    def x(self, value: float) -> float:
        """Distance from the left."""
        return LEFT + self.right.share(value) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Distance from the top."""
        return HEIGHT - BOTTOM - self.up.share(value) * (HEIGHT - TOP - BOTTOM)

    def axes(self) -> Iterator[Markup]:
        """Lines, numbers and titles."""
        floor = HEIGHT - BOTTOM
        for tick in self.up.ticks():
            at = self.y(tick)
            yield tag("path", {"class": "grid", "d": f"M{LEFT} {at:.1f}H{WIDTH - RIGHT}"})
            yield _text(LEFT - 8, at + 4, self.up.write(tick), "end")
        for tick in self.right.ticks():
            at = self.x(tick)
            yield tag("path", {"class": "grid", "d": f"M{at:.1f} {TOP}V{floor}"})
            yield _text(at, floor + 18, self.right.write(tick), "middle")
        yield tag("path", {"class": "axis", "d": f"M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}"})
        yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, self.right.title, "middle")
        turned = f"rotate(-90 14 {(TOP + floor) / 2:.1f})"
        yield _text(14, (TOP + floor) / 2, self.up.title, "middle", turned)


def _document(identity: str, title: str, about: str, drawn: Sequence[Markup]) -> Markup:
    head = tag("title", {"id": f"{identity}-title"}, title), tag("desc", {"id": f"{identity}-desc"}, about)
    root = {
        "viewBox": f"0 0 {WIDTH} {HEIGHT}",
        "role": "img",
        "aria-labelledby": f"{identity}-title {identity}-desc",
        "class": "chart",
    }
    return tag("svg", root, *head, drawn)


def _text(x: float, y: float, text: str, anchor: str = "start", turned: str | None = None) -> Markup:
    return tag("text", {"x": x, "y": y, "text-anchor": anchor, "transform": turned}, text)


def _steps(frame: Frame, front: Sequence[tuple[float, float]]) -> str:
    """Between two arms the cheaper one is still the best that this cost buys."""
    (x, y), *others = front
    path = f"M{frame.x(x):.1f} {frame.y(y):.1f}"
    return path + "".join(f"H{frame.x(right):.1f}V{frame.y(up):.1f}" for right, up in others) + f"H{WIDTH - RIGHT}"


def _marked(frame: Frame, mark: Mark, radius: float = _RADIUS) -> Iterator[Markup]:
    x, y = frame.x(mark.x), frame.y(mark.y)
    if not frame.up.low <= mark.y <= frame.up.high:
        yield tag("path", {"class": "mark", "d": _beyond(frame, mark, x)})
        return
    # An interval goes no further than the picture.
    low, high = frame.y(max(mark.low, frame.up.low)), frame.y(min(mark.high, frame.up.high))
    if mark.high > mark.low:
        caps = f"M{x - _CAP:.1f} {high:.1f}h{2 * _CAP}M{x - _CAP:.1f} {low:.1f}h{2 * _CAP}"
        yield tag("path", {"class": "interval", "d": f"M{x:.1f} {low:.1f}V{high:.1f}{caps}"})
    look = "mark hollow" if mark.is_hollow else "mark"
    yield tag("path", {"class": look, "d": _shape(mark.shape, x, y, radius)})


def _beyond(frame: Frame, mark: Mark, x: float) -> str:
    """A triangle at the edge, pointing to where the mark is."""
    if mark.y < frame.up.low:
        return f"M{x - 6:.1f} {HEIGHT - BOTTOM - 9}h12l-6 9z"
    return f"M{x - 6:.1f} {TOP + 9}h12l-6 -9z"


def _shape(shape: str, x: float, y: float, r: float) -> str:
    if shape == "square":
        return f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z"
    if shape == "diamond":
        r *= 1.3
        return f"M{x:.1f} {y - r:.1f}l{r:.1f} {r:.1f}l{-r:.1f} {r:.1f}l{-r:.1f} {-r:.1f}z"
    if shape == "triangle":
        return f"M{x:.1f} {y - 1.2 * r:.1f}l{1.2 * r:.1f} {2.1 * r:.1f}h{-2.4 * r:.1f}z"
    if shape == "cross":
        return f"M{x - r:.1f} {y - r:.1f}l{2 * r} {2 * r}m0 {-2 * r}l{-2 * r} {2 * r}"
    return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"


# --- labels -------------------------------------------------------------------------------------------------------


def _labels(frame: Frame, marks: Sequence[Mark]) -> list[Markup]:
    """A label for each mark, at the nearest place where it covers nothing; those far off get a line to it."""
    anchors = [(frame.x(mark.x), min(max(frame.y(mark.y), TOP), HEIGHT - BOTTOM - 4)) for mark in marks]
    taken = [_own(frame, mark, *anchor) for mark, anchor in zip(marks, anchors, strict=True)]
    chosen: dict[int, Markup] = {}
    for number in sorted(range(len(marks)), key=lambda one: anchors[one][1]):
        (x, y), label = anchors[number], fitted(marks[number].label, _ROOM)
        boxes = [_box(x, y, label, place) for place in _PLACES]
        # Of the box of its own mark no label is clear, which costs all places alike.
        costs = [_covered(box, taken) for box in boxes]
        best = min(range(len(costs)), key=lambda place: (round(costs[place], 1), place))
        taken.append(boxes[best])
        right, up = _PLACES[best]
        text = _text(x + right, y + up, label, "start" if right > 0 else "end")
        leader = tag("path", {"class": "leader", "d": f"M{x:.1f} {y:.1f}l{0.8 * right:.1f} {up - 4:.1f}"})
        chosen[number] = Markup(leader + text) if abs(right) > 30 or abs(up) > 20 else text
    return [chosen[number] for number in range(len(marks))]


def _own(frame: Frame, mark: Mark, x: float, y: float) -> Box:
    low, high = (min(max(frame.y(end), TOP), HEIGHT - BOTTOM) for end in (mark.low, mark.high))
    return x - 6, min(high, y - 6), x + 6, max(low, y + 6)


def _box(x: float, y: float, label: str, place: tuple[int, int]) -> Box:
    width, (right, up) = text_width(label, SIZE), place
    left = x + right - (width if right < 0 else 0)
    return left, y + up - 0.8 * SIZE, left + width, y + up + 0.25 * SIZE


def _covered(box: Box, taken: Sequence[Box]) -> float:
    """Area of a label that lies on something else; outside of the picture counts most."""
    inside = _shared(box, (LEFT, TOP - 10, WIDTH, HEIGHT - BOTTOM))
    outside = (box[2] - box[0]) * (box[3] - box[1]) - inside
    return sum(_shared(box, other) for other in taken) + 10 * outside


def _shared(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
