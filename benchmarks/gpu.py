"""Training on a GPU: hfstrat beside transformers.Trainer, and beside what `estimate` says.

    python benchmarks/gpu.py --out DIR              # made to take ten minutes on one H100
    python benchmarks/gpu.py --out DIR --tiny       # every line of it in a minute or two, on any device; no report

Models have the shapes of Llama-3.2-1B, BERT-base and ViT-B, and random weights: speed and memory do not depend on their
values. Both sides have the same data, batch, precision (bf16), attention (sdpa), optimiser (fused AdamW) and LoRA; what
hfstrat saves by caches and by leaving out rows of embeddings is switched off. Each run has a process of its own, and
the first updates are not timed. What is measured stays in `--out` and is not measured again. The table goes to
benchmarks/gpu.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # started as a file, and tested as a module

import torch  # noqa: E402

from benchmarks.comparing.records import Entry, Records, commit, machine  # noqa: E402
from benchmarks.estimating.cases import CLASSES, WRITERS, Family, Shape, made, write_base  # noqa: E402
from benchmarks.estimating.run import alone  # noqa: E402
from hfstrat import execute  # noqa: E402
from hfstrat.errors import HfstratError  # noqa: E402
from hfstrat.report.tables import markdown_table  # noqa: E402
from hfstrat.runs.events import Observer  # noqa: E402
from hfstrat.study.devices import DEVICES  # noqa: E402
from hfstrat.study.estimate import estimate  # noqa: E402

FIRST, LAST = 10, 40
"""Updates between which is timed; hfstrat reads its loss off the device at each tenth."""
RANK = 16
LORA = {"r": RANK, "alpha": 2 * RANK, "dropout": 0.0}
KINDS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full", "head_init": "random"},
    "lora": {"kind": "lora", "head_init": "random", **LORA},
    "qlora": {"kind": "qlora", "head_init": "random", **LORA},
}


@dataclass(frozen=True)
class Model:
    """A model, its task and its batch.

    Args:
        kind: Its `model_type`.
        family: Its configuration and task.
        shape: Of batches and data.
        length: Tokens of a text; 0 for pictures.
        strategies: Which are measured.
    """

    kind: str
    family: Family
    shape: Shape
    length: int
    strategies: tuple[str, ...]


def shape(batch: int, words: int, pixels: int = 0) -> Shape:
    """Examples of one length: as many as `LAST` updates see, and some to be scored."""
    rows = max(64, batch * 8)
    return Shape(batch, rows, (words, words), 0, pixels, (0.0, 0.0))


MODELS = {
    "Llama-3.2-1B": Model(
        "llama",
        Family(
            "causal_lm",
            "perplexity",
            "AutoModelForCausalLM",
            {
                "vocab_size": 128_256,
                "hidden_size": 2048,
                "intermediate_size": 8192,
                "num_hidden_layers": 16,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "head_dim": 64,
                "max_position_embeddings": 4096,
                "tie_word_embeddings": True,
            },
        ),
        shape(8, 1024),
        1024,
        ("full", "lora", "qlora"),
    ),
    "BERT-base": Model(
        "bert",
        Family("text_classification", "accuracy", "AutoModel", {"vocab_size": 30_522}),
        shape(32, 126),
        128,
        ("full", "lora"),
    ),
    "ViT-B/16": Model(
        "vit",
        Family("image_classification", "accuracy", "AutoModel", {}),
        shape(64, 0, 224),
        0,
        ("full", "lora"),
    ),
}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def tiny(model: Model) -> Model:
    """The same with another size."""
    heads = {"num_key_value_heads": 2, "head_dim": 16} if model.kind == "llama" else {}
    sized = {"vocab_size": 8_000} if model.length else {}
    family = replace(model.family, config={**model.family.config, **SMALL, **heads, **sized})
    length = 16 if model.length else 0
    small = shape(4, max(0, length - 2 * (model.kind == "bert")), 32 if model.shape.pixels else 0)
    return replace(model, family=family, shape=small, length=length)


@dataclass(frozen=True)
class Case:
    """A model and a strategy.

    Args:
        name: Of the model.
        model: It.
        strategy: Name of the strategy.
    """

    name: str
    model: Model
    strategy: str

    def files(self, folder: Path) -> tuple[Path, Path]:
        """Base and data, made where they are missing."""
        model = self.model
        place = f"{model.kind}-{model.length}-{model.shape.pixels}"
        base = made(
            folder / "bases" / place,
            lambda to: write_base(to, model.kind, model.family, model.shape, model.length or 512),
        )
        return base, made(folder / "data" / place, lambda to: WRITERS[model.family.task](to, model.shape))

    def recipe(self, folder: Path) -> dict[str, Any]:
        """Its recipe."""
        model = self.model
        base, data = self.files(folder)
        text = {"max_length": model.length} if model.length else {}
        return {
            "name": f"{model.kind}-{self.strategy}",
            "model": {"base": str(base), "attention": "sdpa", "dropout": 0.0},
            "task": {"kind": model.family.task, **text},
            "data": {"source": f"{data}/rows.csv" if text else f"{data}/", "validation": 0.1, "test": 0.1},
            "strategy": KINDS[self.strategy],
            "train": {
                "max_steps": LAST,
                "batch_size": model.shape.batch,
                "lr": 1e-4,
                "precision": "bf16",
                "cache": False,
                "compact_vocabulary": False,
                "checkpoint_every": None,
            },
            "evaluate": {"metrics": [model.family.metric], "every": LAST},
        }


def main(given: Sequence[str] | None = None) -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tiny", action="store_true", help="small models, on any device, to try the script")
    parser.add_argument("--report", type=Path, default=ROOT / "benchmarks" / "gpu.md")
    words = parser.parse_args(given)
    if not (words.tiny or torch.cuda.is_available()):
        raise SystemExit("there is no CUDA device here: nothing is measured (--tiny tries the script)")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    records = Records(words.out, {**machine(), "device": device, "tiny": words.tiny})
    models = {name: tiny(MODELS[name]) if words.tiny else MODELS[name] for name in words.models}
    for name, model in models.items():
        for case in (Case(name, model, strategy) for strategy in model.strategies):
            for side in SIDES:
                key = f"{name} {case.strategy} {side.__name__}"
                if records.has(key, 0):
                    continue
                try:
                    found = alone(side, case, words.out.resolve())
                except (HfstratError, MemoryError, RuntimeError) as error:
                    found = {"error": f"{type(error).__name__}: {error}"}
                records.add({"name": key, "pair": 0, **found, "hfstrat": commit(ROOT)["commit"]})
                print(key, found, flush=True)
    if words.tiny:
        print(report(records, models))
    else:
        words.report.write_text(report(records, models), "utf-8")
        print(words.report)


# --- each in a process of its own ------------------------------------------------------------------------------------


class Clock(Observer):
    """Notes when the loss of an update was read off the device, and what of it."""

    def __init__(self) -> None:
        self.read: list[float] = []

    def advance(self, done: int = 1, **shown: Any) -> None:
        """Work of the phase was done."""
        if "loss" in shown:
            self.read.append(time.perf_counter())


def measured(case: Case, folder: Path) -> dict[str, Any]:
    """hfstrat: seconds of an update, its operations, and the most bytes on the device."""
    recipe, clock = case.recipe(folder), Clock()
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        run = execute.train(recipe, runs=runs, observer=clock)
        ledger = run.ledger
    between = clock.read[FIRST // 10 : LAST // 10 + 1]  # read at updates 1, 10, 20, …
    phase = ledger["phases"]["train"]
    return {
        "seconds": (between[-1] - between[0]) / (LAST - FIRST),
        "flops": phase["flops"] / LAST,
        "live": ledger["peak_live_bytes"],
        "whole": ledger["seconds"],
    }


def by_trainer(case: Case, folder: Path) -> dict[str, Any]:
    """The same by transformers.Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    model, dataset = trainer_model(case, folder), trainer_data(case, folder)
    marks: dict[int, float] = {}

    class Marks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in (FIRST, LAST):
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                marks[state.global_step] = time.perf_counter()

    with tempfile.TemporaryDirectory(dir=folder) as output:
        settings = TrainingArguments(
            output_dir=output,
            max_steps=LAST,
            per_device_train_batch_size=case.model.shape.batch,
            learning_rate=1e-4,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            optim="adamw_torch_fused",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        Trainer(model=model, args=settings, train_dataset=dataset, callbacks=[Marks()]).train()
    live = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {"seconds": (marks[LAST] - marks[FIRST]) / (LAST - FIRST), "live": live}


def trainer_model(case: Case, folder: Path) -> Any:
    """The model as tutorials make it."""
    import transformers

    base, _ = case.files(folder)
    auto = {
        "causal_lm": transformers.AutoModelForCausalLM,
        "text_classification": transformers.AutoModelForSequenceClassification,
        "image_classification": transformers.AutoModelForImageClassification,
    }[case.model.family.task]
    options: dict[str, Any] = {}
    if case.model.family.task != "causal_lm":  # whose models have no dropout
        options = {"num_labels": len(CLASSES), "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if case.strategy == "qlora":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model = auto.from_pretrained(base, dtype=torch.float32, attn_implementation="sdpa", **options)
    model.config.use_cache = False
    if case.strategy == "full":
        return model
    from peft import LoraConfig, get_peft_model

    head = ["score", "classifier"] if case.model.family.task != "causal_lm" else None
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules="all-linear", modules_to_save=head
    )
    return get_peft_model(model, config)


def trainer_data(case: Case, folder: Path) -> Any:
    """The same rows as a data set of tensors, all of one length."""
    import csv

    import transformers
    from datasets import Dataset

    base, data = case.files(folder)
    if case.model.length:
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
        with (data / "rows.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        ids = tokenizer([row["text"] for row in rows], truncation=True, max_length=case.model.length)["input_ids"]
        if case.model.family.task == "causal_lm":
            return Dataset.from_dict({"input_ids": ids, "labels": ids})
        classes = sorted({row["label"] for row in rows})
        return Dataset.from_dict({"input_ids": ids, "labels": [classes.index(row["label"]) for row in rows]})
    from PIL import Image

    files = sorted(data.rglob("*.png"))
    classes = sorted({file.parent.name for file in files})
    processor = transformers.AutoImageProcessor.from_pretrained(base)
    pixels = [processor(Image.open(file), return_tensors="np")["pixel_values"][0] for file in files]
    labels = [classes.index(file.parent.name) for file in files]
    return Dataset.from_dict({"pixel_values": pixels, "labels": labels}).with_format("torch")


def estimated(case: Case, folder: Path) -> dict[str, Any]:
    """What is said before the run."""
    (found,) = estimate(case.recipe(folder), arms=[KINDS[case.strategy]["kind"]]).records()
    return {name: found[name]["value"] for name in ("live", "seconds", "flops")}


# --- the table -------------------------------------------------------------------------------------------------------


def report(records: Records, models: Mapping[str, Model]) -> str:
    """A row for each case.

    Args:
        records: A line for each side of a case.
        models: What was measured, by name.
    """
    titles = ["model", "strategy", "a second, hfstrat", "Trainer", "ratio", "model FLOP utilisation"]
    titles += ["peak GiB, hfstrat", "Trainer", "estimate", "run, s", "estimate"]
    cases = [(name, model, strategy) for name, model in models.items() for strategy in model.strategies]
    rows = [row for case in cases if (row := _row(records, *case))]
    failed = [f"- {one['name']}: {one['error']}" for one in records.entries if "error" in one]
    commits = ", ".join(sorted({str(entry["hfstrat"]) for entry in records.entries}))
    versions = ", ".join(f"{name} {version}" for name, version in records.settings["versions"].items() if version)
    parts = [
        "# On a GPU",
        f"`python benchmarks/gpu.py` on {records.settings['device']}; {versions}; hfstrat at {commits}.",
        f"Tokens or pictures a second, over updates {FIRST + 1} to {LAST}. Operations are those that the run counts, "
        "and the device's peak is its data sheet's, in bf16 without sparsity. Peak memory is the allocator's.",
        markdown_table(titles, rows, right=[False, False] + [True] * (len(titles) - 2)),
        *(["## Failed", "\n".join(failed)] if failed else []),
    ]
    return "\n\n".join(parts) + "\n"


def _row(records: Records, name: str, model: Model, strategy: str) -> list[str]:
    ours, theirs, said = (_figures(records, f"{name} {strategy} {side.__name__}") for side in SIDES)
    if not ours and not theirs:
        return []
    device = str(records.settings["device"]).lower().replace(" ", "-")
    peak = next((one.flops for known, one in DEVICES.items() if known in device), None)
    units = model.shape.batch * (model.length or 1)
    rates = [units / side["seconds"] if side else None for side in (ours, theirs)]
    used = ours["flops"] / ours["seconds"] / peak if ours and peak else None
    return [
        name,
        strategy,
        *(_text(rate, ",.0f") for rate in rates),
        _text(theirs["seconds"] / ours["seconds"] if ours and theirs else None, ".2f"),
        _text(used, ".0%"),
        *(_text(side.get("live"), ",.2f", 2**30) for side in (ours, theirs, said)),
        _text(ours.get("whole"), ",.1f"),
        _text(said.get("seconds"), ",.1f"),
    ]


def _figures(records: Records, name: str) -> Entry:
    return next((entry for entry in records.of(name) if "error" not in entry), {})


def _text(value: float | None, form: str, unit: float = 1) -> str:
    return "" if value is None else format(value / unit, form)


SIDES = (measured, by_trainer, estimated)


if __name__ == "__main__":
    main()
