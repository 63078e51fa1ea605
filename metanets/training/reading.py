"""How the weights of a population reach a training: all in memory, memory-mapped, or streamed chunk by chunk.

What is mapped is read at random, as memory is, and gives the very same training. What is streamed is read in whole chunks
of the zoo, wherever that is, so the order of the models is another one: chunks are shuffled, and models within a buffer
of chunks. Both orders depend on seed and epoch alone, so that a resumed training sees what it would have seen.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from modelzoo.store import Population

DataMode = Literal["memory", "mapped", "streamed"]
BUFFER_BYTES = 64 * 2**20  # of weights: in the buffer that is shuffled, or in the sample that statistics are read off
SHARE = 8  # chunks in a full buffer, at least


class Reading(ABC):
    """Models of a population, reached by their number.

    Args:
        population: where they are.
        positions: `[M]` of the models in it.
    """

    def __init__(self, population: Population, positions: NDArray[np.intp]) -> None:
        self.population, self.positions = population, torch.from_numpy(positions.astype(np.int64))

    @abstractmethod
    def take(self, rows: Tensor) -> dict[str, Tensor]:
        """Parameters and buffers of some models, `{name: [rows, *shape]}`."""

    def everything(self) -> Mapping[str, Tensor]:
        """Those of all models, in memory."""
        return self.take(torch.arange(len(self.positions)))


class InMemory(Reading):
    """Everything is read at once."""

    def __init__(self, population: Population, positions: NDArray[np.intp]) -> None:
        super().__init__(population, positions)
        every = np.array_equal(positions, np.arange(len(population)))
        self.tensors = population.stacked(None if every else positions, kind="state")

    def take(self, rows: Tensor) -> dict[str, Tensor]:
        return {name: tensor[rows] for name, tensor in self.tensors.items()}

    def everything(self) -> Mapping[str, Tensor]:
        return self.tensors


class Mapped(Reading):
    """Memory maps of local copies; what is taken is read."""

    def __init__(self, population: Population, positions: NDArray[np.intp]) -> None:
        super().__init__(population, positions)
        self.tensors = population.mapped(kind="state")

    def take(self, rows: Tensor) -> dict[str, Tensor]:
        return {name: tensor[self.positions[rows]] for name, tensor in self.tensors.items()}


class Streamed(Reading):
    """Whole chunks of the zoo, the latest of which stay.

    Args:
        population: where the models are.
        positions: `[M]` of the models in it.
        room: bytes of chunks that stay.
    """

    def __init__(self, population: Population, positions: NDArray[np.intp], room: int) -> None:
        super().__init__(population, positions)
        sizes = [population.chunk_models(path) for path in population.info.tensors]
        bytes_ = model_bytes(population)
        fewest, fit = min(sizes), min(max(sizes), room // SHARE // bytes_)
        self.chunk = max(fewest, fit // fewest * fewest)
        self.most = max(2, room // (self.chunk * bytes_))
        self.held: OrderedDict[int, dict[str, Tensor]] = OrderedDict()

    @property
    def chunks(self) -> Tensor:
        """`[M]`: the chunk of every model."""
        return self.positions // self.chunk

    def take(self, rows: Tensor) -> dict[str, Tensor]:
        chunks, offsets = self.chunks[rows], self.positions[rows] % self.chunk
        parts, places = [], []
        met = dict.fromkeys(chunks.tolist())  # in this order; but those that are held, before they must go
        for number in sorted(met, key=lambda number: number not in self.held):
            places.append((chunks == number).nonzero()[:, 0])
            own = offsets[places[-1]]
            parts.append({name: tensor[own] for name, tensor in self._read(number).items()})
        order = torch.cat(places).argsort()
        return {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}

    def _read(self, number: int) -> dict[str, Tensor]:
        if number not in self.held:
            while len(self.held) >= self.most:
                self.held.popitem(last=False)
            start = number * self.chunk
            self.held[number] = self.population.stacked(slice(start, start + self.chunk), kind="state")
        self.held.move_to_end(number)
        return self.held[number]


def reading(mode: DataMode, population: Population, positions: NDArray[np.intp], room: int) -> Reading:
    """The models of a population, reached in one of the three ways.

    Args:
        mode: the way.
        population: where they are.
        positions: `[M]` of the models in it.
        room: bytes of chunks that stay in memory, where they are streamed.
    """
    if mode == "streamed":
        return Streamed(population, positions, room)
    return (InMemory if mode == "memory" else Mapped)(population, positions)


def model_bytes(population: Population) -> int:
    """Bytes of the parameters and buffers of one model."""
    shapes = [population.array(path) for path in population.info.tensors]
    return max(
        1, sum(array.nbytes for array in shapes) // max(1, len(population) * len(population.info.checkpoint_steps))
    )


class Shuffle(Sampler[int]):
    """An order of the models that depends on seed and epoch alone.

    Args:
        count: of models.
        seed: of the training.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(np.random.default_rng((self.seed, self.epoch))).tolist())

    def order(self, generator: np.random.Generator) -> NDArray[np.intp]:
        """One order."""
        return generator.permutation(self.count)


class ChunkShuffle(Shuffle):
    """An order that stays within a few chunks for a while: chunks at random, and models at random in each buffer of them.

    Args:
        chunks: `[count]`, the chunk of every model.
        buffer: chunks that are in memory together.
        seed: of the training.
    """

    def __init__(self, chunks: NDArray[np.integer], buffer: int, seed: int) -> None:
        super().__init__(len(chunks), seed)
        known, self.chunk = np.unique(chunks, return_inverse=True)
        self.known, self.buffer = len(known), buffer

    def order(self, generator: np.random.Generator) -> NDArray[np.intp]:
        place = generator.permutation(self.known)[self.chunk] // self.buffer
        models = generator.permutation(self.count)
        return models[np.argsort(place[models], kind="stable")]
