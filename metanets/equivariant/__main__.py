"""Draw the pictures of the documentation: `python -m metanets.equivariant docs/images/equivariant`."""

import sys
from pathlib import Path

from metanets.equivariant import BilabelledGraph, Diagram
from metanets.equivariant.enumeration import free_point_diagrams, jellyfish_diagrams, partition_diagrams


def pictures() -> dict[str, str]:
    """Every picture, an SVG document by file name."""
    tangled = Diagram(5, 4, ((0, 5, 8), (1, 2), (3, 4), (6, 7)))
    factors = tangled.factor()
    found = {
        "partition": Diagram(3, 3, ((0, 3, 4), (1,), (2, 5))).draw("partition diagram, Sₙ"),
        "brauer": Diagram(3, 3, ((0, 2), (1, 4), (3, 5))).draw("Brauer diagram, O(n) and Sp(n)"),
        "free_points": free_point_diagrams(2, 3, 3)[-1].draw("free points, SO(3)"),
        "jellyfish": jellyfish_diagrams(2, 2, 3)[-1].draw("jellyfish, A₃"),
        "bilabelled": BilabelledGraph(Diagram(1, 2, ((0,), (1, 2))), ((0, 2), (1, 2)), 1).draw(
            "bilabelled graph, Aut(G)"
        ),
        "tangled": tangled.draw("a diagram"),
        "factor_upper": factors.upper.draw("= permutation ∘"),
        "factor_planar": factors.planar.draw("planar ∘"),
        "factor_lower": factors.lower.draw("permutation"),
    }
    for number, diagram in enumerate(partition_diagrams(1, 2)):
        found[f"one_to_two_{number}"] = diagram.draw()
    return {name + ".svg": document for name, document in found.items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in pictures().items():
        (folder / name).write_text(document, encoding="utf-8")
