"""`hfstrat validate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hfstrat.verbs.progress import observer, show


def run(recipe: Path, overrides: Sequence[str], online: bool, as_json: bool, quiet: bool) -> None:
    """Prepare a run without writing anything, and say what would be done."""
    from hfstrat.recipe.loading import dump, load

    parsed, source = load(recipe, overrides)
    listener = observer(quiet=quiet or as_json)
    with listener.working("loading torch and transformers"):
        from hfstrat.execute import quiet as silence
        from hfstrat.prepare import prepare
        from hfstrat.training.machine import machine
    silence()
    asked: list[str] = []
    if online:
        from hfstrat.hub.online import check

        asked = check(parsed, listener)
    prepared = prepare(parsed, machine(), source=source, observer=listener)
    stages = [stage.name for stage in prepared.plan.stages]
    if as_json:
        decisions = [asdict(decision) for decision in prepared.decisions]
        said = {"recipe": str(recipe), "rows": prepared.material.rows, "stages": stages, "auto": decisions}
        print(json.dumps({**said, "hub": asked} if online else said))
        return
    rows = ", ".join(f"{count:,} {name}" for name, count in prepared.material.rows.items())
    outputs = len(prepared.material.labels.names)
    # What is predicted of text are its tokens, of which the model has as many outputs as there are entries.
    what = f"{outputs} outputs" if outputs else f"{prepared.encoded['train'].tokens:,} tokens to train on"
    show(f"{recipe} is valid: {rows} rows; {what}; stages {' → '.join(stages)}")
    for sentence in asked:
        show(sentence)
    if not quiet:
        show(dump(prepared.recipe))
