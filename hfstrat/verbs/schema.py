"""`hfstrat schema`."""

from __future__ import annotations

import json


def run(markdown: bool = False) -> None:
    """Print the JSON Schema of a recipe, or the page that says the same to people.

    `recipes/recipe.schema.json` and `docs/recipe.md` are these outputs.
    """
    if markdown:
        from hfstrat.recipe import reference

        print(reference.markdown(), end="")
        return
    from hfstrat.recipe.schema import schema

    print(json.dumps(schema(), indent=2, ensure_ascii=False))
