"""The first half of a run: from a recipe to everything that is known before a weight is read.

Nothing is written but tokens into the cache. `validate` ends here. Data and model are looked at independently, so that
one wrong column does not hide a misspelt model: all problems are raised together.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hfstrat.data import auditing, pictures, sounds, sources
from hfstrat.data.audit import Audit, Report
from hfstrat.data.audit_language import check_language
from hfstrat.data.audit_pictures import audit_alike
from hfstrat.data.splits import Splits, split, train_name
from hfstrat.data.streams import open_stream
from hfstrat.data.tokens import audit_tokens
from hfstrat.data.unreadable import without_unreadable
from hfstrat.encoding import UNLIMITED, encode_all
from hfstrat.errors import DataError, Problem, RecipeError, UsageError
from hfstrat.models.base import Base, open_base
from hfstrat.models.build import Added, Shape, plan_adapter, plan_shape
from hfstrat.models.compaction import NO_TOKENS, Apart, apart, ids_in_use
from hfstrat.models.vocabulary import fitted_config, train_tokenizer
from hfstrat.recipe.data import FileData, MemoryData
from hfstrat.recipe.facts import Facts, Machine, TokenUse
from hfstrat.recipe.loading import Source
from hfstrat.recipe.recipe import Recipe
from hfstrat.recipe.resolve import Decision, resolve, updates_of
from hfstrat.runs.events import Observer
from hfstrat.runs.records import Ledger
from hfstrat.runs.store import LIMIT, room
from hfstrat.strategies.plan import Anatomy, Body, Plan, Vocabulary, matches
from hfstrat.tasks import AudioClassification, ImageClassification, ObjectDetection, TextClassification, TextsSpec
from hfstrat.tasks.base import Encoded, Examples, IntArray, Labels, TextStream
from hfstrat.tasks.implied import Implied
from hfstrat.tasks.language import LanguageSpec
from hfstrat.tasks.media import MediaClassification
from hfstrat.tasks.pixels import Pixels
from hfstrat.tasks.waves import Features, Waves
from hfstrat.teaching import Teacher, naming, open_teacher

if TYPE_CHECKING:
    import torch

HINT_RUNS = "Name another folder with --runs (in Python: runs=…)"
CHARACTERS_LEARNED = 50_000_000  # of a stream, by a tokenizer of the run's own
SPLITS = ("train", "validation", "test")
T = TypeVar("T")


@dataclass(frozen=True)
class Material:
    """The data, read and audited.

    Args:
        examples: Texts and targets of each split.
        labels: Classes or outputs.
        labels_reason: Why the problem was taken for what it is.
        audit: What the audit found, as plain data.
        warnings: Its warnings.
        fingerprint: Digest of the data.
        origin: Where the data came from, in words.
        reasons: How the splits came about.
        splits: The split or the share of rows that each part is.
        columns: The column of each role that the data has.
    """

    examples: Mapping[str, Examples]
    labels: Labels
    labels_reason: str
    audit: Mapping[str, Any]
    warnings: tuple[str, ...]
    fingerprint: str
    origin: str
    reasons: tuple[str, ...]
    splits: Mapping[str, str | float]
    columns: Mapping[str, str | tuple[str, ...]]

    @property
    def rows(self) -> dict[str, int]:
        """Examples of each split."""
        return {name: len(examples) for name, examples in self.examples.items()}


@dataclass(frozen=True)
class Prepared:
    """All that is known before a weight is read.

    Args:
        requested: The recipe as written.
        recipe: The recipe with no `auto` left.
        decisions: What was chosen for each `auto`, and why.
        material: The data.
        encoded: The splits, tokenised.
        base: The base model.
        shape: What the model looks like.
        anatomy: Where it keeps its parts.
        plan: What the strategy does with it.
        added: What the plan's adapter adds to it.
        apart: The rows of its token embedding that can train without the others; or why there are none.
        teacher: The teacher of a distillation.
        unlabelled: Texts for which only the teacher's outputs are known, as they are and tokenised.
    """

    requested: Recipe
    recipe: Recipe
    decisions: tuple[Decision, ...]
    material: Material
    encoded: Mapping[str, Encoded]
    base: Base
    shape: Shape
    anatomy: Anatomy
    plan: Plan
    added: Added
    apart: Apart | str
    teacher: Teacher | None = None
    unlabelled: tuple[Examples, Encoded] | None = None

    @property
    def compact(self) -> Apart | None:
        """The rows of the token embedding that train without the others, where the recipe wants that and some can."""
        return self.apart if isinstance(self.apart, Apart) and self.recipe.train.compact_vocabulary else None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of tokens, targets and names of all examples, and of those without labels."""
        found = hashlib.sha256()
        parts = [*self.encoded.items(), *([("unlabelled", self.unlabelled[1])] if self.unlabelled is not None else [])]
        for name, part in parts:
            ids = (f"{len(part)} pieces",) if part.streamed else part.ids
            found.update("\0".join((name, *ids)).encode("utf-8", "surrogatepass"))
            if part.signals is not None:
                found.update(part.signals.digest)
            columns = [array for column in part.columns.values() for array in (column.values, column.offsets)]
            units = [] if part.units is None else [part.units.values]
            for array in (*columns, part.windows, *units, *([] if part.targets is None else [part.targets])):
                found.update(f"{array.dtype}{array.shape}".encode())
                found.update(repr(array).encode() if isinstance(array, Implied) else np.ascontiguousarray(array).data)
        return found.hexdigest()

    def class_weights(self, device: torch.device | str) -> torch.Tensor | None:
        """Weight of each class in the loss, float32 `(classes,)`; None when all are one."""
        import torch

        weights = self.recipe.task.weights(self.material.labels)
        return None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)


