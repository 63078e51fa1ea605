"""Augmentations of the signal that an implicit representation stands for: its input moves, f'(x) = f(R x + t).

The first layer does it: W x + b becomes (W R) x + (b + W t). They change the function, and keep the label where a shifted,
turned or mirrored image is still of its class. They are there for models whose inputs are coordinates that meet one dense layer
with a bias, read off the parameter graph.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from graphs import EDGE_KINDS, EDGE_OPS, NODE_KINDS
from metanets.batching import Topology
from metanets.training.augmentation import PAPER, Augmentation, Sample, register

MOST_INPUTS = 3  # coordinates of an image or a volume; a picture as input is no coordinate


@dataclass(frozen=True, eq=False)
class FirstLayer:
    """Edges of the layer that reads the inputs.

    Args:
        weights: `[neurons, inputs]` edges.
        biases: `[neurons]` edges.
    """

    weights: Tensor
    biases: Tensor


@cache
def first_layer(topology: Topology) -> FirstLayer | None:
    """The dense first layer of models of coordinates, None where there is none."""
    source, target = (ends.numpy() for ends in topology.edge_index)
    inputs = np.flatnonzero(topology.node_kind.numpy() == NODE_KINDS.index("input"))
    from_inputs = np.flatnonzero(np.isin(source, inputs))
    neurons = np.unique(target[from_inputs])
    linear = (topology.edge_op.numpy()[from_inputs] == EDGE_OPS.index("matmul")).all()
    if not 0 < len(inputs) <= MOST_INPUTS or not linear or len(from_inputs) != len(inputs) * len(neurons):
        return None
    order = np.lexsort((topology.node_position.numpy()[source[from_inputs]], target[from_inputs]))
    weights = from_inputs[order].reshape(len(neurons), len(inputs))
    bias = np.flatnonzero((topology.edge_kind.numpy() == EDGE_KINDS.index("bias")) & np.isin(target, neurons))
    biases = bias[np.argsort(target[bias], kind="stable")]
    if not np.array_equal(target[biases], neurons) or (target[weights] != neurons[:, None]).any():
        return None
    return FirstLayer(torch.from_numpy(weights), torch.from_numpy(biases))


def readable(sample: Sample) -> tuple[FirstLayer, Tensor]:
    """The first layer of models that have one, and a copy of their values."""
    layer = first_layer(sample.topology)
    assert layer is not None  # `augment` asks whether an augmentation applies
    return layer, sample.values.clone()


def shift(sample: Sample, strength: float, generator: torch.Generator) -> Sample:
    """f(x + t) with t ~ N(0, strength²)."""
    layer, values = readable(sample)
    t = torch.randn(len(sample), layer.weights.shape[1], 1, generator=generator, dtype=values.dtype) * strength
    values[:, layer.biases] += (values[:, layer.weights] @ t)[..., 0]
    return sample.with_values(values)


def rotation(sample: Sample, strength: float, generator: torch.Generator) -> Sample:
    """f(R x) with R a rotation by N(0, strength²) radians in every plane."""
    layer, values = readable(sample)
    size = layer.weights.shape[1]
    plane = torch.randn(len(sample), size, size, generator=generator, dtype=values.dtype).triu(1) * strength
    values[:, layer.weights] = values[:, layer.weights] @ torch.linalg.matrix_exp(plane - plane.mT)
    return sample.with_values(values)


def mirror(sample: Sample, strength: float, generator: torch.Generator) -> Sample:
    """f(x_1, …, −x_d) for a share `strength` of the models: images, whose columns are the last coordinate, left to right."""
    layer, values = readable(sample)
    chosen = torch.rand(len(sample), 1, generator=generator, dtype=values.dtype) < strength
    last = layer.weights[:, -1]
    values[:, last] = torch.where(chosen, -values[:, last], values[:, last])
    return sample.with_values(values)


def _applies(topology: Topology) -> bool:
    return first_layer(topology) is not None


def _turns(topology: Topology) -> bool:
    layer = first_layer(topology)
    return layer is not None and layer.weights.shape[1] > 1


register(
    Augmentation(
        name="input_shift",
        apply=shift,
        strength=0.1,
        meaning="standard deviation of the shift, in units of the input",
        keeps="label",
        paper=PAPER,
        summary="The image that an implicit representation stands for, shifted.",
        applies=_applies,
    )
)
register(
    Augmentation(
        name="input_rotation",
        apply=rotation,
        strength=0.15,
        meaning="standard deviation of the angle in radians",
        keeps="label",
        paper=PAPER,
        summary="The image that an implicit representation stands for, turned.",
        applies=_turns,
    )
)
register(
    Augmentation(
        name="input_mirror",
        apply=mirror,
        strength=0.5,
        meaning="probability that a model is mirrored",
        most=1.0,
        keeps="label",
        paper=PAPER,
        summary="The image that an implicit representation stands for, left and right exchanged; of clothes, not of digits.",
        applies=_applies,
    )
)
