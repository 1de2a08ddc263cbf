"""The Python interface: the verbs as functions, with the progress that suits a script or a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfstrat.environment import silence_imports
from hfstrat.errors import Problem, UsageError
from hfstrat.recipe.recipe import Recipe
from hfstrat.report.display import Drawing, Run
from hfstrat.verbs.progress import observer

if TYPE_CHECKING:
    from hfstrat.hub.push import Pushed
    from hfstrat.inference import Predictor
    from hfstrat.merging import Dtype, How, Merged
    from hfstrat.study.advise.advice import Advice
    from hfstrat.study.compare import Comparison
    from hfstrat.study.estimate import Estimates

AnyRecipe = str | Path | Mapping[str, Any] | Recipe
Overrides = Iterable[str] | Mapping[str, Any]


def train(
    recipe: AnyRecipe,
    overrides: Overrides = (),
    *,
    data: Any = None,
    runs: str | Path = "runs",
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
) -> Run:
    """Train as a recipe says.

    Args:
        recipe: A file, plain data, a Recipe, or the directory of a run that goes on.
        overrides: `{"train.lr": 1e-4}`, or `["train.lr=1e-4"]`.
        data: A `Dataset`, `DatasetDict` or data frame, for `data.source: memory`.
        runs: Where run directories go.
        overwrite: Replace a run of the same name.
        resume: Go on with a run of the same name from its newest checkpoint, if there is one.
        quiet: Show warnings only.

    Returns:
        The run, done.

    Raises:
        UsageError: Recipe, data or model cannot be used; nothing was written.
        RunError: Training failed; the run's directory says why.
        Interrupted: A signal ended it; `resume` goes on.
    """
    listener = observer(quiet=quiet)  # before the imports, which would warn
    from hfstrat import execute

    done = execute.train(recipe, overrides, data=data, runs=runs, overwrite=overwrite, resume=resume, observer=listener)
    return Run(done.path)


def plan(recipe: AnyRecipe, overrides: Overrides = (), *, data: Any = None, quiet: bool = False) -> Drawing:
    """Draw what a recipe would do to its model: what is frozen, trains, is added, or starts at random.

    Args:
        recipe: A file, plain data, or a Recipe.
        overrides: As for `train`.
        data: As for `train`.
        quiet: Show warnings only.

    Raises:
        UsageError: Recipe, data or model cannot be used.
    """
    listener = observer(quiet=quiet)
    from hfstrat import execute

    return execute.plan(recipe, overrides, data=data, observer=listener)


def compare(
    recipe: AnyRecipe,
    overrides: Overrides = (),
    *,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    data: Any = None,
    runs: str | Path = "runs",
    overwrite: bool = False,
    quiet: bool = False,
    price: float | None = None,
    sizes: Sequence[Any] | None = None,
    budget: str | None = None,
) -> Comparison:
    """Train several strategies on the same split and put them side by side.

    Args:
        recipe: A file, plain data, or a Recipe.
        overrides: As for `train`.
        arms: Kinds of strategies and floors, such as `["tfidf", "head", "full"]`.
        seeds: A run of each strategy for each seed.
        data: As for `train`.
        runs: The comparison's directory goes here, under the recipe's name.
        overwrite: Run again what is done already.
        quiet: Show warnings only.
        price: Of an hour, for what each run costs.
        sizes: Amounts of data on which each arm is run, such as `[{"per_class": 8}, 1000, "all"]`.
        budget: Time for all strategies, such as `30m`; of most of them less data has to do then.

    Returns:
        The comparison; arms that failed are rows of it.

    Raises:
        UsageError: Recipe, data or model cannot be used; nothing was written.
    """
    listener = observer(quiet=quiet)
    from hfstrat.study import compare as study

    return study.compare(
        recipe,
        overrides,
        arms=arms,
        seeds=seeds,
        data=data,
        runs=runs,
        overwrite=overwrite,
        observer=listener,
        price=price,
        sizes=sizes,
        budget=budget,
    )


def push(
    run: str | Path | Run,
    repo_id: str | None = None,
    *,
    private: bool | None = None,
    branch: str = "main",
    message: str | None = None,
    with_base: bool = False,
    published_as: str | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> Pushed:
    """Send a finished run to the Hugging Face Hub: model, card, recipe and scores, in one commit.

    Args:
        run: The run.
        repo_id: `user/name`, or a name alone; None: as its recipe says.
        private: Whether a new repository is private; None: as its recipe says, which is private where it says nothing.
        branch: The branch to write.
        message: Of the commit.
        with_base: Merge an adapter into a base that nobody else has, and send the whole model.
        published_as: Public id of a local base.
        dry_run: Check everything and send nothing.
        quiet: Show warnings only.

    Returns:
        What was sent, and where it is.

    Raises:
        UsageError: The run cannot be sent, or the token may not write there; nothing was sent.
        HubError: The Hub could not be reached, or did not take it.
    """
    listener = observer(quiet=quiet)
    from hfstrat.hub import push as hub

    return hub.push(
        run if isinstance(run, (str, Path)) else run.path,
        repo_id,
        private=private,
        branch=branch,
        message=message,
        with_base=with_base,
        published_as=published_as,
        dry_run=dry_run,
        observer=listener,
    )


def estimate(
    recipe: AnyRecipe,
    overrides: Overrides = (),
    *,
    arms: Sequence[str] | None = None,
    device: str | None = None,
    memory: str | int | None = None,
    price: float | None = None,
    calibrate: bool = True,
    data: Any = None,
    quiet: bool = False,
) -> Estimates:
    """Predict what each strategy would take; nothing is written, and no weight is read.

    Args:
        recipe: A file, plain data, or a Recipe.
        overrides: As for `train`.
        arms: Kinds of strategies, such as `["head", "lora", "full"]`.
        device: Another device than this machine, such as `h100`.
        memory: Memory that a run may take, such as `16GB`, or bytes; the machine's, if left out.
        price: Of an hour.
        calibrate: Time some batches on random weights.
        data: As for `train`.
        quiet: Show warnings only.

    Returns:
        The estimates, which draw themselves as a table: `.arm("lora").live.value`, `.table()`.

    Raises:
        UsageError: Recipe, data or model cannot be used, or the device is not known.
    """
    listener = observer(quiet=quiet)
    from hfstrat.study import devices
    from hfstrat.study.estimate import estimate as estimated

    return estimated(
        recipe,
        overrides,
        arms=arms,
        device=devices.device(device) if device else None,
        memory=devices.bytes_of(memory) if isinstance(memory, str) else memory,
        price=price,
        calibrate=calibrate,
        data=data,
        observer=listener,
    )


def advise(
    recipe: AnyRecipe,
    overrides: Overrides = (),
    *,
    arms: Sequence[str] | None = None,
    time: str | float | None = None,
    memory: str | int | None = None,
    price: str | float | None = None,
    max_cost: float | None = None,
    max_artifact: str | int | None = None,
    must_change_architecture: bool = False,
    tolerance: float = 1.0,
    expect_rows: int | None = None,
    pilots: bool = True,
    device: str | None = None,
    calibrate: bool = True,
    data: Any = None,
    runs: str | Path = "runs",
    output: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Advice:
    """Recommend a strategy, with its evidence; the test split is counted and not looked at.

    Args:
        recipe: A file, plain data, or a Recipe.
        overrides: As for `train`.
        arms: Kinds of strategies to choose from; None: all that go with the task and the base.
        time: Time that a run may take, such as `2h`, or seconds.
        memory: Memory that a run may take, such as `16GB`, or bytes; the machine's, if left out.
        price: Of an hour, such as `2.5/h`.
        max_cost: What a run may cost, at that price.
        max_artifact: Size of the weights that may be left, such as `50MB`, or bytes.
        must_change_architecture: Whether the model may not have the base's shape.
        tolerance: Points of the deciding metric that do not matter.
        expect_rows: Training examples that there will be; None: those at hand.
        pilots: Whether short runs are made where they can change the answer.
        device: Another device than this machine, such as `h100`, for what runs take.
        calibrate: Time some batches on random weights.
        data: As for `train`.
        runs: Where pilots go, under the recipe's name with `-pilots`.
        output: The file of the recommended recipe; None: none is written.
        overwrite: Replace that file.
        quiet: Show warnings only.

    Returns:
        The advice, which draws itself: `.recommended`, `.probability`, `.recipe`, `.table()`, `.to_json()`.

    Raises:
        UsageError: Recipe, data or model cannot be used, or no strategy keeps within the limits.
    """
    listener = observer(quiet=quiet)
    from hfstrat.study import devices
    from hfstrat.study.advise.advising import advise as advised
    from hfstrat.study.advise.limits import asked

    hour, limits = asked(time, memory, price, max_cost, max_artifact, must_change_architecture)
    return advised(
        recipe,
        overrides,
        arms=arms,
        limits=limits,
        price=hour,
        tolerance=tolerance,
        expect_rows=expect_rows,
        pilots=pilots,
        device=devices.device(device) if device else None,
        calibrate=calibrate,
        data=data,
        runs=runs,
        output=output,
        overwrite=overwrite,
        observer=listener,
    )


def load(run: str | Path | Run, *, revision: str | None = None, trust_remote_code: bool = False) -> Predictor:
    """Load the model of a finished run, or of one that was pushed, to predict with it.

    Args:
        run: The run; `user/name` on the Hub, or a folder with a copy of that.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Run Python that comes with what was pushed; read it first.

    Raises:
        UsageError: There is no such run, and nothing of that name that hfstrat has pushed.
        HubError: The Hub could not be reached.
    """
    silence_imports()
    from hfstrat.execute import quiet
    from hfstrat.hub.pulling import predictor_of

    quiet()
    target = run if isinstance(run, (str, Path)) else run.path
    return predictor_of(target, revision, trust_remote_code=trust_remote_code)


def predict(run: str | Path | Run, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Predict some texts, or pictures, with a finished run; `load` keeps the model for more of them.

    Returns:
        `{"prediction": …, "scores": {label: probability}}` for each one.
    """
    return load(run).predict(texts, pairs)


