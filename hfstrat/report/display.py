"""A run that shows itself in terminals and notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
