"""Spoken digits beside Transformers' Trainer, and what a model of them knows of who speaks.

    python benchmarks/sounds.py --data DIR [digits speakers] [--seeds 0 1 2] [--folder DIR]

DIR has `fsdd/train/<digit>/<digit>_<speaker>_<number>.wav` and `fsdd/test/…`, the Free Spoken Digit Dataset at 8 kHz.

digits: a small AST from random weights, by hfstrat's command and by the Trainer, each in a process of its own: same
rows, features, model, epochs, batches, learning rate, decay and precision, the best state by validation. The difference
has an interval over resampled test sounds, paired by sound.

speakers: the model of the first part (seed 0) goes on with the speaker as the label, by head, partial, lora and full,
and without it from scratch, by `hfstrat compare`.

What is done stays in `--folder` and is not done again. The table goes to benchmarks/sounds.md.
"""

from __future__ import annotations

import argparse
import csv
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
SHAPE = {
    "model_type": "audio-spectrogram-transformer",
    "num_mel_bins": 32,
    "max_length": 80,
    "patch_size": 8,
    "frequency_stride": 8,
    "time_stride": 4,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
ARMS = ("majority", "head", "partial", "lora", "full", "scratch")


def main() -> None:
    """Measure what is asked for and not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["digits", "speakers"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=30, help="of digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/sounds"))
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.peer:
        _peer(Path(options.peer[0]), Path(options.peer[1]), options.threads)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Sounds",
        "",
        f"`python benchmarks/sounds.py --data DIR --epochs {options.epochs} --seeds "
        f"{' '.join(map(str, options.seeds))}` on {platform.machine()}, {options.threads} thread(s), fp32. Seconds are "
        "of updates and evaluations, and mean something only where nothing else ran.",
    ]
    for part in options.parts:
        lines += ["", *{"digits": _digits, "speakers": _speakers}[part](options)]
        (ROOT / "benchmarks" / "sounds.md").write_text("\n".join(lines) + "\n", "utf-8")
    print("\n".join(lines))


def _call(verb: str, recipe: dict[str, Any], options: argparse.Namespace) -> Path:
    """The directory of a run, or of a comparison, by the command line where it is not there yet."""
    path = options.folder / recipe["name"]
    done = path / ("table.md" if verb == "compare" else "metrics.json")
    if not done.is_file():
        file = options.folder / f"{recipe['name']}.yaml"
        file.write_text(json.dumps(recipe), "utf-8")
        again = ["--resume"] if verb == "train" else []
        command = [sys.executable, "-m", "hfstrat", verb, str(file), "--runs", str(options.folder), *again]
        with (options.folder / f"{recipe['name']}.log").open("w") as log:
            subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=log)
    return Path(path)


# --- digits --------------------------------------------------------------------------------------------------


def _recipe(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "name": f"digits-seed{seed}",
        "seed": seed,
        "model": {"config": SHAPE, "dropout": 0.0},
        "task": {"kind": "audio_classification"},
        "data": {"source": f"{(options.data / 'fsdd').absolute()}/", "validation": 0.1},
        "strategy": {"kind": "scratch"},
        "train": {
            "epochs": options.epochs,
            "batch_size": 32,
            "lr": 2e-3,
            "precision": "fp32",
            "threads": options.threads,
        },
        "evaluate": {"metrics": ["accuracy", "f1_macro"]},
    }


def _digits(options: argparse.Namespace) -> list[str]:
    from hfstrat.runs.directory import Run
    from hfstrat.study.statistics import paired_difference

    lines = [
        "## Spoken digits",
        "",
        "A small AST from random weights; accuracy on the test split.",
        "",
        "| seed | hfstrat | Trainer | hfstrat took | Trainer took | ratio |",
        "| --: | --: | --: | --: | --: | --: |",
    ]
    right: tuple[list[Any], list[Any]] = ([], [])
    for seed in options.seeds:
        run = _call("train", _recipe(seed, options), options)
        file = options.folder / f"digits-seed{seed}-trainer.json"
        if not file.is_file():
            again = [sys.executable, __file__, "--data", str(options.data), "--peer", str(run), str(file)]
            again += ["--threads", str(options.threads)]
            subprocess.run(again, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        frame, theirs = Run(run).predictions(), json.loads(file.read_text("utf-8"))
        assert list(frame["audio"]) == theirs["names"], "both are scored on the same sounds in the same order"
        right[0].append((frame["reference"] == frame["prediction"]).to_numpy(np.float64))
        right[1].append(np.array(theirs["said"] == frame["reference"].to_numpy(), np.float64))
        phases = json.loads((run / "ledger.json").read_text("utf-8"))["phases"]
        seconds = sum(phases[phase]["seconds"] for phase in ("train", "evaluate") if phase in phases)
        value = json.loads((run / "metrics.json").read_text("utf-8"))["metrics"]["accuracy"]
        shown = f"{value['value']:.4f} [{value['low']:.4f}–{value['high']:.4f}] | {right[1][-1].mean():.4f}"
        took = f"{seconds:.0f} s | {theirs['seconds']:.0f} s | {seconds / theirs['seconds']:.2f}"
        lines.append(f"| {seed} | {shown} | {took} |")
    found = paired_difference(right[0], right[1])
    interval = f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
    return [*lines, "", f"Difference: {interval}, paired by sound."]


def _peer(run: Path, file: Path, threads: int) -> None:
    """Train with Transformers' Trainer by the settings of a run of hfstrat, on its rows, and write what it says."""
    import soundfile
    import torch
    import yaml
    from scipy.signal import resample_poly
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification, Trainer, set_seed

    from hfstrat.prepare import read_data
    from hfstrat.recipe.loading import load

    torch.set_num_threads(threads)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text("utf-8"))
    material = read_data(load(recipe, ())[0])
    extractor = ASTFeatureExtractor.from_pretrained(run / "artifact")
    most = round(recipe["task"]["max_seconds"] * extractor.sampling_rate)

    def rows(name: str) -> list[dict[str, Any]]:
        found = []
        examples = material.examples[name]
        for sound, target in zip(examples.media, examples.targets, strict=True):
            samples, rate = soundfile.read(sound, dtype="float32")
            samples = resample_poly(samples, extractor.sampling_rate // rate, 1).clip(-1, 1).astype(np.float32)[:most]
            features = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")["input_values"]
            found.append({"input_values": features[0], "labels": int(target)})
        return found

    splits = {name: rows(name) for name in ("train", "validation", "test")}
    set_seed(recipe["seed"])
    config = ASTConfig.from_pretrained(run / "artifact")
    trainer = Trainer(
        model=ASTForAudioClassification(config),
        args=arguments(recipe, "accuracy"),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    said = trainer.predict(splits["test"]).predictions.argmax(-1)
    names = [material.labels.names[place] for place in said]
    written = {"said": names, "names": list(material.examples["test"].texts), "seconds": seconds}
    file.write_text(json.dumps(written), "utf-8")


# --- speakers ------------------------------------------------------------------------------------------------


def _speakers(options: argparse.Namespace) -> list[str]:
    base = _call("train", _recipe(options.seeds[0], options), options)
    folder = options.folder / "speakers-data"
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["audio", "label"])
            for sound in sorted((options.data / "fsdd" / split).absolute().rglob("*.wav")):
                writer.writerow([sound, sound.stem.split("_")[1]])
    recipe = {
        "name": "speakers",
        "model": {"base": str(base.absolute())},
        "task": {"kind": "audio_classification"},
        "data": {"source": f"{folder.absolute()}/", "validation": 0.1},
        "strategy": {"kind": "head"},
        "train": {"epochs": 4, "batch_size": 32, "precision": "fp32", "threads": options.threads},
        "evaluate": {"metrics": ["accuracy", "f1_macro"]},
        "compare": {"arms": list(ARMS), "seeds": options.seeds},
    }
    found = _call("compare", recipe, options)
    return [
        "## Who speaks",
        "",
        f"The model of digits (seed {options.seeds[0]}) goes on with six speakers as labels, with each strategy's own "
        "learning rate, for four epochs; `scratch` is the same model from random weights.",
        "",
        (found / "table.md").read_text("utf-8").strip(),
    ]


if __name__ == "__main__":
    main()
