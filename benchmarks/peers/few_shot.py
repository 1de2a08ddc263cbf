"""SetFit (arXiv:2209.11055): the encoder is tuned on pairs of texts, then a logistic regression is put on it.

python -m peers.few_shot '{"strategy": "full", "data": …, …}'
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments

from peers.job import Job, answer, read

PAIRS = 20  # of each kind for each text, as in the paper; every possible pair would take hours


def work(job: Job) -> Mapping[str, Any]:
    """Train with SetFit's defaults but for the number of pairs, and score."""
    torch.set_num_threads(job.threads)
    splits, _ = read(job)
    model = SetFitModel.from_pretrained(job.base, device="cpu")
    train = Dataset.from_dict({"text": splits["train"].texts, "label": splits["train"].labels})
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            num_iterations=PAIRS,
            seed=job.seed,
            report_to="none",
            eval_strategy="no",
            save_strategy="no",
            show_progress_bar=False,
        )
        trainer = Trainer(model=model, args=settings, train_dataset=train)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    found = [int(label) for label in model.predict(splits["test"].texts, batch_size=64)]
    right = sum(one == other for one, other in zip(found, splits["test"].labels, strict=True))
    return {"train_seconds": seconds, "accuracy": right / len(found), "examples": 2 * 2 * PAIRS * len(train)}


if __name__ == "__main__":
    answer(work)
