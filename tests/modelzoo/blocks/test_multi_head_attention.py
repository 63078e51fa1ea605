"""The attention block against torch's own, and the properties that its options promise."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modelzoo.blocks.attention import MultiHeadAttention, rotate


@pytest.mark.parametrize("causal", [False, True])
def test_it_equals_torch_multi_head_attention_with_the_same_weights(causal: bool) -> None:
    """Torch has a key bias besides; it cannot change the result, so a random one is given to it."""
    torch.manual_seed(0)
    ours = MultiHeadAttention(12, heads=3, causal=causal).double()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.randn(12), ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    mask = torch.ones(7, 7, dtype=torch.bool).triu(1) if causal else None
    expected, _ = theirs(x, x, x, attn_mask=mask, need_weights=False)
    torch.testing.assert_close(ours(x), expected)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_queries_equal_the_scaled_dot_product_of_torch(groups: int) -> None:
    torch.manual_seed(1)
    ours = MultiHeadAttention(16, heads=4, key_value_heads=groups, causal=True, bias=False).double()
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    query = ours.query(x).view(3, 5, 4, 4).transpose(1, 2)
    key, value = (part(x).view(3, 5, groups, 4).transpose(1, 2) for part in (ours.key, ours.value))
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(ours(x), ours.output(mixed.transpose(1, 2).reshape(3, 5, 16)))
    assert ours.key.weight.shape == (4 * groups, 16)


def test_without_positions_it_is_equivariant_to_the_order_and_causal_attention_is_not() -> None:
    torch.manual_seed(2)
    x, order = torch.randn(2, 6, 8), torch.tensor([3, 0, 5, 1, 4, 2])
    for causal in (False, True):
        layer = MultiHeadAttention(8, heads=2, causal=causal)
        gap = (layer(x)[:, order] - layer(x[:, order])).abs().max()
        assert (gap > 1e-3) if causal else (gap < 1e-5)


def test_rotary_scores_depend_on_the_difference_of_positions_alone() -> None:
    torch.manual_seed(3)
    query, key = torch.randn(2, 6, dtype=torch.float64).unsqueeze(1).expand(2, 9, 6)
    scores = rotate(query) @ rotate(key).T
    for offset in range(-4, 5):
        diagonal = scores.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert scores[0].std() > 1e-2, "scores of different offsets differ"
    torch.testing.assert_close(rotate(query).norm(dim=-1), query.norm(dim=-1))
    torch.testing.assert_close(rotate(query)[0], query[0])


def test_rotation_is_complex_multiplication() -> None:
    torch.manual_seed(4)
    x = torch.randn(5, 8, dtype=torch.float64)
    frequency = 10_000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    turn = torch.exp(1j * torch.arange(5)[:, None] * frequency)
    turned = torch.complex(x[:, :4], x[:, 4:]) * turn
    torch.testing.assert_close(rotate(x), torch.cat([turned.real, turned.imag], 1))


@pytest.mark.parametrize(
    ("sizes", "options"),
    [((10, 3), {}), ((12, 4), {"key_value_heads": 3}), ((6, 2), {"rotary": True})],
    ids=["heads", "groups", "odd rotary head"],
)
def test_sizes_that_do_not_divide_are_refused(sizes: tuple[int, int], options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="do not divide"):
        MultiHeadAttention(*sizes, **options)
