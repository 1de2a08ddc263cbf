"""The artefact's README.md: what the model is, what it scores, and how to load it without hfstrat."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

import yaml

from hfstrat.metrics import built_in
from hfstrat.report.gallery import GALLERY
from hfstrat.report.samples import SAMPLES
from hfstrat.report.snippet import Case, Hearing, snippet
from hfstrat.report.tables import Measure, count, duration, markdown_table, score, size
from hfstrat.runs.directory import Run

MOST_LABELS = 20
_BOXES = ", true boxes dashed and found ones in full lines"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
_OF_FOLDER = 64  # characters of a SHA-256; the fingerprint of a Hub id is a commit, which is shorter
_TAGS = {
    "masked_lm": "fill-mask",
    "causal_lm": "text-generation",
    "seq2seq": "text2text-generation",
}  # of the Hub, where they are others than ours
_TASK_NAMES = {
    "text-classification": "Text Classification",
    "token-classification": "Token Classification",
    "question-answering": "Question Answering",
    "object-detection": "Object Detection",
    "fill-mask": "Fill Mask",
    "audio-classification": "Audio Classification",
    "text-generation": "Text Generation",
    "text2text-generation": "Text-to-Text Generation",
}


def card(
    run: Run,
    *,
    resolved: Mapping[str, Any],
    folder: str = "path/to/this/folder",
    branch: str = "main",
    merged: bool = False,
) -> str:
    """Write the model card of a run.

    Args:
        run: The run, with its metrics and ledger written.
        resolved: The resolved recipe as plain data.
        folder: What the loading snippet calls the artefact, such as its repository on the Hub.
        branch: Of that repository.
        merged: Whether the card goes with a whole model, into which the run's adapter was merged.
    """
    plan, env = _plan(run, merged), run.read("env.json") or {}
    base = public_base(resolved, env)
    sections = [
        _introduction(run, resolved, plan, base),
        _usage(run, resolved, plan, env, base, folder, branch),
        _scores(run),
        _samples(run, resolved),
        _training(run, resolved, plan, env),
        _cost(run, plan, env),
        _limits(run, resolved, env),
    ]
    about = metadata(run, resolved=resolved, merged=merged)
    front = yaml.safe_dump(about, sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{front}---\n\n" + "\n".join(section for section in sections if section)


def metadata(run: Run, *, resolved: Mapping[str, Any], merged: bool = False) -> dict[str, Any]:
    """What the Hub reads at the top of a card; language and licence are the user's to say."""
    plan, env = _plan(run, merged), run.read("env.json") or {}
    base, adapter = public_base(resolved, env), bool(plan.get("adapter"))
    hub = resolved.get("hub") or {}
    data: dict[str, Any] = {name: hub[name] for name in ("license", "language") if hub.get(name)}
    if base and plan.get("weights") != "random":
        data |= {"base_model": base, "base_model_relation": "adapter" if adapter else "finetune"}
    data |= {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": _pipeline_tag(resolved),
        "tags": list(dict.fromkeys(["hfstrat", str(plan.get("kind") or resolved["strategy"]["kind"])])),
    }
    if resolved["data"]["kind"] == "hub":
        data["datasets"] = [resolved["data"]["source"]]
    if index := _model_index(run, resolved, env):
        data["model-index"] = index
    return data


def _plan(run: Run, merged: bool) -> dict[str, Any]:
    """`plan.json`; of an adapter that was merged without it, and without what it stores."""
    plan = run.read("plan.json") or {}
    if not merged:
        return plan
    parameters = {name: number for name, number in plan["parameters"].items() if name != "stored"}
    return {**plan, "adapter": None, "parameters": parameters, "merged": True}


def public_base(resolved: Mapping[str, Any], env: Mapping[str, Any]) -> str | None:
    """The Hub id of the base model; None when it is a folder that nobody else has."""
    model, known = resolved["model"], env.get("model") or {}
    if below := known.get("adapter_of"):  # it went on from an adapter, over the base of that one
        name, local = below["name"], below["local"]
    elif model.get("published_as"):
        return str(model["published_as"])
    else:
        name, local = model["base"], len(str(known.get("fingerprint") or "")) == _OF_FOLDER
    return str(name) if name and not local and _HUB_ID.fullmatch(name) else None


