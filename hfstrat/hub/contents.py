"""What of a run leaves this machine: the artefact, its card, how it was made and what it scores, and nothing else.

A run that was sealed is never changed. What has to be said differently in public (where the base lies, where the data
were) is said so in what is sent alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from hfstrat.errors import Problem, UsageError
from hfstrat.redact import holds_secret
from hfstrat.report.card import card, case_of, public_base
from hfstrat.runs.directory import DIGESTS, Run, check_free, finished

DESCRIPTION = "hfstrat.json"
"""What `hfstrat.load` needs to decide, and which files a push has sent."""
FORMAT = 1
CARD = "README.md"
_PLACES = ("_name_or_path", "name_or_path", "base_model_name_or_path")
_CHECKED = ("recipe.yaml", "env.json", "plan.json", "metrics.json")
_OF_ADAPTER = ("adapter_config.json", "adapter_model")


@dataclass(frozen=True)
class Content:
    """One file that is sent.

    Args:
        path: Its name in the repository.
        source: The file, or what it says.
    """

    path: str
    source: Path | bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


@dataclass(frozen=True)
class Facts:
    """What is known of a run that is to be sent.

    Args:
        run: The run.
        resolved: Its resolved recipe.
        plan: Its plan.
        env: What was around it.
    """

    run: Run
    resolved: Mapping[str, Any]
    plan: Mapping[str, Any]
    env: Mapping[str, Any]

    @classmethod
    def of(cls, path: str | Path, published_as: str | None = None) -> Facts:
        """Read a run.

        Args:
            path: Its directory.
            published_as: Public id of its base, in place of what its recipe says.

        Raises:
            UsageError: It is not done, being written, or not what was scored.
        """
        run = finished(path)
        check_free(run.path)
        problems = list(_changed(run))
        if problems:
            raise UsageError(problems)
        resolved = yaml.safe_load(run.recipe() or "")
        if published_as is not None:
            resolved["model"]["published_as"] = published_as
        return cls(run, resolved, run.read("plan.json") or {}, run.read("env.json") or {})

    @property
    def adapter(self) -> bool:
        """Whether the artefact is an adapter."""
        return (self.run.artifact / "adapter_config.json").is_file()

    @property
    def base(self) -> str | None:
        """Hub id of the base; None where nobody else has it."""
        return public_base(self.resolved, self.env) or self.resolved["model"].get("published_as")

    @property
    def revision(self) -> str | None:
        """Revision of the base."""
        known = (self.env.get("model") or {}).get("adapter_of") or self.resolved["model"]
        revision = known.get("revision")
        return str(revision) if revision else None


def problems_of(facts: Facts, *, with_base: bool) -> Iterator[Problem]:
    """Why a run cannot be sent as it is."""
    if facts.adapter and facts.base is None and not with_base:
        hint = (
            "Name its public id (--published-as user/name, or model.published_as in the recipe), or add --with-base, "
            "which merges the adapter into it"
        )
        yield Problem(f"the base of the adapter, {_base_of(facts)}, is not on the Hub", "model.published_as", hint=hint)
    if with_base and not facts.adapter:
        yield Problem(f"{facts.run.path} is a whole model already", hint="Leave --with-base out")


def contents(facts: Facts, repo_id: str, *, branch: str = "main", merged: Path | None = None) -> list[Content]:
    """Everything that is sent, checked.

    Args:
        facts: The run.
        repo_id: Where to.
        branch: Of the repository.
        merged: A folder with the whole model that stands for the adapter.

    Raises:
        UsageError: A file holds a token or a path of this machine: all of them at once.
    """
    base = None if merged is not None else facts.base
    public = public_recipe(facts.resolved, facts.base)
    found = [_cleaned(content, base) for content in _files(facts.run.artifact, merged)]
    text = card(facts.run, resolved=public, folder=repo_id, merged=merged is not None, branch=branch)
    found += [
        Content(CARD, text.encode()),
        Content("recipe.yaml", _as_yaml(public).encode()),
        Content("metrics.json", facts.run.path / "metrics.json"),
    ]
    names = sorted([*(content.path for content in found), DESCRIPTION])
    found.append(Content(DESCRIPTION, _as_json(_description(facts, names, merged is not None))))
    problems = [problem for content in found for problem in unfit(content, roots(facts))]
    if problems:
        raise UsageError(problems)
    return sorted(found, key=lambda content: content.path)


def _description(facts: Facts, names: list[str], merged: bool) -> dict[str, Any]:
    labels, config = facts.env.get("labels") or {}, facts.run.read("artifact/config.json") or {}
    case = case_of(facts.resolved, {**facts.plan, "adapter": None} if merged else facts.plan)
    base = {"name": facts.base, "revision": facts.revision} if facts.adapter and not merged else None
    return {
        "format": FORMAT,
        "hfstrat": (facts.env.get("versions") or {}).get("hfstrat"),
        "run": facts.run.name,
        "task": facts.resolved["task"]["kind"],
        "artifact": case,
        "base": base,
        "labels": {name: labels.get(name) for name in ("problem", "names", "counts") if labels.get(name) is not None},
        "threshold": (config.get("hfstrat") or {}).get("threshold"),
        "metrics": {name: one.get("value") for name, one in (facts.run.metrics.get("metrics") or {}).items()},
        "files": names,
    }


# --- the run as it was scored ------------------------------------------------------------------------------------


def _changed(run: Run) -> Iterator[Problem]:
    """What of a run is not what was scored when it was sealed."""
    sealed = run.read(DIGESTS)
    if not sealed:
        hint = "Train it again: what is published has to be what was measured"
        yield Problem(f"the artefact of {run.path} was not verified: it has no {DIGESTS}", hint=hint)
        return
    hint = "`hfstrat verify` shows all that changed; train it again"
    there = {str(file.relative_to(run.path)): file for file in run.artifact.rglob("*") if not file.is_dir()}
    for name in sorted({*there, *(name for name in sealed if name.startswith("artifact/")), *_CHECKED}):
        file = run.path / name
        if file.is_symlink():
            yield Problem(f"{file} is a link out of the run", hint=hint)
        elif not file.is_file():
            yield Problem(f"{file} is not there any more", hint=hint)
        elif name not in sealed:
            yield Problem(f"{file} came after the run was sealed", hint="Remove it")
        elif _digest(file) != sealed[name]:
            yield Problem(f"{file} has changed since the run was sealed", hint=hint)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files(artifact: Path, merged: Path | None) -> Iterator[Content]:
    """The artefact's files; of one that is merged those with weights are the merged ones."""
    ours = {str(file.relative_to(artifact)): file for file in artifact.rglob("*") if file.is_file()}
    if merged is not None:
        ours = {name: file for name, file in ours.items() if not name.startswith(_OF_ADAPTER)}
        ours |= {str(file.relative_to(merged)): file for file in merged.rglob("*") if file.is_file()}
    for name, file in sorted(ours.items()):
        if name != CARD:
            yield Content(name, file)


