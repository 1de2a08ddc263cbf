"""The drawing of a model as a vector picture, for browsers, documents and papers; written by hand, without a library.

Input is at the bottom and output at the top, as in papers. Each state has a pattern of its own beside its colour, so
that the colour-blind and prints in black and white tell them apart.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hfstrat.report.drawing import (
    ADAPTER,
    FROZEN,
    QUANTISED,
    RANDOM,
    TRAINING,
    Layer,
    Picture,
    Teacher,
    bar,
    picture,
    scales,
)
from hfstrat.report.tables import count

# Lengths are in pixels.
WIDTH = 760
MARGIN = 28
GAP = 14
MOST = 320  # for all boxes side by side
BOX, SHEET = 24, 4  # heights of a part, and of what shows of each sheet behind a stack of blocks
NEAR, FAR = 7, 18  # between boxes of a section, and between sections
ARROW, PILL, LOGITS, TEACHER, SWATCH = 22, 22, 58, 138, 26
LEAST = 8  # of a bar, that its pattern can be seen
RADIUS = 6
SIZE, SMALL = 12, 11  # of text

INK, QUIET, LINE, PAPER, FRAME = "#1f2933", "#5b6877", "#8593a3", "#ffffff", "#d3dae2"
COUNTS, RATES, ARROWS = "parameters", "learning rate", " → "
FONTS = "'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"


@dataclass(frozen=True)
class Paint:
    """How a state looks.

    Args:
        fill: Its colour.
        stroke: Colour of its pattern and its outline.
        tile: Side of the pattern's tile.
        pattern: What is drawn on a tile.
    """

    fill: str
    stroke: str
    tile: int
    pattern: str


PAINTS = {
    FROZEN: Paint("#d5dee8", "#7d8ea1", 8, ""),
    QUANTISED: Paint("#d5dee8", "#7d8ea1", 6, '<path d="M0 .5H6M.5 0V6" stroke="#8fa1b5"/>'),
    TRAINING: Paint(
        "#f6ad55", "#b35c00", 8, '<path d="M-2 2L2 -2M0 8L8 0M6 10L10 6" stroke="#cf6f0a" stroke-width="1.8"/>'
    ),
    ADAPTER: Paint("#12876a", "#075441", 7, '<path d="M0 0L7 7M7 0L0 7" stroke="#9fe0c9" stroke-width="1.2"/>'),
    RANDOM: Paint(
        "#e9a9d0",
        "#8e2a6b",
        8,
        '<path d="M2 2h.01M6 6h.01" stroke="#8e2a6b" stroke-width="2.9" stroke-linecap="round"/>',
    ),
}

# What a section gives: its elements, and the height at which it ends.
Section = tuple[list[str], float]

# Widths of characters over the font's size: those of DejaVu Sans, the widest font that is common. Unlisted capitals
# and what is wide in East Asian text have theirs in `_advance`.
_WIDE = {
    "ijlI|' ·.,:;/\\": 0.34,
    "ftr-()[]!": 0.42,
    '"_sz': 0.53,
    "ckvxy–": 0.6,
    "w+=<>~#^\N{MULTIPLICATION SIGN}→": 0.84,
    "mMW%@…": 1.0,
}
ADVANCES = {character: width for characters, width in _WIDE.items() for character in characters}
BOLD = 1.12


def svg(plan_json: Mapping[str, Any]) -> str:
    """Draw the model of a run as SVG.

    Args:
        plan_json: The content of `plan.json`.

    Returns:
        A document that stands alone, or within HTML.
    """
    seen = picture(plan_json)
    if not seen.rows:
        nothing = f"{seen.kind}: no layers to draw"
        return _document(seen, [_write(MARGIN, 37, nothing, fill=QUIET, room=WIDTH - 2 * MARGIN)], 64)
    grid = Grid.of(seen)
    drawn, y = [], 26.0
    for section in (_title, _headings, _model, _legend, _notes):
        elements, y = section(seen, grid, y)
        drawn += elements
    return _document(seen, drawn, y + 22)


def _document(seen: Picture, drawn: Sequence[str], height: float) -> str:
    high = round(height)
    about = ". ".join((", ".join((seen.kind, *seen.details)), *seen.totals))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {high}" width="{WIDTH}" height="{high}" '
            f'style="max-width:100%;height:auto" role="img" font-family="{FONTS}" font-size="{SIZE}">',
            f"<title>{escaped(about)}</title>",
            "<defs>",
            *(_pattern(state) for state in seen.states),
            "</defs>",
            # A background of its own, for the ink is dark and pages may be.
            f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{high - 1}" rx="12" fill="{PAPER}" stroke="{FRAME}"/>',
            *drawn,
            "</svg>",
            "",
        ]
    )


# --- where things stand -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """The columns of a picture, from left to right.

    Args:
        names: Width of the names, which end where the boxes begin.
        boxes: Left end and width of each column of boxes.
        counts: Right end of the numbers of parameters.
        rates: Left end of the factors on the learning rate.
        words: Left end of the states in words.
        room: Width for the words.
        teacher: Left end and width of the teacher; without one it has no width.
    """

    names: float
    boxes: tuple[tuple[float, float], ...]
    counts: float
    rates: float
    words: float
    room: float
    teacher: tuple[float, float]

    @classmethod
    def of(cls, seen: Picture) -> Grid:
        """Give numbers what they need, words and names what they need within bounds, and boxes the rest."""
        n, teacher = max(1, len(seen.columns)), TEACHER if seen.teacher else 0
        room = WIDTH - 2 * MARGIN - (teacher + 2 * GAP if teacher else 0)
        counts = max(widest((COUNTS,), SMALL), widest(count(row.total) for row in seen.rows))
        rates = max(widest((RATES,), SMALL), widest(scales(row.scales) for row in seen.rows)) + GAP
        rates = rates if seen.has_scales else 0
        words = min(widest(map(seen.words, seen.rows)), 0.32 * room)
        spare = room - counts - rates - words - 3 * GAP
        names = min(widest(row.name for row in seen.rows), spare - min(spare / 2, 46 * n + 44))
        boxes = min(spare - names, MOST)
        start = MARGIN + (spare - names - boxes) / 2 + names + GAP
        between = min(8, boxes / n / 4)
        each = (boxes - between * (n - 1)) / n
        end = start + boxes + GAP + counts
        return cls(
            names=names,
            boxes=tuple((start + place * (each + between), each) for place in range(n)),
            counts=end,
            rates=end + GAP,
            words=end + GAP + rates,
            room=words,
            teacher=(WIDTH - MARGIN - teacher, teacher),
        )

    @property
    def start(self) -> float:
        """Left end of all boxes."""
        return self.boxes[0][0]

    @property
    def centre(self) -> float:
        """Middle of all boxes."""
        return (self.start + sum(self.boxes[-1])) / 2

    @property
    def centres(self) -> list[float]:
        """Middle of each column of boxes."""
        return [x + width / 2 for x, width in self.boxes]

    @property
    def is_numbered(self) -> bool:
        """Whether columns are too narrow for names."""
        return self.boxes[0][1] < 40

    @property
    def stride(self) -> int:
        """Of how many columns one has room for its number."""
        return 1 if len(self.boxes) == 1 else math.ceil(24 / (self.boxes[1][0] - self.boxes[0][0]))

    @property
    def head(self) -> float:
        """Half the width of an arrow's head."""
        return min(4, self.boxes[0][1] / 3)


