"""The checkpoints of a run: when one is written, what it holds, and how a run goes on from it."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hfstrat.models.adapters import allocator_state, set_allocator_state
from hfstrat.models.anatomy import named_parameters
from hfstrat.prepare import Prepared
from hfstrat.recipe.recipe import Recipe
from hfstrat.recipe.train import TrainSpec
from hfstrat.training import checkpoint as files
from hfstrat.training.checkpoint import Checkpoint
from hfstrat.training.machine import circumstances
from hfstrat.training.optim import restore

if TYPE_CHECKING:
    from hfstrat.state import Patience, State

FOLDER = "checkpoints"
# The first checkpoint, whose time nobody knows yet, is expected to be written at this rate.
BYTES_PER_SECOND = 200e6
# However cheap checkpoints are, more of them help nobody.
LEAST_SECONDS = 10.0


@dataclass(frozen=True)
class Identity:
    """What has to be the same for a run to go on, as digests.

    Args:
        recipe: The resolved recipe, its name apart.
        data: What is trained on and measured: tokens and targets of all splits, and texts without labels.
        base: The base's weights.
        teacher: The teacher's; empty without one.
        vocabulary: The rows of the token embedding that train without the others; empty where all do.
    """

    recipe: str
    data: str
    base: str
    teacher: str
    vocabulary: str

    @classmethod
    def of(cls, prepared: Prepared) -> Identity:
        """The identity of what was prepared."""
        return cls(
            recipe_digest(prepared.recipe),
            prepared.digest,
            prepared.base.fingerprint,
            prepared.teacher.base.fingerprint if prepared.teacher is not None else "",
            prepared.compact.digest if prepared.compact is not None else "",
        )

    def differences(self, stored: Mapping[str, str]) -> list[str]:
        """Which parts differ from those of a checkpoint."""
        return [name for name, value in vars(self).items() if stored.get(name) != value]


def recipe_digest(recipe: Recipe) -> str:
    """Digest of a resolved recipe; where the run lies or goes does not count, nor how often it writes checkpoints.

    Nor does what is settled anew where memory runs out: a checkpoint has its own.
    """
    free = {
        "checkpoint_every": None,
        "keep_checkpoints": 1,
        "profile": False,
        "micro_batch_size": 1,
        "gradient_checkpointing": False,
    }
    train = recipe.train.model_copy(update=free)
    same = recipe.model_copy(update={"name": "run", "train": train})
    return hashlib.sha256(same.model_dump_json(exclude={"hub"}).encode()).hexdigest()


class Checkpoints:
    """Writes the checkpoints of a run.

    Args:
        folder: Where they lie; None where none are written.
        train: How often they are written, and how many are kept.
    """

    def __init__(self, folder: Path | None = None, train: TrainSpec = TrainSpec()) -> None:  # noqa: B008 - frozen
        self._folder = folder
        self._every, self._keep = train.checkpoint_every, train.keep_checkpoints
        self._clock = time.monotonic
        self._last, self._wait = self._clock(), 0.0

    @property
    def wanted(self) -> bool:
        """Whether this process writes any."""
        return self._folder is not None and self._every is not None

    @property
    def newest(self) -> Path | None:
        """The last one that was written."""
        return next(iter(files.paths(self._folder)), None) if self._folder is not None else None

    def expect(self, size: int) -> None:
        """Start to wait for the first checkpoint of a stage, which will have so many bytes."""
        if self._wait == 0.0:
            self._wait = size / BYTES_PER_SECOND
        self._last = self._clock()

    def due(self, update: int) -> bool:
        """Whether one should be written after so many updates of a stage."""
        if not self.wanted:
            return False
        if isinstance(self._every, int):
            return update % self._every == 0
        amount, _, unit = str(self._every).partition(" ")
        seconds = 60 * float(amount) if unit == "minutes" else max(LEAST_SECONDS, self._wait * 100 / float(amount))
        return self._clock() - self._last >= seconds

    def save(
        self,
        state: State,
        stage: int,
        update: int,
        optimizer: Any = None,
        patience: Patience | None = None,
    ) -> None:
        """Write one, where any are wanted.

        Args:
            state: The run.
            stage: The stage that goes on from here.
            update: Its updates that are done.
            optimizer: Its optimiser, when some are.
            patience: Its rule to stop early.

        Raises:
            OSError: It cannot be written; those before are still there.
        """
        if self._folder is None or not self.wanted:
            return
        start = self._clock()
        with state.ledger.phase("checkpoint"):
            model = state.accelerator.unwrap_model(state.model)
            groups = {
                "current": state.trained_tensors(model),
                "best": state.best,
                "optimizer": _optimizer_tensors(optimizer, model) if optimizer is not None else {},
                "allocator": allocator_state(model),
            }
            scaler = getattr(state.accelerator, "scaler", None)
            data = {
                "stage": stage,
                "update": update,
                "identity": vars(Identity.of(state.prepared)),
                "circumstances": circumstances(state.accelerator.num_processes),
                "trained": sorted(state.trained),
                "best": {"score": state.best_score, "at": state.best_at},
                "patience": patience.stored() if patience is not None else None,
                "scaler": scaler.state_dict() if scaler is not None else None,
                "micro": state.micro,
                "recomputes": state.recomputes,
                "exact": state.exact,
                "log": state.log.position(),
                "ledger": state.ledger.stored(),
            }
            files.write(self._folder, f"{stage:02d}-{update:09d}", groups, data)
            files.prune(self._folder, self._keep)
        self._last = self._clock()
        self._wait = self._last - start

    def remove(self) -> None:
        """Remove all of them, when a run is done."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def go_on(checkpoint: Checkpoint, state: State) -> None:
    """Put a run where a checkpoint has it, but for what the stage under way makes itself."""
    data = checkpoint.data
    state.trained = set(data["trained"])
    state.best = checkpoint.tensors("best")
    score = data["best"]["score"]
    state.best_score, state.best_at = None if score is None else tuple(score), data["best"]["at"]
    state.micro, state.exact = data["micro"], data["exact"]
    if data["recomputes"]:
        state.recompute()
    state.placed()
    restore(state.model, checkpoint.tensors("current"))
    set_allocator_state(state.model, checkpoint.tensors("allocator"))


def load_optimizer(checkpoint: Checkpoint, optimizer: Any, model: nn.Module) -> None:
    """Give a prepared optimiser what it knew."""
    stored: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in checkpoint.tensors("optimizer").items():
        owner, _, key = name.rpartition("/")
        stored.setdefault(owner, {})[key] = tensor
    inner, parameters = optimizer.optimizer, dict(named_parameters(model))
    for name, values in stored.items():
        parameter = parameters[name]
        # The number of steps stays where AdamW puts it: on the CPU, and on the device where it is fused.
        inner.state[parameter] = {key: value.to(parameter.device) for key, value in values.items()}


def _optimizer_tensors(optimizer: Any, model: nn.Module) -> dict[str, torch.Tensor]:
    inner = optimizer.optimizer
    return {
        f"{name}/{key}": value
        for name, parameter in named_parameters(model)
        if parameter in inner.state
        for key, value in inner.state[parameter].items()
    }
