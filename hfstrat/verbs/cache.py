"""`hfstrat cache`."""

from __future__ import annotations

import json
import time

from hfstrat.report.tables import size
from hfstrat.runs import store
from hfstrat.verbs.progress import say, show


def run(clear: bool, as_json: bool) -> None:
    """List what the cache holds, or empty it."""
    held = store.entries()
    total = sum(entry.size for entry in held)
    freed = store.clear() if clear else 0
    if as_json:
        listed = [
            {"key": entry.path.name, "what": entry.what, "bytes": entry.size, "used": entry.used} for entry in held
        ]
        found = {"folder": str(store.home()), "bytes": total, "limit": store.limit(), "entries": listed, "freed": freed}
        print(json.dumps(found))
    elif clear:
        say(f"{size(freed)} removed from {store.home()}")
    else:
        say(f"{store.home()} holds {size(total)} of at most {size(store.limit())} ({store.LIMIT} sets it)")
        for entry in held:
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
            show(f"  {size(entry.size):>10}  last used {used}  {entry.what}")
