"""A Hub on loopback, runs to send there, and what a process needs to take it for the real one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.hub.server import Account, File, Hub, Repo
from tests.training import helpers

TOKEN = "hf_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3f"
BASE = "someone/tiny"


@contextmanager
def taken_for_real(cache: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that this process takes for the real one, with the token of `me` at hand; nobody waits for it.

    Args:
        cache: Where what is downloaded goes.
        patch: The test's own, so that what it changes on top is undone before.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    with Hub() as hub:
        hub.accounts[TOKEN] = Account("me", orgs={"team": "write", "readers": "read"})
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(cache),
        }.items():
            patch.setattr(constants, name, value)
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setattr("time.sleep", hub.slept.append)
        yield hub
        close_session()


@pytest.fixture
def hub(socket_enabled: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub in the place of the real one."""
    with taken_for_real(tmp_path / "cache", monkeypatch) as found:
        yield found


@pytest.fixture(scope="session")
def tiny_bert(tiny_base: Callable[..., Path]) -> Path:
    """The folder of the base of all runs here. Do not write to it."""
    return tiny_base("bert", **helpers.LIVELY)


def put(hub: Hub, folder: Path, name: str = BASE, **options: Any) -> Repo:
    """Put a folder on the Hub, as somebody else would have done."""
    repo = hub.repos["model", name] = Repo(**options)
    repo.commit("main", {name: File(content, False) for name, content in everything(folder).items()}, "a base")
    return repo


@pytest.fixture(scope="session")
def pushable(
    tiny_bert: Path, tiny_base: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`pushable("lora", published_as="someone/tiny")`: a finished run, trained once a session. Do not write to it."""
    made: dict[str, Path] = {}

    def make(strategy: str, *, pooled: bool = False, hub: dict[str, Any] | None = None, **model: Any) -> Path:
        key = repr((strategy, pooled, hub, sorted(model.items())))
        if key not in made:
            base = tiny_base("bert", sentence_transformers="mean", **helpers.LIVELY) if pooled else tiny_bert
            given = helpers.recipe(base, strategy, name=f"{strategy}-{len(made)}", model=model, hub=hub or {})
            made[key] = helpers.train(given, tiny.reviews(40), tmp_path_factory.mktemp("runs")).run.path
        return made[key]

    return make


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """A copy of a run that may be written to."""

    def copy(run: Path) -> Path:
        return Path(shutil.copytree(run, tmp_path / "runs" / run.name))

    return copy


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    """What another process needs to take a Hub on loopback for the real one."""
    return {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), **more,
    }  # fmt: skip


def everything(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
