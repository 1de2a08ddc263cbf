"""Redact: keep tokens, passwords and control characters out of what is shown and written.

Messages quote what other libraries say, and those quote URLs and headers; a traceback or a status file is what people
paste into an issue. A secret is known by its look, or because a variable of the environment with a telling name holds
it.
"""

from __future__ import annotations

import os
import re

MASK = "***"

SHORTEST = 8
"""Shorter values of the environment are words more often than secrets."""

_START = r"(?<![A-Za-z0-9_])"
_LOOKS = re.compile(
    "|".join(
        [
            rf"{_START}(?:hf|api_org)_[A-Za-z0-9]{{16,}}",  # Hugging Face
            rf"{_START}(?:gh[opsur]_[A-Za-z0-9]{{16,}}|github_pat_\w{{16,}})",
            # OpenAI and others; `sk-` also starts names of things, which have no long run of letters with a digit.
            rf"(?<!-){_START}sk-(?=[\w-]*[A-Za-z0-9]{{12}})(?=[\w-]*[0-9])[\w-]{{20,}}",
            rf"{_START}A[KS]IA[A-Z0-9]{{16}}(?![A-Za-z0-9])",  # Amazon
            rf"{_START}xox[abeprs]-[A-Za-z0-9-]{{10,}}",  # Slack
            r"(?<=\bBearer )(?=\S*[0-9]|\S{20})[\w.~+/=-]{8,}",
            r"(?<=\bbearer )(?=\S*[0-9]|\S{20})[\w.~+/=-]{8,}",
            r"(?<=://)[^\s/:@'\"]*:[^\s/@'\"]+(?=@)",
        ]
    )
)

_TELLING = re.compile(r"TOKEN(?!IZ)|SECRET|PASSWORD|API_?KEY|CREDENTIAL")
_OF_A_PLACE = re.compile(r"_(?:PATH|FILE|DIR|HOME|FOLDER)$")
_WORDS = frozenset({"disabled", "optional", "required"})
"""Settings that are long enough for a secret and are none."""


def redact(text: str) -> str:
    """Replace whatever looks like a token or password, or is one by the environment, by `***`."""
    for secret in _secrets():
        text = text.replace(secret, MASK)
    return _LOOKS.sub(MASK, text)


def printable(text: str) -> str:
    """Write control characters out, line feeds aside: a label or a file name could move a terminal's cursor."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )


def holds_secret(text: str) -> bool:
    """Whether there is something in a text that `redact` would replace."""
    return _LOOKS.search(text) is not None or any(secret in text for secret in _secrets())


def _secrets() -> list[str]:
    """Secrets of the environment, the longest first: one may be part of another."""
    found = {
        value.strip()
        for name, value in os.environ.items()
        if _TELLING.search(name.upper()) and not _OF_A_PLACE.search(name.upper())
    }
    return sorted((value for value in found if _may_be_secret(value)), key=len, reverse=True)


def _may_be_secret(value: str) -> bool:
    is_path = value.startswith(("/", "~", "./", "../"))
    return len(value) >= SHORTEST and not is_path and value.lower() not in _WORDS
