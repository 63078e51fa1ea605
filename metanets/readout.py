"""What every metanet ends in: invariant features, and answers of the models, to an embedding and a prediction."""

from collections.abc import Sequence
from itertools import chain
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from metanets.batching import Models
from metanets.metanet import MetanetConfig, Prediction
from metanets.probes import Lattice, Probes, ProbeStart

Feature = TypeVar("Feature")
LINEAR = 0.1  # factor of the linear map of answers: learned as slowly, it does not learn a few hundred models by heart


class ReadoutConfig(MetanetConfig):
    """Sizes of a `Readout`.

    With `probes` the models themselves are evaluated at that many learned inputs, which begin at noise or at data that the
    models were trained on (`probe_start`), with `lattice` on a lattice of that many points along every axis. `embedding` is the
    length of what one readout gives.
    """

    embedding: int = Field(64, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    probes: int = Field(0, ge=0)
    probe_start: ProbeStart = "noise"
    lattice: int = Field(0, ge=0)
    probe_shape: tuple[int, ...] = ()
    probe_outputs: int = Field(1, gt=0)


class Head(nn.Module):
    """Outputs of embeddings, and a linear map of the answers to probes, which begins at zero.

    Args:
        config: the metanet's.
        answers: how many there are.
    """

    def __init__(self, config: ReadoutConfig, answers: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(config.embedding), nn.SiLU(), nn.Linear(config.embedding, config.outputs)
        )
        self.direct = nn.Linear(answers, config.outputs, bias=False) if answers else None
        if self.direct is not None:
            nn.init.zeros_(self.direct.weight)

    def forward(self, embeddings: Tensor, answers: Tensor | None) -> Tensor:
        outputs = self.body(embeddings)
        return outputs if self.direct is None or answers is None else outputs + LINEAR * self.direct(answers)


class Readout(nn.Module):
    """Normalised invariant features, and answers of the models, to an embedding and outputs.

    Args:
        sizes: lengths of the feature vectors.
        config: the metanet's.
    """

    def __init__(self, sizes: Sequence[int], config: ReadoutConfig) -> None:
        super().__init__()
        shape, outputs = config.probe_shape, config.probe_outputs
        self.probes = Probes(config.probes, shape, outputs, config.probe_start) if config.probes else None
        self.lattice = Lattice(config.lattice, shape[0], outputs) if config.lattice else None
        answers = 0 if self.probes is None else self.probes.size
        size = sum(sizes) + answers + (0 if self.lattice is None else self.lattice.size)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in sizes)
        self.body = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(size, 2 * config.embedding), nn.SiLU(),
            nn.Dropout(config.dropout), nn.Linear(2 * config.embedding, config.embedding),
        )  # fmt: skip
        self.head = Head(config, answers)

    def forward(self, features: Sequence[Tensor], models: Models) -> Prediction:
        """Features `[M, size]` each."""
        read = [norm(part) for norm, part in zip(self.norms, features, strict=True)]
        answers = None if self.probes is None else self.probes(models)
        read += [] if answers is None else [answers]
        read += [] if self.lattice is None else [self.lattice(models)]
        embeddings = self.body(torch.cat(read, -1))
        return Prediction(self.head(embeddings, answers), embeddings)


class Mixture(nn.Module):
    """Outputs of several readers, y = Σ_k p_k y_k with p = softmax(s), and s learned. Through it no reader learns anything."""

    def __init__(self, readers: int) -> None:
        super().__init__()
        self.shares = nn.Parameter(torch.zeros(readers))

    def forward(self, members: Tensor) -> Tensor:
        """`[M, readers, outputs]` to `[M, outputs]`."""
        return (self.shares.softmax(0)[:, None] * members.detach()).sum(1)


class Readers(nn.Module):
    """One readout for every group of features, each with a loss of its own, and a mixture of what they predict.

    What is read by one readout together competes: statistics of weights are learned within an epoch, and messages, which
    need more of them, then learn little. Readers that learn apart make different errors, too. The embedding is theirs,
    one after the other. Where answers of the models are read as well, one readout reads everything.

    Args:
        groups: lengths of the feature vectors of each reader; a group of none has no reader.
        config: the metanet's.
    """

    def __init__(self, groups: Sequence[Sequence[int]], config: ReadoutConfig) -> None:
        super().__init__()
        self.apart = not config.probes and not config.lattice
        self.parts = nn.ModuleList(Readout(sizes, config) for sizes in self.arranged(groups))
        self.head = Mixture(len(self.parts)) if len(self.parts) > 1 else None

    def arranged(self, groups: Sequence[Sequence[Feature]]) -> list[Sequence[Feature]]:
        """By reader."""
        return [group for group in groups if group] if self.apart else [list(chain.from_iterable(groups))]

    def forward(self, groups: Sequence[Sequence[Tensor]], models: Models) -> Prediction:
        """Features `[M, size]` each."""
        found = [part(features, models) for part, features in zip(self.parts, self.arranged(groups), strict=True)]
        if self.head is None:
            return found[0]
        members = torch.stack([each.outputs for each in found], 1)
        return Prediction(self.head(members), torch.cat([each.embeddings for each in found], 1), members)
