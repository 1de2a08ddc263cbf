"""What streaming holds in memory, and whether a run that is killed ends in the same bytes.

    python benchmarks/streaming.py [--small 0.2] [--large 2.0] [--updates 150] [--folder DIR]

Writes as many GB of made-up text, and trains a small model on each in a process of its own, whose anonymous memory is
read from /proc twice a second. The large run is made twice: once through, and once killed with SIGKILL in the
middle of its updates and resumed. The table goes to benchmarks/streaming.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WORDS = 20_000


def write_text(file: Path, size: float, seed: int) -> None:
    """Lines of words that are as frequent as words are (Zipf), `size` GB of them."""
    rng = random.Random(seed)
    letters = "etaoinshrdlcumwfgypbvk"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(WORDS)]
    weights = [1 / (rank + 3) for rank in range(WORDS)]
    total = 0
    with file.open("w", encoding="utf-8") as stream:
        while total < size * 1e9:
            drawn = rng.choices(words, weights, k=120_000)
            text = "".join(" ".join(drawn[start : start + 12]) + ".\n" for start in range(0, len(drawn), 12))
            stream.write(text)
            total += len(text)


def recipe(name: str, source: Path, updates: int, threads: int) -> dict[str, Any]:
    """A small GPT-2 from random weights on what is streamed."""
    return {
        "name": name,
        "model": {
            "config": {"model_type": "gpt2", "n_layer": 2, "n_head": 4, "n_embd": 128, "n_positions": 256},
            "dropout": 0.0,
        },
        "task": {"kind": "causal_lm", "max_length": 256},
        "data": {"source": f"{source}/", "streaming": True},
        "strategy": {"kind": "scratch", "tokenizer": {"kind": "bpe", "vocab_size": 4000}},
        "train": {"max_steps": updates, "batch_size": 16, "checkpoint_every": 10, "threads": threads},
    }


def run(
    given: dict[str, Any],
    folder: Path,
    *words: str,
    watch: Callable[[float, subprocess.Popen[bytes]], None] | None = None,
) -> tuple[float, float, int]:
    """Train in a process of its own: GB of anonymous memory at most, seconds, exit code."""
    file = folder / f"{given['name']}.json"
    file.write_text(json.dumps(given))
    environment = {**os.environ, "HFSTRAT_CACHE": str(folder / "cache"), "HFSTRAT_CACHE_SIZE": "100 GB"}
    command = [sys.executable, "-m", "hfstrat", "train", str(file), "--runs", str(folder / "runs"), *words]
    start, most = time.perf_counter(), 0.0
    with (folder / f"{given['name']}.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        while process.poll() is None:
            most = max(most, _anonymous(process.pid))
            if watch is not None:
                watch(time.perf_counter() - start, process)
            time.sleep(0.5)
    return most, time.perf_counter() - start, process.returncode


def _anonymous(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1e6


def _updates(folder: Path, name: str) -> int:
    try:
        lines = (folder / "runs" / name / "log.jsonl").read_text().splitlines()
        return max((json.loads(line).get("update", 0) for line in lines), default=0)
    except (OSError, ValueError):
        return 0


def _bytes(run_folder: Path) -> str:
    digest = hashlib.sha256()
    for file in (run_folder / "artifact" / "model.safetensors", run_folder / "metrics.json"):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=float, default=0.2, help="GB of text")
    parser.add_argument("--large", type=float, default=2.0, help="GB of text")
    parser.add_argument("--updates", type=int, default=150)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, default=None, help="where to work; a temporary folder, which is removed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        rows = [_measured(folder, "small", options.small, options), _measured(folder, "large", options.large, options)]
        killed = _killed(folder, options)
    table = _table(rows, killed, options)
    (ROOT / "benchmarks" / "streaming.md").write_text(table)
    print(table)


def _measured(folder: Path, name: str, size: float, options: argparse.Namespace) -> dict[str, Any]:
    source = folder / name
    source.mkdir()
    write_text(source / "train.txt", size, 0)
    write_text(source / "validation.txt", 0.0005, 1)
    given = recipe(name, source, options.updates, options.threads)
    most, seconds, code = run(given, folder)
    assert code == 0, (folder / f"{name}.log").read_text()[-2000:]
    again, fewer, _ = run({**given, "name": f"{name}-again"}, folder)
    ledger = json.loads((folder / "runs" / name / "ledger.json").read_text())
    return {
        "text": (source / "train.txt").stat().st_size / 1e9,
        "peak": most,
        "peak_kept": again,
        "seconds": seconds,
        "seconds_kept": fewer,
        "tokenize": ledger["phases"]["tokenize"]["seconds"],
        "bytes": _bytes(folder / "runs" / name),
        "same": _bytes(folder / "runs" / name) == _bytes(folder / "runs" / f"{name}-again"),
    }


def _killed(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    given = recipe("killed", folder / "large", options.updates, options.threads)
    at: list[int] = []

    def watch(seconds: float, process: subprocess.Popen[bytes]) -> None:
        if not at and (done := _updates(folder, "killed")) >= options.updates // 2:
            at.append(done)
            process.send_signal(signal.SIGKILL)

    most, _, code = run(given, folder, watch=watch)
    assert code == -signal.SIGKILL, "the run was over before it could be killed"
    again, _, code = run(given, folder, "--resume")
    assert code == 0, (folder / "killed.log").read_text()[-2000:]
    return {"at": at[0], "peak": max(most, again), "bytes": _bytes(folder / "runs" / "killed")}


def _table(rows: list[dict[str, Any]], killed: dict[str, Any], options: argparse.Namespace) -> str:
    lines = [
        "# Streamed text",
        "",
        f"`python benchmarks/streaming.py --small {options.small} --large {options.large} --updates {options.updates}`"
        f" on {platform.machine()}, {options.threads} threads. A GPT-2 of two blocks from random weights, a BPE "
        "tokenizer of 4,000 entries trained on the beginning of the text, windows of 256 tokens.",
        "",
        "| text | peak anonymous memory | of a second run | tokenising | seconds | of a second run | same bytes |",
        "| --: | --: | --: | --: | --: | --: | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['text']:.2f} GB | {row['peak']:.3f} GB | {row['peak_kept']:.3f} GB | {row['tokenize']:.0f} s | "
            f"{row['seconds']:.0f} | {row['seconds_kept']:.0f} | {'yes' if row['same'] else 'NO'} |"
        )
    ratio = rows[1]["peak"] / rows[0]["peak"]
    same = killed["bytes"] == rows[1]["bytes"]
    lines += [
        "",
        f"{rows[1]['text'] / rows[0]['text']:.1f} times the text takes {ratio:.3f} times the memory. Killed by SIGKILL "
        f"after update {killed['at']} of {options.updates} and resumed, the large run ended in "
        f"{'the same bytes' if same else 'OTHER bytes'} (weights and metrics), with {killed['peak']:.3f} GB at most.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
