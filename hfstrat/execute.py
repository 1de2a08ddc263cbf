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
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from hfstrat.beginning import Beginning, as_written, beginning, run_directory, under_way
from hfstrat.checkpoints import FOLDER, Checkpoints, go_on
from hfstrat.environment import describe, silence_imports
from hfstrat.errors import Interrupted, OutOfMemory, Problem, ProcessLost, RunError, UsageError
from hfstrat.fitting import run_fit
from hfstrat.judge import Judge
from hfstrat.models.build import Arithmetic, build
from hfstrat.models.compaction import compact, expand, is_compact
from hfstrat.outline import outline
from hfstrat.packing import check_packing
from hfstrat.prepare import Prepared, folder_of, located, prepare
from hfstrat.processes import Group, accelerator_for, check_launch, check_threads, threads_of
from hfstrat.recipe.loading import dump, load
from hfstrat.recipe.recipe import Recipe
from hfstrat.report.display import Drawing
from hfstrat.runs.directory import Run, check_free, clear, locked, write_json, write_text
from hfstrat.runs.events import Observer
from hfstrat.runs.records import Ledger, Log
from hfstrat.sealing import seal
from hfstrat.solving import run_solve
from hfstrat.starting import start_from_data
from hfstrat.state import State, decide
from hfstrat.strategies.plan import Solve, matches
from hfstrat.tasks.base import Encoded
from hfstrat.teaching import taught
from hfstrat.training.arithmetic import Meter
from hfstrat.training.checkpoint import Checkpoint, drop_newer
from hfstrat.training.engine import is_out_of_memory
from hfstrat.training.launch import end_with_launcher
from hfstrat.training.machine import circumstances, keep_memory, machine
from hfstrat.training.memory import ResidentPeak
from hfstrat.training.optim import restore
from hfstrat.training.signals import Signals

if TYPE_CHECKING:
    from accelerate import Accelerator

VOCABULARY = ".vocabulary.safetensors"
"""The file of a run under way that holds the rows of the token embedding that do not train."""


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    data: Any = None,
    runs: str | Path = "runs",
    overwrite: bool = False,
    resume: bool = False,
    observer: Observer | None = None,
) -> Run:
    """Train as a recipe says.

    Args:
        recipe: A file, plain data, a Recipe, or the directory of a run that goes on.
        overrides: `dotted.path=value` words, or a mapping of dotted paths to values.
        data: A `Dataset`, `DatasetDict` or data frame, for `data.source: memory`.
        runs: Where run directories go.
        overwrite: Replace a run of the same name.
        resume: Go on with a run of the same name from its newest checkpoint, if there is one.
        observer: Hears what happens.

    Returns:
        The run, done.

    Raises:
        UsageError: Recipe, data or model cannot be used; nothing was written.
        RunError: Training failed; the run's directory says why.
        Interrupted: A signal ended it; `resume` goes on.
    """
    quiet()
    observer = observer or Observer()
    if overwrite and resume:
        raise UsageError(Problem("a run is either replaced or gone on with", hint="Leave one of the two out"))
    recipe, runs = run_directory(recipe, runs, resume=resume)
    asked, source = load(recipe, overrides)
    folder = folder_of(Path(runs), asked)
    check_free(folder)
    with located(source):
        parsed, requested = under_way(folder, asked) if resume else (asked, asked)
    ledger = Ledger()
    check_launch(observer)
    end_with_launcher()
    group = Group(accelerator_for(parsed, folder))
    here = machine(group.size, group.local_size)
    threads = threads_of(parsed, here)
    torch.set_num_threads(threads)
    if here.device == "cpu":
        keep_memory()
    if parsed.train.deterministic:
        _only_deterministic()
    with group.together(), ExitStack() as stack:
        group.once(lambda: check_threads(threads))
        prepared = group.once(
            lambda: prepare(parsed, here, memory=data, source=source, ledger=ledger, observer=observer)
        )
        prepared = replace(prepared, requested=requested)
        accelerator = group.accelerator = accelerator_for(prepared.recipe, folder)
        main = accelerator.is_main_process

        def begin() -> Beginning:
            run = Run(folder)
            if run.status == "done" or not resume:
                # Without the lock: where nothing is to be done, nothing is written, not even the lock.
                found = beginning(run, prepared, overwrite=overwrite, resume=resume)
                if found.kind == "done":
                    return found
            stack.enter_context(locked(folder))
            found = beginning(run, prepared, overwrite=overwrite, resume=resume)
            if found.kind == "new":
                clear(folder)
            return found

        start = group.agreed(begin)
        for text in start.warnings:
            observer.warn(text)
        if start.kind == "done":
            observer.note(f"{folder} is done already with this recipe; nothing to do")
            if main and (folder / FOLDER).is_dir():  # its process was killed between its last two steps
                with locked(folder):
                    Checkpoints(folder / FOLDER, prepared.recipe.train).remove()
            return Run(folder)
        return _go(Run(folder), prepared, group, ledger, observer if main else Observer(), start)


