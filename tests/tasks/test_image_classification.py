"""Pictures: what a model sees of them, and runs from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    ConvNextImageProcessorPil,
    ViTImageProcessorPil,
    pipeline,
)

import hfstrat as hf
from hfstrat import execute, seeing
from hfstrat.data.augmenting import Augmentation
from hfstrat.data.varying import Varied
from hfstrat.errors import DataError, ModelError, RecipeError
from hfstrat.runs import store
from hfstrat.runs.events import Observer
from hfstrat.seeing import seen
from hfstrat.tasks import ImageClassification
from hfstrat.tasks.base import Examples, Labels
from hfstrat.tasks.image_classification import AugmentationSpec
from hfstrat.verbs import init
from tests import elsewhere
from tests.faults.runs import Calls
from tests.faults.test_resume import check_goes_on
from tests.training import helpers

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
SHAPES = [(32, 32), (40, 24), (20, 50)]


def picture(label: str, number: int) -> np.ndarray:
    """Noise in which a colour prevails."""
    rng = np.random.default_rng([number, *map(ord, label)])
    noise = rng.integers(-30, 30, (*SHAPES[number % 3], 3))
    return np.clip(np.array(COLOURS[label]) + noise, 0, 255).astype(np.uint8)


def write_folder(folder: Path, count: int = 12) -> Path:
    """`label/number.png` for each colour."""
    for label in COLOURS:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(picture(label, number)).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures"))


def recipe(base: Path, strategy: dict[str, Any], source: Path | str, **task: Any) -> dict[str, Any]:
    given = helpers.recipe(base, strategy, train={"epochs": 3, "lr": 3e-3})
    data = {"source": f"{source}/" if isinstance(source, Path) else source, "validation": 0.2, "test": 0.3}
    return {**given, "task": {"kind": "image_classification", **task}, "data": data}


def examples(pictures: list[Any]) -> Examples:
    names = tuple(f"picture {place}" for place in range(len(pictures)))
    return ImageClassification().examples(names, pictures, None)


# --- what a model sees ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(size={"height": 24, "width": 24}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]),
        ViTImageProcessorPil(size={"height": 24, "width": 24}, do_normalize=False),
        ViTImageProcessorPil(size={"height": 24, "width": 24}, do_rescale=False, do_normalize=False),
        ConvNextImageProcessorPil(size={"shortest_edge": 32}),
        ConvNextImageProcessorPil(size={"shortest_edge": 400}),
    ],
    ids=["vit", "not normalised", "bytes", "convnext", "convnext, large"],
)
def test_a_batch_is_what_the_models_own_processor_makes(processor):
    given = [picture(label, number) for number, label in enumerate(COLOURS)]
    encoded = seen(processor, examples(given))
    expected = processor(given, return_tensors="np", input_data_format="channels_last")["pixel_values"]
    np.testing.assert_allclose(
        encoded.signals.inputs(np.arange(3))["pixel_values"], expected, atol=1e-5 * max(1, abs(expected).max())
    )
    assert encoded.signals.side == expected.shape[2:]


def test_a_model_of_greys_sees_greys():
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.5], image_std=[0.5])
    encoded = seen(processor, examples([picture("red", 0), np.full((8, 8), 255, np.uint8)]))
    assert encoded.signals.inputs(np.arange(2))["pixel_values"].shape == (2, 1, 16, 16)
    assert np.allclose(encoded.signals.inputs(np.array([1]))["pixel_values"], 1.0)


def test_all_that_is_no_picture_is_named(tmp_path):
    Image.fromarray(picture("red", 0)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    (tmp_path / "words.png").write_text("this is a text")
    (tmp_path / "nothing.png").write_bytes(b"")
    names = [str(tmp_path / name) for name in ("whole.png", "cut.png", "words.png", "nothing.png", "absent.png")]
    with pytest.raises(DataError) as caught:
        seen(ViTImageProcessorPil(), examples(names))
    said = str(caught.value)
    assert all(name in said for name in names[1:])
    assert names[0] not in said


def test_pictures_are_varied_by_seed_epoch_and_example_alone():
    processor = ViTImageProcessorPil(size={"height": 24, "width": 24})
    encoded = seen(processor, examples([picture(label, number) for number in range(4) for label in COLOURS]))
    varied = Varied(AugmentationSpec(flip=True, crop=0.3, colour=0.4), Labels("single_label", tuple(COLOURS)))

    def drawn(rows: list[int], seed: int, epoch: int) -> np.ndarray:
        found = varied.drawn(encoded, np.array(rows), seed, epoch)
        assert len(found) == len(rows)
        return found.signals.values

    whole = drawn(list(range(12)), 3, 1)
    assert np.array_equal(drawn(list(range(12))[::-1], 3, 1), whole[::-1])
    assert np.array_equal(drawn([5], 3, 1)[0], whole[5])
    assert not np.array_equal(drawn([5], 3, 2)[0], whole[5])
    assert not np.array_equal(drawn([5], 4, 1)[0], whole[5])
    assert not np.array_equal(encoded.signals.values[5], whole[5])


@pytest.mark.parametrize("mix", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}], ids=str)
def test_mixed_pictures_have_shares_of_what_they_show(mix):
    # Pictures of one value each, 0, 1 or 2 times 100, say by their mean what share of which class they have.
    flat = [np.full((8, 8, 3), 100 * (number % 3), np.uint8) for number in range(12)]
    encoded = seen(ViTImageProcessorPil(size={"height": 8, "width": 8}), examples(flat))
    targets = np.arange(12) % 3
    encoded = replace(encoded, examples=replace(encoded.examples, targets=targets))
    varied, rows = Varied(AugmentationSpec(**mix), Labels("single_label", ("a", "b", "c"))), np.arange(12)[::-1]
    drawn = Augmentation(**mix).mixing(rows, rows, (8, 8), 5, 2)
    mixed = varied.drawn(encoded, rows, 5, 2)
    assert mixed.targets.shape == (12, 3)
    np.testing.assert_allclose(mixed.targets.sum(1), 1.0, atol=1e-6)
    assert (mixed.targets.max(1) < 1).any()
    means = mixed.signals.values.reshape(12, -1).mean(1)
    np.testing.assert_allclose(mixed.targets @ [0, 100, 200], means, atol=0.5)
    for place, row in enumerate(rows):
        own = set(np.unique(mixed.signals.values[place])) <= {0, 100, 200}
        assert "mixup" in mix or own, "a box is pasted as it is"
        expected = np.zeros(3)
        expected[targets[row]] += drawn.shares[place]
        expected[targets[drawn.partners[place]]] += 1 - drawn.shares[place]
        np.testing.assert_allclose(mixed.targets[place], expected, atol=1e-6)


def test_the_loss_of_shares_is_the_sum_of_the_losses_of_classes():
    task, torch_weights = ImageClassification(), torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own, other, shares = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 2]), torch.tensor([0.3, 0.5, 0.9, 1.0])
    shown = torch.eye(3)[own] * shares[:, None] + torch.eye(3)[other] * (1 - shares[:, None])
    for weights in (None, torch_weights):
        each = [
            task.loss(logits[[row]], labels[[row]], "single_label", weights=weights, label_smoothing=0.1)
            for labels in (own, other)
            for row in range(4)
        ]
        expected = sum(a * share + b * (1 - share) for a, b, share in zip(each[:4], each[4:], shares, strict=True))
        found = task.loss(logits, shown, "single_label", weights=weights, label_smoothing=0.1)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        divisor = task.weight(shown, "single_label", weights=weights)
        if weights is None:
            assert divisor == 4
        else:
            assert divisor == pytest.approx(float((weights[own] * shares + weights[other] * (1 - shares)).sum()))


# --- runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "strategy"),
    [
        ("vit", {"kind": "scratch"}),
        ("vit", {"kind": "head"}),
        ("vit", {"kind": "partial", "last_n": 1}),
        ("vit", {"kind": "full"}),
        ("vit", {"kind": "lora", "r": 4}),
        ("vit", {"kind": "peft", "method": "IA3"}),
        ("convnext", {"kind": "full"}),
        ("resnet", {"kind": "head"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["kind"],
)
def test_a_run_leaves_a_model_that_transformers_alone_loads(family, strategy, tiny_base, pictures, user, tmp_path):
    run = execute.train(recipe(tiny_base(family), strategy, pictures), runs=tmp_path)
    frame = run.predictions()
    assert set(frame["reference"]) <= set(COLOURS)
    files = [str(pictures / true / name) for true, name in zip(frame["reference"], frame["image"], strict=True)]
    artifact = run.artifact
    if (artifact / "adapter_config.json").is_file():
        from peft import PeftModel
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(artifact)
        whole = AutoModelForImageClassification.from_pretrained(
            tiny_base(family), config=config, ignore_mismatched_sizes=True
        )
        model: Any = PeftModel.from_pretrained(whole, str(artifact)).eval()
    else:
        model = AutoModelForImageClassification.from_pretrained(artifact).eval()
    processor = AutoImageProcessor.from_pretrained(artifact, backend="pil")
    with torch.inference_mode():
        inputs = processor([Image.open(file).convert("RGB") for file in files], return_tensors="pt")
        logits = model(**inputs).logits
    np.testing.assert_allclose(logits.numpy(), np.stack(frame["logits"]), atol=1e-4)
    said = [model.config.id2label[place] for place in logits.argmax(-1).tolist()]
    assert said == list(frame["prediction"])
    if not (artifact / "adapter_config.json").is_file():
        piped = pipeline("image-classification", model=model, image_processor=processor)
        assert [found[0]["label"] for found in piped(files)] == said
    assert [one["prediction"] for one in hf.predict(run, files)] == said
    lines = elsewhere.program(run, tiny_base(family), files)
    answer = user.run(lines)
    np.testing.assert_allclose(answer["logits"], np.stack(frame["logits"]), atol=1e-4)
    assert answer["labels"] == said
    if strategy["kind"] == "full":
        assert run.metrics["metrics"]["accuracy"]["value"] > 0.9, "colours are easily told apart"


def test_a_run_from_a_shape_alone_and_a_student_of_it(pictures, tmp_path):
    shape = {
        "model_type": "vit",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    given = recipe(Path(), {"kind": "scratch"}, pictures)
    given |= {"model": {"config": shape, "dropout": 0.0}}
    teacher = execute.train(given, runs=tmp_path)
    assert json.loads((teacher.artifact / "preprocessor_config.json").read_text())["size"] == {
        "height": 16,
        "width": 16,
    }
    student = recipe(teacher.path, {"kind": "distill", "teacher": str(teacher.path)}, pictures)
    run = execute.train({**student, "name": "student"}, runs=tmp_path)
    assert json.loads((run.artifact / "config.json").read_text())["num_hidden_layers"] == 2
    with pytest.raises(RecipeError, match="for the pictures as they are"):
        execute.train({**student, "task": {**student["task"], "augmentation": {"flip": True}}}, runs=tmp_path / "new")


@pytest.mark.parametrize(
    "strategy", [pytest.param({"kind": "head"}, marks=pytest.mark.slow), {"kind": "full"}], ids=str
)
@pytest.mark.parametrize(
    "vary",
    [
        pytest.param({"flip": True, "crop": 0.5, "erase": 0.2}, marks=pytest.mark.slow),
        pytest.param({"flip": True, "mixup": 0.3, "cutmix": 1.0}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_run_with_varied_pictures_goes_on(strategy, vary, tiny_base, tmp_path):
    rows = [{"image": picture(label, number), "label": label} for number in range(12) for label in COLOURS]
    given = recipe(tiny_base("vit"), strategy, "memory", augmentation=vary)
    given["train"]["checkpoint_every"] = 2
    rows = [{**row, "image": row["image"][:20, :20].tolist()} for row in rows]
    check_goes_on(given, rows, tmp_path)


def test_another_size_is_what_the_model_sees(tiny_base, pictures, tmp_path):
    given = recipe(tiny_base("convnext"), {"kind": "head"}, pictures, image_size=48)
    run = execute.train(given, runs=tmp_path)
    size = json.loads((run.artifact / "preprocessor_config.json").read_text())["size"]
    assert size == {"shortest_edge": 48}
    plain = execute.train(recipe(tiny_base("vit"), {"kind": "head"}, pictures), runs=tmp_path / "plain")
    assert yaml.safe_load((plain.path / "recipe.yaml").read_text())["task"]["image_size"] == 32
    # A size that the recipe left open is that of what it goes on with.
    again = recipe(run.path, {"kind": "full"}, pictures)
    went_on = execute.train({**again, "name": "again"}, runs=tmp_path)
    assert yaml.safe_load((went_on.path / "recipe.yaml").read_text())["task"]["image_size"] == 48


def test_positions_for_another_size_are_those_that_the_model_would_interpolate(tiny_base, pictures, tmp_path):
    base = tiny_base("vit")
    run = execute.train(recipe(base, {"kind": "head"}, pictures, image_size=48), runs=tmp_path)
    model = AutoModelForImageClassification.from_pretrained(run.artifact)
    assert model.config.image_size == 48
    own, seen_at = AutoModel.from_pretrained(base), torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        expected = own(pixel_values=seen_at, interpolate_pos_encoding=True).last_hidden_state
        found = getattr(model, model.base_model_prefix)(pixel_values=seen_at).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with pytest.raises(RecipeError, match="an adapter is loaded onto its base as it is"):
        execute.train(recipe(base, {"kind": "lora"}, pictures, image_size=48), runs=tmp_path / "new")
    with pytest.raises(RecipeError, match="cannot look at pictures of 4 × 4"):
        execute.train(recipe(base, {"kind": "head"}, pictures, image_size=4), runs=tmp_path / "new")


# --- data ----------------------------------------------------------------------------------------------------


def test_a_table_names_files_beside_it(tiny_base, pictures, tmp_path):
    lines = ["image,label"]
    for label in COLOURS:
        for number in range(12):
            lines.append(f"shots/{label}-{number}.png,{label}")
            (tmp_path / "data" / "shots").mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(label, number)).save(tmp_path / "data" / "shots" / f"{label}-{number}.png")
    table = tmp_path / "data" / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    given = recipe(tiny_base("vit"), {"kind": "head"}, str(table))
    run = execute.train(given, runs=tmp_path / "runs")
    said = list(hf.load(run).predict_file(table, Observer()))
    assert len(said) == 36
    assert hf.evaluate(run, str(table))["n"] == 36
    whole = execute.train(recipe(tiny_base("vit"), {"kind": "head"}, pictures), runs=tmp_path / "folder")
    assert len(list(hf.load(whole).predict_file(pictures, Observer()))) == 36
    said = list(hf.load(whole).predict_file(pictures / "red", Observer()))
    assert {one["id"] for one in said} == {f"{number}.png" for number in range(12)}, "a folder of pictures alone"
    assert [one["prediction"] for one in hf.load(whole).predict_file(pictures / "red" / "0.png", Observer())] == [
        said[0]["prediction"]
    ]


def test_pictures_of_a_hub_data_set_are_read_as_their_files(tiny_base, tmp_path):
    from datasets import Dataset, Features, Value
    from datasets import Image as Pictures

    rows = {
        "image": [Image.fromarray(picture(label, number)) for number in range(12) for label in COLOURS],
        "label": [*COLOURS] * 12,
    }
    data = Dataset.from_dict(rows, features=Features({"image": Pictures(), "label": Value("string")}))
    run = execute.train(recipe(tiny_base("vit"), {"kind": "head"}, "memory"), data=data, runs=tmp_path)
    assert set(run.predictions()["reference"]) == set(COLOURS)


def test_what_is_wrong_with_pictures_is_said_before_anything_is_trained(tiny_base, tmp_path):
    folder = write_folder(tmp_path / "data", 4)
    (folder / "red" / "1.png").write_text("no picture")
    (folder / "blue" / "2.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        execute.train(recipe(tiny_base("vit"), {"kind": "head"}, folder), runs=tmp_path / "runs")
    assert all(name in str(caught.value) for name in ("1.png", "2.png"))
    assert not (tmp_path / "runs").exists()


def test_a_picture_in_two_splits_is_told(tiny_base, tmp_path):
    folder = tmp_path / "data"
    for split, numbers in (("train", range(6)), ("test", range(3, 9))):
        for label in COLOURS:
            (folder / split / label).mkdir(parents=True)
            for number in numbers:
                Image.fromarray(picture(label, number)).save(folder / split / label / f"{split}{number}.png")
    given = recipe(tiny_base("vit"), {"kind": "head"}, folder)
    given["data"] = {"source": f"{folder}/"}
    run = execute.train(given, runs=tmp_path / "runs")
    warnings = json.loads((run.path / "audit.json").read_text())["warnings"]
    assert any("9 of 18 rows whose picture is also in train" in one for one in warnings)


def test_a_model_of_texts_sees_nothing(tiny_base, pictures, tmp_path):
    with pytest.raises(ModelError, match="reads input_ids and no pictures"):
        execute.train(recipe(tiny_base("bert"), {"kind": "head"}, pictures), runs=tmp_path)


def test_init_writes_a_recipe_for_a_folder_of_pictures(pictures):
    text = init.run(pictures, None)
    assert "kind: image_classification" in text
    assert "image: image" in text
    assert "label: label" in text


def test_numerals_need_no_network(tiny_base, tmp_path):
    given = recipe(tiny_base("convnext", num_channels=1), {"kind": "scratch"}, "builtin:digits", image_size=8)
    given["data"] = {"source": "builtin:digits", "limit": 64}
    given["model"] = {
        "config": {
            "model_type": "convnext",
            "num_channels": 1,
            "num_stages": 2,
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
            "patch_size": 2,
        }
    }
    run = execute.train(given, runs=tmp_path)
    assert run.metrics["n"] == 449


@pytest.mark.parametrize(
    ("family", "strategy"),
    [
        pytest.param("vit", {"kind": "partial", "last_n": 1, "head_init": "random"}, marks=pytest.mark.slow),
        pytest.param("vit", {"kind": "head", "solver": "adamw"}, marks=pytest.mark.slow),
        pytest.param("convnext", {"kind": "partial", "last_n": 1, "head_init": "random"}, marks=pytest.mark.slow),
        pytest.param("resnet", {"kind": "partial", "last_n": 1, "head_init": "random"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_frozen_blocks_see_each_picture_once(family, strategy, tiny_base, tmp_path, monkeypatch):
    """Updates of AdamW in float64, against the same model with all of its blocks."""

    def convolved(layer: torch.nn.Conv2d, given: torch.Tensor) -> torch.Tensor:
        return layer._conv_forward(given.to(layer.weight.dtype), layer.weight, layer.bias)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", convolved)
    rows = [
        {"image": picture(label, number)[:20, :20].tolist(), "label": label}
        for number in range(12)
        for label in COLOURS
    ]
    found = {}
    for cached in (True, False):
        given = recipe(tiny_base(family), strategy, "memory")
        settings = {"epochs": 6, "cache": cached, "micro_batch_size": 3}
        given = {**given, "name": f"cached-{cached}".lower(), "train": {**given["train"], **settings}}
        found[cached] = helpers.train(given, rows, tmp_path, dtype=torch.float64)
    assert "cache" in found[True].run.ledger["phases"]
    assert "cache" not in found[False].run.ledger["phases"]
    assert helpers.largest_difference(found[True].after, found[False].after) < 1e-10
    before, after = found[True].before, found[True].after
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_pictures_of_other_splits_that_are_nearly_those_of_training_are_told(tiny_base, tmp_path):
    """The same picture as JPEG, larger and darker, is another file."""
    rng = np.random.default_rng(0)
    whole = [
        Image.fromarray(np.kron(rng.integers(0, 256, (6, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8))
        for _ in range(30)
    ]
    for part, places in {"train": range(20), "validation": range(20, 24), "test": range(24, 30)}.items():
        for place in places:
            (tmp_path / "data" / part / "ab"[place % 2]).mkdir(parents=True, exist_ok=True)
            whole[place].save(tmp_path / "data" / part / "ab"[place % 2] / f"{place}.png")
    smooth = whole[3].resize((60, 60), Image.Resampling.BILINEAR).point(lambda value: round(0.98 * value))
    smooth.save(tmp_path / "data" / "test" / "b" / "again.jpg", quality=85)
    told = Calls()
    given = recipe(tiny_base("vit"), {"kind": "head"}, tmp_path / "data")
    given["data"] = {"source": f"{tmp_path / 'data'}/"}
    execute.train(given, runs=tmp_path / "runs", observer=told)
    (warning,) = [one for one in told.warnings if "nearly so" in one]
    assert warning.startswith("1 pictures of test")
    assert "again.jpg and 3.png" in warning


def test_resized_pictures_are_kept_and_mapped(tmp_path, monkeypatch):
    monkeypatch.setenv(store.HOME, str(tmp_path / "cache"))
    monkeypatch.setattr(seeing, "FEWEST", 10)
    files = sorted(str(file) for file in write_folder(tmp_path / "pictures", 4).rglob("*.png"))
    processor, plain = ViTImageProcessorPil(size={"height": 16, "width": 16}), []
    whole = seen(processor, examples(files), plain.append).signals
    assert sum(plain) == 12
    assert store.entries() == []
    first, again = [], []
    made = seen(processor, examples(files), first.append, keep=True).signals
    kept = seen(processor, examples(files), again.append, keep=True).signals
    assert (sum(first), sum(again)) == (12, 0), "they were read once"
    assert isinstance(kept.values, np.memmap)
    assert whole.digest == made.digest == kept.digest
    (entry,) = store.entries()
    assert entry.what == "12 pictures of 16 × 16"
    Image.fromarray(picture("green", 9)).save(files[0])
    other = seen(processor, examples(files), keep=True).signals
    assert not np.array_equal(other.values[0], kept.values[0])
    assert np.array_equal(other.values[1:], kept.values[1:])
    larger = seen(ViTImageProcessorPil(size={"height": 24, "width": 24}), examples(files), keep=True).signals
    assert larger.side == (24, 24)
    Path(files[3]).write_bytes(b"")
    with pytest.raises(DataError, match="the file is empty"):
        seen(processor, examples(files), keep=True)
    assert len(store.entries()) == 3
    monkeypatch.setenv(store.LIMIT, "0")
    monkeypatch.setenv(store.HOME, str(tmp_path / "other"))
    assert not isinstance(seen(processor, examples(files[:3] + files[4:]), keep=True).signals.values, np.memmap)


def test_rows_whose_pictures_cannot_be_read_are_left_out_where_that_is_asked_for(tiny_base, tmp_path):
    folder, told = write_folder(tmp_path / "pictures"), Calls()
    whole = (folder / "red" / "0.png").read_bytes()
    (folder / "red" / "0.png").write_bytes(whole[:200])  # its header is whole
    (folder / "green" / "3.png").write_text("this is a text")
    given = recipe(tiny_base("vit"), {"kind": "head"}, folder)
    with pytest.raises(DataError, match=r"(?s)3\.png.*skip_unreadable: true"):
        execute.train(given, runs=tmp_path / "runs")
    given["data"]["skip_unreadable"] = True
    run = execute.train(given, runs=tmp_path / "runs", overwrite=True, observer=told)
    assert sum(run.read("env.json")["data"]["rows"].values()) == 34
    assert sum("left out" in one for one in told.warnings) in (1, 2)
    said = " ".join(told.warnings)
    assert "0.png (the picture cannot be read" in said
    assert "3.png (the content is not that of a picture" in said
    again = hf.evaluate(run)
    assert {name: one["value"] for name, one in again["metrics"].items()} == pytest.approx(
        {name: one["value"] for name, one in run.metrics["metrics"].items()}, abs=1e-6
    )
    text = helpers.recipe(tiny_base("bert"), {"kind": "head"})
    text["data"] = {**text["data"], "skip_unreadable": True}
    with pytest.raises(RecipeError, match="reads no files"):
        execute.train(text, data=helpers.memory([{"text": "a", "label": "b"}] * 20), runs=tmp_path / "new")
