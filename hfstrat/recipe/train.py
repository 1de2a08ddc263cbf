"""How the gradient stages of a run are trained."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hfstrat.spec import Spec

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]


def _pace(text: str) -> str:
    if text != "auto" and not re.fullmatch(r"(?=.*[1-9])[0-9]+(\.[0-9]+)? (minutes|%)", text):
        raise ValueError(f"'{text}' is no pace: write a number of updates, `10 minutes`, `2 %`, auto or null")
    return text


Pace = Annotated[str, AfterValidator(_pace)]


class OptimizerSpec(Spec):
    """AdamW and its constants (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the running means of gradient and squared gradient."""
    eps: Rate = 1e-8
    """Added to the denominator."""


class EarlyStopping(Spec):
    """Stop when the validation score has not improved for some evaluations."""

    patience: Count = 3
    """Evaluations without improvement before training stops."""
    min_delta: NonNegative = 0.0
    """An improvement counts when it is larger than this, in the metric's own unit."""


class TrainSpec(Spec):
    """Settings of the loop; `auto` is resolved to a value with its reason before training."""

    epochs: Annotated[float, Field(gt=0)] | Auto = "auto"
    """Passes over the training split; auto: enough for about a thousand updates."""
    max_steps: Count | None = None
    """Updates, instead of epochs."""
    batch_size: Count = 32
    """Examples per update, over all processes."""
    micro_batch_size: Count | Auto = "auto"
    """The longest texts that go through the model at once on each process, and of shorter ones as many as take no more
    room; results do not depend on it."""
    gradient_checkpointing: bool = False
    """Keep the input of each block alone for backward, and compute again what else it needs: the same bits in less
    memory, by one forward pass more. It is turned on where memory runs out with one example at once."""
    padding: Annotated[int, Field(ge=0)] | Auto | None = "auto"
    """Tokens of padding that a pass through the model computes at most: where texts of different lengths leave more,
    they go through in more passes; results do not depend on it. null: any number. auto: as many as take the time of a
    pass on a CPU, and any number elsewhere."""
    lr: Rate | Auto = "auto"
    """Peak learning rate; auto: the strategy's default for this model size."""
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the learning rate after warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the updates over which the learning rate rises from zero."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Where the schedule ends, as a share of the peak."""
    weight_decay: NonNegative | Auto = "auto"
    """Decoupled decay of matrices outside embeddings; auto: the strategy's default."""
    clip: Rate | None = 1.0
    """Largest gradient norm; null: no clipping."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of forward and backward; parameters stay fp32. auto: bf16 where the hardware has it."""
    hold_bf16: bool | Auto = "auto"
    """In bf16: hold the frozen weights of linear layers in bfloat16 too, instead of rounding them in each pass, which
    gives the same bits; auto: where an adapter does no more than multiply by them."""
    fused_lora: bool | Auto = "auto"
    """Compute LoRA's layers in fewer operations than PEFT does, which rounds once less; layers that are more than a
    product (DoRA, dropout, quantised) stay as they are. auto: on a CPU, where it was measured."""
    fast_dropout: bool | Auto = "auto"
    """Draw four of dropout's masks from one random number, with rates rounded to 1/65536; auto: on a CPU, whose own
    masks come from a generator with one thread."""
    threads: Count | Auto = "auto"
    """CPU threads of each process; auto: OMP_NUM_THREADS where you set it, else cores divided by processes here."""
    cache: bool | Auto = "auto"
    """Compute what frozen layers give once and keep it, for this run and for others on the same data; auto: where it
    pays."""
    compact_vocabulary: bool | Auto = "auto"
    """Where token embeddings train, hold the rows alone whose tokens occur; results do not depend on it. auto: where at
    least half of the rows can be left out."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread over all classes."""
    early_stopping: EarlyStopping | None = None
    """When to stop before the last update; null: never."""
    checkpoint_every: Count | Pace | None = "auto"
    """Updates from one checkpoint to the next, or `10 minutes`, or `2 %` of the time; auto: 2 %; null: never."""
    keep_checkpoints: Count = 2
    """Checkpoints that are kept while a run goes on: if the last is damaged, `--resume` takes the one before."""
    profile: bool = False
    """Trace five updates of each stage by PyTorch's profiler, into the run's `profile/`: a file for Perfetto or
    chrome://tracing, and a table by phase and operation."""
    deterministic: bool = False
    """On a GPU: only operations that give the same bytes each time; slower. A CPU gives the same bytes anyway."""


class EvaluateSpec(Spec):
    """What is measured, how often, and what decides."""

    metrics: Annotated[tuple[str, ...], Field(min_length=1)] | Auto = "auto"
    """Names of metrics; auto: the task's."""
    select_by: str | Auto = "auto"
    """The metric that chooses the best state on validation; auto: the first of `metrics`."""
    every: Literal["epoch"] | Count = "epoch"
    """Evaluate on validation after each epoch, or every so many updates."""
    batch_size: Count = 64
    """Examples that go through the model at once while evaluating."""
