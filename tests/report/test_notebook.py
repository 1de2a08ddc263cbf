"""What notebooks show in place of what a terminal shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text

from hfstrat.errors import Problem, UsageError
from hfstrat.report import tables
from hfstrat.report.display import Drawing, Picture
from hfstrat.report.notebook import COLOURS, as_html
from hfstrat.report.palette import contrast
from hfstrat.runs.rows import Row
from tests.report import fake
from tests.report.html_tree import read


@pytest.fixture
def lines(tmp_path: Path) -> list[tables.Line]:
    runs = [
        fake.run(tmp_path, "head", "head"),
        fake.run(tmp_path, "lora", "lora", state="oom", reason="<too big>"),
    ]
    return tables.comparison_rows([Row.of(run) for run in runs])


def test_a_comparison_is_a_table_with_every_column(lines: list[tables.Line]) -> None:
    names = tables._names(lines, None)
    html = as_html(tables.comparison_table(lines, title="<b>mine</b>"))
    columns = tables.columns(lines, names)
    assert read(html).rows == [
        [column.title for column in columns],
        *([column.cells[place] for column in columns] for place in range(len(lines))),
    ]
    assert "&lt;b&gt;mine" in html
    assert "lora: oom: &lt;too big&gt;" in html
    assert "<b>" not in html
    assert "<html" not in html


def test_a_run_is_a_table(tmp_path: Path) -> None:
    rows = read(fake.run(tmp_path, "notebook", "lora")._repr_html_()).rows
    assert ["strategy", "lora"] in rows
    assert all(len(row) == 2 for row in rows)


def test_styles_are_kept_and_what_is_wide_scrolls() -> None:
    table = Table("name", show_header=True)
    table.add_column("value", justify="right")
    table.add_row("chosen [not a tag]", Text("1", "red"), style="bold")
    html = as_html(Group(table, Text("a remark", "dim")))
    assert html.startswith('<div style="overflow-x:auto">')
    assert "chosen [not a tag]" in html
    assert '<tr style="font-weight:bold;">' in html
    assert f"color:{COLOURS['red']}" in html
    assert "opacity" in html
    assert html.count("text-align:right") == 2  # the heading and the cell


@pytest.mark.parametrize("ground", ["#ffffff", "#111111"])
def test_colours_are_read_on_light_and_dark_pages(ground: str) -> None:
    assert all(contrast(colour, ground) > 4 for colour in COLOURS.values())
    assert {*tables.STATE_STYLES.values(), "red"} <= COLOURS.keys()


def test_a_picture_shows_itself_and_is_its_path(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    pillow.new("RGB", (1500, 930)).save(tmp_path / "a.png")
    picture = Picture(tmp_path / "a.png")
    content, size = picture._repr_png_()
    assert content == Path(picture).read_bytes()
    assert size == {"width": 750}
    assert str(picture) == str(tmp_path / "a.png")


def test_a_drawing_does_not_spell_its_plan_out() -> None:
    assert repr(Drawing({"kind": "head"})) == "Drawing()"


def test_a_mistake_is_shown_without_a_traceback() -> None:
    error = UsageError([Problem("'haed' is no strategy", hint="Did you mean 'head'?"), Problem("bad\x1b[2J column")])
    assert error._render_traceback_() == [
        "UsageError: 'haed' is no strategy. Did you mean 'head'?",
        "UsageError: bad\\x1b[2J column",
    ]