def prepare(
    recipe: Recipe,
    machine: Machine,
    *,
    memory: Any = None,
    source: Source | None = None,
    ledger: Ledger | None = None,
    observer: Observer | None = None,
    known: Material | None = None,
    teacher_is_there: bool = True,
) -> Prepared:
    """Read data and base model, settle every `auto`, and plan.

    Args:
        recipe: What to do.
        machine: Where.
        memory: Data sets handed over in Python, for `source: memory`.
        source: Where the recipe's fields stand, for messages.
        ledger: Takes the seconds of loading and tokenising.
        observer: Hears decisions and warnings.
        known: The data, where it was read before.
        teacher_is_there: Whether a teacher is opened; one that is still to be trained cannot be.

    Raises:
        UsageError: Everything that is wrong with data, model and recipe.
    """
    ledger, observer = ledger or Ledger(), observer or Observer()
    body = recipe.strategy.body()
    with located(source):
        check_goes_with(recipe)
        with ledger.phase("load"):
            material, base = both(lambda: known or read_data(recipe, memory, source), lambda: open_start(recipe, body))
        if body.vocabulary is not None:
            with ledger.phase("vocabulary"):
                base = with_vocabulary(base, body.vocabulary, material.examples["train"], observer)
        more = read_unlabelled(recipe, material)
        with ledger.phase("tokenize"):
            parts = {**material.examples, **({"unlabelled": more} if more else {})}
            encoded = encode_all(recipe, base, parts, material.labels, observer)
            unlabelled = (more, encoded.pop("unlabelled")) if more else None
            token_problems, token_warnings = (
                audit_tokens(encoded, base.tokenizer, base.config) if base.tokenizer is not None else ([], [])
            )
            alike = audit_alike(encoded)
        if token_problems:
            raise UsageError(token_problems)
        with ledger.phase("load"):
            shape = shape_of(recipe, base, material.labels)
            anatomy, attention = plan_shape(base, shape, body)
        ids = seen_ids(encoded, unlabelled, base, anatomy, anywhere=recipe.writes)
        facts = _facts(recipe, material, encoded, unlabelled, base, anatomy, ids, attention, machine)
        resolved, decisions = resolve(recipe, facts)
        encoded = {name: replace(part, padding=resolved.padding) for name, part in encoded.items()}
        resolved.task.weights(material.labels)
        _check_external_metrics(resolved)
        plan = resolved.strategy.plan(anatomy, updates_of(resolved, facts.examples))
        check_all_train(plan, anatomy)
        check_tokens_train(plan, anatomy, base)
        shape = replace(shape, attention=resolved.model.attention, dropout=float(resolved.model.dropout))
        with ledger.phase("load"):
            added = plan_adapter(base, shape, plan, resolved.task.peft_task_type)
            if recipe.train.cache == "auto":
                resolved, decisions = settle_cache(resolved, decisions, plan, anatomy, added, encoded, base)
            wanted = plan.distillation if teacher_is_there else None
            teacher = open_teacher(wanted, material.labels, resolved) if wanted else None
    if base.code is not None:
        observer.note(f"the model is code: {base.code.file} is run, and goes with the artefact")
    observer.decided(decisions)
    for warning in (*material.warnings, *token_warnings, *alike, *_truncation(encoded, resolved)):
        observer.warn(warning)
    return Prepared(
        recipe,
        resolved,
        decisions,
        material,
        encoded,
        base,
        shape,
        anatomy,
        plan,
        added,
        apart(plan, anatomy, ids),
        teacher,
        unlabelled,
    )


