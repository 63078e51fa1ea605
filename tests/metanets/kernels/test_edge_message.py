"""What the sweep does not see of the C++ path: the ends of the range, NaN, channels that fill no vector, indices outside."""

import pytest
import torch
from torch import Tensor

from metanets.kernels.edge_message import compiled, edge_message, reference
from modelzoo.kernels.registry import VARIABLE

EDGES = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 3])  # sources, offsets of two targets


def given(channels: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(rows, channels, generator=draw).to(dtype) for rows in (2, 3, 3, 2)]


@pytest.mark.parametrize("activation", ["identity", "relu", "silu"])
def test_every_number_of_channels_and_the_ends_of_the_range(activation: str) -> None:
    for channels in (1, 7, 8, 9, 17):
        nodes, gain, shift, target = given(channels)
        for special in (0.0, 60.0, -60.0, 90.0, -90.0, 200.0, -200.0, float("inf"), float("nan")):
            shift[1] = special
            wanted = reference.forward(nodes, gain, shift, target, *EDGES, activation, True)
            got = compiled.forward(nodes, gain, shift, target, *EDGES, activation, True)
            for a, b in zip(got, wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)
            if special == special and abs(special) < 1e9:
                given_back = (torch.ones(2, channels), torch.ones(3, channels))
                wanted = reference.backward(*given_back, nodes, gain, shift, target, *EDGES, activation)
                got = compiled.backward(*given_back, nodes, gain, shift, target, *EDGES, activation)
                for a, b in zip(got, wanted, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_indices_outside_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "compiled")
    source, offsets = EDGES
    edge_message(*given(3), source, offsets)
    for wrong in (source + 1, source - 1):
        with pytest.raises(IndexError, match="source of edge_message must name one of 2 nodes"):
            edge_message(*given(3), wrong, offsets)
    for wrong in (offsets + 1, torch.tensor([0, 5, 3]), torch.tensor([0, 1, 2])):
        with pytest.raises(IndexError, match="offsets of edge_message must rise from 0 to the number of edges, 3"):
            edge_message(*given(3), source, wrong)


def test_threads_change_nothing() -> None:
    nodes, gain, shift, target = given(37)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(compiled.forward(nodes, gain, shift, target, *EDGES, "silu", True))
    torch.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
