"""`hfstrat recipes list` and `hfstrat recipes copy`."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hfstrat.errors import Problem, RunError, UsageError, did_you_mean
from hfstrat.verbs.progress import say, show

SCHEMA_LINE = "# yaml-language-server: $schema="
LAUNCHING = "accelerate"
"""The folder among the recipes that holds none: files for Accelerate's launcher and for Slurm."""


@dataclass(frozen=True)
class Shipped:
    """A recipe that comes with hfstrat.

    Args:
        name: Its path in the folder of recipes, without `.yaml`.
        command: The command that runs it.
        description: What it does.
    """

    name: str
    command: str
    description: str


def list_all(as_json: bool) -> None:
    """Show every recipe with what it does."""
    found = shipped()
    if as_json:
        print(json.dumps([asdict(one) for one in found], ensure_ascii=False))
        return
    show(_table(found))
    say(
        "`hfstrat recipes copy NAME` puts one into the working directory, and `hfstrat recipes copy accelerate` files "
        "for `accelerate launch` and Slurm."
    )


def copy(name: str, target: Path, force: bool) -> str:
    """Copy a recipe.

    Args:
        name: As `list_all` shows it; `.yaml` at its end does no harm.
        target: A folder, or the new file.
        force: Replace a file.

    Returns:
        What was done and what to do next.

    Raises:
        UsageError: There is no such recipe, or the target cannot be taken.
        RunError: The target cannot be written.
    """
    if name.rstrip("/").removeprefix("recipes/") == LAUNCHING:
        return _copy_launching(target, force)
    recipe = _find(name)
    new = target / f"{Path(recipe.name).name}.yaml" if target.is_dir() else target
    if new.suffix not in (".yaml", ".yml"):
        raise UsageError(Problem(f"{target} is neither a folder nor a .yaml file", hint="mkdir it first"))
    if new.exists() and not force:
        raise UsageError(Problem(f"{new} exists", hint="Add --force to replace it, or name another target"))
    text = (folder() / f"{recipe.name}.yaml").read_text("utf-8")
    try:
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(_moved(text, recipe, new), "utf-8")
    except OSError as error:
        raise RunError(f"cannot write {new}: {error.strerror}") from None
    return f"{new} is there. Next: change it, then `{_command(recipe, new)}`"


def _copy_launching(target: Path, force: bool) -> str:
    new = target / LAUNCHING
    if new.exists() and not force:
        raise UsageError(Problem(f"{new} exists", hint="Add --force to replace it, or name another target"))
    try:
        shutil.copytree(folder() / LAUNCHING, new, dirs_exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {new}: {error}") from None
    return f"{new} is there. Next: the first line of each file is its command"


def folder() -> Path:
    """Where the recipes are: inside the installed package, or in the clone beside it.

    Raises:
        RunError: Neither is there.
    """
    package = Path(__file__).resolve().parent.parent
    for place in (package / "_recipes", package.parent / "recipes"):
        if place.is_dir():
            return place
    raise RunError("this installation has no recipes; install hfstrat from its wheel or from a clone")


def shipped() -> list[Shipped]:
    """Every recipe, those for a quick start first."""
    root = folder()
    found = (file for file in root.rglob("*.yaml") if file.parent != root / LAUNCHING)
    files = sorted(found, key=lambda file: (len(file.relative_to(root).parts), file))
    return [_read(file, file.relative_to(root).with_suffix("").as_posix()) for file in files]


def _read(file: Path, name: str) -> Shipped:
    """The first comment but the schema's says `# command : description`."""
    lines = file.read_text("utf-8").splitlines()
    comment = next((line for line in lines if line.startswith("#") and not line.startswith(SCHEMA_LINE)), "")
    command, _, description = comment.removeprefix("#").partition(" : ")
    return Shipped(name, command.strip(), description.strip())


def _find(name: str) -> Shipped:
    known = {one.name: one for one in shipped()}
    wanted = re.sub(r"\.ya?ml$", "", name).removeprefix("recipes/")
    short = [full for full in known if full.rsplit("/", 1)[-1] == wanted]
    if wanted not in known and len(short) != 1:
        hint = did_you_mean(wanted, list(known), show_all=40) or "`hfstrat recipes list` shows them"
        raise UsageError(Problem(f"there is no recipe '{name}'", hint=hint))
    return known[wanted if wanted in known else short[0]]


def _moved(text: str, recipe: Shipped, new: Path) -> str:
    """The copy names itself in its command, and looks for the schema beside itself."""
    from hfstrat.recipe.schema import SCHEMA_FILE

    text = re.sub(rf"^{re.escape(SCHEMA_LINE)}.*$", lambda _: f"{SCHEMA_LINE}{SCHEMA_FILE}", text, count=1, flags=re.M)
    return text.replace(f"# {recipe.command} :", f"# {_command(recipe, new)} :", 1)


def _command(recipe: Shipped, new: Path) -> str:
    return recipe.command.replace(f"recipes/{recipe.name}.yaml", str(new))


def _table(found: list[Shipped]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="bold")
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it does", overflow="fold")
    for one in found:
        table.add_row(Text(one.name), Text(one.description))
    return table
