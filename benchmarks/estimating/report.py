"""estimating.md out of what was measured and estimated."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.comparing.records import Entry, Records
from hfstrat.report.tables import markdown_table
from hfstrat.study.estimate import HEAP

MIB = 2**20
RESIDENT = 0.1, 30 * MIB
"""Share and bytes that resident memory may be off by."""
EQUAL = 1e-6
"""Relative difference of numbers that are sums of the same, in another order."""
TIME = 0.2


def report(records: Records, note: str) -> str:
    """All cases as tables, a summary first.

    Args:
        records: A line for each case.
        note: What the reader should know about how the runs were made.
    """
    here = records.settings
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items() if version)
    commits = ", ".join(sorted({entry["hfstrat"] for entry in records.entries}))
    done = [entry for entry in records.entries if "estimated" in entry and "refused" not in entry["estimated"]]
    refused = [entry for entry in records.entries if "refused" in entry.get("measured", {})]
    failed = [entry for entry in records.entries if "error" in entry and records.of(entry["name"]) == [entry]]
    parts = [
        "# Estimates and what was measured",
        f"`python benchmarks/estimating/run.py` on {here['processor']}, {here['cores']} cores, one thread; "
        f"{versions}; hfstrat at {commits}.",
        note,
        _summary(done),
        "Off by: what the estimate differs by from what was measured, as a share of that. FLOPs are the same up to "
        "what a Solve takes itself, which ends where the data let it. Within: 10 % + 30 MiB, and 20 % of time.",
        _groups("strategy", done),
        _groups("family", done),
        "## Every case",
        "Cells are `estimate / measured`, and the estimate's share of what was measured.",
        _cases(done),
        *(["## Refused", "Before anything runs, with the same words by both.", _refused(refused)] if refused else []),
        *(["## Failed", "\n".join(f"- {one['name']}: {one['error']}" for one in failed)] if failed else []),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _summary(done: Sequence[Entry]) -> str:
    live, resident = _off(done, "live"), _off(done, "resident")
    solved = [entry for entry in done if "solve" in entry["measured"]["phases"]]
    others = [entry for entry in done if entry not in solved and entry["measured"]["flops"] is not None]
    took = [entry["estimated"]["took"] for entry in done]
    counts = [len({entry[field] for entry in done}) for field in ("family", "strategy", "shape")]
    lines = [
        f"{len(done)} cases: {counts[0]} architectures, {counts[1]} strategies, {counts[2]} shapes of batch",
        f"live peak off by {_middle(live)} (median), {_worst(live)} (worst)",
        f"resident memory within 10 % + 30 MiB in {_count(done, _resident_fits)}, off by {_middle(resident)} (median), "
        f"{_worst(resident)} (worst); within its interval in {_count(done, _resident_inside)}",
        f"the heap is taken for {HEAP} times the live bytes; by least squares on every second architecture, "
        + " and ".join(f"{slope:.2f} (within in {within} of the others)" for slope, within in _heaps(done)),
        f"trained parameters the same in {_count(done, _trained_same)}",
        f"FLOPs the same in {_count(others, _flops_same)} runs without a Solve, off by {_worst(_off(others, 'flops'))} "
        f"at most; by {_worst(_off(solved, 'flops'))} at most in the {len(solved)} with one",
        f"an estimate takes {statistics.median(took):.1f} s (median), {max(took):.1f} s at most, imports left out",
    ]
    timed = _timed(done)
    if timed:
        near, inside = _count(timed, _time_near), _count(timed, _time_inside)
        off = _middle(_off(timed, "seconds"))
        lines.append(f"time within 20 % in {near}, within its interval in {inside}; off by {off} (median)")
    else:
        lines.append("time was not calibrated: it is a guess, and not to be compared")
    return "\n".join(f"- {line}" for line in lines)


def _heaps(done: Sequence[Entry]) -> list[tuple[float, str]]:
    """The heap's bytes for each live one on half of the architectures, and how many cases of the others it suits.

    Shares of what was measured are fitted.
    """
    names, found = sorted({entry["family"] for entry in done}), []
    for half in (names[::2], names[1::2]):
        own = [entry for entry in done if entry["family"] in half]
        if not own or len(own) == len(done):
            continue
        of_live = [entry["estimated"]["live"]["value"] / entry["measured"]["resident"] for entry in own]
        rest = [(entry["measured"]["resident"] - _without_heap(entry)) / entry["measured"]["resident"] for entry in own]
        slope = sum(map(operator.mul, of_live, rest)) / sum(one**2 for one in of_live)
        others = [entry for entry in done if entry["family"] not in half]
        found.append((slope, _count(others, partial(_near_with, slope))))
    return found


def _near_with(slope: float, entry: Entry) -> bool:
    return _is_near(_without_heap(entry) + slope * entry["estimated"]["live"]["value"], entry["measured"]["resident"])


def _without_heap(entry: Entry) -> float:
    said = entry["estimated"]
    return float(said["resident"]["value"] - HEAP * said["live"]["value"])


def _groups(field: str, done: Sequence[Entry]) -> str:
    titles = [field, "cases", "live off, median", "worst", "resident off, median", "worst", "within", "trained same"]
    titles += ["FLOPs off, worst", "time off, median", "within"]
    rows = []
    for value in dict.fromkeys(entry[field] for entry in done):
        own = [entry for entry in done if entry[field] == value]
        live, resident, timed = _off(own, "live"), _off(own, "resident"), _timed(own)
        rows.append(
            [
                value,
                str(len(own)),
                _middle(live),
                _worst(live),
                _middle(resident),
                _worst(resident),
                _count(own, _resident_fits),
                _count(own, _trained_same),
                _worst(_off(own, "flops")),
                _middle(_off(timed, "seconds")),
                _count(timed, _time_near) if timed else "",
            ]
        )
    return markdown_table(titles, rows, right=[False] + [True] * (len(titles) - 1))


def _cases(done: Sequence[Entry]) -> str:
    titles = ["architecture", "strategy", "batch", "trained"]
    titles += ["live, MiB", "", "resident, MiB", "", "GFLOP", "", "s", ""]
    rows = []
    for entry in done:
        said, real = entry["estimated"], entry["measured"]
        cells = [entry["family"], entry["strategy"], entry["shape"]]
        same = _trained_same(entry)
        cells.append(f"{said['trained']:,}" if same else f"{said['trained']:,} / {real['trained']:,}")
        for name, unit, digits in (("live", MIB, 1), ("resident", MIB, 0), ("flops", 1e9, 1), ("seconds", 1, 1)):
            value, own = said[name]["value"], real[name]
            cells.append(f"{value / unit:,.{digits}f} / {'' if own is None else f'{own / unit:,.{digits}f}'}")
            cells.append("" if not own else f"{value / own:.3f}")
        rows.append(cells)
    return markdown_table(titles, rows, right=[False] * 3 + [True] * (len(titles) - 3))


def _refused(refused: Sequence[Entry]) -> str:
    rows = [
        [one["family"], one["strategy"], one["shape"], _words(one["measured"]), _words(one["estimated"])]
        for one in refused
    ]
    return markdown_table(["architecture", "strategy", "batch", "the run", "the estimate"], rows)


def _words(figures: Entry) -> str:
    return str(figures.get("refused", "makes it"))


def _off(done: Sequence[Entry], name: str) -> list[float]:
    return [
        abs(entry["estimated"][name]["value"] / entry["measured"][name] - 1)
        for entry in done
        if entry["measured"][name] is not None
    ]


def _timed(done: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in done if entry["estimated"]["seconds"]["how"] == "calibrated"]


def _trained_same(entry: Entry) -> bool:
    return bool(entry["estimated"]["trained"] == entry["measured"]["trained"])


def _flops_same(entry: Entry) -> bool:
    measured = entry["measured"]["flops"]
    return measured is not None and abs(entry["estimated"]["flops"]["value"] - measured) <= EQUAL * measured


def _resident_fits(entry: Entry) -> bool:
    return _is_near(entry["estimated"]["resident"]["value"], entry["measured"]["resident"])


def _is_near(resident: float, measured: float) -> bool:
    share, more = RESIDENT
    return abs(resident - measured) <= share * measured + more


def _resident_inside(entry: Entry) -> bool:
    return _inside(entry, "resident")


def _time_near(entry: Entry) -> bool:
    return _off([entry], "seconds")[0] <= TIME


def _time_inside(entry: Entry) -> bool:
    return _inside(entry, "seconds")


def _inside(entry: Entry, name: str) -> bool:
    figure = entry["estimated"][name]
    return bool(figure["low"] <= entry["measured"][name] <= figure["high"])


def _count(done: Sequence[Entry], check: Callable[[Entry], bool]) -> str:
    return f"{sum(map(check, done))} of {len(done)}"


def _middle(shares: Sequence[float]) -> str:
    return f"{statistics.median(shares):.2%}" if shares else ""


def _worst(shares: Sequence[float]) -> str:
    return f"{max(shares):.2%}" if shares else ""
