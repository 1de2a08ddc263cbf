"""`hfstrat show`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hfstrat.errors import Problem, UsageError, did_you_mean
from hfstrat.runs.directory import Run, write_text
from hfstrat.verbs.progress import observer, say, show

CONTENTS = {
    "artifact": "the model and its card",
    "recipe.yaml": "the recipe with every value written out",
    "predictions.parquet": "what it says about each test item",
    "log.jsonl": "its updates and scores",
    "checkpoints": "states to resume from",
    "evaluations": "scores on other data",
}
LISTED = 20


def run(path: Path, overrides: Sequence[str], svg: Path | None, as_json: bool, quiet: bool) -> None:
    """Show what a recipe would do, or a run, or a comparison."""
    if path.is_file():
        _show_recipe(path, overrides, svg, as_json, quiet)
        return
    if overrides:
        raise UsageError(Problem(f"'{overrides[0]}' overrides a recipe, and {path} is none"))
    if (path / "comparison.json").is_file():
        if svg is not None:
            raise UsageError(Problem("a comparison has no one model to draw", hint="Name one of its runs"))
        _show_comparison(path, as_json)
    elif (path / "status.json").is_file():
        _show_run(Run(path), svg, as_json)
    else:
        raise UsageError(_not_a_run(path))


def _show_recipe(path: Path, overrides: Sequence[str], svg: Path | None, as_json: bool, quiet: bool) -> None:
    from hfstrat.recipe.loading import load

    load(path, overrides)  # before seconds of imports: most mistakes show here
    listener = observer(quiet=quiet or as_json)
    with listener.working("loading torch, transformers and peft"):
        from hfstrat.execute import plan
    drawing = plan(path, overrides, observer=listener)
    _draw(drawing.plan, svg, as_json)


def _draw(plan: Mapping[str, Any], svg: Path | None, as_json: bool) -> None:
    """A plan on stdout, and as a picture where one is asked for."""
    if svg is not None:
        from hfstrat.report.svg import svg as picture

        if not svg.parent.is_dir():
            raise UsageError(Problem(f"there is no folder {svg.parent}", hint="Name another file with --svg"))
        write_text(svg, picture(plan))
    if as_json:
        print(json.dumps(plan, ensure_ascii=False))
        return
    from hfstrat.report.drawing import draw

    show(draw(plan))
    if svg is not None:
        say(f"\n{svg} is the same as a picture")


def _show_comparison(path: Path, as_json: bool) -> None:
    if as_json:
        print((path / "comparison.json").read_text("utf-8").strip())
        return
    from hfstrat.study.compare import load

    show(load(path))


def _show_run(run: Run, svg: Path | None, as_json: bool) -> None:
    if svg is not None:
        _draw(run.read("plan.json") or {}, svg, as_json)
        return
    if as_json:
        status, plan = run.read("status.json"), run.read("plan.json")
        found = {"run": str(run.path), "status": status, **run.metrics, "plan": plan, "ledger": run.ledger}
        print(json.dumps(found, ensure_ascii=False))
        return
    from hfstrat.report.drawing import draw
    from hfstrat.report.tables import run_table

    show(run_table(run))
    plan = run.read("plan.json")
    if plan:  # written at the end, so a run that failed early has none
        show(draw(plan))
    show("")
    for name, what in CONTENTS.items():
        if (run.path / name).exists():
            say(f"{run.path / name}: {what}")


def _not_a_run(path: Path) -> Problem:
    if path.is_dir():
        runs = _runs_in(path)
        hint = f"It holds the runs {_listed(runs)}: show one of them" if runs else "`hfstrat train RECIPE` makes one"
        return Problem(f"{path} is neither a run nor a comparison", hint=hint)
    runs = _runs_in(path.parent) if path.parent.is_dir() else []
    hint = did_you_mean(path.name, runs, show_all=0)
    if not hint:
        hint = f"In {path.parent} there are: {_listed(runs)}" if runs else "`hfstrat train RECIPE` makes a run"
    return Problem(f"there is neither a recipe nor a run {path}", hint=hint)


def _runs_in(folder: Path) -> list[str]:
    marks = ("status.json", "comparison.json")
    return sorted(entry.name for entry in folder.iterdir() if any((entry / mark).is_file() for mark in marks))


def _listed(runs: list[str]) -> str:
    more = f" and {len(runs) - LISTED} more" if len(runs) > LISTED else ""
    return f"{', '.join(runs[:LISTED])}{more}"
