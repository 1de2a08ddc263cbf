"""Advise: the procedure, from a recipe to advice and a recipe that is ready to run."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from hfstrat.errors import Problem, RunError, UsageError
from hfstrat.execute import quiet
from hfstrat.prepare import located, read_data
from hfstrat.recipe.loading import Source, as_yaml
from hfstrat.recipe.loading import load as load_recipe
from hfstrat.recipe.recipe import Recipe
from hfstrat.recipe.schema import SCHEMA_FILE
from hfstrat.runs.events import Observer
from hfstrat.study.advise import piloting, probing
from hfstrat.study.advise.advice import Advice
from hfstrat.study.advise.deciding import Question, decide, flips
from hfstrat.study.advise.limits import Excluded, Limits, Option, at_once
from hfstrat.study.arms import strategy_of
from hfstrat.study.devices import Device
from hfstrat.study.estimate import Estimate, Estimates, Figure, estimate


def advise(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    arms: Sequence[str] | None = None,
    limits: Limits | None = None,
    price: float | None = None,
    tolerance: float = 1.0,
    expect_rows: int | None = None,
    pilots: bool = True,
    device: Device | None = None,
    calibrate: bool = True,
    data: Any = None,
    runs: str | Path = "runs",
    output: str | Path | None = None,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> Advice:
    """Recommend a strategy, by evidence that costs little; the test split is counted and not looked at.

    Args:
        recipe: A file, plain data, or a Recipe.
        overrides: `dotted.path=value` words, or a mapping.
        arms: Kinds of strategies to choose from; None: all that go with the task and the base.
        limits: What a run may take; None: the machine's memory.
        price: Of an hour.
        tolerance: Points of the deciding metric that do not matter.
        expect_rows: Training examples that there will be; None: those at hand.
        pilots: Whether short runs are made where they can change the answer.
        device: Another machine than this one, for what runs take.
        calibrate: Measure time here, on random weights.
        data: Data handed over in Python.
        runs: Where pilots go, under the recipe's name with `-pilots`.
        output: The file of the recommended recipe; None: none is written.
        overwrite: Replace that file.
        observer: Hears what happens.

    Raises:
        UsageError: Recipe, data or model cannot be used, or no strategy keeps within the limits; no recipe was written.
    """
    quiet()
    began = time.perf_counter()
    observer, limits = observer or Observer(), limits or Limits()
    _check(tolerance, expect_rows, output, overwrite)
    parsed, source = load_recipe(recipe, overrides, of_any_strategy=True)
    if parsed.train.lr != "auto":
        observer.warn("train.lr is given and holds for every strategy; auto gives each one what suits it")
    kinds, excluded = at_once(parsed, limits, arms)
    if not kinds:
        raise UsageError(_nothing(excluded))
    with located(source):
        material = read_data(parsed, data, source)
        evidence = probing.gather(parsed, material, source, data, observer, seed=parsed.seed)
    costs = _estimates(recipe, overrides, kinds, excluded, device, limits, price, calibrate, data, observer)
    limits = replace(limits, memory=limits.memory or costs.memory)
    question = Question(evidence, tuple(_option(one) for one in costs.arms if one.refused is None), limits, tolerance)
    excluded += [Excluded(one.arm, "recipe", one.refused) for one in costs.arms if one.refused is not None]
    wanted = question if expect_rows is None else question.at(expect_rows)
    first = decide(wanted)
    if first.recommended is None:
        raise UsageError(_nothing([*excluded, *first.excluded]))
    tried = piloting.Pilots(reason="they were not wanted")
    if pilots:
        at_hand = material.rows["train"]
        reason = piloting.why_not(wanted, first, at_hand)
        tried = piloting.Pilots(reason=reason)
        if not reason:
            with located(source):
                tried = piloting.run(
                    parsed,
                    wanted,
                    first,
                    rows=at_hand,
                    source=source,
                    data=data,
                    runs=Path(runs),
                    observer=observer,
                )
    wanted = replace(wanted, rungs=tried.rungs)
    decision = decide(wanted)
    assert decision.recommended is not None, "pilots exclude nothing"
    advised = _advised(parsed, source, decision.recommended.kind, output)
    if output is not None:
        _write(Path(output), advised)
    observer.finished()
    return Advice(
        parsed.name,
        costs.where,
        wanted,
        decision,
        first,
        (*excluded, *decision.excluded),
        tried,
        flips(wanted),
        advised,
        None if output is None else Path(output),
        evidence.rows,
        time.perf_counter() - began,
    )


def _check(tolerance: float, expect_rows: int | None, output: str | Path | None, overwrite: bool) -> None:
    """Raise for what is wrong with the question before anything takes time."""
    problems = []
    if not (tolerance >= 0 and math.isfinite(tolerance)):
        problems.append(
            Problem(f"a tolerance of {tolerance} points means nothing", hint="Give a number from 0, such as 1")
        )
    if expect_rows is not None and expect_rows < 1:
        problems.append(Problem(f"{expect_rows} examples are none to train on", hint="Give a number from 1"))
    if output is not None:
        target = Path(output)
        if target.suffix not in (".yaml", ".yml") or not target.parent.is_dir():
            problems.append(Problem(f"{target} cannot be written", hint="Name a .yaml file in a folder that exists"))
        elif target.exists() and not overwrite:
            problems.append(
                Problem(f"{target} exists", hint="Add --overwrite to replace it, or name another with --out")
            )
    if problems:
        raise UsageError(problems)


def _estimates(
    recipe: Any,
    overrides: Any,
    kinds: list[str],
    excluded: list[Excluded],
    device: Device | None,
    limits: Limits,
    price: float | None,
    calibrate: bool,
    data: Any,
    observer: Observer,
) -> Estimates:
    """What each strategy would take.

    Raises:
        UsageError: None of them goes with the base.
    """
    try:
        return estimate(
            recipe,
            overrides,
            arms=kinds,
            device=device,
            memory=limits.memory,
            price=price,
            calibrate=calibrate,
            data=data,
            observer=observer,
        )
    except UsageError as error:
        # Of a single strategy it is raised why it cannot be run.
        why = "; ".join(problem.message for problem in error.problems)
        raise UsageError(_nothing([*excluded, *(Excluded(kind, "recipe", why) for kind in kinds)])) from None


def _option(one: Estimate) -> Option:
    return Option(
        one.arm,
        _value(one.seconds),
        _value(one.resident),
        _value(one.cost),
        _value(one.artifact),
        _value(one.flops),
        one.hint,
    )


def _value(figure: Figure | None) -> float | None:
    return None if figure is None else figure.value


def _nothing(excluded: list[Excluded]) -> list[Problem]:
    """Every strategy with what excludes it, and the change that is nearest to letting one in."""
    first = Problem("no strategy keeps within the limits", hint="What would let each in stands below")
    return [
        first,
        *(Problem(f"{one.kind}: {one.why}", hint=f"Nearest: {one.fix}" if one.fix else "") for one in excluded),
    ]


# --- the recommended recipe -----------------------------------------------------------------------------------------


def _advised(recipe: Recipe, source: Source, kind: str, output: str | Path | None) -> str:
    """The recipe as the user wrote it with the recommended strategy, as YAML with its schema and its command."""
    name = f"{recipe.name}-advised"
    plain = copy.deepcopy(source.data)
    plain.pop("compare", None)
    strategy = strategy_of(kind, recipe)
    plain |= {"name": name, "strategy": strategy.model_dump(mode="json", exclude_unset=True) | {"kind": kind}}
    # The new file may lie elsewhere: files are named from the working directory, as they were found.
    for section, fields in (("data", ("source", "train", "validation", "test")), ("model", ("code",))):
        for field in fields:
            if isinstance(plain.get(section, {}).get(field), str):
                plain[section][field] = getattr(getattr(recipe, section), field)
    if strategy.body().weights == "pretrained" and recipe.model.base is not None:
        plain["model"].pop("config", None)  # the shape of random weights
    file = str(output) if output is not None else f"{name}.yaml"
    why = f"{recipe.name} by {kind}, as `hfstrat advise` recommends"
    return f"# yaml-language-server: $schema={SCHEMA_FILE}\n# hfstrat train {quote(file)} : {why}\n{as_yaml(plain)}"


def _write(target: Path, text: str) -> None:
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write {target}: {error.strerror}") from None
