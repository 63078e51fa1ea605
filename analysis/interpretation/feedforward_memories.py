"""Feed-forward layers of language models as key-value memories.

FF(x) = f(x Kᵀ) V: row k_i is a key, v_i its value, m_i = f(x · k_i) the coefficient of the memory (of a gated layer the
product of gate and projection). "Transformer Feed-Forward Layers Are Key-Value Memories" (Geva, Schuster, Berant and
Levy, 2021; row S117). Memories are found in the traced program: the matrix that writes into the residual stream what
pointwise operations made.
"""

import copy
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from analysis.activations import activations, contracting_uses, tensors_of
from analysis.analysis import ModelOptions, analysis
from analysis.parametrization.branches import residual_branches
from analysis.theme import CATEGORICAL, figure
from graphs.parameter_graph.vocabulary import op_family
from graphs.program import Program, trace
from modelzoo.errors import UserError
from modelzoo.store import Population

ROW = "S117"


@dataclass(frozen=True)
class MemoryLayer:
    """One feed-forward layer.

    Args:
        name: of the matrix of values.
        coefficients: value id of m, `[B, T, memories]` or `[B · T, memories]`.
        stream: value id of the residual stream behind the layer.
    """

    name: str
    coefficients: int
    stream: int


def memory_layers(program: Program) -> list[MemoryLayer]:
    """The feed-forward layers of a program: residual branches that end in a matrix which reads pointwise activations.

    Raises:
        UserError: there are none.
    """
    uses = contracting_uses(program)
    found = []
    for branch in residual_branches(program):
        for name in sorted(branch.last or ()):
            use = uses.get(name)
            if use is None or use.other is None or use.kind != "linear":
                continue
            value = use.other
            while (producer := program.values[value].producer) is not None and op_family(
                program.ops[producer]
            ) == "shape":
                value = program.ops[producer].inputs[0]
            if producer is not None and op_family(program.ops[producer]) in ("pointwise", "multiply"):
                found.append(MemoryLayer(name, use.other, branch.result))
    if not found:
        raise UserError(f"{program.module_name!r} has no feed-forward layers on a residual stream; choose a transformer.")  # fmt: skip
    return found


def repeats(sequences: Tensor, rows: Tensor, columns: Tensor, length: int) -> Tensor:
    """How many of some prefixes end in their most common last n-gram, `[memory]`.

    Args:
        sequences: tokens, `[N, T]`.
        rows, columns: `[memory, trigger]` sequence and position of the prefix's end.
        length: n.
    """
    starts = columns[..., None] + torch.arange(1 - length, 1)
    grams = torch.where(starts >= 0, sequences[rows[..., None], starts.clamp_min(0)], -1)  # [memory, trigger, n]
    same = (grams[:, :, None] == grams[:, None]).all(-1)
    return same.sum(-1).amax(-1)


