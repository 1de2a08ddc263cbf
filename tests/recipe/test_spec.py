"""Problems as sentences: what pydantic says about unions, types and ranges, in words that tell what to do."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hfstrat.errors import RecipeError
from hfstrat.recipe.loading import load

BASE: dict[str, Any] = {
    "name": "x",
    "model": {"base": "bert"},
    "task": {"kind": "text_classification"},
    "data": {"source": "a.csv"},
    "strategy": {"kind": "head"},
}


def said(path: str, value: Any) -> list[str]:
    """What is wrong when one field has a value."""
    recipe = copy.deepcopy(BASE)
    with pytest.raises(RecipeError) as caught:
        load(recipe, {path: value})
    return [str(problem).removeprefix("override: ").removeprefix("recipe: ") for problem in caught.value.problems]


KINDS = "scratch | head | partial | full | lora | qlora | peft | distill"

TABLE: list[tuple[str, Any, str]] = [
    # path, value, the sentence
    ("trian", {}, "trian: 'trian' is not a field of recipe. Did you mean 'train'?"),
    ("train.lrr", 1, "train.lrr: 'lrr' is not a field of train. Did you mean 'lr'?"),
    ("data.limit", {"per_clas": 3, "per_class": 3}, "data.limit.per_clas: 'per_clas' is not a field of limit."),
    ("strategy.r", 4, "strategy.r: 'r' is a field of strategy lora, not of head."),
    ("data", {"source": "memory", "delimiter": ","}, "data.delimiter: 'delimiter' is a field of data files"),
    ("strategy.kind", "lorra", "strategy.kind: 'lorra' is not a kind of strategy. Did you mean 'lora'?"),
    ("strategy", {"r": 4}, f"strategy: strategy needs a 'kind'. Write `strategy: {{kind: {KINDS}, …}}`"),
    ("strategy", "lora", "strategy: 'lora' is text; it should be a mapping. Write `strategy: {kind: lora}`"),
    ("strategy", None, f"strategy: None is empty; it should be a mapping. Write `strategy: {{kind: {KINDS}, …}}`"),
    ("data", "a.csv", "data: 'a.csv' is text; it should be a mapping. Write `data: {source: a.csv}`"),
    ("model", "bert", "model: 'bert' is text; it should be a mapping. Write `model: {base: bert}`"),
    ("task", {}, "task: task needs a 'kind'. Write `task: {kind: text_classification | token_classification | ques"),
    ("task.kind", "text_clasification", "task.kind: 'text_clasification' is not a kind of task. Did you mean 'text_cl"),
    ("data.kind", "fils", "data.kind: 'fils' is not a kind of data. Did you mean 'files'?"),
    ("data.columns", ["a"], "data.columns: ['a'] is a list; it should be a mapping"),
    ("train.lr", "fast", "train.lr: 'fast' is text; it should be a number, or 'auto'"),
    ("train.lr", "1e-3", "train.lr: '1e-3' is text; it should be a number, or 'auto'. Remove the quotation marks"),
    ("train.lr", True, "train.lr: True is true/false; it should be a number, or 'auto'"),
    ("train.lr", 0, "train.lr: 0: it should be greater than 0, or 'auto'"),
    ("train.lr", float("inf"), "train.lr: inf: it should be a finite number, or 'auto'"),
    ("train.batch_size", 1.5, "train.batch_size: 1.5"),
    ("train.precision", "bf61", "train.precision: 'bf61' is not allowed. Did you mean 'bf16'?"),
    ("train.optimizer", {"betas": [0.9]}, "train.optimizer.betas: [0.9] has too few entries"),
    ("train.optimizer", {"betas": [0.9, 2]}, "train.optimizer.betas.1: 2: it should be less than 1"),
    ("task.labels", [0], "task.labels.0: 0 is a whole number; it should be text. Put it in quotation marks"),
    ("task.labels", ["a", "b", "a"], "task.labels: the label 'a' is given twice"),
    ("task.class_weights", "balnced", "task.class_weights: 'balnced' is not allowed. Did you mean 'balanced'?"),
    ("task.class_weights", {"a": 0}, "task.class_weights.a: 0: it should be greater than 0"),
    ("data.validation", 1.5, "data.validation: 1.5: it should be less than 1"),
    ("evaluate.metrics", "accuracy", "evaluate.metrics: 'accuracy' is text; it should be a list, or 'auto'"),
    ("evaluate.metrics", [], "evaluate.metrics: [] has 0 entries; it needs at least 1, or 'auto'"),
    ("name", "my run!", "name: 'my run!' is not allowed. The run's directory under `runs/`: letters, digits"),
    ("seed", -1, "seed: -1: it should be greater than or equal to 0"),
    ("seed", 2**63, "seed: 9223372036854775808: it should be less than 9223372036854775808"),
    ("data.seed", -1, "data.seed: -1: it should be greater than or equal to 0"),
    ("compare.seeds", [], "compare.seeds: [] has 0 entries; it needs at least 1"),
    ("compare.arms", [{"floor": "tfidff"}], "compare.arms.0.floor: 'tfidff' is not allowed. Did you mean 'tfidf'?"),
    ("compare.arms", [{"strategy": {"kind": "lora", "rr": 1}}], "compare.arms.0.strategy.rr: 'rr' is not"),
    ("compare.arms", [{"floor": "tfidf", "name": "a/b"}], "compare.arms.0.name: 'a/b' is not allowed. Name of the arm"),
    ("track", ["tensorbord"], "track.0: 'tensorbord' is not allowed. Did you mean 'tensorboard'?"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "sentence"), TABLE, ids=[f"{path}={value}"[:50] for path, value, _ in TABLE])
def test_one_mistake_is_one_sentence(path: str, value: Any, sentence: str) -> None:
    found = said(path, value)
    assert len(found) == 1, found
    assert found[0].startswith(sentence)


def test_what_is_left_out_is_said_with_what_it_is() -> None:
    with pytest.raises(RecipeError) as caught:
        load({"name": "x"})
    assert {problem.path: problem.hint for problem in caught.value.problems} == {
        "model": "Which model the run starts from",
        "task": "What the model learns",
        "data": "Where the examples come from",
        "strategy": "How the model is trained; if you do not know, leave it out and ask `hfstrat advise` or "
        "`hfstrat compare`",
    }


def test_long_values_are_cut() -> None:
    (found,) = said("train.precision", "x" * 500)
    assert len(found) < 200
