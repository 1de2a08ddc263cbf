"""Sources: whatever `data.source` names, read as it stands, into named splits of plain columns.

The general readers guess too much for labels: they turn `001` into 1, `NA` and `None` into missing values, a ragged
row into an error without a line, or a quotation mark that is never closed into one huge cell. Text files are
therefore read here, cell by cell. Nothing is renamed, cleaned or dropped; that a file needs such a thing is said.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hfstrat.data import files
from hfstrat.errors import DataError, Problem, did_you_mean
from hfstrat.recipe.data import TABLE_SUFFIXES, BuiltinData, DataSpec, FileData, HubData, MemoryData

if TYPE_CHECKING:
    import pandas
    from datasets import Dataset, DatasetDict

    Memory: TypeAlias = Dataset | DatasetDict | Mapping[str, Dataset | pandas.DataFrame] | pandas.DataFrame

SPLIT_ALIASES = {"valid": "validation", "val": "validation", "dev": "validation"}
"""Other names of splits, as they are found in folders and on the Hub."""

HUB_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Loaded:
    """Data as the source has it.

    Args:
        splits: Rows by split. A file that the recipe names as a split has its name as written in the recipe for key.
        fingerprint: SHA-256 of the content, in hex.
        origin: Where the rows are from, in words.
        reasons: A sentence for each decision that was made in reading.
    """

    splits: dict[str, Dataset]
    fingerprint: str
    origin: str
    reasons: tuple[str, ...] = ()


def load(spec: DataSpec, memory: Memory | None = None, *, folder: Path | None = None) -> Loaded:
    """Read the data that a recipe points at.

    Args:
        spec: The recipe's `data`.
        memory: What `source: memory` stands for.
        folder: The recipe's folder: relative paths are looked up in the working directory first, then there.

    Raises:
        DataError: A file is missing or malformed, the Hub cannot be reached, or `memory` is not given.
    """
    if isinstance(spec, FileData):
        return _load_annotated(spec, folder) or _load_media(spec, folder) or _load_files(spec, folder)
    if isinstance(spec, HubData):
        return _load_hub(spec)
    if isinstance(spec, BuiltinData):
        return _load_builtin(spec)
    return _load_memory(spec, memory)


# --- files --------------------------------------------------------------------------------------------------


def _load_annotated(spec: FileData, folder: Path | None) -> Loaded | None:
    """Pictures with boxes as COCO or Pascal VOC write them; None where there are none."""
    from hfstrat.data.annotated import read_annotated

    source = _find(spec.source, "data.source", folder)
    near = source if source.is_dir() else source.parent
    files = {
        name: _find(name, f"data.{role}", near, folder)
        for role in ("train", "validation", "test")
        if isinstance(name := getattr(spec, role), str) and name.lower().endswith(".json")
    }
    found = read_annotated(source, files)
    return None if found is None else Loaded(*found, str(source))


def _load_media(spec: FileData, folder: Path | None) -> Loaded | None:
    """A folder of pictures or sounds; None where it is none."""
    from hfstrat.data import folders

    source = _find(spec.source, "data.source", folder)
    for column, suffixes in folders.MEDIA.items():
        if folders.is_media_folder(source, suffixes):
            splits = folders.read_folder(source, suffixes, column)
            return Loaded(splits, folders.fingerprint(source, suffixes), str(source))
    return None


def with_files(loaded: Loaded, column: str, folder: Path | None = None) -> Loaded:
    """The same data with whole paths in a column of files, named relative to the table or to the recipe."""
    table = Path(loaded.origin)
    near = (table if table.is_dir() else table.parent, folder)
    splits = {
        name: found_files(rows, column, *near) if column in rows.column_names else rows
        for name, rows in loaded.splits.items()
    }
    return replace(loaded, splits=splits)


def found_files(rows: Dataset, column: str, *near: Path | None) -> Dataset:
    """The same rows with whole paths for files that are named relative to one of some folders.

    Args:
        rows: The rows.
        column: The column of names; cells that are no names stay as they are, and so do files that are not there.
        near: The folders, the first one that has a file decides; None is left out.
    """
    names = rows[column][:]
    if not any(isinstance(name, str) for name in names):
        return rows
    folders = [Path(), *(folder for folder in near if folder is not None)]

    def found(name: Any) -> Any:
        places = (folder / name for folder in folders) if isinstance(name, str) and name else ()
        return next((str(place.absolute()) for place in places if os.path.isfile(place)), name)

    return rows.remove_columns(column).add_column(column, [found(name) for name in names])


def _load_files(spec: FileData, folder: Path | None) -> Loaded:
    return _read_groups(spec, _find(spec.source, "data.source", folder), groups_of(spec, folder))


def groups_of(spec: FileData, folder: Path | None) -> dict[str, list[Path]]:
    """The files of each split; one that the recipe names as a split has its name as written in the recipe for key.

    Raises:
        DataError: There is none, or the recipe names two for one split.
    """
    source = _find(spec.source, "data.source", folder)
    if source.is_file() and _is_path(spec.train):
        raise DataError(
            Problem(
                "data.source and data.train both name a file",
                path="data.train",
                hint="Remove data.train, or make data.source the folder that both files are in",
            )
        )
    groups = {"train": [source]} if source.is_file() else _files_by_split(source)
    for role in ("train", "validation", "test"):
        name = getattr(spec, role)
        if isinstance(name, str) and name not in groups and _is_path(name):
            near = source if source.is_dir() else source.parent
            groups[name] = [_find(name, f"data.{role}", near, folder)]
    if not groups:
        raise DataError(_no_files(source))
    return groups


def read_files(paths: list[Path], spec: FileData) -> Dataset:
    """The rows of some files as one split.

    Raises:
        DataError: One cannot be read.
    """
    return _joined([files.read_table(file, spec.delimiter, spec.sample_by) for file in paths], paths)


def _read_groups(spec: FileData, source: Path, groups: dict[str, list[Path]]) -> Loaded:
    """Read all files, and report the problems of all of them."""
    splits: dict[str, Dataset] = {}
    reasons: list[str] = []
    problems: list[Problem] = []
    digest = hashlib.sha256(repr(spec.delimiter).encode())
    if spec.sample_by != "document":
        digest.update(spec.sample_by.encode())
    for key in sorted(groups, key=lambda key: _role(spec, key)):
        try:
            tables = [files.read_table(file, spec.delimiter, spec.sample_by) for file in groups[key]]
            splits[key] = _joined(tables, groups[key])
        except DataError as error:
            problems += error.problems
            continue
        digest.update(_role(spec, key).encode())
        for table in tables:
            digest.update(table.sha256)
            reasons += table.reasons
    if problems:
        raise DataError(problems)
    return Loaded(splits, digest.hexdigest(), str(source), tuple(reasons))


def _role(spec: DataSpec, key: str) -> str:
    """What a split is for, whatever its file is called: moving a file does not change the fingerprint."""
    return next((role for role in ("train", "validation", "test") if getattr(spec, role) == key), key)


def _is_path(name: str) -> bool:
    return Path(name).suffix.lower() in TABLE_SUFFIXES or "/" in name


def _find(name: str, path: str, *folders: Path | None) -> Path:
    """A file or folder that a recipe names."""
    given = Path(os.path.expanduser(name))  # unlike Path's own it leaves an unknown user as it is
    for candidate in (given, *(folder / given for folder in folders if folder is not None)):
        # Unlike Path's own these take a name that is too long for a file for one that is not there.
        if os.path.isfile(candidate) or (os.path.isdir(candidate) and path == "data.source"):
            return candidate
    raise DataError(_missing(given, path, folders))


def _missing(given: Path, path: str, folders: tuple[Path | None, ...]) -> Problem:
    parents = [given.parent, *(folder / given.parent for folder in folders if folder is not None)]
    parents = list(dict.fromkeys(parent.resolve() for parent in parents if parent.is_dir()))
    names = sorted({entry.name for parent in parents for entry in parent.iterdir() if _readable(entry)})
    hint = did_you_mean(given.name, names)
    if not parents:
        hint = f"There is no folder {given.parent} either"
    elif not hint:
        hint = f"Looked in {', '.join(str(parent) for parent in parents)}"
    return Problem(f"there is no file or folder {given}", path=path, hint=hint)


def _readable(entry: Path) -> bool:
    return entry.is_dir() or entry.suffix.lower() in TABLE_SUFFIXES


def _files_by_split(folder: Path) -> dict[str, list[Path]]:
    """Files of a folder by the split in their name; several make one split (`train-0.csv`, `train-1.csv`)."""
    there = [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith((".", "_"))]
    files = [file for file in there if file.suffix.lower() in TABLE_SUFFIXES]
    tables = [file for file in files if file.suffix.lower() != ".txt"]
    groups: dict[str, list[Path]] = {}
    for file in tables or files:  # a text beside tables tells of them
        groups.setdefault(_split_name(file.stem), []).append(file)
    return groups


def _split_name(stem: str) -> str:
    """`train-00001-of-00004` is part of train; other stems are names of splits themselves."""
    head = stem.lower().replace("_", "-").replace(".", "-").split("-")[0]
    head = SPLIT_ALIASES.get(head, head)
    return head if head in ("train", "validation", "test") else stem


def _no_files(folder: Path) -> Problem:
    return Problem(
        f"there is no data file in the folder {folder}",
        path="data.source",
        hint=f"Files that can be read end in {', '.join(sorted(TABLE_SUFFIXES))}",
    )


def _joined(tables: list[files.Table], paths: list[Path]) -> Dataset:
    """The parts of a split as one data set; they must have the same columns."""
    import pyarrow as pa
    from datasets import Dataset

    first = tables[0].rows.column_names
    for table, path in zip(tables, paths, strict=True):
        if set(table.rows.column_names) != set(first):
            raise DataError(
                Problem(
                    f"this file has the columns {', '.join(table.rows.column_names)}, and {paths[0].name} has "
                    f"{', '.join(first)}",
                    where=str(path),
                    hint="Parts of one split need the same columns",
                )
            )
    rows = [table.rows.select(first) for table in tables]
    if len(rows) > 1 and any(part.schema != rows[0].schema for part in rows):
        # A column may look like numbers in one part and like text in another: text holds both.
        rows = [files.with_common_types(part, rows) for part in rows]
    return Dataset(pa.concat_tables(rows))


# --- the Hub ------------------------------------------------------------------------------------------------


def _load_hub(spec: HubData) -> Loaded:
    import datasets
    from huggingface_hub import constants

    revision = spec.revision if constants.HF_HUB_OFFLINE else revision_on_hub(spec)
    try:
        found = datasets.load_dataset(spec.source, name=spec.subset, revision=revision)
    # Whatever the readers of some hundred formats raise, the remedy is in the recipe or the data set.
    except Exception as error:
        raise DataError(_hub_problem(spec, _cause(error))) from error
    splits = {SPLIT_ALIASES.get(str(name), str(name)): _plain(rows) for name, rows in found.items()}
    commit = None if constants.HF_HUB_OFFLINE else revision
    words = f"{spec.source} on the Hub" + (f", subset {spec.subset}" if spec.subset else "")
    if commit is None:
        return Loaded(splits, _content_fingerprint(splits), f"{words}, from the cache")
    fingerprint = hashlib.sha256(f"{spec.source}\n{spec.subset}\n{commit}".encode()).hexdigest()
    return Loaded(splits, fingerprint, f"{words}, commit {commit}")


def revision_on_hub(spec: HubData) -> str:
    """The commit of a data set. Asked first, because this call fails at once and a download retries for minutes."""
    import huggingface_hub
    from huggingface_hub import errors

    where = f"the data set {spec.source}"
    try:
        info = huggingface_hub.HfApi().dataset_info(
            spec.source, revision=spec.revision, timeout=HUB_TIMEOUT_SECONDS, expand=["sha"]
        )
    except errors.GatedRepoError:
        message, hint = f"{where} asks you to accept its terms", "Accept them on its page, and log in: hf auth login"
    except errors.RepositoryNotFoundError:
        message, hint = (
            f"{where} does not exist or is private",
            f"{_local_hint(spec)}Log in for private data: hf auth login",
        )
    except errors.RevisionNotFoundError:
        message, hint = f"{where} has no revision '{spec.revision}'", "Correct data.revision"
    except ValueError as error:
        message = f"'{spec.source}' is neither a file nor a name on the Hub ({_one_line(error)})"
        hint = _local_hint(spec)
    except Exception as error:
        # The HTTP client has exceptions of its own beside OSError; what is not about the network goes on.
        if not isinstance(error, OSError) and not type(error).__module__.startswith("http"):
            raise
        message = f"the Hub cannot be reached for {where}: {_one_line(error)}"
        hint = f"{_local_hint(spec)}Set HF_HUB_OFFLINE=1 to use a copy in the cache, or download it and name the file"
    else:
        return str(info.sha)
    raise DataError(Problem(message, path="data.source", hint=hint.strip()))


def _hub_problem(spec: HubData, cause: BaseException) -> Problem:
    from huggingface_hub import constants

    text = _one_line(cause)
    if "Config name is missing" in text or "BuilderConfig" in text:
        return Problem(f"{spec.source} has several subsets: {text}", path="data.subset", hint="Name one of them")
    if "scripts are no longer supported" in text or "trust_remote_code" in text:
        return Problem(
            f"{spec.source} is made by a Python script, which is not run",
            path="data.source",
            hint="Use a copy of the data set in parquet, csv or json",
        )
    if constants.HF_HUB_OFFLINE:
        return Problem(
            f"{spec.source} is not in the cache, and HF_HUB_OFFLINE is set",
            path="data.source",
            hint=f"{_local_hint(spec)}Unset it once to download the data set, or name a file",
        )
    return Problem(f"{spec.source} cannot be read: {text}", path="data.source")


def _local_hint(spec: HubData) -> str:
    """What lies in the working directory under a similar name: a forgotten suffix is the usual mistake."""
    names = sorted(entry.name for entry in Path().iterdir() if _readable(entry))
    near = did_you_mean(Path(spec.source).name, names, show_all=0)
    return f"{near} " if near else ""


def _cause(error: BaseException) -> BaseException:
    """The first cause: `datasets` wraps what went wrong in errors that do not say it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}…"


