"""The end of a run: save, load again, score what was saved, write it down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hfstrat.errors import RunError
from hfstrat.generating import gallery, settings
from hfstrat.models import artifact
from hfstrat.models.quantize import to_json
from hfstrat.outline import outline
from hfstrat.outputs import COARSE_TOLERANCE, COMPARED, TOLERANCE, apart, counted, outputs_of, said_of_some
from hfstrat.prepare import Prepared
from hfstrat.report.card import card
from hfstrat.report.gallery import GALLERY, write_gallery
from hfstrat.report.samples import SAMPLES, continuations, samples
from hfstrat.runs.directory import DIGESTS, Run, write_json, write_text
from hfstrat.runs.events import Observer
from hfstrat.showing import tiles_of
from hfstrat.state import State
from hfstrat.tasks import CausalLM, Seq2Seq, TextsSpec
from hfstrat.tasks.language import LanguageSpec
from hfstrat.training.arithmetic import Meter
from hfstrat.training.checkpoint import digest, flush
from hfstrat.training.memory import ResidentPeak

RECORDS = (
    "recipe.yaml",
    "decisions.json",
    "audit.json",
    "env.json",
    "plan.json",
    "log.jsonl",
    "metrics.json",
    "predictions.parquet",
    "ledger.json",
)
"""Files of a run beside its artefact that never change once it is done."""


def seal(run: Run, state: State, prepared: Prepared, observer: Observer, resident: ResidentPeak) -> None:
    """Save, load again, score what was saved, and write the run's results."""
    recipe, ledger, storage = prepared.recipe, state.ledger, prepared.plan.body.storage
    anatomy, processor = prepared.anatomy, prepared.base.processor
    extra = {
        "task": recipe.task.kind,
        "problem": prepared.material.labels.problem,
        **_of_texts(prepared),
        "threshold": state.threshold,
        "limit": prepared.base.max_length,
        # A body that went on learning language is still pooled as its base is.
        "pooling": [prepared.base.pooling, prepared.base.normalize] if recipe.task.of_vocabulary else None,
        "vocabulary": _vocabulary(prepared),
        "storage": storage and to_json(storage, anatomy.whole, recipe.train.precision),
    }
    with ledger.phase("save"):
        if isinstance(recipe.task, TextsSpec):  # a pipeline cuts where training did
            prepared.base.known_tokenizer.model_max_length = int(recipe.task.max_length)
        artifact.save(state.model, processor, run.artifact, _name(prepared), extra)
        if isinstance(recipe.task, (CausalLM, Seq2Seq)):
            chat = "messages" in recipe.data.columns
            settings(state.model, prepared.base.known_tokenizer, recipe.task.generation, chat=chat).save_pretrained(
                run.artifact
            )
        stored, size = artifact.weights_of(run.artifact)
        split = "test" if "test" in prepared.encoded else "validation" if "validation" in prepared.encoded else "train"
        data = prepared.encoded[split]
        if recipe.train.hold_bf16:  # compared in fp32, in which it is saved and loaded
            state.model.float()
        before = said_of_some(state.placed(), data, recipe)
        model = artifact.load(run.artifact, prepared.base.location, recipe.task.auto_class, prepared.base.hub)
        if storage is None:  # what is quantised lies where it was loaded
            state.model.to("cpu")
            model = model.to(state.accelerator.device)
        reproduced = {
            "examples": min(COMPARED, len(data)),
            "difference": apart(before, said_of_some(model, data, recipe)),
        }
    tolerance = TOLERANCE if storage is None else COARSE_TOLERANCE
    if not reproduced["difference"] <= tolerance and not recipe.train.hold_bf16:
        raise RunError(
            f"what was saved does not say what was trained: outputs differ by {reproduced['difference']:.2g} of the "
            f"largest one; the run's checkpoints are kept, and {run.artifact} can be looked at"
        )
    observer.phase("test", len(data), "texts")
    with ledger.phase("evaluate") as phase:
        meter = Meter()
        with counted(meter, phase, state.judge):
            found = outputs_of(model, data, state.judge, recipe, processor, progress=observer.advance, meter=meter)
        phase.tokens += data.tokens
        decoded = state.judge.decode(found, state.threshold)
        result = {**state.judge.write(run.path, split, data.examples, decoded), "reproduced": reproduced}
        write_json(run.path / "metrics.json", result)
        shown = samples(run)
        if isinstance(recipe.task, LanguageSpec):
            own = gallery(recipe.task, model, prepared.base.known_tokenizer, data)
            shown = continuations([(one.given, one.true, one.said) for one in own])
    if shown:
        write_text(run.path / SAMPLES, shown)
    if tiles := tiles_of(recipe.task, prepared.material.labels, data.examples, decoded):
        write_gallery(run.path / GALLERY, tiles)
    plan = outline(prepared)
    plan["parameters"]["stored"] = stored
    write_json(run.path / "plan.json", plan)
    ledger_json = ledger.to_json(peak_rss_bytes=resident.peak, artifact_bytes=size)
    write_json(run.path / "ledger.json", ledger_json)
    write_text(run.artifact / "README.md", card(run, resolved=json.loads(recipe.model_dump_json())))
    write_digests(run.path)
    for path in (run.path, *run.path.rglob("*")):
        flush(path)  # when it is said to be done its checkpoints go, and nothing else may be missing
    reason = f"best at {state.best_at}"
    write_json(run.path / "status.json", {"state": "done", "reason": reason, "exact": state.exact})
    observer.scored("sealed", split, {name: score["value"] for name, score in result["metrics"].items()})


def _vocabulary(prepared: Prepared) -> dict[str, Any] | None:
    """What an adapter's base lacks, for whoever loads it."""
    grown = prepared.base.grown
    return grown.to_json() if grown is not None and prepared.plan.adapter is not None else None


def _of_texts(prepared: Prepared) -> dict[str, Any]:
    """How texts become tokens, for whoever uses the model without hfstrat."""
    task = prepared.recipe.task
    if not isinstance(task, TextsSpec):
        return {}
    room = int(task.max_length) - prepared.base.known_tokenizer.num_special_tokens_to_add()
    return {
        "max_length": task.max_length,
        "long_texts": "windows" if task.in_windows else "truncate",
        "stride": min(task.stride, room // 2),
    }


def write_digests(folder: Path) -> None:
    """Write down the SHA-256 of everything that a finished run holds, for whoever doubts it later."""
    written = [
        folder / name for name in (*RECORDS, *(name for name in (SAMPLES, GALLERY) if (folder / name).is_file()))
    ]
    written += sorted(file for file in (folder / "artifact").rglob("*") if file.is_file())
    write_json(folder / DIGESTS, {str(file.relative_to(folder)): digest(file) for file in written})


def _name(prepared: Prepared) -> str:
    """Public name of what the artefact is loaded on, or was made from."""
    start = prepared.base.adapter
    return start.base_name if start is not None and prepared.plan.adapter is not None else prepared.base.name
