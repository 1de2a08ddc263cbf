"""Directories of comparisons as `hfstrat compare` leaves them, without training anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas

from hfstrat.runs.directory import Run, write_json, write_text
from hfstrat.runs.events import Observer
from hfstrat.study.compare import Comparison, _conclude
from tests.report import fake

ITEMS = 400
CLASSES = ("lost card", "top up", "transfer")
HOSTILE = "</script></style><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'&amp;"


def arm(
    root: Path,
    name: str,
    kind: str,
    accuracy: float,
    *,
    seconds: float = 60.0,
    rows: int = 1000,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    text: str = "where is my card",
) -> Run:
    """A run that is done, with predictions of which a share is right, and its log."""
    run = fake.run(root, name, kind, seconds=seconds, rows=rows, seed=seed)
    generator = np.random.default_rng([seed, len(name), int(1000 * accuracy)])
    # The same items are hard for all arms, but for some chance.
    hardness = (np.arange(ITEMS) * 0.618) % 1 + 0.1 * generator.standard_normal(ITEMS)
    right = hardness <= np.quantile(hardness, accuracy)
    true = [classes[place % 3] for place in range(ITEMS)]
    said = [one if ok else classes[(place + 1) % 3] for place, (one, ok) in enumerate(zip(true, right, strict=True))]
    texts = [f"{text} {place}" for place in range(ITEMS)]
    ids = [f"test:{place}" for place in range(ITEMS)]
    frame = pandas.DataFrame({"id": ids, "reference": true, "prediction": said, "text": texts})
    frame.to_parquet(run.path / "predictions.parquet")
    value = float(np.mean(right))
    metrics = {
        "accuracy": fake.entry(value),
        "log_loss": fake.entry(1.2 - value, 0.05, unit="nats", higher_is_better=False),
    }
    write_json(run.path / "metrics.json", {"split": "test", "n": ITEMS, "metrics": metrics})
    env = run.read("env.json") or {}
    env["labels"] = {"problem": "single_label", "names": list(classes)}
    env["requested"] = {"strategy": fake.recipe(kind)["strategy"]}
    env["git"] = {"commit": "c0ffee" + "0" * 34, "dirty": False}
    write_json(run.path / "env.json", env)
    if kind not in fake.FLOORS:
        write_log(run, value)
    return run


def write_log(run: Run, accuracy: float) -> None:
    """Three validations, with their times in the ledger."""
    lines: list[dict[str, Any]] = []
    for update in (10, 20, 30):
        lines.append({"kind": "update", "stage": "fit", "update": update, "loss": 1 / update})
        score = {"accuracy": accuracy - 0.3 / update, "log_loss": 2 / update}
        lines.append({"kind": "score", "stage": "fit", "update": update, "metrics": score, "loss": 2 / update})
    write_text(run.path / "log.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_json(run.path / "ledger.json", {**run.ledger, "seconds_at_scores": [5.0, 30.0, 55.0]})


def conclude(root: Path, runs: Sequence[Run], **asked: Any) -> Path:
    """Write the comparison's own files, but for the picture, which takes the longest."""
    with mock.patch.object(Comparison, "plot", return_value=None):
        _conclude(root, {"runs": [run.name for run in runs], **asked}, Observer())
    return root


def usual(root: Path) -> Path:
    """Floors, strategies over two seeds, on two amounts of data, and two arms that failed."""
    runs = [
        arm(root, "majority", "majority", 0.34, seconds=1),
        arm(root, "tfidf", "tfidf", 0.7, seconds=3),
        *(arm(root, f"head-seed{seed}", "head", 0.8, seconds=20, seed=seed) for seed in (0, 1)),
        *(arm(root, f"lora-seed{seed}", "lora", 0.9, seconds=300, seed=seed) for seed in (0, 1)),
        *(arm(root, f"head-all-seed{seed}", "head", 0.97, seconds=90, rows=9000, seed=seed) for seed in (0, 1)),
        arm(root, "lora-all-seed0", "lora", 0.85, seconds=2000, rows=9000),
        fake.run(root, "full-seed0", "full", state="oom", reason="killed by signal 9"),
        fake.run(root, "partial-seed0", "partial", state="diverged", reason="the loss is not finite\nat update 7"),
    ]
    return conclude(root, runs)


def hostile(root: Path) -> Path:
    """Names, classes, texts, reasons and metrics that would be markup."""
    name = HOSTILE.replace("/", "\u2215")  # a folder's name has no slash
    runs = [
        arm(root, f"{name}-seed0", "head", 0.8, classes=[f"{HOSTILE}{one}" for one in CLASSES], text=HOSTILE),
        arm(root, "plain-seed0", "lora", 0.9, classes=[f"{HOSTILE}{one}" for one in CLASSES], text=HOSTILE),
        fake.run(root, "full-seed0", HOSTILE, state="failed", reason=HOSTILE),
    ]
    for run in runs[:2]:
        scores = run.metrics
        scores["metrics"][HOSTILE] = fake.entry(0.5)
        write_json(run.path / "metrics.json", scores)
        write_text(run.path / "recipe.yaml", f"{run.recipe()}# {HOSTILE}\n")
        write_json(run.path / "env.json", {**(run.read("env.json") or {}), "platform": HOSTILE})
    return conclude(root, runs)


def copied(folder: Path, target: Path) -> Path:
    """A comparison on another machine."""
    shutil.copytree(folder, target)
    return target
