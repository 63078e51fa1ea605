"""What every metanet ends in: invariant features, and answers of the models, to an embedding and a prediction."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from metanets.batching import Models
from metanets.metanet import MetanetConfig, Prediction
from metanets.probes import Lattice, Probes, ProbeStart
from metanets.recursive_feature_machine import RecursiveFeatureMachine
from metanets.ridge import Ridge

Feature = TypeVar("Feature")
LINEAR = 0.1  # factor of the linear map of answers: learned as slowly, it does not learn a few hundred models by heart
SEARCH = 50  # steps in search of shares
EQUAL = 0.1  # weight of equal shares, beside the sum of losses: few models do not say much about shares


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
    """Outputs of several readers, y = Σ_k p_k y_k; through it no reader learns anything.

    Shares p_k begin equal; training chooses those that predict the validation models best. Regressions are readers more,
    outside training: they do not learn. Where the models are evaluated at probes, that is one on their answers
    (`metanets.ridge`), with `feature_machine` one on statistics of their weights (`metanets.recursive_feature_machine`).

    Args:
        readers: that learn.
        config: the metanet's.
        feature_machine: whether there is one.
    """

    shares: Tensor

    def __init__(self, readers: int, config: ReadoutConfig, feature_machine: bool = False) -> None:
        super().__init__()
        shape, answers = config.probe_shape, config.probe_outputs
        self.regressions = nn.ModuleList()
        if config.probes:
            self.regressions.append(Ridge(config.probes, shape, answers, config.probe_start))
        if feature_machine:
            self.regressions.append(RecursiveFeatureMachine())
        readers += len(self.regressions)
        self.register_buffer("shares", torch.full((readers,), 1 / readers))

    def said(self, models: Models) -> list[Tensor]:
        """Outputs of the regressions that are fitted; none while others train."""
        return [] if self.training else [part(models) for part in self.regressions if part.fitted]

    def forward(self, found: Sequence[Prediction], models: Models) -> Prediction:
        """Of the readers that learn, with their embeddings one after the other."""
        outputs = [each.outputs for each in found]
        outputs += [own.to(outputs[0].dtype) for own in self.said(models)]
        if len(outputs) == 1:
            return found[0]
        members = torch.stack(outputs, 1)  # [M, readers, outputs]
        shares = self.shares[: len(outputs)]
        embeddings = torch.cat([each.embeddings for each in found], 1)
        return Prediction(self.mixed(members.detach(), shares / shares.sum().clamp_min(1e-12)), embeddings, members)

    @staticmethod
    def mixed(members: Tensor, shares: Tensor) -> Tensor:
        """`[M, readers, outputs]` to `[M, outputs]`."""
        return (shares[:, None] * members).sum(1)

    @torch.enable_grad()
    def choose(self, members: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Set the shares, positive and one in all, to those of the least loss + 0.1/M Σ_k (p_k − 1/K)².

        Args:
            members: outputs of the readers, `[M, readers, outputs]`.
            loss: mean over the models, of outputs.

        Returns:
            The outputs that they give, `[M, outputs]`.
        """
        members, equal = members.detach(), 1 / members.shape[1]
        scores = self.shares.new_zeros(members.shape[1], requires_grad=True)
        search = torch.optim.LBFGS([scores], max_iter=SEARCH, line_search_fn="strong_wolfe")

        def evaluate() -> Tensor:
            search.zero_grad()
            shares = scores.softmax(0)
            value = loss(self.mixed(members, shares)) + EQUAL / len(members) * (shares - equal).square().sum()
            value.backward()
            return value

        search.step(evaluate)
        shares = scores.detach().softmax(0)
        self.shares[: len(shares)] = shares  # of what is fitted; others are not read
        return self.mixed(members, shares)


class Readers(nn.Module):
    """One readout for every group of features, each with a loss of its own, and a mixture of what they predict.

    What is read by one readout together competes: statistics of weights are learned within an epoch, and messages, which
    need more of them, then learn little. Readers that learn apart make different errors, too. The embedding is theirs,
    one after the other. Where answers of the models are read as well, one readout reads everything.

    Args:
        groups: lengths of the feature vectors of each reader; a group of none has no reader.
        config: the metanet's.
        feature_machine: whether a kernel regression on statistics of weights is mixed with them.
    """

    def __init__(self, groups: Sequence[Sequence[int]], config: ReadoutConfig, feature_machine: bool = False) -> None:
        super().__init__()
        self.apart = not config.probes and not config.lattice
        self.parts = nn.ModuleList(Readout(sizes, config) for sizes in self.arranged(groups))
        self.head = Mixture(len(self.parts), config, feature_machine)

    def arranged(self, groups: Sequence[Sequence[Feature]]) -> list[Sequence[Feature]]:
        """By reader."""
        return [group for group in groups if group] if self.apart else [list(chain.from_iterable(groups))]

    def forward(self, groups: Sequence[Sequence[Tensor]], models: Models) -> Prediction:
        """Features `[M, size]` each."""
        parts = zip(self.parts, self.arranged(groups), strict=True)
        return self.head([part(features, models) for part, features in parts], models)
