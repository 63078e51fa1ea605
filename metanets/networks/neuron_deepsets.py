"""Deep sets on neurons: every neuron by itself, then sums over the neurons of a layer.

Deep Sets (Zaheer et al., 2017): f(X) = ρ(Σ_x φ(x)), on the set of a model's neurons. A neuron is described by its kind, depth,
position (inputs and outputs) and by moments and extremes of the weights that enter and leave it. The control of what
messages between neurons add.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from graphs import EDGE_KINDS, NODE_KINDS
from metanets.batching import DEPTH_BINS, Models
from metanets.metanet import Metanet, MetanetModule, Prediction, ValueStatistics, register
from metanets.probes import probe_shapes
from metanets.readout import Readout, ReadoutConfig
from metanets.signals import WAVES, waves
from metanets.states import perceptron, pool, soft
from modelzoo.family import Paper

MOMENTS = 5


class NeuronDeepSetsConfig(ReadoutConfig):
    """Sizes of a `NeuronDeepSets`."""

    width: int = Field(64, gt=0)


def moments(values: Tensor, to: Tensor, nodes: int) -> Tensor:
    """Mean, size, mean fourth root, largest and smallest of the edges at every node, `[E, M]` to `[N, M, MOMENTS]`."""
    zero = values.new_zeros(nodes, values.shape[1])
    share = torch.bincount(to, minlength=nodes).clamp_min(1).to(values.dtype).reciprocal()[:, None]
    mean, square, root = (
        zero.index_add(0, to, each) * share for each in (values, values.square(), values.abs().sqrt())
    )
    most, least = (zero.index_reduce(0, to, values, how, include_self=False) for how in ("amax", "amin"))
    return torch.stack([mean, (square + 1e-12).sqrt(), root, most, least], -1)


class NeuronDeepSets(MetanetModule):
    """A perceptron on every neuron, pooled by kind.

    Shape:
        a batch of models of any architectures; outputs `[model, outputs]`, embeddings `[model, embedding]`.
    """

    def __init__(self, config: NeuronDeepSetsConfig) -> None:
        super().__init__()
        width = config.width
        self.statistics = ValueStatistics(len(EDGE_KINDS))
        self.kind, self.depth = nn.Embedding(len(NODE_KINDS), width), nn.Embedding(DEPTH_BINS + 1, width)
        self.place = nn.Linear(WAVES, width)
        self.phi = nn.Sequential(nn.Linear(2 * MOMENTS + width, width), nn.SiLU(), perceptron(width, width, width))
        self.readout = Readout([2 * len(NODE_KINDS) * width], config)

    def calibrate(self, training: list[Models]) -> None:  # type: ignore[override]
        self.statistics.fit(training)

    def embed(self, models: Models) -> Prediction:
        topology = models.topology
        sized = soft(self.statistics(models)[0])
        found = [moments(sized, topology.edge_index[end], topology.nodes) for end in (0, 1)]
        place = self.place(waves(topology.node_position).to(sized.dtype))
        about = (self.kind(topology.node_kind) + self.depth(topology.node_depth_bin) + place)[:, None]
        h = self.phi(torch.cat([*found, about.expand(-1, len(models), -1)], -1))
        return self.readout([pool(topology, h)], models)


METANET = register(
    Metanet(
        name="neuron_deepsets",
        module=NeuronDeepSets,
        config=NeuronDeepSetsConfig,
        paper=(Paper("Deep Sets", "Zaheer et al.", 2017),),
        equivariance="permutation",
        summary="The baseline without messages: every neuron by its own weights, pooled.",
        tiny={"width": 8, "embedding": 8},
        adapt=probe_shapes,
    )
)
