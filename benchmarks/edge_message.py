"""Messages along the edges of parameter graphs, forward and backward, against the same layer in PyG.

python benchmarks/edge_message.py [--json] [--small]
"""

import sys
from typing import Literal

import torch
from harness import Case, close, random, run, small, with_gradients
from torch import Tensor
from torch_geometric.nn import MessagePassing

from metanets.kernels.edge_message import edge_message

ACTIVATIONS = {"relu": torch.nn.functional.relu, "silu": torch.nn.functional.silu}


class Modulated(MessagePassing):
    """The same messages in PyG."""

    def __init__(self, activation: str) -> None:
        super().__init__(aggr="sum")
        self.activation = ACTIVATIONS[activation]

    def forward(self, nodes: Tensor, gain: Tensor, shift: Tensor, target: Tensor, edges: Tensor) -> Tensor:
        return self.propagate(edges, x=(nodes, target), gain=gain, shift=shift, size=(len(nodes), len(target)))

    def message(self, x_j: Tensor, x_i: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        return self.activation(gain * x_j + shift + x_i)


def messages(models: int, channels: int, activation: Literal["relu", "silu"], gradients: bool) -> Case:
    """The edges of a SIREN 2-32-32-1, biases as edges from one more node; models are channels."""
    sizes, first = (2, 32, 32, 1), (0, 2, 34, 66)
    pairs = [
        (first[layer - 1] + i, first[layer] + o)
        for layer in (1, 2, 3)
        for o in range(sizes[layer])
        for i in range(sizes[layer - 1])
    ]
    pairs = sorted([*pairs, *((67, target) for target in range(2, 67))], key=lambda pair: (pair[1], pair[0]))
    source, to = torch.tensor(pairs).T.contiguous()
    offsets = torch.zeros(69, dtype=torch.int64)
    offsets[1:] = torch.bincount(to, minlength=68).cumsum(0)
    width = models * channels
    given = (random(68, width), random(len(source), width, seed=1), random(len(source), width, seed=2), random(68, width, seed=3))  # fmt: skip
    layer, edges = Modulated(activation), torch.stack([source, to])

    def ours(*own: Tensor) -> Tensor:
        return edge_message(*own, source, offsets, activation, update=False)[0]

    def theirs(*own: Tensor) -> Tensor:
        return layer(*own, edges)

    sides = [with_gradients(side, *given) if gradients else lambda side=side: side(*given) for side in (ours, theirs)]
    what = "forward and backward" if gradients else "forward"
    name = f"edge_message, {activation}, {what}, {models} SIRENs, {channels} channels"
    return Case(name, *sides, close(1e-4, 1e-3), memory=True, baseline_name="PyG")


if __name__ == "__main__":
    size = (1, 3) if small() else (64, 16)
    cases = [messages(*size, activation, gradients) for activation in ACTIVATIONS for gradients in (True, False)]
    sys.exit(run("edge_message", cases))
