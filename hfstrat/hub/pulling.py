"""Load what was pushed: from the Hub, or from a folder that holds a copy of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfstrat.errors import Problem, UsageError
from hfstrat.hub.contents import DESCRIPTION, FORMAT
from hfstrat.hub.talking import LOG_IN, api, ask, is_offline
from hfstrat.inference import Predictor
from hfstrat.recipe.loading import build, parse
from hfstrat.runs.directory import Run
from hfstrat.runs.events import Observer


@dataclass(frozen=True)
class Pulled(Run):
    """What was pushed of a run, in one folder; it reads as a run does, and is none.

    Args:
        path: The folder.
        description: What `hfstrat.json` says.
    """

    description: Mapping[str, Any]

    @property
    def artifact(self) -> Path:
        """The folder, which has the artefact beside the rest."""
        return self.path

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file; of what was around the run no more than its labels."""
        return {"labels": self.description["labels"]} if name == "env.json" else super().read(name)

    @property
    def base(self) -> tuple[str, Mapping[str, Any]] | None:
        """Where the base of an adapter is, and its revision; None for a whole model."""
        base = self.description.get("base")
        if not base:
            return None
        return str(base["name"]), {"revision": base["revision"]} if base.get("revision") else {}


def predictor_of(
    target: str | Path,
    revision: str | None = None,
    *,
    trust_remote_code: bool = False,
    observer: Observer | None = None,
) -> Predictor:
    """Load a run, or what was pushed of one.

    Args:
        target: The directory of a run, `user/name` on the Hub, or a folder with a copy of that.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether Python that comes with it may be run.
        observer: Hears of waiting.

    Raises:
        UsageError: There is no such thing, or it was not pushed by hfstrat.
        HubError: The Hub cannot be reached.
    """
    path = Path(target)
    if (path / "status.json").is_file() or not _may_be_on_hub(str(target), path):
        return Predictor.of(path)
    folder = path if path.is_dir() else _downloaded(str(target), revision, observer)
    pulled = _read(folder, str(target))
    _check_code(pulled, str(target), trust_remote_code)
    return Predictor.of(pulled, pulled.base)


def _may_be_on_hub(name: str, path: Path) -> bool:
    """Whether a name means what was pushed: a folder with it, or an id that is nothing here."""
    if path.exists():
        return (path / DESCRIPTION).is_file()
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        return False
    # In a folder of runs a name that is not there is a misspelt run.
    return not ("/" in name and path.parent.is_dir() and any(path.parent.glob("*/status.json")))


def _downloaded(repo_id: str, revision: str | None, observer: Observer | None) -> Path:
    from huggingface_hub import errors

    hub = api()

    def call() -> Path | Problem:
        try:
            file = Path(hub.hf_hub_download(repo_id, DESCRIPTION, revision=revision))
            names = [str(name) for name in _description(file, repo_id)["files"]]
            return Path(hub.snapshot_download(repo_id, revision=file.parent.name, allow_patterns=names))
        except errors.GatedRepoError:
            return Problem(f"{repo_id} is gated, and the token has no access", hint="Accept its terms on its page")
        except errors.RepositoryNotFoundError:
            hint = f"{LOG_IN} where it is private, or correct the name"
            return Problem(f"{repo_id} is neither a run here nor a model on the Hub", hint=hint)
        except errors.RevisionNotFoundError:
            return Problem(f"{repo_id} has no revision '{revision}'")
        except errors.HFValidationError:
            return Problem(f"{repo_id} holds no run", hint="`hfstrat train RECIPE` makes one")
        except errors.LocalEntryNotFoundError:
            if not is_offline():
                raise
            hint = "`hfstrat train RECIPE` makes a run; unset HF_HUB_OFFLINE to look on the Hub"
            return Problem(f"{repo_id} holds no run, and no model of that name is in the cache of the Hub", hint=hint)
        except errors.EntryNotFoundError:
            hint = "Load it with transformers"
            return Problem(f"{repo_id} has no {DESCRIPTION}: hfstrat has not pushed it", hint=hint)

    found = ask(call, f"the model {repo_id}", observer)
    if isinstance(found, Problem):
        raise UsageError(found)
    return found


def _read(folder: Path, name: str) -> Pulled:
    return Pulled(folder, _description(folder / DESCRIPTION, name))


def _description(file: Path, name: str) -> dict[str, Any]:
    """What a push has written down for whoever loads it.

    Raises:
        UsageError: It is something else, or of a later version.
    """
    try:
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
        known = int(found["format"]) <= FORMAT
        if not isinstance(found["labels"], dict) or not isinstance(found["files"], list):
            raise TypeError("not as it was written")
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(Problem(f"the {DESCRIPTION} of {name} is none of hfstrat's")) from error
    if not known:
        raise UsageError(Problem(f"{name} was pushed by a later version of hfstrat", hint="pip install -U hfstrat"))
    return found


def _check_code(pulled: Pulled, name: str, trusted: bool) -> None:
    """Nothing that was downloaded says by itself that its Python may be run."""
    model = build(parse(pulled.recipe() or "", str(pulled.path / "recipe.yaml"))).model
    if trusted or not (model.code or model.trust_remote_code):
        return
    what = f"its architecture is a file of Python, {model.code}" if model.code else "its base brings Python of its own"
    hint = "Read it, then add --trust-remote-code (in Python trust_remote_code=True)"
    raise UsageError(Problem(f"{name} cannot be loaded without running its code: {what}", hint=hint))
