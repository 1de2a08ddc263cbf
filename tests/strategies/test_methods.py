"""Methods of PEFT: each one that the installed version has trains a classifier, or is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from hfstrat import execute
from hfstrat.errors import RecipeError
from hfstrat.strategies.peft import PROMPTS, REFUSED
from tests import tiny
from tests.strategies.table import METHODS, SMALL
from tests.training.helpers import LIVELY, memory, recipe

ROWS = tiny.reviews(60)
TABLE = Path(__file__).parents[2] / "docs" / "methods.md"
# Of other models than classifiers, as PEFT says itself.
ELSEWHERE = {
    "CPT": "only supports task_type",
    "TRAINABLE_TOKENS": "keeps nothing beside its own weights",
}
QUICK = ("BOFT", "LOHA", "TRAINABLE_TOKENS", *PROMPTS)


def cells_of(method):
    """What docs/methods.md says of a method, by task."""
    table = [line for line in TABLE.read_text("utf-8").splitlines() if line.startswith("| ")]
    header, row = table[0], next(line for line in table if line.startswith(f"| `{method}` |"))
    names, cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in (header, row))
    return dict(zip(names, cells, strict=True))


@pytest.mark.parametrize(
    "method", [method if method in QUICK else pytest.param(method, marks=pytest.mark.slow) for method in METHODS]
)
def test_a_method_trains_or_says_why_it_does_not(method, tiny_base, tmp_path):
    given = recipe(
        tiny_base("bert", **LIVELY), {"kind": "peft", "method": method, "options": SMALL.get(method, {})}, "run"
    )
    documented = cells_of(method)["text classification"]
    assert documented.startswith("no" if method in REFUSED or method in ELSEWHERE else "yes")
    if method in REFUSED or method in ELSEWHERE:
        reason = REFUSED.get(method) or ELSEWHERE[method]
        with pytest.raises(RecipeError, match=reason):
            execute.train(given, data=memory(ROWS), runs=tmp_path)
        return
    run = execute.train(given, data=memory(ROWS), runs=tmp_path)
    plan = run.read("plan.json")
    assert 0 < plan["parameters"]["trainable"] < plan["parameters"]["total"]
    assert (run.artifact / "adapter_config.json").is_file()


def test_what_only_another_kind_of_training_can_use_is_said_at_once(tiny_base, tmp_path):
    for method in REFUSED:
        given = recipe(tiny_base("bert"), {"kind": "peft", "method": method.lower()})
        with pytest.raises(RecipeError, match=f"{method} is not for this"):
            execute.train(given, data=memory(ROWS), runs=tmp_path)
    given = recipe(tiny_base("bert"), {"kind": "peft", "method": "TRAINABLE_TOKENS"})
    with pytest.raises(RecipeError, match="token_indices"):
        execute.train(given, data=memory(ROWS), runs=tmp_path)
