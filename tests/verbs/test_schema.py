from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hfstrat.recipe import reference
from hfstrat.recipe.recipe import Recipe
from hfstrat.verbs import recipes, schema

PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"


def test_the_file_beside_the_recipes_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    schema.run()
    file = recipes.folder() / "recipe.schema.json"
    assert file.read_text("utf-8") == capsys.readouterr().out, "run: hfstrat schema > recipes/recipe.schema.json"


def test_the_page_of_fields_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    schema.run(markdown=True)
    assert PAGE.read_text("utf-8") == capsys.readouterr().out, f"run: {reference.COMMAND}"


def test_the_page_has_every_field_with_its_description(capsys: pytest.CaptureFixture[str]) -> None:
    schema.run()
    definitions = json.loads(capsys.readouterr().out)["$defs"]
    page = PAGE.read_text("utf-8")
    rows = [
        (field, " ".join(entry["description"].split()).replace("|", "\\|"))
        for name, definition in definitions.items()
        for field, entry in definition["properties"].items()
        if "description" in entry and len(definition["properties"]) > 1
    ]
    missing = [field for field, said in rows if not re.search(rf"^\| `{field}` \|.*{re.escape(said)} \|$", page, re.M)]
    assert len(rows) > 100
    assert missing == []


def test_it_knows_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    schema.run()
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["properties"]) == set(Recipe.model_fields)
    assert printed["additionalProperties"] is False


def test_every_field_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    schema.run()
    silent = [
        f"{name}.{field}"
        for name, definition in json.loads(capsys.readouterr().out)["$defs"].items()
        for field, entry in definition.get("properties", {}).items()
        if not {"description", "const", "$ref"} & set(entry)  # what is referred to is described itself
    ]
    assert silent == [], "these fields have no docstring"
