"""What the Hub says about a recipe before anything runs: base, data, and the right to push."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfstrat.errors import ModelError, Problem, UsageError
from hfstrat.hub.talking import LOG_IN, api, ask, is_offline, said
from hfstrat.hub.target import find
from hfstrat.models.base import locate
from hfstrat.recipe.data import HubData
from hfstrat.recipe.recipe import Recipe
from hfstrat.runs.events import Observer

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Step = Callable[[], str | None]


def check(recipe: Recipe, observer: Observer | None = None) -> list[str]:
    """Ask the Hub for everything that a recipe names there; data and weights are not downloaded.

    Args:
        recipe: The recipe.
        observer: Hears of waiting.

    Returns:
        What was found, a sentence each.

    Raises:
        UsageError: Something is not there, or may not be read or written: all of it at once.
        HubError: The Hub cannot be asked.
    """
    if is_offline():
        what, hint = "HF_HUB_OFFLINE is set, so the Hub cannot be asked", "Unset it, or leave --online out"
        raise UsageError(Problem(what, hint=hint))
    hub = api()
    found: list[str] = []
    problems: list[Problem] = []
    for step in _steps(hub, recipe, observer):
        try:
            sentence = step()
        except UsageError as error:
            problems.extend(error.problems)
        else:
            found += [sentence] if sentence else []
    if problems:
        raise UsageError(dict.fromkeys(problems))
    return found


def _steps(hub: HfApi, recipe: Recipe, observer: Observer | None) -> Iterator[Step]:
    model, data = recipe.model, recipe.data
    if model.base is not None:
        yield lambda: _model(hub, str(model.base), model.revision, "model.base", observer)
    if model.published_as is not None:
        yield lambda: _model(hub, str(model.published_as), None, "model.published_as", observer, public=True)
    teacher = getattr(recipe.strategy, "teacher", None)
    if teacher is not None:
        yield lambda: _model(hub, teacher, None, "strategy.teacher", observer)
    if isinstance(data, HubData):
        yield lambda: _data(hub, data, observer)
    if recipe.hub.repo_id is not None:
        yield lambda: _goal(hub, recipe, observer)


def _model(
    hub: HfApi, name: str, revision: str | None, field: str, observer: Observer | None, *, public: bool = False
) -> str | None:
    """A model that is to be read; None where it is not on the Hub."""
    try:
        location = name if public else locate(name)
    except ModelError as error:
        raise ModelError([Problem(one.message, field, one.where, one.hint) for one in error.problems]) from error
    if Path(location).is_dir() and not public:
        return None
    info = ask(_there(hub, "model", location, revision, field), location, observer)
    files = [file.rfilename for file in info.siblings or []]
    if not public and files and not any(file.endswith(".safetensors") for file in files):
        hint = "Name another base, or a model.revision that has them"
        raise ModelError(Problem(f"{location} has no weights in safetensors, which alone are read", field, hint=hint))
    return f"{field}: {location} is there, commit {info.sha}"


def _data(hub: HfApi, spec: HubData, observer: Observer | None) -> str:
    info = ask(_there(hub, "dataset", spec.source, spec.revision, "data.source"), spec.source, observer)
    return f"data.source: {spec.source} is there, commit {info.sha}"


def _readable(hub: HfApi, name: str, revision: str | None, kind: str) -> Any:
    """What is known about a repository, where its files may be read too: those of one that is gated may not."""
    info = hub.repo_info(name, revision=revision, repo_type=kind)
    if getattr(info, "gated", False) or getattr(info, "private", False):
        hub.auth_check(name, repo_type=kind)
    return info


def _there(hub: HfApi, kind: str, name: str, revision: str | None, field: str) -> Callable[[], Any]:
    """A question whose usual refusals are a user's to mend."""
    from huggingface_hub import errors

    def asked() -> Any:
        try:
            return _readable(hub, name, revision, kind)
        except errors.GatedRepoError:
            message, hint = f"{name} asks you to accept its terms", f"Accept them on its page. {LOG_IN}"
        except errors.RepositoryNotFoundError:
            message, hint = f"{name} is not on the Hub, or private", f"Correct the name. {LOG_IN} where it is private"
        except errors.RevisionNotFoundError:
            place = field.rpartition(".")[0]
            message, hint = f"{name} has no revision '{revision}'", f"Correct {place}.revision"
        except errors.DisabledRepoError:
            message, hint = f"{name} is disabled on the Hub", "Name another one"
        except errors.HFValidationError as error:
            message, hint = f"'{name}' is no name on the Hub: {said(error)}", ""
        raise UsageError(Problem(message, field, hint=hint))

    return asked


def _goal(hub: HfApi, recipe: Recipe, observer: Observer | None) -> str:
    field = "hub.repo_id"
    found = find(hub, str(recipe.hub.repo_id), private=recipe.hub.private, field=field, observer=observer)
    seen = "private" if found.private else "public"
    return f"{field}: {found.repo_id} may be written ({seen}, {'there already' if found.exists else 'new'})"
