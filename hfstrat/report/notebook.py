"""What rich draws on a terminal as HTML for a notebook: tables that are tables, on pages that are light or dark."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hfstrat.report.markup import Markup, plain, tag

if TYPE_CHECKING:
    from rich.table import Column, Table
    from rich.text import Text

# As far from white as from black, for the ground is the notebook's and no style in a cell knows it.
COLOURS = {"green": "#1e8a4c", "red": "#d64545", "yellow": "#9a7500", "cyan": "#0e8296"}
# A table shows all of its columns and scrolls sideways where the page is narrow.
WIDTH = 10_000


def as_html(obj: Any) -> str:
    """Tables and lines of text that rich can draw, as HTML for a notebook.

    Args:
        obj: A table, a text, or something that gives these to rich.
    """
    return str(tag("div", {"style": "overflow-x:auto"}, map(_html, _parts(obj))))


def _parts(obj: Any) -> Iterator[Table | Text]:
    """The tables and texts that something consists of."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if isinstance(obj, (Table, Text)):
        yield obj
    elif isinstance(obj, str):
        yield _text(obj)
    elif hasattr(obj, "__rich__"):
        yield from _parts(obj.__rich__())
    else:
        console = Console(width=WIDTH, file=io.StringIO())
        for part in obj.__rich_console__(console, console.options):
            yield from _parts(part)


def _html(part: Table | Text) -> Markup:
    from rich.text import Text

    if isinstance(part, Text):
        return tag("p", {"style": f"margin:0.2em 0;{_css(part.style)}"}, plain(part.plain.strip()))
    title = [] if part.title is None else [_caption(_text(part.title))]
    head = [tag("thead", {}, tag("tr", {}, map(_heading, part.columns)))] if part.show_header else []
    cells = zip(*(map(_text, column.cells) for column in part.columns), strict=True)
    rows = (
        tag("tr", {"style": _css(row.style or "") or None}, map(_cell, part.columns, line))
        for row, line in zip(part.rows, cells, strict=True)
    )
    return tag("table", {"style": "margin:0.4em 0"}, title, head, tag("tbody", {}, rows))


def _caption(text: Text) -> Markup:
    return tag("caption", {"style": "caption-side:top;text-align:left;font-weight:bold;color:inherit"}, text.plain)


def _heading(column: Column) -> Markup:
    return tag("th", {"scope": "col", "style": _place(column)}, _text(column.header).plain)


def _cell(column: Column, text: Text) -> Markup:
    return tag("td", {"style": f"{_place(column)}{_css(column.style)}{_css(text.style)}"}, text.plain)


def _place(column: Column) -> str:
    if column.justify == "right":
        return "text-align:right;vertical-align:top;white-space:pre;font-variant-numeric:tabular-nums;"
    return f"text-align:left;vertical-align:top;white-space:{'pre' if column.no_wrap else 'pre-line'};"


def _css(style: Any) -> str:
    """A style of rich."""
    from rich.style import Style

    known = style if isinstance(style, Style) else Style.parse(style)
    found = "font-weight:bold;" if known.bold else ""
    found += "opacity:0.75;" if known.dim else ""
    return found + (f"color:{COLOURS[known.color.name]};" if known.color is not None else "")


def _text(cell: Any) -> Text:
    from rich.text import Text

    return cell if isinstance(cell, Text) else Text(cell)
