"""What the documents say holds: links lead somewhere, recipes are recipes, commands and messages exist, Python runs."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.main import get_command

import hfstrat as hf
from hfstrat.cli import app
from hfstrat.recipe.loading import build, names_none, override, parse
from hfstrat.recipe.recipe import Recipe
from tests.command import hfstrat
from tests.tasks.test_audio_classification import sound
from tests.tasks.test_audio_classification import write as write_sound

ROOT = Path(__file__).parent.parent
FOLDERS = ("docs", "recipes", "benchmarks")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
FENCE = re.compile(r"^```(?P<language>[a-z]*) ?(?P<name>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S)
SHELLS = {"bash", "sh"}
# A part of a recipe is read as part of this one.
REST = {
    "name": "documented",
    "model": {"base": "someone/base"},
    "task": {"kind": "text_classification"},
    "data": {"source": "my.csv"},
    "strategy": {"kind": "head"},
}


@dataclass(frozen=True)
class Block:
    """A block of code in a document.

    Args:
        page: The document's name.
        line: The line below its fence.
        language: What the fence says.
        name: What it says besides: the name of a file.
        text: What it holds.
    """

    page: str
    line: int
    language: str
    name: str
    text: str

    @property
    def place(self) -> str:
        """`README.md:13`."""
        return f"{self.page}:{self.line}"


@cache
def blocks(*languages: str) -> list[Block]:
    """All blocks of some languages."""
    found = []
    for name, page in zip(NAMES, PAGES, strict=True):
        text = page.read_text("utf-8")
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            found.append(Block(name, line, match["language"], match["name"], match["text"]))
    return [block for block in found if block.language in languages]


def of(*languages: str) -> Any:
    """Blocks as parameters of a test."""
    found = blocks(*languages)
    assert found, f"no document has a block of {languages}"
    return pytest.mark.parametrize("block", found, ids=[block.place for block in found])


def prose(page: Path) -> str:
    """A document without its blocks of code."""
    return FENCE.sub("", page.read_text("utf-8"))


# --- links --------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a document."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *$", prose(page), re.M):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        kept = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        again = sum(one == kept or re.fullmatch(rf"{re.escape(kept)}-\d+", one) is not None for one in found)
        found.append(f"{kept}-{again}" if again else kept)
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_every_page_of_docs_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)", (ROOT / "README.md").read_text("utf-8")))
    assert {name for name in NAMES if name.startswith("docs/")} <= linked


# --- recipes ------------------------------------------------------------------------------------------------------


@of("yaml")
def test_a_recipe_is_one(block: Block) -> None:
    given = yaml.safe_load(block.text)
    assert given.keys() <= Recipe.model_fields.keys()
    whole = {"model", "task", "data"} <= given.keys()
    # What is missing is put above, and fields that are there twice are errors.
    missing = {} if whole else {key: value for key, value in REST.items() if key not in given}
    source = parse(f"{yaml.safe_dump(missing) if missing else ''}{block.text}", block.place)
    build(override(source, {"strategy.kind": "head"}) if names_none(source) else source)


# --- commands -----------------------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """What is given to hfstrat in some lines of a shell."""
    for line in text.replace("\\\n", " ").splitlines():
        here: list[str] = []
        for word in [*_words(line), ";"]:
            if word not in ("|", "||", "&&", ";", ">"):
                here.append(word)
                continue
            start = next((place for place, one in enumerate(here) if one.rsplit("/", 1)[-1] == "hfstrat"), None)
            if start is not None:
                yield here[start + 1 :]
            here = []


def _words(line: str) -> list[str]:
    reader = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
    reader.whitespace_split = True
    return list(reader)


def told(words: Sequence[str]) -> None:
    """Parse a command as the command line does, without running it."""
    command: Any = get_command(app)
    path, rest = "hfstrat", list(words)
    while hasattr(command, "commands") and rest[0] not in ("--help", "--install-completion"):
        assert rest[0] in command.commands, f"{path} has no verb {rest[0]}"
        path, command, rest = f"{path} {rest[0]}", command.commands[rest[0]], rest[1:]
    if rest[0:1] not in (["--help"], ["--install-completion"]):
        context = command.make_context(path, rest)
        build(override(parse(yaml.safe_dump(REST)), context.params.get("overrides") or ()))


@of(*SHELLS)
def test_a_command_is_one(block: Block) -> None:
    for words in commands(block.text):
        told(words)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert set(re.findall(r"^make (?:[A-Z]+=\S+ )*([a-z-]+)", block.text, re.M)) <= targets
    for script in re.findall(r"\bpython (\S+\.py)", block.text):
        assert (ROOT / script).is_file(), script


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_verbs_and_options_in_a_text_exist(page: Path) -> None:
    known: Any = get_command(app)
    for text in re.findall(r"`hfstrat ([a-z][^`]*)`", prose(page)):
        words = text.split()
        assert words[0] in known.commands, text
        command = known.commands[words[0]]
        if hasattr(command, "commands") and len(words) > 1:
            assert words[1] in command.commands, text
            command = command.commands[words[1]]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if re.fullmatch(r"--[a-z-]+", word)} - {"--help"} <= options, text


# --- Python -------------------------------------------------------------------------------------------------------


@of("python")
def test_python_is_python(block: Block) -> None:
    compile(block.text, block.place, "exec")


# --- data ---------------------------------------------------------------------------------------------------------

FAMILY = {
    "causal_lm": "llama",
    "seq2seq": "t5",
    "image_classification": "vit",
    "audio_classification": "wav2vec2",
    "object_detection": "yolos",
}


def examples_of_data() -> list[Any]:
    """Each recipe of `docs/data.md`, with the files that stand above it."""
    found, files = [], {}
    for block in (one for one in blocks("csv", "jsonl", "conll", "txt", "text", "yaml") if one.page == "docs/data.md"):
        if block.language != "yaml":
            files[block.name] = block
            continue
        task = yaml.safe_load(block.text)["task"]["kind"]
        found.append(pytest.param(files, block, id=f"{task}:{block.line}"))
        files = {}
    return found


def write_example(file: Block) -> None:
    """A file as it stands, and for names of pictures and sounds such pictures and sounds."""
    paths = [Path(line) for line in file.text.splitlines()] if file.language == "text" else []
    if file.name:
        path = Path(file.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text, "utf-8")
        lines = map(json.loads, file.text.splitlines()) if path.name == "metadata.jsonl" else ()
        paths = [path.parent / line["file_name"] for line in lines]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".wav":
            write_sound(path, sound(("low", "high")[number % 2], number))
        else:
            noise = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


OF_DATA = pytest.mark.parametrize(("files", "block"), examples_of_data())


@OF_DATA
def test_data_is_recognised_as_its_page_says(files: dict[str, Block], block: Block, here: Path) -> None:
    for file in files.values():
        write_example(file)
    given = yaml.safe_load(block.text)
    guessed = hfstrat("init", given["data"]["source"])
    # Of plain text nothing tells whether it is to be filled in or continued.
    kind = "masked_lm" if given["data"]["source"].endswith(".txt") else given["task"]["kind"]
    assert (guessed.code, yaml.safe_load(guessed.out)["task"]["kind"]) == (0, kind)


@pytest.mark.slow
@OF_DATA
def test_data_is_read_as_its_page_says(files: dict[str, Block], block: Block, here: Path, tiny_base: Any) -> None:
    for file in files.values():
        write_example(file)
    given = yaml.safe_load(block.text)
    base = tiny_base(FAMILY.get(given["task"]["kind"], "bert"))
    recipe = {**REST, **given, "model": {"base": str(base)}, "strategy": {"kind": "full"}}
    Path("my.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    done = hfstrat("validate", "my.yaml", "--quiet")
    assert (done.code, done.errors) == (0, [])


# --- messages -----------------------------------------------------------------------------------------------------

TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
MESSAGES = [message for _, message in re.findall(r"^### (`+)(.+)\1$", TROUBLES, re.M)]


@cache
def said() -> str:
    """Every text in the package, with … for what is put in."""
    found = []
    for file in sorted((ROOT / "hfstrat").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(one.value) if isinstance(one, ast.Constant) else "…" for one in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_said(message: str) -> None:
    assert message in said()


def test_messages_are_explained() -> None:
    assert len(MESSAGES) >= 20


def test_tables_that_stand_in_several_documents_are_the_same() -> None:
    found: dict[tuple[str, str], set[str]] = {}
    for page in PAGES:
        for block in re.finditer(r"<!-- (table|factors): (\S+) -->\n(.*?)<!-- /\1 -->", page.read_text("utf-8"), re.S):
            found.setdefault((block[1], block[2]), set()).add(block[3])
    assert len(found) >= 5
    assert [name for name, texts in found.items() if len(texts) > 1] == []


# --- extending ----------------------------------------------------------------------------------------------------

EXTENDING = [block for block in blocks("python", "diff") if block.page == "docs/extending.md"]


def replacements(block: Block) -> Iterator[tuple[str, str]]:
    """What each part of a diff takes the place of, and what it puts there."""
    for part in re.split(r"^@@\n", block.text, flags=re.M):
        lines = part.splitlines(keepends=True)
        before, after = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
        yield before, after


def test_examples_change_lines_that_are_there() -> None:
    changed = [block for block in EXTENDING if block.language == "diff"]
    assert len(changed) >= 4
    for block in changed:
        text = (ROOT / block.name).read_text("utf-8")
        assert [before for before, _ in replacements(block) if text.count(before) != 1] == [], block.place


@pytest.mark.slow
def test_examples_pass_their_own_tests(tmp_path: Path) -> None:
    for name in ("hfstrat", "tests", "recipes"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for block in EXTENDING:
        file = tmp_path / block.name
        if block.language == "python":
            assert not file.exists()
            file.write_text(block.text, "utf-8")
            continue
        text = file.read_text("utf-8")
        for before, after in replacements(block):
            text = text.replace(before, after)
        file.write_text(text, "utf-8")
    tests = [block.name for block in EXTENDING if block.name.startswith("tests/")]
    assert len(tests) == 4
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", *(block.name for block in EXTENDING)], cwd=tmp_path, check=False
    )
    assert checked.returncode == 0


# --- citation -----------------------------------------------------------------------------------------------------


def test_the_citation_is_of_this_version() -> None:
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert found["version"] == hf.__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= found.keys()
