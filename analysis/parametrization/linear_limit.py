"""The infinite-width limit of a linear network with one hidden layer in μP, exactly.

f(x) = vᵀ U x / n with entries N(0, 1) and learning rate η n. A step of SGD on a loss with derivative χ in f multiplies
[U v] from the right by I − η χ [[0, x], [xᵀ, 0]], so that its second moments C = [U v]ᵀ [U v] / n, which tend to the
identity at the start, follow a recursion in d + 1 dimensions and f(x) = C_{d} · x for ever. "Feature Learning in
Infinite-Width Neural Networks" (Yang and Hu, 2021).
"""

from collections.abc import Callable

import torch
from torch import Tensor

ROW = "S103"


def limit_outputs(
    inputs: Tensor, targets: Tensor, steps: int, learning_rate: float,
    derivative: Callable[[Tensor, Tensor], Tensor] = torch.sub, start: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Outputs along full-batch training in the limit.

    Args:
        inputs: `[N, d]`.
        targets: `[N]`.
        steps: of gradient descent on the mean loss.
        learning_rate: η.
        derivative: `(output, target)` to the derivative of the loss, y − t for half the squared error.
        start: C at the start, `[d + 1, d + 1]`; the identity if None.

    Returns:
        `[steps + 1, N]`.
    """
    samples, d = inputs.shape
    moments = torch.eye(d + 1, dtype=inputs.dtype) if start is None else start
    found = []
    for step in range(steps + 1):
        outputs = inputs @ moments[:d, d]
        found.append(outputs)
        if step < steps:
            pull = torch.zeros_like(moments)
            pull[:d, d] = pull[d, :d] = inputs.T @ derivative(outputs, targets) / samples
            change = torch.eye(d + 1, dtype=inputs.dtype) - learning_rate * pull
            moments = change.T @ moments @ change
    return torch.stack(found)
