"""Boxes beside Transformers' Trainer: same first weights, data, epochs, batch, learning rate and precision.

    python benchmarks/boxes.py --data DIR [--epochs 12] [--seeds 0] [--size 128]

DIR is a folder of pictures with a metadata.jsonl for each of train, validation and test, such as BCCD's blood cells. A
small RT-DETR learns them from random weights. The Trainer is used as its own example does (`run_object_detection.py`):
annotations by the image processor, the best state by the mean average precision on validation. The score is computed
from what both sides say of the test pictures by the same function, which is held to pycocotools here; the difference
has an interval over resampled pictures. Then one class alone is a new task, learned on top of the first run by its
heads, by its last decoder layer, and from random weights. What is done stays in `--folder` and is not done again. The
table goes to benchmarks/boxes.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers.arguments import arguments

ROOT = Path(__file__).parent.parent
SHAPE: dict[str, Any] = {
    "model_type": "rt_detr",
    "backbone_config": {
        "model_type": "rt_detr_resnet",
        "embedding_size": 16,
        "hidden_sizes": [16, 32, 64, 128],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage2", "stage3", "stage4"],
    },
    "freeze_backbone_batch_norms": False,
    "d_model": 64,
    "encoder_hidden_dim": 64,
    "encoder_in_channels": [32, 64, 128],
    "encoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "encoder_layers": 1,
    "hidden_expansion": 0.5,
    "decoder_in_channels": [64, 64, 64],
    "decoder_ffn_dim": 128,
    "decoder_attention_heads": 4,
    "decoder_layers": 2,
    "num_queries": 60,
    "num_denoising": 30,
}
TRAIN = {"batch_size": 8, "lr": 1e-3, "weight_decay": 1e-4, "warmup": 0.05, "precision": "fp32", "threads": 1}
ONE = "WBC"


# --- hfstrat -------------------------------------------------------------------------------------------------


def ours(name: str, words: argparse.Namespace, data: Path, seed: int, **sections: Any) -> Path:
    """Train with hfstrat on the command line; the run's directory."""
    recipe = {
        "name": name,
        "seed": seed,
        "model": {"config": SHAPE, "dropout": 0.0},
        "task": {"kind": "object_detection", "image_size": words.size},
        "data": {"source": f"{data}/"},
        "strategy": {"kind": "scratch"},
        "train": {**TRAIN, "epochs": words.epochs},
        **sections,
    }
    run = words.folder / name
    if not (run / "metrics.json").is_file():
        file = words.folder / f"{name}.yaml"
        file.write_text(json.dumps(recipe), "utf-8")
        command = [sys.executable, "-m", "hfstrat", "train", str(file), "--runs", str(words.folder), "--quiet"]
        subprocess.run([*command, "--resume"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return run


def of_one_class(data: Path, folder: Path) -> Path:
    """The same pictures with the boxes of one class alone."""
    for metadata in sorted(data.glob("*/metadata.jsonl")):
        there = folder / metadata.parent.name
        there.mkdir(parents=True, exist_ok=True)
        lines = []
        for row in map(json.loads, metadata.read_text("utf-8").splitlines()):
            pairs = zip(row["objects"]["bbox"], row["objects"]["category"], strict=True)
            boxes = [box for box, label in pairs if label == ONE]
            lines.append(json.dumps({**row, "objects": {"bbox": boxes, "category": [ONE] * len(boxes)}}))
            file = there / row["file_name"]
            if not file.exists():
                file.symlink_to((metadata.parent / row["file_name"]).resolve())
        (there / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


# --- the peer ------------------------------------------------------------------------------------------------


def peer(run: Path, data: Path, file: Path) -> None:
    """Train with Transformers' Trainer by the settings of a run of hfstrat, and write what it says."""
    import torch
    import yaml
    from PIL import Image
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection, Trainer

    recipe = yaml.safe_load((run / "recipe.yaml").read_text("utf-8"))
    names = json.loads((run / "env.json").read_text("utf-8"))["labels"]["names"]
    torch.set_num_threads(int(recipe["train"]["threads"]))
    processor = AutoImageProcessor.from_pretrained(run / "artifact", backend="pil")
    parts = {name: _rows(data / name) for name in ("train", "validation", "test")}
    shape = {key: value for key, value in SHAPE.items() if key != "model_type"}
    config = AutoConfig.for_model(SHAPE["model_type"], **shape, id2label=dict(enumerate(names)))
    torch.manual_seed(recipe["seed"])
    model = AutoModelForObjectDetection.from_config(config)

    class Pictures(torch.utils.data.Dataset):
        def __init__(self, rows: list[dict[str, Any]]) -> None:
            self.rows = [self._made(row, place) for place, row in enumerate(rows)]  # once, as hfstrat does

        def _made(self, row: dict[str, Any], place: int) -> dict[str, Any]:
            objects = [
                {"bbox": box, "category_id": names.index(label), "area": box[2] * box[3], "iscrowd": 0}
                for box, label in zip(row["objects"]["bbox"], row["objects"]["category"], strict=True)
                if box[2] > 0 and box[3] > 0
            ]
            picture = Image.open(row["file"]).convert("RGB")
            made = processor(picture, annotations={"image_id": place, "annotations": objects}, return_tensors="pt")
            return {"pixel_values": made["pixel_values"][0], "labels": dict(made["labels"][0])}

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, place: int) -> dict[str, Any]:
            return self.rows[place]

    def together(rows: list[dict[str, Any]]) -> dict[str, Any]:
        pixels = torch.stack([row["pixel_values"] for row in rows])
        return {"pixel_values": pixels, "labels": [row["labels"] for row in rows]}

    def said(trainer: Trainer, rows: list[dict[str, Any]]) -> list[list[list[float]]]:
        """Score, class and corners of the boxes of each picture."""
        found: list[list[list[float]]] = []
        trainer.model.eval()
        for start in range(0, len(rows), 8):
            part = rows[start : start + 8]
            inputs = processor([Image.open(row["file"]).convert("RGB") for row in part], return_tensors="pt")
            with torch.inference_mode():
                outputs = trainer.model(**inputs)
            sizes = [(row["height"], row["width"]) for row in part]
            for one in processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes):
                columns = (one["scores"][:, None], one["labels"][:, None].float(), one["boxes"])
                found.append(torch.cat(columns, dim=1).tolist())
        return found

    truth = _truth(parts["validation"], names)

    class Judged(Trainer):
        def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
            value = average_precision(said(self, parts["validation"]), truth, len(names))
            self.log({"eval_map": value})
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, {"eval_map": value})
            return {"eval_map": value}

    trainer = Judged(
        model=model,
        args=arguments(recipe, "eval_map", output_dir=str(file.with_suffix("")), remove_unused_columns=False),
        train_dataset=Pictures(parts["train"]),
        eval_dataset=[0],
        data_collator=together,
    )
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    file.write_text(json.dumps({"said": said(trainer, parts["test"]), "seconds": seconds}), "utf-8")


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (folder / "metadata.jsonl").read_text("utf-8").splitlines())
    return [{**row, "file": folder / row["file_name"]} for row in rows]


