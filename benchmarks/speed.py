"""How long hfstrat takes against its peers, at the same model, rows, epochs and batch size, pair by pair.

    python benchmarks/speed.py --data DIR [head full lora partial distill compare linear setfit] [--pairs 5]

DIR holds train.csv and test.csv with the columns text and category (Banking77). The two sides of a pair run one after
the other, each in a process of its own, and the order turns from pair to pair. Every result is kept in --out as soon
as it is there: the same command goes on where it was cut. The tables go to benchmarks/RESULTS.md; `--pairs 0` writes
them from what is there.

Peers need `pip install -r benchmarks/requirements-peers.txt -c constraints.txt`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from comparing.material import classes, count, digest, material
from comparing.questions import ARMS, COMPARED_EPOCHS, LINEAR_STEPS, TITLES, Comparison, Ours, Theirs, comparisons
from comparing.records import Records, commit, machine
from comparing.report import report
from comparing.running import (
    Bench,
    Failed,
    Record,
    check,
    compared,
    flops_per_second,
    job_of,
    run_compare,
    run_ours,
    run_theirs,
)

from hfstrat.training.machine import cores

ROOT = Path(__file__).parent.parent
FEW = 8  # texts of each class for SetFit


def main() -> None:
    """Measure what is asked for, and write the tables."""
    words = _words()
    out = words.out.resolve()
    settings = {
        **machine(),
        "threads": words.threads,
        "rows": words.rows,
        "test_rows": words.test_rows,
        "epochs": words.epochs,
        "batch_size": words.batch_size,
        "data": digest(words.data),
    }
    records = Records(out, settings)
    python = None if words.setfit_python is None else Path(words.setfit_python).absolute()
    bench = Bench(out, words.threads, words.batch_size, python)
    shutil.rmtree(bench.work, ignore_errors=True)  # what a measurement that was cut has left
    bench.work.mkdir()
    data = material(words.data, out / "data" / "all", words.rows, words.test_rows)
    for comparison in comparisons(str(out / "teacher")):
        if comparison.question in words.questions:
            asked = comparison if words.epochs is None else replace(comparison, epochs=words.epochs)
            _compare(asked, bench, records, _rows_for(asked, data, words), words.pairs)
    if "linear" in words.questions:
        try:
            _grow(bench, records, data, words)
        except Failed as error:
            print(f"linear: {error}", file=sys.stderr, flush=True)
    if "compare" in words.questions:
        try:
            _compare_all(bench, records, data, words)
        except Failed as error:
            print(f"compare: {error}", file=sys.stderr, flush=True)
    text = report(records, data)
    words.report.write_text(text, "utf-8")
    print(text)


def _words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", help=f"of {', '.join(TITLES)}; all by default")
    parser.add_argument("--data", type=Path, required=True, help="folder of train.csv and test.csv")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "speed", help="folder of the results")
    parser.add_argument("--report", type=Path, default=ROOT / "benchmarks" / "RESULTS.md", help="file of the tables")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3, help="of each strategy that is compared")
    parser.add_argument("--rows", type=int, help="training rows; all by default")
    parser.add_argument("--test-rows", type=int, help="test rows; all by default")
    parser.add_argument("--epochs", type=float, help="in place of each question's own")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=cores(), help="CPU threads of both sides; all cores by default")
    parser.add_argument("--setfit-python", help="Python of an environment with SetFit")
    words = parser.parse_args()
    unknown = [name for name in words.questions if name not in TITLES]
    if unknown:
        parser.error(f"no question '{unknown[0]}'; there are {', '.join(TITLES)}")
    words.questions = words.questions or list(TITLES)
    least = classes(words.data) * (LINEAR_STEPS[-1] if "linear" in words.questions and words.pairs else 1)
    if words.rows is not None and words.rows < least:
        parser.error(f"--rows must be at least {least}, so that each run has a row of each class")
    return words


def _rows_for(comparison: Comparison, data: Path, words: argparse.Namespace) -> Path:
    """The rows of a comparison: all that are asked for, and for SetFit a few of each class."""
    few = FEW * classes(words.data)
    if comparison.question != "setfit" or few >= count(data, "train"):
        return data
    return material(words.data, data.parent / "few", few, words.test_rows)


def _compare(comparison: Comparison, bench: Bench, records: Records, data: Path, pairs: int) -> None:
    """Measure the pairs of a comparison that are not there yet; after one that fails the others are left out."""
    for pair in range(pairs):
        if records.has(comparison.name, pair):
            continue
        entry: Record = {"name": comparison.name, "pair": pair, "rows": count(data, "train"), **commit(ROOT)}
        try:
            if isinstance(comparison.theirs, Theirs):
                check(bench, comparison.theirs)
            _teacher(comparison, bench, data)
            entry |= _pair(comparison, bench, records, data, pair)
        except Failed as error:
            records.add({**entry, "error": str(error)})
            print(f"{comparison.name}: {error}", file=sys.stderr, flush=True)
            return
        records.add(entry)
        one, other = (entry[side]["train_seconds"] for side in ("ours", "theirs"))
        print(f"{comparison.name} {pair + 1}/{pairs}: {one:.1f} s, {other:.1f} s", flush=True)


def _pair(comparison: Comparison, bench: Bench, records: Records, data: Path, pair: int) -> Record:
    """Both sides of a pair, hfstrat first in every second one, and the figures that go with them."""
    found: Record = {}
    earlier = records.of(comparison.name)
    resolved = next((entry["ours"]["resolved"] for entry in earlier if "ours" in entry), None)

    def ours() -> None:
        rates = [flops_per_second(bench, _bf16(resolved))] if comparison.floor and resolved else []
        found["ours"] = run_ours(bench, comparison.ours, data, comparison.epochs, pair)
        if comparison.floor:
            rates.append(flops_per_second(bench, _bf16(found["ours"]["resolved"])))
            found["flops_per_second"] = rates

    def theirs() -> None:
        if isinstance(comparison.theirs, Ours):
            found["theirs"] = run_ours(bench, comparison.theirs, data, comparison.epochs, pair)
            return
        settings = resolved or found["ours"]["resolved"]
        job = job_of(bench, comparison.ours, comparison.theirs, data, comparison.epochs, pair, settings)
        found["theirs"] = run_theirs(bench, comparison.theirs, job)
        if pair == 0 and comparison.theirs.has_steps:
            counted = run_theirs(bench, comparison.theirs, replace(job, memory=True))
            found["theirs"]["peak_live_bytes"] = counted["peak_live_bytes"]

    # What hfstrat makes of `auto` is known after its first run, which therefore comes first.
    for side in (theirs, ours) if pair % 2 and resolved is not None else (ours, theirs):
        side()
    return {**found, "first": next(iter(found))}


def _bf16(resolved: Record) -> bool:
    return bool(resolved["precision"] == "bf16")


def _teacher(comparison: Comparison, bench: Bench, data: Path) -> None:
    """The classifier that is distilled, trained once and not measured."""
    folder = comparison.ours.strategy.get("teacher")
    if folder is not None and not Path(folder).is_dir():
        run_ours(bench, Ours({"kind": "full"}), data, comparison.epochs, seed=0, keep=Path(folder))


def _compare_all(bench: Bench, records: Records, data: Path, words: argparse.Namespace) -> None:
    """Eight strategies by one `hfstrat compare`, and the same trainings by the Trainer, one after the other."""
    if not words.pairs:
        return
    epochs, seeds, rows = words.epochs or COMPARED_EPOCHS, range(words.seeds), count(data, "train")
    kept = bench.out / "compared"
    if not records.has("compare/hfstrat", 0):
        found = run_compare(bench, ARMS, data, epochs, seeds, kept)
        records.add({"name": "compare/hfstrat", "pair": 0, "rows": rows, **commit(ROOT), "ours": found})
        print(f"compare: {found['total_seconds']:.1f} s", flush=True)
    ours = records.of("compare/hfstrat")[0]["ours"]["runs"]
    peer = Theirs("trainer", same=True)
    for name, arm in ARMS.items():
        for seed in seeds:
            key = f"compare/{name}"
            if records.has(key, seed):
                continue
            if name == "distill":
                teacher = compared(kept, "full", seed, seeds) / "artifact"
                arm = Ours({**arm.strategy, "teacher": str(teacher)})
            job = job_of(bench, arm, peer, data, epochs, seed, ours[f"{name}/{seed}"]["resolved"])
            theirs = run_theirs(bench, peer, job)
            records.add({"name": key, "pair": seed, "rows": rows, **commit(ROOT), "theirs": theirs})
            print(f"{key} {seed}: {theirs['train_seconds']:.1f} s", flush=True)


def _grow(bench: Bench, records: Records, data: Path, words: argparse.Namespace) -> None:
    """One pass over more and more rows, upwards and downwards in turn."""
    most = count(data, "train")
    sizes = [most * step // LINEAR_STEPS[-1] for step in LINEAR_STEPS]
    for pair in range(words.pairs):
        for kind in ("head", "lora", "full"):
            for rows in reversed(sizes) if pair % 2 else sizes:
                name = f"linear/{kind}/{rows}"
                if records.has(name, pair):
                    continue
                part = material(words.data, data.parent / str(rows), rows, words.test_rows)
                ours = run_ours(bench, Ours({"kind": kind}), part, 1, pair)
                records.add({"name": name, "pair": pair, "rows": rows, **commit(ROOT), "ours": ours})
                print(f"{name} {pair + 1}/{words.pairs}: {ours['train_seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
