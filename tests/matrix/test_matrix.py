"""Every strategy on every architecture: what is planned moves, nothing else does, and the artefact says the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hfstrat.errors import RecipeError
from hfstrat.outline import part_of, parts_of
from hfstrat.strategies.plan import Stage, matches
from tests import tiny
from tests.matrix import pairs, senses
from tests.matrix.pairs import STRATEGIES, TEXT, Pair, different, statistics_of
from tests.training.helpers import weights

REFUSED = {
    ("albert", "gradual"): "all layers of this model share one block.*last_n: 1",
    ("albert", "distill"): "its layers share their weights.*every: 1",
    ("resnet", "distill"): "does not say how many blocks there are.*every: 1",
    ("convnext", "distill"): "does not say how many blocks there are.*every: 1",
    ("resnet", "qlora"): "only linear layers are quantised.*partial or full",
    **dict.fromkeys(
        (("resnet", strategy) for strategy in ("lora", "ia3", "vera", "adalora")),
        "no layer of the kind that is adapted.*partial or full",
    ),
}
PAIRS: list[tuple[str, str, dict[str, Any]]] = [
    *((family, strategy, {}) for family in tiny.ALL for strategy in STRATEGIES),
    *((family, strategy, {"pooling": "mean"}) for family in ("bert", "llama") for strategy in STRATEGIES),
]
TRAINED = [pair for pair in PAIRS if pair[:2] not in REFUSED]
WHOLE = ("bert", "llama", "vit")
"""Every strategy is trained on these by default, and on all others by `-m slow`."""
USUAL = ("head", "full", "lora")

SOLVED = ("bert", "albert", "gpt2", "llama", "qwen3", "vit", "resnet", "convnext")
"""Their heads have no parameters but those of the output layer."""

# Softmax over keys does not change when all keys are shifted alike, so the gradient of a key's bias is nothing but
# rounding, and may be nothing at all. What stands for masked parts of a wave is used by models that mask them, and
# hfstrat masks before them.
NO_GRADIENT = ("*.key.bias", "*.k_lin.bias", "*.k_proj.bias", "*.key_proj.bias", "*.masked_spec_embed")


# AdaLoRA puts the singular values of the ranks that it cuts back to nothing, as which they start.
CUT = ("*.lora_E",)


def name_of(pair: tuple[str, str, dict[str, Any]]) -> str:
    return "-".join([pair[0], *pair[2].values(), pair[1]])


def tiers(given: list[tuple[str, str, dict[str, Any]]]) -> list[Any]:
    usual = [(pair[0] in WHOLE and not pair[2]) or pair[1] in USUAL for pair in given]
    return [
        pytest.param(pair, id=name_of(pair), marks=() if one else pytest.mark.slow)
        for pair, one in zip(given, usual, strict=True)
    ]


def trained(family: str, strategy: str, task: dict[str, Any], bases: pairs.Bases, folder: Path) -> Pair:
    if family in TEXT:
        return pairs.trained(family, strategy, bases, folder, **task)
    return senses.trained(family, strategy, bases, folder)


@pytest.mark.parametrize("pair", tiers(TRAINED))
def test_what_is_planned_moves_and_is_what_others_load(tiny_base, tmp_path, user, pair):
    found = trained(*pair, tiny_base, tmp_path)
    if pair[1] == "head":
        solved = ["solve"] if found.anatomy.output is not None else []
        fitted = [] if pair[0] in SOLVED else ["fit"]
        assert [stage.kind for stage in found.plan.stages] == solved + fitted
    exactly_what_is_planned_moved(found)
    the_outline_says_so(found)
    statistics_move_with_their_norms(found)
    assert different(found.kept, weights(found.model) | statistics_of(found.model)) == set()
    assert np.array(user.run(found.program)["logits"]) == pytest.approx(found.logits, abs=1e-4)
    assert found.logits.std(axis=0).min() > 2e-3, "logits that are all alike would show nothing"
    seen = float(np.abs(found.logits - found.without).max())
    assert seen > 2e-3, "what moved has to be seen"


def still(pair: Pair, stage: Stage) -> set[str]:
    """What a stage trains, and may yet leave as it is."""
    return {
        name
        for name in pair.planned(stage)
        if matches(name, NO_GRADIENT) or (matches(name, CUT) and not pair.after[name].any())
    }


def exactly_what_is_planned_moved(pair: Pair) -> None:
    assert [one.stage for one in pair.moved] == list(pair.plan.stages)
    for one in pair.moved:
        planned = pair.planned(one.stage)
        assert planned
        assert one.parameters <= planned
        assert planned - one.parameters <= still(pair, one.stage)
    assert different(pair.before, pair.after) <= frozenset().union(*(one.parameters for one in pair.moved))


def the_outline_says_so(pair: Pair) -> None:
    """It is made without weights, and counts as trained what trained."""
    sizes = {**pair.anatomy.parameters, **pair.added.sizes}
    assert sizes.keys() == pair.before.keys()
    parts, trained = parts_of(pair.anatomy), set[str]()
    for one, said in zip(pair.moved, pair.outline["stages"], strict=True):
        names, counts = one.parameters | still(pair, one.stage), Counter[str]()
        for name in names:
            counts[part_of(name, parts)] += sizes[name]
        assert said["trained"] == counts
        trained |= names
    assert pair.outline["parameters"]["trainable"] == sum(sizes[name] for name in trained)
    assert pair.outline["parameters"]["total"] == sum(sizes.values())


def statistics_move_with_their_norms(pair: Pair) -> None:
    """Frozen norms are in eval mode, and trained ones count what they see."""
    for one in pair.moved:
        owners = {name.rpartition(".")[0] for name in pair.planned(one.stage)}
        trained = {name for name in statistics_of(pair.model) if name.rpartition(".")[0] in owners}
        assert one.statistics == (trained if one.stage.kind == "fit" else set())


@pytest.mark.parametrize(("family", "strategy"), REFUSED)
def test_what_cannot_be_is_refused_before_a_weight_is_read(tiny_base, tmp_path, family, strategy):
    with pytest.raises(RecipeError, match=REFUSED[family, strategy]) as caught:
        trained(family, strategy, {}, tiny_base, tmp_path)
    assert all(problem.hint and problem.path.startswith("strategy") for problem in caught.value.problems)
    assert not [path for path in tmp_path.rglob("*") if path.name != "teacher" and path.parent.name != "teacher"]
