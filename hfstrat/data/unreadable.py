"""Rows whose files cannot be read, left out where a recipe says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hfstrat.data.splits import Splits
from hfstrat.errors import DataError, Problem

SHOWN = 5
Tried = Callable[[Sequence[Any]], Sequence[Problem | None]]


def without_unreadable(splits: Splits, column: str, tried: Tried) -> tuple[Splits, list[str]]:
    """The splits without rows whose files cannot be read, and a sentence for each split that lost some.

    Args:
        splits: The rows of each role.
        column: The column of files.
        tried: Reads files, and says what is wrong with each.

    Raises:
        DataError: There is nothing left of a split.
    """
    kept, said = {}, []
    for name, rows in splits.items():
        problems = tried([np.asarray(one) if isinstance(one, list) else one for one in rows[column][:]])
        bad = [problem for problem in problems if problem is not None]
        if bad and len(bad) == len(rows):
            raise DataError(Problem(f"none of the {len(rows):,} files of {name} can be read", f"data.columns.{column}"))
        if bad:
            shown = ", ".join(f"{one.where} ({one.message})" for one in bad[:SHOWN])
            more = f" and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
            said.append(f"{len(bad):,} of {len(rows):,} rows of {name} are left out: {shown}{more}")
            rows = rows.select([place for place, problem in enumerate(problems) if problem is None])
        kept[name] = rows
    return replace(splits, **kept), said
