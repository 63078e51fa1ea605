"""From a feature vector to the parameters of a target: one trunk, three kinds of heads, chosen by config."""

from math import sqrt
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from metanets.hyper.hypernetwork import HypernetworkConfig
from metanets.hyper.target import Parameters, Target

ACTIVATIONS: dict[str, type[nn.Module]] = {"leaky_relu": nn.LeakyReLU, "relu": nn.ReLU, "tanh": nn.Tanh}


class HeadsConfig(HypernetworkConfig):
    """Trunk and heads of a hypernetwork.

    Args:
        hidden: widths of the trunk; empty for a linear hypernetwork.
        activation: of the trunk.
        bias: whether the layers have biases.
        heads: `shared` one linear map to all parameters, `per_tensor` one for each parameter tensor, `chunked` one small
            map from the features and a learned chunk embedding to each chunk of the flat parameter vector.
        chunk: entries of a chunk.
        chunk_embedding: size of a chunk's embedding.
        output_scale: size of the generated parameters at the start, relative to the target's own initialisation.
    """

    hidden: tuple[int, ...] = (32, 32)
    activation: Literal["leaky_relu", "relu", "tanh"] = "leaky_relu"
    bias: bool = True
    heads: Literal["shared", "per_tensor", "chunked"] = "per_tensor"
    chunk: int = Field(default=256, gt=0)
    chunk_embedding: int = Field(default=16, gt=0)
    output_scale: float = Field(default=1.0, ge=0)


class Heads(nn.Module):
    """h = MLP(c), then θ_t = W_t h + b_t (per tensor), θ = W h + b (shared), or chunk_j = W MLP(c, e_j) + b (chunked).

    Biases begin at zero and trunk weights at Kaiming's scale, so that features are as large as the conditioning; heads
    begin at the scale of the target's own initialisation.

    Args:
        features: size of c.
        target: whose parameters come out.
        config: sizes and kind.

    Shape:
        input `[M, features]`; outputs `{name: [M, *shape]}`.
    """

    def __init__(self, features: int, target: Target, config: HeadsConfig) -> None:
        super().__init__()
        self.target = target
        self.kind = config.heads
        if self.kind == "chunked":
            self.chunks = nn.Parameter(torch.randn(-(-target.size // config.chunk), config.chunk_embedding))
            features += config.chunk_embedding
        layers: list[nn.Module] = []
        for width in config.hidden:
            layers += [_linear(features, width, config.bias, sqrt(2)), ACTIVATIONS[config.activation]()]
            features = width
        self.trunk = nn.Sequential(*layers)
        scales = [value.square().mean().sqrt().expand(value.numel()) for value in target.initial().values()]
        every = torch.cat(scales)
        rows = {"shared": [every], "per_tensor": scales, "chunked": [every.mean().expand(config.chunk)]}[self.kind]
        self.heads = nn.ModuleList(
            _linear(features, len(own), config.bias, config.output_scale * own[:, None]) for own in rows
        )

    def forward(self, conditioning: Tensor) -> Parameters:
        if self.kind == "chunked":
            models, chunks = len(conditioning), len(self.chunks)
            every = [conditioning[:, None].expand(-1, chunks, -1), self.chunks.expand(models, -1, -1)]
            conditioning = torch.cat(every, -1)
        features = self.trunk(conditioning)
        flat = torch.cat([head(features) for head in self.heads], -1)  # [M, size], or [M, chunks, chunk]
        return self.target.split(flat.flatten(1)[:, : self.target.size])


def _linear(fan_in: int, fan_out: int, bias: bool, gain: float | Tensor) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out, bias)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(fan_out, fan_in) * gain / sqrt(fan_in))
        if bias:
            layer.bias.zero_()
    return layer
