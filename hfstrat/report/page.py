"""The report of a comparison: one HTML file that needs nothing else, made from the comparison's directory alone.

It loads nothing and allows nothing but its own style and script, which a policy names by their hashes. It reads whole
without JavaScript, which only sorts, filters and chooses.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hfstrat.report import palette, tables
from hfstrat.report.charts import LOOKS
from hfstrat.report.comparison import Compared, Pair
from hfstrat.report.figures import curves, drawings, fronts
from hfstrat.report.items import items, reproduce
from hfstrat.report.links import Links
from hfstrat.report.markup import Markup, caption, join, scrolled, tag
from hfstrat.report.readme import readme
from hfstrat.report.summary import summary
from hfstrat.runs.directory import write_text

REPORT, README = "report.html", "README.md"
SECTIONS = {
    "answer": "Answer",
    "factors": "What decides",
    "arms": "Arms",
    "fronts": "Quality against cost",
    "curves": "Curves",
    "pairs": "Pairs",
    "layers": "Layers",
    "items": "Test items",
    "reproduce": "Reproduce",
    "failures": "Failures",
}
_NUMBER = re.compile(r"([+-]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?)(?: ?([A-Za-z%]+))?")
_UNITS = {
    "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
    "s": 1.0, "min": 60.0, "h": 3600.0,
    "k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
}  # fmt: skip


def write_report(folder: str | Path, path: str | Path | None = None) -> Path:
    """Write the report of a comparison.

    Args:
        folder: The comparison's directory.
        path: Where to; None: into the directory, with a README.md that says the same in short.

    Returns:
        The report's file.

    Raises:
        UsageError: The directory holds no comparison.
    """
    compared = Compared.read(folder)
    file = compared.path / REPORT if path is None else Path(path)
    write_text(file, page(compared, Links(file.parent)))
    if path is None:
        write_text(compared.path / README, readme(compared))
    return file


def page(compared: Compared, links: Links) -> str:
    """The report as HTML.

    Args:
        compared: The comparison.
        links: To its runs.
    """
    contents = {
        "answer": _answer(compared),
        "factors": _factors(compared),
        "arms": _arms(compared, links),
        "fronts": fronts(compared, links),
        "curves": curves(compared, links),
        "pairs": _pairs(compared),
        "layers": drawings(compared, links),
        "items": items(compared, links),
        "reproduce": reproduce(compared, links),
        "failures": _failures(compared, links),
    }
    shown = {name: heading for name, heading in SECTIONS.items() if contents[name]}
    nav = tag("ul", {}, (tag("li", {}, tag("a", {"href": f"#{name}"}, heading)) for name, heading in shown.items()))
    sections = (
        tag("section", {"aria-labelledby": name}, tag("h2", {"id": name}, heading), contents[name])
        for name, heading in shown.items()
    )
    title = f"Comparison {compared.name}"
    return _document(
        title,
        tag("a", {"class": "skip", "href": "#answer"}, "Skip to the answer"),
        tag("header", {}, tag("h1", {}, title), tag("nav", {"aria-label": "Sections"}, nav)),
        tag("main", {}, sections),
        tag("footer", {}, tag("p", {}, "Made by hfstrat from the files of the runs. Empty: not measured.")),
    )


def _document(title: str, *body: Markup) -> str:
    own = Path(__file__)
    style = own.with_name("page.css").read_text("utf-8") + palette.rules(LOOKS)
    script = own.with_name("page.js").read_text("utf-8")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        {},
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", {"name": "color-scheme", "content": "light dark"}),
        tag("meta", {"name": "referrer", "content": "no-referrer"}),
        tag("title", {}, title),
        tag("style", {}, Markup(style)),
    )
    whole = tag("html", {"lang": "en"}, head, tag("body", {}, *body, tag("script", {}, Markup(script))))
    return f"<!DOCTYPE html>\n{whole}\n"


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


# --- sections ----------------------------------------------------------------------------------------------------


def _answer(compared: Compared) -> Markup:
    what, *said = summary(compared)
    return join([tag("p", {"class": "what"}, what), *(tag("p", {}, sentence) for sentence in said)])


def _factors(compared: Compared) -> Markup:
    """What is often said of strategies in adjectives, as it was measured."""
    factors = compared.factors
    if factors is None or len(factors.strategies) < 2:
        return Markup()
    head = [tag("td", {}), *(tag("th", {"scope": "col", "class": "number"}, name) for name in factors.strategies)]
    rows = [
        tag("tr", {}, tag("th", {"scope": "row"}, row.name), (tag("td", {"class": "number"}, one) for one in row.cells))
        for row in factors.rows
    ]
    heading = caption("What is often said of strategies in adjectives, as measured here, with 95 % intervals.")
    table = tag("table", {}, heading, tag("thead", {}, tag("tr", {}, head)), tag("tbody", {}, rows))
    return join([scrolled(table, "Table of factors"), tag("p", {"class": "source"}, "From factors.json.")])


def _arms(compared: Compared, links: Links) -> Markup:
    lines = compared.lines
    found = tables.columns(lines, compared.metrics, compared.differences)
    arm, *others = found
    ended = ("state",) if compared.failed else ()  # else all are done
    titles = (arm.title, "kind", *ended, *(column.title.replace("\n", " ") for column in others))
    is_number = (False, False, *(False for _ in ended), *(column.right for column in others))
    head = (
        tag("th", {"scope": "col", "class": "number" if right else None, "data-sortable": True}, title)
        for title, right in zip(titles, is_number, strict=True)
    )
    rows = []
    for place, line in enumerate(lines):
        name = links.run(compared.run_of(line).path, line.arm)
        is_best = line is compared.best
        cells = [tag("td", {}, line.kind), *(tag("td", {}, line.state or "not run") for _ in ended)]
        for column in others:
            cell = column.cells[place]
            look = {"class": "number" if column.right else None, "data-sort": magnitude(cell)}
            cells.append(tag("td", look, cell))
        about = {"class": "best" if is_best else None, "data-kind": line.kind, "data-state": line.state or "not run"}
        rows.append(tag("tr", about, tag("th", {"scope": "row", "data-sort": line.arm}, name), cells))
    heading = caption(
        f"Arms in the order of the recipe; the best one is bold. [low–high]: 95 % interval over test items; ±: "
        f"standard deviation of {compared.metric} over seeds.",
    )
    table = tag("table", {"id": "arms-table"}, heading, tag("thead", {}, tag("tr", {}, head)), tag("tbody", {}, rows))
    tools = _tools(
        "arms-table", {"kind": [line.kind for line in lines], "state": [line.state or "not run" for line in lines]}
    )
    return join(
        [tools, scrolled(table, "Table of arms"), _every_metric(compared), links.source(compared.runs, "metrics.json")]
    )


def _tools(table: str, choices: dict[str, Sequence[str]]) -> Markup:
    """Filters of a table, which are of no use without JavaScript and hidden without it."""
    label = tag("label", {}, "Filter ", tag("input", {"type": "search", "data-filter": "text"}))
    selects = []
    for name, values in choices.items():
        options = [tag("option", {"value": ""}, "all"), *(tag("option", {}, one) for one in dict.fromkeys(values))]
        selects.append(tag("label", {}, f"{name} ", tag("select", {"data-filter": name}, options)))
    status = tag("span", {"role": "status"})
    return tag("div", {"class": "tools", "data-for": table, "hidden": True}, label, selects, status)


def _every_metric(compared: Compared) -> Markup:
    """Each metric with its interval and its spread, for which the table has no room."""
    if len(compared.metrics) < 2:
        return Markup()
    head = [tag("th", {"scope": "col"}, "arm")]
    head += [tag("th", {"scope": "col", "class": "number"}, name) for name in compared.metrics]
    rows = []
    for line in compared.done:
        cells = [tag("td", {"class": "number"}, _measured(line, name)) for name in compared.metrics]
        rows.append(tag("tr", {}, tag("th", {"scope": "row"}, line.arm), cells))
    heading = caption("Each metric with its 95 % interval over test items, and ± over seeds.")
    table = tag("table", {}, heading, tag("thead", {}, tag("tr", {}, head)), tag("tbody", {}, rows))
    summary = tag("summary", {}, "Every metric with its interval")
    return tag("details", {}, summary, scrolled(table, "Table of metrics"))


def _measured(line: tables.Line, name: str) -> str:
    measure = line.metrics.get(name)
    if measure is None:
        return ""
    spread = f" ±{tables.number(measure.spread, measure.unit)}" if measure.spread is not None else ""
    return f"{tables.score(measure)}{spread}"


def _pairs(compared: Compared) -> Markup:
    """Every pair in a matrix: the row's score minus that of the column."""
    tested = {arm for pair in compared.pairs for arm in (pair.first, pair.second)}
    lines = [line for line in compared.done if line.arm in tested]
    if not lines:
        return Markup()
    sign = -1 if compared.higher_is_better else 1
    lines.sort(key=lambda line: sign * (line.metrics[compared.metric].value or 0.0))
    arms = [line.arm for line in lines]
    head = [tag("td", {}), *(tag("th", {"scope": "col"}, arm) for arm in arms)]
    rows = [
        tag("tr", {}, tag("th", {"scope": "row"}, row), (_cell(compared.pair(row, column)) for column in arms))
        for row in arms
    ]
    parted = len(compared.together) < len(compared.pairs)
    these = "pairs on as much data" if parted else f"{len(compared.pairs)} pairs"
    heading = caption(
        f"Score of the row minus that of the column on the same test items. ▲: the row is better, ▼: the column is, "
        f"=: they cannot be told apart, with p raised by Holm's rule for all {these}, at 0.05.",
    )
    table = tag("table", {"class": "matrix"}, heading, tag("thead", {}, tag("tr", {}, head)), tag("tbody", {}, rows))
    return join([scrolled(table, "Table of pairs"), tag("p", {"class": "source"}, "From verdicts.json.")])


