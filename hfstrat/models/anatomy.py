"""Finding a model's parts by its structure, and naming parameters the same with and without adapters."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hfstrat.errors import ModelError, Problem
from hfstrat.strategies.plan import Anatomy, TokenTable

_WRAPPERS = re.compile(r"\.base_layer(?=\.|$)|\.token_adapter(?=\.|$)|\.modules_to_save\.default(?=\.|$)")
_ROWS = "trainable_tokens_delta"  # rows of an embedding that any method may train beside its own weights
_ADAPTER_NAME = re.compile(r"\.default(?=\.|$)")


def canonical(name: str, model: nn.Module) -> str:
    """A parameter's or module's name without what PEFT and DDP put around it.

    Args:
        name: The name in the model.
        model: The model: methods that change layers are two wrappers around it, those that add prompts are one.
    """
    name, around = name.removeprefix("module."), _around(model)
    bare = _WRAPPERS.sub("", name.removeprefix(around))
    return _ADAPTER_NAME.sub("", bare) if around and name.startswith(around) else bare


def _around(model: nn.Module) -> str:
    """What names of the base begin with in an adapted model; empty in one that is not."""
    inner: Any = model if hasattr(model, "peft_config") else getattr(model, "module", model)
    if not hasattr(inner, "peft_config"):
        return ""
    return "base_model.model." if hasattr(inner.base_model, "targeted_module_names") else "base_model."


def adapter_names(model: nn.Module) -> set[str]:
    """Canonical names of what an adapter's method trains: PEFT tells it by a prefix, prompts stand apart."""
    tuner = getattr(model, "base_model", None)
    prefix = getattr(tuner, "prefix", None)
    begins = (prefix, _ROWS) if isinstance(prefix, str) else (_ROWS,)
    return {
        canonical(name, model)
        for name, _ in model.named_parameters()
        if any(part.startswith(begins) for part in name.split(".")) or name.startswith("prompt_encoder.")
    }


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Canonical names and parameters; PEFT's untouched copies of trained modules are left out."""
    for name, parameter in model.named_parameters():
        if ".original_module." not in name:
            yield canonical(name, model), parameter


