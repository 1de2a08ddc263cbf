"""Frozen work is done once: what the frozen part of a model gives is kept, for this run and for others.

A miss is computed into the cache and then read from it, as a hit is, in a fixed order and in fixed batches; so hit,
miss and a cache that was cleared in between give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import nn

from hfstrat.data.batching import Batch, collate, evaluation_batches
from hfstrat.models import prefix
from hfstrat.models.adapters import beside_base, switched_off
from hfstrat.models.anatomy import canonical, named_parameters
from hfstrat.runs import store
from hfstrat.runs.store import Array
from hfstrat.state import State
from hfstrat.strategies.plan import Fit
from hfstrat.tasks.base import Encoded, Hidden, IntArray
from hfstrat.training import scoring
from hfstrat.training.arithmetic import Meter, size_of
from hfstrat.training.engine import logits_of
from hfstrat.training.machine import circumstances

FORMAT = 1  # of what is kept, and of the batches in which it is computed: to be raised when either changes
# What a configuration says that frozen layers in eval mode do not depend on.
_NO_MATTER = re.compile(
    r"dropout|layerdrop|pdrop|label|problem_type|_name_or_path|_version|architectures|auto_map|dtype|gradient_checkpointing"
)
# Relative difference of logits, computed through the stored states and through the blocks, that rounding explains.
_ROUNDING, _COARSE_ROUNDING = 1e-4, 5e-2


def features_of(model: nn.Module, output: str, data: Encoded, state: State) -> torch.Tensor:
    """What the output layer gets for each unit of a split, float32 `(units, width)` on the run's device.

    Args:
        model: The model, all of it frozen but its output layer.
        output: Canonical path of that layer.
        data: The split.
        state: The run.
    """
    batch_size = state.prepared.recipe.evaluate.batch_size

    def compute() -> Array:
        phase, meter = state.ledger.phases["solve"], Meter()
        phase.tokens += data.tokens
        with meter.told(phase.computed):
            return scoring.logits(model, data, batch_size, state.accelerator, state.observer.advance, meter=meter)

    if not state.prepared.recipe.train.cache:
        with scoring.output_removed(model, output):
            values = compute()
    else:
        with scoring.output_removed(model, output), _idle_adapter_off(model, data, state) as beside:
            tensors = {name: value for name, value in model.state_dict().items() if name not in beside}
            key = _key("features", tensors, model, data, state)
            what = f"features of {len(data):,} texts by {state.prepared.base.name}"
            values = _whole(key, what, compute, state, len(data))
    own = values if values.flags.writeable else np.array(values)  # what the cache has is read-only
    return torch.from_numpy(own).to(state.accelerator.device)


@contextmanager
def _idle_adapter_off(model: nn.Module, data: Encoded, state: State) -> Iterator[set[str]]:
    """The model without an adapter that does nothing yet: its features are those of the base, which other runs have.

    Yields:
        Names in the model's state that nothing depends on.
    """
    beside = beside_base(model) if hasattr(model, "peft_config") else set()
    with ExitStack() as stack:
        if beside:
            batch, device = collate(data, data.samples), state.accelerator.device
            with scoring.inferring(model, state.accelerator):
                adapted = logits_of(model, batch, device)
            stack.enter_context(switched_off(model))
            with scoring.inferring(model, state.accelerator):
                idle = torch.equal(adapted, logits_of(model, batch, device))
            if not idle:
                stack.close()
                beside = set()
        yield beside


@contextmanager
def replayed(stage: Fit, state: State, passes: float) -> Iterator[None]:
    """A stage in which the frozen blocks are not computed, where the recipe wants that and the model allows it.

    Args:
        stage: The stage, whose parameters are frozen already.
        state: The run; its model and its splits are those of the stage inside of the block.
        passes: How often the stage goes over the training split.
    """
    model, depth = state.model, cached_blocks(state, passes)
    if depth == 0:
        yield
        return
    blocks = state.prepared.anatomy.stacks[0][:depth]
    form = _probe(model, blocks, state)
    if not isinstance(form, str):
        form = _with_room(form, state)
    if isinstance(form, str):
        state.observer.note(f"the {depth} frozen blocks are computed every time: {form}")
        yield
        return
    training, held_out, meter = state.training, state.held_out, state.meter
    with state.ledger.phase("cache") as phase:
        phase.computed(0.0)  # unless something is
        state.training = training.with_hidden(_hidden(model, blocks, form, training, state))
        if held_out is not None:
            state.held_out = held_out.with_hidden(_hidden(model, blocks, form, held_out, state))
    state.meter = Meter()  # evaluations take less from here on
    try:
        with prefix.stubbed(model, blocks, form.wrap):
            yield
    finally:
        state.training, state.held_out, state.meter = training, held_out, meter


def cached_blocks(state: State, passes: float) -> int:
    """How many of the lowest blocks a stage would compute once, if the model allows it; its parameters are frozen."""
    # What frozen blocks read is another text each time, is beside others, or is still being written.
    unknown = state.training.masking is not None or state.training.packed or state.judge.writes
    if not state.prepared.recipe.train.cache or passes <= 1 or unknown:
        return 0
    return state.prepared.anatomy.frozen_blocks(state.trained)


@dataclass(frozen=True)
class Form:
    """How a block gives its hidden states.

    Args:
        wrap: Puts a tensor into the form in which the block returns it.
        shape: Of what it gives for a token, or for a signal.
        dtype: By torch's name.
    """

    wrap: Callable[[torch.Tensor], Any]
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, output: Any, data: Encoded) -> Form | None:
        """The form of what a block gave once for examples; None where it hands on more than hidden states."""
        wrap = prefix.wrapping(output)
        if wrap is None:
            return None
        hidden = _tensor(output)
        shape = tuple(hidden.shape[1:] if data.signals is not None else hidden.shape[-1:])
        return cls(wrap, shape, str(hidden.dtype).removeprefix("torch."))

    @property
    def stored(self) -> str:
        """NumPy's name of what it is kept as: it has no bfloat16."""
        return "uint16" if self.dtype == "bfloat16" else self.dtype

    def whole(self, data: Encoded) -> tuple[int, ...]:
        """Shape of what it gives for all of a split."""
        return (data.tokens if data.signals is None else len(data), *self.shape)