def _only_deterministic() -> None:
    """Have PyTorch use operations alone that give the same bytes each time, and raise where there is none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


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


def _go(run: Run, prepared: Prepared, group: Group, ledger: Ledger, observer: Observer, start: Beginning) -> Run:
    """Steps 5 to 7, with the run's end written down whatever happens."""
    accelerator = group.accelerator
    main = accelerator.is_main_process
    signals = Signals()
    with signals.listening():
        try:
            checkpoint = start.checkpoint
            if main and checkpoint is None:
                _open(run, prepared, accelerator)
            elif main:
                write_json(run.path / "status.json", {"state": "running", "reason": None})
            accelerator.wait_for_everyone()  # from here on any of them may say how the run ended
            keep = 0 if checkpoint is None else checkpoint.data["log"]
            with ResidentPeak() as resident, Log(run.path / "log.jsonl" if main else None, keep) as log:
                _run(run, prepared, accelerator, ledger, log, observer, resident, signals, checkpoint)
        except BaseException as error:
            with signals.unheard():
                ended = _ended(error, run, group)
            if ended is None:
                return run
            if isinstance(ended, Interrupted):
                observer.note(f"`--resume` goes on with {run.path}")
            if ended is error:
                raise
            raise ended from error
        finally:
            if main:
                with suppress(OSError):  # what cannot be removed is written over or cleared away by the next run
                    (run.path / VOCABULARY).unlink(missing_ok=True)
            observer.finished()
    return run


def _ended(error: BaseException, run: Run, group: Group) -> BaseException | None:
    """Write down why a run ended, unless another process has; the reason, or None where it was done already."""
    found = _translate(error)
    blamed = group.blamed(found)
    status = run.status  # read last: a process that is there no more has written its own end before
    if status != "interrupted" or not isinstance(found, Interrupted):
        found = blamed
    if status == "done" and isinstance(found, (Interrupted, ProcessLost)):
        return None  # all that was left to do was to clear up
    if status == "running" or (status is None and group.accelerator.is_main_process):
        reason = str(found) or type(found).__name__
        if group.size > 1 and not getattr(found, "shared", False):
            reason = f"{group.name}: {reason}"
        with suppress(OSError):  # the disk may be what failed
            write_json(run.path / "status.json", {"state": getattr(found, "status", "failed"), "reason": reason})
    return found


def _translate(error: BaseException) -> BaseException:
    """Give memory that ran out, disks that are full and Ctrl-C their own names."""
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(signal.SIGINT)
    if is_out_of_memory(error):
        hint = (
            "set a smaller train.micro_batch_size or train.gradient_checkpointing: true (results stay the same), or a "
            "shorter task.max_length"
        )
        return OutOfMemory(
            f"out of memory: {str(error).splitlines()[0] if str(error) else 'allocation failed'}; {hint}"
        )
    if isinstance(error, (OSError, SafetensorError)):
        return RunError(f"cannot write: {error}; once it can, `--resume` goes on")
    return error


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
        "data": {
            "origin": material.origin,
            "fingerprint": material.fingerprint,
            "digest": prepared.digest,
            "rows": material.rows,
        },
        "labels": asdict(material.labels),
        "splits": list(material.reasons),
        "requested": as_written(prepared.requested),
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
    signals: Signals,
    start: Checkpoint | None,
) -> None:
    recipe, plan = prepared.recipe, prepared.plan
    with ledger.phase("load"):
        model = model_of(prepared)
    training = _training(prepared, accelerator, run, ledger, observer)
    main = accelerator.is_main_process
    kept = Checkpoints(run.path / FOLDER if main else None, recipe.train)
    state = State(prepared, accelerator, observer, judge_of(prepared), ledger, log, model, training)
    state.folder, state.checkpoints, state.signals = run.path if main else None, kept, signals
    state.micro, state.threshold = int(recipe.train.micro_batch_size), recipe.task.default_threshold
    if main:
        state.settled = lambda settled: write_text(run.path / "recipe.yaml", dump(settled))
    if prepared.encoded["train"].packed:
        check_packing(state.placed(), prepared.encoded["train"], accelerator)
    set_aside = run.path / VOCABULARY if main else None
    rows_alike(state)
    with ledger.phase("load"):
        start_from_data(state.placed(), training, recipe.train.batch_size, recipe.seed, accelerator, observer)
    if start is not None:
        ledger.go_on(start.data["ledger"])
        if main:
            drop_newer(start.path)
        compact_for(start.data["trained"], state, set_aside)
        go_on(start, state)
        _tell_of(start, state)
    state.tracking(lambda: accelerator.init_trackers("hfstrat", config=_flat(json.loads(recipe.model_dump_json()))))
    first, done = (0, 0) if start is None else (start.data["stage"], start.data["update"])
    for place, stage in enumerate(plan.stages[first:], start=first):
        if isinstance(stage, Solve):
            run_solve(stage, state)
        else:
            compact_for(stage.train, state, set_aside)
            run_fit(stage, state, start if done and place == first else None)
    restore(state.model, state.best)
    decide(state)
    state.tracking(accelerator.end_training)
    accelerator.wait_for_everyone()
    _sum_up(ledger, accelerator)
    if main:
        make_whole(state, run.path / VOCABULARY)
        seal(run, state, state.prepared, observer, resident)
        kept.remove()
    accelerator.wait_for_everyone()


