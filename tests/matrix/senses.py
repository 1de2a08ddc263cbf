"""Pairs with architectures that see or hear: what a run does, done with the layers below it.

Whatever of a run knows nothing of tokens is used as it is: planning, building, the loop, the best state, the artefact;
whole runs are those of `tests/tasks/test_image_classification.py` and `tests/tasks/test_audio_classification.py`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from hfstrat import fitting
from hfstrat.data.batching import Batch
from hfstrat.execute import quiet
from hfstrat.models import artifact
from hfstrat.models.anatomy import module_at
from hfstrat.models.base import Base
from hfstrat.models.build import Arithmetic, Shape, build, plan_adapter, plan_shape
from hfstrat.models.quantize import to_json
from hfstrat.outline import outline
from hfstrat.prepare import check_all_train
from hfstrat.runs.events import Observer
from hfstrat.runs.records import Ledger, Log
from hfstrat.state import State
from hfstrat.strategies import Strategy
from hfstrat.strategies.plan import Anatomy, Fit, Plan, Solve, Stage
from hfstrat.tasks.base import FloatArray, Labels
from hfstrat.tasks.text_classification import TextClassification
from hfstrat.training import engine, scoring
from hfstrat.training.optim import Settings, freeze, optimizer_for, restore
from hfstrat.training.solve import solve
from tests import tiny
from tests.matrix.pairs import (
    AUTO,
    LABELS,
    LR,
    Bases,
    Moved,
    Pair,
    base_of,
    settings_of,
    statistics_of,
    watching,
    without,
)
from tests.training.helpers import Weights, weights

UPDATES = 4
ROWS = 8
TARGETS = torch.arange(ROWS) % 2
Inputs = dict[str, torch.Tensor]


def trained(family: str, strategy: str, bases: Bases, folder: Path) -> Pair:
    """Plan, build, solve, fit, save."""
    quiet()
    spec: Any = TypeAdapter(Strategy).validate_python(settings_of(family, strategy, bases, folder))
    body = spec.body()
    base = opened(family, Path(body.origin or base_of(family, bases)))
    shape = Shape(AUTO[family], Labels("single_label", LABELS), "native", False, dropout=0.0)
    anatomy, _ = plan_shape(base, shape, body)
    plan = spec.plan(anatomy, UPDATES)
    check_all_train(plan, anatomy)
    added = plan_adapter(base, shape, plan, None)
    model: Any = build(base, shape, plan, anatomy, 0, None, Arithmetic("fp32"))
    prepared: Any = SimpleNamespace(plan=plan, anatomy=anatomy, added=added, encoded={})
    kept = SimpleNamespace(gradient_checkpointing=False)
    prepared.recipe = SimpleNamespace(strategy=spec, seed=0, train=kept)
    inputs, before = inputs_of(family), weights(model)
    batch = Batch(inputs, TARGETS, None, np.arange(ROWS), np.arange(ROWS), teacher=taught(plan, shape, inputs))
    doing = Doing(prepared, model, batch, Settings(updates=UPDATES, lr=LR[strategy], warmup=0.0))
    for stage in plan.stages:
        doing.solve(stage) if isinstance(stage, Solve) else doing.fit(stage)
    after = weights(model)
    restore(model, doing.state.best)
    artifact.save(model, processor_of(family, bases), folder / "artifact", base.name, extra_of(plan, anatomy))

    def scored(model: nn.Module) -> FloatArray:
        return logits_of(model, inputs).numpy()

    return Pair(
        anatomy=anatomy,
        plan=plan,
        added=added,
        outline=outline(prepared),
        model=model,
        before=before,
        after=after,
        moved=doing.moved,
        kept=doing.kept,
        logits=scored(model),
        without=without(model, anatomy, before, scored),
        program=program(family, folder, inputs, base, plan, anatomy),
    )


def opened(family: str, location: Path) -> Base:
    """A base as a run opens it, without its processor."""
    config = transformers.AutoConfig.from_pretrained(location)
    classifies = any("Classification" in name for name in config.architectures)
    return Base(
        location=str(location),
        name=f"tiny/{family}",
        config=config,
        tokenizer=None,
        max_length=None,
        pooling=None,
        normalize=False,
        pooled=False,
        labels=LABELS if classifies else None,
        adapter=None,
        code=None,
        hub={},
    )


@cache
def accelerator() -> Accelerator:
    """A CPU in single precision."""
    return Accelerator(cpu=True)


def inputs_of(family: str) -> Inputs:
    """Images, or a tenth of a second of sound each."""
    generator = torch.Generator().manual_seed(7)
    if family == "wav2vec2":
        return {"input_values": torch.randn(ROWS, 1600, generator=generator)}
    return {"pixel_values": torch.randn(ROWS, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, generator=generator)}


def processor_of(family: str, bases: Bases) -> Any:
    """What makes inputs of images or sound."""
    auto = transformers.AutoFeatureExtractor if family == "wav2vec2" else transformers.AutoImageProcessor
    return auto.from_pretrained(base_of(family, bases))


def logits_of(model: nn.Module, inputs: Inputs) -> torch.Tensor:
    """Logits in eval mode, `(examples, classes)`."""
    with scoring.evaluating(model), torch.no_grad():
        found: torch.Tensor = model(**inputs).logits
    return found


def taught(plan: Plan, shape: Shape, inputs: Inputs) -> torch.Tensor | None:
    """The teacher's logits."""
    if plan.distillation is None:
        return None
    return logits_of(artifact.load(Path(plan.distillation.teacher), None, shape.auto_class), inputs)