# --- builtin and memory -------------------------------------------------------------------------------------


def _load_builtin(spec: BuiltinData) -> Loaded:
    from hfstrat.data.builtin import python_docs
    from hfstrat.data.builtin_dates import dates
    from hfstrat.data.builtin_digits import digits
    from hfstrat.data.builtin_names import python_names, python_questions
    from hfstrat.data.builtin_tones import tones

    builtin: dict[str, Callable[[], dict[str, Dataset]]] = {
        "builtin:dates": dates,
        "builtin:digits": digits,
        "builtin:python-docs": python_docs,
        "builtin:python-names": python_names,
        "builtin:python-questions": python_questions,
        "builtin:tones": tones,
    }
    if spec.source not in builtin:
        hint = did_you_mean(spec.source, list(builtin))
        raise DataError(Problem(f"'{spec.source}' is not builtin data", path="data.source", hint=hint))
    splits = builtin[spec.source]()
    version = "Python {}.{}.{}".format(*sys.version_info[:3])
    return Loaded(splits, _content_fingerprint(splits, version), f"{spec.source} of {version}")


def _load_memory(spec: MemoryData, memory: Memory | None) -> Loaded:
    import pandas
    from datasets import Dataset

    if memory is None:
        hint = "Pass data=… in Python, or name a file, a folder or a data set on the Hub"
        raise DataError(Problem("source: memory needs data from Python", path="data.source", hint=hint))
    parts = memory if isinstance(memory, Mapping) else {"train": memory}
    splits: dict[str, Dataset] = {}
    for name, rows in parts.items():
        if not isinstance(rows, (Dataset, pandas.DataFrame)):
            message = f"split {name} is a {type(rows).__name__}"
            hint = "Pass a datasets.Dataset, a DatasetDict, a pandas.DataFrame, or a dictionary of them"
            raise DataError(Problem(message, path="data.source", hint=hint))
        key = SPLIT_ALIASES.get(str(name), str(name))
        splits[key] = _plain(rows) if isinstance(rows, Dataset) else _from_pandas(rows, key)
    return Loaded(splits, _content_fingerprint(splits), "memory")


