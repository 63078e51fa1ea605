"""The contract of a metanet: parameter graphs in, one prediction and one embedding a model out.

A metanet is one file under `metanets/networks/` with one registration; the registry walks that folder. What it declares
about equivariance is measured by the tests, with controls: a permutation outside the group must change the embedding.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from metanets.batching import DEPTH_BINS, Models, groups
from modelzoo.configured import configured
from modelzoo.errors import UserError
from modelzoo.family import Paper
from modelzoo.registry import Registry

Equivariance = Literal["permutation", "permutation+sign", "permutation+scale", "monomial", "GL", "function", "none"]
"""Permutations; with sign flips; with positive scales; with both; with invertible matrices on inner axes; whatever leaves
the function; nothing."""


class Prediction(NamedTuple):
    """What a metanet returns: `outputs [model, outputs]` (logits or values) and `embeddings [model, width]`.

    Where outputs are a mixture of those of several readers, `members [model, reader, outputs]` are theirs. Each of them needs a
    loss of its own then: `outputs` have no gradient.
    """

    outputs: Tensor
    embeddings: Tensor
    members: Tensor | None = None

    @property
    def learned(self) -> Tensor:
        """What losses are of, `[model, reader, outputs]`: the members, or the outputs as those of the only reader."""
        return self.outputs[:, None] if self.members is None else self.members

    @classmethod
    def joined(cls, parts: "Sequence[Prediction]") -> "Prediction":
        """Predictions of several batches, one after the other."""
        members = [part.members for part in parts if part.members is not None]
        return cls(
            torch.cat([part.outputs for part in parts]),
            torch.cat([part.embeddings for part in parts]),
            torch.cat(members) if members else None,
        )

    def each(self, change: Callable[[Tensor], Tensor]) -> "Prediction":
        """The same change to every part of it."""
        members = None if self.members is None else change(self.members)
        return Prediction(change(self.outputs), change(self.embeddings), members)


class Wanted(NamedTuple):
    """What a regression wants of models: `values [M]` in the target's unit, and the metanet's `outputs [M]` that stand for
    them, which rise with them."""

    values: Tensor
    outputs: Tensor


class MetanetConfig(BaseModel):
    """Base of every metanet's config: frozen, unknown keys refused; `outputs` follows from the target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outputs: int = Field(1, gt=0)


class Prepared(nn.Module, ABC):
    """A part of a metanet that begins at what is read off the training models."""

    @abstractmethod
    def begin(self, training: Sequence[Models], wanted: Sequence[Wanted] | None) -> None:
        """Called once before training, as `MetanetModule.prepare`."""


class MetanetModule(nn.Module, ABC):
    """A network whose inputs are models; subclasses define `embed` and, if they normalise, `calibrate`.

    What makes outputs of embeddings is a part named `head`: a training that starts from another one has a new one.
    """

    @abstractmethod
    def embed(self, models: Models) -> Prediction:
        """Embed and predict models of one architecture."""

    def calibrate(self, training: Sequence[Models]) -> None:
        """Set normalisation statistics from the training models; called once before training."""

    def prepare(self, training: Sequence[Models], wanted: Sequence[Wanted] | None = None) -> None:
        """All that is read off the training models before training: statistics, where probes begin, a regression on answers.

        Args:
            training: models of every architecture.
            wanted: of these, by architecture; None where that is no number or not known.
        """
        self.calibrate(training)
        for part in self.modules():
            if isinstance(part, Prepared):
                part.begin(training, wanted)

    def own_loss(self, models: Models) -> Tensor | None:
        """A loss that is added in training to that of the prediction, None where there is none."""
        return None

    def edge_head(self) -> nn.Module:
        """A new network for `edge_outputs`, trained with the metanet; raises `UserError` where it keeps no states of weights."""
        raise UserError(f"metanet {type(self).__name__} keeps no state of single weights, so it cannot change them; take graph_metanet, unf or nfn.", 2)  # fmt: skip

    def edge_outputs(self, models: Models, head: nn.Module) -> Tensor:
        """One number for every weight, `[E, M]`, which moves as the weights do under what the metanet declares."""
        raise NotImplementedError(f"{type(self).__name__} has an edge_head without edge_outputs")

    def forward(self, batch: Any) -> Prediction:
        """Embed and predict: a PyG batch of parameter graphs, a single graph, or `Models` (the fast way)."""
        if isinstance(batch, Models):
            return self.embed(batch)
        found = [(self.embed(models), positions) for models, positions in groups(batch)]
        order = torch.tensor([position for _, positions in found for position in positions]).argsort()
        return Prediction.joined([each for each, _ in found]).each(lambda part: part[order])


