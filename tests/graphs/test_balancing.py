"""Balanced weights: closed forms against automatic differentiation, iterative steps against dense ones."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphs.balancing
from graphs import SymmetryGroup, symmetry
from graphs.balancing import balance


@cache
def subject() -> tuple[SymmetryGroup, dict[str, Tensor]]:
    """A residual block with batch norm: scales with an offset, scales that nothing holds, and translations."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
            self.second, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.norm(self.first(x)))
            return self.last(torch.relu(self.second(h) + h).mean((2, 3)))

    torch.manual_seed(3)
    module = Residual().eval()
    group = symmetry(module, (torch.randn(2, 1, 5, 5),))
    tensors = {name: t.detach().double() for name, t in module.state_dict().items() if name in group.program.tensors}
    return group, {name: t + 0.3 * torch.rand_like(t) if t.ndim == 1 else t for name, t in tensors.items()}


def balancing() -> graphs.balancing._Balance:
    group, tensors = subject()
    moving = [factor for factor in group.factors if factor.dimension and not graphs.balancing._is_compact(factor)]
    return graphs.balancing._Balance(group, moving, tensors)


def test_closed_forms_are_derivatives_of_the_norm() -> None:
    found = balancing()
    assert found.shifted is not None, "the closed form is taken"
    assert found.shifted.names, "and it has tensors with shifts or offsets"
    program = found.group.program

    def norm(direction: Tensor) -> Tensor:
        changed = dict(found.tensors)
        for factor, parameters in found.element(direction):
            changed.update(factor.apply(parameters, changed))
        return sum((changed[name].square().sum() for name in program.tensors), -2 * found.pull.dot(direction))

    generator = torch.Generator().manual_seed(0)
    zero, step = torch.zeros_like(found.total), 0.1 * torch.randn(found.total.shape, generator=generator).double()
    assert found.norm(step) == pytest.approx(float(norm(step)), rel=1e-12)
    found.shifted.far = False
    slope = sum(part.slope() for part in found.closed) - 2 * found.pull.numpy()
    hessian = sum(part.curvature(np.eye(len(zero))) for part in found.closed)
    expected = torch.autograd.functional.hessian(norm, zero).numpy()
    np.testing.assert_allclose(slope, torch.autograd.functional.jacobian(norm, zero).numpy(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(hessian, expected, rtol=1e-8, atol=1e-8)
    found.shifted.far = True
    convex = sum(part.curvature(np.eye(len(zero))) for part in found.closed)
    assert np.linalg.eigvalsh(convex).min() > -1e-9
    assert abs(convex - expected).max() > 1e-3, "far away another matrix stands for the Hessian"


def test_iterative_steps_lead_where_dense_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    group, tensors = subject()
    dense, element, left = balance(group, tensors)
    assert not left
    moved = element.apply(tensors)
    monkeypatch.setattr(graphs.balancing, "DENSE", 0)
    iterative, _, left = balance(group, tensors)
    assert not left
    for name, tensor in dense.items():
        torch.testing.assert_close(moved[name], tensor, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(iterative[name], tensor, rtol=1e-6, atol=1e-7)
    assert max(float((dense[name] - tensor).abs().max()) for name, tensor in tensors.items()) > 1e-2
