"""`hfstrat show`: a recipe before it runs is drawn as its run will be afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

import hfstrat as package
from tests import tiny
from tests.command import hfstrat

STRATEGIES: dict[str, dict[str, Any]] = {
    "scratch": {"kind": "scratch", "tokenizer": {"kind": "wordpiece", "vocab_size": 200}},
    "head": {"kind": "head"},
    "gradual": {"kind": "partial", "last_n": 2, "gradual": True, "layer_decay": 0.5},
    "lora": {"kind": "lora", "r": 2},
    "qlora": {"kind": "qlora", "r": 2},
    "vera": {"kind": "peft", "method": "VERA", "options": {"r": 4}},
}


@pytest.fixture
def recipe(tiny_base: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny.write_csv(tmp_path / "a.csv", tiny.reviews(40))
    data = {
        "name": "x",
        "model": {"base": str(tiny_base("bert", sentence_transformers="mean"))},
        "task": {"kind": "text_classification"},
        "data": {"source": "a.csv"},
        "strategy": {"kind": "head"},
        "train": {"max_steps": 2, "threads": 1},
        "evaluate": {"metrics": ["accuracy"]},
    }
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")
    return file


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_said_before_is_what_was_done(name: str, recipe: Path, tmp_path: Path) -> None:
    strategy = f"strategy={json.dumps(STRATEGIES[name])}"
    before = json.loads(hfstrat("show", "mine.yaml", strategy, "--json").out)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.csv", "mine.yaml"], "nothing is written"
    assert hfstrat("train", "mine.yaml", strategy, "--quiet").code == 0
    after = json.loads((tmp_path / "runs" / "x" / "plan.json").read_text("utf-8"))
    stored = after["parameters"].pop("stored")
    assert stored > 0
    assert before == after
    counts = before["parameters"]
    assert 0 < counts["trainable"] <= counts["total"] == sum(part["total"] for part in counts["by_module"].values())


def test_it_is_drawn_and_as_a_picture(recipe: Path, tmp_path: Path) -> None:
    done = hfstrat("show", "mine.yaml", f"strategy={json.dumps(STRATEGIES['gradual'])}", "--svg", "plan.svg")
    assert done.code == 0
    for word in ("top-1", "top-2", "encoder.layer.1", "frozen", "training", "random", "×0.5", "probe (solve)"):
        assert word in done.out, word
    root = ElementTree.fromstring((tmp_path / "plan.svg").read_text("utf-8"))
    texts = {"".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"partial", "top-1", "top-2", "classifier"} <= texts


def test_a_run_is_drawn_as_a_picture_too(recipe: Path, tmp_path: Path) -> None:
    assert hfstrat("train", "mine.yaml", "--quiet").code == 0
    assert hfstrat("show", "runs/x", "--svg", "run.svg").code == 0
    assert "classifier" in (tmp_path / "run.svg").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("gone.yaml",), "there is neither a recipe nor a run gone.yaml"),
        (("mine.yaml", "--svg", "no/such/folder.svg"), "there is no folder no/such"),
        (("runs", "train.lr=1"), "'train.lr=1' overrides a recipe, and runs is none"),
    ],
)
def test_what_is_wrong_is_told(words: tuple[str, ...], said: str, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    done = hfstrat("show", *words)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_in_python_it_is_an_object_that_shows_itself(recipe: Path, tmp_path: Path) -> None:
    drawing = package.plan(recipe, {"strategy.kind": "head"}, quiet=True)
    assert drawing.plan["kind"] == "head"
    ElementTree.fromstring(drawing._repr_svg_())
    assert drawing.save(tmp_path / "p.svg").read_text("utf-8") == drawing._repr_svg_()
