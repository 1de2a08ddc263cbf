"""Plan: what a strategy asks for, as plain frozen data that builder, loop, estimate and reports read alike.

Parameter patterns are shell globs over canonical parameter names: the names that the model has before any
adapter is put in (`bert.encoder.layer.0.output.dense.weight`); an adapter's own parameters are named after the
module they adapt (`bert.encoder.layer.0.output.dense.lora_A.weight`). `*` matches dots as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

# In place of a pattern: whatever an adapter added and its method trains. Which that is only PEFT knows.
ADAPTER = "<adapter>"


@dataclass(frozen=True)
class TokenTable:
    """The embedding of token ids.

    Args:
        path: Its module path.
        rows: Its rows, one for each id.
        width: Elements of a row.
        bound: Why none of its rows can train without the others; empty where each can.
        tied: Whether that is for the matrix being another one of the model as well.
    """

    path: str
    rows: int
    width: int
    bound: str = ""
    tied: bool = False


@dataclass(frozen=True)
class Anatomy:
    """Where a model keeps its parts; all entries are module paths.

    Args:
        backbone: The body (`bert`).
        embeddings: Embedding modules of the body.
        stacks: The repeated blocks, bottom to top: one stack, or the encoder's and then the decoder's.
        above: Modules of the body between the last block and the head (a final norm, a pooler).
        head: The modules that are for this task, outermost last.
        output: The last linear module, whose output are the logits; None when there is none.
        output_bias: Whether it has a bias.
        linear: Every linear module (or GPT-2's transposed kind) of the body, which adapters may target.
        norms: Every normalisation module of the body that has parameters.
        shared: Whether a block runs several times with the same weights (ALBERT).
        fresh: Names of the parameters that start from random numbers because no checkpoint gives them.
        parameters: Number of elements of each parameter by canonical name, in the order of the modules.
        tokens: The embedding of token ids; None for what reads none.
        tied: Further names of parameters that a model has under several.
        speaks: Whether its outputs are tokens, so that a head that the base brings fits whatever is learned.
        new_tokens: Ids of tokens that the base did not know.
    """

    backbone: str
    embeddings: tuple[str, ...]
    stacks: tuple[tuple[str, ...], ...]
    above: tuple[str, ...]
    head: tuple[str, ...]
    output: str | None
    output_bias: bool
    linear: tuple[str, ...]
    norms: tuple[str, ...]
    shared: bool
    fresh: tuple[str, ...] = field(repr=False)
    parameters: Mapping[str, int] = field(repr=False)
    tokens: TokenTable | None = None
    tied: tuple[str, ...] = ()
    speaks: bool = False
    new_tokens: tuple[int, ...] = ()

    @property
    def blocks(self) -> tuple[str, ...]:
        """All blocks, in the order in which they run."""
        return tuple(block for stack in self.stacks for block in stack)

    def frozen_blocks(self, trained: Iterable[str]) -> int:
        """How many blocks, from the lowest, lie below all that trains; only where there is one stack of them.

        Args:
            trained: Canonical names of parameters, those of adapters included.
        """
        if self.shared or len(self.stacks) != 1:
            return 0
        ladder: list[tuple[str, ...]] = [(f"{block}.",) for block in self.stacks[0]]
        ladder.append(tuple(f"{module}." for module in (*self.above, *self.head)))
        places = [next((i for i, inside in enumerate(ladder) if name.startswith(inside)), 0) for name in trained]
        return min(places, default=0)

    @property
    def body_size(self) -> int:
        """Number of elements in the body."""
        return sum(size for name, size in self.parameters.items() if not matches(name, self.head_patterns))

    @property
    def head_patterns(self) -> tuple[str, ...]:
        """Patterns for every parameter of the head."""
        return tuple(f"{module}.*" for module in self.head)

    @property
    def head_is_fresh(self) -> bool:
        """Whether the output starts from random numbers; false where the base brings a head for these labels."""
        if not self.head:
            return False  # it is the embedding, turned over
        return any(matches(name, (f"{self.output or self.head[-1]}.*",)) for name in self.fresh)

    @property
    def whole(self) -> tuple[str, ...]:
        """The modules that are stored as they are when the body is quantised: the head, and what shares with it."""
        return tuple(dict.fromkeys((*self.head, *(name.partition(".")[0] for name in self.tied if self.speaks))))

    @property
    def head_beside_adapter(self) -> tuple[str, ...]:
        """The modules of the head that train beside an adapter.

        Of outputs over a vocabulary those are the new ones that share nothing with the body: a copy of what is shared
        would train apart from it.
        """
        if not self.speaks:
            return self.head
        kept = [name for name in (*self.parameters, *self.tied) if name not in self.fresh]
        owners = {name.rpartition(".")[0] for name in self.fresh if matches(name, self.head_patterns)}
        new = {path for path in owners if not any(name.startswith(f"{path}.") for name in kept)}
        return tuple(sorted(path for path in new if not any(path.startswith(f"{other}.") for other in new)))

    @property
    def repeated(self) -> str:
        """A module of the head that is the same one in several places of a list; empty where there is none."""
        for name in self.tied:
            path = [part if not part.isdigit() else "*" for part in name.split(".")]
            again = next((one for one in self.parameters if matches(one, (".".join(path),))), None)
            if again is not None and again != name and matches(again, self.head_patterns):
                return again.rpartition(".")[0]
        return ""

    @property
    def is_linear_probe(self) -> bool:
        """Whether the head has no parameters but its output's, so that training it on frozen features is convex."""
        own = (f"{self.output}.*",)
        return self.output is not None and all(
            matches(name, own) for name in self.parameters if matches(name, self.head_patterns)
        )


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer that is trained on the training split.

    Args:
        kind: Algorithm.
        size: Entries at most, special tokens included; characters take as many as there are.
        lowercase: Whether text is lower-cased first.
        min_frequency: How often a piece has to occur.
    """

    kind: Literal["bpe", "wordpiece", "unigram", "characters"]
    size: int
    lowercase: bool
    min_frequency: int


@dataclass(frozen=True)
class Quantization:
    """How the weights of a frozen body are stored (bitsandbytes).

    Args:
        bits: 4 or 8.
        quant_type: Data type of 4 bits.
        double_quant: Whether the scales of 4-bit blocks are quantised too.
    """

    bits: Literal[4, 8]
    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True


@dataclass(frozen=True)
class Body:
    """What is loaded before anything is planned.

    Args:
        weights: Pretrained ones, or random ones in the shape of `model.config`.
        origin: A run, folder or Hub id that gives the weights in place of `model.base`.
        every: Keep every so many-th block; 1 keeps all.
        keep_head: Whether a head that fits the labels is taken over from the base.
        vocabulary: A tokenizer to train in place of the base's.
        storage: How frozen weights are stored; None: as they are.
    """

    weights: Literal["pretrained", "random"] = "pretrained"
    origin: str | None = None
    every: int = 1
    keep_head: bool = True
    vocabulary: Vocabulary | None = None
    storage: Quantization | None = None


@dataclass(frozen=True)
class Adapter:
    """A PEFT method and its options, in the words of its configuration class.

    Args:
        method: Name of the `peft.PeftType` (`LORA`).
        options: Keyword arguments of that method's configuration.
        targets: Modules that are adapted, for methods that choose among modules.
        modules_to_save: Modules that train beside the adapter and are stored with it.
    """

    method: str
    options: Mapping[str, object]
    targets: tuple[str, ...]
    modules_to_save: tuple[str, ...]


@dataclass(frozen=True)
class Solve:
    """A linear output solved on frozen features, over a path of L2 strengths chosen on validation.

    Args:
        name: The stage's name in logs and ledger.
        output: The linear module that is solved.
        l2: Strengths λ of the penalty λ/2·‖W‖² added to the mean loss, on features scaled to unit mean square
            norm; tried from the strongest to the weakest, each starting from the one before.
        max_iterations: L-BFGS iterations for each strength.
    """

    name: str
    output: str
    l2: tuple[float, ...]
    max_iterations: int = 200
    kind: Literal["solve"] = "solve"


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate.

    Args:
        name: The group's name in logs.
        patterns: Which parameters; the first group that matches takes a parameter.
        lr_scale: Factor on the recipe's learning rate.
    """

    name: str
    patterns: tuple[str, ...]
    lr_scale: float = 1.0


@dataclass(frozen=True)
class Fit:
    """A stretch of gradient training.

    Args:
        name: The stage's name in logs and ledger.
        train: Patterns of what trains; everything else is frozen and in eval mode. A pattern that matches
            nothing is an error.
        groups: Learning-rate groups over what trains.
        share: Share of the run's updates that this stage makes.
        after_update: A step of the adapter's method after each update, of a closed set.
    """

    name: str
    train: tuple[str, ...]
    groups: tuple[Group, ...] = (Group("all", ("*",)),)
    share: float = 1.0
    after_update: Literal["adalora"] | None = None
    kind: Literal["fit"] = "fit"


Stage = Solve | Fit


@dataclass(frozen=True)
class Distillation:
    """Learning from a teacher's outputs (Hinton et al. 2015, arXiv:1503.02531).

    Args:
        teacher: A run, folder or Hub id.
        temperature: T, by which both models' logits are divided.
        alpha: Weight of the soft targets; 1 - alpha is that of the labels.
        unlabelled: A file of more texts, for which the teacher's outputs are the only targets.
    """

    teacher: str
    temperature: float
    alpha: float
    unlabelled: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a run loads and what it does, in order.

    Args:
        body: What the model is built from.
        adapter: The adapter that is put into the body, if any.
        stages: What is trained, one after the other; the best state over all of them is kept.
        distillation: The teacher, if any.
    """

    body: Body
    adapter: Adapter | None
    stages: tuple[Stage, ...]
    distillation: Distillation | None = None

    def updates_of(self, stage: Fit, total: int) -> tuple[int, int]:
        """The first of a stage's updates, and the one after its last, of a run's `total`."""
        fits = [one for one in self.stages if one.kind == "fit"]
        before = sum(fit.share for fit in fits[: fits.index(stage)])
        return round(before * total), round((before + stage.share) * total)

    def trains(self, name: str, stage: Stage, added: Collection[str]) -> bool:
        """Whether a parameter trains in a stage.

        Args:
            name: Its canonical name.
            stage: The stage.
            added: Canonical names of what an adapter's method trains.
        """
        if stage.kind == "solve":
            return name.startswith(f"{stage.output}.")
        return matches(name, stage.train) or (ADAPTER in stage.train and name in added)

    def place_of(self, stage: Stage) -> int:
        """Which of the stages one is, by its name."""
        return [one.name for one in self.stages].index(stage.name)

    @property
    def trained(self) -> tuple[str, ...]:
        """Patterns of all that trains in some stage."""
        return tuple(
            pattern
            for stage in self.stages
            for pattern in (stage.train if stage.kind == "fit" else (f"{stage.output}.*",))
        )


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a canonical parameter name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
