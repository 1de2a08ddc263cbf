"""Adapters become whole models: put into their base, alone or several weighted, and held to what was said before.

A base that is stored in 4 or 8 bits is turned into fp32 first: merged into so few bits, small updates are rounded away.
What is compared is what was written, loaded again.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from hfstrat.errors import ModelError, Problem, RunError, UsageError
from hfstrat.inference import Predictor, finished
from hfstrat.models import artifact
from hfstrat.models.adapters import unwarned
from hfstrat.models.base import under_adapter
from hfstrat.outputs import COARSE_TOLERANCE, TOLERANCE, apart
from hfstrat.report.card import card
from hfstrat.runs.directory import Run, check_own, clear, locked, vacate, write_json, write_text
from hfstrat.runs.events import Observer
from hfstrat.sealing import write_digests

Dtype = Literal["fp32", "bf16"]
How = Literal["cat", "linear", "ties", "dare_linear", "dare_ties"]
COPIED = ("recipe.yaml", "decisions.json", "audit.json", "env.json", "log.jsonl")


@dataclass(frozen=True)
class Merged:
    """A merged model.

    Args:
        run: Its run directory.
        difference: Largest difference of an output on the test split, by the largest output; None of several adapters,
            which no model was before.
        tolerance: What it may be.
        before: Metrics of each run that was merged, on that split.
        after: Metrics of the merged model.
    """

    run: Run
    difference: float | None
    tolerance: float | None
    before: dict[str, dict[str, Any]]
    after: dict[str, Any]


def merge(
    runs: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    dtype: Dtype = "fp32",
    weights: Sequence[float] | None = None,
    how: How = "cat",
    density: float = 0.5,
    tolerance: float | None = None,
    overwrite: bool = False,
    memory: Any = None,
    observer: Observer | None = None,
) -> Merged:
    """Merge the adapter of a run into its base, or those of several runs; the result is a run of its own.

    Args:
        runs: Finished runs whose artefacts are adapters; of several the base and the labels have to be the same.
        output: The new run's directory; None: beside the first run, its name with `-merged`.
        dtype: How the weights are written.
        weights: Of each of several adapters; None: equal shares.
        how: How several are combined, by PEFT's names: the weighted sum of what they change (`cat`), of their matrices
            (`linear`), TIES (Yadav et al. 2023, arXiv:2306.01708), or with a random part dropped (DARE, Yu et al. 2023,
            arXiv:2311.03099). Their heads are averaged.
        density: Share of each adapter's values that TIES and DARE keep.
        tolerance: Largest difference of an output by the largest output; None: 0.001, and 0.05 where bits are few.
        overwrite: Whether a run that is there is replaced.
        memory: The data that a run with `data.source: memory` was trained on.
        observer: Hears progress.

    Raises:
        UsageError: There is nothing to merge, or not with each other.
        RunError: The merged model does not say what the adapter said; nothing is left of it.
    """
    observer = observer or Observer()
    found = [finished(run) for run in runs]
    _check(found, weights)
    place = Path(output) if output is not None else found[0].path.with_name(f"{found[0].name}-merged")
    if place.resolve() in {run.path.resolve() for run in found}:
        raise UsageError(Problem(f"{place} is merged, and cannot be where that goes", hint="Name another --output"))
    if not check_own(place, "Name another --output") and not overwrite:
        raise UsageError(Problem(f"{place} holds another run", hint="Name another --output, or add --overwrite"))
    first = Predictor.of(found[0].path)
    examples, split = first.labelled(None, memory)
    observer.phase("as it was", len(examples), "examples")
    before, seen = first.outputs(examples)
    observer.advance(len(examples))
    scored = {found[0].name: _metrics(first, split, seen, before)}
    for run in found[1:]:
        other = Predictor.of(run.path)
        scored[run.name] = _metrics(other, split, *reversed(other.outputs(examples)))
    model = _merged(found, first, weights, how, density)
    storage = _settings(found[0]).get("storage")
    if tolerance is None:
        tolerance = COARSE_TOLERANCE if storage is not None or dtype == "bf16" else TOLERANCE
    with locked(place):
        clear(place)
        try:
            after = _write(place, found, first, model, dtype)
            observer.phase("as it is", len(examples), "examples")
            now, seen = after.outputs(examples)
            observer.advance(len(examples))
            difference = _difference(before, now) if len(found) == 1 else None
            if difference is not None and not difference <= tolerance:
                raise RunError(
                    f"the merged model differs from the adapter by {difference:.2g} of its largest output, more than "
                    f"{tolerance:.2g}: nothing was written. Use --dtype fp32, or a larger --tolerance"
                )
            result = after.judge.write(place, split, seen, after.judge.decode(now, after.threshold))
        except BaseException:
            vacate(place)
            raise
        how_merged: dict[str, Any] = {
            "from": [run.name for run in found],
            "dtype": dtype,
            **({} if len(found) == 1 else {"how": how, "weights": _shares(found, weights), "density": density}),
            "difference": difference,
            "tolerance": tolerance if difference is not None else None,
            "before": scored,
        }
        _conclude(place, found[0], first, how_merged)
    return Merged(Run(place), difference, how_merged["tolerance"], scored, result["metrics"])


def _check(found: Sequence[Run], weights: Sequence[float] | None) -> None:
    """Raise where there is nothing to merge, or not with each other."""
    problems = [
        Problem(f"{run.path} holds a whole model: there is nothing to merge")
        for run in found
        if not artifact.case_of(run.artifact).endswith("adapter")
    ]
    if problems:
        raise UsageError(problems)
    if weights is not None and (len(weights) != len(found) or len(found) == 1 or sum(weights) == 0):
        problems.append(Problem("weights are of several runs, one each, and do not add up to nothing"))
    if len({run.name for run in found}) < len(found):
        problems.append(Problem("the runs have one name", hint="Rename their directories"))
    first, *others = found
    for run in others:
        same = ("base_model_name_or_path", "peft_type")
        here, there = (json.loads((one.artifact / "adapter_config.json").read_text("utf-8")) for one in (run, first))
        problems += [
            Problem(f"{name} is {here[name]} in {run.path} and {there[name]} in {first.path}")
            for name in same
            if here[name] != there[name]
        ]
        if here["peft_type"] != "LORA":
            problems.append(Problem(f"{run.path} is no LoRA: only those are combined"))
        labels, known = ((one.read("env.json") or {}).get("labels", {}) for one in (run, first))
        if labels.get("names") != known.get("names") or labels.get("problem") != known.get("problem"):
            problems.append(Problem(f"{run.path} has other labels than {first.path}"))
    if problems:
        raise UsageError(problems)


def _shares(found: Sequence[Run], weights: Sequence[float] | None) -> list[float]:
    return list(weights) if weights is not None else [1.0 / len(found)] * len(found)


def _settings(run: Run) -> dict[str, Any]:
    """What hfstrat wrote into the artefact's configuration."""
    config = json.loads((run.artifact / "config.json").read_text("utf-8"))
    found: dict[str, Any] = config.get("hfstrat") or {}
    return found


