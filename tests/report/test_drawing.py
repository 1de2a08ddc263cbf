from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from rich.console import Console

from hfstrat.report.drawing import LOOKS, Layer, bar, draw, layers, picture, scales
from hfstrat.strategies.plan import Group
from tests.report import fake

KINDS = sorted(fake.plans())
# What a plan's parts are, by symbol: embeddings, other, a block at the bottom, one at the top, pooler, head.
SYMBOLS = {
    "scratch": "▓▓▓▓▓▓",
    "head": "░░░░░▓",
    "partial": "░░░██▓",
    "full": "██████",
    "ia3": "░░▚▚░▓",
    "distill": "██████",
}


def shown(plan: dict[str, Any], width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(draw(json.loads(json.dumps(plan))))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def drawn(kind: str, blocks: int = 3, width: int = 80) -> str:
    return shown(fake.plan(kind, blocks=blocks), width)


def row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"{name} "))


# --- the format of the first version ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["head", "lora", "full"])
def test_each_part_is_drawn_once_from_input_to_output(kind: str) -> None:
    text = drawn(kind)
    parts = ["embeddings.word_embeddings", *(f"encoder.layer.{i}" for i in range(3)), "classifier"]
    assert [text.count(part) for part in parts] == [1] * 5
    assert sorted(parts, key=text.index) == parts


@pytest.mark.parametrize(
    ("kind", "symbols"),
    [
        ("head", {"░": "frozen", "▓": "random"}),
        ("lora", {"░": "frozen", "▚": "adapter", "▓": "random"}),
        ("full", {"█": "training", "▓": "random"}),
    ],
)
def test_states_can_be_told_without_colour_and_stand_in_the_legend(kind: str, symbols: dict[str, str]) -> None:
    text = drawn(kind)
    for symbol, state in symbols.items():
        assert f"{symbol * 2} {state}" in text
    assert {symbol for symbol, _ in LOOKS.values() if symbol in text} == symbols.keys()


def test_a_model_from_random_numbers_is_random_in_old_files_too() -> None:
    text = shown({**fake.plan("full"), "weights": "random"})
    assert "█" not in text
    assert "▓" in row(text, "encoder.layer.0")


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
    names = [layer.name for layer in layers(plan)]
    assert names[1:3] == ["blocks 0–17 (18×)", "blocks 18–19 (2×)"]


def test_floors_have_no_layers() -> None:
    assert "majority: no layers" in drawn("majority")


# --- every strategy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SYMBOLS)
def test_each_part_shows_its_state(kind: str) -> None:
    text = shown(fake.plans()[kind])
    last = 5 if kind in ("scratch", "distill") else 11
    names = ["embeddings.word_embeddings", "other", "encoder.layer.0", f"encoder.layer.{last}", "pooler", "classifier"]
    bars = [re.sub(r"[^░┼█▚▓]", "", row(text, name)) for name in names]
    assert "".join(bar[-1] for bar in bars) == SYMBOLS[kind]
    assert all(len(bar) == 18 for bar in bars)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_go_from_the_embeddings_to_the_head_and_hold_all_parameters(kind: str) -> None:
    plan = fake.plans()[kind]
    found = layers(plan)
    sections = list(dict.fromkeys("blocks" if "." in layer.section else layer.section for layer in found))
    assert sections == [name for name in ("embeddings", "other", "blocks", "above", "head") if name in sections]
    assert {"embeddings", "blocks", "above", "head"} <= set(sections)
    assert sum(layer.total for layer in found) == plan["parameters"]["total"]
    assert sum(layer.trained for layer in found) == plan["parameters"]["trainable"]
    assert all(sum(layer.shares.values()) == layer.total for layer in found)


def test_a_head_that_is_taken_over_trains_and_a_new_one_is_random() -> None:
    plan = fake.plans()["partial"]
    assert layers(plan)[-1].shares == {"random": fake.HEAD}
    plan["parameters"]["by_module"]["classifier"]["fresh"] = 0
    assert layers(plan)[-1].shares == {"training": fake.HEAD}


def test_stages_that_train_different_things_stand_side_by_side() -> None:
    text = shown(fake.plans()["gradual"])
    assert re.search(r"top-1 +top-2 +top-3 +lr", text)
    bars = {name: re.findall(r"[░█▓]+", row(text, f"encoder.layer.{name}")) for name in (8, 9, 10, 11)}
    assert {name: "".join(bar[0] for bar in columns) for name, columns in bars.items()} == {
        8: "░░░",
        9: "░░█",
        10: "░██",
        11: "███",
    }
    assert len({len(bar) for columns in bars.values() for bar in columns}) == 1


def test_stages_that_train_the_same_share_a_bar() -> None:
    medium = fake.bert()
    plan = fake.planned("full", medium, {"one": fake.paths(medium), "two": fake.paths(medium)})
    assert picture(plan).columns == ()
    assert len(re.findall(r"█+", row(shown(plan), "encoder.layer.3"))) == 1


