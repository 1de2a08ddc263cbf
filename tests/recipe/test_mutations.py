"""Recipes of every strategy, damaged in every way: what comes out is a recipe or a RecipeError, and nothing else.

A few hundred examples run by default; `HFSTRAT_EXAMPLES=10000 pytest tests/recipe/test_mutations.py` runs more.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfstrat.errors import RecipeError
from hfstrat.recipe.loading import Source, build, dump, load, override, parse
from hfstrat.strategies import STRATEGIES
from tests.recipe.test_loading import VALUES, places, refused

EXAMPLES = int(os.environ.get("HFSTRAT_EXAMPLES", "400"))
KINDS = 4
"""Properties among which the examples are shared."""

mutations = settings(
    max_examples=math.ceil(EXAMPLES / KINDS),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

OF_STRATEGIES: dict[str, dict[str, Any]] = {
    "scratch": {"tokenizer": {"kind": "bpe", "vocab_size": 500, "lowercase": True, "min_frequency": 1}},
    "head": {"solver": "lbfgs"},
    "partial": {"last_n": 2, "gradual": True, "layer_decay": 0.9, "head_init": "probe"},
    "full": {"layer_decay": 0.9, "head_init": "random"},
    "lora": {"r": 8, "alpha": 16, "targets": ["query", "value"], "dropout": 0.1, "variant": "rslora"},
    "qlora": {"r": 8, "targets": "all-linear", "bits": 4, "quant_type": "nf4", "double_quant": False},
    "peft": {"method": "VERA", "options": {"r": 8, "d_initial": 0.1}, "targets": ["query"]},
    "distill": {"teacher": "runs/full", "temperature": 3.0, "alpha": 0.5, "student": {"weights": "base", "every": 2}},
}
SOURCES: list[dict[str, Any]] = [
    {"source": "a.csv", "columns": {"text": "t", "label": ["a", "b"]}, "limit": {"per_class": 4}, "delimiter": ";"},
    {"source": "me/reviews", "subset": "en", "revision": "main", "validation": "dev", "test": 0.2, "limit": 10},
    {"source": "builtin:python-docs", "seed": 3},
    {"source": "memory"},
]
REST: dict[str, Any] = {
    "seed": 1,
    "model": {"base": "bert", "config": {"num_hidden_layers": 2}, "attention": "sdpa", "dropout": 0.1},
    "task": {"kind": "text_classification", "labels": ["a", "b"], "class_weights": {"a": 2.0}, "max_length": 64},
    "train": {
        "max_steps": 100,
        "lr": 1e-4,
        "optimizer": {"kind": "adamw", "betas": [0.9, 0.99], "eps": 1e-8},
        "early_stopping": {"patience": 2, "min_delta": 0.0},
        "clip": None,
    },
    "evaluate": {"metrics": ["accuracy", "f1_macro"], "select_by": "f1_macro", "every": 10},
    "track": ["wandb"],
    "compare": {"arms": ["head", {"floor": "tfidf", "limit": "all"}, {"strategy": {"kind": "lora"}}], "seeds": [0, 1]},
}
GOOD: list[dict[str, Any]] = [
    {"name": kind, **REST, "data": data, "strategy": {"kind": kind, **fields}}
    for kind, fields in OF_STRATEGIES.items()
    for data in SOURCES
]

HUGE: list[Any] = [10**30, -(10**30), 10**400, 1e308, -1e308, float("inf"), float("-inf"), float("nan"), -0.0, 2**63]
ODD_TEXT = ["\x00", "\x1b[31m", "\u202e", "\ufeff", "\u2028", "\ud800", "é" * 200, "a\nb", "*", "**", "[", "..", "~"]
DEEP: Any = "x"
for _ in range(60):
    DEEP = [DEEP]
ODD = VALUES | st.sampled_from([*HUGE, *ODD_TEXT, DEEP, {"a": DEEP}, [[[]]], {"": {}}, [None, True, 1, "a", {}]])
NAMES = st.sampled_from(["kind", "r", "lr", "source", "base", "arms", "", "a.b", "0", *ODD_TEXT]) | st.text(max_size=6)


def test_there_is_a_good_recipe_of_every_strategy() -> None:
    assert list(OF_STRATEGIES) == [kind for kind in OF_STRATEGIES if kind in STRATEGIES]
    assert set(OF_STRATEGIES) == set(STRATEGIES)
    for recipe in GOOD:
        load(recipe)
        build(parse(yaml.safe_dump(recipe)))


def is_a_recipe_or_is_told(read: Callable[[], Any]) -> None:
    """Read, and look at what came out; any other exception goes through."""
    problems = refused(read)
    for problem in problems:
        assert problem.message.strip()
    if not problems:
        recipe = read()
        assert build(parse(dump(recipe))) == recipe


# --- plain data ----------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """A good recipe in which some fields are removed, renamed, doubled or replaced."""
    data = copy.deepcopy(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 4))):
        loc = draw(st.sampled_from(places(data) or [("name",)]))
        parent = data
        for step in loc[:-1]:
            parent = parent[step]
        what = draw(st.sampled_from(["remove", "rename", "double", "replace", "wrap"]))
        if what in ("remove", "rename"):
            value = parent.pop(loc[-1], None) if isinstance(parent, dict) else parent.pop(loc[-1])
            if what == "rename" and isinstance(parent, dict):
                parent[draw(NAMES)] = value
        elif what == "double" and isinstance(parent, dict):
            parent[draw(NAMES)] = copy.deepcopy(parent.get(loc[-1]))
        elif what == "double":
            parent.append(copy.deepcopy(parent[loc[-1]]))
        else:
            old = parent.get(loc[-1]) if isinstance(parent, dict) else parent[loc[-1]]
            parent[loc[-1]] = (
                copy.deepcopy(draw(ODD))
                if what == "replace"
                else draw(st.sampled_from([[old], {"kind": old}, str(old)]))
            )
    return data


@mutations
@given(data=damaged())
def test_plain_data(data: Any) -> None:
    is_a_recipe_or_is_told(lambda: load(data)[0])


@mutations
@given(recipe=st.sampled_from(GOOD), paths=st.data())
def test_overrides(recipe: dict[str, Any], paths: st.DataObject) -> None:
    known = st.sampled_from([".".join(map(str, loc)) for loc in places(recipe)])
    path = paths.draw(known | st.lists(NAMES, min_size=1, max_size=40).map(".".join))
    given_value = paths.draw(ODD | st.sampled_from(SNIPPETS))
    words: Any = {path: given_value} if paths.draw(st.booleans()) else [f"{path}={given_value}"]
    is_a_recipe_or_is_told(lambda: build(override(Source(recipe, "mine.yaml", {}), words)))


# --- YAML ----------------------------------------------------------------------------------------------------------

SNIPPETS = [
    "!!python/object/apply:os.system [id]", "!!python/name:os.system ''", "!mine x", "!!binary aGk=", "!!set {a, b}",
    "!!timestamp 2020-01-01", "!!int abc", "!!int ''", "!!float x", "!!bool maybe", "!!null x", "!!str [a]", "!!map x",
    "!!seq {a: 1}", "!!omap [a: 1]", "!<tag:yaml.org,2002:int> x", "! x", "&a [*a]", "&a {b: *a}", "*nobody", "&a", "*",
    "<<: *a", "{<<: {a: 1}}", "{a: 1, a: 2}", "{[1]: 2}", "? [a]\n: b", "{? a}", "[", "]", "{", "}", "- - - - -",
    "|", ">-", "|9", "|\n  a\n b", "'", '"', '"\\uD800"', '"\\x00"', '"\\q"', "%TAG ! x", "%YAML 9.9", "---", "--- x",
    "...", ".inf", "-.inf", ".nan", "1e999", "-1e999", "1e-999", "9" * 400, "9" * 5000, "1_0", "0x1F", "007", "1:30",
    "2020-01-01", "~", "null", "yes", "@x", "`x`", "\t", "\x07", "\x00", "\x85", "\u2028", "\ufeff", "\U0001f600",
    "[" * 60, "{a: " * 60, "[" * 5000, "a: b: c", ": :", "#", "- a", "!", "!!", "&", "x" * 2000,
    "&a [x, x, x, x, x, x, x, x, x]", "[*a, *a, *a, *a, *a, *a, *a, *a, *a]", "!!python/tuple [1]",
]  # fmt: skip
BOMB = "".join(f"b{n + 1}: &b{n + 1} [{', '.join([f'*b{n}'] * 9)}]\n" for n in range(12))


@st.composite
def damaged_yaml(draw: st.DrawFn) -> str:
    """The text of a good recipe in which lines are removed, doubled, moved, indented or written anew."""
    recipe, flow = draw(st.sampled_from(GOOD)), draw(st.sampled_from([False, None]))
    lines = yaml.safe_dump(recipe, sort_keys=False, default_flow_style=flow).splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        what = draw(st.sampled_from(["remove", "double", "move", "indent", "value", "insert", "anchor", "bomb", "cut"]))
        if what == "remove" and len(lines) > 1:
            lines.pop(at)
        elif what == "double":
            lines.insert(at, lines[at])
        elif what == "move":
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
        elif what == "indent":
            lines[at] = draw(st.sampled_from([" ", "   ", "\t", "- "])) + lines[at]
        elif what == "value":
            lines[at] = f"{lines[at].partition(':')[0]}: {draw(st.sampled_from(SNIPPETS) | st.text(max_size=12))}"
        elif what == "anchor":
            lines[at] = lines[at].replace(": ", draw(st.sampled_from([": &a ", ": *a ", ": !!str ", ": !x "])), 1)
        elif what == "bomb" and not draw(st.integers(0, 9)):  # one takes a second
            lines = ["b0: &b0 [x, x]", *BOMB.splitlines(), *lines]
        elif what == "cut":
            lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
        else:
            lines.insert(at, draw(st.sampled_from(SNIPPETS)))
    return draw(st.sampled_from(["\n", "\r\n", "\r", "\x85"])).join(lines)


@mutations
@given(text=damaged_yaml())
def test_yaml(text: str) -> None:
    is_a_recipe_or_is_told(lambda: build(parse(text)))


@st.composite
def damaged_bytes(draw: st.DrawFn) -> bytes:
    """The file of a good recipe in which bytes are changed, removed and added."""
    raw = bytearray(yaml.safe_dump(draw(st.sampled_from(GOOD)), sort_keys=False).encode())
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(raw) - 1))
        what = draw(st.sampled_from(["change", "remove", "add", "mark"]))
        if what == "change":
            raw[at] = draw(st.integers(0, 255))
        elif what == "remove" and len(raw) > 1:
            del raw[at]
        elif what == "add":
            raw[at:at] = draw(st.binary(max_size=4))
        else:
            raw[at:at] = draw(st.sampled_from([b"&a ", b"*a ", b"!", b"{", b"[", b"- ", b": ", b"'", b"\xff", b"\x00"]))
    return bytes(raw)


@mutations
@given(raw=damaged_bytes())
def test_bytes(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.yaml"
    file.write_bytes(raw)
    is_a_recipe_or_is_told(lambda: load(file)[0])


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snippet", [snippet for snippet in SNIPPETS if snippet.startswith("!!python")])
def test_no_tag_makes_an_object(snippet: str) -> None:
    with pytest.raises(RecipeError, match="means nothing in a recipe"):
        parse(f"name: {snippet}")


@pytest.mark.parametrize("depth", [31, 300, 100_000])
def test_nothing_is_nested_without_end_by_an_override(depth: int) -> None:
    source = parse(json.dumps(GOOD[0]))
    with pytest.raises(RecipeError):
        build(override(source, [".".join(["model", "config", *"a" * depth]) + "=1"]))


def test_a_recipe_file_is_not_executed(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        f"name: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{tmp_path}/x]]"
    )
    with pytest.raises(RecipeError):
        load(file)
    assert not (tmp_path / "x").exists()
