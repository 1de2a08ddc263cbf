"""`hfstrat estimate`."""

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
    device: str | None,
    memory: str | None,
    price: float | None,
    calibrate: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Estimate the arms and show the table."""
    from hfstrat.study import devices

    words = [word.strip() for word in arms.split(",")] if arms else None
    target = devices.device(device) if device else None
    limit = devices.bytes_of(memory) if memory else None
    load(recipe, overrides, of_any_strategy=True)
    listener = observer(quiet=quiet or as_json)
    with listener.working("loading torch, transformers and peft"):
        from hfstrat.study.estimate import estimate
    found = estimate(
        recipe,
        overrides,
        arms=words,
        device=target,
        memory=limit,
        price=price,
        calibrate=calibrate,
        observer=listener,
    )
    if as_json:
        print(json.dumps({"name": found.name, "where": found.where, "memory": found.memory, "arms": found.records()}))
        return
    show(found)
    say("Without a mark: counted on the run's own operations. ~: measured on some of them here. ?: guessed.")
    for one in found.arms:
        if one.hint:
            say(f"{one.arm} does not fit into {found.memory / 2**30:.1f} GiB: try {one.hint}.")
    first = next((one.arm for one in found.arms if one.fits), None)
    if first is not None:
        names = ",".join(one.arm for one in found.arms if one.fits)
        say(f"Next: `hfstrat compare {recipe} --arms {names}` measures them on your data.")
