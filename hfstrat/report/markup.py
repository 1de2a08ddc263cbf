"""HTML and SVG as text that cannot be broken: what is not marked as markup is escaped where it is put in."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

VOID = frozenset({"meta", "br", "img", "input", "link", "hr"})
Child = str | Iterable[str]
Value = str | int | float | bool | None


class Markup(str):
    """Text that is HTML already; every other text is escaped."""

    __slots__ = ()


def plain(text: str) -> Markup:
    """Text as HTML, without characters that neither HTML nor XML knows."""
    return Markup(html.escape("".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)))


def join(parts: Iterable[str], between: str = "") -> Markup:
    """Parts one after the other, each escaped unless it is markup."""
    return Markup(_own(between).join(map(_own, parts)))


def tag(name: str, attributes: Mapping[str, Value], *children: Child) -> Markup:
    """An element.

    Args:
        name: Of the element.
        attributes: By name; True stands without a value, False and None are left out.
        children: Texts, which are escaped, markup, or several of them.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Markup(f"<{name}{written}>")
    inside = join(part for child in children for part in ([child] if isinstance(child, str) else child))
    return Markup(f"<{name}{written}>{inside}</{name}>")


def scrolled(content: Markup, name: str) -> Markup:
    """Something wide in a box of its own that scrolls, also by keys.

    Args:
        content: A table or a picture.
        name: What it is, for those who do not see it.
    """
    return tag("div", {"class": "box", "role": "region", "aria-label": name, "tabindex": "0"}, content)


def caption(text: str) -> Markup:
    """What a table shows, which stays in sight when the table is scrolled sideways."""
    return tag("caption", {}, tag("span", {}, text))


def _own(text: str) -> str:
    return text if isinstance(text, Markup) else plain(text)


def _attribute(name: str, value: Value) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    return f' {name}="{plain(f"{value:.1f}" if isinstance(value, float) else str(value))}"'
