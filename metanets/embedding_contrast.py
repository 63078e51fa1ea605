"""Embeddings learned by contrast: what belongs together shall be near, everything else in the batch far.

Representation Learning with Contrastive Predictive Coding (van den Oord, Li and Vinyals, 2018).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from metanets.batching import Models
from metanets.metanet import MetanetModule

TEMPERATURE = 0.1


def unit_embeddings(network: MetanetModule, models: Models) -> Tensor:
    """Embeddings of length one, `[M, width]`."""
    return F.normalize(network(models).embeddings, dim=1)


def info_nce(anchors: Tensor, others: Tensor) -> Tensor:
    """−log softmax_j(⟨a_i, b_j⟩ / T) at j = i, averaged: the loss of finding one's own among all.

    Args:
        anchors, others: `[M, width]`, of length one; row i of both belongs together.
    """
    return F.cross_entropy(anchors @ others.mT / TEMPERATURE, torch.arange(len(anchors)))
