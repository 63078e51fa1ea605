"""The linear scan, forward and backward, against the loop over time one would write without it.

python benchmarks/scan.py [--json] [--small]
"""

import sys

import torch
from harness import Case, close, random, run, small, with_gradients
from torch import Tensor

from modelzoo.kernels.linear_scan import linear_scan


def scan(batch: int, time: int, channels: int, dtype: torch.dtype) -> Case:
    inputs, decay = random(batch, time, channels).to(dtype), random(batch, time, channels, seed=1).sigmoid().to(dtype)

    def loop(decay: Tensor, inputs: Tensor) -> Tensor:
        state, states = torch.zeros_like(inputs[:, 0]), []
        for a, x in zip(decay.unbind(1), inputs.unbind(1), strict=True):
            state = a * state + x
            states.append(state)
        return torch.stack(states, 1)

    name = f"linear_scan {str(dtype)[6:]}, B {batch}, T {time}, C {channels}"
    return Case(name, with_gradients(linear_scan, decay, inputs), with_gradients(loop, decay, inputs), close(1e-3, 1e-3), baseline_name="loop")  # fmt: skip


if __name__ == "__main__":
    sizes = [(1, 40, 3)] if small() else [(1, 4096, 64), (8, 4096, 64)]
    cases = [scan(*size, torch.float32) for size in sizes] + [scan(*sizes[0], torch.complex64)]
    sys.exit(run("scan", cases))
