"""How a run begins where its directory may hold one already: anew, on from a checkpoint, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from hfstrat.checkpoints import FOLDER, Identity
from hfstrat.errors import Problem, RecipeError, UsageError, shortened
from hfstrat.prepare import Prepared
from hfstrat.recipe.loading import dump, load
from hfstrat.recipe.recipe import Recipe
from hfstrat.runs.directory import Run, check_own
from hfstrat.training.checkpoint import Checkpoint, Unreadable, newest, paths

RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class Beginning:
    """How a run begins.

    Args:
        kind: From nothing, from a checkpoint, or not, because it is done.
        checkpoint: The checkpoint, verified.
        warnings: What its user should know.
    """

    kind: Literal["new", "resumed", "done"]
    checkpoint: Checkpoint | None = None
    warnings: tuple[str, ...] = ()


def run_directory(recipe: Any, runs: str | Path, *, resume: bool) -> tuple[Any, str | Path]:
    """A run's own recipe and the folder around it, where a recipe is asked for by the directory of its run.

    Raises:
        UsageError: It is a run, and nobody asked to go on.
    """
    if not isinstance(recipe, (str, Path)) or not Path(recipe).is_dir() or not (Path(recipe) / RECIPE).is_file():
        return recipe, runs
    folder = Path(recipe).resolve()
    if not resume:
        hint = "Add --resume to go on with it, or name a recipe"
        raise UsageError(Problem(f"{recipe} is the directory of a run", hint=hint))
    parsed, _ = load(folder / RECIPE, {"name": folder.name})
    return parsed, folder.parent


def under_way(folder: Path, asked: Recipe) -> tuple[Recipe, Recipe]:
    """The recipe that a run goes on with, nothing chosen again, and the recipe that it was asked for by.

    Raises:
        RecipeError: The run was begun with another recipe.
    """
    run = Run(folder)
    env, file = run.read("env.json"), folder / RECIPE
    if env is None or not file.is_file():
        return asked, asked
    resolved, _ = load(file, {"name": asked.name})
    begun, _ = load({"name": asked.name, **env["requested"]})
    if _plain(resolved) != _plain(asked):
        problems = [
            Problem(
                f"the run in {folder} was begun with {_shown(before)}, and now it is {_shown(now)}",
                path,
                hint="Set it back to go on, add --overwrite to begin anew, or choose another name=…",
            )
            for path, before, now in _differences(_plain(begun), _plain(asked))
        ]
        if problems:
            raise RecipeError(problems)
    if run.status != "done" and not paths(folder / FOLDER):
        return begun, begun
    # How often checkpoints are written may change on the way.
    train = resolved.train.model_copy(update={name: getattr(asked.train, name) for name in _FREE})
    return resolved.model_copy(update={"train": train}), begun


def beginning(run: Run, prepared: Prepared, *, overwrite: bool, resume: bool) -> Beginning:
    """Decide how a run begins in its directory.

    Raises:
        UsageError: The directory holds something else.
    """
    folder = run.path
    if check_own(folder, "Choose another name=…"):
        return Beginning("new")
    if overwrite:
        return Beginning("new")
    if run.status == "done" and _is_of(run, prepared.recipe):
        known = (run.read("env.json") or {}).get("data", {})
        if known.get("digest") == prepared.digest:
            return Beginning("done")
    if run.status == "done" or not resume:
        hint = "Add --overwrite to replace it, or name=… to keep both"
        if run.status != "done":
            hint = f"Add --resume to go on with it; {hint[0].lower()}{hint[1:]}"
        raise UsageError(Problem(f"{folder} holds another run, which is {run.status}", hint=hint))
    return _from_checkpoint(folder, prepared)


def _is_of(run: Run, recipe: Recipe) -> bool:
    """Whether a run's resolved recipe is this one; where either is pushed to does not count."""
    one, other = yaml.safe_load(run.recipe() or "{}"), yaml.safe_load(dump(recipe))
    return bool({**one, "hub": None} == {**other, "hub": None})


def _from_checkpoint(folder: Path, prepared: Prepared) -> Beginning:
    try:
        checkpoint, damaged = newest(folder / FOLDER)
    except Unreadable as error:
        hint = "Mend that, remove it to go on from the one before, or add --overwrite to begin anew"
        raise UsageError(Problem(str(error), hint=hint)) from error
    if checkpoint is None:
        none = f"{folder} has no checkpoint to go on from: it begins anew"
        return Beginning("new", warnings=(*damaged, none))
    changed = Identity.of(prepared).differences(checkpoint.data["identity"])
    if changed:
        what = {
            "recipe": "recipe",
            "data": "data",
            "base": "weights of the base",
            "teacher": "teacher",
            "vocabulary": "token ids in the texts",
        }
        hint = "Put it back to go on, add --overwrite to begin anew, or choose another name=…"
        raise UsageError(
            [Problem(f"the {what[one]} of the run in {folder} changed since it began", hint=hint) for one in changed]
        )
    return Beginning("resumed", checkpoint, tuple(damaged))


def as_written(recipe: Recipe) -> dict[str, Any]:
    """A recipe as it was written, for `env.json`: what has to be the same for a run to be the same one."""
    found: dict[str, Any] = json.loads(recipe.model_dump_json(exclude={"name", "compare", "hub"}))
    return found


def was_interrupted(folder: Path, recipe: Recipe) -> bool:
    """Whether a directory holds a run of this recipe that ended before it was done, by a signal or with its process."""
    run = Run(folder)
    env = run.read("env.json") or {}
    return run.status in ("interrupted", "running") and env.get("requested") == as_written(recipe)


_FREE = ("checkpoint_every", "keep_checkpoints")


def _plain(recipe: Recipe) -> dict[str, Any]:
    found = as_written(recipe)
    for name in _FREE:
        found["train"].pop(name)
    return found


def _differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted paths at which two trees differ, with both values."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif before != now:
        yield path, before, now


def _shown(value: Any) -> str:
    return shortened(json.dumps(value, ensure_ascii=False))
