"""Compare: the same split, the same metrics, one strategy after the other, each in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfstrat.errors import Problem, RecipeError, UsageError, did_you_mean
from hfstrat.execute import quiet
from hfstrat.metrics import ANSWERS, BOXES, METRICS, TOKENS, WORDS, Outputs, lookup
from hfstrat.metrics.resampled import Statistic, statistic
from hfstrat.prepare import check_strategy, folder_of, located, prepare, read_data
from hfstrat.recipe.compare import seconds_of, suffix
from hfstrat.recipe.loading import dump, names_none
from hfstrat.recipe.loading import load as load_recipe
from hfstrat.recipe.recipe import Recipe
from hfstrat.recipe.resolve import check_metrics
from hfstrat.report import tables
from hfstrat.report.comparison import lines_of
from hfstrat.report.curves import Curves, Shape, by_rows, curves_of, shape_of
from hfstrat.report.display import Picture
from hfstrat.report.factors import Factors, factors, needed
from hfstrat.report.notebook import as_html
from hfstrat.report.page import write_report
from hfstrat.report.plot import quality_against_rows, quality_against_time
from hfstrat.runs.directory import Run, write_json, write_text
from hfstrat.runs.events import Observer
from hfstrat.runs.rows import Row
from hfstrat.strategies.plan import Fit
from hfstrat.study.arms import Arm, arms_of, given, without_teacher
from hfstrat.study.halving import Rung, on_rungs, races, run_within, rungs_of, that_ran
from hfstrat.study.running import Running
from hfstrat.study.statistics import Difference, Resampled, detectable_difference, difference, of_items, of_statistics
from hfstrat.study.verdicts import Verdict, among_the_best, verdicts
from hfstrat.tasks.base import Labels
from hfstrat.tasks.boxes import rows_of
from hfstrat.training.machine import machine
from hfstrat.training.signals import Signals

if TYPE_CHECKING:
    import pandas

PICTURE, CURVES = "quality-against-time.png", "quality-against-rows.png"


@dataclass(frozen=True)
class Comparison:
    """A directory of runs over one split, and what they show side by side.

    Args:
        path: The directory; each run is a directory in it.
        runs: The runs, in order.
        lines: A line for each arm, over its seeds.
        metrics: Names of the metrics to show, the deciding one first.
        verdicts: For each pair of arms, their paired difference on the test items, and whether it can be told.
        train_rows: Training examples that the recipe asks for; arms on other amounts are marked.
        curves: Arms on several amounts of data.
        rungs: Which strategies went on to more data within a budget.
    """

    path: Path
    runs: tuple[Run, ...] = field(repr=False)
    lines: list[tables.Line] = field(repr=False)
    metrics: tuple[str, ...]
    verdicts: tuple[Verdict, ...] = field(repr=False)
    train_rows: int | None
    curves: Curves = field(default_factory=dict, repr=False)
    rungs: tuple[Rung, ...] = field(default=(), repr=False)

    @cached_property
    def rows(self) -> list[Row]:
        """A Row for each run."""
        return [Row.of(run) for run in self.runs]

    @property
    def differences(self) -> dict[str, Difference]:
        """For each arm its paired difference to the best one on as much data, on the test items, with its interval."""
        found: dict[str, Difference] = {}
        for lines in tables.by_size(self.lines).values():
            best = tables.best_line(lines, self.metrics[0])
            about = [self.verdict(line.arm, best.arm) for line in lines if line is not best] if best else []
            found |= {one.first: one.difference for one in about if one is not None}
        return found

    def verdict(self, first: str, second: str) -> Verdict | None:
        """Which of two arms is better on the test items, if that can be told; None where they have no items together.

        Raises:
            UsageError: There is no such arm.
        """
        known = [line.arm for line in self.lines]
        for name in (first, second):
            if name not in known:
                raise UsageError(Problem(f"there is no arm '{name}'", hint=did_you_mean(name, known, show_all=30)))
        for one in self.verdicts:
            if {first, second} == {*one.arms}:
                return one if one.first == first else one.turned()
        return None

    @property
    def best(self) -> list[str]:
        """The arms that cannot be told from the best one, itself the first."""
        line = tables.best_line(self.lines, self.metrics[0])
        if line is None:
            return []
        found = among_the_best([one.arm for one in self.lines], line.arm, self.verdicts)
        return sorted(found, key=lambda arm: arm != line.arm)

    @cached_property
    def shape(self) -> Shape:
        """Who is ahead on each amount of data, and which arms change places."""
        return shape_of(self.curves, self.lines, self.metrics[0], self.verdict)

    @cached_property
    def factors(self) -> Factors:
        """What decides between the strategies; of arms on several amounts of data on the largest."""
        metric, lines = self.metrics[0], self._largest
        families = {arm: family for family, arms in self.curves.items() for arm in arms.values()}
        told = [(one.amount, one.best) for one in self.shape.winners if one.train_rows]
        smallest = needed(told, self.curves)

        def gain(first: tables.Line, second: tables.Line) -> Difference | None:
            verdict = self.verdict(first.arm, second.arm)
            if verdict is None:
                return None
            return verdict.difference if verdict.up else verdict.turned().difference

        of_arms = {line.arm: smallest.get(families.get(line.arm, ""), "") for line in lines}
        return factors(lines, metric, gain, of_arms)

    @property
    def _largest(self) -> list[tables.Line]:
        """The arms on the largest amount of data, and those that are on one alone."""
        sizes = [*by_rows(self.curves, self.lines)]
        return [line for line in self.lines if line.size is None or line.size == sizes[-1]]

    def curve(self) -> pandas.DataFrame:
        """Quality against amount of data as a data frame: a row for each arm and amount, from the smallest on."""
        import pandas

        lines = {line.arm: line for line in self.lines}
        best = {winner.size: winner.best for winner in self.shape.winners}
        found = []
        for size in by_rows(self.curves, self.lines):
            for family, arms in self.curves.items():
                line = lines.get(arms.get(size, ""))
                if line is None:
                    continue
                measure = line.metrics.get(self.metrics[0])
                scores = {name: measure and getattr(measure, name) for name in ("value", "low", "high", "spread")}
                cost = {name: getattr(line, name) for name in ("seconds", "flops", "cost")}
                among = family in best.get(size, ())
                found.append(
                    {"arm": family, "size": size, "train_rows": line.train_rows, **scores, "best": among, **cost}
                )
        return pandas.DataFrame(found)

    def table(self) -> pandas.DataFrame:
        """The arms as a data frame, with the columns of `table.csv`."""
        import pandas

        return pandas.DataFrame(tables.flat_records(self.lines, self.metrics, self.differences))

    def plot(self, path: str | Path | None = None) -> Picture | None:
        """Draw quality against time; of arms on several amounts of data those on the largest.

        Returns:
            The PNG, which a notebook shows; None without matplotlib.
        """
        target = path or self.path / PICTURE
        drawn = quality_against_time(self._largest, target, self.metrics[0], train_rows=self.train_rows)
        return None if drawn is None else Picture(drawn)

    def plot_curves(self, path: str | Path | None = None) -> Picture | None:
        """Draw quality against training rows.

        Returns:
            The PNG, which a notebook shows; None without matplotlib, and where arms are on one amount of data alone.
        """
        drawn = quality_against_rows(self.lines, self.curves, path or self.path / CURVES, self.metrics[0])
        return None if drawn is None else Picture(drawn)

    def sentences(self) -> list[str]:
        """What tests say about amounts of data, and who went on to more of it."""
        return [*self.shape.sentences(), *map(str, self.rungs)]

    def markdown(self) -> str:
        """What decides between the strategies, the table with every column, what tests say about amounts of data."""
        went_on = "".join(f"- {tables.plain(str(rung))}\n" for rung in self.rungs)
        table = tables.to_markdown(self.lines, self.metrics, self.differences)
        return "\n".join(part for part in (self.factors.markdown(), table, self.shape.markdown() + went_on) if part)

    def report(self, path: str | Path | None = None) -> Path:
        """Write all that the comparison's directory says as one HTML file, which needs nothing else.

        Args:
            path: Where to; None: `report.html` in the directory, with a README.md.

        Returns:
            The file.
        """
        return write_report(self.path, path)

    def __rich__(self) -> Any:
        """What decides between the strategies, and the table."""
        from rich.console import Group

        table = tables.comparison_table(self.lines, self.metrics, self.differences, title=self.path.name)
        return Group(self.factors, table) if len(self.factors.strategies) > 1 else table

    def _repr_html_(self) -> str:
        return as_html(self)


def compare(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    data: Any = None,
    runs: str | Path = "runs",
    overwrite: bool = False,
    observer: Observer | None = None,
    price: float | None = None,
    sizes: Sequence[Any] | None = None,
    budget: str | None = None,
) -> Comparison:
    """Run every arm that is not sealed yet, and put them side by side.

    Args:
        recipe: A file, plain data, or a Recipe.
        overrides: `dotted.path=value` words, or a mapping.
        arms: Kinds of strategies and floors, in place of the recipe's `compare.arms`.
        seeds: In place of the recipe's `compare.seeds`.
        data: Data handed over in Python.
        runs: The comparison's directory goes here, under the recipe's name.
        overwrite: Run sealed arms again.
        observer: Hears what happens.
        price: Of an hour, in place of the recipe's `compare.price`.
        sizes: In place of the recipe's `compare.sizes`.
        budget: In place of the recipe's `compare.budget`.

    Returns:
        The comparison; arms that failed are rows of it.

    Raises:
        UsageError: Recipe, data or model cannot be used; nothing was written.
    """
    observer = observer or Observer()
    if "ACCELERATE_MIXED_PRECISION" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(Problem("compare starts processes itself", hint="Run `hfstrat compare` without a launcher"))
    parsed, source = load_recipe(recipe, overrides, of_any_strategy=True)
    folder = folder_of(Path(runs), parsed)
    price = parsed.compare.price if price is None else given(price=price).price
    with located(source):
        parts = rungs_of(parsed, budget, sizes, lambda: int(read_data(parsed, data, source).rows["train"]))
        planned = arms_of(parsed, folder, arms, seeds, [*parts.values()] if parts else sizes)
    within = {part: suffix(limit) for part, limit in parts.items()}
    planned = on_rungs(planned, [*within.values()])
    planned, fingerprints = _check(planned, folder, data, source, observer)
    if Run(folder).status is not None:
        raise UsageError(Problem(f"{folder} holds a run, not a comparison", hint="Choose another name=…"))
    running = Running(folder, data, fingerprints, observer, overwrite)
    sealed = [arm for arm in planned if not arm.rates and running.sealed(arm)]
    if sealed:
        observer.note(f"{len(sealed)} of {len(planned)} arms are done already")
    reached: list[Rung] = []
    with Signals().listening():
        if parts:
            seconds = seconds_of(budget or str(parsed.compare.budget))
            reached = run_within(seconds, [arm for arm in planned if races(arm)], within, running)
            planned = that_ran(planned, reached)
        rest = [arm for arm in planned if not (parts and races(arm))]
        for number, arm in enumerate(rest, start=1):
            if arm not in sealed:
                observer.note(f"arm {number} of {len(rest)}: {arm.recipe.name}")
                running.run(arm)
    observer.finished()
    asked = parsed.compare.model_copy(
        update={
            "arms": tuple(arms or parsed.compare.arms),
            "seeds": tuple(seeds or parsed.compare.seeds),
            "sizes": parsed.compare.sizes if sizes is None else given(sizes=sizes).sizes,
            "budget": budget or parsed.compare.budget,
            "price": price,
        }
    )
    write_text(
        folder / "recipe.yaml", dump(parsed.model_copy(update={"compare": asked}), strategy=not names_none(source))
    )
    return _conclude(folder, _asked(planned, running, price, reached), observer)


def _asked(planned: Sequence[Arm], running: Running, price: float | None, reached: Sequence[Rung]) -> dict[str, Any]:
    """What `comparison.json` holds of what was asked for and chosen."""
    curves: dict[str, dict[str, str]] = {}
    for arm in planned:
        if arm.size is not None:
            curves.setdefault(arm.family, {})[arm.size] = tables.arm_of(arm.recipe.name)
    return {
        "runs": [arm.recipe.name for arm in planned],
        "price": price,
        "curves": curves,
        "tuned": {arm: vars(tuning) for arm, tuning in running.tuned.items()},
        "rungs": [asdict(rung) for rung in reached],
    }


def _check(
    planned: Sequence[Arm], folder: Path, data: Any, source: Any, observer: Observer
) -> tuple[list[Arm], dict[str, str]]:
    """Find everything that is wrong before the first arm starts.

    Returns:
        The arms, without learning rates where nothing is learned by steps; and the data's fingerprint for each amount.
    """
    fingerprints: dict[str, str] = {}
    planned = list(planned)
    neural = [arm for arm in planned if arm.floor is None]
    with located(source):
        for arm in planned:
            amount = arm.amount
            if amount not in fingerprints:
                material = read_data(arm.recipe, data, source)
                fingerprints[amount] = material.fingerprint
                if problems := check_metrics(arm.recipe, material.labels, material.columns):
                    raise RecipeError(problems)
        if neural:
            quiet()
            # Students last: their teacher may be a run that this comparison has yet to make.
            first, *others = sorted(_distinct(neural), key=lambda one: hasattr(one.strategy, "teacher"))
            steps = _check_strategies([first, *others], folder, material.labels)
            planned = [arm if steps.get(_key(arm.recipe)) else replace(arm, rates=()) for arm in planned]
            prepared = prepare(first, machine(), memory=data, source=source)
            for reason in prepared.material.reasons:
                observer.note(reason)
            if any(arm.rates for arm in planned) and "validation" not in prepared.encoded:
                what = "learning rates are chosen on validation, and there is none"
                hint = "Leave it out, or name a split or a share as data.validation"
                raise RecipeError(Problem(what, "compare.lr", hint=hint))
            tested = len(prepared.encoded.get("test", ()))
            if tested and prepared.material.labels.problem == "single_label":
                least = detectable_difference(tested, 0.1)
                observer.note(
                    f"{tested:,} test items tell arms apart that differ by about {100 * least:.1f} points or more "
                    "(where they disagree on one item in ten)"
                )
    return planned, fingerprints


def _check_strategies(recipes: Sequence[Recipe], folder: Path, labels: Labels) -> dict[str, bool]:
    """Raise all that is wrong with the arms' strategies, each with its arm: the recipe's own strategy may be right.

    Returns:
        Whether each has a stage that learns by steps.
    """
    problems: dict[Problem, None] = {}
    steps = {}
    for place, recipe in enumerate(recipes):
        try:
            plan = check_strategy(without_teacher(recipe, folder) if place else recipe, labels)
            steps[_key(recipe)] = any(isinstance(stage, Fit) for stage in plan.stages)
        except UsageError as error:
            arm = recipe.name.rpartition("-seed")[0]
            for one in error.problems:
                is_arms = one.path.startswith("strategy")
                problems[replace(one, message=f"arm {arm}: {one.message}", path="compare.arms") if is_arms else one] = (
                    None
                )
    if problems:
        raise RecipeError(problems)
    return steps


def _key(recipe: Recipe) -> str:
    return recipe.strategy.model_dump_json()


def _distinct(arms: Sequence[Arm]) -> list[Recipe]:
    """A recipe for each strategy among some arms."""
    found: dict[str, Recipe] = {}
    for arm in arms:
        found.setdefault(_key(arm.recipe), arm.recipe)
    return list(found.values())


def _conclude(folder: Path, asked: Mapping[str, Any], observer: Observer) -> Comparison:
    """Write the comparison's files from its runs."""
    found = _read(folder, asked)
    lines = found.lines
    write_json(folder / "comparison.json", {**asked, "metrics": list(found.metrics)})
    write_text(folder / "table.md", found.markdown())
    write_text(folder / "table.csv", tables.to_csv(lines, found.metrics, found.differences))
    write_text(folder / "table.json", tables.to_json(lines, found.metrics, found.differences) + "\n")
    pairs = [one.to_json() for one in found.verdicts]
    write_json(folder / "verdicts.json", {"best": found.best, "pairs": pairs, **found.shape.to_json()})
    write_json(folder / "factors.json", found.factors.to_json())
    found.plot_curves()
    if found.plot() is None and any(line.state == "done" for line in lines):
        observer.note("no picture was drawn: `pip install 'hfstrat[plots]'` brings matplotlib")
    found.report()
    return found


