from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hfstrat.report.card import card, data_name
from hfstrat.report.snippet import Case, Problem, snippet
from hfstrat.runs.directory import Run, write_json
from tests.report import fake


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return fake.run(tmp_path, "mine", "lora", accuracy=0.9)


def front(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_the_hub_reads_the_metadata_and_every_metric(run: Run) -> None:
    from huggingface_hub import ModelCard

    read = ModelCard(card(run, resolved=fake.recipe("lora"))).data
    assert read.base_model == "someone/tiny-bert"
    assert (read.library_name, read.pipeline_tag, read.tags) == ("peft", "text-classification", ["hfstrat", "lora"])
    assert read.model_name == "mine"
    assert [(result.metric_type, result.metric_value) for result in read.eval_results] == [
        ("accuracy", 0.9),
        ("f1", 0.88),
    ]
    assert "95 % interval 0.890–0.910, wilson" in read.eval_results[0].metric_name
    assert {result.dataset_split for result in read.eval_results} == {"test"}


@pytest.mark.parametrize(
    ("kind", "relation", "library"), [("lora", "adapter", "peft"), ("full", "finetune", "transformers")]
)
def test_relation_and_library_follow_the_artefact(tmp_path: Path, kind: str, relation: str, library: str) -> None:
    data = front(card(fake.run(tmp_path, kind, kind), resolved=fake.recipe(kind)))
    assert (data["base_model_relation"], data["library_name"]) == (relation, library)
    assert not {"language", "license"} & data.keys()


def test_a_data_set_of_the_hub_is_named_as_one(run: Run) -> None:
    resolved = fake.recipe("lora", data={"kind": "hub", "source": "someone/reviews", "subset": "en"})
    data = front(card(run, resolved=resolved))
    assert data["datasets"] == ["someone/reviews"]
    dataset = data["model-index"][0]["results"][0]["dataset"]
    assert dataset == {"type": "someone/reviews", "name": "someone/reviews", "split": "test", "config": "en"}


def test_the_card_says_what_was_done_and_what_it_cost(run: Run) -> None:
    text = card(run, resolved=fake.recipe("lora"))
    for part in (
        "1,000 train, 100 validation, 3,080 test",
        "`card lost`, `top\\|up`, `transfer`",
        "probe (solve) → fit (fit)",
        "lr `0.001`",
        "| accuracy | 0.900 [0.890–0.910] | wilson |",
        "| peak live memory (tensors) | 300 MiB |",
        "60.0 s on 1 × cpu",
        "## Limits",
    ):
        assert part in text


def test_choices_and_cut_texts_are_told(run: Run) -> None:
    write_json(run.path / "audit.json", {"truncated": {"train": 12, "test": 0}})
    decisions = [{"path": "train.lr", "value": 0.001, "reason": "LoRA on 22 M parameters"}]
    (run.path / "decisions.json").write_text(json.dumps({"decisions": decisions}), encoding="utf-8")
    text = card(run, resolved=fake.recipe("lora"))
    assert "| `train.lr` | `0.001` | LoRA on 22 M parameters |" in text
    assert "1.2 % of train." in text


def test_without_gradients_the_loop_has_no_settings(tmp_path: Path) -> None:
    assert "batch_size" not in card(fake.run(tmp_path, "head", "head"), resolved=fake.recipe("head"))


@pytest.mark.parametrize("base", ["{tmp}/models/bert", "../models/bert", "package:some_package/model", "models/bert"])
def test_no_path_of_this_machine_is_told(run: Run, tmp_path: Path, base: str) -> None:
    base = base.format(tmp=tmp_path)
    env = run.read("env.json") or {}
    env["model"] = {"name": base, "fingerprint": "0" * 64}
    env["data"]["origin"] = f"{tmp_path}/secret/train.csv"
    write_json(run.path / "env.json", env)
    resolved = fake.recipe("lora", model={"base": base}, data={"source": f"{tmp_path}/secret/train.csv"})
    text = card(run, resolved=resolved)
    assert str(tmp_path) not in text
    assert "secret" not in text
    assert base not in text
    assert not {"base_model", "base_model_relation"} & front(text).keys()


def test_a_local_base_goes_by_its_public_name(run: Run) -> None:
    resolved = fake.recipe("lora", model={"base": "/models/bert", "published_as": "someone/bert"})
    text = card(run, resolved=resolved)
    assert front(text)["base_model"] == "someone/bert"
    assert 'from_backbone("someone/bert", folder' in text


def test_a_teacher_is_named_without_where_it_lies(run: Run) -> None:
    teacher = "/home/secret/runs/full"
    distillation = {"teacher": teacher, "temperature": 2.0, "alpha": 0.9, "unlabelled": "/home/secret/more.csv"}
    write_json(run.path / "plan.json", {**fake.plan("full"), "kind": "distill", "distillation": distillation})
    strategy = {"kind": "distill", **distillation, "student": {"weights": "base", "every": 2}}
    text = card(run, resolved={**fake.recipe("full"), "strategy": strategy})
    assert "secret" not in text
    assert "from the outputs of the teacher `full`" in text
    assert "unlabelled `more.csv`" in text
    assert "student `weights base, every 2`" in text


def test_that_code_of_the_base_was_trusted_is_said(run: Run) -> None:
    recipe = fake.recipe("lora")
    assert "trust_remote_code`" not in card(run, resolved=recipe)
    trusting = {**recipe, "model": {**recipe["model"], "trust_remote_code": True}}
    text = card(run, resolved=trusting)
    assert "It was trained with `trust_remote_code`" in text
    assert "trust_remote_code=True" in text


def test_random_weights_have_no_base_model(run: Run) -> None:
    write_json(run.path / "plan.json", {**fake.plan("full"), "weights": "random"})
    assert "base_model" not in front(card(run, resolved=fake.recipe("full")))


@pytest.mark.parametrize(
    ("source", "name"),
    [("data/train.csv", "data/train.csv"), ("/home/me/train.csv", "train.csv"), ("../me/train.csv", "train.csv")],
)
def test_data_is_named_without_where_it_lies(source: str, name: str) -> None:
    assert data_name({"data": {"kind": "files", "source": source}}) == name


def test_what_the_artefact_says_about_its_use_is_in_the_snippet(run: Run) -> None:
    run.artifact.mkdir()
    write_json(run.artifact / "config.json", {"hfstrat": {"max_length": 48, "threshold": 0.35}})
    env = run.read("env.json") or {}
    write_json(run.path / "env.json", {**env, "labels": {"problem": "multi_label", "names": ["a", "b"]}})
    text = card(run, resolved=fake.recipe("lora", task={"problem": "multi_label"}), folder="me/mine")
    assert "max_length=48" in text
    assert "if s >= 0.35" in text
    assert 'folder = "me/mine"' in text


@pytest.mark.parametrize("case", ["native", "native-adapter", "pooled", "pooled-adapter"])
@pytest.mark.parametrize("windows", [None, 8])
@pytest.mark.parametrize("pairs", [False, True])
def test_every_snippet_is_python(case: Case, windows: int | None, pairs: bool) -> None:
    for problem in ("single_label", "multi_label", "regression"):
        code = snippet(case, "a'\"\\b", "me/base", problem, 32, 0.5, windows, revision="main", pairs=pairs)
        compile(code, "snippet", "exec")
        assert max(map(len, code.splitlines())) < 160


PROGRAM = """
import json, sys
results = {}
for name, code in json.load(open(sys.argv[1])).items():
    space = {}
    exec(code, space)
    results[name] = [space["logits"].tolist(), space["labels"]]
assert "hfstrat" not in sys.modules
json.dump(results, open(sys.argv[2], "w"))
"""
# One snippet for each kind of artefact, and among them every problem and both ways with long texts.
EXECUTED: tuple[tuple[Case, Problem, int | None], ...] = (
    ("native", "single_label", None),
    ("native-adapter", "multi_label", None),
    ("pooled", "regression", None),
    ("pooled-adapter", "single_label", 2),
)


def test_snippets_load_artefacts_without_hfstrat(tmp_path: Path, tiny_base: Any) -> None:
    base = tiny_base("bert", sentence_transformers="mean")
    codes, logits = {}, {}
    for case, problem, windows in EXECUTED:
        logits[case] = make_artifact(case, problem, base, tmp_path / case, windows)
        codes[case] = snippet(case, str(tmp_path / case), str(base), problem, 8, 0.5, windows)
    (tmp_path / "codes.json").write_text(json.dumps(codes), encoding="utf-8")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "codes.json"), str(tmp_path / "results.json")]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    for case, problem, _ in EXECUTED:
        np.testing.assert_allclose(found[case][0], logits[case], rtol=1e-5, atol=1e-6)
        assert found[case][1] == expected_labels(problem, logits[case])


