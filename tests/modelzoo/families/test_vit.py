"""The vision transformer: only the positions tell where a patch was."""

import torch
from torch import nn

from modelzoo.families.attention.vit import ViT, ViTConfig


def test_only_the_positions_tell_the_place_of_a_patch() -> None:
    torch.manual_seed(0)
    model = ViT(ViTConfig())
    x = torch.randn(4, 1, 8, 8)
    moved = torch.cat([x[:, :, 4:], x[:, :, :4]], 2)
    assert (model(x) - model(moved)).abs().max() > 1e-3
    nn.init.zeros_(model.positions)
    torch.testing.assert_close(model(x), model(moved))
    inside = x.roll(1, 2)  # pixels change patches
    assert (model(x) - model(inside)).abs().max() > 1e-3
