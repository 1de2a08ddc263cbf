"""The public interface: its names, and that it costs nothing to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hfstrat

ROOT = Path(__file__).parent.parent
NAMES = {
    "Advice",
    "Comparison",
    "Estimate",
    "Estimates",
    "DataError",
    "Diverged",
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
}


def test_the_names_are_these() -> None:
    assert set(hfstrat.__all__) == NAMES
    assert len(hfstrat.__all__) == len(NAMES)
    assert dir(hfstrat) == sorted(NAMES)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_name_is_there_and_described(name: str) -> None:
    found = getattr(hfstrat, name)
    assert name == "__version__" or found.__doc__


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        hfstrat.Trainer  # noqa: B018


def test_import_costs_nothing_and_errors_stay_light() -> None:
    code = """
import sys
import hfstrat
hfstrat.RecipeError, hfstrat.Recipe
print(*sorted({"torch", "transformers", "datasets", "peft", "accelerate", "evaluate", "pandas"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
