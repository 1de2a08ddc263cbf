"""A model from its embeddings to its head: what is frozen, what trains, what an adapter adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from hfstrat.report.tables import count
from hfstrat.strategies.plan import ADAPTER as ADDED
from hfstrat.strategies.plan import matches

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

WIDTH = 18
MOST_BLOCKS = 16
OTHER = "other"
# Random is what starts from random numbers and trains; quantised is what is frozen and stored with few bits.
FROZEN, QUANTISED, TRAINING, ADAPTER, RANDOM = "frozen", "quantised", "training", "adapter", "random"
# Symbol and style of each state; the symbols alone must tell them apart, for terminals and eyes without colour.
LOOKS = {
    FROZEN: ("░", "blue"),
    QUANTISED: ("┼", "blue"),
    TRAINING: ("█", "bold orange1"),
    ADAPTER: ("▚", "green"),
    RANDOM: ("▓", "magenta"),
}
Parts = Mapping[str, Mapping[str, int]]
_ALPHA = "\N{GREEK SMALL LETTER ALPHA}"


@dataclass(frozen=True)
class Layer:
    """A part of the model, or several blocks that are alike.

    Args:
        name: Its module path, without what all paths share.
        total: Its parameters, the adapter's included.
        trained: Those that train in some stage, the adapter's included.
        adapter: Those that an adapter added.
        fresh: Those of its own that start from random numbers.
        is_quantised: Whether its frozen weights are stored with few bits.
        by_stage: Those that train in each stage that has a column, the adapter's included.
        scales: Factors on the learning rate in its stages and blocks, from low to high; none where nothing is fitted.
        section: What it belongs to: `embeddings`, `other`, `above`, `head`, or the path of its stack of blocks.
        times: How many blocks it stands for.
    """

    name: str
    total: int
    trained: int
    adapter: int
    fresh: int = 0
    is_quantised: bool = False
    by_stage: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    section: str = ""
    times: int = 1

    @property
    def shares(self) -> dict[str, int]:
        """Parameters by state, without those of which there are none."""
        own = max(0, self.trained - self.adapter)
        fresh = min(own, self.fresh)
        found = {
            QUANTISED if self.is_quantised else FROZEN: self.total - self.adapter - own,
            TRAINING: own - fresh,
            ADAPTER: self.adapter,
            RANDOM: fresh,
        }
        return {state: number for state, number in found.items() if number > 0}

    @property
    def columns(self) -> list[Layer]:
        """What it is in each stage that has a column; itself when the stages have none."""
        stages = (replace(self, trained=n, adapter=min(self.adapter, n)) for n in self.by_stage)
        return list(stages) or [self]


@dataclass(frozen=True)
class Teacher:
    """Whom the model learns from.

    Args:
        name: A run, folder or Hub id.
        settings: The temperature of its outputs and their weight against the labels.
    """

    name: str
    settings: str


@dataclass(frozen=True)
class Picture:
    """What a drawing shows, whatever it is drawn on.

    Args:
        kind: The strategy.
        details: What stands beside it in the title: the adapter, the storage, the teacher, its own texts.
        rows: The parts from the input to the output; none where there is no model.
        columns: Names of the Fit stages, and the share of the updates that each makes; none when they train the same.
        storage: How frozen weights are stored (`4-bit nf4`); empty when as they are.
        teacher: Whom it learns from, if anyone.
        totals: Sentences below the picture.
        stages: Name and kind of all stages.
    """

    kind: str
    details: tuple[str, ...]
    rows: tuple[Layer, ...]
    columns: tuple[tuple[str, float], ...]
    storage: str
    teacher: Teacher | None
    totals: tuple[str, ...]
    stages: tuple[tuple[str, str], ...]

    @property
    def states(self) -> list[str]:
        """The states that occur, in the order of the legend."""
        used = {state for row in self.rows for layer in (row, *row.columns) for state in layer.shares}
        return [state for state in LOOKS if state in used]

    @property
    def has_scales(self) -> bool:
        """Whether some part learns at another rate than the recipe's."""
        return any(scale != 1 for row in self.rows for scale in row.scales)

    def label(self, state: str) -> str:
        """A state in words."""
        return f"{FROZEN}, {self.storage}" if state == QUANTISED else state

    def words(self, layer: Layer) -> str:
        """The states of a part in words: of a mixture, what trains is the smaller part and gets its number."""
        shares = layer.shares
        plain = (FROZEN, QUANTISED) if len(shares) > 1 else tuple(LOOKS)
        return " + ".join(self.label(state) if state in plain else f"{count(n)} {state}" for state, n in shares.items())

    def order(self, *, numbered: bool) -> str:
        """The stages in their order; numbered like their columns when those have no room for names."""
        places = iter(range(1, len(self.stages) + 1))
        names = (
            f"{f'{next(places)} ' if numbered and kind == 'fit' else ''}{name} ({kind})" for name, kind in self.stages
        )
        return f"stages: {' → '.join(names)}" if self.stages else ""


