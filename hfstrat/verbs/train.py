"""`hfstrat train`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from hfstrat.recipe.loading import load
from hfstrat.report.display import Run
from hfstrat.report.samples import SAMPLES
from hfstrat.verbs.progress import observer, say, show


def run(
    recipe: Path, overrides: Sequence[str], runs: Path, overwrite: bool, resume: bool, as_json: bool, quiet: bool
) -> None:
    """Train and show the run."""
    if not recipe.is_dir():
        load(recipe, overrides)  # before seconds of imports: most mistakes show here
    listener = observer(quiet=quiet)
    with listener.working("loading torch, transformers and peft"):
        from hfstrat.execute import train
    with redirect_stdout(sys.stderr):  # stdout is for the result; trackers talk
        done = train(recipe, overrides, runs=runs, overwrite=overwrite, resume=resume, observer=listener)
    if _is_main_process():
        _show(Run(done.path), as_json)


def _show(done: Run, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"run": str(done.path), **done.metrics, "ledger": done.ledger}))
        return
    show(done)
    say(
        f"\n{done.artifact} holds the model and its card. Next: `hfstrat show {done.path}` draws what trained, "
        f"`hfstrat predict {done.path} FILE` uses it, `hfstrat compare RECIPE` tries other strategies."
    )
    if (done.path / SAMPLES).is_file():
        say(f"{done.path / SAMPLES} has some of what it was asked, what is true, and what it said.")


def _is_main_process() -> bool:
    from accelerate import PartialState

    return bool(PartialState().is_main_process)
