"""Row: one run, flattened to what a table of runs shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hfstrat.runs.directory import Run, State

COMPUTING = ("teacher", "cache", "solve", "train", "evaluate")
"""Phases in which a model computes."""


@dataclass(frozen=True)
class Row:
    """One line of a comparison. What was not measured is None.

    Args:
        name: The run's name.
        kind: Strategy or floor.
        seed: The run's seed; None for floors, which have none.
        state: `done`, or how it ended.
        reason: Why it ended so.
        train_rows: Training examples.
        test_rows: Test examples.
        metrics: Each metric's value, low and high, and the kind of interval.
        seconds: Wall time of the whole run.
        training_seconds: Wall time of solve and train alone.
        flops: Floating-point operations of all that its model computed, a product with a sum counted as two.
        peak_live_bytes: Most bytes of tensors alive at once.
        peak_rss_bytes: Most anonymous resident memory.
        trainable_parameters: Parameters that trained in any stage.
        stored_parameters: Parameters in the artefact.
        architecture: Which ones its strategy can have: `any`, `fewer blocks` or `the base's`; None of floors.
        artifact_bytes: Size of the artefact's weights.
    """

    name: str
    kind: str
    seed: int | None
    state: State | None
    reason: str | None
    train_rows: int | None
    test_rows: int | None
    metrics: Mapping[str, Mapping[str, Any]]
    seconds: float | None
    training_seconds: float | None
    flops: float | None
    peak_live_bytes: int | None
    peak_rss_bytes: int | None
    trainable_parameters: int | None
    stored_parameters: int | None
    architecture: str | None
    artifact_bytes: int | None

    @classmethod
    def of(cls, run: Run) -> Row:
        """Flatten a run directory."""
        plan, ledger, env = run.read("plan.json") or {}, run.ledger, run.read("env.json") or {}
        status = run.read("status.json") or {}
        phases = ledger.get("phases", {})
        training = [phases[name]["seconds"] for name in ("solve", "train") if name in phases]
        return cls(
            name=run.name,
            kind=plan.get("kind", "?"),
            seed=plan.get("seed"),
            state=status.get("state"),
            reason=status.get("reason"),
            train_rows=(env.get("data") or {}).get("rows", {}).get("train"),
            test_rows=run.metrics.get("n"),
            metrics=run.metrics.get("metrics", {}),
            seconds=ledger.get("seconds"),
            training_seconds=sum(training) if training else None,
            flops=_flops(phases),
            peak_live_bytes=ledger.get("peak_live_bytes"),
            peak_rss_bytes=ledger.get("peak_rss_bytes"),
            trainable_parameters=(plan.get("parameters") or {}).get("trainable"),
            stored_parameters=(plan.get("parameters") or {}).get("stored"),
            architecture=_architecture(plan),
            artifact_bytes=ledger.get("artifact_bytes"),
        )


def _flops(phases: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Those of all phases, if each that has some counted them."""
    found = [phases[name] for name in COMPUTING if name in phases]
    return sum(phase["flops"] for phase in found) if found and all("flops" in phase for phase in found) else None


def _architecture(plan: Mapping[str, Any]) -> str | None:
    if plan.get("weights") is None:
        return None
    if plan["weights"] == "random":
        return "any"
    return "fewer blocks" if plan.get("distillation") else "the base's"
