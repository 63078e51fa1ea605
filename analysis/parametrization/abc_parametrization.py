"""A module in an abc-parametrization: re-initialised tensors and an optimizer parameter group for every learning rate.

The multiplier n^{-a} is folded into initialisation and learning rate (`Exponents.folded`), so the module stays the plain
module that it was: its state dict, its export and its own code know nothing of the parametrization, and everything is
derived again from the program when a run goes on. Adam's ε goes with width as the tensor's gradient does, so that it means the same
at every width.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from torch import nn

from analysis.analysis import Options, analysis
from analysis.parametrization.branches import scalable_branches, scaling_tensors
from analysis.parametrization.schemes import Optimizer, Scheme, scheme
from analysis.parametrization.widths import (
    BaseTensor,
    TensorWidth,
    base_tensors,
    growing_scores,
    root_mean_square,
    widths_of,
)
from analysis.theme import CATEGORICAL, figure
from graphs.parameter_graph.uses import all_uses
from graphs.program import Program, trace
from graphs.subjects import Subject
from modelzoo.errors import UserError

ROW = "S103"


@dataclass(frozen=True)
class TensorRule:
    """What the parametrization does with a tensor.

    Args:
        tensor: its width.
        deviation: root mean square of the initial entries, None to leave them as they are.
        rate: factor of the learning rate.
        epsilon: factor of Adam's ε.
    """

    tensor: TensorWidth
    deviation: float | None
    rate: float
    epsilon: float


@dataclass(frozen=True)
class Parametrization:
    """A module, re-initialised, with the learning rate of every tensor.

    Args:
        module: a copy of the module that was given.
        scheme: exponents of width.
        rules: one a tensor.
        depth: number of residual branches, 0 where depth does not count.
    """

    module: nn.Module = field(repr=False)
    scheme: Scheme
    rules: tuple[TensorRule, ...]
    depth: int = 0

    def groups(self, learning_rate: float, weight_decay: float = 0.0, epsilon: float = 1e-8) -> list[dict[str, Any]]:
        """Parameter groups for `torch.optim.AdamW` or `SGD`.

        Args:
            learning_rate: η, the same for all widths.
            weight_decay: divided by the tensor's rate factor, so that all weights shrink at the same pace.
            epsilon: Adam's ε at n = 1.

        Returns:
            One group for every learning rate, `names` say what is in it; `eps` for Adam alone.
        """
        named = dict(self.module.named_parameters())
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        for rule in self.rules:
            name = next(name for name in rule.tensor.names if name in named)
            group = groups.setdefault((rule.rate, rule.epsilon), {"params": [], "names": []})
            group["params"].append(named[name])
            group["names"].append(name)
        for (rate, eps), group in groups.items():
            group["lr"] = learning_rate * rate
            group["weight_decay"] = weight_decay / rate
            if self.scheme.optimizer == "adam":
                group["eps"] = epsilon * eps
        return list(groups.values())

    def optimizer(
        self, learning_rate: float, weight_decay: float = 0.0, momentum: float = 0.0
    ) -> torch.optim.Optimizer:
        """AdamW or SGD on `groups`."""
        groups = self.groups(learning_rate, weight_decay)
        if self.scheme.optimizer == "adam":
            return torch.optim.AdamW(groups, lr=learning_rate)
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum)

    @property
    def sentence(self) -> str:
        """Whether the scheme is stable and what it does to features."""
        r = self.scheme.feature_exponent
        kind = "learns features" if self.scheme.learns_features else "has a kernel limit" if self.scheme.stable else "is not stable"  # fmt: skip
        deep = f", {self.depth} residual branches" if self.scheme.branch is not None else ""
        return f"{self.scheme.name} with {self.scheme.optimizer}: r = {r:g}, {kind}{deep}"

    def to_frame(self) -> pd.DataFrame:
        """One row a tensor."""
        return pd.DataFrame([
            {"tensor": rule.tensor.names[0], "shape": "×".join(map(str, rule.tensor.shape)), "role": rule.tensor.role,
             "growing": ", ".join(map(str, sorted(rule.tensor.width))), "n": rule.tensor.n,
             "initial scale": np.nan if rule.deviation is None else rule.deviation, "rate factor": rule.rate}
            for rule in self.rules
        ])  # fmt: skip

    def plot(self) -> go.Figure:
        """Factor of the learning rate by tensor, coloured by role."""
        names = [rule.tensor.names[0] for rule in self.rules]
        chart = figure(height=100 + 22 * len(names))
        for colour, role in zip(CATEGORICAL, ("input", "hidden", "output", "finite"), strict=False):
            own = [rule for rule in self.rules if rule.tensor.role == role]
            if own:
                chart.add_scatter(
                    x=[rule.rate for rule in own], y=[rule.tensor.names[0] for rule in own], mode="markers", name=role,
                    marker={"color": colour, "size": 9}, customdata=[rule.tensor.n for rule in own],
                    hovertemplate="%{y}: n = %{customdata:g}, rate × %{x:.3g}<extra></extra>",
                )  # fmt: skip
        chart.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed")
        return chart.update_layout(xaxis_title="factor of the learning rate", xaxis_type="log")


def parametrize(
    module: nn.Module, inputs: Sequence[Any], chosen: Scheme, base: nn.Module | Mapping[str, BaseTensor] | None = None,
    gain: float = 1.0, base_depth: int = 1, program: Program | None = None,
) -> Parametrization:  # fmt: skip
    """Put a freshly initialised module into an abc-parametrization.

    Every tensor keeps the directions of its own initialisation and is scaled to root mean square s_0 n^{-(a+b)}. A tied
    embedding is an input tensor, and the multiplier of its second use is folded into the gain in front of the output.

    Args:
        module: any module that can be traced; it is left as it is.
        inputs: example inputs of one call.
        chosen: from `schemes.scheme`.
        base: a sibling of another width, or its `base_tensors`: n is the width relative to it, and at its width the module is
            initialised as the base is and all rates are η. None: n is the width itself, s_0 = gain / √(finite fan-in).
        gain: see `base`.
        base_depth: number of residual branches at which depth scaling changes nothing.
        program: the traced module, if it is at hand.

    Raises:
        UserError: the base lacks a tensor; a tied tensor has two roles; the scheme does not fit the module; attention
            heads grow, whose scores μP would have to divide by d, not √d.
    """
    program = program or trace(module, inputs)
    shapes = base_tensors(base) if isinstance(base, nn.Module) else base
    tensors = widths_of(program, shapes, gain)
    if isinstance(base, nn.Module) and chosen.learns_features:
        check_scores(trace(base, inputs), program, chosen)
    branches = scalable_branches(program) if chosen.branch is not None else ()
    inner = frozenset().union(*(branch.inner for branch in branches))
    last = frozenset().union(*(branch.last or frozenset() for branch in branches))
    depth = max(1, len(branches)) / base_depth
    copied = copy.deepcopy(module)
    multiplier = depth ** -(chosen.branch or 0)
    multipliers = dict.fromkeys(last, multiplier)
    for name, factor in _read_outs(program, tensors, chosen).items():
        multipliers[name] = multipliers.get(name, 1.0) * factor
    rules = []
    for tensor in tensors:
        exponents = chosen[tensor.role]
        start, slower = exponents.folded(chosen.optimizer)
        deviation = None if tensor.scale is None else tensor.scale * tensor.n**-start
        rate = tensor.n**-slower
        epsilon = tensor.n**-chosen.gradient_exponent if tensor.role in ("input", "hidden") else 1.0
        if not inner.isdisjoint(tensor.names):
            rate *= depth**-chosen.branch_rate
        own = [multipliers[name] for name in tensor.names if name in multipliers]
        if own:
            given = root_mean_square(copied.get_parameter(tensor.names[0])) if deviation is None else deviation
            deviation = given * own[0]
            rate *= own[0] ** (2 if chosen.optimizer == "sgd" else 1)
        elif not inner.isdisjoint(tensor.names):
            epsilon *= multiplier
        rules.append(TensorRule(tensor, deviation, rate, epsilon))
    _initialise(copied, rules)
    return Parametrization(copied, chosen, tuple(rules), len(branches))


def _read_outs(program: Program, tensors: Sequence[TensorWidth], chosen: Scheme) -> dict[str, float]:
    """Multipliers of what tied embeddings read out: the output layer's, for a tensor that trains as an input tensor.

    Raises:
        UserError: no tensor in front of the output scales what is read out, or it is read elsewhere too.
    """
    found: dict[str, float] = {}
    for tensor in tensors:
        if tensor.read_out is None:
            continue
        gap = chosen["output"].folded(chosen.optimizer)[0] - chosen["input"].folded(chosen.optimizer)[0]
        scaling, uses = scaling_tensors(program, tensor.read_out), all_uses(program)
        if not scaling or any(len(uses[program.parameters[name]]) > 1 for name in scaling):
            raise UserError(
                f"tensor {tensor.names[0]!r} is tied: it is read as input and as output, and no tensor in front of the output "
                f"can carry the output's multiplier; put a normalization with a gain there, or untie it."
            )
        found |= dict.fromkeys(scaling, tensor.n**-gap)
    return found


def check_scores(base: Program, program: Program, chosen: Scheme) -> None:
    """Refuse attention heads that grow: trained queries and keys correlate, and their product by √d grows with d."""
    for where, small, large in growing_scores(base, program):
        raise UserError(
            f"products of activations in {where or 'the root module'!r} sum over {small} entries in the base and {large} "
            f"here, which {chosen.name} does not scale; let the number of heads grow and keep their size."
        )


@torch.no_grad()
def _initialise(module: nn.Module, rules: Sequence[TensorRule]) -> None:
    for rule in rules:
        tensor = module.get_parameter(rule.tensor.names[0])
        own = root_mean_square(tensor)
        if rule.deviation is not None and own > 0:  # what starts at zero stays there
            tensor.mul_(rule.deviation / own)


class AbcParametrizationOptions(Options):
    """Which parametrization (`standard`, `ntp`, `mean_field`, `mup`, `depth_mup`), and for which optimizer."""

    scheme: str = "mup"
    optimizer: Optimizer = "adam"


@analysis("abc_parametrization", of="module", options=AbcParametrizationOptions)
def abc_parametrization(subject: Subject, options: AbcParametrizationOptions) -> Parametrization:
    """Role, width, initial scale and learning-rate factor of every tensor in an abc-parametrization."""
    return parametrize(subject.module, subject.inputs, scheme(options.scheme, options.optimizer))
