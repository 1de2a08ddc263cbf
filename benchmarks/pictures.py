"""Pictures: small models from random weights beside Transformers' Trainer, and what they are worth to another task.

    python benchmarks/pictures.py [digits cifar transfer] [--data DIR] [--seeds 0 1 2] [--folder DIR]

digits: the numerals of scikit-learn by a small ConvNeXt (recipes/digits.yaml) and a small ViT (digits-vit.yaml).

cifar: eight of the ten classes of a sample of CIFAR-10 by a small ConvNeXt. DIR has a folder `cifar10` with
`train/CLASS/FILE` and `test/CLASS/FILE`.

transfer: the two other classes, `ship` and `truck`, from 50 pictures each, by each strategy from the model of the part
before (its first seed), and from random weights; `hfstrat compare` on one split, differences with their intervals.

The Trainer gets the same rows, shape, epochs, batch, optimiser, schedule, precision and threads, pictures that were
resized and scaled before it began, and the same kinds of variation in NumPy; it keeps its best state by validation
accuracy, as hfstrat does. Each run has a process of its own. What is done stays in `--folder` and is not done again.
The table goes to benchmarks/pictures.md.
"""

from __future__ import annotations

import argparse
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
OTHERS = ("ship", "truck")  # the last two of the alphabet
FEW = 50  # pictures of a class
ARMS = ["majority", "pixels", "scratch", "head", "partial", "full", "lora"]
CONVNEXT = {"model_type": "convnext", "num_stages": 3, "hidden_sizes": [48, 96, 192], "depths": [2, 2, 2]}


