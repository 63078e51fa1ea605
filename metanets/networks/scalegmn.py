"""Scale- and sign-equivariant message passing on the parameter graph of any traced model.

Scale Equivariant Graph Metanetworks (Kalogeropoulos, Bouritsas and Panagakis, 2024): besides permutations, activations leave
scales (ReLU) or signs (tanh, sine) of hidden neurons free. The paper writes the group of each activation by hand and normalises
every vector; here the charges of all edges and neurons are read off the inferred group (see `metanets.charges`): positive scales
are taken out exactly, and signs are carried by an odd state u beside an even one s:

    m_e = (W_c x_e) ⊙ u_j,   a_i = Σ_e m_e over edges whose charge fits i,   b_i = Σ_e m_e over edges without charge
    s_i ← s_i + MLP(s_i, b_i, (A a_i) ⊙ (B a_i), Σ_e W'_c |x_e| ⊙ s_j);   u_i ← u_i + C a_i ⊙ MLP'(s_i)

Forward only, or in both directions.
"""

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from graphs import EDGE_KINDS, EDGE_OPS, NODE_KINDS
from metanets.batching import DEPTH_BINS, Models, Topology
from metanets.charges import Charges, charges
from metanets.metanet import Metanet, MetanetModule, Prediction, ValueStatistics, register
from metanets.probes import probe_shapes
from metanets.readout import Readout, ReadoutConfig
from metanets.signals import WAVES, waves
from metanets.states import perceptron, pool, soft
from modelzoo.family import Paper

FORMS = 2  # of an edge value: x and its logarithm, both odd


class ScaleGMNConfig(ReadoutConfig):
    """Sizes of a `ScaleGMN`."""

    width: int = Field(16, gt=0)
    layers: int = Field(3, gt=0)
    bidirectional: bool = True


class SignLayer(nn.Module):
    """One round of messages; even and odd states stay even and odd."""

    def __init__(self, width: int, directions: int) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(nn.Linear(width, 2 * width, bias=False) for _ in range(directions))
        self.mix = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(directions))
        self.send = nn.ModuleList(nn.Linear(width, width) for _ in range(directions))
        self.update = perceptron(width * (2 + 3 * directions), 2 * width, width)
        self.self_pair = nn.Linear(width, 2 * width, bias=False)
        self.gate = perceptron(width, width, width)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, s: Tensor, u: Tensor, odd: Tensor, even: Tensor, ways: list[tuple[Tensor, ...]]
    ) -> tuple[Tensor, Tensor]:
        """States `[N, M, D]`, edge features `[E, M, D]`; `ways`: from, to, fits, neutral, share."""
        even_parts, change = [s, product(self.self_pair(u))], torch.zeros_like(u)
        for k, (of, to, fits, neutral, share) in enumerate(ways):
            messages = odd * u[of]
            zero = torch.zeros_like(u)
            a = zero.index_add(0, to, messages * fits) * share
            b = zero.index_add(0, to, messages * neutral) * share
            c = zero.index_add(0, to, (even * self.send[k](s)[of]).to(zero.dtype)) * share
            even_parts += [soft(b), soft(product(self.pairs[k](a))), c]
            change = change + self.mix[k](a)
        s = s + self.update(torch.cat([self.norm(even_parts[0]), *even_parts[1:]], -1))
        u = u + change * torch.tanh(self.gate(self.norm(s)))
        size = (u.square().mean(-1, keepdim=True) + 1).sqrt()  # even
        return s, u / size


def product(both: Tensor) -> Tensor:
    """(A a) ⊙ (B a), even in a."""
    left, right = both.chunk(2, -1)
    return left * right


class States(NamedTuple):
    """What layers leave: `s`, `u` `[N, M, D]`; `forms` of values `[E, M, FORMS]`, `even` `[E, M, D]` and `code` `[E, D]` of edges."""

    s: Tensor
    u: Tensor
    forms: Tensor
    even: Tensor
    code: Tensor


