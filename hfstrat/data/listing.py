"""Many things of one kind that are wrong: the first of them by name, and how many more there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hfstrat.errors import DataError, Problem

SHOWN = 20
SKIP = "Mend or delete them, or leave out such rows by data.skip_unreadable: true"


def refused(problems: Sequence[Problem], hint: str = "") -> DataError:
    """One error for all of them; a folder of a million files has as many ways to be wrong.

    Args:
        problems: At least one.
        hint: What to do about all of them.
    """
    more = len(problems) - SHOWN
    shown = [*problems[:SHOWN], Problem(f"and {more:,} more such problems")] if more > 0 else list(problems)
    if hint and not shown[-1].hint:
        shown[-1] = replace(shown[-1], hint=hint)
    return DataError(shown)
