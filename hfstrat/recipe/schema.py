"""The recipe's JSON Schema, for editors."""

from __future__ import annotations

from typing import Any

from hfstrat.recipe.recipe import Recipe

SCHEMA_URL = "https://raw.githubusercontent.com/hfstrat/hfstrat/main/recipes/recipe.schema.json"


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