def _from_pandas(frame: pandas.DataFrame, name: str) -> Dataset:
    import pyarrow as pa
    from datasets import Dataset

    duplicates = sorted({str(column) for column in frame.columns[frame.columns.duplicated()]})
    if duplicates:
        raise DataError(Problem(f"split {name} has two columns named {', '.join(duplicates)}", path="data.source"))
    try:
        table = pa.Table.from_pandas(frame.rename(columns=str), preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        message = f"split {name} has a column of mixed types: {_one_line(error)}"
        raise DataError(Problem(message, path="data.source", hint="Convert it with .astype(str)")) from error
    return Dataset(files.plain(table))


def _plain(rows: Dataset) -> Dataset:
    """The same rows with `string` for `large_string`, which cannot be joined with it; pictures and sounds as files."""
    features = rows.features.copy()
    for name, feature in features.items():
        if getattr(feature, "dtype", "") == "large_string":
            features[name] = type(feature)("string")
        elif type(feature).__name__ in ("Audio", "Image"):  # its bytes, which are decoded when they are needed
            features[name] = type(feature)(decode=False)
    return rows.with_format(None) if features == rows.features else rows.with_format(None).cast(features)


def _content_fingerprint(splits: Mapping[str, Any], *more: str) -> str:
    """SHA-256 of names, types and values, whichever way the rows are stored."""
    digest = hashlib.sha256(repr(more).encode())
    for name in sorted(splits):
        rows = splits[name]
        digest.update(repr((name, len(rows), sorted((key, str(kind)) for key, kind in rows.features.items()))).encode())
        for batch in rows.with_format("arrow").iter(batch_size=1000):
            for column in sorted(batch.column_names):
                digest.update(repr(batch[column].to_pylist()).encode())
    return digest.hexdigest()
