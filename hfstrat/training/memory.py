"""Peak memory in two words: live tensor bytes, and anonymous resident memory of the process."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensor storages that are alive while it is entered.

    It sees the tensors that operations return, each storage once. It slows small operations down, so it is put
    around a few updates and not around a run. On a GPU the allocator's own counter is exact and free.

    Args:
        resident: Tensors that exist already.
    """

    def __init__(self, resident: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._seen: dict[int, int] = {}
        for tensor in resident:
            self._add(tensor)
        self.peak = self.current

    def _add(self, tensor: Any) -> None:
        if not isinstance(tensor, torch.Tensor) or tensor.device.type == "meta":
            return
        if tensor.layout != torch.strided:  # what it holds is in tensors of its own, which are seen when they are made
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen[key] = size
        self.current += size

        def gone() -> None:
            self.current -= self._seen.pop(key, 0)

        weakref.finalize(storage, gone).atexit = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in tree_iter(result):
            self._add(item)
        self.peak = max(self.peak, self.current)
        return result


class ResidentPeak:
    """Samples the anonymous resident memory of this process from a thread; Linux only, elsewhere `peak` is None.

    Args:
        interval: Seconds between samples.
    """

    def __init__(self, interval: float = 0.05) -> None:
        self.peak: int | None = None
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="hfstrat-memory")

    def __enter__(self) -> Self:
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        now = anonymous_bytes()
        if now is not None:
            self.peak = max(self.peak or 0, now)


def anonymous_bytes() -> int | None:
    """Anonymous resident memory of this process; None elsewhere than on Linux."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith("RssAnon:")), None)
    return int(line.split()[1]) * 1024 if line else None
