"""Each notebook runs from top to bottom without network, as somebody would run it, and leaves what it says."""

from __future__ import annotations

import ast
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest

import hfstrat
from tests.hub.conftest import BASE, TOKEN, environment, put
from tests.hub.server import Account, Hub
from tests.report import html_tree

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SETTINGS = "settings"
"""The cell whose constants a test makes smaller, in a cell below it."""


# --- as they are committed ----------------------------------------------------------------------------------------


def read(name: str) -> Any:
    return nbformat.read(next(FOLDER.glob(f"{name}*.ipynb")), as_version=4)


def test_there_are_notebooks() -> None:
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestCommitted:
    def test_it_is_valid_and_has_no_output(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert code
        assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
        assert notebook.metadata.kernelspec.name == "python3"

    def test_its_cells_have_names_that_stay(self, path: Path) -> None:
        names = [cell.id for cell in nbformat.read(path, as_version=4).cells]
        assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in names)
        assert SETTINGS in names

    def test_it_says_what_it_is_for_and_what_comes_next(self, path: Path) -> None:
        first, *_, last = nbformat.read(path, as_version=4).cells
        title, _, about = first.source.partition("\n")
        assert title.startswith("# ")
        assert "minute" in about
        assert "pip install" in about
        assert last.source.startswith("**Next:**")

    def test_its_links_lead_somewhere(self, path: Path) -> None:
        texts = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
        links = re.findall(r"\]\(([^)]+)\)", "\n".join(texts))
        assert [link for link in links if not (FOLDER / link).is_file()] == []


# --- as they run --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Executed:
    """A notebook that was run.

    Args:
        notebook: It, with its outputs.
        folder: Where it ran.
    """

    notebook: Any
    folder: Path

    def outputs(self, name: str) -> list[Any]:
        """What a cell showed."""
        return next(cell.outputs for cell in self.notebook.cells if cell.id == name)

    def shown(self, name: str, kind: str = "text/html") -> str:
        """The last thing that a cell showed, in one of its forms."""
        content = self.outputs(name)[-1].data[kind]
        return content if isinstance(content, str) else "".join(content)

    def rows(self, name: str) -> list[list[str]]:
        """The table that a cell showed, its headings first."""
        return html_tree.read(self.shown(name)).rows

    def printed(self, name: str) -> str:
        """What a cell wrote to stdout."""
        return "".join(one.text for one in self.outputs(name) if one.output_type == "stream")

    def streams(self) -> set[str]:
        """Where anything was written to."""
        outputs = [one for cell in self.notebook.cells for one in cell.get("outputs", ())]
        return {one.name for one in outputs if one.output_type == "stream"}