def _merged(
    found: Sequence[Run], first: Predictor, weights: Sequence[float] | None, how: How, density: float
) -> nn.Module:
    """The base in fp32 with the adapters in it."""
    base, revision = under_adapter(found[0].artifact)
    hub = {"trust_remote_code": first.recipe.model.trust_remote_code, **revision}
    task = first.recipe.task.auto_class
    model: Any = artifact.load(found[0].artifact, base, task, hub, dequantize=True)
    if len(found) == 1:
        return merged_in(model)
    return merged_in(model, lambda: _combine(model, found, _shares(found, weights), how, density))


def merged_in(model: Any, before: Callable[[], None] | None = None) -> nn.Module:
    """The base of an adapted model with its adapter in it.

    Args:
        model: The model of PEFT, its base in fp32.
        before: Makes one adapter of several, and switches to it.

    Raises:
        ModelError: An adapter of this kind cannot be merged.
    """
    method = next(iter(model.peft_config.values())).peft_type.value
    try:
        if before is not None:
            before()
        with unwarned():
            merged: nn.Module = model.merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError, TypeError) as error:
        said = " ".join(str(error).split())
        hint = "Adapters that are read beside the text stay what they are" if "attribute" in said else ""
        raise ModelError(Problem(f"{method} cannot be merged: {said}", hint=hint)) from error
    return merged.eval()