def load(folder: str | Path) -> Comparison:
    """Read a comparison's directory.

    Raises:
        UsageError: It is none.
    """
    stored = Run(Path(folder)).read("comparison.json")
    if stored is None:
        raise UsageError(Problem(f"{folder} holds no comparison", hint="`hfstrat compare RECIPE` makes one"))
    return _read(Path(folder), stored)


def _read(folder: Path, asked: Mapping[str, Any]) -> Comparison:
    runs = tuple(Run(folder / name) for name in asked["runs"])
    rows = [Row.of(run) for run in runs]
    done = [row for row in rows if row.state == "done" and row.metrics]
    metrics = tuple(next(iter(done)).metrics) if done else ("accuracy",)
    reached = tuple(Rung(**{**rung, "kept": tuple(rung["kept"])}) for rung in asked.get("rungs", ()))
    lines = lines_of(folder, asked)
    sizes = [row.train_rows for row in rows if row.train_rows]
    usual = max(sorted(set(sizes)), key=sizes.count, default=None)
    # What is compared on one amount of data is a family of tests of its own.
    told = tuple(one for group in tables.by_size(lines).values() for one in _verdicts(folder, group, metrics[0]))
    return Comparison(folder, runs, lines, metrics, told, usual, curves_of(folder, asked, lines), reached)


