"""python-names and python-questions: entities and answers in the docstrings of `python-docs`.

What is marked are the names of Python's own things, found by their spelling and by what the sources define: exceptions,
other classes, functions that are written with their parentheses, and constants. Marks that are made by rule are no
benchmark, but a model has to read to find them, and they need no download.
"""

from __future__ import annotations

import ast
import builtins
import re
import sysconfig
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfstrat.data.builtin import LABELS, python_docs, sources_of, statements

if TYPE_CHECKING:
    from datasets import Dataset

QUESTIONS = {
    "exception": "Which exception is named?",
    "class": "Which class is named?",
    "function": "Which function is called?",
    "constant": "Which constant is named?",
}
CONSTANTS = ("True", "False", "None", "NotImplemented", "Ellipsis")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_EXCEPTION = re.compile(r"[A-Z][A-Za-z]*(?:Error|Exception|Warning|Interrupt|Exit)")


@cache
def python_names() -> dict[str, Dataset]:
    """The texts of `python_docs` with the names in them.

    Returns:
        `train`, `validation` and `test` with the columns `id`, `text` and `spans`, which are `{start, end, label}`.

    Raises:
        DataError: The standard library is not on disk as source files.
    """
    from datasets import Dataset

    known = _defined()
    found = {}
    for name, part in python_docs().items():
        rows = [{"id": row["id"], "text": row["text"], "spans": _spans(row["text"], *known)} for row in part.to_list()]
        found[name] = Dataset.from_list(rows)
    return found


@cache
def python_questions() -> dict[str, Dataset]:
    """A question about each kind of name that a text has, and one about a kind that it does not have.

    Returns:
        `train`, `validation` and `test` with the columns `id`, `question`, `context` and `answers`, as SQuAD has them.

    Raises:
        DataError: The standard library is not on disk as source files.
    """
    from datasets import Dataset

    return {
        name: Dataset.from_list([one for place, row in enumerate(part.to_list()) for one in _questions(row, place)])
        for name, part in python_names().items()
    }


def _questions(row: dict[str, Any], place: int) -> list[dict[str, Any]]:
    text, named = row["text"], {span["label"] for span in row["spans"]}
    asked = [kind for kind in QUESTIONS if kind in named]
    others = [kind for kind in QUESTIONS if kind not in named]
    asked += [others[place % len(others)]] if others and named else []
    found = []
    for kind in asked:
        own = [(text[span["start"] : span["end"]], span["start"]) for span in row["spans"] if span["label"] == kind]
        answers = {"text": [word for word, _ in own[:1]], "answer_start": [start for _, start in own[:1]]}
        found.append({"id": f"{row['id']}:{kind}", "question": QUESTIONS[kind], "context": text, "answers": answers})
    return found


def _defined() -> tuple[set[str], set[str]]:
    """Names of the classes and of the functions that the sources define."""
    library = Path(sysconfig.get_path("stdlib"))
    classes = {name for name in vars(builtins) if name[:1].isupper()}
    functions = {name for name in vars(builtins) if name[:1].islower()}
    for label in LABELS:
        for file in sources_of(library, label):
            for node in statements(ast.parse(file.read_bytes())):
                if isinstance(node, ast.ClassDef):
                    classes.add(node.name)
                elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    functions.add(node.name)
    return classes, functions


def _spans(text: str, classes: set[str], functions: set[str]) -> list[dict[str, Any]]:
    found = []
    for match in _NAME.finditer(text):
        name = match.group().rstrip(".")
        last, after = name.rpartition(".")[2], text[match.start() + len(name) :]
        if _EXCEPTION.fullmatch(last):
            kind = "exception"
        elif last in functions and after.startswith("("):
            kind = "function"
        elif last in CONSTANTS:
            kind = "constant"
        elif last in classes and last[0].isupper() and (match.start() > 0 or not last[1:].islower()):
            kind = "class"  # at the beginning of a text any word has a capital
        else:
            continue
        found.append({"start": match.start(), "end": match.start() + len(name), "label": kind})
    return found
