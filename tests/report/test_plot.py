from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hfstrat.report import plot
from hfstrat.report.tables import Line, comparison_rows
from hfstrat.runs.rows import Row
from tests.report import fake

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="the extra plots")
KINDS = ("head", "lora", "full", "partial", "scratch", "qlora", "peft", "distill")


def arms(root: Path, n: int, **changes: Any) -> list[Line]:
    """Both floors and some strategies, close together."""
    runs = [
        fake.run(root, "majority", "majority", accuracy=0.02, seconds=1),
        fake.run(root, "tfidf", "tfidf", accuracy=0.8, seconds=3),
        *(
            fake.run(
                root, f"arm-{i}", KINDS[i % len(KINDS)], accuracy=0.9 + 0.003 * (i % 4), seconds=100 + 10 * i, **changes
            )
            for i in range(n - 2)
        ),
    ]
    return comparison_rows([Row.of(run) for run in runs])


def pixels(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int64)


@needs_matplotlib
@pytest.mark.parametrize("n", [3, 12])
def test_the_picture_is_wide_enough_and_not_blank(tmp_path: Path, n: int) -> None:
    path = plot.quality_against_time(arms(tmp_path, n), tmp_path / "plot.png", "accuracy")
    assert path == tmp_path / "plot.png"
    found = pixels(path)
    assert found.shape[1] >= 1000
    green = (found - np.array([0, 0x9E, 0x73])) ** 2  # what a LoRA arm is drawn in
    assert (found.sum(axis=2) < 250).sum() > 500
    assert (n < 4) == ((green.sum(axis=2) < 50).sum() < 100)


@needs_matplotlib
def test_curves_are_drawn_where_there_are_two_amounts_of_data(tmp_path: Path) -> None:
    runs = [
        fake.run(tmp_path, f"{kind}-{rows}", kind, accuracy=0.6 + rows / 1000, rows=rows)
        for kind in ("lora", "tfidf")
        for rows in (200, 50)
    ]
    lines = comparison_rows([Row.of(run) for run in runs])
    curves = {kind: {str(rows): f"{kind}-{rows}" for rows in (200, 50)} for kind in ("lora", "tfidf")}
    path = plot.quality_against_rows(lines, curves, tmp_path / "rows.png", "accuracy")
    assert path == tmp_path / "rows.png"
    found = pixels(path)
    assert ((found - np.array([0, 0x9E, 0x73])) ** 2).sum(axis=2).min() < 50
    assert [point.x for point in plot.curves_to_draw(lines, curves, "accuracy")["lora"]] == [50, 200]
    one = {kind: {"200": f"{kind}-200"} for kind in ("lora", "tfidf")}
    assert plot.quality_against_rows(lines, one, tmp_path / "none.png", "accuracy") is None
    assert plot.quality_against_rows(lines, {}, tmp_path / "none.png", "accuracy") is None
    assert not (tmp_path / "none.png").exists()


@needs_matplotlib
def test_labels_do_not_cover_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.text import Annotation, Text
    from matplotlib.transforms import Bbox

    boxes: list[Any] = []

    def remember(figure: Any, axes: Any, points: Any, place: Callable[..., None] = plot._place_labels) -> None:
        place(figure, axes, points)
        figure.canvas.draw()
        # Of the text alone: leader lines may cross.
        labels = (child for child in axes.get_children() if isinstance(child, Annotation))
        boxes.extend(Text.get_window_extent(label) for label in labels)

    monkeypatch.setattr(plot, "_place_labels", remember)
    plot.quality_against_time(arms(tmp_path, 12), tmp_path / "plot.png", "accuracy")
    assert len(boxes) == 12
    for i, box in enumerate(boxes):
        assert not any(Bbox.intersection(box, other) for other in boxes[:i])


@needs_matplotlib
def test_a_floor_far_below_does_not_squeeze_the_arms(tmp_path: Path) -> None:
    points = plot.points_of(arms(tmp_path, 5), "accuracy")
    assert plot.frame(points, higher=True) == pytest.approx((0.79, 0.916))
    assert plot.frame(points[:1], higher=True) == pytest.approx((0.01, 0.03))


@needs_matplotlib
def test_without_anything_to_draw_there_is_no_picture(tmp_path: Path) -> None:
    failed = comparison_rows([Row.of(fake.run(tmp_path, "full", "full", state="oom"))])
    assert plot.quality_against_time(failed, tmp_path / "plot.png", "accuracy") is None
    assert plot.quality_against_time(arms(tmp_path, 3), tmp_path / "plot.png", "unknown") is None
    assert not (tmp_path / "plot.png").exists()


def test_without_matplotlib_there_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    assert plot.quality_against_time(arms(tmp_path, 3), tmp_path / "plot.png", "accuracy") is None


def test_the_front_has_what_no_arm_beats_in_both(tmp_path: Path) -> None:
    runs = [
        fake.run(tmp_path, name, "head", accuracy=accuracy, seconds=seconds)
        for name, accuracy, seconds in (("fast", 0.8, 10), ("good", 0.9, 20), ("worse", 0.85, 30), ("best", 0.95, 40))
    ]
    points = plot.points_of(comparison_rows([Row.of(run) for run in runs]), "accuracy")
    assert [point.line.arm for point in plot.pareto_front(points)] == ["fast", "good", "best"]
    assert [point.line.arm for point in plot.pareto_front(points, higher_is_better=False)] == ["fast"]


def test_reports_import_neither_torch_nor_what_they_draw_with() -> None:
    code = (
        "import sys, hfstrat.report.tables, hfstrat.report.plot, hfstrat.report.drawing, hfstrat.report.card\n"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'rich', 'pandas', 'evaluate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
