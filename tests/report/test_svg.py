from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from hfstrat.report.svg import ADVANCES, PAINTS, fitted, svg, text_width
from hfstrat.strategies.plan import Group
from tests.report import fake

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="the extra plots")
XMLNS = "{http://www.w3.org/2000/svg}"
ALPHA = "\N{GREEK SMALL LETTER ALPHA}"


def extremes() -> dict[str, dict[str, Any]]:
    """Plans that are hard to lay out."""
    medium = fake.bert()
    blocks = [*medium["blocks"]]
    tops = {f"unfreeze-{n}": [*blocks[-n:], "bert.pooler", "classifier"] for n in range(1, 13)}
    groups = [Group(path, (f"{path}.*",), 0.9**depth) for depth, path in enumerate(reversed(blocks))]
    long = {
        "embeddings": {f"backbone.{'very_long_' * 9}embeddings": 123_456_789},
        "other": {"other": 1},
        "blocks": {f"backbone.{'deeply.' * 8}layer<&>{place}": 10**9 for place in range(20)},
        "above": {},
        "head": {"W\"<b>&'" * 20: 77},
    }
    eight = {"bits": 8, "quant_type": "nf4", "double_quant": True}
    teacher = {"temperature": 2.5, "alpha": 0.95, "unlabelled": "data/" + "more" * 40}
    return {
        "stages": fake.planned("partial", medium, tops, fresh=("classifier",), groups=groups),
        "names": fake.planned(
            "M<&>" * 60,
            long,
            {"W<&>" * 20: [*long["blocks"]][:5], "b\x00\n": [*long["head"]]},
            added=10**7,
            storage=eight,
            adapter={"method": "LORA" * 40, "options": {"r": 3}},
        ),
        "all": fake.planned(
            "distill",
            medium,
            tops,
            groups=groups,
            added=fake.ADAPTER,
            storage=eight,
            distillation={"teacher": f"{'organisation' * 4}/{'teacher-' * 9}", **teacher},
        ),
        "wide": fake.planned("宽" * 60, {**medium, "head": {"頭" * 40: 5}}, {"訓練" * 20: blocks, "二": ["頭" * 40]}),
    }


PLANS = {**fake.plans(), **extremes(), **{f"old {kind}": fake.plan(kind) for kind in ("head", "lora", "full")}}


def parsed(plan: dict[str, Any]) -> ElementTree.Element:
    return ElementTree.fromstring(svg(json.loads(json.dumps(plan))))


@dataclass(frozen=True)
class Written:
    """A text and where it stands."""

    text: str
    x: float
    y: float
    size: float
    anchor: str
    bold: bool

    def ends(self, width: float) -> tuple[float, float]:
        left = self.x - width * {"start": 0, "middle": 0.5, "end": 1}[self.anchor]
        return left, left + width


def texts(plan: dict[str, Any]) -> list[Written]:
    root = parsed(plan)
    return [
        Written(
            "".join([element.text or "", *(child.tail or "" for child in element)]),
            float(element.attrib["x"]),
            float(element.attrib["y"]),
            float(element.get("font-size", root.attrib["font-size"])),
            element.get("text-anchor", "start"),
            element.get("font-weight") == "bold",
        )
        for element in root.iter(f"{XMLNS}text")
    ]


def fills(plan: dict[str, Any]) -> list[str]:
    """States in the order in which their rectangles are drawn: from the output down, and then the legend."""
    found = (path.get("fill", "") for path in parsed(plan).iter(f"{XMLNS}path"))
    return [fill.removeprefix("url(#hfstrat-").rstrip(")") for fill in found if fill.startswith("url")]


def rows(plan: dict[str, Any]) -> dict[float, list[str]]:
    """Texts by height."""
    found: dict[float, list[str]] = {}
    for text in sorted(texts(plan), key=lambda one: (one.y, one.x)):
        found.setdefault(text.y, []).append(text.text)
    return found


def row(plan: dict[str, Any], name: str) -> list[str]:
    return next(row for row in rows(plan).values() if row[0] == name)


# --- what is drawn ------------------------------------------------------------------------------------------------


def test_each_row_says_name_parameters_and_state() -> None:
    plan = fake.plans()["ia3"]
    assert row(plan, "embeddings.word_embeddings") == ["embeddings.word_embeddings", "11.7M", "frozen"]
    assert row(plan, "encoder.layer.3") == ["encoder.layer.3", "1.78M", "frozen + 1.54k adapter"]
    assert row(plan, "classifier") == ["classifier", "29.6k", "random"]


def test_the_input_is_at_the_bottom_and_the_output_on_top() -> None:
    heights = {text.text: text.y for text in texts(fake.plans()["full"])}
    order = ["output", "classifier", "pooler", *(f"encoder.layer.{place}" for place in reversed(range(12)))]
    order += ["other", "embeddings.token_type_embeddings", "embeddings.word_embeddings", "input"]
    assert sorted(order, key=lambda name: heights[name]) == order


