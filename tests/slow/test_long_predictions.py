"""A file of a hundred thousand rows: memory stays flat, and a process that was killed is gone on with."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from hfstrat import execute
from tests import tiny
from tests.command import hfstrat
from tests.training.helpers import LIVELY, memory, recipe

ROWS = 100_000


def anonymous(pid):
    """Bytes of a process that are no file's."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as stream:
        return int(re.search(r"RssAnon:\s+(\d+) kB", stream.read())[1]) * 1024


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_no_more_memory_than_ten_thousand(tiny_base, tmp_path):
    run = execute.train(
        recipe(tiny_base("bert", **LIVELY), "full-random"), data=memory(tiny.reviews(60)), runs=tmp_path
    )
    source, output, whole = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    texts = [row["text"] for row in tiny.reviews(500)]
    with source.open("w", encoding="utf-8") as stream:
        for place in range(ROWS):
            stream.write(json.dumps({"text": f"{texts[place % 500]} {place}"}) + "\n")
    words = [sys.executable, "-m", "hfstrat", "predict", str(run.path), str(source), "-o"]
    note = tmp_path / ".out.jsonl.partial.json"

    with subprocess.Popen([*words, str(output)], stderr=subprocess.DEVNULL) as process:
        seen = []
        while process.poll() is None:
            time.sleep(0.05)
            done = json.loads(note.read_text("utf-8"))["rows"] if note.is_file() else 0
            if done:
                seen.append((done, anonymous(process.pid)))
            if done > ROWS // 2:
                process.send_signal(signal.SIGKILL)
                break
    assert process.wait() == -signal.SIGKILL
    assert not output.exists()
    early = max(size for done, size in seen if done <= ROWS // 10)
    assert max(size for _, size in seen) < 1.1 * early, "memory is flat"

    again = hfstrat("predict", run.path, source, "-o", output)
    assert again.code == 0
    assert "going on after" in again.err
    assert hfstrat("predict", run.path, source, "-o", whole).code == 0
    assert output.read_bytes() == whole.read_bytes()
    assert output.read_bytes().count(b"\n") == ROWS
