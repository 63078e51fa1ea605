"""The baseline without symmetry: a multi-layer perceptron on the flattened weights of one architecture."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from metanets.batching import Models
from metanets.metanet import Metanet, MetanetConfig, MetanetModule, Prediction, register
from modelzoo.family import Paper


class FlatMLPConfig(MetanetConfig):
    """Sizes of a `FlatMLP`; `entries` is the number of weights of the architecture."""

    entries: int = Field(1, gt=0)
    width: int = Field(128, gt=0)
    layers: int = Field(3, gt=1)
    dropout: float = Field(0.2, ge=0, lt=1)


class FlatMLP(MetanetModule):
    """An MLP on standardised, flattened weights; hidden neurons that change places change its output.

    Shape:
        a batch of models of one architecture; outputs `[model, outputs]`, embeddings `[model, width]`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: FlatMLPConfig) -> None:
        super().__init__()
        sizes = [config.entries, *[config.width] * (config.layers - 1)]
        self.register_buffer("mean", torch.zeros(config.entries))
        self.register_buffer("deviation", torch.ones(config.entries))
        blocks: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            blocks += [nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Dropout(config.dropout)]
        self.body, self.head = nn.Sequential(*blocks), nn.Linear(config.width, config.outputs)

    def calibrate(self, training: Sequence[Models]) -> None:
        values = torch.cat([models.values.T for models in training])
        self.mean.copy_(values.mean(0))
        self.deviation.copy_(values.std(0, correction=0).clamp_min(1e-8))

    def embed(self, models: Models) -> Prediction:
        embeddings = self.hidden(models)
        return Prediction(self.head(embeddings), embeddings)

    def hidden(self, models: Models) -> Tensor:
        """States `[M, width]`."""
        return self.body((models.values.T.to(self.mean.dtype) - self.mean) / self.deviation)

    def edge_head(self) -> nn.Module:
        return nn.Linear(self.head.in_features, len(self.mean))

    def edge_outputs(self, models: Models, head: nn.Module) -> Tensor:
        return head(self.hidden(models)).T


def adapt(training: Sequence[Models], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The number of weights."""
    return {"entries": training[0].topology.edges}


METANET = register(
    Metanet(
        name="flat_mlp",
        module=FlatMLP,
        config=FlatMLPConfig,
        paper=(Paper("Classifying the classifier: dissecting the weight space of neural networks", "Eilertsen et al.", 2020),),
        equivariance="none",
        summary="The baseline that knows no symmetry: a perceptron on flattened weights.",
        tiny={"width": 16},
        one_architecture=True,
        adapt=adapt,
        recipe={"learning_rate": 2e-3, "weight_decay": 0.05},
    )
)  # fmt: skip
