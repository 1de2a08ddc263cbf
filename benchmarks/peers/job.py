"""What a peer is asked to do, and how it answers. Light, so that any environment can run it."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil


@dataclass(frozen=True)
class Job:
    """One training run of a peer.

    Args:
        strategy: What trains.
        data: Folder of train.csv, validation.csv and test.csv with the columns text and label.
        base: Folder of the pretrained encoder.
        epochs: Passes over the training split.
        batch_size: Examples per update.
        threads: CPU threads.
        seed: Seed of initial weights, order and dropout.
        bf16: Whether forward and backward are computed in bfloat16.
        tuned: Whether the peer's settings are the fastest that are known; else its defaults.
        lr: Peak learning rate of what is pretrained; None for the peer's default.
        head_lr: That of the new head; None for the same.
        warmup: Share of the updates over which the rate rises.
        weight_decay: Decoupled decay.
        dropout: Dropout inside the model and before the head; None for the configuration's.
        attention: Attention implementation; None for the model's own choice.
        blocks: Blocks that train, from the top (partial).
        rank: Rank of the adapters (lora, qlora).
        teacher: Folder of a classifier to learn from (distill).
        temperature: By which the logits of student and teacher are divided.
        alpha: Weight of the teacher's outputs; the rest is the labels'.
        memory: Count live bytes over two updates at the longest texts, and nothing else.
    """

    strategy: Literal["scratch", "full", "head", "partial", "lora", "qlora", "peft", "distill"]
    data: str
    base: str
    epochs: float
    batch_size: int
    threads: int
    seed: int = 0
    bf16: bool = False
    tuned: bool = True
    lr: float | None = None
    head_lr: float | None = None
    warmup: float = 0.0
    weight_decay: float = 0.0
    dropout: float | None = None
    attention: str | None = None
    blocks: int = 2
    rank: int = 16
    teacher: str | None = None
    temperature: float = 2.0
    alpha: float = 0.9
    memory: bool = False


@dataclass(frozen=True)
class Split:
    """Texts and their classes.

    Args:
        texts: The texts.
        labels: The class of each one.
    """

    texts: list[str]
    labels: list[int]


def read(job: Job) -> tuple[dict[str, Split], list[str]]:
    """The three splits, and the names of the classes, sorted."""
    rows: dict[str, list[dict[str, str]]] = {}
    for name in ("train", "validation", "test"):
        with (Path(job.data) / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            rows[name] = list(csv.DictReader(stream))
    names = sorted({row["label"] for row in rows["train"]})
    place = {name: number for number, name in enumerate(names)}
    return {
        name: Split([row["text"] for row in part], [place[row["label"]] for row in part]) for name, part in rows.items()
    }, names


def answer(work: Callable[[Job], Mapping[str, Any]]) -> None:
    """Read the job from the command line, do it, and print what came out as the last line of stdout."""
    job = Job(**json.loads(sys.argv[1]))
    os.environ["OMP_NUM_THREADS"] = str(job.threads)
    with redirect_stdout(sys.stderr):
        found = dict(work(job))
    total = time.time() - psutil.Process().create_time()  # imports took part of it
    print(json.dumps({**found, "total_seconds": total}), flush=True)
