"""The rules: what each strategy is expected to score before it was tried, and how unsure that is.

Every prediction is a normal distribution in points of the deciding metric: relative to the linear probe where there is
one, else to full fine-tuning. The rules were written down from published and own tables, named in each docstring; none
was fitted to a benchmark of `advise`, and `benchmarks/advice` is there to find out how good they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hfstrat.study.advise.evidence import Evidence

MOVES_BODY = frozenset({"partial", "full", "lora", "qlora", "peft", "distill"})
"""Strategies that gain or fail together, for they all let pretrained weights move."""

SHARED = 0.7
"""Correlation of what two of them are wrongly expected to gain. In the runs of SetFit and on SST-2 it is the data that
decides whether weights that move gain much, far more than which of them do."""

ENOUGH = 200.0
"""Examples from which on half of the possible gain is had: SST-2 with 32, 128, 512 and 6 920."""
BEHIND_FLOOR = 5.0
"""Points by which random weights are behind the best floor, and by which that may be another."""
SMALL_BODY, LARGE_BODY = 100e6, 400e6
"""Parameters between which LoRA catches up with full fine-tuning."""


@dataclass(frozen=True)
class Prediction:
    """What is expected of a strategy.

    Args:
        kind: The strategy.
        mean: Points above the probe, or above full fine-tuning where there is no probe.
        sd: Standard deviation.
        why: The rule in words.
    """

    kind: str
    mean: float
    sd: float
    why: str


def predict(kind: str, evidence: Evidence) -> Prediction:
    """What the rules expect of a strategy."""
    if evidence.probe is None:
        mean, sd, why = WITHOUT_PROBE[kind](evidence)
    else:
        mean, sd, why = WITH_PROBE[kind](evidence)
        room = evidence.lost(evidence.probe.validation)
        mean = min(mean, room)  # nothing is better than perfect
    return Prediction(kind, mean, sd, why)


Rule = Callable[[Evidence], tuple[float, float, str]]

# --- beside a probe -------------------------------------------------------------------------------------------------


def bias_share(evidence: Evidence) -> float:
    """How much of the probe's loss on validation it has on its own training examples as well, from 0 to 1.

    Near 1 the features lack what the task needs, and weights have to move; near 0 the examples are too few.
    """
    probe = evidence.probe
    assert probe is not None, "there is a probe"
    lost = evidence.lost(probe.validation)
    return min(1.0, evidence.lost(probe.train) / lost) if lost else 0.0


def tuned_share(evidence: Evidence) -> float:
    """Share of the probe's loss that full fine-tuning from the probe takes away: (0.06 + 0.45·bias)·n / (n + 200).

    Own runs of all-MiniLM-L6-v2, one seed each. SST-2: share 0.43 with 6 920 examples, 0.27 with 512, 0.19 with 128,
    0.11 with 32; the formula has 0.47, 0.32, 0.15 and 0.04 with bias shares of 0.95, 0.85, 0.7 and 0.5. Banking77:
    0.05 with 616 and 0.20 with 9 000; the formula has 0.06 and 0.19 with bias shares of 0.05 and 0.3. The bias share
    was measured for SST-2 in full alone; the others are guesses.
    """
    return (0.06 + 0.45 * bias_share(evidence)) * evidence.rows / (evidence.rows + ENOUGH)


def _gain(evidence: Evidence, part: float) -> float:
    """So much of what full fine-tuning gains: its share of the loss, and a point more than random weights at least.

    On COCO random weights reach what pretrained ones do, given data and time, and do not exceed it (He et al. 2018); on
    SST-2 with 6 920 examples they are eight points behind.
    """
    assert evidence.probe is not None, "there is a probe"
    shared = tuned_share(evidence) * evidence.lost(evidence.probe.validation)
    return part * max(shared, _scratch(evidence)[0] + 1)


def _doubt(evidence: Evidence, share: float = 0.08) -> float:
    """Points by which a gain may be another: of what is lost, of the seed, and half a point always.

    0.08 of the loss is about what `tuned_share` is wrong by where it was written down. Seeds: the runs of SetFit
    have a standard deviation of 2 to 5 points with 8 examples a class and of 0.5 to 2 with 64.
    """
    assert evidence.probe is not None, "there is a probe"
    lost = evidence.lost(evidence.probe.validation)
    below = max(0.0, _scratch(evidence)[0])  # features that are worse than none are known to be strange
    return math.hypot(share * lost, 20 / math.sqrt(evidence.rows), 0.5, 0.3 * below)


def _head(evidence: Evidence) -> tuple[float, float, str]:
    """The probe itself; weight: certain where the head is one linear layer.

    A head of several layers is another model, which begins at random: in doubt by two points.
    """
    if evidence.head_is_linear:
        return 0.0, 0.05, "it is the probe"
    return 0.0, 2.0, "a head of several layers, near the probe"


def _full(evidence: Evidence) -> tuple[float, float, str]:
    """The probe's loss times `tuned_share`; weight: six points of two tasks, one base."""
    share, bias = tuned_share(evidence), bias_share(evidence)
    gain = _gain(evidence, 1.0)
    why = f"of the probe's loss {bias:.0%} is there in training too; {share:.0%} of it may go once weights move"
    if gain > share * evidence.lost(evidence.probe.validation if evidence.probe else 0.0):
        why = "a point more than random weights are expected to reach"
    return gain, _doubt(evidence), why