def main() -> None:
    """Train what is asked for and not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["digits", "cifar", "transfer"])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-pictures"))
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        _peer(Path(options.peer[0]), Path(options.peer[1]))
        return
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"`python benchmarks/pictures.py {' '.join(options.parts)} --seeds {' '.join(map(str, options.seeds))}` on "
        f"{platform.machine()}, {os.cpu_count()} cores, "
        f"{platform.python_implementation()} {platform.python_version()}; accuracy on the test split with its range "
        "over seeds, and the difference of the means with its 95 % interval over pictures. Seconds are of whole "
        "processes, and mean something only where nothing else ran.",
        "",
        "| pictures | model | seeds | hfstrat | Trainer | difference | hfstrat took | Trainer took |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, model, recipe in _recipes(options):
        done = [_both(f"{name}-{model}", recipe, seed, options) for seed in options.seeds]
        lines.append(f"| {name} | {model} | {_line(done)} |")
        print(lines[-1], flush=True)
    if "transfer" in options.parts:
        lines += ["", *_transfer(options)]
        print("\n".join(lines[-len(ARMS) - 3 :]), flush=True)
    (ROOT / "benchmarks" / "pictures.md").write_text("\n".join(lines) + "\n", "utf-8")


def _recipes(options: argparse.Namespace) -> list[tuple[str, str, dict[str, Any]]]:
    """What is trained on both sides: pictures, model, recipe."""
    import yaml

    found = []
    if "digits" in options.parts:
        for model, file in (("convnext", "digits.yaml"), ("vit", "digits-vit.yaml")):
            found.append(("digits", model, yaml.safe_load((ROOT / "recipes" / file).read_text("utf-8"))))
    if "cifar" in options.parts:
        found.append(("cifar", "convnext", _eight(options)))
    return found


def _eight(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "model": {"config": {**CONVNEXT, "patch_size": 2, "image_size": 32}, "dropout": 0.0},
        "task": {"kind": "image_classification", "image_size": 32, "augmentation": {"pad": 4, "flip": True}},
        "data": {"source": f"{_tables(options)[0]}/"},
        "strategy": {"kind": "scratch"},
        "train": {"epochs": 30, "batch_size": 64, "lr": 2e-3, "weight_decay": 0.05, "threads": options.threads},
    }


def _tables(options: argparse.Namespace) -> tuple[Path, Path]:
    """Tables of eight classes, and of few pictures of the two others."""
    folders = options.folder / "eight", options.folder / "two"
    for folder in folders:
        folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        rows: tuple[list[str], list[str]] = ([], [])
        for of_class in sorted((options.data / "cifar10" / split).resolve().iterdir()):
            files, other = sorted(file for file in of_class.iterdir() if file.is_file()), of_class.name in OTHERS
            for file in files[:FEW] if other and split == "train" else files:
                rows[other].append(json.dumps({"image": str(file), "label": of_class.name}))
        for folder, lines in zip(folders, rows, strict=True):
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folders


def _both(name: str, recipe: dict[str, Any], seed: int, options: argparse.Namespace) -> tuple[Path, Path]:
    """The run of hfstrat, and the file of what the Trainer says; each is made if it is not there."""
    name = f"{name}-seed{seed}"
    run, file = options.folder / name, options.folder / f"{name}-trainer.json"
    if not (options.folder / f"{name}.seconds").is_file():
        made = options.folder / f"{name}.yaml"
        made.write_text(json.dumps({**recipe, "name": name, "seed": seed}), "utf-8")
        words = ["train", str(made), "--runs", str(options.folder), "--quiet", "--overwrite"]
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "hfstrat", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        (options.folder / f"{name}.seconds").write_text(str(time.perf_counter() - begun), "utf-8")
    if not file.is_file():
        begun = time.perf_counter()
        again = [sys.executable, __file__, "--peer", str(run), str(file)]
        subprocess.run(again, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        said = json.loads(file.read_text("utf-8"))
        file.write_text(json.dumps({**said, "seconds": time.perf_counter() - begun}), "utf-8")
    return run, file


# --- the peer ------------------------------------------------------------------------------------------------


def _peer(run: Path, file: Path) -> None:
    """Train with Transformers' Trainer by the settings of a run of hfstrat, on its rows, and write what it says."""
    import torch
    import yaml
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, Trainer, set_seed

    recipe = yaml.safe_load((run / "recipe.yaml").read_text("utf-8"))
    torch.set_num_threads(recipe["train"]["threads"])
    set_seed(recipe["seed"])
    processor = AutoImageProcessor.from_pretrained(run / "artifact", backend="pil")
    config = AutoConfig.from_pretrained(run / "artifact")
    names = [config.id2label[place] for place in range(config.num_labels)]
    splits = {name: _Split(rows, names, processor) for name, rows in _rows(recipe).items()}
    splits["train"].vary = recipe["task"]["augmentation"] or {}
    trainer = Trainer(
        model=AutoModelForImageClassification.from_config(config),
        args=arguments(recipe, "accuracy"),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        compute_metrics=lambda out: {"accuracy": float((out.predictions.argmax(-1) == out.label_ids).mean())},
    )
    trainer.train()
    said = trainer.predict(splits["test"]).predictions.argmax(-1)
    file.write_text(json.dumps({"said": [names[place] for place in said]}), "utf-8")


class _Split:
    """Pictures as the model takes them, the same kinds of variation at hand.

    Args:
        rows: Pictures and labels.
        names: The classes.
        processor: The model's.
    """

    def __init__(self, rows: list[dict[str, Any]], names: list[str], processor: Any) -> None:
        from hfstrat.data.pictures import decoded

        grey = len(processor.image_mean) == 1
        pictures = [
            one["image"] if isinstance(one["image"], str) else np.asarray(one["image"], np.uint8) for one in rows
        ]
        self.values = np.stack(
            [
                processor(decoded(one, 1 if grey else 3), return_tensors="np", input_data_format="channels_last")
                .pixel_values[0]
                .astype(np.float32)
                for one in pictures
            ]
        )
        self.labels = [names.index(str(one["label"])) for one in rows]
        # What black is once values are scaled, with which a shifted picture is filled up.
        black = processor(
            np.zeros((8, 8, 1 if grey else 3), np.uint8), return_tensors="np", input_data_format="channels_last"
        )
        self.black = float(black.pixel_values.flat[0])
        self.vary: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, place: int) -> dict[str, Any]:
        value = self.values[place]
        if self.vary.get("flip") and np.random.random() < 0.5:
            value = value[:, :, ::-1]
        if pad := self.vary.get("pad"):
            padded = np.pad(value, ((0, 0), (pad, pad), (pad, pad)), constant_values=self.black)
            top, left = np.random.randint(2 * pad + 1, size=2)
            value = padded[:, top : top + value.shape[1], left : left + value.shape[2]]
        return {"pixel_values": np.ascontiguousarray(value), "labels": self.labels[place]}


