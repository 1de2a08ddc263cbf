"""A finished run at work: loading its artefact, predicting with it, scoring it on other data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfstrat import generating
from hfstrat.data import folders, sources
from hfstrat.data.auditing import problems_of_rows
from hfstrat.data.pictures import decoded as picture_of
from hfstrat.data.splits import split, train_name
from hfstrat.data.streams import open_stream
from hfstrat.encoding import encode
from hfstrat.errors import DataError, Problem, UsageError
from hfstrat.judge import Judge
from hfstrat.models import artifact
from hfstrat.models.base import under_adapter
from hfstrat.models.processors import read_feature_extractor, read_image_processor
from hfstrat.outputs import outputs_of
from hfstrat.prepare import SPLITS, readable
from hfstrat.recipe.data import FileData
from hfstrat.recipe.loading import build, parse
from hfstrat.recipe.recipe import Recipe
from hfstrat.runs.directory import Run, finished, write_json
from hfstrat.runs.events import Observer
from hfstrat.tasks import AudioClassification, CausalLM, TextsSpec
from hfstrat.tasks.base import Decoded, Examples, Labels
from hfstrat.tasks.language import LanguageSpec

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedTokenizerBase

# Rows that are read, tokenised and predicted together: memory stays flat however long the file is.
CHUNK = 4096
FEW = 256  # pictures or sounds, which are larger than texts


@dataclass(frozen=True)
class Predictor:
    """A run's model, tokenizer and way of deciding.

    Args:
        run: The finished run.
        recipe: Its resolved recipe.
        model: The artefact, in fp32 and eval mode.
        processor: Its tokenizer, image processor or feature extractor.
        judge: Decides and measures.
        threshold: Probability from which a label is given.
    """

    run: Run
    recipe: Recipe
    model: nn.Module
    processor: Any
    judge: Judge
    threshold: float

    @classmethod
    def of(cls, path: str | Path | Run, base: tuple[str, Mapping[str, Any]] | None = None) -> Predictor:
        """Load a finished run.

        Args:
            path: Its directory, or something that reads as one.
            base: Where the base of its adapter is, with keyword arguments for that; None: as the run says.

        Raises:
            UsageError: There is no finished run.
        """
        import torch
        from transformers import AutoConfig

        from hfstrat.models.code import load_code

        run = path if isinstance(path, Run) else finished(path)
        recipe = build(parse(run.recipe() or "", str(run.path / "recipe.yaml")))
        env = run.read("env.json") or {}
        known = env["labels"]
        labels = Labels(known["problem"], tuple(known["names"]), tuple(known.get("counts", ())))
        if recipe.model.code is not None:  # as it was when it was trained
            load_code(run.artifact / Path(recipe.model.code).name)
        adapted, trust = artifact.case_of(run.artifact).endswith("adapter"), recipe.model.trust_remote_code
        # A whole model outlives the folder of its base.
        below, revision = (base or under_adapter(run.artifact)) if adapted else (None, {})
        hub = {"trust_remote_code": trust, **revision}
        model = artifact.load(run.artifact, below, recipe.task.auto_class, hub)
        if torch.cuda.is_available() and not getattr(model, "is_quantized", False):
            model = model.cuda()
        settings = getattr(AutoConfig.from_pretrained(run.artifact, trust_remote_code=trust), "hfstrat", {})
        judge = Judge(recipe.task, labels, tuple(recipe.evaluate.metrics), str(recipe.evaluate.select_by))
        processor = processor_of(run.artifact, recipe)
        return cls(
            run, recipe, model, processor, judge, float(settings.get("threshold", recipe.task.default_threshold))
        )

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What makes tokens, where the model reads text."""
        found: PreTrainedTokenizerBase = self.processor
        return found

    @cached_property
    def max_length(self) -> int:
        """Tokens of a window, where there are tokens."""
        task = self.recipe.task
        return int(task.max_length) if isinstance(task, TextsSpec) else 0

    @property
    def chunk(self) -> int:
        """Rows that are predicted together."""
        if not isinstance(self.recipe.task, TextsSpec):
            return FEW
        return generating.AT_ONCE if self.recipe.task.of_vocabulary else CHUNK

    def decide(self, examples: Examples) -> tuple[Decoded, Examples]:
        """Logits, probabilities and decisions for some texts, and what they are about: texts, or pieces of them."""
        found, seen = self.outputs(examples)
        return self.judge.decode(found, self.threshold), seen

    def outputs(self, examples: Examples) -> tuple[Any, Examples]:
        """What decisions about some examples are made from, and what they are about: texts, or pieces of them."""
        encoded = encode(self.recipe.task, self.processor, examples, self.max_length)
        return outputs_of(self.model, encoded, self.judge, self.recipe, self.processor), encoded.examples

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """A prediction for each text.

        Args:
            texts: First texts; for a model of pictures files, arrays or pictures of Pillow; of sounds
                files, their bytes, or `{"array", "sampling_rate"}`.
            pairs: Second texts, for a model of pairs.

        Returns:
            For classes `{"prediction": …, "scores": {label: probability}}` each; for numbers `{"prediction": value}`;
            for words `{"prediction": [{"label", "text", "start", "end", "score"}, …]}`; for questions
            `{"prediction": answer, "start", "end", "score"}`; for prompts `{"prediction": continuation}`; for texts
            with masks `{"prediction": text, "masks": [[{"token", "score"}, …], …]}`; for boxes
            `{"prediction": [{"label", "score", "box": [left, top, width, height]}, …]}`.
        """
        if not len(texts):
            return []
        if pairs is None and self.recipe.task.needs_pairs(self.recipe.data.columns):
            hint = "Give a file with both columns, or in Python predict(texts, pairs)"
            raise UsageError(Problem(f"{self.run.path} was trained on pairs of texts", hint=hint))
        if pairs is not None and len(pairs) != len(texts):
            raise UsageError(f"there are {len(texts)} first texts and {len(pairs)} second ones")
        return self._records(self._examples(list(texts), list(pairs) if pairs else None))

    def _examples(self, texts: list[str], pairs: list[str] | None = None) -> Examples:
        """Texts to be decided about; what a user says, where the model was trained on conversations."""
        found = self.recipe.task.examples(tuple(str(place) for place in range(len(texts))), texts, pairs)
        if "messages" not in self.recipe.data.columns:
            return found
        return replace(found, chats=[[{"role": "user", "content": text}] for text in texts])

    def stream(self, prompt: str) -> Iterator[str]:
        """The continuation of a prompt, piece by piece as it is written.

        Args:
            prompt: A text, or what a user says where the model was trained on conversations.

        Raises:
            UsageError: The model does not continue text.
        """
        from threading import Thread

        from transformers import TextIteratorStreamer

        task = self.recipe.task
        if not isinstance(task, CausalLM):
            raise UsageError(Problem(f"{self.run.path} does not continue text", hint="Use predict"))
        examples = self._examples([prompt])
        texts, chat = task.prompts(self.tokenizer, examples), examples.chats is not None
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        one = task.generation.model_copy(update={"num_beams": 1})  # of several nobody knows which one will be best
        how = generating.settings(self.model, self.tokenizer, one, chat=chat)
        failed: list[BaseException] = []

        def write() -> None:
            try:
                list(generating.continued(self.model, self.tokenizer, texts, how, special=not chat, streamer=streamer))
            except BaseException as error:
                failed.append(error)
                streamer.end()  # or its reader would wait for ever

        worker = Thread(target=write, daemon=True)
        worker.start()
        yield from streamer
        worker.join()
        if failed:
            raise failed[0]

    def _records(self, examples: Examples) -> list[dict[str, Any]]:
        task = self.recipe.task
        if isinstance(task, LanguageSpec):
            return list(generating.records(task, self.model, self.tokenizer, examples, self.max_length))
        return self.recipe.task.records(*self.decide(examples), self.judge.labels)

    def predict_file(
        self, source: Path, observer: Observer, draw: Path | None = None, start: int = 0
    ) -> Iterator[dict[str, Any]]:
        """Predictions for the rows of a file: `id`, then as `predict`.

        Args:
            source: The file.
            observer: Hears how many are done.
            draw: A folder for pictures with the boxes that were found.
            start: Rows that are left out, because they were predicted before.

        Raises:
            DataError: The file has no text column.
        """
        table = self._unlabelled(source)
        columns = self.recipe.task.columns(self._roles(table), table.column_names, labelled=False)
        table = self._with_files(table, columns, source)
        observer.phase("predict", len(table), "texts", min(start, len(table)))
        for first in range(start, len(table), self.chunk):
            part = table.select(range(first, min(first + self.chunk, len(table))))
            examples = self.recipe.task.read(part, source.stem, columns, None)
            ids = examples.ids if "id" in columns else tuple(str(first + place) for place in range(len(part)))
            for place, (name, record) in enumerate(zip(ids, self._records(examples), strict=True)):
                if draw is not None and examples.media is not None:
                    self._draw(draw, f"{first + place}-{examples.texts[place]}", examples.media[place], record)
                yield {"id": name, **record}
            observer.advance(len(part))

    def _draw(self, folder: Path, name: str, picture: Any, record: Mapping[str, Any]) -> None:
        from PIL import Image

        from hfstrat.report.boxes import drawn

        try:
            folder.mkdir(parents=True, exist_ok=True)
            plain = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in Path(name).stem)
            shown = drawn(Image.fromarray(picture_of(picture, 3)), record["prediction"], self.judge.labels.names)
            shown.save(folder / f"{plain}.png")
        except OSError as error:
            what = f"{folder} cannot be written: {error.strerror or error}"
            raise UsageError(Problem(what, hint="Name another folder with --draw")) from error

    def evaluate(self, data: str | None, name: str | None, observer: Observer, memory: Any = None) -> dict[str, Any]:
        """Score on a split of the run's data, or on a file, and write `evaluations/<name>/`.

        Raises:
            UsageError: The data cannot be used.
        """
        if self.run.status is None:
            hint = "Name the directory of the run, or use predict"
            raise UsageError(Problem(f"{self.run.path} was loaded from the Hub, and holds no run", hint=hint))
        examples, label = self.labelled(data, memory)
        folder = self.run.path / "evaluations" / _plain_name(name or label)
        folder.mkdir(parents=True, exist_ok=True)
        observer.phase("evaluate", len(examples), "texts")
        decoded, scored = self.decide(examples)
        observer.advance(len(examples))
        result = self.judge.write(folder, label, scored, decoded)
        write_json(folder / "source.json", {"data": data or "test", "rows": len(examples)})
        return result

    def labelled(self, data: str | None, memory: Any = None) -> tuple[Examples, str]:
        """A split of the run's data (left out: test) or the rows of a file with what is true of them, and its name.

        Raises:
            UsageError: The data cannot be used.
        """
        part, label = self._part(data, memory)
        columns = self.recipe.task.columns(self._roles(part), part.column_names)
        return self.recipe.task.read(part, label, columns, self.judge.labels), label

    def _part(self, data: str | None, memory: Any) -> tuple[Dataset, str]:
        """The rows to score, and what to call them."""
        name = data or "test"
        if name in SPLITS:
            return self._split(name, memory), name
        table, label = _first(self._load(Path(name))), Path(name).stem
        columns = self.recipe.task.columns(self._roles(table), table.column_names)
        table = self._with_files(table, columns, Path(name))
        problems = problems_of_rows(self.recipe.task, label, table, columns, self.judge.labels.problem)
        if problems:
            raise DataError(problems)
        return table, label

    def _split(self, name: str, memory: Any) -> Dataset:
        spec = self.recipe.data
        if spec.streaming:
            held = open_stream(spec, str(spec.columns.get("text", "text")))[1]
            if name not in held:
                raise UsageError(Problem(f"the run's data has no {name} split", hint="Name another split, or a file"))
            return held[name]
        loaded = sources.load(spec, memory)
        train = loaded.splits[train_name(loaded, spec)]
        task = self.recipe.task
        columns = task.columns(spec.columns, train.column_names)
        if task.files in columns:
            loaded = sources.with_files(loaded, str(columns[task.files]))
        strata = task.strata(columns)
        splits, _ = readable(split(loaded, spec, strata, task.texts), self.recipe, columns)
        found: Dataset | None = dict(splits.items()).get(name)
        if found is None:
            raise UsageError(Problem(f"the run's data has no {name} split", hint="Name another split, or a file"))
        return found

    def _unlabelled(self, source: Path) -> Dataset:
        """The rows of a table; of pictures and sounds also one file, or a folder with nothing else."""
        role = self.recipe.task.files
        column = str(self.recipe.data.columns.get(role, role))
        alone = folders.files_alone(source, folders.MEDIA[role], column) if role else None
        return _first(self._load(source)) if alone is None else alone

    def _with_files(self, table: Any, columns: Mapping[str, Any], source: Path) -> Any:
        """A table with whole paths where it names files."""
        role = self.recipe.task.files
        near = source if source.is_dir() else source.parent
        return sources.found_files(table, str(columns[role]), near) if role in columns else table

    def _load(self, source: Path) -> dict[str, Any]:
        return sources.load(FileData(source=str(source))).splits

    def _roles(self, table: Any) -> dict[str, Any]:
        """The run's column names, but an id column only where the data has one."""
        given = dict(self.recipe.data.columns)
        if "id" in given and given["id"] not in table.column_names:
            del given["id"]
        return {role: column for role, column in given.items() if role != "label" or _has(table, column)}


def processor_of(folder: Path, recipe: Recipe) -> Any:
    """The tokenizer, image processor or feature extractor of an artefact."""
    from transformers import AutoTokenizer

    if isinstance(recipe.task, TextsSpec):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=recipe.model.trust_remote_code)
    hears = isinstance(recipe.task, AudioClassification)
    return (read_feature_extractor if hears else read_image_processor)(str(folder), {})


def _plain_name(name: str) -> str:
    if Path(name).name != name:
        raise UsageError(Problem(f"'{name}' is not a name", hint="Give one without slashes"))
    return name


def _has(table: Any, column: str | tuple[str, ...]) -> bool:
    return all(name in table.column_names for name in ((column,) if isinstance(column, str) else column))


def _first(splits: dict[str, Any]) -> Any:
    return next(iter(splits.values()))
