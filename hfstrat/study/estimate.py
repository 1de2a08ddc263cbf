"""Estimate: what each strategy would take, before a weight is read.

Memory and arithmetic are counted by trying a run's own stages on tensors that are not there (`trying`); time comes from
a few batches on random weights of the same shapes.
"""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from hfstrat.errors import Problem, UsageError, did_you_mean
from hfstrat.execute import quiet
from hfstrat.fitting import HOLES
from hfstrat.models.pretending import UNTRIED
from hfstrat.outline import outline
from hfstrat.prepare import Material, Prepared, folder_of, located, prepare, read_data
from hfstrat.processes import accelerator_for, threads_of
from hfstrat.recipe.loading import load as load_recipe
from hfstrat.recipe.recipe import Recipe
from hfstrat.report import tables
from hfstrat.report.notebook import as_html
from hfstrat.runs.events import Observer
from hfstrat.runs.records import Ledger
from hfstrat.strategies.plan import Fit
from hfstrat.study.arms import arms_of, without_teacher
from hfstrat.study.devices import Device
from hfstrat.study.trying import SAMPLES, Trial, Tried
from hfstrat.training.engine import is_out_of_memory
from hfstrat.training.machine import give_back, keep_memory, machine, memory_here
from hfstrat.training.memory import anonymous_bytes

if TYPE_CHECKING:
    import pandas
    from rich.console import Console, ConsoleOptions, RenderableType

How = Literal["counted", "calibrated", "guessed"]
MARKS: Mapping[How, str] = {"counted": "", "calibrated": "~", "guessed": "?"}
HEAP = 1.5
"""Bytes of the heap for each that is alive at once; benchmarks/estimating.md has what is measured."""
_USED = 0.35  # of a GPU's arithmetic, that training reaches: between what small and large models do
_REACHED = 0.7  # of the rate of a large product of matrices here, by updates and scores of a small encoder
_PATIENCE = 120.0  # seconds that the calibration of a strategy may take
_KEPT = 1024  # products that oneDNN keeps, unless ONEDNN_PRIMITIVE_CACHE_CAPACITY says otherwise
_COMPILED = 64  # products that are compiled to see what one takes


