"""The report of a comparison in Chromium: it renders, sorts, filters and prints, and asks nobody for anything."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hfstrat.report.page import REPORT, SECTIONS
from tests.report import comparisons

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `apt-get install chromium`"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="the extra dev"),
]
WIDE, NARROW = 1280, 390
Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM)
        yield found
        found.close()


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return comparisons.usual(tmp_path_factory.mktemp("usual") / "cards") / REPORT


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return comparisons.hostile(tmp_path_factory.mktemp("hostile") / "cards") / REPORT


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens a file. In the end nothing must have been asked for but that, and no error said."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def make(file: Path, width: int = WIDE, scheme: Any = "light", **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        return page

    yield make
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:image/"))] == []
    assert len([url for url in asked if url.startswith("file:")]) == len(contexts)


def arms(page: Page) -> list[str]:
    """Arms in the order and the choice that the table shows."""
    rows = page.locator("#arms-table tbody tr:visible th")
    return rows.all_inner_texts()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_it_fits_and_is_drawn_in_the_colours_that_are_asked_for(
    usual: Path, open_page: Open, width: int, scheme: str
) -> None:
    page = open_page(usual, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.body.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 25, 30)")
    # The mark of a known kind is filled, so the style was not refused.
    assert page.evaluate("getComputedStyle(document.querySelector('.kind-head .mark')).fill") != "rgb(0, 0, 0)"
    assert page.locator("h2").count() == len(SECTIONS)


def test_axe_finds_nothing(browser: Browser, usual: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    # Axe is a script that the page's policy rightly refuses.
    context = browser.new_context(bypass_csp=True, viewport={"width": WIDE, "height": 900})
    page = context.new_page()
    page.goto(usual.as_uri())
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    found = [Axe().run(page)]
    page.emulate_media(color_scheme="dark")
    found.append(Axe().run(page, options={"runOnly": ["color-contrast"]}))
    context.close()
    for one in found:
        assert one.violations_count == 0, one.generate_report()
        assert "color-contrast" in {rule["id"] for rule in one.response["passes"]}


def test_a_heading_sorts_its_column_both_ways(usual: Path, open_page: Open) -> None:
    page = open_page(usual)
    order = ["majority", "tfidf", "head", "lora", "head-all", "lora-all", "full", "partial"]
    assert arms(page) == order
    heading = page.locator("#arms-table th", has_text="time")
    assert heading.get_attribute("aria-sort") == "none"
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    by_time = ["majority", "tfidf", "head", "head-all", "lora", "lora-all"]
    assert arms(page) == [*by_time, "full", "partial"], "what was not measured is last"
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert arms(page) == [*reversed(by_time), "full", "partial"], "either way"
    page.locator("#arms-table th", has_text="arm").get_by_role("button").click()
    assert arms(page) == sorted(order)
    assert heading.get_attribute("aria-sort") == "none"


def test_filters_choose_rows(usual: Path, open_page: Open) -> None:
    page = open_page(usual)
    tools = page.locator(".tools[data-for=arms-table]")
    tools.get_by_label("Filter").fill("ALL")
    assert arms(page) == ["head-all", "lora-all"]
    assert tools.get_by_role("status").inner_text() == "2 of 8 shown"
    tools.get_by_label("kind").select_option("lora")
    assert arms(page) == ["lora-all"]
    tools.get_by_label("Filter").fill("")
    tools.get_by_label("kind").select_option("all")
    tools.get_by_label("state").select_option("oom")
    assert arms(page) == ["full"]


def test_items_are_chosen_by_who_is_right(usual: Path, open_page: Open) -> None:
    page = open_page(usual)
    tools, rows = page.locator(".tools[data-for=items-table]"), page.locator("#items-table tbody tr:visible")
    every = rows.count()
    counts = []
    for answer in ("right", "wrong"):
        tools.locator("[data-filter=arm]").select_option("lora")
        tools.locator("[data-filter=answer]").select_option(answer)
        column = page.locator(f"#items-table tbody tr:visible td:nth-of-type({3 if answer == 'right' else 4})")
        assert all("lora" in re.split(r"\W+", text) for text in column.all_inner_texts())
        counts.append(rows.count())
    assert sum(counts) == every > 20
    assert all(counts)


def test_one_of_several_pictures_is_shown_and_all_are_printed(usual: Path, open_page: Open) -> None:
    page = open_page(usual)
    shown = page.locator("[data-panel]:visible figcaption")
    assert shown.all_inner_texts() == ["accuracy against time", "validation accuracy against updates"]
    page.get_by_role("button", name="peak memory").click()
    page.get_by_role("button", name="loss over time").click()
    assert shown.all_inner_texts() == ["accuracy against peak memory", "validation loss against time"]
    assert page.get_by_role("button", name="peak memory").get_attribute("aria-pressed") == "true"
    assert page.get_by_role("button", name="time", exact=True).get_attribute("aria-pressed") == "false"
    page.emulate_media(media="print")
    assert shown.count() == 8
    assert page.locator(".tools:visible, .choices:visible").count() == 0


def test_a_legend_hides_lines(usual: Path, open_page: Open) -> None:
    page = open_page(usual)
    figure = page.locator("figure", has=page.locator("#curve-rows-title"))
    before = figure.locator(".chart [data-series]:visible").count()
    entry = figure.get_by_role("button", name="lora")
    entry.click()
    assert figure.locator(".chart [data-series]:visible").count() == before - 1 == 1
    assert entry.get_attribute("aria-pressed") == "false"
    entry.click()
    assert figure.locator(".chart [data-series]:visible").count() == before


def test_everything_can_be_read_without_javascript(usual: Path, open_page: Open) -> None:
    page = open_page(usual, java_script_enabled=False)
    assert page.locator("[data-panel]:visible").count() == 8
    assert page.locator("button, .tools:visible").count() == 0
    assert page.locator("#arms-table tbody tr:visible").count() == 8


def test_the_keyboard_reaches_the_answer_first(usual: Path, open_page: Open) -> None:
    page = open_page(usual)
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    assert focused.inner_text() == "Skip to the answer"
    box = focused.bounding_box()
    assert box is not None
    assert box["x"] >= 0, "and is seen then"
    width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert width == "3px"


def test_markup_in_runs_does_nothing(hostile: Path, open_page: Open) -> None:
    page = open_page(hostile, NARROW)
    assert page.title() == "Comparison cards"
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW
    assert page.locator(".reason").inner_text() == comparisons.HOSTILE
    page.locator("#arms-table th", has_text="accuracy").get_by_role("button").click()
    page.locator(".tools[data-for=items-table]").get_by_label("Filter").fill("<img")
    assert page.locator("#items-table tbody tr:visible").count() > 0
    assert page.title() == "Comparison cards"


def test_the_policy_refuses_what_is_not_the_page_s_own(browser: Browser, usual: Path, tmp_path: Path) -> None:
    text = usual.read_text("utf-8")
    added = "<script>document.title = 'owned'</script><style>body { color: red }</style><img src='missing.png'></body>"
    file = tmp_path / REPORT
    file.write_text(text.replace("</body>", added), "utf-8")
    context = browser.new_context()
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(file.as_uri())
    title, colour = page.title(), page.evaluate("getComputedStyle(document.body).color")
    context.close()
    assert (title, colour != "rgb(255, 0, 0)") == ("Comparison cards", True)
    assert len([one for one in said if "Content Security Policy" in one]) == 3
