"""What a plan makes of a model, as plain data: `plan.json`, which `show` draws before a run and after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hfstrat.prepare import Prepared
from hfstrat.strategies.plan import Anatomy


def outline(prepared: Prepared) -> dict[str, Any]:
    """The content of `plan.json` but for what is stored, which is known after a run."""
    plan, anatomy, added = prepared.plan, prepared.anatomy, prepared.added
    sizes = {**anatomy.parameters, **added.sizes}
    by_stage = [{name for name in sizes if plan.trains(name, stage, added.trains)} for stage in plan.stages]
    trained = set().union(*by_stage)
    parts = parts_of(anatomy)
    homes = {name: part_of(name, parts) for name in sizes}
    fresh = {*anatomy.fresh}
    by_module: dict[str, dict[str, int]] = {}
    for name, size in sizes.items():
        counts = by_module.setdefault(homes[name], {"total": 0, "trained": 0, "adapter": 0, "fresh": 0})
        counts["total"] += size
        counts["trained"] += size if name in trained else 0
        counts["adapter"] += size if name in added.sizes else 0
        counts["fresh"] += size if name in fresh else 0
    return {
        "kind": prepared.recipe.strategy.kind,
        "seed": prepared.recipe.seed,
        "weights": plan.body.weights,
        "adapter": asdict(plan.adapter) if plan.adapter else None,
        "storage": asdict(plan.body.storage) if plan.body.storage else None,
        "distillation": asdict(plan.distillation) if plan.distillation else None,
        "stages": [
            {**asdict(stage), "trained": _counts(names, homes, sizes), "frozen_blocks": anatomy.frozen_blocks(names)}
            for stage, names in zip(plan.stages, by_stage, strict=True)
        ],
        "anatomy": {
            "backbone": anatomy.backbone,
            "embeddings": anatomy.embeddings,
            "blocks": anatomy.blocks,
            "above": anatomy.above,
            "head": anatomy.head,
            "output": anatomy.output,
        },
        "parameters": {
            "total": sum(sizes.values()),
            "trainable": sum(sizes[name] for name in trained),
            "by_module": by_module,
        },
    }


def parts_of(anatomy: Anatomy) -> tuple[str, ...]:
    """Modules that a drawing shows, what lies inside another one first."""
    return (*anatomy.head, *anatomy.embeddings, *anatomy.above, *anatomy.blocks)


def part_of(name: str, parts: tuple[str, ...]) -> str:
    """The part that a parameter belongs to."""
    return next((part for part in parts if name.startswith(f"{part}.")), "other")


def _counts(names: set[str], homes: Mapping[str, str], sizes: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in sorted(names):
        found[homes[name]] = found.get(homes[name], 0) + sizes[name]
    return found
