"""Splits: which rows train, which select, which are reported; every choice is said and can be made again.

Random choices are sorted keys from the raw stream of PCG64, which NumPy keeps for ever (its distributions may change),
so a split depends on the rows and the seed and on no version of a library.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hfstrat.data.sources import SPLIT_ALIASES, Loaded
from hfstrat.errors import DataError, Problem, did_you_mean
from hfstrat.recipe.data import DataSpec, PerClass

if TYPE_CHECKING:
    from datasets import Dataset

Indices = npt.NDArray[np.int64]

ROW = "_row"
"""The column with each row's position in the split that it was taken from, counted from 0."""

VALIDATION_SHARE, TEST_SHARE = 0.1, 0.2
_STREAMS = {"test": 1, "validation": 2, "train limit": 3, "validation limit": 4}


@dataclass(frozen=True)
class Splits:
    """The rows of each role, with the column `_row`.

    Args:
        train: Rows to train on.
        validation: Rows to select by; None when there are too few rows for any.
        test: Rows to report on; None when there are too few rows for any.
        reasons: A sentence for each decision.
        chosen: The split, or the share of rows, that each role is.
    """

    train: Dataset
    validation: Dataset | None
    test: Dataset | None
    reasons: tuple[str, ...]
    chosen: Mapping[str, str | float] = field(default_factory=dict)

    def items(self) -> list[tuple[str, Dataset]]:
        """Name and rows of the splits that there are."""
        pairs = (("train", self.train), ("validation", self.validation), ("test", self.test))
        return [(name, rows) for name, rows in pairs if rows is not None]


def split(
    loaded: Loaded,
    spec: DataSpec,
    label: str | tuple[str, ...] | None,
    texts: Sequence[str] = ("text", "text_pair"),
) -> Splits:
    """Choose the rows of each role.

    Named splits are taken as they are. Fractions are taken from the training split (the test split first, validation
    from what is left), stratified by the label where that is possible, and never so that equal texts are on two
    sides. `limit` then cuts train and validation. Rows keep their order.

    Args:
        loaded: What the source has.
        spec: The recipe's `data`.
        label: The label column, several 0/1 columns, or None for unstratified fractions.
        texts: Roles by which rows are the same or not.

    Raises:
        DataError: A split that the recipe names is not there, is used twice, or cannot be limited as asked.
    """
    reasons: list[str] = []
    names = {"train": train_name(loaded, spec)}
    wanted = {"validation": spec.validation, "test": spec.test}
    shares: dict[str, float] = {}
    for role in ("validation", "test"):
        found = _name_or_share(loaded, role, wanted[role], names["train"], label, reasons)
        if isinstance(found, str):
            names[role] = found
        else:
            shares[role] = found
    _check_distinct(names)
    rows = {role: _numbered(loaded.splits[name]) for role, name in names.items()}
    reasons += [f"{role}: split {name}, {len(rows[role])} rows" for role, name in names.items()]
    for role in ("test", "validation"):
        if role in shares:
            taken = _take_share(rows["train"], role, shares[role], spec, label, texts, reasons)
            if taken is not None:
                rows["train"], rows[role] = taken
    if spec.limit is not None:
        for role in ("train", "validation"):
            if role in rows:
                rows[role] = _limited(rows[role], role, spec, label, reasons)
    return Splits(rows["train"], rows.get("validation"), rows.get("test"), tuple(reasons), {**names, **shares})


def choose(strata: Sequence[Hashable], count: int, stream: Sequence[int]) -> Indices:
    """Choose rows at random, each stratum by its share.

    A stratum of two or more rows has at least one row chosen and one not chosen where `count` allows it; a stratum of
    one row is not chosen unless nothing else is left.

    Args:
        strata: Stratum of each row.
        count: Rows to choose.
        stream: Integers that name the random stream.

    Returns:
        Positions, ascending.
    """
    # In the order of the first row, so that ties do not depend on the random keys.
    members = sorted(_shuffled(strata, stream).values(), key=min)
    quotas = _quotas([len(rows) for rows in members], count)
    chosen = [row for rows, quota in zip(members, quotas, strict=True) for row in rows[:quota]]
    return np.array(sorted(chosen), dtype=np.int64)


