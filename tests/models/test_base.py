"""A base is looked at before its weights are read: what is in its files, and whose code it may run."""

from __future__ import annotations

import ast
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hfstrat.errors import ModelError
from hfstrat.models.base import open_base
from hfstrat.models.weights import check_weights
from hfstrat.recipe.model import ModelSpec
from hfstrat.strategies.plan import Body

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tiny_base: Callable[..., Path], tmp_path: Path) -> Path:
    return shutil.copytree(tiny_base("bert"), tmp_path / "base")


def told(read: Callable[[], Any]) -> str:
    with pytest.raises(ModelError) as caught:
        read()
    return str(caught.value)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "gpt2", "llama", "deberta-v2", "t5", "qwen3"])
def test_a_whole_base_opens(family: str, tiny_base: Callable[..., Path]) -> None:
    assert open_base(ModelSpec(base=str(tiny_base(family)))).hub["use_safetensors"]


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1, -1000])
def test_weights_that_are_cut_off_anywhere(folder: Path, kept: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert "the weights of it are damaged: model.safetensors has " in told(lambda: check_weights(folder, "it"))


def test_random_weights_need_no_file_of_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "lacks weights" in told(lambda: open_base(ModelSpec(base=str(folder))))
    open_base(ModelSpec(base=str(folder)), Body(weights="random"))


def test_shards_are_all_needed(folder: Path) -> None:
    from transformers import BertModel

    model = BertModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    check_weights(folder, "it")
    lost = min(folder.glob("model-*.safetensors"))
    lost.unlink()
    assert f"it lacks weights: there is no {lost.name}" in told(lambda: check_weights(folder, "it"))


class Ran:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("trust", [False, True])
def test_a_pickle_is_never_read(folder: Path, trust: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Ran()))
    message = told(lambda: open_base(ModelSpec(base=str(folder), trust_remote_code=trust)))
    assert "pytorch_model.bin, a pickle" in message
    assert "BertModel" in message
    assert not (folder / "ran").exists()


def test_how_to_convert_a_pickle_is_said_rightly(folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    before = load_file(folder / "model.safetensors")
    torch.save(before, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    command = told(lambda: check_weights(folder, "it")).split("`")[1]
    exec(command, {})
    check_weights(folder, "it")
    after = load_file(folder / "model.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_nothing_but_the_recipe_trusts_code() -> None:
    files = sorted((ROOT / "hfstrat").rglob("*.py"))
    given = [
        f"{file.name}:{node.value.lineno}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.keyword)
        and node.arg == "trust_remote_code"
        and isinstance(node.value, ast.Constant)
        and node.value.value is not False
    ]
    assert len(files) > 50
    assert given == []
    assert ModelSpec(base="x").trust_remote_code is False
