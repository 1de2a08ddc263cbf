"""The last parts of a report: test items on which arms disagree, and how its runs are made again."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hfstrat.report.comparison import Compared
from hfstrat.report.disagreement import Disagreement, Item, disagreement
from hfstrat.report.gallery import GALLERY
from hfstrat.report.links import Links
from hfstrat.report.markup import Markup, caption, join, scrolled, tag
from hfstrat.runs.directory import Run

RECIPE = "recipe.yaml"
_WIDTH = 1000  # pixels of a gallery


def items(compared: Compared, links: Links) -> Markup:
    """Items on which arms disagree, and a gallery of pictures; empty without either."""
    found = disagreement(compared)
    return join([_disputed(found, compared, links) if found else Markup(), _gallery(compared, links)])


def _disputed(found: Disagreement, compared: Compared, links: Links) -> Markup:
    arms = [line.arm for line in found.arms]
    counts = (
        f"Of {found.total:,} test items all {len(arms)} arms have {found.all_right:,} right and {found.all_wrong:,} "
        f"wrong, and disagree on {found.disputed:,}."
    )
    runs = [compared.run_of(line) for line in found.arms]
    source = links.source(runs, "predictions.parquet")
    if not found.items:
        return join([tag("p", {}, counts), source])
    given = [*found.items[0].given]
    head = [tag("th", {"scope": "col"}, name) for name in ("item", *given, "true", "right", "wrong")]
    rows = [_row(item, arms) for item in found.items]
    heading = caption(
        f"{len(found.items)} of these {found.disputed:,}, the most disputed first. Of an arm with several seeds the "
        "first is meant.",
    )
    table = tag("table", {"id": "items-table"}, heading, tag("thead", {}, tag("tr", {}, head)), tag("tbody", {}, rows))
    options = [tag("option", {"value": ""}, "any arm"), *(tag("option", {"value": arm}, arm) for arm in arms)]
    states = [tag("option", {"value": one}, one) for one in ("right", "wrong")]
    tools = tag(
        "div",
        {"class": "tools", "data-for": "items-table", "hidden": True},
        tag("label", {}, "Filter ", tag("input", {"type": "search", "data-filter": "text"})),
        tag("label", {}, "where ", tag("select", {"data-filter": "arm"}, options)),
        tag("label", {}, "is ", tag("select", {"data-filter": "answer"}, states)),
        tag("span", {"role": "status"}),
    )
    return join(
        [tag("p", {}, counts), tools, tag("div", {"class": "tall"}, scrolled(table, "Table of test items")), source]
    )


def _row(item: Item, arms: list[str]) -> Markup:
    wrong = [arm for arm in arms if arm not in item.right]
    said: dict[str, list[str]] = {}
    for arm in wrong:
        said.setdefault(item.said[arm], []).append(arm)
    listed = (
        tag("li", {}, tag("span", {"aria-hidden": "true"}, "✗ "), tag("q", {}, answer), f" {', '.join(those)}")
        for answer, those in said.items()
    )
    about = {"data-right": json.dumps(item.right), "data-wrong": json.dumps(wrong)}
    return tag(
        "tr",
        about,
        tag("th", {"scope": "row"}, item.name),
        (tag("td", {"class": "text"}, text) for text in item.given.values()),
        tag("td", {}, item.true),
        tag("td", {}, tag("span", {"aria-hidden": "true"}, "✓ "), ", ".join(item.right)),
        tag("td", {}, tag("ul", {"class": "said"}, listed)),
    )


def _gallery(compared: Compared, links: Links) -> Markup:
    """The pictures that the best arm's run shows, where it has some."""
    if compared.best is None:
        return Markup()
    run = compared.run_of(compared.best)
    file = run.path / GALLERY
    if not file.is_file():
        return Markup()
    picture = _embedded(file)
    shown = tag("img", {"src": picture, "alt": f"Test items of {run.name}, judged worst first"}) if picture else ""
    caption = tag("figcaption", {}, f"What {compared.best.arm} is shown, judged worst first")
    return tag("figure", {}, caption, shown, links.source([run], GALLERY))


