"""Which method of PEFT trains which task: found by training each of them on a tiny model.

    python -m tests.strategies.table > docs/methods.md    # about ten minutes on two cores

A cell says yes where a run ends well: it trained, and its artefact, loaded again, says what the trained model said.
Whatever does not is refused with a reason, before anything is written.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from hfstrat import execute
from hfstrat.errors import ModelError, UsageError
from hfstrat.merging import merged_in
from hfstrat.models import artifact
from hfstrat.models.base import under_adapter
from hfstrat.recipe.loading import build, parse
from hfstrat.report.tables import markdown_table
from hfstrat.runs.directory import Run
from tests import tiny
from tests.tasks import (
    test_audio_classification,
    test_image_classification,
    test_language_models,
    test_object_detection,
    test_question_answering,
    test_seq2seq,
    test_token_classification,
)
from tests.training.helpers import LIVELY, memory, recipe

METHODS = sorted(str(kind.value) for kind in PEFT_TYPE_TO_CONFIG_MAPPING)
# What suits layers of 32 inputs; the defaults are for layers of hundreds.
SMALL: dict[str, dict[str, Any]] = {
    "C3A": {"block_size": 8},
    "MISS": {"r": 8},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"token_indices": [7, 8, 9]},
    "VBLORA": {"vector_length": 8, "num_vectors": 16},
    "WAVEFT": {"n_frequency": 64},
}
YES = "yes"


@dataclass
class Workshop:
    """Tiny models and data, made when they are first asked for.

    Args:
        folder: Where they are.
    """

    folder: Path
    made: dict[str, Path] = field(default_factory=dict)

    def base(self, family: str, **config: Any) -> Path:
        """A base model."""
        if family not in self.made:
            self.made[family] = tiny.base(family, self.folder / family, **config)
        return self.made[family]

    def data(self, kind: str, write: Callable[[Path], Path]) -> Path:
        """A folder with data."""
        if kind not in self.made:
            self.made[kind] = write(self.folder / kind)
        return self.made[kind]


Given = tuple[dict[str, Any], Any]
REVIEWS = tiny.reviews(40)
PLAIN = [{"text": row["text"]} for row in REVIEWS]


def _text(shop: Workshop, strategy: dict[str, Any]) -> Given:
    return recipe(shop.base("bert", **LIVELY), strategy), REVIEWS


def _words(shop: Workshop, strategy: dict[str, Any]) -> Given:
    base = shop.base("bert", **LIVELY)
    return test_token_classification.recipe(base, strategy), test_token_classification.tagged(40)


def _questions(shop: Workshop, strategy: dict[str, Any]) -> Given:
    base = shop.base("bert", **LIVELY)
    return test_question_answering.recipe(base, strategy), test_question_answering.asked(40)


def _masked(shop: Workshop, strategy: dict[str, Any]) -> Given:
    task = {"kind": "masked_lm", "max_length": 16}
    return test_language_models.recipe(shop.base("bert", **LIVELY), strategy, task), PLAIN


def _causal(shop: Workshop, strategy: dict[str, Any]) -> Given:
    task = {"kind": "causal_lm", "max_length": 16}
    return test_language_models.recipe(shop.base("llama", **LIVELY), strategy, task), PLAIN


def _seq2seq(shop: Workshop, strategy: dict[str, Any]) -> Given:
    return test_seq2seq.recipe(shop.base("t5"), strategy), test_seq2seq.rows_of(40)


def _pictures(shop: Workshop, strategy: dict[str, Any]) -> Given:
    pictures = shop.data("pictures", test_image_classification.write_folder)
    return test_image_classification.recipe(shop.base("vit", **LIVELY), strategy, pictures), None


def _sounds(shop: Workshop, strategy: dict[str, Any]) -> Given:
    sounds = shop.data("sounds", test_audio_classification.write_folder)
    return test_audio_classification.recipe(shop.base("wav2vec2", **LIVELY), strategy, sounds), None


def _boxes(shop: Workshop, strategy: dict[str, Any]) -> Given:
    scenes = shop.data("scenes", test_object_detection.write_folder)
    return test_object_detection.recipe(shop.base("yolos"), strategy, scenes), None


TASKS: dict[str, Callable[[Workshop, dict[str, Any]], Given]] = {
    "text_classification": _text,
    "token_classification": _words,
    "question_answering": _questions,
    "masked_lm": _masked,
    "causal_lm": _causal,
    "seq2seq": _seq2seq,
    "image_classification": _pictures,
    "audio_classification": _sounds,
    "object_detection": _boxes,
}


def tried(method: str, task: str, shop: Workshop) -> tuple[str, bool | None]:
    """`yes` or why not, and whether the adapter can be merged into its base; None where there is none.

    Raises:
        Exception: It is neither trained nor refused.
    """
    strategy = {"kind": "peft", "method": method, "options": SMALL.get(method, {})}
    given, rows = TASKS[task](shop, strategy)
    given["name"] = f"{task}-{method.lower()}"
    given["train"] |= {"max_steps": 2}
    given["train"].pop("epochs", None)
    data = {} if rows is None else {"data": memory(rows)}
    try:
        run = execute.train(given, runs=shop.folder / "runs", **data)
    except UsageError as error:
        return str(error).removeprefix("recipe: "), None
    return YES, merges(run)


def merges(run: Run) -> bool:
    """Whether a run's adapter can be put into its base."""
    base, revision = under_adapter(run.artifact)
    auto = build(parse(run.recipe() or "", "recipe.yaml")).task.auto_class
    try:
        merged_in(artifact.load(run.artifact, base, auto, revision))
    except ModelError:
        return False
    return True


