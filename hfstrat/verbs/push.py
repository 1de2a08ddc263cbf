"""`hfstrat push`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from hfstrat.report.tables import markdown_table, size
from hfstrat.verbs.progress import observer, say, show


def run(
    path: Path,
    repo_id: str | None,
    public: bool,
    branch: str,
    message: str | None,
    with_base: bool,
    published_as: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Send a run to the Hub and say what was sent and where it is."""
    from hfstrat.hub.push import push

    listener = observer(quiet=quiet or as_json)
    found = push(
        path,
        repo_id,
        private=False if public else None,
        branch=branch,
        message=message,
        with_base=with_base,
        published_as=published_as,
        dry_run=dry_run,
        observer=listener,
    )
    listener.finished()
    if as_json:
        print(json.dumps({**asdict(found), "dry_run": found.dry_run}))
        return
    if not quiet:
        show(markdown_table(["file", "size"], [(file.path, size(file.size)) for file in found.files]))
        for name in found.deleted:
            say(f"{'would be ' if dry_run else ''}deleted: {name}")
    say(str(found))