def _lora(evidence: Evidence) -> tuple[float, float, str]:
    """0.7 of full fine-tuning's gain below 100 M parameters, all of it from 400 M on; weight: four tables.

    SST-2 with 512 examples, MiniLM: +3.7 against +6.0. RoBERTa-base on GLUE, 86.4 against 87.2 (Hu et al. 2021).
    Llama-3.2-3B on GSM8K: 0.478 against 0.472, standard error 0.014 (PEFT's method comparison). Schulman et al. 2025:
    the same until the data exceed what the adapter can hold.
    """
    part = lora_part(evidence.body)
    return _gain(evidence, part), _doubt(evidence, 0.09), f"{part:.0%} of what full fine-tuning gains, at this size"


def lora_part(body: int) -> float:
    """Share of full fine-tuning's gain that LoRA has, by parameters of the body."""
    place = math.log(max(body, 1) / SMALL_BODY) / math.log(LARGE_BODY / SMALL_BODY)
    return 0.7 + 0.3 * min(1.0, max(0.0, place))


def _qlora(evidence: Evidence) -> tuple[float, float, str]:
    """LoRA less 0.3 points; weight: Dettmers et al. 2023 find none lost at 7 B and more, for small bodies unknown."""
    mean, sd, _ = _lora(evidence)
    return mean - 0.3, math.hypot(sd, 0.5), "as LoRA, and weights in few bits cost a little"


def _partial(evidence: Evidence) -> tuple[float, float, str]:
    """0.85 of full fine-tuning's gain; weight: two papers.

    The last quarter of BERT's layers has nine tenths of it (Lee et al. 2019, arXiv:1911.03090); of MAE's ViT-L one
    block has two thirds and four have nearly all (He et al. 2022, arXiv:2111.06377).
    """
    return _gain(evidence, 0.85), _doubt(evidence), "the last blocks have 85% of what full fine-tuning gains"


def _peft(evidence: Evidence) -> tuple[float, float, str]:
    """Half of full fine-tuning's gain; weight: PEFT's method comparison, where learning rates decide.

    IA³ has 0.311 to 0.455 on GSM8K by its learning rate and targets, LoRA 0.478.
    """
    return _gain(evidence, 0.5), _doubt(evidence, 0.12), "small modules have about half of what full fine-tuning gains"


