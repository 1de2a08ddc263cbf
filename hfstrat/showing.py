"""What a run shows of its test split: pictures and sounds with what is true of them and what was said, worst first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hfstrat.data import sounds
from hfstrat.data.pictures import decoded as picture_of
from hfstrat.report.boxes import drawn
from hfstrat.report.gallery import MOST, Tile
from hfstrat.tasks import AudioClassification, ImageClassification, ObjectDetection, TaskSpec, boxes
from hfstrat.tasks.base import Decoded, Examples, FloatArray, Labels

if TYPE_CHECKING:
    from PIL import Image

_WAVE = (320, 320)  # pixels, and as many columns as are drawn
_INK, _PAPER = "#0072B2", "#F4F4F4"


def tiles_of(task: TaskSpec, labels: Labels, examples: Examples, decoded: Decoded) -> list[Tile]:
    """The pictures or the sounds of a split that were judged worst, as tiles of a gallery; none of other examples.

    Args:
        task: What was learned.
        labels: The classes.
        examples: The split, with what is true of it.
        decoded: What was said.
    """
    if isinstance(task, ObjectDetection):
        return _boxed(task, labels, examples, decoded)
    if isinstance(task, (ImageClassification, AudioClassification)) and _can_draw():
        return _classified(task, labels, examples, decoded)
    return []


def _can_draw() -> bool:
    """Whether there is Pillow, which sounds do without otherwise."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        return False
    return True


def _classified(
    task: ImageClassification | AudioClassification, labels: Labels, examples: Examples, decoded: Decoded
) -> list[Tile]:
    """Examples with one line each, those first of which least is right."""
    said, true = task.records(decoded, examples, labels), task.true_names(examples, labels)
    draw = _picture if isinstance(task, ImageClassification) else _wave
    tiles = []
    for place in np.argsort(-_losses(labels, examples, decoded), kind="stable")[:MOST]:
        one, wanted = said[place], true[place]
        right = None if labels.problem == "regression" else one["prediction"] == wanted
        tiles.append(
            Tile(draw((examples.media or ())[place]), _caption(one, wanted, right, examples.texts[place]), right)
        )
    return tiles


def _caption(said: dict[str, Any], wanted: Any, right: bool | None, name: str) -> str:
    """What was said, how surely, and what is true where that is something else."""
    given = said["prediction"]
    if right is None:
        return f"{given:.3g}, in truth {wanted:.3g}: {name}" if isinstance(given, float) else f"{given}: {name}"
    if isinstance(given, list):
        given, wanted, sure = ", ".join(given) or "none", ", ".join(wanted) or "none", ""
    else:
        sure = f" {said['scores'][given]:.2f}"
    return f"{given}{sure}: {name}" if right else f"{given}{sure}, in truth {wanted}: {name}"


def _losses(labels: Labels, examples: Examples, decoded: Decoded) -> FloatArray:
    """How wrong what was said of each example is, `(n,)`."""
    targets = np.asarray(examples.targets)
    if labels.problem == "regression":
        spread = np.maximum(targets.std(axis=0), 1e-12)
        return np.asarray((np.abs(decoded.scores - targets) / spread).mean(axis=1))
    scores = np.clip(decoded.scores, 1e-12, 1 - 1e-12)
    if labels.problem == "multi_label":
        return np.asarray(-np.where(targets == 1, np.log(scores), np.log1p(-scores)).mean(axis=1))
    return np.asarray(-np.log(scores[np.arange(len(targets)), targets]))


def _picture(media: Any) -> Image.Image:
    from PIL import Image

    return Image.fromarray(picture_of(media, 3))


def _wave(media: Any) -> Image.Image:
    """A sound's lowest and highest sample in each of so many stretches of its length."""
    from PIL import Image, ImageDraw

    wide, high = _WAVE
    image = Image.new("RGB", _WAVE, _PAPER)
    canvas = ImageDraw.Draw(image)
    samples = sounds.read(media).samples
    loudest = max(1e-6, float(np.abs(samples).max(initial=0.0)))
    for column, part in enumerate(np.array_split(samples, wide)):
        if len(part):
            low, top = (high / 2 * (1 - 0.9 * float(edge) / loudest) for edge in (part.min(), part.max()))
            canvas.line([(column, top), (column, max(low, top + 1))], fill=_INK)
    return image


def _boxed(task: ObjectDetection, labels: Labels, examples: Examples, decoded: Decoded) -> list[Tile]:
    """Pictures with their boxes, those first of which most is wrong."""
    said, true = task.records(decoded, examples, labels), task.true_names(examples, labels)
    index = {name: place for place, name in enumerate(labels.names)}
    counts = []
    for one, wanted in zip(said, true, strict=True):
        truth = boxes.rows_of(wanted, index, true=True)
        which = boxes.matched(boxes.rows_of(one["prediction"], index, true=False), truth)
        right, wrong = int((which >= 0).sum()), int((which == boxes.NONE).sum())
        counts.append((right, wrong, int((truth[:, 5] == 0).sum()) - right))
    share = [right / (right + wrong + missed) if wrong + missed else 1.0 for right, wrong, missed in counts]
    tiles = []
    for place in np.argsort(share, kind="stable")[:MOST]:
        picture = _picture((examples.media or ())[place])
        right, wrong, missed = counts[place]
        caption = f"{right} right, {wrong} wrong, {missed} missed: {examples.texts[place]}"
        shown = drawn(picture, said[place]["prediction"], labels.names, true[place])
        tiles.append(Tile(shown, caption, not wrong + missed))
    return tiles
