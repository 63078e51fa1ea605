"""PRANC: a network as a seed and a few coefficients of pseudo-random networks."""

import struct
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from metanets.hyper.hypernetwork import Generated, Hypernetwork, HypernetworkConfig, HypernetworkModule, register
from metanets.hyper.target import Parameters, Problem, Target
from modelzoo.errors import UserError
from modelzoo.family import Paper, Recipe

HEADER = struct.Struct("<4sBQI")  # magic, version, seed, number of coefficients
MAGIC, VERSION = b"PRNC", 1


class PRANCConfig(HypernetworkConfig):
    """Size of a `PRANC`.

    Args:
        coefficients: k, numbers that are learned and stored for a model.
        seed: of the basis.
        models: networks that are learned together on one basis.
        chunk: basis networks that are generated at once.
        held: basis entries that are kept in memory instead of being generated again each time.
    """

    coefficients: int = Field(default=256, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**64)
    models: int = Field(default=1, gt=0)
    chunk: int = Field(default=32, gt=0)
    held: int = Field(default=2**24, ge=0)


class Basis:
    """θ̂_1 … θ̂_k: frozen pseudo-random networks with entries uniform on ±√3 times the scale of each tensor.

    Entries come straight from the bits of the counter-based generator Philox, keyed by (seed, tensor) and counted by the
    basis network's number, so any tensor of any basis network can be made alone, the same on every machine.

    Args:
        target: whose shapes and scales of initialisation are used.
        config: seed and sizes.
    """

    def __init__(self, target: Target, config: PRANCConfig) -> None:
        self.config = config
        self.shapes = target.shapes
        # Biases that begin at zero still have to be reachable: they get the scale of a usual bias.
        self.scales = [float(value.square().mean().sqrt()) or 0.1 for value in target.initial().values()]
        self._kept: dict[tuple[int, int], Tensor] = {}

    def block(self, tensor: int, start: int) -> Tensor:
        """Entries of one tensor in the basis networks `start … start + chunk`, `[chunk, size of the tensor]`."""
        if (tensor, start) in self._kept:
            return self._kept[tensor, start]
        size = prod(list(self.shapes.values())[tensor])
        stop = min(start + self.config.chunk, self.config.coefficients)
        rows = []
        for number in range(start, stop):
            bits = np.random.Philox(key=[self.config.seed, tensor], counter=[0, 0, 0, number])
            raw = np.asarray(bits.random_raw(-(-size // 2)), np.uint64).view(np.uint32)[:size]
            rows.append((raw >> 8).astype(np.float32) * np.float32(2.0**-23) - 1)
        made = torch.from_numpy(np.stack(rows)) * (3**0.5 * self.scales[tensor])
        held = sum(block.numel() for block in self._kept.values())
        if held + made.numel() <= self.config.held:
            self._kept[tensor, start] = made
        return made

    def combine(self, tensor: int, coefficients: Tensor) -> Tensor:
        """Σ_j α_j θ̂_j of one tensor, `[M, k]` to `[M, size of the tensor]`; differentiable in α, never the whole basis."""
        return _Combine.apply(coefficients, self, tensor)

    def starts(self) -> range:
        """The first basis network of every chunk."""
        return range(0, self.config.coefficients, self.config.chunk)


class _Combine(torch.autograd.Function):
    """∂L/∂α_j = ⟨∂L/∂θ, θ̂_j⟩: the blocks of the basis are generated again in the backward pass."""

    @staticmethod
    def forward(context: Any, coefficients: Tensor, basis: Basis, tensor: int) -> Tensor:
        context.basis, context.tensor = basis, tensor
        parts = coefficients.split(basis.config.chunk, -1)
        blocks = (part @ basis.block(tensor, start) for part, start in zip(parts, basis.starts(), strict=True))
        total = next(blocks)
        for block in blocks:
            total = total + block
        return total

    @staticmethod
    def backward(context: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        basis: Basis = context.basis
        blocks = [gradients[0] @ basis.block(context.tensor, start).T for start in basis.starts()]
        return torch.cat(blocks, -1), None, None


class PRANC(HypernetworkModule):
    """θ = Σ_j α_j θ̂_j: only α `[k]` is learned, and stored with the seed of the frozen basis.

    The conditioning is the number of a coefficient vector, one for each network that is learned.
    """

    def __init__(self, target: Target, config: PRANCConfig) -> None:
        super().__init__()
        self.target = target
        self.basis = Basis(target, config)
        k = config.coefficients
        self.coefficients = nn.Parameter(torch.randn(config.models, k) / k**0.5)

    def forward(self, conditioning: Tensor) -> Parameters:
        return {name: self.tensor(name, conditioning) for name in self.target.shapes}

    def tensor(self, name: str, conditioning: Tensor) -> Tensor:
        """One tensor of the networks alone, `[M, *shape]`: a layer can be made when it is needed, and dropped."""
        number = list(self.target.shapes).index(name)
        made = self.basis.combine(number, self.coefficients[conditioning])
        return made.unflatten(-1, self.target.shapes[name]) if self.target.shapes[name] else made.squeeze(-1)

    def objective(self, problem: Problem, generator: torch.Generator, batch_size: int) -> Tensor:
        parameters = self(torch.arange(len(self.coefficients)))
        losses = problem.losses(self.target, parameters, *problem.batch(generator, batch_size))
        return losses.sum()  # the networks are independent

    @torch.no_grad()
    def samples(self, problem: Problem, count: int, generator: torch.Generator) -> Iterator[Generated]:
        index = torch.arange(min(count, len(self.coefficients)))
        seeds = np.full(len(index), self.basis.config.seed)
        columns: dict[str, Any] = {"basis_seed": seeds, "coefficients": np.full(len(index), self.coefficients.shape[1])}
        yield Generated(problem.config, self(index), columns)

    def to_bytes(self, model: int = 0) -> bytes:
        """One network as 17 bytes of header (magic, version, seed, k) and k half-precision coefficients."""
        alpha = self.coefficients[model].detach().half().numpy().astype("<f2")
        return HEADER.pack(MAGIC, VERSION, self.basis.config.seed, len(alpha)) + alpha.tobytes()

    @classmethod
    def from_bytes(cls, target: Target, data: bytes) -> "PRANC":
        """The network of `to_bytes`; the target must be the architecture it was made for, with the same initial scales.

        Raises:
            UserError: the bytes are not such a network.
        """
        if len(data) < HEADER.size or data[:4] != MAGIC:
            raise UserError("these bytes are not a network of pseudo-random networks; they do not begin with 'PRNC'.")
        _, version, seed, count = HEADER.unpack_from(data)
        if version != VERSION or len(data) != HEADER.size + 2 * count:
            raise UserError(f"the network is of version {version} or cut short; expected version {VERSION}.")
        found = cls(target, PRANCConfig(coefficients=count, seed=seed))
        alpha = torch.from_numpy(np.frombuffer(data, "<f2", offset=HEADER.size).astype(np.float32))
        with torch.no_grad():
            found.coefficients.copy_(alpha[None])
        return found


HYPERNETWORK = register(
    Hypernetwork(
        name="pranc",
        module=PRANC,
        config=PRANCConfig,
        paper=Paper("PRANC: Pseudo RAndom Networks for Compacting deep models", "Nooralinejad et al.", 2023, "S135"),
        conditioning="the number of a coefficient vector",
        summary="θ = Σ_j α_j θ̂_j over a seeded frozen basis: a network in a few hundred bytes.",
        recipe=Recipe(steps=400, batch_size=128, learning_rate=1e-2),
        tiny={"coefficients": 32},
    )
)
