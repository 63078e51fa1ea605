"""Samples that the tangent kernel takes together: one pass forward, then gradients of as many outputs at a time as are asked for."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from analysis.ntk.layers import Layer, Structure, entering, samples
from analysis.ntk.products import Side
from analysis.ntk.remainder import flat_output, jacobians
from analysis.ntk.uses import record


class Tile:
    """A tile of samples after its pass forward.

    Args:
        module: in evaluation mode.
        found: its structure.
        layers: those of the structure, and one of kind `remainder` for what is left.
        names: parameters that count.
        inputs: of all samples.
        rows: the samples of the tile; of coupled samples the outputs.
        selected: positions among the outputs of a sample, None for all.
        summed: differentiate the sum of the outputs (of a samplewise module).
    """

    def __init__(
        self, module: nn.Module, found: Structure, layers: Sequence[Layer], names: Sequence[str],
        inputs: Sequence[Tensor], rows: slice, selected: Sequence[int] | None, summed: bool,
    ) -> None:  # fmt: skip
        self.module, self.found, self.layers = module, found, layers
        self.inputs = [x[rows] for x in inputs] if found.samplewise else list(inputs)
        output, recorder = record(module, self.inputs, names)
        self.uses, self.flat = recorder.uses, flat_output(output, found.samplewise)
        self.cotangents = self._cotangents(rows, selected, summed)
        self.units = selected is None and not summed  # so that gradients to the outputs are unit vectors
        self.entered = [self._entering(layer) for layer in layers]
        self.one_by_one = ""  # why the remainder took a pass a sample

    def _cotangents(self, rows: slice, selected: Sequence[int] | None, summed: bool) -> Tensor:
        """Rows to multiply the outputs with, `[O, outputs]`."""
        unit = torch.eye(self.flat.shape[1], dtype=self.flat.dtype, device=self.flat.device)
        if not self.found.samplewise:
            chosen = unit if selected is None else unit.unflatten(0, (-1, self.found.outputs))[:, list(selected)].flatten(0, 1)  # fmt: skip
            return chosen[rows]
        if selected is not None:
            unit = unit[list(selected)]
        return unit.sum(0, keepdim=True) if summed else unit

    def _entering(self, layer: Layer) -> list[Tensor]:
        axes, count = self.found.axes, len(self.flat)
        parts = [
            entering(self.uses[place], axes[place], count, layer.bias) if role == "weight" else self.uses[place].input
            for place, role in layer.uses
        ]
        if self.found.samplewise:
            return parts
        return [part.expand(len(self.cotangents), *part.shape[1:]) for part in parts]  # every output a sample

    def sides(self, outputs: slice) -> list[Side | Tensor]:
        """What every layer needs, with gradients `[O, N, S, J]` of the chosen outputs; for the remainder its Jacobian `[O, N, P]`.

        Outputs are asked for once, in order: the graph is given up with the last one.
        """
        found, samplewise, count = self.found, self.found.samplewise, len(self.flat)
        chosen = self.cotangents[outputs] if samplewise else self.cotangents
        needed = sorted({place for layer in self.layers for place, _ in layer.uses if not self._plain(layer)})
        points = [self.uses[place].output for place in needed]
        more = samplewise and outputs.stop < len(self.cotangents)
        gradients = dict(zip(needed, self._backward(points, chosen, more), strict=True))
        sides: list[Side | Tensor] = []
        for layer, entered in zip(self.layers, self.entered, strict=True):
            if layer.kind == "remainder":
                values, reason = jacobians(self.module, self.inputs, layer.parameters, chosen, samplewise)
                self.one_by_one = self.one_by_one or reason
                sides.append(values if samplewise else values.transpose(0, 1))
                continue
            own = None
            if not self._plain(layer):
                own = [samples(gradients[place], self.uses[place], found.axes[place], count, 1) for place, _ in layer.uses]  # fmt: skip
                if not samplewise:
                    own = [gradient.transpose(0, 1) for gradient in own]  # every output a sample, [1, N·O, S, J]
            sides.append(Side([(self.uses[place], role) for place, role in layer.uses], entered, own))
        return sides

    def _plain(self, layer: Layer) -> bool:
        return layer.last and self.units

    def _backward(self, points: list[Tensor], cotangents: Tensor, more: bool) -> list[Tensor]:
        """Gradients of every output to pre-activations, `[O, *shape]`, zero where it does not depend on them."""
        if not points:
            return []
        start = self.flat
        for layer in filter(self._plain, self.layers):  # the output is W h + b: start from h, with the rows of W
            head = self.uses[layer.uses[0][0]]
            if head.source.ndim == 2 and head.source.requires_grad:
                weight = dict(self.module.named_parameters())[str(head.weight)].detach()
                start, cotangents = head.source, cotangents @ weight
        rows = cotangents[:, None].expand(-1, len(start), -1)
        batched = len(rows) > 1  # mapping over one output costs as much as the pass itself
        found = torch.autograd.grad(
            start, points, rows if batched else rows[0], retain_graph=more,
            is_grads_batched=batched, allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        return [gradient.detach() if batched else gradient.detach()[None] for gradient in found]
