"""A model from its embeddings to its head: what is frozen, what trains, what an adapter adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from hfstrat.report.tables import count

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

WIDTH = 18
MOST_BLOCKS = 16
# Symbol and style of each state; the symbols alone must tell them apart, for terminals and eyes without colour.
FROZEN, TRAINING, ADAPTER, HEAD = "frozen", "training", "adapter", "new head"
LOOKS = {FROZEN: ("░", "blue"), TRAINING: ("█", "bold orange1"), ADAPTER: ("▚", "green"), HEAD: ("▓", "magenta")}


@dataclass(frozen=True)
class Layer:
    """A part of the model.

    Args:
        name: Its module path, without what all paths share.
        total: Its parameters, the adapter's included.
        trained: Those that train in some stage, the adapter's included.
        adapter: Those that an adapter added.
        is_head: Whether the part is new for this task.
    """

    name: str
    total: int
    trained: int
    adapter: int
    is_head: bool = False

    @property
    def shares(self) -> dict[str, int]:
        """Parameters by state, without those of which there are none."""
        own = max(0, self.trained - self.adapter)
        found = {
            FROZEN: self.total - self.adapter - own,
            HEAD if self.is_head else TRAINING: own,
            ADAPTER: self.adapter,
        }
        return {state: number for state, number in found.items() if number > 0}


def draw(plan_json: Mapping[str, Any]) -> RenderableType:
    """Draw the model of a run.

    Args:
        plan_json: The content of `plan.json`.
    """
    from rich.console import Group
    from rich.text import Text

    kind, anatomy = str(plan_json.get("kind") or "?"), plan_json.get("anatomy")
    if not anatomy:
        return Text(f"{kind}: no layers to draw", "dim")
    parameters = plan_json.get("parameters") or {}
    rows = layers(anatomy, parameters.get("by_module") or {})
    return Group(
        Text(f"{kind}{_adapter(plan_json.get('adapter'))}", "bold"),
        _table(rows),
        _legend(rows),
        *_totals(parameters),
        *_stages(plan_json.get("stages") or ()),
    )


def layers(anatomy: Mapping[str, Any], by_module: Mapping[str, Mapping[str, int]]) -> list[Layer]:
    """The parts from the input to the output; long runs of equal blocks become one.

    Args:
        anatomy: Module paths of `embeddings`, `blocks` and `head`, and of the `backbone` that most of them lie in.
        by_module: Parameters of each of them, and of `other`.
    """
    prefix = f"{anatomy.get('backbone') or ''}."
    blocks, head = list(anatomy.get("blocks") or ()), list(anatomy.get("head") or ())

    def layer(path: str, is_head: bool = False) -> Layer:
        part = by_module.get(path, {})
        name = path.removeprefix(prefix)
        return Layer(name, part.get("total", 0), part.get("trained", 0), part.get("adapter", 0), is_head)

    below = [layer(path) for path in anatomy.get("embeddings") or () if path in by_module]
    middle = [layer(path) for path in blocks]
    other = [layer("other")] if by_module.get("other", {}).get("total") else []
    return [*below, *other, *_collapsed(middle), *(layer(path, is_head=True) for path in head)]


def _collapsed(blocks: Sequence[Layer]) -> list[Layer]:
    """Neighbours that are equal but for their name, as one with the counts of all; short stacks stay as they are."""
    if len(blocks) <= MOST_BLOCKS:
        return list(blocks)
    found = []
    for _, run in groupby(enumerate(blocks), lambda pair: (pair[1].total, pair[1].trained, pair[1].adapter)):
        same = list(run)
        (first, block), (last, _) = same[0], same[-1]
        n = len(same)
        name = f"blocks {first}–{last} ({n}×)" if n > 1 else block.name
        found.append(Layer(name, n * block.total, n * block.trained, n * block.adapter))
    return found


def bar(layer: Layer, width: int = WIDTH) -> list[tuple[str, int]]:
    """A layer's states with the cells that each gets: in proportion, and at least one for whatever is there."""
    shares = layer.shares
    if not shares:
        return []
    cells = {state: max(1, round(width * number / sum(shares.values()))) for state, number in shares.items()}
    cells[max(cells, key=lambda state: cells[state])] += width - sum(cells.values())
    return list(cells.items())


def _table(rows: Sequence[Layer]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True, width=WIDTH)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="fold")
    for layer in rows:
        drawn = Text.assemble(*((LOOKS[state][0] * cells, LOOKS[state][1]) for state, cells in bar(layer)))
        table.add_row(Text(layer.name), drawn, Text(count(layer.total)), _states(layer))
    return table


def _states(layer: Layer) -> Text:
    from rich.text import Text

    shares = layer.shares
    # Of a mixture, what trains is the smaller part and the news; the rest follows from the total.
    words = [state if state == FROZEN or len(shares) == 1 else f"{count(n)} {state}" for state, n in shares.items()]
    return Text(" + ".join(words), "dim")


def _legend(rows: Sequence[Layer]) -> Text:
    from rich.text import Text

    used = {state for layer in rows for state in layer.shares}
    text = Text("\n")
    for state, (symbol, style) in LOOKS.items():
        if state in used:
            text.append(symbol * 2, style).append(f" {state}   ")
    return text


def _totals(parameters: Mapping[str, Any]) -> Iterator[Text]:
    from rich.text import Text

    total, trainable, stored = (parameters.get(name) for name in ("total", "trainable", "stored"))
    if total and trainable is not None:
        kept = f"; {count(stored)} stored in the artefact" if stored is not None else ""
        yield Text(f"{count(trainable)} of {count(total)} parameters train ({100 * trainable / total:.3g} %){kept}")


def _stages(stages: Sequence[Mapping[str, Any]]) -> Iterator[Text]:
    from rich.text import Text

    if stages:
        names = (f"{stage['name']} ({stage['kind']})" for stage in stages)
        yield Text(f"stages: {' → '.join(names)}")


def _adapter(adapter: Mapping[str, Any] | None) -> str:
    if not adapter:
        return ""
    options = adapter.get("options") or {}
    rank = f", r={options['r']}" if "r" in options else ""
    return f" ({adapter.get('method')}{rank})"