def _verdicts(folder: Path, lines: Sequence[tables.Line], metric: str) -> tuple[Verdict, ...]:
    """Every pair of arms on the test items that they share."""
    scores = _resampled(folder, lines, metric)

    def between(first: str, second: str) -> Difference | None:
        (a, own), (b, other) = scores[first], scores[second]
        return difference(a, b) if a.n == b.n and own == other else None

    measured = (line.metrics[metric].higher_is_better for line in lines if metric in line.metrics)
    # Scores of items are right or wrong, and errors of numbers with a minus.
    up = next(measured, True) or all(found.items is not None for found, _ in scores.values())
    return tuple(verdicts([line.arm for line in lines if line.arm in scores], between, up=up))


def _resampled(folder: Path, lines: Sequence[tables.Line], metric: str) -> dict[str, tuple[Resampled, Any]]:
    """Each arm's score on other items of the test split, and what else has to be the same where two are compared."""
    done = [line for line in lines if line.state == "done"]
    if not done:
        return {}
    labels = (Run(folder / done[0].runs[0]).read("env.json") or {}).get("labels", {})
    problem, names = labels.get("problem"), labels.get("names") or ()
    if problem in WORDS | ANSWERS | TOKENS | BOXES and metric in METRICS:
        return {line.arm: _of_statistics(folder, line.runs, metric, str(problem), names) for line in done}
    return {line.arm: (of_items(_item_scores(folder, line.runs)), None) for line in done}


