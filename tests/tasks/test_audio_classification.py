"""Sounds: what a model hears of them, and runs from end to end."""

from __future__ import annotations

import json
import re
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import (
    ASTFeatureExtractor,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
    pipeline,
)

import hfstrat as hf
from hfstrat import execute
from hfstrat.data.batching import collate
from hfstrat.data.varying_sounds import VariedSounds
from hfstrat.errors import DataError, ModelError, RecipeError
from hfstrat.hearing import all_heard, heard
from hfstrat.models.anatomy import find_anatomy
from hfstrat.models.base import open_base
from hfstrat.models.processors import hears, listening
from hfstrat.recipe.model import ModelSpec
from hfstrat.runs.events import Observer
from hfstrat.tasks import AudioClassification
from hfstrat.tasks.audio_classification import SoundAugmentationSpec
from hfstrat.tasks.base import Examples
from hfstrat.tasks.waves import Features, Waves
from hfstrat.verbs import init
from tests import elsewhere, tiny
from tests.faults.test_resume import check_goes_on
from tests.training import helpers

RATE = 16_000
PITCHES = {"low": 300.0, "mid": 1000.0, "high": 3000.0}
AST = "audio-spectrogram-transformer"


def sound(label: str, number: int, seconds: float | None = None, rate: int = RATE) -> np.ndarray:
    """A tone in noise, whose pitch is roughly its class's."""
    rng = np.random.default_rng([number, *map(ord, label)])
    time = np.arange(int(rate * (seconds or rng.uniform(0.1, 0.25)))) / rate
    tone = np.sin(2 * np.pi * PITCHES[label] * rng.uniform(0.9, 1.1) * time)
    return (0.3 * tone + 0.01 * rng.standard_normal(len(time))).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def write_folder(folder: Path, count: int = 12, seconds: float | None = None) -> Path:
    """`label/number.wav` for each class."""
    for label in PITCHES:
        for number in range(count):
            write(folder / label / f"{number}.wav", sound(label, number, seconds))
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("sounds"))


def recipe(base: Path, strategy: dict[str, Any], source: Path | str, **task: Any) -> dict[str, Any]:
    given = helpers.recipe(base, strategy, train={"epochs": 3, "lr": 3e-3})
    data = {"source": f"{source}/" if isinstance(source, Path) else source, "validation": 0.2, "test": 0.3}
    return {**given, "task": {"kind": "audio_classification", **task}, "data": data}


def array(samples: np.ndarray, rate: int = RATE) -> dict[str, Any]:
    return {"array": samples, "sampling_rate": rate}


def examples(sounds: list[Any]) -> Examples:
    names = tuple(f"sound {place}" for place in range(len(sounds)))
    return AudioClassification().examples(names, sounds, None)


