"""The numerical check: it passes what is right, fails what is wrong, and names the operator where it goes wrong."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphs import Factor, Op, Slot, SymmetryGroup, symmetry, trace, verify
from graphs.algebra import Labels
from graphs.factors import Tensors
from graphs.interpreter import interpret
from graphs.labels import Walk
from graphs.rules import rules
from graphs.symmetry import permutation_group
from graphs.verify import double_precision, random_inputs
from modelzoo.errors import UserError
from tests.graphs import architectures as a


def group_of(module: nn.Module, *inputs: Tensor) -> SymmetryGroup:
    return permutation_group(trace(module, inputs))


# -- a broken rule -------------------------------------------------------------------------------------------------------


def only_first(walk: Walk, op: Op) -> Labels:
    """A rule that forgets all operands but the first."""
    return walk.value_labels(op.inputs[0])


def without_bias(walk: Walk, op: Op) -> Labels:
    """A linear layer that forgets to tie its bias."""
    left, right = walk.labels(op.arguments[1]), walk.labels(op.arguments[2])
    return walk.algebra.contract([(left, "ik"), (right, "kj")], "ij")


def without_scale(walk: Walk, op: Op) -> list[Labels]:
    """A normalization that forgets its scale and statistics."""
    return [walk.labels(op.arguments[0])] * len(op.outputs)


def without_order(walk: Walk, op: Op) -> Labels:
    """A running sum that forgets that order matters."""
    return walk.labels(op.arguments[0])


class Cumulative(nn.Module):
    """A hidden layer summed up along its own units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)).cumsum(-1))


