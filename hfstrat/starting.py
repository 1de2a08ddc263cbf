"""What an adapter starts from where that is found in the training data: EVA (Paischer et al. 2024).

arXiv:2410.07170, with ranks as they are given.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hfstrat.data.batching import Batch, collate
from hfstrat.errors import Problem, RecipeError
from hfstrat.models.adapters import starts_from_data
from hfstrat.runs.events import Observer
from hfstrat.tasks.base import Encoded
from hfstrat.training.engine import logits_of

if TYPE_CHECKING:
    from accelerate import Accelerator

EXAMPLES = 2048
"""Of the training split, at most; the search ends before where directions move no more, and begins again where not."""

_HINT = "Use a smaller strategy.r, or another strategy.init"


def start_from_data(
    model: nn.Module, data: Encoded, batch_size: int, seed: int, accelerator: Accelerator, observer: Observer
) -> None:
    """Set the A matrices of an adapter that starts from its layers' inputs; of others nothing changes.

    Every process looks at the same examples and finds the same directions.

    Args:
        model: The model, on its device.
        data: The training split.
        batch_size: Examples in a pass.
        seed: Which examples.
        accelerator: Sets the precision.
        observer: Hears of it.

    Raises:
        RecipeError: The rank is larger than some layer's input, or than the texts give directions.
    """
    if not starts_from_data(model):
        return
    from peft import initialize_lora_eva_weights

    rank = next(iter(model.peft_config.values())).r  # type: ignore[operator]
    if len(data) < rank:
        what = f"{len(data)} training examples give no {rank} directions to start from"
        raise RecipeError(Problem(what, "strategy.init", hint=_HINT))
    # A layer above a pooler gets one vector for each example, and a batch has to give directions enough.
    batches = some_batches(data, max(batch_size, rank), seed)
    count = sum(len(batch.rows) for batch in batches)
    observer.note(f"the adapter starts from what its layers get for {count:,} training examples")
    try:
        with warnings.catch_warnings(), accelerator.autocast():
            warnings.simplefilter("ignore")  # of inputs that PEFT would move to the device; they are places here
            initialize_lora_eva_weights(
                model,
                [torch.tensor(place) for place in range(len(batches))],
                forward_fn=lambda whole, place: logits_of(whole, batches[int(place)], accelerator.device),
                prepare_model_inputs_fn=lambda place, _: batches[int(place)],
                prepare_layer_inputs_fn=_inputs_of_layer,
                gather_distributed_inputs=False,
                show_progress_bar=False,
            )
    except (ValueError, KeyError, RuntimeError) as error:
        said = " ".join(str(error).split())
        what = f"EVA finds no start for this adapter: {said.rstrip('.')}"
        raise RecipeError(Problem(what, "strategy.init", hint=_HINT)) from error
    model.eval()


def some_batches(data: Encoded, size: int, seed: int) -> list[Batch]:
    """Up to `EXAMPLES` of a split, in batches of one size."""
    rows = np.random.default_rng(seed).permutation(len(data))[:EXAMPLES]
    size = min(size, len(rows))
    whole = len(rows) // size * size
    return [collate(data, np.sort(part)) for part in rows[:whole].reshape(-1, size)]


def _inputs_of_layer(given: Any, batch: Batch, _: str) -> torch.Tensor:
    """What a layer gets for each token that is not padding, `(tokens, features)`."""
    found: torch.Tensor = given if isinstance(given, torch.Tensor) else given[0]
    for mask in (mask for name, mask in batch.inputs.items() if name.endswith("attention_mask")):
        if found.shape[: mask.dim()] == mask.shape:
            return found[mask.to(found.device).bool()].float().contiguous()
    return found.reshape(-1, found.shape[-1]).float().contiguous()
