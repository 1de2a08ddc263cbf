"""A user without hfstrat: the lines of model cards, run in a process of their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hfstrat.runs.directory import Run


def program(run: Run, base: str | Path | None, texts: Sequence[str], pairs: Sequence[str] = ()) -> str:
    """The lines of a run's card.

    Args:
        run: The run.
        base: Where the base of an adapter is.
        texts: First texts to predict, or files of pictures or sounds.
        pairs: Second texts.
    """
    card = (run.artifact / "README.md").read_text("utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    replaced = {
        '"path/to/this/folder"': json.dumps(str(run.artifact)),
        '"path/to/the/base/model"': json.dumps(str(base)),
        '["a first text", "a second one"]': json.dumps(list(texts)),
        '["a-picture.png", "another.png"]': json.dumps(list(texts)),
        '["a-sound.wav", "another.wav"]': json.dumps(list(texts)),
        '["what goes with it", "what goes with that"]': json.dumps(list(pairs)),
    }
    for placeholder, value in replaced.items():
        lines = lines.replace(placeholder, value)
    assert "path/to" not in lines
    assert "hfstrat" not in lines.replace(str(run.artifact), "").replace(str(base), "")
    return lines


class User:
    """Somebody without hfstrat, in a process of their own that imports torch and transformers once.

    Args:
        folder: Where programs are run.
        environment: Variables of the process; None: those of this one.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._errors = (folder / "errors.txt").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("runs_programs.py"))],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )

    def run(self, program: str) -> dict[str, Any]:
        """What a program leaves: its `logits` and `labels`, or what it has `found`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(program) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        self._errors.seek(0)
        assert line, self._errors.read()
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, answer["error"]
        assert not answer["asked"]
        assert not answer["imports_hfstrat"]
        assert not answer["training"]
        return answer

    def leave(self) -> int:
        """End the process, and tell how it ended."""
        self._process.communicate(timeout=60)
        self._errors.close()
        return self._process.returncode
