"""Tokens hold every weight once, and the autoencoder gives the weights back that it was trained on."""

import pytest
import torch

from metanets.networks.sane import SANE, token_index
from tests.metanets.subjects import models, network


@pytest.mark.parametrize("token", [1, 3, 16, 1000])
def test_tokens_are_rows_cut_to_length_with_every_entry_once(token: int) -> None:
    shapes = [(4, 3, 2), (4,), (5, 4), (1,)]
    index, about = token_index(shapes, token)
    held = index[index >= 0]
    assert torch.equal(held.sort().values, torch.arange(24 + 4 + 20 + 1))
    assert index.shape == (len(about), token)
    rows = torch.cat([torch.arange(24) // 6, torch.full((4,), 4), 5 + torch.arange(20) // 4, torch.full((1,), 10)])
    for one in index:
        assert len(set(rows[one[one >= 0]].tolist())) == 1  # no token holds parts of two rows
    assert torch.equal(
        about[:, 0].bincount(), torch.tensor([4 * -(-6 // token), -(-4 // token), 5 * -(-4 // token), 1])
    )


@pytest.mark.parametrize("family", ["siren", "small_cnn", "transformer"])
def test_decoding_puts_every_entry_where_it_was_read(family: str) -> None:
    """With an identity for decoder, decode inverts the cutting into tokens."""
    before = models(family)
    net = network("sane", before, token=8)
    assert isinstance(net, SANE)
    net.decoder.forward = lambda tokens, about: tokens  # type: ignore[assignment, method-assign]
    torch.testing.assert_close(net.decode(net.tokens(before)), before.values[: net.held])


def test_the_autoencoder_learns_to_give_models_back() -> None:
    before = models("siren")
    net = network("sane", before, width=32, latent=16, dropout=0.0)
    assert isinstance(net, SANE)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    first = float(net.error(before))
    for _ in range(150):
        optimizer.zero_grad()
        loss = net.own_loss(before)
        assert loss is not None
        loss.backward()
        optimizer.step()
    assert float(net.error(before)) < 0.1 * first
    found, relative = net.reconstruct(before), before.values - before.values.mean(1, keepdim=True)
    assert (found.values - before.values).square().mean() < 0.2 * relative.square().mean()
    assert net.embed(before).outputs.shape == (len(before), 3)
    assert network("sane", before, reconstruction=0.0).own_loss(before) is None
