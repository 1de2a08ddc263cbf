"""The README.md of a comparison's directory: its answer, its table, and which file holds what."""

from __future__ import annotations

from hfstrat.report import tables
from hfstrat.report.comparison import Compared
from hfstrat.report.summary import summary

_PICTURES = {"quality-against-time.png": "time", "quality-against-rows.png": "training rows"}
FILES = {
    "report.html": "everything on one page, which needs no network: open it in a browser",
    "table.md": "the tables above; table.csv and table.json have the second one in base units",
    "verdicts.json": "every pair of arms: difference, interval, p raised by Holm's rule",
    **dict.fromkeys(_PICTURES, "a picture above"),
    "recipe.yaml": "what was asked for: `hfstrat compare` makes it again",
}


def readme(compared: Compared) -> str:
    """Write it.

    Args:
        compared: The comparison, whose other files are written.
    """
    said = "\n\n".join(map(tables.plain, summary(compared)))
    factors = compared.factors.markdown() if compared.factors is not None else ""
    table = tables.to_markdown(compared.lines, compared.metrics, compared.differences)
    shown = "\n".join(part for part in (factors, table, compared.shape.markdown()) if part)
    there = {name: what for name, what in FILES.items() if (compared.path / name).is_file()}
    drawn = {name: against for name, against in _PICTURES.items() if name in there}
    pictures = "".join(f"![{compared.metric} against {what}]({name})\n\n" for name, what in drawn.items())
    files = "".join(f"- [{name}]({name}): {what}\n" for name, what in there.items())
    return (
        f"# {tables.plain(compared.name)}\n\n{said}\n\n{shown}\n{pictures}## Files\n\n{files}"
        "- each folder: a run, with its resolved recipe, scores, costs, predictions and model\n\n"
        f"`hfstrat report {compared.name}` writes this file and report.html again.\n"
    )
