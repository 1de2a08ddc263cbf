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


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux") or not hasattr(os, "confstr"), reason="glibc alone has this")
def test_memory_of_tensors_that_are_gone_is_used_again():
    pages = (40 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert faults("plain") > pages, "else there is nothing to mend"
    assert faults("kept") < pages / 10
    assert faults("kept", MALLOC_MMAP_THRESHOLD_="65536") > pages, "the user's settings stay"


HOLES = """
import torch
from hfstrat.training.machine import give_back, keep_memory
from hfstrat.training.memory import anonymous_bytes
keep_memory()
kept, gone = [], []
for _ in range(300):
    gone.append(torch.ones(1 << 20, dtype=torch.uint8))
    kept.append(torch.ones(1 << 12, dtype=torch.uint8))  # so that nothing is free at the end of the heap alone
del gone
before = anonymous_bytes()
give_back()
print(before - anonymous_bytes(), sum(int(one.sum()) for one in kept))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux") or not hasattr(os, "confstr"), reason="glibc alone has this")
def test_holes_between_tensors_are_given_back():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    freed, sum_of_kept = map(int, done.stdout.split())
    assert freed > 250 << 20
    assert sum_of_kept == 300 << 12


@pytest.mark.parametrize(("held", "times"), [(0, 0), (10**15, 2)])
def test_a_run_gives_back_what_is_free_when_it_holds_too_much(tiny_base, tmp_path, monkeypatch, held, times):
    from hfstrat import fitting
    from tests import tiny
    from tests.training.helpers import recipe, train

    calls = []
    sizes = iter([0])  # before the updates; then what is asked for here
    monkeypatch.setattr(fitting, "anonymous_bytes", lambda: next(sizes, held))
    monkeypatch.setattr(fitting, "give_back", lambda: calls.append(1))
    train(recipe(tiny_base("bert"), "full-random", train={"max_steps": 25}), tiny.reviews(60), tmp_path)
    assert len(calls) == times
