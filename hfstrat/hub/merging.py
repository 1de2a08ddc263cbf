"""An adapter whose base nobody else has, merged into it: a whole model that loads by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hfstrat.encoding import encode
from hfstrat.errors import HubError, ModelError, UsageError
from hfstrat.inference import processor_of
from hfstrat.merging import merged_in
from hfstrat.models import artifact
from hfstrat.models.base import under_adapter
from hfstrat.outputs import TOLERANCE, apart, said_of_some
from hfstrat.recipe.loading import build, parse
from hfstrat.recipe.recipe import Recipe
from hfstrat.runs.directory import Run
from hfstrat.tasks import AudioClassification


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
    base, revision = under_adapter(run.artifact)
    hub = {"trust_remote_code": recipe.model.trust_remote_code, **revision}
    # A quantised base is merged as what it was rounded to: that is what the adapter learned to make up for.
    model: Any = artifact.load(run.artifact, base, recipe.task.auto_class, hub, dequantize=True)
    processor = processor_of(run.artifact, recipe)
    before = _outputs(model, processor, recipe)
    try:
        merged: Any = merged_in(model)
    except ModelError as error:
        hint = "Put the base on the Hub, and name it by --published-as"
        raise UsageError([replace(problem, hint=hint) for problem in error.problems]) from error
    difference = apart(before, _outputs(merged, processor, recipe))
    if not difference <= TOLERANCE:
        raise HubError(f"merging the adapter into its base moved its outputs by {difference:.1g} of their size")
    extra = {**(getattr(merged.config, "hfstrat", None) or {}), "storage": None}
    artifact.save(merged, processor, folder, Path(base).name, extra)
    return difference


def _outputs(model: nn.Module, processor: Any, recipe: Recipe) -> torch.Tensor:
    """What a model says about inputs that mean nothing, as one vector in float64."""
    random = np.random.default_rng(0)
    if recipe.task.files:
        noise: list[Any]
        if isinstance(recipe.task, AudioClassification):
            rate = int(processor.sampling_rate)
            noise = [{"array": random.normal(0, 0.1, rate), "sampling_rate": rate} for _ in range(2)]
        else:
            noise = [random.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(2)]
        examples = recipe.task.examples(("0", "1"), noise, None)
        return said_of_some(model, encode(recipe.task, processor, examples, 0), recipe)
    config: Any = model.config
    config = getattr(config, "backbone_config", None) or config
    ids = torch.from_numpy(random.integers(0, int(config.vocab_size), (2, 12)))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(config, "is_encoder_decoder", False):
        given["decoder_input_ids"] = ids[:, :4]
    with torch.inference_mode():
        found = model(**given)
    logits = [value for name, value in found.items() if name.endswith("logits")]
    return torch.cat([value.double().flatten() for value in logits])