def _probe(model: nn.Module, blocks: tuple[str, ...], state: State) -> Form | str:
    """Try on some texts whether the model gives the same without its lowest blocks; else why not.

    Each text goes through the blocks alone, and then through the rest together with others, so that a model whose
    hidden states depend on the padding around a text is found out too.
    """
    data, device = state.training, state.accelerator.device
    coarse = any(value.dtype not in (torch.float32, torch.float64) for value in model.parameters())
    rows = data.samples
    parts, wrap = [], None
    precise = state.accelerator.autocast if coarse else nullcontext  # where it can be told from rounding best
    with scoring.evaluating(model), torch.inference_mode(), precise():
        for row in rows:
            batch = collate(data, np.array([row]))
            output = prefix.output_of(model, blocks[-1], partial(logits_of, model, batch, device))
            wrap = prefix.wrapping(output)
            if wrap is None:
                return "they hand on more than hidden states"
            hidden = _tensor(output).cpu()
            if data.signals is None and hidden.shape[:-1] != batch.inputs["attention_mask"].shape:
                return "they do not give one vector for each token"
            parts.append(_seen(hidden, batch))
            if parts[-1].shape[1:] != parts[0].shape[1:]:
                return "they do not give as much for each example"
        assert wrap is not None, "there is at least one example"
        together, hidden = collate(data, rows), torch.cat(parts)
        if data.signals is None:
            mask = together.inputs["attention_mask"].bool()
            hidden = hidden.new_zeros(*mask.shape, hidden.shape[-1])
            hidden[mask] = torch.cat(parts)
        expected = logits_of(model, together, device)
        with prefix.stubbed(model, blocks, wrap):
            prefix.hand_over(model, hidden.to(device))
            found = logits_of(model, together, device)
        with state.accelerator.autocast():
            batch = collate(data, rows[:1])
            form = Form.of(prefix.output_of(model, blocks[-1], partial(logits_of, model, batch, device)), data)
    allowed = (_COARSE_ROUNDING if coarse else _ROUNDING) * max(1.0, float(expected.abs().max()))
    if not float((found - expected).abs().max()) <= allowed:
        return "what is above them needs more than their hidden states"
    assert form is not None, "it gave hidden states alone above"
    return form