def _combine(model: Any, found: Sequence[Run], weights: list[float], how: How, density: float) -> None:
    """Make one adapter of several, with the weighted mean of the heads that each brings, and switch to it."""
    names = [model.active_adapter]
    for place, run in enumerate(found[1:], 1):
        names.append(f"other{place}")
        with unwarned():
            model.load_adapter(str(run.artifact), names[-1])
    total, heads = sum(weights), []
    for module in model.modules():
        kept = getattr(module, "modules_to_save", None)
        if isinstance(kept, nn.ModuleDict):
            heads.append((kept, _mean([kept[name] for name in names], [weight / total for weight in weights])))
            for name in names[1:]:  # PEFT combines no adapters that bring a head each
                del kept[name]
    keeps = {"density": density} if how.startswith(("ties", "dare")) else {}
    torch.manual_seed(0)  # what DARE drops
    model.add_weighted_adapter(names, weights, "merged", combination_type=how, **keeps)
    for kept, mean in heads:
        kept["merged"] = mean
    model.set_adapter("merged")


def _mean(modules: Sequence[nn.Module], shares: Sequence[float]) -> nn.Module:
    """A module with the weighted mean of the parameters of several of one shape."""
    mean = copy.deepcopy(modules[0])
    parts = [dict(module.named_parameters()) for module in modules]
    with torch.no_grad():
        for name, parameter in mean.named_parameters():
            weighted = [share * part[name] for share, part in zip(shares, parts, strict=True)]
            parameter.copy_(torch.stack(weighted).sum(0))
    return mean


def _write(place: Path, found: Sequence[Run], first: Predictor, model: nn.Module, dtype: Dtype) -> Predictor:
    """Write the merged model and what is known of it, and load it again."""
    for name in COPIED:
        if (found[0].path / name).is_file():
            shutil.copy(found[0].path / name, place / name)
    source = found[0].artifact
    extra = {**_settings(found[0]), "storage": None}
    name = json.loads((source / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
    model.to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    artifact.save(model, first.processor, place / "artifact", name, extra)
    for file in source.iterdir():  # how it writes, and code of its own
        kept = file.suffix in (".json", ".py", ".jinja") and file.name != "adapter_config.json"
        if kept and not (place / "artifact" / file.name).exists():
            shutil.copy(file, place / "artifact" / file.name)
    write_json(place / "status.json", {"state": "done", "reason": "merged"})
    return Predictor.of(place)


def _metrics(predictor: Predictor, split: str, seen: Any, outputs: Any) -> dict[str, Any]:
    judge = predictor.judge
    measured = judge.measure(judge.decode(outputs, predictor.threshold), seen, intervals=True)
    found: dict[str, Any] = judge.metrics_json(split, len(seen), measured)["metrics"]
    return found


def _difference(before: Any, now: Any) -> float:
    """Largest difference of outputs, by the largest of them."""
    ours, theirs = (np.asarray(getattr(one, "sums", one), np.float64) for one in (before, now))
    return apart(torch.from_numpy(ours), torch.from_numpy(theirs))


def _conclude(place: Path, source: Run, predictor: Predictor, how: dict[str, Any]) -> None:
    """The files that say what the merged model is."""
    stored, size = artifact.weights_of(place / "artifact")
    plan = source.read("plan.json") or {}
    write_json(place / "plan.json", {**plan, "adapter": None, "parameters": {**plan["parameters"], "stored": stored}})
    write_json(place / "ledger.json", {**source.ledger, "artifact_bytes": size})
    write_json(place / "merge.json", how)
    write_text(
        place / "artifact" / "README.md", card(Run(place), resolved=json.loads(predictor.recipe.model_dump_json()))
    )
    write_digests(place)
    reason = f"merged from {', '.join(how['from'])}"
    write_json(place / "status.json", {"state": "done", "reason": reason})
