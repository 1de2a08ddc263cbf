"""Memory in two words: known tensors have known bytes."""

from __future__ import annotations

import gc
import json
import subprocess
import sys

import pytest
import torch

from hfstrat.training.memory import LiveBytes

MB = 1_000_000


def test_tensors_count_once_while_they_live():
    with LiveBytes() as live:
        one = torch.zeros(1000)
        assert live.current == 4000
        two = torch.zeros(500, dtype=torch.float64)
        assert live.current == 8000
        views = [one.view(10, 100), one[::2], one.t(), two.reshape(5, 100), one.detach()]
        one.add_(1)
        assert live.current == 8000
        del views, two
        assert live.current == 4000
        three = one + 1
        assert (live.current, live.peak) == (8000, 8000)
        del one, three
        assert (live.current, live.peak) == (0, 8000)


def test_a_view_keeps_its_whole_storage_alive():
    with LiveBytes() as live:
        view = torch.zeros(1000)[:1]
        assert live.current == 4000
        del view
        assert live.current == 0


def test_resident_tensors_count_from_the_start_and_leave_when_they_die():
    resident = [torch.zeros(250), torch.zeros(250)]
    shared = resident[0][:10]
    with LiveBytes([*resident, shared]) as live:
        assert (live.current, live.peak) == (2000, 2000)
        torch.zeros(10)
        assert (live.current, live.peak) == (2000, 2040)
        del resident[1]
        assert live.current == 1000


def test_what_autograd_saves_is_counted_until_the_backward_pass():
    weight = torch.zeros(100, 100, requires_grad=True)
    with LiveBytes([weight]) as live:
        hidden = torch.zeros(50, 100) @ weight
        output = hidden.exp().sum()
        del hidden
        assert live.current == 4 * (100 * 100 + 50 * 100 + 50 * 100 + 1), "weight, input, result of exp, sum"
        output.backward()
        gc.collect()
        assert live.current == 4 * (100 * 100 + 100 * 100 + 1), "weight, gradient, sum"


def test_meta_tensors_weigh_nothing():
    with LiveBytes([torch.empty(1000, device="meta")]) as live:
        torch.empty(1000, device="meta") + 1
    assert live.peak == 0


WATCHED = """
import json, time
import numpy as np
from hfstrat.training.memory import ResidentPeak

with ResidentPeak(interval=0.005) as idle:
    time.sleep(0.02)
with ResidentPeak(interval=0.005) as watch:
    before = watch.peak
    block = np.ones(50_000_000, dtype=np.uint8)
    deadline = time.monotonic() + 5  # its thread may have to wait for a busy machine
    while watch.peak - before < 45_000_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    del block
print(json.dumps([idle.peak, before, watch.peak]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_watch_sees_fifty_megabytes():
    # In a process of its own: what earlier tests left may be freed while this one looks.
    said = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, check=True)
    idle, before, peak = json.loads(said.stdout)
    assert 45 * MB < peak - before < 80 * MB
    assert abs(idle - before) < 20 * MB
