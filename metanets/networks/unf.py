"""Universal neural functionals: equivariant layers for any architecture, generated from its permutation group.

Universal Neural Functionals (Zhou, Finn and Harrison, 2024): between two weight tensors there is one equivariant map for
every valid partition of their axes, whose blocks hold axes that the same group permutes: h_b = Σ_a Σ_partitions
broadcast(pool(h_a)) W. The paper takes the axes' groups from a specification by hand; here they are inferred, and wreath products
(head dimensions inside heads), merged dimensions and packed gates come with them.
"""

from metanets.functional import FunctionalConfig, WeightFunctional
from metanets.metanet import Metanet, register
from modelzoo.family import Paper


class UNFConfig(FunctionalConfig):
    """Sizes of a `UNF`."""


class UNF(WeightFunctional):
    """Residual equivariant layers with normalised states.

    Shape:
        a batch of models of one architecture; outputs `[model, outputs]`, embeddings `[model, embedding]`.
    """


METANET = register(
    Metanet(
        name="unf",
        module=UNF,
        config=UNFConfig,
        paper=(Paper("Universal Neural Functionals", "Zhou et al.", 2024, "S032"),),
        equivariance="permutation",
        summary="Layers from every valid partition of the axes of any one architecture.",
        tiny={"width": 4, "layers": 2, "embedding": 8},
        one_architecture=True,
        adapt=UNF.adapt,
    )
)
