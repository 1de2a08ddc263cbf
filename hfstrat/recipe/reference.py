"""Every field of a recipe as a page of Markdown: `docs/recipe.md` is what this writes.

It is read off the recipe's own JSON Schema, so that a field is described in one place, beside its definition.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hfstrat.recipe.schema import schema

COMMAND = "hfstrat schema --markdown > docs/recipe.md"
Node = Mapping[str, Any]

INTRODUCTION = f"""\
# Recipe reference

Every field of a recipe, in the order of a recipe. This page is written by `{COMMAND}` out of the code that reads
recipes. An editor that knows YAML shows the same while you type, by the first line of each recipe in
[recipes/](../recipes/README.md); `hfstrat validate my.yaml` shows what each `auto` becomes, and why.

A field whose default is **required** has to be there; of all others the default holds when they are left out. Any field
can be changed on the command line by its path: `hfstrat train my.yaml train.lr=1e-4 strategy.kind=lora`.
"""

EXAMPLES: Mapping[str, str] = {
    "": """\
name: my-classifier
model: {base: sentence-transformers/all-MiniLM-L6-v2}
task: {kind: text_classification}
data: {source: reviews.csv, columns: {text: text, label: label}}
strategy: {kind: head}
""",
    "model": """\
model:
  base: sentence-transformers/all-MiniLM-L6-v2
  new_tokens: ["<amount>", refurbished]
""",
    "task": """\
task:
  kind: text_classification
  max_length: 256
  long_texts: windows
  class_weights: balanced
""",
    "data": """\
data:
  source: reviews/ # train.csv and test.csv
  columns: {text: body, label: stars}
  validation: 0.1
  limit: {per_class: 100}
""",
    "strategy": """\
strategy:
  kind: lora
  r: 8
  targets: [query, value]
""",
    "train": """\
train:
  epochs: 3
  lr: 1.0e-4
  schedule: cosine
  early_stopping: {patience: 2}
  checkpoint_every: 10 minutes
""",
    "evaluate": """\
evaluate:
  metrics: [f1_macro, accuracy]
  select_by: f1_macro
""",
    "track": "track: [tensorboard] # pip install 'hfstrat[trackers]'\n",
    "compare": """\
compare:
  arms: [majority, tfidf, head, full, {name: lora-4, strategy: {kind: lora, r: 4}}]
  seeds: [0, 1, 2]
  sizes: [{per_class: 8}, 1000, all]
""",
    "hub": """\