def draw(plan_json: Mapping[str, Any]) -> RenderableType:
    """Draw the model of a run for a terminal.

    Args:
        plan_json: The content of `plan.json`.
    """
    from rich.console import Group
    from rich.text import Text

    seen = picture(plan_json)
    if not seen.rows:
        return Text(f"{seen.kind}: no layers to draw", "dim")
    details = f" ({', '.join(seen.details)})" if seen.details else ""
    below = (*seen.totals, seen.order(numbered=_headings(seen)[1]))
    return Group(
        Text(f"{seen.kind}{details}", "bold"),
        _table(seen),
        _legend(seen),
        *(Text(line) for line in below if line),
    )


# --- what there is to draw ----------------------------------------------------------------------------------------


def picture(plan_json: Mapping[str, Any]) -> Picture:
    """What a drawing of the model of a run shows.

    Args:
        plan_json: The content of `plan.json`, of this version or of an older one.
    """
    stages, distillation = plan_json.get("stages") or (), plan_json.get("distillation")
    storage = _storage(plan_json.get("storage"))
    adapter = _adapter(plan_json.get("adapter"))
    teacher = _teacher(distillation) if distillation else None
    learned = f"teacher {teacher.name}, {teacher.settings}" if teacher else ""
    more = (distillation or {}).get("unlabelled")
    details = (adapter, storage, learned, f"unlabelled {more}" if more else "")
    return Picture(
        kind=str(plan_json.get("kind") or "?"),
        details=tuple(detail for detail in details if detail),
        rows=tuple(layers(plan_json)),
        columns=tuple((str(stage["name"]), float(stage.get("share", 1.0))) for stage in _columns(stages)),
        storage=storage,
        teacher=teacher,
        totals=(*_totals(plan_json.get("parameters") or {}), *_unplaced(plan_json)),
        stages=tuple((str(stage["name"]), str(stage["kind"])) for stage in stages),
    )


def layers(plan_json: Mapping[str, Any]) -> list[Layer]:
    """The parts from the input to the output; long runs of equal blocks become one.

    Args:
        plan_json: The content of `plan.json`.
    """
    anatomy = plan_json.get("anatomy")
    if not anatomy:
        return []
    parts = _parts(plan_json)

    def section(name: str) -> list[Layer]:
        # A module without parameters of its own shares those of another one (tied embeddings).
        return [_layer(plan_json, path, name) for path in anatomy.get(name) or () if parts.get(path, {}).get("total")]

    blocks = [_layer(plan_json, path, path.rpartition(".")[0]) for path in anatomy.get("blocks") or ()]
    other = [_layer(plan_json, OTHER, OTHER)] if parts.get(OTHER, {}).get("total") else []
    return [*section("embeddings"), *other, *_collapsed(blocks), *section("above"), *section("head")]


def _parts(plan_json: Mapping[str, Any]) -> Parts:
    """Counts by part."""
    return (plan_json.get("parameters") or {}).get("by_module") or {}