def named_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Canonical names of the buffers that are saved and that training moves, such as the statistics of batch norms."""
    for path, module in model.named_modules():
        if hasattr(module, "running_mean"):
            for name, buffer in module.named_buffers(path, recurse=False):
                yield canonical(name, model), buffer


def module_at(model: nn.Module, path: str) -> tuple[nn.Module, str, nn.Module]:
    """The parent, the attribute and the module that a canonical path means."""
    for name, module in model.named_modules():
        wrapped = hasattr(module, "modules_to_save") or hasattr(module, "base_layer")
        if canonical(name, model) == path and ".original_module" not in name and not wrapped:
            parent, _, attribute = name.rpartition(".")
            return model.get_submodule(parent), attribute, module
    raise KeyError(path)


def find_anatomy(model: nn.Module, fresh: Collection[str], num_labels: int | None, *, random: bool = False) -> Anatomy:
    """Find the parts of a model without adapters.

    Args:
        model: A transformers model, on any device, meta included.
        fresh: Names of parameters that the checkpoint does not have.
        num_labels: Width of the output layer; None where it is of no interest.
        random: Whether there is no checkpoint, so that every parameter is fresh.

    Raises:
        ModelError: The model has no separate backbone, or the source of its code is not there.
    """
    backbone, body = _backbone(model)
    parameters = {name: parameter.numel() for name, parameter in model.named_parameters()}
    beside = [name for name, _ in model.named_children() if name != backbone] if backbone else [_own_output(model)]
    head = _head(beside, backbone, parameters, set() if random else set(fresh))
    within: list[str] | None = None
    if detects(model):
        within = _boxes(model, parameters, backbone)
        inside = [name for name in head if _inside(name, (backbone,)) and not _inside(name, within)]
        head = (*inside, *within, *_apart(model, beside, parameters))
        within = [name.removeprefix(f"{backbone}.") for name in within]
    lists = _lists(body, within)
    stacks = tuple(_blocks(body, backbone, path) for path in lists)
    blocks = [block for stack in stacks for block in stack]
    modules = [
        (name, module)
        for name, module in model.named_modules()
        if _inside(name, (backbone,)) and not _inside(name, (*head, *beside))
    ]
    output, output_bias = _output(model, head, num_labels)
    return Anatomy(
        backbone=backbone,
        embeddings=tuple(
            name
            for name, module in modules
            # Of tied ones the first; relative positions that are kept in a block belong to it.
            if isinstance(module, nn.Embedding) and f"{name}.weight" in parameters and not _inside(name, blocks)
        ),
        stacks=stacks,
        above=_above(body, backbone, lists[-1], [n for n in parameters if not _inside(n, head)]) if lists else (),
        head=head,
        output=output,
        output_bias=output_bias,
        linear=tuple(name for name, module in modules if isinstance(module, (nn.Linear, Conv1D))),
        norms=tuple(name for name, module in modules if _is_norm(module)),
        shared=bool(lists) and _is_shared(body, lists[0]),
        fresh=tuple(sorted(parameters if random else fresh)),
        parameters=parameters,
        tokens=_tokens(model, body),
        tied=tuple(name for name, _ in model.named_parameters(remove_duplicate=False) if name not in parameters),
    )


def _backbone(model: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the body; of a model that is its own body but for an output layer, an empty name."""
    name = backbone_name(model)
    if name is None:
        message = f"{type(model).__name__} does not part its backbone from its head"
        raise ModelError(
            Problem(message, "model.base", hint="Name another base, or to classify texts set task.pooling: mean")
        )
    return name, model.get_submodule(name)


_OF_BOXES = re.compile(r"(?:^|_)(?:class|score|bbox|box)(?:_|$)")
_OF_CLASSES = re.compile(r"(?:^|_)(?:class|score)(?:_|$)")


def detects(model: nn.Module) -> bool:
    """Whether a model finds boxes."""
    return type(model).__name__.endswith("ForObjectDetection")


def _boxes(model: nn.Module, parameters: Collection[str], backbone: str) -> list[str]:
    """Modules inside of a detector's body that are for classes and boxes, as all detectors of transformers name them.

    Encoders propose boxes by such modules, each layer of a decoder has them, and so has what true boxes with noise are
    told apart by.
    """
    named = [
        name
        for name, _ in model.named_modules()
        if _inside(name, (backbone,)) and _OF_BOXES.search(name.rpartition(".")[2])
    ]
    return _apart(model, _outermost(named), parameters)


def _apart(model: nn.Module, paths: Iterable[str], parameters: Collection[str]) -> list[str]:
    """The same modules, of lists their members: a list is no module that could be put beside another one."""
    found: list[str] = []
    for path in paths:
        module = model.get_submodule(path)
        inside = [f"{path}.{name}" for name, _ in module.named_children()]
        found += inside if isinstance(module, nn.ModuleList) else [path]
    return [path for path in found if _holds(path, parameters)]


def class_outputs(model: nn.Module) -> list[str]:
    """Parameters of a detector whose first axis is that of its classes, of which some have one more for no object."""
    config: Any = model.config
    widths = (config.num_labels, config.num_labels + 1)
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.shape[0] in widths and any(_OF_CLASSES.search(part) for part in name.split("."))
    ]


def backbone_name(model: nn.Module) -> str | None:
    """The body's attribute; empty where the model itself is the body, but for an output layer; None without a body."""
    name = getattr(model, "base_model_prefix", "")
    if name and isinstance(getattr(model, name, None), nn.Module):
        return str(name)
    if _own_output(model):
        return ""
    # Whisper's classifier has the encoder of its model beside the head.
    hears = type(model).__name__.endswith("ForAudioClassification")
    return "encoder" if hears and isinstance(getattr(model, "encoder", None), nn.Module) else None


