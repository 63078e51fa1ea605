"""The Fourier neural operator: convolution theorem and independence of the grid."""

from typing import TypeVar

import torch

from modelzoo.families.operator.fno1d import FNO1d, FNO1dConfig, SpectralConvolution


def waves(grid: int) -> torch.Tensor:
    """Band-limited functions on a periodic grid, `[2, 3, grid]`."""
    x = torch.arange(grid, dtype=torch.double) / grid
    phase = 2 * torch.pi * x
    rows = [torch.sin(phase), torch.cos(3 * phase) + 0.5, torch.sin(2 * phase + 1), phase.cos(), 0 * x + 1, phase.sin()]
    return torch.stack(rows).view(2, 3, grid)


Module = TypeVar("Module", bound=torch.nn.Module)


def double(module: Module) -> Module:
    """`module.double()`, with complex parameters too."""
    module.double()
    for parameter in module.parameters():
        if parameter.is_complex():
            parameter.data = parameter.data.to(torch.cdouble)
    return module


def test_spectral_layer_is_a_circular_convolution() -> None:
    torch.manual_seed(0)
    layer = double(SpectralConvolution(3, 4))
    grid = 16
    x = torch.randn(2, 3, grid, dtype=torch.double)
    kernel = torch.fft.irfft(layer.weight.detach(), n=grid)  # [out, in, grid]
    shifts = (torch.arange(grid)[:, None] - torch.arange(grid)) % grid
    expected = torch.einsum("oixy,biy->box", kernel[..., shifts], x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-12)


def test_spectral_layer_agrees_on_every_grid() -> None:
    torch.manual_seed(0)
    layer = double(SpectralConvolution(3, 5))
    coarse, fine = layer(waves(16)), layer(waves(64))
    torch.testing.assert_close(fine[..., ::4], coarse, rtol=1e-10, atol=1e-12)


def test_operator_depends_little_on_the_grid() -> None:
    """Not exact: gelu makes frequencies that a coarse grid folds back; the gap closes as the grid is refined."""
    torch.manual_seed(0)
    module = double(FNO1d(FNO1dConfig(in_channels=3, out_channels=1, width=8, modes=5, depth=2)))
    with torch.no_grad():
        results = {grid: module(waves(grid)) for grid in (16, 64, 256)}
    gaps = [float((results[256][..., :: 256 // grid] - results[grid]).abs().max()) for grid in (16, 64)]
    assert gaps[1] < gaps[0] / 2
    assert gaps[1] < 0.02 * float(results[256].abs().max())


def test_high_frequencies_of_the_input_do_not_pass_the_spectral_layer() -> None:
    layer = double(SpectralConvolution(1, 4))
    x = torch.arange(32, dtype=torch.double) / 32
    wave = torch.sin(2 * torch.pi * 6 * x).view(1, 1, 32)
    assert float(layer(wave).detach().abs().max()) < 1e-12
    assert float(layer(torch.sin(2 * torch.pi * 3 * x).view(1, 1, 32)).detach().abs().max()) > 1e-3
