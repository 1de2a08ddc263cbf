"""Boxes beside pictures in the two forms that annotation tools write: COCO's JSON and Pascal VOC's XML.

Both become rows of `image` and `objects`, with boxes as left, top, width and height in pixels, as they would be in a
metadata.jsonl. What is named and is not there is a problem, and all problems are reported at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from hfstrat.data.listing import refused
from hfstrat.errors import Problem

if TYPE_CHECKING:
    from datasets import Dataset

_SPLITS = {
    **{name: name for name in ("train", "validation", "test")},
    **{name: "validation" for name in ("valid", "val", "dev")},
}
_COCO = re.compile(r"(.*annotations.*|instances_.*)\.json", re.IGNORECASE)
_WHOLE = 2**20  # bytes of a JSON file that are looked at to tell what it is
_VOC = ("Annotations", "JPEGImages", "ImageSets/Main")


@dataclass
class _Reading:
    """What is read, and what is wrong with it."""

    root: Path
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)

    def wrong(self, message: str, where: Path, hint: str = "") -> None:
        self.problems.append(Problem(message, where=str(where), hint=hint))

    def add(self, split: str, file: Path, objects: Mapping[str, Any], **more: Any) -> None:
        self.rows.setdefault(split, []).append({**more, "image": file.absolute().as_posix(), "objects": dict(objects)})
        self.digest.update(f"{split} {file.name} ".encode())
        with file.open("rb") as stream:
            self.digest.update(hashlib.file_digest(stream, "sha256").digest())
        self.digest.update(json.dumps(objects, sort_keys=True).encode())


def read_annotated(source: Path, roles: Mapping[str, Path]) -> tuple[dict[str, Dataset], str] | None:
    """Rows of each split and their fingerprint, if a place holds COCO's or Pascal VOC's annotations.

    Args:
        source: A folder, or a file of COCO's.
        roles: Further files by the name of the split that they are.

    Returns:
        None where it holds something else.

    Raises:
        DataError: Annotations and pictures do not belong together, or are not written as they should be.
    """
    reading = _Reading(source if source.is_dir() else source.parent)
    if source.is_dir() and all((source / name).is_dir() for name in _VOC[:2]):
        _read_voc(reading)
    elif files := _coco_files(source):
        named = [*((_split_of(file, reading.root), file) for file in files), *roles.items()]
        for split, file in named:
            _read_coco(reading, split, file)
    else:
        return None
    if not reading.problems and not reading.rows:
        reading.wrong("there is no picture with annotations", source)
    if reading.problems:
        raise refused(reading.problems)
    return {name: _dataset(rows) for name, rows in reading.rows.items()}, reading.digest.hexdigest()


def _dataset(rows: list[dict[str, Any]]) -> Dataset:
    from datasets import Dataset, Features, List, Value

    number, text = Value("float64"), Value("string")
    objects = {
        "bbox": List(List(number)),
        "category": List(text),
        "iscrowd": List(Value("int64")),
        "area": List(number),
    }
    return Dataset.from_list(rows, features=Features({"id": text, "image": text, "objects": objects}))


def _inside(root: Path, name: str) -> bool:
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


# --- COCO -----------------------------------------------------------------------------------------------------


def _coco_files(source: Path) -> list[Path]:
    """Files of COCO's annotations: the one that is named, or those of a folder, of its `annotations` or its splits."""
    if source.is_file():
        return [source] if source.suffix.lower() == ".json" and _is_coco(source) else []
    folders = [
        source,
        source / "annotations",
        *(one for one in sorted(source.iterdir()) if one.name.lower() in _SPLITS),
    ]
    found = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())]
    return [file for file in found if file.is_file() and _COCO.fullmatch(file.name) and _is_coco(file)]


def _is_coco(file: Path) -> bool:
    """Whether a file begins like an object that has images or annotations; nothing else is asked before it is read."""
    try:
        with file.open("rb") as stream:
            start = stream.read(_WHOLE).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError:
        return False
    return start.startswith(b"{") and re.search(rb'"(images|annotations)"\s*:\s*\[', start) is not None


def _split_of(file: Path, root: Path) -> str:
    """`instances_train2017.json` and `train/_annotations.coco.json` are train, and so is what has no split's name."""
    inside = file.relative_to(root)
    words = [
        word for part in (*reversed(inside.parts[:-1]), inside.stem) for word in re.split(r"[^a-z]+", part.lower())
    ]
    return next((_SPLITS[word] for word in words if word in _SPLITS), "train")


