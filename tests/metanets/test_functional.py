"""Weight-space layers generated from inferred groups: dimensions, tied axes, wreath products, places of entries."""

import pytest
import torch
from torch import Tensor, nn

import graphs
from graphs.symmetry import permutation_group
from metanets.equivariant import Symmetric, TensorSpace, WeightSpaceLinear
from metanets.layout import layout_of, rows_of
from metanets.networks.nfn import NFN
from modelzoo.family import families
from tests.metanets.subjects import architecture, embeddings, error, models, moved, network, stack


class Recurrent(nn.Module):
    """h ← tanh(W x + U h + b), y = V h, three steps."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.U, self.b = (nn.Parameter(torch.randn(*s)) for s in ((4, 2), (4, 4), (4,)))
        self.V = nn.Parameter(torch.randn(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 4)
        for step in range(3):
            h = torch.tanh(x[:, step] @ self.W.T + h @ self.U.T + self.b)
        return h @ self.V.T


def dimension(module: nn.Module, x: Tensor) -> int:
    group = permutation_group(graphs.trace(module.double(), (x.double(),)))
    space = layout_of(group, graphs.graph_structure(group)).layout.space(rows=True)
    return WeightSpaceLinear(space, space, 1, 1).true_dimension


def test_a_recurrent_network_has_87_equivariant_maps_and_a_perceptron_75() -> None:
    """The numbers of the Reynolds operator's rank; untied recurrence would be another one."""
    assert dimension(Recurrent(), torch.randn(5, 3, 2)) == 87
    mlp = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    assert dimension(mlp, torch.randn(5, 2)) == 75
    untied = TensorSpace({"v": ("h", 4), "U": ("h", "k")}, {"h": Symmetric(4), "k": Symmetric(4)})
    assert WeightSpaceLinear(untied, untied, 1, 1).true_dimension != 87


def test_a_wreath_product_has_as_many_maps_as_pairs_of_entries_have_orbits() -> None:
    """Two heads of three: on vectors, same entry, same head, other head; and head dimensions alone cannot agree."""
    space = TensorSpace({"v": ("head", "inner")}, {"head": Symmetric(2), "inner": Symmetric(3)}, {"inner": "head"})
    assert WeightSpaceLinear(space, space, 1, 1).true_dimension == 3
    flat = TensorSpace({"v": ("head", "inner")}, {"head": Symmetric(2), "inner": Symmetric(3)})
    assert WeightSpaceLinear(flat, flat, 1, 1).true_dimension == 4


@pytest.mark.parametrize("name", [n for n in ("siren", "small_cnn", "lstm", "transformer", "tt_mlp") if n in families()])  # fmt: skip
def test_every_entry_has_one_place(name: str) -> None:
    group, structure, _ = architecture(name)
    for ends in (False, True):
        places = layout_of(group, structure, ends)
        found = torch.cat([index.flatten() for index in places.index])
        expected = torch.arange(sum(record.edges for record in structure.records))
        assert torch.equal(found.sort().values, expected)
        values = torch.arange(structure.num_edges, dtype=torch.float64)[:, None]
        for index, piece in zip(places.index, places.layout.pieces, strict=True):
            rows = rows_of(values, index)[0]
            assert rows.shape == (*places.layout.shape(piece), piece.rows)
            assert torch.equal(rows.movedim(-1, 0).long(), index)


@pytest.mark.parametrize("name", ["mlp", "siren", "small_cnn", "transformer"])
def test_np_layers_are_smaller_and_still_tell_inputs_and_outputs_apart(name: str) -> None:
    of = models(name)
    hidden, every = network("nfn", of), network("nfn", of, neurons="all")
    assert isinstance(every, NFN)
    assert {"input", "output"} & set(every.positions)
    assert error(embeddings(every, of), embeddings(every, models(name, moved(name, "permutation", 1)))) <= 1e-9
    if name == "mlp":
        assert sum(p.numel() for p in every.parameters()) < sum(p.numel() for p in hidden.parameters())
        broken = models(name, {**stack(name), "layers.0.weight": stack(name)["layers.0.weight"].flip(2)})
        assert error(embeddings(every, of), embeddings(every, broken)) > 1e-4
        with torch.no_grad():
            for table in every.positions.values():
                table.zero_()
        assert error(embeddings(every, of), embeddings(every, broken)) <= 1e-9, (
            "the control: without positions it is blind"
        )


@pytest.mark.parametrize(
    ("metanet", "fields", "equivariance"),
    [
        ("scalegmn", {"bidirectional": False}, "monomial"),
        ("scalegmn", {"probes": 4}, "monomial"),
        ("neural_graphs", {"kind": "transformer"}, "permutation"),
        ("unf", {"probes": 4}, "permutation"),
    ],
    ids=lambda value: str(value),
)
def test_other_configurations_are_as_invariant(metanet: str, fields: dict[str, object], equivariance: str) -> None:
    of = models("siren")
    net = network(metanet, of, **fields)
    own = embeddings(net, of)
    assert error(own, embeddings(net, models("siren", moved("siren", equivariance, 2)))) <= 1e-9
    if equivariance == "permutation":  # signs are seen by what declares permutations only
        assert error(own, embeddings(net, models("siren", moved("siren", "permutation+sign", 2)))) > 1e-3
