"""What an image says about the weights of neurons that are told apart."""

from torch import Tensor, nn
from torch.nn import functional as F

from metanets.batching import Models
from metanets.probes import Lattice

POINTS, WIDTH = 28, 128


class RenderedUpdate(nn.Module):
    """Numbers read off what models show on a lattice: A silu(B φ(x)), φ convolutions; zero at first.

    An image knows no order of neurons, so it cannot say how weights of the old ones change; new neurons are the same in every
    model and have places, and `Expansion.spread` makes these numbers a change of their weights.

    Args:
        coordinates: of the models' inputs.
        numbers: of the expansion's keys.

    Shape:
        models to `[M, numbers]`.
    """

    def __init__(self, coordinates: int, numbers: int) -> None:
        super().__init__()
        self.lattice = Lattice(POINTS, coordinates, 1)
        self.inner, self.outer = nn.Linear(self.lattice.size, WIDTH), nn.Linear(WIDTH, numbers)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, models: Models) -> Tensor:
        return self.outer(F.silu(self.inner(self.lattice(models))))
