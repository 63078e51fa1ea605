"""Every registered metanet is exactly as equivariant as it says, on every kind of symmetry our families have."""

import pytest
import torch

from metanets.contender import Contender
from metanets.metanet import Metanet, metanets
from modelzoo.errors import UserError
from tests.metanets.subjects import embeddings, error, models, moved, network, spread, stack

FAMILIES = (
    "mlp",
    "siren",
    "small_cnn",
    "lstm",
    "transformer",
    "resnet",
)  # scales; signs; taps; gates; heads and GL; norms
EXACT = 1e-10  # of the spread between models, in double precision
NOTHING_EVALUATED = "graph_metanet,probes=0,lattice=0"
CASES = [(text, family) for text in (*metanets(), NOTHING_EVALUATED) for family in FAMILIES]


@pytest.mark.parametrize(("text", "family"), CASES, ids=lambda value: value)
def test_a_random_element_of_the_declared_group_leaves_the_embedding(text: str, family: str) -> None:
    contender, before = Contender.read(text), models(family)
    found = contender.subject
    assert isinstance(found, Metanet)
    try:
        net = network(found.name, before, **contender.fields)
    except UserError as reason:
        pytest.skip(str(reason))
    own = embeddings(net, before)
    assert own.isfinite().all()
    assert spread(own) > 1e-4 * float(own.norm(dim=1).mean()), "embeddings collapse at initialisation"
    if found.equivariance == "none":
        assert error(own, embeddings(net, models(family, moved(family, "permutation", 1)))) > 1e-2
        return
    after = moved(family, found.equivariance, 1)
    assert max(float((after[key] - stack(family)[key]).abs().max()) for key in after) > 1e-2, "the element does nothing"
    assert error(own, embeddings(net, models(family, after))) <= EXACT


@pytest.mark.parametrize("name", list(metanets()))
def test_a_permutation_outside_the_group_changes_the_embedding(name: str) -> None:
    """The control: hidden neurons of one layer change places and the next layer's columns do not follow."""
    before = models("siren")
    net, stacked = network(name, before), stack("siren")
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    broken = {**stacked, "layers.1.weight": stacked["layers.1.weight"][:, :, order]}
    assert error(embeddings(net, before), embeddings(net, models("siren", broken))) > 1e-3


@pytest.mark.parametrize("name", list(metanets()))
def test_inputs_and_outputs_keep_their_places(name: str) -> None:
    before, stacked = models("mlp"), stack("mlp")
    net = network(name, before)
    for key, dim in (("layers.0.weight", 2), ("layers.2.weight", 1)):
        changed = {**stacked, key: stacked[key].flip(dim)}
        if dim == 1:
            changed["layers.2.bias"] = stacked["layers.2.bias"].flip(1)
        assert error(embeddings(net, before), embeddings(net, models("mlp", changed))) > 1e-4


def test_the_checker_fails_a_metanet_that_declares_too_much() -> None:
    """A permutation-equivariant network declared sign-equivariant is found out."""
    before = models("siren")
    net = network("graph_metanet", before)
    flipped = models("siren", moved("siren", "permutation+sign", 1))
    assert error(embeddings(net, before), embeddings(net, flipped)) > 1e-2
