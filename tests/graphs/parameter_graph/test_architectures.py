"""Every kind of wiring: exact round trip, and isomorphism under the permutation group with its node map."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphs import EDGE_KINDS, NODE_KINDS, graph_structure, trace
from graphs.symmetry import permutation_group
from modelzoo.family import families, family
from modelzoo.task import task
from tests.graphs import architectures as a
from tests.graphs.parameter_graph.checks import check_element, check_round_trip, permutation, state_of


class LearnedPositions(nn.Module):
    """A class token and learned positions in front of a linear head: tensors that meet data in a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 5)), nn.Parameter(torch.randn(4, 5))
        self.embed, self.head = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(len(x), 1, 5), self.embed(x)], 1) + self.positions
        return self.head(torch.relu(h).mean(1))


class ThreeAxes(nn.Module):
    """Σ_jk T[i, j, k] relu(A x)_j relu(B x)_k: all axes of T are free, its entries join three neurons."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(3, 5), nn.Linear(6, 2)
        self.tensor = nn.Parameter(torch.randn(6, 4, 5, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.relu(self.a(x)), torch.relu(self.b(x))
        both = torch.einsum("bj,ijk->bik", left.to(self.tensor.dtype), self.tensor)
        made = (both * right[:, None]).sum(-1)
        return self.c(torch.relu(made.real if made.is_complex() else made))


class Scalars(nn.Module):
    """A scalar gain, a scalar bias, and a tensor that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.randn(())), nn.Parameter(torch.randn(1))
        self.unused = nn.Parameter(torch.randn(3, 2))
        self.net = a.mlp(2, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.gain * x) + self.bias


class WeightNorm(nn.Module):
    """W = g V / |V|: the gain is not the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.g, self.last = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(5, 1)), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.g * self.v / self.v.norm(dim=1, keepdim=True)
        return self.last(torch.relu(x @ weight.T))


def real(*shape: int) -> Callable[[], tuple[Any, ...]]:
    return lambda: (torch.randn(shape),)


SUBJECTS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "mlp": (lambda: a.mlp(3, 4, 4, 1), real(2, 3)),
    "residual": (a.residual_mlp, real(2, 3)),
    "concatenation": (a.Both, real(2, 3)),
    "dense connections": (a.Dense, real(2, 3)),
    "tied": (a.TiedAutoencoder, real(2, 3)),
    "tied decoder": (a.Decoder, lambda: (torch.randint(0, 11, (2, 3)),)),
    "bilinear": (a.Bilinear, real(2, 3)),
    "tensor train": (a.TensorTrain, real(2, 12)),
    "cnn, batch norm, flatten": (a.cnn, real(2, 1, 8, 8)),
    "grouped convolution": (a.grouped_cnn, real(2, 2, 6, 6)),
    "depthwise": (a.separable_cnn, real(2, 2, 6, 6)),
    "transposed": (a.autoencoder, real(2, 1, 9, 9)),
    "pixel shuffle": (a.pixel_shuffle, real(2, 1, 6, 6)),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), real(2, 3, 8)),
    "lstm": (lambda: a.Readout(nn.LSTM(3, 4, 2, batch_first=True), 4), real(2, 3, 3)),
    "gru, both directions": (lambda: a.Readout(nn.GRU(3, 4, batch_first=True, bidirectional=True), 8), real(2, 3, 3)),
    "complex recurrence": (a.ComplexDiagonal, real(2, 3, 3)),
    "experts": (a.Experts, real(2, 3)),
    "learned positions": (LearnedPositions, real(2, 3, 3)),
    "three axes": (ThreeAxes, real(2, 3)),
    "three complex axes": (lambda: ThreeAxes(torch.complex64), real(2, 3)),
    "scalars": (Scalars, real(2, 2)),
    "weight norm": (WeightNorm, real(2, 3)),
}


def check(module: nn.Module, inputs: tuple[Any, ...], moves: bool) -> None:
    program = trace(module, inputs)
    group = permutation_group(program)
    structure, state = graph_structure(group), state_of(module)
    check_round_trip(structure, state, set(program.tensors))
    for seed in range(2):
        element = permutation(group, seed)
        assert bool((structure.node_map(element) != torch.arange(structure.num_nodes)).any()) == moves
        check_element(structure, element, state)


@pytest.mark.parametrize("name", SUBJECTS)
def test_round_trip_and_isomorphism(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = SUBJECTS[name]
    check(make().eval(), inputs(), moves=True)


@pytest.mark.parametrize("name", families())
def test_every_family(name: str) -> None:
    found = family(name)
    if reason := found.limits.get("graph"):
        pytest.skip(f"{name}: {reason}")
    chosen = task(found.task)
    module = found.build(found.configure(chosen, dict(found.tiny)), seed=0).eval()
    group = permutation_group(trace(module, chosen.example_inputs()))
    structure, state = graph_structure(group), state_of(module)
    check_round_trip(structure, state, set(group.program.tensors))
    check_element(structure, permutation(group), state)
    assert EDGE_KINDS.index("other") not in structure.edge["edge_kind"], "every tensor has a known use"


def test_an_entry_of_three_free_axes_is_a_node() -> None:
    torch.manual_seed(0)
    structure = graph_structure(trace(ThreeAxes(), (torch.randn(2, 3),)))
    kinds = structure.node["node_kind"]
    entries = kinds == NODE_KINDS.index("parameter")
    assert int(entries.sum()) == 6 * 4 * 5
    index = structure.edge["edge_index"]
    degree = torch.bincount(index.flatten(), minlength=structure.num_nodes)
    assert set(degree[entries].tolist()) == {3}


def test_gates_are_told_apart_and_units_are_not() -> None:
    structure = graph_structure(trace(nn.LSTM(3, 4, batch_first=True), (torch.randn(2, 3, 3),)))
    names = [record.names[0] for record in structure.records]
    chosen = structure.edge["edge_tensor"] == names.index("weight_hh_l0")
    gates = structure.edge["edge_position"][chosen].reshape(4, 4, 4, -1)[..., 0]
    assert torch.equal(gates, torch.arange(4)[:, None, None].expand(4, 4, 4))
    assert (structure.edge["edge_kind"][chosen] == EDGE_KINDS.index("recurrent")).all()


def test_a_flattened_feature_map_is_channels_at_positions() -> None:
    structure = graph_structure(trace(a.cnn(), (torch.randn(2, 1, 8, 8),)))
    names = [record.names[0] for record in structure.records]
    flat = structure.edge["edge_tensor"] == names.index("7.weight")
    kernel = structure.edge["edge_tensor"] == names.index("4.weight")
    channels = structure.edge["edge_index"][0, flat].reshape(3, 6, 2, 2)
    assert (channels == channels[:1, :, :1, :1]).all()
    assert set(channels.flatten().tolist()) == set(structure.edge["edge_index"][1, kernel].tolist())
    places = structure.edge["edge_position"][flat].reshape(3, 6, 2, 2, -1)
    assert (places[..., 0] == torch.arange(2)[:, None]).all()
    assert (places[..., 1] == torch.arange(2)).all()