class Listener(Observer):
    """Keeps what is warned of."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        self.said.append(message)


CLIPS = [sound(label, number) for number, label in enumerate(PITCHES)]


# --- what a model hears --------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False], ids=["normalised", "as it is"])
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
def test_a_batch_of_waves_is_what_the_models_own_extractor_makes(normalize, masked):
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=masked)
    encoded = heard(hears(extractor), examples(list(map(array, CLIPS))), "auto")
    longest = max(map(len, CLIPS))
    inputs = encoded.signals.inputs(np.arange(3))
    expected = extractor(CLIPS, sampling_rate=RATE, padding=True, return_tensors="np")
    assert set(inputs) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(inputs[name], values)
    alone = encoded.signals.inputs(np.array([0]))
    assert alone["input_values"].shape == (1, len(CLIPS[0]) if masked else longest)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ASTFeatureExtractor(num_mel_bins=16, max_length=40),
        lambda: ASTFeatureExtractor(num_mel_bins=16, max_length=12, do_normalize=False),
        lambda: WhisperFeatureExtractor(feature_size=16, chunk_length=1),
    ],
    ids=["ast", "ast, shorter than the sounds", "whisper"],
)
def test_a_batch_of_spectrograms_is_what_the_models_own_extractor_makes(make):
    extractor = make()
    encoded = all_heard(AudioClassification(), extractor, {"train": examples(list(map(array, CLIPS)))}, Observer())
    signals = encoded["train"].signals
    assert isinstance(signals, Features)
    name = extractor.model_input_names[0]
    cut = [clip[: signals.most] for clip in CLIPS]
    np.testing.assert_allclose(
        signals.inputs(np.arange(3))[name], extractor(cut, sampling_rate=RATE, return_tensors="np")[name], atol=1e-5
    )


def test_what_16_bits_hold_takes_two_bytes_a_sample_and_is_the_same():
    exact = np.round(CLIPS[0] * 2**15) / np.float32(2**15)
    encoded = heard(hears(Wav2Vec2FeatureExtractor()), examples([array(exact), array(CLIPS[1])]), "auto")
    assert [clip.dtype for clip in encoded.signals.clips] == [np.int16, np.float32]
    np.testing.assert_array_equal(encoded.signals.samples(0), exact)
    np.testing.assert_array_equal(encoded.signals.samples(1), CLIPS[1])


def test_sounds_of_another_rate_become_those_of_the_model():
    rates = [8_000, 16_000, 44_100]
    encoded = heard(
        hears(Wav2Vec2FeatureExtractor()), examples([array(sound("low", 0, 0.5, rate), rate) for rate in rates]), "auto"
    )
    assert [len(clip) for clip in encoded.signals.clips] == [8_000] * 3
    spectra = [np.abs(np.fft.rfft(encoded.signals.samples(row))) for row in range(3)]
    assert len({int(spectrum.argmax()) for spectrum in spectra}) == 1


@pytest.mark.parametrize("family", ["hubert", "wav2vec2", "wavlm", AST, "whisper"])
def test_what_is_said_of_a_sound_does_not_depend_on_the_sounds_beside_it(family, tiny_base):
    base = open_base(
        ModelSpec(base=str(tiny_base(family))), auto_class="AutoModelForAudioClassification", reads="input_values"
    )
    encoded = heard(hears(base.feature_extractor), examples(list(map(array, CLIPS))), 0.3)
    model = AutoModelForAudioClassification.from_pretrained(tiny_base(family), num_labels=3).eval()
    with torch.inference_mode():
        together = model(**collate(encoded, np.arange(3)).inputs).logits
        alone = torch.cat([model(**collate(encoded, np.array([row])).inputs).logits for row in range(3)])
    error = float((together - alone).abs().max())
    assert error < 2e-5
    assert (together[0] - together[2]).abs().max() > 10 * error, "what is heard decides"


def test_a_mask_is_not_made_for_a_model_that_was_trained_without(tiny_base):
    config = AutoConfig.from_pretrained(tiny_base("wavlm"))
    assert config.feat_extract_norm == "group"
    extractor = AutoFeatureExtractor.from_pretrained(tiny_base("wavlm"))
    assert hears(extractor).masked
    assert not hears(listening(extractor, config)).masked


def test_all_that_is_no_sound_is_named(tmp_path):
    names = [str(write(tmp_path / "whole.wav", CLIPS[0]))]
    (tmp_path / "cut.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[:200])
    (tmp_path / "words.wav").write_text("this is a text")
    (tmp_path / "nothing.wav").write_bytes(b"")
    names += [str(tmp_path / name) for name in ("cut.wav", "words.wav", "nothing.wav", "absent.wav")]
    with pytest.raises(DataError) as caught:
        heard(hears(Wav2Vec2FeatureExtractor()), examples(names), "auto")
    said = str(caught.value)
    assert all(name in said for name in names[1:])
    assert names[0] not in said
    with pytest.raises(DataError, match=r"sound 1.*lasts 1.0 ms"):
        heard(hears(Wav2Vec2FeatureExtractor()), examples([array(CLIPS[0]), array(CLIPS[0][:16])]), "auto")


# --- augmentation --------------------------------------------------------------------------------------------

WAYS = {
    "waves": (lambda: Wav2Vec2FeatureExtractor(), {"crop": True, "shift": 0.2, "gain": 6.0, "noise": [5, 20]}),
    "spectrograms": (
        lambda: ASTFeatureExtractor(num_mel_bins=16, max_length=12),
        {"time_masks": [2, 5], "frequency_masks": [1, 6]},
    ),
    "both": (
        lambda: WhisperFeatureExtractor(feature_size=16, chunk_length=1),
        {"shift": 0.2, "time_masks": [2, 5], "frequency_masks": [1, 6]},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_sounds_are_varied_by_seed_epoch_and_example_alone(way):
    make, how = WAYS[way]
    extractor = make()
    task = AudioClassification(augmentation=SoundAugmentationSpec.model_validate_json(json.dumps(how)), max_seconds=0.1)
    given = examples([array(sound(label, number)) for number in range(3) for label in PITCHES])
    found = all_heard(task, extractor, {"train": given, "test": given}, Observer())
    assert found["test"].masking is None
    name = extractor.model_input_names[0]

    def drawn(rows: list[int], seed: int, epoch: int) -> np.ndarray:
        data, places = found["train"].drawn(np.array(rows), seed, epoch)
        assert len(data) == len(rows)
        return data.signals.inputs(places)[name]

    whole = drawn(list(range(9)), 3, 1)
    np.testing.assert_array_equal(drawn(list(range(9))[::-1], 3, 1), whole[::-1])
    np.testing.assert_array_equal(drawn([5], 3, 1)[0], whole[5])
    assert not np.array_equal(drawn(list(range(9)), 3, 2), whole)
    assert not np.array_equal(drawn(list(range(9)), 4, 1), whole)
    assert not np.array_equal(found["test"].signals.inputs(np.arange(9))[name], whole)
    plain = all_heard(replace_augmentation(task), extractor, {"train": given}, Observer())["train"]
    np.testing.assert_array_equal(
        plain.signals.inputs(np.arange(9))[name], found["test"].signals.inputs(np.arange(9))[name]
    )


def replace_augmentation(task: AudioClassification) -> AudioClassification:
    return task.model_copy(update={"augmentation": None})


def test_masks_hide_stretches_of_frames_and_of_frequencies():
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    found = all_heard(AudioClassification(), extractor, {"train": examples([array(sound("mid", 0, 1.0))])}, Observer())
    varied = VariedSounds(SoundAugmentationSpec(frequency_masks=(1, 8)))
    differs = np.zeros((16, 100), bool)
    for epoch in range(5):
        signals = varied.drawn(found["train"], np.array([0]), 0, epoch).signals
        different = signals.values[0] != found["train"].signals.values[0]
        assert different.all(axis=1).sum() == different.any(axis=1).sum(), "whole rows of frequencies"
        differs |= different
    assert differs.any()


def test_a_crop_is_another_part_of_what_is_longer():
    ramp = np.linspace(-0.5, 0.5, RATE).astype(np.float32)
    task = AudioClassification(augmentation=SoundAugmentationSpec(crop=True), max_seconds=0.5)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    found = all_heard(task, extractor, {"train": examples([array(ramp)]), "test": examples([array(ramp)])}, Observer())
    assert found["train"].truncated == 1
    starts = set()
    for epoch in range(4):
        data, rows = found["train"].drawn(np.array([0]), 0, epoch)
        clip = data.signals.inputs(rows)["input_values"][0]
        assert len(clip) == RATE // 2
        starts.add(float(clip[0]))
    assert len(starts) == 4
    np.testing.assert_array_equal(found["test"].signals.inputs(np.array([0]))["input_values"][0], ramp[: RATE // 2])


def test_features_that_memory_does_not_hold_are_made_for_each_batch(monkeypatch):
    monkeypatch.setattr("hfstrat.hearing.FEATURES_HELD", 100)
    extractor = ASTFeatureExtractor(num_mel_bins=16, max_length=40)
    given = {"train": examples(list(map(array, CLIPS)))}
    lazy = all_heard(AudioClassification(), extractor, given, Observer())["train"].signals
    monkeypatch.undo()
    kept = all_heard(AudioClassification(), extractor, given, Observer())["train"].signals
    assert isinstance(lazy, Waves)
    assert isinstance(kept, Features)
    rows = np.array([2, 0])
    np.testing.assert_allclose(lazy.inputs(rows)["input_values"], kept.inputs(rows)["input_values"], atol=1e-5)
    np.testing.assert_array_equal(lazy.lengths, kept.lengths)


# --- runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "strategy"),
    [
        ("wav2vec2", {"kind": "scratch"}),
        ("wav2vec2", {"kind": "head"}),
        ("wavlm", {"kind": "partial", "last_n": 1}),
        ("hubert", {"kind": "full"}),
        ("hubert", {"kind": "lora", "r": 4}),
        (AST, {"kind": "full"}),
        (AST, {"kind": "peft", "method": "IA3"}),
        ("whisper", {"kind": "full"}),
        ("whisper", {"kind": "head"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["kind"],
)
def test_a_run_leaves_a_model_that_transformers_alone_loads(family, strategy, tiny_base, sounds, user, tmp_path):
    run = execute.train(recipe(tiny_base(family), strategy, sounds), runs=tmp_path)
    frame = run.predictions()
    assert set(frame["reference"]) <= set(PITCHES)
    files = [str(sounds / true / name) for true, name in zip(frame["reference"], frame["audio"], strict=True)]
    artifact = run.artifact
    if (artifact / "adapter_config.json").is_file():
        from peft import PeftModel

        config = AutoConfig.from_pretrained(artifact)
        whole = AutoModelForAudioClassification.from_pretrained(
            tiny_base(family), config=config, ignore_mismatched_sizes=True
        )
        model: Any = PeftModel.from_pretrained(whole, str(artifact)).eval()
    else:
        model = AutoModelForAudioClassification.from_pretrained(artifact).eval()
    extractor = AutoFeatureExtractor.from_pretrained(artifact)
    clips = [samples_of(Path(file)) for file in files]
    most = round(yaml.safe_load((run.path / "recipe.yaml").read_text())["task"]["max_seconds"] * RATE)
    padding = {"padding": True} if family == "hubert" else {"padding": "max_length", "max_length": most}
    waves = family in ("hubert", "wav2vec2", "wavlm")
    with torch.inference_mode():
        inputs = extractor(clips, sampling_rate=RATE, return_tensors="pt", **(padding if waves else {}))
        logits = model(**inputs).logits
    np.testing.assert_allclose(logits.numpy(), np.stack(frame["logits"]), atol=1e-4)
    said = [model.config.id2label[place] for place in logits.argmax(-1).tolist()]
    assert said == list(frame["prediction"])
    if not waves and not (artifact / "adapter_config.json").is_file():
        piped = pipeline("audio-classification", model=model, feature_extractor=extractor)
        assert [piped(clip)[0]["label"] for clip in clips] == said
    assert [one["prediction"] for one in hf.predict(run, files)] == said
    answer = user.run(elsewhere.program(run, tiny_base(family), files))
    np.testing.assert_allclose(answer["logits"], np.stack(frame["logits"]), atol=1e-4)
    assert answer["labels"] == said
    if strategy["kind"] == "full":
        assert run.metrics["metrics"]["accuracy"]["value"] > 0.9, "pitches are easily told apart"


def samples_of(file: Path) -> np.ndarray:
    with wave.open(str(file)) as opened:
        return np.frombuffer(opened.readframes(opened.getnframes()), "<i2").astype(np.float32) / np.float32(2**15)


def test_a_pipeline_hears_a_wave_of_full_length_as_the_run_did(tiny_base, tmp_path):
    folder = write_folder(tmp_path / "data", 6, seconds=0.2)
    run = execute.train(recipe(tiny_base("wav2vec2"), {"kind": "head"}, folder), runs=tmp_path / "runs")
    frame = run.predictions()
    piped = pipeline("audio-classification", model=str(run.artifact), device="cpu")
    for _, row in frame.iterrows():
        found = piped(samples_of(folder / row["reference"] / row["audio"]))
        scores = {one["label"]: one["score"] for one in found}
        np.testing.assert_allclose([scores[name] for name in sorted(PITCHES)], row["scores"], atol=1e-4)


def test_below_the_blocks_only_strategies_for_all_of_the_model_train(tiny_base):
    """The convolutions that read waves stay as they are with a new head or the last blocks."""
    config = AutoConfig.from_pretrained(tiny_base("wav2vec2"), num_labels=3)
    model = AutoModelForAudioClassification.from_config(config)
    anatomy = find_anatomy(model, ["classifier.weight", "classifier.bias", "projector.weight", "projector.bias"], 3)
    front = [name for name in anatomy.parameters if "feature_extractor" in name or "feature_projection" in name]
    assert front
    from hfstrat.strategies import Head, Partial
    from hfstrat.strategies.plan import matches

    for strategy in (Head(), Partial(last_n=2)):
        trained = strategy.plan(anatomy, 100).trained
        assert not [name for name in front if matches(name, trained)]
        assert matches("classifier.weight", trained)


@pytest.mark.parametrize("kind", ["ast", "wav2vec2", "whisper"])
def test_a_run_from_a_shape_alone_and_a_student_of_it(kind, sounds, tmp_path):
    family = AST if kind == "ast" else kind
    shape = {"model_type": family, **{**tiny.ALL, **tiny.HEARING}[family].config}
    shape |= {"encoder_layers": 4} if kind == "whisper" else {"num_hidden_layers": 4}
    given = recipe(Path(), {"kind": "scratch"}, sounds)
    given |= {"model": {"config": shape, "dropout": 0.0}}
    teacher = execute.train(given, runs=tmp_path)
    assert json.loads((teacher.artifact / "preprocessor_config.json").read_text())["sampling_rate"] == RATE
    student = recipe(teacher.path, {"kind": "distill", "teacher": str(teacher.path)}, sounds)
    run = execute.train({**student, "name": "student"}, runs=tmp_path)
    config = json.loads((run.artifact / "config.json").read_text())
    assert config["encoder_layers" if kind == "whisper" else "num_hidden_layers"] == 2
    varied = {**student["task"], "augmentation": {"shift": 0.1}}
    with pytest.raises(RecipeError, match="for the sounds as they are"):
        execute.train({**student, "task": varied}, runs=tmp_path / "new")


@pytest.mark.parametrize("family", ["wav2vec2", AST])
def test_a_run_goes_on_from_another_ones_head(family, tiny_base, tmp_path):
    rows = [
        {"audio": array(sound(label, number).tolist()), "label": label} for number in range(12) for label in PITCHES
    ]
    first = execute.train(
        recipe(tiny_base(family), {"kind": "full"}, "memory"), data=helpers.memory(rows), runs=tmp_path
    )
    again = {**recipe(first.path, {"kind": "lora", "r": 2}, "memory"), "name": "again"}
    second = helpers.train(again, rows, tmp_path)
    assert second.run.read("plan.json")["stages"][0]["kind"] == "fit", "no head to begin with"
    kept = AutoModelForAudioClassification.from_pretrained(first.artifact).state_dict()
    adapted = {name: value for name, value in second.before.items() if name in kept}
    assert any("classifier" in name for name in adapted)
    assert all(torch.equal(value, kept[name]) for name, value in adapted.items()), "it begins as the first one ended"


@pytest.mark.parametrize(
    ("family", "strategy", "augmentation"),
    [
        ("wav2vec2", {"kind": "full"}, {"shift": 0.2, "noise": [5, 20], "crop": True}),
        pytest.param(AST, {"kind": "full"}, {"time_masks": [1, 5]}, marks=pytest.mark.slow),
        pytest.param("hubert", {"kind": "head"}, {"gain": 6}, marks=pytest.mark.slow),
    ],
    ids=["waves", "spectrograms", "head"],
)
def test_a_run_with_varied_sounds_goes_on(family, strategy, augmentation, tiny_base, tmp_path):
    rows = [
        {"audio": array(sound(label, number).tolist()), "label": label} for number in range(12) for label in PITCHES
    ]
    given = recipe(tiny_base(family), strategy, "memory", augmentation=augmentation, max_seconds=0.15)
    given["train"]["checkpoint_every"] = 2
    check_goes_on(given, rows, tmp_path)


@pytest.mark.parametrize("family", ["hubert", "wav2vec2", AST])
def test_micro_batches_make_up_one_batch(family, tiny_base, sounds, tmp_path):
    losses = []
    for size in (12, 5):
        given = recipe(tiny_base(family), {"kind": "full", "head_init": "random"}, sounds)
        given |= {"name": f"of-{size}"}
        given["train"] |= {"batch_size": 12, "micro_batch_size": size, "epochs": 2}
        given["model"] = {**given["model"], "dropout": 0.0}
        run = execute.train(given, runs=tmp_path)
        losses.append(np.stack(run.predictions()["logits"]))
    np.testing.assert_allclose(losses[0], losses[1], atol=2e-3)


# --- data ----------------------------------------------------------------------------------------------------


def test_a_table_names_files_beside_it(tiny_base, sounds, tmp_path):
    lines = ["audio,label"]
    for label in PITCHES:
        for number in range(12):
            lines.append(f"shots/{label}-{number}.wav,{label}")
            write(tmp_path / "data" / "shots" / f"{label}-{number}.wav", sound(label, number))
    table = tmp_path / "data" / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    run = execute.train(recipe(tiny_base("wav2vec2"), {"kind": "head"}, str(table)), runs=tmp_path / "runs")
    assert len(list(hf.load(run).predict_file(table, Observer()))) == 36
    assert hf.evaluate(run, str(table))["n"] == 36
    said = list(hf.load(run).predict_file(sounds / "low", Observer()))
    assert {one["id"] for one in said} == {f"{number}.wav" for number in range(12)}, "a folder of sounds alone"
    assert [one["prediction"] for one in hf.load(run).predict_file(sounds / "low" / "0.wav", Observer())] == [
        said[0]["prediction"]
    ]
    whole = list(hf.load(run).predict_file(sounds, Observer()))
    assert len(whole) == 36
    assert "kind: audio_classification" in init.run(table, None)


def test_sounds_of_a_hub_data_set_are_read_as_their_files(tiny_base, sounds, tmp_path):
    from datasets import Audio, Dataset

    rows = {
        "audio": [str(sounds / label / f"{number}.wav") for number in range(12) for label in PITCHES],
        "label": [*PITCHES] * 12,
    }
    data = Dataset.from_dict(rows).cast_column("audio", Audio(sampling_rate=8_000))
    run = execute.train(recipe(tiny_base("wav2vec2"), {"kind": "head"}, "memory"), data=data, runs=tmp_path)
    assert set(run.predictions()["reference"]) == set(PITCHES)


@pytest.mark.parametrize("problem", ["regression", "multi_label"])
def test_numbers_and_several_labels(problem, tiny_base, sounds, user, tmp_path):
    label = {"low": 0.25, "mid": 0.5, "high": 0.75} if problem == "regression" else dict.fromkeys(PITCHES, "tone")
    lines = ["audio,label"]
    for name in PITCHES:
        both = f"{label[name]}|{name}" if problem == "multi_label" else label[name]
        lines += [f"{sounds / name / f'{number}.wav'},{both}" for number in range(12)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    more = {"label_separator": "|"} if problem == "multi_label" else {}
    given = {**recipe(tiny_base("hubert"), {"kind": "full"}, str(table), **more), "evaluate": {}}
    run = execute.train(given, runs=tmp_path / "runs")
    frame = run.predictions()
    assert run.metrics["metrics"]["rmse" if problem == "regression" else "f1_micro"]["value"] >= 0
    files = [str(next(sounds.glob(f"*/{name}"))) for name in frame["audio"][:2]]
    answer = user.run(elsewhere.program(run, None, files))
    expected: Any = answer["labels"]
    if problem == "regression":
        expected = pytest.approx([one["label"] for one in answer["labels"]], abs=1e-4)
    assert [one["prediction"] for one in hf.predict(run, files)] == expected


def test_what_is_wrong_with_sounds_is_said_before_anything_is_trained(tiny_base, tmp_path):
    folder = write_folder(tmp_path / "data", 4)
    (folder / "low" / "1.wav").write_text("no sound")
    (folder / "high" / "2.wav").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        execute.train(recipe(tiny_base("wav2vec2"), {"kind": "head"}, folder), runs=tmp_path / "runs")
    assert all(name in str(caught.value) for name in ("1.wav", "2.wav"))
    assert not (tmp_path / "runs").exists()


def test_a_package_that_is_missing_is_named_once_with_its_remedy(tiny_base, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    for split in ("train", "test"):
        write_folder(folder / split, 4)
    for number in range(3):
        (folder / "train" / "low" / f"x{number}.flac").write_bytes(b"fLaC and more")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    given = {**recipe(tiny_base("wav2vec2"), {"kind": "head"}, folder), "data": {"source": f"{folder}/"}}
    with pytest.raises(DataError, match=r"needs the package soundfile") as caught:
        execute.train(given, runs=tmp_path / "runs")
    assert str(caught.value).count("pip install 'hfstrat[audio]'") == 1


def test_what_is_odd_about_sounds_is_told(tiny_base, tmp_path):
    folder = tmp_path / "data"
    for split, numbers in (("train", range(6)), ("test", range(3, 9))):
        for label in PITCHES:
            for number in numbers:
                write(folder / split / label / f"{split}{number}.wav", sound(label, number))
    write(folder / "train" / "low" / "silence.wav", np.zeros(3200, np.float32))
    write(folder / "train" / "low" / "loud.wav", np.clip(sound("low", 77, 0.2) * 20, -1, 1))
    write(folder / "train" / "low" / "slow.wav", sound("low", 78, 0.2, 8_000), 8_000)
    write(folder / "train" / "low" / "long.wav", sound("low", 79, 3.0))
    given = recipe(tiny_base("wav2vec2"), {"kind": "head"}, folder, max_seconds=0.5)
    given["data"] = {"source": f"{folder}/"}
    listener = Listener()
    execute.train(given, runs=tmp_path / "runs", observer=listener)
    said = "\n".join(listener.said)
    assert re.search(r"\d of 18 rows whose sound is also in train", said)
    assert re.search(r"1 sound of \d+ in (train|validation) is silent", said)
    assert re.search(r"1 sound of \d+ in (train|validation) is cut off at full scale", said)
    assert "39 of 16,000 Hz, 1 of 8,000 Hz" in said
    assert "of very different length" in said
    assert re.search(r"1 of \d+ sounds in (train|validation) are longer than 0.5 seconds", said)


def test_sounds_that_are_too_short_to_be_heard_are_errors(tiny_base, tmp_path):
    folder = write_folder(tmp_path / "data", 4)
    write(folder / "low" / "click.wav", np.full(160, 0.5, np.float32))
    with pytest.raises(DataError, match="1 row whose sound is shorter than 25 ms"):
        execute.train(recipe(tiny_base("wav2vec2"), {"kind": "head"}, folder), runs=tmp_path / "runs")


# --- what cannot be ------------------------------------------------------------------------------------------


def test_what_a_model_cannot_take_is_said(tiny_base, sounds, tmp_path):
    with pytest.raises(ModelError, match="reads input_ids and no sounds"):
        execute.train(recipe(tiny_base("bert"), {"kind": "head"}, sounds), runs=tmp_path)
    with pytest.raises(ModelError, match="reads input_values and no pictures"):
        open_base(ModelSpec(base=str(tiny_base("wav2vec2"))), reads="pixel_values")
    with pytest.raises(RecipeError, match=r"takes at most 0.4 seconds, not 1"):
        execute.train(recipe(tiny_base(AST), {"kind": "head"}, sounds, max_seconds=1.0), runs=tmp_path)
    given = recipe(tiny_base("hubert"), {"kind": "full"}, sounds, augmentation={"time_masks": [1, 5]})
    with pytest.raises(
        RecipeError,
        match=r"waves, which have no frequencies to hide.*task.augmentation.time_masks|"
        r"task.augmentation.time_masks.*waves",
    ):
        execute.train(given, runs=tmp_path)
    given = recipe(Path(), {"kind": "scratch"}, sounds)
    given |= {"model": {"config": {"model_type": "whisper", "max_source_positions": 70}}}
    with pytest.raises(RecipeError, match="no whole seconds"):
        execute.train(given, runs=tmp_path)


def test_init_writes_a_recipe_for_a_folder_of_sounds(sounds):
    text = init.run(sounds, None)
    assert "kind: audio_classification" in text
    assert "audio: audio" in text
    assert "label: label" in text
    assert "facebook/wav2vec2-base" in text
