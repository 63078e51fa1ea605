"""The operations on the CPU, forward and backward, against what one would write without them.

python benchmarks/kernels.py [--json] [--small]
"""

import sys
from collections.abc import Callable

import torch
from einops import rearrange, reduce
from harness import Case, close, run, small
from torch import Tensor
from torch_geometric.nn import MessagePassing

from metanets.kernels.axis_broadcast import axis_broadcast
from metanets.kernels.axis_pool import axis_pool
from metanets.kernels.edge_message import edge_message
from modelzoo.kernels.chunk_linear_attention import chunk_linear_attention
from modelzoo.kernels.chunk_linear_attention import reference as attention_reference
from modelzoo.kernels.delta_rule import delta_rule
from modelzoo.kernels.delta_rule import reference as delta_reference
from modelzoo.kernels.linear_scan import linear_scan
from modelzoo.kernels.ntk_layer import ntk_layer
from modelzoo.kernels.ntk_layer import reference as ntk_reference
from modelzoo.kernels.population_adam import population_adam


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_gradients(compute: Callable[..., Tensor | tuple[Tensor, ...]], *inputs: Tensor) -> Callable[[], list[Tensor]]:
    """Outputs, and the gradients of the sum of their squares to all inputs."""

    def call() -> list[Tensor]:
        own = [tensor.detach().requires_grad_() for tensor in inputs]
        result = compute(*own)
        outputs = [result] if isinstance(result, Tensor) else list(result)
        loss = sum((output * output.conj()).real.sum() for output in outputs)
        assert isinstance(loss, Tensor)
        return [*(output.detach() for output in outputs), *torch.autograd.grad(loss, own)]

    return call


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


def attention(time: int, per_channel: bool) -> Case:
    q, k, v = (random(2, time, 4, 32, seed=i) for i in range(3))
    decay = -random(2, time, 4, *([32] if per_channel else []), seed=3).abs() / 8

    def loop(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
        given = (q / 32**0.5, k, v, decay if per_channel else decay.unsqueeze(3))
        flat = [x.transpose(1, 2).flatten(0, 1) for x in given]
        return attention_reference.forward(*flat).unflatten(0, (2, 4)).transpose(1, 2)

    kind = "channel" if per_channel else "head"
    name = f"chunk_linear_attention, a decay per {kind}, B 2, T {time}, H 4, K 32, V 32"
    sides = (with_gradients(compute, q, k, v, decay) for compute in (chunk_linear_attention, loop))
    return Case(name, *sides, close(1e-3, 2e-2), baseline_name="loop")


def delta(time: int) -> Case:
    q, k, v = (random(2, time, 4, 32, seed=i) for i in range(3))
    k, beta = k / k.norm(dim=-1, keepdim=True), random(2, time, 4, seed=3).sigmoid()

    def loop(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
        flat = [x.transpose(1, 2).flatten(0, 1) for x in (q / 32**0.5, k, v, beta.unsqueeze(3))]
        return delta_reference.forward(*flat)[0].unflatten(0, (2, 4)).transpose(1, 2)

    sides = (with_gradients(compute, q, k, v, beta) for compute in (delta_rule, loop))
    return Case(f"delta_rule, B 2, T {time}, H 4, K 32, V 32", *sides, close(1e-3, 1e-3), baseline_name="loop")


class Modulated(MessagePassing):
    """The same messages in PyG."""

    def __init__(self) -> None:
        super().__init__(aggr="sum")

    def forward(self, nodes: Tensor, gain: Tensor, shift: Tensor, target: Tensor, edges: Tensor) -> Tensor:
        return self.propagate(edges, x=(nodes, target), gain=gain, shift=shift, size=(len(nodes), len(target)))

    def message(self, x_j: Tensor, x_i: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        return torch.nn.functional.silu(gain * x_j + shift + x_i)


def messages(models: int, channels: int) -> Case:
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
    ours = with_gradients(lambda *own: edge_message(*own, source, offsets, update=False)[0], *given)
    layer = Modulated()
    theirs = with_gradients(lambda *own: layer(*own, torch.stack([source, to])), *given)
    return Case(
        f"edge_message, {models} SIRENs, {channels} channels", ours, theirs, close(1e-4, 1e-3), baseline_name="PyG"
    )


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
        Case(f"axis_pool, {size_text}", with_gradients(axis_pool, weights), with_gradients(pool, weights), close(1e-3, 1e-5), baseline_name="einops"),
        Case(f"axis_broadcast, {size_text}", with_gradients(axis_broadcast, *given), with_gradients(broadcast, *given), close(1e-4, 1e-2), baseline_name="einops"),
    ]  # fmt: skip


def kernel(samples: int, outputs: int) -> Case:
    a, g = random(samples, 1, 512), random(outputs, samples, 1, 512)
    return Case(
        f"ntk_layer, N {samples}, {outputs} outputs, 512 to 512", lambda: ntk_layer(a, g),
        lambda: ntk_reference.forward(a, g, None, None, None, True), close(1e-3, 0.5), baseline_name="einsum",
    )  # fmt: skip


def adam(models: int) -> Case:
    """One step of SIRENs 2-32-32-1; every side starts anew."""
    shapes = ((32, 2), (32,), (32, 32), (32,), (1, 32), (1,))
    start, gradients = ([random(models, *shape, seed=seed) for shape in shapes] for seed in (0, 1))
    rates, alive = torch.full((models,), 1e-3), torch.ones(models, dtype=torch.bool)

    def ours() -> list[Tensor]:
        own = [tensor.clone() for tensor in start]
        moments = [[torch.zeros_like(tensor) for tensor in start] for _ in range(2)]
        for step in range(1, 6):
            population_adam(own, gradients, *moments, alive, rates, torch.zeros(models), step)
        return own

    def theirs() -> list[Tensor]:
        own = [[tensor[model].clone().requires_grad_() for tensor in start] for model in range(models)]
        for model, parameters in enumerate(own):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient[model]
            optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
            for _ in range(5):
                optimizer.step()
        return [torch.stack([parameters[i].detach() for parameters in own]) for i in range(len(shapes))]

    return Case(f"population_adam, five steps of {models} SIRENs", ours, theirs, close(1e-5, 1e-6), baseline_name="fused Adam a model")  # fmt: skip


def cases() -> list[Case]:
    if small():
        return [scan(1, 40, 3, torch.float32), attention(40, True), delta(40), messages(1, 3), *pools(2, 5, 3), kernel(8, 2), adam(3)]  # fmt: skip
    return [
        scan(1, 4096, 64, torch.float32), scan(8, 4096, 64, torch.float32), scan(1, 4096, 64, torch.complex64),
        attention(1024, False), attention(1024, True), delta(1024), messages(64, 16), *pools(16, 64, 32), kernel(256, 10), adam(64),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(run("kernels", cases(), repeats=5))
