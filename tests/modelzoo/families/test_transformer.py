"""The transformer encoder: torch's own layer as oracle, tokens as input."""

import torch
from torch import nn

from modelzoo.blocks.attention import EncoderBlock
from modelzoo.families.attention.transformer import Transformer, TransformerConfig
from modelzoo.family import family
from modelzoo.task import task


def test_a_block_equals_torch_encoder_layer_with_the_same_weights() -> None:
    torch.manual_seed(0)
    ours = EncoderBlock(8, heads=2, hidden=12).double()
    theirs = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    theirs = theirs.double()
    with torch.no_grad():
        attention = ours.attention
        packed = torch.cat([attention.query.weight, attention.key.weight, attention.value.weight])
        theirs.self_attn.in_proj_weight.copy_(packed)
        theirs.self_attn.in_proj_bias.copy_(torch.cat([attention.query.bias, torch.zeros(8), attention.value.bias]))
    theirs.self_attn.out_proj.load_state_dict(ours.attention.output.state_dict())
    theirs.linear1.load_state_dict(ours.feedforward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feedforward[2].state_dict())
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_only_the_positions_tell_the_order_of_time() -> None:
    torch.manual_seed(1)
    model = Transformer(TransformerConfig())
    x = torch.randn(4, 8, 8)
    assert (model(x) - model(x.flip(1))).abs().max() > 1e-3
    nn.init.zeros_(model.positions)
    torch.testing.assert_close(model(x), model(x.flip(1)))


def test_it_reads_tokens_where_the_task_gives_them() -> None:
    config = family("transformer").configure(task("parity"))
    assert isinstance(config, TransformerConfig)
    assert config.vocabulary == task("parity").inputs.classes
    outputs = Transformer(config)(*task("parity").example_inputs(3))
    assert outputs.shape == (3, task("parity").targets.classes)
