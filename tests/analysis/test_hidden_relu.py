"""Hidden symmetries of ReLU networks (S190): frequencies against the published set-up, mechanisms against exact counts."""

import numpy as np
import pytest
import torch
from torch import nn

from analysis.symmetry.hidden_relu import functional_dimensions, hidden_mechanisms, relu_network
from graphs import symmetry
from graphs.completeness import functional_dimension

POINTS = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def within(share: float, expected: float, networks: int) -> bool:
    """Three standard errors of a share of `networks` around `expected` (itself measured on 1,000)."""
    variance = expected * (1 - expected) * (1 / networks + 1 / 1000)
    return abs(share - expected) <= 3 * variance**0.5 + 1e-9


def test_hidden_symmetries_grow_with_depth_and_fall_with_input_width() -> None:
    networks = 60
    expected = {(2, 4, 1): 0.994, (2, 4, 4, 1): 0.288, (2, 4, 4, 4, 1): 0.051, (4, 4, 1): 1.0, (4, 4, 4, 1): 0.590}
    found = functional_dimensions(list(expected), networks, seed=500_000)  # fresh networks, not those of the table
    for shape, share in zip(expected, found.fractions, strict=True):
        assert within(share, expected[shape], networks), (shape, share)
    assert np.all(found.ranks <= found.maximum[:, None]), "no network exceeds P − number of hidden units"
    assert list(found.fractions[:3]) == sorted(found.fractions[:3], reverse=True)
    assert len(found.to_frame()) == len(found.plot().data[0].x) == len(expected)


@pytest.mark.slow
def test_width_five_by_depth() -> None:
    """He initialisation, five inputs, width 5, one to four hidden layers: 1, then below .8, .35 and .1."""
    found = functional_dimensions([(5, *[5] * depth, 1) for depth in (1, 2, 3, 4)], 30).fractions
    assert found[0] == 1
    assert found[1] <= 0.8
    assert found[2] <= 0.35
    assert found[3] <= 0.1


def dead_unit() -> nn.Sequential:
    torch.manual_seed(3)
    module = relu_network((2, 5, 1))
    with torch.no_grad():
        module[0].weight[1], module[0].bias[1] = 0, -1
    return module


def test_a_dead_unit_costs_all_its_weights_but_the_scale() -> None:
    module = dead_unit()
    widths_in, widths_out = 2, 1
    found = functional_dimension(module, (POINTS,))
    maximum = found.parameters - 5
    assert found.stable
    assert maximum - found.rank == widths_in + widths_out
    report = hidden_mechanisms(module, (POINTS,))
    assert list(report.inactive["unit"]) == [1]
    assert report.apart.empty


def apart() -> nn.Sequential:
    """Unit 0 of the second layer is on only where unit 1 of the first is on, hence never with unit 0 of the first."""
    torch.manual_seed(0)
    module = relu_network((2, 3, 3, 1))
    first, second = module[0], module[2]
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0.2], [-1.0, -0.2], [0.3, 1.0]]))
        first.bias.copy_(torch.tensor([-0.5, -0.4, 0.1]))
        second.weight.copy_(torch.tensor([[0.7, 1.5, -0.3], [0.9, 0.8, 0.7], [-0.6, 0.9, 1.1]]))
        second.weight[0, 0] = -0.4
        second.bias.copy_(torch.tensor([-0.3, -0.2, 0.2]))
    return module


def test_units_never_on_together_cost_their_weight() -> None:
    module = apart()
    found = functional_dimension(module, (POINTS,))
    pairs = hidden_mechanisms(module, (POINTS,), batches=600).apart
    assert [tuple(row) for row in pairs[["unit", "unit before"]].to_numpy()] == [(0, 0)]
    assert found.parameters - 6 - found.rank == len(pairs)


def test_the_detector_finds_nothing_in_a_network_without_hidden_symmetries() -> None:
    torch.manual_seed(1)
    module = relu_network((2, 3, 1))
    with torch.no_grad():
        module[0].bias.zero_()
    found = functional_dimension(module, (POINTS,))
    assert found.parameters - 3 - found.rank == 0
    assert hidden_mechanisms(module, (POINTS,)).to_frame().empty


def test_permuting_and_scaling_leaves_the_rank_alone() -> None:
    module = apart()
    before = functional_dimension(module, (POINTS,)).rank
    element = symmetry(module, (POINTS,)).sample(torch.Generator().manual_seed(4), scale=0.3)
    element.apply_module(module)
    assert functional_dimension(module, (POINTS,)).rank == before
