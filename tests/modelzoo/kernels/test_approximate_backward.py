"""The approximate slopes are the best of their kind, and what is kept for the backward pass is small."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.kernels.approximate_backward import FITS, approximate_backward
from modelzoo.kernels.memory_sharing_norm import memory_sharing_norm

EXACT = {"gelu": F.gelu, "silu": F.silu}


def kept(compute: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The result, and the tensors that its graph saved."""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return compute(), saved


@pytest.mark.parametrize("activation", list(FITS))
def test_the_three_relus_are_the_least_squares(activation: Any) -> None:
    x = torch.linspace(0, 60, 600_001, dtype=torch.float64)

    def error(a: float, c: float) -> float:
        fit = a * (x + c) + (1 - 2 * a) * x + a * (x - c).relu()
        return float((EXACT[activation](x) - fit).square().sum() * 2 * (x[1] - x[0]))

    a, c = FITS[activation]
    for da, dc in ((1e-3, 0), (-1e-3, 0), (0, 0.05), (0, -0.05)):
        assert error(a + da, c + dc) > error(a, c)


@pytest.mark.parametrize("activation", list(FITS))
def test_exact_forward_and_coded_backward(activation: Any) -> None:
    a, c = FITS[activation]
    x = torch.tensor([-9.0, -c - 0.01, -c + 0.01, -0.5, 0.5, c - 0.01, c + 0.01, 9.0], requires_grad=True)
    y, saved = kept(lambda: approximate_backward(x, activation))
    torch.testing.assert_close(y, EXACT[activation](x))
    assert [(tensor.dtype, tensor.numel()) for tensor in saved] == [(torch.uint8, 2)], "eight numbers in two bytes"
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0, 0, a, a, 1 - a, 1 - a, 1, 1]))


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="must be gelu or silu, got 'relu'"):
        approximate_backward(torch.ones(1), "relu")  # type: ignore[arg-type]


@pytest.mark.parametrize("center", [True, False])
def test_a_norm_and_the_linear_layer_after_it_keep_one_tensor(center: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    x, w = torch.randn(6, 8, generator=draw, requires_grad=True), torch.randn(3, 8, generator=draw, requires_grad=True)
    _, saved = kept(lambda: memory_sharing_norm(x, center) @ w.T)
    large = {tensor.data_ptr() for tensor in saved if tensor.numel() == x.numel()}
    assert len(large) == 1
    assert x.data_ptr() not in large
    norm = (lambda x: F.layer_norm(x, (8,))) if center else (lambda x: F.rms_norm(x, (8,), eps=1e-5))
    torch.testing.assert_close(memory_sharing_norm(x, center), norm(x))
    _, usual = kept(lambda: norm(x) @ w.T)
    assert len({tensor.data_ptr() for tensor in usual if tensor.numel() == x.numel()}) == 2, "the control"