def _of_statistics(
    folder: Path, runs: Sequence[str], metric: str, problem: str, names: Sequence[str]
) -> tuple[Resampled, Any]:
    """The same for what is no share of right items, such as the F1 of entities: all arms on the same resamples."""
    index = {name: place for place, name in enumerate(names)}
    found: list[Statistic] = []
    for name in runs:
        frame = Run(folder / name).predictions()
        texts = None
        if problem in TOKENS:
            said: Any = frame[["loss", "right", "tokens"]].to_numpy(np.float64)
            true: Any = np.zeros(len(frame))
            texts = (list(frame["written"]), list(frame["true"])) if "written" in frame else None
        elif problem in BOXES:
            said = [rows_of(one, index, true=False) for one in frame["prediction"]]
            true = [rows_of(one, index, true=True) for one in frame["reference"]]
        else:
            said = [one if isinstance(one, str) else list(one) for one in frame["prediction"]]
            true = [list(one) for one in frame["reference"]]
        found.append(statistic(lookup(metric, problem), problem, Outputs(true, said, None, len(names), texts)))
    # Of tokens those that another tokenizer makes are others.
    own = problem in TOKENS and lookup(metric, problem).needs != "texts"
    return of_statistics(found, len(frame)), int(frame["tokens"].sum()) if own else 0


def _item_scores(folder: Path, runs: Sequence[str]) -> np.ndarray:
    """One score for each run and test item: right or wrong; for numbers the negative absolute error."""
    rows = []
    for name in runs:
        frame = Run(folder / name).predictions()
        reference, prediction = frame["reference"].to_list(), frame["prediction"].to_list()
        pairs = zip(reference, prediction, strict=True)
        rows.append([_item_score(a, b) for a, b in pairs])
    return np.asarray(rows, dtype=np.float64)


def _item_score(reference: Any, prediction: Any) -> float:
    if isinstance(reference, (float, int)):
        return -abs(reference - prediction)
    if isinstance(reference, str):
        return float(reference == prediction)
    if len(reference) and isinstance(reference[0], float):
        return -float(np.abs(np.asarray(reference) - np.asarray(prediction)).mean())
    return float(list(reference) == list(prediction))
