"""Learned canonicalization: exact equivariance of any backbone, and what it is worth on rotated digits."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from metanets.equivariant import (
    Canonicalized,
    FiniteCanonicalized,
    GramSchmidtFrame,
    NeuronSort,
    SortFrame,
    Symmetric,
    act_on_points,
    act_on_vectors,
    balance_relu,
    mlp_space,
)
from metanets.equivariant.groups import Orthogonal, SpecialOrthogonal


def mlp(inputs: int, outputs: int, *after: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs), *after).double()


@pytest.mark.parametrize("special", [False, True])
def test_gram_schmidt_frames_make_any_network_equivariant(special: bool) -> None:
    import numpy as np

    torch.manual_seed(0)
    random = np.random.default_rng(0)
    group = SpecialOrthogonal(3) if special else Orthogonal(3)
    backbone = mlp(15, 15, nn.Unflatten(1, (5, 3)))
    wrapped = Canonicalized(backbone, GramSchmidtFrame(5, 3, special=special).double(), act_on_vectors, act_on_vectors)
    x = torch.randn(8, 5, 3, dtype=torch.float64)
    g = torch.stack([torch.tensor(group.element(random)) for _ in range(8)])
    torch.testing.assert_close(wrapped(act_on_vectors(g, x)), act_on_vectors(g, wrapped(x)), rtol=1e-8, atol=1e-8)
    assert (backbone(act_on_vectors(g, x)) - act_on_vectors(g, backbone(x))).abs().max() > 1e-2
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)).expand(8, 3, 3)
    difference = (wrapped(act_on_vectors(mirror, x)) - act_on_vectors(mirror, wrapped(x))).abs().max()
    assert difference > 1e-2 if special else difference < 1e-8


def test_sorting_makes_any_network_equivariant_under_permutations() -> None:
    torch.manual_seed(0)
    wrapped = Canonicalized(mlp(12, 12, nn.Unflatten(1, (6, 2))), SortFrame(2).double(), act_on_points, act_on_points)
    x = torch.randn(8, 6, 2, dtype=torch.float64)
    p = torch.randperm(6)
    torch.testing.assert_close(wrapped(x[:, p]), wrapped(x)[:, p], rtol=1e-10, atol=1e-10)
    invariant = Canonicalized(mlp(12, 3), wrapped.frame, act_on_points)
    torch.testing.assert_close(invariant(x[:, p]), invariant(x), rtol=1e-10, atol=1e-10)
    invariant(x).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in wrapped.frame.score[:1].parameters())


def quarter_turns(x: Tensor, k: int) -> Tensor:
    return torch.rot90(x, k, (-2, -1))


def test_quarter_turns_are_exact_and_worth_more_than_fifteen_points_on_digits() -> None:
    torch.manual_seed(0)
    data = load_digits()
    images, labels = torch.tensor(data.images / 16, dtype=torch.float64), torch.tensor(data.target)
    turns = torch.randint(4, (len(images),))
    turned = torch.stack([quarter_turns(image, int(k)) for image, k in zip(images, turns, strict=True)])
    train, test = slice(0, 1200), slice(1200, None)
    accuracy = {}
    for kind in ("plain", "canonicalized"):
        torch.manual_seed(1)
        network = mlp(64, 10)
        if kind == "canonicalized":
            network = FiniteCanonicalized(network, mlp(64, 1), quarter_turns, 4)
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(120):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[train]), labels[train]).backward()
            optimizer.step()
        with torch.no_grad():
            accuracy[kind] = (network(turned[test]).argmax(1) == labels[test]).double().mean().item()
            if kind == "canonicalized":
                assert torch.equal(network(turned[test]), network(images[test]))  # bit for bit
    assert accuracy["canonicalized"] >= accuracy["plain"] + 0.15


def test_sorted_and_balanced_weights_do_not_see_permutations_and_scales() -> None:
    torch.manual_seed(0)
    space = mlp_space([2, 5, 4, 1])
    sort = NeuronSort(space).double()
    for module in (sort.first, sort.second):
        for weight in module.weights.values():
            nn.init.normal_(weight)
    values = {n: torch.randn(3, *space.shape(n), 1, dtype=torch.float64) for n in space.tensors}
    order = {
        name: torch.eye(group.n, dtype=torch.float64)[torch.randperm(group.n)] for name, group in space.factors.items()
    }
    assert all(isinstance(group, Symmetric) for group in space.factors.values())
    moved = space.transform(values, order)
    for layer, width in ((0, 5), (1, 4)):  # positive scales of the hidden neurons
        scale = torch.rand(width, dtype=torch.float64) + 0.5
        moved[f"{layer}.weight"] = moved[f"{layer}.weight"] * scale[:, None, None]
        moved[f"{layer}.bias"] = moved[f"{layer}.bias"] * scale[:, None]
        moved[f"{layer + 1}.weight"] = moved[f"{layer + 1}.weight"] / scale[:, None]
    one, two = sort(balance_relu(values)), sort(balance_relu(moved))
    raw = sort(values)
    for name in space.tensors:
        torch.testing.assert_close(one[name], two[name], rtol=1e-10, atol=1e-10)
        assert raw[name].square().sum() == pytest.approx(values[name].square().sum().item())  # only reordered
    assert any((sort(moved)[n] - raw[n]).abs().max() > 1e-2 for n in space.tensors)  # scales need the balance

    def run(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        for layer in range(3):
            x = x @ weights[f"{layer}.weight"][0, ..., 0].T + weights[f"{layer}.bias"][0, :, 0]
            x = x.relu() if layer < 2 else x
        return x

    x = torch.randn(7, 2, dtype=torch.float64)
    torch.testing.assert_close(run(one, x), run(values, x))  # the same function
