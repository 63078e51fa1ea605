"""Operations written out where torch's own have no higher derivatives, or wrong ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Layer norm from elementary operations; the third derivative of torch's own is wrong (2.13: by 80% on random data)."""
    axes = tuple(range(-len(normalized_shape), 0))
    centred = input - input.mean(axes, keepdim=True)
    out = centred * (centred.square().mean(axes, keepdim=True) + eps).rsqrt()
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


class _WrittenOut(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (layer_norm if func is F.layer_norm else func)(*args, **(kwargs or {}))


@contextmanager
def smooth() -> Iterator[None]:
    """Within it modules can be differentiated as often as their mathematics can."""
    with sdpa_kernel(SDPBackend.MATH), _WrittenOut():
        yield
