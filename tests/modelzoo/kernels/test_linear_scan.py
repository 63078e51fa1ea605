"""What the sweep does not see: blocks of channels, scans that go on, second derivatives, bad shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelzoo.kernels.linear_scan import compiled, examples, linear_scan, reference


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.sampled_from([1, 3, 64, 67]), st.booleans(), st.integers(0, 2**31))
def test_blocks_of_channels_on_the_cpu(time: int, channels: int, reverse: bool, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    decay = 2 * torch.rand(2, time, channels, generator=draw, dtype=torch.float64) - 1
    inputs = torch.randn(2, time, channels, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(
        compiled.forward(decay, inputs, reverse), reference.forward(decay, inputs, reverse), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_goes_on_from_its_last_state(reverse: bool) -> None:
    decay, inputs, *_ = examples(torch.float64, 0)[1]
    whole = linear_scan(decay, inputs, None, reverse)
    cut = 11
    early, late = (slice(cut, None), slice(0, cut)) if reverse else (slice(0, cut), slice(cut, None))
    start = linear_scan(decay[:, early], inputs[:, early], None, reverse)
    rest = linear_scan(decay[:, late], inputs[:, late], start[:, 0 if reverse else -1], reverse)
    torch.testing.assert_close(torch.cat([rest, start] if reverse else [start, rest], 1), whole)


def test_a_scan_without_decay_is_a_sum_and_with_constant_decay_a_geometric_series() -> None:
    inputs = torch.randn(3, 50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(linear_scan(torch.ones(2), inputs), inputs.cumsum(1))
    turns = torch.polar(torch.ones(1, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64))
    powers = linear_scan(turns, torch.eye(50, 1, dtype=torch.complex128))
    torch.testing.assert_close(powers[:, 0], turns ** torch.arange(50))


def test_second_derivatives() -> None:
    decay, inputs, *_ = examples(torch.float64, 0)[0]
    moving = (decay[:1, :5].clone().requires_grad_(), inputs[:1, :5].clone().requires_grad_())
    assert torch.autograd.gradgradcheck(linear_scan, moving)


def test_inputs_without_a_time_axis_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[\.\.\., time, channel\], got \[3\]"):
        linear_scan(torch.ones(3), torch.ones(3))
