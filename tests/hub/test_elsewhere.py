"""What was pushed, as others use it: in a process without hfstrat, and by `hfstrat.load`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_socket

import hfstrat as hf
from tests import tiny
from tests.command import hfstrat
from tests.elsewhere import User
from tests.hub.conftest import BASE, TOKEN, environment, put, taken_for_real
from tests.hub.server import File, Hub, Repo

TEXTS = [row["text"] for row in tiny.reviews(6, seed=5)]
WITHOUT = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hfstrat":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nothing())
try:
    import hfstrat
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("hfstrat is there")
"""
PUSHED: dict[str, dict[str, Any]] = {
    "full": {"strategy": "full-random"},
    "lora": {"strategy": "lora", "published_as": BASE},
    "pooled": {"strategy": "full-random", "pooled": True},
    "pooled-lora": {"strategy": "lora", "pooled": True, "published_as": "someone/pooled"},
    "merged": {"strategy": "lora"},
    "pooled-merged": {"strategy": "lora", "pooled": True},
}


@dataclass(frozen=True)
class Published:
    """A Hub with what was pushed to it, and somebody who has no hfstrat."""

    hub: Hub
    runs: dict[str, Path]
    records: dict[str, list[dict[str, Any]]]
    user: User

    def said(self, name: str) -> np.ndarray:
        """Probabilities that the run itself gives."""
        return _scores(self.records[name])

    def found(self, lines: str) -> dict[str, Any]:
        """What lines of Python find in a process without hfstrat."""
        return self.user.run(WITHOUT + f"texts = {json.dumps(TEXTS)}\n" + lines)


