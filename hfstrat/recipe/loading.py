"""From YAML to a Recipe: every problem at once, each with its line."""

from __future__ import annotations

import copy
import json
import numbers
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError

from hfstrat.errors import Problem, RecipeError, shortened
from hfstrat.recipe.data import FileData, kind_of_source
from hfstrat.recipe.recipe import Recipe
from hfstrat.redact import holds_secret, redact
from hfstrat.spec import Loc, problems_of

MAX_BYTES = 1_000_000
"""Size of a recipe, in its file and with aliases written out."""

MAX_DEPTH = 30

OVERRIDE = "override"
"""What to call the place of a field that was given on the command line."""

_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map"))


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `1e-4` is a number, `no` and `on` are text, a date is text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:null"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_WHOLE = "(?:0|[1-9][0-9]*)"  # `007` is text: it is an id or a label more often than seven
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
    ("float", rf"^[-+]?(?:{_WHOLE}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|nan)$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


class _Dumper(yaml.SafeDumper):
    """Quotes text that either kind of YAML would read as something else, such as `1e-4` and `no`."""


_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_Loader.yaml_implicit_resolvers.get(first, [])]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


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
        return OVERRIDE if line is None else f"{self.file}:{line}" if line else self.file


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
    data, lines = _read_yaml(text, file)
    if not isinstance(data, dict):
        hint = "A recipe starts like `name: my-run`; `hfstrat init DATA` writes one"
        raise RecipeError(Problem("a recipe is a mapping of fields", where=file, hint=hint))
    return Source(data, file, lines)


def _read_yaml(text: str, file: str) -> tuple[Any, dict[Loc, int | None]]:
    """Plain data and the line of each entry; `file` is what to call the place."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"it has a character that cannot be printed (#x{error.character:02x})"
        raise RecipeError(_not_yaml(what, f"{file}:{line}")) from None
    nodes = _Nodes(loader, file)
    try:
        node = loader.get_single_node()
        data = nodes.plain(node, ()) if node is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        raise RecipeError(_not_yaml(getattr(error, "problem", None) or str(error), where)) from None
    except RecursionError:
        raise RecipeError(Problem("it is nested too deeply", where=file)) from None
    finally:
        loader.dispose()
    if nodes.problems:
        raise RecipeError(nodes.problems)
    return data, nodes.lines


def _not_yaml(what: str, where: str) -> Problem:
    return Problem(f"this is not YAML: {what}", where=where, hint="Check indentation, quotation marks and colons")


class _Nodes:
    """Builds plain data from a tree of nodes. Depth and size are bounded, for aliases can make a small file endless.

    Args:
        loader: Knows how scalars are written.
        file: What to call the place in messages.
    """

    def __init__(self, loader: _Loader, file: str) -> None:
        self.lines: dict[Loc, int | None] = {}
        self.problems: list[Problem] = []
        self._loader, self._file, self._size = loader, file, 0

    def plain(self, node: yaml.Node, loc: Loc) -> Any:
        """Dictionaries, lists and scalars."""
        self.lines.setdefault(loc, node.start_mark.line + 1)
        self._size += 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if node.tag not in _TAGS:
            self._refuse(f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} means nothing in a recipe", node)
        if len(loc) > MAX_DEPTH:
            self._refuse("it is nested too deeply", node)
        if self._size > MAX_BYTES:
            self._refuse(f"with its aliases written out it is larger than {MAX_BYTES:,} bytes", node)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*loc, place)) for place, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc)
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse("a list or a mapping cannot be the name of a field", key_node)
            key = str(self._scalar(key_node))
            line = key_node.start_mark.line + 1
            if key in found:
                path = ".".join(map(str, (*loc, key)))
                self.problems.append(Problem(f"'{key}' is given twice", path, f"{self._file}:{line}"))
            self.lines[(*loc, key)] = line
            found[key] = self.plain(value_node, (*loc, key))
        return found

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            return self._loader.construct_object(node)
        except (ValueError, KeyError, IndexError):
            self._refuse(f"{node.value[:40]!r} cannot be read", node)

    def _refuse(self, message: str, node: yaml.Node) -> NoReturn:
        raise RecipeError(Problem(message, where=f"{self._file}:{node.start_mark.line + 1}"))


def override(source: Source, words: Iterable[str] | Mapping[str, Any]) -> Source:
    """Apply overrides.

    Args:
        source: The recipe's plain data.
        words: `dotted.path=value` with the value in YAML, or a mapping of dotted paths to values.

    Raises:
        RecipeError: A word has no `=`, or its path runs through something that is not a mapping.
    """
    pairs = _plain(words, "override").items() if isinstance(words, Mapping) else [_pair(word) for word in words]
    data = copy.deepcopy(source.data)
    lines = dict(source.lines)
    for path, value in pairs:
        here, steps = data, path.split(".")
        if len(steps) > MAX_DEPTH:
            raise RecipeError(Problem("it is nested too deeply", shortened(path), OVERRIDE))
        for place, step in enumerate(steps[:-1], start=1):
            if step not in here:
                lines[tuple(steps[:place])] = None
            nested = here.setdefault(step, {})
            if not isinstance(nested, dict):
                hint = f"Override it whole: `{step}=…`"
                raise RecipeError(Problem(f"'{step}' holds no fields", path, OVERRIDE, hint))
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
    path = path.strip()
    try:
        return path, _read_yaml(value, OVERRIDE)[0]
    except RecipeError as error:
        raise RecipeError([replace(problem, path=path, where=OVERRIDE) for problem in error.problems]) from None


def build(source: Source) -> Recipe:
    """Parse plain data into a Recipe.

    Raises:
        RecipeError: All that is wrong, each with its place.
    """
    _check_secrets(source)
    try:
        # JSON mode: a list is a tuple there, while text is still not a number.
        return Recipe.model_validate_json(json.dumps(source.data))
    except ValidationError as error:
        found = problems_of(error, Recipe, source.data)
        raise RecipeError([replace(problem, where=source.where(loc)) for loc, problem in found]) from None


def _check_secrets(source: Source) -> None:
    """Raise for tokens and passwords: a recipe is copied into its run, and often to others.

    They are told alone and before anything else, for other problems repeat what is written.
    """
    texts = list(_texts(source.data, ()))
    if not holds_secret("\n".join(text for _, text in texts)):  # one look at all of them is quick
        return
    hint = "Put it into the environment, such as HF_TOKEN, and make a new one if others have seen this file"
    message = "this looks like a token or a password, which does not belong in a recipe"
    raise RecipeError(
        [
            Problem(message, redact(".".join(map(str, loc))), source.where(loc), hint)
            for loc in dict.fromkeys(loc for loc, text in texts if holds_secret(text))
        ]
    )


def _texts(value: Any, loc: Loc) -> Iterator[tuple[Loc, str]]:
    """Every name of a field and every text, with its place."""
    if isinstance(value, str):
        yield loc, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield (*loc, key), key
            yield from _texts(item, (*loc, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _texts(item, (*loc, place))


def load(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    of_any_strategy: bool = False,
) -> tuple[Recipe, Source]:
    """A recipe from a file, plain data or a Recipe, with overrides applied.

    Args:
        recipe: The recipe.
        overrides: `dotted.path=value` words, or a mapping.
        of_any_strategy: Whether what is asked is about strategies, so that none has to be named: one that goes with
            every task stands in for it, and not in the plain data that are returned.

    Returns:
        The recipe and where its fields stand.

    Raises:
        RecipeError: All that is wrong, each with its place.
    """
    if isinstance(recipe, Recipe):
        source = Source(_written(recipe), "recipe", {})
    elif isinstance(recipe, Mapping):
        source = Source(_plain(recipe, "recipe"), "recipe", {})
    else:
        source = read(recipe)
    source = override(source, overrides)
    found = build(_with_strategy(source) if of_any_strategy and names_none(source) else source)
    return (_anchored(found, Path(recipe).parent) if isinstance(recipe, str | Path) else found), source


def names_none(source: Source) -> bool:
    """Whether a recipe names no strategy."""
    return "strategy" not in source.data


def _with_strategy(source: Source) -> Source:
    """With a strategy, which has no fields of its own: random weights where there are no others."""
    model = source.data.get("model")
    has_base = isinstance(model, dict) and model.get("base") is not None
    return replace(source, data={**source.data, "strategy": {"kind": "full" if has_base else "scratch"}})


def _written(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data, without the kind of data where the source tells it: an override of it decides then."""
    written: dict[str, Any] = json.loads(recipe.model_dump_json())
    source, kind = recipe.data.source, recipe.data.kind
    if kind_of_source({"source": source}) == kind:
        written["data"] = {**json.loads(recipe.data.model_dump_json(exclude_unset=True)), "source": source}
        written["data"].pop("kind", None)
    return written


