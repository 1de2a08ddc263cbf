"""dates: days as people write them, with their ISO form; a task that can be learned to the last digit."""

from __future__ import annotations

import calendar
import datetime
import random
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

SIZES = {"train": 8000, "validation": 500, "test": 1000}
FIRST, LAST = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)
_ENDINGS = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}


@cache
def dates() -> dict[str, Dataset]:
    """Days of two centuries, each in one of eight forms, no day in two splits; equal rows each time.

    Returns:
        `train`, `validation` and `test` with the columns `id`, `source` (`Friday, 3rd of May 1968`) and `target`
        (`1968-05-03`).
    """
    from datasets import Dataset

    rng = random.Random("dates")
    days = rng.sample(range((LAST - FIRST).days + 1), sum(SIZES.values()))
    rows = [_row(FIRST + datetime.timedelta(days=day), rng.randrange(8)) for day in days]
    found, start = {}, 0
    for name, size in SIZES.items():
        part = [{"id": f"{name}-{place}", **row} for place, row in enumerate(rows[start : start + size])]
        found[name], start = Dataset.from_list(part), start + size
    return found


def _row(day: datetime.date, form: int) -> dict[str, str]:
    month, weekday = calendar.month_name[day.month], calendar.day_name[day.weekday()]
    ordinal = f"{day.day}{_ENDINGS.get(day.day, 'th')}"
    forms = (
        f"{month} {day.day}, {day.year}",
        f"{day.day} {month[:3]} {day.year}",
        f"the {ordinal} of {month} {day.year}",
        f"{weekday}, {ordinal} of {month} {day.year}",
        f"{month[:3]}. {ordinal}, {day.year}",
        f"{day.day}.{day.month}.{day.year}",
        f"{day.year}, {month} {day.day}",
        f"{weekday[:3]} {month[:3]} {day.day} {day.year}",
    )
    return {"source": forms[form], "target": day.isoformat()}