@pytest.fixture(scope="module")
def published(
    pushable: Callable[..., Path], tiny_base: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    from tests.training import helpers

    pytest_socket.enable_socket()
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, taken_for_real(tmp_path_factory.mktemp("cache"), patch) as hub:
        put(hub, tiny_base("bert", **helpers.LIVELY))
        put(hub, tiny_base("bert", sentence_transformers="mean", **helpers.LIVELY), "someone/pooled")
        runs = {name: pushable(**given) for name, given in PUSHED.items()}
        for name, run in runs.items():
            hf.push(run, f"me/{name}", with_base="merged" in name, quiet=True)
        user = User(home, environment(hub, home))
        yield Published(hub, runs, {name: hf.predict(run, TEXTS) for name, run in runs.items()}, user)
        assert user.leave() == 0


@pytest.fixture(autouse=True)
def _listening(socket_enabled: None) -> None:
    """The server makes a socket for each connection."""


class TestWithoutHfstrat:
    @pytest.mark.parametrize("name", PUSHED)
    def test_the_lines_of_the_card(self, name: str, published: Published) -> None:
        card = published.hub.model(f"me/{name}").files()["README.md"].decode()
        (lines,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert f'"me/{name}"' in lines
        assert "path/to" not in lines
        lines = lines.replace('["a first text", "a second one"]', json.dumps(TEXTS))
        found = published.found(lines)
        scores = _softmax(np.array(found["logits"]))
        np.testing.assert_allclose(scores, published.said(name), atol=1e-5)
        assert found["labels"] == [one["prediction"] for one in published.records[name]]

    @pytest.mark.parametrize("name", ["full", "lora", "merged"])
    def test_a_pipeline_by_name_alone(self, name: str, published: Published) -> None:
        lines = f"""
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline
made = pipeline("text-classification", model="me/{name}", top_k=None)
model = made.model
found = [{{one["label"]: one["score"] for one in row}} for row in made(texts)]
"""
        if name == "lora":  # transformers takes the configuration of the base, which knows no labels
            given = 'AutoModelForSequenceClassification.from_pretrained("me/lora", config=config)'
            lines = lines.replace(
                'model="me/lora"', f'model={given}, tokenizer=AutoTokenizer.from_pretrained("me/lora")'
            )
            lines = lines.replace("made =", 'config = AutoConfig.from_pretrained("me/lora")\nmade =', 1)
        found = published.found(lines)["found"]
        scores = np.array([[row["negative"], row["positive"]] for row in found])
        np.testing.assert_allclose(scores, published.said(name), atol=1e-5)

    @pytest.mark.parametrize("name", ["full", "merged"])
    def test_an_auto_class_by_name_alone(self, name: str, published: Published) -> None:
        lines = f"""
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained("me/{name}")
tokenizer = AutoTokenizer.from_pretrained("me/{name}")
with torch.inference_mode():
    logits = model(**tokenizer(texts, truncation=True, padding=True, return_tensors="pt")).logits
"""
        scores = _softmax(np.array(published.found(lines)["logits"]))
        np.testing.assert_allclose(scores, published.said(name), atol=1e-5)

    def test_an_adapter_on_its_base(self, published: Published) -> None:
        lines = f"""
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
base = AutoModelForSequenceClassification.from_pretrained("{BASE}", num_labels=2)
model, tokenizer = PeftModel.from_pretrained(base, "me/lora").eval(), AutoTokenizer.from_pretrained("me/lora")
with torch.inference_mode():
    logits = model(**tokenizer(texts, truncation=True, padding=True, return_tensors="pt")).logits
"""
        scores = _softmax(np.array(published.found(lines)["logits"]))
        np.testing.assert_allclose(scores, published.said("lora"), atol=1e-5)


class TestWithHfstrat:
    @pytest.mark.parametrize("name", PUSHED)
    def test_load_says_what_the_run_says(self, name: str, published: Published) -> None:
        found = hf.load(f"me/{name}").predict(TEXTS)
        np.testing.assert_allclose(_scores(found), published.said(name), atol=1e-6)
        assert [one["prediction"] for one in found] == [one["prediction"] for one in published.records[name]]

    def test_predict_on_the_command_line(self, published: Published, tmp_path: Path) -> None:
        file = tiny.write_csv(tmp_path / "in.csv", [{"text": text} for text in TEXTS])
        done = hfstrat("predict", "me/full", file)
        assert done.code == 0, done.err
        assert done.out == hfstrat("predict", published.runs["full"], file).out

    def test_a_folder_with_a_copy(self, published: Published, tmp_path: Path) -> None:
        for name, content in published.hub.model("me/full").files().items():
            (tmp_path / name).write_bytes(content)
        assert hf.load(tmp_path).predict(TEXTS) == published.records["full"]
        with pytest.raises(hf.UsageError, match="was loaded from the Hub, and holds no run"):
            hf.load(tmp_path).evaluate("test", None, None)  # type: ignore[arg-type]

    def test_an_earlier_commit(self, published: Published) -> None:
        repo = published.hub.model("me/full")
        before = repo.resolve("main")
        repo.commit("later", {}, "empty")
        assert hf.load("me/full", revision=before).predict(TEXTS) == published.records["full"]
        with pytest.raises(hf.UsageError, match=r"has no hfstrat\.json: hfstrat has not pushed it"):
            hf.load("me/full", revision="later")
        with pytest.raises(hf.UsageError, match="me/full has no revision 'never'"):
            hf.load("me/full", revision="never")

    def test_from_the_cache_without_network(self, published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        found = hf.load("me/full").predict(TEXTS)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        asked = len(published.hub.requests)
        assert hf.load("me/full").predict(TEXTS) == found
        with pytest.raises(hf.UsageError, match="no model of that name is in the cache"):
            hf.load("me/never-seen")
        assert len(published.hub.requests) == asked

    def test_names_that_are_nothing(self, published: Published, tmp_path: Path) -> None:
        done = hfstrat("predict", "me/nothing", stdin="x\n")
        assert done.code == 2
        assert "me/nothing is neither a run here nor a model on the Hub" in done.errors[0]
        done = hfstrat("predict", BASE, stdin="x\n")
        assert done.code == 2
        assert f"{BASE} has no hfstrat.json" in done.errors[0]
        asked = len(published.hub.requests)
        run = published.runs["full"]
        for name in (str(run.parent / "misspelt"), str(tmp_path), "./me/full"):
            with pytest.raises(hf.UsageError, match="holds no run"):
                hf.load(name)
        assert len(published.hub.requests) == asked

    def test_code_is_not_run_because_a_download_says_so(self, published: Published) -> None:
        tree = dict(published.hub.model("me/full").trees[published.hub.model("me/full").resolve("main") or ""])
        recipe = tree["recipe.yaml"].content.replace(b"trust_remote_code: false", b"trust_remote_code: true")
        assert recipe != tree["recipe.yaml"].content
        published.hub.repos["model", "me/trusting"] = Repo()
        published.hub.model("me/trusting").commit("main", {**tree, "recipe.yaml": File(recipe, False)}, "changed")
        with pytest.raises(hf.UsageError, match="cannot be loaded without running its code"):
            hf.load("me/trusting")
        assert hf.load("me/trusting", trust_remote_code=True).predict(TEXTS)

    def test_what_is_not_as_it_was_written(self, published: Published) -> None:
        tree = dict(published.hub.model("me/full").trees[published.hub.model("me/full").resolve("main") or ""])
        later = b'{"format": 2, "labels": {}, "files": []}'
        for number, (text, said) in enumerate({b"[]": "is none of hfstrat's", later: "later version"}.items()):
            published.hub.repos["model", f"me/odd{number}"] = Repo()
            published.hub.model(f"me/odd{number}").commit("main", {**tree, "hfstrat.json": File(text, False)}, "odd")
            with pytest.raises(hf.UsageError, match=said):
                hf.load(f"me/odd{number}")

    def test_a_hub_that_does_not_answer(self, published: Published) -> None:
        published.hub.repos["model", "me/late"] = published.hub.model("me/full")
        published.hub.cut("HEAD", "/me/late/")
        with pytest.raises(hf.HubError, match="cannot be reached or cut the connection"):
            hf.load("me/late")
        published.hub.faults.clear()
        assert hf.load("me/late").predict(TEXTS[:1])

    def test_a_disk_that_is_full(self, published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
        import errno
        import os

        from huggingface_hub import file_download

        def full(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        published.hub.repos["model", "me/large"] = published.hub.model("me/full")
        monkeypatch.setattr(file_download, "http_get", full)
        done = hfstrat("predict", "me/large", stdin="x\n")
        assert done.code == 3
        assert done.errors == ["No space left on device"]
        assert TOKEN not in done.err


def _scores(records: list[dict[str, Any]]) -> np.ndarray:
    return np.array([[one["scores"]["negative"], one["scores"]["positive"]] for one in records])


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
