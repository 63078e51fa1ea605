"""The golden table of the permutation part: the exact factors of small networks, each verified in double precision."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphs import SymmetryGroup, trace, verify
from graphs.factors import PermutationFactor
from graphs.symmetry import permutation_group
from graphs.verify import difference
from tests.graphs import architectures as a


def real(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(shape),)


def tokens(count: int, *shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randint(0, count, shape),)


# name: module, inputs, factors; "A in B" is a wreath product, the blocks of B move with what A permutes in them
GOLDEN: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]], Sequence[str]]] = {
    "mlp": (lambda: a.mlp(3, 8, 8, 2), real(2, 3), ["S_8", "S_8"]),
    "linear": (lambda: nn.Linear(3, 2), real(2, 3), []),
    "deep linear": (lambda: a.mlp(3, 4, 4, 2, activation=nn.Identity), real(2, 3), ["S_4", "S_4"]),
    "residual mlp": (a.residual_mlp, real(2, 3), ["S_5", "S_5", "S_6"]),
    "dense connections": (a.Dense, real(2, 3), ["S_4", "S_5"]),
    "concatenated with itself": (a.Both, real(2, 3), ["S_4"]),
    "tied weights": (a.TiedAutoencoder, real(2, 3), ["S_5"]),
    "embedding": (a.TokenMLP, tokens(7, 2, 5), ["S_4", "S_5"]),
    "bilinear": (a.Bilinear, real(2, 3), ["S_5"]),
    "low rank": (a.LowRank, real(2, 4), ["S_3"]),
    "tensor train": (a.TensorTrain, real(2, 12), ["S_3", "S_4"]),
    "siren": (lambda: a.mlp(2, 6, 6, 1, activation=a.Sine), real(2, 2), ["S_6", "S_6"]),
    "deep sets": (a.DeepSets, real(2, 4, 3), ["S_4", "S_5", "S_6"]),
    "soft experts": (a.Experts, real(2, 3), ["S_3", "S_4^3 in S_3"]),
    "hard experts": (lambda: a.Experts(hard=True), real(2, 3), ["S_4", "S_4", "S_4"]),
    "cnn": (a.cnn, real(2, 1, 8, 8), ["S_4", "S_6"]),
    "depthwise separable": (a.separable_cnn, real(2, 2, 5, 5), ["S_4", "S_6"]),
    "grouped": (a.grouped_cnn, real(2, 2, 5, 5), ["S_2", "S_4^2 in S_2", "S_4^2 in S_2"]),
    "grouped, batch norm": (
        lambda: a.grouped_cnn(nn.BatchNorm2d(8)), real(2, 2, 5, 5), ["S_2", "S_4^2 in S_2", "S_4^2 in S_2"]
    ),
    "grouped, group norm": (
        lambda: a.grouped_cnn(nn.GroupNorm(4, 8)), real(2, 2, 5, 5),
        ["S_2", "S_2^2 in S_2", "S_2^4 in S_2^2", "S_4^2 in S_2"],
    ),
    "groups told apart": (a.FixedGroups, real(2, 2, 5, 5), ["S_4", "S_4", "S_4", "S_4"]),
    "group norm": (a.group_norm_cnn, real(2, 2, 7), ["S_2", "S_3^2 in S_2"]),
    "layer norm over channels": (a.ChannelNorm, real(2, 2, 5, 5), ["S_5"]),
    "transposed convolution": (a.autoencoder, real(2, 1, 9, 9), ["S_4", "S_5"]),
    "pixel shuffle": (a.pixel_shuffle, real(2, 1, 5, 5), ["S_3"]),
    "patches": (a.Patches, real(2, 4, 4), ["S_5", "S_6", "S_7"]),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), real(2, 5, 16),
        ["S_32", "S_4", "S_4^4 in S_4", "S_4^4 in S_4"],
    ),
    "encoder": (a.Encoder, real(2, 5, 3), ["S_16", "S_32", "S_4", "S_4^4 in S_4", "S_4^4 in S_4"]),
    "encoder, norm first": (
        lambda: a.Encoder(norm_first=True), real(2, 5, 3), ["S_16", "S_32", "S_4", "S_4^4 in S_4", "S_4^4 in S_4"]
    ),
    "packed attention": (a.Attention, real(2, 5, 8), ["S_2", "S_4^2 in S_2", "S_4^2 in S_2"]),
    "decoder": (
        a.Decoder, tokens(11, 2, 5), ["S_2", "S_2^2 in S_2", "S_2^2 in S_2", "S_2^2 in S_2", "S_6", "S_8"]
    ),
    "lstm": (lambda: a.Readout(nn.LSTM(3, 4, 2), 4), real(5, 2, 3), ["S_4", "S_4"]),
    "lstm, both directions": (
        lambda: a.Readout(nn.LSTM(3, 4, 2, bidirectional=True), 8), real(4, 2, 3), ["S_4", "S_4", "S_4", "S_4"]
    ),
    "lstm, projected": (lambda: a.Readout(nn.LSTM(3, 4, 1, proj_size=3), 3), real(4, 2, 3), ["S_3", "S_4"]),
    "lstm, last state": (lambda: a.LastStates(nn.LSTM(3, 4, 3), 4), real(3, 2, 3), ["S_4", "S_4", "S_4"]),
    "gru, last state": (lambda: a.LastStates(nn.GRU(3, 4, 3), 4), real(3, 2, 3), ["S_4", "S_4", "S_4"]),
    "gru, last states of both directions": (
        lambda: a.LastStates(nn.GRU(3, 4, 2, bidirectional=True), 8, lambda h: torch.cat([h[-2], h[-1]], -1)),
        real(3, 2, 3), ["S_4", "S_4", "S_4", "S_4"],
    ),
    "gru, states of all layers side by side": (
        lambda: a.LastStates(nn.GRU(3, 4, 2), 8, lambda h: h.transpose(0, 1).flatten(1)), real(3, 2, 3), ["S_4", "S_4"]
    ),
    "gru, mean of all layers": (lambda: a.LastStates(nn.GRU(3, 4, 2), 4, lambda h: h.mean(0)), real(3, 2, 3), ["S_4"]),
    "lstm, states returned": (lambda: nn.LSTM(3, 4, 2), real(3, 2, 3), []),
    "gru": (lambda: a.Readout(nn.GRU(3, 4, 2), 4), real(4, 2, 3), ["S_4", "S_4"]),
    "gru, both directions": (
        lambda: a.Readout(nn.GRU(3, 4, 1, bidirectional=True), 8), real(4, 2, 3), ["S_4", "S_4"]
    ),
    "elman": (lambda: a.Readout(nn.RNN(3, 4, 2, nonlinearity="relu"), 4), real(4, 2, 3), ["S_4", "S_4"]),
    "complex diagonal recurrence": (a.ComplexDiagonal, real(2, 4, 3), ["S_4"]),
    "gcn": (lambda: a.GraphNetwork("gcn"), real(4, 3), ["S_5"]),
    "gin": (lambda: a.GraphNetwork("gin"), real(4, 3), ["S_4", "S_5", "S_6"]),
    "fourier operator": (a.FourierOperator, real(2, 2, 12), ["S_4", "S_5"]),
    "neural ode": (a.NeuralODE, real(2, 3), ["S_4", "S_6"]),
    "tree cell": (a.TreeCell, real(2, 4, 3), ["S_4"]),
}  # fmt: skip


@cache
def golden(name: str) -> tuple[nn.Module, tuple[Any, ...], SymmetryGroup]:
    torch.manual_seed(0)
    make, draw, _ = GOLDEN[name]
    module, inputs = make(), draw()
    return module, inputs, permutation_group(trace(module, inputs))


def described(group: SymmetryGroup) -> list[str]:
    """The factors with the blocks that they lie in."""
    factors = [factor for factor in group.factors if isinstance(factor, PermutationFactor)]
    kinds = {factor.level: factor.kind for factor in factors}
    return sorted(f.kind if f.parent < 0 else f"{f.kind} in {kinds[f.parent]}" for f in factors)


def slots(group: SymmetryGroup, kind: str) -> list[set[str]]:
    return [{str(slot) for slot in factor.slots} for factor in group.factors if factor.kind == kind]


@pytest.mark.parametrize("name", GOLDEN)
def test_the_permutation_group_is_exact_and_verified(name: str) -> None:
    module, inputs, group = golden(name)
    assert described(group) == list(GOLDEN[name][2])
    assert group.unknown_ops == ()
    assert not group.notes
    verdict = verify(group, module, inputs)
    assert verdict.passed, verdict.sentence
    if group.factors:
        assert verdict.change > 1e-2, "the elements move the weights"


def test_running_statistics_move_with_their_channels() -> None:
    _, _, group = golden("cnn")
    assert slots(group, "S_4") == [
        {"0.weight[0]", "0.bias[0]", "1.weight[0]", "1.bias[0]", "1.running_mean[0]", "1.running_var[0]", "4.weight[1]"}
    ]
    assert slots(group, "S_6") == [{"4.weight[0]", "4.bias[0]", "7.weight[1]"}]


def test_packed_gates_move_together() -> None:
    """The four gates of an LSTM, packed in one matrix, are permuted alike."""
    _, _, group = golden("lstm")
    factor = next(f for f in group.factors if "recurrent.weight_ih_l0[0]" in map(str, f.slots))
    chosen = torch.tensor([[2, 0, 3, 1]])
    rows = torch.arange(16.0)
    moved = group.element({factor.name: chosen}).apply({"recurrent.bias_ih_l0": rows})["recurrent.bias_ih_l0"]
    gates = moved.view(4, 4) - 4 * torch.arange(4.0)[:, None]
    assert torch.equal(gates, gates[:1].expand(4, 4))
    assert torch.equal(gates[0], chosen[0].argsort().float())


def test_the_heads_of_packed_attention_move_with_queries_keys_and_values() -> None:
    _, _, group = golden("packed attention")
    blocks = next(f for f in group.factors if f.kind == "S_2")
    rows = torch.arange(24.0)
    swapped = group.element({blocks.name: torch.tensor([[1, 0]])}).apply({"attention.in_proj_bias": rows})
    expected = rows.view(3, 2, 4).flip(1).reshape(24)
    assert torch.equal(swapped["attention.in_proj_bias"], expected)


def test_flattened_channels_move_as_blocks_of_positions() -> None:
    _, _, group = golden("cnn")
    factor = next(f for f in group.factors if f.kind == "S_6")
    columns = torch.arange(24.0).expand(3, 24)
    order = torch.tensor([[1, 2, 3, 4, 5, 0]])
    moved = group.element({factor.name: order}).apply({"7.weight": columns})["7.weight"]
    assert torch.equal(moved, columns.view(3, 6, 4)[:, order[0].argsort()].reshape(3, 24))


@pytest.mark.parametrize(
    ("name", "tensors", "rows"),
    [
        ("packed attention", ["attention.in_proj_weight", "attention.in_proj_bias"], [0, 4]),  # across heads
        ("grouped", ["2.weight", "2.bias"], [1, 5]),  # across groups, the columns that read them not moved along
        ("groups told apart", ["grouped.weight", "grouped.bias"], [0, 4]),
        ("mlp", ["2.weight", "2.bias"], [0, 1]),  # one side of a hidden layer only
        ("lstm", ["recurrent.weight_ih_l0", "recurrent.bias_ih_l0"], [0, 1]),  # one gate only
        ("cnn", ["1.running_mean"], [0, 1]),
    ],
)  # fmt: skip
def test_a_permutation_outside_the_group_changes_the_function(name: str, tensors: list[str], rows: list[int]) -> None:
    module, inputs, _ = golden(name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        before = module.eval()(*inputs)
        state = {key: value.clone() for key, value in module.state_dict().items()}
        for key in tensors:
            state[key] = state[key] + torch.rand(state[key].shape, generator=generator)
        plain = torch.func.functional_call(module, state, inputs)
        for key in tensors:
            state[key][rows] = state[key][rows[::-1]]
        after = torch.func.functional_call(module, state, inputs)
    assert before.shape == after.shape
    assert float((after - plain).abs().max()) > 1e-4


def test_swapping_two_heads_by_hand_is_in_the_group_and_swapping_across_heads_is_not() -> None:
    """The same kind of move, once a symmetry and once not: the check tells them apart."""
    module, inputs, group = golden("packed attention")
    double = module.double()
    tensors = {name: tensor.detach() for name, tensor in double.named_parameters()}
    blocks = next(f for f in group.factors if f.kind == "S_2")
    inputs = tuple(x.double() for x in inputs)
    inside = group.element({blocks.name: torch.tensor([[1, 0]])})
    assert difference(double, tensors, inside, inputs)[0] < 1e-12

    class Crossed:
        """Swaps one feature of the first head with one of the second, in every packed matrix and the output."""

        def apply(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
            order = torch.arange(8)
            order[[0, 4]] = order[[4, 0]]
            packed = torch.cat([order, 8 + order, 16 + order])
            weight, bias = named["attention.in_proj_weight"][packed], named["attention.in_proj_bias"][packed]
            out = named["attention.out_proj.weight"][:, order]
            return {**named, "attention.in_proj_weight": weight, "attention.in_proj_bias": bias,
                    "attention.out_proj.weight": out}  # fmt: skip

    assert difference(double, tensors, Crossed(), inputs)[0] > 1e-3  # type: ignore[arg-type]
    module.float()