def _anchored(recipe: Recipe, folder: Path) -> Recipe:
    """The same recipe with files that lie beside the recipe's own file named from the working directory.

    What is written to the run's directory, or handed to another process, knows nothing of that file.
    """
    for section, field in (("model", "code"), ("strategy", "unlabelled")):
        spec = getattr(recipe, section)
        name = getattr(spec, field, None)
        if name is not None and not os.path.exists(name) and os.path.exists(folder / name):
            recipe = recipe.model_copy(update={section: spec.model_copy(update={field: str(folder / name)})})
    data = recipe.data
    if not isinstance(data, FileData):
        return recipe
    near = Path(data.source).parent if os.path.isfile(data.source) else Path(data.source)
    moved = {}
    for field in ("source", "train", "validation", "test"):
        name = getattr(data, field)
        there = isinstance(name, str) and any(os.path.exists(place) for place in (name, near / name))
        if isinstance(name, str) and not there and os.path.exists(folder / name):
            moved[field] = str(folder / name)
    return recipe.model_copy(update={"data": data.model_copy(update=moved)}) if moved else recipe


def dump(recipe: Recipe, *, strategy: bool = True) -> str:
    """A recipe as YAML, every field written out; its strategy only where it was named."""
    return as_yaml(json.loads(recipe.model_dump_json(exclude=None if strategy else {"strategy"})))


def as_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML that is read as the same again."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _plain(value: Any, path: str) -> Any:
    """Data from Python as YAML would give them: paths are text, NumPy's numbers are numbers, tuples are lists.

    Raises:
        RecipeError: It holds something else.
    """
    if path.count(".") > MAX_DEPTH:
        raise RecipeError(Problem("it is nested too deeply", path.partition(".")[2]))
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}.{place}") for place, item in enumerate(value)]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    message = f"a recipe holds only text, numbers, lists and mappings, not {type(value).__name__}"
    raise RecipeError(Problem(message, path.partition(".")[2]))


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
