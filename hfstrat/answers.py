"""Answers as SQuAD compares them: without case, punctuation, articles and the amount of white space.

Rajpurkar et al. 2016 (arXiv:1606.05250), and 2018 (arXiv:1806.03822) for questions without an answer.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """A text without what does not count."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction is one of the answers, or is empty as there is none; else 0."""
    said = normalized(prediction)
    return float(any(said == normalized(answer) for answer in answers or ("",)))


def answer_f1(prediction: str, answers: Sequence[str]) -> float:
    """The largest F1 of the prediction's words against those of an answer."""
    return max(_f1(normalized(prediction).split(), normalized(answer).split()) for answer in answers or ("",))


def _f1(said: list[str], true: list[str]) -> float:
    if not said or not true:
        return float(said == true)
    common = sum((Counter(said) & Counter(true)).values())
    return 2 * common / (len(said) + len(true))
