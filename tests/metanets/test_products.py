"""Products of layers against torch, and what they must not see."""

import pytest
import torch
from torch import Tensor, nn

import graphs
from metanets.batching import Models, Topology
from metanets.cells import quantiles
from metanets.products import SIZE, products
from tests.metanets.subjects import models, moved

MODULE = nn.Sequential(
    nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3)
).double()
GROUP = graphs.infer(graphs.trace(MODULE, (torch.randn(2, 2, 4, 4, dtype=torch.float64),)))
STRUCTURE = graphs.graph_structure(GROUP)
TOPOLOGY = Topology.of_group(GROUP, STRUCTURE)


def stacked(count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(count, *tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in MODULE.named_parameters()
    }


def read(tensors: dict[str, Tensor]) -> Tensor:
    return products(Models(TOPOLOGY, STRUCTURE.values(tensors).T.contiguous()))


def test_they_are_those_of_matrices_by_hand() -> None:
    tensors = stacked(6)
    first, second = (tensors[name].sum((3, 4)) for name in ("0.weight", "2.weight"))
    third, found = tensors["5.weight"], read(tensors)
    expected = [(first, None), (second @ first, (second, first)), (third @ second @ first, (third, second))]
    assert found.shape == (6, 6, SIZE)
    cells = [k for k in range(6) if found[k].any()]
    assert len(cells) == 3, "biases are no part"
    for path, factors in expected:
        row = torch.zeros(6, SIZE, dtype=torch.float64)
        row[:, :5] = quantiles(torch.linalg.svdvals(path).log().flip(1))
        if factors is not None:
            both = factors[0] @ factors[1]
            row[:, 5:10] = quantiles(torch.linalg.svdvals(both).log().flip(1))
            sizes = [torch.linalg.matrix_norm(each) for each in (both, *factors)]
            row[:, 10] = (sizes[0] / (sizes[1] * sizes[2])).log()
        assert min(float((found[k] - row).abs().max()) for k in cells) < 1e-4  # squares are known to 1e-6 of their sum


def test_positive_scales_between_two_layers_are_not_seen_behind_the_second() -> None:
    tensors = stacked(4)
    scale = torch.rand(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    scaled = {
        **tensors,
        "0.weight": tensors["0.weight"] * scale[:, :, None, None, None],
        "2.weight": tensors["2.weight"] / scale[:, None, :, None, None],
    }
    change = (read(scaled) - read(tensors)).abs()
    assert change[..., :5].amax((1, 2)).gt(1e-9).sum() == 1, "the path up to the first layer alone"
    same = change[..., 5:10].amax((1, 2)) < 1e-9
    assert same.sum() == 5, "two steps that end or begin at the scaled neurons differ, those across them do not"


@pytest.mark.parametrize("family", ["mlp", "siren", "small_cnn", "lstm", "transformer", "resnet"])
def test_the_order_of_neurons_is_not_seen(family: str) -> None:
    before, after = products(models(family)), products(models(family, moved(family, "permutation", 1)))
    assert before.isfinite().all()
    assert before.any()
    assert not torch.equal(models(family).values, models(family, moved(family, "permutation", 1)).values)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-8)


def test_products_beyond_the_square_root_of_the_largest_number_are_known() -> None:
    tensors = stacked(4)
    large = {name: 1e9 * tensor for name, tensor in tensors.items()}  # 1e27 along the path, 1e54 squared
    values = STRUCTURE.values(large).T.contiguous().float()
    change = products(Models(TOPOLOGY, values)).double() - read(tensors)
    steps = change[..., 0].amax(1).div(torch.tensor(1e9, dtype=torch.float64).log()).round()
    assert sorted(steps.tolist()) == [0, 0, 0, 1, 2, 3]
    torch.testing.assert_close(change[..., 0].amax(1), change[..., 0].amin(1), rtol=1e-3, atol=1e-3)


def test_they_differ_where_the_neurons_of_one_layer_alone_change_places() -> None:
    tensors = stacked(4)
    broken = {**tensors, "2.weight": tensors["2.weight"].roll(1, 2)}
    assert (read(broken) - read(tensors)).abs().amax((1, 2)).gt(1e-2).sum() == 2
