"""The recipe's JSON Schema, for editors."""

from __future__ import annotations

from typing import Any

from hfstrat.recipe.recipe import Recipe

# Where editors look for the schema: beside the recipe, written by `hfstrat schema > recipe.schema.json`.
SCHEMA_FILE = "recipe.schema.json"


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe."""
    found = Recipe.model_json_schema()
    # The kind of data is told by the look of `source`, which JSON Schema cannot say: several members may fit.
    data = found["properties"]["data"]
    data["anyOf"] = data.pop("oneOf")
    # Whether a recipe needs a strategy is up to the command: those that help to choose one do not.
    found["required"].remove("strategy")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