def outside(model: nn.Module) -> list[str]:
    """Names of the parameters outside of the body; of a detector those of its classes, for boxes are boxes."""
    if detects(model):
        return class_outputs(model)
    name = backbone_name(model)
    inside = f"{model.base_model_prefix if name is None else name}."
    if name == "":
        return [each for each, _ in model.named_parameters() if _inside(each, (_own_output(model),))]
    return [each for each, _ in model.named_parameters() if not each.startswith(inside)]


def _own_output(model: nn.Module) -> str:
    """The output layer over the vocabulary of an encoder-decoder that is its own body, as T5 is; or nothing."""
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return ""
    found = getattr(model, "get_output_embeddings", lambda: None)()
    return next((name for name, child in model.named_children() if child is found), "")


def _tokens(model: nn.Module, body: Any) -> TokenTable | None:
    """The embedding of token ids, and what it shares its matrix with."""
    try:
        found = body.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # what sees or hears may have none
        return None
    if not isinstance(found, nn.Embedding):
        return None
    # With duplicates: one module in two places counts as two.
    paths = [name for name, module in model.named_modules(remove_duplicate=False) if module is found]
    shared = [name for name, weight in model.named_parameters(remove_duplicate=False) if weight is found.weight]
    bound, tied = "", False
    if not all(type(part).__module__.startswith(("transformers.", "hfstrat.")) for part in (model, body)):
        bound = "the model is code, which may read the matrix in other ways"
    elif len(shared) > 1:
        bound, tied = f"{', '.join(shared[:-1])} and {shared[-1]} are one matrix", True
    elif type(found) is not nn.Embedding:
        bound = f"its {type(found).__name__} does more than look rows up"
    elif found.max_norm is not None or found.scale_grad_by_freq or found.sparse:
        bound = "it scales rows or gradients, or keeps them sparse"
    return TokenTable(paths[0], found.num_embeddings, found.embedding_dim, bound, tied)


def _head(beside: list[str], backbone: str, parameters: Collection[str], fresh: set[str]) -> tuple[str, ...]:
    """The modules beside the backbone, and before them those inside it that no checkpoint gives."""
    known = [name for name in parameters if name not in fresh]
    beside = [name for name in beside if _holds(name, parameters)]
    within = {name for name in parameters if _inside(name, (backbone,)) and not _inside(name, beside)}
    owners = {name.rpartition(".")[0] for name in within & fresh}
    # Only as a whole: a new mask embedding does not make the embeddings around it a part of the head.
    whole = sorted(path for path in owners if not _holds(path, known))
    return (*_outermost(whole), *beside)


def _output(model: nn.Module, head: Collection[str], num_labels: int | None) -> tuple[str | None, bool]:
    """The last linear module of the head that is as wide as there are labels, and whether it has a bias."""
    found = [
        (name, module.bias is not None)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == num_labels and _inside(name, head)
    ]
    return found[-1] if found else (None, False)


def _is_norm(module: nn.Module) -> bool:
    has_own = any(True for _ in module.parameters(recurse=False))
    return has_own and "norm" in type(module).__name__.lower()


def _lists(body: nn.Module, head: Collection[str] | None = None) -> list[str]:
    """The module list that holds the blocks, or the encoder's and then the decoder's.

    Args:
        body: The body.
        head: Modules in it that are for boxes, of a detector: its stages of convolutions are blocks as well.
    """
    lists = [name for name, module in body.named_modules() if isinstance(module, nn.ModuleList) and len(module)]
    lists = _outermost([name for name in lists if not _inside(name, head or ())])
    found: list[str] = []
    if getattr(getattr(body, "config", None), "is_encoder_decoder", False):
        for side in (*([] if head is None else ["backbone"]), "encoder", "decoder"):
            found += _largest(body, [path for path in lists if _inside(path, (side,))])
    return found or _largest(body, lists)


