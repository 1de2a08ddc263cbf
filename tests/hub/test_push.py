"""A run on its way to the Hub: what is sent, what is refused, and what is left where something goes wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import hfstrat as hf
from hfstrat.hub import contents
from hfstrat.models import artifact
from hfstrat.runs.directory import DIGESTS
from tests import tiny
from tests.command import Done, hfstrat
from tests.hub.conftest import BASE, TOKEN, environment, everything, put
from tests.hub.server import Account, File, Hub, Repo
from tests.training import helpers

ROOT = Path(__file__).parents[2]
BESIDE = {"README.md", "hfstrat.json", "metrics.json", "recipe.yaml"}
Pushable = Callable[..., Path]


def push(run: Path, *words: object) -> Done:
    """`hfstrat push`, which leaves the run as it is and never tells the token."""
    before = everything(run)
    done = hfstrat("push", run, *words)
    assert everything(run) == before
    assert TOKEN not in done.out + done.err
    assert "Traceback" not in done.err
    return done


class TestWhatIsSent:
    def test_a_run_becomes_a_private_repository_in_one_commit(self, hub: Hub, pushable: Pushable) -> None:
        run = pushable("full-random")
        done = push(run, "me/first")
        assert done.code == 0, done.err
        repo = hub.model("me/first")
        assert repo.private
        assert len(repo.branches["main"]) == 2  # the empty one that every repository begins with, and ours
        sent, ours = repo.files(), everything(run / "artifact")
        assert set(sent) == set(ours) | BESIDE
        same = set(ours) - {"README.md", "config.json"}
        assert {name: sent[name] for name in same} == {name: ours[name] for name in same}
        assert sent["metrics.json"] == (run / "metrics.json").read_bytes()
        assert b'folder = "me/first"' in sent["README.md"]
        assert f"{hub.url}/me/first" in done.out
        assert "model.safetensors" in done.out
        assert [path for method, path in hub.requests if "/commit/" in path and method == "POST"] == [
            "/api/models/me/first/commit/main"
        ]

    def test_nothing_of_this_machine_goes_along(self, hub: Hub, pushable: Pushable, tiny_bert: Path) -> None:
        for name, run in {"a": pushable("full-random"), "b": pushable("full-random", pooled=True)}.items():
            assert push(run, f"me/{name}").code == 0
            sent = hub.model(f"me/{name}").files()
            for text in sent.values():
                assert str(tiny_bert.parent).encode() not in text
                assert str(run).encode() not in text
                assert TOKEN.encode() not in text
            recipe = yaml.safe_load(sent["recipe.yaml"])
            assert "/" not in recipe["model"]["base"]
            assert "_name_or_path" not in json.loads(sent["config.json"])

    def test_what_deciding_needs_is_written_down(self, hub: Hub, pushable: Pushable, tiny_bert: Path) -> None:
        put(hub, tiny_bert)
        run = pushable("lora", published_as=BASE)
        assert push(run, "me/lora").code == 0
        found = json.loads(hub.model("me/lora").files()["hfstrat.json"])
        assert found["labels"]["names"] == ["negative", "positive"]
        assert (found["artifact"], found["base"]) == ("native-adapter", {"name": BASE, "revision": None})
        assert found["metrics"].keys() == {"accuracy"}
        assert set(found["files"]) == set(hub.model("me/lora").files())
        adapter = json.loads(hub.model("me/lora").files()["adapter_config.json"])
        assert adapter["base_model_name_or_path"] == BASE

    def test_the_recipe_says_where_to_and_how(self, hub: Hub, pushable: Pushable) -> None:
        told = {"repo_id": "team/told", "private": False, "license": "apache-2.0", "language": ["en"]}
        assert push(pushable("full-random", hub=told)).code == 0
        repo = hub.model("team/told")
        assert not repo.private
        front = yaml.safe_load(repo.files()["README.md"].decode().split("---\n")[1])
        assert (front["license"], front["language"]) == ("apache-2.0", ["en"])

    def test_from_python(self, hub: Hub, pushable: Pushable) -> None:
        found = hf.push(pushable("full-random"), "first", private=False, message="my words", quiet=True)
        repo = hub.model("me/first")
        assert found.commit == repo.resolve("main")
        assert (found.repo_id, found.url, found.created) == ("me/first", f"{hub.url}/me/first", True)
        assert {file.path: file.size for file in found.files} == {
            name: len(content) for name, content in repo.files().items()
        }
        assert repo.messages[found.commit] == "my words"
        assert not repo.private

    def test_the_command_line_in_a_process_of_its_own(self, hub: Hub, pushable: Pushable, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "hfstrat", "push", str(pushable("full-random")), "me/first", "--json"]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment(hub, tmp_path / "home")
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["commit"] == hub.model("me/first").resolve("main")
        assert TOKEN not in done.stdout + done.stderr

    def test_a_branch(self, hub: Hub, pushable: Pushable) -> None:
        assert push(pushable("full-random"), "me/first", "--branch", "trial").code == 0
        repo = hub.model("me/first")
        assert repo.files() == {}
        assert b'add `revision="trial"`' in repo.files("trial")["README.md"]

    def test_a_dry_run_sends_nothing(self, hub: Hub, pushable: Pushable) -> None:
        done = push(pushable("full-random"), "me/first", "--dry-run")
        assert done.code == 0, done.err
        assert hub.writes() == []
        assert hub.repos == {}
        for part in ("model.safetensors", "README.md", f"{hub.url}/me/first (private, new)", "nothing was sent"):
            assert part in done.out
        found = json.loads(push(pushable("full-random"), "me/first", "--dry-run", "--json").out)
        assert found["dry_run"]
        assert found["commit"] is None
        assert {file["path"] for file in found["files"]} >= BESIDE


class TestAgain:
    def test_a_second_push_is_a_second_commit(self, hub: Hub, pushable: Pushable) -> None:
        assert push(pushable("full-random", pooled=True), "me/first").code == 0
        repo = hub.model("me/first")
        assert "modeling_pooled.py" in repo.files()
        mine = {**repo.trees[repo.resolve("main") or ""], "LICENSE": File(b"mine", False)}
        repo.commit("main", {**mine, "picture.png": File(b"mine", False)}, "by hand")
        done = push(pushable("full-random"), "me/first")
        assert done.code == 0, done.err
        assert "deleted: modeling_pooled.py" in done.out
        assert set(repo.files()) == set(everything(pushable("full-random") / "artifact")) | BESIDE | {
            "LICENSE",
            "picture.png",
        }
        assert len(repo.branches["main"]) == 4

    def test_the_same_again_is_no_commit(self, hub: Hub, pushable: Pushable) -> None:
        assert push(pushable("full-random"), "me/first").code == 0
        done = push(pushable("full-random"), "me/first")
        assert done.code == 0, done.err
        assert "nothing has changed" in done.out
        assert len(hub.model("me/first").branches["main"]) == 2


def _taken(hub: Hub) -> None:
    hub.repos["dataset", "me/x"] = Repo()


def _gated(hub: Hub) -> None:
    hub.repos["model", "team/x"] = Repo(gated=True)
    hub.accounts[TOKEN] = Account("me", "fineGrained", scoped=(("org", "team", ("repo.write",)),))


def _foreign(hub: Hub) -> None:
    hub.repos["model", "me/x"] = Repo(private=True)
    hub.model("me/x").commit("main", {"pytorch_model.bin": File(b"x", True)}, "by hand")


def _tagged(hub: Hub) -> None:
    hub.repos["model", "me/x"] = Repo(private=True)
    hub.model("me/x").tags["v1"] = "0" * 40


def _account(*words: Any, **more: Any) -> Callable[[Hub], None]:
    return lambda hub: hub.accounts.update({TOKEN: Account(*words, **more)})


def _there(**options: Any) -> Callable[[Hub], None]:
    return lambda hub: hub.repos.update({("model", "me/x"): Repo(**options)})


def _refuses(status: int, pattern: str, method: str = "GET") -> Callable[[Hub], None]:
    def prepare(hub: Hub) -> None:
        hub.repos["model", "me/x"] = Repo(private=True)
        hub.fail(method, pattern, status)

    return prepare


REFUSED: dict[str, tuple[Callable[[Hub], None], tuple[str, ...], tuple[str, ...]]] = {
    "a wrong token": (lambda hub: hub.accounts.clear(), ("me/x",), ("does not accept the token", "hf auth login")),
    "a token to read": (_account("me", "read"), ("me/x",), ("the token of me may only read", "Access Tokens")),
    "somebody else's": (lambda hub: None, ("you/x",), ("me may not write to you", "me, team, readers")),
    "to read in a team": (lambda hub: None, ("readers/x",), ("me may only read in readers",)),
    "a fine-grained token": (_account("me", "fineGrained"), ("me/x",), ("may not write to me", "settings")),
    "a data set": (_taken, ("me/x",), ("me/x is a data set", "Choose another name")),
    "gated": (_gated, ("team/x",), ("team/x is gated, and the token has no access",)),
    "disabled": (_there(disabled=True), ("me/x",), ("me/x is disabled",)),
    "public already": (_there(), ("me/x",), ("me/x is there and public", "--public")),
    "private already": (_there(private=True), ("me/x", "--public"), ("me/x is there and private",)),
    "files of others": (_foreign, ("me/x",), ("did not send: pytorch_model.bin", "Choose another name")),
    "a tag": (_tagged, ("me/x", "--branch", "v1"), ("'v1' is a tag of me/x", "Name a branch")),
    "a commit": (_there(private=True), ("me/x", "--revision", "0" * 40), ("is a commit. Name a branch",)),
    "no name": (lambda hub: None, ("me/x/y",), ("'me/x/y' is no name of a repository",)),
    "nowhere": (lambda hub: None, (), ("nothing says where to", "hub.repo_id")),
    "the server says no": (_refuses(403, "auth-check/write"), ("me/x",), ("may not write to me/x",)),
    "it says no late": (_refuses(403, "/preupload/", "POST"), ("me/x",), ("the Hub refuses a commit to me/x",)),
}


class TestRefused:
    @pytest.mark.parametrize("case", REFUSED)
    def test_with_the_reason_before_anything_is_sent(self, case: str, hub: Hub, pushable: Pushable) -> None:
        prepare, words, said = REFUSED[case]
        prepare(hub)
        before = {name: repo.files() for name, repo in hub.repos.items()}
        done = push(pushable("full-random"), *words)
        assert done.code == 2, done.err
        for part in said:
            assert part in done.err
        assert {name: repo.files() for name, repo in hub.repos.items()} == before
        assert not [path for method, path in hub.writes() if method == "PUT" or "/repos/create" in path]
        assert hub.slept == []

    def test_without_a_token(self, hub: Hub, pushable: Pushable, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_TOKEN")
        done = push(pushable("full-random"), "me/x")
        assert done.errors == ["there is no token for the Hub. Log in by `hf auth login`, or set HF_TOKEN"]
        assert done.code == 2
        assert hub.writes() == []

    def test_a_fine_grained_token_for_this_repository_will_do(self, hub: Hub, pushable: Pushable) -> None:
        hub.repos["model", "me/x"] = Repo(private=True)
        hub.accounts[TOKEN] = Account("me", "fineGrained", scoped=(("model", "me/x", ("repo.write",)),))
        assert push(pushable("full-random"), "me/x").code == 0
        assert "model.safetensors" in hub.model("me/x").files()

    @pytest.mark.parametrize("online", [False, True])
    def test_offline_it_says_so_at_once(
        self, online: bool, hub: Hub, pushable: Pushable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", not online)
        done = push(pushable("full-random"), "me/x", "--dry-run")
        assert done.code == 0
        assert ("nothing was asked of the Hub" in done.out) is not online
        assert ("new" in done.out) is online
        if not online:
            done = push(pushable("full-random"), "me/x")
            assert done.code == 2
            assert done.errors == ["HF_HUB_OFFLINE is set, so nothing can be sent. Unset it, or add --dry-run"]
            assert hub.requests == []

    def test_a_licence_that_the_hub_does_not_know(self, hub: Hub, pushable: Pushable) -> None:
        done = push(pushable("full-random", hub={"license": "nonsense"}), "me/x")
        assert done.code == 2
        assert "hub: the Hub does not take the card" in done.errors[0]
        assert "must be one of" in done.errors[0]
        assert hub.repos == {}

    def test_all_that_is_wrong_at_once(self, hub: Hub, pushable: Pushable) -> None:
        hub.accounts[TOKEN] = Account("me", "read")
        _taken(hub)
        done = push(pushable("lora"), "me/x")
        assert done.code == 2
        assert len(done.errors) == 3
        assert "--with-base" in done.errors[0]
        assert "may only read" in done.errors[1]
        assert "is a data set" in done.errors[2]


class TestTheRunItself:
    def test_one_that_is_not_done(self, hub: Hub, pushable: Pushable, copied: Callable[[Path], Path]) -> None:
        run = copied(pushable("full-random"))
        (run / "status.json").write_text(json.dumps({"state": "interrupted", "reason": None}))
        assert push(run, "me/x").errors == [f"{run} is interrupted, not done"]
        assert push(run.parent, "me/x").errors == [f"{run.parent} holds no run. `hfstrat train RECIPE` makes one"]
        assert hub.requests == []

    def test_one_that_is_not_what_was_measured(
        self, hub: Hub, pushable: Pushable, copied: Callable[[Path], Path]
    ) -> None:
        run = copied(pushable("full-random"))
        weights = run / "artifact" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
        (run / "artifact" / "more.txt").write_text("more")
        (run / "artifact" / "config.json").unlink()
        (run / "artifact" / "config.json").symlink_to(run / "env.json")
        done = push(run, "me/x")
        assert done.code == 2
        assert [error.removeprefix(f"{run}/artifact/").split(".")[0] for error in done.errors] == [
            "config", "model", "more",
        ]  # fmt: skip
        assert "is a link out of the run" in done.errors[0]
        assert "has changed since the run was sealed" in done.errors[1]
        assert "came after the run was sealed" in done.errors[2]
        (run / DIGESTS).unlink()
        assert "was not verified" in push(run, "me/x").errors[0]
        assert hub.requests == []

    def test_tokens_and_places_of_this_machine(
        self, hub: Hub, pushable: Pushable, copied: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MY_API_KEY", "not-to-be-told")
        run = copied(pushable("full-random"))
        secret = "hf_" + "Zz9" * 11
        (run / "artifact" / "notes.txt").write_text(f"a line\nmade in {run}/artifact\nby {secret}\nnot-to-be-told\n")
        _seal(run)
        done = push(run, "me/x")
        assert done.code == 2
        assert [error.split(", ")[1] for error in done.errors] == ["line 3", "line 4", "line 2"]
        assert secret not in done.err
        assert "not-to-be-told" not in done.err
        assert f"a path of this machine: {run}/artifact" in done.errors[2]
        assert hub.writes() == []

    @pytest.mark.parametrize(
        "text",
        [
            "and/or, https://huggingface.co/me/x, /usr/bin/env python, a/b, ~/data, 1/2",
            "`hf_hub_download`, the [SEP] token, sk-learn",
            "/tmp/nothing/is/here",
        ],
    )
    def test_ordinary_text_is_not_taken_for_either(self, text: str, pushable: Pushable) -> None:
        facts = contents.Facts.of(pushable("full-random"))
        found = contents.unfit(contents.Content("notes.txt", text.encode()), contents.roots(facts))
        assert list(found) == []


def _seal(run: Path) -> None:
    """Write down the digests of a run that was changed, as if it had been so when it was sealed."""
    sealed = json.loads((run / DIGESTS).read_text())
    for name in everything(run / "artifact"):
        sealed[f"artifact/{name}"] = contents._digest(run / "artifact" / name)
    (run / DIGESTS).write_text(json.dumps(sealed))


BUSY: dict[str, tuple[str, str, int | None]] = {
    "who it is": ("GET", "whoami", 429),
    "the repository": ("GET", "/api/models/me/x$", 503),
    "a new repository": ("POST", "/repos/create", 500),
    "a new repository, cut": ("POST", "/repos/create", None),
    "upload modes": ("POST", "/preupload/", 502),
    "large files": ("POST", "/info/lfs/", 429),
    "an upload": ("PUT", "/objects/", 503),
    "an upload, cut": ("PUT", "/objects/", None),
    "the commit": ("POST", "/commit/", 503),
    "the commit, cut": ("POST", "/commit/", None),
    "the commit is too large": ("POST", "/commit/", 413),
}


class TestTrouble:
    @pytest.mark.parametrize("case", BUSY)
    def test_that_lasts_leaves_no_half_repository(self, case: str, hub: Hub, pushable: Pushable) -> None:
        method, pattern, status = BUSY[case]
        if status is None:
            hub.cut(method, pattern)
        else:
            hub.fail(method, pattern, status)
        done = push(pushable("full-random"), "me/x")
        assert done.code == 3, done.err
        assert len(done.errors) == 1
        assert ("cut the connection" if status is None else str(status)) in done.errors[0]
        assert sum(hub.slept) < 60
        repo = hub.repos.get(("model", "me/x"))
        assert repo is None or repo.files() == {}
        assert ("is there by now, and empty" in done.err) == (repo is not None)
        hub.faults.clear()
        assert push(pushable("full-random"), "me/x").code == 0
        assert set(hub.model("me/x").files()) >= BESIDE

    @pytest.mark.parametrize("case", sorted(set(BUSY) - {"the commit is too large"}))
    def test_that_passes_is_waited_for(self, case: str, hub: Hub, pushable: Pushable) -> None:
        method, pattern, status = BUSY[case]
        if status is None:
            hub.cut(method, pattern, times=2)
        else:
            hub.fail(method, pattern, status, times=2)
        done = push(pushable("full-random"), "me/x")
        assert done.code == 0, done.err
        assert len(hub.slept) == 2
        assert len(hub.model("me/x").branches["main"]) == 2

    def test_the_hub_says_how_long(self, hub: Hub, pushable: Pushable) -> None:
        hub.fail("GET", "whoami", 429, times=1, headers={"Retry-After": "7"})
        hub.fail("POST", "/commit/", 429, times=1, headers={"Retry-After": "11"})
        done = push(pushable("full-random"), "me/x")
        assert done.code == 0, done.err
        assert hub.slept == [7.0, 11.0]
        assert "asking again for who the token belongs to in 7 s" in done.err

    def test_an_hour_is_too_long(self, hub: Hub, pushable: Pushable) -> None:
        hub.fail("GET", "whoami", 429, headers={"Retry-After": "3600"})
        done = push(pushable("full-random"), "me/x")
        assert done.code == 3
        assert "asks to wait 3600 s" in done.errors[0]
        assert hub.slept == []

    def test_a_commit_whose_answer_is_lost_is_not_made_twice(self, hub: Hub, pushable: Pushable) -> None:
        hub.cut("POST", "/commit/", times=1, after=True)
        done = push(pushable("full-random"), "me/x")
        assert done.code == 0, done.err
        assert "sent in one commit" in done.out
        assert len(hub.model("me/x").branches["main"]) == 2

    def test_a_repository_that_is_there_is_as_it_was(self, hub: Hub, pushable: Pushable) -> None:
        assert push(pushable("full-random", pooled=True), "me/x").code == 0
        before = hub.model("me/x").files()
        hub.cut("PUT", "/objects/")
        assert push(pushable("full-random"), "me/x").code == 3
        assert hub.model("me/x").files() == before

    def test_somebody_else_commits_at_the_same_time(self, hub: Hub, pushable: Pushable) -> None:
        hub.fail("POST", "/commit/", 412)
        done = push(pushable("full-random"), "me/x")
        assert done.code == 3
        assert "the Hub refuses a commit to me/x (412)" in done.errors[0]
        assert hub.model("me/x").files() == {}


class TestBases:
    def test_one_that_nobody_else_has(self, hub: Hub, pushable: Pushable) -> None:
        done = push(pushable("lora"), "me/x")
        assert done.code == 2
        assert "--published-as user/name" in done.errors[0]
        assert "--with-base" in done.errors[0]
        assert hub.writes() == []

    def test_its_public_name_may_be_told_late(self, hub: Hub, pushable: Pushable, tiny_bert: Path) -> None:
        done = push(pushable("lora"), "me/x", "--published-as", BASE)
        assert done.code == 2
        assert f"the base {BASE} is not on the Hub" in done.errors[0]
        put(hub, tiny_bert)
        done = push(pushable("lora"), "me/x", "--published-as", BASE)
        assert done.code == 0, done.err
        sent = hub.model("me/x").files()
        assert json.loads(sent["adapter_config.json"])["base_model_name_or_path"] == BASE
        assert yaml.safe_load(sent["README.md"].decode().split("---\n")[1])["base_model"] == BASE
        assert json.loads(sent["hfstrat.json"])["base"]["name"] == BASE

    def test_a_public_name_is_a_name(self, hub: Hub, pushable: Pushable) -> None:
        done = push(pushable("lora"), "me/x", "--published-as", "/models/tiny")
        assert done.code == 2
        assert "'/models/tiny' is no name of a repository. Write user/name" in done.errors[0]
        assert hub.writes() == []

    def test_a_whole_model_has_none(self, hub: Hub, pushable: Pushable) -> None:
        done = push(pushable("full-random"), "me/x", "--with-base")
        assert done.code == 2
        assert "is a whole model already" in done.errors[0]
        assert hub.writes() == []

    def test_merged_it_is_a_whole_model(self, hub: Hub, pushable: Pushable) -> None:
        done = push(pushable("lora"), "me/x", "--with-base")
        assert done.code == 0, done.err
        assert "merged the adapter into its base" in done.err
        sent = hub.model("me/x").files()
        assert "model.safetensors" in sent
        assert not [name for name in sent if name.startswith("adapter")]
        front = yaml.safe_load(sent["README.md"].decode().split("---\n")[1])
        assert front["library_name"] == "transformers"
        assert "base_model" not in front
        assert "merged into the weights of its base" in sent["README.md"].decode()

    def test_a_language_model_is_merged_with_its_way_to_write(
        self, hub: Hub, tiny_base: Callable[..., Path], tmp_path: Path
    ) -> None:
        given = helpers.recipe(
            tiny_base("llama", **helpers.LIVELY),
            "lora",
            task={"kind": "causal_lm", "max_length": 24},
            evaluate={"metrics": ["perplexity"]},
        )
        texts = [{"text": row["text"]} for row in tiny.reviews(40)]
        run = helpers.train(given, texts, tmp_path / "runs").run
        done = push(run.path, "me/x", "--with-base")
        assert done.code == 0, done.err
        assert "generation_config.json" in hub.model("me/x").files()
        assert hf.load("me/x").predict(["a fine"]) == hf.predict(run.path, ["a fine"])

    def test_without_room_to_merge(self, hub: Hub, pushable: Pushable, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/model.safetensors")

        run = pushable("lora")
        monkeypatch.setattr(artifact, "save", full)
        done = push(run, "me/x", "--with-base")
        assert done.code == 3
        assert done.errors == ["/somewhere/model.safetensors: No space left on device"]
        assert hub.writes() == []

    def test_an_adapter_that_cannot_be_merged(
        self, hub: Hub, pushable: Pushable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from peft import PeftModel

        def never(self: Any) -> None:
            raise NotImplementedError

        monkeypatch.setattr(PeftModel, "merge_and_unload", never, raising=False)
        done = push(pushable("lora"), "me/x", "--with-base")
        assert done.code == 2
        assert "cannot be merged" in done.errors[0]
        assert hub.writes() == []


def test_the_token_is_nowhere(hub: Hub, pushable: Pushable, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(pushable("full-random"), tmp_path / "run"))
    assert push(run, "me/x").code == 0
    hub.fail("POST", "/commit/", 400)
    assert push(pushable("full-random", pooled=True), "me/x").code == 3
    shown = capsys.readouterr()
    held = [*everything(tmp_path).values(), *hub.objects.values(), *hub.model("me/x").files().values()]
    assert TOKEN not in shown.out + shown.err
    assert len(held) > 20
    assert not [content for content in held if TOKEN.encode() in content]
