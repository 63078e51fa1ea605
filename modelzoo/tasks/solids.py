"""Points on the surfaces of five solids, to be told apart as unordered sets."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.metrics import accuracy, majority_accuracy
from modelzoo.task import Spec, Split, Task, TaskData, register

POINTS = 64
TRAIN, TEST = 1000, 250  # sets, a fifth of each solid
NOISE = 0.02

Draw = Callable[[int, torch.Generator], Tensor]


def angles(count: int, generator: torch.Generator) -> Tensor:
    """Points on the unit circle, `[count, 2]`."""
    turn = 2 * torch.pi * torch.rand(count, generator=generator)
    return torch.stack([turn.cos(), turn.sin()], 1)


def sphere(count: int, generator: torch.Generator) -> Tensor:
    """Uniform points on a sphere."""
    return F.normalize(torch.randn(count, 3, generator=generator), dim=1)


def cube(count: int, generator: torch.Generator) -> Tensor:
    """Uniform points on the faces of a cube."""
    points = 2 * torch.rand(count, 3, generator=generator) - 1
    side = torch.randint(6, (count,), generator=generator)
    points[torch.arange(count), side // 2] = (side % 2 * 2 - 1).float()
    return points


def cylinder(count: int, generator: torch.Generator) -> Tensor:
    """Uniform points on a closed cylinder of radius 1 and height 2: a third of its surface is the two discs."""
    rim, height = angles(count, generator), 2 * torch.rand(count, 1, generator=generator) - 1
    on_disc = torch.rand(count, 1, generator=generator) < 1 / 3
    radius = torch.where(on_disc, torch.rand(count, 1, generator=generator).sqrt(), 1.0)
    return torch.cat([rim * radius, torch.where(on_disc, height.sign(), height)], 1)


def cone(count: int, generator: torch.Generator) -> Tensor:
    """Uniform points on a closed cone of radius 1 and height 2: its mantle is √5 times its disc."""
    rim, radius = angles(count, generator), torch.rand(count, 1, generator=generator).sqrt()
    on_disc = torch.rand(count, 1, generator=generator) < 1 / (1 + 5**0.5)
    return torch.cat([rim * radius, torch.where(on_disc, -1.0, 1 - 2 * radius)], 1)


def torus(count: int, generator: torch.Generator) -> Tensor:
    """Uniform points on a torus of radii 1 and 0.4, drawn by rejection: outer parts have more surface."""
    tubes = angles(4 * count, generator)
    kept = torch.rand(4 * count, generator=generator) * 1.4 < 1 + 0.4 * tubes[:, 0]
    tube = 0.4 * tubes[kept][:count]  # of 4 · count draws, 71% are kept
    return torch.cat([angles(count, generator) * (1 + tube[:, :1]), tube[:, 1:]], 1)


SOLIDS: dict[str, Draw] = {"sphere": sphere, "cube": cube, "cylinder": cylinder, "cone": cone, "torus": torus}


def sets(count: int, generator: torch.Generator) -> Split:
    """`count` sets `[count, point, 3]`, turned about the vertical axis, of zero mean and unit mean square distance."""
    labels = torch.arange(count) % len(SOLIDS)
    draws = list(SOLIDS.values())
    points = torch.stack([draws[label](POINTS, generator) for label in labels.tolist()])
    cosine, sine = angles(count, generator).T.unsqueeze(-1)
    x, y, z = points.unbind(-1)
    points = torch.stack([cosine * x - sine * y, sine * x + cosine * y, z], -1)
    points = points + NOISE * torch.randn(points.shape, generator=generator)
    points = points - points.mean(1, keepdim=True)
    return Split((points / points.square().sum(-1).mean(1).sqrt()[:, None, None],), labels)


def load() -> TaskData:
    """Training sets, then test sets, from one generator."""
    generator = torch.Generator().manual_seed(0)
    return TaskData(sets(TRAIN, generator), sets(TEST, generator))


TASK = register(
    Task(
        name="solids",
        summary="On which of five solids do 64 points lie?",
        source="generated: uniform points on sphere, cube, cylinder, cone and torus, turned about the vertical axis",
        inputs=Spec("points", (POINTS, 3)),
        targets=Spec("classes", (), len(SOLIDS)),
        loss=F.cross_entropy,
        metric="accuracy",
        score=accuracy,
        higher_is_better=True,
        baseline="always the same solid",
        load=load,
        baseline_score=majority_accuracy,
    )
)