def _layer(plan_json: Mapping[str, Any], path: str, section: str) -> Layer:
    part = _parts(plan_json).get(path, {})
    total, trained, adapter = (int(part.get(name, 0)) for name in ("total", "trained", "adapter"))
    # Files without `fresh` are from when every head was new.
    is_new = section == "head" or plan_json.get("weights") == "random"
    stages = plan_json.get("stages") or ()
    return Layer(
        name=path.removeprefix(f"{plan_json['anatomy'].get('backbone') or ''}."),
        total=total,
        trained=trained,
        adapter=adapter,
        fresh=int(part.get("fresh", total - adapter if is_new else 0)),
        # Only linear layers are stored so, which is nearly all of a block; embeddings and norms stay as they are.
        is_quantised=bool(plan_json.get("storage")) and section not in ("embeddings", OTHER, "above", "head"),
        by_stage=tuple(int(stage["trained"].get(path, 0)) for stage in _columns(stages)),
        scales=_scales(path, _parts(plan_json), _fits(stages)),
        section=section,
    )


def _collapsed(blocks: Sequence[Layer]) -> list[Layer]:
    """Neighbours that are equal but for name and rate, as one with the counts of all; short stacks stay as they are."""
    if len(blocks) <= MOST_BLOCKS:
        return list(blocks)
    stacks = [list(stack) for _, stack in groupby(blocks, lambda block: block.section)]
    found = []
    for stack in stacks:
        whose = f"{stack[0].name.split('.')[0]} " if len(stacks) > 1 else ""
        for _, run in groupby(enumerate(stack), lambda pair: replace(pair[1], name="", scales=())):
            same = list(run)
            found.append(_joined([place for place, _ in same], [block for _, block in same], whose))
    return found


def _joined(places: Sequence[int], blocks: Sequence[Layer], whose: str) -> Layer:
    """Equal blocks as one."""
    n, block = len(blocks), blocks[0]
    if n == 1:
        return block
    return replace(
        block,
        name=f"{whose}blocks {places[0]}–{places[-1]} ({n}×)",
        total=n * block.total,
        trained=n * block.trained,
        adapter=n * block.adapter,
        fresh=n * block.fresh,
        by_stage=tuple(n * trained for trained in block.by_stage),
        scales=tuple(sorted({scale for each in blocks for scale in each.scales})),
        times=n,
    )


