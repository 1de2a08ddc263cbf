"""The command line: one function a verb, each importing its work when it is called."""

from __future__ import annotations

import errno
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal

import typer

from hfstrat.environment import first_here
from hfstrat.errors import HfstratError, RunError, UsageError
from hfstrat.redact import printable, redact

# What the machine does not allow is no fault of the program.
REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT})
FAULT = "This is a fault of hfstrat, not of your recipe, data or model: please report it with the lines above."


def _examples(*lines: str) -> str:
    """What stands at the end of a verb's help."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))  # \b: lines stay as they are


app = typer.Typer(
    name="hfstrat",
    help="Train a transformer from scratch, by its head or top, in full, with adapters, or from a teacher: one recipe, "
    "every strategy, measured.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipes_app = typer.Typer(help="List and copy the recipes that come with hfstrat.", no_args_is_help=True)
app.add_typer(recipes_app, name="recipes")

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, in YAML.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Overrides, such as train.lr=1e-4.")
]
Runs = Annotated[Path, typer.Option("--runs", help="Where run directories go.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Price = Annotated[float | None, typer.Option("--price", min=0, help="Price of an hour, for the cost.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run of the same name.")]
Dtype = Literal["fp32", "bf16"]
How = Literal["cat", "linear", "ties", "dare_linear", "dare_ties"]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


@app.command(epilog=_examples("hfstrat init reviews.csv -o my.yaml", "hfstrat init pictures/ -o my.yaml --force"))
def init(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A table (csv, json, parquet, CoNLL, …), or a folder.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to; left out: stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
) -> None:
    """Write a commented recipe for your data. Task and columns are guessed from it."""
    from hfstrat.verbs import init as verb
    from hfstrat.verbs.progress import say, show

    tell = show if output is None else say  # lines of a recipe stay whole
    tell(verb.run(data, output, force))


@app.command(
    epilog=_examples(
        "hfstrat validate my.yaml",
        "hfstrat validate my.yaml strategy.kind=lora train.lr=1e-4",
        "hfstrat validate my.yaml --online",
    )
)
def validate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    online: Annotated[
        bool, typer.Option("--online", help="Ask the Hub for base, data and the right to push as well.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check recipe, data and model; show what `auto` becomes. Nothing is written."""
    from hfstrat.verbs import validate as verb

    verb.run(recipe, overrides or [], online, json, quiet)


@app.command(
    epilog=_examples(
        "hfstrat train my.yaml",
        "hfstrat train my.yaml strategy.kind=full name=my-full",
        "hfstrat train my.yaml --resume",
    )
)
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, or with --resume a run directory.")],
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run of this name where it stopped, if there is one.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train as the recipe says. Also by `accelerate launch -m hfstrat train RECIPE`."""
    from hfstrat.verbs import train as verb

    verb.run(recipe, overrides or [], runs, overwrite, resume, json, quiet)


@app.command(
    epilog=_examples(
        "hfstrat compare my.yaml --arms tfidf,head,lora,full --seeds 0,1,2",
        "hfstrat compare my.yaml name=curves --sizes 8/class,1000,all",
        "hfstrat compare my.yaml name=quick --budget 30m --price 2.5",
    )
)
def compare(
    recipe: RecipeFile,
    overrides: Overrides = None,
    arms: Annotated[
        str | None, typer.Option("--arms", help="Strategies and floors, such as majority,tfidf,head,lora,full.")
    ] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Seeds, such as 0,1,2.")] = None,
    sizes: Annotated[
        str | None, typer.Option("--sizes", help="Amounts of data for each arm, such as 4/class,8/class,1000,all.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Time for all strategies, such as 30m: the worse stop at less data.")
    ] = None,
    price: Price = None,
    runs: Runs = Path("runs"),
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train several strategies; show what each cost and achieved. All are on the same split."""
    from hfstrat.verbs import compare as verb

    verb.run(recipe, overrides or [], arms, seeds, sizes, budget, price, runs, overwrite, json, quiet)