class ValueStatistics(nn.Module):
    """Mean, standard deviation and root mean square of edge values by edge kind and depth, over the training models.

    Args:
        kinds: number of edge kinds.
    """

    mean: Tensor
    deviation: Tensor
    size: Tensor

    def __init__(self, kinds: int) -> None:
        super().__init__()
        shape = (kinds, DEPTH_BINS + 1)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))
        self.register_buffer("size", torch.ones(shape))

    @torch.no_grad()
    def fit(self, training: Sequence[Models]) -> None:
        """Read off the statistics; a kind that is missing at some depth takes those of its kind."""
        moments = torch.zeros(3, *self.mean.shape, dtype=torch.float64)
        for models in training:
            values = models.values.double()
            cell = models.topology.edge_kind * self.mean.shape[1] + models.topology.edge_depth_bin
            count = torch.full_like(values[:, 0], values.shape[1])
            for row, entry in zip(moments, (count, values.sum(1), values.square().sum(1)), strict=True):
                row.view(-1).index_add_(0, cell, entry)
        whole = moments.sum(2, keepdim=True).expand_as(moments)
        count, total, square = torch.where(moments[0] > 0, moments, whole)
        known = count > 0
        mean, square = total / count.clamp_min(1), square / count.clamp_min(1)
        deviation = (square - mean.square()).clamp_min(0).sqrt()
        size = square.sqrt()
        floor = 1e-6 * size.clamp_min(1e-6)  # a tensor that never varies
        self.mean.copy_(torch.where(known, mean, 0))
        self.deviation.copy_(torch.where(known & (deviation > floor), deviation, 1))
        self.size.copy_(torch.where(known & (size > 1e-12), size, 1))

    def forward(self, models: Models) -> tuple[Tensor, Tensor]:
        """Values over their size, and standardised values, both `[E, M]`."""
        at = (models.topology.edge_kind, models.topology.edge_depth_bin)
        values = models.values.to(self.mean.dtype)
        return values / self.size[at][:, None], (values - self.mean[at][:, None]) / self.deviation[at][:, None]


def _nothing(training: Sequence[Models], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Metanet:
    """A registered metanet.

    Args:
        name: unique, snake_case; the file has the same name.
        module: the network, built as `module(config)`.
        config: its config class.
        paper: the papers it implements, the first is the main one.
        equivariance: under what its embedding is invariant.
        summary: one sentence.
        tiny: config fields of a small member, for tests.
        one_architecture: whether all models must share one architecture.
        adapt: `(training models, fields set by hand) -> fields` the config fields that follow from the data.
        recipe: training settings that suit it better than the defaults, where the user names none.
    """

    name: str
    module: Callable[[Any], MetanetModule]
    config: type[MetanetConfig]
    paper: tuple[Paper, ...]
    equivariance: Equivariance
    summary: str
    tiny: Mapping[str, Any]
    one_architecture: bool = False
    adapt: Callable[[Sequence[Models], Mapping[str, Any]], dict[str, Any]] = _nothing
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def configure(self, fields: Mapping[str, Any]) -> MetanetConfig:
        """The config with these fields; raises `UserError` for an unknown key or a value that does not fit."""
        return configured(self.config, fields, "config key", ("metanet", self.name))

    def build(self, config: MetanetConfig, seed: int) -> MetanetModule:
        """A freshly initialised network; torch's generator is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.module(config)


_REGISTRY = Registry[Metanet]("metanet", "metanets.networks")


def register(metanet: Metanet) -> Metanet:
    """Add a metanet to the registry; raises `ValueError` for a taken name or a wrong file name."""
    _REGISTRY.add(metanet.name, metanet, metanet.config.__module__)
    return metanet


def metanets() -> dict[str, Metanet]:
    """Every registered metanet by name, sorted."""
    return _REGISTRY.all()


def metanet(name: str) -> Metanet:
    """The metanet of that name; raises `UserError` with the nearest name when there is none."""
    return _REGISTRY.find(name)


def implemented_papers() -> dict[str, list[str]]:
    """Rows of the paper catalogue that registered metanets and augmentations implement."""
    from metanets.training.augmentation import augmentations

    found: dict[str, list[str]] = {}
    every = [(f"metanet {each.name}", paper) for each in metanets().values() for paper in each.paper]
    every += [(f"augmentation {each.name}", each.paper) for each in augmentations().values()]
    for name, paper in every:
        if paper.row:
            found.setdefault(paper.row, []).append(name)
    return found
