"""What every metanet ends in: invariant features, and answers to learned probes, to an embedding and a prediction.

"Learning to Probe: Deep Linear Probe Generators for Weight Space Learning" (Kahana, Horwitz, Shuval and Hoshen, 2025): models
are evaluated at inputs that a generator without activations makes from learned codes; without nonlinearity it cannot
overfit to inputs that no data looks like.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from metanets.batching import ModelFunction, Models
from metanets.metanet import MetanetConfig, Prediction
from modelzoo.errors import UserError


class ReadoutConfig(MetanetConfig):
    """Sizes of a `Readout`; with `probes` the models themselves are evaluated at that many learned inputs."""

    embedding: int = Field(64, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    probes: int = Field(0, ge=0)
    probe_shape: tuple[int, ...] = ()
    probe_outputs: int = Field(1, gt=0)


class Probes(nn.Module):
    """Answers of every model to inputs x_q = W_2 W_1 z_q + b with learned codes z_q.

    Args:
        count: Q.
        shape: of one input.
        latent: length of a code.

    Shape:
        models to `[M, Q, outputs]`.
    """

    def __init__(self, count: int, shape: Sequence[int], latent: int = 32) -> None:
        super().__init__()
        self.shape, size = tuple(shape), int(torch.Size(shape).numel())
        self.codes = nn.Parameter(torch.randn(count, latent))
        self.inner, self.outer = nn.Linear(latent, 2 * latent, bias=False), nn.Linear(2 * latent, size)
        nn.init.normal_(self.inner.weight, std=latent**-0.5)
        nn.init.normal_(self.outer.weight, std=0.5 * (2 * latent) ** -0.5)

    def forward(self, models: Models) -> Tensor:
        if models.function is None:
            raise UserError("this metanet probes: its models must come with their function.", 2)
        return models.function(self.outer(self.inner(self.codes)).unflatten(1, self.shape))


class Readout(nn.Module):
    """Normalised invariant features to an embedding and outputs.

    Args:
        sizes: lengths of the feature vectors.
        config: the metanet's.
    """

    def __init__(self, sizes: Sequence[int], config: ReadoutConfig) -> None:
        super().__init__()
        self.probes = Probes(config.probes, config.probe_shape) if config.probes else None
        every = [*sizes, config.probes * config.probe_outputs] if config.probes else list(sizes)
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
        every = list(features) if self.probes is None else [*features, self.probes(models).flatten(1)]
        embeddings = self.body(torch.cat([norm(part) for norm, part in zip(self.norms, every, strict=True)], -1))
        return Prediction(self.head(embeddings), embeddings)


def probed(training: Sequence[Models]) -> tuple[tuple[int, ...], int] | None:
    """Shape of one input and number of outputs of the models, None where they are not functions of one such shape."""
    shapes = set()
    for models in training:
        if models.function is None:
            return None
        one = {name: tensor[:1] for name, tensor in models.function.tensors.items()}
        dtype = next(t.dtype for t in one.values() if t.is_floating_point())
        function = ModelFunction(models.function.template, one, models.function.shape)
        with torch.no_grad():
            shapes.add((function.shape, function(torch.zeros(1, *function.shape, dtype=dtype)).shape[-1]))
    return shapes.pop() if len(shapes) == 1 else None


def probe_shapes(training: Sequence[Models], fields: Mapping[str, Any], default: int = 0) -> dict[str, Any]:
    """The config fields of probes: their number where it is not set by hand and models can be probed, and their shapes.

    Raises:
        UserError: probes are set by hand, and the models do not take one real tensor and give outputs, all of one shape.
    """
    shapes = probed(training) if fields.get("probes", default) else None
    if fields.get("probes") and shapes is None:
        raise UserError("probes need models that take one real tensor, all of the same shape, and give outputs of the same size; leave probes at 0.", 2)  # fmt: skip
    if shapes is None:
        return {}
    return {"probes": fields.get("probes", default), "probe_shape": shapes[0], "probe_outputs": shapes[1]}
