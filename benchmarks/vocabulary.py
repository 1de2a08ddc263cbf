"""What the compact vocabulary saves: memory and time per update of a model most of which is its vocabulary.

    python benchmarks/vocabulary.py [--updates 50] [--rows 250000] [--texts 2000] [--batch-size 8]

A model in the shape of a small XLM-R, with random weights, is fine-tuned with `compact_vocabulary` on and off, in
processes of their own and with gradients clipped at every update. Words occur as often as in a language: the n-th most
frequent one in proportion to 1/n. Both runs give the same bytes, which is checked. The table goes to
benchmarks/vocabulary.md.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
CLIP = 0.01
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}


def make_base(folder: Path, rows: int) -> None:
    """Write a random model and a tokenizer that knows a word for each of its rows."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    names = [*SPECIAL.values(), *(f"w{number}" for number in range(rows - len(SPECIAL)))]
    backend = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=512, cls_token="<s>", sep_token="</s>", **SPECIAL
    ).save_pretrained(folder)
    config = XLMRobertaConfig(
        vocab_size=rows,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    torch.manual_seed(0)
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)


def write_texts(file: Path, rows: int, texts: int) -> None:
    """Write texts of 8 to 48 words, two classes apart by who has more of some words."""
    rng = np.random.default_rng(0)
    words = rows - len(SPECIAL)
    chances = 1.0 / np.arange(1, words + 1)
    place = rng.permutation(words)  # or frequent words would be neighbours in the matrix
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for _ in range(texts):
            drawn = rng.choice(words, rng.integers(8, 49), p=chances / chances.sum())
            label = "even" if (drawn % 2 == 0).mean() > 0.5 else "odd"
            writer.writerow([" ".join(f"w{place[word]}" for word in drawn), label])


def once(compact: bool, folder: Path, words: argparse.Namespace) -> dict[str, Any]:
    """Train in a process of its own: memory, time, and a digest of its weights."""
    name = "compact" if compact else "whole"
    recipe = {
        "name": name,
        "model": {"base": str(folder / "base")},
        "task": {"kind": "text_classification"},
        "data": {"source": str(folder / "texts.csv"), "validation": 0.05, "test": 0.05},
        "strategy": {"kind": "full", "head_init": "random"},
        "train": {
            "max_steps": words.updates,
            "batch_size": words.batch_size,
            "precision": "fp32",
            "clip": CLIP,
            "checkpoint_every": None,
            "compact_vocabulary": compact,
        },
        "evaluate": {"metrics": ["accuracy"], "every": 10_000},
    }
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(recipe), "utf-8")
    command = [sys.executable, "-m", "hfstrat", "train", str(file), "--runs", str(folder), "--quiet"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=True, stdout=subprocess.DEVNULL)
    run = folder / name
    updates = [line for line in map(json.loads, (run / "log.jsonl").read_text("utf-8").splitlines()) if "lr" in line]
    assert all(line["grad_norm"] > CLIP for line in updates), "gradients are clipped"
    ledger = json.loads((run / "ledger.json").read_text("utf-8"))
    (weights,) = (run / "artifact").glob("*.safetensors")
    with weights.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    weights.unlink()
    return {
        "live": ledger["phases"]["train"]["peak_live_bytes"] / 1e6,
        "seconds": ledger["phases"]["train"]["seconds"] / words.updates,
        "digest": digest,
    }


def rows_in_use(folder: Path) -> int:
    """Different words of all texts."""
    with (folder / "texts.csv").open(encoding="utf-8") as stream:
        return len({word for text, _ in csv.reader(stream) for word in text.split()})


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--rows", type=int, default=250_000)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=8)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_base(folder / "base", words.rows)
        write_texts(folder / "texts.csv", words.rows, words.texts)
        whole, compact = (once(chosen, folder, words) for chosen in (False, True))
        used = rows_in_use(folder)
    assert whole["digest"] == compact["digest"], "the compact vocabulary changes no bit"
    arguments = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in vars(words).items())
    lines = [
        f"`python benchmarks/vocabulary.py {arguments}` on {platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} core(s), {platform.python_implementation()} {platform.python_version()}",
        "",
        f"Six blocks of width 384 under a vocabulary of {words.rows:,} rows; the texts have {used:,} different words. "
        f"After {words.updates} updates with clipped gradients both artefacts have the same SHA-256.",
        "",
        "| | whole | compact | ratio |",
        "|---|--:|--:|--:|",
    ]
    for title, key, digits in (("peak live MB", "live", 0), ("seconds per update", "seconds", 3)):
        ratio = compact[key] / whole[key]
        lines.append(f"| {title} | {whole[key]:,.{digits}f} | {compact[key]:,.{digits}f} | {ratio:.3f} |")
    print("\n".join(lines), flush=True)
    (ROOT / "benchmarks" / "vocabulary.md").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
