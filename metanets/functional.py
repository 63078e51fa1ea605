"""Networks of equivariant layers over the weights of one architecture: what UNF, NFN and DWSNets have in common.

The layers are every linear map between weight spaces that commutes with the permutation group (`WeightSpaceLinear`, one
term for every valid partition of the axes), generated from the group's layout. What no factor moves (kernel taps, gates,
inputs, outputs) is mixed into channels by the first layer, so later layers are no larger for it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metanets.batching import Models
from metanets.equivariant import WeightSpaceLinear
from metanets.layout import Layout, Places, layout_of, rows_of
from metanets.metanet import MetanetModule, Prediction
from metanets.probes import probe_shapes
from metanets.readout import Readout, ReadoutConfig
from modelzoo.errors import UserError


class FunctionalConfig(ReadoutConfig):
    """Sizes of a `WeightFunctional`; `layout` and `entries` follow from the architecture, `channels` are numbers a weight."""

    width: int = Field(16, gt=0)
    layers: int = Field(3, gt=0)
    channels: int = Field(1, gt=0)
    layout: Layout = Layout()
    entries: int = Field(1, gt=0)


class EdgeHead(nn.Module):
    """Numbers for every weight: equivariant linear maps of the last states, and of the inputs themselves.

    States have one vector a place, narrower than what they read (all rows of a piece): only the second map can turn or negate
    weights.
    """

    def __init__(self, layout: Layout, inputs: int, width: int, outputs: int = 1) -> None:
        super().__init__()
        whole = layout.space(rows=True)
        self.states = WeightSpaceLinear(layout.space(rows=False), whole, width, outputs)
        self.inputs = WeightSpaceLinear(whole, whole, inputs, outputs)
        for weight in self.inputs.parameters():
            nn.init.zeros_(weight)  # it mixes everything with everything: noise at first

    def forward(self, x: Mapping[str, Tensor], h: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs `[M, *shape, rows, inputs]` and states `[M, *shape, width]` to `[M, *shape, rows, outputs]`."""
        linear, deep = self.inputs(x), self.states(h)
        return {name: linear[name] + deep[name] for name in linear}


