"""What `hfstrat estimate` says of runs that were made, beside what they measured of themselves.

    python benchmarks/estimating.py RUN [RUN …] [--no-calibrate]

Each RUN is a finished run directory, such as the arms of a comparison; its recipe as it was asked for is estimated here
and its ledger read. Time can be compared only where the runs were made on this machine, with as many threads and as
little beside them. The table goes to benchmarks/estimating.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from comparing.records import commit, machine

from hfstrat.study.estimate import estimate

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Estimate, compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--calibrate", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--note", default="", help="what the reader should know about how the runs were made")
    parser.add_argument("--report", type=Path, default=ROOT / "benchmarks" / "estimating.md")
    words = parser.parse_args()
    rows = []
    for run in words.runs:
        rows.append(_row(run, calibrate=words.calibrate))
        print(json.dumps(rows[-1]), flush=True)
    text = _report(rows, words.note)
    words.report.write_text(text, "utf-8")
    print(text)


def _row(run: Path, *, calibrate: bool) -> dict[str, Any]:
    env, ledger, plan = (json.loads((run / name).read_text()) for name in ("env.json", "ledger.json", "plan.json"))
    given = {
        **env["requested"],
        "name": run.name,
        "compare": {"arms": [{"name": "it", "strategy": env["requested"]["strategy"]}]},
    }
    found = estimate(given, calibrate=calibrate).arm("it")
    assert found.refused is None, found.refused
    assert found.live is not None
    assert found.resident is not None
    assert found.seconds is not None
    return {
        "run": run.name,
        "kind": plan["kind"],
        "trained": (found.trained, plan["parameters"]["trainable"]),
        "live": (found.live.value, ledger["peak_live_bytes"]),
        "resident": (found.resident.value, ledger["peak_rss_bytes"]),
        "resident_within": found.resident.low <= ledger["peak_rss_bytes"] <= found.resident.high,
        "seconds": (found.seconds.value, ledger["seconds"]),
        "seconds_within": found.seconds.low <= ledger["seconds"] <= found.seconds.high,
        "how": found.seconds.how,
        "threads": env["threads"],
        "commit": str((env.get("git") or {}).get("commit"))[:12],
    }


def _report(rows: list[dict[str, Any]], note: str) -> str:
    here, at = machine(), commit(ROOT)["commit"]
    lines = [
        "# Estimates and what was measured",
        "",
        f"`python benchmarks/estimating.py` on {here['processor']}, {here['cores']} cores, hfstrat at {at}. Cells are "
        f"`estimate / measured`; the runs are of {', '.join(sorted({row['commit'] for row in rows}))}, with "
        f"{', '.join(sorted({str(row['threads']) for row in rows}))} threads.",
        *(["", note] if note else []),
        "",
        "| run | trained | live memory, MiB | ratio | resident, MiB | ratio | time, s | ratio | inside its interval |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --- |",
    ]
    for row in rows:
        live, resident, seconds = (row[name] for name in ("live", "resident", "seconds"))
        lines.append(
            f"| {row['run']} | {row['trained'][0]:,} / {row['trained'][1]:,} "
            f"| {live[0] / 2**20:,.1f} / {live[1] / 2**20:,.1f} | {live[0] / live[1]:.3f} "
            f"| {resident[0] / 2**20:,.0f} / {resident[1] / 2**20:,.0f} | {resident[0] / resident[1]:.2f} "
            f"| {seconds[0]:,.0f} / {seconds[1]:,.0f} | {seconds[0] / seconds[1]:.2f} "
            f"| {'yes' if row['seconds_within'] else 'no'} |"
        )
    live = [abs(row["live"][0] / row["live"][1] - 1) for row in rows]
    time = [abs(row["seconds"][0] / row["seconds"][1] - 1) for row in rows]
    lines += [
        "",
        f"Live memory is off by {100 * statistics.median(live):.1f} % (median) and {100 * max(live):.1f} % (worst); "
        f"time by {100 * statistics.median(time):.0f} % (median), within 20 % in {sum(one <= 0.2 for one in time)} of "
        f"{len(time)} runs, and within its interval in {sum(row['seconds_within'] for row in rows)}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
