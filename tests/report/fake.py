"""Run directories as a finished run leaves them, without training anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from hfstrat.report.display import Run
from hfstrat.runs.directory import write_json, write_text
from hfstrat.strategies.plan import Distillation, Fit, Group, Quantization, Solve

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
    """plan.json of a floor, or of a strategy on a model with some blocks, as the first version wrote it."""
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


Sections = Mapping[str, Mapping[str, int]]


def bert(blocks: int = 12) -> Sections:
    """Parts of a small BERT with a pooler, by section, each with its size."""
    return {
        "embeddings": {
            "bert.embeddings.word_embeddings": EMBEDDINGS,
            "bert.embeddings.position_embeddings": 196_608,
            "bert.embeddings.token_type_embeddings": 768,
        },
        "other": {"other": 768},
        "blocks": {f"bert.encoder.layer.{place}": BLOCK for place in range(blocks)},
        "above": {"bert.pooler": 147_840},
        "head": {"classifier": HEAD},
    }


def t5(blocks: int = 12) -> Sections:
    """Parts of a T5 whose first blocks have the relative positions of their stack."""
    stacks = {"encoder": 7_079_424, "decoder": 9_439_488}
    return {
        "embeddings": {"transformer.shared": 24_674_304},
        "other": {},
        "blocks": {
            f"transformer.{side}.block.{place}": size + (384 if place == 0 else 0)
            for side, size in stacks.items()
            for place in range(blocks)
        },
        "above": {"transformer.decoder.final_layer_norm": 768},
        "head": {"classification_head.dense": 590_592, "classification_head.out_proj": 2_307},
    }


def paths(sections: Sections) -> list[str]:
    """All parts."""
    return [path for section in sections.values() for path in section]


def planned(
    kind: str,
    sections: Sections,
    trains: Mapping[str, Collection[str]],
    *,
    fresh: Collection[str] = (),
    added: int = 0,
    groups: Sequence[Group] = (Group("all", ("*",)),),
    probe: bool = True,
    **entries: Any,
) -> dict[str, Any]:
    """plan.json before a run.

    Args:
        kind: The strategy.
        sections: Parts by section, each with its size.
        trains: Parts that train as a whole in each Fit stage.
        fresh: Parts that start from random numbers.
        added: Parameters that an adapter adds to each block; they train in all stages.
        groups: Learning-rate groups of all stages.
        probe: Whether the head is solved first.
        entries: Other entries.
    """
    own = {path: size for section in sections.values() for path, size in section.items()}
    adapter = {path: added if path in sections["blocks"] else 0 for path in own}
    head = [*sections["head"]][-1]
    counts = {
        name: {
            path: adapter[path] + (own[path] if path in parts else 0) for path in own if path in parts or adapter[path]
        }
        for name, parts in trains.items()
    }
    stages = [
        Fit(name, tuple(f"{part}.*" for part in parts), tuple(groups), 1 / len(trains))
        for name, parts in trains.items()
    ]
    trained = {path: max(count.get(path, 0) for count in ({head: own[head]}, *counts.values())) for path in own}
    by_module = {
        path: {
            "total": size + adapter[path],
            "trained": trained[path],
            "adapter": adapter[path],
            "fresh": size if path in fresh else 0,
        }
        for path, size in own.items()
    }
    solve = [{**asdict(Solve("probe", head, (0.1, 0.01))), "trained": {head: own[head]}}] if probe else []
    anatomy = {name: [*parts] for name, parts in sections.items() if name != "other"}
    return {
        "kind": kind,
        "seed": 0,
        "weights": "pretrained",
        "adapter": None,
        "storage": None,
        "distillation": None,
        "stages": [*solve, *({**asdict(stage), "trained": counts[stage.name]} for stage in stages)],
        "anatomy": {"backbone": next(iter(own)).split(".")[0], **anatomy, "output": head},
        "parameters": {
            "total": sum(part["total"] for part in by_module.values()),
            "trainable": sum(trained.values()),
            "by_module": by_module,
        },
        **entries,
    }


def plans() -> dict[str, dict[str, Any]]:
    """plan.json of each strategy, before a run."""
    small, medium, large, both = bert(6), bert(12), bert(24), t5()
    blocks, large_blocks = [*medium["blocks"]], [*large["blocks"]]
    every = paths(small)
    above = [*medium["above"], *medium["head"]]
    decayed = [
        Group("head", ("classifier.*", "bert.pooler.*")),
        *(Group(path, (f"{path}.*",), 0.9**depth) for depth, path in enumerate(reversed(blocks), 1)),
        Group("below", ("*",), 0.9**13),
    ]
    new = ("classifier",)
    lora: dict[str, Any] = {"method": "LORA", "options": {"r": 16}, "modules_to_save": new}
    ia3 = {"method": "IA3", "options": {}, "modules_to_save": new}
    tops = {f"top-{n}": [*blocks[-n:], *above] for n in (1, 2, 3)}
    return {
        "scratch": planned("scratch", small, {"fit": every}, fresh=every, probe=False, weights="random"),
        "head": planned("head", medium, {}, fresh=new),
        "partial": planned("partial", medium, {"fit": [*blocks[-4:], *above]}, fresh=new, groups=decayed),
        "gradual": planned("partial", medium, tops, fresh=new, groups=decayed),
        "full": planned("full", medium, {"fit": paths(medium)}, probe=False),
        "lora": planned("lora", large, {"fit": new}, fresh=new, added=ADAPTER, adapter=lora),
        "qlora": planned(
            "qlora", large, {"fit": new}, fresh=new, added=ADAPTER, adapter=lora, storage=asdict(Quantization(4))
        ),
        "ia3": planned("peft", medium, {"fit": new}, fresh=new, added=1_536, adapter=ia3),
        "distill": planned(
            "distill", small, {"fit": every}, probe=False, distillation=asdict(Distillation("runs/full", 2.0, 0.9))
        ),
        "t5": planned("full", both, {"fit": paths(both)}, fresh=both["head"]),
        "layerwise": planned(
            "full",
            large,
            {"fit": [*large["embeddings"], *large_blocks, *large["head"]]},
            fresh=new,
            groups=[
                *(Group(path, (f"{path}.*",), 0.9 ** (24 - place)) for place, path in enumerate(large_blocks)),
                Group("all", ("*",)),
            ],
        ),
    }


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
        "phases": {
            "load": {"seconds": 0.1 * seconds},
            "train": {"seconds": 0.9 * seconds, **({} if floor else {"flops": 1e12 * seconds})},
        },
        "seconds": seconds,
        "peak_live_bytes": None if floor else 300 * 2**20,
        "peak_rss_bytes": None if floor else 900 * 2**20,
        "artifact_bytes": None if floor else 2**21,
    }
