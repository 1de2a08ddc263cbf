"""A run that is interrupted anywhere and goes on is the run that was never interrupted, to the bit."""

from __future__ import annotations

import os
import signal

import pytest

from hfstrat import execute
from hfstrat.errors import Interrupted
from hfstrat.runs.directory import Run
from tests import tiny
from tests.faults.runs import STRATEGIES, Calls, files_of, recipe_for, status_of, substance
from tests.tasks.test_question_answering import asked
from tests.tasks.test_token_classification import tagged
from tests.training.helpers import memory

ROWS = tiny.reviews(60)


def stop(number: signal.Signals = signal.SIGTERM):
    return lambda: os.kill(os.getpid(), number)


def check_goes_on(given, rows, folder):
    """A run that is stopped three times ends as one that is not."""
    counter = Calls()
    whole = execute.train(given, data=memory(rows), runs=folder / "whole", observer=counter)
    stops, runs = 0, folder / "parted"
    for at in (counter.count // 3, counter.count // 2, counter.count // 2 + 3, 10 * counter.count):
        try:
            found = execute.train(given, data=memory(rows), runs=runs, resume=True, observer=Calls(at, stop()))
        except Interrupted:
            stops += 1
    assert stops >= 2
    assert substance(found) == substance(whole)
    assert files_of(found) == files_of(whole)
    for run in (found, whole):
        times = run.ledger["seconds_at_scores"]
        assert times == sorted(times)
        assert len(times) == sum(line["kind"] == "score" for line in run.log()) > 0


@pytest.fixture(scope="module")
def teacher(tiny_base, tmp_path_factory):
    runs = tmp_path_factory.mktemp("teacher")
    return execute.train(recipe_for("full", tiny_base, name="teacher"), data=memory(ROWS), runs=runs).path


@pytest.mark.parametrize(
    ("kind", "rows", "windows"),
    [("token_classification", tagged(60), {"stride": 2}), ("question_answering", asked(60), {"stride": 4})],
)
def test_words_and_questions_in_windows_go_on_as_well(kind, rows, windows, tiny_base, tmp_path):
    given = recipe_for("partial", tiny_base, task={"kind": kind, "max_length": 16, **windows})
    given["strategy"] = {"kind": "partial", "last_n": 1, "head_init": "random"}
    given["evaluate"] = {}
    check_goes_on(given, rows, tmp_path)


@pytest.mark.parametrize(
    ("family", "task", "metrics"),
    [
        pytest.param("bert", {"kind": "masked_lm", "max_length": 16}, ["perplexity"], marks=pytest.mark.slow),
        ("gpt2", {"kind": "causal_lm", "max_length": 16}, ["perplexity"]),
        pytest.param(
            "t5",
            {"kind": "seq2seq", "generation": {"max_new_tokens": 5}},
            ["chrf", "perplexity"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else None,
)
def test_language_models_go_on_as_well(family, task, metrics, tiny_base, tmp_path):
    rows = [{"text": row["text"], "source": row["text"], "target": row["text"].split()[0]} for row in ROWS]
    given = recipe_for("full", tiny_base)
    given |= {"model": {"base": str(tiny_base(family)), "dropout": 0.1}, "task": task, "evaluate": {"metrics": metrics}}
    given["strategy"] = {"kind": "full"}
    check_goes_on(given, rows, tmp_path)


KINDS = ("head", "partial", "full", "lora", "qlora")  # others in the slow tier
BF16 = [("partial", "bf16"), ("full", "bf16"), ("lora", "bf16")]
PAIRS = [
    *(pytest.param(kind, "fp32", marks=[pytest.mark.slow] * (kind not in KINDS)) for kind in STRATEGIES),
    *(pytest.param(*pair, marks=pytest.mark.slow) for pair in BF16),
]


@pytest.mark.parametrize(("strategy", "precision"), PAIRS)
def test_stopped_anywhere_and_resumed_is_never_stopped(strategy, precision, tiny_base, teacher, tmp_path):
    given = recipe_for(strategy, tiny_base, teacher, train={"precision": precision})
    counter = Calls()
    whole = execute.train(given, data=memory(ROWS), runs=tmp_path / "whole", observer=counter)
    expected = substance(whole)

    stops, runs = 0, tmp_path / "parted"
    for at in range(4, 4 * counter.count, 5):
        try:
            found = execute.train(given, data=memory(ROWS), runs=runs, resume=True, observer=Calls(at % 41 + 2, stop()))
            break
        except Interrupted:
            stops += 1
            assert status_of(Run(runs / "run"))["state"] == "interrupted"
    assert stops > 0
    assert substance(found) == expected
    assert files_of(found) == files_of(whole)
