"""All weights random: what pretraining would have given has to come out of the task's own data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from hfstrat.spec import Spec
from hfstrat.strategies.base import Setting, Sizes, StrategySpec, epochs_for
from hfstrat.strategies.plan import Anatomy, Body, Fit, Plan, Vocabulary

# Below this many rows a network from scratch overfits long before it has learned.
LITTLE = 20_000


class TokenizerSpec(Spec):
    """A tokenizer trained on the training split, with the special tokens of the model's family."""

    kind: Literal["bpe", "wordpiece", "unigram", "characters"] = "bpe"
    """Algorithm; bpe works on bytes, so that no text is unknown to it."""
    vocab_size: Annotated[int, Field(ge=8)] = 8000
    """Entries at most, special tokens included."""
    lowercase: bool = False
    """Whether text is lower-cased first."""
    min_frequency: Annotated[int, Field(ge=1)] = 2
    """How often a piece has to occur."""


class Scratch(StrategySpec):
    """Random weights in the shape of `model.config`, or of the base."""

    kind: Literal["scratch"] = "scratch"

    tokenizer: TokenizerSpec | None = None
    """A tokenizer of the run's own; left out: the base's."""

    def body(self) -> Body:
        """Random weights, perhaps with a tokenizer to train."""
        spec = self.tokenizer
        if spec is None:
            return Body("random")
        return Body("random", vocabulary=Vocabulary(spec.kind, spec.vocab_size, spec.lowercase, spec.min_frequency))

    def plan(self, anatomy: Anatomy, updates: int) -> Plan:
        """Fit all parameters; features of random weights are not worth a probe."""
        return Plan(self.body(), None, (Fit("fit", ("*",)),))

    def defaults(self, sizes: Sizes) -> Mapping[str, Setting]:
        """Many epochs, and dropout where data are few."""
        little = sizes.rows < LITTLE
        return {
            "train.lr": Setting(5e-4 if sizes.body <= 50e6 else 3e-4, "random weights take a high learning rate"),
            "train.epochs": epochs_for(sizes, updates=3000, least=1 if sizes.speaks else 8, most=30),
            # Not the 1.0 that repeated language-model pre-training likes (Lovelace et al. 2026): a classifier of
            # thousands of short texts then cannot even fit them (Banking77: accuracy 0.74, against 0.87).
            "train.weight_decay": Setting(0.1, "the usual decay from scratch"),
            "model.dropout": (
                Setting(0.0, "each token is a new example")
                if sizes.speaks and not little
                else Setting(0.2 if little else 0.1, "against overfitting")
            ),
        }
