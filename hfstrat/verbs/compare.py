"""`hfstrat compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hfstrat.errors import Problem, UsageError
from hfstrat.recipe.loading import load
from hfstrat.verbs.progress import observer, show


def run(
    recipe: Path,
    overrides: Sequence[str],
    arms: str | None,
    seeds: str | None,
    runs: Path,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the arms and show the table."""
    numbers = [_seed(word) for word in seeds.split(",")] if seeds else None
    words = [word.strip() for word in arms.split(",")] if arms else None
    load(recipe, overrides)
    listener = observer(quiet=quiet)
    with listener.working("loading torch, transformers and peft"):
        from hfstrat.study.compare import PICTURE, compare
    from hfstrat.report.page import REPORT

    found = compare(recipe, overrides, arms=words, seeds=numbers, runs=runs, overwrite=overwrite, observer=listener)
    if as_json:
        print(json.dumps({"comparison": str(found.path), "arms": json.loads(found.table().to_json(orient="records"))}))
        return
    show(found)
    best, *others = found.best or [""]
    if best:
        tied = f"; {', '.join(others)} cannot be told from it" if others else ", and all others can be told from it"
        show(f"\nBest by {found.metrics[0]}: {best}{tied} (every pair tested, p raised by Holm's rule: verdicts.json).")
    picture = f", {PICTURE} draws them" if (found.path / PICTURE).exists() else ""
    show(f"\n{found.path} holds the runs and table.md{picture}; {found.path / REPORT} has all on one page.")
    show(f"Next: `hfstrat show {found.path / found.runs[-1].name}` draws what trained,")
    show("or the same on your own data: `hfstrat init my.csv -o my.yaml && hfstrat compare my.yaml`.")


def _seed(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UsageError(Problem(f"'{word}' is not a seed", hint="Write --seeds 0,1,2")) from None