def lines(found: dict[str, dict[str, tuple[str, bool | None]]]) -> Iterator[str]:
    """The table, and below it why there is a no in it.

    Args:
        found: What `tried` says, by method and task.
    """
    yield "# Methods of PEFT\n"
    yield f"`python -m tests.strategies.table`, peft {version('peft')}, transformers {version('transformers')}.\n"
    yield (
        "Each method as `strategy: {kind: peft, method: …}` on a tiny model of each task: bert for what is read, llama "
        "and t5 for what is written, vit, wav2vec2 and yolos. *yes*: it trained, and its adapter, loaded again onto "
        "the base, says what the trained model said. *no*: `hfstrat validate` says why not, below; where numbers are "
        "named they are those of these models of 32 features, whose outputs over a vocabulary are new. The last column "
        "is of `hfstrat merge`.\n"
    )
    reasons: dict[str, int] = {}
    rows = []
    for method, by_task in found.items():
        cells = []
        for said, _ in by_task.values():
            number = None if said == YES else reasons.setdefault(said.replace(f"{method} ", "it "), len(reasons) + 1)
            cells.append(said if number is None else f"no [{number}]")
        merged = {merge for _, merge in by_task.values() if merge is not None}
        rows.append((f"`{method}`", *cells, "" if not merged else YES if merged == {True} else "no"))
        if len(merged) == 2:
            without = [task.replace("_", " ") for task, (_, merge) in by_task.items() if merge is False]
            rows[-1] = (*rows[-1][:-1], f"yes, but not for {', '.join(without)}")
    yield markdown_table(("method", *(task.replace("_", " ") for task in TASKS), "merges"), rows)
    for reason, number in reasons.items():
        yield f"{number}. {reason}"


def main() -> None:
    """Try all of them and write the table to stdout."""
    execute.quiet()
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(Path(folder))
        found: dict[str, dict[str, tuple[str, bool | None]]] = {}
        for method in METHODS:
            found[method] = {}
            for task in TASKS:
                found[method][task] = tried(method, task, shop)
                print(method, task, *found[method][task], file=sys.stderr, flush=True)
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