def case_of(resolved: Mapping[str, Any], plan: Mapping[str, Any]) -> Case:
    """Which kind of artefact a run leaves."""
    adapter = bool(plan.get("adapter"))
    if resolved["task"].get("pooling", "native") == "native":
        return "native-adapter" if adapter else "native"
    return "pooled-adapter" if adapter else "pooled"


# --- metadata ----------------------------------------------------------------------------------------------------


def _pipeline_tag(resolved: Mapping[str, Any]) -> str:
    kind = str(resolved["task"]["kind"])
    return _TAGS.get(kind, kind.replace("_", "-"))


def _model_index(run: Run, resolved: Mapping[str, Any], env: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = [
        {"type": _metric_type(name), "value": entry["value"], "name": _metric_name(name, Measure.over([entry]))}
        for name, entry in (run.metrics.get("metrics") or {}).items()
        if entry.get("value") is not None
    ]
    tag = _pipeline_tag(resolved)
    result = {
        "task": {"type": tag, "name": _TASK_NAMES.get(tag, tag)},
        "dataset": _dataset(resolved, env, str(run.metrics.get("split") or "test")),
        "metrics": entries,
    }
    return [{"name": run.name, "results": [result]}] if entries else []


def _metric_type(name: str) -> str:
    """The metric's name on the Hub, where averages are arguments (`f1_macro` is `f1`)."""
    known = built_in(name)
    module = name if known is None else known.module
    return module if name.startswith(module) else name


def _metric_name(name: str, measure: Measure) -> str:
    """The interval stands in the name: the Hub's format has no field for it."""
    if measure.low is None or measure.high is None:
        return name
    return f"{name} (95 % interval {score(measure).partition('[')[2].rstrip(']')}, {measure.interval})"


def _dataset(resolved: Mapping[str, Any], env: Mapping[str, Any], split: str) -> dict[str, str]:
    name = data_name(resolved)
    if resolved["data"]["kind"] == "hub":
        found = {"type": name, "name": name, "split": split}
        if resolved["data"].get("subset"):
            found["config"] = resolved["data"]["subset"]
        return found
    # The Hub wants an id here, and takes whatever looks like one.
    return {"type": re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data", "name": name, "split": split}


def data_name(resolved: Mapping[str, Any]) -> str:
    """What the data is called in public: never where it lies on this machine."""
    source = str(resolved["data"].get("source") or resolved["data"]["kind"])
    if resolved["data"]["kind"] != "files":
        return "data in memory" if source == "memory" else source
    return _public(source)


def _public(place: str) -> str:
    """A place as others may read it: one outside of the working directory by its last name alone."""
    path = PurePath(place)
    inside = not path.is_absolute() and ".." not in path.parts and not place.startswith("~")
    return path.as_posix() if inside else path.name


# --- sections ----------------------------------------------------------------------------------------------------


def _introduction(run: Run, resolved: Mapping[str, Any], plan: Mapping[str, Any], base: str | None) -> str:
    what = "An adapter for" if plan.get("adapter") else "A model made from"
    link = f"[{base}](https://huggingface.co/{base})" if base else "a local base model"
    if plan.get("weights") == "random":
        what = "A model trained from random weights with the shape of"
        if resolved["model"].get("base") is None:
            link = f"a `{resolved['model']['config']['model_type']}` configuration"
    kind = plan.get("kind") or resolved["strategy"]["kind"]
    teacher = (plan.get("distillation") or {}).get("teacher")
    taught = f", from the outputs of the teacher `{_public(teacher)}`" if teacher else ""
    return (
        f"# {run.name}\n\n{what} {link}, trained for {_pipeline_tag(resolved).replace('-', ' ')} on "
        f"`{data_name(resolved)}` with the strategy `{kind}`{taught}.{_merged(plan)}\n"
    )


def _merged(plan: Mapping[str, Any]) -> str:
    """What became of an adapter whose base nobody else has."""
    if not plan.get("merged"):
        return ""
    return (
        " What the adapter learned is merged into the weights of its base, which is not published, so this is a whole "
        "model. The scores were measured before that, and merging only rounds."
    )


def _usage(
    run: Run,
    resolved: Mapping[str, Any],
    plan: Mapping[str, Any],
    env: Mapping[str, Any],
    base: str | None,
    folder: str,
    branch: str,
) -> str:
    task, case = resolved["task"], case_of(resolved, plan)
    saved = _saved(run)
    storage = saved.get("storage") if case.endswith("adapter") else None
    code = snippet(
        case,
        folder,
        base or "path/to/the/base/model",
        _form(resolved, env),
        int(saved.get("max_length") or task.get("max_length") or 0),
        _threshold(env, saved),
        int(saved.get("stride", task.get("stride", 0))) if saved.get("long_texts") == "windows" else None,
        revision=((env.get("model") or {}).get("adapter_of") or resolved["model"]).get("revision") if base else None,
        pairs=bool({"text_pair", "context"} & {*(resolved["data"].get("columns") or {})}),
        remote_code=bool(resolved["model"].get("code") or resolved["model"].get("trust_remote_code")),
        storage=storage,
        longest=int(task.get("max_answer_length") or 0),
        prefix=str(task.get("prefix") or ""),
        pictures=_mode(run) if _sees(resolved) else None,
        sounds=_hearing(run, resolved) if _hears(resolved) else None,
        rows=_rows(saved) if case.endswith("adapter") else None,
    )
    packages = {
        "torch transformers": True,
        "pillow": _sees(resolved),
        "scipy soundfile": _hears(resolved),
        "peft": case.endswith("adapter"),
        "bitsandbytes": bool(storage),
    }
    needs = " ".join(name for name, needed in packages.items() if needed)
    where = "" if branch == "main" else f'The files are on the branch `{branch}`: add `revision="{branch}"`.\n\n'
    before = f"{_brings(case, env)}{_trusts(resolved)}{where}"
    return f"## Use\n\n{before}`pip install {needs}`, then:\n\n```python\n{code}```\n"


def _rows(saved: Mapping[str, Any]) -> tuple[int, int] | None:
    """Tokens that the base knows and that the adapter knows, where it brings some of its own that need room."""
    known = saved.get("vocabulary")
    if not known or max(known["ids"]) < known["rows"]:
        return None
    return known["rows"], max(known["ids"]) + 1


def _sees(resolved: Mapping[str, Any]) -> bool:
    """Whether the model looks at pictures."""
    return bool(resolved["task"]["kind"] in ("image_classification", "object_detection"))


def _hears(resolved: Mapping[str, Any]) -> bool:
    """Whether the model hears sounds."""
    return bool(resolved["task"]["kind"] == "audio_classification")


def _hearing(run: Run, resolved: Mapping[str, Any]) -> Hearing:
    """What the artefact's model hears."""
    extractor = run.read("artifact/preprocessor_config.json") or {}
    rate = int(extractor.get("sampling_rate") or 16_000)
    samples = round(resolved["task"]["max_seconds"] * rate)
    if "num_mel_bins" in extractor or extractor.get("feature_size", 1) > 1:  # spectrograms are all of one length
        return Hearing(rate, samples, None)
    return Hearing(rate, samples, "longest" if extractor.get("return_attention_mask") else "max_length")


def _mode(run: Run) -> Literal["RGB", "L"]:
    """Of the pictures that the artefact's model takes."""
    return "L" if (run.read("artifact/config.json") or {}).get("num_channels") == 1 else "RGB"


def _form(resolved: Mapping[str, Any], env: Mapping[str, Any]) -> Any:
    """What the model's outputs mean."""
    task = resolved["task"]
    problem = (env.get("labels") or {}).get("problem") or task["problem"]
    if problem != "tokens":
        return problem
    return "chat" if "messages" in (resolved["data"].get("columns") or {}) else task["kind"]


def _threshold(env: Mapping[str, Any], saved: Mapping[str, Any]) -> float | None:
    """Of decisions; None where each question has an answer."""
    labels = env.get("labels") or {}
    if labels.get("problem") == "spans" and list(labels.get("counts") or ())[1:] == [0]:
        return None
    return float(saved.get("threshold", 0.5))


def _brings(case: Case, env: Mapping[str, Any]) -> str:
    """The file of Python that a folder brings, and why."""
    own = (env.get("model") or {}).get("code")
    if case.startswith("pooled"):
        why, file = "The head pools tokens in a way that the base's own class does not have", "modeling_pooled.py"
    elif own:
        why, file = "The architecture is not one that transformers has", str(own)
    else:
        return ""
    return f"{why}, so the folder brings `{file}`, a file of Python that the lines below run.\n\n"


def _trusts(resolved: Mapping[str, Any]) -> str:
    if not resolved["model"].get("trust_remote_code"):
        return ""
    return (
        "It was trained with `trust_remote_code`, so code that the base brings may have run then, and the lines below "
        "allow it as well: read that code first.\n\n"
    )


def _saved(run: Run) -> dict[str, Any]:
    """What the artefact's configuration says about its use."""
    return (run.read("artifact/config.json") or {}).get("hfstrat") or {}


def _scores(run: Run) -> str:
    metrics = run.metrics.get("metrics") or {}
    if not metrics:
        return ""
    rows = [(name, score(Measure.over([entry])), str(entry.get("interval") or "")) for name, entry in metrics.items()]
    table = markdown_table(("metric", "value [95 % interval]", "interval by"), rows)
    n = run.metrics.get("n")
    part = f"On the {run.metrics.get('split', 'test')} split{f' of {n:,} examples' if n else ''}"
    return f"## Scores\n\n{part}:\n\n{table}{_by_type(run)}{_by_class(run)}{_reproduced(run)}"


def _reproduced(run: Run) -> str:
    """How near what is saved is to what was trained."""
    known = run.metrics.get("reproduced")
    if not known:
        return ""
    return (
        f"\nScored as saved here: loaded again, its outputs on {known['examples']} of these examples were at most "
        f"{known['difference']:.1g} of the largest output away from those of the model that was trained.\n"
    )


def _by_type(run: Run) -> str:
    """Scores of each type of entity."""
    kinds: Mapping[str, Any] = run.metrics.get("by_type") or {}
    rows = [
        (f"`{kind}`", *(f"{one[name]:.3f}" for name in ("precision", "recall", "f1")), f"{one['number']:,}")
        for kind, one in kinds.items()
    ]
    return "\n" + markdown_table(("type", "precision", "recall", "F1", "in the split"), rows) if rows else ""


def _by_class(run: Run) -> str:
    """Average precision of each class of boxes; empty where there is none to find."""
    classes: Mapping[str, Any] = run.metrics.get("by_class") or {}
    rows = [
        (
            f"`{name}`",
            *("" if one[key] is None else f"{one[key]:.3f}" for key in ("map", "map50")),
            f"{one['number']:,}",
        )
        for name, one in classes.items()
    ]
    return "\n" + markdown_table(("class", "AP", "AP at 0.5", "boxes in the split"), rows) if rows else ""


def _samples(run: Run, resolved: Mapping[str, Any]) -> str:
    """Test examples where they are public anyway: a card is pushed, and the rows of a file may be nobody's affair."""
    file = run.path / SAMPLES
    if (run.path / GALLERY).is_file():
        split, boxed = run.metrics.get("split", "test"), resolved["task"]["kind"] == "object_detection"
        return (
            f"## Samples\n\nOf the {split} split, what was judged worst first{_BOXES if boxed else ''}: "
            f"`{GALLERY}` in the run's directory. It does not go with this folder: examples may be "
            "private.\n"
        )
    if resolved["data"]["kind"] != "builtin" or not file.is_file():
        return ""
    return f"## Samples\n\nOf the {run.metrics.get('split', 'test')} split:\n\n{file.read_text('utf-8')}"


def _training(run: Run, resolved: Mapping[str, Any], plan: Mapping[str, Any], env: Mapping[str, Any]) -> str:
    rows = ((env.get("data") or {}).get("rows") or {}).items()
    splits = ", ".join(f"{number:,} {name}" for name, number in rows if number is not None)
    facts = [
        ("data", f"`{data_name(resolved)}`" + (f": {splits} examples" if splits else "")),
        ("labels", _labels(env)),
        ("strategy", _fields(resolved["strategy"])),
        ("stages", " → ".join(f"{stage['name']} ({stage['kind']})" for stage in plan.get("stages") or ())),
        ("settings", _fields(resolved["train"]) if _fits(plan) else ""),
        ("seed", str(resolved["seed"])),
        (
            "input",
            _fields({key: resolved["task"].get(key) for key in ("max_length", "long_texts", "pooling", "normalize")}),
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in (env.get("versions") or {}).items())),
    ]
    table = markdown_table(("", ""), [fact for fact in facts if fact[1]])
    return f"## Training\n\n{table}{_decisions(run)}"


def _fits(plan: Mapping[str, Any]) -> bool:
    """Whether there is gradient training, to which the loop's settings apply."""
    return any(stage.get("kind") == "fit" for stage in plan.get("stages") or ())


def _labels(env: Mapping[str, Any]) -> str:
    labels = env.get("labels") or {}
    names: Sequence[str] = labels.get("names") or ()
    more = f", … ({len(names)} in all)" if len(names) > MOST_LABELS else ""
    listed = ", ".join(f"`{name}`" for name in names[:MOST_LABELS]) + more
    return f"{str(labels.get('problem')).replace('_', ' ')}: {listed}" if names else ""


def _fields(fields: Mapping[str, Any]) -> str:
    """`name value` pairs of what is set."""
    flat = {key: _plain(value) for key, value in fields.items()}
    texts = ((key, f"{value:g}" if isinstance(value, float) else str(value)) for key, value in flat.items())
    return ", ".join(f"{key} `{text}`" for key, text in texts if flat[key] is not None)


def _plain(value: Any) -> Any:
    """A field's value in a word; files and runs of this machine by their public name."""
    if isinstance(value, Mapping):
        return value.get("kind") or _fields(value).replace("`", "") or None
    return _public(value) if isinstance(value, str) and "/" in value else value


def _decisions(run: Run) -> str:
    found: Any = (run.read("decisions.json") or {}).get("decisions")
    if not found:
        return ""
    rows = [(f"`{one['path']}`", f"`{one['value']}`", _without_places(str(one["reason"]))) for one in found]
    table = markdown_table(("field", "value", "why"), rows)
    return f"\nThe recipe left these open:\n\n{table}"


def _without_places(reason: str) -> str:
    """A reason that names what lies on this machine by its last name alone."""
    return " ".join(_public(word) if word.startswith(("/", "~/", "../")) else word for word in reason.split(" "))


def _cost(run: Run, plan: Mapping[str, Any], env: Mapping[str, Any]) -> str:
    ledger, parameters = run.ledger, plan.get("parameters") or {}
    machine = f"on {env.get('processes')} × {env.get('device')}" if env.get("device") else ""
    values: list[tuple[str, Any, Callable[[float], str]]] = [
        ("wall time of the whole run", ledger.get("seconds"), lambda n: f"{duration(n)} {machine}".strip()),
        ("peak live memory (tensors)", ledger.get("peak_live_bytes"), size),
        ("peak resident memory", ledger.get("peak_rss_bytes"), size),
        ("parameters", parameters.get("total"), count),
        ("parameters that trained", parameters.get("trainable"), count),
        ("parameters stored here", parameters.get("stored"), count),
        ("size of the weights here", None if plan.get("merged") else ledger.get("artifact_bytes"), size),
    ]
    rows = [(name, write(value)) for name, value, write in values if value is not None]
    return f"## Cost\n\n{markdown_table(('', ''), rows)}" if rows else ""


def _limits(run: Run, resolved: Mapping[str, Any], env: Mapping[str, Any]) -> str:
    said = [
        "It was trained and evaluated on the data named above alone. Other sources, languages, periods and uses were "
        "not evaluated, and nothing was tested for bias or safety.",
        "An interval says how far a score would move over other test examples from the same source. It says nothing "
        "about another seed, and nothing about other data.",
        *_truncation(run, env),
    ]
    if (env.get("labels") or {}).get("problem") == "single_label":
        noun = "picture" if _sees(resolved) else "sound" if _hears(resolved) else "text"
        said.append(f"Every {noun} gets one of the labels, also a {noun} that belongs to none of them.")
    if (env.get("labels") or {}).get("problem") == "boxes":
        said.append("Objects of other kinds are not looked for, and of each picture a hundred boxes are kept at most.")
    if (env.get("labels") or {}).get("problem") == "entities":
        said.append("Of entities that lie within one another or overlap only one is told.")
    return "## Limits\n\n" + "".join(f"- {sentence}\n" for sentence in said)


def _truncation(run: Run, env: Mapping[str, Any]) -> Iterator[str]:
    """How much of the data the model saw only in part."""
    if _saved(run).get("long_texts") == "windows":
        return
    truncated = (run.read("audit.json") or {}).get("truncated")
    rows = (env.get("data") or {}).get("rows") or {}
    if isinstance(truncated, Mapping):
        shares = {name: cut / rows[name] for name, cut in truncated.items() if cut and rows.get(name)}
        if shares:
            listed = ", ".join(f"{100 * share:.2g} % of {name}" for name, share in shares.items())
            yield f"Texts longer than the maximum length were cut, and their ends not seen: {listed}."
