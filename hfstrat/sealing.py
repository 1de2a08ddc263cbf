"""The end of a run: save, load again, score what was saved, write it down."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from hfstrat.models import artifact
from hfstrat.models.anatomy import named_parameters
from hfstrat.prepare import Prepared
from hfstrat.report.card import card
from hfstrat.runs.directory import Run, write_json, write_text
from hfstrat.runs.events import Observer
from hfstrat.state import State
from hfstrat.strategies.plan import matches
from hfstrat.training import scoring
from hfstrat.training.memory import ResidentPeak


def seal(run: Run, state: State, prepared: Prepared, observer: Observer, resident: ResidentPeak) -> None:
    """Save, load again, score what was saved, and write the run's results."""
    recipe, ledger = prepared.recipe, state.ledger
    extra = {
        "task": recipe.task.kind,
        "problem": prepared.material.labels.problem,
        "max_length": recipe.task.max_length,
        "long_texts": recipe.task.long_texts,
        "stride": recipe.task.stride,
        "threshold": state.threshold,
    }
    with ledger.phase("save"):
        prepared.base.tokenizer.model_max_length = recipe.task.max_length  # a pipeline cuts where training did
        artifact.save(state.model, prepared.base.tokenizer, run.artifact, prepared.base.name, extra)
        stored, size = artifact.weights_of(run.artifact)
        model = artifact.load(run.artifact, prepared.base.location, recipe.task.auto_class)
    split = "test" if "test" in prepared.encoded else "validation" if "validation" in prepared.encoded else "train"
    data = prepared.encoded[split]
    observer.phase("test", len(data), "texts")
    with ledger.phase("evaluate") as phase:
        logits = scoring.logits(model, data, recipe.evaluate.batch_size, progress=observer.advance)
        phase.tokens += data.tokens
        decoded = state.judge.decode(logits, state.threshold)
        result = state.judge.write(run.path, split, data.ids, data.targets, decoded)
    write_json(run.path / "plan.json", plan_json(prepared, state, stored))
    ledger_json = ledger.to_json(peak_rss_bytes=resident.peak, artifact_bytes=size)
    write_json(run.path / "ledger.json", ledger_json)
    write_text(run.artifact / "README.md", card(run, resolved=json.loads(recipe.model_dump_json())))
    write_json(run.path / "status.json", {"state": "done", "reason": f"best at {state.best_at}"})
    observer.scored("sealed", split, {name: score["value"] for name, score in result["metrics"].items()})


def plan_json(prepared: Prepared, state: State, stored: int) -> dict[str, Any]:
    """`plan.json`: what was planned, and which parameters trained."""
    plan, anatomy = prepared.plan, prepared.anatomy
    sizes = {name: parameter.numel() for name, parameter in named_parameters(state.model)}
    parts = [*anatomy.embeddings, *anatomy.blocks, *anatomy.head]
    by_module: dict[str, dict[str, int]] = {}
    for name, size in sizes.items():
        part = next((part for part in parts if matches(name, (f"{part}.*",))), "other")
        counts = by_module.setdefault(part, {"total": 0, "trained": 0, "adapter": 0})
        counts["total"] += size
        counts["trained"] += size if name in state.trained else 0
        counts["adapter"] += size if name not in anatomy.parameters else 0
    return {
        "kind": prepared.recipe.strategy.kind,
        "seed": prepared.recipe.seed,
        "weights": plan.weights,
        "adapter": asdict(plan.adapter) if plan.adapter else None,
        "stages": [asdict(stage) for stage in plan.stages],
        "anatomy": {
            "backbone": anatomy.backbone,
            "embeddings": anatomy.embeddings,
            "blocks": anatomy.blocks,
            "head": anatomy.head,
            "output": anatomy.output,
        },
        "parameters": {
            "total": sum(sizes.values()),
            "trainable": sum(size for name, size in sizes.items() if name in state.trained),
            "stored": stored,
            "by_module": by_module,
        },
    }
