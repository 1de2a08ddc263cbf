"""Tags of words: read as `seqeval` reads them, whatever they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from hfstrat.metrics import Outputs, by_type, score
from hfstrat.tags import broken, completed, entities_of, in_order, mark_entities, written

NAMES = ("O", *(f"{position}-{kind}" for position in "BIES" for kind in ("person", "place")))
TAGS = st.lists(st.sampled_from(NAMES), max_size=14)


@given(TAGS)
def test_entities_are_those_of_seqeval(tags):
    assert entities_of(tags) == [(kind, first, last + 1) for kind, first, last in get_entities(tags)]


@pytest.mark.slow
@given(st.lists(st.tuples(TAGS, st.randoms()), min_size=1, max_size=6))
def test_scores_are_those_of_seqeval(rows):
    references = [tags or ["O"] for tags, _ in rows]
    guesses = [other for _, other in rows]
    predictions = [
        [guess.choice([tag, *NAMES]) for tag in tags] for tags, guess in zip(references, guesses, strict=True)
    ]
    outputs = Outputs(references, predictions, None, len(NAMES))
    names = ["entity_f1", "entity_precision", "entity_recall", "entity_f1_macro", "token_accuracy"]
    found = score(names, "entities", outputs, resamples=20)
    options = {"zero_division": 0}
    for name, other in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        expected = other(references, predictions, **options)
        assert found[f"entity_{name}"].value == pytest.approx(expected, abs=1e-12)
    if by_type(outputs):
        macro = f1_score(references, predictions, average="macro", **options)
        assert found["entity_f1_macro"].value == pytest.approx(macro, abs=1e-12)
    pairs = [pair for rows in zip(references, predictions, strict=True) for pair in zip(*rows, strict=True)]
    assert found["token_accuracy"].value == pytest.approx(sum(a == b for a, b in pairs) / len(pairs), abs=1e-12)
    if not by_type(outputs):  # there is nothing to take the mean over
        del found["entity_f1_macro"]
    for one in found.values():
        assert one.low <= one.value <= one.high


@given(TAGS)
def test_writing_entities_down_keeps_them(tags):
    entities = entities_of(tags)
    assert entities_of(written(entities, len(tags))) == entities


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        (["U-a", "B-a", "L-a"], [("a", 0, 1), ("a", 1, 3)]),  # BILOU
        (["I-a", "I-a", "B-a", "O"], [("a", 0, 2), ("a", 2, 3)]),  # the older IOB
        (["B", "I", "O", "B"], [("", 0, 2), ("", 3, 4)]),
        (["B-a-b", "I-a-b"], [("a-b", 0, 2)]),
        ([], []),
    ],
)
def test_other_ways_to_write_them(tags, entities):
    assert entities_of(tags) == entities


@pytest.mark.parametrize(
    ("names", "marks"),
    [
        ({"O", "B-x", "I-x"}, True),
        ({"O", "S-x"}, True),
        ({"O", "B"}, True),
        ({"O"}, False),
        ({"NOUN", "VERB"}, False),
        ({"B-x", "I-x"}, False),  # nothing is outside
        ({"O", "B-x", "Person"}, False),
    ],
)
def test_tags_that_mark_entities_are_told_from_others(names, marks):
    assert mark_entities(names) is marks


def test_each_type_has_both_tags_and_a_place():
    assert completed({"O", "B-b", "I-b", "B-a"}) == ("O", "B-a", "I-a", "B-b", "I-b")
    assert completed({"O", "B-a"}) == ("O", "B-a", "I-a")
    assert completed({"O", "S-a", "B-b", "E-b"}) == ("O", "B-a", "I-a", "B-b", "I-b")
    assert completed({"O", "B"}) == ("O", "B", "I")
    assert in_order({"VERB", "ADJ", "NOUN"}) == ("ADJ", "NOUN", "VERB")


def test_words_that_go_on_with_nothing_are_found():
    assert broken(["O", "I-a", "I-a", "B-b", "I-a", "O"]) == [1, 4]
    assert broken(["B-a", "I-a", "E-a", "I-a"]) == [3]
    assert broken(["B-a", "I-a", "O", "S-b"]) == []
