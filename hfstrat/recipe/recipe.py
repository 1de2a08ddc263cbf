"""Recipe: the whole of a run's description."""

from __future__ import annotations

from typing import Literal

from hfstrat.metrics import of_texts
from hfstrat.recipe.compare import CompareSpec, Name
from hfstrat.recipe.data import DataSpec, Seed
from hfstrat.recipe.hub import HubSpec
from hfstrat.recipe.model import ModelSpec
from hfstrat.recipe.train import EvaluateSpec, TrainSpec
from hfstrat.spec import Spec
from hfstrat.strategies import Strategy
from hfstrat.tasks import Task


class Recipe(Spec):
    """One YAML file: a model, a task, data, and how the model is trained on them."""

    name: Name
    """The run's directory under `runs/`: letters, digits, `.`, `_`, `-`."""
    seed: Seed = 0
    """Seed of initial weights, order of examples, and dropout."""
    model: ModelSpec
    """Which model the run starts from."""
    task: Task
    """What the model learns."""
    data: DataSpec
    """Where the examples come from."""
    strategy: Strategy
    """How the model is trained; if you do not know, leave it out and ask `hfstrat advise` or `hfstrat compare`."""
    train: TrainSpec = TrainSpec()
    """Settings of the loop."""
    evaluate: EvaluateSpec = EvaluateSpec()
    """What is measured."""
    track: tuple[Literal["tensorboard", "trackio", "wandb", "mlflow", "comet_ml", "clearml", "swanlab"], ...] = ()
    """Experiment trackers, through Accelerate."""
    compare: CompareSpec = CompareSpec()
    """Arms and seeds of `hfstrat compare`; `train` does not read it."""
    hub: HubSpec = HubSpec()
    """Where `hfstrat push` sends the run; `train` does not read it."""

    @property
    def evaluation_size(self) -> int:
        """Examples that are scored at once: of outputs as wide as a vocabulary no more than are trained on at once."""
        size = self.evaluate.batch_size
        return min(size, int(self.train.micro_batch_size)) if self.task.of_vocabulary else size

    @property
    def padding(self) -> int | None:
        """Tokens of padding that a pass computes at most, once that is resolved; None: any number."""
        return None if self.train.padding == "auto" else self.train.padding

    @property
    def writes(self) -> bool:
        """Whether a metric is of texts that the model writes."""
        if not self.task.of_vocabulary:
            return False
        chosen = self.evaluate.metrics
        return of_texts(self.task.default_metrics("tokens") if chosen == "auto" else chosen, "tokens")