def _read_coco(reading: _Reading, split: str, file: Path) -> None:
    try:
        found = json.loads(file.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reading.wrong(f"the annotations cannot be read: {error}", file, "Is it whole? Write or download it again")
        return
    parts = (
        {name: found.get(name) for name in ("images", "annotations", "categories")} if isinstance(found, dict) else {}
    )
    lists = {name: part for name, part in parts.items() if isinstance(part, list)}
    if len(lists) < 3 or not all(isinstance(one, dict) for part in lists.values() for one in part):
        reading.wrong("COCO's annotations have lists of images, annotations and categories", file)
        return
    names = {one.get("id"): str(one.get("name")) for one in lists["categories"]}
    boxes: dict[Any, list[dict[str, Any]]] = {one.get("id"): [] for one in lists["images"]}
    for place, one in enumerate(lists["annotations"]):
        box, crowd = one.get("bbox"), one.get("iscrowd", 0)
        if one.get("image_id") not in boxes:
            reading.wrong(f"annotation {place} is of the image {one.get('image_id')}, which is not there", file)
        elif one.get("category_id") not in names:
            reading.wrong(f"annotation {place} is of the category {one.get('category_id')}, which is not there", file)
        elif not isinstance(box, list) or len(box) != 4 or not all(_is_number(side) for side in box):
            reading.wrong(f"annotation {place} has no box of four numbers", file, "Delete it, or give it a bbox")
        else:
            area = one.get("area")
            boxes[one["image_id"]].append(
                {
                    "bbox": [float(side) for side in box],
                    "category": names[one["category_id"]],
                    "iscrowd": int(bool(crowd)),
                    "area": float(area) if _is_number(area) else None,
                }
            )
    places = _places(reading.root, file, split)
    for one in lists["images"]:
        picture = _picture(reading, file, str(one.get("file_name") or ""), places)
        if picture is not None:
            rows = boxes[one.get("id")]
            objects = {key: [row[key] for row in rows] for key in ("bbox", "category", "iscrowd", "area")}
            reading.add(split, picture, objects, id=str(one.get("id")))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _places(root: Path, file: Path, split: str) -> list[Path]:
    """Folders in which pictures may lie, as tools leave them."""
    stem = file.stem.rpartition("_")[2]
    names = dict.fromkeys((stem, split, *(name for name, one in _SPLITS.items() if one == split)))
    bases = dict.fromkeys((file.parent, root, root / "images", root.parent))
    return [base / name for base in bases for name in ("", *names)]


def _picture(reading: _Reading, file: Path, name: str, places: Sequence[Path]) -> Path | None:
    if not name or not _inside(reading.root, name):
        reading.wrong(f"an image has the file_name '{name}', which is not a name inside of the folder", file)
        return None
    found = next((place / name for place in places if (place / name).is_file()), None)
    if found is None:
        hint = f"Pictures are looked for beside the annotations, in {reading.root} and in its folder images"
        reading.wrong(f"the picture {name} is not there", file, hint)
    return found


# --- Pascal VOC ------------------------------------------------------------------------------------------------


def _read_voc(reading: _Reading) -> None:
    annotations, pictures, sets = (reading.root / name for name in _VOC)
    there = {file.stem: file for file in sorted(annotations.iterdir()) if file.suffix.lower() == ".xml"}
    beside = {file.stem: file for file in sorted(pictures.iterdir()) if file.is_file()}
    splits = (
        {_SPLITS[file.stem]: file for file in sorted(sets.glob("*.txt")) if file.stem in _SPLITS}
        if sets.is_dir()
        else {}
    )
    listed = {
        split: [line.split()[0] for line in file.read_text("utf-8").splitlines() if line.strip()]
        for split, file in splits.items()
    }
    for split, names in (listed or {"train": list(there)}).items():
        for name in names:
            if name not in there or name not in beside:
                lost = "annotations" if name not in there else "picture"
                reading.wrong(f"{name} has no {lost}", splits.get(split, annotations))
                continue
            objects = _objects(reading, there[name])
            if objects is not None:
                reading.add(split, beside[name], objects, id=name)


def _objects(reading: _Reading, file: Path) -> dict[str, list[Any]] | None:
    """The objects of a file: corners count pixels from one, and the last one in; what is difficult is not wanted."""
    try:
        root = _parsed(file)
    except (OSError, expat.ExpatError, ValueError) as error:
        reading.wrong(f"the annotations cannot be read: {error}", file)
        return None
    objects: dict[str, list[Any]] = {"bbox": [], "category": [], "iscrowd": [], "area": []}
    for one in root.iter("object"):
        name, box = (one.findtext("name") or "").strip(), one.find("bndbox")
        try:
            sides = [float((box.findtext(side) if box is not None else None) or "") for side in _SIDES]
        except ValueError:
            reading.wrong("an object has no bndbox of xmin, ymin, xmax and ymax", file)
            return None
        if not name:
            reading.wrong("an object has no name", file)
            return None
        left, top, right, bottom = sides[0] - 1, sides[1] - 1, sides[2], sides[3]
        objects["bbox"].append([left, top, right - left, bottom - top])
        objects["category"].append(name)
        objects["iscrowd"].append(int((one.findtext("difficult") or "0").strip() == "1"))
        objects["area"].append(None)
    return objects


_SIDES = ("xmin", "ymin", "xmax", "ymax")


def _parsed(file: Path) -> Element:
    """XML without declarations of its own: entities may name files, or grow without end.

    Raises:
        ValueError: There is one.
        ExpatError: It is no XML.
    """
    parser, builder = expat.ParserCreate(), TreeBuilder()

    def declared(*of: Any) -> None:
        raise ValueError("it declares types or entities, which are not read")

    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = declared
    parser.StartElementHandler = lambda name, attributes: builder.start(name, attributes)
    parser.EndElementHandler = lambda name: builder.end(name)
    parser.CharacterDataHandler = builder.data
    parser.Parse(file.read_bytes(), True)
    return builder.close()