# --- said in public ----------------------------------------------------------------------------------------------


def public_recipe(resolved: Mapping[str, Any], base: str | None) -> dict[str, Any]:
    """A recipe with files and folders of this machine by their last names."""
    # What a task says (labels, a prefix) is not where anything lies, whatever it looks like.
    found: dict[str, Any] = {key: part if key == "task" else _public(part) for key, part in resolved.items()}
    if base is not None and found["model"]["base"] != resolved["model"]["base"]:
        found["model"]["base"] = base
    return found


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _public(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_public(item) for item in value]
    return PurePath(value).name if isinstance(value, str) and _is_place(value) else value


def _is_place(text: str) -> bool:
    """Whether a text is where something lies outside of the working directory."""
    path = PurePath(text)
    return "\n" not in text and ((path.is_absolute() and len(path.parts) > 2) or text.startswith(("~/", "../")))


def _cleaned(content: Content, base: str | None) -> Content:
    """A file of JSON that names no folder of this machine as what it was made from."""
    if not content.path.endswith("config.json") or not isinstance(content.source, Path):
        return content
    data = json.loads(content.source.read_text("utf-8"))
    cleaned = _renamed(data, base)
    if content.path == "adapter_config.json" and base is not None:
        cleaned["base_model_name_or_path"] = base
    return content if cleaned == data else Content(content.path, _as_json(cleaned))


