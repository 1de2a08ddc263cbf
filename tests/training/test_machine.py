"""What is set of the process that trains."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Makes and drops a large tensor a few times; prints how many pages the system had to clear for it in the end.
PROGRAM = """
import resource, sys
import torch
from hfstrat.training.machine import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
for _ in range(10):  # alignment makes some places for it first
    torch.ones(40 << 20, dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(40 << 20, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str, **more: str) -> int:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, word], env={**plain, **more}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux") or not hasattr(os, "confstr"), reason="glibc alone has this")
def test_memory_of_tensors_that_are_gone_is_used_again():
    pages = (40 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert faults("plain") > pages, "else there is nothing to mend"
    assert faults("kept") < pages / 10
    assert faults("kept", MALLOC_MMAP_THRESHOLD_="65536") > pages, "the user's settings stay"
