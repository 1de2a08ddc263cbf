"""Boxes drawn into pictures: what was found in full lines with label and score, what is true in dashed ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#7F4FC9",
)  # fmt: skip
"""Of classes, told apart also by those who do not see red and green (Okabe & Ito 2008), and a violet; then again."""
_LEAST = 320  # pixels of the shorter side from which letters are legible
_DASH = 6  # widths of a line


def drawn(
    picture: Image.Image,
    found: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    true: Sequence[Mapping[str, Any]] = (),
) -> Image.Image:
    """A picture with boxes in it; a small one is made larger, so that their labels can be read.

    Args:
        picture: The picture.
        found: `{"label", "score", "box": [left, top, width, height]}` each, in pixels.
        names: All classes, whose places choose colours.
        true: The same without scores, for dashed lines.
    """
    from PIL import Image, ImageDraw, ImageFont

    scale = max(1.0, _LEAST / min(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    image = picture.convert("RGB").resize(size, Image.Resampling.BILINEAR) if scale > 1 else picture.convert("RGB")
    canvas, width = ImageDraw.Draw(image), max(2, round(min(size) / 200))
    font = ImageFont.load_default(max(11, round(min(size) / 32)))
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    for one in true:
        _dashed(canvas, _corners(one, scale), colours[one["label"]], width)
    for one in reversed(found):  # the surest on top
        left, top, right, bottom = _corners(one, scale)
        colour = colours[one["label"]]
        canvas.rectangle((left, top, right, bottom), outline=colour, width=width)
        text = f"{one['label']} {one['score']:.2f}"
        room = canvas.textbbox((0, 0), text, font=font)
        wide, high = room[2] + 4, room[3] + 3
        x, y = min(max(0.0, left), max(0.0, size[0] - wide)), top - high if top >= high else max(0.0, top)
        canvas.rectangle((x, y, x + wide, y + high), fill=colour)
        canvas.text((x + 2, y), text, fill=_legible_on(colour), font=font)
    return image


def _corners(one: Mapping[str, Any], scale: float) -> tuple[float, float, float, float]:
    left, top, width, height = (float(side) * scale for side in one["box"])
    return left, top, left + max(0.0, width), top + max(0.0, height)


def _dashed(canvas: ImageDraw.ImageDraw, box: tuple[float, float, float, float], colour: str, width: int) -> None:
    left, top, right, bottom = box
    for start, end in _dashes(left, right, _DASH * width):
        for y in (top, bottom):
            canvas.line((start, y, end, y), fill=colour, width=width)
    for start, end in _dashes(top, bottom, _DASH * width):
        for x in (left, right):
            canvas.line((x, start, x, end), fill=colour, width=width)


def _dashes(start: float, end: float, length: float) -> Iterator[tuple[float, float]]:
    while start < end:
        yield start, min(start + length, end)
        start += 2 * length


def _legible_on(colour: str) -> str:
    """Black or white, whichever stands out more."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
