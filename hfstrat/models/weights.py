"""Files of weights: whether they are there, whole, and in safetensors, found without reading a tensor."""

from __future__ import annotations

import json
from pathlib import Path

from hfstrat.errors import ModelError, Problem

AGAIN = "Copy or download the whole folder again"


def check_weights(folder: Path, name: str, stem: str = "model") -> None:
    """Look at the weights of a model or an adapter in a folder.

    Args:
        folder: Where they are.
        name: What the recipe calls it.
        stem: What their files are called: `model`, or `adapter_model`.

    Raises:
        ModelError: A file is missing, damaged, or a pickle.
    """
    files = _files(folder, name, stem)
    missing = [file for file in files if not (folder / file).is_file()]
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if pickles and missing == files:
        raise ModelError(_pickled(folder, name, pickles[0]))
    if missing:
        raise ModelError(Problem(f"{name} lacks weights: there is no {missing[0]}", "model.base", hint=AGAIN))
    for file in files:
        _check_whole(folder / file, name)


def _files(folder: Path, name: str, stem: str) -> list[str]:
    """Names of the files: the only one, else those that an index lists."""
    whole, index = f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if (folder / whole).is_file() or not index.is_file():
        return [whole]
    try:
        return sorted({str(file) for file in json.loads(index.read_text("utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{index.name} of {name} does not list its files of weights"
        raise ModelError(Problem(what, "model.base", hint=AGAIN)) from error


def _pickled(folder: Path, name: str, pickle: str) -> Problem:
    return Problem(
        f"{name} has its weights in {pickle}, a pickle, and to read one can run any code: it is not read",
        "model.base",
        hint=f"Convert it where you trust it: `from transformers import {_architecture(folder)} as M; "
        f"M.from_pretrained('{folder}').save_pretrained('{folder}')`",
    )


def _architecture(folder: Path) -> str:
    """The class that keeps all weights, head included, where the configuration names it."""
    try:
        return str(json.loads((folder / "config.json").read_text("utf-8"))["architectures"][0])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return "AutoModel"


def _check_whole(file: Path, name: str) -> None:
    """Read the header, which says how long the file has to be."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        what = f"the weights of {name} are damaged: {file.name} has {file.stat().st_size:,} bytes ({reason})"
        raise ModelError(Problem(what, "model.base", hint=AGAIN)) from error
