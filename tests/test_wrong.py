"""The table of mistakes: each is told on the command line with its place and its remedy, and nothing is written."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests import tiny
from tests.command import hfstrat

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Wrong:
    """A mistake.

    Attributes:
        name: What is wrong.
        place: How the first line of what is told starts, after `error: `.
        remedy: Words of the same line.
        recipe: Fields of the recipe that differ, by dotted path.
        files: Files in the working directory, by name: bytes, text or rows.
        words: Overrides and options of the command.
        verb: The verb.
        text: The whole recipe as text, in place of a good one.
        count: How many problems there are.
        file: The recipe that is asked for.
    """

    name: str
    place: str
    remedy: str
    recipe: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    verb: str = "train"
    text: str | bytes | None = None
    count: int = 1
    file: str = "mine.yaml"


ROWS = tiny.reviews(40)
THREE = tiny.reviews(45, classes=3)


def relabelled(rows: Rows, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Rows:
    return [{**row, **change(place, row)} for place, row in enumerate(rows)]


def first(count: int, **values: Any) -> Rows:
    """Rows whose first ones are changed."""
    return relabelled(ROWS, lambda place, _: values if place < count else {})


def parquet(**columns: list[Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


RECIPES = [
    Wrong("misspelt key", "mine.yaml:12: train.lrr: ", "Did you mean 'lr'?", {"train.lrr": 1e-3}),
    Wrong("misspelt section", "mine.yaml:12: evalute: ", "Did you mean 'evaluate'?", {"evalute.metrics": ["accuracy"]}),
    Wrong(
        "field of another strategy",
        "mine.yaml:10: strategy.r: ",
        "Remove it, or write `strategy: {kind: lora, …}`",
        {"strategy.r": 4},
    ),
    Wrong(
        "unknown strategy", "mine.yaml:8: strategy.kind: 'lorra'", "Did you mean 'lora'?", {"strategy.kind": "lorra"}
    ),
    Wrong(
        "unknown task",
        "mine.yaml:5: task.kind: ",
        "Did you mean 'text_classification'?",
        {"task.kind": "text_clasification"},
    ),
    Wrong(
        "text for a number",
        "override: train.lr: '1e-3' is text",
        "Remove the quotation marks",
        words=("train.lr='1e-3'",),
    ),
    Wrong(
        "number for a text",
        "mine.yaml:7: task.labels.0: ",
        "Put it in quotation marks",
        {"task.labels": [0, 1]},
        count=2,
    ),
    Wrong("no such recipe", "other.yaml: no such recipe", "There is: mine.yaml", file="other.yaml"),
    Wrong("not YAML", "mine.yaml:2: this is not YAML: ", "Check indentation", text="name: [x\nmodel: y\n"),
    Wrong("empty recipe", "mine.yaml: a recipe is a mapping", "`hfstrat init DATA` writes one", text=""),
    Wrong("recipe not in UTF-8", "mine.yaml:1: the recipe is not UTF-8", "", text=b"name: caf\xe9\n"),
    Wrong("key given twice", "mine.yaml:2: name: ", "given twice", text="name: x\nname: y\n"),
    Wrong("word that is no override", "'train.lr' is not an override", "such as train.lr=1e-4", words=("train.lr",)),
    Wrong("override of nothing", "override: train.lrr: ", "Did you mean 'lr'?", words=("train.lrr=1",)),
    Wrong(
        "epochs and max_steps",
        "override: train.epochs: train.max_steps says 2",
        "Remove one",
        words=("train.epochs=9",),
    ),
    Wrong(
        "unknown metric",
        "mine.yaml:13: evaluate.metrics: metric 'acuracy'",
        "Did you mean 'accuracy'?",
        {"evaluate.metrics": ["acuracy"]},
    ),
    Wrong(
        "metric of another problem",
        "mine.yaml:13: evaluate.metrics: metric 'rmse'",
        "Use one of: accuracy, ",
        {"evaluate.metrics": ["rmse"]},
    ),
    Wrong("no metric", "mine.yaml:13: evaluate.metrics: [] ", "at least 1", {"evaluate.metrics": []}),
    Wrong(
        "binary f1 of three classes",
        "mine.yaml:13: evaluate.metrics: metric 'f1'",
        "Use f1_macro",
        {"evaluate.metrics": ["f1"]},
        {"a.csv": THREE},
    ),
    Wrong(
        "select_by that is not measured",
        "mine.yaml:13: evaluate.select_by: 'f1_macro'",
        "Use one of: accuracy",
        {"evaluate.select_by": "f1_macro", "evaluate.metrics": ["accuracy"]},
    ),
    Wrong("fp16 on a CPU", "mine.yaml:12: train.precision: ", "Use bf16, fp32 or auto", {"train.precision": "fp16"}),
    Wrong(
        "label smoothing of numbers",
        "mine.yaml:14: train.label_smoothing: ",
        "Remove it",
        {"train.label_smoothing": 0.1, "data.columns.label": "n"},
        {"a.csv": relabelled(ROWS, lambda place, _: {"n": place + 0.5})},
    ),
    Wrong(
        "class weight of a label that is not there",
        "mine.yaml:6: task.class_weights: 'negativ'",
        "Did you mean 'negative'?",
        {"task.class_weights": {"negativ": 2.0}},
    ),
    Wrong(
        "length above the model's",
        "mine.yaml:6: task.max_length: the model takes at most 128",
        "Leave it out",
        {"task.max_length": 1000},
    ),
    Wrong(
        "label given twice", "mine.yaml:6: task.labels: the label 'a' is given twice", "", {"task.labels": ["a", "a"]}
    ),
    Wrong(
        "label left out",
        "mine.yaml:6: task.labels: ",
        "Add them, or remove `task.labels`",
        {"task.labels": ["negative"]},
    ),
    Wrong(
        "lora on nothing",
        "mine.yaml:10: strategy.targets: 'qury' matches no linear layer",
        "Did you mean 'query'?",
        {"strategy.kind": "lora", "strategy.targets": ["qury"]},
    ),
]

MODELS = [
    Wrong(
        "base that is not in the cache",
        "mine.yaml:3: model.base: nobody/nothing is neither a folder here nor in the cache",
        "package:<module>/<folder>",
        {"model.base": "nobody/nothing"},
    ),
    Wrong(
        "base whose package is missing",
        "mine.yaml:3: model.base: no installed package 'no_such_thing'",
        "`pip install no-such-thing`",
        {"model.base": "package:no_such_thing/model"},
    ),
    Wrong(
        "base without a configuration",
        "mine.yaml:3: model.base: the folder ",
        "has no config.json",
        {"model.base": "."},
    ),
    Wrong("base that is no folder", "mine.yaml:3: model.base: no such folder: ./gone", "", {"model.base": "./gone"}),
    Wrong(
        "model and data are both wrong",
        "mine.yaml:7: data.source: there is no file",
        "Did you mean 'a.csv'?",
        {"model.base": "./gone", "data.source": "b.csv"},
        count=2,
    ),
    Wrong(
        "attention that is not installed",
        "mine.yaml:3: model.base: ",
        "FlashAttention",
        {"model.attention": "flash_attention_2"},
    ),
]

DATA = [
    Wrong(
        "no such file",
        "mine.yaml:7: data.source: there is no file or folder reviws.csv",
        "Did you mean 'reviews.csv'?",
        {"data.source": "reviws.csv"},
        {"reviews.csv": ROWS},
    ),
    Wrong(
        "no such test file",
        "mine.yaml:8: data.test: there is no file",
        "Did you mean 'tests.csv'?",
        {"data.test": "test.csv"},
        {"tests.csv": ROWS},
    ),
    Wrong(
        "unknown builtin",
        "mine.yaml:7: data.source: ",
        "Did you mean 'builtin:python-docs'?",
        {"data.source": "builtin:python-doc"},
    ),
    Wrong(
        "Hub data that are not in the cache",
        "mine.yaml:7: data.source: me/reviews is not in the cache",
        "name a file",
        {"data.source": "me/reviews"},
    ),
    Wrong(
        "data that only Python has", "mine.yaml:7: data.source: ", "Pass data=… in Python", {"data.source": "memory"}
    ),
    Wrong(
        "missing column",
        "mine.yaml:9: data.columns.text: no column 'txt'",
        "Did you mean 'text'? The columns are: text, label",
        {"data.columns": {"text": "txt"}},
    ),
    Wrong(
        "unknown role",
        "mine.yaml:9: data.columns.txt: 'txt' is not a role",
        "Did you mean 'text'?",
        {"data.columns": {"txt": "text"}},
    ),
    Wrong(
        "no label column",
        "mine.yaml:6: data.columns.label: no column 'label'",
        "The columns are: text, class",
        files={"a.csv": [{"text": r["text"], "class": r["label"]} for r in ROWS]},
    ),
    Wrong(
        "test without labels",
        "mine.yaml:6: data.columns.label: split test has no column 'label'",
        "The columns are: text",
        {"data.test": "t.csv"},
        {"t.csv": [{"text": "x"}]},
    ),
    Wrong(
        "split that is not there",
        "mine.yaml:8: data.validation: ",
        "Did you mean 'train'?",
        {"data.validation": "trian"},
    ),
    Wrong(
        "one split for two roles",
        "mine.yaml:8: data.test: split 'train' is used for both",
        "give a fraction or another split",
        {"data.test": "train"},
    ),
    Wrong("empty file", "a.csv: the file is empty", "", files={"a.csv": ""}),
    Wrong("no rows", "a.csv: the file has no rows", "", files={"a.csv": "text,label\n"}),
    Wrong(
        "ragged rows",
        "a.csv:3: this row has 3 cells and the header has 2",
        "quotation marks",
        files={"a.csv": "text,label\nx,a\ny,b,c\n"},
    ),
    Wrong(
        "not UTF-8",
        "a.csv:2: the text is not UTF-8",
        "iconv -f windows-1252",
        files={"a.csv": b"text,label\ncaf\xe9,a\n"},
    ),
    Wrong(
        "two columns of one name",
        "a.csv:1: two columns are named 'text'",
        "Rename or remove one",
        files={"a.csv": "text,text\na,b\n"},
    ),
    Wrong("open quotation mark", "a.csv:2: a quotation mark is not closed", "", files={"a.csv": 'text,label\n"x,a\n'}),
    Wrong(
        "not a parquet file",
        "a.parquet: this is not a parquet file",
        "",
        {"data.source": "a.parquet"},
        {"a.parquet": "text"},
    ),
    Wrong(
        "one class",
        "mine.yaml:6: data: split train has one label only: 'same'",
        "add another class",
        files={"a.csv": relabelled(ROWS, lambda *_: {"label": "same"})},
    ),
    Wrong(
        "label that train does not have",
        "mine.yaml:8: data.test: split test has 1 labels that train does not have: 'postive'",
        "Correct the spelling",
        {"data.test": "t.csv"},
        {"t.csv": [{"text": "x", "label": "postive"}]},
    ),
    Wrong(
        "empty texts",
        "mine.yaml:6: data.columns.text: split train has 3 rows whose 'text' is empty: rows 0, 1, 2",
        "Fill in the text or delete the rows",
        {"data.test": "t.csv", "data.validation": "v.csv"},
        {"a.csv": first(3, text=""), "t.csv": ROWS, "v.csv": ROWS[:9]},
    ),
    Wrong(
        "empty labels",
        "mine.yaml:6: data.columns.label: split train has 1 row without a label in 'label': row 0",
        "Fill in the label or delete the rows",
        {"data.test": "t.csv", "data.validation": "v.csv"},
        {"a.csv": first(1, label=""), "t.csv": ROWS, "v.csv": ROWS[:9]},
    ),
    Wrong(
        "labels that are not numbers",
        "mine.yaml:7: data.columns.label: split train has",
        "is not a finite number",
        {"task.problem": "regression"},
        count=3,
    ),
    Wrong(
        "labels that are NaN",
        "mine.yaml:6: data.columns.label: split train has",
        "Fill in the label",
        {"data.source": "n.parquet"},
        {
            "n.parquet": parquet(
                text=[f"text {n}" for n in range(40)], label=[float("nan") if n % 2 else n + 0.5 for n in range(40)]
            )
        },
        count=3,
    ),
    Wrong(
        "texts that are lists of numbers",
        "mine.yaml:6: data.columns.text: split train has",
        "Name a column of texts",
        {"data.source": "a.jsonl"},
        {"a.jsonl": "\n".join(json.dumps({"text": [1, 2], "label": "ab"[n % 2]}) for n in range(20))},
        count=3,
    ),
    Wrong(
        "texts that are numbers",
        "mine.yaml:6: data.columns.text: split train has",
        "Name a column of texts",
        files={"a.csv": relabelled(ROWS, lambda place, _: {"text": place})},
        count=3,
    ),
    Wrong(
        "several label columns for one label",
        "mine.yaml:10: data.columns.label: 2 label columns",
        "set task.problem: multi_label",
        {"task.problem": "single_label", "data.columns.label": ["a", "b"]},
        {"a.csv": relabelled(ROWS, lambda place, _: {"a": place % 2, "b": 1 - place % 2})},
    ),
    Wrong(
        "label columns that are not 0 or 1",
        "mine.yaml:9: data.columns.label: split train has",
        "hold 0 or 1",
        {"data.columns.label": ["a", "b"]},
        {"a.csv": relabelled(ROWS, lambda place, _: {"a": place % 2, "b": 7})},
        count=3,
    ),
    Wrong(
        "classes of numbers to limit by",
        "mine.yaml:8: data.limit: ",
        "Give a number of rows",
        {"data.limit": {"per_class": 2}, "data.columns.label": "n"},
        {"a.csv": relabelled(ROWS, lambda place, _: {"n": place + 0.5})},
    ),
]

ARMS = [
    Wrong(
        "unknown arm",
        "'lorra' is neither a strategy nor a floor",
        "Did you mean 'lora'?",
        verb="compare",
        words=("--arms", "head,lorra"),
    ),
    Wrong(
        "two arms with one name",
        "mine.yaml:13: compare.arms: two arms are called 'tfidf'",
        "a `name` of its own",
        {"compare.arms": ["tfidf", "tfidf"]},
        verb="compare",
    ),
    Wrong(
        "an arm that is both",
        "mine.yaml:14: compare.arms.0: an arm is either a floor or a strategy",
        "",
        {"compare.arms": [{"floor": "tfidf", "strategy": {"kind": "head"}}]},
        verb="compare",
    ),
    Wrong(
        "a seed given twice", "a seed is given twice", "Each seed is one run", verb="compare", words=("--seeds", "0,0")
    ),
    Wrong("a seed that is no number", "'one' is not a seed", "--seeds 0,1,2", verb="compare", words=("--seeds", "one")),
    Wrong("a negative seed", "[-1] are no seeds", "whole numbers from 0", verb="compare", words=("--seeds", "-1")),
    Wrong(
        "an arm of a wrong strategy",
        "mine.yaml:16: compare.arms.0.strategy.rr: ",
        "Did you mean 'r'?",
        {"compare.arms": [{"strategy": {"kind": "lora", "rr": 1}}]},
        verb="compare",
    ),
    Wrong(
        "data of a comparison",
        "mine.yaml:7: data.source: there is no file",
        "Did you mean 'a.csv'?",
        {"data.source": "aa.csv"},
        verb="compare",
    ),
]

PARTIAL, PEFT, SCRATCH = {"strategy.kind": "partial"}, {"strategy.kind": "peft"}, {"strategy.kind": "scratch"}
DISTILL = {"strategy.kind": "distill"}
PEFT_OF_NONE = {"kind": "peft", "method": "NONE"}

STRATEGIES = [
    Wrong("model of nothing", "mine.yaml:2: model: ", "a base, or a config with its model_type", {"model.base": None}),
    Wrong(
        "pretrained weights of a shape",
        "mine.yaml:4: model.config: it is the shape of random weights",
        "or use kind: scratch",
        {"model.config": {"hidden_size": 8}},
    ),
    Wrong(
        "pretrained weights of nothing",
        "mine.yaml:3: model.base: pretrained weights need a base",
        "Or use kind: scratch",
        {"model.base": None, "model.config": {"model_type": "bert"}},
        count=2,
    ),
    Wrong(
        "scratch without a tokenizer",
        "mine.yaml:10: strategy.tokenizer: there is no base to take a tokenizer from",
        "Set strategy.tokenizer: {kind: bpe",
        {"model.base": None, "model.config": {"model_type": "bert"}, **SCRATCH},
    ),
    Wrong(
        "unknown architecture",
        "mine.yaml:5: model.config.model_type: 'brt' is no architecture",
        "Did you mean",
        {"model.config": {"model_type": "brt"}, **SCRATCH},
    ),
    Wrong(
        "unknown field of a shape",
        "mine.yaml:5: model.config.hiden_size: 'hiden_size' is no field of a bert configuration",
        "Did you mean 'hidden_size'?",
        {"model.config": {"hiden_size": 8, "num_layer": 1}, **SCRATCH},
        count=2,
    ),
    Wrong(
        "a shape that cannot be",
        "mine.yaml:4: model.config: ",
        "",
        {"model.config": {"hidden_size": 30, "num_attention_heads": 4}, **SCRATCH},
    ),
    Wrong(
        "a shape that cannot be, for a tokenizer of its own",
        "mine.yaml:3: model.config: no model can be built of this shape: The hidden size",
        "",
        {
            "model": {"config": {"model_type": "bert", "hidden_size": 30, "num_attention_heads": 4}},
            **SCRATCH,
            "strategy.tokenizer": {"kind": "wordpiece", "vocab_size": 100},
        },
    ),
    Wrong(
        "vocabulary without room for bytes",
        "mine.yaml:12: strategy.tokenizer.vocab_size: 100 entries have no room",
        "Set it to",
        {**SCRATCH, "strategy.tokenizer": {"kind": "bpe", "vocab_size": 100}},
    ),
    Wrong(
        "more blocks than there are",
        "mine.yaml:10: strategy.last_n: the model has 2 blocks, not 3",
        "or use kind: full",
        {**PARTIAL, "strategy.last_n": 3},
    ),
    Wrong(
        "blocks and patterns",
        "mine.yaml:8: strategy: last_n and train say the same thing",
        "remove one of them",
        {**PARTIAL, "strategy.last_n": 1, "strategy.train": ["*.0.*"]},
    ),
    Wrong(
        "gradual without blocks",
        "mine.yaml:8: strategy: gradual adds block after block",
        "needs last_n",
        {**PARTIAL, "strategy.gradual": True, "strategy.train": ["*.0.*"]},
    ),
    Wrong(
        "a pattern that matches nothing",
        "mine.yaml:10: strategy.train: '*.layer.7.*' matches no parameter",
        "They look like 'backbone.",
        {**PARTIAL, "strategy.train": ["*.layer.7.*", "*.layer.1.*", "*norm*"]},
        count=2,
    ),
    Wrong(
        "a head that is not there",
        "mine.yaml:10: strategy.head_init: the base brings no head for these labels",
        "head_init: auto",
        {"strategy.kind": "full", "strategy.head_init": "keep"},
    ),
    Wrong(
        "unknown method",
        "mine.yaml:10: strategy.method: PEFT has no method 'VERRA'",
        "Did you mean 'VERA'?",
        {**PEFT, "strategy.method": "verra"},
    ),
    Wrong(
        "unknown option",
        "mine.yaml:12: strategy.options.rr: VERA has no option 'rr'",
        "",
        {**PEFT, "strategy.method": "VERA", "strategy.options": {"rr": 8, "target_modules": ["query"]}},
        count=2,
    ),
    Wrong(
        "option of another place",
        "mine.yaml:12: strategy.options.target_modules: ",
        "It is strategy.targets in the recipe",
        {**PEFT, "strategy.method": "VERA", "strategy.options": {"target_modules": ["query"]}},
    ),
    Wrong(
        "target that is not there",
        "mine.yaml:10: strategy.targets: 'qery' matches no linear layer",
        "query",
        {**PEFT, "strategy.targets": ["qery"]},
    ),
    Wrong("a student without a teacher", "mine.yaml:8: strategy.teacher: 'teacher' is required", "A run", DISTILL),
    Wrong(
        "a teacher that is not there",
        "mine.yaml:10: strategy.teacher: no such folder: ./gone",
        "",
        {**DISTILL, "strategy.teacher": "./gone", "strategy.student": {"weights": "base"}},
    ),
    Wrong(
        "a teacher that is an arm",
        "mine.yaml:10: strategy.teacher: 'arm:full' names an arm",
        "such as runs/full",
        {**DISTILL, "strategy.teacher": "arm:full", "strategy.student": {"weights": "base"}},
    ),
    Wrong(
        "a student of too few blocks",
        "mine.yaml:13: strategy.student.every: every is 3, and there are 2 blocks",
        "Use 2 at most",
        {**DISTILL, "strategy.teacher": "./gone", "strategy.student": {"weights": "base", "every": 3}},
    ),
    Wrong(
        "texts that are not there",
        "mine.yaml:13: strategy.unlabelled: there is no file or folder more.csv",
        "",
        {
            **DISTILL,
            "strategy.teacher": "./gone",
            "strategy.student": {"weights": "base"},
            "strategy.unlabelled": "more.csv",
        },
    ),
    Wrong("code that is not there", "mine.yaml:4: model.code: no such file: gone.py", "", {"model.code": "gone.py"}),
    Wrong(
        "code that fails",
        "code.py:2: model.code: the code fails: ZeroDivisionError",
        "",
        {"model.code": "code.py"},
        {"code.py": "x = 1\ny = x / 0\n"},
    ),
    Wrong(
        "an arm of a strategy that cannot be planned",
        "mine.yaml:13: compare.arms: arm partial: the model has 2 blocks, not 3",
        "or use kind: full",
        {"compare.arms": ["head", {"strategy": {"kind": "partial", "last_n": 3}}, {"strategy": PEFT_OF_NONE}]},
        count=2,
        verb="compare",
    ),
]

TABLE = [*RECIPES, *MODELS, *DATA, *ARMS, *STRATEGIES]


@pytest.fixture
def good(tiny_base: Callable[..., Path]) -> dict[str, Any]:
    return {
        "name": "x",
        "model": {"base": str(tiny_base("bert", sentence_transformers="mean"))},
        "task": {"kind": "text_classification"},
        "data": {"source": "a.csv"},
        "strategy": {"kind": "head"},
        "train": {"max_steps": 2},
    }


def with_fields(recipe: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    recipe = copy.deepcopy(recipe)
    for path, value in fields.items():
        here = recipe
        *steps, last = path.split(".")
        for step in steps:
            here = here.setdefault(step, {})
        here[last] = value
    return recipe


def write(path: Path, content: Any) -> None:
    if isinstance(content, list):
        tiny.write_csv(path, content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("wrong", TABLE, ids=[wrong.name for wrong in TABLE])
def test_it_is_told_and_nothing_is_written(
    wrong: Wrong, good: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "mine.yaml"
    write(
        recipe, yaml.safe_dump(with_fields(good, wrong.recipe), sort_keys=False) if wrong.text is None else wrong.text
    )
    for name, content in {"a.csv": ROWS, **wrong.files}.items():
        write(tmp_path / name, content)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    before = snapshot(tmp_path)

    done = hfstrat(wrong.verb, wrong.file, *wrong.words)

    assert done.code == 2
    assert done.out == ""
    assert "Traceback" not in done.err
    assert len(done.errors) == wrong.count, done.err
    assert done.errors[0].startswith(wrong.place)
    assert wrong.remedy in done.errors[0]
    assert snapshot(tmp_path) == before
    assert [entry.name for entry in (tmp_path / "runs").iterdir()] == ["mine"]