def in_order(strata: Sequence[Hashable], stream: Sequence[int]) -> Indices:
    """All rows in a random order of which each beginning has each stratum by its share, and is part of longer ones.

    A row of each stratum comes first, of the largest ones before that of others.

    Args:
        strata: Stratum of each row.
        stream: Integers that name the random stream.

    Returns:
        Positions.
    """
    places = [
        (number > 0, (number + 0.5) / len(rows), rank, row)
        for rank, rows in enumerate(_shuffled(strata, stream).values())
        for number, row in enumerate(rows)
    ]
    return np.array([row for *_, row in sorted(places)], dtype=np.int64)


def _shuffled(strata: Sequence[Hashable], stream: Sequence[int]) -> dict[Hashable, list[int]]:
    """The rows of each stratum in a random order; strata in that of their first ones."""
    keys = np.random.PCG64(np.random.SeedSequence(list(stream))).random_raw(len(strata))
    groups: dict[Hashable, list[int]] = {}
    for row in np.argsort(keys, kind="stable"):
        groups.setdefault(strata[row], []).append(int(row))
    return groups


def _quotas(sizes: Sequence[int], count: int) -> list[int]:
    """Rows to choose from each stratum: largest remainders between one row and all but one."""
    total = sum(sizes)
    count = min(count, total)
    ideal = [count * size / total for size in sizes]
    quotas = [min(max(int(share), size >= 2), max(size - 1, 0)) for share, size in zip(ideal, sizes, strict=True)]
    while sum(quotas) != count:
        step = 1 if sum(quotas) < count else -1
        open_ = [place for place, quota in enumerate(quotas) if _may_change(quota, sizes[place], step)]
        if not open_:
            # The bounds leave no room: then they give way, and only the sizes hold.
            open_ = [place for place, quota in enumerate(quotas) if 0 <= quota + step <= sizes[place]]
        best = max(open_, key=lambda place: step * (ideal[place] - quotas[place]))
        quotas[best] += step
    return quotas


def _may_change(quota: int, size: int, step: int) -> bool:
    return quota + 1 < size if step > 0 else quota > 1


# --- named splits -------------------------------------------------------------------------------------------


def train_name(loaded: Loaded, spec: DataSpec) -> str:
    """The key of the split to train on.

    Raises:
        DataError: The recipe names none, and the source has several and none that is called train.
    """
    if spec.train != "auto":
        return _named(loaded, "train", spec.train)
    if "train" in loaded.splits:
        return "train"
    others = [name for name in loaded.splits if name not in (spec.validation, spec.test)]
    if len(others) == 1:
        return others[0]
    message = f"{loaded.origin} has no split named train; its splits are {', '.join(loaded.splits)}"
    raise DataError(Problem(message, path="data.train", hint="Name the one to train on"))


def _named(loaded: Loaded, role: str, name: str) -> str:
    name = name if name in loaded.splits else SPLIT_ALIASES.get(name, name)
    if name not in loaded.splits:
        message = f"{loaded.origin} has no split '{name}'"
        raise DataError(Problem(message, path=f"data.{role}", hint=did_you_mean(name, list(loaded.splits))))
    return name


def _name_or_share(
    loaded: Loaded, role: str, value: str | float, train: str, label: Any, reasons: list[str]
) -> str | float:
    """The split that a role is read from, or the share of rows to set aside for it."""
    if not isinstance(value, str):
        return value
    if value != "auto":
        return _named(loaded, role, value)
    if role in loaded.splits and role != train:
        if role == "train" or _has_labels(loaded.splits[role], label):
            return role
        reasons.append(f"{role}: the split named {role} has no labels and is not used")
    return VALIDATION_SHARE if role == "validation" else TEST_SHARE


def _has_labels(rows: Dataset, label: Any) -> bool:
    """Whether any label is there; public test splits often have none, or -1 in each row."""
    if not isinstance(label, str):
        return True
    return label in rows.column_names and any(value is not None and value != -1 for value in rows[label])


def _check_distinct(names: dict[str, str]) -> None:
    roles: dict[str, str] = {}
    for role, name in names.items():
        if name in roles:
            message = f"split '{name}' is used for both {roles[name]} and {role}"
            hint = "Scores on rows that were trained on or selected by mean nothing: give a fraction or another split"
            raise DataError(Problem(message, path=f"data.{role}", hint=hint))
        roles[name] = role


def _numbered(rows: Dataset) -> Dataset:
    if ROW in rows.column_names:
        hint = "Rename it"
        raise DataError(Problem(f"the column '{ROW}' is used by hfstrat for positions", path="data.source", hint=hint))
    return rows.add_column(ROW, np.arange(len(rows), dtype=np.int64))


# --- fractions and limits -----------------------------------------------------------------------------------