@dataclass(frozen=True)
class Place:
    """Where a part stands.

    Args:
        layer: The part.
        top: Its upper end, which for a stack of blocks is that of the sheets behind the box.
        above: The gap to the part above it.
    """

    layer: Layer
    top: float
    above: float

    @property
    def box(self) -> float:
        """Upper end of the box."""
        return self.top + (2 * SHEET if self.layer.times > 1 else 0)

    @property
    def bottom(self) -> float:
        """Lower end."""
        return self.box + BOX

    @property
    def baseline(self) -> float:
        """Where text beside the box stands."""
        return self.box + BOX / 2 + 0.36 * SIZE


def _places(rows: Sequence[Layer], top: float) -> list[Place]:
    """Stack the parts, the last one on top; a wider gap parts sections."""
    places: list[Place] = []
    for layer in reversed(rows):
        below = places[-1].bottom if places else top
        gap = (NEAR if places[-1].layer.section == layer.section else FAR) if places else 0
        places.append(Place(layer, below + gap, gap))
    return places


# --- sections: what is drawn, and where it ends -------------------------------------------------------------------


def _title(seen: Picture, grid: Grid, y: float) -> Section:
    drawn = [_write(MARGIN, y + 18, seen.kind, size=20, bold=True, room=WIDTH - 2 * MARGIN)]
    y += 24
    for line in _wrapped(seen.details, " · ", SIZE + 1):
        y += 17
        drawn.append(_write(MARGIN, y, line, size=SIZE + 1, fill=QUIET))
    return drawn, y + 12


