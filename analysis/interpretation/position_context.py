"""Position and context in the hidden states of a sequence model: h_{c,t} = μ + pos_t + ctx_c + resid_{c,t}.

The terms are the means of a two-way analysis of variance over contexts c and positions t. "Uncovering hidden geometry in
Transformers via disentangling position and context" (Song and Zhong, 2023; row S180): the position part has low
rank and is smooth, contexts cluster by topic, and both are nearly orthogonal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from pydantic import Field
from scipy.fft import dctn
from sklearn.metrics import silhouette_score
from torch import Tensor

from analysis.activations import activations, tensors_of
from analysis.analysis import ModelOptions, analysis
from analysis.parametrization.branches import residual_branches
from analysis.theme import CATEGORICAL, figure
from graphs.program import Program, trace
from modelzoo.errors import UserError
from modelzoo.store import Population

ROW = "S180"
ENERGY = 0.95  # share of the energy that counts towards the rank
SMOOTH = 0.25  # share of the frequencies that are called low


@dataclass(frozen=True)
class Decomposition:
    """Hidden states in four parts that are orthogonal over contexts and positions.

    Args:
        mean: μ, `[d]`.
        position: `[T, d]`.
        context: `[C, d]`.
        residual: `[C, T, d]`.
    """

    mean: Tensor
    position: Tensor
    context: Tensor
    residual: Tensor

    @property
    def shares(self) -> tuple[float, float, float]:
        """Shares of position, context and residual in the variance; they add up to one."""
        contexts, positions, _ = self.residual.shape
        parts = torch.stack([
            contexts * self.position.square().sum(), positions * self.context.square().sum(), self.residual.square().sum()
        ])  # fmt: skip
        position, context, residual = (parts / parts.sum().clamp_min(1e-300)).tolist()
        return position, context, residual

    @property
    def rank(self) -> int:
        """Number of directions that hold 95% of the energy of the position part."""
        energy = torch.linalg.svdvals(self.position).square()
        return int((energy.cumsum(0) < ENERGY * energy.sum()).sum()) + 1

    @property
    def smoothness(self) -> float:
        """Share of the energy of the Gram matrix of positions in the lowest quarter of its frequencies (cosine transform)."""
        gram = (self.position @ self.position.T).numpy()
        spectrum = np.square(dctn(gram, norm="ortho"))
        low = max(2, round(SMOOTH * len(gram)))
        return float(spectrum[:low, :low].sum() / max(spectrum.sum(), 1e-300))

    @property
    def incoherence(self) -> float:
        """max_{t,c} |cos(pos_t, ctx_c)|."""
        position, context = (torch.nn.functional.normalize(part, dim=1) for part in (self.position, self.context))
        return float((position @ context.T).abs().max())

    def silhouette(self, topics: Tensor) -> float:
        """Silhouette of the contexts clustered by topic, `[C]`: near 1 for tight clusters, 0 for none."""
        return float(silhouette_score(self.context.numpy(), topics.numpy()))


def decompose(states: Tensor) -> Decomposition:
    """Two-way decomposition of hidden states.

    Args:
        states: `[C, T, d]`.

    Raises:
        UserError: they have another shape, or fewer than two contexts or positions.
    """
    if states.ndim != 3 or min(states.shape[:2]) < 2:
        raise UserError(f"hidden states need the shape [contexts, positions, features] with two or more of each, got {list(states.shape)}; capture a sequence model on several sequences.")  # fmt: skip
    states = states.double()
    mean = states.mean((0, 1))
    position, context = states.mean(0) - mean, states.mean(1) - mean
    return Decomposition(mean, position, context, states - mean - position - context[:, None])


def score_parts(scores: Decomposition, keys: Decomposition, form: Tensor) -> dict[str, Tensor]:
    """Attention logits q_tᵀ k_s = h_tᵀ F h_s by parts, each `[C, T, T]` (or smaller where a part is constant).

    Args:
        scores, keys: decompositions of the states that queries and keys are made of (mostly the same).
        form: F = W_Qᵀ W_K of one head, `[d, d]`.

    Returns:
        `position-position` `[T, T]`, `context-context` `[C]`, `cross` `[C, T, T]` and `rest`, which add up to the logits
        of the states without their mean.
    """

    def product(left: Tensor, right: Tensor) -> Tensor:
        return left @ form.double() @ right.transpose(-1, -2)

    q, k = (part.position + part.context[:, None] + part.residual for part in (scores, keys))
    both = product(scores.position, keys.position)
    context = (scores.context @ form.double() * keys.context).sum(-1)
    q_context, k_context = (part.context[:, None].expand_as(part.residual) for part in (scores, keys))
    cross = product(scores.position.expand_as(q), k_context) + product(q_context, keys.position.expand_as(k))
    rest = product(q, k) - both - context[:, None, None] - cross
    return {"position-position": both, "context-context": context, "cross": cross, "rest": rest}


def residual_stream(program: Program) -> dict[str, int]:
    """The values of the residual stream: in front of the first branch and after every branch.

    Raises:
        UserError: there are no residual branches.
    """
    branches = residual_branches(program)
    if not branches:
        raise UserError(f"{program.module_name!r} has no residual stream; choose a transformer.")
    return {"0": branches[0].stream, **{str(k + 1): branch.result for k, branch in enumerate(branches)}}


@dataclass(frozen=True)
class PositionContext:
    """Position and context along the residual stream.

    Args:
        layers: places of the stream.
        parts: the decomposition at each.
        topics: `[C]` of the contexts, None where they are not known.
    """

    layers: tuple[str, ...]
    parts: tuple[Decomposition, ...]
    topics: Tensor | None = None

    @property
    def sentence(self) -> str:
        """What the last layer looks like."""
        last = self.parts[-1]
        position, context, _ = last.shares
        topics = "" if self.topics is None else f", silhouette of topics {last.silhouette(self.topics):.3f}"
        return (
            f"last layer: position {position:.1%} and context {context:.1%} of the variance, position rank {last.rank} of "
            f"{min(last.position.shape)}, incoherence {last.incoherence:.3f}{topics}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a layer."""
        rows = []
        for layer, part in zip(self.layers, self.parts, strict=True):
            position, context, residual = part.shares
            rows.append({
                "layer": layer, "position": position, "context": context, "residual": residual, "rank": part.rank,
                "smoothness": part.smoothness, "incoherence": part.incoherence,
                **({} if self.topics is None else {"silhouette": part.silhouette(self.topics)}),
            })  # fmt: skip
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Positions in the two leading directions of the last layer, and shares by layer in the hover text."""
        chart = figure()
        for k, (layer, part) in enumerate(zip(self.layers, self.parts, strict=True)):
            left, values, _ = torch.linalg.svd(part.position, full_matrices=False)
            path = (left * values)[:, :2].numpy()
            chart.add_scatter(
                x=path[:, 0], y=path[:, 1], mode="lines+markers", name=layer, marker={"size": 4},
                line={"color": CATEGORICAL[k % len(CATEGORICAL)]}, visible=True if k == len(self.layers) - 1 else "legendonly",
                hovertemplate="position %{pointNumber}<extra></extra>",
            )  # fmt: skip
        return chart.update_layout(xaxis_title="first direction of positions", yaxis_title="second direction")


def position_context_of(
    program: Program, tensors: dict[str, Tensor], inputs: Sequence[Tensor], topics: Tensor | None = None
) -> PositionContext:
    """Position and context at every place of a traced model's residual stream.

    Args:
        program: traced with `inputs`.
        tensors: parameters and buffers by name.
        inputs: `[C, T]` tokens or `[C, T, channels]`.
        topics: `[C]`, if they are known.
    """
    stream = residual_stream(program)
    found = activations(program, tensors, inputs, stream)
    return PositionContext(tuple(stream), tuple(decompose(found[name]) for name in stream), topics)


class PositionContextOptions(ModelOptions):
    """Which model, and on how many test sequences."""

    contexts: int = Field(64, ge=2)


@analysis("position_context", of="population", options=PositionContextOptions, tiny={"contexts": 8}, example="causal_lm")  # fmt: skip
def position_context(population: Population, options: PositionContextOptions) -> PositionContext:
    """How much of a sequence model's hidden states is position, context, or both together."""
    row = options.row(population)
    inputs, module = population.example_inputs(options.contexts), population.module(row)
    return position_context_of(trace(module, inputs), tensors_of(module), inputs)
