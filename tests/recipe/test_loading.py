"""Reading YAML: what scalars mean, where each problem stands, and that nothing but a RecipeError ever comes out."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hfstrat.errors import Problem, RecipeError
from hfstrat.recipe.loading import MAX_BYTES, build, dump, load, override, parse
from hfstrat.strategies import Head, Lora

VALID: dict[str, Any] = {
    "name": "x",
    "model": {"base": "bert"},
    "task": {"kind": "text_classification"},
    "data": {"source": "a.csv", "columns": {"text": "t", "label": ["a", "b"]}, "limit": {"per_class": 4}},
    "strategy": {"kind": "lora", "r": 4, "targets": ["query"]},
    "train": {"lr": 1e-4, "optimizer": {"betas": [0.9, 0.99]}, "early_stopping": {"patience": 2}},
    "evaluate": {"metrics": ["accuracy"], "every": 10},
    "compare": {"arms": ["head", {"floor": "tfidf", "limit": "all"}], "seeds": [0, 1]},
}


def value(text: str) -> Any:
    return parse(f"x: {text}").data["x"]


def problems(recipe: Any, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(recipe, overrides)
    return [str(problem) for problem in caught.value.problems]


def in_file(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


class TestScalars:
    @pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.e-4", ".0001", "0.0001", "+1e-4"])
    def test_every_way_to_write_a_float(self, text: str) -> None:
        assert value(text) == 1e-4
        assert type(value(text)) is float

    @pytest.mark.parametrize(
        "text", ["no", "on", "off", "yes", "y", "2024-01-01", "12:30:45", "0x10", "0o7", "007", "1_0.5"]
    )
    def test_what_older_yaml_turns_into_something_else_is_text(self, text: str) -> None:
        assert value(text) == text

    @pytest.mark.parametrize(
        ("text", "meant"), [("true", True), ("False", False), ("null", None), ("~", None), ("", None)]
    )
    def test_truth_and_nothing(self, text: str, meant: object) -> None:
        assert value(text) is meant

    def test_whole_numbers_and_quoted_ones(self) -> None:
        assert [value(text) for text in ("32", "-1", "1_000", "'32'", '"1e-4"')] == [32, -1, 1000, "32", "1e-4"]


class TestPlaces:
    def test_every_entry_knows_its_line(self) -> None:
        source = parse("name: x\nmodel:\n  base: y\nlist:\n- a\n- b: 1\n", "r.yaml")
        assert source.where(("model", "base")) == "r.yaml:3"
        assert source.where(("list", 1, "b")) == "r.yaml:6"
        assert source.where(("model", "missing", "deeper")) == "r.yaml:2"

    def test_an_override_has_no_line_and_hides_the_old_one(self) -> None:
        source = override(parse("train:\n  lr: 1\n", "r.yaml"), ["train.lr=2", "train.clip=1"])
        assert source.where(("train", "lr")) == source.where(("train", "clip")) == "override"
        assert source.where(("train",)) == "r.yaml:1"

    def test_all_problems_at_once_each_with_its_place(self, tmp_path: Path) -> None:
        file = in_file(
            tmp_path / "r.yaml",
            "name: x\nmodel: {bas: y}\ntask: {kind: text_classification}\nstrategy:\n  kind: head\n  r: 4\n"
            "data:\n  source: a.csv\ntrain:\n  lr: '1e-4'\n  precision: bf61\n",
        )
        found = problems(file, "evaluate.metrics=accuracy")
        assert any(line.startswith(f"{file}:2: model.bas: ") and "Did you mean 'base'?" in line for line in found)
        assert any(
            line.startswith(f"{file}:6: strategy.r: ") and "of strategy lora, not of head" in line for line in found
        )
        assert any(line.startswith(f"{file}:10: train.lr: ") and "Remove the quotation marks" in line for line in found)
        assert any(line.startswith(f"{file}:11: train.precision: ") and "'bf16'" in line for line in found)
        assert any(
            line.startswith("override: evaluate.metrics: 'accuracy' is text; it should be a list") for line in found
        )
        assert len(found) == 5

    def test_keys_that_are_given_twice_are_all_named(self, tmp_path: Path) -> None:
        file = in_file(tmp_path / "r.yaml", "name: x\ntrain:\n  lr: 1\n  lr: 2\nname: y\n")
        assert problems(file) == [f"{file}:4: train.lr: 'lr' is given twice", f"{file}:5: name: 'name' is given twice"]


LAUGHS = [f"{b}: &{b} [{', '.join(['*' + a] * 9)}]" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)]


class TestFiles:
    def test_a_byte_order_mark_and_windows_lines(self, tmp_path: Path) -> None:
        file = in_file(tmp_path / "r.yaml", b"\xef\xbb\xbf" + yaml.safe_dump(VALID).replace("\n", "\r\n").encode())
        assert load(file)[0] == load(VALID)[0]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (b"name: x\nmodel: {base: caf\xe9}\n", ":2: the recipe is not UTF-8 text"),
            ("", ": a recipe is a mapping of fields. A recipe starts like `name: my-run`"),
            ("# only a comment\n", ": a recipe is a mapping"),
            ("- a\n- b\n", ": a recipe is a mapping"),
            ("just text", ": a recipe is a mapping"),
            ("a: 1\n---\nb: 2\n", ":2: this is not YAML"),
            ("name: [x\nmodel: y\n", ":2: this is not YAML: expected ',' or ']'"),
            ("name: x\n\tmodel: y\n", ":2: this is not YAML"),
            ("name: x\nother: \x07\n", ":2: this is not YAML: it has a character that cannot be printed (#x07)"),
            ("x: *nowhere\n", ":1: this is not YAML: found undefined alias"),
            ("name: !!timestamp 2020-01-01\n", ":1: the tag !!timestamp means nothing"),
            (
                "name: !!python/object/apply:os.system [ls]\n",
                ":1: the tag !!python/object/apply:os.system means nothing",
            ),
            ("name: !!bool maybe\n", ":1: 'maybe' cannot be read"),
            ("? [a, b]\n: 1\n", ":1: a list or a mapping cannot be the name"),
            (f"x: {'9' * 5000}\n", ":1: '9999"),
            ('name: "\\ud800"\n', "text that is not Unicode"),
        ],
    )
    def test_what_is_no_recipe(self, tmp_path: Path, text: str | bytes, said: str) -> None:
        file = in_file(tmp_path / "r.yaml", text)
        found = problems(file)
        assert all(line.startswith(str(file)) for line in found)
        assert any(said in line for line in found), found

    def test_a_huge_file_is_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "r.yaml").open("wb") as stream:
            stream.truncate(10 * MAX_BYTES)
        assert "is not a recipe" in problems(tmp_path / "r.yaml")[0]

    def test_a_folder_and_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        in_file(tmp_path / "mine.yaml", "name: x")
        assert "this is a folder" in problems(tmp_path)[0]
        assert "no such recipe. There is: " in problems(tmp_path / "mien.yaml")[0]
        assert "mine.yaml" in problems(tmp_path / "mien.yaml")[0]

    @pytest.mark.parametrize(
        "text",
        [
            "a: &a {b: *a}",
            "a: &a [*a, *a, *a]",
            "a: " + "[" * 3000,
            "a: " + "{x: " * 3000,
            "a: &a [x, x]\n" + "\n".join(LAUGHS),
            "a: &a " + "x" * 20_000 + "\nb: [" + "*a, " * 500 + "]",
        ],
        ids=["cycle", "branching cycle", "deep list", "deep mapping", "billion laughs", "long text"],
    )  # fmt: skip
    def test_nothing_hangs_or_recurses(self, text: str) -> None:
        start = time.process_time()
        with pytest.raises(RecipeError, match=r"nested too deeply|larger than"):
            parse(text)
        assert time.process_time() - start < 5

    def test_an_alias_stands_for_what_it_names(self) -> None:
        assert parse("a: &a {x: [1, 2]}\nb: *a\n").data["b"] == {"x": [1, 2]}


class TestOverrides:
    def test_are_typed_as_yaml_and_may_be_nested(self) -> None:
        words = ["train.lr=1e-3", "train.clip=null", "task.max_length=64", "data.columns.label=y", "track=[trackio]"]
        recipe, _ = load(VALID, [*words, "train.optimizer={eps: 1e-6}", "model.revision='1'", "compare.seeds=[3]"])
        assert recipe.train.lr == 1e-3
        assert recipe.train.clip is None
        assert recipe.task.max_length == 64
        assert recipe.data.columns == {"text": "t", "label": "y"}
        assert recipe.track == ("trackio",)
        assert recipe.train.optimizer.eps == 1e-6
        assert recipe.model.revision == "1"
        assert recipe.compare.seeds == (3,)

    def test_a_value_may_hold_an_equals_sign(self) -> None:
        assert load(VALID, ["data.columns.text=a=b"])[0].data.columns["text"] == "a=b"

    def test_a_mapping_does_the_same(self) -> None:
        assert (
            load(VALID, {"train.lr": 1e-3, "strategy": {"kind": "head"}})[0]
            == (load(VALID, ["train.lr=1e-3", "strategy={kind: head}"])[0])
        )

    def test_the_recipe_is_left_as_it_is(self) -> None:
        mine = copy.deepcopy(VALID)
        load(mine, ["train.optimizer.eps=1e-6"])
        assert mine == VALID

    @pytest.mark.parametrize(
        ("word", "said"),
        [
            ("train.lr", "'train.lr' is not an override. Write dotted.path=value"),
            ("=1", "'=1' is not an override"),
            ("name.x=1", "override: name.x: 'name' holds no fields. Override it whole: `name=…`"),
            ("train.lrr=1", "override: train.lrr: 'lrr' is not a field of train. Did you mean 'lr'?"),
            ("train.lr='1'", "override: train.lr: '1' is text; it should be a number, or 'auto'"),
            ("train.lr=[1", "override: train.lr: this is not YAML"),
            ("train.lr=" + "[" * 3000, "override: train.lr: it is nested too deeply"),
            ("train={lr: 1.0, lr: 2.0}", "override: train: 'lr' is given twice"),
            ("train.lr=!!binary aGk=", "override: train.lr: the tag !!binary means nothing"),
            ("train..lr=1", "override: train.: '' is not a field of train"),
        ],
    )
    def test_that_are_wrong(self, word: str, said: str) -> None:
        found = problems(VALID, word)
        assert len(found) == 1
        assert said in found[0]


class TestPython:
    def test_paths_tuples_and_numpy_numbers_are_taken(self, tmp_path: Path) -> None:
        plain = {**VALID, "model": {"base": tmp_path}, "evaluate": {"metrics": ("accuracy",)}, "seed": np.int64(3)}
        recipe, _ = load(plain, {"train.lr": np.float32(0.5)})
        assert (recipe.model.base, recipe.evaluate.metrics, recipe.seed) == (str(tmp_path), ("accuracy",), 3)
        assert recipe.train.lr == 0.5

    def test_anything_else_is_named_with_its_path(self) -> None:
        assert problems({**VALID, "train": {"lr": {1, 2}}}) == [
            "train.lr: a recipe holds only text, numbers, lists and mappings, not set"
        ]
        endless: dict[str, Any] = {}
        endless["train"] = endless
        assert "nested too deeply" in problems(endless)[0]
        with pytest.raises(RecipeError, match=r"train\.lr: a recipe holds only"):
            load(VALID, {"train.lr": object()})

    def test_a_recipe_object_with_defaults_is_the_same_again(self) -> None:
        for given_, strategy in (("a.csv", Head()), ("memory", Lora(r=2)), ("builtin:python-docs", Head())):
            recipe = load({**VALID, "data": {"source": given_}})[0].model_copy(update={"strategy": strategy})
            assert load(recipe)[0] == recipe

    def test_an_override_of_the_source_decides_its_kind(self) -> None:
        recipe, _ = load(load(VALID)[0], ["data.source=builtin:python-docs"])
        assert recipe.data.kind == "builtin"


class TestBesideTheRecipe:
    def test_data_files_are_named_from_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "sub").mkdir()
        for name in ("sub/a.csv", "sub/test.csv", "here.csv"):
            (tmp_path / name).write_text("text,label\na,b\n")
        data = {"source": "a.csv", "test": "test.csv", "validation": "here.csv"}
        file = in_file(tmp_path / "sub" / "r.yaml", yaml.safe_dump({**VALID, "data": data}))
        recipe, _ = load(Path("sub/r.yaml"))
        assert (recipe.data.source, recipe.data.test, recipe.data.validation) == (
            "sub/a.csv",
            "sub/test.csv",
            "here.csv",
        )
        assert load(file)[0].data.source == str(tmp_path / "sub" / "a.csv")

    def test_what_is_nowhere_stays_as_it_is_written(self, tmp_path: Path) -> None:
        file = in_file(tmp_path / "r.yaml", yaml.safe_dump(VALID))
        assert load(file)[0].data.source == "a.csv"


def test_text_that_looks_like_a_number_is_dumped_as_text() -> None:
    recipe = load({**VALID, "task": {"kind": "text_classification", "labels": ["1e-3", "no", "007", "1.5", "null"]}})[0]
    assert build(parse(dump(recipe))) == recipe


def test_a_dumped_recipe_reads_the_same() -> None:
    recipe, _ = load(VALID)
    text = dump(recipe)
    assert load(parse(text).data)[0] == recipe
    assert dump(load(parse(text).data)[0]) == text


# --- nothing but a RecipeError ------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(
    ["auto", "head", "files", "memory", "/", "~x/y", "a" * 300, "1e-3", "\x00", "\ud800", "{", "balanced"]
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.just("kind"), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(data: Any, loc: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key and index in plain data."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [found for key, item in inner for found in ((*loc, key), *places(item, (*loc, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A valid recipe in which up to three places are replaced, deleted or added to."""
    data = copy.deepcopy(VALID)
    for _ in range(draw(st.integers(1, 3))):
        loc = draw(st.sampled_from(places(data) or [("name",)]))
        parent = data
        for step in loc[:-1]:
            parent = parent[step]
        what = draw(st.sampled_from(["replace", "delete", "add"]))
        if what == "delete":
            parent.pop(loc[-1], None) if isinstance(parent, dict) else parent.pop(loc[-1])
        elif what == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["kind", "r", "lr", "source", "x"]) | st.text(max_size=5))] = draw(VALUES)
        else:
            parent[loc[-1]] = draw(VALUES)
    return data


def refused(read: Callable[[], Any]) -> tuple[Problem, ...]:
    """The problems that are told, none if it can be read; any other exception goes through."""
    try:
        read()
    except RecipeError as error:
        return error.problems or (Problem(""),)
    return ()


@settings(max_examples=200)
@given(data=mutated())
def test_nothing_but_a_recipe_error_comes_out(data: Any) -> None:
    found = refused(lambda: load(data))
    assert all(problem.message and "\n" not in str(problem) for problem in found)
    if not found:
        recipe, _ = load(data)
        assert load(json.loads(recipe.model_dump_json()))[0] == recipe


@settings(max_examples=100)
@given(text=st.text(alphabet=st.sampled_from(list("abk:[]{}&*!?|>-\"'#,%@\n\t 01.e~\\")), max_size=60))
def test_no_text_is_too_odd(text: str) -> None:
    found = refused(lambda: parse(text))
    assert all(problem.message for problem in found)
    if not found:
        assert json.dumps(parse(text).data).startswith("{")
