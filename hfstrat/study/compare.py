"""Compare: the same split, the same metrics, one strategy after the other, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfstrat.beginning import as_written
from hfstrat.errors import Interrupted, Problem, RecipeError, UsageError, did_you_mean
from hfstrat.execute import quiet
from hfstrat.metrics import ANSWERS, BOXES, METRICS, TOKENS, WORDS, Outputs, lookup
from hfstrat.metrics.resampled import Statistic, statistic
from hfstrat.prepare import check_strategy, folder_of, located, prepare, read_data
from hfstrat.recipe.loading import dump
from hfstrat.recipe.loading import load as load_recipe
from hfstrat.recipe.recipe import Recipe
from hfstrat.recipe.resolve import check_metrics
from hfstrat.report import tables
from hfstrat.report.page import write_report
from hfstrat.report.plot import quality_against_time
from hfstrat.runs.directory import Run, write_json, write_text
from hfstrat.runs.events import Observer
from hfstrat.runs.rows import Row
from hfstrat.study import worker
from hfstrat.study.arms import Arm, arms_of, without_teacher
from hfstrat.study.statistics import Difference, Resampled, detectable_difference, difference, of_items, of_statistics
from hfstrat.study.verdicts import Verdict, among_the_best, verdicts
from hfstrat.tasks.base import Labels
from hfstrat.tasks.boxes import rows_of
from hfstrat.training.machine import machine
from hfstrat.training.signals import Signals

if TYPE_CHECKING:
    import pandas

PICTURE = "quality-against-time.png"


@dataclass(frozen=True)
class Comparison:
    """A directory of runs over one split, and what they show side by side.

    Args:
        path: The directory; each run is a directory in it.
        runs: The runs, in order.
        metrics: Names of the metrics to show, the deciding one first.
        verdicts: For each pair of arms, their paired difference on the test items, and whether it can be told.
        train_rows: Training examples that the recipe asks for; arms on other amounts are marked.
    """

    path: Path
    runs: tuple[Run, ...]
    metrics: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    train_rows: int | None

    @cached_property
    def rows(self) -> list[Row]:
        """A Row for each run."""
        return [Row.of(run) for run in self.runs]

    @cached_property
    def lines(self) -> list[tables.Line]:
        """A line for each arm, over its seeds."""
        return tables.comparison_rows(self.rows)

    @property
    def differences(self) -> dict[str, Difference]:
        """For each arm its paired difference to the best one on the test items, with its interval."""
        best = tables.best_line(self.lines, self.metrics[0])
        about = [self.verdict(line.arm, best.arm) for line in self.lines if best and line is not best] if best else []
        return {one.first: one.difference for one in about if one is not None}

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

    def table(self) -> pandas.DataFrame:
        """The arms as a data frame."""
        import pandas

        return pandas.DataFrame(tables.records(self.lines, self.metrics, self.differences))

    def plot(self, path: str | Path | None = None) -> Path | None:
        """Draw quality against time.

        Returns:
            The PNG; None without matplotlib.
        """
        target = path or self.path / PICTURE
        return quality_against_time(self.lines, target, self.metrics[0], train_rows=self.train_rows)

    def report(self, path: str | Path | None = None) -> Path:
        """Write all that the comparison's directory says as one HTML file, which needs nothing else.

        Args:
            path: Where to; None: `report.html` in the directory, with a README.md.

        Returns:
            The file.
        """
        return write_report(self.path, path)

    def __rich__(self) -> Any:
        """The table."""
        return tables.comparison_table(self.lines, self.metrics, self.differences, title=self.path.name)

    def _repr_html_(self) -> str:
        return tables.as_html(self)


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

    Returns:
        The comparison; arms that failed are rows of it.

    Raises:
        UsageError: Recipe, data or model cannot be used; nothing was written.
    """
    observer = observer or Observer()
    if "ACCELERATE_MIXED_PRECISION" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(Problem("compare starts processes itself", hint="Run `hfstrat compare` without a launcher"))
    parsed, source = load_recipe(recipe, overrides)
    folder = folder_of(Path(runs), parsed)
    with located(source):
        planned = arms_of(parsed, folder, arms, seeds)
    fingerprints = _check(planned, folder, data, source, observer)
    if Run(folder).status is not None:
        raise UsageError(Problem(f"{folder} holds a run, not a comparison", hint="Choose another name=…"))
    sealed = [arm for arm in planned if not overwrite and _sealed(arm, folder, fingerprints)]
    if sealed:
        observer.note(f"{len(sealed)} of {len(planned)} arms are done already")
    context = _context()
    listener = _OnlyNew(observer)
    with Signals().listening():
        for number, arm in enumerate(planned, start=1):
            if arm not in sealed:
                observer.note(f"arm {number} of {len(planned)}: {arm.recipe.name}")
                _run(arm, folder, data, context, listener, overwrite=overwrite)
    observer.finished()
    asked = parsed.compare.model_copy(
        update={"arms": tuple(arms or parsed.compare.arms), "seeds": tuple(seeds or parsed.compare.seeds)}
    )
    write_text(folder / "recipe.yaml", dump(parsed.model_copy(update={"compare": asked})))
    return _conclude(folder, [arm.recipe.name for arm in planned], observer)


