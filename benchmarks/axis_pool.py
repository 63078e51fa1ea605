"""Pooling a weight tensor over its axes and the broadcast back, forward and backward, against einops.

python benchmarks/axis_pool.py [--json] [--small]
"""

import sys

from einops import rearrange, reduce
from harness import Case, close, random, run, small, with_gradients
from torch import Tensor

from metanets.kernels.axis_broadcast import axis_broadcast
from metanets.kernels.axis_pool import axis_pool


def pools(batch: int, size: int, channels: int) -> list[Case]:
    weights = random(batch, size, size, channels)
    rows, columns, everywhere = random(batch, size, channels), random(batch, size, channels, seed=1), random(batch, channels)  # fmt: skip

    def pool(w: Tensor) -> tuple[Tensor, ...]:
        return reduce(w, "b o i c -> b o c", "mean"), reduce(w, "b o i c -> b i c", "mean"), reduce(w, "b o i c -> b c", "mean")  # fmt: skip

    def broadcast(w: Tensor, r: Tensor, c: Tensor, a: Tensor) -> Tensor:
        return w + rearrange(r, "b o c -> b o 1 c") + rearrange(c, "b i c -> b 1 i c") + rearrange(a, "b c -> b 1 1 c")

    size_text = f"B {batch}, {size}×{size}, C {channels}"
    given = (weights, rows, columns, everywhere)
    return [
        Case(f"axis_pool, {size_text}", with_gradients(axis_pool, weights), with_gradients(pool, weights), close(1e-3, 1e-5), memory=True, baseline_name="einops"),
        Case(f"axis_broadcast, {size_text}", with_gradients(axis_broadcast, *given), with_gradients(broadcast, *given), close(1e-4, 1e-2), memory=True, baseline_name="einops"),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(run("axis_pool", pools(*((2, 5, 3) if small() else (16, 64, 32)))))
