"""What machines can do that are not this one: memory, and arithmetic in bfloat16 as their makers state it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hfstrat.errors import Problem, UsageError, did_you_mean

GIB = 2**30
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Device:
    """A device to train on.

    Args:
        name: As it is called.
        memory: Bytes.
        flops: Floating-point operations a second in bfloat16 with dense matrices (float16 where it has none).
    """

    name: str
    memory: int
    flops: float


# Data sheets of NVIDIA: memory in GB as printed on the device, tensor cores without sparsity.
DEVICES = {
    name: Device(name, int(memory * 1e9), teraflops * 1e12)
    for name, memory, teraflops in (
        ("h200", 141, 989),
        ("h100", 80, 989),
        ("a100-80", 80, 312),
        ("a100-40", 40, 312),
        ("l40s", 48, 362),
        ("a10", 24, 125),
        ("l4", 24, 121),
        ("v100", 32, 125),
        ("t4", 16, 65),
        ("rtx-4090", 24, 165),
        ("rtx-3090", 24, 71),
    )
}


def device(name: str) -> Device:
    """A device by its name.

    Raises:
        UsageError: There is no such device here.
    """
    found = DEVICES.get(name.lower().replace(" ", "-").replace("_", "-"))
    if found is None:
        raise UsageError(Problem(f"no device '{name}' is known", hint=did_you_mean(name, list(DEVICES), show_all=20)))
    return found


def bytes_of(text: str) -> int:
    """`16GB`, `512 MiB`, or a number of bytes; GB and GiB mean the same, 2³⁰ bytes.

    Raises:
        UsageError: It is something else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.I)
    if found is None or not float(found[1]):
        raise UsageError(Problem(f"'{text}' is no amount of memory", hint="Write 16GB"))
    return int(float(found[1]) * _UNITS[found[2].upper()])