@pytest.mark.parametrize(
    ("kind", "states"),
    [
        ("scratch", ["random"] * 12),
        ("head", ["random", *["frozen"] * 17]),
        ("partial", ["random", *["training"] * 5, *["frozen"] * 12]),
        ("full", ["training"] * 18),
        ("lora", ["random", "frozen", "frozen", "adapter", *["frozen"] * 4]),
        ("qlora", ["random", "frozen", "quantised", "adapter", *["frozen"] * 4]),
        ("ia3", ["random", "frozen", *["frozen", "adapter"] * 12, *["frozen"] * 4]),
        ("distill", ["training"] * 12),
        ("t5", ["random", "random", *["training"] * 6]),
    ],
)
def test_each_box_has_the_pattern_of_its_states(kind: str, states: list[str]) -> None:
    plan = fake.plans()[kind]
    legend = [state for state in PAINTS if state in states]
    assert fills(plan) == [*states, *legend]
    assert [pattern.get("id") for pattern in parsed(plan).iter(f"{XMLNS}pattern")] == [f"hfstrat-{s}" for s in legend]


def test_states_have_patterns_of_their_own() -> None:
    assert len({paint.pattern for paint in PAINTS.values()}) == len(PAINTS)


def test_each_stage_has_a_column_with_its_name_and_share() -> None:
    plan = fake.plans()["gradual"]
    assert ["top-1", "top-2", "top-3"] in rows(plan).values()
    assert ["share of updates", "33 %", "33 %", "33 %"] in rows(plan).values()
    boxes = fills(plan)
    columns = [boxes[place : place + 3] for place in range(0, 54, 3)]
    f, t = "frozen", "training"
    assert columns[:6] == [["random"] * 3, [t] * 3, [t] * 3, [f, t, t], [f, f, t], [f] * 3]


def test_many_stages_are_numbered() -> None:
    found = rows(extremes()["stages"])
    assert ["1", "3", "5", "7", "9", "11"] in found.values()
    assert any(line[0].startswith("stages: probe (solve) → 1 unfreeze-1 (fit) →") for line in found.values())


def test_learning_rates_have_a_column_where_they_differ() -> None:
    plan = fake.plans()["partial"]
    assert row(plan, "output") == ["output", "parameters", "learning rate"]
    assert row(plan, "encoder.layer.10") == ["encoder.layer.10", "1.77M", "×0.81", "training"]
    assert row(plan, "encoder.layer.2") == ["encoder.layer.2", "1.77M", "frozen"]
    assert row(fake.plans()["full"], "output") == ["output", "parameters"]


def test_stored_bits_stand_in_the_box_the_words_and_the_legend() -> None:
    plan = fake.plans()["qlora"]
    words = ["blocks 0–23 (24×)", "44.1M", "frozen, 4-bit nf4 + 1.47M adapter"]
    assert row(plan, words[0]) == words
    assert [text.text for text in texts(plan)].count("4-bit nf4") == 1
    assert ["frozen", "frozen, 4-bit nf4", "adapter", "random"] in rows(plan).values()


def test_the_teacher_stands_beside_its_student() -> None:
    plan = fake.plans()["distill"]
    found = {text.text: text for text in texts(plan)}
    assert found["runs/full"].x > found["11.7M"].x
    assert found[f"T=2, {ALPHA}=0.9"].y < found["classifier"].y
    assert [text.text for text in texts(plan)].count("logits") == 2
    assert not {"teacher", "logits"} & {text.text for text in texts(fake.plans()["full"])}


def test_title_totals_and_stages_are_said() -> None:
    found = rows(PLANS["old lora"])
    lines = [" ".join(line) for line in found.values()]
    assert lines[:2] == ["lora", "LORA, r=16"]
    assert lines[-2:] == [
        "214k of 17.3M parameters train (1.24 %); 214k stored in the artefact",
        "stages: probe (solve) → fit (fit)",
    ]


def test_long_stacks_stand_behind_one_box() -> None:
    def sheets(plan: dict[str, Any]) -> int:
        return sum(path.get("fill") == PAINTS["frozen"].fill for path in parsed(plan).iter(f"{XMLNS}path"))

    assert sheets(fake.plans()["lora"]) == 2
    assert sheets(fake.plans()["ia3"]) == 0


def test_floors_have_no_layers() -> None:
    assert [text.text for text in texts(fake.plan("majority"))] == ["majority: no layers to draw"]


# --- that it can be read ------------------------------------------------------------------------------------------


@cache
def _font(bold: bool) -> Any:
    import matplotlib
    from PIL import ImageFont

    name = f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), 200)


