"""A field that nothing reads is a promise that nothing keeps."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from hfstrat.recipe.recipe import Recipe
from hfstrat.spec import Spec

PACKAGE = Path(__file__).parent.parent / "hfstrat"


def specs() -> list[type[Spec]]:
    """Every spec that a recipe can be made of."""
    import_module(Recipe.__module__)
    found = [Spec]
    for spec in found:  # grows as it is walked
        found += [one for one in spec.__subclasses__() if one not in found]
    return [spec for spec in found if spec.__module__.startswith("hfstrat.")]


def fields() -> list[tuple[type[Spec], str]]:
    """Fields with the class that declares them. A `kind` is read by the union that chooses by it."""
    return [
        (spec, name)
        for spec in specs()
        for name in spec.model_fields
        if name in vars(spec).get("__annotations__", {}) and name != "kind"
    ]


def reads(tree: ast.AST) -> Iterator[str]:
    """Names that code reads as attributes or spells in strings, such as `"train.lr"`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            yield from node.value.split(".")


TREES = {file: ast.parse(file.read_text("utf-8")) for file in sorted(PACKAGE.rglob("*.py"))}
READS = {file: set(reads(tree)) for file, tree in TREES.items()}


def reads_in_methods(spec: type[Spec]) -> set[str]:
    """What the methods of a spec and of those that inherit from it read."""
    found: set[str] = set()
    for one in (spec, *spec.__subclasses__()):
        tree = TREES[Path(inspect.getfile(one))]
        owner = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == one.__name__)
        methods = (node for node in owner.body if isinstance(node, ast.FunctionDef))
        found |= {name for method in methods for name in reads(method)}
    return found


def test_there_are_fields() -> None:
    assert {("LowRank", "r"), ("TrainSpec", "lr"), ("Recipe", "seed")} <= {
        (spec.__name__, name) for spec, name in fields()
    }


@pytest.mark.parametrize(("spec", "name"), fields(), ids=[f"{spec.__name__}.{name}" for spec, name in fields()])
def test_every_field_is_read(spec: type[Spec], name: str) -> None:
    home = Path(inspect.getfile(spec))
    elsewhere = any(name in names for file, names in READS.items() if file != home)
    assert elsewhere or name in reads_in_methods(spec), (
        f"{spec.__name__}.{name} ({home.relative_to(PACKAGE.parent)}) is a field of recipes that no code reads: "
        "use it, or remove it"
    )
