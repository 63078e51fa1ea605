"""An update of weights moves as the weights do: element · edit = edit · element, in double precision.

A change moves by the derivative of the element, which acts on weights by an affine map.
"""

import pytest
import torch
from torch import Tensor

from graphs.factors import AxisMap
from graphs.symmetry import permutation_factors
from metanets.metanet import metanet, metanets
from metanets.weight_update import WeightUpdate
from modelzoo.errors import UserError
from tests.metanets.subjects import MODELS, architecture, declared, models, network, stack

EXACT = 1e-9  # of the largest update
EDITORS = ("dwsnet", "graph_metanet", "nfn", "scalegmn", "unf")


@torch.no_grad()
def off(name: str, family: str) -> float:
    """The largest |edit(g x) − dg edit(x)| over the largest update, another random element g of what is declared for every model."""
    group, structure, _ = architecture(family)
    before = models(family)
    torch.manual_seed(1)
    update = WeightUpdate(network(name, before), [before]).double().eval()
    torch.nn.init.normal_(update.factor)  # cells differ
    generator = torch.Generator().manual_seed(0)
    chosen = [
        *permutation_factors(group.structure, AxisMap(group.labelling)),
        *(f for f in group.factors if declared(f, metanet(name).equivariance)),
    ]
    elements = [factor.sample(generator, 1.0, MODELS) for factor in chosen]

    def moved(values: Tensor) -> Tensor:
        tensors = {**stack(family), **structure.scatter(values.T)}
        for factor, element in zip(chosen, elements, strict=True):
            tensors.update(factor.apply(element, tensors))
        return structure.values(tensors).T

    weights = sum(record.edges for record in structure.records)  # the other edges are constants
    change = update(before)
    change[weights:] = 0
    assert change.abs().max() > 1e-3
    assert (moved(before.values) - before.values).abs().max() > 1e-2, "the element does nothing"
    after = update(models(family, {**stack(family), **structure.scatter(moved(before.values).T)}))
    expected = moved(before.values + change) - moved(before.values)
    return float((after - expected)[:weights].abs().max() / expected.abs().max())


CASES = [(name, family) for name in ("graph_metanet", "nfn") for family in ("siren", "small_cnn", "transformer")]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *CASES,
        ("dwsnet", "siren"),
        ("unf", "siren"),
        *(("scalegmn", family) for family in ("mlp", "siren", "small_cnn", "transformer")),
    ],
)
def test_an_update_moves_as_the_weights(name: str, family: str) -> None:
    assert off(name, family) <= EXACT


def test_the_control_does_not() -> None:
    """The flat perceptron changes weights by their number, whatever neuron they belong to."""
    assert off("flat_mlp", "siren") > 1e-1


@pytest.mark.parametrize("name", sorted({*metanets()} - {*EDITORS, "flat_mlp"}))
def test_what_keeps_no_states_of_weights_says_so(name: str) -> None:
    before = models("mlp")
    with pytest.raises(UserError, match="keeps no state of single weights"):
        WeightUpdate(network(name, before), [before])
