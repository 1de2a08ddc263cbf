"""A teacher: a finished classifier whose outputs are computed once, kept, and learned from by a student."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hfstrat.data.pictures import digest as picture_digest
from hfstrat.data.sounds import digest as sound_digest
from hfstrat.data.tokens import audit_tokens
from hfstrat.encoding import encode
from hfstrat.errors import ModelError, Problem, UsageError, did_you_mean
from hfstrat.models import artifact
from hfstrat.models.base import LONGEST, Base, open_base
from hfstrat.recipe.model import ModelSpec
from hfstrat.strategies.plan import Distillation
from hfstrat.tasks import AudioClassification, TextsSpec
from hfstrat.tasks.base import Encoded, Examples, FloatArray, Labels
from hfstrat.training import scoring
from hfstrat.training.arithmetic import Meter
from hfstrat.training.machine import circumstances

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hfstrat.recipe.recipe import Recipe
    from hfstrat.runs.events import Observer


@dataclass(frozen=True)
class Teacher:
    """A teacher, its weights not yet read.

    Args:
        base: Where it is.
        order: For each of the task's labels, its place among the teacher's outputs.
        max_length: Tokens that it reads of a text.
    """

    base: Base
    order: tuple[int, ...]
    max_length: int

    def folder(self, run: Path) -> Path:
        """Where its outputs are kept: beside the teacher where that is a run, for the next student; else in the run."""
        home = self.base.adapter.folder if self.base.adapter is not None else Path(str(self.base.location))
        teacher_run = home.parent
        is_run = home.name == "artifact" and (teacher_run / "status.json").is_file()
        return teacher_run / "outputs" if is_run and os.access(teacher_run, os.W_OK) else run

    def load(self, auto_class: str) -> torch.nn.Module:
        """The teacher in fp32 and eval mode."""
        import transformers

        base, auto = self.base, getattr(transformers, auto_class)
        model: Any = (
            auto.from_pretrained(base.location, dtype=torch.float32, **base.hub).eval()
            if base.adapter is None
            else artifact.load(base.adapter.folder, base.location, auto_class, base.hub)
        )
        # Decoders read their answer from the last token that is not this one, and many name none.
        model.config.pad_token_id = base.tokenizer.pad_token_id if base.tokenizer is not None else None
        return model


@contextmanager
def naming(teacher: str) -> Iterator[None]:
    """While a teacher is opened as a base: what is wrong with it stands where the strategy names it.

    Raises:
        ModelError: It names an arm.
    """
    path = "strategy.teacher"
    if teacher.startswith("arm:"):
        what, hint = f"'{teacher}' names an arm, and arms are of comparisons", "Name a run, such as runs/full"
        raise ModelError(Problem(what, path, hint=hint))
    try:
        yield
    except UsageError as error:
        problems = [replace(one, path=path) if one.path == "model.base" else one for one in error.problems]
        raise type(error)(problems) from error


def open_teacher(distillation: Distillation, labels: Labels, recipe: Recipe) -> Teacher:
    """Find a teacher and check that it knows the task's labels.

    Raises:
        UsageError: It is not there, or has other labels.
    """
    with naming(distillation.teacher):
        spec = ModelSpec(base=distillation.teacher, trust_remote_code=recipe.model.trust_remote_code)
        base = open_base(spec, auto_class=recipe.task.auto_class, reads=recipe.task.reads)
    if base.labels is None:
        hint = "Name a model for the same task whose configuration names its labels (id2label)"
        raise ModelError(
            Problem(f"{distillation.teacher} does not say what its outputs are", "strategy.teacher", hint=hint)
        )
    lost = [name for name in labels.names if name not in base.labels]
    if lost or len(base.labels) != len(labels.names):
        what = f"does not know '{lost[0]}'" if lost else f"has {len(base.labels)} labels, the data {len(labels.names)}"
        hint = did_you_mean(lost[0], base.labels) if lost else "Teacher and student need the same labels"
        raise ModelError(Problem(f"the teacher {distillation.teacher} {what}", "strategy.teacher", hint=hint))
    if base.adapter is None:
        _check_whole(base, recipe.task.auto_class, distillation.teacher)
    # An artefact's tokenizer cuts where its run did; pictures are not cut.
    own = LONGEST if base.tokenizer is None else base.tokenizer.model_max_length
    length = min(own, base.max_length or LONGEST, LONGEST)
    return Teacher(base, tuple(base.labels.index(name) for name in labels.names), int(length))


def _check_whole(base: Base, auto_class: str, name: str) -> None:
    """Raise where a teacher would speak with weights that are random, because they are not there."""
    import transformers

    auto: Any = getattr(transformers, auto_class)
    _, info = auto.from_pretrained(base.location, device_map="meta", output_loading_info=True, **base.hub)
    if lost := sorted(info["missing_keys"]):
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        what = f"the weights of the teacher {name} lack {', '.join(lost[:3])}{more}"
        raise ModelError(Problem(what, "strategy.teacher", hint="Copy it again, or name a classifier that was trained"))


def taught(
    data: Encoded,
    more: Encoded | None,
    examples: Sequence[Examples],
    teacher: Teacher,
    recipe: Recipe,
    accelerator: Accelerator,
    folder: Path,
    observer: Observer,
    meter: Meter,
) -> Encoded:
    """The training split with the teacher's outputs, and the texts that only the teacher labels.

    Args:
        data: The training split, tokenised for the student.
        more: Texts without labels, likewise; None when there are none.
        examples: Both as texts.
        teacher: The teacher.
        recipe: The resolved recipe.
        accelerator: Shares the work between processes.
        folder: Where the outputs are kept.
        observer: Hears how far it is.
        meter: Counts the arithmetic.
    """
    logits = np.concatenate(
        [_outputs(teacher, part, recipe, accelerator, folder, observer, meter) for part in examples]
    )
    whole = data if more is None else data.and_unlabelled(more)
    # A unit that the teacher did not see is one of which it knows nothing: all classes are alike.
    return whole.with_teacher(np.nan_to_num(np.ascontiguousarray(logits[:, list(teacher.order)])))


def _outputs(
    teacher: Teacher,
    examples: Examples,
    recipe: Recipe,
    accelerator: Accelerator,
    folder: Path,
    observer: Observer,
    meter: Meter,
) -> FloatArray:
    """The teacher's logits `(units, classes)` in its own order, read where they were kept for these very texts."""
    from accelerate.utils import broadcast_object_list
    from safetensors.numpy import load_file, save_file

    kept = folder / f"{_key(teacher, examples, recipe)}.safetensors"
    # One process's look decides, lest some wait for others that have nothing to compute.
    if broadcast_object_list([kept.is_file()])[0]:
        observer.note(f"the teacher's outputs are read from {kept}")
        found: FloatArray = load_file(kept)["logits"]
        return found
    encoded = replace(encode(recipe.task, teacher.base.processor, examples, teacher.max_length), padding=recipe.padding)
    tokenizer = teacher.base.tokenizer
    problems: list[Problem] = []
    if tokenizer is not None:
        problems, _ = audit_tokens({"train": encoded}, tokenizer, teacher.base.config)
    if problems:
        raise ModelError([replace(problem, path="strategy.teacher") for problem in problems])
    observer.phase("teacher", len(encoded), "texts")
    model = teacher.load(recipe.task.auto_class).to(accelerator.device)
    size = recipe.evaluate.batch_size
    logits = scoring.logits(model, encoded, size, accelerator, observer.advance, meter=meter)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f".{kept.name}.{os.getpid()}")
        save_file({"logits": logits}, temporary)
        temporary.replace(kept)
    accelerator.wait_for_everyone()
    return logits


def _key(teacher: Teacher, examples: Examples, recipe: Recipe) -> str:
    """A name that says all that the outputs depend on."""
    task, tokenizer = recipe.task, teacher.base.tokenizer
    described = {
        "teacher": teacher.base.fingerprint,
        "tokenizer": getattr(tokenizer, "init_kwargs", None),
        "vocabulary": sorted(tokenizer.get_vocab().items()) if tokenizer is not None else None,
        "max_length": teacher.max_length,
        "processor": None if tokenizer is not None else teacher.base.processor.to_dict(),
        "encoding": {name: getattr(task, name) for name in task.encoding} if isinstance(task, TextsSpec) else None,
        "seconds": task.max_seconds if isinstance(task, AudioClassification) else None,
        "precision": recipe.train.precision,
        "batch_size": recipe.evaluate.batch_size,
        "padding": recipe.padding,
        **circumstances(1),
        "texts": len(examples.texts),
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    for text in (*examples.texts, *(examples.pairs or ())):
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    of_one = sound_digest if isinstance(task, AudioClassification) else picture_digest
    for one in examples.media or ():
        digest.update(of_one(one))
    for array in () if examples.words is None else (examples.words.offsets, examples.words.starts):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