@dataclass(frozen=True)
class Memories:
    """What the memories of every layer do.

    Args:
        layers: names of the value matrices.
        table: one row a memory: layer, memory, largest coefficient, `ngram` (of its top triggers those that share their last
            bigram), `topic` (share of its most common topic; NaN without topics), predicted token, and `agrees` (whether it is the
            next token of the top trigger).
        novel: `[layer]` share of outputs whose top token is the top token of no active memory.
        settled: `[layer]` share of positions where the top token of the residual stream is the final one.
        chance: agreement of a random token: 1 / vocabulary.
        triggers: prefixes looked at for every memory.
    """

    layers: tuple[str, ...]
    table: pd.DataFrame
    novel: NDArray[np.float64]
    settled: NDArray[np.float64]
    chance: float
    triggers: int

    def by_layer(self) -> pd.DataFrame:
        """One row a layer: share of memories with three or more triggers in common, topic share, agreement, and the rest."""
        grouped = self.table.assign(shallow=self.table["ngram"] >= 3).groupby("layer", sort=False)
        found = grouped.agg(shallow=("shallow", "mean"), topic=("topic", "mean"), agreement=("agrees", "mean"))
        return found.assign(novel=self.novel, settled=self.settled).reset_index()

    @property
    def sentence(self) -> str:
        """The first and the last layer."""
        rows = self.by_layer()
        first, last = rows.iloc[0], rows.iloc[-1]
        return (
            f"memories with an n-gram of their own: {first['shallow']:.0%} in the first layer, {last['shallow']:.0%} in the last; "
            f"values agree with the next token {first['agreement']:.1%} and {last['agreement']:.1%} (chance {self.chance:.1%})"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a layer."""
        return self.by_layer()

    def plot(self) -> go.Figure:
        """Shares by layer."""
        rows, chart = self.by_layer(), figure()
        names = {"shallow": "share an n-gram", "agreement": "value agrees", "novel": "output of no memory", "settled": "stream has decided"}  # fmt: skip
        for colour, (column, name) in zip(CATEGORICAL, names.items(), strict=False):
            chart.add_scatter(x=rows["layer"], y=rows[column], mode="lines+markers", name=name, line={"color": colour})
        return chart.update_layout(xaxis_title="layer", yaxis_title="share", yaxis_range=[0, 1])


@torch.no_grad()
def feedforward_memories_of(
    module: nn.Module, tokens: Tensor, targets: Tensor, read_out: Tensor, norm: nn.Module | None = None,
    topics: Tensor | None = None, triggers: int = 10,
) -> Memories:  # fmt: skip
    """The memories of a language model on a corpus.

    Args:
        module: tokens `[N, T]` to logits `[N, T, vocabulary]`.
        tokens: `[N, T]`.
        targets: `[N, T]` next tokens.
        read_out: output embedding E, `[vocabulary, d]`.
        norm: the normalization in front of it.
        topics: `[N]`, if known.
        triggers: prefixes with the largest coefficients that are looked at.

    Raises:
        UserError: the module has no feed-forward layers.
    """
    program, tensors = trace(module, (tokens,)), tensors_of(module)
    layers = memory_layers(program)
    values = {
        f"{kind} {k}": getattr(layer, kind) for k, layer in enumerate(layers) for kind in ("coefficients", "stream")
    }
    found = activations(program, tensors, (tokens,), {**values, "logits": program.outputs[0]})
    final = found["logits"].argmax(-1)
    normalise = copy.deepcopy(norm).double() if norm is not None else nn.Identity()
    embedding = read_out.detach().double()
    rows, novel, settled = [], [], []
    for k, layer in enumerate(layers):
        m = found[f"coefficients {k}"].reshape(tokens.numel(), -1)  # [N · T, memories]
        memory = tensors[layer.name].double()  # [d, memories]
        tops = (embedding @ memory).argmax(0)  # of softmax(v E), by memory
        order = m.topk(min(triggers, len(m)), dim=0).indices.T  # [memories, trigger]
        sequence, position = order // tokens.shape[1], order % tokens.shape[1]
        shared = repeats(tokens, sequence, position, 2)
        share = torch.full((len(tops),), float("nan"))
        if topics is not None:
            votes = nn.functional.one_hot(topics[sequence], int(topics.max()) + 1).sum(1)
            share = votes.amax(1) / order.shape[1]
        best = targets.flatten()[order[:, 0]]
        rows += [
            {"layer": layer.name, "memory": i, "largest": float(m[order[i, 0], i]), "ngram": int(shared[i]),
             "topic": float(share[i]), "token": int(tops[i]), "agrees": bool(tops[i] == best[i])}
            for i in range(len(tops)) if m[order[i, 0], i] > 0
        ]  # fmt: skip
        output = (m @ memory.T @ embedding.T).argmax(-1)
        active = (m > 0).double() @ nn.functional.one_hot(
            tops, len(embedding)
        ).double()  # how many active memories say it
        novel.append(float((active.gather(1, output[:, None]) == 0).double().mean()))
        stream = found[f"stream {k}"].reshape(tokens.numel(), -1)
        settled.append(float(((normalise(stream) @ embedding.T).argmax(-1) == final.flatten()).double().mean()))
    names = tuple(layer.name for layer in layers)
    return Memories(names, pd.DataFrame(rows), np.array(novel), np.array(settled), 1 / len(embedding), triggers)


class FeedforwardMemoriesOptions(ModelOptions):
    """Which model, on how many test sequences, and how many triggers of a memory are looked at."""

    sequences: int = Field(64, ge=2)
    triggers: int = Field(10, ge=2)


@analysis(
    "feedforward_memories",
    of="population",
    options=FeedforwardMemoriesOptions,
    tiny={"sequences": 8},
    example="causal_lm",
)
def feedforward_memories(population: Population, options: FeedforwardMemoriesOptions) -> Memories:
    """What the feed-forward memories of a language model respond to and promote, by layer."""
    row = options.row(population)
    task, module = population.task, population.module(row)
    embed = getattr(module, "embed", None)
    if task.targets.kind != "tokens" or not isinstance(embed, nn.Embedding):
        raise UserError(f"memories are read through a language model's embedding, population {population.name!r} has none; choose one of causal_lm.")  # fmt: skip
    split, count = task.data().test, options.sequences
    return feedforward_memories_of(
        module, split.inputs[0][:count], split.targets[:count], embed.weight, getattr(module, "norm", None),
        triggers=options.triggers,
    )  # fmt: skip
