"""`validate --online`: what the Hub says about a recipe before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hfstrat.errors import HubError, UsageError
from hfstrat.hub.online import check
from hfstrat.recipe.loading import load
from hfstrat.recipe.recipe import Recipe
from tests import tiny
from tests.command import hfstrat
from tests.hub.conftest import BASE, TOKEN, put
from tests.hub.server import Account, File, Hub, Repo


def recipe(**sections: Any) -> dict[str, Any]:
    return {
        "name": "mine",
        "model": {"base": BASE},
        "task": {"kind": "text_classification"},
        "data": {"source": "me/reviews"},
        "strategy": {"kind": "lora"},
        "hub": {"repo_id": "me/mine"},
        **sections,
    }


def parsed(**sections: Any) -> Recipe:
    return load(recipe(**sections), ())[0]


@pytest.fixture
def filled(hub: Hub, tiny_bert: Path) -> Hub:
    """A Hub with a base and data."""
    put(hub, tiny_bert)
    hub.repos["dataset", "me/reviews"] = Repo()
    return hub


def test_all_is_there(filled: Hub) -> None:
    found = check(parsed())
    commit, data = filled.model(BASE).resolve("main"), filled.repos["dataset", "me/reviews"].resolve("main")
    assert found == [
        f"model.base: {BASE} is there, commit {commit}",
        f"data.source: me/reviews is there, commit {data}",
        "hub.repo_id: me/mine may be written (private, new)",
    ]
    assert filled.writes() == []
    assert not [path for _, path in filled.requests if "/resolve/" in path]


def test_everything_that_is_wrong_at_once(hub: Hub) -> None:
    hub.accounts[TOKEN] = Account("me", "read")
    teacher = {"kind": "distill", "teacher": "you/teacher", "student": {"weights": "base", "every": 2}}
    with pytest.raises(UsageError) as caught:
        check(parsed(model={"base": BASE, "published_as": "you/tiny"}, strategy=teacher))
    assert [problem.path for problem in caught.value.problems] == [
        "model.base",
        "model.published_as",
        "strategy.teacher",
        "data.source",
        "hub.repo_id",
    ]
    assert str(caught.value).count("is not on the Hub, or private. Correct the name. Log in by `hf auth login`") == 4
    assert "the token of me may only read" in str(caught.value)


def _gated(hub: Hub) -> None:
    hub.model(BASE).gated = hub.repos["dataset", "me/reviews"].gated = True
    hub.repos["dataset", "you/reviews"] = Repo(gated=True)


def _pickled(hub: Hub) -> None:
    hub.model(BASE).commit("main", {"config.json": File(b"{}", False), "pytorch_model.bin": File(b"", True)}, "old")


@pytest.mark.parametrize(
    ("prepare", "sections", "said"),
    [
        (_gated, {}, f"model.base: {BASE} asks you to accept its terms"),
        (_gated, {"data": {"source": "you/reviews"}}, "data.source: you/reviews asks you to accept its terms"),
        (_pickled, {}, f"model.base: {BASE} has no weights in safetensors"),
        (None, {"model": {"base": BASE, "revision": "v9"}}, "has no revision 'v9'. Correct model.revision"),
        (None, {"data": {"source": "me/reviews", "revision": "v9"}}, "Correct data.revision"),
        (None, {"hub": {"repo_id": "you/mine"}}, "hub.repo_id: me may not write to you"),
    ],
)
def test_one_thing_that_is_wrong(
    prepare: Callable[[Hub], None] | None, sections: dict[str, Any], said: str, filled: Hub
) -> None:
    if prepare is not None:
        prepare(filled)
    with pytest.raises(UsageError) as caught:
        check(parsed(**sections))
    assert said in str(caught.value)


def test_without_a_goal_no_token_is_needed(filled: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert len(check(parsed(hub={}))) == 2
    with pytest.raises(UsageError, match="there is no token for the Hub"):
        check(parsed())


def test_a_hub_that_does_not_answer(filled: Hub) -> None:
    filled.fail("GET", "/api/models/", 503)
    with pytest.raises(HubError, match=f"the Hub answers with 503 after 5 attempts, while asking for {BASE}"):
        check(parsed())


def test_on_the_command_line(hub: Hub, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    data = tiny.write_csv(tmp_path / "my.csv", tiny.reviews(40))
    given = recipe(model={"base": str(tiny_bert)}, data={"source": str(data)}, strategy={"kind": "head"})
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(given))
    done = hfstrat("validate", file, "--online", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["hub"] == ["hub.repo_id: me/mine may be written (private, new)"]
    done = hfstrat("validate", file, "hub.repo_id=you/mine", "--online")
    assert done.code == 2
    assert done.errors == ["hub.repo_id: me may not write to you. The token may write to: me, team, readers"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    done = hfstrat("validate", file, "--online")
    assert done.errors == ["HF_HUB_OFFLINE is set, so the Hub cannot be asked. Unset it, or leave --online out"]
    assert "hub" not in json.loads(hfstrat("validate", file, "--json").out)