def _cell(pair: Pair | None) -> Markup:
    if pair is None:
        return tag("td", {})
    mark, look, said = {
        "first": ("▲", "better", f"{pair.first} is better than {pair.second}"),
        "second": ("▼", "worse", f"{pair.second} is better than {pair.first}"),
        "tie": ("=", "tie", f"{pair.first} and {pair.second} cannot be told apart"),
    }[pair.better]
    about = f"{said}: {pair.value:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}], p = {pair.p:.2g}"
    shown = tag("span", {"aria-hidden": "true"}, f"{mark} {pair.value:+.3f}")
    return tag("td", {"class": look, "title": about}, shown, tag("span", {"class": "sr"}, about))


def _failures(compared: Compared, links: Links) -> Markup:
    rows = [
        tag(
            "tr",
            {},
            tag("th", {"scope": "row"}, links.run(compared.path / run, run)),
            tag("td", {}, line.state or "not run"),
            tag("td", {"class": "reason"}, line.reason or ""),
        )
        for line in compared.failed
        for run in line.runs
    ]
    if not rows:
        return Markup()
    head = (tag("th", {"scope": "col"}, title) for title in ("run", "state", "reason"))
    heading = caption("Runs that did not end well, from their status.json.")
    table = tag("table", {}, heading, tag("thead", {}, tag("tr", {}, head)), tag("tbody", {}, rows))
    return scrolled(table, "Table of failures")


def magnitude(text: str) -> str | None:
    """What a cell of a table is sorted by: its first number in base units; None without one."""
    found = next(_numbers(text), None)
    return None if found is None else f"{found:.6g}"


def _numbers(text: str) -> Iterator[float]:
    for found in _NUMBER.finditer(text):
        yield float(found[1].replace(",", "")) * _UNITS.get(found[2] or "", 1.0)
