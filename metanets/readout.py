"""What every metanet ends in: invariant features, and answers of the models, to an embedding and a prediction."""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from metanets.batching import Models
from metanets.metanet import MetanetConfig, Prediction
from metanets.probes import Lattice, Probes


class ReadoutConfig(MetanetConfig):
    """Sizes of a `Readout`.

    With `probes` the models themselves are evaluated at that many learned inputs, with `lattice` on a lattice of that many
    points along every axis.
    """

    embedding: int = Field(64, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    probes: int = Field(0, ge=0)
    lattice: int = Field(0, ge=0)
    probe_shape: tuple[int, ...] = ()
    probe_outputs: int = Field(1, gt=0)


class Readout(nn.Module):
    """Normalised invariant features to an embedding and outputs.

    Attributes:
        asked: what evaluates the models: probes, a lattice, both or nothing.

    Args:
        sizes: lengths of the feature vectors.
        config: the metanet's.
    """

    def __init__(self, sizes: Sequence[int], config: ReadoutConfig) -> None:
        super().__init__()
        asked: list[Probes | Lattice] = []
        if config.probes:
            asked.append(Probes(config.probes, config.probe_shape, config.probe_outputs))
        if config.lattice:
            asked.append(Lattice(config.lattice, config.probe_shape[0], config.probe_outputs))
        self.asked, every = nn.ModuleList(asked), [*sizes, *(ask.size for ask in asked)]
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in every)
        self.body = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(sum(every), 2 * config.embedding), nn.SiLU(),
            nn.Dropout(config.dropout), nn.Linear(2 * config.embedding, config.embedding),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.LayerNorm(config.embedding), nn.SiLU(), nn.Linear(config.embedding, config.outputs)
        )

    def forward(self, features: Sequence[Tensor], models: Models) -> Prediction:
        """Features `[M, size]` each."""
        every = [*features, *(ask(models) for ask in self.asked)]
        embeddings = self.body(torch.cat([norm(part) for norm, part in zip(self.norms, every, strict=True)], -1))
        return Prediction(self.head(embeddings), embeddings)
