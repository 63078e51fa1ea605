"""Networks that change networks: one number for every weight of a model, which moves as the weights move."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphs import EDGE_KINDS
from metanets.batching import Models, Topology
from metanets.metanet import MetanetModule, ValueStatistics

SMALL = 1e-2  # of an untrained update, relative to the weights


class WeightUpdate(nn.Module):
    """Additive updates of weights: Δ_e = f_c s_c y_e / u, with y the metanet's outputs of edges.

    s_c is the root mean square of the training models' weights of a kind at a depth, f_c a learned factor, small at
    first, and u is 1 until `calibrate` sets it. Permutation Equivariant Neural Functionals (Zhou et al., 2023) scales updates of whole tensors so.

    Args:
        metanet: a network with outputs of edges.
        training: the training models.
        factor: f at first.

    Shape:
        models to `[E, M]`.

    Raises:
        UserError: the metanet has no outputs of edges.
    """

    unit: Tensor

    def __init__(self, metanet: MetanetModule, training: Sequence[Models], factor: float = SMALL) -> None:
        super().__init__()
        self.metanet, self.head = metanet, metanet.edge_head()
        self.statistics = ValueStatistics(len(EDGE_KINDS))
        self.statistics.fit(training)
        self.factor = nn.Parameter(torch.full_like(self.statistics.size, factor))
        self.register_buffer("unit", torch.ones(()), persistent=False)

    @torch.no_grad()
    def calibrate(self, few: Models) -> None:
        """Set u to the size of y on some models where that is above 1, so that an untrained update is small."""
        self.unit = self.outputs(few).square().mean().sqrt().clamp_min(1)

    def outputs(self, models: Models) -> Tensor:
        """y, `[E, M]`."""
        return self.metanet.edge_outputs(models, self.head)

    def factors(self, topology: Topology) -> Tensor:
        """f of every edge, `[E, 1]`."""
        return self.factor[topology.edge_kind, topology.edge_depth_bin][:, None]

    def forward(self, models: Models) -> Tensor:
        size = self.statistics.size[models.topology.edge_kind, models.topology.edge_depth_bin]
        return self.factors(models.topology) * size[:, None] * (self.outputs(models) / self.unit)
