"""Arrays in a cache: whole or not there, within a bound, and never another's bytes."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from hfstrat.errors import UsageError
from hfstrat.runs import store

VALUES = np.arange(1000, dtype=np.float32).reshape(100, 10)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(store.HOME, str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(key, values=VALUES, used=None):
    with store.begun(key, f"the values of {key}", values.shape, str(values.dtype)) as file:
        store.opened(file, values.shape, str(values.dtype))[:] = values
    if used is not None:
        os.utime(store.home() / key, (used, used))


def test_what_was_put_in_comes_out():
    assert store.find("a" * 64) is None
    put("a" * 64)
    found = store.find("a" * 64)
    assert np.array_equal(found, VALUES)
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1
    (entry,) = store.entries()
    assert (entry.shape, entry.dtype, entry.size) == ((100, 10), "float32", 4000)
    assert entry.what == f"the values of {'a' * 64}"


def test_an_entry_that_was_not_filled_does_not_exist(cache):
    with pytest.raises(RuntimeError, match="killed"), store.begun("b" * 64, "", (10,), "float32"):
        raise RuntimeError("killed")
    assert store.find("b" * 64) is None
    assert list(cache.iterdir()) == []


def test_two_that_write_the_same_do_not_disturb_each_other(cache):
    with store.begun("c" * 64, "", VALUES.shape, "float32") as file:
        put("c" * 64)
        store.opened(file, VALUES.shape, "float32")[:] = VALUES
    assert np.array_equal(store.find("c" * 64), VALUES)
    assert len(list(cache.iterdir())) == 1


def test_what_was_not_used_for_longest_makes_room(monkeypatch):
    monkeypatch.setenv(store.LIMIT, "10 KB")
    now = time.time()
    put("old", used=now - 300)
    put("older", used=now - 600)
    store.find("older")  # a read counts as a use
    put("new")
    assert {entry.path.name for entry in store.entries()} == {"older", "new"}
    monkeypatch.setenv(store.LIMIT, "1 KB")
    put("large")
    assert [entry.path.name for entry in store.entries()] == ["large"], "the newest stays whatever it takes"


def test_what_a_killed_process_left_goes_after_a_day(cache):
    cache.mkdir()
    for name, age in ((".left", 2 * 24 * 3600), (".going-on", 60)):
        (cache / name).mkdir()
        os.utime(cache / name, (time.time() - age,) * 2)
    put("d")
    assert sorted(path.name for path in cache.iterdir()) == [".going-on", "d"]
    assert store.clear() == 4000
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "size"), [("20 GB", 20e9), ("1.5TB", 1.5e12), ("3G", 3e9), ("0", 0), ("512", 512), (" 7 kb ", 7000)]
)
def test_sizes(monkeypatch, text, size):
    monkeypatch.setenv(store.LIMIT, text)
    assert store.limit() == size


@pytest.mark.parametrize("text", ["many", "", "-1 GB", "GB", "1 PB"])
def test_what_is_no_size_is_told(monkeypatch, text):
    monkeypatch.setenv(store.LIMIT, text)
    with pytest.raises(UsageError, match="no size"):
        store.limit()


def test_half_an_entry_is_nobodys(cache):
    """A process was killed while it removed one, or a machine before the bytes were on the disk."""
    put("k", np.arange(3))
    (cache / "k" / "entry.json").write_text("")
    assert store.find("k") is None
    assert list(cache.iterdir()) == []
    put("k", np.arange(3))
    assert np.array_equal(store.find("k"), np.arange(3))
