"""The README.md of a comparison's directory: its answer, its table, and which file holds what."""

from __future__ import annotations

import re

from hfstrat.report import tables
from hfstrat.report.comparison import Compared
from hfstrat.report.summary import summary

FILES = {
    "report.html": "everything on one page, which needs no network: open it in a browser",
    "table.md": "the tables above; table.csv and table.json have the second one in base units",
    "verdicts.json": "every pair of arms: difference, interval, p raised by Holm's rule",
    "quality-against-time.png": "the picture above",
    "recipe.yaml": "what was asked for: `hfstrat compare` makes it again",
}
_PICTURE = "quality-against-time.png"
_MARKUP = re.compile(r"([\\`*_\[\]<>|#])")


def readme(compared: Compared) -> str:
    """Write it.

    Args:
        compared: The comparison, whose other files are written.
    """
    said = "\n\n".join(map(_plain, summary(compared)))
    factors = compared.factors.markdown() if compared.factors is not None else ""
    table = tables.to_markdown(compared.lines, compared.metrics, compared.differences)
    picture = f"![{compared.metric} against time]({_PICTURE})\n\n" if (compared.path / _PICTURE).is_file() else ""
    there = {name: what for name, what in FILES.items() if (compared.path / name).is_file()}
    files = "".join(f"- [{name}]({name}): {what}\n" for name, what in there.items())
    return (
        f"# {_plain(compared.name)}\n\n{said}\n\n{factors and factors + chr(10)}{table}\n{picture}## Files\n\n{files}"
        "- each folder: a run, with its resolved recipe, scores, costs, predictions and model\n\n"
        f"`hfstrat report {compared.name}` writes this file and report.html again.\n"
    )


def _plain(text: str) -> str:
    """A text that is no markup."""
    return _MARKUP.sub(r"\\\1", text)
