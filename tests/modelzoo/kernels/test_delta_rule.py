"""What the sweep does not see: several chunks, keys that are all alike, states handed on, bad shapes."""

import pytest
import torch

from modelzoo.kernels.delta_rule import compiled, delta_rule, examples, reference
from tests.modelzoo.kernels.checks import TOLERANCE, difference


def test_keys_that_are_all_alike() -> None:
    """The worst a triangular system can be, over several chunks."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 70, width, generator=draw) for width in (3, 3, 2))
    k = (k / k.norm(dim=-1, keepdim=True)).index_fill(1, torch.arange(40), 3**-0.5)
    beta, state = torch.rand(1, 70, 1, generator=draw), torch.randn(1, 3, 2, generator=draw)
    wanted, got = (list(path.forward(q, k, v, beta, state)) for path in (reference, compiled))
    assert difference(got, wanted) < TOLERANCE[torch.float32]
    given = (v, state, q, k, beta, wanted[1], state)
    wanted, got = (list(path.backward(*given)) for path in (reference, compiled))
    assert difference(got, wanted) < TOLERANCE[torch.float32]
    other = list(compiled.backward(v, 0 * state, *given[2:]))
    assert difference(other, wanted) > 0.01, "the control: the last state has a gradient too"


def test_the_rule_goes_on_from_its_last_state() -> None:
    *tensors, _, state, _ = examples(torch.float64, 0)[1]
    whole, last = delta_rule(*tensors, 1.0, state, True)
    early, middle = delta_rule(*(x[:, :7] for x in tensors), 1.0, state, True)
    late, end = delta_rule(*(x[:, 7:] for x in tensors), 1.0, middle, True)
    torch.testing.assert_close(torch.cat([early, late], 1), whole)
    torch.testing.assert_close(end, last)
    assert not torch.allclose(delta_rule(*tensors, 1.0), whole)


def test_shapes_that_do_not_fit_are_refused() -> None:
    q = torch.ones(1, 2, 1, 3)
    with pytest.raises(ValueError, match=r"initial must be \[B, H, K, V\], \[1, 1, 3, 3\], got \[3, 3\]"):
        delta_rule(q, q, q, q[..., 0], None, torch.ones(3, 3))
    with pytest.raises(ValueError, match="do not fit"):
        delta_rule(q, q, q, q)
