"""Measured factors in place of adjectives."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from hfstrat.report.factors import Factors, factors, needed
from hfstrat.report.tables import Line, comparison_rows
from hfstrat.runs.rows import Row
from hfstrat.study.statistics import Difference
from tests.report import fake


@pytest.fixture
def lines(tmp_path: Path) -> list[Line]:
    runs = [
        fake.run(tmp_path, "majority", "majority", accuracy=0.1),
        fake.run(tmp_path, "tfidf", "tfidf", accuracy=0.7),
        fake.run(tmp_path, "scratch", "scratch", accuracy=0.6),
        fake.run(tmp_path, "head", "head", accuracy=0.8, seconds=10),
        fake.run(tmp_path, "lo|ra-seed0", "lora", accuracy=0.9),
        fake.run(tmp_path, "lo|ra-seed1", "lora", state="oom", reason="too large"),
        fake.run(tmp_path, "full", "full", state="oom", reason="too large"),
    ]
    plan = fake.plan("head") | {"kind": "scratch", "weights": "random"}
    fake.write_json(tmp_path / "scratch" / "plan.json", plan)
    return comparison_rows([Row.of(run) for run in runs])


def gain(first: Line, second: Line) -> Difference | None:
    values = [line.metrics["accuracy"].value for line in (first, second) if "accuracy" in line.metrics]
    return Difference(values[0] - values[1], -1, 1, 10, 0.1) if len(values) == 2 else None


def rows(found: Factors) -> dict[str, tuple[str, ...]]:
    return {row.name: row.cells for row in found.rows}


def test_each_factor_is_what_was_measured(lines: list[Line]) -> None:
    found = factors(lines, "accuracy", gain)
    assert found.strategies == ("scratch", "head", "lo|ra", "full")
    told = rows(found)
    assert told["time of a run"] == ("60.0 s", "10.0 s", "60.0 s", "")
    assert told["compute: FLOP of a run"] == ("60.0T", "10.0T", "60.0T", "")
    assert told["quality: accuracy"][1:] == ("0.800 [0.790–0.810]", "0.900 [0.890–0.910]", "oom")
    assert told["flexibility: architecture"] == ("any", "the base's", "the base's", "the base's")
    random = told["similarity: gain over random weights"]
    assert random == ("", "+0.200 [-1.000, +1.000]", "+0.300 [-1.000, +1.000]", "")
    assert told["similarity: gain over the best floor"][0].startswith("-0.100 [")


def test_gains_are_over_arms_on_as_much_data(lines: list[Line]) -> None:
    told = rows(
        factors([replace(line, train_rows=9) if line.kind == "scratch" else line for line in lines], "accuracy", gain)
    )
    assert "similarity: gain over random weights" not in told
    assert told["similarity: gain over the best floor"][0] == ""
    assert told["similarity: gain over the best floor"][1].startswith("+0.100")


def test_what_was_not_measured_is_left_out(lines: list[Line]) -> None:
    told = rows(factors([line for line in lines if line.kind in ("head", "lora")], "accuracy", lambda *_: None))
    assert not [name for name in told if name.startswith(("data", "similarity", "cost"))]
    assert "None" not in str(told)


def test_the_data_that_is_needed() -> None:
    told = [("4 rows", ["head", "scratch"]), ("8 rows", ["head", "lora"]), ("16 rows", ["lora", "head"])]
    found = needed(told, ["head", "lora", "full", "scratch"])
    assert found == {"head": "4 rows", "lora": "8 rows", "full": "never", "scratch": "never"}
    assert needed([], ["head"]) == {}


def test_it_is_drawn_and_written_escaped(lines: list[Line]) -> None:
    found = factors(lines, "accuracy", gain, {"head": "[b]4 rows[/b]"})
    text = found.markdown()
    assert text.splitlines()[0] == "|  | scratch | head | lo\\|ra | full |"
    console = Console(width=110, file=io.StringIO(), color_system=None)
    console.print(found)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[b]4 rows[/b]" in shown.replace("\n", "")
    assert "0.800" in shown
    assert factors([line for line in lines if line.kind == "head"], "accuracy", gain).markdown() == ""
