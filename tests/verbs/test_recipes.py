from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hfstrat.errors import UsageError
from hfstrat.recipe.loading import load
from hfstrat.recipe.schema import SCHEMA_FILE
from hfstrat.verbs import recipes

FILES = sorted(file for file in recipes.folder().rglob("*.yaml") if file.parent.name != recipes.LAUNCHING)
NAMES = [file.relative_to(recipes.folder()).with_suffix("").as_posix() for file in FILES]


def test_there_are_recipes() -> None:
    assert {"demo", "csv", "text-classification/banking77-head"} <= set(NAMES)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
class TestEachRecipe:
    def test_parses(self, file: Path) -> None:
        load(file)

    def test_starts_with_its_schema(self, file: Path) -> None:
        first = file.read_text("utf-8").splitlines()[0]
        assert first.startswith(recipes.SCHEMA_LINE)
        schema = file.parent / first.removeprefix(recipes.SCHEMA_LINE)
        assert schema.resolve() == recipes.folder() / "recipe.schema.json"

    def test_goes_on_with_its_command(self, file: Path) -> None:
        recipe, _ = load(file)
        path = file.relative_to(recipes.folder().parent).as_posix()
        verb = "compare" if recipe.compare.arms else "train"
        command, _, description = file.read_text("utf-8").splitlines()[1].partition(" : ")
        assert command == f"# hfstrat {verb} recipes/{path.split('/', 1)[1]}"
        assert description

    def test_can_be_copied(self, file: Path, tmp_path: Path) -> None:
        name = file.relative_to(recipes.folder()).with_suffix("").as_posix()
        said = recipes.copy(name, tmp_path, force=False)
        copied = tmp_path / file.name
        assert str(copied) in said
        first, second, *rest = copied.read_text("utf-8").splitlines()
        assert first == recipes.SCHEMA_LINE + SCHEMA_FILE
        assert f" {copied} : " in second
        assert rest == file.read_text("utf-8").splitlines()[2:]
        assert load(copied)[0] == load(file)[0]


def test_list_shows_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    recipes.list_all(as_json=False)
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)
    recipes.list_all(as_json=True)
    listed = json.loads(capsys.readouterr().out)
    assert {one["name"] for one in listed} == set(NAMES)
    assert all(one["description"] and one["command"].startswith("hfstrat ") for one in listed)


class TestCopy:
    def test_takes_a_short_name_and_a_file(self, tmp_path: Path) -> None:
        recipes.copy("banking77-lora.yaml", tmp_path / "new" / "mine.yaml", force=False)
        assert load(tmp_path / "new" / "mine.yaml")[0].name == "banking77-lora"

    def test_replaces_only_by_force(self, tmp_path: Path) -> None:
        mine = tmp_path / "demo.yaml"
        mine.write_text("mine")
        with pytest.raises(UsageError, match="--force"):
            recipes.copy("demo", tmp_path, force=False)
        assert mine.read_text() == "mine"
        recipes.copy("demo", tmp_path, force=True)
        assert load(mine)[0].name == "demo"

    @pytest.mark.parametrize(("name", "hint"), [("dmo", "'demo'"), ("../pyproject", "csv")])
    def test_knows_what_was_meant(self, name: str, hint: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=hint):
            recipes.copy(name, tmp_path, force=False)

    def test_wants_a_yaml_file(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="neither a folder nor"):
            recipes.copy("demo", tmp_path / "missing", force=False)


def test_files_for_launchers_are_copied_together_and_are_no_recipes(tmp_path: Path) -> None:
    said = recipes.copy(recipes.LAUNCHING, tmp_path, force=False)
    new = tmp_path / recipes.LAUNCHING
    assert str(new) in said
    names = {file.name for file in new.iterdir()}
    assert names == {"one-cpu.yaml", "two-cpu.yaml", "one-gpu.yaml", "several-gpus.yaml", "slurm.sh"}
    for file in new.glob("*.yaml"):
        command = file.read_text("utf-8").splitlines()[0]
        assert f"accelerate launch --config_file {file.name}" in command
    assert not any(name.startswith(f"{recipes.LAUNCHING}/") for name in NAMES)
    with pytest.raises(UsageError, match="exists"):
        recipes.copy(recipes.LAUNCHING, tmp_path, force=False)
    recipes.copy(recipes.LAUNCHING, tmp_path, force=True)


MEASURED = [(file, line) for file in FILES for line in file.read_text("utf-8").splitlines() if "# Measured" in line]


@pytest.mark.parametrize(("file", "line"), MEASURED, ids=[file.stem for file, _ in MEASURED])
def test_what_was_measured_stands_in_the_document_that_is_named(file: Path, line: str) -> None:
    found = re.fullmatch(r"# Measured as (?:the arm (\S+) of \S+|(\S+)) \((\S+\.md)\): (.+)", line)
    assert found is not None
    rows = (recipes.folder().parent / found[3]).read_text("utf-8").splitlines()
    figures = re.findall(r"\d[\d.]*", found[4])
    assert len(figures) >= 3
    assert any(f"| {found[1] or found[2]} |" in row and all(figure in row for figure in figures) for row in rows)


def test_some_recipes_say_what_was_measured() -> None:
    assert len(MEASURED) >= 6