def evaluate(
    run: str | Path | Run, data: str | None = None, *, name: str | None = None, memory: Any = None
) -> dict[str, Any]:
    """Score a finished run on a split of its data, or on a file.

    Args:
        run: The run.
        data: `train`, `validation`, `test` or a file; None: test.
        name: Name under the run's `evaluations/`.
        memory: The data that a run with `data.source: memory` was trained on.

    Returns:
        As in `metrics.json`.
    """
    return load(run).evaluate(data, name, observer(quiet=True), memory)


def merge(
    runs: str | Path | Run | Sequence[str | Path | Run],
    output: str | Path | None = None,
    *,
    dtype: Dtype = "fp32",
    weights: Sequence[float] | None = None,
    how: How = "cat",
    density: float = 0.5,
    tolerance: float | None = None,
    overwrite: bool = False,
    memory: Any = None,
    quiet: bool = False,
) -> Merged:
    """Merge an adapter into its base, or several weighted ones; the result is a run of its own.

    Args:
        runs: A run whose artefact is an adapter, or several over one base.
        output: The new run's directory; None: beside the first run, its name with `-merged`.
        dtype: How the weights are written.
        weights: Of each of several adapters; None: equal shares.
        how: How several are combined, by PEFT's names.
        density: Share of each adapter's values that TIES and DARE keep.
        tolerance: Largest difference of an output by the largest output; None: 0.001, and 0.05 where bits are few.
        overwrite: Whether a run that is there is replaced.
        memory: The data that a run with `data.source: memory` was trained on.
        quiet: Show no progress.

    Raises:
        UsageError: There is nothing to merge, or not with each other.
        RunError: The merged model does not say what the adapter said.
    """
    listener = observer(quiet=quiet)
    from hfstrat import merging
    from hfstrat.execute import quiet as silence

    silence()
    several: Any = runs if isinstance(runs, (list, tuple)) else [runs]
    return merging.merge(
        [one if isinstance(one, (str, Path)) else one.path for one in several],
        output,
        dtype=dtype,
        weights=weights,
        how=how,
        density=density,
        tolerance=tolerance,
        overwrite=overwrite,
        memory=memory,
        observer=listener,
    )


def open_run(path: str | Path) -> Run:
    """A run directory, to read it.

    Raises:
        UsageError: There is no run.
    """
    run = Run(Path(path))
    if run.status is None:
        raise UsageError(Problem(f"{path} holds no run", hint="`hfstrat train RECIPE` makes one"))
    return run
