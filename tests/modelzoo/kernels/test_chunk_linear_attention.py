"""What the sweep does not see: several chunks, states handed on, gradients of decay that nearly vanish, bad shapes."""

import pytest
import torch
from torch import Tensor

from modelzoo.kernels.chunk_linear_attention import chunk_linear_attention, compiled, examples, reference
from tests.modelzoo.kernels.checks import TOLERANCE, difference


def flat(time: int, channel: bool) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    q, k, v, g = (torch.randn(1, time, width, generator=draw) for width in (3, 3, 2, 3 if channel else 1))
    return [q, k, v, -g.abs(), torch.randn(1, 3, 2, generator=draw)]


@pytest.mark.parametrize("channel", [False, True])
def test_several_chunks_on_the_cpu(channel: bool) -> None:
    given = flat(70, channel)
    wanted, got = (list(path.forward(*given)) for path in (reference, compiled))
    assert difference(got, wanted) < TOLERANCE[torch.float32]
    wanted, got = (list(path.backward(given[2], given[4], *given)) for path in (reference, compiled))
    assert difference(got, wanted) < TOLERANCE[torch.float32]
    other = list(compiled.backward(given[2], 0 * given[4], *given))
    assert difference(other, wanted) > 0.01, "the control: the last state has a gradient too"


def test_attention_goes_on_from_its_last_state() -> None:
    q, k, v, g, _, state, _ = examples(torch.float64, 0)[3]
    g = g / 40
    whole, last = chunk_linear_attention(q, k, v, g, 1.0, state, True)
    early, middle = chunk_linear_attention(*(x[:, :7] for x in (q, k, v, g)), 1.0, state, True)
    late, end = chunk_linear_attention(*(x[:, 7:] for x in (q, k, v, g)), 1.0, middle, True)
    torch.testing.assert_close(torch.cat([early, late], 1), whole)
    torch.testing.assert_close(end, last)
    assert not torch.allclose(chunk_linear_attention(q, k, v, g, 1.0), whole)


def test_the_gradient_of_one_strong_decay_among_weak_ones_is_exact() -> None:
    """Pairs on one side of the step are many and large; in a difference of sums they would hide what is left."""
    for channel in (False, True):
        given = flat(70, channel)
        given[3] = torch.full_like(given[3], -0.01)
        given[3][:, 40] = -40
        exact = [x.double() for x in given]
        wanted = reference.backward(exact[2], exact[4], *exact)[3][:, 40]
        got = compiled.backward(given[2], given[4], *given)[3][:, 40]
        assert wanted.abs().max() < 1e-12
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    q = torch.ones(1, 2, 1, 3)
    with pytest.raises(ValueError, match=r"initial must be \[B, H, K, V\], \[1, 1, 3, 3\], got \[3, 3\]"):
        chunk_linear_attention(q, q, q, None, None, torch.ones(3, 3))
    with pytest.raises(ValueError, match="log_decay must be"):
        chunk_linear_attention(q, q, q, torch.ones(1, 2))
