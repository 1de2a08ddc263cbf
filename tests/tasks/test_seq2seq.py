"""Sequence to sequence: what is read and learned, what is written, and runs from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import hfstrat as hf
from hfstrat.data.batching import collate
from hfstrat.errors import RecipeError, UsageError
from hfstrat.inference import Predictor
from hfstrat.runs.events import Observer
from hfstrat.tasks import CausalLM, Seq2Seq
from hfstrat.tasks.base import DECODER, Encoded, Examples
from hfstrat.training.engine import logits_of
from tests import elsewhere, tiny
from tests.tasks.test_language_models import STRATEGIES
from tests.training import helpers

FAMILIES = ("t5", "bart")
TEXTS = [row["text"] for row in tiny.reviews(60)]


def rows_of(n: int = 60) -> list[dict[str, Any]]:
    """Texts with their first two words, the second one first."""
    rows = [text.split() for text in TEXTS[:n]]
    return [{"source": " ".join(words), "target": f"{words[1]} {words[0]}"} for words in rows]


def encoded(base: Path, task: Seq2Seq, length: int = 64) -> tuple[Any, Encoded]:
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = rows_of()
    ids = tuple(f"train:{place}" for place in range(len(rows)))
    examples = Examples(ids, [row["source"] for row in rows], [row["target"] for row in rows], None)
    return tokenizer, task.encode(tokenizer, examples, length)


def recipe(base: Path, strategy: dict[str, Any], **sections: Any) -> dict[str, Any]:
    task = {"kind": "seq2seq", "generation": {"max_new_tokens": 8}, **sections.pop("task", {})}
    evaluate = sections.pop("evaluate", {"metrics": ["exact_match", "chrf", "perplexity"]})
    given = helpers.recipe(base, strategy, evaluate=evaluate, **sections)
    return {**given, "task": task}


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_the_model_with_its_own_labels(tiny_base, family):
    base = tiny_base(family, **helpers.LIVELY) if family == "t5" else tiny_base(family, init_std=0.2)
    tokenizer, data = encoded(base, Seq2Seq())
    model = AutoModelForSeq2SeqLM.from_pretrained(base, dtype=torch.float32).eval()
    rows = np.arange(9)
    batch = collate(data, rows)
    assert batch.tokens == data.columns["input_ids"].lengths[rows].sum() + data.columns[DECODER].lengths[rows].sum()
    with torch.inference_mode():
        found = logits_of(model, batch, torch.device("cpu"))
        loss = Seq2Seq.loss(found, batch.targets, "tokens") / len(batch.targets)
        targets = [[*tokenizer(row["target"])["input_ids"]] for row in rows_of(9)]
        targets = [row if row[-1] == tokenizer.eos_token_id else [*row, tokenizer.eos_token_id] for row in targets]
        width = max(map(len, targets))
        labels = torch.tensor([[*row, *[-100] * (width - len(row))] for row in targets])
        sources = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        expected = model(**sources, labels=labels).loss
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_long_targets_are_cut_and_counted_and_still_end(tiny_base):
    tokenizer, data = encoded(tiny_base("t5"), Seq2Seq(max_target_length=2), 6)
    assert data.truncated == len(data)
    last = [data.aims[end - 1] for end in data.units.offsets[1:]]
    assert set(last) == {tokenizer.eos_token_id}
    assert set(data.columns["input_ids"].lengths) == {6}


def crossed() -> list[Any]:
    """Every strategy with one of the families in the default tier, with the other one in the slow tier."""
    found = []
    for number, family in enumerate(FAMILIES):
        for place, name in enumerate(STRATEGIES):
            marks = [] if (number + place) % 2 == 0 else [pytest.mark.slow]
            found.append(pytest.param(family, name, marks=marks))
    return found


@pytest.mark.parametrize(("family", "name"), crossed())
def test_every_strategy_leaves_what_predicts_as_it_was_scored(tiny_base, tmp_path, user, family, name):
    lively = helpers.LIVELY if family == "t5" else {"init_std": 0.2}
    base = tiny_base(family, **lively)
    found = helpers.train(recipe(base, STRATEGIES[name], train={"max_steps": 6, "lr": 1e-2}), rows_of(), tmp_path)
    moved = [one for one in found.before if not torch.equal(found.before[one], found.after[one])]
    assert moved
    if name == "partial":
        blocks = {one.split(".layers.")[-1].split(".block.")[-1].split(".")[0] for one in moved if "lora" not in one}
        assert any("decoder" in one for one in moved)
        assert not any("encoder." in one and "decoder" not in one for one in moved), blocks
    frame = found.run.predictions()
    assert list(frame["true"]) == [row["target"] for row in rows_of() if row["source"] in set(frame["text"])] or set(
        frame["true"]
    ) <= {row["target"] for row in rows_of()}
    right = np.mean([a.strip() == b.strip() for a, b in zip(frame["written"], frame["true"], strict=True)])
    assert found.run.metrics["metrics"]["exact_match"]["value"] == pytest.approx(right)
    predictor = Predictor.of(found.run.path)
    said = [one["prediction"] for one in predictor.predict(list(frame["text"]))]
    assert said == list(frame["written"])
    assert [predictor.predict([text])[0]["prediction"] for text in frame["text"][:2]] == said[:2]
    again = predictor.evaluate("test", None, Observer(), helpers.memory(rows_of()))
    assert again["metrics"]["chrf"]["value"] == pytest.approx(found.run.metrics["metrics"]["chrf"]["value"])
    told = user.run(elsewhere.program(found.run, str(base), ["a first text", "a second one"]))["found"]
    assert told == [one["prediction"] for one in predictor.predict(["a first text", "a second one"])]


def test_a_mapping_is_learned_exactly(tiny_base, tmp_path):
    said = {"great": tiny.CLASS_WORDS["positive"][1:], "awful": tiny.CLASS_WORDS["negative"][1:]}
    others = tiny.SHARED_TEXT.split()[:20]
    rows = [
        {"source": f"{other} {word}", "target": answer}
        for answer, words in said.items()
        for word in words
        for other in dict.fromkeys(others)
    ]
    given = recipe(
        tiny_base("t5"),
        {"kind": "scratch"},
        data={"validation": 0.1, "test": 0.1},
        model={"config": {"d_model": 64, "d_ff": 128, "num_heads": 4, "d_kv": 16}},
        train={"epochs": 8, "lr": 2e-3, "batch_size": 8},
        evaluate={"metrics": ["exact_match", "chrf"], "select_by": "exact_match"},
    )
    run = hf.train(given, data=helpers.memory(rows), runs=tmp_path, quiet=True)
    assert run.metrics["metrics"]["exact_match"]["value"] == 1.0
    assert run.metrics["metrics"]["chrf"]["value"] == pytest.approx(100.0)
    assert "said: " in (run.path / "samples.md").read_text()


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_of_a_causal_model_are_written_and_scored_on_request(tiny_base, tmp_path, beams):
    rows = [{"prompt": f"{row['source']}:", "completion": f" {row['target']}"} for row in rows_of()]
    task = {"kind": "causal_lm", "generation": {"max_new_tokens": 6, "num_beams": beams}}
    given = recipe(
        tiny_base("gpt2", **helpers.LIVELY),
        {"kind": "full"},
        task=task,
        evaluate={"metrics": ["perplexity", "rouge1", "exact_match"]},
        train={"max_steps": 8},
    )
    run = hf.train(given, data=helpers.memory(rows), runs=tmp_path, quiet=True)
    frame = run.predictions()
    predictor = Predictor.of(run.path)
    assert [one["prediction"] for one in predictor.predict(list(frame["text"]))] == list(frame["written"])
    assert run.metrics["metrics"]["rouge1"]["low"] is not None
    assert isinstance(predictor.recipe.task, CausalLM)


def test_what_does_not_go_together_is_told(tiny_base, tmp_path, monkeypatch):
    rows = [{"text": text} for text in TEXTS]
    given = recipe(tiny_base("gpt2"), {"kind": "full"}, task={"kind": "causal_lm"}, evaluate={"metrics": ["chrf"]})
    with pytest.raises(UsageError, match="metric 'chrf' is of answers, and plain text has none"):
        hf.train(given, data=helpers.memory(rows), runs=tmp_path, quiet=True)
    from hfstrat import metrics

    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"'chrf' needs the package sacrebleu.*hfstrat\[text\]"):
        hf.train(recipe(tiny_base("t5"), {"kind": "full"}), data=helpers.memory(rows_of()), runs=tmp_path, quiet=True)
    with pytest.raises(RecipeError, match="too many to be kept"):
        hf.train(
            recipe(tiny_base("t5"), {"kind": "distill", "teacher": str(tiny_base("t5"))}),
            data=helpers.memory(rows_of()), runs=tmp_path,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())