class EdgeHead(nn.Module):
    """A number for every edge j → i that has the sign of its value:

    y_e = ⟨α, f(x_e)⟩ + ⟨β, A u_i ⊙ B u_j⟩ + γ, with even α, β, γ from s_i, s_j, |x_e| and the mean of s. The second term
    stands where the ends have the charge of the edge, the third where there is none.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.target, self.source = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.gates = perceptron(5 * width, 2 * width, FORMS + width + 1)
        self.split = (FORMS, width, 1)

    def forward(self, topology: Topology, found: Charges, states: States) -> Tensor:
        """`[E, M]`."""
        (source, target), (s, u, forms, even, code) = topology.edge_index, states
        about = [s[source], s[target], even, code[:, None].expand_as(even), s.mean(0).expand_as(even)]
        own, ends, free = self.gates(torch.cat(about, -1)).split(self.split, -1)
        fits = (found.along == found.node[target]).to(u.dtype)[:, None]
        both = (ends * self.target(u)[target] * self.source(u)[source]).sum(-1)
        return (own * forms).sum(-1) + fits * both + (found.edge == 0).to(u.dtype)[:, None] * free[..., 0]


class ScaleGMN(MetanetModule):
    """Even and odd states of neurons on balanced weights.

    Shape:
        models of a zoo, any architectures; outputs `[model, outputs]`, embeddings `[model, embedding]`.
    """

    def __init__(self, config: ScaleGMNConfig) -> None:
        super().__init__()
        width = config.width
        self.width, self.bidirectional = width, config.bidirectional
        self.statistics = ValueStatistics(len(EDGE_KINDS))
        self.edge_kind, self.edge_op = nn.Embedding(len(EDGE_KINDS), width), nn.Embedding(len(EDGE_OPS), width)
        self.edge_depth, self.edge_place = nn.Embedding(DEPTH_BINS + 1, width), nn.Linear(3 * WAVES, width)
        self.weights = perceptron(width, 2 * width, 2 * FORMS * width)
        self.kind, self.depth = nn.Embedding(len(NODE_KINDS), width), nn.Embedding(DEPTH_BINS + 1, width)
        self.place, self.start = nn.Linear(WAVES, width), nn.Linear(WAVES, width)
        directions = 2 if config.bidirectional else 1
        self.layers = nn.ModuleList(SignLayer(width, directions) for _ in range(config.layers))
        self.readout = Readout([2 * len(NODE_KINDS) * width, 2 * width], config)

    def calibrate(self, training: list[Models]) -> None:  # type: ignore[override]
        self.statistics.fit([self.balanced(models) for models in training])

    @staticmethod
    def balanced(models: Models) -> Models:
        """The same models with positive scales taken out."""
        return Models(models.topology, charges(models.topology).balance(models.values), models.function)

    def ways(self, topology: Topology, found: Charges, dtype: torch.dtype) -> list[tuple[Tensor, ...]]:
        """Along the edges, and against them."""
        source, target = topology.edge_index
        result: list[tuple[Tensor, ...]] = []
        for of, to, charge in ((source, target, found.along), (target, source, found.against)):
            fits = (charge == found.node[to]).to(dtype)[:, None, None]
            neutral = (charge == 0).to(dtype)[:, None, None]
            share = torch.bincount(to, minlength=topology.nodes).clamp_min(1).to(dtype).rsqrt()[:, None, None]
            result.append((of, to, fits, neutral, share))
        return result if self.bidirectional else result[:1]

    def states(self, models: Models, found: Charges, balanced: Models) -> States:
        """After all layers."""
        topology = models.topology
        sized = self.statistics(balanced)[0]
        dtype = sized.dtype
        kind, op, depth = topology.codes[:, :3].T
        places = self.edge_place(waves(topology.codes[:, 3:]).flatten(1).to(dtype))
        code = self.edge_kind(kind) + self.edge_op(op) + self.edge_depth(depth) + places
        weights = self.weights(code).unflatten(-1, (2, FORMS, -1))[topology.edge_code]  # [E, 2, FORMS, D]
        forms = torch.stack([soft(sized), soft(100 * sized) / 5], -1)  # [E, M, FORMS]
        odd, even = torch.bmm(forms, weights[:, 0]), torch.bmm(forms.abs(), weights[:, 1])
        phases = waves(topology.node_position).to(dtype)
        s = self.kind(topology.node_kind) + self.depth(topology.node_depth_bin) + self.place(phases)
        u = self.start(phases) * (found.node == 0).to(dtype)[:, None]  # a neuron with a charge starts from nothing
        s, u = (state[:, None].expand(-1, len(models), -1) for state in (s, u))
        ways = self.ways(topology, found, dtype)
        for layer in self.layers:
            s, u = layer(s, u, odd, even, ways)
        return States(s, u, forms, even, code[topology.edge_code])

    def embed(self, models: Models) -> Prediction:
        topology, found = models.topology, charges(models.topology)
        s, _, _, even, _ = self.states(models, found, self.balanced(models))
        return self.readout([pool(topology, s), torch.cat([even.mean(0), s.mean(0)], -1)], models)

    def edge_head(self) -> nn.Module:
        return EdgeHead(self.width)

    def edge_outputs(self, models: Models, head: nn.Module) -> Tensor:
        """On balanced weights, and then scaled as the weights are."""
        found = charges(models.topology)
        outputs = head(models.topology, found, self.states(models, found, self.balanced(models)))
        return outputs / found.factors(models.values).to(outputs.dtype)


METANET = register(
    Metanet(
        name="scalegmn",
        module=ScaleGMN,
        config=ScaleGMNConfig,
        paper=(Paper("Scale Equivariant Graph Metanetworks", "Kalogeropoulos et al.", 2024),),
        equivariance="monomial",
        summary="Scale- and sign-equivariant messages, charges read off the inferred group.",
        tiny={"width": 8, "layers": 2, "embedding": 8},
        adapt=probe_shapes,
    )
)
