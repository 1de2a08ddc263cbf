"""What Transformers' Trainer is told so that it trains as a run of hfstrat did."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainingArguments


def arguments(recipe: Mapping[str, Any], metric: str, **more: Any) -> TrainingArguments:
    """The settings of a run: epochs, batches, optimiser, schedule and precision; the best state by validation is kept.

    Args:
        recipe: The run's resolved recipe.
        metric: What the best state is best by; the lowest one if it is `loss`.
        more: Other arguments, or these in another way.
    """
    from transformers import TrainingArguments

    train = recipe["train"]
    settings: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "num_train_epochs": train["epochs"],
        "per_device_train_batch_size": train["batch_size"],
        "per_device_eval_batch_size": 64,
        "learning_rate": train["lr"],
        "weight_decay": train["weight_decay"],
        "adam_beta1": train["optimizer"]["betas"][0],
        "adam_beta2": train["optimizer"]["betas"][1],
        "adam_epsilon": train["optimizer"]["eps"],
        "max_grad_norm": train["clip"] or 0.0,
        "lr_scheduler_type": train["schedule"],
        "warmup_steps": train["warmup"],
        "bf16": train["precision"] == "bf16",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
        "greater_is_better": metric != "loss",
        "report_to": [],
        "seed": recipe["seed"],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return TrainingArguments(**{**settings, **more})
