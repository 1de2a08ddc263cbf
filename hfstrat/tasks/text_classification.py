"""Text classification: one label, several labels, or numbers, for texts and pairs of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hfstrat.tasks.base import Decoded, Encoded, Examples, Labels
from hfstrat.tasks.classification import Classification
from hfstrat.tasks.task import Columns, TextsSpec, ids_of, texts_of
from hfstrat.tasks.windows import tokens_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class TextClassification(Classification, TextsSpec):
    """Give texts a class, several classes, or a number."""

    kind: Literal["text_classification"] = "text_classification"

    long_texts: Literal["truncate", "windows"] = "truncate"
    """Longer texts: cut (and counted), or cut into overlapping windows whose logits are averaged."""
    pooling: Literal["auto", "native", "cls", "mean", "last"] = "auto"
    """How tokens become one vector: the model's own head (native), the first token, the mean, the last; auto: what a
    sentence-transformers checkpoint declares, else native."""
    normalize: bool | Literal["auto"] = "auto"
    """Whether the pooled vector is scaled to length one; auto: as a sentence-transformers checkpoint declares. Without
    meaning for native pooling."""

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    peft_task_type: ClassVar[str] = "SEQ_CLS"
    pipeline_tag: ClassVar[str] = "text-classification"
    roles: ClassVar[tuple[str, ...]] = ("text", "label", "text_pair", "id")
    texts: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    encoding: ClassVar[tuple[str, ...]] = ("long_texts", "stride")
    floors: ClassVar[tuple[str, ...]] = ("majority", "tfidf")

    # --- data -----------------------------------------------------------------------------------------------

    def needed(self, given: Columns, available: Sequence[str], *, labelled: bool) -> set[str]:
        """The text, whatever is given a column, and the label where targets are needed."""
        return {"text", *given, "label"} - (set() if labelled else {"label"})

    def read(self, split: Dataset, name: str, columns: Mapping[str, Any], labels: Labels | None) -> Examples:
        """One split as texts and targets."""
        pairs = texts_of(split, columns["text_pair"]) if "text_pair" in columns else None
        targets = self.targets_of(split, name, columns["label"], labels) if labels is not None else None
        return Examples(ids_of(split, name, columns), texts_of(split, columns["text"]), pairs, targets)

    def table(self, decoded: Decoded, examples: Examples, labels: Labels) -> dict[str, list[Any]]:
        """What is read, scores and logits."""
        pairs = {"text_pair": [str(text) for text in examples.pairs]} if examples.pairs is not None else {}
        return {"text": [str(text) for text in examples.texts], **pairs, **super().table(decoded, examples, labels)}

    # --- tokens ---------------------------------------------------------------------------------------------

    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int) -> Encoded:
        """Tokenise a split.

        Args:
            tokenizer: The model's tokenizer; it must have a padding token.
            examples: The texts.
            max_length: Tokens of a window, special tokens included.

        Raises:
            DataError: That leaves no room for a text.
        """
        tokens = tokens_of(tokenizer, examples, max_length, windows=self.in_windows, stride=self.stride)
        return Encoded(examples, tokens.columns, tokens.windows, tokens.truncated, tokens.pad, tokens.left)

    @property
    def in_windows(self) -> bool:
        """As `long_texts` says."""
        return self.long_texts == "windows"

    def needs_pairs(self, columns: Columns) -> bool:
        """Where it was trained on pairs."""
        return "text_pair" in columns
