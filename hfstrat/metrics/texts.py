"""What texts that a model writes are measured by: each metric as a sum over texts, or as counts that are summed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]


def exact(said: Sequence[str], true: Sequence[str]) -> FloatArray:
    """1 where a text is the true one but for white space around it, float64 `(n,)`."""
    pairs = zip(said, true, strict=True)
    return np.array([a.strip() == b.strip() for a, b in pairs], dtype=np.float64)


def rouge(kind: str, said: Sequence[str], true: Sequence[str]) -> FloatArray:
    """F1 of common n-grams or of the longest common subsequence, with Porter's stems, of each text `(n,)`.

    Args:
        kind: `rouge1`, `rouge2` or `rougeL` (Lin 2004).
        said: What was written.
        true: What is true.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], use_stemmer=True)
    return np.array([scorer.score(b, a)[kind].fmeasure for a, b in zip(said, true, strict=True)])


def corpus(
    kind: str, said: Sequence[str], true: Sequence[str]
) -> tuple[npt.NDArray[np.int64], Callable[[Sequence[float]], float]]:
    """Counts of each text `(n, k)`, and what their sums come to, in points of 100.

    Args:
        kind: `bleu` or `chrf`, as sacrebleu has them (Post 2018, arXiv:1804.08771; Popović 2015).
        said: What was written.
        true: What is true.
    """
    from sacrebleu.metrics import BLEU, CHRF

    scorer: Any = BLEU() if kind == "bleu" else CHRF()
    counts = scorer._extract_corpus_statistics(list(said), [list(true)])
    return np.array(counts, dtype=np.int64), lambda sums: float(scorer._compute_score_from_stats(list(sums)).score)
