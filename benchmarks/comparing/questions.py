"""What is compared with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Pooled vectors have length one, so a new head needs weights in the tens before it is sure of a class, and at the rate
# of the encoder it would not get there. Of 1e-4 to 3e-1 this is the best for ten epochs on a frozen encoder.
HEAD_LR = 3e-2
LINEAR_STEPS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Ours:
    """A run of hfstrat.

    Args:
        strategy: The recipe's `strategy`.
        train: What its `train` says beside epochs, batch size and threads.
    """

    strategy: Mapping[str, Any]
    train: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Name of the strategy."""
        return str(self.strategy["kind"])


@dataclass(frozen=True)
class Theirs:
    """A run of a peer.

    Args:
        module: The program under `peers/`.
        tuned: Its fastest settings, else its defaults.
        same: Dropout and attention as hfstrat's resolved recipe has them, else the model's own.
        bf16: bfloat16 where hfstrat's run has it, else float32.
        has_steps: Whether it makes updates whose memory can be counted.
    """

    module: Literal["trainer", "embed", "few_shot"]
    tuned: bool = True
    same: bool = False
    bf16: bool = True
    has_steps: bool = True


@dataclass(frozen=True)
class Comparison:
    """Two ways to the same model.

    Args:
        name: Key of its results.
        words: What the other side is, for the table.
        ours: hfstrat.
        theirs: A peer, or hfstrat with other settings.
        epochs: Passes over the data; auto: as many as either side thinks best.
        decides: Whether the seconds of training are the answer, or those of the whole process.
        floor: Whether the seconds are held against the least that the arithmetic takes.
    """

    name: str
    words: str
    ours: Ours
    theirs: Theirs | Ours
    epochs: float | Literal["auto"]
    decides: Literal["training", "end to end"] = "training"
    floor: bool = False

    @property
    def question(self) -> str:
        """The question that it belongs to."""
        return self.name.partition("/")[0]


TITLES = {
    "head": "A head on a frozen encoder",
    "full": "Full fine-tuning",
    "lora": "LoRA, r = 16 on all linear layers",
    "partial": "The last two of six blocks and the head",
    "distill": "Distillation of six blocks into three",
    "compare": "Eight strategies, several seeds",
    "linear": "Growth with the rows of data",
    "setfit": "Eight texts of each class",
}
# What `hfstrat compare` runs; its frozen work is shared between strategies and seeds.
ARMS = {
    "scratch": Ours({"kind": "scratch"}),
    "head": Ours({"kind": "head"}),
    "partial": Ours({"kind": "partial", "last_n": 2}),
    "full": Ours({"kind": "full"}),
    "lora": Ours({"kind": "lora", "r": 16}),
    "qlora": Ours({"kind": "qlora", "r": 16}),
    "peft": Ours({"kind": "peft", "method": "IA3"}),
    "distill": Ours({"kind": "distill", "teacher": "arm:full", "student": {"weights": "teacher", "every": 2}}),
}
# Those whose frozen work is done once.
FROZEN = ("head", "partial", "distill")
COMPARED_EPOCHS = 5
SAME = "Trainer, tuned, same dropout and attention"
OWN = "Trainer, tuned, dropout and attention of the model"


def comparisons(teacher: str) -> tuple[Comparison, ...]:
    """All but linear growth, in the order in which they are run.

    Args:
        teacher: Folder of the classifier that is distilled.
    """
    head, full, lora = Ours({"kind": "head"}), Ours({"kind": "full"}), Ours({"kind": "lora", "r": 16})
    cached = Ours({"kind": "partial", "last_n": 2}, {"cache": True})
    uncached = Ours(cached.strategy, {"cache": False})
    student = Ours({"kind": "distill", "teacher": teacher, "student": {"weights": "teacher", "every": 2}})
    same = Theirs("trainer", same=True)
    return (
        Comparison("head/trainer", f"{SAME}, backbone frozen", head, same, 10),
        Comparison(
            "head/sklearn",
            "sentence-transformers (float32) and scikit-learn",
            head,
            Theirs("embed", bf16=False, has_steps=False),
            1,
            "end to end",
        ),
        Comparison(
            "head/sklearn-bf16",
            "sentence-transformers (bfloat16) and scikit-learn",
            head,
            Theirs("embed", has_steps=False),
            1,
            "end to end",
        ),
        Comparison("full/same", SAME, full, same, 3, floor=True),
        Comparison("full/own", OWN, full, Theirs("trainer"), 3),
        Comparison("full/default", "Trainer, defaults", full, Theirs("trainer", tuned=False), 3),
        Comparison("lora/same", f"{SAME}, PEFT", lora, same, 3, floor=True),
        Comparison("lora/own", f"{OWN}, PEFT", lora, Theirs("trainer"), 3),
        Comparison("partial/cache", "hfstrat without its cache", cached, uncached, 10),
        Comparison("partial/trainer", SAME, cached, same, 10),
        Comparison("distill/trainer", f"{SAME}, teacher asked for each batch", student, same, 5),
        Comparison(
            "setfit/setfit",
            "SetFit, 20 pairs for each text",
            full,
            Theirs("few_shot", has_steps=False),
            "auto",
            "end to end",
        ),
    )
