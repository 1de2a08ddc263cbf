"""RESULTS.md out of the results that were kept."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from comparing.floor import flops
from comparing.material import count
from comparing.questions import ARMS, FROZEN, TITLES, Comparison, comparisons
from comparing.records import Entry, Records
from comparing.running import base
from hfstrat.metrics.intervals import wilson

MIB = 2**20
PHASES = "phases of hfstrat's process, s"


def report(records: Records, data: Path) -> str:
    """Everything that was measured, as tables.

    Args:
        records: The results.
        data: The rows that they were measured on.
    """
    there = [comparison for comparison in comparisons("") if records.of(comparison.name)]
    parts = [_head(records, data)]
    for question, title in TITLES.items():
        asked = [comparison for comparison in there if comparison.question == question]
        if asked:
            rows = records.of(asked[0].name)[0]["rows"]
            parts.append(f"## {title}\n\n{rows:,} training rows.\n\n{_seconds(asked, records)}")
            parts.append(_quality(asked, records, data))
            parts += _floors(asked, records, data)
            parts.append(_phases(asked, records))
    parts += _compared(records)
    parts += _growth(records)
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(records: Records, data: Path) -> str:
    settings = records.settings
    versions = ", ".join(f"{name} {version or '(not there)'}" for name, version in settings["versions"].items())
    native = ", ".join(settings["flags"]) or "no AVX-512"
    return f"""# Speed against peers

Written by `benchmarks/speed.py` from its results; do not edit. Both sides of a pair train the same encoder
(all-MiniLM-L6-v2) with the same head on the same rows (Banking77), in batches of {settings["batch_size"]}, each in a
process of its own, one directly after the other, the order turned from pair to pair; hfstrat's cache is empty when a
run begins. Cells are `hfstrat / peer`, medians over pairs. A ratio is peer over hfstrat within a pair, its median and
its range, in bold what decides: above 1 hfstrat is faster. *training* is what the peer's `train()` or fit takes, and
hfstrat's phases that do the same (features, solve, cache, teacher, updates); *end to end* is the whole process from
start to exit, with imports, tokenising and the score on {count(data, "test"):,} test rows. Accuracy has the 95 %
interval (Wilson) of the test rows, at the mean over pairs.

