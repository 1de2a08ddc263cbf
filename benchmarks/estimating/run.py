"""What `hfstrat estimate` says of runs, beside what they measure of themselves.

    python benchmarks/estimating/run.py --out DIR [--families bert …] [--strategies lora …] [--note TEXT]

Random models of many architectures are trained on made-up data with every strategy that goes with their task, each
with two shapes of batch, and each is estimated; every run and every estimate has a process and a cache of its own.
What is measured stays in `--out` and is not measured again, so that a benchmark that was killed goes on; without its
results.jsonl everything is estimated anew beside the runs that are there. Time can be compared only where little else
runs on the machine. The table goes to benchmarks/estimating.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # started as a file, and tested as a module

from benchmarks.comparing.records import Records, commit, machine  # noqa: E402
from benchmarks.estimating.cases import FAMILIES, SHAPES, STRATEGIES, Case, cases  # noqa: E402
from benchmarks.estimating.report import report  # noqa: E402
from hfstrat import execute  # noqa: E402
from hfstrat.errors import HfstratError, UsageError  # noqa: E402
from hfstrat.runs.directory import Run  # noqa: E402
from hfstrat.runs.rows import Row  # noqa: E402
from hfstrat.study import worker  # noqa: E402
from hfstrat.study.estimate import estimate  # noqa: E402

Figures = dict[str, Any]


def main() -> None:
    """Train, estimate, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--calibrate", action=argparse.BooleanOptionalAction, default=True, help="measure time")
    parser.add_argument("--note", default="", help="what the reader should know about how the runs were made")
    parser.add_argument("--report", type=Path, default=ROOT / "benchmarks" / "estimating.md")
    words = parser.parse_args()
    folder = words.out.resolve()
    records = Records(folder, machine())
    for case in cases(words.families, words.strategies, words.shapes):
        if not records.has(case.name, 0):
            found = compared(case, folder, calibrate=words.calibrate)
            records.add({"name": case.name, "pair": 0, **vars(case), **found, "hfstrat": commit(ROOT)["commit"]})
            print(case.name, found.get("error", ""), flush=True)
    words.report.write_text(report(records, words.note), "utf-8")
    print(words.report)


def compared(case: Case, folder: Path, *, calibrate: bool) -> Figures:
    """A case's run and its estimate; an error in their place, or why neither can be."""
    alone(case.recipe, folder)  # makes model and data, of which nothing stays in the heap of what is measured
    recipe = case.recipe(folder)
    try:
        return {"measured": alone(measured, recipe, folder), "estimated": alone(estimated, recipe, folder, calibrate)}
    except (HfstratError, MemoryError, RuntimeError) as error:  # of which a process that was killed is one
        return {"error": f"{type(error).__name__}: {error}"}


def alone(function: Callable[..., Any], *given: Any) -> Any:
    """What a function gives in a process of its own, which has the imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([worker.__name__, estimate.__module__])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *given).result()


def measured(recipe: dict[str, Any], folder: Path) -> Figures:
    """What a run measures of itself, or why it is refused."""
    run = Run(folder / "runs" / recipe["name"])
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        os.environ["HFSTRAT_CACHE"] = cache
        try:
            if run.status != "done":
                run = execute.train(recipe, runs=folder / "runs", overwrite=True)
        except UsageError as error:
            return {"refused": str(error)}
    row = Row.of(run)
    return {
        "trained": row.trainable_parameters,
        "live": row.peak_live_bytes,
        "resident": row.peak_rss_bytes,
        "flops": row.flops,
        "seconds": row.seconds,
        "phases": run.ledger["phases"],
    }


def estimated(recipe: dict[str, Any], folder: Path, calibrate: bool) -> Figures:
    """What is estimated, and the seconds that it took."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        os.environ["HFSTRAT_CACHE"] = cache
        try:
            (found,) = estimate(recipe, arms=[recipe["strategy"]["kind"]], calibrate=calibrate).records()
        except UsageError as error:
            return {"refused": str(error)}
    return {**found, "took": time.perf_counter() - start}


if __name__ == "__main__":
    main()