def _rows(recipe: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The very rows that hfstrat used."""
    from hfstrat.data.sources import load
    from hfstrat.data.splits import split
    from hfstrat.recipe.loading import load as load_recipe

    parsed, _ = load_recipe(recipe, ())
    parts = split(load(parsed.data), parsed.data, "label", parsed.task.texts)
    found = {}
    for name, part in parts.items():
        feature = part.features["label"]
        rows = part.to_list()
        for row in rows:
            row["label"] = feature.int2str(row["label"]) if hasattr(feature, "int2str") else row["label"]
        found[name] = rows
    return found


# --- the table -----------------------------------------------------------------------------------------------


def _line(done: list[tuple[Path, Path]]) -> str:
    """Both mean accuracies, their difference over resampled pictures, and seconds."""
    ours = np.stack([_right(run) for run, _ in done])
    theirs = np.stack([_right(run, json.loads(file.read_text("utf-8"))["said"]) for run, file in done])
    seconds = [np.mean([float(run.with_suffix(".seconds").read_text("utf-8")) for run, _ in done])]
    seconds += [np.mean([json.loads(file.read_text("utf-8"))["seconds"] for _, file in done])]
    took = " | ".join(f"{one:.0f} s" for one in seconds)
    return f"{len(done)} | {_range(ours)} | {_range(theirs)} | {_difference(ours, theirs)} | {took}"


def _right(run: Path, said: list[str] | None = None) -> np.ndarray:
    """Which pictures of its test split a run is right about, or what else was said about them: `(pictures,)`."""
    from hfstrat.runs.directory import Run

    frame = Run(run).predictions()
    return np.array(frame["prediction"] if said is None else said) == np.array(frame["reference"])


def _range(right: np.ndarray) -> str:
    """Mean accuracy over seeds, and the lowest and highest, of `(seeds, pictures)`."""
    values = right.mean(axis=1)
    return f"{values.mean():.4f} ({values.min():.4f}–{values.max():.4f})"


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    from hfstrat.study.statistics import paired_difference

    found = paired_difference(ours, theirs)
    return f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def _transfer(options: argparse.Namespace) -> list[str]:
    """A comparison of strategies on the two other classes, each with its difference from random weights."""
    from hfstrat.report.tables import count
    from hfstrat.runs.directory import Run

    base = _both("cifar-convnext", _eight(options), options.seeds[0], options)[0] / "artifact"
    recipe = {
        "name": "transfer",
        "model": {"base": str(base), "dropout": 0.0},
        "task": {"kind": "image_classification", "augmentation": {"pad": 4, "flip": True}},
        "data": {"source": f"{_tables(options)[1]}/"},
        "strategy": {"kind": "full"},
        "train": {"epochs": 30, "batch_size": 16, "threads": options.threads},
        "compare": {"arms": ARMS, "seeds": options.seeds},
    }
    file = options.folder / "transfer.yaml"
    file.write_text(json.dumps(recipe), "utf-8")
    words = ["compare", str(file), "--runs", str(options.folder)]  # arms that are done are not done again
    subprocess.run([sys.executable, "-m", "hfstrat", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, list[Path]] = {}
    for name in json.loads((options.folder / "transfer" / "comparison.json").read_text("utf-8"))["runs"]:
        found.setdefault(name.rpartition("-seed")[0] or name, []).append(options.folder / "transfer" / name)
    lines = [
        f"`{'` and `'.join(OTHERS)}` from {FEW} pictures each, by strategies from the model of eight classes:",
        "",
        "| strategy | seeds | accuracy | difference from scratch | trained parameters | seconds a run |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    scratch = np.stack([_right(run) for run in found["scratch"]])
    for arm, runs in found.items():
        right = np.stack([_right(run) for run in runs])
        trained = Run(runs[0]).read("plan.json")["parameters"]["trainable"]
        seconds = np.mean([Run(run).read("ledger.json")["seconds"] for run in runs])
        difference = "" if arm == "scratch" else _difference(right, scratch)
        cells = (arm, len(runs), _range(right), difference, count(trained), f"{seconds:.0f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


if __name__ == "__main__":
    main()
