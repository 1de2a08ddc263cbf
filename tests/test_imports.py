"""Imports go one way, and the half that reads recipes and reports needs no torch."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tests.training.helpers import recipe

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "transformers", "datasets", "peft", "accelerate", "evaluate", "bitsandbytes"}

# Each layer may import those before it, and within itself only its own package.
TORCH_FREE = (
    ("redact",),
    ("errors",),
    ("spec", "tags", "answers"),
    ("strategies", "tasks", "metrics"),
    ("recipe",),
    ("runs",),
    ("report",),
)
TENSOR = (("data", "models"), ("training",))
ABOVE = (
    # one layer in several files
    (
        "processes",
        "seeing",
        "hearing",
        "encoding",
        "tokenizing",
        "prepare",
        "teaching",
        "outline",
        "judge",
        "state",
        "checkpoints",
        "caching",
        "packing",
        "generating",
        "outputs",
        "showing",
        "solving",
        "starting",
        "scheduling",
        "fitting",
        "sealing",
        "beginning",
        "execute",
        "repeating",
        "inference",
        "merging",
    ),
    ("study", "hub"),
    ("verbs",),
    ("cli", "api"),
    ("__main__",),
)
# What the tensor half knows of the other one: words and data, and nothing that reads recipes or writes runs.
TENSOR_MAY = (
    "errors",
    "spec",
    "tags",
    "answers",
    "tasks",
    "strategies.plan",
    "recipe.model",
    "recipe.data",
    "recipe.train",
    "recipe.facts",
)
LEAF = "environment"  # everybody may import it; it imports the standard library only
# Imported by `hfstrat.metrics` when a metric is computed.
LAZY_MODULES = {"metrics.modules"}

LAYERS = (*TORCH_FREE, *TENSOR, *ABOVE)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
TORCH_FREE_NAMES = {name for layer in TORCH_FREE for name in layer}
TENSOR_NAMES = {name for layer in TENSOR for name in layer}
EXECUTE = set(ABOVE[0])


@dataclass(frozen=True)
class Import:
    """One name that a module imports, whether at its top or inside a function."""

    module: str
    line: int
    target: str
    lazy: bool

    def __str__(self) -> str:
        return f"{MODULES[self.module].relative_to(ROOT)}:{self.line}: {self.module} → {self.target}"


def modules() -> dict[str, Path]:
    """Every module by its name within hfstrat; the package itself is the empty name."""
    found = {}
    for file in sorted((ROOT / "hfstrat").rglob("*.py")):
        parts = file.relative_to(ROOT / "hfstrat").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imports_of(module: str, *, typing_too: bool = True) -> list[Import]:
    return list(_walk(ast.parse(MODULES[module].read_text("utf-8")), module, False, typing_too))


def _walk(node: ast.AST, module: str, lazy: bool, typing_too: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            if typing_too:
                yield from _walk(child, module, True, typing_too)
            continue
        if isinstance(child, ast.Import):
            yield from (Import(module, child.lineno, alias.name, lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from _from(child, module, lazy)
        inner = lazy or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from _walk(child, module, inner, typing_too)


def _from(node: ast.ImportFrom, module: str, lazy: bool) -> Iterator[Import]:
    assert node.level == 0, f"{module}:{node.lineno}: imports are written in full"
    base = node.module or ""
    for alias in node.names:
        inside = f"{base}.{alias.name}".removeprefix("hfstrat.")
        is_module = base.split(".")[0] == "hfstrat" and inside in MODULES
        yield Import(module, node.lineno, f"{base}.{alias.name}" if is_module else base, lazy)


def ours(module: str) -> list[Import]:
    """Imports of hfstrat's own modules, named from within it."""
    return [
        Import(one.module, one.line, one.target.removeprefix("hfstrat").removeprefix("."), one.lazy)
        for one in imports_of(module)
        if one.target.split(".")[0] == "hfstrat"
    ]


def top(module: str) -> str:
    return module.split(".")[0]