def _take_share(
    rows: Dataset,
    role: str,
    share: float,
    spec: DataSpec,
    label: Any,
    texts: Sequence[str],
    reasons: list[str],
) -> tuple[Dataset, Dataset] | None:
    """Set a share of rows aside: what is left, and the share."""
    count = min(max(round(share * len(rows)), 1), len(rows) - 1)
    if count < 1:
        reasons.append(f"{role}: none, because there are only {len(rows)} rows")
        return None
    strata, how = _strata(rows, label, count)
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[choose(strata, count, (spec.seed, _STREAMS[role]))] = True
    together = chosen[_first_equal(rows, spec, texts)]
    # All rows of a tiny file may be equal; then they are split all the same and the audit tells of it.
    moved = int((together != chosen).sum()) if 0 < together.sum() < len(rows) else 0
    chosen = together if moved else chosen
    text = f"{role}: {share * 100:g} % of train ({int(chosen.sum())} rows), {how}, seed {spec.seed}"
    reasons.append(f"{text}; {moved} rows moved to be with rows of the same text" if moved else text)
    return rows.select(np.flatnonzero(~chosen)), rows.select(np.flatnonzero(chosen))


def _first_equal(rows: Dataset, spec: DataSpec, texts: Sequence[str]) -> Indices:
    """For each row the first one with the same texts, case and white space aside."""
    columns = [spec.columns.get(role, role) for role in texts]
    present = [column for column in columns if isinstance(column, str) and column in rows.column_names]
    if not present:
        return np.arange(len(rows), dtype=np.int64)
    cells = zip(*(rows[column][:] for column in present), strict=True)
    first: dict[tuple[str, ...], int] = {}
    keys = (tuple(fold(cell) if isinstance(cell, str) else repr(cell) for cell in row) for row in cells)
    return np.array([first.setdefault(key, place) for place, key in enumerate(keys)], dtype=np.int64)


def fold(text: str) -> str:
    """A text without what hardly distinguishes it: case, and the amount of white space."""
    return " ".join(text.casefold().split())


def _limited(rows: Dataset, role: str, spec: DataSpec, label: Any, reasons: list[str]) -> Dataset:
    limit, stream = spec.limit, (spec.seed, _STREAMS[f"{role} limit"])
    if isinstance(limit, PerClass):
        chosen = _per_class(rows, limit.per_class, stream, label)
        how = f"at most {limit.per_class} of each class"
    elif limit is None or limit >= len(rows):
        return rows
    else:
        strata, how = _strata(rows, label, None)
        chosen = np.sort(in_order(strata, stream)[:limit])
    if len(chosen) < len(rows):
        reasons.append(f"{role}: cut from {len(rows)} to {len(chosen)} rows, {how}, seed {spec.seed}")
    return rows.select(chosen)


def _per_class(rows: Dataset, count: int, stream: Sequence[int], label: Any) -> Indices:
    strata = None if label is None else _keys(rows, label)
    if strata is None or _is_continuous(strata):
        message = "{per_class: n} needs a label with classes"
        raise DataError(Problem(message, path="data.limit", hint="Give a number of rows"))
    members = _shuffled(strata, stream).values()
    return np.array(sorted(row for rows_of_one in members for row in rows_of_one[:count]), dtype=np.int64)


def _strata(rows: Dataset, label: Any, count: int | None) -> tuple[Sequence[Hashable], str]:
    """The stratum of each row, and what was done in words; where the count is known, none that it is too few for."""
    one = [0] * len(rows)
    keys = None if label is None else _keys(rows, label)
    if keys is None:
        return one, "at random"
    if _is_continuous(keys):
        return one, "at random, because the label is a number"
    if count is not None and len(set(keys)) > min(count, len(rows) - count):
        return one, f"at random, because {count} of {len(rows)} rows are too few for {len(set(keys))} labels"
    named = label if isinstance(label, str) else "label columns"
    return keys, f"stratified by {named}"


def _keys(rows: Dataset, label: str | tuple[str, ...]) -> list[Hashable] | None:
    """A hashable label for each row; None when a column is missing, which the audit reports."""
    columns = (label,) if isinstance(label, str) else label
    if any(column not in rows.column_names for column in columns):
        return None
    values = [rows[column][:] for column in columns]
    if len(values) == 1:
        return [value if isinstance(value, Hashable) else repr(value) for value in values[0]]
    return [tuple(repr(value) for value in row) for row in zip(*values, strict=True)]


def _is_continuous(keys: Sequence[Hashable]) -> bool:
    return any(isinstance(key, float) and not key.is_integer() for key in keys)
