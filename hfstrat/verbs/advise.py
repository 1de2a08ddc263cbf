"""`hfstrat advise`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hfstrat.recipe.loading import load
from hfstrat.verbs.progress import observer, say, show


def run(
    recipe: Path,
    overrides: Sequence[str],
    arms: str | None,
    time: str | None,
    memory: str | None,
    price: str | None,
    max_cost: float | None,
    max_artifact: str | None,
    must_change: bool,
    tolerance: float,
    expect_rows: int | None,
    pilots: bool,
    device: str | None,
    calibrate: bool,
    runs: Path,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Recommend a strategy, show why, and write the recipe that trains by it."""
    from hfstrat.study.advise.limits import asked
    from hfstrat.study.devices import device as device_of

    words = [word.strip() for word in arms.split(",")] if arms else None
    hour, limits = asked(time, memory, price, max_cost, max_artifact, must_change)
    target = device_of(device) if device else None
    parsed, _ = load(recipe, overrides, of_any_strategy=True)
    listener = observer(quiet=quiet or as_json)
    with listener.working("loading torch, transformers and peft"):
        from hfstrat.study.advise.advising import advise
    found = advise(
        recipe,
        overrides,
        arms=words,
        limits=limits,
        price=hour,
        tolerance=tolerance,
        expect_rows=expect_rows,
        pilots=pilots,
        device=target,
        calibrate=calibrate,
        runs=runs,
        output=out or Path(f"{parsed.name}-advised.yaml"),
        overwrite=overwrite,
        observer=listener,
    )
    if as_json:
        print(json.dumps(found.to_json()))
        return
    show(found)
    say(f"\n{found.path} is the recipe. Next: `{found.command}`")
