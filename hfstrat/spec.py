"""Spec: the base of everything that a recipe is parsed into, and its problems as sentences.

pydantic parses; this module only decides *how* (frozen, strict, no unknown keys) and turns pydantic's
reports into sentences that name the place and the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from hfstrat.errors import Problem, did_you_mean


class Spec(BaseModel):
    """A frozen, strict part of a recipe: unknown keys are errors, strings are not numbers."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


Loc = tuple[str | int, ...]


def problems_of(error: ValidationError, root: type[Spec], data: Any) -> list[tuple[Loc, Problem]]:
    """Turn pydantic's report into located problems.

    Args:
        error: What pydantic raised on `data`.
        root: The spec that was parsed.
        data: The plain data that was parsed (dictionaries, lists, scalars).

    Returns:
        Pairs of the place (keys and indices into `data`, without the tags of unions) and the problem;
        `where` is left to the caller, who knows the file.
    """
    found: dict[Loc, Problem] = {}
    wrong_type: set[Loc] = set()
    for item in error.errors(include_url=False):
        loc, specs = _walk(item["loc"], root, data)
        problem = _sentence(item, loc, specs)
        is_type = item["type"].endswith("_type")
        if loc not in found:
            found[loc] = problem
            wrong_type |= {loc} if is_type else set()
        elif item["type"] == "literal_error":  # the other side of a union such as `float | "auto"`
            found[loc] = replace(found[loc], message=f"{found[loc].message}, or {item['ctx']['expected']}")
        elif loc in wrong_type and not is_type:  # this side of a union such as `str | Fraction` was meant
            found[loc] = problem
            wrong_type.remove(loc)
    # A union reports its other members too: where one of them got further in, that one is what was meant.
    deepest = [loc for loc in found if not any(other[: len(loc)] == loc and other != loc for other in found)]
    return [(loc, found[loc]) for loc in deepest]


def _walk(loc: Loc, root: type[Spec], data: Any) -> tuple[Loc, list[type[Spec]]]:
    """Drop the union tags that pydantic puts in a location; return the specs met on the way."""
    clean: list[str | int] = []
    specs: list[type[Spec]] = [root]
    candidates: list[type[Spec]] = [root]
    here = data
    for depth, step in enumerate(loc):
        last = depth == len(loc) - 1
        if isinstance(here, Mapping) and (step in here or (last and _is_field(step, candidates))):
            candidates = _specs_in(_annotation(step, candidates))
            here = here.get(step)
            clean.append(step)
        elif isinstance(here, Sequence) and not isinstance(here, str) and isinstance(step, int) and step < len(here):
            here = here[step]
            clean.append(step)
        else:
            # A tag ("lora", "LoraSpec"): narrow the candidates to it.
            tagged = [spec for spec in candidates if step in (spec.__name__, _kind_of(spec))]
            candidates = tagged or candidates
            specs.extend(tagged)
            continue
        specs.extend(candidates if len(candidates) == 1 else [])
    return tuple(clean), specs


def _is_field(step: str | int, candidates: Sequence[type[Spec]]) -> bool:
    return any(step in spec.model_fields for spec in candidates)


def _annotation(step: str | int, candidates: Sequence[type[Spec]]) -> Any:
    for spec in candidates:
        if isinstance(step, str) and step in spec.model_fields:
            return spec.model_fields[step].annotation
    return None


