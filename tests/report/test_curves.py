"""Curves: said is only what tests tell."""

from __future__ import annotations

from pathlib import Path

from hfstrat.report.curves import Crossing, Shape, by_rows, shape_of
from hfstrat.report.tables import Line, comparison_rows
from hfstrat.runs.rows import Row
from hfstrat.study.statistics import Difference
from hfstrat.study.verdicts import Verdict
from tests.report import fake

ROWS = {"4": 4, "8": 8, "16": 16, "all": 64}
CURVES = {name: {size: f"{name}-{size}" for size in ROWS} for name in ("full", "head")}


def read(tmp_path: Path, leads: dict[str, float], told: set[str]) -> Shape:
    """Two arms, of which `head` leads by so much at each size; tests tell them apart at some."""
    runs = [
        fake.run(tmp_path, CURVES[name][size], name, accuracy=0.8 + (leads[size] if name == "head" else 0.0), rows=rows)
        for size, rows in reversed(ROWS.items())
        for name in CURVES
    ]
    lines: list[Line] = comparison_rows([Row.of(run) for run in runs])
    assert [*by_rows(CURVES, lines)] == [*ROWS]

    def verdict(first: str, second: str) -> Verdict:
        size = first.partition("-")[2]
        lead = leads[size] * (1 if first.startswith("head") else -1)
        p = 0.01 if size in told else 0.5
        return Verdict(first, second, Difference(lead, lead - 0.1, lead + 0.1, 100, p), p)

    return shape_of(CURVES, lines, "accuracy", verdict)


def test_who_changes_places_where_both_sides_are_told(tmp_path: Path) -> None:
    found = read(tmp_path, {"4": 0.1, "8": 0.01, "16": -0.02, "all": -0.1}, {"4", "all"})
    assert found.crossings == (Crossing("head", "full", until="4", since="all"),)
    assert [winner.best for winner in found.winners] == [("head",), ("head", "full"), ("full", "head"), ("full",)]
    assert [winner.train_rows for winner in found.winners] == [*ROWS.values()]
    assert [*found.sentences()][-1] == "head is better than full up to 4, full from all on"
    assert "8 rows: head is ahead; full cannot be told from it" in found.sentences()


def test_what_was_run_on_one_amount_alone_may_be_ahead_there(tmp_path: Path) -> None:
    arms = {"lora": 0.9, **{f"head-{rows}": 0.8 for rows in (4, 8)}, "tfidf": 0.7}
    rows = {"head-8": 8}
    runs = [fake.run(tmp_path, name, name[:4], accuracy=one, rows=rows.get(name, 4)) for name, one in arms.items()]
    lines = comparison_rows([Row.of(run) for run in runs])

    def verdict(first: str, second: str) -> Verdict:
        p = 0.5 if {first, second} == {"lora", "head-4"} else 0.01
        return Verdict(first, second, Difference(0.1, 0.0, 0.2, 100, p), p)

    found = shape_of({"head": {"4": "head-4", "8": "head-8"}}, lines, "accuracy", verdict)
    assert [winner.best for winner in found.winners] == [("lora", "head"), ("head",)]


def test_curves_that_cross_within_chance_do_not(tmp_path: Path) -> None:
    leads = {"4": 0.1, "8": 0.01, "16": -0.02, "all": -0.1}
    for place, told in enumerate((set(), {"4"}, {"all"}, {"4", "8"})):
        found = read(tmp_path / str(place), leads, told)
        assert found.crossings == ()
        assert [*found.sentences()][-1] == "no two arms are seen to change places"


def test_they_may_change_places_again(tmp_path: Path) -> None:
    found = read(tmp_path, {"4": 0.1, "8": -0.1, "16": -0.1, "all": 0.1}, {*ROWS})
    assert [(one.before, one.until, one.since) for one in found.crossings] == [
        ("head", "4", "8"),
        ("full", "16", "all"),
    ]


def test_without_amounts_nothing_is_said() -> None:
    assert [*shape_of({}, [], "accuracy", lambda *_: None).sentences()] == []
