"""An architecture of the user's own: a local file of Python, run and registered for this process.

It is named as code wherever the run speaks of its model, it is never fetched from elsewhere, and a copy of it goes with
the artefact, in the way that transformers documents for custom models.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from hfstrat.errors import ModelError, Problem

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Code:
    """A file that has been run.

    Args:
        file: The file.
        model_types: Architectures that it defines.
    """

    file: Path
    model_types: tuple[str, ...]


def load_code(path: str | Path) -> Code:
    """Run a file and register its architectures with the Auto classes of this process.

    Raises:
        ModelError: It is not there, fails, or defines no architecture.
    """
    file = Path(os.path.expanduser(path))
    if file.suffix != ".py" or not file.is_file():
        what = f"{path} is no file of Python" if file.is_file() else f"no such file: {path}"
        raise ModelError(Problem(what, "model.code", hint="Name a local file that ends in .py"))
    module = _run(file)
    configs, models = _defined(module)
    if not configs or not models:
        what = "PretrainedConfig with a model_type" if not configs else "PreTrainedModel with its config_class"
        raise ModelError(Problem(f"{file} defines no {what}", "model.code"))
    for config in configs:
        _register(config, [model for model in models if model.config_class is config], file)
    return Code(file.resolve(), tuple(config.model_type for config in configs))


def _run(file: Path) -> ModuleType:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    # transformers names the copy in the artefact after the last part of the module's name.
    name = f"hfstrat_code_{digest}.{file.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's file raises is a user's mistake, told with its line
        del sys.modules[name]
        where = f"{file}:{_line(error, file)}"
        raise ModelError(Problem(f"the code fails: {type(error).__name__}: {error}", "model.code", where)) from error
    return module


def _line(error: BaseException, file: Path) -> int:
    """The last line of the file that an error passed through."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return error.lineno
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file.resolve()
    ]
    return int(lines[-1] or 1) if lines else 1


def _defined(module: ModuleType) -> tuple[list[type[PretrainedConfig]], list[type[PreTrainedModel]]]:
    """Configurations and models that the file itself defines."""
    from transformers import PretrainedConfig, PreTrainedModel

    own = [item for item in vars(module).values() if isinstance(item, type) and item.__module__ == module.__name__]
    configs = [item for item in own if issubclass(item, PretrainedConfig) and item.model_type]
    return configs, [item for item in own if issubclass(item, PreTrainedModel) and item.config_class in configs]


def _register(config: type[PretrainedConfig], models: list[type[PreTrainedModel]], file: Path) -> None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if config.model_type in CONFIG_MAPPING_NAMES:
        hint = "Give it a model_type of its own"
        what = f"{file.name} calls its architecture '{config.model_type}', which transformers has already"
        raise ModelError(Problem(what, "model.code", hint=hint))
    transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
    config.register_for_auto_class()
    for model in models:
        auto = _auto_class(model)
        getattr(transformers, auto).register(config, model, exist_ok=True)
        model.register_for_auto_class(auto)


def _auto_class(model: type[PreTrainedModel]) -> str:
    """`MyForSequenceClassification` → `AutoModelForSequenceClassification`; without a task's suffix `AutoModel`."""
    import transformers

    _, found, task = model.__name__.rpartition("For")
    auto = f"AutoModelFor{task}"
    return auto if found and hasattr(transformers, auto) else "AutoModel"