def make_artifact(case: Case, problem: Problem, base: Path, folder: Path, windows: int | None) -> Any:
    """Save an artefact as a run does, and give the logits that the model had before."""
    import torch

    from hfstrat.models import artifact
    from hfstrat.models.base import open_base
    from hfstrat.models.build import Arithmetic, Shape, build, plan_shape
    from hfstrat.recipe.model import ModelSpec
    from hfstrat.strategies.full import Full
    from hfstrat.strategies.lora import Lora
    from hfstrat.tasks.base import Labels

    opened = open_base(ModelSpec(base=str(base)))
    pooling = "native" if case.startswith("native") else "mean"
    shape = Shape(
        "AutoModelForSequenceClassification", Labels(problem, ("no", "maybe", "yes")), pooling, normalize=False
    )
    anatomy, _ = plan_shape(opened, shape)
    plan = (Lora(r=2) if case.endswith("adapter") else Full()).plan(anatomy, 1)
    model = build(opened, shape, plan, anatomy, 0, "SEQ_CLS", Arithmetic("fp32"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at first, so that an adapter left out would not be seen
                parameter.normal_()
    artifact.save(model, opened.tokenizer, folder, "someone/tiny", {})
    texts, options = ["a first text", "a second one"], {"truncation": True, "max_length": 8}
    if windows is not None:
        tokens = opened.tokenizer(texts, **options, stride=windows, return_overflowing_tokens=True)
        owners, rows = tokens["overflow_to_sample_mapping"], tokens["input_ids"]
        assert len(rows) > len(texts)
    else:
        rows = opened.tokenizer(texts, **options)["input_ids"]
        owners = range(len(rows))
    with torch.inference_mode():
        each = torch.cat([model(input_ids=torch.tensor([row])).logits for row in rows])
    return [each[[o == i for o in owners]].mean(0).tolist() for i in range(len(texts))]


def expected_labels(problem: Problem, logits: list[list[float]]) -> list[Any]:
    names = ("no", "maybe", "yes")
    if problem == "single_label":
        return [names[int(np.argmax(row))] for row in logits]
    if problem == "multi_label":
        return [[name for name, logit in zip(names, row, strict=True) if logit >= 0] for row in logits]
    return [pytest.approx(dict(zip(names, row, strict=True)), abs=1e-5) for row in logits]
