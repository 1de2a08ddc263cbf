"""Boxes: what a detector is told, what it says of them, and runs from end to end."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import AutoImageProcessor, AutoModelForObjectDetection, pipeline

import hfstrat as hf
from hfstrat import execute
from hfstrat.data import sources
from hfstrat.data.varying import Varied, _moved
from hfstrat.encoding import encode
from hfstrat.errors import DataError, ModelError, RecipeError
from hfstrat.models.processors import read_image_processor, squared
from hfstrat.recipe.data import FileData
from hfstrat.report import tables
from hfstrat.report.boxes import drawn
from hfstrat.report.gallery import Tile, gallery
from hfstrat.runs.directory import DIGESTS
from hfstrat.runs.rows import Row
from hfstrat.study import compare
from hfstrat.tasks import ObjectDetection
from hfstrat.tasks.base import Labels
from hfstrat.tasks.boxes import matched, objects_in, there
from hfstrat.tasks.object_detection import BoxAugmentationSpec, cells_of
from hfstrat.training import scoring
from hfstrat.verbs import init
from tests import command, elsewhere, tiny
from tests.faults.test_resume import check_goes_on
from tests.training import helpers

COLOURS = {"blue": (40, 60, 230), "green": (40, 220, 60), "red": (230, 40, 40)}
LABELS = Labels("boxes", tuple(COLOURS), (1, 1, 1))
SIZES = [(64, 48), (48, 64), (80, 40)]


def scene(number: int) -> tuple[Image.Image, list[list[float]], list[str]]:
    """A grey picture of one to three coloured rectangles: it, left, top, width and height of each, and its colour."""
    rng = np.random.default_rng([7, number])
    width, height = SIZES[number % 3]
    picture = Image.fromarray(rng.integers(90, 130, (height, width, 3), dtype=np.uint8))
    boxes, names = [], []
    for place in range(1 + number % 3):
        wide, high = int(rng.integers(12, 20)), int(rng.integers(12, 20))
        left = int(rng.integers(place * width // 3, max(place * width // 3 + 1, (place + 1) * width // 3 - wide + 6)))
        left, top = min(left, width - wide), int(rng.integers(0, height - high))
        name = list(COLOURS)[int(rng.integers(3))]
        ImageDraw.Draw(picture).rectangle((left, top, left + wide - 1, top + high - 1), COLOURS[name])
        boxes.append([left, top, wide, high])
        names.append(name)
    return picture, boxes, names


def row(number: int) -> dict[str, Any]:
    picture, boxes, names = scene(number)
    return {"image": np.asarray(picture), "objects": {"bbox": boxes, "category": names}}


def write_folder(folder: Path, count: int = 24) -> Path:
    """Pictures beside a metadata.jsonl that says what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        picture, boxes, names = scene(number)
        picture.save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "objects": {"bbox": boxes, "category": names}}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("scenes"))


def recipe(base: Path, strategy: dict[str, Any], source: Path | str, **task: Any) -> dict[str, Any]:
    given = helpers.recipe(base, strategy, train={"epochs": 2, "lr": 1e-3}, evaluate={"metrics": ["map", "map50"]})
    data = {"source": f"{source}/" if isinstance(source, Path) else source, "validation": 0.25, "test": 0.25}
    return {**given, "task": {"kind": "object_detection", **task}, "data": data}


def encoded_of(base: Path, numbers: list[int], **task: Any) -> Any:
    from datasets import Dataset

    own = ObjectDetection(**task)
    rows = [row(number) for number in numbers]
    data = Dataset.from_list([{**one, "image": one["image"].tolist()} for one in rows])
    columns = own.columns({}, data.column_names)
    processor = squared(read_image_processor(str(base), {}), None)
    return own, processor, encode(own, processor, own.read(data, "test", columns, LABELS), 0)


