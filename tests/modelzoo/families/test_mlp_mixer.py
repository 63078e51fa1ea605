"""The MLP-Mixer: one layer against its equation, written out entry by entry."""

import torch
from torch import nn
from torch.nn import functional as F

from modelzoo.families.feedforward.mlp_mixer import MixerBlock, MLPMixer, MLPMixerConfig


def test_a_layer_is_its_equation() -> None:
    torch.manual_seed(0)
    block = MixerBlock(tokens=3, width=5, token_hidden=4, hidden=6).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    first, _, last = block.token_mixing
    normed = F.layer_norm(x, (5,), block.token_norm.weight, block.token_norm.bias)
    hidden = F.gelu(torch.einsum("st,btc->bsc", first.weight, normed) + first.bias[:, None])
    h = x + torch.einsum("ts,bsc->btc", last.weight, hidden)
    torch.testing.assert_close(block(x), h + block.channel_mixing(block.channel_norm(h)))


def test_patches_are_mixed_by_token_mixing_alone() -> None:
    torch.manual_seed(0)
    model = MLPMixer(MLPMixerConfig())
    x = torch.randn(4, 1, 8, 8)
    moved = torch.cat([x[:, :, 4:], x[:, :, :4]], 2)
    assert (model(x) - model(moved)).abs().max() > 1e-4
    for layer in model.layers:
        nn.init.zeros_(layer.token_mixing[2].weight)
    torch.testing.assert_close(model(x), model(moved))