def _headings(seen: Picture, grid: Grid, y: float) -> Section:
    """The stages, where they train different things."""
    if not seen.columns:
        return [], y
    drawn, y = [], y + 14
    for place, ((name, share), (_, width), x) in enumerate(zip(seen.columns, grid.boxes, grid.centres, strict=True), 1):
        if not grid.is_numbered:
            drawn.append(_write(x, y, name, size=SMALL, bold=True, anchor="middle", room=width))
            drawn.append(_write(x, y + 14, f"{100 * share:.0f} %", size=SMALL, fill=QUIET, anchor="middle"))
        elif (place - 1) % grid.stride == 0:
            drawn.append(_write(x, y, str(place), size=SMALL, bold=True, anchor="middle"))
    if not grid.is_numbered:
        y += 14
        drawn.append(_write(grid.start - GAP, y, "share of updates", size=SMALL, fill=QUIET, anchor="end"))
    return drawn, y + 10


def _model(seen: Picture, grid: Grid, y: float) -> Section:
    """The boxes, from the output on top to the input."""
    drawn: list[str] = []
    if seen.teacher:
        drawn += _outputs(seen.teacher, grid, y + 8)
        y += 8 + PILL
    places = _places(seen.rows, y + ARROW)
    top, bottom = places[0].top, places[-1].bottom
    for x in grid.centres:
        drawn += _up(x, top, y, grid.head)
        drawn += _up(x, bottom + ARROW, bottom, grid.head)
        for upper, lower in pairwise(places):
            drawn += _up(x, lower.top, upper.bottom, grid.head if lower.above == FAR else 0)
    drawn += [
        _write(grid.start - GAP, y + 12, "output", size=SMALL, fill=QUIET, anchor="end"),
        _write(grid.counts, y + 12, COUNTS, size=SMALL, fill=QUIET, anchor="end"),
        _write(grid.start - GAP, bottom + ARROW - 4, "input", size=SMALL, fill=QUIET, anchor="end"),
    ]
    if seen.has_scales:
        drawn.append(_write(grid.rates, y + 12, RATES, size=SMALL, fill=QUIET))
    for place in places:
        drawn += _row(seen, grid, place)
    if seen.teacher:
        drawn += _teacher(seen.teacher, grid.teacher, top, bottom)
    return drawn, bottom + ARROW + 20


def _legend(seen: Picture, grid: Grid, y: float) -> Section:
    drawn = [f'<path d="M{MARGIN} {y:.1f}H{WIDTH - MARGIN}" stroke="{FRAME}"/>']
    x, y = float(MARGIN), y + 18
    for state in seen.states:
        label = seen.label(state)
        if x + SWATCH + 8 + text_width(label) > WIDTH - MARGIN:
            x, y = float(MARGIN), y + 22
        drawn += _segment(state, x, y, SWATCH, 14, left=4, right=4)
        drawn.append(_write(x + SWATCH + 8, y + 11.5, label))
        x += SWATCH + 8 + text_width(label) + 22
    return drawn, y + 22


def _notes(seen: Picture, grid: Grid, y: float) -> Section:
    stages = seen.order(numbered=bool(seen.columns) and grid.is_numbered)
    steps = _wrapped(stages.split(ARROWS), ARROWS, SIZE)
    lines = [*seen.totals, *(f"{line}{ARROWS}" for line in steps[:-1]), *steps[-1:]]
    drawn = []
    for line in lines:
        y += 16
        drawn.append(_write(MARGIN, y, line.rstrip(), fill=QUIET, room=WIDTH - 2 * MARGIN))
    return drawn, y


def _row(seen: Picture, grid: Grid, place: Place) -> Iterator[str]:
    layer, y = place.layer, place.baseline
    yield _write(grid.start - GAP, y, layer.name, anchor="end", room=grid.names)
    for column, (x, width) in zip(layer.columns, grid.boxes, strict=True):
        yield from _box(seen, column, place, x, width)
    yield _write(grid.counts, y, count(layer.total), anchor="end")
    if layer.scales and seen.has_scales:
        yield _write(grid.rates, y, scales(layer.scales))
    words = seen.words(layer)
    if text_width(words) > grid.room:
        words = " + ".join(map(seen.label, layer.shares))
    yield _write(grid.words, y, words, fill=QUIET, room=grid.room)