def smaller(notebook: Any, settings: Mapping[str, Any]) -> None:
    """Put a cell with other settings below the notebook's own."""
    place = [cell.id for cell in notebook.cells].index(SETTINGS)
    assigned = {
        target.id
        for node in ast.parse(notebook.cells[place].source).body
        if isinstance(node, ast.Assign)
        for target in ast.walk(node.targets[0])
        if isinstance(target, ast.Name)
    }
    assert settings.keys() <= assigned
    lines = [f"{name} = {value!r}" for name, value in settings.items()]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines), id="smaller"))


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Executed]]:
    """`execute("1", PER_CLASS=2)`: a notebook, run in an empty directory."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory() as short:  # names of Unix sockets are
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
            monkeypatch.setenv(name, str(Path(short) / name))

        def run(name: str, environment: Mapping[str, str] | None = None, **settings: Any) -> Executed:
            notebook, folder = read(name), tmp_path / "work"
            folder.mkdir()
            smaller(notebook, settings)
            kernel = AsyncKernelManager(
                transport="ipc",
                connection_file=f"{short}/kernel.json",
                kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),  # this Python, whatever else is installed
            )
            client = NotebookClient(notebook, km=kernel, timeout=600, resources={"metadata": {"path": str(folder)}})
            client.execute(cleanup_kc=True, env={**os.environ, **(environment or {})})
            found = Executed(notebook, folder)
            assert found.streams() <= {"stdout"}, "a warning"
            return found

        yield run


@pytest.fixture
def tiny_encoder(tiny_base: Callable[..., Path]) -> str:
    """A tiny base that is used like all-MiniLM-L6-v2."""
    return str(tiny_base("bert", sentence_transformers="mean", initializer_range=0.2))


@pytest.mark.slow
def test_the_first_run(execute: Callable[..., Executed], tiny_encoder: str) -> None:
    found = execute("1", BASE=tiny_encoder, PER_CLASS=2)
    run = found.folder / "runs/first"
    assert hfstrat.open_run(run).status == "done"
    assert set(hfstrat.predict(run, ["a text"])[0]) == {"prediction", "scores"}
    assert found.shown("plan", "image/svg+xml").startswith("<svg")
    progress, result = found.outputs("train")
    assert "lines before" in progress.data["text/html"]
    assert "<td" in result.data["text/html"]
    assert "accuracy" in result.data["text/html"]
    assert "model.safetensors" in found.shown("directory")
    assert "are wrong" in found.printed("mistakes")
    assert "from_pretrained" in found.printed("elsewhere")
    (mistake,) = found.outputs("wrong")
    assert mistake.ename == "RecipeError"
    assert [line.split(": ")[2] for line in mistake.traceback] == ["strategy.kind", "train.epoch"]


FEW = {"LABELS": ["email", "http", "logging"], "PER_CLASS": 4, "EPOCHS": 1}


@pytest.mark.slow
def test_strategies_side_by_side(execute: Callable[..., Executed], tiny_encoder: str) -> None:
    found = execute("2", BASE=tiny_encoder, **FEW)
    table = pd.read_csv(found.folder / "runs/strategies/table.csv")
    assert list(table["arm"]) == ["majority", "tfidf", "scratch", "head", "lora", "full"]
    assert set(table["state"]) == {"done"}
    assert all(f">{arm}</td>" in found.shown("table") for arm in table["arm"])
    assert found.shown("plot", "image/png")
    assert {"arm", "accuracy", "accuracy_low", "seconds"} <= {*found.rows("frame")[0]}
    assert found.printed("verdict").count("for all pairs together") == 3
    assert Path(found.folder, found.printed("report").strip()).is_file()


@pytest.mark.slow
def test_adapters_go_to_the_hub_and_back(
    execute: Callable[..., Executed], tiny_encoder: str, tmp_path: Path, socket_enabled: None
) -> None:
    with Hub() as hub:
        hub.accounts[TOKEN] = Account("me")
        put(hub, Path(tiny_encoder))
        known = environment(hub, tmp_path / "home")
        found = execute("3", known, BASE=tiny_encoder, PUBLISHED_AS=BASE, PUSH=True, **FEW)
        assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= hub.model(
            "me/python-docs-lora"
        ).files().keys()
        assert hub.model("me/python-docs-lora").private
    assert "nothing was sent" in found.shown("dry-run")
    assert "sent in one commit" in found.printed("push")
    assert [row[-1] in FEW["LABELS"] for row in found.rows("load")[1:]] == [True, True]
    assert all(f">{arm}</td>" in found.shown("compare") for arm in ("head", "rank-1", "rank-16", "dora-1"))
    assert "PeftModel" in found.printed("card")


@pytest.mark.slow
def test_adapters_stay_here_unless_asked(execute: Callable[..., Executed], tiny_encoder: str) -> None:
    found = execute("3", BASE=tiny_encoder, PUBLISHED_AS=BASE, **FEW)
    assert "nothing was asked of the Hub" in found.shown("dry-run")
    assert found.outputs("push") == []


@pytest.mark.slow
def test_a_language_model_is_adapted(execute: Callable[..., Executed], monkeypatch: pytest.MonkeyPatch) -> None:
    found = execute("4", EPOCHS=1, FURTHER=1, WIDTH=32, LAYERS=1)
    runs = {run.name: hfstrat.open_run(run).status for run in (found.folder / "runs").iterdir()}
    assert runs == dict.fromkeys(("python-writer", "numpy-lora", "numpy-full"), "done")
    columns, *scores = found.rows("score")
    assert columns == ["", "python", "numpy"]
    assert [row[0] for row in scores] == ["from scratch", "lora", "full"]
    assert "continuation" in found.shown("write")
    monkeypatch.chdir(found.folder)  # an adapter names its base from here
    assert set(hfstrat.predict("runs/numpy-lora", ["Return"])[0]) == {"prediction"}


@pytest.mark.slow
def test_pictures_and_how_many(execute: Callable[..., Executed]) -> None:
    found = execute("5", SIZES=[{"per_class": 2}, "all"], UPDATES=3)
    columns, *curve = found.rows("curve")
    assert columns[1:3] == ["arm", "train_rows"]
    assert [(row[1], int(row[2]) == 20) for row in curve] == [
        ("pixels", True),
        ("scratch", True),
        ("pixels", False),
        ("scratch", False),
    ]
    assert found.shown("compare", "image/png")
    assert found.shown("mistakes", "image/png")
    assert "are wrong" in found.printed("mistakes")
    assert hfstrat.open_run(found.folder / "runs/digits/scratch-all-seed0").status == "done"