def measured(text: str, size: float, bold: bool) -> float:
    """Width in DejaVu Sans, the widest of the common fonts; it has no ideographs, which are as wide as high."""
    ideographs = sum(character > "\u2fff" for character in text)
    rest = "".join(character for character in text if character <= "\u2fff")
    return float(_font(bold).getlength(rest)) * size / 200 + ideographs * size


@needs_matplotlib
@pytest.mark.parametrize("kind", PLANS)
def test_no_text_overlaps_another_one_or_leaves_the_picture(kind: str) -> None:
    _, _, width, height = map(float, parsed(PLANS[kind]).attrib["viewBox"].split())
    boxes = []
    for text in texts(PLANS[kind]):
        left, right = text.ends(measured(text.text, text.size, text.bold))
        top, bottom = text.y - 0.76 * text.size, text.y + 0.24 * text.size
        assert 4 <= left <= right <= width - 4, text
        assert 4 <= top <= bottom <= height - 4, text
        boxes.append((text, left, right, top, bottom))
    for one, other in combinations(boxes, 2):
        apart = one[2] <= other[1] or other[2] <= one[1] or one[4] <= other[3] or other[4] <= one[3]
        assert apart, (one, other)


@needs_matplotlib
@pytest.mark.parametrize("kind", PLANS)
def test_names_end_where_boxes_begin_and_numbers_begin_where_they_end(kind: str) -> None:
    paths = [path for path in parsed(PLANS[kind]).iter(f"{XMLNS}path") if path.get("fill", "").startswith("url")]
    legend = len(list(parsed(PLANS[kind]).iter(f"{XMLNS}pattern")))
    starts, ends = [], []
    for path in paths[:-legend]:
        x, straight, radius = map(float, re.findall(r"M([\d.]+) [\d.]+h([\d.-]+)a([\d.]+)", path.attrib["d"])[0])
        starts.append(x)
        ends.append(x + straight + radius)
    for text in texts(PLANS[kind]):
        left, right = text.ends(measured(text.text, text.size, text.bold))
        if text.anchor == "end":
            assert right <= min(starts) or left >= max(ends), text


@pytest.mark.parametrize("kind", PLANS)
def test_no_shape_leaves_the_picture(kind: str) -> None:
    root = parsed(PLANS[kind])
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    shapes = [path.attrib["d"] for path in root.findall(f"{XMLNS}path") if "transform" not in path.attrib]
    starts = [tuple(map(float, found)) for shape in shapes for found in re.findall(r"M([\d.-]+) ([\d.-]+)", shape)]
    assert starts
    assert all(8 <= x <= width - 8 and 8 <= y <= height - 8 for x, y in starts)


@needs_matplotlib
def test_estimated_widths_are_those_of_a_wide_font_or_a_little_more() -> None:
    letters = [*map(chr, range(32, 127)), *ADVANCES]
    for character in letters:
        assert measured(character, 1, False) <= text_width(character, 1) + 0.005, character
    pangram = "encoder.layer.11 embeddings.token_type_embeddings 1.77M training + 61.4k adapter"
    assert text_width(pangram) < 1.1 * measured(pangram, 12, False)
    assert measured(pangram, 12, True) <= text_width(pangram, bold=True)


def test_long_texts_lose_their_middle() -> None:
    name = "encoder.block.0.a_long_name_in_between.weight"
    short = fitted(name, 120)
    assert short.startswith("enco")
    assert short.endswith("ight")
    assert short.count("…") == 1
    assert text_width(short) <= 120 < text_width(name)
    assert fitted(name, 1000) == name
    assert fitted(name, 1) == "…"


def test_a_text_that_was_cut_is_whole_where_one_points_at_it() -> None:
    plan = fake.bert()
    plan = {**plan, "head": {"classifier." + "long" * 40: 7}}
    whole = {title.text for title in parsed(fake.planned("head", plan, {})).iter(f"{XMLNS}title")}
    assert "classifier." + "long" * 40 in whole


def test_what_xml_knows_is_escaped() -> None:
    medium = fake.bert()
    plan = fake.planned("<&>\"'", {**medium, "head": {"a<b>&amp;": 7}}, {"x\x01y": ["a<b>&amp;"]}, fresh=())
    found = [text.text for text in texts(plan)]
    assert "<&>\"'" in found
    assert "a<b>&amp;" in found
    assert "stages: probe (solve) → x y (fit)" in found


def test_it_needs_nothing_from_elsewhere_and_brings_its_background() -> None:
    drawn = svg(fake.plans()["distill"])
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in drawn
    assert "<image" not in drawn
    background = parsed(fake.plans()["distill"]).find(f"{XMLNS}rect")
    assert background is not None
    assert background.get("fill") == "#ffffff"


def test_it_is_drawn_without_heavy_libraries() -> None:
    code = "import sys, hfstrat.report.svg\nprint(sorted({'torch', 'transformers', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
