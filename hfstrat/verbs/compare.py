"""`hfstrat compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfstrat.errors import Problem, UsageError
from hfstrat.recipe.loading import load
from hfstrat.report import tables
from hfstrat.verbs.progress import observer, say, show


def run(
    recipe: Path,
    overrides: Sequence[str],
    arms: str | None,
    seeds: str | None,
    sizes: str | None,
    budget: str | None,
    price: float | None,
    runs: Path,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the arms and show the table."""
    numbers = [_seed(word) for word in seeds.split(",")] if seeds else None
    amounts = [_size(word.strip()) for word in sizes.split(",")] if sizes else None
    words = [word.strip() for word in arms.split(",")] if arms else None
    load(recipe, overrides, of_any_strategy=True)
    listener = observer(quiet=quiet)
    with listener.working("loading torch, transformers and peft"):
        from hfstrat.study.compare import CURVES, PICTURE, compare
    from hfstrat.report.page import REPORT

    found = compare(
        recipe,
        overrides,
        arms=words,
        seeds=numbers,
        runs=runs,
        overwrite=overwrite,
        observer=listener,
        price=price,
        sizes=amounts,
        budget=budget,
    )
    if as_json:
        arms_found = json.loads(tables.to_json(found.lines, found.metrics, found.differences))
        print(json.dumps({"comparison": str(found.path), "arms": arms_found, **found.shape.to_json()}))
        return
    show(found)
    for sentence in found.sentences():
        say(f" {sentence}")
    best, *others = found.best or [""]
    if best and all(line.size is None for line in found.lines):
        tied = f"; {', '.join(others)} cannot be told from it" if others else ", and all others can be told from it"
        say(f"\nBest by {found.metrics[0]}: {best}{tied} (every pair tested, p raised by Holm's rule: verdicts.json).")
    drawn = [name for name in (PICTURE, CURVES) if (found.path / name).exists()]
    picture = f", {' and '.join(drawn)} {'draw' if len(drawn) > 1 else 'draws'} them" if drawn else ""
    say(f"\n{found.path} holds the runs and table.md{picture}; {found.path / REPORT} has all on one page.")
    say(
        f"Next: `hfstrat show {found.path / found.runs[-1].name}` draws what trained, or the same on your own data: "
        "`hfstrat init my.csv -o my.yaml && hfstrat compare my.yaml`."
    )


def _seed(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UsageError(Problem(f"'{word}' is not a seed", hint="Write --seeds 0,1,2")) from None


def _size(word: str) -> Any:
    """An amount of data as `data.limit` has it, or all."""
    number, _, unit = word.partition("/")
    if word == "all":
        return word
    if not number.isdecimal() or unit not in ("", "class") or word.endswith("/"):
        raise UsageError(Problem(f"'{word}' is no amount of data", hint="Write --sizes 4/class,8/class,1000,all"))
    return {"per_class": int(number)} if unit else int(number)
