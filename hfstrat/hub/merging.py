"""An adapter whose base nobody else has, merged into it: a whole model that loads by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hfstrat.errors import HubError, ModelError, Problem, UsageError
from hfstrat.inference import processor_of
from hfstrat.merging import merged_in
from hfstrat.models import artifact
from hfstrat.models.base import under_adapter
from hfstrat.recipe.loading import build, parse
from hfstrat.runs.directory import Run
from hfstrat.tasks import AudioClassification, ObjectDetection

TOLERANCE = 1e-3
"""How far outputs may move, as a part of the largest of them; rounding moves them by 1e-6."""


def merge(run: Run, folder: Path) -> float:
    """Merge a run's adapter into its base and save the whole model.

    Args:
        run: The run.
        folder: Where to; it is replaced.

    Returns:
        By how much its outputs moved at most, as a part of the largest of them.

    Raises:
        UsageError: An adapter of this kind cannot be merged.
        HubError: The merged model says something else than the adapter.
    """
    recipe = build(parse(run.recipe() or "", str(run.path / "recipe.yaml")))
    if isinstance(recipe.task, (AudioClassification, ObjectDetection)):
        hint = "Run `hfstrat merge` on it, and push the run that it makes"
        raise UsageError(Problem(f"{run.path} is not merged while it is sent", hint=hint))
    base, revision = under_adapter(run.artifact)
    hub = {"trust_remote_code": recipe.model.trust_remote_code, **revision}
    # A quantised base is merged as what it was rounded to: that is what the adapter learned to make up for.
    model: Any = artifact.load(run.artifact, base, recipe.task.auto_class, hub, dequantize=True)
    before = _outputs(model)
    try:
        merged: Any = merged_in(model)
    except ModelError as error:
        hint = "Put the base on the Hub, and name it by --published-as"
        raise UsageError([replace(problem, hint=hint) for problem in error.problems]) from error
    after = _outputs(merged)
    difference = float((before - after).abs().max() / before.abs().max().clamp(min=1e-6))
    if not difference <= TOLERANCE:
        raise HubError(f"merging the adapter into its base moved its outputs by {difference:.1g} of their size")
    extra = {**(getattr(merged.config, "hfstrat", None) or {}), "storage": None}
    artifact.save(merged, processor_of(run.artifact, recipe), folder, Path(base).name, extra)
    return difference


@torch.inference_mode()
def _outputs(model: nn.Module) -> torch.Tensor:
    """What a model says about inputs that mean nothing, as one vector in float64."""
    random = torch.Generator().manual_seed(0)
    config: Any = model.config
    config = getattr(config, "backbone_config", None) or config
    given: dict[str, torch.Tensor]
    if getattr(config, "vocab_size", None) is None:
        channels, side = int(getattr(config, "num_channels", 3)), getattr(config, "image_size", None) or 64
        height, width = (side, side) if isinstance(side, int) else side
        given = {"pixel_values": torch.rand((2, channels, height, width), generator=random)}
    else:
        ids = torch.randint(0, int(config.vocab_size), (2, 12), generator=random)
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if getattr(config, "is_encoder_decoder", False):
            given["decoder_input_ids"] = ids[:, :4]
    found = model(**given)
    logits = [value for name, value in found.items() if name.endswith("logits")]
    return torch.cat([value.double().flatten() for value in logits])
