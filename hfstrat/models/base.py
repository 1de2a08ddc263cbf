"""The base model before its weights: where it is, its configuration and tokenizer, what it declares."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from hfstrat.errors import ModelError, Problem, RecipeError, UsageError, did_you_mean
from hfstrat.models.code import Code, load_code
from hfstrat.models.growing import Grown, grown_of
from hfstrat.models.modeling_pooled import PooledConfig
from hfstrat.models.processors import (
    detector_processor,
    listening,
    plain_feature_extractor,
    plain_image_processor,
    read_feature_extractor,
    read_image_processor,
    resized,
    squared,
)
from hfstrat.models.vocabulary import fitted_config, position_limit
from hfstrat.models.weights import AGAIN, check_weights
from hfstrat.recipe.model import ModelSpec
from hfstrat.strategies.plan import Body

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase, SequenceFeatureExtractor
    from transformers.image_processing_utils import BaseImageProcessor


Made = TypeVar("Made")
LONGEST = 512  # tokens, where nothing else is asked for
FEW_TOKENS = 1000  # larger vocabularies hold more than special tokens


@dataclass(frozen=True)
class Adapted:
    """An adapter that a run starts from.

    Args:
        folder: The adapter.
        base_name: Public name of the base that it belongs to.
        storage: How that base was stored while it trained, as in `Quantization`; None: as it is.
        pooled: Whether it adapts a pooled classifier.
    """

    folder: Path
    base_name: str
    storage: Mapping[str, Any] | None
    pooled: bool


@dataclass(frozen=True)
class Base:
    """A base model that is there, its weights not yet read.

    Args:
        location: Folder or Hub id that `from_pretrained` takes; None for a configuration alone.
        name: What to call it in public: `published_as`, else as the recipe says.
        config: The body's configuration.
        tokenizer: Its tokenizer, with a padding token; None for a configuration alone, until one is trained.
        max_length: Tokens that it takes at most; None when nothing says so.
        pooling: Pooling that a sentence-transformers checkpoint or a pooled classifier declares; None for none.
        normalize: Whether it declares vectors of length one.
        pooled: Whether the location holds a pooled classifier.
        labels: Names of the outputs of the head that it brings, in order; None when it brings none.
        adapter: The adapter on top of it to start from.
        code: The user's own architecture.
        hub: Keyword arguments for everything that is loaded from the same place.
        image_processor: What makes inputs of pictures, where the model looks at those.
        regridded: Whether the configuration is for pictures of another size than the weights.
        feature_extractor: What makes inputs of sounds, where the model hears those.
        grown: Tokens that its tokenizer has and its weights have not, or not under these names.
    """

    location: str | None
    name: str
    config: PretrainedConfig = field(repr=False)
    tokenizer: PreTrainedTokenizerBase | None = field(repr=False)
    max_length: int | None
    pooling: str | None
    normalize: bool
    pooled: bool
    labels: tuple[str, ...] | None
    adapter: Adapted | None
    code: Code | None
    hub: Mapping[str, Any]
    image_processor: BaseImageProcessor | None = field(default=None, repr=False)
    regridded: bool = False
    feature_extractor: SequenceFeatureExtractor | None = field(default=None, repr=False)
    grown: Grown | None = None

    @property
    def processor(self) -> PreTrainedTokenizerBase | BaseImageProcessor | SequenceFeatureExtractor:
        """What makes inputs: the image processor or the feature extractor where there is one, else the tokenizer."""
        return self.image_processor or self.feature_extractor or self.known_tokenizer

    @property
    def known_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, when there is one."""
        assert self.tokenizer is not None, "a base without a tokenizer has got one by now"
        return self.tokenizer

    @property
    def head(self) -> tuple[str, bool]:
        """Pooling below the head that it brings, and whether vectors have length one there."""
        pooled = self.pooled if self.adapter is None else self.adapter.pooled
        return (str(self.pooling), self.normalize) if pooled else ("native", False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights, configuration and code of local files; the commit of a Hub id."""
        digest = hashlib.sha256()
        if self.location is not None and not Path(self.location).is_dir():
            commit = _commit(self.location, self.hub)
            if self.adapter is None:
                return commit
            digest.update(commit.encode())
        for file in self._files():
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        if self.location is None:
            digest.update(self.config.to_json_string().encode())
        return digest.hexdigest()

    def _files(self) -> Iterator[Path]:
        folders = [Path(self.location)] if self.location is not None and Path(self.location).is_dir() else []
        for folder in folders if self.adapter is None else [*folders, self.adapter.folder]:
            yield from sorted([*folder.glob("*.safetensors"), folder / "config.json"])
        if self.code is not None:
            yield self.code.file


def locate(base: str) -> str:
    """Turn `model.base` into a folder or Hub id; a run means its artefact.

    Raises:
        ModelError: A package or folder is not there, or a run is not done.
    """
    if base.startswith("package:"):
        return _in_package(base)
    folder = Path(os.path.expanduser(base))  # unlike Path's own it leaves an unknown user as it is
    if (folder / "status.json").is_file():
        return str(_artifact(folder))
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise ModelError(
                Problem(f"the folder {base} has no config.json", "model.base", hint="Is it a model's folder?")
            )
        return str(folder)
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise ModelError(Problem(f"no such folder: {base}", "model.base"))
    return base


def _artifact(run: Path) -> Path:
    state = _read_json(run / "status.json").get("state")
    if state != "done":
        raise ModelError(Problem(f"the run {run} is {state}, not done", "model.base"))
    if not (run / "artifact").is_dir():
        raise ModelError(Problem(f"{run} left no model: it is a floor of a comparison", "model.base"))
    return run / "artifact"


def under_adapter(adapter: Path) -> tuple[str, dict[str, Any]]:
    """Where the base of an adapter is, and its revision as a keyword argument if it has one.

    The recipe beside the adapter says it, else the adapter's own configuration. A run that went on from another run's
    adapter has that one's base.
    """
    recipe, named = adapter.parent / "recipe.yaml", _read_json(adapter / "adapter_config.json")
    model = {"base": _base_named_in(named, adapter)}
    if adapter.name == "artifact" and recipe.is_file():
        asked = _asked_model(recipe)
        below = Path(os.path.expanduser(asked["base"]))
        # The run that it went on from may be gone, and the base of both be there.
        model = model if Path(model["base"]).is_dir() and not below.exists() else asked
    location = locate(_named_from_here(model["base"], adapter))
    if (Path(location) / "adapter_config.json").is_file():
        return under_adapter(Path(location))
    return location, _revision(location, model.get("revision"))


def _named_from_here(base: str, adapter: Path) -> str:
    """A base that was named from where its run was started, in most cases a folder above the run's own."""
    given = Path(base)
    if base.startswith(("package:", "~")) or given.is_absolute() or given.exists():
        return base
    above = (parent / given for parent in adapter.resolve().parents)
    return next((str(folder) for folder in above if folder.is_dir()), base)


def _revision(location: str, revision: str | None) -> dict[str, Any]:
    return {"revision": revision} if revision and not Path(location).is_dir() else {}


def _base_named_in(config: Mapping[str, Any], adapter: Path) -> str:
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str):
        what = f"{adapter / 'adapter_config.json'} does not name its base (base_model_name_or_path)"
        raise ModelError(Problem(what, "model.base", hint=AGAIN))
    return name


