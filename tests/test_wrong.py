"""The table of mistakes: each is told on the command line with its place and its remedy, and nothing is written."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
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
        base: What is done to a copy of a tiny base, which is then the recipe's; None for the good one.
        family: Of that tiny base.
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
    base: Callable[[Path], object] | None = None
    family: str = "bert"


ROWS = tiny.reviews(40)
THREE = tiny.reviews(45, classes=3)


def relabelled(rows: Rows, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Rows:
    return [{**row, **change(place, row)} for place, row in enumerate(rows)]


def first(count: int, **values: Any) -> Rows:
    """Rows whose first ones are changed."""
    return relabelled(ROWS, lambda place, _: values if place < count else {})


def lines(records: Iterable[dict[str, Any]]) -> str:
    return "\n".join(json.dumps(record) for record in records)


def parquet(**columns: Any) -> bytes:
    return written(pa.table(columns))


def written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def not_utf8(count: int) -> pa.Array:
    """A column that calls itself text."""
    offsets = np.arange(0, 4 * count + 1, 4, dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(b"caf\xe9" * count)])


class Ran:
    """Pickled, it leaves a file behind where it is read."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def put(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def cut(name: str, length: int) -> Callable[[Path], object]:
    """Keep the first bytes of a file, or all but the last ones."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def configured(**fields: Any) -> Callable[[Path], object]:
    """Change fields of a configuration; None removes one."""

    def change(folder: Path) -> None:
        config = {**json.loads((folder / "config.json").read_text()), **fields}
        put("config.json", json.dumps({name: value for name, value in config.items() if value is not None}))(folder)

    return change


def with_tensors(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], object]:
    def rewrite(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, {"format": "pt"})

    return rewrite


def without_files(*patterns: str) -> Callable[[Path], object]:
    return lambda folder: [file.unlink() for pattern in patterns for file in folder.glob(pattern)]


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Ran()))


def of_its_own_code(folder: Path) -> None:
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnModel"}
    configured(model_type="own", auto_map=classes)(folder)
    put("own.py", "from pathlib import Path\nPath('ran').touch()\n")(folder)


def with_a_lost_shard(folder: Path) -> None:
    from transformers import BertModel

    model = BertModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    min(folder.glob("model-*.safetensors")).unlink()


def with_few_embeddings(folder: Path) -> None:
    configured(vocab_size=100)(folder)
    with_tensors(lambda state: {k: v[:100].clone() if "word_emb" in k else v for k, v in state.items()})(folder)


def with_a_head(folder: Path) -> None:
    from transformers import BertForSequenceClassification

    BertForSequenceClassification.from_pretrained(folder, id2label={0: "a", 1: "b", 2: "c"}).save_pretrained(folder)


def of_a_base_that_is_gone(folder: Path) -> None:
    put("adapter_config.json", '{"base_model_name_or_path": "nobody/nothing"}')(folder)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


TOKEN = "hf_" + "A1b2" * 8
HUGE = "long " * 2_000_000

RECIPES = [
    Wrong(
        "a token in a recipe",
        "mine.yaml:4: model.revision: this looks like a token or a password",
        "Put it into the environment, such as HF_TOKEN",
        {"model.revision": TOKEN},
    ),
    Wrong(
        "a password in an override",
        "override: data.source: this looks like a token or a password",
        "Put it into the environment",
        words=("data.source=https://me:secret@example.com/a.csv",),
    ),
    Wrong(
        "a tag that makes objects",
        "mine.yaml:1: the tag !!python/name:os.system means nothing",
        "",
        text="name: !!python/name:os.system x\n",
    ),
    Wrong("nested without end", "mine.yaml:1: it is nested too deeply", "", text="name: " + "[" * 100 + "]" * 100),
    Wrong(
        "aliases without end",
        "mine.yaml:",
        "with its aliases written out it is larger than 1,000,000 bytes",
        text="a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9)),
    ),
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
        "mine.yaml:4: task.kind: ",
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
    Wrong(
        "sensitivity at no specificity that is meant",
        "mine.yaml:13: evaluate.metrics: metric 'sensitivity_at_specificity_95'",
        "sensitivity_at_specificity_0.95",
        {"evaluate.metrics": ["sensitivity_at_specificity_95"]},
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
    Wrong(
        "configuration that is no JSON",
        "mine.yaml:3: model.base: the configuration of base cannot be read",
        "config.json has to be JSON that names a model_type",
        base=put("config.json", "{model_type"),
    ),
    Wrong(
        "configuration without a model_type",
        "mine.yaml:3: model.base: the configuration of base cannot be read",
        "config.json has to be JSON that names a model_type",
        base=configured(model_type=None),
    ),
    Wrong(
        "configuration of an unknown architecture",
        "mine.yaml:3: model.base: the configuration of base cannot be read",
        "has model type `zorp`",
        base=configured(model_type="zorp"),
    ),
    Wrong(
        "configuration of wrong types",
        "mine.yaml:3: model.base: the configuration of base cannot be read",
        "'hidden_size' expected int",
        base=configured(hidden_size="large"),
    ),
    Wrong(
        "configuration that cannot be",
        "mine.yaml:3: model.base: base cannot be used for AutoModelForSequenceClassification",
        "not a multiple of the number of attention heads",
        base=configured(num_attention_heads=5),
    ),
    Wrong(
        "base that sees",
        "mine.yaml:3: model.base: base is a vit model, which reads pixel_values and no text",
        "Name a base that was trained on text",
        base=lambda folder: None,
        family="vit",
    ),
    Wrong(
        "base that hears",
        "mine.yaml:3: model.base: base is a wav2vec2 model, which reads input_values and no text",
        "Name a base that was trained on text",
        base=lambda folder: None,
        family="wav2vec2",
    ),
    Wrong(
        "base without a tokenizer",
        "mine.yaml:3: model.base: base brings no tokenizer",
        "such as tokenizer.json",
        base=without_files("*token*"),
    ),
    Wrong(
        "tokenizer that is damaged",
        "mine.yaml:3: model.base: the tokenizer of base cannot be read",
        "Copy or download its files again",
        base=cut("tokenizer.json", -100),
    ),
    Wrong(
        "tokenizer of another model",
        "mine.yaml:3: model.base: its tokenizer gives ids up to ",
        "and the model has 100 embeddings. Take tokenizer and weights of the same model",
        base=with_few_embeddings,
    ),
    Wrong(
        "weights that are cut off",
        "mine.yaml:3: model.base: the weights of base are damaged: model.safetensors has ",
        "Copy or download the whole folder again",
        base=cut("model.safetensors", -1000),
    ),
    Wrong(
        "weights of a few bytes",
        "mine.yaml:3: model.base: the weights of base are damaged: model.safetensors has 100 bytes",
        "Copy or download the whole folder again",
        base=cut("model.safetensors", 100),
    ),
    Wrong(
        "weights that are not there",
        "mine.yaml:3: model.base: base lacks weights: there is no model.safetensors",
        "Copy or download the whole folder again",
        base=without_files("*.safetensors"),
    ),
    Wrong(
        "a part of the weights that is not there",
        "mine.yaml:3: model.base: base lacks weights: there is no model-00001-of-",
        "Copy or download the whole folder again",
        base=with_a_lost_shard,
    ),
    Wrong(
        "an index that lists no weights",
        "mine.yaml:3: model.base: model.safetensors.index.json of base does not list its files",
        "Copy or download the whole folder again",
        base=lambda folder: [without_files("*.safetensors")(folder), put("model.safetensors.index.json", "[]")(folder)],
    ),
    Wrong(
        "a tensor of the body that is not there",
        "mine.yaml:3: model.base: the weights of base lack tensors of its body",
        "backbone.encoder.layer.1.output.dense.bias. Copy or download it again",
        {"task.pooling": "mean"},
        base=with_tensors(lambda state: {k: v for k, v in state.items() if "1.output.dense.bias" not in k}),
    ),
    Wrong(
        "a module of the body that is not there",
        "mine.yaml:3: model.base: the weights of base lack tensors of its body",
        "bert.encoder.layer.1.output.dense.bias, bert.encoder.layer.1.output.dense.weight. Copy or download it again",
        {"strategy.kind": "full"},
        base=with_tensors(lambda state: {k: v for k, v in state.items() if "1.output.dense." not in k}),
    ),
    Wrong(
        "a tensor of another shape",
        "mine.yaml:3: model.base: the weights of base lack tensors of its body, or have them in another shape",
        "have to be of the same model",
        {"strategy.kind": "lora"},
        base=with_tensors(
            lambda state: {k: v[:, :16].clone() if "0.attention.self.query.w" in k else v for k, v in state.items()}
        ),
    ),
    Wrong(
        "weights that are a pickle",
        "mine.yaml:3: model.base: base has its weights in pytorch_model.bin, a pickle",
        "Convert it where you trust it: `from transformers import BertModel as M",
        base=pickled,
    ),
    Wrong(
        "base that brings code",
        "mine.yaml:3: model.base: base brings Python code of its own",
        "read it, then set model.trust_remote_code: true",
        base=of_its_own_code,
    ),
    Wrong(
        "sentence-transformers files that are damaged",
        "mine.yaml:3: model.base: modules.json of base, or a file that it names",
        "or remove modules.json and set task.pooling",
        base=put("modules.json", "[1]"),
    ),
    Wrong(
        "adapter that is no JSON",
        "mine.yaml:3: model.base: base/adapter_config.json cannot be read",
        "Copy or download the whole folder again",
        base=put("adapter_config.json", "{"),
    ),
    Wrong(
        "adapter that names no base",
        "mine.yaml:3: model.base: base/adapter_config.json does not name its base",
        "Copy or download the whole folder again",
        base=put("adapter_config.json", "{}"),
    ),
    Wrong(
        "run that is damaged",
        "mine.yaml:3: model.base: base/status.json cannot be read",
        "Copy or download the whole folder again",
        base=put("status.json", "{"),
    ),
    Wrong(
        "adapter of a base that is not in the cache",
        "mine.yaml:3: model.base: ",
        "nobody/nothing",
        base=of_a_base_that_is_gone,
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
        "Rename it to end as what it is",
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
        "labels that are numbers and words",
        "a.jsonl:5: column 'label' holds text above and numbers here",
        "Write all of them in one way",
        {"data.source": "a.jsonl"},
        {"a.jsonl": lines({"text": f"text {n}", "label": "a" if n < 4 else n % 2} for n in range(20))},
    ),
    Wrong(
        "labels of a JSON list that are numbers and words",
        "a.json: column 'label' holds text above and numbers in item 5",
        "Write all of them in one way",
        {"data.source": "a.json"},
        {"a.json": json.dumps([{"text": f"text {n}", "label": "a" if n < 4 else n % 2} for n in range(20)])},
    ),
    Wrong(
        "a word among labels that are numbers",
        "mine.yaml:6: data.columns.label: split train has 2 rows whose 'label' is not a finite number: rows 0, 1",
        "Correct or delete the rows; for classes set task.problem: single_label",
        {"data.test": "t.csv", "data.validation": "v.csv"},
        {
            "a.csv": relabelled(ROWS, lambda place, _: {"label": "n/a" if place < 2 else place + 0.5}),
            "t.csv": relabelled(ROWS, lambda place, _: {"label": place + 0.5}),
            "v.csv": relabelled(ROWS[:9], lambda place, _: {"label": place + 0.5}),
        },
    ),
    Wrong(
        "a text of ten megabytes",
        "mine.yaml:6: data.columns.text: split test has 1 row whose 'text' has more than 1,000,000 characters: row 0",
        "Look for a quotation mark that is not closed",
        {"data.test": "t.csv"},
        {"t.csv": first(1, text=HUGE)},
    ),
    Wrong(
        "a label of ten megabytes",
        "mine.yaml:6: data.columns.label: split train has 1 row whose 'label' has more than 1,000 characters: row 0",
        "Name the column of labels",
        {"data.test": "t.csv", "data.validation": "v.csv"},
        {"a.csv": first(1, label=HUGE), "t.csv": ROWS, "v.csv": ROWS[:9]},
    ),
    Wrong(
        "label of another case",
        "mine.yaml:8: data.test: split test has 1 labels that train does not have: 'Positive' (1 row; ",
        "train has 'positive'). Correct the spelling",
        {"data.test": "t.csv"},
        {"t.csv": [{"text": "x", "label": "Positive"}]},
    ),
    Wrong(
        "label with a blank",
        "mine.yaml:8: data.test: split test has 1 labels that train does not have: 'positive ' (1 row; ",
        "train has 'positive'). Correct the spelling",
        {"data.test": "t.csv"},
        {"t.csv": [{"text": "x", "label": "positive "}]},
    ),
    Wrong(
        "one row",
        "mine.yaml:6: data: split train has 1 row",
        "Training needs two at least: add rows",
        files={"a.csv": ROWS[:1]},
    ),
    Wrong(
        "one row after a limit",
        "mine.yaml:6: data: split train has 1 row",
        "raise data.limit",
        {"data.limit": 1},
    ),
    Wrong(
        "no row after a limit",
        "mine.yaml:8: data.limit: 0: it should be greater than or equal to 1",
        "",
        {"data.limit": 0},
    ),
    Wrong(
        "one row after the splits",
        "mine.yaml:6: data: split train has 1 row",
        "take less for validation and test",
        {"data.test": 0.99},
    ),
    Wrong(
        "texts of which nothing is left",
        "mine.yaml:6: data.columns.text: no text of train has a token that the base's tokenizer knows",
        "Name the column of texts",
        files={"a.csv": relabelled(ROWS, lambda place, _: {"text": "\u200b" * (place + 1)})},
    ),
    Wrong(
        "no room for texts",
        "mine.yaml:6: task.max_length: 4 tokens leave no room for text beside 3 special ones",
        "Raise it",
        {"task.max_length": 4},
        {"a.csv": relabelled(ROWS, lambda _, row: {"text_pair": row["text"]})},
    ),
    Wrong(
        "windows without room for the second text",
        "mine.yaml:6: task.max_length: a first text of a pair is so long",
        "set task.long_texts: truncate",
        {"task.max_length": 8, "task.long_texts": "windows"},
        {"a.csv": relabelled(ROWS, lambda _, row: {"text_pair": row["text"]})},
    ),
    Wrong(
        "folder without data",
        "mine.yaml:7: data.source: there is no data file in the folder base",
        "Files that can be read end in .bio",
        {"data.source": "base"},
        base=without_files("*.json"),
        count=2,
    ),
    Wrong(
        "another kind of file",
        "a.xlsx: '.xlsx' files cannot be read",
        "Use csv, tsv, json, jsonl, parquet, conll or txt",
        {"data.kind": "files", "data.source": "a.xlsx"},
        {"a.xlsx": "text,label\nx,a\n"},
    ),
    Wrong(
        "parquet with a wrong ending",
        "a.csv: this is a parquet file by its content",
        "Rename it to end in .parquet",
        files={"a.csv": parquet(text=["x", "y"], label=["a", "b"])},
    ),
    Wrong(
        "csv with a wrong ending",
        "a.json:1: this is not JSON",
        "It is read as its name ends",
        {"data.source": "a.json"},
        {"a.json": "text,label\nx,a\n"},
    ),
    Wrong(
        "a spreadsheet",
        "a.csv: this is a zip or Excel file by its content",
        "export it as csv",
        files={"a.csv": b"PK\x03\x04 and so on"},
    ),
    Wrong(
        "parquet that is cut off",
        "a.parquet: this is not a whole parquet file",
        "Copy or download it again",
        {"data.source": "a.parquet"},
        {"a.parquet": parquet(text=["x y"] * 50, label=["a", "b"] * 25)[:-40]},
    ),
    Wrong(
        "parquet that is not UTF-8",
        "a.parquet: its cells are not what its columns say",
        "Write text as UTF-8",
        {"data.source": "a.parquet"},
        {"a.parquet": parquet(text=not_utf8(20), label=["a", "b"] * 10)},
    ),
    Wrong(
        "two parquet columns of one name",
        "a.parquet: two columns are named 'text'",
        "Rename or remove one",
        {"data.source": "a.parquet"},
        {"a.parquet": written(pa.table([["x"], ["y"], ["a"]], names=["text", "text", "label"]))},
    ),
    Wrong(
        "a JSON field given twice",
        "a.jsonl:2: the field 'label' is given twice",
        "Rename or remove one",
        {"data.source": "a.jsonl"},
        {"a.jsonl": '{"text": "x", "label": "a"}\n{"text": "y", "label": "a", "label": "b"}\n'},
    ),
    Wrong(
        "a broken line of JSON",
        "a.jsonl:2: this line is not JSON: Unterminated string starting at column 15",
        "Each line is one whole object",
        {"data.source": "a.jsonl"},
        {"a.jsonl": '{"text": "x", "label": "a"}\n{"text": "y", "lab\n'},
    ),
    Wrong(
        "half a character",
        "a.jsonl:1: column 'text' holds half a character",
        "Remove it",
        {"data.source": "a.jsonl"},
        {"a.jsonl": '{"text": "x \\ud83d", "label": "a"}\n{"text": "y", "label": "b"}\n'},
    ),
    Wrong(
        "JSON without end",
        "a.json: it is nested too deeply",
        "",
        {"data.source": "a.json"},
        {"a.json": "[" * 100_000},
    ),
    Wrong(
        "lines that are not UTF-8",
        "a.jsonl:2: the text is not UTF-8: byte 0xe9",
        "iconv -f windows-1252",
        {"data.source": "a.jsonl"},
        {"a.jsonl": b'{"text": "x", "label": "a"}\n{"text": "caf\xe9", "label": "b"}\n'},
    ),
    Wrong(
        "UTF-16", "a.csv: the text is UTF-16", "iconv -f utf-16", files={"a.csv": "text,label\nx,a\n".encode("utf-16")}
    ),
    Wrong(
        "a column that hfstrat needs",
        "mine.yaml:7: data.source: the column '_row' is used by hfstrat",
        "Rename it",
        files={"a.csv": relabelled(ROWS, lambda place, _: {"_row": place})},
    ),
    Wrong(
        "numbers that are infinite",
        "mine.yaml:6: data.columns.label: split train has 1 row whose 'label' is not a finite number: row 0",
        "Correct or delete the rows",
        {"data.source": "a.jsonl", "data.test": "t.csv", "data.validation": "v.csv"},
        {
            "a.jsonl": lines({"text": f"text {n}", "label": n + 0.5 if n else float("inf")} for n in range(20)),
            "t.csv": relabelled(ROWS, lambda place, _: {"label": place + 0.5}),
            "v.csv": relabelled(ROWS[:9], lambda place, _: {"label": place + 0.5}),
        },
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
        "option of another type",
        "mine.yaml:8: strategy: VERA cannot adapt this model",
        "found element of type str",
        {**PEFT, "strategy.method": "VERA", "strategy.targets": ["query"], "strategy.options": {"r": "eight"}},
    ),
    Wrong(
        "a head for other labels",
        "mine.yaml:10: strategy.head_init: the base brings no head for these labels",
        "Its labels must be the same, in the same order; or set head_init: auto",
        {"strategy.kind": "full", "strategy.head_init": "keep"},
        base=with_a_head,
    ),
    Wrong(
        "lora on a norm",
        "mine.yaml:10: strategy.targets: 'LayerNorm' matches no linear layer",
        "Use one of: dense, key, query, value",
        {"strategy.kind": "lora", "strategy.targets": ["LayerNorm"]},
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
    wrong: Wrong, good: dict[str, Any], tiny_base: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if wrong.base is not None:
        good["model"]["base"] = str(shutil.copytree(tiny_base(wrong.family), "base"))
        wrong.base(tmp_path / "base")
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
    assert TOKEN not in done.err
    assert len(done.errors) == wrong.count, done.err
    assert done.errors[0].startswith(wrong.place)
    assert wrong.remedy in done.errors[0]
    assert snapshot(tmp_path) == before
    assert [entry.name for entry in (tmp_path / "runs").iterdir()] == ["mine"]