def settle_cache(
    recipe: Recipe,
    decisions: tuple[Decision, ...],
    plan: Plan,
    anatomy: Anatomy,
    added: Added,
    encoded: Mapping[str, Encoded],
    base: Base,
) -> tuple[Recipe, tuple[Decision, ...]]:
    """Decide `train.cache`, now that it is known what the plan leaves frozen."""
    sizes = {**anatomy.parameters, **added.sizes}
    trained = {stage.name: [name for name in sizes if plan.trains(name, stage, added.trains)] for stage in plan.stages}
    depths = [anatomy.frozen_blocks(trained[stage.name]) for stage in plan.stages if stage.kind == "fit"]
    tokens = sum(part.tokens for name, part in encoded.items() if name != "test")
    needed = 4 * tokens * int(getattr(base.config.get_text_config(), "hidden_size", 0) or 0)
    if not (free := room()):
        chosen = (False, f"{LIMIT} leaves no room for a cache, or the disk has none")
    elif not any(depths) and any(stage.kind == "solve" for stage in plan.stages):
        chosen = (True, "the frozen body is run once for its head, in this run or in one before")
    elif not any(depths):
        chosen = (False, "nothing below what trains is frozen")
    elif any(part.masking is not None for part in encoded.values()):
        varied = encoded["train"].signals is not None
        chosen = (False, "examples are varied each time" if varied else "other tokens are hidden each time")
    elif any(part.packed for part in encoded.values()):
        chosen = (False, "examples go through the model beside others")
    elif recipe.writes:
        chosen = (False, "a model that writes runs all of its blocks")
    elif needed > free:
        chosen = (
            False,
            f"the frozen blocks give {needed / 1e9:.1f} GB, and the cache has room for {free / 1e9:.1f} GB",
        )
    else:
        chosen = (True, f"{max(depths)} of {len(anatomy.blocks)} blocks are frozen: they run once, not every epoch")
    train = recipe.train.model_copy(update={"cache": chosen[0]})
    others = tuple(decision for decision in decisions if decision.path != "train.cache")
    return recipe.model_copy(update={"train": train}), (*others, Decision("train.cache", *chosen))


def open_start(recipe: Recipe, body: Body) -> Base:
    """What the model is built from: the recipe's base, or a student's teacher.

    Raises:
        UsageError: It cannot be used.
    """
    with naming(body.origin) if body.origin is not None else nullcontext():
        task = recipe.task
        size = task.image_size if isinstance(task, (ImageClassification, ObjectDetection)) else "auto"
        side = size if size != "auto" else None
        return open_base(recipe.model, body, task.auto_class, task.reads, side)


