"""`hfstrat merge`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hfstrat.report.tables import Measure, markdown_table, score
from hfstrat.verbs.progress import observer, say, show


def run(
    runs: Sequence[Path],
    output: Path | None,
    dtype: str,
    weights: Sequence[float],
    how: str,
    density: float,
    tolerance: float | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Merge adapters into their base and show what that changed."""
    listener = observer(quiet=quiet or as_json)
    with listener.working("loading torch, transformers and peft"):
        from hfstrat.execute import quiet as silence
        from hfstrat.merging import merge
    silence()
    found = merge(
        runs,
        output,
        dtype=dtype,  # type: ignore[arg-type]  # typer has checked both
        weights=list(weights) or None,
        how=how,  # type: ignore[arg-type]
        density=density,
        tolerance=tolerance,
        overwrite=overwrite,
        observer=listener,
    )
    listener.finished()
    if as_json:
        print((found.run.path / "merge.json").read_text("utf-8"), end="")
        return
    columns = {**found.before, found.run.name: found.after}
    rows = [(metric, *(score(Measure.over([scores[metric]])) for scores in columns.values())) for metric in found.after]
    show(markdown_table(["metric", *columns], rows))
    if found.difference is not None:
        say(
            f"\nThe largest difference of an output is {found.difference:.2g} of the largest output "
            f"(allowed: {found.tolerance:.2g})."
        )
    stored = json.loads((found.run.path / "plan.json").read_text("utf-8"))["parameters"]["stored"]
    say(f"\n{found.run.path} holds the merged model, {stored:,} parameters, as a run of its own.")
    say(f"Next: `hfstrat predict {found.run.path} FILE` uses it, `hfstrat push {found.run.path} USER/NAME` sends it.")
