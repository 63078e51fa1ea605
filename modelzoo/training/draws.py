"""Random masks that a model of a block draws from its own seed, so that they do not depend on its neighbours."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Replacing(TorchFunctionMode):
    """Within this context some functions of torch are computed by others of the same arguments.

    Args:
        functions: what is called → what computes it.
    """

    def __init__(self, functions: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
        super().__init__()
        self.functions = functions

    def __torch_function__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return self.functions.get(function, function)(*args, **(kwargs or {}))


@torch.library.custom_op("metazoo::uniform_of_model", mutates_args=())
def uniform(seed: Tensor, step: int, call: int, size: list[int]) -> Tensor:
    """Numbers in [0, 1), `size` of them for every model, that depend on its seed, the step and the call alone."""
    state = np.random.SeedSequence([int(seed), step, call]).generate_state(1, np.uint64)[0]
    return torch.rand(size, generator=torch.Generator().manual_seed(int(state) >> 1))


@uniform.register_vmap
def _each(info: Any, axes: Any, seed: Tensor, step: int, call: int, size: list[int]) -> tuple[Tensor, int]:
    return torch.stack([uniform(own, step, call, size) for own in seed]), 0


def dropout_of_model(seed: Tensor, step: int) -> Callable[..., Tensor]:
    """`torch.nn.functional.dropout` with masks from the model's seed; one function serves one forward pass."""
    calls = 0

    def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        nonlocal calls
        if not training or not p:
            return input
        calls += 1
        return input * (uniform(seed, step, calls, list(input.shape)) >= p).to(input.dtype) / (1 - p)

    return dropout
