"""Every command and every line of Python in README.md and docs/ runs, in the order in which its page gives them.

A page is followed in a directory of its own, with a file of reviews as `my.csv`. The base that `init` proposes is
replaced by a tiny one, which a Hub on loopback has. Commands of `make` and those for a recipe in `recipes/` are left
out: the latter are run on tiny stand-ins for their data by `tests/recipe/test_shipped.py`.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.command import hfstrat
from tests.hub.conftest import BASE, environment, put, taken_for_real
from tests.hub.server import Hub
from tests.test_docs import SHELLS, Block, blocks

LAUNCHERS = {"accelerate": "accelerate.commands.accelerate_cli", "torchrun": "torch.distributed.run"}
# What a page takes for granted: files and runs that somebody has who reads it, before the command that uses them.
BEFORE = {
    "hfstrat merge runs/my-lora": ["hfstrat train my.yaml name=my-lora strategy.kind=lora"],
    "hfstrat verify runs/my": ["hfstrat train my.yaml --resume"],
    "hfstrat train runs/my": ["hfstrat train my.yaml --resume"],
}
LEFT_OUT = re.compile(r"make |hfstrat compare recipes/|python -m hfstrat schema")


def followed() -> dict[str, list[Block]]:
    """What there is to run, page by page."""
    found: dict[str, list[Block]] = {}
    for block in blocks(*SHELLS, "python"):
        of_users = block.page == "README.md" or (block.page.startswith("docs/") and not block.name)
        if of_users and (block.language == "python" or [*lines(block)]):
            found.setdefault(block.page, []).append(block)
    return found


def lines(block: Block) -> Iterator[str]:
    """Its commands, without what is said about them."""
    for line in block.text.replace("\\\n", " ").splitlines():
        command = shlex.join(shlex.split(line, comments=True))
        if command and not LEFT_OUT.match(command):
            yield command


def prepare() -> None:
    """The files that pages speak of."""
    tiny.write_csv("my.csv", tiny.reviews(1600))
    tiny.write_csv("more.csv", tiny.reviews(40, seed=1))
    tiny.write_csv("new.csv", [{"text": row["text"]} for row in tiny.reviews(40, seed=2)])


def smaller() -> None:
    """Put a tiny base, from the Hub on loopback, into the recipe that `init` wrote."""
    text = Path("my.yaml").read_text("utf-8")
    text, count = re.subn(r"^model:\n(  .*\n)+", f"model:\n  base: {BASE}\n", text, flags=re.M)
    assert count == 1
    Path("my.yaml").write_text(text, "utf-8")


def run(command: str, hub: Hub) -> None:
    """One command; a launcher starts processes of its own."""
    program, *words = shlex.split(command)
    if program == "hfstrat":
        if words[0] == "init":
            Path("my.yaml").unlink(missing_ok=True)
        done = hfstrat(*words)
        assert done.code == 0, f"{command}\n{done.err}"
        if words[0] == "init":
            smaller()
        return
    shutil.rmtree("runs/my", ignore_errors=True)  # it is done, and would not be trained again
    started = subprocess.run(
        [sys.executable, "-m", LAUNCHERS[program], *words],
        env=environment(hub, Path("home").absolute()),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert started.returncode == 0, f"{command}\n{started.stderr}"
    assert Path("runs/my/metrics.json").is_file() == ("train" in words)


@pytest.mark.slow
@pytest.mark.parametrize("page", followed())
def test_a_page_can_be_followed(
    page: str,
    tiny_base: Callable[..., Path],
    socket_enabled: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    prepare()
    with taken_for_real(tmp_path / "cache", monkeypatch) as hub:
        put(hub, tiny_base("bert", sentence_transformers="mean"))
        run("hfstrat init my.csv -o my.yaml", hub)
        for block in followed()[page]:
            if block.language == "python":
                exec(compile(block.text, block.place, "exec"), {})
                continue
            for command in lines(block):
                needed = next((some for start, some in BEFORE.items() if command.startswith(start)), [])
                for one in [*needed, command]:
                    run(one, hub)
