"""`hfstrat schema`."""

from __future__ import annotations

import json


def run() -> None:
    """Print the JSON Schema of a recipe; `recipes/recipe.schema.json` is this output."""
    from hfstrat.recipe.schema import schema

    print(json.dumps(schema(), indent=2, ensure_ascii=False))
