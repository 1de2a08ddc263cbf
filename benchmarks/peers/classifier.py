"""The same classifier that hfstrat trains, as one would write it: encoder, mean of the tokens, one linear layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel


class Classifier(nn.Module):
    """A BERT encoder, the mean of its tokens scaled to length one, dropout, and a linear head.

    Args:
        base: Folder of the encoder.
        classes: Number of classes.
        dropout: Dropout everywhere; None for the configuration's.
        attention: Attention implementation; None for the model's own choice.
        blocks: Number of blocks of random weights; None for the pretrained encoder.
        quantization: How linear layers of the pretrained encoder are stored; None for as they are.
    """

    def __init__(
        self,
        base: str,
        classes: int,
        *,
        dropout: float | None = None,
        attention: str | None = None,
        blocks: int | None = None,
        quantization: Any = None,
    ) -> None:
        super().__init__()
        config = AutoConfig.from_pretrained(base)
        if dropout is not None:
            config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
        options: dict[str, Any] = {"add_pooling_layer": False, "dtype": torch.float32}
        if attention is not None:
            options["attn_implementation"] = attention
        if quantization is not None:
            options["quantization_config"] = quantization
        if blocks is None:
            self.backbone = AutoModel.from_pretrained(base, config=config, **options)
        else:
            config.num_hidden_layers = blocks
            self.backbone = AutoModel.from_config(config, **options)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, classes)
        nn.init.normal_(self.classifier.weight, std=config.initializer_range)
        nn.init.zeros_(self.classifier.bias)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Logits `(batch, classes)`, and with labels their mean cross-entropy."""
        hidden = self.backbone(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)[0]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=-1)
        logits = self.classifier(self.dropout(pooled))
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits.float(), labels), "logits": logits}

    def train(self, mode: bool = True) -> Self:
        """Training mode where something trains: dropout in frozen blocks would only cost, hfstrat has none there."""
        super().train(mode)
        for part in (self.backbone.embeddings, *self.backbone.encoder.layer):
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self

    def freeze_below(self, blocks: int) -> None:
        """Let the head and the last blocks train, and nothing else."""
        self.backbone.requires_grad_(False)
        for block in list(self.backbone.encoder.layer)[len(self.backbone.encoder.layer) - blocks :]:
            block.requires_grad_(True)


def teacher_of(folder: str, base: str, classes: int, attention: str | None) -> Classifier:
    """A finished classifier, from an artefact of hfstrat: its tensors have the names that they have here."""
    config = AutoConfig.from_pretrained(base)
    teacher = Classifier(base, classes, attention=attention, blocks=config.num_hidden_layers)
    teacher.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return teacher.eval().requires_grad_(False)


def student_of(
    teacher: Classifier, base: str, classes: int, dropout: float | None, attention: str | None
) -> Classifier:
    """Half of a teacher's blocks, evenly spaced from the first to the last, and its head."""
    there = len(teacher.backbone.encoder.layer)
    here = -(-there // 2)
    kept = [round(place * (there - 1) / max(1, here - 1)) for place in range(here)]
    student = Classifier(base, classes, dropout=dropout, attention=attention, blocks=here)
    student.backbone.embeddings.load_state_dict(teacher.backbone.embeddings.state_dict())
    for place, source in enumerate(kept):
        student.backbone.encoder.layer[place].load_state_dict(teacher.backbone.encoder.layer[source].state_dict())
    student.classifier.load_state_dict(teacher.classifier.state_dict())
    return student
