"""Operators against dense matrices, Lanczos against a full decomposition, and sharpness over the scaling orbit."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.func import functional_call

from analysis.curvature.operators import KINDS, OPERATORS, Problem, ggn_diagonal, problem
from analysis.curvature.sharpness import least_trace
from analysis.curvature.spectrum import hutchinson, lanczos
from graphs import symmetry
from modelzoo.errors import UserError

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
CLASSES = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(1))
VALUES = torch.randn(12, 3, generator=torch.Generator().manual_seed(2))
LOSSES = {"cross entropy": (nn.functional.cross_entropy, CLASSES), "squared error": (nn.functional.mse_loss, VALUES)}


def network(activation: type[nn.Module] = nn.Tanh, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 3))


def of(name: str, module: nn.Module | None = None) -> Problem:
    loss, targets = LOSSES[name]
    return problem(module or network(), (X,), targets, loss)


def oracle(kind: str, each: Problem) -> Tensor:
    """The matrix from dense Jacobians and Hessians."""
    names, start = list(each.parameters), each.join(each.parameters)

    def outputs(vector: Tensor, x: Tensor) -> Tensor:
        return functional_call(each.module, each.split(vector), (x[None],))[0]

    if kind == "hessian":
        return torch.func.hessian(lambda vector: each.value(each.split(vector)))(start)
    assert names
    total = torch.zeros(each.size, each.size, dtype=torch.float64)
    for x, target in zip(each.inputs[0], each.targets, strict=True):
        jacobian = torch.func.jacrev(outputs)(start, x)

        def one(f: Tensor, target: Tensor = target) -> Tensor:
            return each.loss(f[None], target[None])

        y = outputs(start, x)
        gradient = torch.func.grad(one)(y) @ jacobian
        total += (
            jacobian.T @ torch.func.hessian(one)(y) @ jacobian if kind == "ggn" else torch.outer(gradient, gradient)
        )
    return total / len(each.targets)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", KINDS)
def test_operators_are_their_matrices(kind: str, name: str) -> None:
    each = of(name)
    operator, true = OPERATORS[kind](each), oracle(kind, each)  # type: ignore[index]
    torch.testing.assert_close(operator.dense(), true, rtol=1e-9, atol=1e-11)
    vectors = torch.randn(each.size, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(operator @ vectors, true @ vectors, rtol=1e-9, atol=1e-11)
    others = [oracle(other, each) for other in KINDS if other != kind]
    assert all((other - true).norm() > 1e-3 for other in others), "control: the three are different matrices"


@pytest.mark.parametrize("name", LOSSES)
def test_the_diagonal_of_the_ggn(name: str) -> None:
    each = of(name)
    torch.testing.assert_close(
        each.join(ggn_diagonal(each, chunk=5)), oracle("ggn", each).diagonal(), rtol=1e-9, atol=1e-12
    )


def test_linear_models_have_a_constant_curvature() -> None:
    each = of("squared error", nn.Linear(4, 3))
    torch.testing.assert_close(OPERATORS["hessian"](each).dense(), OPERATORS["ggn"](each).dense())


class Dense:
    """A matrix as an operator that counts its products."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.shape, self.dtype, self.products = matrix, tuple(matrix.shape), matrix.dtype, 0

    def __matmul__(self, other: Tensor) -> Tensor:
        self.products += 1
        return self.matrix @ other