def _box(seen: Picture, layer: Layer, place: Place, x: float, width: float) -> Iterator[str]:
    """A part in one stage: its states side by side, before sheets where it stands for several blocks."""
    states = bar(layer, round(width), max(1, min(LEAST, int(width / 4))))
    widest_state = max(states, key=lambda pair: pair[1], default=(FROZEN, 0))[0]
    if layer.times > 1:
        paint = PAINTS[widest_state]
        for sheet in (0, 1):
            inset, top = min(5, width / 8) * (2 - sheet), place.top + sheet * SHEET
            outline = _rounded(x + inset, top, width - 2 * inset, BOX, RADIUS, RADIUS)
            yield f'<path d="{outline}" fill="{paint.fill}" stroke="{paint.stroke}"/>'
    scale, start = width / max(1, sum(cells for _, cells in states)), x
    for number, (state, cells) in enumerate(states):
        first, last = number == 0, number == len(states) - 1
        yield from _segment(
            state, start, place.box, cells * scale, BOX, left=RADIUS if first else 0, right=RADIUS if last else 0
        )
        yield from _mark(seen, state, (start, start + cells * scale), x + width / 2, place.box + BOX / 2)
        start += cells * scale


def _mark(seen: Picture, state: str, ends: tuple[float, float], centre: float, y: float) -> Iterator[str]:
    """A snowflake on what is frozen, and in how many bits where it is stored in few."""
    if state not in (FROZEN, QUANTISED):
        return
    start, end = ends
    plate = text_width(seen.storage, 10) + 30
    half = plate / 2 if state == QUANTISED and plate + 8 <= end - start else 14
    if 2 * half + 8 > end - start:
        return
    # On the line through all boxes, unless something else of its box is there.
    x = min(max(centre, start + half + 4), end - half - 4)
    if half == 14:
        if state == QUANTISED:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8.5" fill="{PAPER}"/>'
        yield from _snowflake(x, y)
        return
    yield f'<path d="{_rounded(x - half, y - 8, plate, 16, 8, 8)}" fill="{PAPER}"/>'
    yield from _snowflake(x - half + 13, y)
    yield _write(x + 9, y + 3.6, seen.storage, size=10, anchor="middle")


def _snowflake(x: float, y: float, scale: float = 1.0) -> Iterator[str]:
    """One arm, turned."""
    look = f'fill="none" stroke="{PAINTS[FROZEN].stroke}" stroke-width="1.1" stroke-linecap="round"'
    for turn in range(0, 360, 60):
        place = f"translate({x:.1f} {y:.1f}) rotate({turn}) scale({scale})"
        yield f'<path d="M0 0V-6M-1.9 -5.2L0 -3.3L1.9 -5.2" transform="{place}" {look}/>'


def _outputs(teacher: Teacher, grid: Grid, y: float) -> Iterator[str]:
    """The outputs of student and teacher, and how the one learns from the other."""
    left, right, middle = grid.centre, grid.teacher[0] + grid.teacher[1] / 2, y + PILL / 2
    for x in (left, right):
        outline = _rounded(x - LOGITS / 2, y, LOGITS, PILL, PILL / 2, PILL / 2)
        yield f'<path d="{outline}" fill="{PAPER}" stroke="{LINE}" stroke-width="1.3"/>'
        yield _write(x, middle + 0.36 * SIZE, "logits", anchor="middle")
    start, end = right - LOGITS / 2, left + LOGITS / 2
    line = f'stroke="{INK}" stroke-width="1.4" stroke-dasharray="5 3"'
    yield f'<path d="M{start:.1f} {middle:.1f}H{end + 6:.1f}" {line}/>'
    yield f'<path d="M{end + 1:.1f} {middle:.1f}l8 -4v8z" fill="{INK}"/>'
    yield _write((end + start) / 2, middle - 7, teacher.settings, anchor="middle", bold=True)


def _teacher(teacher: Teacher, column: tuple[float, float], top: float, bottom: float) -> Iterator[str]:
    x, width = column
    paint, middle = PAINTS[FROZEN], x + width / 2
    outline = _rounded(x, top, width, bottom - top, 10, 10)
    yield f'<path d="{outline}" fill="{paint.fill}" stroke="{paint.stroke}"/>'
    yield from _up(middle, top, top - ARROW)
    yield from _up(middle, bottom + ARROW, bottom)
    y = (top + bottom) / 2
    yield from _snowflake(middle, y - 26, 1.6)
    yield _write(middle, y, "teacher", anchor="middle", bold=True)
    folder, slash, last = teacher.name.rpartition("/")
    lines = [teacher.name] if text_width(teacher.name) <= width - 16 or not slash else [f"{folder}/", last]
    for line in lines:
        y += 18
        yield _write(middle, y, line, anchor="middle", room=width - 16)
    yield _write(middle, y + 18, FROZEN, anchor="middle", fill=QUIET)


