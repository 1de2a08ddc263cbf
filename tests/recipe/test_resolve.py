"""Settling `auto`: which facts decide, that each choice has its reason, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from hfstrat.errors import RecipeError
from hfstrat.recipe.facts import Facts, Machine, TokenUse
from hfstrat.recipe.loading import dump, load, parse
from hfstrat.recipe.recipe import Recipe
from hfstrat.recipe.resolve import TOKENS_AT_ONCE, TOKENS_AT_ONCE_ON_ACCELERATOR, Decision, resolve
from hfstrat.tasks.base import Labels

CPU = Machine("cpu", cores=8, processes=1, local_processes=1, bf16=False)
FACTS = Facts(
    rows={"train": 100, "validation": 10, "test": 20},
    columns={"text": "text", "label": "label"},
    splits={"train": "train", "validation": 0.1, "test": 0.2},
    labels=Labels("single_label", ("a", "b"), (50, 50)),
    labels_reason="each row has one label",
    longest=64,
    median=40,
    limit=512,
    attention="sdpa",
    body=22_000_000,
    convex=True,
    solvable=True,
    fresh_head=True,
    blocks=6,
    unlabelled=0,
    generative=False,
    pooling=("mean", "the base declares it"),
    normalize=True,
    tokens=TokenUse(3000, 30_000),
    vocabulary=0,
    machine=CPU,
)


def recipe(**fields: Any) -> Recipe:
    data = {
        "name": "x",
        "model": {"base": "bert"},
        "task": {"kind": "text_classification"},
        "data": {"source": "a.csv"},
        "strategy": {"kind": "head"},
    }
    return load(data, fields.pop("overrides", {}) | {path.replace("__", "."): value for path, value in fields.items()})[
        0
    ]


def resolved(facts: Facts = FACTS, **fields: Any) -> tuple[Recipe, dict[str, Decision]]:
    found, decisions = resolve(recipe(**fields), facts)
    assert len({decision.path for decision in decisions}) == len(decisions)
    return found, {decision.path: decision for decision in decisions}


def on(**machine: Any) -> Facts:
    return replace(FACTS, machine=replace(CPU, **machine))


def refused(facts: Facts = FACTS, **fields: Any) -> dict[str, str]:
    with pytest.raises(RecipeError) as caught:
        resolve(recipe(**fields), facts)
    return {problem.path: str(problem) for problem in caught.value.problems}


def autos(data: Any, path: str = "") -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from autos(value, f"{path}.{key}" if path else key)
    elif data == "auto":
        yield path


@pytest.mark.parametrize("kind", ["head", "full", "lora"])
@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
class TestEverything:
    def test_is_settled_with_a_reason(self, kind: str, problem: Any) -> None:
        facts = replace(FACTS, labels=Labels(problem, ("a", "b")))
        found, decisions = resolved(facts, strategy={"kind": kind})
        before = set(autos(json.loads(recipe(strategy={"kind": kind}).model_dump_json())))
        after = set(autos(json.loads(found.model_dump_json())))
        assert not after
        assert before <= set(decisions)
        assert all(decision.reason and decision.value is not None for decision in decisions.values())
        for path, decision in decisions.items():
            section, field = path.split(".")
            assert json.loads(found.model_dump_json())[section][field] == json.loads(json.dumps(decision.value))

    def test_again_changes_nothing_and_survives_its_file(self, kind: str, problem: Any) -> None:
        facts = replace(FACTS, labels=Labels(problem, ("a", "b")))
        found, _ = resolved(facts, strategy={"kind": kind})
        again, decisions = resolve(load(parse(dump(found)).data)[0], facts)
        assert again == found
        assert not decisions


@pytest.mark.parametrize(
    ("tokens", "chosen", "reason"),
    [
        (TokenUse(2431, 30_522), True, "2,431 of 30,522 rows occur; where the embedding trains, they do so alone"),
        (TokenUse(15_261, 30_522), True, "15,261 of 30,522 rows occur"),
        (TokenUse(15_262, 30_522), False, "15,262 of 30,522 rows occur, which are more than half"),
        (TokenUse(2431, 30_522, "a.weight and b.weight are one matrix"), False, "a.weight and b.weight are one matrix"),
    ],
)
def test_the_vocabulary_is_compacted_where_it_pays(tokens: TokenUse, chosen: bool, reason: str) -> None:
    found, decisions = resolved(replace(FACTS, tokens=tokens))
    assert found.train.compact_vocabulary is chosen
    assert decisions["train.compact_vocabulary"].reason.startswith(reason)


def test_what_is_given_is_kept() -> None:
    given = {"train__lr": 0.5, "train__precision": "fp32", "task__max_length": 16, "train__micro_batch_size": 3}
    found, decisions = resolved(**given, train__threads=2, evaluate__metrics=["f1", "ece"], evaluate__select_by="ece")
    assert (found.train.lr, found.task.max_length, found.train.micro_batch_size, found.train.threads) == (0.5, 16, 3, 2)
    assert found.evaluate.select_by == "ece"
    assert not {path.replace("__", ".") for path in given} & set(decisions)
    assert not {"train.threads", "evaluate.metrics", "evaluate.select_by"} & set(decisions)


class TestPrecision:
    @pytest.mark.parametrize(
        ("device", "bf16", "chosen"),
        [
            ("cpu", True, "bf16"),
            ("cpu", False, "fp32"),
            ("cuda", True, "bf16"),
            ("cuda", False, "fp16"),
            ("mps", False, "fp32"),
        ],
    )
    def test_follows_the_hardware(self, device: str, bf16: bool, chosen: str) -> None:
        found, decisions = resolved(on(device=device, bf16=bf16))
        assert found.train.precision == chosen
        assert device in decisions["train.precision"].reason or "GPU" in decisions["train.precision"].reason

    def test_fp16_is_refused_on_a_cpu_alone(self) -> None:
        assert "Use bf16, fp32 or auto" in refused(train__precision="fp16")["train.precision"]
        assert resolved(on(device="cuda"), train__precision="fp16")[0].train.precision == "fp16"

    def test_attention_is_eager_for_short_texts_in_bf16_on_a_cpu(self) -> None:
        assert resolved(on(bf16=True))[0].model.attention == "eager"
        assert resolved(replace(on(bf16=True), median=65))[0].model.attention == "sdpa"
        assert resolved(on(bf16=False))[0].model.attention == "sdpa"
        assert resolved(on(bf16=True, device="cuda"))[0].model.attention == "sdpa"
        assert resolved(on(bf16=True), train__precision="fp32")[0].model.attention == "sdpa"


class TestMicroBatches:
    @pytest.mark.parametrize(
        ("device", "processes", "batch", "longest", "chosen"),
        [
            ("cpu", 1, 32, 64, 32),  # all at once where it fits
            ("cpu", 1, 512, 64, TOKENS_AT_ONCE["cpu"] // 64),
            ("cpu", 1, 32, 8192, 1),
            ("cpu", 1, 32, 100_000, 1),  # never none
            ("cuda", 1, 4096, 64, TOKENS_AT_ONCE_ON_ACCELERATOR // 64),
            ("cpu", 3, 32, 64, 11),  # this process's share, rounded up
            ("cpu", 64, 32, 64, 1),
        ],
    )
    def test_are_bounded_by_tokens_and_share(
        self, device: str, processes: int, batch: int, longest: int, chosen: int
    ) -> None:
        facts = replace(on(device=device, processes=processes), longest=longest)
        assert resolved(facts, train__batch_size=batch)[0].train.micro_batch_size == chosen

    def test_threads_are_shared_by_local_processes(self) -> None:
        assert resolved(on(cores=8, local_processes=3))[0].train.threads == 2
        assert resolved(on(cores=1, local_processes=4))[0].train.threads == 1


class TestEpochs:
    @pytest.mark.parametrize(("rows", "chosen"), [(32, 20), (3200, 10), (16_000, 3), (32_000, 3), (1_000_000, 3)])
    def test_make_about_a_thousand_updates(self, rows: int, chosen: int) -> None:
        assert resolved(replace(FACTS, rows={**FACTS.rows, "train": rows}))[0].train.epochs == chosen

    def test_max_steps_decides_alone(self) -> None:
        found, decisions = resolved(train__max_steps=10)  # four updates an epoch
        assert (found.train.max_steps, found.train.epochs) == (10, 2.5)
        assert "10 updates of 4 an epoch" in decisions["train.epochs"].reason

    def test_two_wishes_that_differ_are_refused(self) -> None:
        assert "Remove one of the two" in refused(train__max_steps=10, train__epochs=3)["train.epochs"]
        assert resolved(train__max_steps=10, train__epochs=2.5)[0].train.max_steps == 10


class TestMetrics:
    def test_the_first_one_selects(self) -> None:
        found, decisions = resolved(evaluate__metrics=["f1_macro", "accuracy"])
        assert found.evaluate.select_by == "f1_macro"
        assert decisions["evaluate.select_by"].reason == "the first metric"

    def test_all_that_is_wrong_is_told_at_once(self) -> None:
        three = replace(FACTS, labels=Labels("single_label", ("a", "b", "c")))
        found = refused(three, evaluate__metrics=["f1"], evaluate__select_by="f1_macro", train__precision="fp16")
        assert set(found) == {"evaluate.metrics", "evaluate.select_by", "train.precision"}
        assert "Use f1_macro" in found["evaluate.metrics"]
        assert "'f1_macro' is not among evaluate.metrics. Use one of: f1" in found["evaluate.select_by"]

    def test_a_metric_of_another_problem_is_refused(self) -> None:
        assert "not defined for a single_label problem" in refused(evaluate__metrics=["rmse"])["evaluate.metrics"]

    def test_select_by_may_be_one_of_the_tasks_own(self) -> None:
        assert resolved(evaluate__select_by="f1_macro")[0].evaluate.select_by == "f1_macro"


class TestRefused:
    def test_what_needs_a_validation_split(self) -> None:
        without = replace(FACTS, rows={"train": 3, "test": 1})
        found = refused(without, train__early_stopping={"patience": 1}, task__calibrate=True)
        assert set(found) == {"train.early_stopping", "task.calibrate"}
        assert all("Set data.validation" in text for text in found.values())

    def test_more_tokens_than_the_model_takes(self) -> None:
        assert "at most 512 tokens, not 513" in refused(task__max_length=513)["task.max_length"]
        assert resolved(task__max_length=512)[0].task.max_length == 512

    def test_smoothing_of_numbers_and_a_separator_of_one_label(self) -> None:
        numbers = replace(FACTS, labels=Labels("regression", ("n",)))
        assert set(refused(numbers, train__label_smoothing=0.1)) == {"train.label_smoothing"}
        assert set(refused(task__label_separator="|", task__problem="single_label")) == {"task.label_separator"}


def test_columns_found_under_a_roles_own_name_are_written_down() -> None:
    found, _ = resolve(recipe(), replace(FACTS, columns={"text": "text", "text_pair": "text_pair", "label": "y"}))
    assert found.data.columns == {"text": "text", "text_pair": "text_pair", "label": "y"}