def _asked_model(recipe: Path) -> dict[str, Any]:
    """The recipe's `model` in a run's directory."""
    try:
        found: dict[str, Any] = yaml.safe_load(recipe.read_text("utf-8"))["model"]
        os.fspath(found["base"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise ModelError(Problem(f"{recipe} is not a run's recipe", "model.base", hint=AGAIN)) from error
    return found


def _read_json(path: Path) -> dict[str, Any]:
    """A file with one JSON object.

    Raises:
        ModelError: It holds something else.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(Problem(f"{path} cannot be read: {_reason(error)}", "model.base", hint=AGAIN)) from error
    if not isinstance(found, dict):
        raise ModelError(Problem(f"{path} holds no object", "model.base", hint=AGAIN))
    return found


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


def open_base(
    spec: ModelSpec,
    body: Body = Body(),  # noqa: B008 - frozen
    auto_class: str = "AutoModelForSequenceClassification",
    reads: str = "input_ids",
    side: int | None = None,
) -> Base:
    """Find a base model and read its configuration, and its tokenizer, image processor or feature extractor.

    Args:
        spec: The recipe's `model`.
        body: What the strategy builds from it.
        auto_class: Auto class of the task, whose heads have labels.
        reads: What it has to take, by the name of its argument.
        side: Height and width that pictures are to have; None for what the base says.

    Raises:
        UsageError: It is not there, cannot be reached, is not a model, or is not what the strategy needs.
    """
    sees, hears = reads == "pixel_values", reads == "input_values"
    detects = auto_class == "AutoModelForObjectDetection"
    _check(spec, body, reads)
    code = load_code(spec.code) if spec.code is not None else None
    origin = body.origin or spec.base
    if origin is None:
        config = _shaped(None, spec)
        found = Base(
            None, str(config.model_type), config, None, _positions(config), None, False, False, None, None, code, {}
        )
        _check_reads(config, found.name, reads)
        if hears:
            return replace(found, feature_extractor=plain_feature_extractor(config))
        plain = detector_processor if detects else plain_image_processor
        return _seeing(found, plain(config), spec, side, detects=detects) if sees else found
    spec = spec.model_copy(update={"base": origin})
    location, adapter = locate(origin), None
    revision = _revision(location, spec.revision if body.origin is None else None)
    folder = Path(location)
    if (folder / "adapter_config.json").is_file():
        location, revision = under_adapter(folder)
        adapter = _adapted(folder)
    hub = {"trust_remote_code": spec.trust_remote_code, **revision}
    own = location if adapter is None else str(folder)  # labels and tokenizer of an adapter are beside it
    config = _config(own, spec, hub)
    _check_reads(config, origin, reads)
    processor = _made_by(read_image_processor, own, spec, hub, "image processor") if sees else None
    extractor = _made_by(read_feature_extractor, own, spec, hub, "feature extractor") if hears else None
    tokenizer = None if sees or hears else _tokenizer(own, spec, hub)
    if body.weights == "pretrained":
        _check_files(location, adapter, origin)
    pooling, normalize, declared = _sentence_transformer(location, hub)
    labels, ours = _labels(config, auto_class), getattr(config, "hfstrat", None) or {}
    pooling, normalize = ours.get("pooling") or (pooling, normalize)
    pooled = isinstance(config, PooledConfig)
    if isinstance(config, PooledConfig):
        pooling, normalize, config = config.pooling, config.normalize, config.backbone_config
    # An artefact's tokenizer cuts where its run did, which says nothing about the model.
    # Relative positions have no end, whatever the length was that T5 was published with.
    relative = _positions(config) is None and hasattr(config, "relative_attention_num_buckets")
    length = None if relative or tokenizer is None else tokenizer.model_max_length
    limits = [ours["limit"]] if ours.get("limit") else [declared, _positions(config), length]
    grown = grown_of(spec.new_tokens, ours, config, tokenizer, body, adapted=adapter is not None)
    if spec.config is not None and tokenizer is not None:
        config = _reshaped(config, spec, tokenizer, body)
        limits = [position_limit(config, tokenizer.pad_token_id)]  # what the base takes, its shape does not say
    found = Base(
        location=location,
        name=body.origin or spec.published_as or origin,
        config=config,
        tokenizer=tokenizer,
        max_length=min((int(limit) for limit in limits if limit), default=None),
        pooling=pooling,
        normalize=normalize,
        pooled=pooled and _is_pooled(location, hub),
        labels=labels,
        adapter=adapter,
        code=code,
        hub={**hub, "use_safetensors": True},
        grown=grown,
    )
    if extractor is not None:
        return _hearing(found, extractor, spec)
    return found if processor is None else _seeing(found, processor, spec, side, detects=detects)


def _seeing(base: Base, processor: BaseImageProcessor, spec: ModelSpec, side: int | None, *, detects: bool) -> Base:
    """A base that looks at pictures, of the recipe's shape and size where it asks for others.

    Args:
        base: What was found.
        processor: What makes its inputs.
        spec: The recipe's `model`.
        side: Height and width of pictures; None for what the processor says.
        detects: Whether it is asked for boxes.
    """
    config = base.config
    if spec.config is not None and base.location is not None:
        config = _shaped(config, spec)
        if detects:
            processor = detector_processor(config) if "model_type" in spec.config else processor
        elif "image_size" in spec.config or int(getattr(config, "num_channels", 3)) == 1:
            processor = plain_image_processor(config)
    if detects:
        processor = squared(processor, side)
    if detects or side is None:
        return replace(base, config=config, image_processor=processor)
    processor, taking = resized(processor, config, side)
    return replace(base, config=taking, image_processor=processor, regridded=taking is not config)


def _hearing(base: Base, extractor: SequenceFeatureExtractor, spec: ModelSpec) -> Base:
    """A base that hears, of the recipe's shape where it asks for one."""
    config = base.config
    if spec.config is not None:
        config = _shaped(config, spec)
        if {"model_type", "num_mel_bins", "max_length", "max_source_positions"} & {*spec.config}:
            extractor = plain_feature_extractor(config)
    return replace(base, config=config, feature_extractor=listening(extractor, config))


def _made_by(
    read: Callable[[str, Mapping[str, Any]], Made], location: str, spec: ModelSpec, hub: Mapping[str, Any], what: str
) -> Made:
    """What makes inputs of pictures or of sounds."""
    try:
        return read(location, hub)
    except UsageError:
        raise
    except Exception as error:  # as of a configuration
        raise ModelError(_unloadable(spec, error, what)) from error


def _check(spec: ModelSpec, body: Body, reads: str) -> None:
    """Raise for what the recipe's `model` lacks or has too much for what is built from it."""
    problems = []
    if body.weights == "pretrained" and spec.base is None and body.origin is None:
        problems.append(Problem("pretrained weights need a base", "model.base", hint="Or use kind: scratch"))
    if body.weights == "pretrained" and spec.config is not None:
        hint = "Remove it, or use kind: scratch"
        problems.append(
            Problem("it is the shape of random weights, and these are pretrained", "model.config", hint=hint)
        )
    if reads != "input_ids" and body.vocabulary is not None:
        problems.append(Problem(f"{_READ[reads]} have no tokens", "strategy.tokenizer", hint="Remove it"))
    if spec.base is None and body.weights == "random" and body.vocabulary is None and reads == "input_ids":
        hint = "Set strategy.tokenizer: {kind: bpe, vocab_size: 8000}, or a model.base whose tokenizer is used"
        problems.append(Problem("there is no base to take a tokenizer from", "strategy.tokenizer", hint=hint))
    if problems:
        raise RecipeError(problems)


def _check_files(location: str, adapter: Adapted | None, name: str) -> None:
    """Look at the files of weights in folders; the Hub's are checked as they are fetched."""
    if Path(location).is_dir():
        check_weights(Path(location), name if adapter is None else location)
    if adapter is not None:
        check_weights(adapter.folder, name, "adapter_model")


_READ = {"input_ids": "text", "pixel_values": "pictures", "input_values": "sounds", "input_features": "sounds"}


def _check_reads(config: PretrainedConfig, name: str, wanted: str) -> None:
    """Raise for a model that reads where it is to see or hear, or the other way round."""
    from transformers import MODEL_MAPPING

    if type(config) not in MODEL_MAPPING:
        return  # the user's own, or one of ours
    found: Any = MODEL_MAPPING[type(config)]
    reads = (found[0] if isinstance(found, tuple) else found).main_input_name
    if reads != wanted and _READ.get(reads) != _READ[wanted]:
        what = f"{name} is a {config.model_type} model, which reads {reads} and no {_READ[wanted]}"
        raise ModelError(Problem(what, "model.base", hint=f"Name a base that was trained on {_READ[wanted]}"))


def _adapted(folder: Path) -> Adapted:
    if not (folder / "config.json").is_file():
        what, hint = f"the adapter {folder} has no config.json that names its labels", "Name a run of hfstrat"
        raise ModelError(Problem(what, "model.base", hint=hint))
    config, name = _read_json(folder / "config.json"), _read_json(folder / "adapter_config.json")
    return Adapted(
        folder,
        base_name=_base_named_in(name, folder),
        storage=(config.get("hfstrat") or {}).get("storage"),
        pooled=config.get("model_type") == PooledConfig.model_type,
    )


def _is_pooled(location: str, hub: Mapping[str, Any]) -> bool:
    return (_json(location, "config.json", hub) or {}).get("model_type") == PooledConfig.model_type


def _labels(config: PretrainedConfig, auto_class: str) -> tuple[str, ...] | None:
    """Names of the outputs of a task's head, unless they are the ones that every configuration has."""
    ending = auto_class.removeprefix("AutoModel")
    # Classifiers of waves are called so: Wav2Vec2ForSequenceClassification.
    endings = (ending, "ForSequenceClassification") if ending == "ForAudioClassification" else (ending,)
    heads = any(one in name for name in config.architectures or () for one in endings)
    if heads and ending == "ForQuestionAnswering":
        return ("start", "end")  # whatever they are called
    names = tuple(name for _, name in sorted((config.id2label or {}).items())) if heads else ()
    return names if names and not all(name == f"LABEL_{place}" for place, name in enumerate(names)) else None


def _positions(config: PretrainedConfig) -> int | None:
    """Tokens that a model with these positions takes; some families start to count after the padding id."""
    positions = getattr(config, "max_position_embeddings", None)
    return int(positions) if positions and int(positions) > 0 else None


def _reshaped(
    config: PretrainedConfig, spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, body: Body
) -> PretrainedConfig:
    """The configuration of random weights beside a base, for the base's tokenizer unless another one is trained.

    Raises:
        RecipeError: The recipe's vocabulary has no room for the tokenizer's.
    """
    fields = spec.config or {}
    shaped = _shaped(config, spec)
    if body.vocabulary is not None:
        return shaped
    if "model_type" in fields and "vocab_size" not in fields:
        return fitted_config(shaped, tokenizer)
    if shaped.vocab_size < len(tokenizer):
        hint = f"Leave it out, or set it to {len(tokenizer)} at least"
        message = f"{shaped.vocab_size} entries are fewer than the {len(tokenizer)} of the base's tokenizer"
        raise RecipeError(Problem(message, "model.config.vocab_size", hint=hint))
    return shaped


def _shaped(config: PretrainedConfig | None, spec: ModelSpec) -> PretrainedConfig:
    """The configuration of random weights: the base's with the recipe's fields, or one of the recipe's own type.

    Raises:
        RecipeError: No such architecture, or it has no such field.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    fields = dict(spec.config or {})
    model_type = fields.pop("model_type", None)
    if model_type is not None and model_type not in CONFIG_MAPPING:
        hint = did_you_mean(str(model_type), list(CONFIG_MAPPING))
        raise RecipeError(
            Problem(f"'{model_type}' is no architecture that is known here", "model.config.model_type", hint=hint)
        )
    try:
        plain = config if config is not None and model_type is None else AutoConfig.for_model(str(model_type))
        known = {*plain.to_dict(), *plain.attribute_map}
        problems = [
            Problem(
                f"'{name}' is no field of a {plain.model_type} configuration",
                f"model.config.{name}",
                hint=did_you_mean(name, sorted(known)),
            )
            for name in fields
            if name not in known
        ]
        if problems:
            raise RecipeError(problems)
        if config is not None and model_type is None:
            return config.__class__.from_dict({**config.to_dict(), **fields})
        return AutoConfig.for_model(str(model_type), **fields)
    except (ValueError, TypeError) as error:
        text = " ".join(str(error).split())
        raise RecipeError(Problem(f"this is no configuration: {text}", "model.config")) from error


def _config(location: str, spec: ModelSpec, hub: Mapping[str, Any]) -> PretrainedConfig:
    from transformers import AutoConfig

    from hfstrat.models.pooled import register

    register()
    try:
        return AutoConfig.from_pretrained(location, **hub)
    # What stands in a file, or is its code, can fail in any way; that the file is to blame is all that is known.
    except Exception as error:
        raise ModelError(_unloadable(spec, error, "configuration")) from error


def _tokenizer(location: str, spec: ModelSpec, hub: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(location, **hub)
    except Exception as error:  # as above; and the tokenizers library raises nothing more particular
        raise ModelError(_unloadable(spec, error, "tokenizer")) from error
    if _knows_nothing(tokenizer):
        # Without its files transformers makes a tokenizer to which every word is unknown.
        what, hint = f"{spec.base} brings no tokenizer", "Copy the files of its tokenizer, such as tokenizer.json"
        raise ModelError(Problem(what, "model.base", hint=hint))
    if tokenizer.pad_token_id is None:
        # Padding is told by the attention mask everywhere, so any token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise ModelError(Problem("the tokenizer has neither a padding nor an end token", "model.base"))
    return tokenizer


def _knows_nothing(tokenizer: PreTrainedTokenizerBase) -> bool:
    if len(tokenizer) > FEW_TOKENS:
        return False
    return not {token.strip("▁ ") for token in tokenizer.get_vocab()} - {"", *tokenizer.all_special_tokens}


def _reason(error: Exception) -> str:
    """The first line of what an error says, with the next one where it only announces that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def _unloadable(spec: ModelSpec, error: Exception, what: str) -> Problem:
    if "trust_remote_code" in str(error):
        return Problem(
            f"{spec.base} brings Python code of its own",
            "model.base",
            hint="If it is yours, name its file as model.code; else read it, then set model.trust_remote_code: true",
        )
    if _looks_offline(error):
        return Problem(
            f"{spec.base} is neither a folder here nor in the cache, and the Hub cannot be reached",
            "model.base",
            hint="Give a folder or package:<module>/<folder>, or download it while online",
        )
    hint = {
        "configuration": "Its config.json has to be JSON that names a model_type known here; copy or download it again",
        "tokenizer": "Copy or download its files again, such as tokenizer.json and tokenizer_config.json",
        "image processor": "Copy or download its preprocessor_config.json again",
        "feature extractor": "Copy or download its preprocessor_config.json again",
    }[what]
    return Problem(f"the {what} of {spec.base} cannot be read: {_reason(error).rstrip('.')}", "model.base", hint=hint)


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
    try:
        return _declared(location, hub)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        what = f"modules.json of {location}, or a file that it names, is not as sentence-transformers writes it"
        hint = f"{AGAIN}, or remove modules.json and set task.pooling"
        raise ModelError(Problem(what, "model.base", hint=hint)) from error


def _declared(location: str, hub: Mapping[str, Any]) -> tuple[str | None, bool, int | None]:
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
    return pooling, "Normalize" in kinds, int(length) if length is not None else None


def _commit(location: str, hub: Mapping[str, Any]) -> str:
    """The commit that a Hub id stands for, which is part of where its files are kept."""
    from transformers.utils import extract_commit_hash

    found = extract_commit_hash(_file(location, "config.json", hub), None)
    return found or str(hub.get("revision") or "unknown")


def _json(location: str, name: str, hub: Mapping[str, Any]) -> Any:
    path = _file(location, name, hub)
    return json.loads(Path(path).read_text("utf-8")) if path else None


def _file(location: str, name: str, hub: Mapping[str, Any]) -> str | None:
    """Where a file of a folder or Hub id is; None where it has none."""
    from transformers.utils import cached_file

    found: str | None = cached_file(
        location,
        name,
        revision=hub.get("revision"),
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return found