hub: {repo_id: me/my-classifier, license: apache-2.0, language: [en]}
""",
}
"""What a section looks like, by its name."""


def markdown() -> str:
    """The page."""
    return "\n".join([*_page(schema())]).rstrip() + "\n"


def _page(recipe: Node) -> Iterator[str]:
    definitions: Node = recipe["$defs"]
    yield INTRODUCTION
    yield "## The whole\n"
    yield _example("")
    yield from _table(recipe["properties"], recipe["required"], definitions)
    for name, node in recipe["properties"].items():
        if name in ("name", "seed"):
            continue  # the table above says all of them
        yield f"## `{name}`\n"
        yield f"{_sentence(node)}\n"
        yield _example(name)
        if name == "track":
            yield f"{_type(node, definitions)}; default `{json.dumps(node['default'])}`.\n"
            continue
        yield from _section(name, node, definitions)


def _section(name: str, node: Node, definitions: Node) -> Iterator[str]:
    """The fields of a section: of each kind by itself, where there are several, those of all kinds first."""
    kinds = [definitions[member] for member in _members(node)]
    first = kinds[0]["properties"]
    several = len(kinds) > 1
    common = {field: entry for field, entry in first.items() if several and _shared(field, entry, kinds)}
    if common:
        yield f"Of every kind of {name}:\n"
        yield from _table(common, (), definitions)
    if several:
        links = ", ".join(f"[`{_kind(kind)}`](#{_anchor(_heading_of(name, kind))})" for kind in kinds)
        yield f"The kinds are {links}" + (", told by the look of `source`.\n" if name == "data" else ".\n")
    nested: dict[str, str] = {}  # by definition, for several kinds refer to the same one
    for kind in kinds:
        own = {field: entry for field, entry in kind["properties"].items() if field not in common}
        if several:
            yield f"### {_heading_of(name, kind)}\n"
            yield f"{_paragraph(kind['description'])}\n"
        if {*own} - {"kind"}:
            yield from _table(own, kind.get("required", ()), definitions)
        nested |= _nested(name, own, definitions)
    for member, path in nested.items():
        users = [kind for kind in kinds if member in _nested(name, kind["properties"], definitions)]
        apart = list(nested.values()).count(path) > 1
        yield f"### `{path}`{' of ' + ', '.join(map(_kind, users)) if apart else ''}\n"
        yield f"{_paragraph(definitions[member]['description'])}\n"
        yield from _table(definitions[member]["properties"], definitions[member].get("required", ()), definitions)


def _example(section: str) -> str:
    return f"```yaml\n{EXAMPLES[section]}```\n"


def _shared(field: str, entry: Node, kinds: Sequence[Node]) -> bool:
    return all(kind["properties"].get(field) == entry for kind in kinds)


def _kind(definition: Node) -> str:
    return str(definition["properties"]["kind"]["const"])


def _heading_of(section: str, kind: Node) -> str:
    return f"`{section}.kind: {_kind(kind)}`"


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = "".join(letter for letter in heading.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _nested(path: str, fields: Node, definitions: Node) -> dict[str, str]:
    """Paths of the definitions that fields refer to, and of those that these refer to, by their name."""
    found: dict[str, str] = {}
    for name, entry in fields.items():
        for member in _members(entry):
            inside = definitions[member]["properties"]
            # A strategy has a section of its own, and a single field is said where it stands.
            if name != "strategy" and len(inside) > 1:
                found |= {member: f"{path}.{name}", **_nested(f"{path}.{name}", inside, definitions)}
    return found


def _members(node: Node) -> list[str]:
    """Names of the definitions that a node refers to, in its order."""
    if "$ref" in node:
        return [str(node["$ref"]).rsplit("/", 1)[-1]]
    inside = [*node.get("anyOf", ()), *node.get("oneOf", ()), *([node["items"]] if "items" in node else ())]
    return list(dict.fromkeys(name for part in inside for name in _members(part)))


def _table(fields: Node, required: Sequence[str], definitions: Node) -> Iterator[str]:
    yield "| field | value | default | what it means |"
    yield "| --- | --- | --- | --- |"
    for name, entry in fields.items():
        if "const" in entry and name == "kind":
            continue
        default = "**required**" if name in required else _default(entry)
        cells = (f"`{name}`", _type(entry, definitions), default, _sentence(_described(entry, definitions)))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _described(entry: Node, definitions: Node) -> Node:
    """The entry, or what it refers to where it says nothing itself."""
    return entry if "description" in entry or "$ref" not in entry else definitions[_members(entry)[0]]


def _default(entry: Node) -> str:
    if "default" not in entry:  # what is made anew for each recipe is an empty mapping
        return "`{}`" if entry.get("type") == "object" else "**required** to train"
    value = entry["default"]
    if value is None:
        return "left out"
    if isinstance(value, dict):
        return "as its fields say" if value else "`{}`"
    if isinstance(value, list) and len(value) > 4:
        return f"`{value[0]:g}` to `{value[-1]:g}`, {len(value)} of them"
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def _sentence(entry: Node) -> str:
    return _paragraph(entry["description"])


def _paragraph(text: str) -> str:
    return " ".join(text.split())


def _type(entry: Node, definitions: Node) -> str:
    """What a field takes, in words."""
    if "$ref" in entry:
        return _fields_of(definitions[_members(entry)[0]])
    if "oneOf" in entry:
        return "fields, by `kind`"
    if "anyOf" in entry:
        parts = [_type(part, definitions) for part in entry["anyOf"] if part != {"type": "null"}]
        words = list(dict.fromkeys(parts))
        nothing = ["null"] if {"type": "null"} in entry["anyOf"] else []
        return " or ".join([*words, *nothing])
    if "const" in entry:
        return f"`{entry['const']}`"
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    return _plain(entry, definitions)


def _fields_of(definition: Node) -> str:
    names = [name for name in definition["properties"] if name != "kind"]
    return "fields" if len(names) > 4 else f"{{{', '.join(names)}}}"


def _plain(entry: Node, definitions: Node) -> str:
    kind = entry.get("type")
    if kind == "array" and "prefixItems" in entry:
        return f"[{', '.join(_type(part, definitions) for part in entry['prefixItems'])}]"
    if kind == "array":
        inside = _type(entry["items"], definitions) if entry.get("items") else "value"
        return f"list of: {inside}"
    if kind == "object":
        values = entry.get("additionalProperties")
        return f"mapping to {_type(values, definitions)}" if isinstance(values, dict) and values else "mapping"
    names = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    return f"{names[str(kind)]}{_bounds(entry)}" if kind in names else "anything"


def _bounds(entry: Node) -> str:
    """`above 0, at most 1`; what only keeps a number in 64 bits is left out."""
    words = {"exclusiveMinimum": "above", "minimum": "from", "exclusiveMaximum": "below", "maximum": "to"}
    said = [f"{word} {entry[key]:g}" for key, word in words.items() if key in entry and entry[key] < 2**62]
    return f" {' '.join(said)}" if said else ""
