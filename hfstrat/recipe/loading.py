"""From YAML to a Recipe: every problem at once, each with its line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hfstrat.errors import Problem, RecipeError
from hfstrat.recipe.recipe import Recipe
from hfstrat.spec import Loc, problems_of

MAX_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `1e-4` is a number, `no` and `on` are text, a date is text."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|nan)$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


@dataclass(frozen=True)
class Source:
    """Plain data with the place that each of its entries was written at.

    Args:
        data: Dictionaries, lists and scalars.
        file: What to call the place in messages.
        lines: Line of each entry, by its keys; None for an override.
    """

    data: Any
    file: str
    lines: Mapping[Loc, int | None]

    def where(self, loc: Loc) -> str:
        """`file:line` of an entry, or of the nearest one around it; `override` for one that has no line."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        line = self.lines.get(loc, 0)
        return "override" if line is None else f"{self.file}:{line}" if line else self.file


def read(path: str | Path) -> Source:
    """Read a recipe file.

    Raises:
        RecipeError: It is not there, not text, or not YAML.
    """
    file = Path(path)
    try:
        size = file.stat().st_size
        raw = file.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise RecipeError(_unreadable(file, error)) from None
    if size > MAX_BYTES:
        raise RecipeError(Problem(f"a recipe of {size:,} bytes is not a recipe", where=str(file)))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RecipeError(Problem("the recipe is not UTF-8 text", where=f"{file}:{line}")) from None
    return parse(text, str(file))


def parse(text: str, file: str = "recipe") -> Source:
    """Read YAML text, remembering lines.

    Raises:
        RecipeError: It is not YAML, or not a mapping.
    """
    loader = _Loader(text)
    lines: dict[Loc, int | None] = {}
    try:
        node = loader.get_single_node()
        data = _plain(loader, node, (), lines, file) if node is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        what = getattr(error, "problem", None) or str(error)
        raise RecipeError(
            Problem(f"this is not YAML: {what}", where=where, hint="Check indentation and colons")
        ) from None
    except ValueError as error:
        raise RecipeError(Problem(f"this is not YAML: {error}", where=file)) from None
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        hint = "A recipe starts like `name: my-run`; `hfstrat init DATA` writes one"
        raise RecipeError(Problem("a recipe is a mapping of fields", where=file, hint=hint))
    return Source(data, file, lines)


def _plain(loader: _Loader, node: yaml.Node, loc: Loc, lines: dict[Loc, int | None], file: str) -> Any:
    """Build plain data from a node tree; depth is bounded so that no file can exhaust the stack."""
    if len(loc) > 30:
        raise yaml.YAMLError("nested too deeply")
    lines.setdefault(loc, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*loc, place), lines, file) for place, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node)) if isinstance(key_node, yaml.ScalarNode) else "?"
            line = key_node.start_mark.line + 1
            if key in found:
                raise RecipeError(Problem(f"'{key}' is given twice", ".".join(map(str, (*loc, key))), f"{file}:{line}"))
            lines[(*loc, key)] = line
            found[key] = _plain(loader, value_node, (*loc, key), lines, file)
        return found
    return loader.construct_object(node)


def override(source: Source, words: Iterable[str] | Mapping[str, Any]) -> Source:
    """Apply overrides.

    Args:
        source: The recipe's plain data.
        words: `dotted.path=value` with the value in YAML, or a mapping of dotted paths to values.

    Raises:
        RecipeError: A word has no `=`, or its path runs through something that is not a mapping.
    """
    pairs = list(words.items()) if isinstance(words, Mapping) else [_pair(word) for word in words]
    data = json.loads(json.dumps(source.data))
    lines = dict(source.lines)
    for path, value in pairs:
        here, steps = data, path.split(".")
        for step in steps[:-1]:
            nested = here.setdefault(step, {})
            if not isinstance(nested, dict):
                hint = f"Override it whole: `{step}=…`"
                raise RecipeError(Problem(f"'{step}' holds no fields", path, f"override {path}", hint))
            here = nested
        here[steps[-1]] = value
        lines = {loc: line for loc, line in lines.items() if loc[: len(steps)] != tuple(steps)}
        lines[tuple(steps)] = None
    return replace(source, data=data, lines=lines)


def _pair(word: str) -> tuple[str, Any]:
    path, equals, value = word.partition("=")
    if not equals or not path:
        raise RecipeError(
            Problem(f"'{word}' is not an override", hint="Write dotted.path=value, such as train.lr=1e-4")
        )
    try:
        return path.strip(), yaml.load(value, _Loader)
    except yaml.YAMLError:
        raise RecipeError(Problem(f"'{value}' is not YAML", path.strip(), "override")) from None


def build(source: Source) -> Recipe:
    """Parse plain data into a Recipe.

    Raises:
        RecipeError: All that is wrong, each with its place.
    """
    try:
        # JSON mode: a list is a tuple there, while text is still not a number.
        return Recipe.model_validate_json(json.dumps(source.data))
    except ValidationError as error:
        found = problems_of(error, Recipe, source.data)
        raise RecipeError([replace(problem, where=source.where(loc)) for loc, problem in found]) from None


def load(
    recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Iterable[str] | Mapping[str, Any] = ()
) -> tuple[Recipe, Source]:
    """A recipe from a file, plain data or a Recipe, with overrides applied.

    Returns:
        The recipe and where its fields stand.

    Raises:
        RecipeError: All that is wrong, each with its place.
    """
    if isinstance(recipe, Recipe):
        source = Source(json.loads(recipe.model_dump_json(exclude_unset=True)), "recipe", {})
    elif isinstance(recipe, Mapping):
        source = Source(_jsonable(recipe), "recipe", {})
    else:
        source = read(recipe)
    source = override(source, overrides)
    return build(source), source


def dump(recipe: Recipe) -> str:
    """A recipe as YAML, every field written out."""
    data = json.loads(recipe.model_dump_json())
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def _jsonable(recipe: Mapping[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(dict(recipe)))
    except (TypeError, ValueError) as error:
        raise RecipeError(Problem(f"a recipe holds only text, numbers, lists and mappings: {error}")) from None


def _unreadable(file: Path, error: OSError) -> Problem:
    if file.is_dir():
        return Problem("this is a folder, not a recipe", where=str(file))
    if not file.exists():
        near = sorted(file.parent.glob("*.y*ml")) if file.parent.is_dir() else []
        hint = (
            f"There is: {', '.join(str(path) for path in near[:8])}" if near else "`hfstrat recipes list` shows recipes"
        )
        return Problem("no such recipe", where=str(file), hint=hint)
    return Problem(f"cannot be read: {error.strerror}", where=str(file))
