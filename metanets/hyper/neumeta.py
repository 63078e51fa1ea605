"""Neural Metamorphosis: the weights of networks of every width as one smooth function of coordinates."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

import graphs
from graphs.factors import PermutationFactor
from graphs.symmetry import permutation_group
from metanets.hyper.hypernetwork import (
    Generated,
    Hypernetwork,
    HypernetworkConfig,
    HypernetworkModule,
    Report,
    descend,
    register,
)
from metanets.hyper.target import Parameters, Problem, Target
from modelzoo.errors import UserError
from modelzoo.family import FamilyConfig, Paper, Recipe

Widths = tuple[int, ...]


class NeuMetaConfig(HypernetworkConfig):
    """Sizes of a `NeuMeta`.

    Args:
        hidden: width of the coordinate networks.
        blocks: their residual blocks.
        frequencies: octaves of the Fourier features.
        lowest: smallest share of the full width that is trained and sampled.
        held_out: widths of the first layer that are never trained.
        smooth: whether the full-size network's units are ordered first.
        noise: half-width of the uniform noise on positions, in units of the full-size network.
        reconstruction: weight of the distance to the smoothed full-size network.
        decay: weight of the squared generated parameters.
        pretraining: steps of the full-size network.
        average: perturbed samples that are averaged when a network is made.
    """

    hidden: int = Field(default=64, gt=0)
    blocks: int = Field(default=2, ge=0)
    frequencies: int = Field(default=4, ge=0)
    lowest: float = Field(default=0.25, gt=0, le=1)
    held_out: tuple[int, ...] = ()
    smooth: bool = True
    noise: float = Field(default=0.5, ge=0)
    reconstruction: float = Field(default=3.0, ge=0)
    decay: float = Field(default=1e-4, ge=0)
    pretraining: int = Field(default=300, ge=0)
    average: int = Field(default=8, gt=0)


class CoordinateNetwork(nn.Module):
    """γ(v) = [v, sin 2^k πv, cos 2^k πv], then a residual perceptron to the entries of one kernel.

    Shape:
        input `[points, 4]` in [0, 1]; output `[points, outputs]`.
    """

    def __init__(self, outputs: int, config: NeuMetaConfig) -> None:
        super().__init__()
        self.frequencies = config.frequencies
        self.first = nn.Linear(4 * (1 + 2 * config.frequencies), config.hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(config.hidden, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.hidden))
            for _ in range(config.blocks)
        )
        self.last = nn.Linear(config.hidden, outputs)
        nn.init.normal_(self.last.weight, std=(2 / config.hidden) ** 0.5)  # outputs of about unit size

    def forward(self, coordinates: Tensor) -> Tensor:
        angles = [torch.pi * 2**k * coordinates for k in range(self.frequencies)]
        features = self.first(torch.cat([coordinates, *(f(a) for a in angles for f in (torch.sin, torch.cos))], -1))
        for block in self.blocks:
            features = features + block(features.relu())
        return self.last(features.relu())


class NeuMeta(HypernetworkModule):
    """θ_t[o, i] = s_t N_i/n_i F_t(γ(o/n_o, i/n_i, n_o/N_o, n_i/N_i)) for a network of widths n, out of one of widths N.

    A narrower network samples the same weight manifold more coarsely; the factor N_i/n_i keeps sums over inputs, which
    are Riemann sums, at their size. There is one coordinate network F_t for each tensor. It learns three things at once: the task at a random width, the full-size network, small weights; and
    positions carry noise, so that the manifold is defined between the grids too.

    The full-size network is trained first and made smooth: its units are put in the order that minimises the total
    variation of the weights, a shortest Hamiltonian path for every symmetric factor of its symmetry group. That leaves
    its function unchanged.

    What does not scale with the width (pixels, classes, kernel taps) is an output of the coordinate network, not a
    coordinate. The conditioning is a tuple of widths; any width can be sampled after training.
    """

    def __init__(self, target: Target, config: NeuMetaConfig) -> None:
        super().__init__()
        if target.member is None:
            raise UserError("a module of no family has no other widths; make the target with Target.of.", 2)
        self.target, self.config = target, config
        family, member = target.member
        self.of_widths = cache(lambda widths: Target.of(family, resized(member, widths)))
        half = self.of_widths(tuple(width + 1 for width in widths_of(member))).shapes
        self.free = {  # dimensions that scale with the width
            name: [k for k, size in enumerate(shape) if size != half[name][k]] for name, shape in target.shapes.items()
        }
        fixed = [
            prod(n for k, n in enumerate(shape) if k not in self.free[name]) for name, shape in target.shapes.items()
        ]
        self.networks = nn.ModuleList(CoordinateNetwork(size, config) for size in fixed)
        # Biases that begin at zero still have to be reachable: they get the scale of a usual bias.
        self.scales = [float(value.square().mean().sqrt()) or 0.1 for value in target.initial().values()]

    def forward(self, conditioning: Widths) -> Parameters:
        return self.generate(self.of_widths(tuple(conditioning)), None)

    def generate(self, narrow: Target, generator: torch.Generator | None) -> Parameters:
        """Parameters `{name: [1, *shape]}` of a target of another width, with noise on positions if a generator is given."""
        made = {}
        for network, scale, (name, shape) in zip(self.networks, self.scales, narrow.shapes.items(), strict=True):
            free, full = self.free[name], self.target.shapes[name]
            points = self._coordinates([shape[k] for k in free], [full[k] for k in free], generator)
            fan_in = full[1] / shape[1] if len(shape) > 1 else 1.0
            order = [*free, *(k for k in range(len(shape)) if k not in free)]
            values = (scale * fan_in * network(points)).view([shape[k] for k in order])
            made[name] = values.permute([order.index(k) for k in range(len(shape))])[None]
        return made

    def _coordinates(self, sizes: list[int], full: list[int], generator: torch.Generator | None) -> Tensor:
        """Positions and shares of the full width at every point of the grid, `[points, 4]`; what is missing is zero."""
        positions = [(torch.arange(size) + 0.5) / size for size in sizes]
        columns = [axis.flatten() for axis in torch.meshgrid(*positions, indexing="ij")] if sizes else []
        if generator is not None:
            for k, size in enumerate(full):
                noise = 2 * torch.rand(len(columns[k]), generator=generator) - 1
                columns[k] = columns[k] + self.config.noise / size * noise
        points = prod(sizes)
        columns += [torch.full((points,), size / whole) for size, whole in zip(sizes, full, strict=True)]
        return torch.stack(columns + [torch.zeros(points)] * (4 - len(columns)), -1)

    def averaged(self, narrow: Target, generator: torch.Generator) -> Parameters:
        """The mean of several perturbed samples of one network."""
        made = [self.generate(narrow, generator) for _ in range(self.config.average)]
        return {name: torch.stack([each[name] for each in made]).mean(0) for name in made[0]}

    def fit(self, problem: Problem, recipe: Recipe, seed: int, report: Report | None = None) -> None:
        """Train and smooth the full-size network, then the manifold."""
        module = problem.family.build(problem.config, seed).train()
        generator = torch.Generator().manual_seed(seed)

        def direct() -> Tensor:
            inputs, targets = problem.batch(generator, recipe.batch_size)
            return problem.task.loss(module(*inputs), targets)

        if self.config.pretraining:
            descend(module, direct, Recipe(steps=self.config.pretraining, learning_rate=5e-3))
        trained = {name: value.detach() for name, value in module.named_parameters()}
        self.learn(problem, smoothed(module, problem) if self.config.smooth else trained, recipe, seed, report)

    def learn(
        self, problem: Problem, full: Mapping[str, Tensor], recipe: Recipe, seed: int, report: Report | None = None
    ) -> None:
        """Train the manifold around a full-size network."""
        whole, generator = widths_of(problem.config), torch.Generator().manual_seed(seed)
        # The scale of a trained tensor is known: the coordinate networks' outputs are of unit size.
        self.scales = [float(value.square().mean().sqrt()) or 0.1 for value in full.values()]
        goal = torch.cat([full[name].flatten() / s for name, s in zip(self.target.shapes, self.scales, strict=True)])

        def loss() -> Tensor:
            while True:
                share = self.config.lowest + (1 - self.config.lowest) * float(torch.rand((), generator=generator))
                widths = scaled(whole, share)
                if widths[0] not in self.config.held_out:
                    break
            narrow = self.of_widths(widths)
            made = self.generate(narrow, generator)
            value = problem.losses(narrow, made, *problem.batch(generator, recipe.batch_size)).sum()
            again = self.generate(self.target, generator)
            flat = torch.cat([again[name].flatten() / s for name, s in zip(again, self.scales, strict=True)])
            size = narrow.join(made).square().sum()
            return value + self.config.reconstruction * (flat - goal).square().mean() + self.config.decay * size

        descend(self, loss, recipe, report)

    @torch.no_grad()
    def samples(self, problem: Problem, count: int, generator: torch.Generator) -> Iterator[Generated]:
        """One network of each of `count` widths from the narrowest to the full one."""
        for share in np.linspace(self.config.lowest, 1, count) if count > 1 else (1.0,):
            widths = scaled(widths_of(problem.config), float(share))
            made = self.averaged(self.of_widths(widths), generator)
            columns: dict[str, Any] = {"width": np.array([float(share)])}
            yield Generated(resized(problem.config, widths), made, columns)


def _field(config: FamilyConfig) -> str:
    """The config field that lists the widths."""
    for name in ("channels", "hidden"):
        if isinstance(getattr(config, name, None), tuple):
            return name
    raise UserError(
        f"{type(config).__name__} has no list of widths (`channels` or `hidden`); choose a family such as small_cnn or mlp.", 2
    )  # fmt: skip


def widths_of(config: FamilyConfig) -> Widths:
    """The widths of an architecture."""
    return tuple(getattr(config, _field(config)))


def resized(config: FamilyConfig, widths: Widths) -> FamilyConfig:
    """The architecture with other widths."""
    return config.model_copy(update={_field(config): widths})


def scaled(widths: Widths, share: float) -> Widths:
    """A share of every width, at least one unit."""
    return tuple(max(1, round(share * width)) for width in widths)


def smoothed(module: nn.Module, problem: Problem) -> dict[str, Tensor]:
    """The module's parameters with every layer's units along a shortest Hamiltonian path; the function is the same."""
    return reordered(module, problem, lambda units: hamiltonian_path(torch.cdist(units, units, p=1).numpy()))


def reordered(module: nn.Module, problem: Problem, order: Callable[[Tensor], NDArray[np.intp]]) -> dict[str, Tensor]:
    """The module's parameters with every layer's units in another order; the function is the same.

    Args:
        module: a member of the problem's family.
        problem: for its example inputs.
        order: from all weights of a layer's units, `[unit, weights]`, to the units in their new order.
    """
    module = module.eval()
    group = permutation_group(graphs.trace(module, problem.task.example_inputs()))
    parameters = {name: value.detach() for name, value in module.named_parameters()}
    chosen = {}
    for factor in group.factors:
        if isinstance(factor, PermutationFactor) and len(factor.identity()) == 1:
            place = np.argsort(order(_units(factor, parameters).double()))
            chosen[factor.name] = torch.from_numpy(place)[None]
    return dict(group.element(chosen).apply(parameters))


def _units(factor: PermutationFactor, parameters: Mapping[str, Tensor]) -> Tensor:
    """What a factor moves, one row a unit."""
    rows = []
    for slot in factor.slots:
        if slot.tensor in parameters:
            for dim in slot.dims:
                rows.append(parameters[slot.tensor].movedim(dim, 0).reshape(parameters[slot.tensor].shape[dim], -1))
    return torch.cat(rows, 1)


def hamiltonian_path(distances: NDArray[np.float64], restarts: int = 8) -> NDArray[np.intp]:
    """A short path through all points: nearest neighbours from several ends, then 2-opt until nothing improves.

    Args:
        distances: symmetric, `[n, n]`.
        restarts: first points that are tried.

    Returns:
        The points in order.
    """
    count = len(distances)
    best, least = np.arange(count), float("inf")
    for start in np.linspace(0, count - 1, min(restarts, count)).astype(int):
        left, path = set(range(count)) - {int(start)}, [int(start)]
        while left:
            path.append(min(left, key=lambda point: distances[path[-1], point]))
            left.remove(path[-1])
        order = _two_opt(np.array(path), distances)
        length = float(distances[order[:-1], order[1:]].sum())
        if length < least:
            best, least = order, length
    return best


def _two_opt(order: NDArray[np.intp], distances: NDArray[np.float64]) -> NDArray[np.intp]:
    """Reverse stretches of an open path while that shortens it."""
    count = len(order)
    padded = np.pad(distances, (0, 1))  # the last point is at distance zero from all: both ends are free
    improved = True
    while improved:
        improved = False
        for first in range(count - 1):
            for last in range(first + 1, count):
                before, after = (order[first - 1] if first else count), (order[last + 1] if last + 1 < count else count)
                gain = padded[before, order[first]] + padded[order[last], after]
                gain -= padded[before, order[last]] + padded[order[first], after]
                if gain > 1e-12:
                    order[first : last + 1] = order[first : last + 1][::-1].copy()
                    improved = True
    return order


HYPERNETWORK = register(
    Hypernetwork(
        name="neumeta",
        module=NeuMeta,
        config=NeuMetaConfig,
        paper=Paper("Neural Metamorphosis", "Yang and Wang", 2024, "S073"),
        conditioning="the widths of an architecture",
        summary="Weights as a smooth function of (layer, input, output) coordinates: networks of any width without retraining.",
        recipe=Recipe(steps=800, batch_size=64, learning_rate=3e-3),
        tiny={"hidden": 16, "pretraining": 2},
        family="mlp",
    )
)