def _largest(body: nn.Module, lists: list[str]) -> list[str]:
    """The list with the most parameters, if there is one."""

    def is_dense(path: str) -> bool:
        return any(isinstance(module, (nn.Linear, Conv1D)) for module in body.get_submodule(path).modules())

    def size(path: str) -> int:
        return sum(parameter.numel() for parameter in body.get_submodule(path).parameters())

    # Convolutions that read a waveform come below the blocks, and outweigh them in a small model.
    return sorted([path for path in lists if is_dense(path)] or lists, key=size)[-1:]


def _blocks(body: nn.Module, backbone: str, path: str) -> tuple[str, ...]:
    return tuple(_joined(backbone, path, name) for name, _ in body.get_submodule(path).named_children())


def _above(body: nn.Module, backbone: str, path: str, parameters: Collection[str]) -> tuple[str, ...]:
    """The modules with some of these parameters that run after a list of blocks, the first to run first."""
    found: list[str] = []
    while path:
        path, _, child = path.rpartition(".")
        around = body.get_submodule(path)
        later = _named_after(around, child)
        found += [_joined(backbone, path, name) for name, _ in around.named_children() if name in later]
    return tuple(name for name in found if _holds(name, parameters))


def _named_after(module: nn.Module, child: str) -> set[str]:
    """What a module's `forward` comes to only when it is done with one of its children.

    The order of definition does not tell: BART defines the norm of its embeddings after its blocks, OPT and the
    larger wav2vec2 define their final norm before them.
    """
    tree = _forward(module)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {id(call.func): call for call in calls}
    ends: dict[str, list[tuple[int, int]]] = {}
    for node in ast.walk(tree):
        if (name := _own(node)) is not None:
            # In `self.norm(self.encoder(x))` the order is that in which the calls end.
            ends.setdefault(name, []).append(_end(called.get(id(node), node)))
    done = ends.get(child, [])
    # What a loop over the blocks does beside is done between them.
    loops = [node for node in ast.walk(tree) if isinstance(node, (ast.For, ast.While))]
    done = done + [_end(loop) for loop in loops if any(_start(loop) <= end <= _end(loop) for end in done)]
    return {name for name, places in ends.items() if done and min(places) > max(done)}


def _is_shared(body: nn.Module, path: str) -> bool:
    """Whether there are more layers than blocks, and `forward` picks a block by its index."""
    layers = getattr(getattr(body, "config", None), "num_hidden_layers", None)
    parent, _, child = path.rpartition(".")
    tree = _forward(body.get_submodule(parent))
    indexed = any(isinstance(node, ast.Subscript) and _own(node.value) == child for node in ast.walk(tree))
    return isinstance(layers, int) and layers > len(_blocks(body, "", path)) and indexed


def _forward(module: nn.Module) -> ast.AST:
    """The parsed source of a module's `forward`."""
    try:
        source = inspect.getsource(inspect.unwrap(type(module).forward))
    except OSError as error:
        message = f"the source of {type(module).__name__}.forward is not there, so its parts cannot be put in order"
        raise ModelError(Problem(message, "model.base")) from error
    return ast.parse(textwrap.dedent(source))


def _own(node: ast.AST) -> str | None:
    """The name in `self.name`."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return node.attr
    return None


def _start(node: Any) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _end(node: Any) -> tuple[int, int]:
    return node.end_lineno, node.end_col_offset


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _inside(name: str, paths: Iterable[str]) -> bool:
    """Whether a module or parameter is one of these modules or lies in one; the empty path is the whole model."""
    return any(not path or name == path or name.startswith(f"{path}.") for path in paths)


def _holds(path: str, parameters: Iterable[str]) -> bool:
    """Whether a module holds any of these parameters."""
    return any(_inside(name, (path,)) for name in parameters)


def _outermost(paths: list[str]) -> list[str]:
    return [path for path in paths if not _inside(path, [other for other in paths if other != path])]
