"""Runs, plans and pictures that show themselves in terminals and notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfstrat.report.notebook import as_html
from hfstrat.report.tables import run_table
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

    plan: Mapping[str, Any] = field(repr=False)

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


@dataclass(frozen=True)
class Picture:
    """A picture that was written, and that a notebook shows; `open`, `Path` and others take it for its path.

    Args:
        path: The PNG.
    """

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        # It has two pixels for each of the page's, so that letters are sharp.
        content = self.path.read_bytes()
        return content, {"width": int.from_bytes(content[16:20], "big") // 2}