# --- stages -------------------------------------------------------------------------------------------------------


class Doing:
    """What `stages` does, without tokens, and with each stage's first update kept as the best."""

    def __init__(self, prepared: Any, model: nn.Module, batch: Batch, settings: Settings) -> None:
        nothing: Any = None
        self.state = State(prepared, accelerator(), Observer(), nothing, Ledger(), Log(None), model, nothing)
        self.moved: list[Moved] = []
        self.kept: Weights = {}
        self._model, self._batch, self._settings = model, batch, settings

    def solve(self, stage: Solve) -> None:
        """Solve the output layer, by the loss on the same examples in place of validation."""
        layer: Any = module_at(self._model, stage.output)[2]
        with scoring.output_removed(self._model, stage.output):
            features = logits_of(self._model, self._batch.inputs)

        def loss(logits: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(logits, TARGETS)

        solution = solve(features, loss, len(LABELS), stage.l2[:2], lambda predict: -float(loss(predict(features))))
        with watching(stage, self._model, self.moved), torch.no_grad():
            layer.weight.copy_(solution.weight)
            layer.bias.copy_(solution.bias)
        self.state.trained |= {f"{stage.output}.weight", f"{stage.output}.bias"}
        self._keep(stage, 0)

    def fit(self, stage: Fit) -> None:
        """Train from the best state so far."""
        self.state.begin(set(freeze(self._model, stage)))
        np.random.seed(0)  # wav2vec2 draws its masks with NumPy
        with watching(stage, self._model, self.moved):
            for update in engine.fit(
                self._model,
                optimizer_for(self._model, stage, self._settings),
                [engine.Step(1.0, [self._batch], float(ROWS), ROWS)] * UPDATES,
                loss_of(self.state.prepared.plan),
                self._settings,
                self.state.accelerator,
                seed=0,
                stage=stage.name,
                **fitting._adapter_steps(stage, self._model),
            ):
                if update.number == 1:
                    self._keep(stage, 1)

    def _keep(self, stage: Stage, update: int) -> None:
        self.state.consider(stage.name, update, None, self._model)
        self.kept = weights(self._model) | statistics_of(self._model)


def loss_of(plan: Plan) -> engine.Loss:
    """Sum of the losses, with a teacher if the plan has one."""
    taught, task = plan.distillation, TextClassification

    def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        hard = task.loss(logits, batch.targets, "single_label")
        if taught is None:
            return hard
        soft = task.distillation_loss(logits, batch.teacher, "single_label", taught.temperature).sum()
        return taught.alpha * soft + (1 - taught.alpha) * hard

    return loss


# --- elsewhere ----------------------------------------------------------------------------------------------------


def extra_of(plan: Plan, anatomy: Anatomy) -> dict[str, Any]:
    """What an artefact's configuration says beside the model."""
    return {"storage": plan.body.storage and to_json(plan.body.storage, anatomy.head, "fp32")}


def program(family: str, folder: Path, inputs: Inputs, base: Base, plan: Plan, anatomy: Anatomy) -> str:
    """Lines like those of a model card."""
    save_file(inputs, folder / "inputs.safetensors")
    artefact, auto = str(folder / "artifact"), AUTO[family]
    lines = [
        "import torch",
        "from peft import PeftModel",
        "from safetensors.torch import load_file",
        f"from transformers import AutoConfig, BitsAndBytesConfig, {auto}",
    ]
    if plan.adapter is None:
        lines.append(f"model = {auto}.from_pretrained({artefact!r}, dtype=torch.float32).eval()")
    else:
        lines += [
            f"config = AutoConfig.from_pretrained({artefact!r})",
            "options = {'config': config, 'ignore_mismatched_sizes': True, 'dtype': torch.float32}",
            *quantization(plan, anatomy),
            f"base = {auto}.from_pretrained({base.location!r}, **options)",
            "for module in base.modules():",
            "    module.support_avx512bf16_for_cpu = False",
            f"model = PeftModel.from_pretrained(base, {artefact!r}).eval()",
        ]
    return "\n".join(
        [
            *lines,
            "with torch.inference_mode():",
            f"    logits = model(**load_file({str(folder / 'inputs.safetensors')!r})).logits",
        ]
    )


def quantization(plan: Plan, anatomy: Anatomy) -> list[str]:
    """The line that quantises the base, where it was."""
    storage = plan.body.storage
    if storage is None:
        return []
    options = (
        f"load_in_4bit=True, bnb_4bit_quant_type={storage.quant_type!r}, "
        f"bnb_4bit_use_double_quant={storage.double_quant}, bnb_4bit_compute_dtype=torch.float32, "
        f"llm_int8_skip_modules={list(anatomy.head)!r}"
    )
    return [f"options['quantization_config'] = BitsAndBytesConfig({options})"]
