"""The compact vocabulary: rows of the token embedding whose tokens occur train alone, to the same bits.

The row of a token that occurs in no text gets no gradient, and embeddings get no weight decay, so AdamW never moves it.
While a model trains, such rows need to be neither in memory nor in the optimiser: they lie in a file, and come back
when the model is saved. Ids stay the tokenizer's own everywhere in the model.

The bits are those of the whole embedding in one process and in two; from three on, the order in which gradients of
processes are added up depends on where in a buffer they lie.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from hfstrat.models.anatomy import module_at
from hfstrat.recipe.facts import TokenUse
from hfstrat.strategies.plan import Anatomy, Plan, TokenTable, matches
from hfstrat.tasks.base import DECODER, Encoded, IntArray

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

NO_TOKENS = "it has no embedding of token ids"
_MATRIX = "weight"
_AT_ONCE = 1_000_000
# PyTorch's fused AdamW computes what is left over after the last 64 bytes, which are 16 floats, in scalars, and rounds
# there otherwise than in vectors.
_UNIT = 16


@dataclass(frozen=True)
class Apart:
    """Rows of a token embedding that train without the others.

    Args:
        path: The embedding's canonical path.
        ids: Ids whose rows train, sorted.
        used: How many of them are in use; the others only keep the arithmetic of the optimiser as it is.
        rows: Rows of the whole embedding.
    """

    path: str
    ids: IntArray
    used: int
    rows: int

    @property
    def parameter(self) -> str:
        """Canonical name of the matrix, whole or not."""
        return f"{self.path}.weight"

    @property
    def digest(self) -> str:
        """A name for these very rows."""
        return hashlib.sha256(np.ascontiguousarray(self.ids, np.int64).tobytes()).hexdigest()


def ids_in_use(
    parts: Iterable[Encoded], tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, rows: int
) -> IntArray:
    """Ids that a model may see while it trains: those of the texts, and special ones, sorted.

    Args:
        parts: All texts that it sees.
        tokenizer: Whose special tokens count.
        config: The model's, whose `*_token_id` count.
        rows: Rows of the embedding.
    """
    seen = np.zeros(rows, bool)
    for part in parts:
        for name in {"input_ids", DECODER} & {*part.columns}:
            values = part.columns[name].values
            for start in range(0, len(values), _AT_ONCE):  # there may be more of them than memory has room for
                seen[values[start : start + _AT_ONCE]] = True
        seen[part.pad["input_ids"]] = True
    special = [*tokenizer.all_special_ids]
    for name, value in config.to_dict().items():
        if name.endswith("_token_id"):
            special += value if isinstance(value, list) else [value]
    for one in special:
        if isinstance(one, int) and 0 <= one < rows:  # some configurations say -1 for none
            seen[one] = True
    return np.flatnonzero(seen)


def apart(plan: Plan, anatomy: Anatomy, ids: IntArray) -> Apart | str:
    """The rows that are to train without the others; or why all rows are kept.

    Args:
        plan: What trains.
        anatomy: Where the embedding is.
        ids: Ids in use.
    """
    table = anatomy.tokens
    if table is None:
        return NO_TOKENS
    if whole := TokenUse(len(ids), table.rows, table.bound).whole:
        return whole
    if not any(matches(f"{table.path}.weight", stage.train) for stage in plan.stages if stage.kind == "fit"):
        return "its embedding of tokens does not train by gradient"
    if plan.adapter is not None:
        return "PEFT keeps a second copy of what trains beside an adapter"
    return Apart(table.path, _aligned(ids, table), len(ids), table.rows)


def _aligned(ids: IntArray, table: TokenTable) -> IntArray:
    """Ids with some more, so that the optimiser's arithmetic is that of the whole matrix.

    What is left over after the last full unit has to be the same elements: the last rows, and as many before them as
    leave over the same.
    """
    last = np.arange(table.rows - math.ceil((_UNIT - 1) / table.width), table.rows)
    ids = np.union1d(ids, last[last >= 0]) if table.rows * table.width % _UNIT else ids
    lacking = next(n for n in range(_UNIT) if (table.rows - len(ids) - n) * table.width % _UNIT == 0)
    others = np.setdiff1d(np.arange(table.rows), ids)
    return np.union1d(ids, others[:lacking])


class CompactEmbedding(nn.Embedding):
    """An embedding that has some rows only, and is asked for them by their ids in the whole one.

    Args:
        whole: The whole embedding.
        ids: Ids whose rows are kept, int64 `(n,)`, sorted: so rows add their gradients up in the same order.
    """

    lookup: torch.Tensor

    def __init__(self, whole: nn.Embedding, ids: IntArray) -> None:
        device = whole.weight.device
        rows = whole.weight.detach()[torch.from_numpy(ids).to(device)]
        super().__init__(len(ids), whole.embedding_dim, _weight=rows)
        # What a model asks an embedding for is said in ids.
        self.num_embeddings, self.padding_idx = whole.num_embeddings, whole.padding_idx
        lookup = np.full(whole.num_embeddings, len(ids), np.int32)  # one past the last row: an error
        lookup[ids] = np.arange(len(ids), dtype=np.int32)
        self.register_buffer("lookup", torch.from_numpy(lookup).to(device), persistent=False)
        padding = len(ids) if whole.padding_idx is None else int(lookup[whole.padding_idx])
        self._padding_row = padding if padding < len(ids) else None
        self.train(whole.training)
        self.weight.requires_grad_(whole.weight.requires_grad)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Rows of ids, float `(…, width)`.

        Args:
            input: Ids, int64 of any shape.

        Raises:
            IndexError: An id has no row here (on a CPU; a GPU ends with an assertion of its own).
        """
        rows = self.lookup.index_select(0, input.reshape(-1)).view(input.shape)
        return nn.functional.embedding(rows, self.weight, self._padding_row)


def compact(model: nn.Module, apart: Apart, file: Path | None) -> None:
    """Leave the rows in use in a model's embedding.

    Args:
        model: The model, not wrapped.
        apart: The rows.
        file: Where the whole matrix is kept until `expand`; None on a process that does not save the model.

    Raises:
        OSError: It cannot be written.
    """
    parent, attribute, module = module_at(model, apart.path)
    assert type(module) is nn.Embedding, "rows of a plain embedding can train alone"
    if file is not None:
        save_file({_MATRIX: module.weight.detach()}, file)
    setattr(parent, attribute, CompactEmbedding(module, apart.ids))


def is_compact(model: nn.Module, apart: Apart) -> bool:
    """Whether a model has the rows in use only."""
    return isinstance(module_at(model, apart.path)[2], CompactEmbedding)


def expand(model: nn.Module, apart: Apart, file: Path) -> None:
    """Put the whole matrix back, with the rows that trained in it, and remove its file.

    Args:
        model: A model after `compact`, not wrapped.
        apart: The rows.
        file: Where the whole matrix is.
    """
    parent, attribute, module = module_at(model, apart.path)
    assert isinstance(module, CompactEmbedding), "only what was compacted is expanded"
    with safe_open(file, "pt") as stored:
        matrix: torch.Tensor = stored.get_tensor(_MATRIX)
    matrix[torch.from_numpy(apart.ids)] = module.weight.detach().to("cpu", matrix.dtype)
    whole = nn.Embedding(apart.rows, module.embedding_dim, module.padding_idx, _weight=matrix.to(module.weight.device))
    setattr(parent, attribute, whole.train(module.training))
    file.unlink()
