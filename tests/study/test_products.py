"""Which products a run makes is told from those of a few passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hfstrat import processes
from hfstrat.prepare import prepare
from hfstrat.recipe.loading import load
from hfstrat.study import trying
from hfstrat.study.products import products_of_all
from hfstrat.study.trying import Trial
from hfstrat.training import arithmetic
from hfstrat.training.arithmetic import Product
from hfstrat.training.machine import machine
from tests import tiny
from tests.training.helpers import LIVELY, memory, recipe


def product(*shapes: tuple[int, ...]) -> Product:
    return Product("aten.mm", shapes, (False, False))


def batched(*shapes: tuple[int, ...]) -> Product:
    return Product("aten.bmm", shapes, (False, False))


def made_by(tokens: int, length: int, examples: int) -> set[Product]:
    """What a model with layers of width 30, five heads of width 6 and two classes would make."""
    return {
        product((tokens, 30), (30, 90)),
        product((30, tokens), (tokens, 90)),
        batched((5 * examples, length, 6), (5 * examples, 6, length)),
        product((examples, 30), (30, 2)),
        product((40, 30), (30, 90)),  # of positions, in each pass
    }


def test_the_products_of_passes_that_were_not_made():
    sides = [
        (tokens, examples, length, examples)
        for examples in (3, 4, 7)
        for length in (8, 11)
        for tokens in (examples * length,)
    ]
    counted = [([each], made_by(each[0], each[2], each[3])) for each in (sides[0], sides[3])]
    found = products_of_all(counted, [[each] for each in sides])
    assert found == set().union(*(made_by(each[0], each[2], each[3]) for each in sides))


def test_numbers_that_are_equal_by_chance_make_no_products():
    """Thirty tokens in layers of width thirty."""
    sides = [(30, 3, 10, 3), (44, 4, 11, 4), (77, 7, 11, 7)]
    counted = [([each], made_by(each[0], each[2], each[3])) for each in sides[:2]]
    found = products_of_all(counted, [[each] for each in sides])
    assert found == set().union(*(made_by(each[0], each[2], each[3]) for each in sides))


def test_several_passes_of_an_update_are_told_apart():
    updates = [[(24, 3, 8, 3), (44, 4, 11, 4)], [(35, 5, 7, 5)], [(18, 2, 9, 2), (24, 4, 6, 4)]]
    made = [set().union(*(made_by(each[0], each[2], each[3]) for each in cuts)) for cuts in updates]
    assert products_of_all([*zip(updates[:2], made[:2], strict=True)], updates) == set().union(*made)


def test_small_products_are_not_kept():
    assert not product((16, 16), (16, 16)).is_kept
    assert product((16, 16), (16, 17)).is_kept


@pytest.mark.slow
@pytest.mark.parametrize(("family", "off"), [("bert", 0.0), ("llama", 0.0), ("t5", 0.1)])
def test_every_product_of_a_run_is_told(tiny_base, monkeypatch, family, off):
    """Of what is read and what is written many lengths are equal by chance to widths of a tiny model."""
    base = tiny_base(family, **LIVELY)
    task: dict[str, Any] = {"kind": "seq2seq"} if family == "t5" else {"kind": "text_classification"}
    rows = tiny.reviews(240)
    if family == "t5":
        rows = [{"source": row["text"], "target": row["text"].split()[0]} for row in rows]
    train = {"epochs": 1, "batch_size": 8, "precision": "bf16"}
    given = recipe(base, {"kind": "full"}, task=task, evaluate={"metrics": "auto"}, train=train)
    parsed, source = load(given)
    prepared = prepare(parsed, machine(), memory=memory(rows), source=source)
    accelerator = processes.accelerator_for(prepared.recipe, Path("nowhere"))
    few = Trial(prepared, accelerator, real=False).tried().passes
    monkeypatch.setattr(arithmetic, "telling", lambda sizes: [*range(len(sizes))])
    monkeypatch.setattr(trying, "products_of_all", lambda counted, _: set().union(*(made for _, made in counted)))
    every = Trial(prepared, accelerator, real=False).tried().passes
    assert {*few} == {*every}
    assert len(few["fit"].samples) < len(every["fit"].samples)
    for name in few:
        told, made = ({one for one in found[name].products if one.is_kept} for found in (few, every))
        assert made
        assert len(told ^ made) <= off * len(made)