def _fits(stages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [stage for stage in stages if stage["kind"] == "fit"]


def _columns(stages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The Fit stages, if it is known that they train different things."""
    fits = _fits(stages)
    if not all("trained" in fit for fit in fits):
        return []
    trained = [{part: n for part, n in fit["trained"].items() if n} for fit in fits]
    return fits if any(one != trained[0] for one in trained) else []


def _scales(path: str, parts: Parts, fits: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """The factors on the learning rate that a part has in the stages that train it."""
    trained = parts.get(path, {}).get("trained", 0)
    training = (fit for fit in fits if fit.get("trained", {path: trained}).get(path))
    groups = (_group(path, parts, fit.get("groups") or ()) for fit in training)
    return tuple(sorted({float(group.get("lr_scale", 1.0)) for group in groups if group}))


def _group(path: str, parts: Parts, groups: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The group that takes a part, where that can be told."""
    if path == OTHER:
        # What lies in no part can only be in a group that is for more than parts.
        wide = [group for group in groups if not all(_is_inside(pattern, parts) for pattern in group["patterns"])]
        return wide[0] if len({group.get("lr_scale", 1.0) for group in wide}) == 1 else None
    has_adapter = parts.get(path, {}).get("adapter", 0) > 0
    for group in groups:
        patterns = tuple(group["patterns"])
        if matches(f"{path}.weight", patterns) or (has_adapter and ADDED in patterns):
            return group
    return None


def _is_inside(pattern: str, parts: Parts) -> bool:
    return any(pattern.startswith(f"{part}.") for part in parts)


def _unplaced(plan_json: Mapping[str, Any]) -> Iterator[str]:
    """Rates of groups that are no part of the drawing, such as one of an adapter's two matrices."""
    parts = _parts(plan_json)
    found: dict[str, float] = {}
    for fit in _fits(plan_json.get("stages") or ()):
        groups = fit.get("groups") or ()
        taken = [_group(path, parts, groups) for path in parts]
        left = (group for group in groups if not any(group is one for one in taken))
        found |= {str(group["name"]): group["lr_scale"] for group in left if group.get("lr_scale", 1.0) != 1}
    if found:
        yield f"learning rates: {', '.join(f'{scales((scale,))} {name}' for name, scale in found.items())}"


def _totals(parameters: Mapping[str, Any]) -> Iterator[str]:
    total, trainable, stored = (parameters.get(name) for name in ("total", "trainable", "stored"))
    if total and trainable is not None:
        kept = f"; {count(stored)} stored in the artefact" if stored is not None else ""
        yield f"{count(trainable)} of {count(total)} parameters train ({100 * trainable / total:.3g} %){kept}"


def _adapter(adapter: Mapping[str, Any] | None) -> str:
    if not adapter:
        return ""
    options = adapter.get("options") or {}
    return f"{adapter.get('method')}{', r=' + str(options['r']) if 'r' in options else ''}"


def _storage(storage: Mapping[str, Any] | None) -> str:
    if not storage:
        return ""
    # Only 4 bits come in several data types.
    kind = f" {storage['quant_type']}" if storage["bits"] == 4 and storage.get("quant_type") else ""
    return f"{storage['bits']}-bit{kind}"


def _teacher(distillation: Mapping[str, Any]) -> Teacher:
    temperature, alpha = distillation["temperature"], distillation["alpha"]
    return Teacher(str(distillation["teacher"]), f"T={temperature:g}, {_ALPHA}={alpha:g}")


def bar(layer: Layer, width: int = WIDTH, least: int = 1) -> list[tuple[str, int]]:
    """A layer's states with the cells that each gets: in proportion, and so many at least for whatever is there.

    Where there is no room for all, the smallest shares are left out.
    """
    shares = layer.shares
    room = max(1, width // least)
    kept = set(sorted(shares, key=lambda state: -shares[state])[:room])
    shares = {state: number for state, number in shares.items() if state in kept}
    if not shares:
        return []
    least = min(least, width)
    spare = width - least * len(shares)
    cells = {state: least + spare * number // sum(shares.values()) for state, number in shares.items()}
    cells[max(cells, key=lambda state: cells[state])] += width - sum(cells.values())
    return list(cells.items())


def scales(factors: Sequence[float]) -> str:
    """Factors on the learning rate: `×0.81`, `×0.1–0.9`; empty when there is none."""
    ends = dict.fromkeys(f"{factor:.3g}" for factor in (*factors[:1], *factors[-1:]))
    return f"×{'–'.join(ends)}" if ends else ""


# --- a terminal ---------------------------------------------------------------------------------------------------


def _headings(seen: Picture) -> tuple[list[str], bool, int]:
    """What stands above the bars, whether that is numbers in place of names, and how wide a bar is."""
    n = len(seen.columns)
    width = max(1, min(8, 22 // n - 1)) if n else WIDTH  # 80 characters are enough for three stages
    numbered = any(len(name) > width for name, _ in seen.columns)
    return [str(place) if numbered else name for place, (name, _) in enumerate(seen.columns, 1)], numbered, width


def _table(seen: Picture) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    headings, _, width = _headings(seen)
    above = " ".join(heading[:width].ljust(width) for heading in headings)
    table = Table(
        box=None,
        show_header=bool(headings) or seen.has_scales,
        header_style="dim",
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    table.add_column(overflow="fold")
    table.add_column(Text(above), no_wrap=True, min_width=max(width, len(above)))
    table.add_column(no_wrap=True, justify="right")
    if seen.has_scales:
        table.add_column("lr", no_wrap=True)
    table.add_column(overflow="fold")
    for layer in seen.rows:
        rate = (scales(layer.scales),) if seen.has_scales else ()
        cells = (_bars(layer, width), Text(count(layer.total)), *rate, Text(seen.words(layer), "dim"))
        table.add_row(Text(layer.name), *cells)
    return table


def _bars(layer: Layer, width: int) -> Text:
    from rich.text import Text

    drawn = (
        Text.assemble(*((LOOKS[state][0] * cells, LOOKS[state][1]) for state, cells in bar(column, width)))
        for column in layer.columns
    )
    return Text(" ").join(drawn)


def _legend(seen: Picture) -> Text:
    from rich.text import Text

    text = Text("\n")
    for state in seen.states:
        symbol, style = LOOKS[state]
        text.append(symbol * 2, style).append(f" {seen.label(state)}   ")
    return text
