"""A run tried before it is run: its own stages, an update or two of each, on a model of which no weight is read.

Memory and arithmetic are counted on tensors that are not there, by the very code that trains: what a run measures of
itself is what is counted here. Time is measured on random weights, which take as long as others.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from hfstrat import fitting
from hfstrat.caching import Form, cached_blocks
from hfstrat.data.batching import Batch, collate, costliest, cut, evaluation_rows
from hfstrat.execute import arithmetic_of, compact_for, judge_of
from hfstrat.models import prefix
from hfstrat.models.adapters import begins_idle, switched_off
from hfstrat.models.anatomy import module_at
from hfstrat.models.build import imitate
from hfstrat.models.pretending import pretend, pretender
from hfstrat.models.quantize import tensors
from hfstrat.prepare import Prepared
from hfstrat.runs.events import Observer
from hfstrat.runs.records import Ledger, Log
from hfstrat.scheduling import Schedule, schedule
from hfstrat.solving import live_of_features, longest_batch
from hfstrat.state import State
from hfstrat.strategies.plan import Fit, Solve
from hfstrat.study.products import Sides, products_of_all, sides_of
from hfstrat.tasks.base import Encoded, FloatArray, Hidden, IntArray
from hfstrat.training import arithmetic, chunking, engine, scoring
from hfstrat.training.memory import LiveBytes
from hfstrat.training.optim import freeze, optimizer_for

if TYPE_CHECKING:
    from accelerate import Accelerator

SAMPLES = 3  # batches of different sizes that are timed of each kind of pass
_LOOKED_AT = 2000  # batches whose sizes are looked at; of more, as many at even distances
_TIMES = 3  # that a batch is timed at most; the median counts
_TIMED_FOR = 0.6  # seconds after which a batch is not timed again: one that takes long varies less
Run = Callable[[int], Iterator[Any]]
"""Makes so many equal passes, one a turn."""
Made = tuple[Sequence[Batch], Run]
"""What is computed at once, and how."""
T = TypeVar("T")


@dataclass
class Pass:
    """Batches of one kind: updates of a stage, or batches that are only looked at.

    Args:
        count: How many there are.
        sizes: What each takes to be computed grows with, `(batches looked at, sizes)`, as `arithmetic.size_of` has it.
        samples: Which of them were tried: those that a run counts.
        flops: Floating-point operations of each that was tried, a product with a sum counted as two.
        seconds: What each took; None where it was not timed, and empty where none was.
        products: The different bfloat16 products of all of them.
        times: How often all of them are made; less than 0 where that much of another pass is not.
        timed: Another pass, whose batches take as long for their arithmetic and were timed in place of these.
    """

    count: int
    sizes: FloatArray
    samples: list[int]
    flops: list[float] = field(default_factory=list)
    seconds: list[float | None] = field(default_factory=list)
    products: set[arithmetic.Product] = field(default_factory=set)
    times: float = 1.0
    timed: Pass | None = None

    @property
    def total_flops(self) -> float:
        """Of all batches, as the run will count them: exact where what a model computes is a sum of what sizes have."""
        return self._over_all(self._flops_of_each())

    @property
    def total_seconds(self) -> float | None:
        """Of all batches, by a line through what was measured; None where nothing was."""
        timed = self.timed or self
        if not any(timed.seconds):
            return None
        start, rate = timed.line()
        return self._over_all(start + rate * self._flops_of_each())

    def line(self) -> tuple[float, float]:
        """Seconds of a batch without arithmetic, and of each floating-point operation."""
        timed = [(flops, taken) for flops, taken in zip(self.flops, self.seconds, strict=True) if taken is not None]
        flops, seconds = np.array(timed).T
        scale = flops.max()
        if len({*flops}) < 2:
            return (0.0, float(np.median(seconds)) / scale) if scale else (float(np.median(seconds)), 0.0)
        from scipy.optimize import nnls

        # Relative errors count: a short batch is as often wrong by a tenth as a long one.
        columns = np.stack([np.ones(len(flops)), flops / scale], axis=1)
        (start, rate), _ = nnls(columns / seconds[:, None], np.ones(len(flops)))
        return float(start), float(rate) / scale

    def _flops_of_each(self) -> FloatArray:
        found: FloatArray = self.sizes @ arithmetic.rates(self.sizes[self.samples], np.array(self.flops))
        return found

    def _over_all(self, each: FloatArray) -> float:
        return self.times * self.count * float(each.sum()) / max(1, len(each))


@dataclass
class Tried:
    """What the passes of a run take.

    Args:
        live: Most bytes of tensors alive at once, over all stages.
        together: Examples of the pass that takes most of them.
        live_of_one: Bytes that one example more in that pass adds.
        cached: Bytes that are kept on the disk of what frozen blocks give.
        passes: By name.
    """

    live: int = 0
    together: int = 0
    live_of_one: float = 0.0
    cached: int = 0
    passes: dict[str, Pass] = field(default_factory=dict)

    @property
    def flops(self) -> float:
        """Of the whole run."""
        return sum(one.total_flops for one in self.passes.values())

    @property
    def products(self) -> int:
        """Different bfloat16 products of the whole run that are compiled and kept."""
        return sum(product.is_kept for product in set().union(*(one.products for one in self.passes.values())))

    @property
    def seconds(self) -> float | None:
        """Of the whole run, without what is not computed by the model; None where nothing was timed."""
        found = [one.total_seconds for one in self.passes.values()]
        known = [seconds for seconds in found if seconds is not None]
        return sum(known) if len(known) == len(found) else None


class Trial:
    """A prepared run whose stages are tried one after the other.

    Args:
        prepared: The run.
        accelerator: Where, and in which precision.
        real: Whether tensors are there, of random weights, so that time can be measured.
        counted: What the same trial without tensors found, so that nothing is counted twice.

    Raises:
        Untriable: Its model cannot be made of shapes alone.
    """

    def __init__(
        self, prepared: Prepared, accelerator: Accelerator, *, real: bool, counted: Tried | None = None
    ) -> None:
        self._prepared, self._accelerator, self._real = prepared, accelerator, real
        self._counted = {} if counted is None else counted.passes
        self._looked: Pass | None = None
        self._mode: Any = None if real else pretender()
        recipe = prepared.recipe
        made = imitate(
            prepared.base,
            prepared.shape,
            prepared.plan,
            prepared.anatomy,
            recipe.task.peft_task_type,
            arithmetic_of(recipe),
            meta=not real,
        )
        if self._mode is not None:
            pretend(made, self._mode)
            chunking.presume(made)
        self._state = State(
            prepared, accelerator, Observer(), judge_of(prepared), Ledger(), Log(None), made, _training(prepared)
        )
        self._state.micro = int(recipe.train.micro_batch_size)
        self._tried = Tried()

    def tried(self) -> Tried:
        """All stages, and what is scored in between and afterwards."""
        recipe, plan, encoded = self._prepared.recipe, self._prepared.plan, self._prepared.encoded
        splits = [part for name, part in encoded.items() if name != "test"]
        if "test" in encoded:  # some of its tokens may have no row once the vocabulary is compacted
            with self._as_loaded_again():
                self._look("test", encoded["test"], kept=recipe.task.kept)
        if plan.distillation is not None:
            self._teach(plan.body.every)
        for stage in plan.stages:
            if isinstance(stage, Solve):
                self._tried.live = max(self._tried.live, self._solve(stage))
                with self._as_for_features(stage):
                    for place, part in enumerate(splits):
                        self._look(f"features {place}", part)
            else:
                self._fit(stage)
        validation = encoded.get("validation")
        settled = recipe.task.calibrates or recipe.task.thresholded(self._prepared.material.labels.problem)
        if validation is not None and settled:
            self._look("validation", validation, kept=recipe.task.kept)
        return self._tried

    def _teach(self, every: int) -> None:
        """Try the teacher as the student with all of its blocks, which is what a student is cut from by default."""
        training, blocks = self._state.training, self._prepared.anatomy.stacks[0]
        if len(blocks) < 2:
            self._look("teacher", training, every)
            return
        self._look("teacher", training)
        # What the first block's end and the last one's are apart by is that of all blocks but one.
        times = (every - 1) * len(blocks) / (len(blocks) - 1)
        self._look("teacher: up to the last block", training, times, up_to=blocks[-1])
        self._look("teacher: up to the first block", training, -times, up_to=blocks[0])

    def _in_mode(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._mode is None else self._mode

    def _as_loaded_again(self) -> AbstractContextManager[None]:
        """The model as it computes once it was saved, which is what is scored on the test split."""
        if not self._prepared.recipe.train.fused_lora:
            return nullcontext()
        from hfstrat.models.fused import unfused

        return unfused(self._state.model)

    @contextmanager
    def _as_for_features(self, stage: Solve) -> Iterator[None]:
        """The model without its output, and an adapter that does nothing yet where a run leaves it out.

        As in `caching.features_of`.
        """
        prepared, model = self._prepared, self._state.model
        is_left_out = prepared.recipe.train.cache and prepared.base.adapter is None and begins_idle(model)
        with scoring.output_removed(model, stage.output), switched_off(model) if is_left_out else nullcontext():
            yield

    def _solve(self, stage: Solve) -> int:
        state = self._state
        layer: Any = module_at(state.model, stage.output)[2]
        longest = longest_batch(state)
        with self._in_mode():
            features = {
                name: torch.empty(part.count, layer.in_features)
                for name, part in self._prepared.encoded.items()
                if name != "test"
            }
            live = live_of_features(state.model, features, longest, state)
        state.trained |= {f"{stage.output}.weight", f"{stage.output}.bias"}
        return live

    def _fit(self, stage: Fit) -> None:
        """Try a stage, what it keeps and what it evaluates."""
        state, recipe = self._state, self._prepared.recipe
        steps = schedule(recipe, self._prepared.plan, state.training, stage)
        if not len(steps):
            return
        with self._in_mode():
            compact_for(stage.train, state, None)
        state.trained |= {*freeze(state.model, stage)}
        depth = cached_blocks(state, len(steps) / steps.per_epoch)
        form = self._form(depth) if depth else None
        if form is not None:
            block = self._prepared.anatomy.stacks[0][depth - 1]
            for place, part in enumerate(part for name, part in self._prepared.encoded.items() if name != "test"):
                self._look(f"{stage.name}: cache {place}", part, up_to=block)
        with nullcontext() if form is None else self._stubbed(depth, form):
            self._updates(stage, steps)
            if state.held_out is not None:
                evaluations = _evaluations(steps, recipe.evaluate.every)
                self._look(f"{stage.name}: validation", state.held_out, evaluations, kept=recipe.task.kept)

    def _updates(self, stage: Fit, steps: Schedule) -> None:
        """Try the updates of a stage: the one that takes most memory, and some of different sizes."""
        state, prepared, accelerator = self._state, self._prepared, self._accelerator
        recipe, data = prepared.recipe, state.training
        model = accelerator.prepare_model(state.model, device_placement=self._real)
        made = optimizer_for(model, stage, fitting.settings_of(recipe, len(steps)))
        optimizer = accelerator.prepare_optimizer(made, device_placement=self._real)
        loss = fitting.sum_loss(prepared, accelerator.device)

        def step_of(rows: IntArray) -> engine.Step:
            return fitting.step_of(fitting.Planned(0.0, rows, 0), prepared, data, accelerator, state.micro)

        def updates(rows: IntArray) -> Made:
            step = step_of(rows)
            run = partial(fitting.tried_updates, model, optimizer, loss=loss, state=state, stage=stage)
            return step.batches, lambda times: run(steps=[step] * times)

        def live_of(rows: IntArray) -> int:
            step = step_of(rows)
            held = [*tensors(model), *fitting.aside_of(model), *step.tensors]
            with self._in_mode(), LiveBytes(held) as live:
                for _ in fitting.tried_updates(model, optimizer, [step], loss, state, stage):
                    pass
            optimizer.optimizer.state.clear()
            return live.peak

        budget = state.micro * data.longest
        tried = {live_of(rows): rows for rows in costliest(data, recipe.train.batch_size, budget)}
        live = max(tried)
        if live > self._tried.live:
            # The passes of an update differ in size, and the largest is the one to be made smaller.
            pass_ = max(cut(data, tried[live], budget), key=lambda part: arithmetic.size_of(collate(data, part))[0])
            half = len(pass_) // 2
            self._tried.live, self._tried.together = live, len(pass_)
            self._tried.live_of_one = max(0.0, live_of(pass_) - live_of(pass_[half:])) / max(1, half)
        rows, count = _some(steps)
        own = [each.rows[:: accelerator.num_processes] for each in rows]
        self._tried.passes[stage.name] = self._pass(stage.name, data, own, count, budget, updates)
        state.model = fitting.bare(accelerator.unwrap_model(model))
        accelerator.free_memory()

    def _form(self, depth: int) -> Form | None:
        """How what the first blocks give is kept; None where they hand on more than one tensor."""
        state, block = self._state, self._prepared.anatomy.stacks[0][depth - 1]
        batch = collate(state.training, state.training.samples[:1])
        with self._in_mode(), scoring.evaluating(state.model), torch.no_grad(), self._accelerator.autocast():
            said = partial(engine.logits_of, state.model, batch, self._accelerator.device)
            return Form.of(prefix.output_of(state.model, block, said), state.training)

    @contextmanager
    def _stubbed(self, depth: int, form: Form) -> Iterator[None]:
        """Stubs for what is computed once."""
        state = self._state
        training, held_out = state.training, state.held_out
        hidden = Hidden(np.broadcast_to(np.zeros((), form.stored), form.whole(training)), form.dtype)
        self._tried.cached = max(self._tried.cached, hidden.values.dtype.itemsize * hidden.values.size)
        state.training = training.with_hidden(hidden)
        if held_out is not None:
            own = np.broadcast_to(np.zeros((), form.stored), form.whole(held_out))
            state.held_out = held_out.with_hidden(Hidden(own, form.dtype))
        try:
            with prefix.stubbed(state.model, self._prepared.anatomy.stacks[0][:depth], form.wrap):
                yield
        finally:
            state.training, state.held_out = training, held_out

    def _look(
        self,
        name: str,
        data: Encoded,
        times: float = 1.0,
        *,
        kept: scoring.Kept | None = None,
        up_to: str | None = None,
    ) -> None:
        """Try batches of a split that the model says something about.

        Args:
            name: Of the pass.
            data: The split.
            times: How often all of them are made.
            kept: What is kept of what it says, as in `scoring.logits`.
            up_to: The block at which a pass ends; None where it does not.
        """
        state, recipe = self._state, self._prepared.recipe
        size = recipe.evaluate.batch_size if kept is None else recipe.evaluation_size
        device = self._accelerator.device

        def looks(rows: IntArray) -> Made:
            batch = collate(data, rows)
            said = partial(scoring.kept_of, state.model, batch, device, kept, self._accelerator)

            def run(times: int) -> Iterator[None]:
                for _ in range(times):
                    with scoring.evaluating(state.model), torch.no_grad(), self._accelerator.autocast():
                        said() if up_to is None else prefix.output_of(state.model, up_to, said)
                    yield None

            return [batch], run

        rows, count = _some([*evaluation_rows(data, size)])
        found = self._pass(name, data, rows, count, size * data.longest, looks, like=self._looked)
        self._tried.passes[name] = replace(found, times=times)
        self._looked = self._looked or found

    def _pass(
        self,
        name: str,
        data: Encoded,
        rows: Sequence[IntArray],
        count: int,
        budget: int,
        made: Callable[[IntArray], Made],
        like: Pass | None = None,
    ) -> Pass:
        """Count the arithmetic of some of the batches; where tensors are there, take their time as well.

        Args:
            name: Of the pass.
            data: What batches are made of.
            rows: Samples of each batch that is looked at.
            count: How many batches there are.
            budget: Tokens of a forward pass.
            made: Makes a batch and its passes.
            like: A pass whose batches take as long for their arithmetic as these, and were timed.
        """
        if data.signals is None:
            batches = [made(which)[0] for which in rows]
            sizes = [arithmetic.size_of(*parts) for parts in batches]
            sides = [[*map(sides_of, parts)] for parts in batches]
        else:  # to read them takes long, and their sizes are known
            cuts = [cut(data, which, budget) for which in rows]
            sizes = [_size_of_signals(data, parts) for parts in cuts]
            sides = [[(int(data.lengths[part].max()), len(part)) for part in parts] for parts in cuts]
        found = Pass(count, np.array(sizes), arithmetic.telling(np.array(sizes)), timed=like)
        timed = _timed(found) if self._real and like is None else ()
        known = self._counted.get(name)
        products: list[tuple[list[Sides], set[arithmetic.Product]]] = []
        for number, place in enumerate(found.samples):
            _, run = made(rows[place])
            if known is None:
                counter = self._counts(run)
                products.append((sides[place], counter.products))
            found.flops.append(counter.flops if known is None else known.flops[number])
            found.seconds.append(_duration(run(1 + _TIMES)) if place in timed else None)
        found.products = products_of_all(products, sides) if known is None else known.products
        return found

    def _counts(self, run: Run) -> arithmetic.Counter:
        with self._in_mode(), arithmetic.Counter() as counter:
            for _ in run(1):
                pass
        return counter


def _duration(passes: Iterator[Any]) -> float:
    """Seconds that each of some equal passes takes, the first of which is not counted."""
    found: list[float] = []
    start = time.perf_counter()
    for _ in passes:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        found.append(now - start)
        start = now
        if sum(found[1:]) > _TIMED_FOR:
            break
    return statistics.median(found[1:])


def _evaluations(steps: Schedule, every: Any) -> int:
    """How often validation is looked at: after so many updates or each epoch, and at the end."""
    if every == "epoch":
        return sum(map(steps.ends_epoch, range(len(steps)))) + (not steps.ends_epoch(len(steps) - 1))
    return -(-len(steps) // int(every))


def _training(prepared: Prepared) -> Encoded:
    """What gradient stages train on; what a teacher says has its shape and no content."""
    data = prepared.encoded["train"]
    if prepared.plan.distillation is None:
        return data
    if prepared.unlabelled is not None:
        data = data.and_unlabelled(prepared.unlabelled[1])
    classes = len(prepared.material.labels.names)
    return data.with_teacher(np.broadcast_to(np.float32(0), (data.count, classes)))


def _some(each: Sequence[T]) -> tuple[list[T], int]:
    """So many as are looked at, at even distances, and how many there are."""
    places = np.unique(np.linspace(0, len(each) - 1, min(_LOOKED_AT, len(each))).astype(int)) if len(each) else ()
    return [each[int(place)] for place in places], len(each)


def _size_of_signals(data: Encoded, parts: Sequence[IntArray]) -> FloatArray:
    """What `arithmetic.size_of` says of pictures or sounds that are computed at once, filled up to the longest."""
    example = data.samples[:1]
    scale = arithmetic.size_of(collate(data, example))[0] / data.lengths[example[0]]
    numbers = np.array([scale * len(part) * data.lengths[part].max() for part in parts])
    counts = np.array([len(part) for part in parts])
    found: FloatArray = np.stack([numbers, counts, numbers**2 / counts, counts], axis=1).sum(axis=0)
    return found


def _timed(found: Pass) -> set[int]:
    """A small, a middling and a large batch of those that are tried."""
    by_size = sorted(found.samples, key=lambda place: float(found.sizes[place, 0]))
    return {by_size[int(place)] for place in np.linspace(0, len(by_size) - 1, min(SAMPLES, len(by_size)))}
