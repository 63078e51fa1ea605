"""Memory of finding a group: labels are per index of an axis, never per weight."""

import torch
from torch import Tensor, nn

import graphs
from benchmarks.harness import alive_megabytes

SHARE = 0.8  # of the bytes of the weights here; it falls as the width grows


class Encoder(nn.Module):
    """Token embeddings and one post-norm transformer layer."""

    def __init__(self, width: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(tokens, width)
        self.layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True)

    def forward(self, words: Tensor) -> Tensor:  # [B, T] -> [B, T, width]
        return self.layer(self.tokens(words))


def test_a_group_is_found_in_less_memory_than_the_weights_take() -> None:
    graphs.infer(graphs.trace(Encoder(8, 2, 10), (torch.zeros(1, 2, dtype=torch.int64),)))  # imports and caches
    module = Encoder(384, 12, 1_000)
    weights = sum(parameter.nbytes for parameter in module.parameters()) / 2**20
    program = graphs.trace(module, (torch.zeros(1, 4, dtype=torch.int64),))
    peak = alive_megabytes(lambda: graphs.infer(program))
    assert peak <= SHARE * weights, f"{peak / weights:.2f} of the weights"