class WeightFunctional(MetanetModule):
    """Equivariant layers, invariant features, a perceptron.

    Shape:
        a batch of models of one architecture; outputs `[model, outputs]`, embeddings `[model, embedding]`.
    """

    residual: ClassVar[bool] = True  # norms and skips between layers
    features: ClassVar[int] = 1  # channels that `lift` makes of a value
    norms: Any  # [layer][piece]
    mean_0: Tensor

    def __init__(self, config: FunctionalConfig) -> None:
        super().__init__()
        self.config: Any = config
        layout, width = config.layout, config.width
        for k, piece in enumerate(layout.pieces):
            self.register_buffer(f"index_{k}", torch.zeros(piece.rows, *layout.shape(piece), dtype=torch.int64))
            self.register_buffer(f"mean_{k}", torch.zeros(piece.rows))
            self.register_buffer(f"deviation_{k}", torch.ones(piece.rows))
        whole, hidden = layout.space(rows=True), layout.space(rows=False)
        self.first = WeightSpaceLinear(whole, hidden, self.features * config.channels, width)
        self.layers = nn.ModuleList(WeightSpaceLinear(hidden, hidden, width, width) for _ in range(config.layers - 1))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.LayerNorm(width) for _ in layout.pieces) for _ in range(config.layers)
        )
        self.last = WeightSpaceLinear(hidden, hidden.invariants(), width, 4 * width)
        self.readout = Readout([4 * width, 2 * width * len(layout.pieces)], config)

    @classmethod
    def places(cls, models: Models, fields: Mapping[str, Any]) -> Places:
        """Where the entries of every piece are."""
        return layout_of(*models.topology.symmetry)

    def lift(self, x: Tensor) -> Tensor:
        """Features of standardised values, `[…, rows]` to `[…, rows, features]`."""
        return x[..., None]

    def begin(self, h: dict[str, Tensor]) -> dict[str, Tensor]:
        """What happens to the states after the first layer."""
        return h

    def values(self, models: Models) -> Tensor:
        """The entries that the layout places, `[entries, M]`."""
        return models.values

    def calibrate(self, training: Sequence[Models]) -> None:
        places = self.places(training[0], self.config.model_dump())
        if places.layout != self.config.layout:
            raise UserError("this metanet was built for another architecture; train a new one.", 2)
        values = torch.cat([self.values(models).double() for models in training], 1)
        for k, index in enumerate(places.index):
            getattr(self, f"index_{k}").copy_(index)
            rows = rows_of(values, index).flatten(0, -2)
            deviation = rows.std(0, correction=0)
            getattr(self, f"mean_{k}").copy_(rows.mean(0))
            varies = deviation > 1e-6 * rows.square().mean(0).sqrt().clamp_min(1e-6)
            getattr(self, f"deviation_{k}").copy_(torch.where(varies, deviation, 1))

    def inputs(self, models: Models) -> dict[str, Tensor]:
        """What the first layer reads, `{piece: [M, *shape, rows, features]}`."""
        if models.values.shape[0] != self.config.entries:
            raise UserError(f"this metanet reads models of {self.config.entries} weights, got {models.values.shape[0]}.", 2)  # fmt: skip
        values = self.values(models).to(self.mean_0.dtype)
        x = {}
        for k in range(len(self.config.layout.pieces)):
            rows = rows_of(values, getattr(self, f"index_{k}"))
            x[str(k)] = self.lift((rows - getattr(self, f"mean_{k}")) / getattr(self, f"deviation_{k}"))
        return x

    def states(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Equivariant states `{piece: [M, *shape, width]}`."""
        h = self.begin(self.first(x))
        for layer, norms in zip(self.layers, self.norms, strict=False):
            if self.residual:
                change = layer({k: F.silu(norm(v)) for (k, v), norm in zip(h.items(), norms, strict=True)})
                h = {k: h[k] + change[k] for k in h}
            else:
                h = layer({k: F.relu(v) for k, v in h.items()})
        if self.residual:
            return {k: F.silu(norm(v)) for (k, v), norm in zip(h.items(), self.norms[-1], strict=True)}
        return {k: F.relu(v) for k, v in h.items()}

    def embed(self, models: Models) -> Prediction:
        h = self.states(self.inputs(models))
        flat = [v.flatten(1, -2) if v.ndim > 2 else v[:, None] for v in h.values()]
        sizes = [(v.square().mean(1) + 1e-12).sqrt() for v in flat]
        pooled = torch.cat([v.mean(1) for v in flat] + sizes, -1)
        return self.readout([self.last(h)["invariant"].flatten(1), pooled], models)

    def edge_head(self) -> nn.Module:
        if type(self).values is not WeightFunctional.values:
            return super().edge_head()  # refused: it reads products of weights
        return EdgeHead(self.config.layout, self.features, self.config.width)

    def edge_outputs(self, models: Models, head: nn.Module) -> Tensor:
        x = self.inputs(models)
        found = head(x, self.states(x))
        outputs = self.mean_0.new_zeros(models.values.shape)
        for k, piece in enumerate(self.config.layout.pieces):
            rows = found[str(k)][..., 0].movedim((0, -1), (-1, 0))  # [rows, *shape, M]
            outputs = outputs.index_copy(0, getattr(self, f"index_{k}").flatten(), rows.flatten(0, len(piece.axes)))
        return outputs

    def neuron_head(self, outputs: int) -> nn.Module:
        """A new equivariant map from states to vectors of neurons, `{axis: [M, size, outputs]}`; inside blocks `[M, parents, size, outputs]`."""
        hidden = self.config.layout.space(rows=False)
        nested = self.config.layout.nested
        neurons = {axis: (nested[axis], axis) if axis in nested else (axis,) for axis in self.config.layout.sizes}
        return WeightSpaceLinear(hidden, hidden.with_tensors(neurons), self.config.width, outputs)

    @classmethod
    def adapt(cls, training: Sequence[Models], fields: Mapping[str, Any]) -> dict[str, Any]:
        """The layout of the architecture, and the shapes of probes."""
        layout = cls.places(training[0], fields).layout.model_dump()
        return {"layout": layout, "entries": training[0].values.shape[0], **probe_shapes(training, fields)}
