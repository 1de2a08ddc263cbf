"""An adapter that is merged while it is sent: whatever its model takes, the whole model says what the adapter says."""

from __future__ import annotations

import pytest
import torch

from hfstrat import execute
from hfstrat.errors import HubError
from hfstrat.hub import merging
from hfstrat.inference import Predictor
from hfstrat.models import artifact
from hfstrat.training import scoring
from tests.strategies.table import TASKS, Workshop
from tests.training.helpers import memory

LORA = {"kind": "lora", "r": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A LoRA run of a task."""
    shop, runs = Workshop(tmp_path_factory.mktemp("shop")), {}

    def make(task):
        if task not in runs:
            given, rows = TASKS[task](shop, LORA)
            data = {} if rows is None else {"data": memory(rows)}
            runs[task] = execute.train({**given, "name": task}, runs=shop.folder / "runs", **data), data
        return runs[task]

    return make


@pytest.mark.parametrize("task", ["seq2seq", "image_classification", "audio_classification", "object_detection"])
def test_a_whole_model_says_what_the_adapter_said(task, trained, tmp_path):
    run, data = trained(task)
    assert merging.merge(run, tmp_path / "whole") <= 1e-5
    predictor = Predictor.of(run)
    whole = artifact.load(tmp_path / "whole", None, predictor.recipe.task.auto_class)
    examples, _ = predictor.labelled("test", data.get("data"))
    encoded = merging.encode(predictor.recipe.task, predictor.processor, examples, predictor.max_length)
    before, after = (
        torch.from_numpy(scoring.logits(model, encoded, 4, kept=predictor.recipe.task.kept)[..., :1])
        for model in (predictor.model, whole)
    )
    assert torch.allclose(before, after, atol=1e-4)


def test_a_merge_that_changes_what_is_said_is_refused(trained, tmp_path, monkeypatch):
    run, _ = trained("audio_classification")

    def worse(model):
        whole = model.merge_and_unload()
        with torch.no_grad():
            whole.classifier.weight.add_(1.0)
        return whole

    monkeypatch.setattr(merging, "merged_in", worse)
    with pytest.raises(HubError, match="moved its outputs by"):
        merging.merge(run, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
