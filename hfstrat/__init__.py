"""hfstrat: one recipe, every training strategy, measured.

The public names are loaded when they are first used, so that `import hfstrat` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name: the module that has it. Names whose implementation should show progress come from `hfstrat.api`.
_PUBLIC = {
    "Advice": "hfstrat.study.advise.advice",
    "Comparison": "hfstrat.study.compare",
    "DataError": "hfstrat.errors",
    "Diverged": "hfstrat.errors",
    "Estimate": "hfstrat.study.estimate",
    "Estimates": "hfstrat.study.estimate",
    "HfstratError": "hfstrat.errors",
    "HubError": "hfstrat.errors",
    "Interrupted": "hfstrat.errors",
    "ModelError": "hfstrat.errors",
    "OutOfMemory": "hfstrat.errors",
    "Problem": "hfstrat.errors",
    "ProcessLost": "hfstrat.errors",
    "Recipe": "hfstrat.recipe.recipe",
    "RecipeError": "hfstrat.errors",
    "Run": "hfstrat.report.display",
    "RunError": "hfstrat.errors",
    "UsageError": "hfstrat.errors",
    "advise": "hfstrat.api",
    "compare": "hfstrat.api",
    "estimate": "hfstrat.api",
    "evaluate": "hfstrat.api",
    "load": "hfstrat.api",
    "merge": "hfstrat.api",
    "open_run": "hfstrat.api",
    "plan": "hfstrat.api",
    "predict": "hfstrat.api",
    "push": "hfstrat.api",
    "train": "hfstrat.api",
}

__all__ = [
    "Advice",
    "Comparison",
    "DataError",
    "Diverged",
    "Estimate",
    "Estimates",
    "HfstratError",
    "HubError",
    "Interrupted",
    "ModelError",
    "OutOfMemory",
    "Problem",
    "ProcessLost",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "UsageError",
    "__version__",
    "advise",
    "compare",
    "estimate",
    "evaluate",
    "load",
    "merge",
    "open_run",
    "plan",
    "predict",
    "push",
    "train",
]

if TYPE_CHECKING:
    from hfstrat.api import advise, compare, estimate, evaluate, load, merge, open_run, plan, predict, push, train
    from hfstrat.errors import (
        DataError,
        Diverged,
        HfstratError,
        HubError,
        Interrupted,
        ModelError,
        OutOfMemory,
        Problem,
        ProcessLost,
        RecipeError,
        RunError,
        UsageError,
    )
    from hfstrat.recipe.recipe import Recipe
    from hfstrat.report.display import Run
    from hfstrat.study.advise.advice import Advice
    from hfstrat.study.compare import Comparison
    from hfstrat.study.estimate import Estimate, Estimates


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hfstrat' has no attribute '{name}'")
    # hfstrat.recipe, .evaluate and others are packages or functions: what was asked for is put in for good.
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