# --- shapes and text ----------------------------------------------------------------------------------------------


def _pattern(state: str) -> str:
    paint = PAINTS[state]
    return (
        f'<pattern id="hfstrat-{state}" width="{paint.tile}" height="{paint.tile}" patternUnits="userSpaceOnUse">'
        f'<rect width="{paint.tile}" height="{paint.tile}" fill="{paint.fill}"/>{paint.pattern}</pattern>'
    )


def _segment(
    state: str, x: float, y: float, width: float, height: float, *, left: float, right: float
) -> Iterator[str]:
    """A rectangle in the look of a state, with round corners to its left and right."""
    outline = _rounded(x, y, width, height, left, right)
    yield f'<path d="{outline}" fill="url(#hfstrat-{state})" stroke="{PAINTS[state].stroke}"/>'


def _rounded(x: float, y: float, width: float, height: float, left: float, right: float) -> str:
    """Outline of a rectangle with radii for its corners to the left and to the right."""
    left, right = min(left, width / 2, height / 2), min(right, width / 2, height / 2)
    return (
        f"M{x + left:.1f} {y:.1f}h{width - left - right:.1f}a{right:.1f} {right:.1f} 0 0 1 {right:.1f} {right:.1f}"
        f"v{height - 2 * right:.1f}a{right:.1f} {right:.1f} 0 0 1 {-right:.1f} {right:.1f}"
        f"h{left + right - width:.1f}a{left:.1f} {left:.1f} 0 0 1 {-left:.1f} {-left:.1f}"
        f"v{2 * left - height:.1f}a{left:.1f} {left:.1f} 0 0 1 {left:.1f} {-left:.1f}z"
    )


def _up(x: float, start: float, end: float, head: float = 4) -> Iterator[str]:
    """A line upwards, with a head of some half width."""
    yield f'<path d="M{x:.1f} {start:.1f}V{end + (5 if head else 0):.1f}" stroke="{LINE}" stroke-width="1.3"/>'
    if head:
        yield f'<path d="M{x:.1f} {end + 1:.1f}l{head:.1f} 7h{-2 * head:.1f}z" fill="{LINE}"/>'


def _write(
    x: float,
    y: float,
    text: str,
    *,
    size: float = SIZE,
    fill: str = INK,
    anchor: str = "start",
    bold: bool = False,
    room: float = WIDTH,
) -> str:
    """A line of text; one that has no room is cut in its middle, and is whole where one points at it."""
    shown = fitted(text, room, size, bold=bold)
    whole = f"<title>{escaped(text)}</title>" if shown != text else ""
    attributes = {"text-anchor": anchor if anchor != "start" else "", "font-weight": "bold" if bold else ""}
    more = "".join(f' {name}="{value}"' for name, value in attributes.items() if value)
    sized = f' font-size="{size}"' if size != SIZE else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}"{sized}{more}>{whole}{escaped(shown)}</text>'


def _wrapped(items: Sequence[str], between: str, size: float) -> list[str]:
    """Items joined to lines that fit into the picture, with room for what joins one line to the next."""
    room = WIDTH - 2 * MARGIN - text_width(between, size)
    lines: list[str] = []
    for item in filter(None, items):
        longer = f"{lines[-1]}{between}{item}" if lines else item
        if lines and text_width(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(fitted(item, room, size))
    return lines


def fitted(text: str, room: float, size: float = SIZE, *, bold: bool = False) -> str:
    """A text that is no wider than there is room: its middle becomes an ellipsis, for both ends tell names apart."""
    if text_width(text, size, bold=bold) <= room:
        return text
    for kept in range(len(text) - 1, 1, -1):
        shorter = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
        if text_width(shorter, size, bold=bold) <= room:
            return shorter
    return "…"


def text_width(text: str, size: float = SIZE, *, bold: bool = False) -> float:
    """About how wide a text is at most, in any of the fonts."""
    return sum(map(_advance, text)) * size * (BOLD if bold else 1)


def widest(texts: Iterable[str], size: float = SIZE) -> float:
    """Width of the widest text."""
    return max((text_width(text, size) for text in texts), default=0.0)


def _advance(character: str) -> float:
    if character in ADVANCES:
        return ADVANCES[character]
    if unicodedata.east_asian_width(character) in "WF":
        return 1.2
    return 0.79 if character.isupper() or character == "&" else 0.64


def escaped(text: str) -> str:
    """Text as XML, which knows no control characters."""
    return html.escape("".join(character if character.isprintable() else " " for character in text))
