"""The tasks: one file each, one line each in the union below."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hfstrat.tasks.audio_classification import AudioClassification
from hfstrat.tasks.causal_lm import CausalLM
from hfstrat.tasks.image_classification import ImageClassification
from hfstrat.tasks.masked_lm import MaskedLM
from hfstrat.tasks.object_detection import ObjectDetection
from hfstrat.tasks.question_answering import QuestionAnswering
from hfstrat.tasks.seq2seq import Seq2Seq
from hfstrat.tasks.task import TaskSpec, TextsSpec
from hfstrat.tasks.text_classification import TextClassification
from hfstrat.tasks.token_classification import TokenClassification

__all__ = [
    "TASKS",
    "AudioClassification",
    "CausalLM",
    "ImageClassification",
    "MaskedLM",
    "ObjectDetection",
    "QuestionAnswering",
    "Seq2Seq",
    "Task",
    "TaskSpec",
    "TextClassification",
    "TextsSpec",
    "TokenClassification",
]

Task = Annotated[
    TextClassification
    | TokenClassification
    | QuestionAnswering
    | MaskedLM
    | CausalLM
    | Seq2Seq
    | ImageClassification
    | AudioClassification
    | ObjectDetection,
    Field(discriminator="kind"),
]

TASKS: dict[str, type[TaskSpec]] = {
    "text_classification": TextClassification,
    "token_classification": TokenClassification,
    "question_answering": QuestionAnswering,
    "masked_lm": MaskedLM,
    "causal_lm": CausalLM,
    "seq2seq": Seq2Seq,
    "image_classification": ImageClassification,
    "audio_classification": AudioClassification,
    "object_detection": ObjectDetection,
}
