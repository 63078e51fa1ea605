"""Sequential autoencoder of neural embeddings: a model as a sequence of weight tokens, read by a transformer.

Towards Scalable and Versatile Weight Space Learning (Schürholt, Mahoney and Borth, 2024): every tensor is cut, row by row (an
outgoing channel is a row), into tokens of equal length, the last of a row filled up with zeros. Tokens carry the number of
their tensor, of their place in it and of their place in the model. A transformer encodes them, z = E(t + p), and another one
decodes, t' = D(z + p'); the loss is the squared error of what is no filling, every tensor relative to its own spread. A model's
embedding pools the z of its tokens. Sequences know no symmetry: the paper trains with permuted copies.

The paper trains the autoencoder first and reads its codes afterwards; here both are trained together, the autoencoder's error
counts `reconstruction` times. `SANE.decode` makes models from codes.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from metanets.batching import Models
from metanets.metanet import Metanet, MetanetModule, Prediction, register
from metanets.probes import probe_shapes
from metanets.readout import Readout, ReadoutConfig
from metanets.signals import WAVES, waves
from modelzoo.errors import UserError
from modelzoo.family import Paper

HEADS = 4


class SANEConfig(ReadoutConfig):
    """Sizes of a `SANE`; `shapes` of the tensors and the number of edges follow from the architecture."""

    token: int = Field(16, gt=0)
    width: int = Field(64, gt=0, multiple_of=HEADS)
    layers: int = Field(2, gt=0)
    latent: int = Field(16, gt=0)
    reconstruction: float = Field(1.0, ge=0)
    entries: int = Field(1, gt=0)
    shapes: tuple[tuple[int, ...], ...] = ()


def token_index(shapes: Sequence[Sequence[int]], token: int) -> tuple[Tensor, Tensor]:
    """Where the entries of every token are among all entries, and what the tokens are.

    Args:
        shapes: of the tensors, whose entries follow each other in row-major order.
        token: length.

    Returns:
        `[T, token]` positions, −1 for filling; `[T, 2]` number of the tensor, place in it.
    """
    index, about, start = [], [], 0
    for number, shape in enumerate(shapes):
        rows = shape[0] if len(shape) > 1 else 1
        length = prod(shape) // rows
        parts = -(-length // token)
        grid = torch.full((rows, parts * token), -1)
        grid[:, :length] = start + torch.arange(rows * length).view(rows, length)
        index.append(grid.view(-1, token))
        about.append(torch.stack([torch.full((rows * parts,), number), torch.arange(rows * parts)], 1))
        start += rows * length
    return torch.cat(index), torch.cat(about)


class Half(nn.Module):
    """Tokens with their positions through a transformer, `[M, T, inputs]` to `[M, T, outputs]`."""

    def __init__(self, inputs: int, outputs: int, config: SANEConfig) -> None:
        super().__init__()
        width = config.width
        self.tensor, self.place = nn.Embedding(len(config.shapes), width), nn.Linear(2 * WAVES, width)
        self.into, self.out = nn.Linear(inputs, width), nn.Linear(width, outputs)
        layer = nn.TransformerEncoderLayer(
            width, HEADS, 2 * width, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)

    def forward(self, tokens: Tensor, about: Tensor) -> Tensor:
        every = torch.arange(len(about), device=about.device)
        phases = torch.cat([waves(about[:, 1]), waves(every)], -1).to(tokens.dtype)
        return self.out(self.body(self.into(tokens) + self.tensor(about[:, 0]) + self.place(phases)))


class SANE(MetanetModule):
    """A transformer autoencoder over weight tokens, and a readout of the pooled codes.

    Shape:
        a batch of models of one architecture; outputs `[model, outputs]`, embeddings `[model, embedding]`.
    """

    index: Tensor
    about: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, config: SANEConfig) -> None:
        super().__init__()
        self.config = config
        index, about = token_index(config.shapes or ((1,),), config.token)
        self.register_buffer("index", index)
        self.register_buffer("about", about)
        self.register_buffer("mean", torch.zeros(max(1, len(config.shapes))))
        self.register_buffer("deviation", torch.ones(max(1, len(config.shapes))))
        sized = config if config.shapes else config.model_copy(update={"shapes": ((1,),)})
        self.encoder = Half(config.token, config.latent, sized)
        self.decoder = Half(config.latent, config.token, sized)
        self.readout = Readout([2 * config.latent], config)

    def calibrate(self, training: Sequence[Models]) -> None:
        values = torch.cat([models.values for models in training], 1).double()
        for number, part in enumerate(values[: self.held].split([prod(shape) for shape in self.config.shapes])):
            self.mean[number] = part.mean()
            spread, size = part.std(correction=0), part.square().mean().sqrt().clamp_min(1e-6)
            self.deviation[number] = torch.where(spread > 1e-6 * size, spread, 1)

    @property
    def held(self) -> int:
        """How many edges are entries of tensors: the first ones."""
        return sum(prod(shape) for shape in self.config.shapes)

    def tokens(self, models: Models) -> Tensor:
        """Standardised tokens, `[M, T, token]`, zero where they are filled up."""
        if models.topology.edges != self.config.entries:
            raise UserError(
                f"this metanet reads models of {self.config.entries} weights, got {models.topology.edges}.", 2
            )
        number = self.about[:, 0]
        raw = models.values.T.to(self.mean.dtype)[:, self.index.clamp_min(0)]
        standard = (raw - self.mean[number][:, None]) / self.deviation[number][:, None]
        return torch.where(self.index >= 0, standard, 0)

    def encode(self, models: Models) -> Tensor:
        """Codes of the tokens, `[M, T, latent]`."""
        return self.encoder(self.tokens(models), self.about)

    def decode(self, codes: Tensor) -> Tensor:
        """Values `[E, M]` of the entries that the tokens hold, from codes `[M, T, latent]`."""
        number = self.about[:, 0]
        tokens = self.decoder(codes, self.about) * self.deviation[number][:, None] + self.mean[number][:, None]
        real = self.index >= 0
        values = tokens.new_zeros(len(codes), self.held)
        values[:, self.index[real]] = tokens[:, real]
        return values.T

    def reconstruct(self, models: Models) -> Models:
        """Encoded and decoded models; edges that are no entries stay."""
        decoded = self.decode(self.encode(models)).to(models.values.dtype)
        return Models(models.topology, torch.cat([decoded, models.values[self.held :]]))

    def own_loss(self, models: Models) -> Tensor | None:
        """The autoencoder's: mean squared error of standardised entries."""
        return self.config.reconstruction * self.error(models) if self.config.reconstruction else None

    def error(self, models: Models) -> Tensor:
        """Mean squared error of standardised entries."""
        tokens = self.tokens(models)
        decoded = self.decoder(self.encoder(tokens, self.about), self.about)
        return (decoded - tokens)[:, self.index >= 0].square().mean()

    def embed(self, models: Models) -> Prediction:
        codes = self.encode(models)
        pooled = torch.cat([codes.mean(1), (codes.var(1, correction=0) + 1e-6).sqrt()], -1)
        return self.readout([pooled], models)


def adapt(training: Sequence[Models], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The shapes of the tensors, in the order of their entries (a complex entry is two), and the shapes of probes."""
    records = training[0].topology.symmetry[1].records
    shapes = [(*record.shape, 2) if record.dtype.is_complex else record.shape for record in records]
    sizes = {"shapes": tuple(tuple(shape) or (1,) for shape in shapes), "entries": training[0].topology.edges}
    return {**sizes, **probe_shapes(training, fields)}


METANET = register(
    Metanet(
        name="sane",
        module=SANE,
        config=SANEConfig,
        paper=(Paper("Towards Scalable and Versatile Weight Space Learning", "Schürholt et al.", 2024),),
        equivariance="none",
        summary="A transformer autoencoder over tokens of weights, without symmetry.",
        tiny={"width": 8, "layers": 1, "latent": 4, "embedding": 8},
        one_architecture=True,
        adapt=adapt,
        recipe={"learning_rate": 1e-3},
    )
)