def _renamed(value: Any, base: str | None) -> Any:
    if isinstance(value, list):
        return [_renamed(item, base) for item in value]
    if not isinstance(value, Mapping):
        return value
    found = {}
    for key, item in value.items():
        if key in _PLACES and isinstance(item, str) and _is_place(item):
            if base is not None:
                found[key] = base
        else:
            found[key] = _renamed(item, base)
    return found


def _as_json(data: Any) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def _as_yaml(data: Any) -> str:
    head = "# As it was trained, nothing left open; files and folders by their names alone.\n"
    return head + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def _base_of(facts: Facts) -> str:
    config = facts.run.read("artifact/adapter_config.json") or {}
    return str(config.get("base_model_name_or_path"))


# --- nothing that is nobody's affair -----------------------------------------------------------------------------

_PATH = re.compile(r"(?<![\w.:/~-])/(?:[\w.@+-]+/)*[\w.@+-]+")


def roots(facts: Facts) -> frozenset[str]:
    """Folders of this machine whose names say something about it or its user."""
    places = [Path.home(), Path.cwd(), facts.run.path, facts.run.path.resolve(), Path(sys.prefix)]
    places += [Path(value) for name, value in os.environ.items() if name in ("HF_HOME", "HFSTRAT_CACHE") and value]
    places += [Path(value).parent for value in _places_in(facts.resolved)]
    return frozenset(str(place) for place in places if place.is_absolute() and len(place.parts) > 1)


def _places_in(value: Any) -> Iterator[str]:
    """Absolute paths in a recipe."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _places_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _places_in(item)
    elif isinstance(value, str) and _is_place(value) and value.startswith("/"):
        yield value


def unfit(content: Content, private: frozenset[str]) -> Iterator[Problem]:
    """What in a file must not be sent."""
    text = _text(content)
    hint = "Remove it where it comes from, and train again"
    for number, line in enumerate(text.splitlines(), 1):
        if holds_secret(line):
            yield Problem(f"{content.path}, line {number}, holds what looks like a token or a password", hint=hint)
    for number, line in enumerate(text.splitlines(), 1):
        found = next((path for path in _PATH.findall(line) if _is_ours(path, private)), None)
        if found is not None:
            yield Problem(f"{content.path}, line {number}, holds a path of this machine: {found}", hint=hint)


def _is_ours(path: str, private: frozenset[str]) -> bool:
    if any(path == root or path.startswith(f"{root}/") for root in private if len(Path(root).parts) > 2):
        return True
    # A home such as /root, or a place for temporary files, is named in texts of everybody: what is there counts.
    shared = {*private, tempfile.gettempdir()}
    below = any(path.startswith(f"{root}/") for root in shared)
    return below and os.path.lexists(path)


def _text(content: Content) -> str:
    """What a reader could find in a file: of weights their header, of a tokenizer all but its vocabulary."""
    if content.path.endswith(".safetensors"):
        assert isinstance(content.source, Path), "weights are sent from where they are"
        with content.source.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            return stream.read(min(size, 100_000_000)).decode("utf-8", "replace")
    data = content.source if isinstance(content.source, bytes) else content.source.read_bytes()
    text = data.decode("utf-8", "replace")
    return _without_vocabulary(text) if PurePath(content.path).name == "tokenizer.json" else text


def _without_vocabulary(text: str) -> str:
    try:
        data = json.loads(text)
    except ValueError:
        return text
    if isinstance(data, dict) and isinstance(data.get("model"), dict):
        data["model"] = {key: item for key, item in data["model"].items() if key not in ("vocab", "merges")}
    return json.dumps(data, indent=1)
