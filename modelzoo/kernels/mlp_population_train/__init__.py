"""Many steps of training of a whole population of small perceptrons in one call.

Papers: Implicit Neural Representations with Periodic Activation Functions (Sitzmann et al., 2020), for the sine; Adam: A
Method for Stochastic Optimization (Kingma and Ba, 2015); Decoupled Weight Decay Regularization (Loshchilov and Hutter, 2019).
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
    rows: Tensor | None = None,
    weight_decay: Tensor | None = None,
) -> Tensor:
    """K steps of Adam with decoupled weight decay, for every model at once, in place.

    y = W_L h_{L-1} + b_L, h_l = act(ω (W_l h_{l-1} + b_l)). The loss is the mean over samples of the squared error, itself
    a mean over outputs, or of the cross-entropy where targets are labels. A model whose gradient is not finite is left as
    it is from then on.

    Args:
        weights: W_l, contiguous `[M, out, in]`, updated.
        biases: b_l, contiguous `[M, out]`, updated.
        first: Adam's first moments of weights and then biases, updated.
        second: second moments, updated.
        inputs: `[S, in]`, the same for all models, or `[M, S, in]`.
        targets: numbers `[S, out]` or labels `[S]` (int64), the same for all models, or either with a model axis first.
        learning_rate: `[M]`.
        steps: K.
        activation: relu, tanh, sin or gelu (exact).
        frequency: ω.
        start: steps that were taken before.
        rows: `[M, K, B]` int64, the samples that every model sees in every step; None for all in every step.
        weight_decay: λ, `[M]`; None for none.

    Returns:
        The loss before every step, `[M, K]`.

    Raises:
        ValueError: an unknown activation, or tensors that do not fit.
    """
    models, samples = len(learning_rate), inputs.shape[-2]
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation of mlp_population_train must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")  # fmt: skip
    if rows is not None and rows.shape[:2] != (models, steps):
        raise ValueError(f"rows of mlp_population_train must be [{models}, {steps}, batch], got {list(rows.shape)}")
    if not len(weights) == len(biases) == len(first) / 2 == len(second) / 2:
        raise ValueError("mlp_population_train needs one bias a weight, and moments of all weights and then all biases")
    axes = 3 if targets.is_floating_point() else 2
    inputs, targets = (x if x.ndim == n else x.unsqueeze(0) for x, n in ((inputs, 3), (targets, axes)))
    if targets.shape[1] != samples or {len(inputs), len(targets)} - {1, models}:
        raise ValueError(f"inputs {list(inputs.shape)} and targets {list(targets.shape)} do not fit {models} models")
    decay = torch.zeros_like(learning_rate) if weight_decay is None else weight_decay
    lists = [list(tensors) for tensors in (weights, biases, first, second)]
    return train(*lists, inputs, targets, learning_rate, decay, rows, steps, activation, frequency, start)


@part(__name__, mutates=("weights", "biases", "first", "second"))
def train(
    weights: list[Tensor], biases: list[Tensor], first: list[Tensor], second: list[Tensor], inputs: Tensor, targets: Tensor,
    learning_rate: Tensor, weight_decay: Tensor, rows: Tensor | None, steps: int, activation: str, frequency: float, start: int,
) -> Tensor:  # fmt: skip
    """See `mlp_population_train`; inputs and targets are `[M or 1, S, …]`."""
    return inputs.new_empty(len(learning_rate), steps)


def examples(dtype: torch.dtype, seed: int) -> list[tuple[Any, ...]]:
    """Every activation; one to four layers of odd widths; either loss; mini-batches; decay; a model that diverges at once."""
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
            targets[1, :, 0] = float("nan")
        return weights, biases, first, second, inputs, targets, rates, *options

    def batches(*sizes: int) -> Tensor:
        return torch.randint(sizes[-1], sizes[:-1], generator=draw)

    def classifiers(widths: Sequence[int], samples: int, models: int, *options: Any) -> tuple[Any, ...]:
        given = case(widths, samples, False, *options)
        return *given[:5], torch.randint(widths[-1], (models, samples), generator=draw), *given[6:]

    decay = torch.tensor([0.5, 0.0, 1.0], dtype=dtype)
    return [
        case([2, 5, 3, 1], 19, False, 2, "sin", 3.0),
        case([3, 17, 2], 21, True, 2, "relu", 1.0, 2, batches(3, 2, 8, 21)),
        case([1, 4, 4, 4, 1], 5, False, 2, "tanh"),
        case([2, 6, 1], 7, False, 2, "gelu", 1.0, 0, batches(3, 2, 3, 7), decay),
        classifiers([3, 2], 4, 1, 2, "relu", 1.0, 0, None, decay),
        classifiers([5, 9, 17], 20, 3, 2, "tanh", 1.0, 5, batches(3, 2, 6, 20)),
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
        "K steps of AdamW on ℓ(W_L act(ω(… act(ω(W_1 x + b_1)) …)) + b_L, y) for every model, ℓ squared error or cross-entropy",
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
