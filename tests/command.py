"""The command line in this process: importing torch, transformers and peft once is enough."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest import mock

from hfstrat.cli import main


@dataclass(frozen=True)
class Done:
    """How a command ended.

    Attributes:
        code: Its exit code.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
    """

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The problems that it told, a line each."""
        return [line.removeprefix("error: ") for line in self.err.splitlines() if line.startswith("error: ")]


def hfstrat(*words: object, stdin: str = "") -> Done:
    """Run `hfstrat WORDS`; an exception that nobody expected is told there as well, with exit code 1."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["hfstrat", *map(str, words)]
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Done(code, out.getvalue(), err.getvalue())
