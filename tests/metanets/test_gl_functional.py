"""Contractions over what general linear groups mix: exact where permutation-equivariant layers are not."""

import pytest
import torch

from graphs.scalings.linear import LinearFactor
from metanets.networks.gl_functional import contracted
from modelzoo.errors import UserError
from tests.metanets.subjects import architecture, embeddings, error, models, moved, network, stack


def test_general_linear_elements_leave_it_and_change_a_permutation_equivariant_network() -> None:
    before, after = models("transformer"), models("transformer", moved("transformer", "GL", 2))
    assert sum(isinstance(factor, LinearFactor) for factor in architecture("transformer")[0].factors) > 1
    ours, unf = network("gl_functional", before), network("unf", before)
    assert error(embeddings(ours, before), embeddings(ours, after)) < 1e-9
    assert error(embeddings(unf, before), embeddings(unf, after)) > 1e-2


def test_dimensions_exchanged_across_heads_change_it() -> None:
    """No element: the first dimension of the first head's keys with that of the second's, and nothing follows."""
    before, stacked = models("transformer"), dict(stack("transformer"))
    group = architecture("transformer")[0]
    mixed = next(m for f in group.factors if isinstance(f, LinearFactor) for m in f.mixed if m.dim == 0)
    own = torch.arange(mixed.shape[0])
    first, second = (int(mixed.positions[copy, 0, 0]) for copy in (0, 1))
    own[[first, second]] = own[[second, first]]
    stacked[mixed.tensor] = stacked[mixed.tensor][:, own]
    net = network("gl_functional", before)
    assert error(embeddings(net, before), embeddings(net, models("transformer", stacked))) > 1e-3


def test_cores_whose_bonds_no_permutation_moves_are_refused_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"GL\(\d\) of .* train unf"):
        network("gl_functional", models("tt_mlp"))


def test_the_contraction_of_queries_and_keys_is_their_product() -> None:
    """Every entry of W_qᵀ W_k of every head is among the contractions."""
    terms, layout = contracted(models("transformer"))
    assert [piece.axes for piece in layout.pieces] == [term.axes for term in terms]
    entries = torch.cat([term.values.flatten(1) for term in terms], 1)
    group, stacked = architecture("transformer")[0], stack("transformer")
    factor = next(f for f in group.factors if isinstance(f, LinearFactor))
    left, right = (next(m for m in factor.mixed if m.inverse is side and len(m.shape) == 2) for side in (False, True))
    a, b = (stacked[m.tensor].movedim(1 + m.dim, 1)[:, torch.from_numpy(m.positions[0, 0])] for m in (left, right))
    product = torch.einsum("mai,maj->mij", a, b).flatten(1)  # of the first head
    for entry in product[0]:
        assert (entries[0] - entry).abs().min() < 1e-12
