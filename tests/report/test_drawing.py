from __future__ import annotations

import io

import pytest
from rich.console import Console

from hfstrat.report.drawing import Layer, bar, draw, layers
from tests.report import fake


def drawn(kind: str, blocks: int = 3, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(draw(fake.plan(kind, blocks=blocks)))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


@pytest.mark.parametrize("kind", ["head", "lora", "full"])
def test_each_part_is_drawn_once_from_input_to_output(kind: str) -> None:
    text = drawn(kind)
    parts = ["embeddings.word_embeddings", *(f"encoder.layer.{i}" for i in range(3)), "classifier"]
    assert [text.count(part) for part in parts] == [1] * 5
    assert sorted(parts, key=text.index) == parts


@pytest.mark.parametrize(
    ("kind", "symbols"),
    [
        ("head", {"░": "frozen", "▓": "new head"}),
        ("lora", {"░": "frozen", "▚": "adapter"}),
        ("full", {"█": "training"}),
    ],
)
def test_states_can_be_told_without_colour_and_stand_in_the_legend(kind: str, symbols: dict[str, str]) -> None:
    text = drawn(kind)
    for symbol, state in symbols.items():
        assert f"{symbol * 2} {state}" in text
    assert ("▚" in text) == (kind == "lora")
    assert ("█" in text) == (kind == "full")


def test_totals_and_stages_are_said() -> None:
    text = drawn("lora")
    assert "214k of 17.3M parameters train (1.24 %); 214k stored in the artefact" in text
    assert "stages: probe (solve) → fit (fit)" in text
    assert "lora (LORA, r=16)" in text
    assert "frozen + 61.4k adapter" in text


def test_long_stacks_of_equal_blocks_are_one_row() -> None:
    text = drawn("lora", blocks=28)
    assert "blocks 0–27 (28×)" in text
    assert "51.4M" in text
    assert "encoder.layer" not in text


def test_long_stacks_stay_apart_where_they_differ() -> None:
    plan = fake.plan("head", blocks=20)
    modules = plan["parameters"]["by_module"]
    for path in plan["anatomy"]["blocks"][18:]:
        modules[path] = {**modules[path], "trained": modules[path]["total"]}
    names = [layer.name for layer in layers(plan["anatomy"], modules)]
    assert names[1:3] == ["blocks 0–17 (18×)", "blocks 18–19 (2×)"]


def test_what_lies_in_no_part_is_drawn_when_there_is_any() -> None:
    plan = fake.plan("head")
    modules = {**plan["parameters"]["by_module"], "other": {"total": 768, "trained": 0, "adapter": 0}}
    assert "other" in [layer.name for layer in layers(plan["anatomy"], modules)]


@pytest.mark.parametrize(("total", "trained", "adapter"), [(1000, 10, 10), (10, 10, 0), (10, 0, 0), (1000, 999, 5)])
def test_bars_are_full_and_show_all_that_is_there(total: int, trained: int, adapter: int) -> None:
    layer = Layer("x", total, trained, adapter)
    cells = dict(bar(layer, 10))
    assert sum(cells.values()) == 10
    assert cells.keys() == layer.shares.keys()
    assert min(cells.values()) >= 1
    assert sum(layer.shares.values()) == total


def test_floors_have_no_layers() -> None:
    assert "majority: no layers" in drawn("majority")