@app.command(
    epilog=_examples(
        "hfstrat estimate my.yaml --arms head,lora,full",
        "hfstrat estimate my.yaml --device h100 --price 2.5",
        "hfstrat estimate my.yaml --memory 8GB --json",
    )
)
def estimate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    arms: Annotated[str | None, typer.Option("--arms", help="Strategies, such as head,lora,full.")] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Another device than this machine, such as h100, l4 or rtx-4090.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Memory that a run may take, such as 16GB; else the machine's.")
    ] = None,
    price: Price = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Time some batches on random weights.")
    ] = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict memory, time, disk and cost of each strategy. No weight is read."""
    from hfstrat.verbs import estimate as verb

    verb.run(recipe, overrides or [], arms, device, memory, price, calibrate, json, quiet)


@app.command(
    epilog=_examples(
        "hfstrat advise my.yaml --time 2h --memory 16GB",
        "hfstrat advise my.yaml --price 2.5/h --max-cost 20 --max-artifact 50MB",
        "hfstrat advise my.yaml --no-pilots --out quick.yaml",
    )
)
def advise(
    recipe: RecipeFile,
    overrides: Overrides = None,
    arms: Annotated[
        str | None, typer.Option("--arms", help="Strategies to choose from, such as head,lora,full; else all.")
    ] = None,
    time: Annotated[str | None, typer.Option("--time", help="Time that a run may take, such as 2h.")] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Memory that a run may take, such as 16GB; else the machine's.")
    ] = None,
    price: Annotated[str | None, typer.Option("--price", help="Price of an hour, such as 2.5/h.")] = None,
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", min=0, help="What a run may cost, at that price.")
    ] = None,
    max_artifact: Annotated[
        str | None, typer.Option("--max-artifact", help="Size of the weights that may be left, such as 50MB.")
    ] = None,
    must_change: Annotated[
        bool, typer.Option("--must-change-architecture", help="The model may not have the base's shape.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Points of the deciding metric that do not matter.")
    ] = 1.0,
    expect_rows: Annotated[
        int | None, typer.Option("--expect-rows", help="Training examples that there will be; else those at hand.")
    ] = None,
    pilots: Annotated[
        bool, typer.Option("--pilots/--no-pilots", help="Short runs, where they can change the answer.")
    ] = True,
    device: Annotated[
        str | None, typer.Option("--device", help="Another device than this machine, such as h100, for what runs take.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Time some batches on random weights.")
    ] = True,
    runs: Annotated[Path, typer.Option("--runs", help="Where pilots go.")] = Path("runs"),
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The recommended recipe; left out: NAME-advised.yaml.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Recommend a strategy, and write the recipe that trains by it. The test split is not used."""
    from hfstrat.verbs import advise as verb

    verb.run(
        recipe,
        overrides or [],
        arms,
        time,
        memory,
        price,
        max_cost,
        max_artifact,
        must_change,
        tolerance,
        expect_rows,
        pilots,
        device,
        calibrate,
        runs,
        out,
        overwrite,
        json,
        quiet,
    )