def symmetric(values: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    return basis @ torch.diag(values.double()) @ basis.T


@given(st.integers(0, 10**6), st.sampled_from(["largest", "smallest"]))
@settings(max_examples=25)
def test_lanczos_is_the_full_decomposition(seed: int, which: str) -> None:
    values = torch.randn(30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = lanczos(Dense(symmetric(values, seed)), 3, which, tolerance=1e-8, seed=seed)  # type: ignore[arg-type]
    true = values.sort(descending=which == "largest").values[:3]
    torch.testing.assert_close(found.values, true, rtol=1e-7, atol=1e-7)
    assert bool(found.converged.all())


def test_early_stopping_says_so() -> None:
    """A crowded top of the spectrum: few products give a value below the truth, and `converged` is False."""
    values = torch.cat([torch.linspace(1.30, 1.366, 100), torch.linspace(0, 1.3, 900)]).double()
    operator = Dense(symmetric(values))
    early = lanczos(operator, tolerance=1e-6, most=15)
    assert float(early.values[0]) < 1.366 - 1e-3
    assert not bool(early.converged[0])
    whole = lanczos(operator, tolerance=1e-4, most=400)
    assert bool(whole.converged[0])
    assert float(whole.values[0]) == pytest.approx(1.366, abs=1e-4)
    assert whole.iterations < 400


def test_residuals_are_honest_and_bound_the_error() -> None:
    values = torch.linspace(-1, 1, 200).double()
    matrix = symmetric(values)
    found = lanczos(Dense(matrix), 2, most=30)
    for value, vector, residual in zip(found.values, found.vectors.T, found.residuals, strict=True):
        assert float((matrix @ vector - value * vector).norm()) == pytest.approx(float(residual), abs=1e-10)
        assert float((values - value).abs().min()) <= float(residual) + 1e-10


def test_eigenvalues_of_few_dimensions_and_multiplicities() -> None:
    """Invariant subspaces: the iteration goes on in fresh directions and finds a repeated eigenvalue twice."""
    found = lanczos(Dense(symmetric(torch.tensor([2.0, 2.0, 1.0, 0.0]))), 3)
    torch.testing.assert_close(found.values, torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))
    assert float(lanczos(Dense(torch.zeros(5, 5, dtype=torch.float64)), 1).values[0]) == 0


def test_trace_estimates_know_their_error() -> None:
    matrix = symmetric(torch.rand(50, generator=torch.Generator().manual_seed(0)))
    found = hutchinson(Dense(matrix), 200)
    assert found.error > 0
    assert abs(found.value - float(matrix.trace())) < 4 * found.error
    exact = hutchinson(Dense(torch.diag(torch.arange(5.0))), 4)
    assert (exact.value, exact.error) == (10, 0), "signs give a diagonal's trace exactly"


def test_least_trace_is_the_same_on_the_whole_orbit() -> None:
    """ReLU network: moving along the scales changes the trace of the GGN, not its least value on the orbit."""
    module = network(nn.ReLU, seed=3)
    group = symmetry(module, (X,), verify=False)
    first = of("cross entropy", module)
    element = group.sample(torch.Generator().manual_seed(0))
    moved = element.apply({name: tensor.detach().double() for name, tensor in module.named_parameters()})
    second = Problem(first.module, moved, first.inputs, first.targets, first.loss)
    torch.testing.assert_close(first.outputs(first.parameters), second.outputs(moved))
    one, two = (least_trace(group, ggn_diagonal(each)) for each in (first, second))
    assert one.gradient < 1e-6
    assert two.gradient < 1e-6
    assert abs(one.before / two.before - 1) > 0.1, "control: as it stands, it is another"
    assert one.value == pytest.approx(two.value, rel=1e-8)
    assert one.value < one.before
    scaled = group.element(one.scales).apply(dict(first.parameters))
    there = ggn_diagonal(Problem(first.module, scaled, first.inputs, first.targets, first.loss))
    assert sum(float(part.sum()) for part in there.values()) == pytest.approx(one.value, rel=1e-8)


def test_without_scales_the_trace_is_what_it_is() -> None:
    module = network(nn.Tanh)
    found = least_trace(symmetry(module, (X,), verify=False), ggn_diagonal(of("cross entropy", module)))
    assert found.value == pytest.approx(found.before)
    with pytest.raises(UserError, match="negative entries"):
        least_trace(symmetry(module, (X,), verify=False), {"0.weight": -torch.ones(5, 4)})


def test_refusals() -> None:
    with pytest.raises(UserError, match="first size must be 43"):
        OPERATORS["ggn"](of("cross entropy")) @ torch.zeros(3)
    lone = nn.Module()
    lone.weight = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(UserError, match="complex parameters"):
        problem(lone, (X,), CLASSES, nn.functional.cross_entropy)
