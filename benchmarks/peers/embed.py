"""sentence-transformers and scikit-learn: vectors computed once, logistic regression with C chosen on validation.

python -m peers.embed '{"strategy": "head", "data": …, …}'
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from peers.job import Job, answer, read

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)


def work(job: Job) -> Mapping[str, Any]:
    """Embed, fit a few times, keep the fit with the lowest validation loss, score it."""
    torch.set_num_threads(job.threads)
    splits, names = read(job)
    options = {"dtype": torch.bfloat16} if job.bf16 else {}
    encoder = SentenceTransformer(job.base, device="cpu", model_kwargs=options)

    def vectors(name: str) -> np.ndarray:
        found = encoder.encode(splits[name].texts, batch_size=64, convert_to_tensor=True, show_progress_bar=False)
        return found.float().numpy()

    start = time.perf_counter()
    train, validation = vectors("train"), vectors("validation")
    fits = [LogisticRegression(C=c, max_iter=1000).fit(train, splits["train"].labels) for c in STRENGTHS]
    held_out = splits["validation"].labels
    losses = [log_loss(held_out, fit.predict_proba(validation), labels=range(len(names))) for fit in fits]
    best = fits[int(np.argmin(losses))]
    seconds = time.perf_counter() - start
    return {
        "train_seconds": seconds,
        "accuracy": float(best.score(vectors("test"), splits["test"].labels)),
        "examples": len(train),
        "c": best.C,
    }


if __name__ == "__main__":
    answer(work)
