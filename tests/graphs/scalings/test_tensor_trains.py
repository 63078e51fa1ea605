"""Rows of a tensor train that were merged and split again keep the scales of every factor of their index."""

import torch
from torch import nn

from graphs import completeness, symmetry
from modelzoo.blocks.tensor_train import TTLinear


def test_every_factor_of_a_hidden_index_has_its_own_scales() -> None:
    """Two factors of 2 and 3: 2 + 3 − 1 scales of hidden units beside GL on the bond; the control has tanh."""
    for activation, scales in ((nn.ReLU(), 4), (nn.Tanh(), 0)):
        torch.manual_seed(0)  # other weights have units that are always on or off
        module = nn.Sequential(TTLinear((2, 2), (2, 3), 2), activation, nn.Linear(6, 2))
        inputs = (torch.randn(64, 4),)
        group = symmetry(module, inputs)
        assert sum(f.dimension for f in group.factors if f.kind.startswith("R+")) == scales
        assert [f.kind for f in group.factors if f.kind.startswith("GL")] == ["GL(2)"]
        assert completeness(group, module, inputs).hidden == 0