def is_allowed(source: str, target: str) -> bool:
    """Whether the arrow goes the right way."""
    here, there = top(source), top(target)
    if here == LEAF:
        return False
    if there == LEAF or here == there or (here in EXECUTE and there in EXECUTE):
        return True
    if not {here, there} <= set(RANK):  # the package's own __init__, or a module that has no layer
        return False
    if here in TENSOR_NAMES and there in TORCH_FREE_NAMES:
        return any(target == allowed or target.startswith(f"{allowed}.") for allowed in TENSOR_MAY)
    if here in TORCH_FREE_NAMES and there in TENSOR_NAMES:
        return False
    return RANK[there] < RANK[here]


def test_every_module_has_a_layer() -> None:
    homeless = sorted({top(module) for module in MODULES} - set(RANK) - {LEAF, ""})
    assert homeless == [], "design.md §3 has no place for these: give them one here as well"


def test_imports_go_one_way() -> None:
    # The package's own __init__ is exempt: it hands out names of every layer, lazily.
    found = [one for module in MODULES if module for one in ours(module)]
    assert len(found) > 100, "no import statements were found"
    wrong = [str(one) for one in found if not is_allowed(one.module, one.target)]
    assert wrong == [], "arrows against design.md §3:\n" + "\n".join(wrong)


def test_environment_is_a_leaf() -> None:
    foreign = [str(one) for one in imports_of(LEAF) if top(one.target) not in sys.stdlib_module_names]
    assert foreign == []


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    light = {*TORCH_FREE_NAMES, LEAF, "verbs", "cli", "__main__", ""}
    wrong = [
        str(one)
        for module in MODULES
        if top(module) in light and module not in LAZY_MODULES
        for one in imports_of(module, typing_too=False)
        if not one.lazy and (top(one.target) in HEAVY or one.target.removeprefix("hfstrat.") in LAZY_MODULES)
    ]
    assert wrong == [], "at the top of a module of the light half:\n" + "\n".join(wrong)


def test_the_light_half_loads_nothing_heavy() -> None:
    light = [
        f"hfstrat.{module}"
        for module in MODULES
        if top(module) in {*TORCH_FREE_NAMES, LEAF} and module not in LAZY_MODULES
    ]
    code = f"import sys, {', '.join(light)}\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


UNADAPTED = """
import sys
import hfstrat
hfstrat.train("my.yaml", quiet=True)
hfstrat.estimate("my.yaml", arms=["full"], calibrate=False, quiet=True)
print(*sorted({"peft", "bitsandbytes"} & set(sys.modules)))
"""


def test_peft_is_loaded_for_adapters_alone(tiny_base: Callable[..., Path], tmp_path: Path) -> None:
    """It takes seconds, for it loads bitsandbytes, which asks PyTorch for its compiler."""
    tiny.write_csv(tmp_path / "my.csv", tiny.reviews(40))
    given = recipe(tiny_base("bert"), {"kind": "full"}, data={"source": "my.csv"}, train={"epochs": 1})
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(given), "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", UNADAPTED]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "run" / "artifact").is_dir()
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("source", "target", "allowed"),
    [
        ("recipe.recipe", "strategies", True),
        ("strategies.lora", "recipe.recipe", False),
        ("tasks.base", "metrics", False),
        ("report.tables", "runs.rows", True),
        ("runs.rows", "report.tables", False),
        ("report.card", "models.artifact", False),
        ("models.build", "strategies.plan", True),
        ("models.build", "strategies.lora", False),
        ("training.engine", "runs.directory", False),
        ("training.engine", "recipe.resolve", False),
        ("training.engine", "models.anatomy", True),
        ("models.build", "training.engine", False),
        ("data.sources", "models.base", False),
        ("execute", "prepare", True),
        ("execute", "study.compare", False),
        ("study.compare", "execute", True),
        ("cli", "verbs", True),
        ("verbs.train", "cli", False),
        ("environment", "errors", False),
        ("runs.rows", "environment", True),
        ("verbs.train", "", False),
    ],
)
def test_the_rule_itself(source: str, target: str, allowed: bool) -> None:
    assert is_allowed(source, target) is allowed
