from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from hfstrat.report import tables
from hfstrat.report.tables import Line
from hfstrat.runs.rows import Row
from hfstrat.study.statistics import Difference
from tests.report import fake


@pytest.fixture
def lines(tmp_path: Path) -> list[Line]:
    """A floor, two strategies of which one has two seeds, a larger size, and two runs that failed."""
    runs = [
        fake.run(tmp_path, "majority", "majority", accuracy=0.05, seconds=1.5),
        fake.run(tmp_path, "head", "head", accuracy=0.89, seconds=20),
        fake.run(tmp_path, "lora-seed0", "lora", accuracy=0.92, seconds=100),
        fake.run(tmp_path, "lora-seed1", "lora", accuracy=0.94, seconds=120, seed=1),
        fake.run(tmp_path, "lora-seed2", "lora", seed=2, state="diverged", reason="loss is nan at update 7\ndetails"),
        fake.run(tmp_path, "head-all", "head", accuracy=0.91, seconds=40, rows=10_000),
        fake.run(tmp_path, "full", "full", state="oom", reason="[bold]needs 9 GiB[/bold]"),
    ]
    return tables.comparison_rows([Row.of(run) for run in runs])


def shown(obj: object, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(obj)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    return text


def test_seeds_of_an_arm_are_joined_and_other_ends_stay_rows(lines: list[Line]) -> None:
    assert [(line.arm, line.state, len(line.runs)) for line in lines] == [
        ("majority", "done", 1),
        ("head", "done", 1),
        ("lora", "done", 2),
        ("lora", "diverged", 1),
        ("head-all", "done", 1),
        ("full", "oom", 1),
    ]


def test_a_joined_arm_has_means_and_the_spread_over_seeds(lines: list[Line]) -> None:
    lora = lines[2]
    accuracy = lora.metrics["accuracy"]
    assert (accuracy.value, accuracy.low, accuracy.high) == pytest.approx((0.93, 0.92, 0.94))
    assert accuracy.spread == pytest.approx(0.02 / 2**0.5)
    assert lora.seconds == pytest.approx(110)
    assert lora.training_seconds == pytest.approx(99)
    assert lora.flops == pytest.approx(110e12)
    assert lora.cost is None


def test_a_price_of_an_hour_is_one_of_each_run(lines: list[Line], tmp_path: Path) -> None:
    rows = [Row.of(fake.run(tmp_path, f"arm-seed{n}", "full", seconds=seconds)) for n, seconds in ((0, 900), (1, 2700))]
    (priced,) = tables.comparison_rows(rows, 3.0)
    assert priced.cost == pytest.approx(1.5)
    assert "| cost |" in tables.to_markdown([priced])
    assert "1.50" in shown(tables.comparison_table([priced]))
    assert tables.records([priced])[0]["cost"] == pytest.approx(1.5)
    assert "cost" not in tables.to_markdown(lines)


def test_one_seed_keeps_its_own_interval_and_has_no_spread(lines: list[Line]) -> None:
    accuracy = lines[1].metrics["accuracy"]
    assert (accuracy.value, accuracy.low, accuracy.high, accuracy.spread) == (0.89, 0.88, 0.9, None)


def test_equal_names_of_another_size_are_another_arm(tmp_path: Path) -> None:
    rows = [Row.of(fake.run(tmp_path / str(n), "head", "head", rows=n)) for n in (100, 200)]
    assert [line.train_rows for line in tables.comparison_rows(rows)] == [100, 200]


def test_a_wide_table_has_every_number(lines: list[Line]) -> None:
    differences = {"head": Difference(-0.04, -0.05, -0.03, 1000)}
    text = shown(tables.comparison_table(lines, ["accuracy", "f1_macro"], differences))
    for part in ("0.890 [0.880–0.900]", "0.870", "20.0 s", "300 MiB", "29.6k", "2.0 MiB", "10,000", "20.0T", "900 MiB"):
        assert part in text
    assert "-0.040 [-0.050, -0.030]" in text
    assert "2 (±0.014)" in text
    assert "best" in text


def test_how_runs_ended_is_said_with_its_reason(lines: list[Line]) -> None:
    text = shown(tables.comparison_table(lines, ["accuracy"]), width=80)
    assert "full: oom: [bold]needs 9 GiB[/bold]" in text
    assert "lora: diverged: loss is nan at update 7" in text
    assert "details" not in text


@pytest.mark.parametrize("width", [50, 80, 120])
def test_a_narrow_table_drops_columns_and_cuts_no_number(lines: list[Line], width: int) -> None:
    text = shown(tables.comparison_table(lines, ["accuracy", "f1_macro"]), width=width)
    assert "…" not in text
    assert "0.890 [0.880–0.900]" in text
    assert "head-all" in text


def test_a_metric_where_lower_is_better_says_so_and_decides_the_best(tmp_path: Path) -> None:
    rows = [
        Row.of(fake.run(tmp_path, name, "head", metrics={"rmse": fake.entry(value, unit="", higher_is_better=False)}))
        for name, value in (("bad", 3.25), ("good", 1.25))
    ]
    lines = tables.comparison_rows(rows)
    best = tables.best_line(lines, "rmse")
    assert best is not None
    assert best.arm == "good"
    assert "rmse ↓" in tables.to_markdown(lines)


def test_no_runs_make_an_empty_table() -> None:
    assert "no runs" in shown(tables.comparison_table([]))
    assert tables.to_csv([]) == ""
    assert json.loads(tables.to_json([])) == []


def test_markdown_has_a_row_for_each_line_and_leaves_empty_what_was_not_measured(lines: list[Line]) -> None:
    header, marks, *rows = tables.to_markdown(lines).splitlines()
    titles = [cell.strip() for cell in header.strip("|").split("|")]
    assert len(rows) == len(lines)
    assert len(marks.strip("|").split("|")) == len(titles)
    cells = [dict(zip(titles, (cell.strip() for cell in row.strip("|").split("|")), strict=True)) for row in rows]
    assert cells[0]["peak live memory"] == ""
    assert cells[1]["accuracy"] == "0.890 [0.880–0.900]"
    assert cells[-1]["accuracy"] == "oom"
    assert not any("not measured" in cell or "None" in cell for row in cells for cell in row.values())


def test_csv_comes_back_with_full_precision(lines: list[Line]) -> None:
    differences = {"head": Difference(-0.04, -0.05, -0.03, 1000)}
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(lines, None, differences))))
    assert len(rows) == len(lines)
    assert float(rows[2]["accuracy"]) == lines[2].metrics["accuracy"].value
    assert float(rows[2]["accuracy_spread"]) == lines[2].metrics["accuracy"].spread
    assert rows[2]["runs"] == "lora-seed0 lora-seed1"
    assert float(rows[1]["difference_low"]) == -0.05
    assert float(rows[1]["flops"]) == 20e12
    assert rows[0]["flops"] == ""
    assert rows[0]["peak_live_bytes"] == rows[-1]["seconds"] == rows[-1]["accuracy"] == ""
    assert rows[-1]["state"] == "oom"