def lively(model: Any) -> Any:
    """A model whose queries do not all say the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "backbone" not in name:
                strength = 1.0 if "query_position" in name else 1.0 / max(1, parameter[0].numel()) ** 0.5
                parameter.data += strength * torch.randn_like(parameter)
    return model


# --- what a model is told and says ---------------------------------------------------------------------------


def test_a_detector_is_told_what_its_own_processor_tells_it(tiny_base):
    base = tiny_base("rt_detr")
    _, processor, encoded = encoded_of(base, [0, 1, 2])
    for place in range(3):
        picture, boxes, names = scene(place)
        objects = [
            {"bbox": box, "category_id": list(COLOURS).index(name), "area": box[2] * box[3], "iscrowd": 0}
            for box, name in zip(boxes, names, strict=True)
        ]
        made = processor(picture, annotations={"image_id": place, "annotations": objects}, return_tensors="np")
        told = encoded.aims[place][encoded.aims[place][:, 0] >= 0]
        np.testing.assert_allclose(told[:, 1:], made["labels"][0]["boxes"], atol=1e-6)
        assert told[:, 0].tolist() == made["labels"][0]["class_labels"].tolist()
        np.testing.assert_allclose(
            encoded.signals.inputs(np.array([place]))["pixel_values"], made["pixel_values"], atol=1e-6
        )


@pytest.mark.parametrize("family", list(tiny.DETECTORS))
def test_boxes_are_those_of_the_models_own_processor(family, tiny_base):
    base = tiny_base(family)
    model = lively(AutoModelForObjectDetection.from_pretrained(base)).eval()
    task, processor, encoded = encoded_of(base, [0, 1, 2])
    found = scoring.logits(model, encoded, 2)
    said = task.decode(task.collected(found, encoded, LABELS), Labels("boxes", tuple("abcde")), 0.0).predictions
    pictures = [scene(number)[0] for number in range(3)]
    sizes = [picture.size[::-1] for picture in pictures]
    with torch.inference_mode():
        outputs = model(**processor(pictures, return_tensors="pt"))
    expected = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
    for ours, theirs in zip(said, expected, strict=True):
        ours = ours[ours[:, 1] >= 0]
        order = np.argsort(-theirs["scores"].numpy(), kind="stable")[: len(ours)]
        np.testing.assert_allclose(ours[:, 0], theirs["scores"].numpy()[order], atol=1e-6)
        apart = np.abs(np.diff(ours[:, 0], prepend=2, append=-1)) > 1e-6  # of equal scores the order is anything
        clear = apart[:-1] & apart[1:]
        assert clear.sum() > 5
        assert (ours[clear, 1] == theirs["labels"].numpy()[order][clear]).all()
        np.testing.assert_allclose(ours[clear, 2:], theirs["boxes"].numpy()[order][clear], atol=1e-3)


# Queries with noise are as many as the most boxes of a picture in the batch allow.
PLAIN = {"num_denoising": 0, "freeze_backbone_batch_norms": False}


@pytest.mark.parametrize(
    ("family", "config", "precision"),
    [
        ("rt_detr", PLAIN, torch.float64),
        ("rt_detr_v2", PLAIN, torch.float64),
        ("yolos", {}, torch.float32),  # from here on they cast to it inside
        ("detr", {"dropout": 0.0}, torch.float32),
        ("conditional_detr", {"dropout": 0.0}, torch.float32),
        ("deformable_detr", {"dropout": 0.0}, torch.float32),
    ],
)
def test_micro_batches_are_one_batch(family, config, precision, tiny_base):
    base = tiny_base(family, **config)
    model = lively(AutoModelForObjectDetection.from_pretrained(base)).to(precision).train()
    _, _, encoded = encoded_of(base, [0, 1, 2, 3, 4, 5])
    for _ in range(20):  # so that statistics are those of pictures
        model(torch.from_numpy(encoded.signals.inputs(np.arange(6))["pixel_values"]).to(precision))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # which would look at the other pictures of a batch
    aims = torch.from_numpy(encoded.aims)
    own = encoded.own.of_update(encoded.aims)

    def pixels(rows: list[int]) -> torch.Tensor:
        return torch.from_numpy(encoded.signals.inputs(np.array(rows))["pixel_values"]).to(precision)

    def gradients(parts: list[list[int]]) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        total = 0.0
        for part in parts:
            said = own(model, {"pixel_values": pixels(part)}, aims[part])
            loss = ObjectDetection.loss(said, aims[part], "boxes") / ObjectDetection.weight(aims, "boxes")
            loss.backward()
            total += float(loss.detach())
        return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole, gradient = gradients([[0, 1, 2, 3, 4, 5]])
    parts, summed = gradients([[4, 0], [1], [5, 3, 2]])
    near = 1e-6 if precision == torch.float64 else 1e-3
    assert parts == pytest.approx(whole, rel=near / 100)
    assert float((summed - gradient).norm() / gradient.norm()) < near
    labels = [
        {"class_labels": one[:, 0].long(), "boxes": one[:, 1:].to(precision)}
        for one in (rows[rows[:, 0] >= 0] for rows in aims)
    ]
    loss = model(pixel_values=pixels([0, 1, 2, 3, 4, 5]), labels=labels).loss
    assert whole == pytest.approx(float(loss.detach()), rel=near / 100)


def test_a_picture_without_objects_is_learned_from_as_well(tiny_base):
    model = AutoModelForObjectDetection.from_pretrained(tiny_base("rt_detr")).train()
    _, _, encoded = encoded_of(tiny_base("rt_detr"), [0])
    inputs = {name: torch.from_numpy(value) for name, value in encoded.signals.inputs(np.array([0])).items()}
    loss = encoded.own.of_update(np.full((1, 0, 5), -1.0))(model, inputs, torch.full((1, 0, 5), -1.0))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert float(loss.detach()) > 0


# --- runs ----------------------------------------------------------------------------------------------------


def coco_of(run: Any, metric: int) -> float:
    """pycocotools on what a run has written down."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    frame = run.predictions()
    names = run.read("env.json")["labels"]["names"]
    truth, said = [], []
    for image, (true, found) in enumerate(zip(frame["reference"], frame["prediction"], strict=True)):
        for one in true:
            here = {"id": len(truth) + 1, "image_id": image, "bbox": list(one["box"]), "area": one["area"]}
            truth.append({**here, "category_id": names.index(one["label"]), "iscrowd": int(one["crowd"])})
        for one in found:
            here = {"image_id": image, "category_id": names.index(one["label"])}
            said.append({**here, "bbox": list(one["box"]), "score": one["score"]})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(frame))],
            "categories": [{"id": place, "name": name} for place, name in enumerate(names)],
            "annotations": truth,
        }
        coco.createIndex()
        judged = COCOeval(coco, coco.loadRes(said), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return float(judged.stats[metric])


@pytest.mark.parametrize(
    ("family", "strategy"),
    [
        ("rt_detr", {"kind": "scratch"}),
        ("rt_detr", {"kind": "head"}),
        ("rt_detr", {"kind": "partial", "last_n": 1}),
        ("rt_detr", {"kind": "full"}),
        ("rt_detr", {"kind": "lora", "r": 4}),
        ("yolos", {"kind": "full"}),
        ("yolos", {"kind": "lora", "r": 4}),
        ("detr", {"kind": "head"}),
        ("deformable_detr", {"kind": "full"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["kind"],
)
def test_a_run_leaves_a_detector_that_transformers_alone_loads(family, strategy, tiny_base, scenes, user, tmp_path):
    run = execute.train(recipe(tiny_base(family), strategy, scenes), runs=tmp_path)
    frame = run.predictions()
    files = [str(scenes / name) for name in frame["image"]]
    for metric, place in (("map", 0), ("map50", 1)):
        assert run.metrics["metrics"][metric]["value"] == pytest.approx(coco_of(run, place), abs=1e-6)
    said = hf.predict(run, files)
    threshold = json.loads((run.artifact / "config.json").read_text())["hfstrat"]["threshold"]
    for one, boxes, given in zip(said, frame["prediction"], frame["given"], strict=True):
        assert len(one["prediction"]) == given
        for ours, written in zip(one["prediction"], boxes, strict=False):
            assert ours["label"] == written["label"]
            assert ours["score"] == pytest.approx(written["score"], abs=1e-5)
            assert ours["score"] > threshold
    answer = user.run(elsewhere.program(run, tiny_base(family), files))
    for theirs, one in zip(answer["found"], said, strict=True):
        assert [box["label"] for box in theirs] == [box["label"] for box in one["prediction"]]
        for a, b in zip(theirs, one["prediction"], strict=True):
            left, top, width, height = b["box"]
            np.testing.assert_allclose(a["box"], [left, top, left + width, top + height], atol=1e-2)
    assert hf.evaluate(run)["metrics"]["map"]["value"] == pytest.approx(run.metrics["metrics"]["map"]["value"])


@pytest.mark.slow
def test_a_detector_from_a_shape_alone_learns_and_goes_on_to_other_classes(tmp_path):
    folder = write_folder(tmp_path / "scenes", 48)
    shape = {"model_type": "rt_detr", **tiny.RT_DETR, "freeze_backbone_batch_norms": False}
    del shape["num_labels"]
    given = recipe(Path(), {"kind": "scratch"}, folder, image_size=64)
    given["train"] |= {"epochs": 12, "lr": 2e-3, "batch_size": 8}
    given |= {"model": {"config": shape, "dropout": 0.0}}
    run = execute.train(given, runs=tmp_path / "runs")
    lines = (run.path / "log.jsonl").read_text().splitlines()
    losses = [one["loss"] for one in map(json.loads, lines) if one["kind"] == "update"]
    assert losses[-1] < 0.7 * losses[0]
    model = AutoModelForObjectDetection.from_pretrained(run.artifact)
    assert list(model.config.id2label.values()) == sorted(COLOURS)
    processor = AutoImageProcessor.from_pretrained(run.artifact, backend="pil")
    found = pipeline("object-detection", model=model, image_processor=processor, threshold=0.0)(str(folder / "0.png"))
    assert {one["label"] for one in found} <= set(COLOURS)
    shapes = [
        json.dumps(
            {
                "file_name": f"{number}.png",
                "objects": {"bbox": scene(number)[1], "category": ["thing"] * len(scene(number)[1])},
            }
        )
        for number in range(48)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(shapes) + "\n")
    again = recipe(run.path, {"kind": "head"}, folder)
    other = execute.train({**again, "name": "other"}, runs=tmp_path / "runs")
    before, after = model.state_dict(), AutoModelForObjectDetection.from_pretrained(other.artifact).state_dict()
    assert after["model.enc_score_head.weight"].shape[0] == after["model.decoder.class_embed.1.weight"].shape[0] == 1
    assert after["model.denoising_class_embed.weight"].shape[0] == 2
    moved = {name for name in before if before[name].shape != after[name].shape or not before[name].equal(after[name])}
    assert all(any(word in name for word in ("class", "score", "bbox")) for name in moved)
    assert any("bbox" in name for name in moved)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [{"kind": "scratch"}, {"kind": "partial", "last_n": 1}], ids=str)
def test_a_run_with_noise_and_varied_boxes_goes_on(strategy, tiny_base, tmp_path):
    rows = [{**row(number), "image": row(number)["image"].tolist()} for number in range(24)]
    varied = {"flip": True, "crop": 0.5, "colour": 0.2, "erase": 0.2}
    given = recipe(tiny_base("rt_detr"), strategy, "memory", augmentation=varied)
    given["train"]["checkpoint_every"] = 2
    check_goes_on(given, rows, tmp_path)


# --- data ----------------------------------------------------------------------------------------------------


def coco_json(folder: Path, numbers: list[int], file: str, names: list[str] | None = None) -> Path:
    """COCO's annotations beside pictures that lie in `images/`."""
    names = names or list(COLOURS)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in numbers:
        picture, boxes, labels = scene(number)
        picture.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": picture.width, "height": picture.height})
        for box, name in zip(boxes, labels, strict=True):
            here = {"id": len(annotations), "image_id": number, "category_id": 10 * names.index(name), "bbox": box}
            annotations.append({**here, "area": box[2] * box[3] / 2, "iscrowd": int(number % 6 == 3)})
    categories = [{"id": 10 * place, "name": name} for place, name in enumerate(names)]
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def voc(folder: Path, count: int) -> Path:
    """Pascal VOC's folder: corners from one on, the last pixel counted in."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture, boxes, names = scene(number)
        picture.save(folder / "JPEGImages" / f"{number}.png")
        objects = "".join(
            f"<object><name>{name}</name><difficult>{int(number % 6 == 3)}</difficult><bndbox><xmin>{left + 1}</xmin>"
            f"<ymin>{top + 1}</ymin><xmax>{left + wide}</xmax><ymax>{top + high}</ymax></bndbox></object>"
            for (left, top, wide, high), name in zip(boxes, names, strict=True)
        )
        (folder / "Annotations" / f"{number}.xml").write_text(f"<annotation>{objects}</annotation>")
    for split, part in (("train", range(12)), ("val", range(12, 18)), ("test", range(18, count))):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(map(str, part)))
    return folder


def boxes_of(folder: Path | str) -> dict[str, list[Any]]:
    """What is read of a place, by split: names of pictures with their objects."""
    loaded = sources.load(FileData(source=str(folder)))
    own = ObjectDetection()
    return {
        name: [
            (Path(file).name, cell.boxes.tolist(), cell.names, cell.crowd.tolist())
            for file, cell in zip(rows["image"], cells_of(rows, "objects"), strict=True)
        ]
        for name, rows in loaded.splits.items()
        if own.columns({}, rows.column_names)
    }


def expected(numbers: Any) -> list[Any]:
    found = ((f"{number}.png", scene(number), float(number % 6 == 3)) for number in numbers)
    return [(name, boxes, tuple(names), [crowd] * len(names)) for name, (_, boxes, names), crowd in found]


def test_coco_and_voc_are_read_as_they_are(tmp_path):
    for split, numbers in (("train2017", range(12)), ("val2017", range(12, 18))):
        coco_json(tmp_path / "coco", list(numbers), f"annotations/instances_{split}.json")
    assert boxes_of(tmp_path / "coco") == {"train": expected(range(12)), "validation": expected(range(12, 18))}
    one = coco_json(tmp_path / "one", list(range(5)), "mine.json")
    assert boxes_of(one) == {"train": expected(range(5))}
    found = boxes_of(voc(tmp_path / "voc", 24))
    assert found == {
        "train": expected(range(12)),
        "validation": expected(range(12, 18)),
        "test": expected(range(18, 24)),
    }


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_a_run_on_annotations_of_tools(form, tiny_base, tmp_path):
    source = voc(tmp_path / "data", 24) if form == "voc" else tmp_path / "data"
    if form == "coco":
        coco_json(source, list(range(24)), "_annotations.coco.json")
    given = recipe(tiny_base("rt_detr"), {"kind": "head"}, source)
    if form == "voc":
        given["data"] = {"source": f"{source}/"}
    run = execute.train(given, runs=tmp_path / "runs")
    crowds = [one["crowd"] for row in run.predictions()["reference"] for one in row]
    assert 0 < sum(crowds) < len(crowds)
    assert run.metrics["metrics"]["map"]["value"] == pytest.approx(coco_of(run, 0), abs=1e-6)
    assert set(run.metrics["by_class"]) == set(COLOURS)


def test_boxes_in_other_forms_are_the_same_boxes(tiny_base):
    aims = encoded_of(tiny_base("rt_detr"), [0, 1, 2])[2].aims

    def told(form: str, change: Any) -> np.ndarray:
        from datasets import Dataset

        own = ObjectDetection(boxes=form)
        rows = []
        for number in (0, 1, 2):
            picture, boxes, names = scene(number)
            objects = [{"bbox": change(box, picture), "label": name} for box, name in zip(boxes, names, strict=True)]
            rows.append({"image": np.asarray(picture).tolist(), "objects": objects})
        data = Dataset.from_list(rows)
        processor = squared(read_image_processor(str(tiny_base("rt_detr")), {}), None)
        return encode(own, processor, own.read(data, "test", own.columns({}, data.column_names), LABELS), 0).aims

    def corners(box: list[float], picture: Image.Image) -> list[float]:
        return [box[0], box[1], box[0] + box[2], box[1] + box[3]]

    def shares(box: list[float], picture: Image.Image) -> list[float]:
        middle = [box[0] + box[2] / 2, box[1] + box[3] / 2, box[2], box[3]]
        return [side / whole for side, whole in zip(middle, 2 * picture.size, strict=True)]

    np.testing.assert_allclose(told("xyxy", corners), aims, atol=1e-6)
    np.testing.assert_allclose(told("cxcywh_relative", shares), aims, atol=1e-6)


def test_a_data_set_of_the_hub_names_its_classes(tiny_base, tmp_path):
    from datasets import ClassLabel, Dataset, Features, List, Value
    from datasets import Image as Pictures

    objects = {"bbox": List(List(Value("float32"))), "category": List(ClassLabel(names=[*COLOURS, "unseen"]))}
    rows = [
        {
            "image": scene(number)[0],
            "objects": {"bbox": scene(number)[1], "category": [[*COLOURS].index(one) for one in scene(number)[2]]},
        }
        for number in range(24)
    ]
    data = Dataset.from_list(rows, features=Features({"image": Pictures(), "objects": objects}))
    run = execute.train(recipe(tiny_base("rt_detr"), {"kind": "head"}, "memory"), data=data, runs=tmp_path)
    assert run.read("env.json")["labels"]["names"] == [*COLOURS, "unseen"]
    assert run.metrics["by_class"]["unseen"]["map"] is None
    assert any("without an object in train: unseen" in one for one in run.read("audit.json")["warnings"])


def test_all_that_is_wrong_with_boxes_is_said_at_once(tiny_base, tmp_path):
    folder = write_folder(tmp_path / "data", 12)
    (folder / "0.png").write_text("no picture")
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    lines[1]["objects"]["bbox"][0] = [1, 2, 500, 3]
    lines[2]["objects"]["bbox"][0] = [5, 5, -2, 3]
    lines[3]["objects"]["bbox"][0] = [None, 5, 2, 3]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    given = recipe(tiny_base("rt_detr"), {"kind": "head"}, folder)
    given["data"] = {"source": f"{folder}/", "validation": 0.3, "test": 0.3}
    with pytest.raises(DataError) as caught:
        execute.train(given, runs=tmp_path / "runs")
    said = str(caught.value)
    assert "0.png" in said
    assert "outside of its picture: row 1" in said
    assert "ends before it begins: row 2" in said
    assert "no numbers: row 3" in said
    assert not (tmp_path / "runs").exists()


def test_what_can_be_learned_from_all_the_same_is_told(tiny_base, tmp_path):
    folder = write_folder(tmp_path / "data", 24)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    lines[0]["objects"] = {"bbox": [], "category": []}
    lines[3]["objects"]["bbox"][0] = [-1, 0, 20, 20]
    lines[4]["objects"]["bbox"][0] = [5, 5, 0, 20]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    given = recipe(tiny_base("rt_detr"), {"kind": "head"}, folder)
    run = execute.train(given, runs=tmp_path / "runs")
    told = " ".join(run.read("audit.json")["warnings"])
    assert "pictures without an object" in told
    assert "lies outside by a pixel or less" in told
    assert "of no area, which is left out" in told


@pytest.mark.parametrize(
    ("objects", "what"),
    [
        ({"bbox": [[1, 2, 3]], "category": ["red"]}, "a box is not four numbers"),
        ({"bbox": [[1, 2, 3, 4]], "category": []}, "there are 1 boxes and 0 categories"),
        ({"bbox": [[1, 2, 3, 4]], "category": [None]}, "an object has no category"),
        ([[1, 2, 3, 4]], "no mapping of a box and a category"),
        ("red", "no mapping of boxes and categories"),
    ],
)
def test_cells_that_are_no_objects(objects, what):
    with pytest.raises(ValueError, match=what):
        objects_in(objects)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda found: found["annotations"][0].update(category_id=5), "of the category 5, which is not there"),
        (lambda found: found["annotations"][0].update(image_id=-1), "of the image -1, which is not there"),
        (lambda found: found["annotations"][0].update(bbox=[1, 2]), "no box of four numbers"),
        (lambda found: found["images"][0].update(file_name="../x.png"), "not a name inside of the folder"),
        (lambda found: found["images"][0].update(file_name="absent.png"), "absent.png is not there"),
        (lambda found: found.pop("categories"), "lists of images, annotations and categories"),
    ],
)
def test_annotations_that_do_not_fit(damage, what, tmp_path):
    file = coco_json(tmp_path, [0, 1], "annotations.json")
    found = json.loads(file.read_text())
    damage(found)
    file.write_text(json.dumps(found))
    with pytest.raises(DataError, match=what):
        sources.load(FileData(source=str(tmp_path)))


def test_xml_that_declares_entities_is_not_read(tmp_path):
    folder = voc(tmp_path, 24)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    text = (folder / "Annotations" / "1.xml").read_text()
    entity = f'<!DOCTYPE a [<!ENTITY x SYSTEM "{secret}">]>'
    (folder / "Annotations" / "1.xml").write_text(entity + text.replace("<name>", "<name>&x;", 1))
    (folder / "Annotations" / "2.xml").write_text("<annotation><object>")
    (folder / "Annotations" / "3.xml").unlink()
    with pytest.raises(DataError) as caught:
        sources.load(FileData(source=str(folder)))
    said = str(caught.value)
    assert "declares types or entities" in said
    assert "2.xml" in said
    assert "3 has no annotations" in said
    assert "secret" not in said.replace(str(secret), "")


def test_init_knows_boxes(scenes, tmp_path):
    for source in (
        scenes,
        coco_json(tmp_path / "coco", list(range(5)), "annotations.json").parent,
        voc(tmp_path / "voc", 24),
    ):
        text = init.run(source, None)
        assert "kind: object_detection" in text
        assert "objects: objects" in text


# --- variation -----------------------------------------------------------------------------------------------


def test_boxes_go_where_their_objects_go(tiny_base):
    _, _, encoded = encoded_of(tiny_base("rt_detr"), list(range(6)))
    varied = Varied(BoxAugmentationSpec(flip=True, crop=0.4), LABELS)
    seen = 0
    for epoch in range(6):
        drawn = varied.drawn(encoded, np.arange(6), 0, epoch)
        for picture, rows in zip(drawn.signals.values, drawn.aims, strict=True):
            for label, x, y, width, height in rows[rows[:, 0] >= 0]:
                inner = [round(side * 64) for side in (x - width / 4, x + width / 4, y - height / 4, y + height / 4)]
                colour = picture[:, inner[2] : inner[3] + 1, inner[0] : inner[1] + 1].mean(axis=(1, 2))
                true = np.array(list(COLOURS.values())[int(label)], np.float64)
                nearest = min(COLOURS, key=lambda one: float(np.abs(np.array(COLOURS[one]) - colour).sum()))
                assert nearest == list(COLOURS)[int(label)], (colour, true)
                seen += 1
    assert 40 < seen < 6 * (encoded.aims[..., 0] >= 0).sum(), "and some are cut off"
    again = varied.drawn(encoded, np.array([4]), 0, 5)
    np.testing.assert_array_equal(again.aims[0], drawn.aims[4])
    np.testing.assert_array_equal(again.signals.values[0], drawn.signals.values[4])
    whole = Varied(BoxAugmentationSpec(), LABELS).drawn(encoded, np.arange(6), 0, 0)
    np.testing.assert_allclose(whole.aims, encoded.aims, atol=1e-6)


def test_a_box_of_which_little_is_left_goes():
    box = np.array([[0, 0.5, 0.5, 0.2, 0.2], [1, 0.1, 0.1, 0.1, 0.1], [-1, -1, -1, -1, -1]], np.float32)
    kept = _moved(box, (0.4, 0.53, 0.9, 1.0), False)
    assert kept[:, 0].tolist() == [0, -1, -1], "a third and a bit"
    assert _moved(box, (0.4, 0.54, 0.9, 1.0), False)[:, 0].tolist() == [-1, -1, -1]
    mirrored = _moved(box, (0.0, 0.0, 1.0, 1.0), True)
    np.testing.assert_allclose(mirrored[1], [1, 0.9, 0.1, 0.1, 0.1], atol=1e-6)


def test_a_backbone_of_a_package_that_is_missing_is_said_before_anything_is_trained(scenes, tmp_path):
    if importlib.util.find_spec("timm") is not None:
        pytest.skip("timm is here")
    given = recipe(Path(), {"kind": "scratch"}, scenes, image_size=64)
    backbone = {"model_type": "timm_backbone", "backbone": "resnet50", "out_indices": [1, 2, 3, 4]}
    given |= {"model": {"config": {"model_type": "detr", "backbone_config": backbone}}}
    with pytest.raises(ModelError, match="timm"):
        execute.train(given, runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_strategies_that_do_not_go_with_boxes(tiny_base, scenes, tmp_path):
    with pytest.raises(RecipeError, match="stands in several layers"):
        execute.train(recipe(tiny_base("deformable_detr"), {"kind": "lora", "r": 4}, scenes), runs=tmp_path)
    teacher = {"kind": "distill", "teacher": str(tiny_base("rt_detr"))}
    with pytest.raises(RecipeError, match="which of a teacher's boxes"):
        execute.train(recipe(tiny_base("rt_detr"), teacher, scenes), runs=tmp_path)
    with pytest.raises(RecipeError, match="does not end in a linear layer"):
        execute.train(recipe(tiny_base("rt_detr"), {"kind": "head", "solver": "lbfgs"}, scenes), runs=tmp_path)


# --- pictures of what was found ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tiny_base, scenes, tmp_path_factory):
    return execute.train(recipe(tiny_base("rt_detr"), {"kind": "head"}, scenes), runs=tmp_path_factory.mktemp("runs"))


def test_a_run_leaves_a_gallery_that_its_card_names(finished):
    with Image.open(finished.path / "gallery.png") as sheet:
        assert sheet.width > 2 * 320
    digests = json.loads((finished.path / DIGESTS).read_text())
    assert "gallery.png" in digests
    card = (finished.artifact / "README.md").read_text()
    assert "`gallery.png`" in card
    assert "| `red` |" in card
    assert "pipeline_tag: object-detection" in card


def test_predict_draws_what_it_finds(finished, scenes, tmp_path):
    said = tmp_path / "said.jsonl"
    result = command.hfstrat("predict", finished.path, scenes, "-o", said, "--draw", tmp_path / "drawn")
    assert result.code == 0, result.err
    assert len(said.read_text().splitlines()) == 24
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 24
    refused = command.hfstrat("predict", finished.path, "--draw", tmp_path / "drawn")
    assert refused.code == 2
    assert "no boxes to draw" in refused.err


def test_the_threshold_has_the_best_f1(tiny_base):
    task, _, encoded = encoded_of(tiny_base("rt_detr"), list(range(8)))
    truth, rng = encoded.examples.targets, np.random.default_rng(0)
    found = np.full((8, 1 + 6 * 100), -1.0)
    rows = found[:, 1:].reshape(8, 100, 6)
    for image, true in zip(rows, truth, strict=True):
        here = np.repeat(there(true), 3, axis=0)
        image[: len(here), 1] = here[:, 0]
        image[: len(here), 2:] = here[:, 1:5] + rng.normal(0, 3, (len(here), 4))
        image[: len(here), 0] = -np.sort(-rng.random(len(here)))

    def f1(threshold: float) -> float:
        right = given = wanted = 0
        for said, true in zip(task.decode(found, LABELS, threshold).predictions, truth, strict=True):
            kept, true = said[(said[:, 1] >= 0) & (said[:, 0] > threshold)], there(true)
            right, given, wanted = right + (matched(kept, true) >= 0).sum(), given + len(kept), wanted + len(true)
        return 2 * right / (given + wanted)

    best = task.threshold(found, encoded.examples, "boxes")
    assert f1(best) == max(f1(threshold) for threshold in np.linspace(0, 1, 500).tolist())
    assert 0.2 < f1(best) < 1
    assert task.threshold(np.full_like(found, -1.0), encoded.examples, "boxes") == task.default_threshold


@pytest.mark.slow
def test_compare_pairs_arms_on_the_same_resamples(tiny_base, scenes, tmp_path):
    runs = [
        execute.train({**recipe(tiny_base("rt_detr"), {"kind": kind}, scenes), "name": kind}, runs=tmp_path)
        for kind in ("head", "full")
    ]
    lines = [tables.Line.over([Row.of(run)]) for run in runs]
    (verdict,) = compare._verdicts(tmp_path, lines, "map")
    values = [run.metrics["metrics"]["map"]["value"] for run in runs]
    assert verdict.arms == ("head", "full")
    assert verdict.difference.value == pytest.approx(values[0] - values[1], abs=1e-9)
    assert verdict.difference.low <= verdict.difference.value <= verdict.difference.high


def test_boxes_are_drawn_where_they_are():
    picture = Image.new("RGB", (400, 400), "white")
    found = [{"label": "a", "score": 0.9, "box": [100, 150, 80, 60]}]
    true = [{"label": "b", "box": [200, 250, 80, 60]}]
    sheet = np.asarray(drawn(picture, found, ("a", "b"), true)).astype(int)
    other = np.abs(sheet - 255).sum(axis=2) > 0
    assert other[180, 100], "its left side"
    assert not other[180, 140], "and nothing inside"
    side = other[250, 200:281]
    assert 0.3 < side.mean() < 0.8, "a dashed line"
    tiny_one = drawn(Image.new("RGB", (20, 10)), found, ("a",))
    assert min(tiny_one.size) >= 320, "letters have room"


def test_a_gallery_has_a_place_for_each_picture():
    pictures = [Image.new("RGB", (30, height), "red") for height in (10, 20, 30)]
    tiles = [Tile(one, "x" * 200, right) for one, right in zip(pictures, (True, False, None), strict=True)]
    sheet = gallery(tiles, columns=2, side=100)
    assert sheet.width < 2 * 120
    assert sheet.height > 2 * 100
    assert sheet.getpixel((8 + 50, 8 + 50)) == (255, 0, 0)