def _distill(evidence: Evidence) -> tuple[float, float, str]:
    """Full fine-tuning less 3 % of its score; weight: DistilBERT and TinyBERT, which were distilled on far more text.

    DistilBERT keeps 97 % of GLUE (Sanh et al. 2019), TinyBERT 96.8 % (Jiao et al. 2020).
    """
    mean, sd, _ = _full(evidence)
    assert evidence.probe is not None, "there is a probe"
    lost = 0.03 * (evidence.points(evidence.probe.validation) + mean)
    return mean - lost, math.hypot(sd, 1.5), "a student keeps about 97% of its teacher"


def _scratch(evidence: Evidence) -> tuple[float, float, str]:
    """The best floor less `BEHIND_FLOOR` points; weight: two tasks and Zhang et al. 2015.

    Banking77 with 4, 8 and 117 a class (the recipes banking77-curves and banking77-compare): 3, 1 and 10 points below
    TF-IDF. SST-2 with 3 460: 80.8 beside 80.2. n-grams
    are ahead of networks of characters up to some 100 000 texts.
    """
    assert evidence.probe is not None, "there is a probe"
    name = evidence.floor
    if name is None or evidence.floors is None or name == "majority":
        mean = -BEHIND_FLOOR - 0.1 * (100 - evidence.lost(evidence.probe.validation))
        return mean, 8.0, "nothing pretrained, and no floor tells how far that is"
    headroom = evidence.points(evidence.probe.validation) - evidence.points(evidence.floors[name].validation)
    return (
        -headroom - BEHIND_FLOOR,
        BEHIND_FLOOR,
        f"{BEHIND_FLOOR:.0f} points below {name}, which is {headroom:.1f} below the probe",
    )


WITH_PROBE: Mapping[str, Rule] = {
    "head": _head,
    "partial": _partial,
    "full": _full,
    "lora": _lora,
    "qlora": _qlora,
    "peft": _peft,
    "distill": _distill,
    "scratch": _scratch,
}

# --- without a probe ------------------------------------------------------------------------------------------------


def _blind_lora(evidence: Evidence) -> tuple[float, float, str]:
    """Full fine-tuning less 2 points below 100 M parameters, and none from 400 M on; sources as beside a probe."""
    behind = 2.0 * (1 - lora_part(evidence.body)) / 0.3
    return -behind, 0.8 + behind / 2, f"{behind:.1f} points below full fine-tuning, at this size"


def _blind_qlora(evidence: Evidence) -> tuple[float, float, str]:
    """LoRA less 0.3 points, as beside a probe."""
    mean, sd, _ = _blind_lora(evidence)
    return mean - 0.3, math.hypot(sd, 0.5), "as LoRA, and weights in few bits cost a little"


def _blind_scratch(evidence: Evidence) -> tuple[float, float, str]:
    """Full fine-tuning less 30 / (1 + n / 3000) points; weight: He et al. 2018 (arXiv:1811.08883).

    On COCO random weights reach what pretrained ones do from about 10 000 pictures on, and not with 1 000.
    """
    behind = 30 / (1 + evidence.rows / 3000)
    return -behind, 3 + behind / 3, f"nothing pretrained: {behind:.0f} points below full fine-tuning"


WITHOUT_PROBE: Mapping[str, Rule] = {
    # BERT-large fixed and tuned on Banking77: 87.2 and 93.7 (Casanueva et al. 2020); BERT-base on CoNLL-2003: 94.9 and
    # 96.4 (Devlin et al. 2019).
    "head": lambda evidence: (-5.0, 4.0, "features as they are: 1.5 to 6.5 points below full fine-tuning with BERT"),
    "partial": lambda evidence: (-1.0, 1.2, "the last blocks have most of what full fine-tuning gains"),
    "full": lambda evidence: (0.0, 0.5, "what the others are measured by"),
    "lora": _blind_lora,
    "qlora": _blind_qlora,
    "peft": lambda evidence: (-3.0, 2.0, "small modules: by PEFT's method comparison below LoRA"),
    "distill": lambda evidence: (-3.0, 1.5, "a student keeps about 97% of its teacher"),
    "scratch": _blind_scratch,
}
