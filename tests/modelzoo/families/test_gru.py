"""The loop equals torch.nn.GRU, value and gradient."""

import pytest
import torch
from torch import nn

from modelzoo.families.recurrent.gru import GRULayer
from modelzoo.family import family
from modelzoo.task import task


@pytest.mark.parametrize("hidden", [1, 7])
def test_layer_equals_torch(hidden: int) -> None:
    torch.manual_seed(0)
    ours, theirs = GRULayer(3, hidden).double(), nn.GRU(3, hidden, batch_first=True).double()
    theirs.load_state_dict({f"{name}_l0": value for name, value in ours.state_dict().items()})
    x = torch.randn(4, 9, 3, dtype=torch.double)
    expected = theirs(x)[0]
    torch.testing.assert_close(ours(x), expected, rtol=1e-12, atol=1e-14)
    ours(x).square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs.get_parameter(f"{name}_l0").grad, rtol=1e-10, atol=1e-13)


def test_initialisation_equals_torch() -> None:
    torch.manual_seed(5)
    ours = GRULayer(3, 6)
    torch.manual_seed(5)
    theirs = nn.GRU(3, 6)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[f"{name}_l0"])


def test_takes_tokens() -> None:
    gru, parity = family("gru"), task("parity")
    module = gru.build(gru.configure(parity, {"hidden": (4, 5)}), seed=0)
    assert module(*parity.example_inputs()).shape == (2, 2)
