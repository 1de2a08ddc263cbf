"""Facts: what was found out about data, model and machine before anything is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hfstrat.tasks.base import Labels


@dataclass(frozen=True)
class Machine:
    """Where the run takes place.

    Args:
        device: `cpu`, `cuda`, `mps` or `xpu`.
        cores: Processor cores that this process may use.
        processes: Processes of the run.
        local_processes: Those on this machine.
        bf16: Whether the device computes in bfloat16 natively.
        asked: Threads of each process that whoever started it asked for, and where; None where nobody did.
    """

    device: str
    cores: int
    processes: int
    local_processes: int
    bf16: bool
    asked: tuple[int, str] | None = None

    @property
    def threads(self) -> tuple[int, str]:
        """CPU threads of each process, and why so many."""
        shared = max(1, self.cores // self.local_processes)
        return self.asked or (shared, f"{self.cores} cores, {self.local_processes} process(es) here")


@dataclass(frozen=True)
class TokenUse:
    """How much of the embedding of token ids the texts use.

    Args:
        used: Rows of ids that a model may see while it trains.
        rows: All of its rows.
        bound: Why none of them can train without the others; empty where each can.
    """

    used: int
    rows: int
    bound: str = ""

    @property
    def whole(self) -> str:
        """Why all rows are kept while training; empty where those in use can train alone, and few enough are."""
        if not self.bound and 2 * self.used > self.rows:
            return f"{self.used:,} of {self.rows:,} rows occur, which are more than half"
        return self.bound


@dataclass(frozen=True)
class Facts:
    """What `auto` values depend on.

    Args:
        rows: Examples of each split, which may be pieces of its texts.
        splits: The split or the share of rows that each part of the data is.
        columns: The column of each role that the data has.
        labels: Classes or outputs.
        labels_reason: Why the problem was taken for what it is.
        longest: Tokens of the longest window in any split.
        median: Tokens of the middle example of the training split.
        limit: Tokens that the model takes at most; None when it has no limit.
        attention: Attention implementation that the model chooses by itself.
        body: Parameters of the model's body.
        convex: Whether the head is one linear layer.
        solvable: Whether the head ends in one.
        fresh_head: Whether the base brings no head for these labels.
        blocks: Blocks of the uppermost stack.
        unlabelled: Texts without labels beside the training split.
        generative: Whether it was made to continue text.
        pooling: Pooling in use, `native` or another, and why.
        normalize: Whether pooled vectors are scaled to length one.
        tokens: How much of the vocabulary the texts use.
        vocabulary: How many outputs the model has for each token, where those are the vocabulary; else 0.
        machine: Where the run takes place.
        side: Height and width of the pictures; 0 without any, or where the two differ.
        seconds: What the model hears of a sound at most; 0 without any.
    """

    rows: Mapping[str, int]
    splits: Mapping[str, str | float]
    columns: Mapping[str, str | tuple[str, ...]]
    labels: Labels
    labels_reason: str
    longest: int
    median: int
    limit: int | None
    attention: str
    body: int
    convex: bool
    solvable: bool
    fresh_head: bool
    blocks: int
    unlabelled: int
    generative: bool
    pooling: tuple[str, str]
    normalize: bool
    tokens: TokenUse
    vocabulary: int
    machine: Machine
    side: int = 0
    seconds: float = 0.0

    @property
    def examples(self) -> int:
        """Texts that an epoch sees."""
        return self.rows["train"] + self.unlabelled
