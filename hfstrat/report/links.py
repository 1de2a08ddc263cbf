"""Links from a report to the run directories that it is made from."""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from hfstrat.report.markup import Markup, join, tag
from hfstrat.runs.directory import Run


@dataclass(frozen=True)
class Links:
    """Links relative to the folder that the report is in.

    Args:
        start: That folder.
    """

    start: Path

    def run(self, path: Path, text: str, file: str = "") -> Markup:
        """A link to a run directory, or to a file of it."""
        relative = Path(os.path.relpath(path, self.start)).as_posix()
        # The dot keeps a name with a colon from being taken for a scheme.
        return tag("a", {"href": f"./{quote(relative)}/{quote(file)}"}, text)

    def source(self, runs: Sequence[Run], *files: str) -> Markup:
        """Which files a figure is made from, to unfold."""
        several = f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
        listed = (tag("li", {}, self.run(run.path, run.name), ": ", join(self._files(run, files), " ")) for run in runs)
        return tag("details", {"class": "source"}, tag("summary", {}, f"Made from {several}"), tag("ul", {}, listed))

    def _files(self, run: Run, files: Sequence[str]) -> Iterator[Markup]:
        """A run that ended early has not all of them."""
        return (self.run(run.path, file, file) for file in files if (run.path / file).is_file())
