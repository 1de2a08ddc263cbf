"""python-docs: a real text classification task that every machine with Python has on its disk.

Examples, tests and first runs need data, and a first run should not need the network. The docstrings of the
standard library are English prose about some thirty subjects, and the module that a docstring stands in is its label.
The sources are parsed, never imported, so nothing runs and no optional C library is missed.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hfstrat.environment import silence_imports
from hfstrat.errors import DataError, Problem

if TYPE_CHECKING:
    from datasets import Dataset

LABELS = (
    "asyncio", "collections", "configparser", "ctypes", "datetime", "decimal", "difflib", "doctest", "email", "http",
    "imaplib", "inspect", "ipaddress", "logging", "mailbox", "multiprocessing", "pathlib", "shutil", "smtplib", "ssl",
    "statistics", "subprocess", "threading", "typing", "unittest", "urllib", "xml", "zipfile",
)  # fmt: skip
"""The classes: modules and packages of Python 3.11 to 3.14 that slim distributions keep and that have at least forty
texts. tkinter, turtle, idlelib and test are left out because many distributions strip them; io, codecs, concurrent
and importlib because their docstrings are mostly about other modules' subjects."""

MIN_CHARS, MIN_WORDS = 30, 5
ENOUGH_CHARS, MAX_CHARS = 100, 300
SHARES = {"train": 0.60, "validation": 0.15, "test": 0.25}
_ALSO = {"collections": "_collections_abc.py"}
_NOT_DOCS = {"test", "tests", "idle_test", "__pycache__"}


@cache
def python_docs() -> dict[str, Dataset]:
    """Docstrings of the running Python's standard library, labelled by the module that they document.

    A text is a paragraph of the docstring of a module, class or function; a paragraph under 100 characters is joined
    with the next one. Doctest sessions are removed, white space is collapsed, paragraphs under 30 characters or five
    words and those that are mostly signs are dropped, and texts are cut at 300 characters (at the end of a sentence
    when there is one in the second half, else of a word). Texts that occur under two labels are dropped, and so are
    duplicates. The text is otherwise natural: where a docstring says the name of its own module, the name stays.

    About 60 % of each class is for training, 15 % for validation and 25 % for testing, by a hash of the docstrings,
    and the texts of one docstring stay together. Rows are equal where the version of Python is equal to its last
    digit.

    Returns:
        `train`, `validation` and `test` with the columns `id` (file, line of the object, paragraph), `text` and
        `label` (the module's name), all strings.

    Raises:
        DataError: The standard library is not on disk as source files.
    """
    silence_imports()  # a notebook may call this before anything else
    from datasets import Dataset, Features, Value

    features = Features({name: Value("string") for name in ("id", "text", "label")})
    splits: dict[str, list[dict[str, str]]] = {name: [] for name in SHARES}
    for split, row in _rows(Path(sysconfig.get_path("stdlib"))):
        splits[split].append(row)
    return {name: Dataset.from_list(rows, features=features) for name, rows in splits.items()}


def _rows(library: Path) -> list[tuple[str, dict[str, str]]]:
    """All rows with their split, in the order of labels, files and lines."""
    found: dict[str, dict[str, str]] = {}
    labels: dict[str, set[str]] = {}
    origin: dict[str, str] = {}
    for label in LABELS:
        for file in sources_of(library, label):
            name = file.relative_to(library).as_posix()
            for line, docstring in _docstrings(file):
                for number, text in enumerate(_texts(docstring)):
                    key = text.casefold()
                    labels.setdefault(key, set()).add(label)
                    found.setdefault(key, {"id": f"{name}:{line}:{number}", "text": text, "label": label})
                    origin.setdefault(key, docstring)
    kept = {key: row for key, row in found.items() if len(labels[key]) == 1}
    places = _places([(row["label"], origin[key]) for key, row in kept.items()])
    return [(places[row["label"], origin[key]], row) for key, row in kept.items()]


def _places(groups: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The split of each docstring: in the order of their hashes, to the split that lacks most of its share.

    Args:
        groups: Label and docstring of each row.
    """
    sizes = Counter(groups)
    have: Counter[tuple[str, str]] = Counter()
    places = {}
    for label, docstring in sorted(sizes, key=lambda group: hashlib.sha256(group[1].encode()).digest()):
        split = min(SHARES, key=lambda split: have[label, split] / SHARES[split])
        have[label, split] += sizes[label, docstring]
        places[label, docstring] = split
    return places


def sources_of(library: Path, label: str) -> list[Path]:
    """The sources of a module, whether it is a file, a package, or a front of `_py<module>.py`."""
    single = [library / name for name in (f"{label}.py", f"_py{label}.py", _ALSO.get(label, f"{label}.py"))]
    package = sorted((library / label).rglob("*.py"))
    files = dict.fromkeys(file for file in single if file.is_file())
    files |= dict.fromkeys(file for file in package if not _NOT_DOCS & set(file.relative_to(library).parts))
    if not files:
        raise DataError(
            Problem(
                f"builtin:python-docs needs the source of '{label}', and there is none in {library}",
                path="data.source",
                hint="Use a Python whose standard library is installed as .py files",
            )
        )
    return list(files)


def _docstrings(file: Path) -> Iterator[tuple[int, str]]:
    """Line and cleaned docstring of each documented object in a file, in the order of lines."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in statements(ast.parse(file.read_bytes())) if isinstance(node, kinds)]
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        docstring = ast.get_docstring(node)
        if docstring:
            yield getattr(node, "lineno", 1), docstring


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and the statements in it; `ast.walk` goes through every expression too, which takes five times as long."""
    yield node
    for blocks in ("body", "orelse", "finalbody", "handlers", "cases"):
        for inner in getattr(node, blocks, ()):
            yield from statements(inner)


def _texts(docstring: str) -> list[str]:
    """The prose paragraphs of a docstring, short ones joined with what follows."""
    texts: list[str] = []
    text = ""
    for paragraph in re.split(r"\n\s*\n", docstring.expandtabs()):
        prose = " ".join(_without_doctest(paragraph).split())
        if _is_prose(prose):
            text = f"{text} {prose}".lstrip()
        if len(text) >= ENOUGH_CHARS:
            texts.append(_cut(text))
            text = ""
    return [*texts, text] if text else texts


def _without_doctest(paragraph: str) -> str:
    """What stands before the first prompt: the rest of the paragraph is code and its output."""
    return re.split(r"^\s*(?:>>>|\.\.\.)", paragraph, maxsplit=1, flags=re.MULTILINE)[0]


def _is_prose(text: str) -> bool:
    if len(text) < MIN_CHARS or len(text.split()) < MIN_WORDS:
        return False
    return sum(char.isalpha() or char == " " for char in text) >= 0.8 * len(text)


def _cut(text: str) -> str:
    if len(text) <= MAX_CHARS:
        return text
    head = text[: MAX_CHARS + 1]
    sentence = max(head.rfind(end) for end in (". ", "! ", "? ")) + 1
    return head[:sentence] if sentence > MAX_CHARS // 2 else head.rsplit(" ", 1)[0]