- {settings["processor"]} with {settings["cores"]} cores and {native}; {settings["threads"]} threads on either side
- {versions}
- hfstrat at {", ".join(sorted({_commit(entry) for entry in records.entries}))}"""


def _commit(entry: Entry) -> str:
    return f"{entry['commit'] or 'no commit'}{' with changes' if entry['dirty'] else ''}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _good(comparison: Comparison, records: Records) -> list[Entry]:
    return [entry for entry in records.of(comparison.name) if "error" not in entry]


def _values(entries: Sequence[Entry], side: str, key: str) -> list[float]:
    return [entry[side][key] for entry in entries if entry[side].get(key) is not None]


def _seconds(asked: Sequence[Comparison], records: Records) -> str:
    rows = []
    for comparison in asked:
        entries = _good(comparison, records)
        if not entries:
            rows.append([comparison.words, "0", f"did not run: {records.of(comparison.name)[-1]['error']}", *[""] * 5])
            continue
        cells, each = [comparison.words, str(len(entries))], ""
        for key, measure in (("train_seconds", "training"), ("total_seconds", "end to end")):
            pairs = list(zip(*(_values(entries, side, key) for side in ("ours", "theirs")), strict=True))
            ratios = [other / one for one, other in pairs]
            found = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
            if comparison.decides == measure:
                found, each = f"**{found}**", ", ".join(f"{ratio:.2f}" for ratio in ratios)
            cells += [
                " / ".join(f"{statistics.median(column):.1f}" for column in zip(*pairs, strict=True)),
                found,
            ]
        cpu = [statistics.median(_values(entries, side, "cpu_seconds")) for side in ("ours", "theirs")]
        rows.append([*cells, " / ".join(f"{value:.1f}" for value in cpu), each])
    header = ["against", "pairs", "training, s", "ratio", "end to end, s", "ratio", "end to end, CPU-s", "each pair"]
    return _table(header, rows)


def _quality(asked: Sequence[Comparison], records: Records, data: Path) -> str:
    n = count(data, "test")
    rows = []
    for comparison in asked:
        entries = _good(comparison, records)
        if not entries:
            continue
        cells = [comparison.words]
        for side in ("ours", "theirs"):
            mean = statistics.fmean(_values(entries, side, "accuracy"))
            low, high = wilson(mean * n, n)
            cells.append(f"{mean:.3f} [{low:.3f}–{high:.3f}]")
        for side in ("ours", "theirs"):
            found = _values(entries, side, "peak_live_bytes")
            cells.append(f"{max(found) / MIB:,.0f}" if found else "")
        rates = [
            statistics.median(entry[side]["examples"] / entry[side]["train_seconds"] for entry in entries)
            for side in ("ours", "theirs")
        ]
        epochs = [entries[0][side]["examples"] / entries[0]["rows"] for side in ("ours", "theirs")]
        resolved = entries[0]["ours"]["resolved"]
        how = f"{resolved['precision']}, {resolved['attention']}, dropout {resolved['dropout']:g}"
        rows.append(
            [*cells, " / ".join(f"{rate:.0f}" for rate in rates), " / ".join(f"{passes:g}" for passes in epochs), how]
        )
    header = [
        "against",
        "accuracy of hfstrat",
        "of the peer",
        "peak live MiB of hfstrat",
        "of the peer",
        "examples/s",
        "passes",
        "hfstrat's own choice",
    ]
    return _table(header, rows) if rows else ""


def _floors(asked: Sequence[Comparison], records: Records, data: Path) -> list[str]:
    """Seconds of training over the least that the arithmetic takes."""
    rows = []
    for comparison in asked:
        entries = [entry for entry in _good(comparison, records) if "flops_per_second" in entry]
        if not entries:
            continue
        epochs = entries[0]["ours"]["examples"] / entries[0]["rows"]
        solve, fit = flops(comparison.question, base(), data, epochs, comparison.ours.strategy.get("r", 0))
        rates = [statistics.fmean(entry["flops_per_second"]) for entry in entries]
        over = {
            side: [entry[side]["train_seconds"] * rate / work for entry, rate in zip(entries, rates, strict=True)]
            for side, work in (("ours", solve + fit), ("theirs", fit))
        }
        rows.append(
            [
                comparison.words,
                f"{(solve + fit) / 1e12:.2f}",
                f"{statistics.median(rates) / 1e9:,.0f}",
                f"{(solve + fit) / statistics.median(rates):.1f}",
                *(f"{statistics.median(found):.2f} ({min(found):.2f}–{max(found):.2f})" for found in over.values()),
            ]
        )
    if not rows:
        return []
    header = ["against", "TFLOP", "GFLOP/s of a large product", "floor, s", "hfstrat over floor", "peer over its floor"]
    words = (
        "The floor is the arithmetic that no implementation can leave out, products with weights and attention over "
        "real tokens, at the rate of a large matrix product measured beside each run. The solver's and the optimiser's "
        "own arithmetic is left out, and the peer's floor has no features to solve on."
    )
    return [f"{words}\n\n{_table(header, rows)}"]


def _phases(asked: Sequence[Comparison], records: Records) -> str:
    """Where the seconds of hfstrat's processes went."""
    runs = [
        (comparison.words, [entry["ours"]["phases"] for entry in entries])
        for comparison in asked
        if (entries := _good(comparison, records))
    ]
    names = list(dict.fromkeys(name for _, each in runs for phases in each for name in phases))
    rows = []
    for words, each in runs:
        seconds = [[phases.get(name, {}).get("seconds", 0.0) for phases in each] for name in names]
        rows.append([words, *(f"{statistics.median(found):.1f}" for found in seconds)])
    return _table([PHASES, *names], rows) if rows else ""