def with_vocabulary(base: Base, vocabulary: Vocabulary, examples: Examples, observer: Observer) -> Base:
    """The base with a tokenizer that is trained on the training split, and a configuration that fits it."""
    texts = [*examples.texts, *(examples.pairs or ())] if examples.stream is None else _beginning(examples.stream)
    tokenizer = train_tokenizer(vocabulary, texts, base.config, base.tokenizer)
    observer.note(f"a tokenizer of {len(tokenizer):,} entries ({vocabulary.kind}) was trained on {len(texts):,} texts")
    own = tokenizer.model_max_length if tokenizer.model_max_length < UNLIMITED else None
    limits = [limit for limit in (base.max_length, own) if limit]
    config = fitted_config(base.config, tokenizer)
    return replace(base, tokenizer=tokenizer, config=config, max_length=min(limits, default=None))


def _beginning(stream: TextStream) -> list[str]:
    """The first texts of a stream, as many as a tokenizer can be trained on in a minute or so."""
    found: list[str] = []
    size = 0
    for text, _ in stream.parts():
        found.append(text)
        size += len(text)
        if size >= CHARACTERS_LEARNED:
            break
    return found


def read_unlabelled(recipe: Recipe, material: Material) -> Examples | None:
    """The texts of `strategy.unlabelled`, if the strategy has any.

    Raises:
        DataError: The file is not there, or lacks the text column.
    """
    source = getattr(recipe.strategy, "unlabelled", None)
    if source is None:
        return None
    try:
        table = next(iter(sources.load(FileData(source=source)).splits.values()))
        wanted = {role: column for role, column in material.columns.items() if role in recipe.task.texts}
        columns = recipe.task.columns(wanted, table.column_names, labelled=False)
    except DataError as error:
        raise DataError([replace(problem, path="strategy.unlabelled") for problem in error.problems]) from error
    columns = {role: column for role, column in columns.items() if role in recipe.task.texts}
    return recipe.task.read(table, "unlabelled", columns, None)


def seen_ids(
    encoded: Mapping[str, Encoded],
    unlabelled: tuple[Examples, Encoded] | None,
    base: Base,
    anatomy: Anatomy,
    *,
    anywhere: bool = False,
) -> IntArray:
    """Token ids that the model may see while it trains, sorted: those of the test split are seen when it is done.

    All of them where it reads what it writes, or where any token may stand in for another.
    """
    if anatomy.tokens is None or anatomy.tokens.bound:  # code may make rows of ids in a way of its own
        return np.empty(0, np.int64)
    if anywhere or encoded["train"].masking is not None:
        return np.arange(anatomy.tokens.rows)
    parts = [part for name, part in encoded.items() if name != "test"]
    parts += [unlabelled[1]] if unlabelled is not None else []
    return ids_in_use(parts, base.known_tokenizer, base.config.get_text_config(), anatomy.tokens.rows)


def shape_of(recipe: Recipe, base: Base, labels: Labels) -> Shape:
    """What the model looks like, before dropout and attention are settled."""
    pooling, normalize = choose_pooling(recipe, base)
    asked = None if recipe.model.attention == "auto" else recipe.model.attention
    return Shape(recipe.task.auto_class, labels, pooling[0], normalize, asked, solvable=recipe.task.solvable)


def check_strategy(recipe: Recipe, labels: Labels) -> Plan:
    """Find out whether a strategy can be planned, and how, without data and without weights.

    Raises:
        UsageError: It cannot.
    """
    check_goes_with(recipe)
    body = recipe.strategy.body()
    base = open_start(recipe, body)
    shape = shape_of(recipe, base, labels)
    anatomy, _ = plan_shape(base, shape, body)
    plan = recipe.strategy.plan(anatomy, updates=1000)
    check_all_train(plan, anatomy)
    check_tokens_train(plan, anatomy, base)
    plan_adapter(base, shape, plan, recipe.task.peft_task_type)
    return plan


