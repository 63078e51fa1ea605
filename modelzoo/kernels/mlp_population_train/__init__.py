"""Many steps of training of a whole population of small perceptrons in one call.

Papers: Implicit Neural Representations with Periodic Activation Functions (Sitzmann et al., 2020), for the sine; Adam: A
Method for Stochastic Optimization (Kingma and Ba, 2015).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from modelzoo.family import Paper
from modelzoo.kernels.registry import Op, Work, part, register

ACTIVATIONS = ("relu", "tanh", "sin", "gelu")


def mlp_population_train(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    inputs: Tensor,
    targets: Tensor,
    learning_rate: Tensor,
    steps: int,
    activation: Literal["relu", "tanh", "sin", "gelu"] = "relu",
    frequency: float = 1.0,
    start: int = 0,
    batch: int | None = None,
) -> Tensor:
    """K steps of Adam on the mean squared error, for every model at once, in place.

    y = W_L h_{L-1} + b_L, h_l = act(ω (W_l h_{l-1} + b_l)). Step t sees the samples t·batch … (t + 1)·batch - 1, round and
    round. A model whose gradient is not finite is left as it is from then on.

    Args:
        weights: W_l, contiguous `[M, out, in]`, updated.
        biases: b_l, contiguous `[M, out]`, updated.
        first: Adam's first moments of weights and then biases, updated.
        second: second moments, updated.
        inputs: `[S, in]`, the same for all models, or `[M, S, in]`.
        targets: `[M, S, out]`.
        learning_rate: `[M]`.
        steps: K.
        activation: relu, tanh, sin or gelu (exact).
        frequency: ω.
        start: steps that were taken before.
        batch: samples of a step; None for all.

    Returns:
        The loss before every step, `[M, K]`.

    Raises:
        ValueError: an unknown activation, a batch that is larger than the data, or tensors that do not fit.
    """
    samples = inputs.shape[-2]
    batch = samples if batch is None else batch
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation of mlp_population_train must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")  # fmt: skip
    if not 0 < batch <= samples:
        raise ValueError(f"a batch of {batch} does not fit {samples} samples")
    if not len(weights) == len(biases) == len(first) / 2 == len(second) / 2:
        raise ValueError("mlp_population_train needs one bias a weight, and moments of all weights and then all biases")
    if inputs.ndim == 2:
        inputs = inputs.unsqueeze(0)
    lists = [list(tensors) for tensors in (weights, biases, first, second)]
    return train(*lists, inputs, targets, learning_rate, steps, activation, frequency, start, batch)


@part(__name__, mutates=("weights", "biases", "first", "second"))
def train(
    weights: list[Tensor], biases: list[Tensor], first: list[Tensor], second: list[Tensor], inputs: Tensor, targets: Tensor,
    learning_rate: Tensor, steps: int, activation: str, frequency: float, start: int, batch: int,
) -> Tensor:  # fmt: skip
    """See `mlp_population_train`; inputs are `[M or 1, S, in]`."""
    return targets.new_empty(len(targets), steps)


def examples(dtype: torch.dtype, seed: int) -> list[tuple[Any, ...]]:
    """Every activation; one to four layers of odd widths; mini-batches that wrap around; a model that diverges at once."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    def case(widths: Sequence[int], samples: int, own: bool, *options: Any, models: int = 3) -> tuple[Any, ...]:
        pairs = list(zip(widths[1:], widths[:-1], strict=True))
        weights = [random(models, o, i) / i**0.5 for o, i in pairs]
        biases = [random(models, o) / 4 for o, _ in pairs]
        first, second = ([torch.zeros_like(x) for x in (*weights, *biases)] for _ in range(2))
        rates = torch.tensor([1e-2, 1e-3, 0.0])[:models].to(dtype)
        inputs = random(*((models, samples) if own else (samples,)), widths[0])
        targets = random(models, samples, widths[-1])
        if own:
            targets[1, 0, 0] = float("nan")
        return weights, biases, first, second, inputs, targets, rates, *options

    return [
        case([2, 5, 3, 1], 19, False, 3, "sin", 3.0),
        case([3, 17, 2], 21, True, 4, "relu", 1.0, 2, 8),
        case([1, 4, 4, 4, 1], 5, False, 2, "tanh"),
        case([2, 6, 1], 7, False, 2, "gelu", 1.0, 0, 3),
        case([3, 2], 4, False, 2),
    ]


def typical() -> tuple[Any, ...]:
    """Arguments of the size that `Work` names."""
    shapes = ((32, 2), (32, 32), (1, 32))
    weights = [(torch.rand(4096, *shape) * 2 - 1) * (6 / shape[1]) ** 0.5 / 30 for shape in shapes]
    biases = [torch.zeros(4096, shape[0]) for shape in shapes]
    first, second = ([torch.zeros_like(tensor) for tensor in (*weights, *biases)] for _ in range(2))
    data = (torch.rand(784, 2) * 2 - 1, torch.rand(4096, 784, 1))
    return weights, biases, first, second, *data, torch.full((4096,), 1e-4), 1000, "sin", 30.0


OP = register(
    Op(
        mlp_population_train,
        "K steps of Adam on |W_L act(ω(… act(ω(W_1 x + b_1)) …)) + b_L - y|², for every model",
        examples,
        Work(
            "4096 SIRENs 2-32-32-1, 784 samples, 1000 steps, float32",
            bytes=4 * 4096 * (784 + 6 * 1185),
            flops=4096 * 1000 * 784 * 6 * 1185,
            arguments=typical,
        ),
        (Paper("Implicit Neural Representations with Periodic Activation Functions", "Sitzmann et al.", 2020),),
        differentiable=False,
        vmappable=False,
    )
)