def _seen(hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """What a block gives without that of padding: `(tokens, width)`; of signals all of it, `(examples, …)`."""
    return hidden[batch.inputs["attention_mask"].bool()] if "input_ids" in batch.inputs else hidden


def _with_room(form: Form, state: State) -> Form | str:
    """The form, where the cache has room for a whole split; else that it has not.

    Of texts that is known before a run begins. What a convolution gives has a shape of its own.
    """
    size = getattr(torch, form.dtype).itemsize
    needed, free = size * math.prod(form.whole(state.training)), store.room()
    short = torch.tensor([needed > free], device=state.accelerator.device)
    if not bool(state.accelerator.gather(short).any()):
        return form
    return f"they give {needed / 1e9:.1f} GB, and the cache has room for {free / 1e9:.1f} GB"


def _tensor(output: Any) -> torch.Tensor:
    found: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return found


def _hidden(model: nn.Module, blocks: tuple[str, ...], form: Form, data: Encoded, state: State) -> Hidden:
    """What the uppermost frozen block gives for all tokens of a split."""
    anatomy, accelerator = state.prepared.anatomy, state.accelerator
    upper = (*anatomy.stacks[0][len(blocks) :], *anatomy.above, *anatomy.head)
    named = {canonical(name, model): value for name, value in model.state_dict().items()}
    key = _key(f"blocks {len(blocks)}", prefix.below(named, upper), model, data, state)
    noun = "texts" if data.signals is None else "examples"
    what = f"{len(data):,} {noun} after {len(blocks)} blocks of {state.prepared.base.name}"

    def fill(values: Array, alone: bool) -> None:
        state.observer.phase("cache", len(data), noun)
        phase, meter = state.ledger.phases["cache"], Meter()
        phase.tokens += data.tokens
        batch_size, device = state.prepared.recipe.evaluate.batch_size, accelerator.device
        process, processes = (0, 1) if alone else (accelerator.process_index, accelerator.num_processes)
        with scoring.inferring(model, accelerator), meter.told(phase.computed):
            for batch in evaluation_batches(data, batch_size, process, processes):
                with meter.around(size_of(batch)):
                    output = prefix.output_of(model, blocks[-1], partial(logits_of, model, batch, device))
                hidden = _seen(_tensor(output).cpu(), batch)
                bits = hidden.view(torch.uint16) if form.stored == "uint16" else hidden
                values[_places(data, batch.rows)] = bits.numpy()
                state.observer.advance(len(batch.rows))

    return Hidden(_filled(key, what, form.whole(data), form.stored, fill, state), form.dtype)


def _places(data: Encoded, rows: IntArray) -> IntArray:
    """Where what is seen of some examples stands in the whole, in the order of a mask over their windows."""
    if data.signals is not None:
        return rows
    source, mask = data.columns["input_ids"].places(data.windows_of(rows), left=data.left)
    return source[mask]


def _whole(key: str, what: str, compute: Callable[[], Array], state: State, examples: int) -> Array:
    """An array about some examples that is computed as a whole on all processes, if the cache does not have it."""
    kept = _agreed_find(key, state)
    if kept is not None:
        state.observer.note(f"{what} are read from the cache")
        state.observer.advance(examples)
        return kept
    values = compute()
    if state.accelerator.is_main_process:
        try:
            with store.begun(key, what, values.shape, str(values.dtype)) as file:
                store.opened(file, values.shape, str(values.dtype))[:] = values
        except OSError as error:
            state.observer.warn(f"the cache cannot be written, so nothing is kept: {error}")
    return values


def _filled(
    key: str, what: str, shape: tuple[int, ...], dtype: str, fill: Callable[[Array, bool], None], state: State
) -> Array:
    """An array that each process fills its part of, mapped from the cache.

    Raises:
        OSError: It could not be kept to the end.
    """
    accelerator, file = state.accelerator, None
    kept = _agreed_find(key, state)
    if kept is not None:
        state.observer.note(f"{what} are read from the cache")
        return kept
    with ExitStack() as stack:
        if accelerator.is_main_process:
            try:
                file = stack.enter_context(store.begun(key, what, shape, dtype))
            except OSError as error:
                state.observer.warn(f"the cache cannot be written, so this run holds its values in memory: {error}")
        (file,) = broadcast_object_list([file])
        if file is None:
            values: Array = np.zeros(shape, dtype)
            fill(values, True)
            return values
        fill(store.opened(file, shape, dtype), False)
        accelerator.wait_for_everyone()
    accelerator.wait_for_everyone()
    found = store.find(key)
    if found is None:
        raise OSError(f"{store.home() / key} was removed while it was written")
    return found


def _agreed_find(key: str, state: State) -> Array | None:
    """The array of a key, if every process sees it."""
    found = store.find(key)
    if state.accelerator.num_processes == 1:
        return found
    seen = torch.tensor([found is not None], device=state.accelerator.device)
    return found if bool(state.accelerator.gather(seen).all()) else None


def _key(kind: str, tensors: Mapping[str, torch.Tensor], model: nn.Module, data: Encoded, state: State) -> str:
    """A name for an array that says all that its bytes depend on."""
    recipe, device, anatomy = state.prepared.recipe, state.accelerator.device, state.prepared.anatomy
    here = circumstances(1)
    own = {canonical(name, model): value for name, value in tensors.items() if ".original_module." not in name}
    adapted = any(name not in anatomy.parameters for name, _ in named_parameters(model) if name in own)
    inner = type(model.get_base_model()) if hasattr(model, "peft_config") else type(model)  # type: ignore[operator]
    described = {
        "format": FORMAT,
        "kind": kind,
        "class": f"{inner.__module__}.{inner.__qualname__}",
        "adapter": {name: one.to_dict() for name, one in model.peft_config.items()} if adapted else None,  # type: ignore[operator, union-attr]
        "config": _essence(json.loads(model.config.to_json_string(use_diff=False))),  # type: ignore[union-attr, operator]
        "code": None if state.prepared.base.code is None else state.prepared.base.fingerprint,
        "attention": recipe.model.attention,
        "precision": recipe.train.precision,
        "batch_size": recipe.evaluate.batch_size,
        "padding": data.padding,
        "left": data.left,
        "pad": dict(data.pad),
        "threads": here["threads"],
        "versions": here["versions"],
        "device": (device.type, here["device"]),
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=_plain).encode())
    # In bf16 the weights of linear layers are rounded before they are used, and may be held so (`train.hold_bf16`).
    linear = {f"{path}.{name}" for path in anatomy.linear for name in ("weight", "bias")}
    rounded = linear if recipe.train.precision == "bf16" else set()
    for name, value in sorted(own.items()):
        value = value.to(torch.bfloat16) if name in rounded and value.is_floating_point() else value
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    for name, column in sorted(data.columns.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(column.values).data)
        digest.update(np.ascontiguousarray(column.offsets).data)
    digest.update(np.ascontiguousarray(data.windows).data)
    if data.signals is not None:
        digest.update(data.signals.digest)
    if data.units is not None:
        digest.update(np.ascontiguousarray(data.units.values).data)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """What JSON has no form for, the same in every process."""
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)


def _essence(config: Any) -> Any:
    """A configuration without what frozen layers in eval mode do not depend on."""
    if isinstance(config, dict):
        return {name: _essence(value) for name, value in config.items() if not _NO_MATTER.search(name)}
    return config