def check_goes_with(recipe: Recipe) -> None:
    """Raise for a strategy that the task cannot be learned by."""
    kind, task = recipe.strategy.kind, recipe.task
    if kind == "distill" and isinstance(task, MediaClassification) and task.augmentation is not None:
        what = f"a teacher's outputs are computed once, for the {task.noun} as they are"
        raise RecipeError(Problem(what, "task.augmentation", hint="Remove it"))
    if kind in task.refused:
        what = f"{kind} does not go with {task.kind}: {task.refused[kind]}"
        raise RecipeError(Problem(what, "strategy.kind", hint="Use another strategy"))


def check_tokens_train(plan: Plan, anatomy: Anatomy, base: Base) -> None:
    """Raise where new tokens would stay what they begin as."""
    if base.grown is None or not base.grown.parts:
        return
    adapted = plan.adapter is not None and "trainable_token_indices" in plan.adapter.options
    embedding = anatomy.tokens.path if anatomy.tokens is not None else ""
    if not adapted and not matches(f"{embedding}.weight", plan.trained):
        hint = "Use kind: full, lora or qlora, or leave it out"
        raise RecipeError(Problem("new tokens would never be learned", "model.new_tokens", hint=hint))


def check_all_train(plan: Plan, anatomy: Anatomy) -> None:
    """Raise where something that starts from random numbers would stay as it is, or a copy of it would train alone."""
    if plan.adapter is not None and (shared := anatomy.repeated):
        what = f"{shared} stands in several layers of the model, and an adapter would train a copy for one of them"
        raise RecipeError(Problem(what, "strategy.kind", hint="Use head, partial or full"))
    patterns = (*plan.trained, *(f"{name}.*" for name in (plan.adapter.modules_to_save if plan.adapter else ())))
    lost = [name for name in anatomy.fresh if not matches(name, patterns)]
    if anatomy.speaks and plan.adapter is not None:
        # A bias beside a matrix that is shared with the body begins at zero, and may stay there.
        lost = [name for name in lost if not name.endswith("bias")]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise RecipeError(
            Problem(
                f"{', '.join(lost[:3])}{more} would stay random: the base has no weights for it, and it does not train",
                "strategy",
                hint="For head use `solver: adamw`, which trains the whole head",
            )
        )


def read_data(recipe: Recipe, memory: Any = None, source: Source | None = None) -> Material:
    """Load, split and audit the data.

    Raises:
        DataError: All that is wrong with it.
    """
    if memory is not None and not isinstance(recipe.data, MemoryData):
        raise RecipeError(Problem("data was handed over, but the recipe names another source", "data.source"))
    if recipe.data.streaming:
        return _read_stream(recipe, _folder(source))
    loaded, splits, columns, skipped = read_splits(recipe, memory, source)
    task = recipe.task
    problem, reason = task.find_problem(splits.train, columns)
    audit = auditing.audit(task, splits, columns, problem)
    if audit.problems:
        raise DataError(audit.problems)
    labels = task.find_labels(splits.train, columns, problem)
    examples = {name: task.read(part, name, columns, labels) for name, part in _parts(splits).items()}
    reasons = (*loaded.reasons, *splits.reasons)
    return Material(
        examples,
        labels,
        reason,
        audit.to_json(),
        (*skipped, *audit.warnings),
        loaded.fingerprint,
        loaded.origin,
        reasons,
        splits.chosen,
        columns,
    )


def read_splits(
    recipe: Recipe, memory: Any = None, source: Source | None = None
) -> tuple[sources.Loaded, Splits, dict[str, Any], list[str]]:
    """The data of a recipe, its splits, the column of each role, and what was left out.

    Raises:
        UsageError: It cannot be read.
    """
    folder, task = _folder(source), recipe.task
    loaded = sources.load(recipe.data, memory, folder=folder)
    train = loaded.splits[train_name(loaded, recipe.data)]
    columns = task.columns(recipe.data.columns, train.column_names)
    if task.files in columns:
        loaded = sources.with_files(loaded, str(columns[task.files]), folder)
    splits = split(loaded, recipe.data, task.strata(columns), task.texts)
    splits, skipped = readable(splits, recipe, columns)
    return loaded, splits, columns, skipped


