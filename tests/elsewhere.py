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

SCRIPT = Path(__file__).with_name("models") / "loads_without_hfstrat.py"


def program(run: Run, base: str | Path | None, texts: Sequence[str], pairs: Sequence[str] = ()) -> str:
    """The lines of a run's card.

    Args:
        run: The run.
        base: Where the base of an adapter is.
        texts: First texts to predict.
        pairs: Second texts.
    """
    card = (run.artifact / "README.md").read_text("utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    replaced = {
        '"path/to/this/folder"': json.dumps(str(run.artifact)),
        '"path/to/the/base/model"': json.dumps(str(base)),
        '["a first text", "a second one"]': json.dumps(list(texts)),
        '["what goes with it", "what goes with that"]': json.dumps(list(pairs)),
    }
    for placeholder, value in replaced.items():
        lines = lines.replace(placeholder, value)
    assert "path/to" not in lines
    assert "hfstrat" not in lines.replace(str(run.artifact), "").replace(str(base), "")
    return lines


def told(programs: Mapping[str, str], folder: Path) -> dict[str, dict[str, Any]]:
    """`logits` and `labels` of each program, by its name.

    Args:
        programs: The programs.
        folder: Where they are run.
    """
    jobs = folder / "jobs.json"
    jobs.write_text(json.dumps([{"name": name, "program": text} for name, text in programs.items()]), "utf-8")
    command = [sys.executable, str(SCRIPT), str(jobs)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return {job["name"]: job for job in json.loads(jobs.read_text("utf-8"))}
