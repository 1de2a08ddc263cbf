"""The base model before its weights: where it is, its configuration and tokenizer, what it declares."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfstrat.errors import ModelError, Problem
from hfstrat.recipe.model import ModelSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Base:
    """A base model that is there, its weights not yet read.

    Args:
        location: Folder or Hub id that `from_pretrained` takes.
        name: What to call it in public: `published_as`, else as the recipe says.
        config: Its configuration.
        tokenizer: Its tokenizer, with a padding token.
        max_length: Tokens that it takes at most.
        pooling: Pooling that a sentence-transformers checkpoint declares; None when it declares none.
        normalize: Whether it declares vectors of length one.
        hub: Keyword arguments for everything that is loaded from the same place.
    """

    location: str
    name: str
    config: PretrainedConfig = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    max_length: int
    pooling: str | None
    normalize: bool
    hub: Mapping[str, Any]

    def fingerprint(self) -> str:
        """SHA-256 over the weights and configuration of a folder; the commit of a Hub id."""
        folder = Path(self.location)
        if not folder.is_dir():
            return str(getattr(self.config, "_commit_hash", None) or self.hub.get("revision") or "unknown")
        digest = hashlib.sha256()
        for file in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def locate(base: str) -> str:
    """Turn `model.base` into a folder or Hub id.

    Raises:
        ModelError: A package or folder is not there.
    """
    if base.startswith("package:"):
        return _in_package(base)
    folder = Path(os.path.expanduser(base))  # unlike Path's own it leaves an unknown user as it is
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                Problem(f"the folder {base} has no config.json", "model.base", hint="Is it a model's folder?")
            )
        return str(folder)
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise ModelError(Problem(f"no such folder: {base}", "model.base"))
    return base


def _in_package(base: str) -> str:
    module, _, inside = base.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        package = module.replace("_", "-")
        hint = f"`pip install {package}`" if module.isidentifier() else "Write package:<module>/<folder>"
        raise ModelError(Problem(f"no installed package '{module}'", "model.base", hint=hint))
    folder = Path(next(iter(spec.submodule_search_locations)), inside)
    if not (folder / "config.json").is_file():
        raise ModelError(Problem(f"the package {module} has no model in '{inside}'", "model.base"))
    return str(folder)


def open_base(spec: ModelSpec) -> Base:
    """Find a base model and read its configuration and tokenizer.

    Raises:
        ModelError: It is not there, cannot be reached, or is not a model.
    """
    location = locate(spec.base)
    hub: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code}
    if spec.revision and not Path(location).is_dir():
        hub["revision"] = spec.revision
    config, tokenizer = _config(location, spec, hub), _tokenizer(location, spec, hub)
    pooling, normalize, declared = _sentence_transformer(location, hub)
    limits = [declared, getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    return Base(
        location=location,
        name=spec.published_as or spec.base,
        config=config,
        tokenizer=tokenizer,
        max_length=min(int(limit) for limit in limits if limit),
        pooling=pooling,
        normalize=normalize,
        hub=hub,
    )


def _config(location: str, spec: ModelSpec, hub: Mapping[str, Any]) -> PretrainedConfig:
    from transformers import AutoConfig

    from hfstrat.models.pooled import register

    register()
    try:
        return AutoConfig.from_pretrained(location, **hub)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_unloadable(spec, error, "configuration")) from error


def _tokenizer(location: str, spec: ModelSpec, hub: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(location, **hub)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(_unloadable(spec, error, "tokenizer")) from error
    if tokenizer.pad_token_id is None:
        # Padding is told by the attention mask everywhere, so any token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise ModelError(Problem("the tokenizer has neither a padding nor an end token", "model.base"))
    return tokenizer


def _unloadable(spec: ModelSpec, error: Exception, what: str) -> Problem:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "trust_remote_code" in str(error):
        return Problem(
            f"{spec.base} brings Python code of its own",
            "model.base",
            hint="Read that code, then set model.trust_remote_code: true",
        )
    if _looks_offline(error):
        return Problem(
            f"{spec.base} is neither a folder here nor in the cache, and the Hub cannot be reached",
            "model.base",
            hint="Give a folder or package:<module>/<folder>, or download it while online",
        )
    return Problem(f"the {what} of {spec.base} cannot be read: {text}", "model.base")


def _looks_offline(error: BaseException | None) -> bool:
    words = ("couldn't connect", "offline", "connection", "resolve", "cached files", "timed out")
    seen = 0
    while error is not None and seen < 8:
        if any(word in str(error).lower() for word in words):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def _sentence_transformer(location: str, hub: Mapping[str, Any]) -> tuple[str | None, bool, int | None]:
    """Pooling, normalisation and length that a sentence-transformers checkpoint declares."""
    modules = _json(location, "modules.json", hub)
    if not isinstance(modules, list):
        return None, False, None
    kinds = {str(module.get("type", "")).rsplit(".", 1)[-1]: str(module.get("path", "")) for module in modules}
    pooling = None
    if "Pooling" in kinds:
        modes = _json(location, f"{kinds['Pooling']}/config.json", hub) or {}
        names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last"}
        pooling = next((pooled for name, pooled in names.items() if modes.get(name)), None)
    length = (_json(location, "sentence_bert_config.json", hub) or {}).get("max_seq_length")
    return pooling, "Normalize" in kinds, length


def _json(location: str, name: str, hub: Mapping[str, Any]) -> Any:
    from transformers.utils import cached_file

    path = cached_file(
        location,
        name,
        revision=hub.get("revision"),
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return json.loads(Path(path).read_text("utf-8")) if path else None
