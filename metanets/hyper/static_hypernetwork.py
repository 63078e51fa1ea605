"""The static hypernetwork: one small generator makes the kernels of all layers from learned layer embeddings."""

from collections.abc import Iterator
from math import prod, sqrt
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from metanets.hyper.hypernetwork import Generated, Hypernetwork, HypernetworkConfig, HypernetworkModule, register
from metanets.hyper.target import Parameters, Problem, Target
from modelzoo.errors import UserError
from modelzoo.family import Paper, Recipe


class StaticHypernetworkConfig(HypernetworkConfig):
    """Sizes of a `StaticHypernetwork`.

    Args:
        embedding: N_z, size of a layer embedding.
        inner: d, size of the first layer's outputs.
        tile: input and output channels of the generated base kernel; larger kernels are put together from tiles.
        models: networks that are learned together; they share the generator.
    """

    embedding: int = Field(default=8, gt=0)
    inner: int = Field(default=16, gt=0)
    tile: int = Field(default=16, gt=0)
    models: int = Field(default=1, gt=0)


class KernelGenerator(nn.Module):
    """a_i = W_i z + B_i for every input channel i, K_i = ⟨W_out, a_i⟩ + B_out: two linear layers shared by all layers.

    Args:
        window: the kernel's spatial shape, `()` for a matrix.
        config: sizes.

    Shape:
        embeddings `[*, N_z]`; kernels `[*, tile out, tile in, *window]`.
    """

    def __init__(self, window: tuple[int, ...], config: StaticHypernetworkConfig) -> None:
        super().__init__()
        self.window = window
        tile, inner, size = config.tile, config.inner, config.embedding
        self.weight = nn.Parameter(torch.randn(tile, inner, size) / sqrt(size))
        self.bias = nn.Parameter(torch.zeros(tile, inner))
        self.out_weight = nn.Parameter(torch.randn(inner, tile, prod(window)) / sqrt(inner))
        self.out_bias = nn.Parameter(torch.zeros(tile, prod(window)))

    def forward(self, embeddings: Tensor) -> Tensor:
        inner = torch.einsum("idz,...z->...id", self.weight, embeddings) + self.bias
        kernels = torch.einsum("dok,...id->...oik", self.out_weight, inner) + self.out_bias[:, None]
        return kernels.unflatten(-1, self.window) if self.window else kernels.squeeze(-1)


class StaticHypernetwork(HypernetworkModule):
    """Every matrix or kernel of at least one tile is generated from the embeddings of its tiles; the rest is learned.

    There is one generator for each spatial shape of kernels. Embeddings begin at the scale of the target's own
    initialisation, tensor by tensor, so that generated kernels have that scale too.

    The conditioning is the number of a network: its embeddings and directly learned tensors.
    """

    def __init__(self, target: Target, config: StaticHypernetworkConfig) -> None:
        super().__init__()
        self.target, self.config = target, config
        self.generators = nn.ModuleDict()
        self.embeddings, self.direct = nn.ParameterDict(), nn.ParameterDict()
        for name, value in target.initial().items():
            key = name.replace(".", "/")  # dots are not allowed in the names of parameters
            if value.ndim >= 2 and min(value.shape[:2]) >= config.tile:
                window = _window(value.shape)
                if str(window) not in self.generators:
                    self.generators[str(window)] = KernelGenerator(window, config)
                grid = [-(-size // config.tile) for size in value.shape[:2]]
                scale = value.square().mean().sqrt()
                self.embeddings[key] = nn.Parameter(scale * torch.randn(config.models, *grid, config.embedding))
            else:
                self.direct[key] = nn.Parameter(value.expand(config.models, *value.shape).clone())
        if not self.embeddings:
            raise UserError(
                f"no tensor of the target has {config.tile} inputs and outputs, so nothing would be generated; choose a "
                "wider target or a smaller tile.", 2)  # fmt: skip

    def forward(self, conditioning: Tensor) -> Parameters:
        return {name: self._tensor(name.replace(".", "/"), shape, conditioning) for name, shape in self.target.shapes.items()}  # fmt: skip

    def _tensor(self, key: str, shape: tuple[int, ...], conditioning: Tensor) -> Tensor:
        if key in self.direct:
            return self.direct[key][conditioning]
        tiles = self.generators[str(_window(shape))](self.embeddings[key][conditioning])  # [M, rows, columns, o, i, …]
        whole = tiles.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return whole[:, : shape[0], : shape[1]]

    def objective(self, problem: Problem, generator: torch.Generator, batch_size: int) -> Tensor:
        parameters = self(torch.arange(self.config.models))
        return problem.losses(self.target, parameters, *problem.batch(generator, batch_size)).sum()

    @torch.no_grad()
    def samples(self, problem: Problem, count: int, generator: torch.Generator) -> Iterator[Generated]:
        """The learned networks, at most `count` of them."""
        index = torch.arange(min(count, self.config.models))
        columns: dict[str, Any] = {"network": index.numpy()}
        yield Generated(problem.config, self(index), columns)


def _window(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[2:])


HYPERNETWORK = register(
    Hypernetwork(
        name="static_hypernetwork",
        module=StaticHypernetwork,
        config=StaticHypernetworkConfig,
        paper=Paper("HyperNetworks", "Ha, Dai and Le", 2016, "S157"),
        conditioning="the number of a set of layer embeddings",
        summary="K_i = ⟨W_out, W_i z + B_i⟩ + B_out: the kernels of all layers from one generator and layer embeddings z.",
        recipe=Recipe(steps=600, batch_size=64, learning_rate=5e-3),
        tiny={"tile": 8, "embedding": 4, "inner": 4},
    )
)
