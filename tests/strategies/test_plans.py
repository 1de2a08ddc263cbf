"""What each strategy plans for each family: pure functions, so no weight is read."""

from __future__ import annotations

import pytest

from hfstrat.errors import RecipeError
from hfstrat.strategies import Full, Head, Lora
from hfstrat.strategies.plan import Anatomy, Fit, Solve, matches
from tests import tiny
from tests.training.helpers import FAMILIES, STRATEGIES, prepared_for, recipe

ROWS = tiny.reviews(40)
HEADS = {
    "bert": ("classifier",),
    "distilbert": ("pre_classifier", "classifier"),
    "roberta": ("classifier",),
    "modernbert": ("head", "classifier"),
    "gpt2": ("score",),
    "llama": ("score",),
}
OUTPUTS = {**{family: parts[-1] for family, parts in HEADS.items()}, "roberta": "classifier.out_proj"}
LINEARS = {"bert": 6, "distilbert": 6, "roberta": 6, "modernbert": 4, "gpt2": 4, "llama": 7}


@pytest.fixture(scope="module")
def anatomy(tiny_base):
    """`anatomy("bert", pooling="mean")`, planned once each."""
    made: dict[tuple[str, str], Anatomy] = {}

    def find(family: str, pooling: str = "native") -> Anatomy:
        if (family, pooling) not in made:
            given = recipe(tiny_base(family), "full-random", task={"pooling": pooling})
            made[family, pooling] = prepared_for(given, ROWS).anatomy
        return made[family, pooling]

    return find


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_of_each_family(anatomy, family):
    found = anatomy(family)
    blocks = 3 if family == "modernbert" else 2
    assert found.head == HEADS[family]
    assert found.output == OUTPUTS[family]
    assert found.output_bias == (family not in ("gpt2", "llama"))
    assert len(found.blocks) == blocks
    assert found.embeddings
    in_blocks = [name for name in found.linear if any(name.startswith(f"{block}.") for block in found.blocks)]
    assert len(in_blocks) == LINEARS[family] * blocks
    outside = set(found.linear) - set(in_blocks)
    assert outside == ({"bert.pooler.dense"} if family == "bert" else set())
    head = sum(size for name, size in found.parameters.items() if matches(name, found.head_patterns))
    assert 0 < head < sum(found.parameters.values()) == head + found.body_size


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_pooled_model_has_a_linear_head_and_no_pooler(anatomy, family, pooling):
    found = anatomy(family, pooling)
    assert (found.backbone, found.head, found.output, found.output_bias) == (
        "backbone",
        ("classifier",),
        "classifier",
        True,
    )
    assert found.is_linear_probe
    assert not any("pooler" in name for name in found.parameters)
    assert len(found.linear) == LINEARS[family] * len(found.blocks)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stages_of_each_strategy(anatomy, family):
    found = anatomy(family)
    kinds = {name: [stage.kind for stage in plan_of(name, found).stages] for name in STRATEGIES}
    linear = family in ("bert", "gpt2", "llama")
    assert kinds == {
        "head": ["solve"] if linear else ["solve", "fit"],
        "full-probe": ["solve", "fit"],
        "full-random": ["fit"],
        "lora": ["solve", "fit"],
        "rslora": ["fit"],
        "dora": ["solve", "fit"],
    }
    written = Head(solver="lbfgs" if linear else "lbfgs+adamw")  # what auto becomes is written down
    assert written.plan(found, 100) == Head().plan(found, 100)
    assert Head(solver="adamw").plan(found, 100).stages == (Fit("fit", found.head_patterns),)
    assert isinstance(Head(solver="lbfgs").plan(found, 100).stages[0], Solve)


def plan_of(strategy: str, anatomy: Anatomy):
    given = STRATEGIES[strategy]
    return {"head": Head, "full": Full, "lora": Lora}[given["kind"]](**given).plan(anatomy, 100)


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_targets_all_linear_layers_of_the_body_or_those_named(anatomy, family):
    found = anatomy(family)
    adapter = Lora().plan(found, 100).adapter
    assert adapter is not None
    assert adapter.targets == found.linear
    assert adapter.modules_to_save == found.head
    first = found.linear[0]
    short = first.rsplit(".", 1)[-1]
    named = Lora(targets=(short,)).plan(found, 100).adapter
    assert named is not None
    chosen = named.targets
    assert first in chosen
    assert all(name.endswith(short) for name in chosen)
    assert len(chosen) < len(found.linear)
    last = Lora(targets=(f"{found.blocks[-1]}.*",)).plan(found, 100).adapter
    assert last is not None
    assert len(last.targets) == LINEARS[family]


def test_a_target_that_is_not_there_is_told_with_the_nearest_one(anatomy):
    with pytest.raises(RecipeError, match=r"'qery' matches no linear layer.*query"):
        Lora(targets=("qery", "key")).plan(anatomy("bert"), 100)


@pytest.mark.parametrize(
    ("options", "alpha"),
    [
        ({"r": 8}, 16),
        ({"r": 16, "variant": "rslora"}, 8),
        ({"r": 8, "alpha": 5.0}, 5.0),
        ({"r": 8, "alpha": 5.0, "variant": "rslora"}, 5.0),
    ],
)
def test_rslora_has_the_scale_of_lora_by_default(anatomy, options, alpha):
    adapter = Lora(**options).plan(anatomy("bert"), 100).adapter
    assert adapter is not None
    assert adapter.options["lora_alpha"] == alpha
    assert adapter.options["use_rslora"] == (options.get("variant") == "rslora")