def _folder(source: Source | None) -> Path | None:
    """Where a recipe's file lies, if it has one."""
    return Path(source.file).parent if source is not None and Path(source.file).is_file() else None


def readable(splits: Splits, recipe: Recipe, columns: Mapping[str, Any]) -> tuple[Splits, list[str]]:
    """The splits without rows whose files cannot be read, where the recipe says so, and what was left out.

    Raises:
        UsageError: The task reads no files, or there is nothing left.
    """
    task = recipe.task
    if not recipe.data.skip_unreadable:
        return splits, []
    if task.files not in columns:
        what, hint = f"{task.kind} reads no files beside its tables", "Remove it"
        raise RecipeError(Problem(what, "data.skip_unreadable", hint=hint))
    tried = sounds.tried if isinstance(task, AudioClassification) else pictures.tried
    return without_unreadable(splits, str(columns[task.files]), tried)


def _read_stream(recipe: Recipe, folder: Path | None) -> Material:
    """As `read_data`, of text that is streamed: validation and test are read and audited, the rest is only found."""
    task, spec = recipe.task, recipe.data
    if not (isinstance(task, LanguageSpec) and getattr(task, "joined", False)):
        hint = "Use masked_lm or causal_lm with task.joined: true, or remove it"
        raise RecipeError(Problem(f"the texts of {task.kind} are not streamed", "data.streaming", hint=hint))
    if spec.limit is not None:
        raise RecipeError(Problem("text that is streamed has no rows", "data.limit", hint="Set data.epoch_tokens"))
    column = str(spec.columns.get("text", "text"))
    stream, held, origin = open_stream(spec, column, folder)
    columns = {"text": column}
    report = Report()
    for name, rows in held.items():
        check_language(report, name, rows, columns)
    if report.problems:
        raise DataError(report.problems)
    problem, reason = task.find_problem(None, columns)
    labels = task.find_labels(None, columns, problem)
    examples = {name: task.read(rows, name, columns, labels) for name, rows in held.items()}
    train = Examples(("train",), (), None, None, stream=stream)
    audit = Audit({name: len(rows) for name, rows in held.items()}, {}, (), tuple(report.warnings))
    said = ("train: streamed", *(f"{name}: {len(rows)} rows" for name, rows in held.items()))
    return Material(
        {"train": train, **examples},
        labels,
        reason,
        audit.to_json(),
        tuple(report.warnings),
        stream.fingerprint,
        origin,
        said,
        {},
        columns,
    )


def _parts(splits: Splits) -> dict[str, Any]:
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {name: part for name, part in parts.items() if part is not None and len(part)}


def choose_pooling(recipe: Recipe, base: Base) -> tuple[tuple[str, str], bool]:
    """Pooling with its reason, and whether vectors are scaled to length one."""
    task = recipe.task
    if not isinstance(task, TextClassification):
        return ("native", "a head over each token"), False
    if task.pooling != "auto":
        chosen = (str(task.pooling), "given")
    elif base.pooling is not None:
        chosen = (base.pooling, f"{base.name} declares it")
    else:
        chosen = ("native", "the model's own head")
    if chosen[0] == "native":
        return chosen, False
    return chosen, base.normalize if task.normalize == "auto" else bool(task.normalize)


def _check_external_metrics(recipe: Recipe) -> None:
    """Load metrics that are not built in now, for a misspelt one should not show when the first score is due."""
    from hfstrat.metrics import built_in

    problems: list[Problem] = []
    for name in recipe.evaluate.metrics:
        if built_in(name) is None:
            from hfstrat.metrics.modules import load

            try:
                load(name)
            except RecipeError as error:
                problems += [replace(problem, path="evaluate.metrics") for problem in error.problems]
    if problems:
        raise RecipeError(problems)


