"""Where the data comes from and how it is split."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from hfstrat.spec import Spec

TABLE_SUFFIXES = {
    ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".conll", ".conllu", ".bio", ".iob", ".iob2",
    ".txt",
}  # fmt: skip

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what torch and NumPy take alike


class PerClass(Spec):
    """A limit that counts examples of each class."""

    per_class: Annotated[int, Field(ge=1)]
    """Examples of each class."""


class _Data(Spec):
    columns: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    """The column of each role: `text`, `text_pair`, `label`, `id`; for pictures `image`, and for boxes in them
    `objects`; for words `tokens` and
    `tags`, or `text` and `spans`; for questions `question`, `context` and `answers`; for text to write
    `text`, `prompt` and `completion`, or `messages`. A role that is left out is read from a column of its own name.
    Several label columns of 0/1 make a multi-label task."""

    train: str = "auto"
    """The split or file to train on; auto: the split named train, or the only one."""

    validation: str | Fraction = "auto"
    """A split, a file, or a fraction of the training rows; auto: the split named validation, or 0.1."""

    test: str | Fraction = "auto"
    """A split, a file, or a fraction of all rows; auto: the split named test, or 0.2."""

    limit: Annotated[int, Field(ge=1)] | PerClass | None = None
    """Rows of the training split to keep: a number, or {per_class: n}. Validation is cut to the same limit; the test
    split is never cut."""

    skip_unreadable: bool = False
    """Leave out rows whose pictures or sounds cannot be read, and say which, instead of stopping there."""

    streaming: bool = False
    """Read plain text for language models piece by piece, and keep its tokens on disk: memory stays the same however
    much there is. Validation and test are splits or files of their own."""

    epoch_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens of an epoch where text is streamed; reading stops there. Left out: all of it."""

    seed: Seed = 0
    """Seed of fractions and limits; apart from the run's seed, so that seeds share one split."""


class FileData(_Data):
    """A csv, tsv, json, jsonl, parquet, CoNLL or txt file, or a folder of them."""

    kind: Literal["files"] = "files"
    source: str
    """A file, a folder whose files are named after their split (train.csv, test.csv), or a folder of pictures:
    class/file, split/class/file, or files with a metadata.csv or metadata.jsonl that names them; for boxes also COCO's
    annotations (a .json, or a folder with them) and Pascal VOC's folder."""

    delimiter: str | None = None
    """Separator of a csv file; None: a comma in .csv, a tab in .tsv."""

    sample_by: Literal["document", "paragraph", "line"] = "document"
    """What of a .txt file is a row: all of it, what stands between empty lines, or each line."""


class HubData(_Data):
    """A data set on the Hugging Face Hub."""

    kind: Literal["hub"] = "hub"
    source: str
    """Id on the Hub, such as `me/reviews`."""

    revision: str | None = None
    """Branch, tag or commit."""

    subset: str | None = None
    """Name of the configuration when the data set has several."""


class BuiltinData(_Data):
    """Data that needs no download."""

    kind: Literal["builtin"] = "builtin"
    source: str
    """`builtin:python-docs`: docstrings of the standard library, labelled by module; `builtin:python-names`: the names
    in them, marked by rule; `builtin:python-questions`: questions for these names; `builtin:dates`: days as people
    write them, and their ISO form; `builtin:digits`: small pictures of numerals; `builtin:tones`: waveforms to hear."""


class MemoryData(_Data):
    """A `datasets.Dataset` or `DatasetDict` handed over in Python."""

    kind: Literal["memory"] = "memory"
    source: Literal["memory"] = "memory"
    """Set by `hfstrat.train(recipe, data=…)`, which is given the rows themselves."""


def kind_of_source(value: Any) -> str | None:
    """Which kind of data a `data:` block means; explicit `kind` first, then the look of `source`."""
    if isinstance(value, _Data):
        return getattr(value, "kind", None)
    if not isinstance(value, dict):
        return None
    if "kind" in value:
        return str(value["kind"])
    source = value.get("source")
    if not isinstance(source, str):
        return "files"
    if source.startswith("builtin:"):
        return "builtin"
    if source == "memory":
        return "memory"
    looks_local = source.startswith((".", "~", os.sep)) or source.endswith(os.sep)
    if looks_local or Path(source).suffix.lower() in TABLE_SUFFIXES or source.count("/") > 1 or os.path.exists(source):
        return "files"
    return "hub"


DataSpec = Annotated[
    Annotated[FileData, Tag("files")]
    | Annotated[HubData, Tag("hub")]
    | Annotated[BuiltinData, Tag("builtin")]
    | Annotated[MemoryData, Tag("memory")],
    Discriminator(kind_of_source),
]
