"""A module with every kind of tensor a zoo must hold, and batches of it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from modelzoo.family import Family, FamilyConfig, family
from modelzoo.store import ModelBatch, PopulationInfo, Zoo, manifest


class OddConfig(FamilyConfig):
    width: int = 3


class Odd(nn.Module):
    """Tied, complex, scalar and double parameters; boolean, integer and scratch buffers."""

    def __init__(self, config: OddConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, config.width)
        self.head = nn.Linear(config.width, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.phase = nn.Parameter(torch.randn(config.width, dtype=torch.complex64))
        self.gain = nn.Parameter(torch.randn(()))
        self.fine = nn.Parameter(torch.randn(2, 2, dtype=torch.float64))
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, token: Tensor) -> Tensor:
        turned = (self.embedding(token) * self.phase).real * self.gain * self.mask
        return self.head(turned) + self.fine.sum() + self.count


def odd_family() -> Family:
    return Family(**{**vars(family("mlp")), "name": "odd", "module": Odd, "config": OddConfig, "variants": {}})


def odd_info(name: str = "odd") -> PopulationInfo:
    parameters, buffers = manifest(Odd(OddConfig()))
    return PopulationInfo(
        name=name, family="odd", family_config={"width": 3}, task="digits", checkpoint_steps=(0, 5),
        metric_steps=(0, 2, 5), parameters=parameters, buffers=buffers,
    )  # fmt: skip


def odd_batch(ids: Sequence[int], seed: int = 0) -> ModelBatch:
    """Random values with the awkward ones among them: NaN, both infinities, negative zero, a subnormal."""
    count, draw = len(ids), torch.Generator().manual_seed(seed + ids[0])

    def values(tensor: Tensor) -> Tensor:
        shape = (count, 2, *tensor.shape)
        if tensor.dtype == torch.bool:
            return torch.rand(shape, generator=draw) > 0.5
        if tensor.dtype == torch.int64:
            return torch.randint(-(2**62), 2**62, shape, generator=draw)
        return torch.randn(shape, generator=draw, dtype=tensor.dtype)

    module = Odd(OddConfig())
    buffers = {name: values(tensor) for name, tensor in module.named_buffers() if name != "scratch"}
    parameters = {name: values(tensor) for name, tensor in module.named_parameters()}
    parameters["embedding.weight"][0, 0].view(-1)[:5] = torch.tensor(
        [float("nan"), float("inf"), -float("inf"), -0.0, 1e-40]
    )
    columns = {
        "id": np.array(ids),
        "seed": np.array(ids) * 11,
        "split": np.array([("train", "validation", "test")[i % 3] for i in ids], dtype=object),
        "status": np.array(["ok"] * count, dtype=object),
        "label": np.array(ids) % 10,
        "learning_rate": np.linspace(0.1, 1, count),
        "test_accuracy": np.array([i / 100 for i in ids], dtype=np.float32),
    }
    return ModelBatch(parameters, buffers, {"train_loss": np.random.default_rng(seed).random((count, 3))}, columns)


def same_bits(left: Tensor, right: Tensor) -> bool:
    a, b = (np.ascontiguousarray(tensor.detach().numpy()) for tensor in (left, right))
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def small_info(name: str = "small") -> PopulationInfo:
    parameters = ({"name": "weight", "shape": (4, 3), "dtype": "float32"},)
    return PopulationInfo(name=name, family="mlp", family_config={}, task="digits", checkpoint_steps=(0,), parameters=parameters)  # type: ignore[arg-type]  # fmt: skip


def small_batch(first: int, count: int = 16) -> ModelBatch:
    """Model i has the weight i everywhere."""
    ids = np.arange(first, first + count)
    weight = torch.from_numpy(ids).float().view(-1, 1, 1, 1).expand(-1, 1, 4, 3).clone()
    return ModelBatch({"weight": weight}, {}, {}, {"id": ids, "status": np.array(["ok"] * count, dtype=object)})


# What other processes do in the tests; they must be importable.


def write_batches(path: str, name: str, first: int, batches: int) -> None:
    population = Zoo.open(path, writable=True)[name]
    for batch in range(batches):
        population.append(small_batch(first + 16 * batch))
