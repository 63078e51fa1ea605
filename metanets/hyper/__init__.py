"""Hypernetworks: networks whose outputs are the parameters of other networks."""

from metanets.hyper.hypernetwork import Generated, Hypernetwork, hypernetwork, hypernetworks, implemented_papers
from metanets.hyper.target import Problem, Target

__all__ = [
    "Generated", "Hypernetwork", "Problem", "Target", "hypernetwork", "hypernetworks", "implemented_papers",
]  # fmt: skip
