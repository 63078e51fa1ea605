"""Deep weight space networks: the full equivariant layer between weights and biases, ReLU, an invariant layer.

Equivariant Architectures for Learning in Deep Weight Spaces (Navon et al., 2023): every block of the layer, from W_i or b_i
to W_j or b_j, is a sum of poolings over hidden axes, broadcasts over new ones, and dense maps on the axes of inputs and
outputs, which nothing permutes: h ← relu(L h). Written for perceptrons; the layer here is generated for any group.
"""

from metanets.functional import FunctionalConfig, WeightFunctional
from metanets.metanet import Metanet, register
from modelzoo.family import Paper


class DWSNetConfig(FunctionalConfig):
    """Sizes of a `DWSNet`."""

    layers: int = 4


class DWSNet(WeightFunctional):
    """Equivariant layers with ReLU between them, without norms or skips.

    Shape:
        a batch of models of one architecture; outputs `[model, outputs]`, embeddings `[model, embedding]`.
    """

    residual = False


METANET = register(
    Metanet(
        name="dwsnet",
        module=DWSNet,
        config=DWSNetConfig,
        paper=(Paper("Equivariant Architectures for Learning in Deep Weight Spaces", "Navon et al.", 2023, "S010"),),
        equivariance="permutation",
        summary="Deep weight space network: full equivariant layers and ReLU.",
        tiny={"width": 4, "layers": 2, "embedding": 8},
        one_architecture=True,
        adapt=DWSNet.adapt,
    )
)
