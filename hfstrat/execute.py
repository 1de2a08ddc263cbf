"""From a recipe to a run, the only place where recipes and tensors meet to train.

1. read the recipe 2. load and audit the data, gather facts, resolve `auto` 3. plan on the meta device 4. claim the
directory 5. build the model 6. stages: Solve, or `for update in fit(...)` 7. save the best state, load it again,
score it on the test split once, seal. Up to the fourth step nothing is written.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hfstrat.environment import describe, silence_imports
from hfstrat.errors import Interrupted, OutOfMemory, Problem, RunError, UsageError
from hfstrat.judge import Judge
from hfstrat.models.build import build
from hfstrat.outline import outline
from hfstrat.prepare import Prepared, folder_of, prepare
from hfstrat.recipe.loading import dump, load
from hfstrat.recipe.recipe import Recipe
from hfstrat.report.display import Drawing
from hfstrat.runs.directory import LOCK, Run, clear, locked, write_json, write_text
from hfstrat.runs.events import Observer
from hfstrat.runs.records import Ledger, Log
from hfstrat.sealing import seal
from hfstrat.stages import run_fit, run_solve
from hfstrat.state import State, decide
from hfstrat.strategies.plan import Solve
from hfstrat.tasks.base import Encoded
from hfstrat.teaching import taught
from hfstrat.training.machine import machine
from hfstrat.training.memory import ResidentPeak
from hfstrat.training.optim import restore

if TYPE_CHECKING:
    from accelerate import Accelerator


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    data: Any = None,
    runs: str | Path = "runs",
    overwrite: bool = False,
    observer: Observer | None = None,
) -> Run:
    """Train as a recipe says.

    Args:
        recipe: A file, plain data, or a Recipe.
        overrides: `dotted.path=value` words, or a mapping of dotted paths to values.
        data: A `Dataset`, `DatasetDict` or data frame, for `data.source: memory`.
        runs: Where run directories go.
        overwrite: Replace a run of the same name.
        observer: Hears what happens.

    Returns:
        The run, done.

    Raises:
        UsageError: Recipe, data or model cannot be used; nothing was written.
        RunError: Training failed; the run's directory says why.
    """
    quiet()
    observer = observer or Observer()
    parsed, source = load(recipe, overrides)
    folder = folder_of(Path(runs), parsed)
    ledger = Ledger()
    accelerator = _accelerator(parsed, folder)
    here = machine(accelerator.num_processes, _local_processes(accelerator))
    torch.set_num_threads(_threads(parsed, here.cores, here.local_processes))
    prepared = prepare(parsed, here, memory=data, source=source, ledger=ledger, observer=observer)
    accelerator = _accelerator(prepared.recipe, folder)
    if _agreed(lambda: _is_done(folder, prepared, overwrite), accelerator):
        observer.note(f"{folder} is done already with this recipe; nothing to do")
        return Run(folder)
    if not accelerator.is_main_process:
        return _go(Run(folder), prepared, accelerator, ledger, Observer())
    with locked(folder) as run:
        clear(folder)
        return _go(run, prepared, accelerator, ledger, observer)


def plan(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    data: Any = None,
    observer: Observer | None = None,
) -> Drawing:
    """What a recipe would do to its model; nothing is written, and no weight is read.

    Args:
        recipe: A file, plain data, or a Recipe.
        overrides: As for `train`.
        data: As for `train`.
        observer: Hears what happens.

    Raises:
        UsageError: Recipe, data or model cannot be used.
    """
    quiet()
    parsed, source = load(recipe, overrides)
    return Drawing(outline(prepare(parsed, machine(), memory=data, source=source, observer=observer)))


def quiet() -> None:
    """Silence what the libraries say about things that hfstrat reports in its own words."""
    silence_imports()
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in ("bitsandbytes", "accelerate", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def _accelerator(recipe: Recipe, folder: Path) -> Accelerator:
    """An Accelerator in the recipe's precision; in one process it may follow another of another precision."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=False)
    precision = {"fp32": "no", "auto": "no"}.get(recipe.train.precision, recipe.train.precision)
    return Accelerator(
        mixed_precision=precision,
        log_with=list(recipe.track) or None,
        project_dir=str(folder / "trackers") if recipe.track else None,
        # A parameter that gets no gradient is legal: an unused pooler, a token type that does not occur.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def _local_processes(accelerator: Accelerator) -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))


def _threads(recipe: Recipe, cores: int, local_processes: int) -> int:
    return recipe.train.threads if recipe.train.threads != "auto" else max(1, cores // local_processes)


def _is_done(folder: Path, prepared: Prepared, overwrite: bool) -> bool:
    """Whether the directory holds this very run, done.

    Raises:
        UsageError: It holds something else.
    """
    if not folder.exists() or not any(entry.name != LOCK for entry in folder.iterdir()):
        return False
    run = Run(folder)
    if run.status is None:  # never delete what is not a run, whatever was asked
        raise UsageError(Problem(f"{folder} is not empty and holds no run", hint="Choose another name=…"))
    if overwrite:
        return False
    if run.status == "done" and run.recipe() == dump(prepared.recipe):
        known = (run.read("env.json") or {}).get("data", {}).get("fingerprint")
        if known == prepared.material.fingerprint:
            return True
    hint = "Add --overwrite to replace it, or name=… to keep both"
    raise UsageError(Problem(f"{folder} holds another run, which is {run.status}", hint=hint))


def _agreed(question: Callable[[], bool], accelerator: Accelerator) -> bool:
    """The main process's answer, or its error, on every process: none may go on alone."""
    from accelerate.utils import broadcast_object_list

    answer: list[bool | UsageError] = [False]
    if accelerator.is_main_process:
        try:
            answer = [question()]
        except UsageError as error:
            answer = [error]
    if accelerator.num_processes > 1:
        broadcast_object_list(answer)
    if isinstance(answer[0], UsageError):
        raise answer[0]
    return answer[0]


def _go(run: Run, prepared: Prepared, accelerator: Accelerator, ledger: Ledger, observer: Observer) -> Run:
    """Steps 5 to 7, with the run's end written down whatever happens."""
    main = accelerator.is_main_process
    if main:
        _open(run, prepared, accelerator)
    try:
        with signals(), ResidentPeak() as resident, Log(run.path / "log.jsonl" if main else None) as log:
            _run(run, prepared, accelerator, ledger, log, observer, resident)
    except BaseException as error:
        reason, state = _reason(error)
        if main:
            write_json(run.path / "status.json", {"state": state, "reason": reason})
        translated = _translate(error)
        if translated is error:
            raise
        raise translated from error
    finally:
        observer.finished()
    return run


def _reason(error: BaseException) -> tuple[str, str]:
    translated = _translate(error)
    return str(translated) or type(translated).__name__, getattr(translated, "status", "failed")


def _translate(error: BaseException) -> BaseException:
    """Give memory that ran out, disks that are full and Ctrl-C their own names."""
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(signal.SIGINT)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        hint = "set a smaller train.micro_batch_size (results stay the same) or task.max_length"
        return OutOfMemory(
            f"out of memory: {str(error).splitlines()[0] if str(error) else 'allocation failed'}; {hint}"
        )
    if isinstance(error, OSError):
        return RunError(f"cannot write: {error}")
    return error


@contextmanager
def signals() -> Iterator[None]:
    """Turn SIGTERM into an exception, where this thread may."""

    def stop(number: int, frame: Any) -> None:
        raise Interrupted(number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: a notebook's or a server's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _open(run: Run, prepared: Prepared, accelerator: Accelerator) -> None:
    """Write what is known before training."""
    write_json(run.path / "status.json", {"state": "running", "reason": None})
    write_text(run.path / "recipe.yaml", dump(prepared.recipe))
    write_json(run.path / "decisions.json", {"decisions": [asdict(decision) for decision in prepared.decisions]})
    truncated = {name: part.truncated for name, part in prepared.encoded.items()}
    write_json(run.path / "audit.json", {**prepared.material.audit, "truncated": truncated})
    write_json(run.path / "env.json", environment(prepared, accelerator))
    write_json(run.path / "plan.json", outline(prepared))


def environment(prepared: Prepared, accelerator: Accelerator) -> dict[str, Any]:
    """`env.json`: what the run's bytes depend on."""
    material = prepared.material
    return {
        **describe(),
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "model": _model(prepared),
        "data": {"origin": material.origin, "fingerprint": material.fingerprint, "rows": material.rows},
        "labels": {"problem": material.labels.problem, "names": material.labels.names},
        "splits": list(material.reasons),
        "requested": json.loads(prepared.requested.model_dump_json(exclude={"name", "compare"})),
    }


def _model(prepared: Prepared) -> dict[str, Any]:
    base, teacher = prepared.base, prepared.teacher
    found: dict[str, Any] = {"name": base.name, "fingerprint": base.fingerprint}
    if base.code is not None:
        found["code"] = base.code.file.name
    if base.adapter is not None and prepared.plan.adapter is not None:
        below = base.adapter.base_name
        found["adapter_of"] = {
            "name": below,
            "local": Path(below).is_dir(),
            "revision": base.hub.get("revision"),
        }
    if teacher is not None:
        found["teacher"] = {"name": teacher.base.name, "fingerprint": teacher.base.fingerprint}
    return found


def _run(
    run: Run,
    prepared: Prepared,
    accelerator: Accelerator,
    ledger: Ledger,
    log: Log,
    observer: Observer,
    resident: ResidentPeak,
) -> None:
    recipe, plan = prepared.recipe, prepared.plan
    with ledger.phase("load"):
        model = build(
            prepared.base,
            prepared.shape,
            plan,
            prepared.anatomy,
            recipe.seed,
            recipe.task.peft_task_type,
            recipe.train.precision,
        )
    training = _training(prepared, accelerator, run, ledger, observer)
    state = State(prepared, accelerator, observer, judge_of(prepared), ledger, log, model, training)
    if recipe.track:
        accelerator.init_trackers("hfstrat", config=_flat(json.loads(recipe.model_dump_json())))
    for stage in plan.stages:
        if isinstance(stage, Solve):
            run_solve(stage, state)
        else:
            run_fit(stage, state)
    restore(state.model, state.best)
    decide(state)
    if recipe.track:
        accelerator.end_training()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        seal(run, state, prepared, observer, resident)
    accelerator.wait_for_everyone()


def _training(prepared: Prepared, accelerator: Accelerator, run: Run, ledger: Ledger, observer: Observer) -> Encoded:
    """What gradient stages train on: the training split, and what a teacher has to say."""
    data, teacher, more = prepared.encoded["train"], prepared.teacher, prepared.unlabelled
    if teacher is None:
        return data
    texts = (prepared.material.examples["train"], *((more[0],) if more is not None else ()))
    with ledger.phase("teacher") as phase:
        phase.tokens += data.tokens + (more[1].tokens if more is not None else 0)
        encoded = more[1] if more is not None else None
        folder = teacher.folder(run.path)
        return taught(data, encoded, texts, teacher, prepared.recipe, accelerator, folder, observer)


def judge_of(prepared: Prepared) -> Judge:
    """What a prepared run is measured by."""
    evaluate = prepared.recipe.evaluate
    return Judge(prepared.recipe.task, prepared.material.labels, tuple(evaluate.metrics), str(evaluate.select_by))


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with dotted names and plain values, which is all that trackers take."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = value if isinstance(value, (int, float, str, bool)) else json.dumps(value)
    return flat