def _specs_in(annotation: Any) -> list[type[Spec]]:
    """Every Spec class that an annotation mentions, unions and containers looked through."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    value = getattr(annotation, "__value__", None)
    inner = [value] if value is not None else list(get_args(annotation))
    return [spec for part in inner for spec in _specs_in(part)]


def _kind_of(spec: type[Spec]) -> Any:
    field = spec.model_fields.get("kind")
    return field.default if field is not None else None


def kinds_of(spec: type[Spec], field: str) -> dict[str, type[Spec]]:
    """The members of a union field by their `kind`."""
    return {str(_kind_of(member)): member for member in _specs_in(spec.model_fields[field].annotation)}


def _sentence(item: Any, loc: Loc, specs: Sequence[type[Spec]]) -> Problem:
    path = ".".join(str(step) for step in loc)
    kind, context, given = item["type"], item.get("ctx", {}), item.get("input")
    if kind == "extra_forbidden":
        return _unknown_field(path, str(loc[-1]), specs)
    if kind == "missing" and isinstance(item["loc"][-1], int):
        return Problem(f"{_show(given)} has too few entries", path=path)
    if kind == "missing":
        return Problem(f"'{loc[-1]}' is required", path=path, hint=_description(str(loc[-1]), specs))
    if kind == "union_tag_invalid":
        legal = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
        tag = str(context["tag"])
        return Problem(f"'{tag}' is not a kind of {loc[-1]}", path=f"{path}.kind", hint=did_you_mean(tag, legal))
    if kind in ("union_tag_not_found", "model_type", "model_attributes_type", "dict_type") and loc:
        if isinstance(given, Mapping):
            return Problem(f"{loc[-1]} needs a 'kind'", path=path, hint=_kinds_hint(str(loc[-1]), specs))
        return _no_mapping(path, loc, given, specs)
    if kind == "json_invalid":
        return Problem("it holds text that is not Unicode", hint="Remove escapes such as \\ud800")
    if kind == "string_pattern_mismatch":
        return Problem(f"{_show(given)} is not allowed", path=path, hint=_description(str(loc[-1]), specs))
    if kind in ("too_short", "too_long"):
        bound = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        return Problem(f"{_show(given)} has {context['actual_length']} entries; it needs {bound}", path=path)
    if kind in ("literal_error", "enum"):
        legal = [part.strip(" '") for part in str(context["expected"]).replace(" or ", ",").split(",")]
        return Problem(f"{_show(given)} is not allowed", path=path, hint=did_you_mean(str(given), legal))
    if kind == "value_error":
        return Problem(str(context["error"]), path=path)
    if kind.endswith("_type") or kind.endswith("_parsing"):
        message = f"{_show(given)} is {_kind(given)}; {_wanted(item['msg'])}"
        return Problem(message, path=path, hint=_quoted(given, kind))
    return Problem(f"{_show(given)}: {_wanted(item['msg'])}", path=path)


def _no_mapping(path: str, loc: Loc, given: Any, specs: Sequence[type[Spec]]) -> Problem:
    """Something else where fields are wanted, such as `strategy: lora`."""
    name = str(loc[-1])
    members = _members(name, specs)
    required = {field for member in members for field, info in member.model_fields.items() if info.is_required()}
    first = next(iter(members[0].model_fields)) if len(members) == 1 else ""
    wanted = "kind" if given in [_kind_of(member) for member in members] else min(required, default=first)
    hint = f"Write `{name}: {{{wanted}: {given}}}`" if isinstance(given, str) and wanted else _kinds_hint(name, specs)
    return Problem(f"{_show(given)} is {_kind(given)}; it should be a mapping", path=path, hint=hint)


def _members(name: str, specs: Sequence[type[Spec]]) -> list[type[Spec]]:
    """The specs that a field takes."""
    found = (spec.model_fields[name].annotation for spec in reversed(specs) if name in spec.model_fields)
    return _specs_in(next(found, None))


def _kinds_hint(name: str, specs: Sequence[type[Spec]]) -> str:
    kinds = [str(_kind_of(member)) for member in _members(name, specs)]
    return f"Write `{name}: {{kind: {' | '.join(kinds)}, …}}`" if len(kinds) > 1 else ""


def _unknown_field(path: str, name: str, specs: Sequence[type[Spec]]) -> Problem:
    here = specs[-1]
    around = [step for step in path.split(".")[:-1] if not step.isdigit()]
    label = str(_kind_of(here) or (around[-1] if around else "recipe"))
    for spec in specs[:-1]:
        for field in spec.model_fields:
            for kind, member in kinds_of(spec, field).items():
                if member is not here and here in kinds_of(spec, field).values() and name in member.model_fields:
                    return Problem(
                        f"'{name}' is a field of {field} {kind}, not of {label}",
                        path=path,
                        hint=f"Remove it, or write `{field}: {{kind: {kind}, …}}`",
                    )
    hint = did_you_mean(name, list(here.model_fields), show_all=30)
    return Problem(f"'{name}' is not a field of {label}", path=path, hint=hint)


def _description(name: str, specs: Sequence[type[Spec]]) -> str:
    for spec in reversed(specs):
        field = spec.model_fields.get(name)
        if field is not None and field.description:
            return " ".join(field.description.split()).rstrip(".")
        if field is not None and name == "kind":
            return f"Write `kind: {' | '.join(map(str, get_args(field.annotation)))}`"
    return ""


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _kind(value: Any) -> str:
    names = {str: "text", bool: "true/false", int: "a whole number", float: "a number", dict: "a mapping"}
    return "empty" if value is None else names.get(type(value), "a list" if isinstance(value, list) else "wrong")


def _wanted(message: str) -> str:
    for pydantic, plain in (
        ("Input", "it"),
        ("valid ", ""),
        ("dictionary", "mapping"),
        ("an object", "a mapping"),
        ("a integer", "a whole number"),
        ("an integer", "a whole number"),
        ("a string", "text"),
        ("a array", "a list"),
        ("an array", "a list"),
    ):
        message = message.replace(pydantic, plain)
    return message


def _quoted(given: Any, kind: str) -> str:
    """What to do about a number that is written as text, and text that is read as something else."""
    if kind == "string_type" and isinstance(given, int | float):
        return "Put it in quotation marks"
    if not isinstance(given, str):
        return ""
    try:
        float(given)
    except ValueError:
        return ""
    return "Remove the quotation marks"
