"""A checkpoint is whole or not there, and no byte of it changes unseen."""

from __future__ import annotations

import random
import shutil

import pytest
import torch

from hfstrat.training import checkpoint
from hfstrat.training.checkpoint import Damaged, newest, paths, prune, read, write
from tests.faults.server import PLACES

GROUPS = {
    "current": {"layer.weight": torch.randn(5, 3), "layer.bias": torch.zeros(3), "steps": torch.tensor(7.0)},
    "optimizer": {"layer.weight/exp_avg": torch.randn(5, 3).to(torch.bfloat16), "kept": torch.tensor([True, False])},
    "best": {},
}
DATA = {"stage": 1, "update": 30, "score": [float("-inf"), -0.25]}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_can_still_be_killed_there(place):
    """The slow tests kill runs in functions that they name."""
    owner, name, _ = PLACES[place]
    assert callable(getattr(owner, name))


def test_what_was_written_is_read(tmp_path):
    written = write(tmp_path, "01-3", GROUPS, DATA)
    found = read(written.path)
    assert found.data == DATA
    assert set(found.groups) == set(GROUPS)
    for group, tensors in GROUPS.items():
        stored = found.tensors(group)
        assert stored.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert stored[name].dtype == tensor.dtype
            assert torch.equal(stored[name], tensor)


def test_tensors_that_are_views_are_stored_as_they_look(tmp_path):
    square = torch.arange(9.0).view(3, 3)
    written = write(tmp_path, "1", {"a": {"turned": square.T, "column": square[:, 1]}}, {})
    assert torch.equal(read(written.path).tensors("a")["turned"], square.T)
    assert torch.equal(read(written.path).tensors("a")["column"], square[:, 1])


def test_every_flipped_byte_is_found_and_the_one_before_is_taken(tmp_path):
    write(tmp_path, "1", GROUPS, DATA)
    write(tmp_path, "2", GROUPS, DATA)
    files = sorted((tmp_path / "2").iterdir())
    rng, spots = random.Random(0), [(file, place) for file in files for place in range(file.stat().st_size)]
    assert len({file for file, _ in spots}) == len(files) == len(GROUPS) + 2
    for file, place in rng.sample(spots, 200):
        before = file.read_bytes()
        changed = bytearray(before)
        changed[place] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        with pytest.raises(Damaged):
            read(tmp_path / "2")
        found, damaged = newest(tmp_path)
        assert found is not None
        assert found.path.name == "1"
        assert damaged[0].startswith("2 is damaged: ")
        file.write_bytes(before)
    assert newest(tmp_path)[1] == []


@pytest.mark.parametrize("name", ["current.safetensors", "manifest.json", "manifest.sha256"])
@pytest.mark.parametrize("how", ["cut", "longer", "gone", "empty"])
def test_a_file_that_is_not_whole_is_found(tmp_path, name, how):
    file = write(tmp_path, "1", GROUPS, DATA).path / name
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes({"cut": content[:-1], "longer": content + b"\0", "empty": b""}[how])
    with pytest.raises(Damaged, match=name if how == "gone" or "safe" in name else "manifest"):
        read(tmp_path / "1")
    assert newest(tmp_path)[0] is None


def test_nothing_is_left_of_one_that_cannot_be_written(tmp_path, monkeypatch):
    write(tmp_path, "1", GROUPS, DATA)

    def full(file, content):
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(checkpoint, "_write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, "2", GROUPS, DATA)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    read(tmp_path / "1")


def test_one_that_reads_back_otherwise_is_refused(tmp_path, monkeypatch):
    def elsewhere(tensors, file):
        save({name: tensor + 1 for name, tensor in tensors.items()}, file)

    save = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", elsewhere)
    with pytest.raises(OSError, match="was not written as it is"):
        write(tmp_path, "1", {"a": {"x": torch.ones(2)}}, {})
    assert paths(tmp_path) == []


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    (tmp_path / ".1.4711").mkdir(parents=True)
    (tmp_path / ".1.4711" / "current.safetensors").write_bytes(b"half")
    assert newest(tmp_path) == (None, [])
    write(tmp_path, "1", GROUPS, DATA)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_the_same_name_again_takes_its_place(tmp_path):
    write(tmp_path, "1", GROUPS, DATA)
    write(tmp_path, "1", GROUPS, {"new": True})
    assert read(tmp_path / "1").data == {"new": True}


def test_the_newest_are_kept(tmp_path):
    for name in ("00-000000009", "00-000000010", "01-000000000", "01-000000003"):
        write(tmp_path, name, {}, {"name": name})
    prune(tmp_path, 2)
    assert [path.name for path in paths(tmp_path)] == ["01-000000003", "01-000000000"]
    shutil.rmtree(tmp_path / "01-000000003")
    found, damaged = newest(tmp_path)
    assert found is not None
    assert found.data == {"name": "01-000000000"}
    assert damaged == []


def test_another_version_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    write(tmp_path, "1", GROUPS, DATA)
    monkeypatch.undo()
    with pytest.raises(Damaged, match="it has version 2, and this hfstrat reads version 1"):
        read(tmp_path / "1")