def test_json_comes_back_as_records(lines: list[Line]) -> None:
    differences = {"head": Difference(-0.04, -0.05, -0.03, 1000)}
    found = json.loads(tables.to_json(lines, ["accuracy"], differences))
    assert found == tables.records(lines, ["accuracy"], differences)
    assert found[1]["difference_to_best"] == {"value": -0.04, "low": -0.05, "high": -0.03}
    assert list(found[1]["metrics"]) == ["accuracy"]
    assert found[0]["peak_live_bytes"] is None


def test_a_run_shows_what_it_scored_and_cost(tmp_path: Path) -> None:
    text = shown(fake.run(tmp_path, "mine", "lora", accuracy=0.9, seconds=60), width=80)
    for part in (
        "mine",
        "done",
        "lora",
        "someone/tiny-bert",
        "0.900 [0.890–0.910]",
        "60.0 s",
        "train 54.0 s",
        "60.0TFLOP",
        "300 MiB",
    ):
        assert part in text


def test_a_failed_run_and_an_empty_folder_show_that(tmp_path: Path) -> None:
    assert "oom: too big" in shown(fake.run(tmp_path, "mine", "lora", state="oom", reason="too big"))
    (tmp_path / "empty").mkdir()
    assert "not a run" in shown(tables.run_table(type(fake.run(tmp_path, "x", "head"))(tmp_path / "empty")))


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (tables.duration, 0.5, "0.50 s"),
        (tables.duration, 12.34, "12.3 s"),
        (tables.duration, 4321, "4,321 s"),
        (tables.duration, 20_000, "5.6 h"),
        (tables.size, 50_000, "48.8 KiB"),
        (tables.size, 2**20, "1.0 MiB"),
        (tables.size, 300 * 2**20, "300 MiB"),
        (tables.size, 20 * 2**30, "20.0 GiB"),
        (tables.money, 0.0, "0.00"),
        (tables.money, 0.0031, "0.0031"),
        (tables.money, 0.00001, "< 0.0001"),
        (tables.money, 1234.5, "1,234.50"),
        (tables.operations, 2.5e6, "2.5M"),
        (tables.operations, 1.8e15, "1.80P"),
        (tables.operations, 41.23e12, "41.2T"),
        (tables.count, 999, "999"),
        (tables.count, 590_000, "590k"),
        (tables.count, 999_960, "1.00M"),
        (tables.count, 22_713_216, "22.7M"),
        (tables.count, 1_235_000_000, "1.24B"),
    ],
)
def test_numbers_are_written_for_people(write: object, value: float, text: str) -> None:
    assert callable(write)
    assert write(value) == text
