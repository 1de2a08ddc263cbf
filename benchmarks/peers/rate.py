"""How many floating-point operations a second a large matrix product makes here and now.

python -m peers.rate '{"threads": 2, "bf16": true}'
"""

from __future__ import annotations

import json
import sys
import time

import torch

SIZE, REPEATS = 2048, 5


def rate(threads: int, bf16: bool) -> float:
    """Operations per second of the fastest of a few products."""
    torch.set_num_threads(threads)
    left, right = (torch.randn(SIZE, SIZE, dtype=torch.bfloat16 if bf16 else torch.float32) for _ in range(2))
    seconds = []
    for _ in range(REPEATS + 1):  # the first prepares the kernel
        start = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - start)
    return 2 * SIZE**3 / min(seconds[1:])


if __name__ == "__main__":
    print(json.dumps({"flops_per_second": rate(**json.loads(sys.argv[1]))}))