class _OnlyNew(Observer):
    """Passes everything on, but each decision and warning only once: arms decide most things alike."""

    def __init__(self, observer: Observer) -> None:
        self._seen: set[str] = set()
        self.note, self.phase, self.advance = observer.note, observer.phase, observer.advance  # type: ignore[method-assign]
        self.scored = observer.scored  # type: ignore[method-assign]
        self._observer = observer

    def decided(self, decisions: Sequence[Any]) -> None:
        new = [decision for decision in decisions if self._new(f"{decision.path}={decision.value}")]
        self._observer.decided(new)

    def warn(self, text: str) -> None:
        if self._new(text):
            self._observer.warn(text)

    def _new(self, text: str) -> bool:
        known = len(self._seen)
        self._seen.add(text)
        return len(self._seen) > known


def _check(planned: Sequence[Arm], folder: Path, data: Any, source: Any, observer: Observer) -> dict[str, str]:
    """Find everything that is wrong before the first arm starts.

    Returns:
        The data's fingerprint for each amount of data.
    """
    fingerprints: dict[str, str] = {}
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
            _check_strategies([first, *(without_teacher(one, folder) for one in others)], material.labels)
            prepared = prepare(first, machine(), memory=data, source=source)
            for reason in prepared.material.reasons:
                observer.note(reason)
            tested = len(prepared.encoded.get("test", ()))
            if tested and prepared.material.labels.problem == "single_label":
                least = detectable_difference(tested, 0.1)
                observer.note(
                    f"{tested:,} test items tell arms apart that differ by about {100 * least:.1f} points or more "
                    "(where they disagree on one item in ten)"
                )
    return fingerprints


def _check_strategies(recipes: Sequence[Recipe], labels: Labels) -> None:
    """Raise all that is wrong with the arms' strategies, each with its arm: the recipe's own strategy may be right."""
    problems: dict[Problem, None] = {}
    for recipe in recipes:
        try:
            check_strategy(recipe, labels)
        except UsageError as error:
            arm = recipe.name.rpartition("-seed")[0]
            for one in error.problems:
                is_arms = one.path.startswith("strategy")
                problems[replace(one, message=f"arm {arm}: {one.message}", path="compare.arms") if is_arms else one] = (
                    None
                )
    if problems:
        raise RecipeError(problems)


def _distinct(arms: Sequence[Arm]) -> list[Recipe]:
    """A recipe for each strategy among some arms."""
    found: dict[str, Recipe] = {}
    for arm in arms:
        found.setdefault(arm.recipe.strategy.model_dump_json(), arm.recipe)
    return list(found.values())


def _sealed(arm: Arm, folder: Path, fingerprints: Mapping[str, str]) -> bool:
    run = Run(folder / arm.recipe.name)
    env = run.read("env.json") or {}
    same_data = env.get("data", {}).get("fingerprint") == fingerprints[arm.amount]
    return run.status == "done" and same_data and env.get("requested") == as_written(arm.recipe)


def _context() -> BaseContext:
    """Processes forked from a server that has the imports done; spawned ones where there is no fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([worker.__name__])
    return context


def _run(
    arm: Arm, folder: Path, data: Any, context: BaseContext, observer: Observer, *, overwrite: bool = False
) -> None:
    """Run an arm to its end, whatever that is, and pass on what it tells; one that was interrupted goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(  # type: ignore[attr-defined]
        target=worker.run_arm, args=(arm, folder, data, sender, overwrite), name=arm.recipe.name
    )
    process.start()
    sender.close()
    try:
        while True:
            try:
                name, args, kwargs = receiver.recv()
            except EOFError:
                break
            getattr(observer, name)(*args, **kwargs)
        process.join()
    except (KeyboardInterrupt, Interrupted) as error:
        process.terminate()  # the arm writes down that it was interrupted
        process.join()
        raise error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT) from None
    if process.exitcode:
        state = "oom" if process.exitcode == -9 else "failed"
        reason = f"killed by signal {-process.exitcode}" if process.exitcode < 0 else "ended with a traceback"
        worker.end(folder / arm.recipe.name, arm, state, reason)
        observer.warn(
            f"{arm.recipe.name} failed: {(Run(folder / arm.recipe.name).read('status.json') or {})['reason']}"
        )


def _conclude(folder: Path, names: Sequence[str], observer: Observer) -> Comparison:
    """Write the comparison's files from its runs."""
    found = _read(folder, names)
    lines = found.lines
    write_json(folder / "comparison.json", {"runs": list(names), "metrics": list(found.metrics)})
    write_text(folder / "table.md", tables.to_markdown(lines, found.metrics, found.differences) + "\n")
    write_text(folder / "table.csv", tables.to_csv(lines, found.metrics, found.differences))
    write_text(folder / "table.json", tables.to_json(lines, found.metrics, found.differences) + "\n")
    write_json(folder / "verdicts.json", {"best": found.best, "pairs": [one.to_json() for one in found.verdicts]})
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
    return _read(Path(folder), stored["runs"])


def _read(folder: Path, names: Sequence[str]) -> Comparison:
    runs = tuple(Run(folder / name) for name in names)
    rows = [Row.of(run) for run in runs]
    done = [row for row in rows if row.state == "done" and row.metrics]
    metrics = tuple(next(iter(done)).metrics) if done else ("accuracy",)
    lines = tables.comparison_rows(rows)
    sizes = [row.train_rows for row in rows if row.train_rows]
    usual = max(sorted(set(sizes)), key=sizes.count, default=None)
    return Comparison(folder, runs, metrics, _verdicts(folder, lines, metrics[0]), usual)


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
