"""Equivariant linear layers from diagrams, and wrappers that make any network equivariant."""

from metanets.equivariant.canonicalization import (
    Canonicalized,
    FiniteCanonicalized,
    GramSchmidtFrame,
    NeuronSort,
    SortFrame,
    act_on_points,
    act_on_vectors,
    balance_relu,
)
from metanets.equivariant.diagrams import Diagram, Morphism
from metanets.equivariant.functor import basis, invariants, spanning_set, true_dimension
from metanets.equivariant.graph_automorphism import BilabelledGraph
from metanets.equivariant.graph_polynomial_network import AddGraphPolynomials, GraphPolynomialGNN
from metanets.equivariant.graph_polynomials import GraphPolynomial, GraphPolynomials, graph_polynomials
from metanets.equivariant.groups import (
    Alternating,
    GraphAutomorphism,
    Group,
    Orthogonal,
    SpecialOrthogonal,
    Symmetric,
    Symplectic,
)
from metanets.equivariant.layer import EquivariantLinear
from metanets.equivariant.orbit_symmetrize import InvariantMixing, MatrixGroup, OrbitSymmetrized, pseudo_orthogonal
from metanets.equivariant.weight_space import TensorSpace, WeightSpaceLinear, mlp_space

__all__ = [
    "AddGraphPolynomials",
    "Alternating",
    "BilabelledGraph",
    "Canonicalized",
    "Diagram",
    "EquivariantLinear",
    "FiniteCanonicalized",
    "GramSchmidtFrame",
    "GraphAutomorphism",
    "GraphPolynomial",
    "GraphPolynomialGNN",
    "GraphPolynomials",
    "Group",
    "InvariantMixing",
    "MatrixGroup",
    "Morphism",
    "NeuronSort",
    "OrbitSymmetrized",
    "Orthogonal",
    "SortFrame",
    "SpecialOrthogonal",
    "Symmetric",
    "Symplectic",
    "TensorSpace",
    "WeightSpaceLinear",
    "act_on_points",
    "act_on_vectors",
    "balance_relu",
    "basis",
    "graph_polynomials",
    "implemented_papers",
    "invariants",
    "mlp_space",
    "pseudo_orthogonal",
    "spanning_set",
    "true_dimension",
]


def implemented_papers() -> dict[str, list[str]]:
    """Rows of the paper catalogue that this package implements."""
    return {
        "S005": ["GraphPolynomials", "AddGraphPolynomials", "GraphPolynomialGNN"],
        "S013": ["EquivariantLinear(Alternating)"],
        "S028": ["EquivariantLinear(Orthogonal | SpecialOrthogonal | Symplectic)"],
        "S040": ["EquivariantLinear(GraphAutomorphism)"],
        "S079": ["OrbitSymmetrized"],
        "S091": ["Diagram", "Morphism"],
        "S125": ["EquivariantLinear(Symmetric)", "WeightSpaceLinear"],
        "S188": ["Canonicalized", "FiniteCanonicalized", "NeuronSort"],
    }
