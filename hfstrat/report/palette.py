"""The colours of plots, light or dark enough for a page's ground."""

from __future__ import annotations

from hfstrat.report.plot import COLOURS, FLOOR_COLOUR, OTHER_COLOUR

LIGHT, DARK = "#ffffff", "#15191e"
"""Grounds of the page."""
LEAST = 3.0
"""Contrast of what is no text against its ground (WCAG 2.2, 1.4.11)."""
KINDS = {**COLOURS, "floor": FLOOR_COLOUR, "other": OTHER_COLOUR}


def luminance(colour: str) -> float:
    """Relative luminance of a colour such as `#0072B2`, as WCAG 2.2 defines it."""
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, from 1 to 21, as WCAG 2.2 defines it."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def adapted(colour: str, ground: str) -> str:
    """A colour as near as can be that stands out from a ground: towards black on light, towards white on dark."""
    end = 0 if luminance(ground) > 0.5 else 255
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    mixes = ("#" + "".join(f"{round(part + (end - part) * step / 50):02x}" for part in parts) for step in range(51))
    return next(mix for mix in mixes if contrast(mix, ground) >= LEAST)


def rules(looks: int) -> str:
    """The style of each kind of strategy and of each series, for both grounds."""
    by_class = {f"kind-{kind}": colour for kind, colour in KINDS.items()}
    by_class |= {f"look-{place}": [*COLOURS.values()][place] for place in range(looks)}

    def written(ground: str) -> str:
        return "".join(f".{name}{{--mark:{adapted(colour, ground)}}}" for name, colour in by_class.items())

    return f"{written(LIGHT)}\n@media screen and (prefers-color-scheme:dark){{{written(DARK)}}}\n"
