"""Magnitude invariant parametrisation: a hypernetwork whose outputs do not grow with its inputs."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from metanets.hyper.heads import Heads, HeadsConfig
from metanets.hyper.hypernetwork import Generated, Hypernetwork, HypernetworkModule, register
from metanets.hyper.target import Parameters, Problem, Target
from modelzoo.family import Paper, Recipe

SMALLEST, LARGEST = -6.0, -2.0  # log10 of the weight decay at γ = 0 and γ = 1


class MIPConfig(HeadsConfig):
    """Sizes of a `MIP`; without `encode` and `residual` it is the plain hypernetwork.

    Args:
        conditioning: size of γ.
        encode: whether γ is encoded at constant norm.
        residual: whether parameters are changes of a learned θ_0.
    """

    conditioning: int = Field(default=1, gt=0)
    encode: bool = True
    residual: bool = True
    output_scale: float = Field(default=0.1, ge=0)


def encoding(conditioning: Tensor) -> Tensor:
    """E(γ) = [cos(πγ/2), sin(πγ/2)], of norm √d for every γ in [0, 1]^d; `[M, d]` to `[M, 2d]`."""
    angle = conditioning * (torch.pi / 2)
    return torch.cat([angle.cos(), angle.sin()], -1)


class MagnitudeInvariant(nn.Module):
    """θ = θ_0 + h(E(γ)) around any hypernetwork h.

    The parameters that a piecewise linear h gives are proportional to ‖γ‖ at initialisation, and so are the activations
    of the target and the variance of the gradients; the encoding has constant norm, and the additive form leaves the
    scale of the weights to θ_0, which begins as the target's usual initialisation.

    Args:
        build: makes h from the size of its input.
        conditioning: size of γ.
        target: whose parameters come out.
        encode: use E(γ) instead of γ.
        residual: use θ_0.

    Shape:
        input γ `[M, conditioning]` in [0, 1]; outputs `{name: [M, *shape]}`.
    """

    def __init__(
        self, build: Callable[[int], nn.Module], conditioning: int, target: Target, encode: bool = True, residual: bool = True
    ) -> None:  # fmt: skip
        super().__init__()
        self.encode = encode
        self.inner = build(2 * conditioning if encode else conditioning)
        self.names = list(target.shapes) if residual else []
        self.base = nn.ParameterList(nn.Parameter(target.initial()[name]) for name in self.names)

    def forward(self, conditioning: Tensor) -> Parameters:
        found = self.inner(encoding(conditioning) if self.encode else conditioning)
        return found | {name: base + found[name] for name, base in zip(self.names, self.base, strict=True)}


class MIP(HypernetworkModule):
    """Parameters for every weight decay: γ in [0, 1] to the minimiser of L(θ) + λ(γ)/2 ‖θ‖², log10 λ = -6 + 4γ.

    Further entries of γ are spare inputs, drawn uniformly like the first.
    """

    def __init__(self, target: Target, config: MIPConfig) -> None:
        super().__init__()
        self.target = target
        self.size = config.conditioning
        self.model = MagnitudeInvariant(
            lambda size: Heads(size, target, config), config.conditioning, target, config.encode, config.residual
        )

    def forward(self, conditioning: Tensor) -> Parameters:
        return self.model(conditioning)

    def objective(self, problem: Problem, generator: torch.Generator, batch_size: int) -> Tensor:
        gamma = torch.rand(8, self.size, generator=generator)
        parameters = self(gamma)
        penalty = self.target.join(parameters).square().sum(-1) / 2
        losses = problem.losses(self.target, parameters, *problem.batch(generator, batch_size))
        return (losses + weight_decay(gamma[:, 0]) * penalty).mean()

    @torch.no_grad()
    def samples(self, problem: Problem, count: int, generator: torch.Generator) -> Iterator[Generated]:
        gamma = torch.rand(count, self.size, generator=generator)
        gamma[:, 0] = torch.linspace(0, 1, count)
        columns: dict[str, Any] = {"weight_decay": weight_decay(gamma[:, 0]).numpy()}
        yield Generated(problem.config, self(gamma), columns)


def weight_decay(gamma: Tensor) -> Tensor:
    """λ(γ) = 10^(-6 + 4γ)."""
    return 10 ** (SMALLEST + (LARGEST - SMALLEST) * gamma)


HYPERNETWORK = register(
    Hypernetwork(
        name="mip",
        module=MIP,
        config=MIPConfig,
        paper=Paper(
            "Magnitude Invariant Parametrizations Improve Hypernetwork Learning", "Gonzalez Ortiz et al.", 2024, "S168"
        ),
        conditioning="a weight decay",
        summary="θ = θ_0 + h([cos πγ/2, sin πγ/2]): generated weights whose size does not follow that of the input.",
        recipe=Recipe(steps=800, batch_size=128, learning_rate=3e-3),
        tiny={"hidden": (16,)},
    )
)
