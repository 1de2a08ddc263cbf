"""Python that uses an artefact without hfstrat, as its card shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Case = Literal["native", "native-adapter", "pooled", "pooled-adapter"]
Problem = Literal[
    "single_label",
    "multi_label",
    "regression",
    "entities",
    "tags",
    "spans",
    "masked_lm",
    "causal_lm",
    "chat",
    "seq2seq",
    "boxes",
]

_AUTOS = {
    "entities": "AutoModelForTokenClassification",
    "tags": "AutoModelForTokenClassification",
    "spans": "AutoModelForQuestionAnswering",
    "masked_lm": "AutoModelForMaskedLM",
    "causal_lm": "AutoModelForCausalLM",
    "chat": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "boxes": "AutoModelForObjectDetection",
}
_WRITING = ("causal_lm", "chat", "seq2seq")


@dataclass(frozen=True)
class Hearing:
    """What a model of sounds hears.

    Args:
        rate: Samples in a second, in Hz.
        samples: What it hears of a sound at most, from the beginning.
        padding: How waves are padded, as an argument of the feature extractor; None where that knows it.
    """

    rate: int
    samples: int
    padding: Literal["longest", "max_length"] | None


def snippet(
    case: Case,
    folder_placeholder: str,
    base: str,
    problem: Problem,
    max_length: int,
    threshold: float | None,
    windows: int | None,
    *,
    revision: str | None = None,
    pairs: bool = False,
    remote_code: bool = False,
    storage: Mapping[str, Any] | None = None,
    longest: int = 30,
    prefix: str = "",
    pictures: Literal["RGB", "L"] | None = None,
    sounds: Hearing | None = None,
    rows: tuple[int, int] | None = None,
) -> str:
    """Python that loads an artefact without hfstrat, and leaves `logits` and `labels` for some `texts`, or `found`.

    Args:
        case: Which kind of artefact.
        folder_placeholder: Where the artefact is.
        base: Hub id or folder of the base; only adapters need it.
        problem: What the logits mean; of tokens the task, and `chat` where it was trained on conversations.
        max_length: Tokens that the model sees at once.
        threshold: Probability from which a label is given, for several labels; by how much an answer has to score
            above none, None where there always is one.
        windows: Tokens that neighbouring windows of a long text share; None when long texts are cut.
        revision: Revision of the base.
        pairs: Whether the model reads pairs of texts.
        remote_code: Whether the base, or the artefact itself, brings its architecture as a file of Python.
        storage: How the base of an adapter was quantised, as the artefact's configuration says it.
        longest: Tokens of an answer, at most.
        prefix: What is put before each text.
        pictures: Mode of the pictures that the model looks at; None where it looks at none.
        sounds: What the model hears; None where it hears nothing.
        rows: Tokens that the base of an adapter knows, and that the adapter does; None where those are the same.
    """
    options = (f", revision={_quoted(revision)}" if revision else "") + (
        ", quantization_config=quantization" if storage else ""
    )
    trust = ", trust_remote_code=True"
    auto, name, reader = _auto(problem), "tokenizer", "AutoTokenizer"
    if pictures is not None:
        auto = auto if problem == "boxes" else "AutoModelForImageClassification"
        name, reader = "processor", "AutoImageProcessor"
    elif sounds is not None:
        auto, name, reader = "AutoModelForAudioClassification", "extractor", "AutoFeatureExtractor"
    reads = pictures is None and sounds is None
    lines = [
        *_imports(case, bool(storage), problem, auto, reader),
        "",
        f"folder = {_quoted(folder_placeholder)}",
        *(_quantization(storage) if storage else ()),
        *_loading(case, base, options, trust if remote_code else "", auto, rows),
        *(_unpacked() if storage and storage["bits"] == 4 else ()),
        *(["model = PeftModel.from_pretrained(base, folder).eval()"] if case.endswith("adapter") else ()),
        # The configuration names that file too, and transformers would ask at the terminal whether to run it.
        f"{name} = {reader}.from_pretrained(folder{trust if remote_code or case.startswith('pooled') else ''})",
        "",
        *(['texts = ["a first text", "a second one"]'] if reads and problem not in ("masked_lm", *_WRITING) else []),
        *(['pairs = ["what goes with it", "what goes with that"]'] if pairs else []),
    ]
    if pictures is not None:
        assert threshold is not None, "labels are given from a probability on"
        lines += _finding(threshold) if problem == "boxes" else _looking(pictures, _decision(problem, threshold))
    elif sounds is not None:
        assert threshold is not None, "labels are given from a probability on"
        lines += _listening(sounds, _decision(problem, threshold))
    elif problem in ("entities", "tags"):
        lines += _tagging(problem, windows)
    elif problem == "masked_lm":
        lines += _filling()
    elif problem in _WRITING:
        lines += _writing(problem, prefix)
    elif problem == "spans":
        lines += _answering(max_length, windows or 0, longest, threshold)
    else:
        assert threshold is not None, "only a question may have an answer always"
        lines += [*_forward(max_length, windows, pairs), *_decision(problem, threshold), "print(labels)"]
    return "\n".join(lines) + "\n"


def _images(mode: str) -> list[str]:
    return [f'images = [Image.open(name).convert("{mode}") for name in ["a-picture.png", "another.png"]]']


def _finding(threshold: float) -> list[str]:
    """Lines that leave in `found` the boxes in some `images`: left, top, right and bottom in pixels."""
    return [
        *_images("RGB"),
        "with torch.inference_mode():",
        '    outputs = model(**processor(images, return_tensors="pt"))',
        "sizes = [(image.height, image.width) for image in images]",
        "results = processor.post_process_object_detection(",
        f"    outputs, threshold={threshold!r}, target_sizes=sizes",
        ")",
        "found = []",
        "for result in results:",
        '    order = result["scores"].argsort(descending=True, stable=True)',
        "    score, label, box = (result[name][order].tolist() for name in ('scores', 'labels', 'boxes'))",
        "    rows = zip(score, [model.config.id2label[i] for i in label], box)",
        '    found.append([{"label": label, "score": score, "box": box} for score, label, box in rows])',
        "print(found)",
    ]


def _looking(mode: str, decision: list[str]) -> list[str]:
    """Lines that leave `logits` and `labels` for some `images`."""
    return [
        *_images(mode),
        "with torch.inference_mode():",
        '    logits = model(**processor(images, return_tensors="pt")).logits',
        *decision,
        "print(labels)",
    ]


def _listening(sounds: Hearing, decision: list[str]) -> list[str]:
    """Lines that leave `logits` and `labels` for some `sounds`."""
    padding = {
        "longest": "padding=True, ",
        "max_length": f'padding="max_length", max_length={sounds.samples}, ',
        None: "",
    }[sounds.padding]
    return [
        "def read(name):",
        '    samples, rate = soundfile.read(name, dtype="float32", always_2d=True)',
        f"    step = gcd(rate, {sounds.rate})",
        f"    samples = resample_poly(samples.mean(1), {sounds.rate} // step, rate // step)",
        f'    return samples.clip(-1, 1).astype("float32")[:{sounds.samples}]',
        "",
        'sounds = [read(name) for name in ["a-sound.wav", "another.wav"]]',
        f'inputs = extractor(sounds, sampling_rate={sounds.rate}, {padding}return_tensors="pt")',
        "with torch.inference_mode():",
        "    logits = model(**inputs).logits",
        *decision,
        "print(labels)",
    ]


def _auto(problem: Problem) -> str:
    return _AUTOS.get(problem, "AutoModelForSequenceClassification")


def _filling() -> list[str]:
    """Lines that leave the likeliest tokens for each mask in `texts`."""
    return [
        'texts = [f"a text with {tokenizer.mask_token} in it"]',
        'tokens = tokenizer(texts, padding=True, return_tensors="pt")',
        "with torch.inference_mode():",
        "    logits = model(**tokens).logits",
        'best = logits[tokens["input_ids"] == tokenizer.mask_token_id].softmax(-1).topk(5)',
        "found = [tokenizer.convert_ids_to_tokens(row) for row in best.indices.tolist()]",
        "print(found)",
    ]


def _writing(problem: Problem, prefix: str) -> list[str]:
    """Lines that leave the continuations of `texts`, or what is made of them."""
    lines = ['texts = ["a first text", "a second one"]']
    if problem == "chat":
        lines = [
            'messages = [{"role": "user", "content": "a question"}]',
            "texts = [tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)]",
        ]
    if prefix:
        lines.append(f"texts = [{_quoted(prefix)} + text for text in texts]")
    side = "" if problem == "seq2seq" else ', padding_side="left"'
    special = ", add_special_tokens=False" if problem == "chat" else ""
    new = "written" if problem == "seq2seq" else 'written[:, tokens["input_ids"].shape[1] :]'
    return [
        *lines,
        f'tokens = tokenizer(texts, padding=True{side}{special}, return_tensors="pt")',
        'tokens.pop("token_type_ids", None)',
        "written = model.generate(**tokens, generation_config=GenerationConfig.from_pretrained(folder))",
        f"found = tokenizer.batch_decode({new}, skip_special_tokens=True)",
        "print(found)",
    ]


def _answering(max_length: int, stride: int, longest: int, threshold: float | None) -> list[str]:
    """Lines that leave the answer to each of `texts` in its one of `pairs`; transformers has no pipeline for it."""
    answer = "pair[best[1] : best[2]].strip()"
    return [
        "labels = []",
        "for text, pair in zip(texts, pairs):",
        '    asked = len(tokenizer(text, add_special_tokens=False)["input_ids"])',
        f"    room = {max_length} - tokenizer.num_special_tokens_to_add(pair=True) - asked",
        f'    tokens = tokenizer(text, pair, truncation="only_second", max_length={max_length},',
        f"                       stride=min({stride}, room // 2), padding=True,",
        "                       return_overflowing_tokens=True, return_offsets_mapping=True,",
        '                       return_tensors="pt")',
        '    offsets = tokens.pop("offset_mapping").tolist()',
        '    tokens.pop("overflow_to_sample_mapping")',
        "    with torch.inference_mode():",
        "        logits = torch.stack(model(**tokens)[:2])  # of the first and of the last token of an answer",
        '    best, none = (float("-inf"), 0, 0), float("inf")',
        "    for row, places in enumerate(offsets):",
        "        first, last = logits[:, row].tolist()",
        '        ids, mask = tokens["input_ids"][row].tolist(), tokens["attention_mask"][row]',
        "        null = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else int(mask.argmax())",
        "        none = min(none, first[null] + last[null])",
        "        sides = tokens.sequence_ids(row)",
        "        inside = [i for i, (start, end) in enumerate(places) if sides[i] == 1 and end > start]",
        f"        stretches = [(i, j) for i in inside for j in inside if i <= j < i + {longest}]",
        "        spans = [(first[i] + last[j], places[i][0], places[j][1]) for i, j in stretches]",
        "        best = max([best, *spans], key=lambda span: span[0])",
        f"    labels.append({answer})"
        if threshold is None
        else f'    labels.append({answer} if best[0] - none >= {threshold!r} else "")',
        "print(labels)",
    ]


def _tagging(problem: Problem, windows: int | None) -> list[str]:
    """Lines that leave the entities, or the tags of all tokens, of each text."""
    options = ', aggregation_strategy="first"' if problem == "entities" else ""
    stride = f", stride={windows}" if windows is not None and options else ""
    return [
        f'tagger = pipeline("token-classification", model=model, tokenizer=tokenizer{options}{stride})',
        "found = tagger(texts)",
        "print(found)",
    ]


def _quoted(text: str) -> str:
    """Text as Python writes it, in double quotes; JSON's escapes are Python's as well."""
    return json.dumps(text)


def _imports(case: Case, quantized: bool, problem: Problem, auto: str, reader: str) -> list[str]:
    autos = [auto, reader]
    if case == "native-adapter":
        autos.insert(0, "AutoConfig")
    autos += ["GenerationConfig"] if problem in _WRITING else []
    if case == "pooled-adapter":
        autos.remove(auto)
    autos += ["BitsAndBytesConfig"] if quantized else []
    autos += ["pipeline"] if problem in ("entities", "tags") else []
    hears = reader == "AutoFeatureExtractor"
    lines = [*(["from math import gcd", ""] if hears else []), *(["import soundfile"] if hears else []), "import torch"]
    if case.endswith("adapter"):
        lines.append("from peft import PeftModel")
    if reader == "AutoImageProcessor":
        lines.append("from PIL import Image")
    if hears:
        lines.append("from scipy.signal import resample_poly")
    lines.append(f"from transformers import {', '.join(autos)}")
    if case == "pooled-adapter":
        lines.append("from transformers.dynamic_module_utils import get_class_from_dynamic_module")
    return lines


def _quantization(storage: Mapping[str, Any]) -> list[str]:
    """The base as it was stored while the adapter trained; what the adapter learned makes up for its rounding."""
    options: dict[str, object] = {"load_in_8bit": True}
    if storage["bits"] == 4:
        options = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": storage["quant_type"],
            "bnb_4bit_use_double_quant": storage["double_quant"],
        }
    lines = [f"    {name}={_quoted(value) if isinstance(value, str) else value}," for name, value in options.items()]
    if storage["bits"] == 4:
        compute = "bfloat16" if storage["compute"] == "bf16" else "float32"
        lines.append(f"    bnb_4bit_compute_dtype=torch.{compute},")
    skip = json.dumps(storage["skip"])
    return ["quantization = BitsAndBytesConfig(", *lines, f"    llm_int8_skip_modules={skip},", ")"]


def _loading(case: Case, base: str, options: str, trust: str, auto: str, rows: tuple[int, int] | None) -> list[str]:
    """Lines that leave `model`, or for an adapter `base`."""
    # In single precision, as it was scored: bases are often stored in half of it.
    precision = "dtype=torch.float32"
    if case == "native":
        return [f"model = {auto}.from_pretrained(folder{trust}, {precision}).eval()"]
    if case == "pooled":
        return [f"model = {auto}.from_pretrained(folder, trust_remote_code=True, {precision}).eval()"]
    grown = [] if rows is None else [f"base.resize_token_embeddings({rows[1]}, mean_resizing=False)"]
    if case == "native-adapter":
        return [
            f"config = AutoConfig.from_pretrained(folder{trust})",
            *([] if rows is None else [f"config.vocab_size = {rows[0]}  # the adapter brings tokens of its own"]),
            f"base = {auto}.from_pretrained(  # its head is new; the adapter brings the trained one",
            f"    {_quoted(base)}, config=config, ignore_mismatched_sizes=True, {precision}{trust}{options}",
            ")",
            *grown,
        ]
    of_backbone = (
        [
            "config = cls.config_class.from_pretrained(folder)",
            f"config.backbone_config.vocab_size = {rows[0]}  # the adapter brings tokens of its own",
        ]
        if rows is not None
        else []
    )
    return [
        'cls = get_class_from_dynamic_module("modeling_pooled.PooledForSequenceClassification", folder)',
        *of_backbone,
        f"base = cls.from_backbone("
        f"{_quoted(base)}, {'config' if rows is not None else 'folder'}, {precision}{trust}{options})",
        *grown,
    ]


def _unpacked() -> list[str]:
    """Some CPUs would compute in bfloat16, from weights that are packed in another way."""
    return [
        "for module in base.modules():  # or CPUs with AVX512_BF16 round everything to bfloat16",
        '    if hasattr(module, "support_avx512bf16_for_cpu"):',
        "        module.support_avx512bf16_for_cpu = False",
    ]


def _forward(max_length: int, windows: int | None, pairs: bool) -> list[str]:
    given = "texts, pairs" if pairs else "texts"
    if windows is None:
        return [
            f'tokens = tokenizer({given}, truncation=True, max_length={max_length}, padding=True, return_tensors="pt")',
            "with torch.inference_mode():",
            "    logits = model(**tokens).logits",
        ]
    truncation = '"only_second"' if pairs else "True"
    return [
        f"tokens = tokenizer({given}, truncation={truncation}, max_length={max_length}, stride={windows},",
        '                   return_overflowing_tokens=True, padding=True, return_tensors="pt")',
        'owner = tokens.pop("overflow_to_sample_mapping")',
        "with torch.inference_mode():",
        "    logits = model(**tokens).logits",
        "logits = torch.stack([logits[owner == i].mean(0) for i in range(len(texts))])  # over a text's windows",
    ]


def _decision(problem: Problem, threshold: float) -> list[str]:
    if problem == "single_label":
        return [
            "scores = logits.softmax(-1)",
            "labels = [model.config.id2label[i] for i in scores.argmax(-1).tolist()]",
        ]
    if problem == "multi_label":
        return [
            "scores = logits.sigmoid()",
            f"labels = [[model.config.id2label[i] for i, s in enumerate(row) if s >= {threshold!r}] "
            "for row in scores.tolist()]",
        ]
    return ["labels = [dict(zip(model.config.id2label.values(), row)) for row in logits.tolist()]"]
