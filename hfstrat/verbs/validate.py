"""`hfstrat validate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING

from hfstrat.verbs.progress import observer, say, show

if TYPE_CHECKING:
    from hfstrat.recipe.recipe import Recipe


def run(recipe: Path, overrides: Sequence[str], online: bool, as_json: bool, quiet: bool) -> None:
    """Prepare a run without writing anything, and say what would be done."""
    from hfstrat.recipe.loading import dump, load, names_none

    parsed, source = load(recipe, overrides, of_any_strategy=True)
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
    prepared = prepare(_as_run(parsed), machine(), source=source, observer=listener)
    # Without a strategy there are neither stages nor decisions: those are of the one that stands in for it.
    kind = None if names_none(source) else parsed.strategy.kind
    stages = [stage.name for stage in prepared.plan.stages] if kind else []
    if as_json:
        decisions = [asdict(decision) for decision in prepared.decisions] if kind else []
        said = {
            "recipe": str(recipe),
            "rows": prepared.material.rows,
            "strategy": kind,
            "stages": stages,
            "auto": decisions,
        }
        print(json.dumps({**said, "hub": asked} if online else said))
        return
    rows = ", ".join(f"{count:,} {name}" for name, count in prepared.material.rows.items())
    outputs = len(prepared.material.labels.names)
    # What is predicted of text are its tokens, of which the model has as many outputs as there are entries.
    what = f"{outputs} outputs" if outputs else f"{prepared.encoded['train'].tokens:,} tokens to train on"
    does = f"stages {' → '.join(stages)}" if kind else "no strategy"
    say(f"{recipe} is valid: {rows} rows; {what}; {does}")
    if not kind:
        say("It is a recipe for `hfstrat advise`, `estimate` and `compare`; what trains needs a strategy.")
    for sentence in asked:
        say(sentence)
    if kind and not quiet:
        show(dump(prepared.recipe))
        verb = "compare" if parsed.compare.arms else "train"
        words = join([str(recipe), *overrides])
        say(f"Next: `hfstrat estimate {words}` says what it would take, `hfstrat {verb} {words}` runs it.")


def _as_run(recipe: Recipe) -> Recipe:
    """What is run of a comparison's recipe: where weights are pretrained, the shape of random ones is left aside."""
    if not recipe.compare.arms or recipe.strategy.body().weights == "random":
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"config": None})})
