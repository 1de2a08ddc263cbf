"""Which examples an update sees: a function of (seed, epoch), the same for any number of processes.

Batches hold texts of similar length, so that little padding is computed; which batch comes when is random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hfstrat.data.shuffling import Shuffled, ShuffledBatches
from hfstrat.tasks.base import DECODER, Encoded, Hidden, IntArray, OwnLoss
from hfstrat.tasks.implied import Lengths

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Batch:
    """Examples that go through the model at once.

    Args:
        inputs: Keyword arguments of the model: int64 `(windows, length)` each.
        targets: Targets `(units, …)`; None without labels.
        owner: For each window, its example's place in the batch `(windows,)`; None when each has one window, or when
            the model's outputs are those of tokens.
        rows: Which examples of the split, `(examples,)`.
        units: Which units of the split the outputs are about, `(units,)`.
        picked: Where the outputs of these units stand among those of all tokens, padding included, int64 `(units,)`;
            None when the model has one output for each example.
        scale: 1, or 0 for a batch that only keeps processes in step.
        teacher: A teacher's logits `(units, classes)`; None without one.
        labelled: Which targets count, bool `(units,)`; None when all do.
        hidden: What the frozen blocks give, `(windows, length, width)`, zero for padding; of signals `(examples, …)`;
            None when they are run.
        own: How the model is asked, where it computes its loss itself.
        tokens: Tokens that are not padding; pictures and sound have none.
    """

    inputs: dict[str, torch.Tensor]
    targets: torch.Tensor | None
    owner: torch.Tensor | None
    rows: IntArray
    units: IntArray
    picked: torch.Tensor | None = None
    scale: float = 1.0
    teacher: torch.Tensor | None = None
    labelled: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    own: OwnLoss | None = None
    tokens: int = 0


def collate(data: Encoded, rows: IntArray, scale: float = 1.0) -> Batch:
    """Cut examples out of the token columns."""
    import torch

    windows = data.windows_of(rows)
    if data.signals is not None:
        inputs = {name: torch.from_numpy(values) for name, values in data.signals.inputs(rows).items()}
    else:
        inputs = _in_one_row(data, windows) if data.packed else _padded(data, windows)
    units, picked = rows, None
    if data.units is not None:
        left = data.left and DECODER not in data.columns
        said = data.units.taken(windows).values if data.packed else data.units.padded(windows, -1, left=left)[0]
        picked = np.flatnonzero(said >= 0)
        units = said.ravel()[picked]
    targets = None if data.targets is None else np.ascontiguousarray(data.targets[units])
    if targets is not None and targets.dtype in (np.int32, np.uint16):  # ids of tokens, of which there are many
        targets = targets.astype(np.int64)
    averaged = data.units is None and len(windows) != len(rows)
    return Batch(
        inputs=inputs,
        targets=None if targets is None else torch.from_numpy(targets),
        owner=torch.from_numpy(_owners(data, rows)) if averaged else None,
        rows=rows,
        units=units,
        picked=None if picked is None else torch.from_numpy(picked),
        scale=scale,
        teacher=torch.from_numpy(data.teacher[units]) if data.teacher is not None else None,
        labelled=torch.from_numpy(data.labelled[units]) if data.labelled is not None else None,
        hidden=None if data.hidden is None else _hidden(data, data.hidden, windows),
        own=data.own,
        tokens=0 if data.signals is not None else _tokens(inputs),
    )


def _tokens(inputs: Mapping[str, torch.Tensor]) -> int:
    masks = [mask for name, mask in inputs.items() if name.endswith("attention_mask")]
    return sum(int(mask.sum()) for mask in masks) if masks else inputs["input_ids"].numel()


def _padded(data: Encoded, windows: IntArray) -> dict[str, torch.Tensor]:
    """A row for each window, filled up to the longest."""
    import torch

    inputs: dict[str, torch.Tensor] = {}
    for name, column in data.columns.items():
        own = name == DECODER
        values, mask = column.padded(windows, data.pad[name], left=data.left and not own)
        inputs[name] = torch.from_numpy(values)
        inputs["decoder_attention_mask" if own else "attention_mask"] = torch.from_numpy(mask)
    return inputs


def _in_one_row(data: Encoded, windows: IntArray) -> dict[str, torch.Tensor]:
    """One row of all windows, whose positions tell a model where each begins; a mask would make it forget that."""
    import torch

    taken = {name: column.taken(windows) for name, column in data.columns.items()}
    lengths = np.asarray(taken["input_ids"].lengths)
    taken_values = {name: column.values.astype(np.int64) for name, column in taken.items()}
    taken_values["position_ids"] = np.concatenate([np.arange(length) for length in lengths])
    return {name: torch.from_numpy(values)[None] for name, values in taken_values.items()}


def _owners(data: Encoded, rows: IntArray) -> IntArray:
    return np.repeat(np.arange(len(rows)), data.windows[rows + 1] - data.windows[rows])


def _hidden(data: Encoded, hidden: Hidden, windows: IntArray) -> torch.Tensor:
    import torch

    if data.signals is not None:
        values = hidden.values[windows]
    else:
        source, mask = data.columns["input_ids"].places(windows, left=data.left)
        values = hidden.values[source]
        values[~mask] = 0
    return torch.from_numpy(values).view(getattr(torch, hidden.dtype))


def order(lengths: IntArray | Lengths, batch_size: int, seed: int, epoch: int) -> Sequence[IntArray]:
    """The examples of each update of an epoch.

    A random order is cut into stretches of up to 50 batches; each is sorted by length and cut into batches, and
    the batches are shuffled. Few examples make at least four stretches, so that batches differ between epochs.
    Pieces of a stream are alike, and any number of them is shuffled where it is asked for.

    Args:
        lengths: Tokens of each example `(n,)`.
        batch_size: Examples per update; the last of them may have fewer.
        seed: The run's seed.
        epoch: Number of the epoch, from 0.
    """
    if isinstance(lengths, Lengths):
        return ShuffledBatches(Shuffled(len(lengths), seed, epoch), batch_size)
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    shuffled = rng.permutation(len(lengths))
    stretch = batch_size * max(1, min(50, len(lengths) // (4 * batch_size)))
    batches = []
    for start in range(0, len(shuffled), stretch):
        part = shuffled[start : start + stretch]
        part = part[np.argsort(-lengths[part], kind="stable")]
        batches += [part[place : place + batch_size] for place in range(0, len(part), batch_size)]
    return [batches[place] for place in rng.permutation(len(batches))]


def share(data: Encoded, rows: IntArray, budget: int, process: int, processes: int) -> list[Batch]:
    """The micro-batches of one process in one update.

    Every process gets the same number of them; where examples run out, one with scale 0 fills the place.

    Args:
        data: The training split.
        rows: All examples of the update.
        budget: Tokens of a micro-batch at most, padding included; an example alone may have more. Where padding is
            more than a pass of its own costs, `data.padding`, there are more and smaller ones.
        process: This process.
        processes: How many there are.
    """
    parts = [cut(data, rows[number::processes], budget) for number in range(processes)]
    rounds = max(map(len, parts))
    batches = [collate(data, part) for part in parts[process]]
    return batches + [collate(data, rows[:1], scale=0.0) for _ in range(rounds - len(batches))]


def cut(data: Encoded, rows: IntArray, budget: int) -> list[IntArray]:
    """Stretches of examples, in their order, of no more tokens than that, nor more padding than the split allows."""
    starts, windows, width, tokens = [0], 0, 0, 0
    spare = math.inf if data.padding is None or data.signals is not None or data.packed else data.padding
    counts, lengths = data.windows[rows + 1] - data.windows[rows], data.lengths[rows]
    for place, (count, length) in enumerate(zip(counts.tolist(), lengths.tolist(), strict=True)):
        windows, width, tokens = windows + count, max(width, length), tokens + count * length
        whole = tokens if data.packed else windows * width
        if (whole > budget or whole - tokens > spare) and place > starts[-1]:
            starts.append(place)
            windows, width, tokens = count, length, count * length
    return np.split(rows, starts[1:]) if len(rows) else []


def evaluation_batches(data: Encoded, batch_size: int, process: int = 0, processes: int = 1) -> Iterator[Batch]:
    """Every example once over all processes, longest first.

    Args:
        data: The split.
        batch_size: Examples of a batch; of those that are read in several windows, as many as have no more of them.
        process: This process.
        processes: How many there are.
    """
    for number, rows in enumerate(evaluation_rows(data, batch_size)):
        if number % processes == process:
            yield collate(data, rows)


def evaluation_rows(data: Encoded, batch_size: int) -> Iterator[IntArray]:
    """The examples of each batch of an evaluation, as of `evaluation_batches`."""
    by_length = np.lexsort((-np.diff(data.windows), -np.asarray(data.lengths)))
    for start in range(0, len(by_length), batch_size):
        yield from cut(data, by_length[start : start + batch_size], batch_size * data.longest)


def costliest(data: Encoded, batch_size: int, budget: int) -> list[IntArray]:
    """Updates of which one takes about as much memory as any: the longest examples, and what makes the largest pass.

    Args:
        data: The training split.
        batch_size: Examples of an update.
        budget: As of `share`.
    """
    longest = data.costliest(batch_size)
    if data.padding is None or isinstance(data.lengths, Lengths):
        return [longest]  # nothing is parted that fits, and of what fits the longest are the most
    by_cost, largest, most = data.costliest(len(data)), longest, 0.0
    for start in range(0, len(by_cost), -(-batch_size // 4)):
        rows = by_cost[start : start + batch_size]
        costs = [_memory(data, part) for part in cut(data, rows, budget)]
        if max(costs) > most:
            largest, most = rows, max(costs)
        if _memory(data, rows[:1]) * batch_size <= most:
            break  # neither this one nor shorter ones can be larger
    return [longest] if np.array_equal(largest, longest) else [longest, largest]


def _memory(data: Encoded, rows: IntArray) -> float:
    """What the activations of a pass grow with: tokens with padding, and attention's scores at about 256 tokens."""
    windows, width = np.diff(data.windows)[rows].sum(), float(data.lengths[rows].max())
    return float(windows * width * (1 + width / 256))


def padding_share(data: Encoded, batch_size: int, seed: int, budget: int | None = None) -> float:
    """Share of the computed tokens of an epoch that are padding; `budget` is that of `share`, None for any."""
    if data.packed:
        return 0.0
    lengths = data.lengths
    if isinstance(lengths, Lengths):
        return 1 - lengths.sum() / (lengths.max() * len(lengths))
    most = batch_size * data.longest if budget is None else budget
    parts = (part for rows in order(lengths, batch_size, seed, 0) for part in cut(data, rows, most))
    computed = sum(int(lengths[part].max()) * len(part) for part in parts)
    return 1.0 - float(lengths.sum()) / computed if computed else 0.0
