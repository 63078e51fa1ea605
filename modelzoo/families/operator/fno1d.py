"""The Fourier neural operator in one dimension."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from modelzoo.errors import UserError
from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class FNO1dConfig(FamilyConfig):
    """Sizes of an `FNO1d`: `modes` is the number of frequencies 0, …, modes - 1 that the spectral layers keep."""

    in_channels: int = Field(1, gt=0)
    out_channels: int = Field(1, gt=0)
    width: int = Field(16, gt=0)
    modes: int = Field(12, gt=0)
    depth: int = Field(3, gt=0)


class SpectralConvolution(nn.Module):
    """A convolution with a smooth kernel, as one complex matrix per kept frequency.

    y = F⁻¹(R_k (F x)_k for k < modes, 0 above).

    Shape:
        inputs and outputs `[B, width, grid]`, any grid with at least `modes` frequencies; R `[width, width, modes]`.
    """

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.weight = nn.Parameter(torch.randn(width, width, modes, dtype=torch.cfloat) / width)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x, norm="forward")[..., : self.modes]  # [B, width, modes]
        mixed = torch.einsum("bik,oik->bok", spectrum, self.weight)
        return torch.fft.irfft(mixed, n=x.shape[-1], norm="forward")


class FNO1d(nn.Module):
    """Fourier neural operator from functions to functions on a periodic interval.

    v_0 = P (a, x), v_l = gelu(W_l v_{l-1} + b_l + F⁻¹(R_l · F v_{l-1})), u = Q_2 gelu(Q_1 v_L); the same parameters
    serve every grid.

    Shape:
        inputs `[B, in_channels, grid]`; outputs `[B, out_channels, grid]`.
    """

    def __init__(self, config: FNO1dConfig) -> None:
        super().__init__()
        width = config.width
        self.lift = nn.Conv1d(config.in_channels + 1, width, 1)  # one more channel for the position
        self.spectral = nn.ModuleList(SpectralConvolution(width, config.modes) for _ in range(config.depth))
        self.local = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(config.depth))
        self.project = nn.Sequential(nn.Conv1d(width, width, 1), nn.GELU(), nn.Conv1d(width, config.out_channels, 1))

    def forward(self, a: Tensor) -> Tensor:
        grid = a.shape[-1]
        position = torch.arange(grid, dtype=a.dtype, device=a.device) / grid
        v = self.lift(torch.cat([a, position.expand(len(a), 1, grid)], 1))
        for spectral, local in zip(self.spectral, self.local, strict=True):
            v = nn.functional.gelu(local(v) + spectral(v))
        return self.project(v)


def adapt(task: Task) -> dict[str, Any]:
    """Channels from the task's shapes, and no more modes than half its grid."""
    (channels, grid), (out_channels, out_grid) = task.inputs.shape, task.targets.shape
    if grid != out_grid:
        raise UserError(
            f"family 'fno1d' gives functions on the grid of its input, task {task.name!r} has {task.inputs} and "
            f"{task.targets}.", 2)  # fmt: skip
    return {"in_channels": channels, "out_channels": out_channels, "modes": min(12, grid // 2)}


FAMILY = register(
    Family(
        name="fno1d",
        module=FNO1d,
        config=FNO1dConfig,
        task="burgers",
        accepts=frozenset({"function"}),
        predicts=frozenset({"function"}),
        adapt=adapt,
        paper=Paper("Fourier Neural Operator for Parametric Partial Differential Equations", "Li et al.", 2021),
        equation="v_l = gelu(W_l v_{l-1} + b_l + F⁻¹(R_l · F v_{l-1}))",
        symmetry="GL(width) between the lift and the first layer, S_width in every later one",
        recipe=Recipe(steps=400, learning_rate=5e-3),
        tiny={"width": 8, "modes": 8, "depth": 2},
        tiny_recipe=Recipe(steps=150, learning_rate=1e-2, batch_size=32),
        margin=0.5,
        variants={"wide": {"width": 32}},
    )
)
