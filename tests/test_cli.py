from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from hfstrat.cli import app

ROOT = Path(__file__).parent.parent
VERBS = [
    "init",
    "validate",
    "train",
    "compare",
    "estimate",
    "advise",
    "evaluate",
    "predict",
    "show",
    "report",
    "verify",
    "merge",
    "push",
    "cache",
    "doctor",
    "schema",
    "recipes",
]
HUGGING_FACE = {"torch", "transformers", "datasets", "peft", "accelerate", "evaluate"}
TOO_HEAVY = HUGGING_FACE | {"numpy", "pandas", "pydantic", "yaml", "rich"}
HELP_SECONDS = 0.3


def hfstrat(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line as a user starts it."""
    command = [sys.executable, "-m", "hfstrat", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def is_told_without_a_traceback(done: subprocess.CompletedProcess[str]) -> bool:
    return done.returncode == 2 and "Traceback" not in done.stderr and done.stdout == ""


def test_help_lists_every_verb_once() -> None:
    done = hfstrat("--help")
    assert done.returncode == 0
    listed = done.stdout[done.stdout.index("Commands:") :].splitlines()[1:]
    assert [line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "] == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_has_its_file(verb: str) -> None:
    shown = CliRunner().invoke(app, [verb, "--help"])
    assert shown.exit_code == 0
    assert "Usage:" in shown.output
    assert find_spec(f"hfstrat.verbs.{verb}") is not None


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from hfstrat.cli import app
sys.argv = ["hfstrat", "--help"]
try:
    app()
except SystemExit:
    print("heavy:", *sorted({TOO_HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy:"


def test_help_is_quick() -> None:
    # Processor time of the best of three, for a busy machine is slow by the clock.
    assert min(_processor_seconds("--help") for _ in range(3)) < HELP_SECONDS


def _processor_seconds(*words: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    hfstrat(*words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_nothing_shows_help_with_exit_code_2() -> None:
    done = hfstrat()
    assert done.returncode == 2
    assert "Usage:" in done.stdout + done.stderr


def test_an_unknown_verb() -> None:
    done = hfstrat("trian")
    assert is_told_without_a_traceback(done)
    assert "trian" in done.stderr


def test_an_unknown_option() -> None:
    assert is_told_without_a_traceback(hfstrat("schema", "--jsn"))


@pytest.mark.parametrize("verb", ["validate", "train"])
def test_a_missing_recipe(verb: str) -> None:
    done = hfstrat(verb, "nowhere.yaml")
    assert is_told_without_a_traceback(done)
    assert "error: nowhere.yaml: no such recipe" in done.stderr


def test_a_wrong_recipe_tells_all_of_its_problems(tmp_path: Path) -> None:
    recipe = tmp_path / "wrong.yaml"
    recipe.write_text("name: x\nmodel: {bas: y}\ntask: {kind: text_classification}\nstrategy: {kind: haed}\n")
    done = hfstrat("validate", str(recipe))
    assert is_told_without_a_traceback(done)
    assert f"{recipe}:2: model.bas" in done.stderr
    assert "'head'" in done.stderr
    assert "'data' is required" in done.stderr


def test_a_word_that_is_no_override() -> None:
    done = hfstrat("validate", "recipes/demo.yaml", "train.lr")
    assert is_told_without_a_traceback(done)
    assert "dotted.path=value" in done.stderr


class TestShow:
    def test_names_the_runs_that_there_are(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "status.json").write_text("{}")
        for word, hint in ((tmp_path, "holds the runs mine"), (tmp_path / "mien", "Did you mean 'mine'?")):
            done = hfstrat("show", str(word))
            assert is_told_without_a_traceback(done)
            assert hint in done.stderr

    def test_json_is_all_there_is_on_stdout(self, tmp_path: Path) -> None:
        (tmp_path / "status.json").write_text('{"state": "oom", "reason": "out of memory"}')
        done = hfstrat("show", str(tmp_path), "--json")
        assert done.returncode == 0
        assert json.loads(done.stdout)["status"]["state"] == "oom"
        assert done.stderr == ""

    def test_a_comparison_as_json(self, tmp_path: Path) -> None:
        (tmp_path / "comparison.json").write_text('{"rows": []}')
        assert json.loads(hfstrat("show", str(tmp_path), "--json").stdout) == {"rows": []}


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m hfstrat schema | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ)
    assert "Traceback" not in done.stderr


def commands(group: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with what it is called."""
    for name, command in (group or get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


EVERY = dict(commands())


@pytest.mark.parametrize(("name", "command"), EVERY.items(), ids=EVERY)
def test_every_verb_has_examples_that_it_understands(name: str, command: Any) -> None:
    shown = CliRunner().invoke(app, [*name.split(), "--help"], terminal_width=80).output
    examples = [line[4:] for line in shown.partition("Examples:\n")[2].splitlines()]
    assert examples
    for line in examples:
        assert len(line) <= 76
        words = shlex.split(line.rpartition("| ")[2].partition(" > ")[0])
        assert words[: 1 + len(name.split())] == ["hfstrat", *name.split()]
        command.make_context(name, words[1 + len(name.split()) :])


def test_what_verbs_do_is_not_cut_off_on_a_terminal_of_80_columns() -> None:
    assert "..." not in CliRunner().invoke(app, ["--help"], terminal_width=80).output.partition("Commands:")[2]


def test_a_shell_completes_verbs_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    for words, place, found in (("hfstrat esti", "1", "estimate"), ("hfstrat train --res", "2", "--resume")):
        asked = {"_HFSTRAT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": place}
        done = CliRunner().invoke(app, [], env=asked, prog_name="hfstrat")
        assert done.output.split() == [found]


COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-7]|38;|9[0-7])[0-9;]*m")


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["as it is", "NO_COLOR", "dumb"])
def test_colours_are_for_terminals_that_want_them(variables: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"state": "done", "reason": null}')
    own = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    environment = {**own, "TERM": "xterm-256color", **variables}
    words = [sys.executable, "-m", "hfstrat", "show", str(tmp_path)]
    master, terminal = pty.openpty()
    with os.fdopen(master, "rb", closefd=True) as screen:
        done = subprocess.Popen(
            words,
            cwd=ROOT,
            stdout=terminal,
            stderr=terminal,
            env={**environment, "TERM": "xterm-256color", **variables},
        )
        os.close(terminal)
        said = b""
        with contextlib.suppress(OSError):  # what Linux says at the end
            while part := os.read(screen.fileno(), 4096):
                said += part
        assert done.wait(60) == 0
    text = said.decode()
    assert "done" in text
    assert (COLOUR.search(text) is not None) == (variables == {})
    if "TERM" in variables:
        assert "\x1b" not in text
    piped = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    assert "done" in piped.stdout
    assert "\x1b" not in piped.stdout
