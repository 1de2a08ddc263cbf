from __future__ import annotations

import json

import pytest

from hfstrat.recipe.recipe import Recipe
from hfstrat.verbs import recipes, schema


def test_the_file_beside_the_recipes_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    schema.run()
    file = recipes.folder() / "recipe.schema.json"
    assert file.read_text("utf-8") == capsys.readouterr().out, "run: hfstrat schema > recipes/recipe.schema.json"


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