def test_many_stages_are_numbered_and_the_line_below_says_which() -> None:
    medium = fake.bert()
    blocks = [*medium["blocks"]]
    stages = {f"unfreeze-{n}": [*blocks[-n:], "classifier"] for n in range(1, 13)}
    text = shown(fake.planned("partial", medium, stages, fresh=("classifier",)), width=120)
    assert re.search(r"^ +1 2 3 ", text, re.MULTILINE)
    assert "stages: probe (solve) → 1 unfreeze-1 (fit) → 2 unfreeze-2 (fit)" in text
    assert re.findall(r"[░█]", row(text, "encoder.layer.9")) == ["░"] * 2 + ["█"] * 10


def test_in_a_stage_that_does_not_train_an_adapter_all_is_frozen() -> None:
    layer = Layer("x", 100, 10, 10, by_stage=(0, 10))
    assert [column.shares for column in layer.columns] == [{"frozen": 100}, {"frozen": 90, "adapter": 10}]


def test_learning_rates_stand_beside_what_trains() -> None:
    text = shown(fake.plans()["partial"])
    found = {name: re.findall(r"×[\d.]+", row(text, name)) for name in ("encoder.layer.10", "pooler", "classifier")}
    assert found == {"encoder.layer.10": ["×0.81"], "pooler": ["×1"], "classifier": ["×1"]}
    assert "×" not in row(text, "encoder.layer.7")
    assert "×" not in shown(fake.plans()["full"])


def test_blocks_that_differ_in_their_rate_alone_are_one_row_with_its_range() -> None:
    assert "×0.0798–0.9" in row(shown(fake.plans()["layerwise"]), "blocks 0–23 (24×)")
    assert [scales(factors) for factors in ((), (1.0,), (0.5, 0.7, 0.9))] == ["", "×1", "×0.5–0.9"]


def test_what_lies_in_no_part_has_the_rate_of_the_group_that_is_for_all() -> None:
    medium = fake.bert()
    groups = [Group("top", ("classifier.*",)), Group("below", ("*",), 0.25)]
    plan = fake.planned("full", medium, {"fit": fake.paths(medium)}, groups=groups)
    assert {layer.name: layer.scales for layer in layers(plan)}["other"] == (0.25,)
    two = [Group("norms", ("*Norm*",), 0.5), *groups]
    plan = fake.planned("full", medium, {"fit": fake.paths(medium)}, groups=two)
    assert {layer.name: layer.scales for layer in layers(plan)}["other"] == ()


def test_rates_of_a_part_of_an_adapter_are_said_below() -> None:
    groups = [Group("lora_B", ("*.lora_B.*",), 16.0), Group("rest", ("*",))]
    plan = fake.planned("lora", fake.bert(), {"fit": ["classifier"]}, added=100, groups=groups)
    assert "learning rates: ×16 lora_B" in shown(plan)
    assert "learning rates" not in shown(fake.plans()["gradual"])


def test_stored_bits_are_told_by_title_symbol_and_words() -> None:
    text = shown(fake.plans()["qlora"])
    assert "qlora (LORA, r=16, 4-bit nf4)" in text
    assert "┼┼ frozen, 4-bit nf4" in text
    assert "frozen, 4-bit nf4 + 1.47M adapter" in row(text, "blocks 0–23 (24×)")
    assert "┼" not in row(text, "embeddings.word_embeddings")
    eight = {**fake.plans()["qlora"], "storage": {"bits": 8, "quant_type": "nf4", "double_quant": True}}
    assert "frozen, 8-bit + 1.47M adapter" in shown(eight)


def test_the_teacher_is_named() -> None:
    plan = fake.plans()["distill"]
    assert "distill (teacher runs/full, T=2, \N{GREEK SMALL LETTER ALPHA}=0.9)" in shown(plan)
    plan["distillation"]["unlabelled"] = "more.txt"
    assert "unlabelled more.txt" in shown(plan)


def test_both_stacks_of_an_encoder_decoder_are_drawn() -> None:
    names = [layer.name for layer in layers(fake.plans()["t5"])]
    assert names == [
        "shared",
        "encoder.block.0",
        "encoder blocks 1–11 (11×)",
        "decoder.block.0",
        "decoder blocks 1–11 (11×)",
        "decoder.final_layer_norm",
        "classification_head.dense",
        "classification_head.out_proj",
    ]


# --- bars ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "trained", "adapter"), [(1000, 10, 10), (10, 10, 0), (10, 0, 0), (1000, 999, 5)])
def test_bars_are_full_and_show_all_that_is_there(total: int, trained: int, adapter: int) -> None:
    layer = Layer("x", total, trained, adapter)
    cells = dict(bar(layer, 10))
    assert sum(cells.values()) == 10
    assert cells.keys() == layer.shares.keys()
    assert min(cells.values()) >= 1
    assert sum(layer.shares.values()) == total


def test_bars_are_in_proportion_above_their_least() -> None:
    layer = Layer("x", 1000, 250, 0)
    assert bar(layer, 100) == [("frozen", 75), ("training", 25)]
    assert bar(Layer("x", 1000, 1, 1), 100, least=8) == [("frozen", 92), ("adapter", 8)]


def test_a_bar_without_room_shows_the_most() -> None:
    assert bar(Layer("x", 1000, 10, 10), 1) == [("frozen", 1)]
    assert bar(Layer("x", 0, 0, 0), 5) == []
