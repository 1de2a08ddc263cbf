"""Runs and plans that show themselves in terminals and notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfstrat.report.tables import as_html, run_table
from hfstrat.runs import directory

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Run(directory.Run):
    """A run directory, with its scores and costs as a table.

    Args:
        path: The directory.
    """

    def __rich__(self) -> RenderableType:
        return run_table(self)

    def _repr_html_(self) -> str:
        return as_html(self)


@dataclass(frozen=True)
class Drawing:
    """What a recipe's strategy makes of its model: which parts are frozen, train, are added, or start at random.

    Args:
        plan: The content of `plan.json`.
    """

    plan: Mapping[str, Any]

    def save(self, path: str | Path) -> Path:
        """Write the picture as SVG."""
        directory.write_text(Path(path), self._repr_svg_())
        return Path(path)

    def __rich__(self) -> RenderableType:
        from hfstrat.report.drawing import draw

        return draw(self.plan)

    def _repr_svg_(self) -> str:
        from hfstrat.report.svg import svg

        return svg(self.plan)