def _embedded(file: Path) -> str | None:
    """A picture as text, small enough for a page; None without Pillow."""
    if importlib.util.find_spec("PIL") is None:
        return None
    from PIL import Image

    stream = io.BytesIO()
    with Image.open(file) as image:
        image.thumbnail((_WIDTH, 4 * _WIDTH))
        image.convert("RGB").save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


# --- how it is made again ----------------------------------------------------------------------------------------


def reproduce(compared: Compared, links: Links) -> Markup:
    """The commands, the resolved recipes, and with what the runs were made."""
    commands = {
        "All arms, from where the data's files are found:": f"hfstrat compare {compared.name}/{RECIPE} --runs again",
        "One arm with every value as it was resolved; floors have none:": f"hfstrat train {compared.name}/RUN/{RECIPE} "
        "--runs again",
        "This page, from the directory alone:": f"hfstrat report {compared.name}",
    }
    if not (compared.path / RECIPE).is_file():  # an older version wrote none
        del commands[next(iter(commands))]
    recipes = [
        tag(
            "details",
            {},
            tag("summary", {}, line.arm),
            tag("p", {}, "Runs: ", join((links.run(compared.path / name, name, RECIPE) for name in line.runs), ", ")),
            scrolled(tag("pre", {}, tag("code", {}, compared.run_of(line).recipe() or "")), f"Recipe of {line.arm}"),
        )
        for line in compared.lines
        if compared.run_of(line).recipe()
    ]
    return join(
        [
            *(join([tag("p", {}, what), tag("pre", {}, tag("code", {}, line))]) for what, line in commands.items()),
            tag("h3", {}, "Made with"),
            _made_with(compared),
            links.source(compared.runs, "env.json"),
            tag("h3", {}, "Resolved recipes"),
            *recipes,
        ]
    )


def _made_with(compared: Compared) -> Markup:
    """What the runs' `env.json` say; values that are not those of all runs come with the runs."""
    found: dict[str, dict[str, list[str]]] = {}
    runs = [run for run in compared.runs if run.read("env.json")]
    runs.sort(key=lambda run: -len([*_facts(run)]))  # floors know less, and rows stand in the order of the first run
    for run in runs:
        for name, value in _facts(run):
            found.setdefault(name, {}).setdefault(value, []).append(run.name)
    rows = []
    for name, values in found.items():
        # Of values in groups the largest needs no list of its runs.
        usual = max(values, key=lambda value: len(values[value]))
        cells = (
            tag("p", {}, value, "" if value == usual else f" ({', '.join(values[value])})")
            for value in sorted(values, key=lambda value: value != usual)
        )
        rows.append(tag("tr", {}, tag("th", {"scope": "row"}, name), tag("td", {"class": "text"}, cells)))
    heading = caption("Where runs differ, those that are named have their own value.")
    return scrolled(tag("table", {}, heading, tag("tbody", {}, rows)), "Table of versions")


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    env = run.read("env.json") or {}
    git, model, data = env.get("git") or {}, env.get("model") or {}, env.get("data") or {}
    plain: Mapping[str, Any] = {
        "model": model.get("name"),
        "model's fingerprint": model.get("fingerprint"),
        "data": data.get("origin"),
        "data's fingerprint": data.get("fingerprint"),
        "splits": "; ".join(env.get("splits") or ()),
        "git commit": f"{git['commit']}{', with changes' if git.get('dirty') else ''}" if git.get("commit") else None,
        "platform": env.get("platform"),
        "device": env.get("device"),
        "processes": env.get("processes"),
        "threads": env.get("threads"),
        "python": env.get("python"),
        **(env.get("versions") or {}),
    }
    for name, value in plain.items():
        if value not in (None, ""):
            yield name, str(value)
