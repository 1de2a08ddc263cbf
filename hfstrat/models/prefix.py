"""The frozen bottom of a model: what its blocks give, taken out once, and stubs that hand it back.

The model's own forward pass goes on with the stubs in place of the blocks, so that whatever it does between and above
them stays its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hfstrat.models.anatomy import module_at

Run = Callable[[], object]


class Stub(nn.Module):
    """Stands in for a frozen block, and gives what was stored instead of computing it.

    Args:
        block: The block, of which the model may still ask attributes; it is no submodule of the stub.
        wrap: Puts the stored tensor into the form in which the block returns it.
    """

    def __init__(self, block: nn.Module, wrap: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.__dict__["block"], self.__dict__["_wrap"] = block, wrap
        self.__dict__["stored"] = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)

    def forward(self, *_: Any, **__: Any) -> Any:
        """What was handed over, whatever the block is called with."""
        return self.__dict__["_wrap"](self.__dict__["stored"])


class _Seen(Exception):
    """Carries a block's output out of a forward pass."""


def output_of(model: nn.Module, block: str, run: Run) -> Any:
    """What a block gives in a forward pass, which ends there.

    Args:
        model: The model.
        block: Its canonical path.
        run: Calls the model.
    """
    found: list[Any] = []

    def see(_: nn.Module, __: Any, output: Any) -> None:
        found.append(output)
        raise _Seen

    handle = module_at(model, block)[2].register_forward_hook(see)
    try:
        run()
    except _Seen:
        return found[0]
    finally:
        handle.remove()
    raise AssertionError(f"{block} does not run")


def wrapping(output: Any) -> Callable[[torch.Tensor], Any] | None:
    """How a block returns its hidden states; None where it hands on more than these.

    Args:
        output: What it gave once.
    """
    if isinstance(output, torch.Tensor):
        return _bare
    if isinstance(output, tuple) and isinstance(output[0], torch.Tensor) and all(one is None for one in output[1:]):
        return lambda hidden: (hidden, *output[1:])
    return None


def _bare(hidden: torch.Tensor) -> torch.Tensor:
    return hidden


@contextmanager
def stubbed(model: nn.Module, blocks: Sequence[str], wrap: Callable[[torch.Tensor], Any]) -> Iterator[None]:
    """Stubs in place of the lowest blocks, and the blocks again afterwards.

    Args:
        model: The model.
        blocks: Canonical paths of the blocks.
        wrap: As `wrapping` gives it.
    """
    places = [module_at(model, path) for path in blocks]
    for parent, name, block in places:
        parent._modules[name] = Stub(block, wrap)
    try:
        yield
    finally:
        for parent, name, block in places:
            parent._modules[name] = block


def hand_over(model: nn.Module, hidden: torch.Tensor) -> None:
    """Give the stubs of a model what they return in the next forward pass, `(windows, length, width)`."""
    for module in model.modules():
        if isinstance(module, Stub):
            module.__dict__["stored"] = hidden


def aside(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks that stubs stand in for."""
    for module in model.modules():
        if isinstance(module, Stub):
            yield module.__dict__["block"]


def below(state: Mapping[str, torch.Tensor], upper: Sequence[str]) -> dict[str, torch.Tensor]:
    """The tensors of a model that do not lie in some of its modules, by canonical name."""
    inside = tuple(f"{path}." for path in upper)
    return {name: value for name, value in state.items() if not name.startswith(inside)}