def _truth(rows: list[dict[str, Any]], names: list[str]) -> list[np.ndarray]:
    from hfstrat.tasks.boxes import in_pixels, objects_in, there, truth_of

    cells = [objects_in(row["objects"]) for row in rows]
    sizes = np.array([[row["height"], row["width"]] for row in rows])
    index = {name: place for place, name in enumerate(names)}
    return [there(one) for one in in_pixels(truth_of(cells, index, "xywh"), sizes, "xywh")]


# --- the table -----------------------------------------------------------------------------------------------


def average_precision(said: list[Any], true: list[np.ndarray], classes: int, name: str = "map") -> float:
    """Mean average precision as hfstrat has it, and as pycocotools has it."""
    from hfstrat.metrics import Outputs, score

    outputs = Outputs(true, [np.reshape(one, (-1, 6)) for one in said], None, classes)
    value = score([name], "boxes", outputs, intervals=False)[name].value or 0.0
    assert abs(value - _by_coco(outputs, 1 if name == "map50" else 0)) < 1e-6, "scores are those of pycocotools"
    return value


def _by_coco(outputs: Any, place: int) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def wide(box: Any) -> list[float]:
        return [float(side) for side in (box[0], box[1], box[2] - box[0], box[3] - box[1])]

    annotations = [
        {"image_id": image, "category_id": int(row[0]), "bbox": wide(row[1:5]), "area": row[6], "iscrowd": int(row[5])}
        for image, rows in enumerate(outputs.references)
        for row in rows
    ]
    found = [
        {"image_id": image, "category_id": int(row[1]), "bbox": wide(row[2:6]), "score": float(row[0])}
        for image, rows in enumerate(outputs.predictions)
        for row in rows
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(outputs.references))],
            "categories": [{"id": one} for one in range(outputs.num_labels)],
            "annotations": [{"id": number, **one} for number, one in enumerate(annotations, start=1)],
        }
        coco.createIndex()
        judged = COCOeval(coco, coco.loadRes(found), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return max(0.0, float(judged.stats[place]))


def beside(done: list[tuple[Path, Path]]) -> list[str]:
    """A line for each seed and metric, and the difference of the means over resampled pictures."""
    from hfstrat.metrics import METRICS, Outputs
    from hfstrat.metrics.resampled import statistic
    from hfstrat.runs.directory import Run
    from hfstrat.study.statistics import paired_difference_of
    from hfstrat.tasks.boxes import rows_of

    lines = []
    for name in ("map", "map50"):
        values: tuple[list[float], list[float]] = ([], [])
        statistics: tuple[list[Any], list[Any]] = ([], [])
        for run, file in done:
            frame, names = Run(run).predictions(), (Run(run).read("env.json") or {})["labels"]["names"]
            index = {label: place for place, label in enumerate(names)}
            true = [rows_of(one, index, true=True) for one in frame["reference"]]
            own = [rows_of(one, index, true=False) for one in frame["prediction"]]
            theirs = [np.reshape(one, (-1, 6)) for one in json.loads(file.read_text("utf-8"))["said"]]
            for side, part in enumerate((own, theirs)):
                values[side].append(average_precision(part, true, len(names), name))
                outputs = Outputs(true, part, None, len(names))
                statistics[side].append(statistic(METRICS[name], "boxes", outputs))
        difference = paired_difference_of(*statistics, len(true), resamples=1000)
        both = " | ".join(", ".join(f"{one:.3f}" for one in part) for part in values)
        lines.append(f"| {name} | {both} | {difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}] |")
    return lines


def seconds_of(run: Path) -> float:
    """Seconds of a run's updates and evaluations."""
    phases = json.loads((run / "ledger.json").read_text("utf-8"))["phases"]
    return sum(phases[phase]["seconds"] for phase in ("train", "evaluate", "measure") if phase in phases)


def epochs_of(run: Path) -> list[str]:
    """A line for each evaluation of a run."""
    lines = map(json.loads, (run / "log.jsonl").read_text("utf-8").splitlines())
    scored = [line for line in lines if line["kind"] == "score"]
    return [
        f"| {place} | {line['loss']:.2f} | {line['metrics']['map']:.3f} | {line['metrics']['map50']:.3f} |"
        for place, line in enumerate(scored, start=1)
    ]


def main() -> None:
    """Train both sides where that is not done, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-boxes"))
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    words = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    words.data, words.folder = words.data.resolve(), words.folder.resolve()
    words.folder.mkdir(parents=True, exist_ok=True)
    if words.peer:
        peer(Path(words.peer[0]), words.data, Path(words.peer[1]))
        return
    done = []
    for seed in words.seeds:
        run = ours(f"cells-seed{seed}", words, words.data, seed)
        file = words.folder / f"cells-seed{seed}-trainer.json"
        if not file.is_file():
            again = [sys.executable, __file__, "--data", str(words.data), "--peer", str(run), str(file)]
            subprocess.run(again, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        done.append((run, file))
    took = [
        np.mean([seconds_of(run) for run, _ in done]),
        np.mean([json.loads(file.read_text("utf-8"))["seconds"] for _, file in done]),
    ]
    lines = [
        "# Boxes",
        "",
        f"`python benchmarks/boxes.py --data DIR --epochs {words.epochs} --size {words.size}` on {platform.machine()}, "
        f"{os.cpu_count()} cores, 1 thread: an RT-DETR of 0.7 M parameters from random weights, on pictures of blood "
        "cells (BCCD: 205 to learn from, 87 to choose by, 72 to measure by). Scores are those of pycocotools to 1e-6.",
        "",
        "| | hfstrat | Trainer | difference [95 % interval over pictures] |",
        "|---|--:|--:|--:|",
        *beside(done),
        "",
        f"Updates and evaluations took {took[0]:.0f} s and {took[1]:.0f} s, a ratio of {took[0] / took[1]:.2f}; times "
        "mean something only where nothing else ran.",
        "",
        "## As it learns",
        "",
        "| epoch | loss on validation | AP | AP at 0.5 |",
        "|--:|--:|--:|--:|",
        *epochs_of(done[0][0]),
    ]
    table = ROOT / "benchmarks" / "boxes.md"
    table.write_text("\n".join(lines) + "\n", "utf-8")
    lines += [
        "",
        f"## One class as a new task ({ONE}), on top of the first run",
        "",
        "| strategy | AP | AP at 0.5 | parameters that trained | seconds |",
        "|---|--:|--:|--:|--:|",
    ]
    one = of_one_class(words.data, words.folder / "one-class")
    base = {"base": str(done[0][0]), "dropout": 0.0}
    for kind, strategy in {
        "head": {"kind": "head"},
        "partial": {"kind": "partial", "last_n": 1},
        "scratch": {"kind": "scratch"},
    }.items():
        model = {} if kind == "scratch" else {"model": base}
        few = {**TRAIN, "epochs": max(2, words.epochs // 3)}
        run = ours(f"one-{kind}", words, one, 0, strategy=strategy, train=few, **model)
        found = json.loads((run / "metrics.json").read_text("utf-8"))["metrics"]
        scores = " | ".join(
            f"{found[name]['value']:.3f} [{found[name]['low']:.3f}–{found[name]['high']:.3f}]"
            for name in ("map", "map50")
        )
        trained = json.loads((run / "plan.json").read_text("utf-8"))["parameters"]["trainable"]
        lines.append(f"| {kind} | {scores} | {trained:,} | {seconds_of(run):.0f} |")
        print(lines[-1], flush=True)
        table.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
