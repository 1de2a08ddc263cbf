"""`hfstrat verify`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from hfstrat.errors import RunError
from hfstrat.verbs.progress import observer, say, show


def run(path: Path, updates: int, as_json: bool, quiet: bool) -> None:
    """Verify a run and say what was found; anything that differs ends in a RunError."""
    listener = observer(quiet=quiet or as_json)
    with listener.working("loading torch, transformers and peft"):
        from hfstrat.repeating import verify
    found = verify(path, updates, observer=listener)
    if as_json:
        print(json.dumps({**asdict(found), "holds": found.holds}))
    else:
        say(f"{found.checked} files compared with their digests, {len(found.damaged)} damaged")
        say(
            f"{found.updates} updates made again from {found.start}: {found.compared} lines of the log compared, "
            f"{len(found.different)} different"
        )
        for text in found.damaged:
            show(f"  {text}")
        for before, now in found.different[:5]:
            show(f"  was {before}\n  is  {now}")
    if not found.holds:
        raise RunError(f"{path} is not what it was: {len(found.damaged)} damaged, {len(found.different)} different")
