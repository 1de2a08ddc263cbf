"""estimating.md out of what was measured and estimated."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from benchmarks.comparing.records import Entry, Records
from hfstrat.report.tables import markdown_table

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
        "Shares of cases in the last four columns: within 10 % + 30 MiB; within 20 %; within its interval; of FLOPs and "
        "trained parameters: the same. Off by: of the estimate from what was measured, as a share of the latter.",
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
    live, resident, seconds = (_off(done, name) for name in ("live", "resident", "seconds"))
    took = [entry["estimated"]["took"] for entry in done]
    return "\n".join(
        [
            f"- {len(done)} cases: {len({one['family'] for one in done})} architectures, "
            f"{len({one['strategy'] for one in done})} strategies, {len({one['shape'] for one in done})} shapes of batch",
            f"- live peak off by {_percent(statistics.median(live))} (median), {_percent(max(live))} (worst)",
            f"- resident memory within 10 % + 30 MiB in {_count(done, _resident_fits)}; off by "
            f"{_percent(statistics.median(resident))} (median), {_percent(max(resident))} (worst)",
            f"- trained parameters the same in {_count(done, _trained_same)}, FLOPs in {_count(done, _flops_same)}",
            f"- time within 20 % in {_count(done, _time_near)}, within its interval in {_count(done, _time_inside)}; "
            f"off by {_percent(statistics.median(seconds))} (median)",
            f"- an estimate takes {statistics.median(took):.1f} s (median), {max(took):.1f} s at most, imports left out",
        ]
    )


def _groups(field: str, done: Sequence[Entry]) -> str:
    titles = [field, "cases", "live off, median", "worst", "resident off, median", "worst", "time off, median"]
    checks: dict[str, Callable[[Entry], bool]] = {
        "trained same": _trained_same,
        "FLOPs same": _flops_same,
        "resident within": _resident_fits,
        "time within": _time_near,
        "time in interval": _time_inside,
    }
    rows = []
    for value in dict.fromkeys(entry[field] for entry in done):
        own = [entry for entry in done if entry[field] == value]
        live, resident, seconds = (_off(own, name) for name in ("live", "resident", "seconds"))
        rows.append(
            [
                value,
                str(len(own)),
                _percent(statistics.median(live)),
                _percent(max(live)),
                _percent(statistics.median(resident)),
                _percent(max(resident)),
                _percent(statistics.median(seconds)),
                *(_count(own, check) for check in checks.values()),
            ]
        )
    return markdown_table([*titles, *checks], rows, right=[False] + [True] * (len(titles) + len(checks) - 1))


def _cases(done: Sequence[Entry]) -> str:
    titles = [
        "architecture",
        "strategy",
        "batch",
        "trained",
        "live, MiB",
        "",
        "resident, MiB",
        "",
        "GFLOP",
        "",
        "s",
        "",
    ]
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
    return [abs(entry["estimated"][name]["value"] / entry["measured"][name] - 1) for entry in done]


def _trained_same(entry: Entry) -> bool:
    return bool(entry["estimated"]["trained"] == entry["measured"]["trained"])


def _flops_same(entry: Entry) -> bool:
    measured = entry["measured"]["flops"]
    return measured is not None and abs(entry["estimated"]["flops"]["value"] - measured) <= EQUAL * measured


def _resident_fits(entry: Entry) -> bool:
    share, more = RESIDENT
    measured = entry["measured"]["resident"]
    return bool(abs(entry["estimated"]["resident"]["value"] - measured) <= share * measured + more)


def _time_near(entry: Entry) -> bool:
    return _off([entry], "seconds")[0] <= TIME


def _time_inside(entry: Entry) -> bool:
    figure = entry["estimated"]["seconds"]
    return bool(figure["low"] <= entry["measured"]["seconds"] <= figure["high"])


def _count(done: Sequence[Entry], check: Callable[[Entry], bool]) -> str:
    return f"{sum(map(check, done))} of {len(done)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