def _compared(records: Records) -> list[str]:
    """Seconds of `hfstrat compare` beside those of the same trainings by the Trainer."""
    found = records.of("compare/hfstrat")
    theirs = {name: records.of(f"compare/{name}") for name in ARMS}
    if not found or not all(theirs.values()):
        return []
    ours = found[0]["ours"]
    rows, sums = [], {}
    for name, entries in theirs.items():
        runs = [run for key, run in ours["runs"].items() if key.startswith(f"{name}/")]
        if len(runs) != len(entries):
            return []
        each = {
            "train": [sum(side[key] for side in part) for key, part in ((TRAIN, runs), (TRAIN, _sides(entries)))],
            "whole": [sum(_all_phases(run) for run in runs), sum(side["total_seconds"] for side in _sides(entries))],
        }
        sums[name] = each
        scores = [statistics.fmean(side["accuracy"] for side in part) for part in (runs, _sides(entries))]
        rows.append([name, *_shares(each), f"{scores[0]:.3f} / {scores[1]:.3f}"])
    for words, names in (("all", tuple(ARMS)), (", ".join(FROZEN), FROZEN)):
        each = {key: [sum(sums[name][key][side] for name in names) for side in (0, 1)] for key in ("train", "whole")}
        rows.append([f"**{words}**", *_shares(each), ""])
    whole, all_of_it = ours["total_seconds"], sum(sums[name]["train"][1] for name in ARMS)
    seeds, epochs = len(theirs["full"]), theirs["full"][0]["theirs"]["examples"] / found[0]["rows"]
    processes = sum(sums[name]["whole"][1] for name in ARMS)
    words = (
        f"{found[0]['rows']:,} training rows, {epochs:g} epochs, {seeds} seeds; Trainer tuned, at the same dropout and "
        f"attention. `hfstrat compare` took {whole:.0f} s from its start to its end, with scores, intervals and the "
        f"table: {whole / all_of_it:.2f} of the seconds that the Trainer's `train()` took for the same trainings, "
        f"{whole / processes:.2f} of those of its processes. Shares are hfstrat over Trainer."
    )
    header = ["strategy", "training, s", "share", "whole runs, s", "share", "accuracy"]
    return [f"## {TITLES['compare']}\n\n{words}\n\n{_table(header, rows)}"]


TRAIN = "train_seconds"


def _sides(entries: Sequence[Entry]) -> list[Entry]:
    return [entry["theirs"] for entry in entries]


def _all_phases(run: Entry) -> float:
    return float(sum(phase["seconds"] for phase in run["phases"].values()))


def _shares(each: dict[str, list[float]]) -> list[str]:
    cells = []
    for one, other in each.values():
        cells += [f"{one:.0f} / {other:.0f}", f"{one / other:.2f}"]
    return cells


def _growth(records: Records) -> list[str]:
    """Seconds and memory by rows, and the exponent of a power law through them."""
    found: dict[str, dict[int, list[Entry]]] = {}
    for entry in records.entries:
        if entry["name"].startswith("linear/") and "error" not in entry:
            _, kind, rows = entry["name"].split("/")
            found.setdefault(kind, {}).setdefault(int(rows), []).append(entry)
    if not found:
        return []
    lines = []
    for kind, sizes in found.items():
        for rows, entries in sorted(sizes.items()):
            lines.append(
                [
                    kind,
                    f"{rows:,}",
                    str(len(entries)),
                    *(f"{_median(entries, key):.1f}" for key in ("train_seconds", "total_seconds")),
                    f"{_median(entries, 'peak_rss_bytes') / MIB:,.0f}",
                    f"{_median(entries, 'peak_live_bytes') / MIB:,.0f}",
                ]
            )
    header = ["strategy", "rows", "runs", "training, s", "end to end, s", "peak anonymous MiB", "peak live MiB"]
    exponents = [
        [kind, f"{_exponent(sizes, 'train_seconds')}", f"{_exponent(sizes, 'total_seconds')}"]
        for kind, sizes in found.items()
    ]
    return [
        f"## {TITLES['linear']}\n\nOne pass over the rows.\n\n{_table(header, lines)}",
        _table(["exponent of rows in", "training", "end to end"], exponents),
    ]


def _median(entries: Sequence[Entry], key: str) -> float:
    return statistics.median(_values(entries, "ours", key)) if _values(entries, "ours", key) else math.nan


def _exponent(sizes: dict[int, list[Entry]], key: str) -> str:
    if len(sizes) < 2:
        return ""
    rows = sorted(sizes)
    slope, _ = np.polyfit(np.log(rows), np.log([_median(sizes[number], key) for number in rows]), 1)
    return f"{slope:.2f}"