@dataclass(frozen=True)
class Figure:
    """A figure and where it is from.

    Args:
        value: It.
        how: `counted` on the run's own operations, `calibrated` by measuring some of them here, or `guessed`.
        low: It is hardly less.
        high: It is hardly more.
    """

    value: float
    how: How
    low: float
    high: float

    @classmethod
    def within(cls, value: float, how: How, factor: float = 1.0) -> Figure:
        """A figure that may be wrong by a factor either way."""
        return cls(value, how, value / factor, value * factor)

    def scaled(self, factor: float) -> Figure:
        """It times a number."""
        return Figure(self.value * factor, self.how, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Estimate:
    """What a strategy would take.

    Args:
        arm: The strategy's name.
        refused: Why it cannot be run on this recipe; the other fields are None then.
        parameters: All of the model's.
        trained: Those that train.
        live: Most bytes of tensors alive at once.
        resident: Most bytes of memory of the process; on a GPU of the device, the allocator's and CUDA's own included.
        flops: Floating-point operations of the whole run.
        seconds: Wall time, data and scores included; an early stop makes it less.
        artifact: Bytes of the weights that are left at the end.
        disk: Bytes on the disk while it runs: checkpoints, what is cached, and the artefact.
        cost: At the price that was given.
        fits: Whether the memory is enough.
        micro_batch: Examples that go through the model at once, as planned.
        largest: As many as the memory is enough for; 0 where it is not even for one; None where it does not depend.
        hint: What to change where it does not fit.
    """

    arm: str
    refused: str | None = None
    parameters: int | None = None
    trained: int | None = None
    live: Figure | None = None
    resident: Figure | None = None
    flops: Figure | None = None
    seconds: Figure | None = None
    artifact: Figure | None = None
    disk: Figure | None = None
    cost: Figure | None = None
    fits: bool | None = None
    micro_batch: int | None = None
    largest: int | None = None
    hint: str = ""


@dataclass(frozen=True)
class Estimates:
    """Estimates side by side.

    Args:
        name: The recipe's.
        where: What they are for.
        memory: Bytes that a run may take there.
        arms: One for each strategy.
    """

    name: str
    where: str
    memory: int
    arms: tuple[Estimate, ...]

    def arm(self, name: str) -> Estimate:
        """The estimate of a strategy.

        Raises:
            UsageError: There is none.
        """
        for one in self.arms:
            if one.arm == name:
                return one
        hint = did_you_mean(name, [one.arm for one in self.arms], show_all=30)
        raise UsageError(Problem(f"there is no arm '{name}'", hint=hint))

    def records(self) -> list[dict[str, Any]]:
        """Plain data: each figure with its interval and where it is from."""
        return [_plain(one) for one in self.arms]

    def table(self) -> pandas.DataFrame:
        """The figures as a data frame, in bytes, operations and seconds."""
        import pandas

        return pandas.DataFrame(
            [
                {name: value["value"] if isinstance(value, dict) else value for name, value in record.items()}
                for record in self.records()
            ]
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """The table, with as many columns as there is room for, and why strategies are refused."""
        from rich.text import Text

        told = [one for one in self.arms if one.refused is None]
        styles = ["" if one.fits else "red" for one in told]
        if told:
            shown = tables.fitting(_columns(told), options.max_width)
            yield tables.drawn(shown, styles, f"{self.name} on {self.where}")
        for one in self.arms:
            if one.refused is not None:
                yield Text(f" {one.arm}: {one.refused}", "yellow")

    def _repr_html_(self) -> str:
        return as_html(self)


def estimate(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    arms: Sequence[str] | None = None,
    device: Device | None = None,
    memory: int | None = None,
    price: float | None = None,
    calibrate: bool = True,
    data: Any = None,
    observer: Observer | None = None,
) -> Estimates:
    """What each strategy would take on a recipe's data; nothing is written, and no weight is read.

    Args:
        recipe: A file, plain data, or a Recipe.
        overrides: `dotted.path=value` words, or a mapping.
        arms: Kinds of strategies, in place of the recipe's `compare.arms`; all that go with the task where it has none.
        device: Another machine than this one.
        memory: Bytes that a run may take; what the machine has, if left out.
        price: Of an hour.
        calibrate: Measure time here, on random weights.
        data: Data handed over in Python.
        observer: Hears what happens.

    Raises:
        UsageError: Recipe, data or model cannot be used.
    """
    quiet()
    observer = observer or Observer()
    parsed, source = load_recipe(recipe, overrides, of_any_strategy=True)
    here = machine()
    if here.device == "cpu":
        keep_memory()
    torch.set_num_threads(threads_of(parsed, here))
    where = device.name if device else f"this machine ({here.device}, {torch.get_num_threads()} threads)"
    limit = memory or (device.memory if device else memory_here())
    folder = folder_of(Path("runs"), parsed)
    with located(source):
        planned = [arm for arm in arms_of(parsed, folder, arms, [parsed.seed]) if arm.floor is None]
    if not planned:
        raise UsageError(Problem("a floor trains no model", hint="Name a strategy, such as --arms head,lora"))
    rate, kernel = _rate(), _kernel()
    held: list[int] = []
    materials: dict[str, Material] = {}
    if device is None:  # a run here holds it too, and it is no small part of what a small one takes
        importlib.import_module("hfstrat.metrics.modules")
    found = []
    for arm in planned:
        name = arm.recipe.name.rpartition("-seed")[0]
        if arm.amount not in materials:
            with located(source):
                materials[arm.amount] = read_data(arm.recipe, data, source)
        observer.note(f"{name}: trying its stages")
        asked = _Asked(name, arm.recipe, folder, device, limit, price, calibrate, rate, kernel)
        try:
            found.append(_estimated(asked, materials[arm.amount], source, data, held))
        except UsageError as error:
            if len(planned) == 1:
                raise
            found.append(Estimate(name, refused="; ".join(problem.message for problem in error.problems)))
    observer.finished()
    return Estimates(parsed.name, where, limit, tuple(found))


@dataclass(frozen=True)
class _Asked:
    name: str
    recipe: Recipe
    folder: Path
    device: Device | None
    limit: int
    price: float | None
    calibrate: bool
    rate: float  # operations a second of a large product of matrices here
    kernel: float  # bytes that a product of a new shape takes for good


def _estimated(asked: _Asked, material: Material, source: Any, data: Any, held: list[int]) -> Estimate:
    ledger = Ledger()
    # A teacher that this comparison would train first is not there to be opened.
    recipe = without_teacher(asked.recipe, asked.folder)
    teacher = Path(getattr(recipe.strategy, "teacher", ""))
    prepared = prepare(
        recipe,
        machine(),
        memory=data,
        source=source,
        ledger=ledger,
        known=material,
        teacher_is_there=teacher.parent != asked.folder or (teacher / "status.json").is_file(),
    )
    gc.collect()
    give_back()  # what the strategy before has left in the heap is none of this one's, nor what it has compiled
    held.append(anonymous_bytes() or 0)
    before = min(held) - _COMPILED * asked.kernel  # which were compiled to be measured, and stay
    tried = _counted(prepared, asked)
    live, resident = _memory(tried, asked, before)
    seconds = _seconds(tried, prepared, asked, resident, ledger)
    parameters = outline(prepared)["parameters"]
    trained = parameters["trainable"]
    stored = parameters["total"] if prepared.plan.adapter is None else trained
    artifact = Figure.within(4.0 * stored, "counted" if prepared.plan.adapter is None else "calibrated", 1.05)
    kept = prepared.recipe.train.keep_checkpoints if prepared.recipe.train.checkpoint_every is not None else 0
    # A checkpoint has what trains, the best state of it so far, and AdamW's two moments.
    disk = Figure.within(artifact.value + 16.0 * trained * kept + tried.cached, "calibrated", 1.1)
    fits = resident.value <= asked.limit
    largest = _largest(tried, resident, asked.limit)
    return Estimate(
        asked.name,
        parameters=parameters["total"],
        trained=trained,
        live=live,
        resident=resident,
        flops=Figure.within(tried.flops, "counted"),
        seconds=seconds,
        artifact=artifact,
        disk=disk,
        cost=None if asked.price is None else seconds.scaled(asked.price / 3600),
        fits=fits,
        micro_batch=int(prepared.recipe.train.micro_batch_size),
        largest=largest,
        hint="" if fits else _hint(prepared, largest, asked, before),
    )


def _memory(tried: Tried, asked: _Asked, before: float) -> tuple[Figure, Figure]:
    """Live and resident memory; `before` is what the process takes before a model is made."""
    if asked.device is not None:  # other kernels, the allocator's rounding, CUDA's context
        live = Figure.within(tried.live, "guessed", 1.15)
        return live, Figure(1.1 * live.value + 2**30, "guessed", live.value + 2**29, 1.3 * live.value + 1.5 * 2**30)
    live = Figure.within(tried.live, "counted", 1.02)
    likely = before + HEAP * live.value + min(_KEPT, tried.products) * asked.kernel
    # What is free is given back from `HOLES` on, some updates later.
    return live, Figure(likely, "calibrated", before + live.value, likely + (HOLES + 0.5) * live.value)


def _counted(prepared: Prepared, asked: _Asked) -> Tried:
    """Memory and arithmetic of a run.

    Raises:
        UsageError: It can be tried with real tensors only, for which there is no room.
    """
    accelerator = accelerator_for(prepared.recipe, asked.folder)
    try:
        return Trial(prepared, accelerator, real=False).tried()
    except UNTRIED:
        accelerator.free_memory()
    # What a model does next depends on what it computed, as where detectors match boxes: it has to compute.
    size = 16 * sum(prepared.anatomy.parameters.values())
    if size > memory_here() // 2:
        what = f"{prepared.base.name} can be tried with its tensors in memory only, and is too large for that here"
        raise UsageError(Problem(what, "model", hint="Estimate it on the machine that trains it"))
    return _real(prepared, asked, None)


def _real(prepared: Prepared, asked: _Asked, counted: Tried | None) -> Tried:
    """The same with its time, on random weights.

    Raises:
        UsageError: There is no room for them.
    """
    accelerator = accelerator_for(prepared.recipe, asked.folder)
    try:
        return Trial(prepared, accelerator, real=True, counted=counted).tried()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        what = "an update does not fit into this machine's memory"
        raise UsageError(Problem(what, "train.micro_batch_size", hint="Make it smaller")) from error
    finally:
        accelerator.free_memory()
        gc.collect()


def _seconds(tried: Tried, prepared: Prepared, asked: _Asked, resident: Figure, ledger: Ledger) -> Figure:
    """Wall time: what the model computes, and what is done once around it."""
    before = sum(phase.seconds for phase in ledger.phases.values())
    if asked.device is not None:
        computed = Figure.within(tried.flops / (_USED * asked.device.flops), "guessed", 3.0)
    elif not asked.calibrate or resident.value > memory_here() or _slow(tried, asked.rate):
        computed = Figure.within(tried.flops / (_REACHED * asked.rate), "guessed", 2.0)
    else:
        timed = _real(prepared, asked, tried).seconds if tried.seconds is None else tried.seconds
        assert timed is not None, "each pass of a real trial is timed"
        computed = Figure.within(timed, "calibrated", 1.25)
    # The model is loaded twice: to be trained, and to be scored as it was saved.
    around = before + 2 * ledger.phases["load"].seconds
    return Figure(computed.value + around, computed.how, computed.low + around / 2, computed.high + 2 * around)


def _slow(tried: Tried, rate: float) -> bool:
    """Whether to measure would take long: some updates and batches of each kind, several times each."""
    # Each of some samples is made once to get going, and three times to be timed.
    tries = sum(4 * sum(one.flops) * min(1.0, SAMPLES / len(one.flops)) for one in tried.passes.values() if one.flops)
    return tries / (_REACHED * rate) > _PATIENCE


def _rate() -> float:
    """Floating-point operations a second of a large product of matrices here."""
    size = 1024
    left, right = torch.randn(size, size), torch.randn(size, size)
    left @ right
    start = time.perf_counter()
    for _ in range(4):
        left @ right
    return 4 * 2 * size**3 / (time.perf_counter() - start)


def _kernel() -> float:
    """Bytes of memory that stay taken by a bfloat16 product of matrices of shapes that were not multiplied before."""
    left, right = torch.randn(64, 64, dtype=torch.bfloat16), torch.randn(64, 64, dtype=torch.bfloat16)
    left @ right
    give_back()  # or they would take what is free
    before = anonymous_bytes()
    for rows in range(1, 1 + _COMPILED):
        left[:rows] @ right
    return max(0.0, ((anonymous_bytes() or 0) - (before or 0)) / _COMPILED)


def _largest(tried: Tried, resident: Figure, limit: int) -> int | None:
    """Examples that the memory is enough for at once."""
    if not tried.live_of_one:
        return None
    more = int((limit - resident.value) // (tried.live_of_one * resident.high / max(resident.value, 1.0)))
    return max(0, tried.together + more)


def _hint(prepared: Prepared, largest: int | None, asked: _Asked, before: float) -> str:
    if largest:
        return f"train.micro_batch_size={largest} (results stay the same)"
    if recomputed := _recomputed(prepared, asked, before):
        return f"{recomputed} (results stay the same, by one forward pass more)"
    kind = prepared.recipe.strategy.kind
    smaller = [] if prepared.plan.body.storage is not None else ["kind: qlora"]
    smaller += ["kind: lora"] if kind in ("full", "scratch", "partial") else []
    return " or ".join([*smaller, "a shorter task.max_length", "a smaller base"])


def _recomputed(prepared: Prepared, asked: _Asked, before: float) -> str:
    """What to set so that it fits with activations that are computed again; empty where it does not."""
    recipe = prepared.recipe
    has_gradients = any(isinstance(stage, Fit) for stage in prepared.plan.stages)
    if not has_gradients or recipe.train.gradient_checkpointing or recipe.strategy.keeps_activations:
        return ""
    train = recipe.train.model_copy(update={"gradient_checkpointing": True})
    tried = _counted(replace(prepared, recipe=recipe.model_copy(update={"train": train})), asked)
    resident = _memory(tried, asked, before)[1]
    if resident.value <= asked.limit:
        return "train.gradient_checkpointing=true"
    largest = _largest(tried, resident, asked.limit)
    return f"train.gradient_checkpointing=true train.micro_batch_size={largest}" if largest else ""


def _columns(arms: Sequence[Estimate]) -> list[tables.Column]:
    """Estimates as columns of text, those that say most with the lowest ranks; an empty one is left out."""

    def column(title: str, rank: int, write: Callable[[Estimate], str], right: bool = True) -> tables.Column:
        return tables.Column(title, tuple(map(write, arms)), rank, right)

    made = [
        column("strategy", 0, lambda one: one.arm, right=False),
        column("parameters", 8, lambda one: tables.count(one.parameters or 0)),
        column("trained", 4, lambda one: tables.count(one.trained or 0)),
        column("live\nmemory", 3, lambda one: _text(one.live, tables.size)),
        column("resident\nmemory", 1, lambda one: _text(one.resident, tables.size)),
        column("FLOP", 5, lambda one: _text(one.flops, tables.operations)),
        column("time", 1, lambda one: _text(one.seconds, tables.duration)),
        column("artefact", 6, lambda one: _text(one.artifact, tables.size)),
        column("disk", 7, lambda one: _text(one.disk, tables.size)),
        column("cost", 2, lambda one: _text(one.cost, lambda value: f"{value:,.2f}")),
        column("fits", 0, lambda one: "yes" if one.fits else "no"),
        column("most at\nonce", 9, lambda one: f"{one.largest:,}" if one.largest else ""),
    ]
    return [one for one in made if any(one.cells)]


def _text(figure: Figure | None, write: Any) -> str:
    return "" if figure is None else f"{MARKS[figure.how]}{write(figure.value)}"


def _plain(one: Estimate) -> dict[str, Any]:
    return {
        name: dict(vars(value)) if isinstance(value, Figure) else value
        for name, value in vars(one).items()
        if value is not None and value != ""
    }