def _sum_up(ledger: Ledger, accelerator: Accelerator) -> None:
    """Have the ledger count the arithmetic of all processes; one that went on knows of the main one's before."""
    from accelerate.utils import gather_object

    if accelerator.num_processes == 1:
        return
    counted = {name: phase.flops for name, phase in ledger.phases.items() if phase.flops is not None}
    every = gather_object([counted])
    for name in counted:
        ledger.phases[name].flops = sum(own.get(name, 0.0) for own in every)


def rows_alike(state: State) -> None:
    """Where rows could train without the others and do not, have the gradient's norm be the same to the bit."""
    apart = state.prepared.apart
    if isinstance(apart, str):
        if state.prepared.requested.train.compact_vocabulary is True:
            state.observer.note(f"the vocabulary is not compacted: {apart}")
    elif state.prepared.compact is None:
        state.rows = {apart.parameter: torch.from_numpy(apart.ids).to(state.accelerator.device)}


def compact_for(trained: Iterable[str], state: State, file: Path | None) -> None:
    """Leave the rows in use in the token embedding, if it is among what trains.

    Until then it is whole, so that what a cache keeps of the frozen model is that of other runs.

    Args:
        trained: Patterns or names of what trains, or has trained.
        state: The run.
        file: Where its other rows are kept; None on a process that does not save the model.
    """
    apart = state.prepared.compact
    if apart is None or is_compact(state.model, apart) or not matches(apart.parameter, tuple(trained)):
        return
    compact(state.model, apart, file)
    what = f"{apart.used:,} of {apart.rows:,} rows of the vocabulary occur and train"
    state.observer.note(f"{what}; the others stay as they are")


def make_whole(state: State, file: Path) -> None:
    """Put the rows that did not train back beside those that did."""
    apart = state.prepared.compact
    if apart is not None and is_compact(state.model, apart):
        expand(state.model, apart, file)


def _tell_of(start: Checkpoint, state: State) -> None:
    """Say where a run goes on, and whether it still is the same to the bit."""
    stages, place, update = state.prepared.plan.stages, start.data["stage"], start.data["update"]
    where = f"update {update} of stage {stages[place].name}" if update else f"stage {stages[place - 1].name}"
    state.observer.note(f"going on after {where}, from {start.path}")
    now, then = circumstances(state.accelerator.num_processes), start.data["circumstances"]
    changed = [name for name in now if now[name] != then.get(name)]
    if changed:
        state.exact = False
        what = " and ".join(changed)
        state.observer.warn(f"{what} are not those that the run began with: the result may differ in its last bits")


def _training(prepared: Prepared, accelerator: Accelerator, run: Run, ledger: Ledger, observer: Observer) -> Encoded:
    """What gradient stages train on: the training split, and what a teacher has to say."""
    data, teacher, more = prepared.encoded["train"], prepared.teacher, prepared.unlabelled
    if teacher is None:
        return data
    texts = (prepared.material.examples["train"], *((more[0],) if more is not None else ()))
    meter = Meter()
    with ledger.phase("teacher") as phase, meter.told(phase.computed):
        phase.tokens += data.tokens + (more[1].tokens if more is not None else 0)
        encoded = more[1] if more is not None else None
        folder = teacher.folder(run.path)
        return taught(data, encoded, texts, teacher, prepared.recipe, accelerator, folder, observer, meter)


def model_of(prepared: Prepared) -> nn.Module:
    """The model of a prepared run, before any of its stages."""
    recipe = prepared.recipe
    return build(
        prepared.base,
        prepared.shape,
        prepared.plan,
        prepared.anatomy,
        recipe.seed,
        recipe.task.peft_task_type,
        arithmetic_of(recipe),
    )


def arithmetic_of(recipe: Recipe) -> Arithmetic:
    """How a resolved recipe's model computes."""
    train = recipe.train
    return Arithmetic(train.precision, bool(train.hold_bf16), bool(train.fused_lora))


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
