"""Run directories as a finished run leaves them, without training anything."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from hfstrat.report.display import Run
from hfstrat.runs.directory import write_json, write_text
from hfstrat.strategies.plan import Fit, Solve

BLOCKS = 3
BLOCK, EMBEDDINGS, HEAD, ADAPTER = 1_774_464, 11_720_448, 29_645, 61_440
FLOORS = ("majority", "tfidf")


def entry(value: float, half: float = 0.01, **other: Any) -> dict[str, Any]:
    """One metric as it stands in metrics.json."""
    return {
        "value": value, "low": value - half, "high": value + half, "interval": "wilson",
        "unit": "fraction", "higher_is_better": True, **other,
    }  # fmt: skip


def plan(kind: str, *, seed: int = 0, blocks: int = BLOCKS) -> dict[str, Any]:
    """plan.json of a floor, or of a strategy on a model with some blocks."""
    if kind in FLOORS:
        return {
            "kind": kind,
            "seed": None,
            "weights": None,
            "adapter": None,
            "stages": [],
            "anatomy": None,
            "parameters": None,
        }
    paths = [f"bert.encoder.layer.{place}" for place in range(blocks)]
    added = ADAPTER if kind == "lora" else 0
    trained = {"lora": ADAPTER, "full": BLOCK}.get(kind, 0)
    modules = {
        "bert.embeddings.word_embeddings": _part(EMBEDDINGS, EMBEDDINGS if kind == "full" else 0),
        **{path: _part(BLOCK + added, trained, added) for path in paths},
        "classifier": _part(HEAD, HEAD),
    }
    total = sum(part["total"] for part in modules.values())
    trainable = sum(part["trained"] for part in modules.values())
    fit = () if kind == "head" else (Fit("fit", ("*",)),)
    return {
        "kind": kind,
        "seed": seed,
        "weights": "pretrained",
        "adapter": {"method": "LORA", "options": {"r": 16}, "modules_to_save": ["classifier"]} if added else None,
        "stages": [asdict(stage) for stage in (Solve("probe", "classifier", (0.1, 0.01)), *fit)],
        "anatomy": {
            "backbone": "bert",
            "embeddings": ["bert.embeddings.word_embeddings"],
            "blocks": paths,
            "head": ["classifier"],
            "output": "classifier",
        },
        "parameters": {
            "total": total,
            "trainable": trainable,
            "stored": trainable if added else total,
            "by_module": modules,
        },
    }


def _part(total: int, trained: int, adapter: int = 0) -> dict[str, int]:
    return {"total": total, "trained": trained, "adapter": adapter}


def recipe(kind: str, **changes: Any) -> dict[str, Any]:
    """A resolved recipe as plain data, with sections changed as in `task={"problem": "regression"}`."""
    data: dict[str, Any] = {
        "name": kind,
        "seed": 0,
        "model": {"base": "someone/tiny-bert", "revision": None, "published_as": None},
        "task": {
            "kind": "text_classification", "problem": "single_label", "max_length": 64,
            "long_texts": "truncate", "stride": 32, "pooling": "mean",
        },
        "data": {"kind": "files", "source": "banking77/train.csv", "columns": {"text": "text", "label": "category"}},
        "strategy": {"kind": kind, **({"r": 16, "variant": "lora"} if kind == "lora" else {})},
        "train": {
            "epochs": 4.0, "batch_size": 32, "lr": 1e-3, "schedule": "linear", "warmup": 0.1, "weight_decay": 0.0,
            "clip": 1.0, "precision": "bf16", "optimizer": {"kind": "adamw"}, "label_smoothing": 0.0,
        },
        "evaluate": {"metrics": ["accuracy", "f1_macro"], "select_by": "accuracy"},
    }  # fmt: skip
    for section, fields in changes.items():
        data[section] = {**data[section], **fields}
    return data


def run(
    root: Path,
    name: str,
    kind: str,
    *,
    accuracy: float = 0.9,
    seconds: float = 60.0,
    rows: int = 1000,
    seed: int = 0,
    state: str = "done",
    reason: str | None = None,
    blocks: int = BLOCKS,
    metrics: dict[str, Any] | None = None,
) -> Run:
    """Write a run directory; one that did not end well has neither metrics nor a whole ledger."""
    folder = root / name
    folder.mkdir(parents=True)
    write_json(folder / "plan.json", plan(kind, seed=seed, blocks=blocks))
    write_json(folder / "env.json", _env(rows))
    write_text(folder / "recipe.yaml", yaml.safe_dump(recipe(kind)))
    write_json(folder / "status.json", {"state": state, "reason": reason})
    if state == "done":
        scores = metrics or {"accuracy": entry(accuracy), "f1_macro": entry(accuracy - 0.02, interval="bootstrap")}
        write_json(folder / "metrics.json", {"split": "test", "n": 3080, "metrics": scores})
        write_json(folder / "ledger.json", _ledger(kind, seconds))
    return Run(folder)


def _env(rows: int) -> dict[str, Any]:
    return {
        "versions": {"hfstrat": "0.1.0", "transformers": "5.23.0", "peft": "0.21.2"},
        "python": "3.11.7",
        "platform": "Linux",
        "device": "cpu",
        "processes": 1,
        "threads": 2,
        "git": None,
        "model": {"name": "someone/tiny-bert", "fingerprint": "0" * 40},
        "data": {
            "origin": "banking77/train.csv",
            "fingerprint": "f" * 64,
            "rows": {"train": rows, "validation": 100, "test": 3080},
        },
        "labels": {"problem": "single_label", "names": ["card lost", "top|up", "transfer"]},
        "request": "d" * 64,
    }


def _ledger(kind: str, seconds: float) -> dict[str, Any]:
    floor = kind in FLOORS
    return {
        "phases": {"load": {"seconds": 0.1 * seconds}, "train": {"seconds": 0.9 * seconds}},
        "seconds": seconds,
        "peak_live_bytes": None if floor else 300 * 2**20,
        "peak_rss_bytes": None if floor else 900 * 2**20,
        "artifact_bytes": None if floor else 2**21,
    }