@app.command(epilog=_examples("hfstrat evaluate runs/my validation", "hfstrat evaluate runs/my more.csv --name more"))
def evaluate(
    run: RunFolder,
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="A split of the run's data, or a file; left out: test.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name under RUN/evaluations.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a finished run on another split or file."""
    from hfstrat.verbs import evaluate as verb

    verb.run(run, data, name, json, quiet)


@app.command(
    epilog=_examples(
        "hfstrat predict runs/my new.csv -o out.csv",
        "echo 'Where is my card?' | hfstrat predict runs/my",
        "hfstrat predict me/my pictures/ --draw boxes/",
    )
)
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN|USER/NAME", help="A run directory, or what was pushed.")],
    data: Annotated[
        str,
        typer.Argument(
            metavar="[DATA]", help="A file with texts, or pictures; -: a text or a picture's name a line from stdin."
        ),
    ] = "-",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .jsonl, .csv or .parquet file; left out: jsonl on stdout.")
    ] = None,
    draw: Annotated[
        Path | None, typer.Option("--draw", metavar="FOLDER", help="Put pictures with the boxes found here, as PNG.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit of what was pushed.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python that comes with it. Read that first.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Predict with a finished run. One line out for each text or picture in."""
    from hfstrat.verbs import predict as verb

    verb.run(run, data, output, revision, trust, quiet, draw)


@app.command(epilog=_examples("hfstrat show my.yaml --svg plan.svg", "hfstrat show runs/my"))
def show(
    target: Annotated[Path, typer.Argument(metavar="RECIPE|RUN", help="A recipe, a run directory, or a comparison's.")],
    overrides: Overrides = None,
    svg: Annotated[Path | None, typer.Option("--svg", help="Draw the model into this file as well.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw which layers are frozen and which train. Of a run also scores and costs."""
    from hfstrat.verbs import show as verb

    verb.run(target, overrides or [], svg, json, quiet)


@app.command(epilog=_examples("hfstrat report runs/my-strategies", "hfstrat report runs/my-strategies -o page.html"))
def report(
    comparison: Annotated[Path, typer.Argument(metavar="COMPARISON", help="The directory of a comparison.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to; left out: report.html and README.md in it.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a comparison as one HTML page. Its directory is all that is read."""
    from hfstrat.verbs import report as verb

    verb.run(comparison, output, json)


@app.command(epilog=_examples("hfstrat verify runs/my", "hfstrat verify runs/my --updates 100"))
def verify(
    run: RunFolder,
    updates: Annotated[int, typer.Option("--updates", min=1, help="Updates to make again.")] = 20,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a run's files, and make some of its updates again. All have to be as they were."""
    from hfstrat.verbs import verify as verb

    verb.run(run, updates, json, quiet)


@app.command(
    epilog=_examples(
        "hfstrat merge runs/my-lora", "hfstrat merge runs/one runs/two --weight 0.7 --weight 0.3 -o runs/both"
    )
)
def merge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs whose artefacts are adapters.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new run; left out: beside the first, with -merged.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="How the weights are written.")] = "fp32",
    weights: Annotated[
        list[float] | None, typer.Option("--weight", help="Of each of several adapters, in their order.")
    ] = None,
    how: Annotated[How, typer.Option("--how", help="How several adapters are combined, by PEFT's names.")] = "cat",
    density: Annotated[
        float, typer.Option("--density", min=0.0, max=1.0, help="Share of values that TIES and DARE keep.")
    ] = 0.5,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", min=0.0, help="Largest difference of outputs, by the largest output.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Merge an adapter into its base, or several weighted ones. What it says before and after is compared."""
    from hfstrat.verbs import merge as verb

    verb.run(runs, output, dtype, weights or [], how, density, tolerance, overwrite, json, quiet)


@app.command(epilog=_examples("hfstrat push runs/my me/my --dry-run", "hfstrat push runs/my me/my --public"))
def push(
    run: RunFolder,
    repo_id: Annotated[
        str | None, typer.Argument(metavar="[USER/NAME]", help="A repository; left out: hub.repo_id of the recipe.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository that everybody sees.")] = False,
    branch: Annotated[str, typer.Option("--branch", "--revision", help="The branch to write.")] = "main",
    message: Annotated[str | None, typer.Option("--message", "-m", help="Of the commit.")] = None,
    with_base: Annotated[
        bool, typer.Option("--with-base", help="Merge an adapter into a base that nobody else has.")
    ] = False,
    published_as: Annotated[
        str | None, typer.Option("--published-as", metavar="USER/BASE", help="Public id of a local base.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, send nothing.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Send a finished run to the Hugging Face Hub. Model, card, recipe and scores go in one commit."""
    from hfstrat.verbs import push as verb

    verb.run(run, repo_id, public, branch, message, with_base, published_as, dry_run, json, quiet)


@app.command(epilog=_examples("hfstrat cache", "hfstrat cache --clear"))
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything.")] = False, json: Json = False
) -> None:
    """List what is kept for later runs, or remove it. That is what frozen layers gave, and tokens."""
    from hfstrat.verbs import cache as verb

    verb.run(clear, json)


@app.command(epilog=_examples("hfstrat doctor", "hfstrat doctor --json"))
def doctor(json: Json = False) -> None:
    """Check versions, hardware, caches and the Hub."""
    from hfstrat.verbs import doctor as verb

    verb.run(json)


@app.command(epilog=_examples("hfstrat schema > recipe.schema.json", "hfstrat schema --markdown > recipe.md"))
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print every field as a page to read.")] = False,
) -> None:
    """Print the JSON Schema of a recipe."""
    from hfstrat.verbs import schema as verb

    verb.run(markdown)


@recipes_app.command("list", epilog=_examples("hfstrat recipes list"))
def recipes_list(json: Json = False) -> None:
    """List the recipes that come with hfstrat."""
    from hfstrat.verbs import recipes as verb

    verb.list_all(json)


@recipes_app.command("copy", epilog=_examples("hfstrat recipes copy demo .", "hfstrat recipes copy csv mine.yaml"))
def recipes_copy(
    name: Annotated[str, typer.Argument(help="As `recipes list` shows it.")],
    target: Annotated[Path, typer.Argument(help="A folder, or a file that does not exist.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace the target.")] = False,
) -> None:
    """Copy a recipe, to change it."""
    from hfstrat.verbs import recipes as verb
    from hfstrat.verbs.progress import say

    say(verb.copy(name, target, force))


def main() -> None:
    """Run the command line and leave with the exit code of what happened."""
    try:
        app()
    except HfstratError as error:
        if not error.shared or first_here():
            _say_what(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in REFUSED:
            _say(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error.strerror}")
            sys.exit(RunError.exit_code)
        _say(f"{traceback.format_exc()}{FAULT}")
        sys.exit(1)


def _say_what(error: HfstratError) -> None:
    problems = error.problems if isinstance(error, UsageError) else ()
    for problem in problems:
        line = str(problem).replace("\n", "\\n")  # a problem is a line, whatever a field is called
        _say(f"error: {line}")
    if not problems:
        _say(f"error: {error}")


def _say(text: str) -> None:
    print(printable(redact(text)), file=sys.stderr)
