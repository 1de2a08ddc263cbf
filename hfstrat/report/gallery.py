"""A gallery: pictures in a grid, with a line below each that says what it is and whether that is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageFont

GALLERY = "gallery.png"
"""Where a run keeps it."""
MOST = 12
_GAP, _LINE = 8, 20  # pixels
_RIGHT, _WRONG, _NEUTRAL = "#009E73", "#D55E00", "#555555"


@dataclass(frozen=True)
class Tile:
    """A picture of a gallery.

    Args:
        picture: The picture.
        caption: What it is, in a line.
        right: Whether what was said about it is right; None where that is no question.
    """

    picture: Image.Image
    caption: str
    right: bool | None = None


def gallery(tiles: Sequence[Tile], *, columns: int = 4, side: int = 320) -> Image.Image:
    """Pictures in rows, in their order, each fitted into a square.

    A caption begins with ✓ or ✗ where it is a question, for colours alone do not tell everybody.

    Args:
        tiles: The pictures.
        columns: Pictures of a row, at most.
        side: Width and height of a picture in pixels.
    """
    from PIL import Image, ImageDraw, ImageFont

    columns = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // columns)
    wide, high = side + _GAP, side + _LINE + _GAP
    sheet = Image.new("RGB", (columns * wide + _GAP, rows * high + _GAP), "white")
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, tile in enumerate(tiles):
        left, top = _GAP + place % columns * wide, _GAP + place // columns * high
        fitted = tile.picture.convert("RGB")
        scale = side / max(fitted.size)
        fitted = fitted.resize((max(1, round(fitted.width * scale)), max(1, round(fitted.height * scale))))
        sheet.paste(fitted, (left + (side - fitted.width) // 2, top + (side - fitted.height) // 2))
        colour = _NEUTRAL if tile.right is None else _RIGHT if tile.right else _WRONG
        start = left
        if tile.right is not None:
            _mark(canvas, (left, top + side + 4), tile.right, colour)
            start += 16
        canvas.text((start, top + side + 2), _cut(tile.caption, font, left + side - start), fill=colour, font=font)
    return sheet


def write_gallery(file: Path, tiles: Sequence[Tile], *, columns: int = 4, side: int = 320) -> None:
    """Write a gallery as PNG; the arguments are those of `gallery`."""
    gallery(tiles, columns=columns, side=side).save(file, optimize=True)


def _mark(canvas: object, at: tuple[int, int], right: bool, colour: str) -> None:
    """A tick or a cross, drawn: the font may have neither."""
    left, top = at
    strokes = [[(0, 6), (4, 10), (11, 1)]] if right else [[(1, 1), (10, 10)], [(10, 1), (1, 10)]]
    for stroke in strokes:
        canvas.line([(left + x, top + y) for x, y in stroke], fill=colour, width=2)  # type: ignore[attr-defined]


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    """As much of a text as there is room for."""
    line = " ".join(text.split())
    if font.getlength(line) <= room:
        return line
    while line and font.getlength(f"{line}…") > room:
        line = line[:-1]
    return f"{line}…"