def _facts(
    recipe: Recipe,
    material: Material,
    encoded: Mapping[str, Encoded],
    unlabelled: tuple[Examples, Encoded] | None,
    base: Base,
    anatomy: Anatomy,
    ids: IntArray,
    attention: str,
    machine: Machine,
) -> Facts:
    parts = [*encoded.values()] + ([unlabelled[1]] if unlabelled is not None else [])
    signals = encoded["train"].signals
    side = signals.side if isinstance(signals, Pixels) else (0, 0)
    windows = (part.lengths if part.signals is not None else part.columns["input_ids"].lengths for part in parts)
    longest = max(int(lengths.max()) for lengths in windows)
    pooling, normalize = choose_pooling(recipe, base)
    table = anatomy.tokens
    return Facts(
        rows={name: len(part) for name, part in encoded.items()},
        splits=material.splits,
        columns=material.columns,
        labels=material.labels,
        labels_reason=material.labels_reason,
        longest=max(4, min(base.max_length or UNLIMITED, 8 * math.ceil(longest / 8))),
        median=int(encoded["train"].median),
        limit=base.max_length,
        attention=attention,
        body=anatomy.body_size,
        convex=anatomy.is_linear_probe,
        solvable=anatomy.output is not None,
        fresh_head=anatomy.head_is_fresh,
        blocks=len(anatomy.stacks[-1]) if anatomy.stacks else 0,
        unlabelled=0 if unlabelled is None else len(unlabelled[1]),
        generative=any("CausalLM" in name or "LMHead" in name for name in base.config.architectures or ())
        or bool(getattr(base.config, "is_decoder", False)),
        pooling=pooling,
        normalize=normalize,
        tokens=TokenUse(0, 0, NO_TOKENS) if table is None else TokenUse(len(ids), table.rows, table.bound),
        vocabulary=int(getattr(base.config.get_text_config(), "vocab_size", 0)) if recipe.task.of_vocabulary else 0,
        machine=machine,
        side=side[0] if side[0] == side[1] else 0,
        seconds=signals.seconds if isinstance(signals, (Waves, Features)) else 0.0,
    )


def _truncation(encoded: Mapping[str, Encoded], recipe: Recipe) -> list[str]:
    if isinstance(recipe.task, AudioClassification):
        what = f"are longer than {recipe.task.max_seconds:g} seconds, of which the model hears the beginning"
        return [
            f"{part.truncated} of {len(part)} sounds in {name} {what}"
            for name, part in encoded.items()
            if part.truncated
        ]
    if not isinstance(recipe.task, TextsSpec):
        return []
    what = recipe.task.lost(int(recipe.task.max_length))
    return [
        f"{part.truncated} of {len(part)} texts in {name} {what}" for name, part in encoded.items() if part.truncated
    ]


def both(first: Callable[[], T], second: Callable[[], Any]) -> tuple[T, Any]:
    """Run two independent steps and raise the problems of both."""
    results: list[Any] = []
    problems: list[Problem] = []
    kinds: list[type[UsageError]] = []
    for step in (first, second):
        try:
            results.append(step())
        except UsageError as error:
            problems += error.problems
            kinds.append(type(error))
    if problems:
        raise (kinds[0] if len(kinds) == 1 else UsageError)(problems)
    return results[0], results[1]


class located:
    """Adds the recipe's file and line to problems that know their dotted path."""

    def __init__(self, source: Source | None) -> None:
        self._source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._source is None or not isinstance(error, UsageError):
            return
        problems = [self._located(problem, self._source) for problem in error.problems]
        raise type(error)(problems) from error.__cause__

    @staticmethod
    def _located(problem: Problem, source: Source) -> Problem:
        if problem.where or not problem.path:
            return problem
        steps = tuple(int(step) if step.isdigit() else step for step in problem.path.split("."))
        return replace(problem, where=source.where(steps))


def folder_of(runs: Path, recipe: Recipe) -> Path:
    """The run's directory.

    Raises:
        UsageError: Nothing can be written there.
    """
    folder = runs / recipe.name
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    if not there.is_dir():
        raise UsageError(Problem(f"{folder} cannot be written: {there} is a file", hint=HINT_RUNS))
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(Problem(f"{folder} cannot be written: no permission to write in {there}", hint=HINT_RUNS))
    return folder
