"""`hfstrat report`."""

from __future__ import annotations

import json
from pathlib import Path

from hfstrat.errors import Problem, UsageError
from hfstrat.report.page import README, write_report
from hfstrat.verbs.progress import say


def run(comparison: Path, output: Path | None, as_json: bool) -> None:
    """Write the report of a comparison from its directory."""
    if output is not None and not output.parent.is_dir():
        raise UsageError(Problem(f"there is no folder {output.parent}", hint="Name another file with --output"))
    file = write_report(comparison, output)
    beside = comparison / README if output is None else None
    if as_json:
        print(json.dumps({"report": str(file), "readme": str(beside) if beside else None}))
        return
    say(f"{file} shows the comparison; it needs no network and nothing beside it.")
