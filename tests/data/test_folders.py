"""Folders of pictures and sound: each form, and whatever does not fit one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from hfstrat.data.folders import PICTURE_SUFFIXES, SOUND_SUFFIXES, fingerprint, is_media_folder, read_folder
from hfstrat.errors import DataError


def folder(root: Path, *names: str, **texts: str) -> Path:
    """Files by their names, each with its name for content; `metadata__csv="…"` is a file with that text."""
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            file.write_bytes(name.encode())
        else:
            file.mkdir()
    for name, text in texts.items():
        (root / name.replace("___", "/").replace("__", ".")).write_text(text)
    return root


def read(root: Path) -> dict[str, list[tuple[str, str]]]:
    found = read_folder(root, PICTURE_SUFFIXES, "image")
    return {
        split: [(os.path.relpath(row["image"], root), row["label"]) for row in rows] for split, rows in found.items()
    }


def said(root: Path) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_folder(root, PICTURE_SUFFIXES, "image")
    return [str(problem).replace(str(root), "ROOT") for problem in caught.value.problems]


def test_a_folder_of_classes_is_one_split(tmp_path: Path) -> None:
    folder(tmp_path, "dog/b.png", "cat/2.JPG", "cat/10.jpg", "cat/.hidden.png", "cat/notes.txt", "__MACOSX/x.png")
    assert read(tmp_path) == {"train": [("cat/10.jpg", "cat"), ("cat/2.JPG", "cat"), ("dog/b.png", "dog")]}


@pytest.mark.parametrize("name", ["valid", "val", "dev", "validation", "Validation"])
def test_splits_have_several_names_and_one_order(tmp_path: Path, name: str) -> None:
    folder(tmp_path, "test/a/1.png", f"{name}/a/2.png", "train/b/3.png", "train/a/4.png", "README.md")
    found = read(tmp_path)
    assert list(found) == ["train", "validation", "test"]
    assert found["train"] == [("train/a/4.png", "a"), ("train/b/3.png", "b")]
    assert found["validation"] == [(f"{name}/a/2.png", "a")]


def test_names_of_files_are_absolute_and_labels_are_strings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path, "data/0/x.png", "data/1/y.png")
    monkeypatch.chdir(tmp_path)
    rows = read_folder(Path("data"), PICTURE_SUFFIXES, "picture")["train"]
    assert rows.to_list() == [
        {"picture": f"{tmp_path.as_posix()}/data/0/x.png", "label": "0"},
        {"picture": f"{tmp_path.as_posix()}/data/1/y.png", "label": "1"},
    ]
    assert {kind.dtype for kind in rows.features.values()} == {"string"}


def test_sound_is_read_in_the_same_way(tmp_path: Path) -> None:
    folder(tmp_path, "yes/a.wav", "no/b.flac", "no/c.png")
    rows = read_folder(tmp_path, SOUND_SUFFIXES, "audio")["train"]
    assert rows.to_list() == [
        {"audio": str(tmp_path / "no/b.flac"), "label": "no"},
        {"audio": str(tmp_path / "yes/a.wav"), "label": "yes"},
    ]


def test_metadata_keeps_its_columns_and_its_order(tmp_path: Path) -> None:
    text = "file_name,age,label\nb.png,3,x\nin/a.png,,y\n"
    folder(tmp_path, "b.png", "in/a.png", metadata__csv=text)
    rows = read_folder(tmp_path, PICTURE_SUFFIXES, "image")
    assert list(rows) == ["train"]
    assert rows["train"].to_list() == [
        {"image": str(tmp_path / "b.png"), "age": 3, "label": "x"},
        {"image": str(tmp_path / "in/a.png"), "age": None, "label": "y"},
    ]


def test_metadata_of_the_root_may_name_files_in_splits(tmp_path: Path) -> None:
    text = '{"file_name": "val/a.png", "label": ["x", "y"]}\n{"file_name": "train/b.png", "label": []}\n'
    folder(tmp_path, "val/a.png", "train/b.png", metadata__jsonl=text)
    found = read_folder(tmp_path, PICTURE_SUFFIXES, "image")
    assert {split: rows.to_list() for split, rows in found.items()} == {
        "train": [{"image": str(tmp_path / "train/b.png"), "label": []}],
        "validation": [{"image": str(tmp_path / "val/a.png"), "label": ["x", "y"]}],
    }


def test_each_split_may_have_metadata_and_their_columns_get_one_type(tmp_path: Path) -> None:
    folder(tmp_path, "train/a.png", "dev/a.png")
    folder(
        tmp_path, train___metadata__csv="file_name,label\na.png,1\n", dev___metadata__csv="label,file_name\nx,a.png\n"
    )
    found = read(tmp_path)
    assert found == {"train": [("train/a.png", "1")], "validation": [("dev/a.png", "x")]}


def test_nothing_that_can_be_read(tmp_path: Path) -> None:
    (problem,) = said(folder(tmp_path, "cat/a.doc", "dog/"))
    assert "no file in this folder that can be read" in problem
    assert ".jpg, .png" in problem


def test_a_class_without_files_and_one_with_folders_are_reported_together(tmp_path: Path) -> None:
    problems = said(folder(tmp_path, "bird/", "cat/a.png", "dog/black/b.png", "loose.png", "other.png"))
    assert [problem.split(". Use")[0] for problem in problems] == [
        "ROOT: files lie beside folders or without a class (loose.png and 1 more)",
        "ROOT/bird: the class 'bird' has no file that can be read. Remove the folder, or fill it",
        "ROOT/dog: the class 'dog' has files in folders of its own (black/b.png)",
    ]


def test_splits_and_classes_are_not_mixed(tmp_path: Path) -> None:
    (problem,) = said(folder(tmp_path, "train/a/1.png", "cat/2.png"))
    assert problem.startswith("ROOT/cat: this folder is beside the split 'train'")


def test_two_folders_of_one_split(tmp_path: Path) -> None:
    (problem,) = said(folder(tmp_path, "val/a/1.png", "dev/a/2.png", "train/a/3.png"))
    assert problem.startswith("ROOT/val: two folders are the split validation")


def test_a_split_without_classes(tmp_path: Path) -> None:
    problems = said(folder(tmp_path, "train/a/1.png", "test/2.png"))
    assert [problem.split(" (")[0].split(". ")[0] for problem in problems] == [
        "ROOT/test: files lie beside folders or without a class",
        "ROOT/test: this folder has no folder for a class",
    ]


def test_metadata_in_one_split_and_not_in_another(tmp_path: Path) -> None:
    folder(tmp_path, "train/a/1.png", "test/2.png", test___metadata__csv="file_name,label\n2.png,a\n")
    (problem,) = said(tmp_path)
    assert problem.startswith("ROOT/train: this split has no metadata, and test has")


def test_metadata_in_a_class(tmp_path: Path) -> None:
    folder(tmp_path, "cat/a.png", cat___metadata__csv="file_name,label\na.png,x\n")
    assert said(tmp_path)[0].startswith("ROOT/cat: metadata lies in the folder of a class")


def test_files_and_metadata_that_do_not_belong_together(tmp_path: Path) -> None:
    names = ("a.png", "gone.png", "./a.png", "../out.png", "notes.txt", "")
    folder(
        tmp_path / "in",
        "a.png",
        "unnamed.png",
        "notes.txt",
        metadata__csv="file_name,label\n" + "".join(f"{name},x\n" for name in names),
    )
    folder(tmp_path, "out.png")
    problems = said(tmp_path / "in")
    assert [problem.removeprefix("ROOT/").split(". ")[0] for problem in problems] == [
        "metadata.csv: row 1 names gone.png, which is not there",
        "metadata.csv: rows 0 and 2 name the same file ./a.png",
        "metadata.csv: row 3 names ../out.png, which is not a name inside the folder",
        "metadata.csv: row 4 names notes.txt, which does not end in .bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, .webp",
        "metadata.csv: row 5 names no file",
        "unnamed.png: metadata.csv does not name this file",
    ]


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("filename,label", "there is no column 'file_name'. Did you mean 'filename'?"),
        ("file_name,image", "the column 'image' is where the files go"),
        ("file_name,label,label", "two columns are named 'label'"),
    ],
)
def test_columns_of_metadata_that_cannot_be(tmp_path: Path, header: str, problem: str) -> None:
    row = ",".join(["a.png", "x", "y"][: header.count(",") + 1])
    (found,) = said(folder(tmp_path, "a.png", metadata__csv=f"{header}\n{row}\n"))
    assert problem in found


def test_metadata_twice(tmp_path: Path) -> None:
    line = '{"file_name": "a.png", "label": "x"}\n'
    (problem,) = said(folder(tmp_path, "a.png", metadata__csv="file_name,label\na.png,x\n", metadata__jsonl=line))
    assert "there are metadata.csv and metadata.jsonl" in problem
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/metadata.jsonl").write_text(line)
    (problem,) = said(tmp_path)
    assert problem.startswith("ROOT/sub/metadata.jsonl: there is metadata in ROOT and here")


@pytest.mark.parametrize(("name", "where"), [("b.png", "are not"), ("cat/b.png", "in 'cat'")])
def test_metadata_that_names_files_inside_and_outside_of_splits(tmp_path: Path, name: str, where: str) -> None:
    folder(tmp_path, "train/a.png", name, metadata__csv=f"file_name,label\ntrain/a.png,x\n{name},y\n")
    (problem,) = said(tmp_path)
    assert f"some files are in folders of splits and others {where}" in problem


@pytest.mark.parametrize("other", ["cat/A.PNG", "Cat/a.png"])
def test_two_files_that_are_one_on_other_disks(tmp_path: Path, other: str) -> None:
    if len(list(folder(tmp_path, "cat/a.png", other).rglob("*.[pP]*"))) < 2:
        pytest.skip("this disk does not tell them apart")
    (problem,) = said(tmp_path)
    assert f"two files are named alike: {other} and cat/a.png" in problem


def test_an_accent_is_written_in_two_ways(tmp_path: Path) -> None:
    if len(list(folder(tmp_path, "cat/\u00e9.png", "cat/e\u0301.png").rglob("*.png"))) < 2:
        pytest.skip("this disk does not tell them apart")
    assert "two files are named alike" in said(tmp_path)[0]


def test_many_problems_are_counted(tmp_path: Path) -> None:
    folder(tmp_path, "a.png", *(f"{place}.png" for place in range(30)), metadata__csv="file_name,label\na.png,x\n")
    problems = said(tmp_path)
    assert len(problems) == 21
    assert problems[-1] == "and 10 more such problems"


def test_which_folders_are_those_of_media(tmp_path: Path) -> None:
    assert is_media_folder(folder(tmp_path / "1", "train/cat/a.png"), PICTURE_SUFFIXES)
    assert is_media_folder(folder(tmp_path / "2", "a.png", metadata__csv="file_name"), PICTURE_SUFFIXES)
    assert is_media_folder(folder(tmp_path / "3", "cat/a.PNG", "README.txt"), PICTURE_SUFFIXES)
    assert not is_media_folder(tmp_path / "3", SOUND_SUFFIXES)
    assert not is_media_folder(folder(tmp_path / "4", "train.csv", "images/a.png"), PICTURE_SUFFIXES)
    assert not is_media_folder(folder(tmp_path / "5", "a/b/c/d.png"), PICTURE_SUFFIXES)
    assert not is_media_folder(tmp_path / "1/train/cat/a.png", PICTURE_SUFFIXES)
    assert not is_media_folder(tmp_path / "gone", PICTURE_SUFFIXES)


def test_a_fingerprint_is_of_names_and_contents(tmp_path: Path) -> None:
    whole = fingerprint(folder(tmp_path / "a", "cat/a.png", "dog/b.png"), PICTURE_SUFFIXES)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b/cat/notes.txt").write_text("not read")
    assert fingerprint(tmp_path / "b", PICTURE_SUFFIXES) == whole
    (tmp_path / "b/dog/b.png").write_bytes(b"other")
    changed = fingerprint(tmp_path / "b", PICTURE_SUFFIXES)
    (tmp_path / "a/dog/b.png").rename(tmp_path / "a/cat/b.png")
    moved = fingerprint(tmp_path / "a", PICTURE_SUFFIXES)
    (tmp_path / "a/metadata.csv").write_text("file_name")
    assert len({whole, changed, moved, fingerprint(tmp_path / "a", PICTURE_SUFFIXES)}) == 4