BROKEN: dict[str, tuple[Callable[..., Any], Callable[[], nn.Module], tuple[int, ...], str]] = {
    "aten.add": (only_first, lambda: a.residual_mlp(blocks=1), (2, 3), "aten.add.Tensor in module '1' (Sum)"),
    "aten.addmm": (without_bias, lambda: a.mlp(3, 6, 2), (2, 3), "aten.addmm.default in module"),
    "aten._native_batch_norm_legit_no_training": (
        without_scale, a.cnn, (2, 1, 8, 8), "_native_batch_norm_legit_no_training.default in module '1' (BatchNorm2d)"
    ),
    "aten.cumsum": (without_order, Cumulative, (2, 3), "aten.cumsum.default in the root module"),
    "aten.mul": (only_first, lambda: a.Decoder(), (), "aten.mul.Tensor"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_fails_and_is_blamed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    broken, make, shape, where = BROKEN[name]
    module = make()
    inputs = (torch.randn(shape),) if shape else (torch.randint(0, 11, (2, 5)),)
    assert verify(group_of(module, *inputs), module, inputs).passed
    monkeypatch.setitem(rules(), name, broken)
    group = group_of(module, *inputs)
    verdict = verify(group, module, inputs)
    assert not verdict.passed
    assert verdict.error > 1e-3
    assert verdict.blame in {factor.name for factor in group.factors}
    assert verdict.op is not None
    assert where in verdict.op, verdict.op
    assert verdict.op in verdict.sentence


def test_symmetry_raises_for_a_broken_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rules(), "aten.addmm", without_bias)
    with pytest.raises(UserError, match=r"changes the function at aten\.addmm\.default in module '0' \(Linear\)"):
        symmetry(a.mlp(3, 6, 2), (torch.randn(2, 3),))
    assert symmetry(a.mlp(3, 6, 2), (torch.randn(2, 3),), verify=False).verdict is None


# -- wrong factors of other kinds ----------------------------------------------------------------------------------------


class Acting(Factor):
    """A factor given by a function of (parameters, tensors), for a check that must fail."""

    kind, slots, dimension = "test", (Slot("0.weight", (0,)),), 1

    def __init__(self, name: str, size: tuple[int, ...], act: Callable[[Tensor, Tensors], dict[str, Tensor]]) -> None:
        self.name, self.size, self.act = name, size, act

    def identity(self) -> Tensor:
        return torch.zeros(self.size)

    def sample(self, generator: torch.Generator, scale: float = 1.0, models: int | None = None) -> Tensor:
        return scale * torch.randn(self.size, generator=generator)

    def apply(self, parameters: Tensor, tensors: Tensors) -> dict[str, Tensor]:
        return self.act(parameters.double(), tensors)

    def compose(self, after: Tensor, before: Tensor) -> Tensor:
        return after + before

    def inverse(self, parameters: Tensor) -> Tensor:
        return -parameters


def scaled(power: float) -> Callable[[Tensor, Tensors], dict[str, Tensor]]:
    def act(p: Tensor, t: Tensors) -> dict[str, Tensor]:
        s = p.exp()
        return {"0.weight": s[:, None] * t["0.weight"], "0.bias": s * t["0.bias"], "2.weight": t["2.weight"] * s**power}

    return act


def mixed(p: Tensor, t: Tensors) -> dict[str, Tensor]:
    m = torch.linalg.matrix_exp(p)
    return {"0.weight": m @ t["0.weight"], "0.bias": m @ t["0.bias"], "2.weight": t["2.weight"] @ torch.linalg.inv(m)}


def shifted(p: Tensor, t: Tensors) -> dict[str, Tensor]:
    return {"0.bias": t["0.bias"] + p, "2.bias": t["2.bias"] - t["2.weight"] @ p}


@pytest.mark.parametrize(
    ("size", "act", "activation", "op"),
    [
        ((5,), scaled(-1), nn.ReLU, None),
        ((5,), scaled(-1), nn.Tanh, "aten.tanh.default in module '1'"),
        ((5,), scaled(-2), nn.ReLU, "aten.addmm.default in module '2'"),
        ((5, 5), mixed, nn.Identity, None),
        ((5, 5), mixed, nn.ReLU, "aten.relu.default in module '1'"),
        ((5,), shifted, nn.Identity, None),
        ((5,), shifted, nn.Sigmoid, "aten.sigmoid.default in module '1'"),
    ],
    ids=["scale relu", "scale tanh", "scale wrong", "mix identity", "mix relu", "shift identity", "shift sigmoid"],
)
def test_any_wrong_factor_is_named_with_the_operator(
    size: tuple[int, ...], act: Any, activation: Any, op: str | None
) -> None:
    torch.manual_seed(0)
    module, inputs = a.mlp(3, 5, 2, activation=activation), (torch.randn(4, 3),)
    right = group_of(module, *inputs)
    group = SymmetryGroup(right.program, right.labelling, right.structure, (*right.factors, Acting("own", size, act)))
    verdict = verify(group, module, inputs)
    assert verdict.passed == (op is None), verdict.sentence
    if op is not None:
        assert verdict.blame == "own"
        assert verdict.op is not None
        assert op in verdict.op


# -- what the check must not trip over -----------------------------------------------------------------------------------


class Masked(nn.Module):
    """A hidden layer times a constant buffer of ones, and a mask of −∞."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)
        self.register_buffer("ones", torch.ones(5))
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x)) * self.ones
        return self.last((h @ h.transpose(-1, -2) + self.mask).softmax(-1) @ h)


def test_constant_buffers_are_left_alone() -> None:
    module, inputs = Masked(), (torch.randn(2, 4, 3),)
    group = group_of(module, *inputs)
    assert [factor.kind for factor in group.factors] == ["S_5"]
    assert verify(group, module, inputs).passed


class MakesTensors(nn.Module):
    """Makes its own state of default type."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.RNNCell(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], 4)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.head(h)


def test_the_module_keeps_its_precision_mode_and_values() -> None:
    torch.manual_seed(0)
    module, inputs = MakesTensors().train(), (torch.randn(2, 3, 3),)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert symmetry(module, inputs).verdict.passed
    assert module.training
    assert torch.get_default_dtype() is torch.float32
    for name, tensor in module.state_dict().items():
        assert tensor.dtype is torch.float32
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    "make", [a.cnn, a.ComplexDiagonal, a.Decoder, a.FourierOperator, lambda: a.GraphNetwork("gin")]
)
def test_the_interpreter_agrees_with_the_module(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = make()
    shape = {a.ComplexDiagonal: (2, 4, 3), a.FourierOperator: (2, 2, 12), a.GraphNetwork: (4, 3)}
    first = torch.randn(shape.get(type(module), (2, 1, 8, 8)))
    inputs = (torch.randint(0, 11, (2, 5)),) if isinstance(module, a.Decoder) else (first,)
    program = trace(module, inputs)
    with double_precision(module) as double:
        tensors = dict(double.named_parameters()) | dict(double.named_buffers())
        values = interpret(program, {name: tensors[name] for name in program.tensors}, inputs)
        expected = double(*random_inputs(inputs, torch.Generator(), first=True))
        torch.testing.assert_close(values[program.outputs[0]], expected)
