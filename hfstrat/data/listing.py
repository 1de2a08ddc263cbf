"""Many things of one kind that are wrong: the first of them by name, and how many more there are."""

from __future__ import annotations

from collections.abc import Sequence

from hfstrat.errors import DataError, Problem

SHOWN = 20


def refused(problems: Sequence[Problem]) -> DataError:
    """One error for all of them; a folder of a million files has as many ways to be wrong.

    Args:
        problems: At least one.
    """
    more = len(problems) - SHOWN
    return DataError([*problems[:SHOWN], Problem(f"and {more:,} more such problems")] if more > 0 else problems)
