"""Hidden weights from the others: x̂_e = μ_c + σ_c y_e(x with the hidden ones at μ), c the kind and depth of weight e.

μ_c and σ_c are mean and standard deviation of the training models' weights, y a metanet's outputs of edges. Loss and measure are
squared errors relative to σ²_c, of hidden weights alone. Single weights are hidden: of whole kernels, and of all weights that enter a
neuron, far less can be known. BERT (Devlin et al., 2019) does so with words; here it is a pretraining:
`metazoo train --start-from` takes the metanet over.
"""

import torch
from torch import Tensor, nn

from graphs import EDGE_KINDS
from metanets.batching import Models, Topology
from metanets.metanet import MetanetModule, ValueStatistics
from metanets.training.config import TrainingConfig
from metanets.training.data import TOGETHER, PopulationBlock
from metanets.weight_task import Experiment, Metrics, WeightTask, build, items_of, register, split_rows
from modelzoo.family import Paper

SHARE = 0.25  # of the weights that are hidden
PENALTY = 1e-3  # of the ridge, relative to the spread of a feature


class Masked(nn.Module):
    """Predictions of hidden weights.

    Args:
        metanet: a network with outputs of edges; raises `UserError` where it has none.
        training: the training models.

    Shape:
        values `[E, M]` and what is hidden of them, `[E, M]`, to `[E, M]`.
    """

    def __init__(self, metanet: MetanetModule, training: Models) -> None:
        super().__init__()
        self.metanet, self.head = metanet, metanet.edge_head()
        self.statistics = ValueStatistics(len(EDGE_KINDS))
        self.statistics.fit([training])
        self.topology = training.topology

    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the kind and depth of every weight, `[E, 1]` each."""
        at = (self.topology.edge_kind, self.topology.edge_depth_bin)
        return self.statistics.mean[at][:, None], self.statistics.deviation[at][:, None]

    def standard(self, values: Tensor) -> Tensor:
        """Standardised values, `[E, M]`."""
        mean, deviation = self.scale()
        return (values - mean) / deviation

    def forward(self, values: Tensor, hidden: Tensor) -> Tensor:
        shown = torch.where(hidden, self.scale()[0], values)
        return self.metanet.edge_outputs(Models(self.topology, shown), self.head)


def neighbourhoods(topology: Topology) -> list[Tensor]:
    """Numbers of the sets of weights that a weight belongs to, `[E]` each: its layer, those of it that leave the same neuron,
    enter the same neuron, or join the same two neurons, and those at the same place of a kernel."""
    layer = torch.zeros(topology.edges, dtype=torch.int64)
    for number, edges in enumerate(topology.cell_edges):
        layer[edges] = number
    source, target = topology.edge_index
    keys = (source, target, topology.edge_pair, topology.edge_code)
    return [layer, *(torch.unique(torch.stack([layer, key], 1), dim=0, return_inverse=True)[1] for key in keys)]


class Ridge:
    """Linear prediction of a hidden weight, for every layer: from the mean of its position over the training models, and from
    sums of what is not hidden of its layer, at its two neurons, between them, and at its place of the kernel.

    Args:
        topology: of the models.
        standard: `[E, M]` standardised values of training models.
        hidden: `[E, M]`, what is predicted of them.
    """

    def __init__(self, topology: Topology, standard: Tensor, hidden: Tensor) -> None:
        self.sets, self.layers = neighbourhoods(topology), topology.cell_edges
        self.position = standard.double().mean(1)
        size = 2 + len(self.sets)
        inner = torch.zeros(len(self.layers), size, size, dtype=torch.float64)
        outer = torch.zeros(len(self.layers), size, dtype=torch.float64)
        for values, mask in zip(standard.split(TOGETHER, 1), hidden.split(TOGETHER, 1), strict=True):
            x, y = self.features(values, mask) * mask[..., None], values.double()
            for layer, own in enumerate(self.layers):
                inner[layer] += torch.einsum("emf,emg->fg", x[own], x[own])
                outer[layer] += torch.einsum("emf,em->f", x[own], y[own])
        spread = inner.diagonal(dim1=1, dim2=2)
        self.weights = torch.linalg.solve(inner + torch.diag_embed(PENALTY * spread + 1e-9), outer)  # [layers, F]

    def features(self, standard: Tensor, hidden: Tensor) -> Tensor:
        """`[E, M, F]`, of what is not hidden."""
        shown, seen = (standard * ~hidden).double(), (~hidden).double()
        found = [torch.ones_like(shown), self.position[:, None].expand_as(shown)]
        for own in self.sets:
            total, count = (shown.new_zeros(int(own.max()) + 1, shown.shape[1]).index_add(0, own, each) for each in (shown, seen))  # fmt: skip
            found.append((total / (count + 1))[own])
        return torch.stack(found, -1)

    def __call__(self, standard: Tensor, hidden: Tensor) -> Tensor:
        """`[E, M]` standardised predictions."""
        x, found = self.features(standard, hidden), torch.zeros(standard.shape, dtype=torch.float64)
        for own, weights in zip(self.layers, self.weights, strict=True):
            found[own] = x[own] @ weights
        return found


def hide(shape: torch.Size, generator: torch.Generator | None = None) -> Tensor:
    """What is hidden, each weight by itself."""
    return torch.rand(shape, generator=generator) < SHARE


def explained(predicted: Tensor, standard: Tensor, hidden: Tensor) -> Metrics:
    """1 − Σ (ŷ − y)² / Σ y² of hidden standardised values: 0 for the mean of kind and depth."""
    error, whole = ((each.square() * hidden).double().sum() for each in (predicted - standard, standard))
    return {"explained variance": float(1 - error / whole)}


def prepare(block: PopulationBlock, config: TrainingConfig) -> Experiment:
    """Explained variance of hidden weights on the test split: a metanet, the mean of the position, a ridge regression."""
    train, test = split_rows(block, "train"), split_rows(block, "test")
    training = Models(block.topology, block.values[:, train])
    network = Masked(build(config, training), training)
    chance = torch.Generator().manual_seed(config.seed)
    unseen, hidden = block.values[:, test], hide(block.values[:, test].shape, chance)

    def loss(rows: Tensor) -> Tensor:
        values = block.values[:, rows]
        mask = hide(values.shape)
        return (network(values, mask) - network.standard(values))[mask].square().mean()

    @torch.no_grad()
    def measure() -> Metrics:
        found = [network(*parts) for parts in zip(unseen.split(TOGETHER, 1), hidden.split(TOGETHER, 1), strict=True)]
        return explained(torch.cat(found, 1), network.standard(unseen), hidden)

    def baselines() -> dict[str, Metrics]:
        known = network.standard(training.values)
        ridge = Ridge(block.topology, known, hide(known.shape, chance))
        standard = network.standard(unseen)
        return {
            "mean of the position": explained(ridge.position[:, None], standard, hidden),
            "ridge on weights around it": explained(ridge(standard, hidden), standard, hidden),
        }

    return Experiment(network, loss, items_of(block), measure, baselines)


TASK = register(
    WeightTask(
        name="masked_weights",
        prepare=prepare,
        summary="Predict hidden weights of a model from the others.",
        metric="explained variance",
        higher_is_better=True,
        paper=Paper("BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", "Devlin et al.", 2019),
        recipe={"learning_rate": 2e-3},
    ),
    __name__,
)  # fmt: skip
