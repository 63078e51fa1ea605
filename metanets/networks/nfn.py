"""Neural functional networks: equivariant under permutations of hidden neurons (HNP), or of all neurons (NP).

Permutation Equivariant Neural Functionals (Zhou et al., 2023). HNP layers keep a dense map over inputs and outputs. NP layers
treat inputs and outputs as exchangeable too, which they are not: far fewer parameters, and learned positions of inputs and
outputs tell them apart, h ← h + P_in[i] + P_out[o] after the first layer. Values enter as sines and cosines of learned
frequencies.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metanets.batching import Models
from metanets.functional import FunctionalConfig, WeightFunctional
from metanets.layout import ENDS, Places, layout_of
from metanets.metanet import Metanet, register
from modelzoo.family import Paper

FREQUENCIES = 4


class NFNConfig(FunctionalConfig):
    """Sizes of an `NFN`; `neurons`: which of them the layers treat as exchangeable."""

    neurons: Literal["hidden", "all"] = "hidden"


class NFN(WeightFunctional):
    """Residual equivariant layers on Fourier features of the weights.

    Shape:
        a batch of models of one architecture; outputs `[model, outputs]`, embeddings `[model, embedding]`.
    """

    features = 1 + 2 * FREQUENCIES

    def __init__(self, config: NFNConfig) -> None:
        super().__init__(config)
        self.frequency = nn.Parameter(torch.randn(FREQUENCIES))
        self.positions = nn.ParameterDict(
            {end: nn.Parameter(torch.randn(config.layout.sizes[end], config.width)) for end in ENDS if end in config.layout.sizes}
        )  # fmt: skip

    @classmethod
    def places(cls, models: Models, fields: Mapping[str, Any]) -> Places:
        return layout_of(*models.topology.symmetry, ends=fields.get("neurons") == "all")

    def lift(self, x: Tensor) -> Tensor:
        phase = x[..., None] * self.frequency
        return torch.cat([x[..., None], phase.sin(), phase.cos()], -1)

    def begin(self, h: dict[str, Tensor]) -> dict[str, Tensor]:
        layout = self.config.layout
        for k, piece in enumerate(layout.pieces):
            for end, table in self.positions.items():
                if end in piece.axes:
                    after = len(piece.axes) - 1 - piece.axes.index(end)
                    h[str(k)] = h[str(k)] + table.reshape(len(table), *[1] * after, -1)
        assert all(prod(v.shape[1:-1]) == prod(layout.shape(p)) for v, p in zip(h.values(), layout.pieces, strict=True))
        return h


METANET = register(
    Metanet(
        name="nfn",
        module=NFN,
        config=NFNConfig,
        paper=(Paper("Permutation Equivariant Neural Functionals", "Zhou et al.", 2023),),
        equivariance="permutation",
        summary="Neural functional network on Fourier features, HNP or (neurons=all) NP.",
        tiny={"width": 4, "layers": 2, "embedding": 8},
        one_architecture=True,
        adapt=NFN.adapt,
    )
)
